//! Attaching: from the command until a full screen has come.

use std::process::Command;
use std::time::{Duration, Instant};

use crate::Lab;
use crate::home::{Home, succeed};
use crate::peer::{Dtach, Tmux};
use crate::play::{FULL, words};
use crate::pty::Pty;
use crate::report::{Row, Target};
use crate::sample::{in_turns, ms_since};

/// Attaches, and measures until the whole screen has come.
pub(crate) fn until_full(mut attach: Command) -> anyhow::Result<f64> {
    let began = Instant::now();
    let mut viewer = Pty::spawn(&mut attach)?;
    viewer.until(FULL.as_bytes())?;
    Ok(ms_since(began))
}

pub(crate) fn first_screen(lab: &Lab) -> anyhow::Result<Vec<Row>> {
    let home = Home::new(lab)?;
    let client = home.client()?;
    let tmux = Tmux::new()?;
    let dtach = Dtach::new()?;
    let play = words(&["paint"])?;
    let argv: Vec<&str> = play.iter().map(String::as_str).collect();
    let runner = home.run(&client, &argv)?;
    tmux.session("painted", &argv)?;
    succeed(&mut dtach.start("painted", &argv))?;

    let attach = ["attach", &runner.id];
    // The screen is painted once somebody has seen it.
    for command in
        [home.cli(attach), tmux.command(&["attach", "-t", "painted"]), dtach.attach("painted")]
    {
        until_full(command)?;
        std::thread::sleep(Duration::from_millis(50));
    }
    let alone = |mut command: Command| {
        let began = Instant::now();
        succeed(&mut command)?;
        Ok(ms_since(began))
    };
    let tmux_alone = || {
        let mut command = Command::new("tmux");
        command.arg("-V");
        command
    };
    let [ours, by_tmux, by_dtach, start, tmux_start] = in_turns(
        lab.rounds.max(20),
        [
            &mut || until_full(home.cli(attach)),
            &mut || until_full(tmux.command(&["attach", "-t", "painted"])),
            &mut || until_full(dtach.attach("painted")),
            &mut || alone(home.cli(["--version"])),
            &mut || alone(tmux_alone()),
        ],
    )?;
    let row = || Row::new("attach to the first full screen", "ms", &ours);
    Ok(vec![
        row().against("`tmux attach`", &by_tmux).target(Target::AtMost(0.6)),
        row().against("`dtach -a`", &by_dtach).target(Target::AtMost(2.0)),
        // The floor under each command: what it takes to start and to end.
        row().against("`stratavore --version`", &start),
        Row::new("`stratavore --version`", "ms", &start).against("`tmux -V`", &tmux_start),
    ])
}
