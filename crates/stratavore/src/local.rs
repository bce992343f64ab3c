//! The runners of this host, found by their directories. No daemon is asked.
//!
//! Invariant: a runner counts as live if and only if its agent holds the lifetime lock.

use std::io;
use std::path::Path;

use stratavore_core::RunnerId;
use stratavore_core::name::Reference;
use stratavore_core::runner::Exit;
use stratavore_proto::runner_dir::{RunnerDir, Spec};

/// A runner whose agent lives on this host.
#[derive(Debug, Clone)]
pub(crate) struct LocalRunner {
    pub id: RunnerId,
    pub name: String,
    pub project: String,
    pub epoch: i64,
    pub dir: RunnerDir,
}

/// What a reference names among the live runners of this host.
#[derive(Debug)]
pub(crate) enum Found {
    One(LocalRunner),
    Several(Vec<LocalRunner>),
    /// Nothing; these live.
    None(Vec<LocalRunner>),
}

/// Finds the live runner that `reference` names: by id, the beginning of one, or name; within
/// `project` (a name) if that is given. A name goes before the beginning of an id.
pub(crate) fn find(runners: &Path, reference: &str, project: Option<&str>) -> io::Result<Found> {
    let wanted = Reference::parse(reference, RunnerId::PREFIX);
    if let Ok(id) = reference.parse() {
        let dir = RunnerDir::of(runners, id);
        // What the files of a runner no longer tell, the daemon does.
        return Ok(match live(id, dir).unwrap_or(None) {
            Some(runner) => Found::One(runner),
            None => Found::None(all_live(runners)?),
        });
    }
    let all = all_live(runners)?;
    let candidates = || all.iter().filter(|r| project.is_none_or(|project| r.project == project));
    let by_name: Vec<_> = candidates()
        .filter(|r| wanted.name.as_ref().is_some_and(|n| n.as_str() == r.name))
        .collect();
    let by_id: Vec<_> = candidates()
        .filter(|r| {
            wanted.id_prefix.as_ref().is_some_and(|prefix| r.id.to_string().starts_with(prefix))
        })
        .collect();
    let named = if by_name.is_empty() { by_id } else { by_name };
    Ok(match named.as_slice() {
        [] => Found::None(all),
        [one] => Found::One((*one).clone()),
        several => Found::Several(several.iter().map(|r| (*r).clone()).collect()),
    })
}

/// Every live runner of this host. Directories that cannot be read are left out.
pub(crate) fn all_live(runners: &Path) -> io::Result<Vec<LocalRunner>> {
    let mut found = Vec::new();
    for (id, dir) in RunnerDir::all(runners)? {
        // One broken directory does not hide the others.
        if let Ok(Some(runner)) = live(id, dir) {
            found.push(runner);
        }
    }
    found.sort_by(|a, b| (&a.project, &a.name, a.id).cmp(&(&b.project, &b.name, b.id)));
    Ok(found)
}

fn live(id: RunnerId, dir: RunnerDir) -> io::Result<Option<LocalRunner>> {
    if !dir.is_locked()? {
        return Ok(None);
    }
    Ok(dir.spec()?.map(|Spec { project, name, epoch, .. }| LocalRunner {
        id,
        name,
        project,
        epoch,
        dir,
    }))
}

/// How the runner ended, if its agent wrote it down for the current epoch.
pub(crate) fn ended(dir: &RunnerDir) -> Option<Exit> {
    let epoch = dir.spec().ok()??.epoch;
    dir.exit().ok()?.filter(|record| record.epoch == epoch).map(|record| record.exit)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::fs::File;

    use stratavore_core::limits::Limits;
    use stratavore_core::runner::Command;

    use super::*;

    struct Host {
        home: tempfile::TempDir,
        locks: Vec<File>,
    }

    impl Host {
        fn new() -> Self {
            Self { home: tempfile::tempdir().unwrap(), locks: Vec::new() }
        }

        fn runner(&mut self, id: &str, project: &str, name: &str, live: bool) {
            let id: RunnerId = id.parse().unwrap();
            let dir = RunnerDir::of(self.home.path(), id);
            dir.create().unwrap();
            let command = Command {
                assistant: "generic".parse().unwrap(),
                argv: vec!["sh".into()],
                given: 0,
                prompt: None,
                bare: false,
                headless: None,
                after_limit: Default::default(),
                labels: Vec::new(),
                env: BTreeMap::new(),
                directory: "/".into(),
                columns: 80,
                rows: 24,
            };
            dir.write_spec(&Spec {
                runner: id,
                epoch: 1,
                project: project.into(),
                name: name.into(),
                command,
                limits: Limits::default(),
                agents_socket: "/nowhere".into(),
                agents_sockets: Vec::new(),
                join_token_sha256: String::new(),
                launch_timeout_ms: 1,
                heartbeat_ms: 1,
                recording: Default::default(),
                resize: Default::default(),
                segment_bytes: 1,
                output_max_bytes: 1,
                observe: None,
            })
            .unwrap();
            if live {
                self.locks.push(dir.take_lock().unwrap().unwrap());
            }
        }

        fn find(&self, reference: &str, project: Option<&str>) -> Vec<String> {
            match find(self.home.path(), reference, project).unwrap() {
                Found::One(runner) => vec![runner.id.to_string()],
                Found::Several(several) => several.iter().map(|r| r.id.to_string()).collect(),
                Found::None(_) => Vec::new(),
            }
        }
    }

    const A: &str = "run_a0000000000000000001";
    const B: &str = "run_a0000000000000000002";
    const DEAD: &str = "run_b0000000000000000003";

    #[test]
    fn a_live_runner_is_found_by_id_prefix_and_name() {
        let mut host = Host::new();
        host.runner(A, "api", "one", true);
        host.runner(B, "web", "one", true);
        host.runner(DEAD, "web", "two", false);

        assert_eq!(host.find(A, None), [A]);
        assert_eq!(host.find("one", None), [A, B]);
        assert_eq!(host.find("one", Some("web")), [B]);
        assert_eq!(host.find("run_a0", None), [A, B]);
        assert_eq!(host.find("run_a0000000000000000001", None), [A]);
        assert!(host.find("two", None).is_empty(), "its agent does not live");
        assert!(host.find(DEAD, None).is_empty());
    }

    #[test]
    fn a_name_goes_before_the_beginning_of_an_id() {
        let mut host = Host::new();
        host.runner(A, "api", "one", true);
        host.runner(DEAD, "api", "a0", true);
        assert_eq!(host.find("a0", None), [DEAD]);
    }

    #[test]
    fn a_broken_directory_hides_no_other() {
        let mut host = Host::new();
        host.runner(A, "api", "one", true);
        host.runner(B, "api", "two", true);
        std::fs::write(
            RunnerDir::of(host.home.path(), B.parse().unwrap()).path().join("spec.json"),
            "{",
        )
        .unwrap();
        assert_eq!(host.find("one", None), [A]);
        assert_eq!(all_live(host.home.path()).unwrap().len(), 1);
    }
}
