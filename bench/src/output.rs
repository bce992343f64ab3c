//! How fast what a runner prints is taken in: recorded only, and with a local viewer.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};

use crate::Lab;
use crate::home::{Home, succeed};
use crate::peer::{Dtach, Tmux};
use crate::play::{DONE, words};
use crate::pty::Pty;
use crate::report::{Row, Target};
use crate::sample::in_turns;

/// How much is printed.
pub(crate) const MEGABYTES: usize = 24;

/// A place for the producer's report, which it writes when all of it was taken from it.
pub(crate) struct Reports {
    directory: tempfile::TempDir,
    number: u32,
}

impl Reports {
    pub(crate) fn new() -> anyhow::Result<Self> {
        Ok(Self { directory: tempfile::tempdir()?, number: 0 })
    }

    pub(crate) fn next(&mut self) -> anyhow::Result<(String, Vec<String>)> {
        self.number += 1;
        let report = self.directory.path().join(self.number.to_string()).display().to_string();
        let argv = words(&["produce", &MEGABYTES.to_string(), &report])?;
        Ok((report, argv))
    }
}

/// Megabytes a second, as the producer saw it.
pub(crate) fn rate(report: &str) -> anyhow::Result<f64> {
    let began = Instant::now();
    while !Path::new(report).exists() {
        ensure!(began.elapsed() < Duration::from_secs(60), "the producer never said how it went");
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok(fs::read_to_string(report)?.parse()?)
}

/// Lets a producer go from the terminal of a viewer, and measures until its end is seen there.
fn watched(attach: &mut Command, report: &str) -> anyhow::Result<f64> {
    let mut viewer = Pty::spawn(attach)?;
    viewer.settle(Duration::from_millis(150))?;
    let began = Instant::now();
    viewer.write(b"\r")?;
    viewer.until(DONE.as_bytes())?;
    let seen = began.elapsed();
    rate(report)?;
    Ok(MEGABYTES as f64 / seen.as_secs_f64())
}

pub(crate) fn throughput(lab: &Lab) -> anyhow::Result<Vec<Row>> {
    let home = Home::new(lab)?;
    let client = home.client()?;
    let tmux = Tmux::new()?;
    let dtach = Dtach::new()?;
    let reports = std::cell::RefCell::new(Reports::new()?);
    let next = || reports.borrow_mut().next();

    let mut bare = || {
        let (report, argv) = next()?;
        let mut terminal = Pty::spawn(Command::new(&argv[0]).args(&argv[1..]))?;
        // One line to let it go, and one to let it end.
        terminal.write(b"\r\r")?;
        terminal.until_end()?;
        rate(&report)
    };
    let mut recorded = || {
        let (report, argv) = next()?;
        let argv: Vec<&str> = argv.iter().map(String::as_str).collect();
        let runner = home.run(&client, &argv)?;
        succeed(&mut home.cli(["send", &runner.id, "go"]))?;
        let rate = rate(&report)?;
        home.kill(&runner.id)?;
        Ok(rate)
    };
    let mut viewed = || {
        let (report, argv) = next()?;
        let argv: Vec<&str> = argv.iter().map(String::as_str).collect();
        let runner = home.run(&client, &argv)?;
        let rate = watched(&mut home.cli(["attach", &runner.id]), &report)?;
        home.kill(&runner.id)?;
        Ok(rate)
    };
    let mut by_tmux = || {
        let (report, argv) = next()?;
        let argv: Vec<&str> = argv.iter().map(String::as_str).collect();
        tmux.session("producing", &argv)?;
        tmux.run(&["send-keys", "-t", "=producing:", "Enter"])?;
        let rate = rate(&report)?;
        tmux.run(&["kill-session", "-t", "=producing"])?;
        Ok(rate)
    };
    let mut viewed_by_tmux = || {
        let (report, argv) = next()?;
        let argv: Vec<&str> = argv.iter().map(String::as_str).collect();
        tmux.session("producing", &argv)?;
        let rate = watched(&mut tmux.command(&["attach", "-t", "=producing"]), &report)?;
        tmux.run(&["kill-session", "-t", "=producing"])?;
        Ok(rate)
    };
    let mut viewed_by_dtach = || {
        let (report, argv) = next()?;
        let argv: Vec<&str> = argv.iter().map(String::as_str).collect();
        succeed(&mut dtach.start("producing", &argv)).context("start dtach")?;
        let rate = watched(&mut dtach.attach("producing"), &report)?;
        dtach.end("producing");
        Ok(rate)
    };
    let [bare, recorded, viewed, by_tmux, viewed_by_tmux, viewed_by_dtach] = in_turns(
        7,
        [
            &mut bare,
            &mut recorded,
            &mut viewed,
            &mut by_tmux,
            &mut viewed_by_tmux,
            &mut viewed_by_dtach,
        ],
    )?;
    let only = || Row::new("PTY output, recorded only", "MB/s", &recorded);
    let shown = || Row::new("PTY output to a local viewer, until its end is seen", "MB/s", &viewed);
    Ok(vec![
        only().against("bare read of a PTY", &bare).target(Target::AtLeast(0.8)),
        only().against("tmux, not attached", &by_tmux).target(Target::AtLeast(2.0)),
        shown().against("bare read of a PTY", &bare).target(Target::AtLeast(0.5)),
        shown().against("tmux, attached", &viewed_by_tmux).target(Target::AtLeast(2.0)),
        shown().against("dtach, attached", &viewed_by_dtach),
    ])
}
