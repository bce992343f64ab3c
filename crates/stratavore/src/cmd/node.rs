//! `stratavore nodes` and `stratavore ca`.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};
use stratavore_core::clock::Clock;
use stratavore_proto::v1::{
    GetCaRequest, GetNode, InitCaRequest, JoinRequest, ListNodes, ListTokensRequest,
    MintTokenRequest, Move, Node, RevokeTokenRequest, ScheduleNode,
};

use crate::api::Api;
use crate::clock::ago;
use crate::context::Context;
use crate::exit::{Exit, Failure};
use crate::table::{Cell, Column, Table, Tone};
use crate::view::{CaView, JoinTokenView, NodeView, time};

/// List the hosts of the cluster, and say which take runners
#[derive(Debug, Args)]
#[command(after_help = "\
A node is a host with a daemon. Daemons that share a PostgreSQL server are one cluster: each answers
for all of them. docs/operations/team.md goes through it.

Examples:
  stratavore nodes
  stratavore nodes cordon gpu-2              Launch nothing more there
  stratavore nodes drain gpu-2 --wait        And wait until what runs there has ended
  stratavore nodes drain gpu-2 --move --wait What is idle goes on on another node
  stratavore nodes token > token             On a node: let one more host in
  stratavore nodes join --token-file token   On that host")]
pub(crate) struct Nodes {
    #[command(subcommand)]
    command: Option<NodesCommand>,
}

#[derive(Debug, Args)]
struct Which {
    /// The node: its host name, id, or the beginning of one
    node: String,
}

#[derive(Debug, Subcommand)]
enum NodesCommand {
    /// List all nodes
    List,
    /// Show one node
    Show(Which),
    /// Launch nothing more on a node; what runs there goes on
    Cordon(Which),
    /// Launch on a node again
    Uncordon(Which),
    /// Launch nothing more on a node, so that it becomes empty
    Drain {
        #[command(flatten)]
        which: Which,
        /// Have runners that are idle go on on other nodes, with their conversations
        #[arg(long = "move")]
        moves: bool,
        /// Wait until no runner lives there, and say how many do, and with --move why
        #[arg(long)]
        wait: bool,
        /// How long to wait, such as 30m
        #[arg(long, value_name = "TIME", requires = "wait", value_parser = parse_duration)]
        timeout: Option<Duration>,
    },
    /// Take a node without runners out of the cluster: its key opens nothing any more
    Remove(Which),
    /// Make a token that lets one host join; it is printed once and kept nowhere
    Token {
        /// How long it may be used, at most 5m [default: 5m]
        #[arg(long, value_name = "TIME", value_parser = parse_duration)]
        ttl: Option<Duration>,
    },
    /// List join tokens, without their secrets
    Tokens,
    /// Make a join token worth nothing
    Revoke {
        /// The token's name, as `tokens` lists it
        accessor: String,
    },
    /// Make this host join the cluster of its database
    Join {
        /// The file that holds the token; - is standard input
        #[arg(long, value_name = "FILE")]
        token_file: PathBuf,
    },
}

/// The authority that nodes trust: made once, on one host
#[derive(Debug, Args)]
#[command(after_help = "\
Its key stays on the host where it is made, and signs the certificates of all nodes. Keep a backup of
the directory `ca` in that host's state directory.

Examples:
  stratavore ca init
  stratavore ca show")]
pub(crate) struct Ca {
    #[command(subcommand)]
    command: Option<CaCommand>,
}

#[derive(Debug, Subcommand)]
enum CaCommand {
    /// Make the cluster's authority on this host
    Init,
    /// Show its certificate's fingerprint
    Show,
}

/// How often a drain looks.
const LOOK: Duration = Duration::from_secs(1);
/// A token is a few dozen characters; more is another file.
const TOKEN_MAX: u64 = 4096;

fn parse_duration(text: &str) -> Result<Duration, String> {
    stratavore_config::parse_duration(text)
        .ok_or_else(|| "give a number and ms, s, m, h or d, such as 30m".into())
}

fn millis(time: Option<Duration>) -> u64 {
    time.map_or(0, |time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX).max(1))
}

pub(crate) fn run(context: &Context, args: Nodes) -> Result<Exit, Failure> {
    context.block_on(async {
        let mut api = Api::connect(context).await?;
        match args.command.unwrap_or(NodesCommand::List) {
            NodesCommand::List => {
                let list = api.call(async |client| client.nodes().list(ListNodes {}).await).await?;
                list_all(context, &list.nodes)?;
            }
            NodesCommand::Show(Which { node }) => show(context, &get(&mut api, node).await?)?,
            NodesCommand::Cordon(which) => {
                let node = schedule(&mut api, which, "cordoned", false).await?;
                context.ui.note(format!("{} takes no more runners", node.hostname));
                show(context, &node)?;
            }
            NodesCommand::Uncordon(which) => {
                let node = schedule(&mut api, which, "open", false).await?;
                context.ui.note(format!("{} takes runners", node.hostname));
                show(context, &node)?;
            }
            NodesCommand::Drain { which, moves, wait, timeout } => {
                let node = schedule(&mut api, which, "draining", moves).await?;
                context.ui.note(format!(
                    "{} takes no more runners; {} live there",
                    node.hostname, node.runners
                ));
                let node =
                    if wait { drained(context, &mut api, node, timeout).await? } else { node };
                show(context, &node)?;
            }
            NodesCommand::Remove(Which { node }) => {
                let get = GetNode { node };
                let node =
                    api.call(async |client| client.nodes().remove(get.clone()).await).await?;
                context.ui.note(format!("{} is no node any more", node.hostname));
            }
            NodesCommand::Token { ttl } => {
                let mint = MintTokenRequest { ttl_ms: millis(ttl) };
                let minted = api.call(async |client| client.nodes().mint_token(mint).await).await?;
                let until = minted.info.and_then(|info| time(info.expires_at_us));
                let until = until.map_or_else(String::new, |at| format!(" until {at:.0}"));
                context.ui.note(format!(
                    "lets one host join{until}: stratavore nodes join --token-file FILE"
                ));
                context.ui.line(&minted.token)?;
            }
            NodesCommand::Tokens => {
                let list = api
                    .call(async |client| client.nodes().list_tokens(ListTokensRequest {}).await)
                    .await?;
                let views: Vec<JoinTokenView> = list.tokens.iter().map(Into::into).collect();
                tokens(context, &views)?;
            }
            NodesCommand::Revoke { accessor } => {
                let revoke = RevokeTokenRequest { accessor: accessor.clone() };
                let answer = api
                    .call(async |client| client.nodes().revoke_token(revoke.clone()).await)
                    .await?;
                if !answer.revoked {
                    let message = format!("no join token `{accessor}` is left to revoke");
                    return Err(Failure::new(Exit::NotFound, "not_found", message)
                        .next("stratavore nodes tokens"));
                }
                context.ui.note(format!("revoked {accessor}"));
            }
            NodesCommand::Join { token_file } => {
                let join = JoinRequest { token: read_token(&token_file)? };
                let node = api.call(async |client| client.nodes().join(join.clone()).await).await?;
                context.ui.note(format!("{} has joined the cluster", node.hostname));
                show(context, &node)?;
            }
        }
        Ok(Exit::Ok)
    })
}

pub(crate) fn ca(context: &Context, args: Ca) -> Result<Exit, Failure> {
    context.block_on(async {
        let mut api = Api::connect(context).await?;
        let ca = match args.command.unwrap_or(CaCommand::Show) {
            CaCommand::Init => {
                let made =
                    api.call(async |client| client.nodes().init_ca(InitCaRequest {}).await).await?;
                context
                    .ui
                    .note("this host keeps the cluster's CA: back up `ca` in its state directory");
                made
            }
            CaCommand::Show => {
                api.call(async |client| client.nodes().get_ca(GetCaRequest {}).await).await?
            }
        };
        let view = CaView::from(&ca);
        context
            .ui
            .show(&view, || context.ui.fields(&[("fingerprint", view.fingerprint.clone())]))?;
        Ok(Exit::Ok)
    })
}

/// From a file or standard input: in an argument everybody on the host could read it.
fn read_token(path: &std::path::Path) -> Result<String, Failure> {
    let mut text = String::new();
    let read = match path.as_os_str() == "-" {
        true => std::io::stdin().take(TOKEN_MAX).read_to_string(&mut text),
        false => std::fs::File::open(path)
            .and_then(|file| file.take(TOKEN_MAX).read_to_string(&mut text)),
    };
    read.map_err(|error| Failure::io(format_args!("read {}", path.display()), &error))?;
    Ok(text.trim().to_owned())
}

async fn get(api: &mut Api<'_>, node: String) -> Result<Node, Failure> {
    let get = GetNode { node };
    api.call(async |client| client.nodes().get(get.clone()).await).await
}

async fn schedule(
    api: &mut Api<'_>,
    which: Which,
    scheduling: &str,
    moves: bool,
) -> Result<Node, Failure> {
    let schedule = ScheduleNode { node: which.node, scheduling: scheduling.into(), moves };
    api.call(async |client| client.nodes().schedule(schedule.clone()).await).await
}

/// Waits until no runner lives on the node, and none is on its way from it, and tells each change.
async fn drained(
    context: &Context,
    api: &mut Api<'_>,
    mut node: Node,
    timeout: Option<Duration>,
) -> Result<Node, Failure> {
    let begun = tokio::time::Instant::now();
    let mut told = node.runners;
    let mut moves = BTreeMap::new();
    while node.runners > 0 || node.moves.iter().any(|of| of.stage == "between") {
        if timeout.is_some_and(|timeout| begun.elapsed() > timeout) {
            let mut message = format!("{} runners still live on {}", node.runners, node.hostname);
            for of in node.moves.iter().filter(|of| of.stage != "moved") {
                message.push_str(&format!("; {}", progress(of)));
            }
            return Err(Failure::new(Exit::Timeout, "timeout", message)
                .next("it takes none more; wait on, or stop them: stratavore kill RUNNER"));
        }
        tokio::time::sleep(LOOK).await;
        node = get(api, node.id.clone()).await?;
        for of in &node.moves {
            let now = progress(of);
            if moves.insert(of.runner_id.clone(), now.clone()).as_ref() != Some(&now) {
                context.ui.note(now);
            }
        }
        if node.runners != told {
            context.ui.note(format!("{} live there", node.runners));
            told = node.runners;
        }
    }
    context.ui.note(format!("{} is empty", node.hostname));
    Ok(node)
}

/// How far a move is, for people.
fn progress(of: &Move) -> String {
    let Move { name, why, to, successor_id, .. } = of;
    match of.stage.as_str() {
        "stays" => format!("{name} is waited for: {why}"),
        "sought" => format!("{name} has nowhere to go: {why}"),
        "leaves" => format!("{name} goes to {to}"),
        "moved" => format!("{name} is on {to} now, as {successor_id}"),
        // What was stopped and is not taken up yet; or what a later daemon knows.
        _ if why.is_empty() => format!("{name} was stopped, and goes on on {to}"),
        _ => format!("{name} was stopped, and does not go on yet: {why}"),
    }
}

/// How many have gone, and how many are still there or on their way.
fn moved(node: &Node) -> (usize, usize) {
    let moved = node.moves.iter().filter(|of| of.stage == "moved").count();
    (moved, node.moves.len() - moved)
}

fn state(node: &Node) -> (&'static str, Tone) {
    match (node.ready, node.scheduling.as_str()) {
        (false, _) => ("away", Tone::Bad),
        (true, "cordoned") => ("cordoned", Tone::Warning),
        (true, "draining") => ("draining", Tone::Warning),
        (true, _) => ("ready", Tone::Good),
    }
}

fn list_all(context: &Context, nodes: &[Node]) -> Result<(), Failure> {
    let views: Vec<NodeView> = nodes.iter().map(NodeView::from).collect();
    context.ui.show(&views, || {
        let mut table = Table::new([
            Column::new("NODE"),
            Column::new("STATE"),
            Column::new("RUNNERS").right(),
            Column::new("LABELS").shrinks(),
            Column::new("ADDRESS"),
            Column::new("VERSION"),
            Column::new("SEEN").right(),
            Column::new("ID"),
        ]);
        for node in nodes {
            let (state, tone) = state(node);
            let runners = match node.capacity {
                Some(capacity) => format!("{}/{capacity}", node.runners),
                None => node.runners.to_string(),
            };
            let state = match moved(node) {
                (0, 0) => state.to_owned(),
                (moved, left) => format!("{state}: {moved} moved, {left} not yet"),
            };
            let here = if node.here { " (here)" } else { "" };
            table.row([
                Cell::new(format!("{}{here}", node.hostname)),
                Cell::toned(state, tone),
                Cell::new(runners),
                Cell::new(node.labels.join(" ")),
                Cell::new(&node.address),
                Cell::toned(&node.version, Tone::Dim),
                Cell::toned(ago(context.clock.now(), time(node.seen_at_us)), Tone::Dim),
                Cell::toned(&node.id, Tone::Dim),
            ]);
        }
        context.ui.table(&table)
    })
}

fn show(context: &Context, node: &Node) -> Result<(), Failure> {
    let view = NodeView::from(node);
    context.ui.show(&view, || {
        let capacity = node.capacity.map_or_else(|| "any number".into(), |n| n.to_string());
        let moves = match (node.moving_for.as_str(), moved(node)) {
            ("", (0, 0)) => String::new(),
            ("", (moved, left)) => format!("{moved} moved, {left} not yet"),
            (by, (moved, left)) => format!("for {by}: {moved} moved, {left} not yet"),
        };
        for of in &node.moves {
            context.ui.note(progress(of));
        }
        context.ui.fields(&[
            ("node", node.hostname.clone()),
            ("id", node.id.clone()),
            ("state", state(node).0.into()),
            ("runners", format!("{} live, {capacity} allowed", node.runners)),
            ("moves", moves),
            ("labels", node.labels.join(" ")),
            ("address", node.address.clone()),
            ("version", node.version.clone()),
            ("keeps the CA", if node.signs { "yes".into() } else { String::new() }),
        ])
    })
}

fn tokens(context: &Context, tokens: &[JoinTokenView]) -> Result<(), Failure> {
    context.ui.show(&tokens, || {
        if tokens.is_empty() {
            context.ui.note("no join token");
            return Ok(());
        }
        let mut table = Table::new([
            Column::new("TOKEN"),
            Column::new("STATE"),
            Column::new("BY").shrinks(),
            Column::new("MADE").right(),
            Column::new("USED BY"),
        ]);
        let now = context.clock.now();
        for token in tokens {
            table.row([
                Cell::new(&token.accessor),
                Cell::new(token.state(now)),
                Cell::new(&token.created_by),
                Cell::toned(ago(now, token.created_at), Tone::Dim),
                Cell::new(token.used_by.as_deref().unwrap_or("")),
            ]);
        }
        context.ui.table(&table)
    })
}
