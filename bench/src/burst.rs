//! A hundred launches at once, until all of them run.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context;

use crate::Lab;
use crate::home::{Home, succeed};
use crate::pty::Pty;
use crate::report::{Row, Target};
use crate::sample::in_turns;

const LAUNCHES: u32 = 100;

/// A process, and another one on a terminal of its own: the least that a launch can be.
fn pairs(count: u32) -> anyhow::Result<Vec<(Child, Pty)>> {
    let sleep = || {
        let mut command = Command::new("sleep");
        command.arg("100000");
        command
    };
    (0..count)
        .map(|_| {
            let quiet = sleep().stdin(Stdio::null()).spawn().context("start sleep")?;
            Ok((quiet, Pty::spawn(&mut sleep())?))
        })
        .collect()
}

pub(crate) fn all_at_once(lab: &Lab) -> anyhow::Result<Vec<Row>> {
    let home = Home::new(lab)?;
    let client = home.client()?;
    let [ours, bare] = in_turns(
        7,
        [
            &mut || {
                let began = Instant::now();
                for runner in home.launch(&client, LAUNCHES, &["sleep", "100000"])? {
                    let now = home.wait(&client, &runner.id, &["running"])?;
                    anyhow::ensure!(now.state == "running", "a runner is {}", now.state);
                }
                let rate = f64::from(LAUNCHES) / began.elapsed().as_secs_f64();
                succeed(&mut home.cli(["kill", "--all", "--force"]))?;
                // What agents do at their end is not the next round's.
                std::thread::sleep(Duration::from_millis(300));
                Ok(rate)
            },
            &mut || {
                let began = Instant::now();
                let half = || std::thread::spawn(|| pairs(LAUNCHES / 2));
                let halves = [half(), half()];
                let mut started = Vec::new();
                for thread in halves {
                    started.extend(thread.join().ok().context("a thread ended")??);
                }
                let rate = f64::from(LAUNCHES) / began.elapsed().as_secs_f64();
                for (mut quiet, _on_terminal) in started {
                    quiet.kill()?;
                    quiet.wait()?;
                }
                Ok(rate)
            },
        ],
    )?;
    Ok(vec![
        Row::new(format!("{LAUNCHES} launches at once, to all running"), "/s", &ours)
            .against("bare starts of two processes with a PTY", &bare)
            .target(Target::AtLeast(0.5)),
    ])
}
