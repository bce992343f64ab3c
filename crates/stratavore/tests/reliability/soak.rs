//! The soak: launches over a quota, kills of daemons while runners live and resets of the broker's line, for a
//! while or for half a day, in which nothing is lost, no place too many is given, and nothing may grow: on the
//! embedded database, and on PostgreSQL with a broker.
//!
//! `STRATAVORE_TEST_SOAK_SECONDS` says for how long; without it, for some rounds. What is sampled
//! after each round, and over the whole run after each daemon's life, is judged by its slope, not by a
//! limit: a slow leak is one too. Of what is history (rows and bytes that stay) it is the growth in
//! each life that may not grow.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use stratavore_store::testing::sqlite_texts;
use stratavore_testkit::proxy::{Ambush, Strike, Way};
use stratavore_testkit::rabbit::vhost;
use stratavore_testkit::trial::{Dice, Trial, scale};
use stratavore_testkit::wire::on_runtime;
use stratavore_testkit::world::{World, is_zombie, processes, until};

use crate::outbox::Outlet;
use crate::printing::Printing;

/// Runners that come and go in each round.
const EACH_ROUND: &str = "3";
/// As many as there are then, with the one that prints all the while.
const PLACES: &str = "4";
/// More bytes than go to the broker until it has confirmed what a round tells of.
const TOLD: usize = 8000;
/// After so many rounds a daemon is replaced; what it has grown to is judged before.
const LIFE: usize = 12;
/// Before it, so many rounds are not looked at.
const WARM: usize = 4;
/// The growth from the first to the last sample, as a part of the middle one, that is no leak:
/// caches and the allocator's own.
const MEMORY: f64 = 0.25;
/// The same for what is counted, in whole things.
const COUNTED: f64 = 1.5;
/// Of fewer lives than these no slope is told.
const LIVES: usize = 6;

/// What is sampled, after each round of one daemon's life, or after each life.
type Samples = BTreeMap<String, Vec<f64>>;

/// How much the samples have grown in all by the line that fits them best (least squares). The
/// first quarter is left out: that is warming up.
fn growth(samples: &[f64]) -> f64 {
    let settled = &samples[samples.len() / 4..];
    let n = settled.len() as f64;
    let (mean_x, mean_y) = ((n - 1.0) / 2.0, settled.iter().sum::<f64>() / n);
    let (mut over, mut under) = (0.0, 0.0);
    for (x, y) in settled.iter().enumerate() {
        over += (x as f64 - mean_x) * (y - mean_y);
        under += (x as f64 - mean_x).powi(2);
    }
    if under == 0.0 { 0.0 } else { over / under * (n - 1.0) }
}

/// Whether nothing has grown.
fn held(samples: &Samples) -> Result<(), String> {
    for (what, all) in samples {
        let grown = growth(all);
        let middle = all[all.len() / 2];
        let is_fuzzy = what.contains("memory") || what.contains("in a life");
        let allowed = if is_fuzzy { middle * MEMORY + COUNTED } else { COUNTED };
        if grown > allowed {
            return Err(format!("{what} has grown by {grown:.1}: {all:?}"));
        }
    }
    Ok(())
}

fn sample(world: &World, agent: u32, samples: &mut Samples) {
    let daemon = world.daemon_pid().expect("a daemon runs");
    let count = |path: String| fs::read_dir(path).map_or(0, Iterator::count) as f64;
    let memory = |pid: u32| {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
        let kib = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<f64>().ok());
        kib.expect("the process runs")
    };
    let ours = |pid: &u32| parent(*pid).is_some_and(|parent| parent == daemon || parent == agent);
    let zombies = processes().into_iter().filter(ours).filter(|pid| is_zombie(*pid)).count();
    let mut push = |what: &str, value| samples.entry(what.into()).or_default().push(value);
    push("the daemon's memory", memory(daemon));
    push("the daemon's files", count(format!("/proc/{daemon}/fd")));
    push("the daemon's threads", count(format!("/proc/{daemon}/task")));
    push("the agent's memory", memory(agent));
    push("the agent's files", count(format!("/proc/{agent}/fd")));
    push("zombies", zombies as f64);
    push("agents", world.agents().len() as f64);
}

fn parent(pid: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}

/// Some runners come and go, and there is no place for another one beside them.
fn round(world: &World, meanwhile: impl FnOnce()) -> Result<(), String> {
    let launch = ["launch", "--project", "demo", "--count", EACH_ROUND, "--", "sleep", "1000"];
    world.run(launch).ok();
    let another = world.run(["launch", "--project", "demo", "--", "sleep", "1000"]);
    meanwhile();
    let live = world.json(&["runners"]);
    let live = live.as_array().expect("a list").iter();
    let ids = live.filter(|runner| runner["name"] != "printing");
    let ids: Vec<String> = ids.filter_map(|runner| Some(runner["id"].as_str()?.into())).collect();
    world.run(["kill", "--force"].into_iter().chain(ids.iter().map(String::as_str))).ok();
    until("their agents have gone", || match world.agents() {
        agents if agents.len() == 1 => Ok(()),
        agents => Err(agents),
    });
    match (another.code(), ids.len().to_string() == EACH_ROUND) {
        (4, true) => Ok(()),
        _ => Err(format!("{} live of {EACH_ROUND}; another: {}", ids.len(), another.everything())),
    }
}

/// A daemon that dies while runners live, and a broker's connection that breaks while events go out.
fn faults(world: &World, outlet: Option<&Outlet>, dice: &mut Dice) {
    if let Some(outlet) = outlet {
        let (after, bytes) = (Vec::new(), dice.below(TOLD));
        outlet.wire.lay(Ambush { after, way: Way::Up, bytes, then: Strike::Reset });
    }
    world.kill_daemon();
    world.run(["daemon", "start"]).ok();
}

/// The bytes of all files below.
fn bytes(below: &Path) -> f64 {
    let entries = fs::read_dir(below).into_iter().flatten().flatten();
    let sizes = entries.map(|entry| match entry.file_type() {
        Ok(kind) if kind.is_dir() => bytes(&entry.path()),
        // What is removed meanwhile has none.
        Ok(_) | Err(_) => entry.metadata().map_or(0.0, |meta| meta.len() as f64),
    });
    sizes.sum()
}

/// The rows of each table.
fn rows(world: &World, outlet: Option<&Outlet>) -> BTreeMap<String, f64> {
    let ask = |sql: &str| match outlet {
        Some(outlet) => outlet.database.query(sql),
        None => {
            let file = world.path("state/stratavore.db");
            on_runtime(sqlite_texts(&file, sql)).join("\n")
        }
    };
    let tables = match outlet {
        Some(_) => {
            "SELECT relname FROM pg_class WHERE relkind IN ('r', 'p') AND NOT relispartition
            AND relnamespace = current_schema()::regnamespace AND relname <> '_sqlx_migrations'"
        }
        None => {
            "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%'
            AND sql NOT LIKE 'CREATE VIRTUAL%' AND name <> '_sqlx_migrations'"
        }
    };
    let count = |table: &str| format!("SELECT '{table}|' || count(*) FROM \"{table}\"");
    let counts: Vec<String> = ask(tables).lines().map(count).collect();
    let read = |line: &str| {
        let (table, count) = line.split_once('|')?;
        Some((table.to_owned(), count.parse().ok()?))
    };
    ask(&counts.join(" UNION ALL ")).lines().filter_map(read).collect()
}

/// What is sampled after each life, over the whole run.
#[derive(Default)]
struct Whole {
    samples: Samples,
    /// The sums of what is history, as they were after the life before.
    before: BTreeMap<String, f64>,
}

impl Whole {
    fn push(&mut self, what: String, value: f64) {
        self.samples.entry(what).or_default().push(value);
    }

    /// Of what stays, how much came in this life.
    fn grown(&mut self, what: &str, value: f64) {
        if let Some(before) = self.before.insert(what.to_owned(), value) {
            self.push(format!("{what} in a life"), value - before);
        }
    }

    fn sample(&mut self, world: &World, outlet: Option<&Outlet>, life: &Samples) {
        for what in ["the agent's memory", "the agent's files", "the daemon's memory"] {
            let last = life[what].last().copied().expect("there was a round");
            self.push(format!("{what}, over the run"), last);
        }
        self.grown("bytes of the home", bytes(&world.path("")));
        for (table, count) in rows(world, outlet) {
            match table.as_str() {
                // What passes through, and what there is one of.
                "outbox" | "leases" | "nodes" => self.push(format!("rows of {table}"), count),
                _ => self.grown(&format!("rows of {table}"), count),
            }
        }
    }
}

fn t_soak(mut trial: Trial, world: &World, outlet: Option<&Outlet>) {
    let asked = std::env::var("STRATAVORE_TEST_SOAK_SECONDS").ok();
    let lasts = asked.map(|seconds| Duration::from_secs(seconds.parse().expect("seconds")));
    let mut dice = trial.dice();
    world.project("demo");
    world.run(["projects", "edit", "demo", "--quota-runners", PLACES]).ok();
    let printing = Printing::launch(world, "printing", &["--every", "20"]);
    let [agent] = world.agents_of(&printing.runner)[..] else { panic!("it has one agent") };
    let began = Instant::now();
    let (mut lives, mut whole) = (0, Whole::default());
    while lasts.map_or(lives < scale(1, 20), |lasts| began.elapsed() < lasts) {
        let mut samples = Samples::new();
        trial.tried(round(world, || faults(world, outlet, &mut dice)));
        // What a daemon makes once, it has made by then.
        for _ in 1..WARM {
            trial.tried(round(world, || {}));
        }
        for _ in 0..LIFE {
            trial.tried(round(world, || {}));
            sample(world, agent, &mut samples);
        }
        trial.tried_times(LIFE, held(&samples));
        if let Some(outlet) = outlet {
            trial.tried(outlet.drained(Duration::from_secs(60)).map(drop));
        }
        whole.sample(world, outlet, &samples);
        world.kill_daemon();
        world.run(["daemon", "start"]).ok();
        until("the runner goes on and has lost nothing", || printing.held(world));
        lives += 1;
    }
    trial.counted("daemons", lives as u64);
    trial.counted("seconds", began.elapsed().as_secs());
    for (what, all) in &whole.samples {
        trial.most(what, all.iter().copied().fold(0.0, f64::max) as u64);
    }
    if lives >= LIVES {
        trial.tried_times(lives, held(&whole.samples));
    }

    let series = |what: &str, all: Vec<f64>| Samples::from([(what.to_owned(), all)]);
    let flat = |value: f64| (0..LIFE).map(|n| value + (n % 2) as f64).collect::<Vec<_>>();
    let leaks = |step: f64| (0..LIFE).map(|n| 40.0 + step * n as f64).collect::<Vec<_>>();
    assert_eq!(held(&series("files", flat(40.0))), Ok(()), "up and down is no leak");
    for (what, step) in [("a file each round", 1.0), ("a file each fourth round", 0.25)] {
        trial.control(what, held(&series("files", leaks(step))).is_err());
    }
    trial.control("memory", held(&series("memory", leaks(5.0))).is_err());
    trial.control("more rows in each life", held(&series("rows in a life", leaks(5.0))).is_err());
    trial.end();
}

#[test]
fn t_soak_nothing_grows() {
    let trial = Trial::new("T-SOAK", "nothing grows with what comes and goes");
    t_soak(trial, &World::new(), None);
}

#[test]
fn t_soak_nothing_grows_on_postgresql_with_a_broker() {
    let trial =
        Trial::new("T-SOAK", "PostgreSQL and RabbitMQ: nothing grows with what comes and goes");
    let outlet = Outlet::new(vhost());
    t_soak(trial, &outlet.world(&[]), Some(&outlet));
}
