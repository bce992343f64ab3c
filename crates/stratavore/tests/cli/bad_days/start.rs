//! A daemon that must not start, or cannot: a second one, a newer database, a configuration that is
//! wrong, places that are not safe.

use std::fs;
use std::os::unix::fs::symlink;
use std::process::Stdio;

use rustix::process::Signal;
use stratavore_store::testing::{sqlite_execute, sqlite_number};
use stratavore_testkit::world::{Ran, World, signal, until};

use super::{is_root, runners, set_mode, told};
use stratavore_testkit::wire::on_runtime;

/// Runs `stratavored` itself, which is to end at once.
fn daemon(world: &World) -> Ran {
    let mut command = world.command("stratavored");
    command.stdin(Stdio::null());
    Ran::of(command)
}

/// What a daemon that did not start told.
#[track_caller]
fn refused(ran: Ran, code: i32, words: &[&str]) {
    let ran = ran.fails(code);
    let said = ran.stderr();
    assert!(said.starts_with("stratavored: ") && said.contains("\nnext: "), "{said}");
    assert_eq!(said.lines().count(), 2, "{said}");
    for word in words {
        assert!(said.contains(word), "`{word}` should stand in:\n{said}");
    }
}

/// Row 36.
#[test]
fn a_second_daemon_is_refused_and_names_the_first() {
    let world = World::new();
    world.project("demo");
    let runner = world.launch("demo", "one", &["sleep", "1000"]);
    let first = world.daemon_pid().unwrap();
    for _ in 0..3 {
        refused(daemon(&world), 5, &["already uses", &first.to_string(), "daemon stop"]);
    }
    assert_eq!(world.daemon_pid(), Some(first), "the lock still names the first");
    assert_eq!(world.runner(&runner)["connected"], true, "the sockets are still the first's");

    // One that hangs is not one that is gone.
    signal(first, Signal::STOP);
    refused(daemon(&world), 5, &[&first.to_string()]);
    signal(first, Signal::CONT);
    // A lock file that nobody holds is no daemon, whatever it says.
    world.kill_daemon();
    fs::write(world.path("state/daemon.lock"), "1\n").unwrap();
    assert_eq!(world.runner(&runner)["state"], "running");
}

/// Many commands at once where no daemon runs: one daemon comes up, and all are answered.
#[test]
fn commands_that_all_start_a_daemon_find_the_same_one() {
    let world = World::new();
    let started: Vec<_> = (0..8)
        .map(|_| {
            let mut command = world.command("stratavore");
            command.args(["status", "--format", "json"]);
            command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
            command.spawn().unwrap()
        })
        .collect();
    let pids: Vec<u64> = started
        .into_iter()
        .map(|child| {
            let output = child.wait_with_output().unwrap();
            assert!(output.status.success(), "{output:?}");
            let status: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
            status["daemon"]["pid"].as_u64().unwrap()
        })
        .collect();
    assert!(pids.iter().all(|pid| *pid == pids[0]), "{pids:?}");
    assert_eq!(world.daemon_pid().map(u64::from), Some(pids[0]));
}

#[test]
fn stale_sockets_are_taken_over() {
    let world = World::new();
    world.project("demo");
    let runner = world.launch("demo", "one", &["sleep", "1000"]);
    world.kill_daemon();
    for socket in ["run/d.sock", "state/agents.sock"] {
        assert!(world.path(socket).exists(), "{socket} is left behind");
    }
    until("the agent has found the new daemon", || match world.runner(&runner) {
        shown if shown["connected"] == true => Ok(()),
        shown => Err(shown),
    });
    // A plain file in a socket's place, and none at all.
    for change in ["file", "none"] {
        world.kill_daemon();
        fs::remove_file(world.path("run/d.sock")).unwrap();
        if change == "file" {
            fs::write(world.path("run/d.sock"), "").unwrap();
        }
        assert_eq!(world.runner(&runner)["state"], "running", "{change}");
    }
    // A directory there cannot be replaced, and is told.
    world.kill_daemon();
    fs::remove_file(world.path("run/d.sock")).unwrap();
    fs::create_dir(world.path("run/d.sock")).unwrap();
    refused(daemon(&world), 8, &["d.sock"]);
    fs::remove_dir(world.path("run/d.sock")).unwrap();
    world.run(["daemon", "start"]).ok();
}

#[test]
fn a_newer_database_is_left_alone() {
    let world = World::new();
    world.project("demo");
    let runner = world.launch("demo", "one", &["sleep", "1000"]);
    let process = world.process_of(&runner);
    world.run(["daemon", "stop"]).ok();
    let file = world.path("state/stratavore.db");
    on_runtime(async {
        let newer = "INSERT INTO _sqlx_migrations
            (version, description, success, checksum, execution_time)
            SELECT 9000, 'from the future', success, checksum, 0
            FROM _sqlx_migrations ORDER BY version LIMIT 1";
        assert_eq!(sqlite_execute(&file, newer).await, 1);
        let needs = "UPDATE schema_compatibility SET works_from = 8000";
        assert_eq!(sqlite_execute(&file, needs).await, 1);
    });
    told(world.run(["runners"]), 6, &["version 9000", "knows version 8000", "install the newer"]);
    refused(daemon(&world), 6, &["9000"]);
    assert!(process.is_alive(), "runners go on");
    world.run(["--no-start", "screen", "one"]).ok();
    on_runtime(async {
        assert_eq!(sqlite_number(&file, "SELECT count(*) FROM runners").await, 1);
        assert_eq!(sqlite_number(&file, "SELECT max(version) FROM _sqlx_migrations").await, 9000);
        // Where the schema says that programs of today may work on it, they do.
        let permits = "UPDATE schema_compatibility SET works_from = 5";
        assert_eq!(sqlite_execute(&file, permits).await, 1);
    });
    assert_eq!(world.runner(&runner)["state"], "running");
}

#[test]
fn what_is_no_database_is_told_and_not_touched() {
    let world = World::new();
    fs::create_dir(world.path("state")).unwrap();
    set_mode(&world.path("state"), 0o700);
    let file = world.path("state/stratavore.db");
    fs::write(&file, "this is no database ".repeat(500)).unwrap();
    told(world.run(["status"]), 6, &["not a database", "restore it from a backup"]);
    assert_eq!(fs::read_to_string(&file).unwrap(), "this is no database ".repeat(500));
    fs::remove_file(&file).unwrap();
    symlink(world.path("elsewhere"), &file).unwrap();
    told(world.run(["status"]), 6, &["stratavore.db", "link"]);
    assert!(!world.path("elsewhere").exists());
}

/// Row 78: what others could reach is not used.
#[test]
fn places_that_others_can_reach_are_refused() {
    type Spoil = fn(&World);
    let directory = |world: &World, name: &str, mode: u32| {
        fs::create_dir_all(world.path(name)).unwrap();
        set_mode(&world.path("state"), 0o700);
        set_mode(&world.path(name), mode);
    };
    for (name, mode) in [
        ("state", 0o770),
        ("state", 0o777),
        ("state", 0o755),
        ("run", 0o777),
        ("state/runners", 0o775),
    ] {
        let world = World::new();
        fs::create_dir_all(world.path("state")).unwrap();
        directory(&world, name, mode);
        told(world.run(["status"]), 8, &[&format!("{mode:o}"), "chmod 700", name]);
        refused(daemon(&world), 8, &["chmod 700"]);
        assert!(!world.path("state/stratavore.db").exists(), "nothing was begun");
        set_mode(&world.path(name), 0o700);
        world.run(["status"]).ok();
    }
    let spoils: [(&str, Spoil); 4] = [
        ("state", |world| {
            fs::create_dir(world.path("elsewhere")).unwrap();
            symlink(world.path("elsewhere"), world.path("state")).unwrap();
        }),
        ("run", |world| {
            fs::create_dir(world.path("elsewhere")).unwrap();
            symlink(world.path("elsewhere"), world.path("run")).unwrap();
        }),
        ("state", |world| fs::write(world.path("state"), "").unwrap()),
        ("run", |world| symlink(world.path("nowhere"), world.path("run")).unwrap()),
    ];
    for (name, spoil) in spoils {
        let world = World::new();
        spoil(&world);
        told(world.run(["status"]), 8, &[name, "symbolic link or not a directory"]);
        let elsewhere = world.path("elsewhere");
        assert!(!elsewhere.exists() || elsewhere.read_dir().unwrap().next().is_none());
    }
    if is_root() {
        let world = World::new();
        fs::create_dir(world.path("state")).unwrap();
        set_mode(&world.path("state"), 0o700);
        std::os::unix::fs::chown(world.path("state"), Some(12345), None).unwrap();
        told(world.run(["status"]), 8, &["belongs to user 12345", "chown 0"]);
    }
    let world = World::new();
    fs::create_dir(world.path("state")).unwrap();
    set_mode(&world.path("state"), 0o700);
    symlink(world.path("elsewhere"), world.path("state/daemon.lock")).unwrap();
    told(world.run(["status"]), 8, &["daemon.lock"]);
    assert!(!world.path("elsewhere").exists());
}

/// The command line and the daemon refuse the same files, with the place of the mistake.
#[test]
fn a_configuration_that_is_wrong_starts_nothing() {
    let cases: [(&str, &[&str]); 9] = [
        ("daemon:\n  log: [\n", &["stratavore.yaml:2:8", "not YAML"]),
        ("daemon:\n  lgo: json\n", &["stratavore.yaml:2:3", "did you mean `daemon.log`?"]),
        ("runer:\n  grace: 1s\n", &["stratavore.yaml:1:1", "did you mean `runner"]),
        ("runner:\n  grace: 10\n", &["stratavore.yaml:2:10", "`10`", "such as"]),
        ("runner:\n  grace: 2h\n", &["stratavore.yaml:2:10", "from 0s to 1h"]),
        (
            "store:\n  postgres:\n    password: hunter2\n",
            &["stratavore.yaml:3:5", "`store.postgres.password_file`"],
        ),
        ("agent:\n  heartbeat: 20s\n", &["unresponsive_after", "heartbeat"]),
        ("daemon: json\n", &["daemon", "section"]),
        ("a: \u{1b}[2J\n", &["stratavore.yaml:1"]),
    ];
    for (text, words) in cases {
        let world = World::with_config(text);
        let said = told(world.run(["status"]), 7, words);
        assert!(!said.contains("hunter2") && !said.contains('\u{1b}'), "{said}");
        refused(daemon(&world), 7, words);
        assert!(!world.path("state").exists(), "nothing was begun");
        fs::write(world.path("stratavore.yaml"), "").unwrap();
        world.run(["status"]).ok();
    }
}

#[test]
fn a_configuration_file_that_others_control_is_not_read() {
    let world = World::with_config("daemon:\n  log: json\n");
    let file = world.path("stratavore.yaml");
    set_mode(&file, 0o666);
    told(world.run(["status"]), 7, &["mode 666", "chmod o-w"]);
    refused(daemon(&world), 7, &["chmod o-w"]);
    set_mode(&file, 0o600);
    if is_root() {
        std::os::unix::fs::chown(&file, Some(12345), None).unwrap();
        told(world.run(["status"]), 7, &["belongs to user 12345", "chown"]);
        std::os::unix::fs::chown(&file, Some(0), None).unwrap();
    }
    let secret = "assistants:\n  x:\n    args: [--api-key, sk-ant-0123456789abcdef0]\n";
    fs::write(&file, secret).unwrap();
    set_mode(&file, 0o644);
    let said = told(world.run(["status"]), 7, &["stratavore.yaml:3", "chmod 600"]);
    assert!(!said.contains("sk-ant"), "{said}");
    assert!(!world.path("state").exists(), "nothing was begun");
    set_mode(&file, 0o600);
    let shown = world.run(["config", "show"]).ok().stdout();
    assert!(shown.contains("(hidden)") && !shown.contains("sk-ant"), "{shown}");
}

#[test]
fn a_slip_in_the_environment_is_told() {
    let mut world = World::new();
    world.set_env("STRATAVORE_DAEMON__LGO", "json");
    told(world.run(["status"]), 7, &["STRATAVORE_DAEMON__LGO", "`STRATAVORE_DAEMON__LOG`"]);
    refused(daemon(&world), 7, &["STRATAVORE_DAEMON__LGO"]);
    let mut world = World::new();
    world.set_env("STRATAVORE_STORE__POSTGRES__PASSWORD", "hunter2");
    let said = told(world.run(["status"]), 7, &["STRATAVORE_STORE__POSTGRES__PASSWORD"]);
    assert!(!said.contains("hunter2"), "{said}");
    assert!(!world.path("state").exists());
}

#[test]
fn a_database_server_that_is_not_there_is_told() {
    let world = World::with_config(
        "store:\n  url: postgres\n  pool:\n    connect_timeout: 1s\n  postgres:\n    host: /nowhere/at/all\n",
    );
    told(world.run(["status"]), 6, &["did not answer", "stratavore doctor"]);
    assert!(runners_dir_is_empty(&world));
}

fn runners_dir_is_empty(world: &World) -> bool {
    fs::read_dir(world.path("state/runners")).is_ok_and(|mut found| found.next().is_none())
}

/// A daemon that is asked to end does so and leaves its runners; asked twice, it does not wait.
#[test]
fn a_daemon_that_ends_leaves_its_runners_alone() {
    let world = World::new();
    world.project("demo");
    let runner = world.launch("demo", "one", &["sleep", "1000"]);
    let process = world.process_of(&runner);
    for name in [Signal::TERM, Signal::INT] {
        let pid = world.daemon_pid().unwrap();
        signal(pid, name);
        signal(pid, name);
        until("the daemon is gone", || match world.daemon_pid() {
            None => Ok(()),
            Some(pid) => Err(pid),
        });
        assert!(process.is_alive());
        assert_eq!(runners(&world).len(), 1);
    }
    // A hang-up is somebody logging out.
    let pid = world.daemon_pid().unwrap();
    signal(pid, Signal::HUP);
    world.run(["status"]).ok();
    assert_eq!(world.daemon_pid(), Some(pid));
}
