//! Transcripts that are gone from where their assistant looks for them, put back before it is resumed.
//!
//! Assistants remove their transcripts after a while, and one has a fault that loses them; and a conversation
//! may have been held on another host, of which a copy was taken in here, or whose vault is in the same
//! bucket. What this host's daemon can read can be resumed nevertheless.
//!
//! Invariant: a file that is there is never touched, and nothing is written but below the directory that the
//! assistant itself keeps its transcripts in: where a file was is the word of a program that we watch.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, DirBuilder};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Component, Path, PathBuf};

use stratavore_assistants as assistants;
use stratavore_core::runner::Runner;
use stratavore_core::session::Session;
use stratavore_core::transcript::Transcript;

use super::{ELSEWHERE, intake};
use crate::control::Control;
use crate::error::Error;

impl Control {
    /// Puts back what the vault has of a conversation and this host no longer has. Answers what was done,
    /// for people. `env` is what its assistant will see.
    pub(crate) async fn transcripts_put_back(
        &self,
        session: &Session,
        env: &BTreeMap<String, String>,
    ) -> Result<Vec<String>, Error> {
        let adapter = assistants::adapter(&session.assistant);
        let Some(home) = adapter.transcript_home(env) else { return Ok(Vec::new()) };
        let mut remarks = Vec::new();
        for transcript in self.readable(session).await? {
            let is_here = transcript.node == self.here();
            let is_copy = is_copy(&transcript);
            let may_move = is_copy || !is_here;
            let at = place(&transcript.path, &home, may_move);
            let Some(path) = at.filter(|path| !path.exists()) else { continue };
            let shown = path.display().to_string().escape_debug().to_string();
            let as_of = transcript.updated_at;
            remarks.push(match self.put_back(&transcript, path).await {
                Ok(()) if !is_here => format!(
                    "its transcript {shown} is what {} had kept of it at {as_of:.0}",
                    transcript.node
                ),
                Ok(()) if is_copy => {
                    format!(
                        "its transcript {shown} is the copy that was taken in here at {as_of:.0}"
                    )
                }
                Ok(()) => format!("its transcript {shown} was gone and is back from the vault"),
                Err(error) => {
                    format!("its transcript {shown} is gone and could not be put back: {error}")
                }
            });
        }
        Ok(remarks)
    }

    /// True if this host can read a copy of a conversation that was held on another one.
    pub(crate) async fn has_copy(&self, session: &Session) -> Result<bool, Error> {
        let is_one = |kept: &Transcript| is_copy(kept) || kept.node != self.here();
        Ok(self.readable(session).await?.iter().any(is_one))
    }

    /// The transcripts that this host's daemon can read. Those of the host that held it last come before
    /// others, and what was written there before a copy of the same.
    async fn readable(&self, session: &Session) -> Result<Vec<Transcript>, Error> {
        let (here, is_shared) = (self.here(), self.inner.vault.is_shared());
        let mut kept = self.inner.store.transcript_list(session.id).await?;
        kept.retain(|kept| (is_shared || kept.node == here) && !kept.is_replaced);
        kept.sort_by_key(|kept| {
            (session.node.is_some_and(|node| node != kept.node), is_copy(kept))
        });
        Ok(kept)
    }

    /// Refuses a conversation whose files are on another host and not here: its assistant would not find
    /// it, or begin another one in its place.
    pub(crate) async fn transcripts_are_here(
        &self,
        session: &Session,
        env: &BTreeMap<String, String>,
    ) -> Result<(), Error> {
        let adapter = assistants::adapter(&session.assistant);
        let Some(node) = session.node.filter(|node| *node != self.here()) else { return Ok(()) };
        let (Some(home), Some(told)) = (adapter.transcript_home(env), &session.transcript) else {
            return Ok(());
        };
        if Path::new(told).exists() || rebased(Path::new(told), &home).is_some_and(|at| at.exists())
        {
            return Ok(());
        }
        let known = self.node(&node.to_string()).await;
        let host = known.map_or_else(|_| node.to_string(), |node| node.hostname);
        Err(Error::Absent {
            message: format!(
                "the files of {} are on {}, and this host has no copy of them",
                session.id,
                host.escape_debug()
            ),
            hint: "resume it there; or export it there and take it in here: \
                   stratavore sessions import DIR"
                .into(),
        })
    }

    /// What this host lacks of a conversation that was kept on the runner's node, to be read after this
    /// host's name; `None`: its assistant finds here, byte for byte, what is kept there. Until `is_over` the
    /// files may have grown since they were kept.
    pub(crate) async fn transcripts_differ(
        &self,
        runner: &Runner,
        is_over: bool,
    ) -> Result<Option<String>, Error> {
        let Some(session) = runner.session else { return Ok(Some("has no conversation".into())) };
        let adapter = assistants::adapter(&runner.command.assistant);
        let Some(home) = adapter.transcript_home(&self.env_seen(&runner.command)) else {
            return Ok(Some("has no place for its conversation".into()));
        };
        let store = &self.inner.store;
        let mut kept = store.transcript_list(session).await?;
        kept.retain(|of| of.node == runner.node && !of.is_replaced && !is_copy(of));
        if kept.is_empty() {
            return Ok(Some("knows of no file of its conversation".into()));
        }
        for transcript in kept {
            let path = Path::new(&transcript.path);
            let segments = store.transcript_segments(transcript.id).await?;
            let is_found = path.starts_with(&home);
            if !is_found || !intake::holds(path, transcript.size, segments, is_over).await? {
                let path = path.display().to_string();
                return Ok(Some(format!(
                    "does not have the conversation's file {} as its node has",
                    path.escape_debug()
                )));
            }
        }
        Ok(None)
    }

    async fn put_back(&self, transcript: &Transcript, path: PathBuf) -> Result<(), Error> {
        let intake = self.intake();
        let mut bytes = Vec::new();
        for segment in intake.store.transcript_segments(transcript.id).await? {
            bytes.extend(intake.piece(&segment).await?);
        }
        let written = tokio::task::spawn_blocking(move || write_new(&path, &bytes));
        let written = written.await.map_err(Error::internal)?;
        written.map_err(|error| Error::internal(format!("write it: {error}")))
    }
}

/// True if it was taken in from elsewhere.
fn is_copy(transcript: &Transcript) -> bool {
    transcript.path.starts_with(ELSEWHERE)
}

/// Where a transcript has to stand so that its assistant finds it. What was written on another host may be
/// moved: its user may have another home here.
fn place(path: &str, home: &Path, may_move: bool) -> Option<PathBuf> {
    let path = Path::new(path.strip_prefix(ELSEWHERE).unwrap_or(path));
    if is_below(path, home) {
        return Some(path.into());
    }
    rebased(path, home).filter(|path| may_move && is_below(path, home))
}

/// The same place below `home` as it has below the directory of that name on its own host.
fn rebased(path: &Path, home: &Path) -> Option<PathBuf> {
    let names: Vec<&OsStr> = path.iter().collect();
    let mut end = home.iter().rev();
    let (last, above) = (end.next()?, end.next()?);
    let at = names.windows(2).rposition(|pair| pair == [above, last])?;
    let rest: PathBuf = names.get(at + 2..)?.iter().collect();
    (rest != PathBuf::new()).then(|| home.join(rest))
}

/// True for a file somewhere below `home`, by its words and by what is there: no link leads out of it.
fn is_below(path: &Path, home: &Path) -> bool {
    let mut plain = path.components().skip(1);
    if !path.is_absolute() || !plain.all(|part| matches!(part, Component::Normal(_))) {
        return false;
    }
    let Ok(home) = home.canonicalize() else { return false };
    // As far as its way is there, it is where it says.
    let there = path.ancestors().skip(1).find_map(|above| above.canonicalize().ok());
    there.is_some_and(|there| there.starts_with(&home))
}

/// Whole or not at all, and never in the place of another.
fn write_new(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let directory = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
    DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    let mut file = tempfile::NamedTempFile::new_in(directory)?;
    file.write_all(bytes)?;
    file.as_file().set_permissions(fs::Permissions::from_mode(0o600))?;
    file.as_file().sync_all()?;
    match file.persist_noclobber(path) {
        Err(error) if error.error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => other.map(drop).map_err(|error| error.error),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn nothing_is_written_outside_of_the_assistants_own_directory() {
        let root = tempfile::tempdir().unwrap();
        let home = root.path().join("home/projects");
        fs::create_dir_all(home.join("one")).unwrap();
        fs::create_dir_all(root.path().join("other")).unwrap();
        symlink(root.path().join("other"), home.join("link")).unwrap();
        for inside in ["one/a.jsonl", "two/three/a.jsonl"] {
            assert!(is_below(&home.join(inside), &home), "{inside}");
        }
        let outside = ["link/a.jsonl", "../a.jsonl", "one/../../a.jsonl", "link/new/a.jsonl"];
        for outside in outside {
            assert!(!is_below(&home.join(outside), &home), "{outside}");
        }
        assert!(!is_below(Path::new("one/a.jsonl"), &home));
        assert!(!is_below(&root.path().join("other/a.jsonl"), &home));
    }

    #[test]
    fn a_copy_stands_where_its_assistant_looks_for_it_here() {
        let root = tempfile::tempdir().unwrap();
        let home = root.path().join("bob/.claude/projects");
        fs::create_dir_all(&home).unwrap();
        let at = |path: &str| place(path, &home, path.starts_with(ELSEWHERE));
        let there = Some(home.join("-work/a.jsonl"));
        assert_eq!(at("import:/home/alice/.claude/projects/-work/a.jsonl"), there);
        assert_eq!(at(&format!("import:{}", home.join("-work/a.jsonl").display())), there);
        assert_eq!(at(&home.join("-work/a.jsonl").display().to_string()), there);
        // What is no copy stays where it was, unless another host wrote it, and nothing leads out.
        assert_eq!(at("/home/alice/.claude/projects/-work/a.jsonl"), None);
        assert_eq!(place("/home/alice/.claude/projects/-work/a.jsonl", &home, true), there);
        for outside in [
            "import:/home/alice/.claude/projects/../../a.jsonl",
            "import:/home/alice/.claude/projects",
            "import:/home/alice/projects/a.jsonl",
            "import:a.jsonl",
        ] {
            assert_eq!(at(outside), None, "{outside}");
        }
    }

    #[test]
    fn a_file_that_is_there_stays_as_it_is() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("new/a.jsonl");
        write_new(&path, b"kept").unwrap();
        write_new(&path, b"other").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"kept");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    }
}
