//! `stratavore recover`.

use clap::Args;
use stratavore_core::terminal::escape_untrusted;
use stratavore_proto::v1::RecoverRunners;

use crate::api::Api;
use crate::clock::fresh_key;
use crate::context::Context;
use crate::exit::{Exit, Failure};
use crate::table::Cell;
use crate::view::{RecoveryView, RunnerView};

/// Bring back runners that were lost and should run
#[derive(Debug, Args)]
#[command(after_help = "\
After a reboot, or when agents were killed, runners are `lost`. This launches a successor of each,
which carries its session on.

Examples:
  stratavore recover --dry-run
  stratavore recover
  stratavore recover claude")]
pub(crate) struct Recover {
    /// These runners [default: all that were lost and should run]
    runners: Vec<String>,
    /// Only those of this project
    #[arg(long, short, value_name = "PROJECT")]
    project: Option<String>,
    /// Only say what would be done
    #[arg(long)]
    dry_run: bool,
}

pub(crate) fn run(context: &Context, args: Recover) -> Result<Exit, Failure> {
    context.block_on(async {
        let mut api = Api::connect(context).await?;
        let dry_run = args.dry_run;
        let request = RecoverRunners {
            idempotency_key: fresh_key(),
            runners: args.runners,
            project: args.project.unwrap_or_default(),
            dry_run,
        };
        let list = api.call(async |client| client.runners().recover(request.clone()).await).await?;
        let runners = list.runners.iter().map(RunnerView::from).collect();
        let view = RecoveryView { dry_run, runners, remarks: list.remarks.clone() };
        context.ui.show(&view, || {
            for runner in &list.runners {
                let (name, project) = (Cell::new(&runner.name), Cell::new(&runner.project));
                let what = if dry_run { "would recover" } else { "recovered" };
                context.ui.line(format!(
                    "{what} {} in {} ({})",
                    name.text(),
                    project.text(),
                    runner.id
                ))?;
            }
            Ok(())
        })?;
        for remark in &list.remarks {
            context.ui.note(escape_untrusted(remark));
        }
        if list.runners.is_empty() && list.remarks.is_empty() {
            context.ui.note("nothing is lost that should run");
        }
        Ok(Exit::Ok)
    })
}
