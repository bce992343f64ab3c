//! `stratavore notify`: who is told of what.

use std::time::Duration;

use clap::{Args, Subcommand};
use serde_json::json;
use stratavore_core::clock::Clock;
use stratavore_proto::v1::{
    AddNotify, ListNotify, Notification, NotifyDestination, NotifyHistory, RemoveNotify,
    RetryNotify, ShowNotify, SwitchNotify, TestNotify,
};

use crate::api::Api;
use crate::clock::ago;
use crate::context::Context;
use crate::exit::{Exit, Failure};
use crate::table::{Cell, Column, Table, Tone};
use crate::units::parse_duration;
use crate::view::{NotificationView, NotifyHistoryView, NotifyView, time};

/// How long a test may take: an attempt of the daemon's takes a minute at most.
const TEST: Duration = Duration::from_secs(90);

/// Tell people and programs what happens
#[derive(Debug, Args)]
#[command(after_help = "\
A destination is told of events from when it was added. What it does not take is tried again for three
days, and none of that delays another. Secrets are named by file:/PATH and never given; docs/notifications.md
goes through each kind.

Examples:
  stratavore notify
  stratavore notify add deploys webhook --url https://example.org/hook --secret file:/etc/stratavore/hook
  stratavore notify add ops slack --url file:/etc/stratavore/slack-url --severity error
  stratavore notify test ops
  stratavore notify show ops
  stratavore notify remove ops")]
pub(crate) struct Notify {
    #[command(subcommand)]
    command: Option<NotifyCommand>,
}

#[derive(Debug, Subcommand)]
enum NotifyCommand {
    /// List all destinations
    List,
    /// Show one destination, and what was sent to it
    #[command(visible_alias = "history")]
    Show {
        name: String,
        /// At most so many of what was sent [default: 20]
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=200))]
        limit: Option<u32>,
    },
    /// Tell one more destination
    Add(Box<Add>),
    /// Send a message to a destination at once, and say how that went
    Test { name: String },
    /// Forget a destination, and what was sent to it
    Remove { name: String },
    /// Tell a destination again; it gets what it has missed
    Enable { name: String },
    /// Tell a destination nothing until it is enabled
    Disable { name: String },
    /// Send messages again that were given up
    Retry {
        name: String,
        /// Only this one
        id: Option<String>,
    },
}

#[derive(Debug, Args)]
#[command(after_help = "\
What each kind needs:
  webhook   --url, --secret                    Standard Webhooks; the secret is `whsec_` and base64
  slack     --url file:/PATH                   The URL is the secret
  telegram  --token, --chat                    [--url of another server]
  ntfy      --topic                            [--url of another server] [--token]
  email     --host, --from, --to               [--user, --password] [--mail-tls] [--port]
  desktop                                      That of whoever runs the daemon that is asked

A secret is file:/PATH, a file of mode 600 on each host with a daemon, or systemd-cred:NAME. Addresses
that are not public are dialled only where notify.allow_addresses has them.

Examples:
  stratavore notify add all webhook --url https://example.org/hook --secret file:/etc/stratavore/hook
  stratavore notify add me ntfy --topic file:/etc/stratavore/topic --events runner.activity
  stratavore notify add night telegram --token file:/t --chat 4711 --quiet-hours 22:00-07:00 --zone Europe/Berlin
  stratavore notify add ops email --host mail.example.org --from sv@example.org --to ops@example.org \\
      --user sv --password file:/etc/stratavore/mail --severity error --group 5m --per-hour 6")]
struct Add {
    /// What it is called here
    name: String,
    /// webhook, slack, telegram, ntfy, email or desktop
    kind: String,
    /// Where to, or where that is found
    #[arg(long, value_name = "URL")]
    url: Option<String>,
    /// Where the secret is found that signs
    #[arg(long, value_name = "REF")]
    secret: Option<String>,
    /// Where the token is found
    #[arg(long, value_name = "REF")]
    token: Option<String>,
    /// The chat's id, or @channel
    #[arg(long, value_name = "ID", allow_hyphen_values = true)]
    chat: Option<String>,
    /// The topic, or where it is found
    #[arg(long, value_name = "TOPIC")]
    topic: Option<String>,
    /// The mail server
    #[arg(long, value_name = "HOST")]
    host: Option<String>,
    /// Its port [default: 587, 465 or 25]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    port: Option<u16>,
    /// starttls, tls or off [default: starttls]
    #[arg(long, value_name = "HOW")]
    mail_tls: Option<String>,
    /// Who logs in
    #[arg(long, value_name = "NAME")]
    user: Option<String>,
    /// Where the password is found
    #[arg(long, value_name = "REF")]
    password: Option<String>,
    /// The sender
    #[arg(long, value_name = "ADDRESS")]
    from: Option<String>,
    /// A receiver; may be given several times
    #[arg(long, value_name = "ADDRESS")]
    to: Vec<String>,
    /// Only these kinds of events: runner.failed, runner.*, #; may be given several times
    #[arg(long, value_name = "PATTERN", value_delimiter = ',')]
    events: Vec<String>,
    /// Only events of these projects; may be given several times
    #[arg(long, short, value_name = "PROJECT", value_delimiter = ',')]
    project: Vec<String>,
    /// Only what matters so much: info, warning, error, critical
    /// [default: info for webhooks and named events, else warning]
    #[arg(long, value_name = "LEVEL")]
    severity: Option<String>,
    /// Hours in which only what is urgent is sent, such as 22:00-07:00
    #[arg(long, value_name = "FROM-TO")]
    quiet_hours: Option<String>,
    /// The time zone of those hours [default: UTC]
    #[arg(long, value_name = "NAME", requires = "quiet_hours")]
    zone: Option<String>,
    /// What is urgent [default: critical]
    #[arg(long, value_name = "LEVEL", requires = "quiet_hours")]
    urgent: Option<String>,
    /// Gather events into one message for so long; 0: one each [default: 10s, webhooks 0]
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    group: Option<Duration>,
    /// At most so many messages in an hour; 0: any number [default: 30, webhooks 0]
    #[arg(long, value_name = "N")]
    per_hour: Option<u32>,
}

impl From<Add> for AddNotify {
    fn from(add: Add) -> Self {
        let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        Self {
            name: add.name,
            kind: add.kind,
            url: add.url.unwrap_or_default(),
            secret: add.secret.unwrap_or_default(),
            token: add.token.unwrap_or_default(),
            chat: add.chat.unwrap_or_default(),
            topic: add.topic.unwrap_or_default(),
            host: add.host.unwrap_or_default(),
            port: add.port.unwrap_or_default().into(),
            tls: add.mail_tls.unwrap_or_default(),
            user: add.user.unwrap_or_default(),
            password: add.password.unwrap_or_default(),
            from: add.from.unwrap_or_default(),
            to: add.to,
            events: add.events,
            projects: add.project,
            severity: add.severity.unwrap_or_default(),
            quiet: add.quiet_hours.unwrap_or_default(),
            zone: add.zone.unwrap_or_default(),
            urgent: add.urgent.unwrap_or_default(),
            group_ms: add.group.map(millis),
            per_hour: add.per_hour,
        }
    }
}

pub(crate) fn run(context: &Context, args: Notify) -> Result<Exit, Failure> {
    context.block_on(async {
        let mut api = Api::connect(context).await?;
        match args.command.unwrap_or(NotifyCommand::List) {
            NotifyCommand::List => {
                let asked = api.call(async |client| client.notify().list(ListNotify {}).await);
                list(context, &asked.await?.destinations)?;
            }
            NotifyCommand::Show { name, limit } => {
                let show = ShowNotify { name, limit: limit.unwrap_or(0) };
                let asked = api.call(async |client| client.notify().show(show.clone()).await);
                history(context, &asked.await?)?;
            }
            NotifyCommand::Add(new) => {
                let add = AddNotify::from(*new);
                let asked = api.call(async |client| client.notify().add(add.clone()).await);
                let added = asked.await?;
                context.ui.note(format!(
                    "{} is told from now on; try it: stratavore notify test {}",
                    added.name, added.name
                ));
                show(context, &added)?;
            }
            NotifyCommand::Test { name } => {
                let test = TestNotify { name: name.clone() };
                let asked =
                    api.call_within(TEST, async |client| client.notify().test(test.clone()).await);
                return tested(context, &name, &asked.await?);
            }
            NotifyCommand::Remove { name } => {
                let remove = RemoveNotify { name: name.clone() };
                api.call(async |client| client.notify().remove(remove.clone()).await).await?;
                context.ui.note(format!("{name} is told nothing any more"));
            }
            NotifyCommand::Enable { name } => switch(context, &mut api, name, true).await?,
            NotifyCommand::Disable { name } => switch(context, &mut api, name, false).await?,
            NotifyCommand::Retry { name, id } => {
                let retry = RetryNotify { name, id: id.unwrap_or_default() };
                let asked = api.call(async |client| client.notify().retry(retry.clone()).await);
                let count = asked.await?.count;
                context.ui.show(&json!({ "retried": count }), || match count {
                    0 => context.ui.line("nothing was given up"),
                    1 => context.ui.line("1 message goes out again"),
                    count => context.ui.line(format!("{count} messages go out again")),
                })?;
            }
        }
        Ok(Exit::Ok)
    })
}

async fn switch(
    context: &Context,
    api: &mut Api<'_>,
    name: String,
    enabled: bool,
) -> Result<(), Failure> {
    let switch = SwitchNotify { name, enabled };
    let found = api.call(async |client| client.notify().switch(switch.clone()).await).await?;
    show(context, &found)
}

fn tested(context: &Context, name: &str, sent: &Notification) -> Result<Exit, Failure> {
    let delivered = sent.state == "delivered";
    let attempt = sent.history.last().cloned().unwrap_or_default();
    let view = NotificationView::from(sent);
    context.ui.show(&view, || {
        context.ui.line(match delivered {
            true => format!("{name} has taken it, after {} ms", attempt.took_ms),
            false => format!("{name} has not taken it"),
        })
    })?;
    if delivered {
        return Ok(Exit::Ok);
    }
    let status = if attempt.status == 0 { String::new() } else { format!(" ({})", attempt.status) };
    let message = format!("{}{status}", attempt.detail);
    Err(Failure::new(Exit::Failure, "not_delivered", message)
        .next(format!("mend it, then try again: stratavore notify test {name}")))
}

fn state(destination: &NotifyDestination) -> (&str, Tone) {
    if !destination.enabled {
        return ("off", Tone::Dim);
    }
    match destination.health.as_str() {
        "connected" => ("well", Tone::Good),
        "misconfigured" => ("misconfigured", Tone::Bad),
        other => (other, Tone::Warning),
    }
}

fn list(context: &Context, destinations: &[NotifyDestination]) -> Result<(), Failure> {
    let views: Vec<NotifyView> = destinations.iter().map(NotifyView::from).collect();
    context.ui.show(&views, || {
        if destinations.is_empty() {
            context.ui.note("nobody is told: stratavore notify add --help");
            return Ok(());
        }
        let mut table = Table::new([
            Column::new("NAME"),
            Column::new("KIND"),
            Column::new("STATE"),
            Column::new("TO").shrinks(),
            Column::new("OF").shrinks(),
            Column::new("GIVEN UP").right(),
            Column::new("PROBLEM").shrinks(),
        ]);
        for destination in destinations {
            let (state, tone) = state(destination);
            let given_up = match destination.dead {
                0 => Cell::toned("-", Tone::Dim),
                count => Cell::toned(count.to_string(), Tone::Bad),
            };
            table.row([
                Cell::new(&destination.name),
                Cell::new(&destination.kind),
                Cell::toned(state, tone),
                Cell::new(&destination.to),
                Cell::new(of(destination)),
                given_up,
                Cell::new(&destination.problem),
            ]);
        }
        context.ui.table(&table)
    })
}

/// What it is told of, in a few words.
fn of(destination: &NotifyDestination) -> String {
    let Some(rules) = &destination.rules else { return String::new() };
    let kinds = if rules.events.is_empty() { "#".into() } else { rules.events.join(" ") };
    match rules.severity.as_str() {
        "info" => kinds,
        severity => format!("{kinds} ({severity} and above)"),
    }
}

fn show(context: &Context, destination: &NotifyDestination) -> Result<(), Failure> {
    let view = NotifyView::from(destination);
    context.ui.show(&view, || fields(context, destination))
}

fn fields(context: &Context, destination: &NotifyDestination) -> Result<(), Failure> {
    let rules = destination.rules.clone().unwrap_or_default();
    let quiet = match rules.quiet.as_str() {
        "" => String::new(),
        hours => format!("{hours} {}, but for {}", rules.zone, rules.urgent),
    };
    let group = match rules.group_ms {
        0 => "one message each".into(),
        ms => format!("one message for {:?}", Duration::from_millis(ms)),
    };
    let limit = match rules.per_hour {
        0 => String::new(),
        count => format!("{count} in an hour"),
    };
    context.ui.fields(&[
        ("name", destination.name.clone()),
        ("kind", destination.kind.clone()),
        ("to", destination.to.clone()),
        ("state", state(destination).0.into()),
        ("problem", destination.problem.clone()),
        ("events", of(destination)),
        ("projects", rules.projects.join(" ")),
        ("quiet", quiet),
        ("grouping", group),
        ("at most", limit),
    ])
}

fn history(context: &Context, history: &NotifyHistory) -> Result<(), Failure> {
    let view = NotifyHistoryView::from(history);
    context.ui.show(&view, || {
        if let Some(destination) = &history.destination {
            fields(context, destination)?;
        }
        if history.notifications.is_empty() {
            context.ui.note("nothing was sent yet");
            return Ok(());
        }
        let now = context.clock.now();
        let mut table = Table::new([
            Column::new("MESSAGE"),
            Column::new("MADE").right(),
            Column::new("STATE"),
            Column::new("TRIED").right(),
            Column::new("SAYS").shrinks(),
            Column::new("ANSWER").shrinks(),
        ]);
        for sent in &history.notifications {
            let tone = match sent.state.as_str() {
                "delivered" => Tone::Good,
                "waiting" => Tone::Warning,
                _ => Tone::Bad,
            };
            table.row([
                Cell::new(&sent.id),
                Cell::toned(ago(now, time(sent.created_at_us)), Tone::Dim),
                Cell::toned(&sent.state, tone),
                Cell::new(sent.attempts.to_string()),
                Cell::new(&sent.title),
                Cell::new(answer(sent)),
            ]);
        }
        context.ui.line("")?;
        context.ui.table(&table)
    })
}

/// What the last attempt came to.
fn answer(sent: &Notification) -> String {
    let Some(last) = sent.history.last() else { return String::new() };
    let status = if last.status == 0 { String::new() } else { format!("{} ", last.status) };
    let next = match time(last.next_at_us).filter(|_| sent.state == "waiting") {
        Some(at) => format!(" (again at {at:.0})"),
        None => String::new(),
    };
    format!("{status}{}{next}", last.detail)
}
