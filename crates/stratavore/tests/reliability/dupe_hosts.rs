//! T-DUPE with sessions, at three daemons: of many that go on with one session at the same time, each
//! by any of three hosts' daemons and on any of their hosts, one does.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use futures_util::future::join_all;
use stratavore_proto::client::{Client, problem};
use stratavore_proto::v1::LaunchRunners;
use stratavore_testkit::hosts::Hosts;
use stratavore_testkit::trial::{Trial, scale};
use stratavore_testkit::wire::{fresh_key, on_runtime};
use stratavore_testkit::world::{rows, until};

use crate::launch::{mark, observed};

const ASKERS: usize = 64;
const HOSTS: usize = 3;
/// How often all of them ask until one is heard.
const TRIES: usize = 5;

/// It keeps its log as aider does, whose conversations are resumed from any host that has their directory.
const AIDER: &str = r#"#!/bin/sh
while [ $# -gt 0 ]; do
  case "$1" in --analytics-log) log=$2; shift ;; esac
  shift
done
echo '{"event":"launched","properties":{},"user_id":"u","time":1}' >> "$log"
exec sleep 1000
"#;

struct Cluster {
    hosts: Hosts,
    nodes: Vec<String>,
    _program: tempfile::TempDir,
}

impl Cluster {
    fn new() -> Self {
        let program = tempfile::tempdir().unwrap();
        let aider = program.path().join("aider");
        fs::write(&aider, AIDER).unwrap();
        fs::set_permissions(&aider, fs::Permissions::from_mode(0o755)).unwrap();
        let settings = format!(
            "runner:\n  grace: 1s\nassistants:\n  aider:\n    program: {}\n",
            aider.display()
        );
        let hosts = Hosts::joined_with_settings(&["labels: []"; HOSTS], &settings);
        hosts.worlds[0].project("p");
        let nodes = (0..HOSTS).map(|which| hosts.id(which)).collect();
        Self { hosts, nodes, _program: program }
    }

    /// Launches it, and answers its runner and its session once it has told of itself.
    fn launch(&self, mark: &str) -> (String, String) {
        let launch = ["launch", "--project", "p", "--assistant", "aider", "--env", mark];
        let launched = self.hosts.worlds[0].json(&launch);
        let runner = rows(&launched)[0]["id"].as_str().unwrap().to_owned();
        let session = until("its session is known", || {
            let sessions = self.hosts.worlds[0].json(&["sessions"]);
            let of_it = |row: &&serde_json::Value| {
                row["runner_id"] == runner.as_str() && row["external_id"].is_string()
            };
            let found = rows(&sessions).iter().find(of_it).map(|row| row["id"].clone());
            found.ok_or(sessions)
        });
        (runner, session.as_str().unwrap().to_owned())
    }

    fn live(&self) -> Vec<String> {
        let live = self.hosts.worlds[0].json(&["runners"]);
        rows(&live).iter().map(|row| row["id"].as_str().unwrap().to_owned()).collect()
    }

    fn end(&self, runner: &str) {
        self.hosts.worlds[0].run(["kill", runner, "--force"]).ok();
        self.hosts.worlds[0].until_state(runner, &["exited", "failed", "lost"]);
    }

    /// Has all of them ask at the same time. Answers who runs then, if it is one, and how many were refused
    /// because of it.
    fn resumed(&self, session: &str, mark: &str) -> Result<(String, usize), String> {
        let ask = |number: usize| {
            // Each daemon is asked for each host, and to choose one.
            let node = self.nodes.get(number / HOSTS % (HOSTS + 1)).cloned().unwrap_or_default();
            let request = LaunchRunners {
                idempotency_key: fresh_key("resume"),
                project: "p".into(),
                session: session.into(),
                env: vec![mark.into()],
                node,
                ..LaunchRunners::default()
            };
            resume(self.hosts.worlds[number % HOSTS].path("run/d.sock"), request)
        };
        for _ in 0..TRIES {
            let answers = on_runtime(join_all((0..ASKERS).map(ask)));
            let won: Vec<&String> = answers.iter().filter_map(|a| a.as_ref().ok()).collect();
            let codes: Vec<&String> = answers.iter().filter_map(|a| a.as_ref().err()).collect();
            let live = self.live();
            let refused = codes.iter().filter(|code| **code == "session_busy").count();
            // On a machine that has too much to do some are not heard, and of some the answer is not.
            let is_good = |code: &&&String| {
                matches!(code.as_str(), "session_busy" | "store_unavailable" | "node_unreachable")
            };
            let is_told_well = codes.iter().all(|code| is_good(&code));
            match (&won[..], &live[..]) {
                ([], []) if is_told_well => {}
                ([], [live]) if is_told_well => return Ok((live.clone(), refused)),
                ([won], [live]) if *won == live && is_told_well => {
                    return Ok((live.clone(), refused));
                }
                _ => return Err(format!("{won:?} won, {live:?} live; others were told {codes:?}")),
            }
        }
        Err(format!("none of {ASKERS} was heard, {TRIES} times"))
    }
}

/// The runner's id, or why there is none.
async fn resume(socket: impl AsRef<Path>, request: LaunchRunners) -> Result<String, String> {
    let client = Client::connect(socket.as_ref()).await.map_err(|error| error.to_string())?;
    match client.runners().launch(request).await {
        Ok(answer) => Ok(answer.get_ref().runners[0].id.clone()),
        Err(status) => Err(problem(&status).code),
    }
}

#[test]
fn t_dupe_of_many_that_resume_a_session_at_three_daemons_one_does() {
    let mut trial = Trial::new(
        "T-DUPE",
        "64 resume one session at three daemons at the same time, and one process runs",
    );
    let cluster = Cluster::new();
    let mark = mark(&cluster.hosts.worlds[0]);
    let (mut runner, session) = cluster.launch(&mark);
    for _ in 0..scale(3, 500) {
        cluster.end(&runner);
        let (resumed, seen) = observed(&mark, || {
            let resumed = cluster.resumed(&session, &mark);
            if let Ok((runner, _)) = &resumed {
                cluster.hosts.worlds[0].until_state(runner, &["running"]);
            }
            resumed
        });
        match resumed {
            Ok((next, refused)) => {
                runner = next;
                trial.counted("refused with the holder's name", refused as u64);
                trial.tried(seen.held(1));
            }
            Err(why) => {
                trial.tried(Err(why));
                break;
            }
        }
    }
    cluster.hosts.worlds[0].run(["kill", "--all", "--force"]).ok();
    until("none lives", || match cluster.live() {
        live if live.is_empty() => Ok(()),
        live => Err(live),
    });

    // The control: who begins anew instead, at two daemons, is noticed.
    let (live, seen) = observed(&mark, || {
        for host in &cluster.hosts.worlds[..2] {
            let launch = ["launch", "--project", "p", "--assistant", "aider", "--env", &mark];
            let launched = host.json(&launch);
            let runner = rows(&launched)[0]["id"].as_str().unwrap().to_owned();
            cluster.hosts.worlds[0].until_state(&runner, &["running"]);
        }
        cluster.live().len()
    });
    trial.control("two sessions that are begun", live == 2 && seen.held(1).is_err());
    trial.end();
}
