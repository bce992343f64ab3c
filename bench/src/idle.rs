//! What a system costs that does nothing: memory and CPU.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::Context;

use crate::Lab;
use crate::home::Home;
use crate::peer::Tmux;
use crate::report::{Row, Target};
use crate::sample::Samples;

/// Runners that do nothing. The target is for 1,000, of which this is a tenth.
const RUNNERS: u32 = 100;
/// How often as many are launched again, to see what one more costs.
const MORE: u32 = 3;
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
    let home = Home::new(lab)?;
    let client = home.client()?;
    let tmux = Tmux::new()?;
    let daemon = home.daemon_pid()?;
    std::thread::sleep(Duration::from_secs(1));
    let alone = pss(daemon)?;

    let mut agents = Vec::new();
    for runner in home.launch(&client, RUNNERS, &["sleep", "100000"])? {
        agents.push(home.wait(&client, &runner.id, &["running"])?.agent_pid);
    }
    std::thread::sleep(SETTLED);
    let with_runners = pss(daemon)?;
    // What is made once, such as threads and caches, is a part of these.
    let of_first = (with_runners - alone) / f64::from(RUNNERS);
    let agents_pss: anyhow::Result<Vec<f64>> =
        agents.iter().take(20).map(|agent| Ok(pss(*agent)? / 1024.0)).collect();
    let tmux_pss = Samples(vec![pss(tmux.server_pid()?)? / 1024.0]);

    let used = || cpu(daemon) + agents.iter().map(|agent| cpu(*agent)).sum::<f64>();
    let (mut percent, mut of_daemon) = (Samples::default(), Samples::default());
    for _ in 0..WINDOWS {
        let (before, daemon_before, began) = (used(), cpu(daemon), Instant::now());
        std::thread::sleep(WINDOW);
        let seconds = began.elapsed().as_secs_f64();
        percent.0.push((used() - before) / seconds * 100.0);
        of_daemon.0.push((cpu(daemon) - daemon_before) / seconds * 100.0);
    }
    for _ in 0..MORE {
        for runner in home.launch(&client, RUNNERS, &["sleep", "100000"])? {
            home.wait(&client, &runner.id, &["running"])?;
        }
    }
    std::thread::sleep(SETTLED);
    let of_more = (pss(daemon)? - with_runners) / f64::from(MORE * RUNNERS);
    let agents_pss = Samples(agents_pss?);
    let agent = || Row::new(format!("agent at rest, one of {RUNNERS}, PSS"), "MB", &agents_pss);
    Ok(vec![
        Row::new("daemon at rest, PSS", "MB", &Samples(vec![alone / 1024.0]))
            .target(Target::Below(25.0)),
        Row::new(
            format!("daemon, for each idle runner beyond {RUNNERS}"),
            "KB",
            &Samples(vec![of_more]),
        )
        .target(Target::Below(20.0)),
        Row::new(
            format!("daemon, for each of the first {RUNNERS}, with what is made once"),
            "KB",
            &Samples(vec![of_first]),
        ),
        agent().target(Target::Below(3.0)),
        agent().against("a tmux server with one session", &tmux_pss).target(Target::AtMost(1.0)),
        Row::new(
            format!(
                "CPU of {RUNNERS} idle runners, daemon and agents, % of one core (5 % for 1,000)"
            ),
            "%",
            &percent,
        )
        .target(Target::Below(0.5)),
        Row::new("of which the daemon", "%", &of_daemon),
    ])
}
