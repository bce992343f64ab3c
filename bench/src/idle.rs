//! What a system costs that does nothing: memory and CPU.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::Context;

use crate::Lab;
use crate::home::Home;
use crate::peer::Tmux;
use crate::report::{Row, Target};
use crate::sample::Samples;

/// Runners that do nothing: so many are there first, and then as many as the target is for.
const FIRST: u32 = 100;
const ALL: u32 = 1000;
/// Daemons, and servers of tmux, that are looked at.
const ALONE: usize = 7;
/// How long a daemon has that was just started.
const STARTED: Duration = Duration::from_secs(1);
/// After so long all has been written that a launch leaves to be written later.
const SETTLED: Duration = Duration::from_secs(12);
const WINDOWS: usize = 7;
const WINDOW: Duration = Duration::from_secs(10);

/// A process's share of the memory that it uses, in KB: what is shared counts in parts.
fn pss(pid: u32) -> anyhow::Result<f64> {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:"));
    Ok(line.context("no Pss")?.trim().trim_end_matches(" kB").parse()?)
}

/// Seconds of CPU that a process has used, all threads.
fn cpu(pid: u32) -> f64 {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let used = tasks.filter_map(|task| {
        let text = fs::read_to_string(task.path().join("schedstat")).ok()?;
        text.split(' ').next()?.parse::<f64>().ok()
    });
    used.sum::<f64>() / 1e9
}

pub(crate) fn at_rest(lab: &Lab) -> anyhow::Result<Vec<Row>> {
    let (mut alone, mut tmux) = (Samples::default(), Samples::default());
    for _ in 0..ALONE {
        let home = Home::new(lab)?;
        let server = Tmux::new()?;
        std::thread::sleep(STARTED);
        alone.0.push(pss(home.daemon_pid()?)? / 1024.0);
        tmux.0.push(pss(server.server_pid()?)? / 1024.0);
    }

    let home = Home::new(lab)?;
    let client = home.client()?;
    let daemon = home.daemon_pid()?;
    std::thread::sleep(STARTED);
    let before = pss(daemon)?;
    let mut agents = Vec::new();
    let mut launch = |count: u32| -> anyhow::Result<()> {
        for runner in home.launch(&client, count, &["sleep", "100000"])? {
            agents.push(home.wait(&client, &runner.id, &["running"])?.agent_pid);
        }
        Ok(())
    };
    launch(FIRST)?;
    std::thread::sleep(SETTLED);
    let with_first = pss(daemon)?;
    for _ in 1..ALL / FIRST {
        launch(FIRST)?;
    }
    std::thread::sleep(SETTLED);
    let with_all = pss(daemon)?;
    // What is made once, such as threads and caches, is a part of these.
    let of_first = (with_first - before) / f64::from(FIRST);
    let of_more = (with_all - with_first) / f64::from(ALL - FIRST);
    let agents_pss: anyhow::Result<Vec<f64>> =
        agents.iter().take(20).map(|agent| Ok(pss(*agent)? / 1024.0)).collect();
    let agents_pss = Samples(agents_pss?);

    let used = || cpu(daemon) + agents.iter().map(|agent| cpu(*agent)).sum::<f64>();
    let (mut percent, mut of_daemon) = (Samples::default(), Samples::default());
    for _ in 0..WINDOWS {
        let (before, daemon_before, began) = (used(), cpu(daemon), Instant::now());
        std::thread::sleep(WINDOW);
        let seconds = began.elapsed().as_secs_f64();
        percent.0.push((used() - before) / seconds * 100.0);
        of_daemon.0.push((cpu(daemon) - daemon_before) / seconds * 100.0);
    }
    let agent = || Row::new(format!("agent at rest, one of {ALL}, PSS"), "MB", &agents_pss);
    let cost = format!("CPU of {ALL} idle runners, daemon and agents, % of one core");
    Ok(vec![
        Row::new("daemon at rest, PSS", "MB", &alone).target(Target::Below(25.0)),
        Row::new(
            format!("daemon, for each idle runner beyond {FIRST}, of {ALL}"),
            "KB",
            &Samples(vec![of_more]),
        )
        .target(Target::Below(20.0)),
        Row::new(
            format!("daemon, for each of the first {FIRST}, with what is made once"),
            "KB",
            &Samples(vec![of_first]),
        ),
        agent().target(Target::Below(3.0)),
        agent().against("a tmux server with one session", &tmux).target(Target::AtMost(1.0)),
        Row::new(cost, "%", &percent).target(Target::Below(5.0)),
        Row::new("of which the daemon", "%", &of_daemon),
    ])
}
