//! `stratavore sessions resume` and `fork`.

use clap::Args;
use stratavore_proto::v1::{GetSession, LaunchRunners};

use crate::api::Api;
use crate::clock::fresh_key;
use crate::cmd::attach::{self, Attachment};
use crate::cmd::launch::{launch, report, sized};
use crate::cmd::resolve;
use crate::context::Context;
use crate::exit::{Exit, Failure};

#[derive(Debug, Args)]
pub(crate) struct Resume {
    /// The session, by our id or the assistant's, or the beginning of one
    session: String,
    /// Attach to it once it runs
    #[arg(long)]
    attach: bool,
    /// The runner's name [default: numbered after the assistant]
    #[arg(long, value_name = "NAME", default_value = "", hide_default_value = true)]
    name: String,
    /// The node to run it on: its host name, id, or the beginning of one [default: the one that has its
    /// files]
    #[arg(long, value_name = "NODE", default_value = "", hide_default_value = true)]
    node: String,
}

pub(super) fn run(context: &Context, args: Resume, fork: bool) -> Result<Exit, Failure> {
    if args.attach {
        attach::need_terminal()?;
    }
    context.block_on(async {
        let mut api = Api::connect(context).await?;
        let get = GetSession { session: args.session };
        let details = api.call(async |client| client.sessions().get(get.clone()).await).await?;
        let session = details.session.unwrap_or_default();
        let request = LaunchRunners {
            idempotency_key: fresh_key(),
            project: session.project_id.clone(),
            session: session.id.clone(),
            name: args.name,
            node: args.node,
            fork,
            ..sized()
        };
        let mut launched = launch(context, &mut api, request).await?;
        if !args.attach {
            resolve::settle(&mut api, &mut launched).await?;
            return report(context, &launched);
        }
        match launched.pop() {
            Some(runner) => attach::to(context, api, runner, Attachment::default()).await,
            None => Err(Failure::failed("the daemon launched nothing")),
        }
    })
}
