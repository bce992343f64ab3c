//! docs/operations/backup.md: its commands, as they stand there, while runners are launched; then all is
//! destroyed and restored.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

use stratavore_testkit::hosts::Hosts;
use stratavore_testkit::postgres::newest_bin;
use stratavore_testkit::world::{Ran, World, is_gone, rows, until};

const PAGE: &str = include_str!("../../../../docs/operations/backup.md");

/// The commands that stand below this mark in the page.
fn documented(mark: &str) -> &'static str {
    let (_, rest) = PAGE.split_once(&format!("<!-- tested: {mark} -->\n```sh\n")).unwrap();
    rest.split_once("```").unwrap().0
}

/// Runs them as an operator of this host would.
fn follow(world: &World, backup: &Path, database: &str, mark: &str) {
    let programs = World::program("stratavore").parent().unwrap().to_path_buf();
    let servers = newest_bin().unwrap();
    let mut shell = Command::new("sh");
    shell
        .args(["-euc", documented(mark)])
        .env_clear()
        .env("STATE", world.path("state"))
        .env("BACKUP", backup)
        .env("DATABASE", database)
        .env("HOME", world.path(""))
        .env("STRATAVORE_HOME", world.path(""))
        .env("PATH", format!("{}:{}:/usr/bin:/bin", programs.display(), servers.display()));
    Ran::of(shell).ok();
}

/// The pid of each live runner, by its name.
fn live(world: &World) -> BTreeMap<String, u64> {
    let listed = world.json(&["runners"]);
    let pid = |row: &serde_json::Value| {
        let shown = world.runner(row["id"].as_str()?);
        Some((row["name"].as_str()?.to_owned(), shown["pid"].as_u64()?))
    };
    rows(&listed).iter().filter_map(pid).collect()
}

fn launch(world: &World, name: &str, options: &[&str]) {
    world.launch_with("p", name, options, &["sleep", "600"]);
}

/// Launches runner after runner until `done`, which it sets; answers what was there before it began.
fn meanwhile(world: &World, work: impl FnOnce()) -> BTreeMap<String, u64> {
    launch(world, "first", &[]);
    launch(world, "second", &[]);
    let before = live(world);
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let launching = scope.spawn(|| {
            let mut n = 0;
            while !done.load(Ordering::Relaxed) || n == 0 {
                launch(world, &format!("during-{n}"), &[]);
                n += 1;
            }
        });
        work();
        done.store(true, Ordering::Relaxed);
        launching.join().unwrap();
    });
    launch(world, "late", &[]);
    before
}

/// Waits until what there is by now is on the record; verifying it is recorded as well.
fn sealed(world: &World) {
    let status = world.json(&["daemon", "status"]);
    let all = status["last_event_position"].as_i64().unwrap();
    until("all is sealed", || {
        let verified = world.json(&["audit", "verify"]);
        if verified["records"].as_i64() >= Some(all) { Ok(()) } else { Err((verified, all)) }
    });
}

/// Has something signed, so that what is backed up knows of it: an orderly end signs what there is.
fn signed(world: &World) {
    until("an event has its position", || {
        match world.json(&["daemon", "status"])["last_event_position"].as_i64() {
            Some(1..) => Ok(()),
            other => Err(other),
        }
    });
    sealed(world);
    world.run(["daemon", "stop"]).ok();
    world.run(["daemon", "start"]).ok();
}

/// After a restore: who was there before is found again, and who came later goes on unknown.
fn as_restored(world: &World, before: &BTreeMap<String, u64>, late: u64) {
    until("what lived is found again", || {
        let now = live(world);
        let found = before.iter().filter(|(name, pid)| now.get(*name) == Some(pid)).count();
        if found == before.len() { Ok(()) } else { Err(now) }
    });
    for name in before.keys() {
        world.until_state(name, &["running"]);
    }
    assert!(!live(world).contains_key("late"), "the backup is older");
    world.run(["reconcile"]).ok();
    assert!(!is_gone(u32::try_from(late).unwrap()), "nothing is ended since a database is older");
}

/// The record is older than what the host has witnessed, until somebody accepts that.
fn is_told_and_accepted(world: &World, backup: &Path) {
    until("it is told", || {
        let problems = world.json(&["daemon", "status"])["problems"].to_string();
        if problems.contains("restored from an older state") { Ok(()) } else { Err(problems) }
    });
    world.run(["audit", "verify"]).fails(1);
    follow(world, backup, "", "accept");
    world.run(["projects", "edit", "p", "--description", "after"]).ok();
    sealed(world);
    assert_eq!(world.json(&["daemon", "status"])["problems"], serde_json::json!([]));
    assert!(backup.join("checkpoints-before-restore").exists());
}

fn directory() -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().to_path_buf();
    (directory, path)
}

#[test]
fn the_embedded_database_is_backed_up_and_restored_while_runners_live() {
    let (_held, backup) = directory();
    let world = World::new();
    world.project("p");
    signed(&world);
    let before = meanwhile(&world, || {
        follow(&world, &backup, "", "state");
        follow(&world, &backup, "", "sqlite");
    });
    let late = live(&world)["late"];
    // An orderly end signs what there is.
    sealed(&world);
    world.run(["daemon", "stop"]).ok();
    fs::write(world.path("state/stratavore.db"), "gone").unwrap();
    follow(&world, &backup, "", "restore sqlite");
    as_restored(&world, &before, late);
    is_told_and_accepted(&world, &backup);

    // A host that has lost everything but its runners' directories is the same node as before.
    let node = world.json(&["daemon", "status"])["node_id"].clone();
    world.run(["daemon", "stop"]).ok();
    for part in ["node", "audit"] {
        let path = world.path("state").join(part);
        if path.is_dir() {
            fs::remove_dir_all(path).unwrap()
        } else {
            fs::remove_file(path).unwrap()
        }
    }
    follow(&world, &backup, "", "restore state");
    follow(&world, &backup, "", "restore sqlite");
    as_restored(&world, &before, late);
    assert_eq!(world.json(&["daemon", "status"])["node_id"], node);
    // What the host has witnessed is no newer than the database: nobody has to accept anything.
    world.run(["projects", "edit", "p", "--description", "again"]).ok();
    sealed(&world);
    assert_eq!(world.json(&["daemon", "status"])["problems"], serde_json::json!([]));
}

#[test]
fn a_cluster_is_backed_up_and_restored_while_runners_live() {
    let (_held, backup) = directory();
    let hosts = Hosts::joined(&["labels: []", "labels: []"]);
    let [here, there] = &hosts.worlds[..] else { panic!("two hosts") };
    let own = &hosts.database;
    let database = format!(
        "host={} port={} user={} dbname={}",
        own.socket_dir.display(),
        own.port,
        own.user,
        own.database
    );
    here.project("p");
    launch(here, "far", &["--node", &hosts.id(1)]);
    signed(here);
    let before = meanwhile(here, || {
        follow(here, &backup, &database, "state");
        follow(here, &backup, &database, "postgres");
    });
    let late = live(here)["late"];
    sealed(here);
    let ca = fs::read(here.path("state/ca/key.pem")).unwrap();
    for world in [here, there] {
        world.run(["daemon", "stop"]).ok();
    }
    own.query("DROP SCHEMA public CASCADE; CREATE SCHEMA public");
    fs::remove_dir_all(here.path("state/ca")).unwrap();
    follow(here, &backup, &database, "restore postgres");
    // Of the host only the CA was lost: what it has witnessed is its own, and newer.
    let witnessed = fs::read(here.path("state/audit/checkpoints")).unwrap();
    follow(here, &backup, &database, "restore state");
    fs::write(here.path("state/audit/checkpoints"), witnessed).unwrap();
    for world in [here, there] {
        world.run(["daemon", "start"]).ok();
    }
    as_restored(here, &before, late);
    is_told_and_accepted(here, &backup);

    // The cluster is the one that it was: hosts know each other, and another one joins.
    assert_eq!(fs::read(here.path("state/ca/key.pem")).unwrap(), ca);
    there.run(["send", "first", "x"]).ok();
    hosts.join(there, &hosts.token()).ok();
    launch(here, "again", &["--node", &hosts.id(1)]);
}
