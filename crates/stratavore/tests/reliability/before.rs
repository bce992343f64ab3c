//! T-UPG with the version before: its daemons and ours take turns over agents of both, on the database that
//! ours has brought up to date.
//!
//! The small counts have copies of our own programs in its place, so that this way is tried with every change;
//! the full ones have the real programs (`stratavore_testkit::before`).

use std::collections::BTreeMap;

use rustix::process::Signal;
use stratavore_testkit::before::Before;
use stratavore_testkit::postgres::database;
use stratavore_testkit::trace::Process;
use stratavore_testkit::trial::{Dice, Trial, scale};
use stratavore_testkit::world::{World, rows, signal, until};

use crate::printing::Printing;

/// Of which version a process is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Version {
    Before,
    Now,
}

/// A home in which the programs of both versions take turns.
struct Turns {
    world: World,
    before: Before,
    now: Version,
}

impl Turns {
    fn new(world: World) -> Self {
        let before = Before::find(&world);
        let mut turns = Self { world, before, now: Version::Before };
        turns.take(Version::Before, Signal::KILL);
        turns
    }

    /// The daemon, if one runs, ends so, and one of this version comes after it.
    fn take(&mut self, version: Version, how: Signal) {
        if let Some(pid) = self.world.daemon_pid() {
            signal(pid, how);
            until("the daemon is gone", || self.world.daemon_pid().map_or(Ok(()), Err));
        }
        let directory = (version == Version::Before).then_some(self.before.directory.as_path());
        self.world.set_programs(directory);
        self.now = version;
        self.world.run(["daemon", "start"]).ok();
        let pid = self.world.daemon_pid().expect("it was started");
        assert_eq!(self.version_of(pid), version, "of the daemon");
    }

    fn version_of(&self, pid: u32) -> Version {
        if self.before.runs(pid) { Version::Before } else { Version::Now }
    }

    fn agent_of(&self, of: &Printing) -> Option<Process> {
        self.world.agents_of(&of.runner).first().and_then(|pid| Process::of(*pid))
    }

    /// Whether the runner is the one that was launched, with its agent, known to this daemon, and has all its
    /// output.
    fn held(&self, of: &Printing, agent: Option<Process>) -> Result<(), String> {
        let now = self.agent_of(of);
        if now != agent {
            return Err(format!("the agent was {agent:?} and is {now:?}"));
        }
        let shown = self.world.runner(&of.runner);
        if shown["state"] != "running" || shown["connected"] != true || shown["epoch"] != 1 {
            return Err(format!("a daemon of {:?} shows {shown}", self.now));
        }
        of.held(&self.world)
    }

    /// Launch, list, stop and events, of one more runner. The last daemon's will be read by the next.
    fn works(&self, called: &str) -> Result<(), String> {
        let runner = self.world.launch("demo", called, &["sleep", "1000"]);
        let listed = self.world.json(&["runners"]);
        if !rows(&listed).iter().any(|row| row["id"] == *runner) {
            return Err(format!("{runner} is not in {listed}"));
        }
        self.world.run(["kill", called, "--force"]).ok();
        self.world.until_state(&runner, &["exited", "failed", "lost"]);
        until("its end is among the events", || {
            let events = self.world.json(&["events", "list", "--runner", &runner]);
            let ended = rows(&events).iter().any(|event| event["kind"] == "runner.exited");
            if ended { Ok(()) } else { Err(events) }
        });
        Ok(())
    }
}

fn t_upg_turns(trial: &mut Trial, dice: &mut Dice, turns: &mut Turns, rounds: usize) {
    // The version before makes the database; ours brings it up to date, and the one before goes on with it.
    turns.world.large_project("demo");
    let half = scale(1, 10);
    let mut runners = Vec::new();
    for version in [Version::Before, Version::Now] {
        turns.take(version, Signal::TERM);
        for n in 0..half {
            let name = format!("{version:?}-{n}").to_lowercase();
            let runner = Printing::launch(&turns.world, &name, &["--every", "20"]);
            let agent = turns.agent_of(&runner);
            assert!(agent.is_some_and(|agent| turns.version_of(agent.pid) == version));
            runners.push((runner, agent));
        }
    }
    let mut seen = BTreeMap::<_, u64>::new();
    for round in 0..rounds {
        let version = if round % 2 == 0 { Version::Before } else { Version::Now };
        let how = if dice.below(2) == 0 { Signal::KILL } else { Signal::TERM };
        turns.take(version, how);
        for (runner, agent) in &runners {
            until("nothing of it is lost", || turns.held(runner, *agent));
            let agent = agent.expect("it has one");
            *seen.entry((version, turns.version_of(agent.pid))).or_default() += 1;
            trial.tried(Ok(()));
        }
        trial.tried(turns.works(&format!("round-{round}")));
        // This daemon's program takes the place of an agent's, newer or older.
        let (runner, agent) = &runners[dice.below(runners.len())];
        turns.world.run(["upgrade", &runner.runner]).ok();
        until("it is back under the other program", || {
            let pid = agent.expect("it has one").pid;
            match turns.version_of(pid) {
                now if now == version => turns.held(runner, *agent),
                now => Err(format!("it is of {now:?}")),
            }
        });
        *seen.entry((version, version)).or_default() += 1;
        trial.tried(Ok(()));
    }
    for ((daemon, agent), times) in &seen {
        trial.counted(&format!("daemon {daemon:?}, agent {agent:?}").to_lowercase(), *times);
    }
    assert_eq!(seen.len(), 4, "not every version met every other: {seen:?}");
    // What only this version knows is passed by, and is there when a daemon of it is back.
    let budget = ["budget", "set", "all", "--every", "day", "--tokens", "500k"];
    turns.world.run(budget).ok();
    for version in [Version::Before, Version::Now] {
        turns.take(version, Signal::TERM);
        for (runner, agent) in &runners {
            until("nothing of it is lost", || turns.held(runner, *agent));
            trial.tried(Ok(()));
        }
    }
    trial.tried(turns.works("last"));
    let events = turns.world.json(&["events", "list", "--kind", "budget.created"]);
    assert_eq!(rows(&events).len(), 1, "{events}");
    // The control: an agent that does not come back.
    let (runner, agent) = &runners[0];
    signal(agent.expect("it lived").pid, Signal::KILL);
    turns.world.until_state(&runner.runner, &["lost"]);
    trial.control("an agent that was killed", turns.held(runner, *agent).is_err());
}

fn t_upg(world: World, database: &str) {
    let promise = format!("daemons and agents of now and of before take turns on {database}");
    let mut trial = Trial::new("T-UPG", &promise);
    let mut turns = Turns::new(world);
    let mut dice = trial.dice();
    t_upg_turns(&mut trial, &mut dice, &mut turns, scale(4, 200));
    trial.end();
}

#[test]
fn t_upg_the_version_before_and_this_one_take_turns_on_sqlite() {
    t_upg(World::new(), "SQLite");
}

#[test]
fn t_upg_the_version_before_and_this_one_take_turns_on_postgresql() {
    let server = database();
    t_upg(World::with_config(&server.settings(&server.socket_dir)), "PostgreSQL");
}
