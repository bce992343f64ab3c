//! T-SQLITE: what a daemon on the embedded database has acknowledged is there, once, whatever
//! ends the daemon.

use std::process::Stdio;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use stratavore_proto::v1::EditProject;
use stratavore_store::testing::{sqlite_execute, sqlite_number};
use stratavore_testkit::trial::{Dice, Trial, scale};
use stratavore_testkit::wire::{client, fresh_key, on_runtime};
use stratavore_testkit::world::{World, signal, until};

mod bad;
mod disk;
mod oracle;

use oracle::{Oracle, judge, write};

/// Lets the writers write and kills the daemon when as much is acknowledged as the dice say, or
/// when it acknowledges nothing any more.
fn killed_while_written_to(world: &World, dice: &mut Dice) -> Oracle {
    let acknowledged = AtomicUsize::new(0);
    let (enough, mut writers) = (1 + dice.below(60), Dice::of(dice.number()));
    std::thread::scope(|scope| {
        let writing = scope.spawn(|| write(world, &mut writers, &acknowledged));
        until("so much is acknowledged", || match acknowledged.load(Ordering::Relaxed) {
            found if found >= enough || writing.is_finished() => Ok(()),
            found => Err(format!("{found} of {enough}")),
        });
        world.kill_daemon();
        writing.join().expect("the writers do not fail")
    })
}

/// The same, and now and then the next one does not come far either.
fn killed_more_than_once(world: &World, dice: &mut Dice) -> Oracle {
    let oracle = killed_while_written_to(world, dice);
    if dice.below(4) == 0 {
        let mut starting = world.command("stratavore");
        starting.args(["daemon", "start"]).stderr(Stdio::null());
        let mut starting = starting.spawn().expect("stratavore runs");
        let next = until("the next one begins", || world.daemon_pid().ok_or("no daemon"));
        signal(next, rustix::process::Signal::KILL);
        starting.wait().expect("it is our child");
    }
    oracle
}

#[test]
fn t_sqlite_what_was_acknowledged_survives_kill_9_and_happens_once() {
    let promise = "kill -9 under 8 writers: acknowledged is there, and nothing happens twice";
    let mut trial = Trial::new("T-SQLITE", promise);
    let mut dice = trial.dice();
    let world = World::new();
    world.large_project("demo");
    let (mut all, mut ambiguous) = (Oracle::default(), 0);
    for _ in 0..scale(6, 1000) {
        let mut oracle = killed_more_than_once(&world, &mut dice);
        ambiguous += oracle.ambiguous() as u64;
        let began = Instant::now();
        world.run(["daemon", "start"]).ok();
        trial.measured("the next daemon answers after", began.elapsed());
        trial.tried(judge(&world, &mut oracle));
        all.add(&oracle);
    }
    trial.counted("ambiguous", ambiguous);
    trial.counted("acknowledged", all.acknowledged() as u64);
    trial.tried(on_runtime(async {
        all.held(&world).await?;
        all.once(&world).await
    }));
    let ended = "SELECT count(*) FROM runners WHERE ended_at IS NULL";
    until("all runners have ended", || {
        let file = world.path("state/stratavore.db");
        match on_runtime(sqlite_number(&file, ended)) {
            0 => Ok(()),
            live => Err(live),
        }
    });

    trial.control(
        "an acknowledged project that was never written",
        on_runtime(all.with_a_lie().held(&world)).is_err(),
    );
    let twice = EditProject {
        idempotency_key: fresh_key("twice"),
        project: all.edited().into(),
        description: Some("once more".into()),
        ..EditProject::default()
    };
    let noticed = on_runtime(async {
        client(&world).await.projects().edit(twice).await.expect("it is edited");
        all.once(&world).await.is_err()
    });
    trial.control("an edit that happened twice", noticed);
    world.run(["daemon", "stop"]).ok();
    let file = world.path("state/stratavore.db");
    let gone = format!("DELETE FROM projects WHERE id = '{}'", all.project());
    let noticed = on_runtime(async {
        assert_eq!(sqlite_execute(&file, &gone).await, 1);
        all.held(&world).await.is_err()
    });
    trial.control("a row that is gone", noticed);
    trial.end();
}
