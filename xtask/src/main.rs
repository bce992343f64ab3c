//! All automation of the repository: `cargo xtask VERB`. The Makefile and CI only call it.
//!
//! One file per verb. What a verb starts it stops, and nothing here runs when users run
//! Stratavore.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "it talks to whoever typed it")]

mod arrows;
mod before;
mod bench;
mod brokers;
mod compose;
mod install;
mod lint;
mod machine;
mod reliability;
mod run;
mod step;
mod systemd;
mod test;
mod workspace;

use std::process::ExitCode;

const USAGE: &str = "\
usage: cargo xtask VERB [ARGUMENTS]

  run                    build, start a demo runner and show what to type next
  test [--fast] [ARGS]   install what the tests need, then formatting, clippy and every test;
                         --fast leaves out formatting and clippy; ARGS go to cargo test
  test-long [ARGS]       the same with the long counts, and the version before beside this one,
                         which it builds from the history
  brokers                what goes to RabbitMQ, with 4.0 and 4.3: a part of test-long
  lint                   formatting, clippy, documentation and arrows
  arrows                 check who may depend on whom
  reliability [--tier commit|full] [--only T-NAME] [--soak DURATION]
                         count the trials of every promise and write RELIABILITY.md; a part of it,
                         or a soak (12h), is printed
  bench [--only ROW] [--rounds N]
                         measure what is fast or slow beside limits and peers, which it installs;
                         a run of all rows is kept in bench/RESULTS.md and bench/results.json
  compose [--no-build]   bring deploy/compose up with the container engine of this machine, use it, kill
                         a part of it, and remove it
  systemd                run the daemon under a systemd of its own by the unit of deploy/, and restart, kill and
                         stop it beside runners; as root
  install [--prefix DIR] [--dry-run]
                         build for release and install below DIR (~/.local)
  uninstall [--prefix DIR] [--dry-run]
                         remove what install put there
";

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let verb = arguments.next().unwrap_or_default();
    let arguments: Vec<String> = arguments.collect();
    let done = match verb.as_str() {
        "run" => none_left(&arguments).and_then(|()| run::run()),
        "test" => test::test(&arguments, test::Length::Short),
        "test-long" => test::test(&arguments, test::Length::Long),
        "brokers" => none_left(&arguments).and_then(|()| brokers::brokers()),
        "lint" => none_left(&arguments).and_then(|()| lint::lint()),
        "arrows" => none_left(&arguments).and_then(|()| arrows::arrows()),
        "reliability" => reliability::reliability(&arguments),
        "bench" => bench::bench(&arguments),
        "compose" => compose::compose(&arguments),
        "systemd" => none_left(&arguments).and_then(|()| systemd::systemd()),
        "install" => install::install(&arguments),
        "uninstall" => install::uninstall(&arguments),
        "" | "help" | "-h" | "--help" => {
            print!("{USAGE}");
            Ok(())
        }
        other => Err(anyhow::anyhow!("there is no verb `{other}`\n\n{USAGE}")),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn none_left(arguments: &[String]) -> anyhow::Result<()> {
    match arguments.first() {
        None => Ok(()),
        Some(argument) => anyhow::bail!("`{argument}` is not understood here"),
    }
}
