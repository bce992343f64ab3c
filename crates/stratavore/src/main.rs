//! `stratavore`: the command line. It asks the daemon and the agents, and shows what they say.
//!
//! It holds no state and no rule of its own: what may be done is decided by the daemon, what is
//! running is known by the agents. Each noun has a file under `cmd`.
//!
//! Invariant: data goes to standard output, everything else to standard error.

mod api;
mod attach;
mod clock;
mod cmd;
mod context;
mod daemon_start;
mod exit;
mod local;
mod table;
mod ui;
mod units;
mod usage;
mod view;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::error::ErrorKind;

use crate::exit::{Exit, Failure};
use crate::ui::{Format, Ui};

fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().collect();
    let cli = match cmd::Cli::read(&arguments) {
        Ok(cli) => cli,
        Err(error)
            if [ErrorKind::DisplayHelp, ErrorKind::DisplayVersion].contains(&error.kind()) =>
        {
            // It was asked for, so it is data. If it cannot be written, there is nobody to tell.
            let _ = error.print();
            return Exit::Ok.into();
        }
        Err(error) => {
            let arguments = arguments.iter().skip(1).map(|a| a.to_string_lossy().into_owned());
            return fail(Format::Table, &usage::failure(&error, arguments));
        }
    };
    let format = cli.globals.format;
    let ui = Ui::new(format, cli.globals.quiet);
    match cmd::run(cli, ui) {
        Ok(exit) => exit.into(),
        Err(failure) => fail(format, &failure),
    }
}

fn fail(format: Format, failure: &Failure) -> ExitCode {
    Ui::new(format, false).fail(failure);
    failure.exit.into()
}
