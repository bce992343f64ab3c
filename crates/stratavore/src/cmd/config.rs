//! `stratavore config`: what is configured, where it came from, and whether it can be used.

use clap::{Args, Subcommand};
use serde::Serialize;
use stratavore_config::Row;

use crate::context::{Globals, configuration};
use crate::exit::{Exit, Failure};
use crate::table::{Cell, Column, Table, Tone};
use crate::ui::Ui;

/// Show and check the configuration
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  stratavore config show       Every key, its value, and which file or variable set it
  stratavore config validate   Check the files and the environment
  stratavore config path       Where files are looked for, and where state is kept")]
pub(crate) struct Config {
    #[command(subcommand)]
    command: Option<ConfigCommand>,
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Print every key with its value and source
    Show,
    /// Check the configuration; says nothing but that it is valid, or what is wrong
    Validate,
    /// Print where configuration, state and sockets are
    Path,
}

#[derive(Serialize)]
struct ValidView {
    valid: bool,
    files: Vec<String>,
}

#[derive(Serialize)]
struct PathsView {
    config_files: Vec<String>,
    config_files_read: Vec<String>,
    state_dir: String,
    run_dir: String,
    runners_dir: String,
    daemon_socket: String,
    agents_socket: String,
    daemon_log: String,
}

pub(crate) fn run(ui: &Ui, globals: &Globals, args: &Config) -> Result<Exit, Failure> {
    let (paths, loaded) = configuration(globals)?;
    let shown = |path: &std::path::PathBuf| path.display().to_string();
    let files: Vec<String> = loaded.files.iter().map(shown).collect();
    match args.command.as_ref().unwrap_or(&ConfigCommand::Show) {
        ConfigCommand::Show => {
            let rows = loaded.rows();
            ui.show(&rows, || ui.table(&table(&rows)))?;
        }
        ConfigCommand::Validate => {
            let view = ValidView { valid: true, files };
            ui.show(&view, || match view.files.as_slice() {
                [] => ui.line(
                    "valid (no file is read; all values are defaults or from the environment)",
                ),
                files => ui.line(format!("valid ({})", files.join(", "))),
            })?;
        }
        ConfigCommand::Path => {
            let view = PathsView {
                config_files: match &globals.config {
                    Some(file) => vec![shown(file)],
                    None => paths.config_files().iter().map(shown).collect(),
                },
                config_files_read: files,
                state_dir: paths.state_dir().display().to_string(),
                run_dir: paths.run_dir().display().to_string(),
                runners_dir: shown(&paths.runners_dir()),
                daemon_socket: shown(&paths.daemon_socket()),
                agents_socket: shown(&paths.agents_socket()),
                daemon_log: shown(&paths.daemon_log()),
            };
            ui.show(&view, || ui.table(&paths_table(&view)))?;
        }
    }
    Ok(Exit::Ok)
}

fn table(rows: &[Row]) -> Table {
    let mut table = Table::new([
        Column::new("KEY"),
        Column::new("VALUE").shrinks(),
        Column::new("SOURCE").shrinks(),
    ]);
    for row in rows {
        let tone = if row.source == "default" { Tone::Dim } else { Tone::Plain };
        let value = row.value.as_deref().unwrap_or("-");
        table.row([Cell::new(&row.key), Cell::new(value), Cell::toned(&row.source, tone)]);
    }
    table
}

fn paths_table(view: &PathsView) -> Table {
    let mut table = Table::new([Column::new("WHAT"), Column::new("PATH")]);
    for file in &view.config_files {
        let read = if view.config_files_read.contains(file) {
            "configuration"
        } else {
            "configuration (not there)"
        };
        table.row([read.into(), file.into()]);
    }
    for (what, path) in [
        ("state", &view.state_dir),
        ("run", &view.run_dir),
        ("runners", &view.runners_dir),
        ("daemon's socket", &view.daemon_socket),
        ("agents' socket", &view.agents_socket),
        ("daemon's log", &view.daemon_log),
    ] {
        table.row([what.into(), path.into()]);
    }
    table
}
