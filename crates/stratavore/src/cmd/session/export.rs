//! `stratavore sessions export`.

use std::fs::{DirBuilder, File};
use std::io::{self, IsTerminal, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Component, Path, PathBuf};

use clap::Args;
use stratavore_core::clock::Clock;
use stratavore_core::terminal::Untrusted;
use stratavore_proto::v1::export_part::Part;
use stratavore_proto::v1::{ExportFile, ExportSessionRequest};

use super::tar::Tar;
use crate::api::{Api, failure};
use crate::context::Context;
use crate::exit::{Exit, Failure};
use crate::units::bytes;

/// Write a conversation's files, as they were, into a directory
#[derive(Debug, Args)]
#[command(after_help = "\
The directory gets the transcripts byte for byte, the messages as lines of JSON, and manifest.json with
the size and SHA-256 of each file. With - a tar archive of the same goes to the standard output.

Examples:
  stratavore sessions export ses_7k3m9x2q4v8w1t6y0z5n handover/
  stratavore sessions export ses_7k3 - | ssh other 'tar x && stratavore sessions import .'")]
pub(crate) struct Export {
    /// The conversation: our id, the assistant's, or the beginning of either
    session: String,
    /// A directory that is not there yet, or is empty; - for a tar archive
    #[arg(value_name = "DIR", default_value = "-")]
    to: PathBuf,
}

/// Where the parts go.
enum Target {
    Directory { at: PathBuf, open: Option<File> },
    Archive(Box<Tar<io::Stdout>>),
}

pub(super) fn run(context: &Context, args: &Export) -> Result<Exit, Failure> {
    let mut target = Target::new(&args.to)?;
    let seconds = context.clock.now().as_second();
    context.block_on(async {
        let api = Api::connect(context).await?;
        let request = ExportSessionRequest { session: args.session.clone() };
        let parts = api.client().vault().export_session(request).await;
        let mut parts = parts.map_err(|status| failure(&status))?.into_inner();
        let (mut files, mut size) = (0u64, 0);
        while let Some(part) = parts.message().await.map_err(|status| failure(&status))? {
            match part.part {
                Some(Part::File(file)) => {
                    files += 1;
                    target.file(&file, seconds)?;
                }
                Some(Part::Bytes(more)) => {
                    size += more.len() as u64;
                    target.bytes(&more)?;
                }
                None => {}
            }
        }
        target.finish()?;
        context.ui.note(format!("{files} files, {}", bytes(size)));
        if args.to != Path::new("-") {
            let at = Untrusted(&args.to.display().to_string()).to_string();
            context.ui.note(format!("next, on another host: stratavore sessions import {at}"));
        }
        Ok(Exit::Ok)
    })
}

impl Target {
    fn new(to: &Path) -> Result<Self, Failure> {
        if to == Path::new("-") {
            if io::stdout().is_terminal() {
                let message = "an archive is nothing for a terminal";
                return Err(Failure::usage(message).next("stratavore sessions export SESSION DIR"));
            }
            return Ok(Self::Archive(Box::new(Tar::new(io::stdout()))));
        }
        let is_taken = match to.read_dir() {
            Ok(mut there) => there.next().is_some(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => false,
            Err(error) => return Err(not_written(to, &error)),
        };
        if is_taken {
            let message = format!("{} is not empty", to.display());
            return Err(Failure::new(Exit::Conflict, "conflict", message)
                .next("name a directory that is not there yet"));
        }
        Ok(Self::Directory { at: to.to_owned(), open: None })
    }

    fn file(&mut self, file: &ExportFile, seconds: i64) -> Result<(), Failure> {
        match self {
            Self::Archive(tar) => {
                let begun = tar.file(&file.name, file.size, seconds);
                begun.map_err(|error| not_written(Path::new("-"), &error))
            }
            Self::Directory { at, open } => {
                close(open, at)?;
                let name = Path::new(&file.name);
                let is_inside = name.components().all(|part| matches!(part, Component::Normal(_)));
                if !is_inside || file.name.is_empty() {
                    return Err(Failure::failed("the daemon named a file that is no file's name"));
                }
                let path = at.join(name);
                // Not before something is there to be put into it: a refusal leaves nothing behind.
                make(at)?;
                if let Some(directory) = path.parent().filter(|parent| *parent != &**at) {
                    make(directory)?;
                }
                let made = File::options().write(true).create_new(true).mode(0o600).open(&path);
                *open = Some(made.map_err(|error| not_written(&path, &error))?);
                Ok(())
            }
        }
    }

    fn bytes(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        match self {
            Self::Archive(tar) => {
                tar.bytes(bytes).map_err(|error| not_written(Path::new("-"), &error))
            }
            Self::Directory { at, open } => match open {
                Some(file) => file.write_all(bytes).map_err(|error| not_written(at, &error)),
                None => Err(Failure::failed("the daemon sent bytes of no file")),
            },
        }
    }

    fn finish(self) -> Result<(), Failure> {
        match self {
            Self::Archive(tar) => tar.finish().map_err(|error| not_written(Path::new("-"), &error)),
            Self::Directory { at, mut open } => close(&mut open, &at),
        }
    }
}

fn close(open: &mut Option<File>, at: &Path) -> Result<(), Failure> {
    open.take().map_or(Ok(()), |file| file.sync_all().map_err(|error| not_written(at, &error)))
}

fn make(directory: &Path) -> Result<(), Failure> {
    match DirBuilder::new().mode(0o700).create(directory) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        made => made.map_err(|error| not_written(directory, &error)),
    }
}

fn not_written(path: &Path, error: &io::Error) -> Failure {
    Failure::io(format!("write {}", path.display()), error)
}
