//! A conversation that was exported elsewhere, taken in.
//!
//! Invariant: a file is part of the vault only once its checksum was right.
//! Invariant: what is imported again changes nothing.

use serde_json::json;
use sha2::{Digest as _, Sha256};
use stratavore_core::caller::Caller;
use stratavore_core::message::Message;
use stratavore_core::observation::{Observation, SessionSeen};
use stratavore_core::transcript::{Digest, FileMark, HEAD_MAX, Transcript};
use stratavore_core::{ProjectId, SessionId, TranscriptId};
use stratavore_store::{BlobRow, Observed};
use stratavore_vault::digest;

use super::ELSEWHERE;
use super::export::{FORM, MESSAGES, Manifest, ManifestFile};
use super::intake::Intake;
use crate::control::Control;
use crate::error::Error;

/// What is put into the vault at once.
const PIECE: usize = 4 << 20;
/// The longest manifest, and the longest file of messages.
const MANIFEST_MAX: usize = 8 << 20;
const MESSAGES_MAX: u64 = 64 << 20;

/// An import that is being made.
pub struct SessionImport {
    control: Control,
    caller: Caller,
    intake: Intake,
    manifest: Manifest,
    project: ProjectId,
    /// As the assistant names it.
    external: String,
    session: SessionId,
    open: Option<Open>,
    /// How many files were taken in.
    files: usize,
}

struct Open {
    of: ManifestFile,
    digest: Sha256,
    size: u64,
    head: Vec<u8>,
    /// What is not in the vault yet.
    bytes: Vec<u8>,
    rows: Vec<BlobRow>,
}

impl Control {
    /// Begins to import a conversation. It belongs to the project that is named, else to the one of
    /// the name that it had.
    pub async fn session_import(
        &self,
        caller: &Caller,
        manifest: &[u8],
        project: Option<&str>,
    ) -> Result<SessionImport, Error> {
        self.may_change(caller, "import conversations")?;
        if manifest.len() > MANIFEST_MAX {
            return Err(wrong(format!("the manifest has more than {MANIFEST_MAX} bytes")));
        }
        let manifest: Manifest = serde_json::from_slice(manifest)
            .map_err(|error| wrong(format!("the manifest cannot be read: {error}")))?;
        if manifest.stratavore_session != FORM {
            return Err(Error::invalid(
                format!(
                    "the export has the form {}, and this daemon reads {FORM}",
                    manifest.stratavore_session
                ),
                "use a newer stratavore",
            ));
        }
        let of = &manifest.session.session;
        let project = match project {
            Some(name) => self.project(name).await?.id,
            None => {
                let named = self.project(&manifest.session.project_name).await;
                named.map_err(|_| Error::invalid(
                    format!("there is no project `{}` here", manifest.session.project_name.escape_debug()),
                    "say whose it is to be: --project NAME; or make it: stratavore new NAME",
                ))?.id
            }
        };
        let external = of.external_id.clone().unwrap_or_else(|| of.id.to_string());
        let about = json!({ "assistant": of.assistant, "external_id": external, "files": manifest.files.len() });
        self.record(caller, "request.session_import", about).await?;
        let seen = SessionSeen {
            session: external.clone(),
            directory: of.directory.clone(),
            transcript: None,
            title: of.title.clone(),
            model: None,
            // Its parent is known by an id of the other host.
            lineage: None,
            at: of.ended_at,
            is_current: false,
        };
        let mut import = SessionImport {
            control: self.clone(),
            caller: caller.clone(),
            intake: self.intake(),
            project,
            external: external.clone(),
            session: of.id,
            open: None,
            files: 0,
            manifest,
        };
        let told = import.tell(&[Observation::Session(seen)]).await?;
        import.session = told;
        Ok(import)
    }
}

impl SessionImport {
    /// What comes next are the bytes of this file.
    pub async fn file(&mut self, name: &str) -> Result<(), Error> {
        self.close().await?;
        let known = self.manifest.files.iter().find(|file| file.name == name);
        let of = known
            .cloned()
            .ok_or_else(|| wrong(format!("the manifest has no file `{}`", name.escape_debug())))?;
        if of.path.is_none() && of.size > MESSAGES_MAX {
            return Err(wrong(format!(
                "`{}` has more than {MESSAGES_MAX} bytes",
                of.name.escape_debug()
            )));
        }
        let (head, bytes, rows) = Default::default();
        self.open = Some(Open { of, digest: Sha256::new(), size: 0, head, bytes, rows });
        Ok(())
    }

    pub async fn bytes(&mut self, more: &[u8]) -> Result<(), Error> {
        let open = self.open.as_mut().ok_or_else(|| wrong("bytes came before a file"))?;
        open.size += more.len() as u64;
        if open.size > open.of.size {
            return Err(mismatch(&open.of));
        }
        open.digest.update(more);
        let wanted = HEAD_MAX.saturating_sub(open.head.len()).min(more.len());
        open.head.extend_from_slice(&more[..wanted]);
        open.bytes.extend_from_slice(more);
        if open.of.path.is_some() && open.bytes.len() >= PIECE {
            let piece = std::mem::take(&mut open.bytes);
            open.rows.push(self.intake.put(piece).await?);
        }
        Ok(())
    }

    /// Ends it. Answers our id of the conversation here, and how many files were new.
    pub async fn finish(mut self) -> Result<(SessionId, usize), Error> {
        self.close().await?;
        self.control.messages_told();
        self.control.inner.relay_wake.notify_one();
        Ok((self.session, self.files))
    }

    async fn close(&mut self) -> Result<(), Error> {
        let Some(mut open) = self.open.take() else { return Ok(()) };
        let found = Digest(std::mem::take(&mut open.digest).finalize().into());
        if open.size != open.of.size || found != open.of.sha256 {
            return Err(mismatch(&open.of));
        }
        match open.of.path.clone() {
            Some(path) => self.transcript(open, &path).await,
            None if open.of.name.starts_with(MESSAGES) => self.messages(&open).await,
            None => Ok(()),
        }
    }

    async fn transcript(&mut self, mut open: Open, path: &str) -> Result<(), Error> {
        if !open.bytes.is_empty() {
            let rest = std::mem::take(&mut open.bytes);
            open.rows.push(self.intake.put(rest).await?);
        }
        let node = self.intake.node;
        let path = match path.starts_with(ELSEWHERE) {
            true => path.to_owned(),
            false => format!("{ELSEWHERE}{path}"),
        };
        // The digest of all of it is what it is known by.
        let identity = FileMark {
            file: open.of.sha256.to_string(),
            head: digest(&open.head),
            head_length: open.head.len() as u64,
        };
        let all = self.intake.store.transcript_list(self.session).await?;
        if all.iter().any(|known| known.identity.file == identity.file && known.size == open.size) {
            return Ok(());
        }
        let latest = self.intake.store.transcript_latest(node, &path).await?;
        let now = self.control.now();
        let mut seen = Transcript {
            id: TranscriptId::from_entropy(self.control.entropy()),
            session: self.session,
            node,
            path,
            version: latest.map_or(1, |known| known.version + 1),
            identity: identity.clone(),
            size: 0,
            created_at: now,
            updated_at: now,
            is_replaced: false,
        };
        self.intake.store.transcript_begin(&seen).await?;
        for row in &open.rows {
            seen = self.intake.store.transcript_append(&seen, row, &identity, now).await?;
        }
        self.files += 1;
        Ok(())
    }

    async fn messages(&mut self, open: &Open) -> Result<(), Error> {
        let mut told = Vec::new();
        for line in open.bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            let message: Message = serde_json::from_slice(line).map_err(|error| {
                wrong(format!("a line of `{}` is no message: {error}", open.of.name.escape_debug()))
            })?;
            told.push(Observation::Message(Message { session: self.external.clone(), ..message }));
        }
        self.tell(&told).await.map(drop)
    }

    /// Takes in what is told of the conversation. Answers our id of it.
    async fn tell(&self, observations: &[Observation]) -> Result<SessionId, Error> {
        let control = &self.control;
        let price = |_: &str, _: &_, _| None;
        let batch = Observed {
            assistant: &self.manifest.session.session.assistant,
            node: self.intake.node,
            project: Some(self.project),
            runner: None,
            epoch: None,
            follow: None,
            observations,
            price: &price,
            now: control.now(),
        };
        let recorded = control.inner.store.observed(&batch, control.by(&self.caller, None)).await?;
        // A name that is too long was cut.
        let known = recorded.sessions.values().next().copied();
        Ok(known.unwrap_or(self.session))
    }
}

fn wrong(what: impl Into<String>) -> Error {
    Error::invalid(what, "export it again: stratavore sessions export SESSION DIR")
}

fn mismatch(file: &ManifestFile) -> Error {
    wrong(format!(
        "`{}` is not the {} bytes that the manifest says, so nothing of it was taken in",
        file.name.escape_debug(),
        file.size
    ))
}
