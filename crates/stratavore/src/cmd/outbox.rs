//! `stratavore outbox`: where events are delivered to.

use clap::{Args, Subcommand};
use serde_json::json;
use stratavore_core::clock::Clock;
use stratavore_core::terminal::Untrusted;
use stratavore_proto::v1::{
    DeadLetter, Destination, ForgetDestination, ListDeadLetters, OutboxStatusRequest,
    RetryDeadLetters,
};

use crate::api::{Api, failure};
use crate::clock::ago;
use crate::context::Context;
use crate::exit::{Exit, Failure};
use crate::table::{Cell, Column, Table, Tone};
use crate::view::{DeadLetterView, DestinationView, time};

/// Show what still has to reach RabbitMQ, and what it will not take
#[derive(Debug, Args)]
#[command(after_help = "\
Events wait while a destination is away, and none is lost. One that is refused again and again is set
aside with the reason, and the others go on.

Examples:
  stratavore outbox
  stratavore outbox dead
  stratavore outbox retry dead_7k3m9x2q4v8w1t6y0z5n
  stratavore outbox retry --all
  stratavore outbox forget rabbitmq")]
pub(crate) struct Outbox {
    #[command(subcommand)]
    command: Option<OutboxCommand>,
}

#[derive(Debug, Subcommand)]
enum OutboxCommand {
    /// Show each destination: how it is, and how much waits for it
    Status,
    /// List the events that were set aside, with the reason
    Dead {
        /// Only those of this destination
        #[arg(long, short, value_name = "NAME")]
        destination: Option<String>,
        /// Only those after this position
        #[arg(long, value_name = "N", default_value_t = 0)]
        after: i64,
        /// At most so many [default: 100]
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
        limit: Option<u32>,
    },
    /// Have events that were set aside delivered again
    Retry {
        /// The id that `outbox dead` shows
        #[arg(required_unless_present = "all", value_name = "ID")]
        id: Option<String>,
        /// All of them
        #[arg(long, conflicts_with = "id")]
        all: bool,
        /// With --all: only those of this destination
        #[arg(long, short, value_name = "NAME", requires = "all")]
        destination: Option<String>,
    },
    /// Forget a destination that no daemon delivers to any more, with what was set aside for it
    Forget {
        /// As `outbox status` shows it
        #[arg(value_name = "NAME")]
        name: String,
    },
}

pub(crate) fn run(context: &Context, args: Outbox) -> Result<Exit, Failure> {
    context.block_on(async {
        let mut api = Api::connect(context).await?;
        match args.command.unwrap_or(OutboxCommand::Status) {
            OutboxCommand::Status => {
                let asked =
                    api.call(async |client| client.outbox().status(OutboxStatusRequest {}).await);
                status(context, &asked.await?.destinations)?;
            }
            OutboxCommand::Dead { destination, after, limit } => {
                let list = ListDeadLetters {
                    destination: destination.unwrap_or_default(),
                    after,
                    limit: limit.unwrap_or(0),
                };
                let asked =
                    api.call(async |client| client.outbox().dead_letters(list.clone()).await);
                dead(context, &asked.await?.dead_letters)?;
            }
            OutboxCommand::Retry { id, destination, all: _ } => {
                let retry = RetryDeadLetters {
                    id: id.unwrap_or_default(),
                    destination: destination.unwrap_or_default(),
                };
                let asked = api.call(async |client| client.outbox().retry(retry.clone()).await);
                let count = asked.await?.count;
                context.ui.show(&json!({ "retried": count }), || match count {
                    0 => context.ui.line("nothing was set aside"),
                    1 => context.ui.line("1 event goes out again"),
                    count => context.ui.line(format!("{count} events go out again")),
                })?;
            }
            OutboxCommand::Forget { name } => {
                // Not asked again where the answer was lost: then it may be gone already.
                let forget = ForgetDestination { name: name.clone() };
                let answer = api.client().outbox().forget(forget).await;
                let left = answer.map_err(|status| failure(&status))?.into_inner();
                let shown = json!({ "forgotten": name, "pending": left.pending, "dead": left.dead });
                context.ui.show(&shown, || {
                    let (name, pending, dead) = (Untrusted(&name), left.pending, left.dead);
                    context.ui.line(format!(
                        "{name} is forgotten: it has not got {pending} events, and {dead} were set aside"
                    ))
                })?;
            }
        }
        Ok(Exit::Ok)
    })
}

fn status(context: &Context, destinations: &[Destination]) -> Result<(), Failure> {
    let views: Vec<DestinationView> = destinations.iter().map(DestinationView::from).collect();
    context.ui.show(&views, || {
        if destinations.is_empty() {
            context.ui.note("events go nowhere else: set bus.url to have them in RabbitMQ");
            return Ok(());
        }
        let now = context.clock.now();
        let mut table = Table::new([
            Column::new("NAME"),
            Column::new("HEALTH"),
            Column::new("POSITION").right(),
            Column::new("PENDING").right(),
            Column::new("OLDEST"),
            Column::new("DEAD").right(),
            Column::new("PROBLEM").shrinks(),
        ]);
        for destination in destinations {
            let tone = match (destination.health.as_str(), destination.problem.is_empty()) {
                ("connected", true) => Tone::Good,
                ("misconfigured", _) => Tone::Bad,
                _ => Tone::Warning,
            };
            let oldest = time(destination.oldest_at_us);
            table.row([
                Cell::new(&destination.name),
                Cell::toned(&destination.health, tone),
                Cell::new(destination.position.to_string()),
                Cell::new(destination.pending.to_string()),
                Cell::new(if oldest.is_some() { ago(now, oldest) } else { "-".into() }),
                Cell::new(destination.dead.to_string()),
                Cell::new(&destination.problem),
            ]);
        }
        context.ui.table(&table)
    })
}

fn dead(context: &Context, letters: &[DeadLetter]) -> Result<(), Failure> {
    let views: Vec<DeadLetterView> = letters.iter().map(DeadLetterView::from).collect();
    context.ui.show(&views, || {
        if letters.is_empty() {
            context.ui.note("nothing is set aside");
            return Ok(());
        }
        let mut table = Table::new([
            Column::new("ID"),
            Column::new("DESTINATION"),
            Column::new("POSITION").right(),
            Column::new("KIND"),
            Column::new("NAME"),
            Column::new("TRIED").right(),
            Column::new("REASON").shrinks(),
        ]);
        for letter in letters {
            let event = letter.event.clone().unwrap_or_default();
            let waits = if letter.retry_at_us == 0 { "" } else { " (goes out again)" };
            table.row([
                Cell::new(&letter.id),
                Cell::new(&letter.destination),
                Cell::new(event.position.to_string()),
                Cell::new(&event.kind),
                Cell::new(&event.name),
                Cell::new(letter.attempts.to_string()),
                Cell::new(format!("{}{waits}", letter.reason)),
            ]);
        }
        context.ui.table(&table)
    })
}
