//! The soak: launches, kills and restarts of daemons, for a while or for half a day, in which
//! nothing may grow.
//!
//! `STRATAVORE_TEST_SOAK_SECONDS` says for how long; without it, for some rounds. What is sampled
//! after each round is judged by its slope, not by a limit: a slow leak is one too.

use std::collections::BTreeMap;
use std::fs;
use std::time::{Duration, Instant};

use stratavore_testkit::trial::{Trial, scale};
use stratavore_testkit::world::{World, is_zombie, processes, until};

use crate::printing::Printing;

/// Runners that come and go in each round.
const EACH_ROUND: &str = "3";
/// After so many rounds a daemon is replaced; what it has grown to is judged before.
const LIFE: usize = 12;
/// The growth from the first to the last sample, as a part of the middle one, that is no leak:
/// caches and the allocator's own.
const MEMORY: f64 = 0.25;
/// The same for what is counted, in whole things.
const COUNTED: f64 = 1.5;

/// What is sampled, after each round of one daemon's life.
type Samples = BTreeMap<&'static str, Vec<f64>>;

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
        let allowed = if what.contains("memory") { middle * MEMORY } else { COUNTED };
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
    let mut push = |what, value| samples.entry(what).or_default().push(value);
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

/// Some runners come and go.
fn round(world: &World) {
    let launch = ["launch", "--project", "demo", "--count", EACH_ROUND, "--", "sleep", "1000"];
    world.run(launch).ok();
    let live = world.json(&["runners"]);
    let live = live.as_array().expect("a list").iter();
    let ids = live.filter(|runner| runner["name"] != "printing");
    let ids: Vec<String> = ids.filter_map(|runner| Some(runner["id"].as_str()?.into())).collect();
    world.run(["kill", "--force"].into_iter().chain(ids.iter().map(String::as_str))).ok();
    until("their agents have gone", || match world.agents() {
        agents if agents.len() == 1 => Ok(()),
        agents => Err(agents),
    });
}

#[test]
fn t_soak_nothing_grows() {
    let mut trial = Trial::new("T-SOAK", "nothing grows with what comes and goes");
    let asked = std::env::var("STRATAVORE_TEST_SOAK_SECONDS").ok();
    let lasts = asked.map(|seconds| Duration::from_secs(seconds.parse().expect("seconds")));
    let world = World::new();
    world.project("demo");
    let printing = Printing::launch(&world, "printing", &["--every", "20"]);
    let [agent] = world.agents_of(&printing.runner)[..] else { panic!("it has one agent") };
    let began = Instant::now();
    let mut lives = 0;
    while lasts.map_or(lives < scale(1, 20), |lasts| began.elapsed() < lasts) {
        let mut samples = Samples::new();
        for _ in 0..LIFE {
            round(&world);
            sample(&world, agent, &mut samples);
        }
        trial.tried_times(LIFE, held(&samples));
        world.kill_daemon();
        world.run(["daemon", "start"]).ok();
        until("the runner goes on and has lost nothing", || printing.held(&world));
        lives += 1;
    }
    trial.counted("daemons", lives as u64);

    let flat = |value: f64| (0..LIFE).map(|n| value + (n % 2) as f64).collect::<Vec<_>>();
    let leaks = |step: f64| (0..LIFE).map(|n| 40.0 + step * n as f64).collect::<Vec<_>>();
    assert_eq!(held(&Samples::from([("files", flat(40.0))])), Ok(()), "up and down is no leak");
    for (what, step) in [("a file each round", 1.0), ("a file each fourth round", 0.25)] {
        trial.control(what, held(&Samples::from([("files", leaks(step))])).is_err());
    }
    trial.control("memory", held(&Samples::from([("memory", leaks(5.0))])).is_err());
    trial.end();
}
