//! `stratavore import`: the conversations that assistants have on this host already.

use clap::Args;
use serde::Serialize;
use stratavore_core::terminal::Untrusted;
use stratavore_proto::v1::{ImportRequest, ImportedFile};

use crate::api::{Api, failure};
use crate::context::Context;
use crate::exit::{Exit, Failure};
use crate::units::bytes;

/// Take in the conversations that your assistants have on this host
#[derive(Debug, Args)]
#[command(after_help = "\
A conversation belongs to the project whose directory it was in. What was in none belongs to --project,
or else to a project called `imported`. What was taken in before is not taken in twice, so it can be run
again whenever there is something new.

Examples:
  stratavore import --dry-run
  stratavore import
  stratavore import --assistant claude --project old-work")]
pub(crate) struct Import {
    /// Only the conversations with this assistant
    #[arg(long, short, value_name = "NAME")]
    assistant: Option<String>,
    /// Whose they are that were in the directory of no project
    #[arg(long, short, value_name = "PROJECT")]
    project: Option<String>,
    /// Only show what would be taken in
    #[arg(long)]
    dry_run: bool,
}

#[derive(Debug, Serialize)]
struct FileView {
    assistant: String,
    path: String,
    external_id: String,
    directory: String,
    project: String,
    session: String,
    messages: u64,
    bytes: u64,
    problem: String,
}

#[derive(Debug, Default)]
struct Counts {
    taken: u64,
    messages: u64,
    bytes: u64,
    failed: u64,
}

pub(crate) fn run(context: &Context, args: Import) -> Result<Exit, Failure> {
    let request = ImportRequest {
        assistant: args.assistant.unwrap_or_default(),
        project: args.project.unwrap_or_default(),
        dry_run: args.dry_run,
    };
    context.block_on(async {
        let api = Api::connect(context).await?;
        let steps = api.client().vault().import(request).await;
        let mut steps = steps.map_err(|status| failure(&status))?.into_inner();
        let mut counts = Counts::default();
        let mut all = 0;
        while let Some(step) = steps.message().await.map_err(|status| failure(&status))? {
            all = all.max(step.remaining);
            let Some(file) = step.file else {
                context.ui.note(format!("{all} files of conversations"));
                continue;
            };
            counts.add(&file);
            let at = format!("{}/{all}", all - step.remaining);
            let line = shown(&at, &file, args.dry_run);
            context.ui.item(&FileView::from(file), || line)?;
        }
        let Counts { taken, messages, bytes: new, failed } = counts;
        context.ui.note(match args.dry_run {
            true => format!("{taken} would be taken in; nothing was"),
            false => {
                format!("{taken} taken in: {messages} messages, {} new in the vault", bytes(new))
            }
        });
        if failed > 0 {
            context.ui.warn(format!("{failed} were not taken in; the lines above say why"));
        }
        Ok(Exit::Ok)
    })
}

impl Counts {
    fn add(&mut self, file: &ImportedFile) {
        if file.problem.is_empty() {
            self.taken += 1;
        } else {
            self.failed += 1;
        }
        self.messages += file.messages;
        self.bytes += file.bytes;
    }
}

fn shown(at: &str, file: &ImportedFile, is_dry_run: bool) -> String {
    let path = Untrusted(&file.path);
    if !file.problem.is_empty() {
        return format!("{at} {path}: {}", Untrusted(&file.problem));
    }
    let project = Untrusted(&file.project);
    match is_dry_run {
        true => format!("{at} {project} {} {path}", file.assistant),
        false => format!(
            "{at} {project} {} {} ({} messages, {})",
            file.assistant,
            file.session_id,
            file.messages,
            bytes(file.bytes)
        ),
    }
}

impl From<ImportedFile> for FileView {
    fn from(file: ImportedFile) -> Self {
        Self {
            assistant: file.assistant,
            path: file.path,
            external_id: file.external_id,
            directory: file.directory,
            project: file.project,
            session: file.session_id,
            messages: file.messages,
            bytes: file.bytes,
            problem: file.problem,
        }
    }
}
