//! `make bench`: every row of performance that exists, beside the limit or the peer that it is
//! measured against, in one run.
//!
//! Sides of a row take turns, so that what else the machine does falls on all alike. A row is one
//! function in the file of its noun. It measures the release build, as users get it.
//!
//! What a row is held against is the bare operation (small code of ours: `play.rs`, and the store's
//! `testing::bare`) or another program that does the same.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "it talks to whoever typed it")]

mod attach;
mod audit;
mod bare;
mod broker;
mod burst;
mod cluster;
mod echo;
mod given;
mod growth;
mod home;
mod idle;
mod launch;
mod ledger;
mod machine;
mod others;
mod output;
mod peer;
mod play;
mod pty;
mod relay;
mod report;
mod sample;
mod search;
mod slow;
mod start;
mod status;
mod store;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, bail, ensure};

use crate::report::{Report, Row};

/// What a row needs to know.
pub(crate) struct Lab {
    /// The directory of the built programs.
    pub bin: PathBuf,
    /// The directory of the peers that were built for this.
    pub peers: PathBuf,
    /// Those that could not be, and why.
    pub absent: Vec<(String, String)>,
    /// How often each side of a row is measured.
    pub rounds: usize,
    /// Waits for what is asked of daemons.
    pub runtime: tokio::runtime::Runtime,
}

type Measure = fn(&Lab) -> anyhow::Result<Vec<Row>>;

/// The rows, by the names that `--only` takes.
const ROWS: &[(&str, Measure)] = &[
    ("launch", launch::one),
    ("burst", burst::all_at_once),
    ("attach", attach::first_screen),
    ("output", output::throughput),
    ("slow", slow::crowd),
    ("echo", echo::keystroke),
    ("status", status::wall),
    ("pueue", others::pueue),
    ("shpool", others::shpool),
    ("runners", store::runners),
    ("transactions", store::launches),
    ("cluster", cluster::three_against_one),
    ("idle", idle::at_rest),
    ("start", start::to_ready),
    ("growth", growth::ten_times),
    ("audit", audit::verify),
    ("drain", broker::drain),
    ("latency", broker::latency),
    ("search", search::messages),
    ("nearby", search::nearby),
    ("ledger", ledger::intake),
];

/// Fewer repetitions say nothing.
const FEWEST: usize = 7;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let done = match arguments.first().map(String::as_str) {
        Some("play") => play::play(&arguments[1..]),
        _ => measure(&arguments),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

#[derive(Default)]
struct Options {
    bin: PathBuf,
    peers: PathBuf,
    absent: Vec<(String, String)>,
    rounds: usize,
    only: Vec<String>,
    write: Option<PathBuf>,
}

fn options(arguments: &[String]) -> anyhow::Result<Options> {
    let mut options = Options { rounds: 15, ..Options::default() };
    let mut arguments = arguments.iter();
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().with_context(|| format!("{argument} needs a value"));
        match argument.as_str() {
            "--bin" => options.bin = value()?.into(),
            "--peers" => options.peers = value()?.into(),
            "--absent" => {
                let (name, why) = value()?.split_once('=').context("--absent takes NAME=WHY")?;
                options.absent.push((name.into(), why.into()));
            }
            "--only" => options.only.push(value()?.clone()),
            "--write" => options.write = Some(value()?.into()),
            "--rounds" => options.rounds = value()?.parse().context("--rounds takes a number")?,
            // What cargo says to every bench.
            "--bench" => {}
            other => bail!("`{other}` is not understood here"),
        }
    }
    let known: Vec<&str> = ROWS.iter().map(|(name, _)| *name).collect();
    for name in &options.only {
        let known_here = known.contains(&name.as_str());
        ensure!(known_here, "there is no row `{name}`; there are {}", known.join(", "));
    }
    ensure!(options.rounds >= FEWEST, "{FEWEST} rounds are the least that say anything");
    ensure!(options.bin.join("stratavore").exists(), "use `make bench`, which builds the programs");
    Ok(options)
}

fn measure(arguments: &[String]) -> anyhow::Result<()> {
    let options = options(arguments)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("start threads")?;
    let Options { bin, peers, absent, rounds, .. } = options;
    let lab = Lab { bin, peers, absent, rounds, runtime };
    let mut report = Report::new(machine::facts(&lab)?);
    let wanted = |name: &str| options.only.is_empty() || options.only.iter().any(|o| o == name);
    for (name, measure) in ROWS.iter().filter(|(name, _)| wanted(name)) {
        let began = Instant::now();
        // One row that cannot be had does not cost the others.
        match catch_unwind(AssertUnwindSafe(|| measure(&lab))) {
            Ok(Ok(rows)) => report.rows.extend(rows),
            Ok(Err(error)) => report.failed.push(format!("{name}: {error:#}")),
            Err(_) => report.failed.push(format!("{name}: it panicked, as told above")),
        }
        eprintln!("{name:<12} {:>6.1} s", began.elapsed().as_secs_f64());
    }
    report.load_after = machine::load();
    println!("{}", report.table());
    if let Some(directory) = options.write {
        std::fs::create_dir_all(&directory)?;
        std::fs::write(directory.join("RESULTS.md"), report.document())?;
        std::fs::write(directory.join("results.json"), report.json()?)?;
        println!("wrote RESULTS.md and results.json into {}", directory.display());
    }
    ensure!(report.failed.is_empty(), "not measured: {}", report.failed.join("; "));
    Ok(())
}
