//! T-SQLITE, row 32: a disk that fails to sync, and hosts that lose power. Nothing is acknowledged
//! that does not stay.
//!
//! A small library under the daemon keeps what would be left on the disk, and forgets with a failed
//! sync what was to be written, as the kernel does (`disk.c`). When power is lost the database is
//! what was kept, and by the dice some of what was still to be written.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::AtomicUsize;

use rustix::process::Signal;
use stratavore_testkit::strace;
use stratavore_testkit::trial::{Dice, Trial, scale};
use stratavore_testkit::wire::on_runtime;
use stratavore_testkit::world::{Ran, World, signal, until};

use super::killed_while_written_to;
use super::oracle::{Oracle, judge, write};

const SOURCE: &str = include_str!("disk.c");
const FILES: [&str; 2] = ["stratavore.db", "stratavore.db-wal"];
const PAGE: u64 = 4096;

/// What the library is told, in its order.
#[derive(Debug, Clone, Copy, Default)]
struct Disk {
    fails_one_in: i64,
    for_good: bool,
    lies: bool,
    dice: u64,
}

impl Disk {
    fn set(self, world: &World) {
        let words = [self.fails_one_in, i64::from(self.for_good), i64::from(self.lies)];
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
        let rest: Vec<u8> = [self.dice, 0, 0].iter().flat_map(|word| word.to_ne_bytes()).collect();
        let file = OpenOptions::new().write(true).open(world.path("disk/control"));
        file.and_then(|file| file.write_all_at(&[bytes, rest].concat(), 0)).unwrap();
    }

    /// How many syncs have failed since it was set.
    fn failed(world: &World) -> u64 {
        let control = fs::read(world.path("disk/control")).unwrap();
        u64::from_ne_bytes(control[32..40].try_into().unwrap())
    }
}

/// A world whose daemons write to a disk that can be told to fail.
fn world_with_a_disk() -> World {
    let mut world = World::new();
    let (source, shim) = (world.path("disk.c"), world.path("disk.so"));
    fs::create_dir(world.path("disk")).unwrap();
    fs::write(world.path("disk/control"), [0; 48]).unwrap();
    fs::write(&source, SOURCE).unwrap();
    let mut cc = Command::new("cc");
    cc.args(["-shared", "-fPIC", "-o"]).arg(&shim).arg(&source);
    Ran::of(cc).ok();
    world.set_env("LD_PRELOAD", &shim.display().to_string());
    world.set_env("DISK", &world.path("disk").display().to_string());
    world.large_project("demo");
    world
}

/// The host goes down: what the kernel had not written yet is lost, but for what the dice leave.
fn lose_power(world: &World, dice: &mut Dice) {
    for name in FILES {
        let file = world.path(&format!("state/{name}"));
        let [kept, dirty] =
            ["kept", "dirty"].map(|what| world.path(&format!("disk/{name}.{what}")));
        if let (Ok(seen), Ok(marks)) = (fs::read(&file), fs::read(&dirty)) {
            let left = open(&kept);
            for (n, _) in marks.iter().enumerate().filter(|(_, mark)| **mark != 0) {
                let from = (n as u64 * PAGE).min(seen.len() as u64);
                let to = (from + PAGE).min(seen.len() as u64);
                if dice.below(2) == 0 && from < to {
                    left.write_all_at(&seen[from as usize..to as usize], from).unwrap();
                }
            }
        }
        match kept.exists() {
            true => drop(fs::copy(&kept, &file).unwrap()),
            false => drop(fs::remove_file(&file)),
        }
        fs::write(&dirty, []).unwrap();
    }
    fs::remove_file(world.path("state/stratavore.db-shm")).ok();
}

fn open(path: &PathBuf) -> File {
    OpenOptions::new().create(true).truncate(false).write(true).open(path).unwrap()
}

#[test]
fn t_sqlite_what_was_acknowledged_survives_failing_syncs_and_losses_of_power() {
    let promise = "syncs fail, daemons are killed and hosts lose power: acknowledged is there";
    let mut trial = Trial::new("T-SQLITE", promise);
    let mut dice = trial.dice();
    let world = world_with_a_disk();
    let (mut all, mut failed, mut lost) = (Oracle::default(), 0, 0);
    for round in 0..scale(6, 500) {
        // Every other time the kernel lives on, with all that it remembers of what never came to
        // the disk.
        let lives = round % 2 == 0;
        let for_good = lives || dice.below(2) == 0;
        Disk { fails_one_in: 20, for_good, dice: dice.number(), ..Disk::default() }.set(&world);
        let mut oracle = killed_while_written_to(&world, &mut dice);
        if !lives {
            lose_power(&world, &mut dice);
            lost += 1;
        }
        // A disk that fails still lets none begin, or one that is sure of what it found.
        let began = dice.below(2) == 0 && world.run(["daemon", "start"]).code() == 0;
        failed += Disk::failed(&world);
        Disk::default().set(&world);
        if !began {
            world.run(["daemon", "start"]).ok();
        }
        trial.tried(judge(&world, &mut oracle));
        all.add(&oracle);
        trial.tried(on_runtime(all.held(&world)));
    }
    trial.counted("acknowledged", all.acknowledged() as u64);
    trial.counted("syncs that failed", failed);
    trial.counted("losses of power", lost);
    trial.tried(on_runtime(all.once(&world)));
    assert!(failed > 0, "syncs failed at all");

    // The control: a disk that says it has synced, and has not.
    Disk { lies: true, ..Disk::default() }.set(&world);
    let oracle = killed_while_written_to(&world, &mut dice);
    lose_power(&world, &mut dice);
    Disk::default().set(&world);
    world.run(["daemon", "start"]);
    let noticed = on_runtime(oracle.held(&world)).is_err();
    trial.control("a disk that lies, and a loss of power", noticed);
    trial.end();
}

/// A daemon whose every sync fails from the `n`-th of each of its threads on.
fn under_strace(world: &World, n: usize) -> Child {
    let inject = format!("inject=fsync,fdatasync:error=EIO:when={n}+");
    let daemon = world.command("stratavored");
    let mut strace = Command::new("strace");
    // `-D`: the daemon stays our own child.
    strace.args(["-D", "-f", "-qq", "-o", "/dev/null", "-e", "trace=fsync,fdatasync", "-e"]);
    strace.arg(inject).arg(daemon.get_program()).env_clear().current_dir(world.work());
    strace.envs(daemon.get_envs().filter_map(|(key, value)| Some((key, value?))));
    let log = open(&world.path("state/daemon.log"));
    strace.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().expect("strace runs")
}

#[test]
fn t_sqlite_a_sync_that_fails_is_told_loudly_and_acknowledges_nothing() {
    strace::needed();
    let promise =
        "EIO from fsync: nothing is acknowledged, it is told, and the next daemon has all";
    let mut trial = Trial::new("T-SQLITE", promise);
    let mut dice = trial.dice();
    let world = World::new();
    world.large_project("demo");
    let problems = || world.json(&["status"])["daemon"]["problems"].to_string();
    let (mut all, mut well) = (Oracle::default(), problems());
    for _ in 0..scale(1, 50) {
        world.run(["daemon", "stop"]).ok();
        let mut daemon = under_strace(&world, 12 + dice.below(12));
        until("it answers", || {
            let asked = world.run(["--no-start", "daemon", "status"]);
            if asked.code() == 0 { Ok(()) } else { Err(asked.everything()) }
        });
        // Until each writer was refused.
        let mut oracle = write(&world, &mut dice, &AtomicUsize::new(0));
        assert!(daemon.try_wait().unwrap().is_none(), "it stays");
        world.run(["--no-start", "runners"]).ok();
        let (told, log) = (problems(), fs::read_to_string(world.path("state/daemon.log")).unwrap());
        trial.tried(match (told.contains("the disk failed to keep"), log) {
            (true, log) if log.contains("nobody was told that it is done") => Ok(()),
            (_, log) => Err(format!("{told}: {log}")),
        });
        signal(world.daemon_pid().expect("it runs"), Signal::KILL);
        daemon.wait().expect("it is our child");
        world.run(["daemon", "start"]).ok();
        well = problems();
        trial.tried(judge(&world, &mut oracle));
        all.add(&oracle);
    }
    trial.tried(on_runtime(async {
        all.held(&world).await?;
        all.once(&world).await
    }));
    trial.counted("acknowledged", all.acknowledged() as u64);
    trial.control("a disk that does not fail", !well.contains("the disk failed to keep"));
    trial.control(
        "an acknowledged project that was never written",
        on_runtime(all.with_a_lie().held(&world)).is_err(),
    );
    trial.end();
}
