//! `stratavore version`.

use clap::Args;
use jiff::Timestamp;
use serde::Serialize;
use stratavore_proto::version::{COMMIT, TARGET, VERSION, built_at};

use crate::exit::{Exit, Failure};
use crate::ui::Ui;

/// Print the version
#[derive(Debug, Args)]
pub(crate) struct Version {
    /// Also the commit, the time of the build and the platform
    #[arg(long)]
    detailed: bool,
}

#[derive(Serialize)]
struct VersionView {
    version: &'static str,
    commit: &'static str,
    built_at: Timestamp,
    target: &'static str,
}

pub(crate) fn run(ui: &Ui, args: &Version) -> Result<Exit, Failure> {
    let view =
        VersionView { version: VERSION, commit: COMMIT, built_at: built_at(), target: TARGET };
    ui.show(&view, || {
        if !args.detailed {
            return ui.line(format!("stratavore {VERSION}"));
        }
        let lines = [
            format!("stratavore {VERSION}"),
            format!("commit     {COMMIT}"),
            format!("built      {}", view.built_at),
            format!("target     {TARGET}"),
        ];
        ui.line(lines.join("\n"))
    })?;
    Ok(Exit::Ok)
}
