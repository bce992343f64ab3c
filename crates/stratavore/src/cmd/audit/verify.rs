//! `stratavore audit verify`.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::mpsc::sync_channel;

use clap::Args;
use serde::Serialize;
use stratavore_audit::{Checks, Line, MacKey, Pieces, PublicKey, Report, Verifier};
use stratavore_proto::v1::ExportRecord;

use crate::api::{Api, failure};
use crate::context::Context;
use crate::exit::{Exit, Failure};

#[derive(Debug, Args)]
pub(super) struct Verify {
    /// Verify this export; no daemon is asked
    #[arg(long, value_name = "FILE")]
    export: Option<PathBuf>,
    /// The directory of the files that older records were moved into: verify them before the rest
    /// [default, without --export: that of this host]
    #[arg(long, value_name = "DIR")]
    segments: Option<PathBuf>,
    /// Checkpoints that were kept elsewhere; may be given more than once [default, without
    /// --export: those of this host]
    #[arg(long, value_name = "FILE")]
    checkpoints: Vec<PathBuf>,
    /// Public keys to trust [default, without --export: those of this host]
    #[arg(long, value_name = "FILE")]
    keys: Option<PathBuf>,
    /// A copy of a daemon's key of codes: also check what it wrote since that day
    #[arg(long, value_name = "FILE")]
    mac: Option<PathBuf>,
}

#[derive(Debug, Serialize)]
struct VerifiedView {
    log: String,
    records: u64,
    /// Those up to here are in files that were not verified.
    trimmed: u64,
    checkpoints: u64,
    checkpoints_of_elsewhere: u64,
    covered: u64,
    codes: u64,
    keys_of_elsewhere: bool,
}

pub(super) fn verify(context: &Context, args: &Verify) -> Result<Exit, Failure> {
    let own = context.paths.audit_dir();
    // Those of this host say nothing of an export from another one.
    let here =
        |name: &str| Some(own.join(name)).filter(|path| args.export.is_none() && path.exists());
    let mut checks = Checks::default();
    let files: Vec<PathBuf> = match args.checkpoints.is_empty() {
        true => here("checkpoints").into_iter().collect(),
        false => args.checkpoints.clone(),
    };
    for path in &files {
        let notes = read_notes(path)?;
        checks.checkpoints.extend(notes.into_iter().map(|note| (path.display().to_string(), note)));
    }
    if let Some(path) = args.keys.clone().or_else(|| here("keys")) {
        (checks.keys, checks.changes) = read_keys(&path)?;
    }
    if let Some(path) = &args.mac {
        let key = MacKey::parse(&read(path)?);
        checks.mac = Some(key.ok_or_else(|| unreadable(path, "it is no key of a daemon's codes"))?);
    }
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get()).min(16);
    let mut files = match args.segments.clone().or_else(|| here("segments")) {
        Some(directory) => segments(&directory)?,
        None => Vec::new(),
    };
    let verified = match &args.export {
        Some(path) => {
            files.push(path.clone());
            let readers = files.iter().map(File::open);
            let verified = Verifier::exports(readers, &checks, threads);
            verified.map_err(|error| not_read(path, &error))?
        }
        None => context.block_on(verify_daemons(context, files, checks, threads))?,
    };
    let report = verified.map_err(|fault| {
        Failure::new(Exit::Failure, "record_changed", format!("the record does not stand: {fault}")).next(
            "keep the database, the exports and every host's checkpoints as they are, and see docs/audit.md",
        )
    })?;
    tell(context, &report)?;
    Ok(Exit::Ok)
}

/// The files of a directory that records were moved into, in their order.
fn segments(directory: &Path) -> Result<Vec<PathBuf>, Failure> {
    let entries = std::fs::read_dir(directory).map_err(|error| not_read(directory, &error))?;
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let is_one = |name: &String| name.starts_with("record-") && name.ends_with(".jsonl");
    // Their names have the positions, all of one length.
    let mut names: Vec<String> = names.filter(is_one).collect();
    names.sort();
    Ok(names.into_iter().map(|name| directory.join(name)).collect())
}

/// Verifies files, and then what the daemon sends, while it is sent.
async fn verify_daemons(
    context: &Context,
    files: Vec<PathBuf>,
    checks: Checks,
    threads: usize,
) -> Result<Result<Report, stratavore_audit::Fault>, Failure> {
    let api = Api::connect(context).await?;
    let export = api.client().audit().export(ExportRecord {}).await;
    let mut pieces = export.map_err(|status| failure(&status))?.into_inner();
    let (sender, receiver) = sync_channel(8);
    let verifying = std::thread::spawn(move || {
        let open = |path: PathBuf| File::open(path).map(|file| Box::new(file) as Box<dyn Read>);
        let rest: io::Result<Box<dyn Read>> =
            Ok(Box::new(Pieces::new(move || receiver.recv().ok())));
        Verifier::exports(files.into_iter().map(open).chain([rest]), &checks, threads)
    });
    while let Some(piece) = pieces.message().await.map_err(|status| failure(&status))? {
        // A verifier that has found something reads no further.
        if sender.send(piece.lines).is_err() {
            break;
        }
    }
    drop(sender);
    let verified = verifying.join().map_err(|_| Failure::failed("the verifier failed"))?;
    verified.map_err(|error| Failure::io("read the record", &error))
}

fn tell(context: &Context, report: &Report) -> Result<(), Failure> {
    let view = VerifiedView {
        log: report.origin.clone(),
        records: report.records,
        trimmed: report.trimmed,
        checkpoints: report.checkpoints,
        checkpoints_of_elsewhere: report.given,
        covered: report.covered,
        codes: report.macs,
        keys_of_elsewhere: report.keys_were_given,
    };
    context.ui.show(&view, || {
        let stand = match report.records {
            1 => "1 record stands".into(),
            records => format!("{records} records stand"),
        };
        let checkpoints = match report.checkpoints {
            1 => "1 signed checkpoint".into(),
            checkpoints => format!("{checkpoints} signed checkpoints"),
        };
        context.ui.line(format!("{stand}, up to {} by {checkpoints}", report.covered))?;
        if report.trimmed > 0 {
            let trimmed = report.trimmed;
            context.ui.note(format!(
                "those up to {trimmed} are in files, which were not verified: --segments DIR"
            ));
        }
        if report.given == 0 {
            context.ui.warn(
                "no checkpoint from outside of the database was compared: --checkpoints FILE",
            );
        }
        if !report.keys_were_given {
            context.ui.warn("the keys of the export itself were believed: --keys FILE");
        }
        Ok(())
    })
}

fn read(path: &Path) -> Result<String, Failure> {
    std::fs::read_to_string(path).map_err(|error| not_read(path, &error))
}

fn not_read(path: &Path, error: &io::Error) -> Failure {
    Failure::io(format!("read {}", path.display()), error)
}

fn unreadable(path: &Path, why: &str) -> Failure {
    Failure::new(Exit::Usage, "invalid", format!("{}: {why}", path.display()))
}

/// Checkpoints as a host keeps them, or one as it was signed. A last line that was cut off is left
/// out: whoever wrote it has not acted on it.
fn read_notes(path: &Path) -> Result<Vec<String>, Failure> {
    let text = read(path)?;
    if !text.starts_with('{') {
        return Ok(vec![text]);
    }
    let lines = text.lines().filter_map(|line| match serde_json::from_str(line) {
        Ok(Line::Checkpoint(note)) => Some(note),
        Ok(_) | Err(_) => None,
    });
    let notes: Vec<String> = lines.collect();
    if notes.is_empty() { Err(unreadable(path, "it holds no checkpoint")) } else { Ok(notes) }
}

/// Public keys, and those that they introduce.
fn read_keys(path: &Path) -> Result<(Vec<PublicKey>, Vec<String>), Failure> {
    let (mut keys, mut changes) = (Vec::new(), Vec::new());
    for line in read(path)?.lines().filter(|line| !line.trim().is_empty()) {
        match serde_json::from_str(line) {
            Ok(Line::Key(text)) => keys.extend(PublicKey::parse(&text)),
            Ok(Line::KeyChange(note)) => changes.push(note),
            Ok(_) => {}
            Err(_) => keys.extend(PublicKey::parse(line)),
        }
    }
    if keys.is_empty() {
        Err(unreadable(path, "it holds no public key"))
    } else {
        Ok((keys, changes))
    }
}
