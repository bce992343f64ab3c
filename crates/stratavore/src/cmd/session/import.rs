//! `stratavore sessions import`.

use std::fs::File;
use std::io::Read;
use std::path::{Component, Path, PathBuf};

use clap::Args;
use serde::Deserialize;
use serde_json::json;
use stratavore_core::terminal::Untrusted;
use stratavore_proto::v1::import_part::Part;
use stratavore_proto::v1::{ImportManifest, ImportPart};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use crate::api::{Api, failure};
use crate::context::Context;
use crate::exit::{Exit, Failure};

const PIECE: usize = 1 << 20;
const MANIFEST_MAX: u64 = 3 << 20;

/// Take in a conversation that was exported
#[derive(Debug, Args)]
pub(crate) struct Import {
    /// The directory with manifest.json
    #[arg(value_name = "DIR")]
    from: PathBuf,
    /// Whose it is to be [default: the project of the name that it had]
    #[arg(long, short, value_name = "PROJECT")]
    project: Option<String>,
}

/// As much of a manifest as is needed to send the files that it names.
#[derive(Deserialize)]
struct Named {
    files: Vec<NamedFile>,
}

#[derive(Deserialize)]
struct NamedFile {
    name: String,
}

pub(super) fn run(context: &Context, args: &Import) -> Result<Exit, Failure> {
    let path = args.from.join("manifest.json");
    let not_read = |path: &Path, error: &_| Failure::io(format!("read {}", path.display()), error);
    let size = path.metadata().map_err(|error| not_read(&path, &error))?.len();
    if size > MANIFEST_MAX {
        let message = format!("{} has more than {MANIFEST_MAX} bytes", path.display());
        return Err(Failure::usage(message).next("stratavore sessions export SESSION DIR"));
    }
    let manifest = std::fs::read(&path).map_err(|error| not_read(&path, &error))?;
    let named: Named = serde_json::from_slice(&manifest).map_err(|error| {
        let message = format!("{} is no manifest of an export: {error}", path.display());
        Failure::usage(message).next("stratavore sessions export SESSION DIR")
    })?;
    let mut files = Vec::new();
    for NamedFile { name } in named.files {
        let is_inside =
            Path::new(&name).components().all(|part| matches!(part, Component::Normal(_)));
        if !is_inside || name.is_empty() {
            let message = format!("the manifest names `{}`, which is outside", name.escape_debug());
            return Err(Failure::usage(message));
        }
        files.push((args.from.join(&name), name));
    }
    let project = args.project.clone().unwrap_or_default();
    context.block_on(async {
        let api = Api::connect(context).await?;
        let (sender, receiver) = mpsc::channel(4);
        let manifest = ImportManifest { manifest: manifest.into(), project };
        let sending = async {
            // Whether it is taken is told by the answer.
            if sender.send(part(Part::Manifest(manifest))).await.is_ok() {
                send(&sender, files).await?;
            }
            drop(sender);
            Ok(())
        };
        let mut client = api.client().vault();
        let answer = client.import_session(ReceiverStream::new(receiver));
        let (sent, answer) = tokio::join!(sending, answer);
        let () = sent?;
        let done = answer.map_err(|status| failure(&status))?.into_inner();
        let view = json!({ "session": done.session_id, "files": done.files });
        context.ui.show(&view, || {
            context.ui.line(format!("{} ({} new files)", done.session_id, done.files))
        })?;
        let next = format!("next: stratavore sessions messages {}", done.session_id);
        context.ui.note(Untrusted(&next).to_string());
        Ok(Exit::Ok)
    })
}

async fn send(
    sender: &mpsc::Sender<ImportPart>,
    files: Vec<(PathBuf, String)>,
) -> Result<(), Failure> {
    for (path, name) in files {
        let not_read = |error: &_| Failure::io(format!("read {}", path.display()), error);
        let mut file = File::open(&path).map_err(|error| not_read(&error))?;
        if sender.send(part(Part::File(name))).await.is_err() {
            return Ok(());
        }
        loop {
            let mut bytes = Vec::new();
            let mut limited = (&mut file).take(PIECE as u64);
            limited.read_to_end(&mut bytes).map_err(|error| not_read(&error))?;
            if bytes.is_empty() {
                break;
            }
            if sender.send(part(Part::Bytes(bytes.into()))).await.is_err() {
                return Ok(());
            }
        }
    }
    Ok(())
}

fn part(part: Part) -> ImportPart {
    ImportPart { part: Some(part) }
}
