//! `stratavore status`: what runs where, at a glance.

use clap::Args;
use jiff::Timestamp;
use stratavore_core::clock::Clock;
use stratavore_core::terminal::Untrusted;
use stratavore_proto::v1::{DaemonStatus, ListRunners, Runner, StatusRequest};
use tonic::Response;

use super::{daemon, resolve, runner, watch};
use crate::api::Api;
use crate::clock::ago;
use crate::context::Context;
use crate::exit::{Exit, Failure};
use crate::table::Tone;
use crate::view::{DaemonStatusView, DaemonView, RunnerView, StatusView, time};

/// Show the daemon and the runners that live
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  stratavore status
  stratavore status --watch              Stays and follows; q leaves
  stratavore status --format json | jq '.runners[] | select(.activity == \"needs_input\")'")]
pub(crate) struct Status {
    /// Stay, and show every change as it happens
    #[arg(long, short)]
    watch: bool,
    /// Only runners of this project
    #[arg(long, short, value_name = "PROJECT")]
    project: Option<String>,
}

pub(crate) fn run(context: &Context, args: &Status) -> Result<Exit, Failure> {
    let project = args.project.as_deref().unwrap_or_default();
    context.block_on(async {
        let mut api = Api::connect(context).await?;
        if args.watch {
            return watch::run(context, api, project).await;
        }
        let (daemon, runners) = look(&mut api, project).await?;
        let view = StatusView {
            daemon: DaemonView { running: true, status: Some(DaemonStatusView::from(&daemon)) },
            runners: runners.iter().map(RunnerView::from).collect(),
        };
        context.ui.show(&view, || {
            let lines = lines(&daemon, &runners, context.clock.now(), context.ui.width());
            context.ui.line(lines.join("\n"))
        })?;
        Ok(Exit::Ok)
    })
}

/// The daemon, and the runners that live.
pub(crate) async fn look(
    api: &mut Api<'_>,
    project: &str,
) -> Result<(DaemonStatus, Vec<Runner>), Failure> {
    // Both at once: two questions one after the other would be two ways there and back.
    let list = ListRunners { project: project.into(), ..ListRunners::default() };
    let list = resolve::first_page(list);
    let (daemon, page) = api
        .call(async |client| {
            let (mut daemon, mut runners) = (client.daemon(), client.runners());
            let (daemon, page) =
                tokio::try_join!(daemon.status(StatusRequest {}), runners.list(list.clone()))?;
            Ok(Response::new((daemon.into_inner(), page.into_inner())))
        })
        .await?;
    Ok((daemon, resolve::whole_list(api, list, page).await?))
}

/// The lines to show for people, none wider than `width`.
pub(crate) fn lines(
    daemon: &DaemonStatus,
    runners: &[Runner],
    now: Timestamp,
    width: Option<usize>,
) -> Vec<String> {
    let tone = if daemon.health == "ready" { Tone::Good } else { Tone::Warning };
    let mut lines = vec![format!(
        "{} on {}, version {}, up {}; runners: {}",
        tone.paint(&Untrusted(&daemon.health).to_string()),
        Untrusted(&daemon.hostname),
        Untrusted(&daemon.version),
        ago(now, time(daemon.started_at_us)),
        daemon::counts(daemon),
    )];
    for problem in &daemon.problems {
        lines.push(Tone::Warning.paint(&format!("  {}", Untrusted(problem))));
    }
    lines.push(String::new());
    if runners.is_empty() {
        lines.push("no runner lives; launch one: stratavore launch".into());
    } else {
        lines.extend(runner::table(runners, now).lines(width));
    }
    lines
}
