//! `stratavore audit`.

mod verify;

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use serde::Serialize;
use stratavore_audit::Line;
use stratavore_core::terminal::Untrusted;
use stratavore_proto::v1::{
    Event, EventFilter, ExportRecord, ListEvents, ListRecordKeys, RecordKey, RecordKeys,
    RotateRecordKey,
};

use crate::api::{Api, failure};
use crate::context::Context;
use crate::exit::{Exit, Failure};
use crate::table::{Cell, Column, Table, Tone};
use crate::view::{EventView, time};

/// Read the record of who did what, and verify that nobody has changed it
#[derive(Debug, Args)]
#[command(after_help = "\
Every change and every refusal is on the record: who, what, on what, from where, and what was
decided. It is sealed, and each host keeps signed checkpoints of it outside of the database.
docs/audit.md says what is protected and what is not.

Examples:
  stratavore audit list --project api
  stratavore audit list --refused
  stratavore audit verify
  stratavore audit export record.jsonl
  stratavore audit verify --export record.jsonl --checkpoints checkpoints --keys keys")]
pub(crate) struct Audit {
    #[command(subcommand)]
    command: AuditCommand,
}

#[derive(Debug, Subcommand)]
enum AuditCommand {
    /// List the latest records, or those after a position
    List(List),
    /// Verify the record: the daemon's, or an export without any daemon
    Verify(verify::Verify),
    /// Write the whole record to a file, with its checkpoints and public keys
    Export {
        /// The file, which must not be there yet
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
    /// Show the public keys that sign the record, or change the key
    Keys {
        #[command(subcommand)]
        command: Option<KeysCommand>,
    },
}

#[derive(Debug, Subcommand)]
enum KeysCommand {
    /// List them
    List,
    /// Sign with a new key from now on; the one before it introduces it
    Rotate,
    /// Write them to a file, to verify with elsewhere
    Export {
        /// The file, which must not be there yet
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
}

#[derive(Debug, Args)]
struct List {
    /// Only those of this project
    #[arg(long, short, value_name = "PROJECT")]
    project: Option<String>,
    /// Only those of this runner
    #[arg(long, short, value_name = "RUNNER")]
    runner: Option<String>,
    /// Only this kind, or kinds that begin so if it ends in a dot; may be given more than once
    #[arg(long, short, value_name = "KIND")]
    kind: Vec<String>,
    /// Only what was refused
    #[arg(long, conflicts_with = "kind")]
    refused: bool,
    /// Only those after this position
    #[arg(long, value_name = "N")]
    after: Option<i64>,
    /// At most so many [default: 100]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    limit: Option<u32>,
}

#[derive(Debug, Serialize)]
struct AuditView {
    #[serde(flatten)]
    event: EventView,
    decision: String,
    reason: Option<String>,
    origin: serde_json::Value,
}

#[derive(Debug, Serialize)]
struct KeyView {
    id: String,
    state: String,
    since_size: u64,
    node_id: String,
    public: String,
}

pub(crate) fn run(context: &Context, args: Audit) -> Result<Exit, Failure> {
    match args.command {
        AuditCommand::List(args) => context.block_on(list(context, args)),
        AuditCommand::Verify(args) => verify::verify(context, &args),
        AuditCommand::Export { file } => context.block_on(export(context, &file)),
        AuditCommand::Keys { command } => {
            context.block_on(keys(context, command.unwrap_or(KeysCommand::List)))
        }
    }
}

async fn list(context: &Context, args: List) -> Result<Exit, Failure> {
    let kinds = if args.refused { vec!["request.refused".into()] } else { args.kind };
    let filter = EventFilter {
        project: args.project.unwrap_or_default(),
        runner: args.runner.unwrap_or_default(),
        kinds,
    };
    let wanted =
        ListEvents { filter: Some(filter), after: args.after, limit: args.limit.unwrap_or(0) };
    let mut api = Api::connect(context).await?;
    let events = api.call(async |client| client.events().list(wanted.clone()).await).await?.events;
    let views: Vec<AuditView> = events.iter().map(AuditView::from).collect();
    context.ui.show(&views, || {
        if views.is_empty() {
            context.ui.note("nothing is recorded");
            return Ok(());
        }
        let mut table = Table::new([
            Column::new("POSITION").right(),
            Column::new("TIME"),
            Column::new("WHO").shrinks(),
            Column::new("WHAT"),
            Column::new("ON"),
            Column::new("FROM").shrinks(),
            Column::new("DECISION"),
            Column::new("REASON").shrinks(),
        ]);
        for event in &events {
            let refused = event.decision == "refused";
            table.row([
                Cell::new(event.position.to_string()),
                Cell::toned(
                    time(event.at_us).map_or_else(String::new, |at| format!("{at:.3}")),
                    Tone::Dim,
                ),
                Cell::new(&event.by),
                Cell::new(&event.kind),
                Cell::new(&event.name),
                Cell::toned(whence(event), Tone::Dim),
                Cell::toned(&event.decision, if refused { Tone::Bad } else { Tone::Plain }),
                Cell::new(&event.reason),
            ]);
        }
        context.ui.table(&table)
    })?;
    Ok(Exit::Ok)
}

/// The door, and who was behind it as the system knows them.
fn whence(event: &Event) -> String {
    let origin: serde_json::Value = serde_json::from_str(&event.origin).unwrap_or_default();
    let door = origin["door"].as_str().unwrap_or("unknown");
    let known = ["uid", "pid"].into_iter().filter_map(|name| Some((name, origin[name].as_u64()?)));
    known.fold(door.to_owned(), |text, (name, number)| format!("{text} {name} {number}"))
}

impl From<&Event> for AuditView {
    fn from(event: &Event) -> Self {
        Self {
            event: EventView::from(event),
            decision: event.decision.clone(),
            reason: (!event.reason.is_empty()).then(|| event.reason.clone()),
            origin: serde_json::from_str(&event.origin).unwrap_or_default(),
        }
    }
}

async fn export(context: &Context, path: &Path) -> Result<Exit, Failure> {
    let mut file = new_file(path)?;
    let api = Api::connect(context).await?;
    let export = api.client().audit().export(ExportRecord {}).await;
    let mut pieces = export.map_err(|status| failure(&status))?.into_inner();
    while let Some(piece) = pieces.message().await.map_err(|status| failure(&status))? {
        file.write_all(&piece.lines).map_err(|error| not_written(path, &error))?;
    }
    file.sync_all().map_err(|error| not_written(path, &error))?;
    context.ui.note(format!(
        "next: stratavore audit verify --export {}",
        Untrusted(&path.display().to_string())
    ));
    Ok(Exit::Ok)
}

fn new_file(path: &Path) -> Result<File, Failure> {
    let opened = File::options().write(true).create_new(true).mode(0o600).open(path);
    opened.map_err(|error| not_written(path, &error))
}

fn not_written(path: &Path, error: &io::Error) -> Failure {
    Failure::io(format!("write {}", path.display()), error)
}

async fn keys(context: &Context, command: KeysCommand) -> Result<Exit, Failure> {
    let mut api = Api::connect(context).await?;
    let known: RecordKeys = match command {
        KeysCommand::List | KeysCommand::Export { .. } => {
            api.call(async |client| client.audit().keys(ListRecordKeys {}).await).await?
        }
        // Not asked again where the answer was lost: it would be changed twice.
        KeysCommand::Rotate => {
            let rotated = api.client().audit().rotate(RotateRecordKey {}).await;
            rotated.map_err(|status| failure(&status))?.into_inner()
        }
    };
    if let KeysCommand::Export { file: path } = command {
        let mut text = String::new();
        for key in known.keys.iter().take(1) {
            text.push_str(&stratavore_audit::line(&Line::Key(key.public.clone())));
        }
        for key in known.keys.iter().filter(|key| !key.change.is_empty()) {
            text.push_str(&stratavore_audit::line(&Line::KeyChange(key.change.clone())));
        }
        let mut file = new_file(&path)?;
        file.write_all(text.as_bytes()).map_err(|error| not_written(&path, &error))?;
        return Ok(Exit::Ok);
    }
    show_keys(context, &known.keys)?;
    Ok(Exit::Ok)
}

fn show_keys(context: &Context, keys: &[RecordKey]) -> Result<(), Failure> {
    let views: Vec<KeyView> = keys
        .iter()
        .map(|key| KeyView {
            id: key.id.clone(),
            state: key.state.clone(),
            since_size: key.since_size,
            node_id: key.node_id.clone(),
            public: key.public.clone(),
        })
        .collect();
    context.ui.show(&views, || {
        if views.is_empty() {
            context.ui.note("nothing is sealed yet");
            return Ok(());
        }
        let columns = ["KEY", "STATE", "SINCE", "NODE", "PUBLIC"].map(Column::new);
        let mut table = Table::new(columns);
        for key in keys {
            table.row([
                Cell::new(&key.id),
                Cell::new(&key.state),
                Cell::new(key.since_size.to_string()),
                Cell::toned(&key.node_id, Tone::Dim),
                Cell::new(&key.public),
            ]);
        }
        context.ui.table(&table)
    })
}
