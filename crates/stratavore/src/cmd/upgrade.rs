//! `stratavore upgrade`.

use clap::Args;
use stratavore_proto::v1::UpgradeAgentRequest;

use super::resolve;
use crate::api::Api;
use crate::clock::fresh_key;
use crate::context::Context;
use crate::exit::{Exit, Failure};
use crate::table::Cell;
use crate::view::RunnerView;

/// Replace the agents of runners by the installed program, keeping everything
#[derive(Debug, Args)]
#[command(after_help = "\
The runner's process, its terminal and whoever is attached stay.

Examples:
  stratavore upgrade claude
  stratavore upgrade --all")]
pub(crate) struct Upgrade {
    /// The runners, by id, the beginning of one, or name
    #[arg(required_unless_present = "all", conflicts_with = "all")]
    runners: Vec<String>,
    /// Every live runner
    #[arg(long)]
    all: bool,
    /// Only those of this project
    #[arg(long, short, value_name = "PROJECT")]
    project: Option<String>,
}

pub(crate) fn run(context: &Context, args: Upgrade) -> Result<Exit, Failure> {
    context.block_on(async {
        let mut api = Api::connect(context).await?;
        let project = args.project.unwrap_or_default();
        let wanted = if args.all {
            let live = resolve::runners(&mut api, &project, false, 0).await?;
            live.into_iter().map(|runner| runner.id).collect()
        } else {
            args.runners
        };
        let mut upgraded = Vec::new();
        for runner in wanted {
            let request = UpgradeAgentRequest {
                idempotency_key: fresh_key(),
                runner,
                project: project.clone(),
            };
            upgraded.push(
                api.call(async |client| client.runners().upgrade_agent(request.clone()).await)
                    .await?,
            );
        }
        let views: Vec<RunnerView> = upgraded
            .iter()
            .filter_map(|done| Some(RunnerView::from(done.runner.as_ref()?)))
            .collect();
        context.ui.show(&views, || {
            for done in &upgraded {
                let name = done.runner.as_ref().map_or("", |runner| &runner.name);
                let (name, version) = (Cell::new(name), Cell::new(&done.version));
                let (name, version) = (name.text(), version.text());
                context
                    .ui
                    .line(format!("upgraded the agent of {name}: it runs version {version}"))?;
            }
            Ok(())
        })?;
        if upgraded.is_empty() {
            context.ui.note("no runner lives");
        }
        Ok(Exit::Ok)
    })
}
