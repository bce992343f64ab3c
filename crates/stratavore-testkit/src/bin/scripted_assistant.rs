//! An assistant that does what its arguments say, and keeps a truth of its own.
//!
//! ```text
//! scripted-assistant --truth FILE [--every MS] [--lines N] [--echo] [--exit CODE]
//! ```
//!
//! It writes numbered lines (`line 1`, `line 2`, …) to its terminal and, before each, the number
//! to the file: an observer can tell what must have been printed without asking Stratavore. With
//! `--echo` it also answers each line that is typed with `you said: …`. It ends after `--lines`
//! lines, or at the end of its input, with `--exit`.

use std::fs::OpenOptions;
use std::io::{self, BufRead, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

struct Script {
    truth: Option<PathBuf>,
    every: Duration,
    lines: Option<u64>,
    echo: bool,
    exit: u8,
}

fn script() -> Script {
    let mut script =
        Script { truth: None, every: Duration::from_millis(20), lines: None, echo: false, exit: 0 };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut value = || words.next().expect("each option but --echo has a value");
        match word.as_str() {
            "--truth" => script.truth = Some(value().into()),
            "--every" => {
                script.every =
                    Duration::from_millis(value().parse().expect("--every takes milliseconds"))
            }
            "--lines" => script.lines = Some(value().parse().expect("--lines takes a number")),
            "--exit" => script.exit = value().parse().expect("--exit takes a code"),
            "--echo" => script.echo = true,
            other => panic!("no option of a scripted assistant: {other}"),
        }
    }
    script
}

fn main() -> ExitCode {
    let script = script();
    let mut truth = script.truth.as_ref().map(|path| {
        OpenOptions::new().create(true).append(true).open(path).expect("the truth can be written")
    });
    let (sender, typed) = channel();
    thread::spawn(move || {
        for line in io::stdin().lock().lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    let mut out = io::stdout().lock();
    let mut number = 0;
    let printing = !script.echo || script.lines.is_some();
    loop {
        if printing {
            if script.lines.is_some_and(|lines| number >= lines) {
                return ExitCode::from(script.exit);
            }
            number += 1;
            if let Some(truth) = &mut truth {
                writeln!(truth, "{number}").expect("the truth can be written");
            }
            if writeln!(out, "line {number}").and_then(|()| out.flush()).is_err() {
                return ExitCode::from(script.exit);
            }
        }
        match typed.recv_timeout(if printing { script.every } else { Duration::from_secs(3600) }) {
            Ok(line) if script.echo => {
                if writeln!(out, "you said: {line}").and_then(|()| out.flush()).is_err() {
                    return ExitCode::from(script.exit);
                }
            }
            Ok(_) | Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) if printing => thread::sleep(script.every),
            Err(RecvTimeoutError::Disconnected) => return ExitCode::from(script.exit),
        }
    }
}
