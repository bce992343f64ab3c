//! `stratavored`: see the library.

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    let arguments = stratavored::Arguments::parse();
    match stratavored::run(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}
