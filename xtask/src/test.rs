//! `cargo xtask test`: everything that must hold before a change is taken, on a fresh machine.
//!
//! One private PostgreSQL and one RabbitMQ serve the whole run. They end with us, whatever ends us (see
//! `stratavore_testkit::postgres` and `rabbit`), so Ctrl-C leaves nothing behind.

use stratavore_testkit::before::BEFORE_VARIABLE;
use stratavore_testkit::postgres::{SERVER_VARIABLE, Server};
use stratavore_testkit::rabbit::{BROKER_VARIABLE, Broker};
use stratavore_testkit::trial::LONG_VARIABLE;

use crate::step::{self, Steps};
use crate::workspace::{FEATURES, TESTED, cargo};
use crate::{before, brokers, lint, machine};

/// How much the tests do: those that count, count higher in a long run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Length {
    Short,
    Long,
}

pub(crate) fn test(arguments: &[String], length: Length) -> anyhow::Result<()> {
    let fast = arguments.iter().any(|argument| argument == "--fast");
    let forwarded: Vec<&String> =
        arguments.iter().filter(|argument| *argument != "--fast").collect();

    let mut steps = Steps::default();
    if !steps.take("machine", machine::prepare) {
        return steps.finish();
    }
    if !fast {
        steps.take("formatting", lint::formatting);
        steps.take("clippy", lint::clippy);
    }
    let forwarded: Vec<&str> = forwarded.iter().map(|argument| argument.as_str()).collect();
    tests(&mut steps, &forwarded, length, &[]);
    if length == Length::Long && forwarded.is_empty() {
        brokers::test(&mut steps);
    }
    steps.finish()
}

/// End-to-end tests run the programs from the target directory, next to each other.
pub(crate) fn build() -> anyhow::Result<()> {
    let all = ["build", "--workspace", "--exclude", "xtask", "--bins"];
    step::run("build", cargo().args(all).args(["--features", FEATURES]))
}

/// Builds the programs, starts a database server for as long as it is needed, and runs the tests.
pub(crate) fn tests(
    steps: &mut Steps,
    forwarded: &[&str],
    length: Length,
    environment: &[(&str, String)],
) {
    if !steps.take("build", build) {
        return;
    }
    let mut before = None;
    if length == Length::Long && is_unset(BEFORE_VARIABLE) && before::is_wanted(forwarded) {
        let built = steps.take("before", || {
            before = Some(before::build()?);
            Ok(())
        });
        if !built {
            return;
        }
    }
    let mut server = None;
    let served = steps.take("postgres", || {
        if is_unset(SERVER_VARIABLE) {
            server = Some(Server::start().map_err(anyhow::Error::msg)?);
        }
        Ok(())
    });
    if !served {
        return;
    }
    let mut broker = None;
    let served = steps.take("rabbitmq", || {
        if is_unset(BROKER_VARIABLE) {
            broker = Some(Broker::try_start().map_err(anyhow::Error::msg)?);
        }
        Ok(())
    });
    if !served {
        return;
    }
    let mut tests = cargo();
    tests.args(["test", "--no-fail-fast"]);
    if !forwarded.iter().any(|argument| names_package(argument)) {
        tests.args(["--workspace", "--features", TESTED]);
    }
    tests.args(forwarded);
    step::without_settings(&mut tests);
    if let Some(server) = &server {
        tests.env(SERVER_VARIABLE, server.to_string());
    }
    if let Some(broker) = &broker {
        tests.env(BROKER_VARIABLE, broker.to_string());
    }
    if let Some(before) = &before {
        tests.env(BEFORE_VARIABLE, before);
    }
    if length == Length::Long {
        tests.env(LONG_VARIABLE, "1");
    }
    tests.envs(environment.iter().map(|(name, value)| (name, value)));
    steps.take("tests", || step::run("tests", &mut tests));
}

fn is_unset(variable: &str) -> bool {
    std::env::var_os(variable).is_none_or(|named| named.is_empty())
}

/// Whether an argument narrows the run to a package, which `--workspace` would undo.
fn names_package(argument: &str) -> bool {
    argument.starts_with("-p") || argument.starts_with("--package")
}
