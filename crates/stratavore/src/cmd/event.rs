//! `stratavore events`.

use clap::{Args, Subcommand};
use stratavore_core::terminal::Untrusted;
use stratavore_proto::v1::{Event, EventFilter, ListEvents, StatusRequest, SubscribeEvents};

use crate::api::{Api, failure, is_lost};
use crate::context::Context;
use crate::exit::{Exit, Failure};
use crate::table::{Cell, Column, Table, Tone};
use crate::view::{EventView, time};

/// List events, or follow them as they come
#[derive(Debug, Args)]
#[command(after_help = "\
Every change is an event with a position. A subscriber that says after which position it goes on
misses none and gets none twice.

Examples:
  stratavore events --limit 20
  stratavore events --project api --kind runner.failed
  stratavore events subscribe --kind runner. --format json
  stratavore events subscribe --after 1042")]
pub(crate) struct Events {
    #[command(subcommand)]
    command: Option<EventsCommand>,
    #[command(flatten)]
    filter: Filter,
    /// At most so many [default: 100]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    limit: Option<u32>,
}

#[derive(Debug, Subcommand)]
enum EventsCommand {
    /// List the latest events, or those after a position
    List {
        #[command(flatten)]
        filter: Filter,
        /// At most so many [default: 100]
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
        limit: Option<u32>,
    },
    /// Print events as they come, until interrupted
    Subscribe {
        #[command(flatten)]
        filter: Filter,
        /// End after so many
        #[arg(long, value_name = "N")]
        limit: Option<u64>,
    },
}

#[derive(Debug, Default, PartialEq, Eq, Args)]
struct Filter {
    /// Only those of this project
    #[arg(long, short, value_name = "PROJECT")]
    project: Option<String>,
    /// Only those of this runner
    #[arg(long, short, value_name = "RUNNER")]
    runner: Option<String>,
    /// Only this kind, or kinds that begin so if it ends in a dot; may be given more than once
    #[arg(long, short, value_name = "KIND")]
    kind: Vec<String>,
    /// Only those after this position
    #[arg(long, value_name = "N")]
    after: Option<i64>,
}

impl Filter {
    fn wire(&self) -> EventFilter {
        EventFilter {
            project: self.project.clone().unwrap_or_default(),
            runner: self.runner.clone().unwrap_or_default(),
            kinds: self.kind.clone(),
        }
    }
}

pub(crate) fn run(context: &Context, args: Events) -> Result<Exit, Failure> {
    let Events { command, filter, limit } = args;
    if command.is_some() && (filter != Filter::default() || limit.is_some()) {
        return Err(Failure::usage("options come after `list` and `subscribe`")
            .next("stratavore events --help"));
    }
    context.block_on(async {
        let mut api = Api::connect(context).await?;
        match command.unwrap_or(EventsCommand::List { filter, limit }) {
            EventsCommand::List { filter, limit } => {
                let list = ListEvents {
                    filter: Some(filter.wire()),
                    after: filter.after,
                    limit: limit.unwrap_or(0),
                };
                let events =
                    api.call(async |client| client.events().list(list.clone()).await).await?.events;
                show(context, &events)?;
            }
            EventsCommand::Subscribe { filter, limit } => {
                subscribe(context, &mut api, &filter, limit).await?
            }
        }
        Ok(Exit::Ok)
    })
}

fn show(context: &Context, events: &[Event]) -> Result<(), Failure> {
    let views: Vec<EventView> = events.iter().map(EventView::from).collect();
    context.ui.show(&views, || {
        if events.is_empty() {
            context.ui.note("no event");
            return Ok(());
        }
        let mut table = Table::new([
            Column::new("POSITION").right(),
            Column::new("TIME"),
            Column::new("KIND"),
            Column::new("NAME"),
            Column::new("ENTITY"),
            Column::new("BY").shrinks(),
            Column::new("DATA").shrinks(),
        ]);
        for event in events {
            table.row([
                Cell::new(event.position.to_string()),
                Cell::toned(at(event), Tone::Dim),
                Cell::toned(&event.kind, tone(&event.kind)),
                Cell::new(&event.name),
                Cell::toned(&event.entity_id, Tone::Dim),
                Cell::new(&event.by),
                Cell::toned(&event.data, Tone::Dim),
            ]);
        }
        context.ui.table(&table)
    })
}

/// Prints events as they come, over as many connections as it takes.
async fn subscribe(
    context: &Context,
    api: &mut Api<'_>,
    filter: &Filter,
    limit: Option<u64>,
) -> Result<(), Failure> {
    let mut left = limit.unwrap_or(u64::MAX);
    // A position from the beginning, so that nothing is missed if the first connection is lost.
    let mut after = match filter.after {
        Some(after) => after,
        None => {
            api.call(async |client| client.daemon().status(StatusRequest {}).await)
                .await?
                .last_event_position
        }
    };
    let mut timeline = 0;
    while left > 0 {
        let request = SubscribeEvents { filter: Some(filter.wire()), after: Some(after), timeline };
        let ended = match api.client().events().subscribe(request).await {
            Ok(response) => {
                let mut events = response.into_inner();
                loop {
                    if left == 0 {
                        return Ok(());
                    }
                    match events.message().await {
                        Ok(Some(event)) => {
                            // Safe to repeat: positions only grow, but for a server that was promoted
                            // without the last of them.
                            if event.position > after || event.timeline > timeline {
                                (after, timeline) = (event.position, event.timeline);
                                left -= 1;
                                context.ui.item(&EventView::from(&event), || line(&event))?;
                            }
                        }
                        Ok(None) => break None,
                        Err(status) => break Some(status),
                    }
                }
            }
            Err(status) => Some(status),
        };
        if let Some(status) = ended.filter(|status| !is_lost(status)) {
            return Err(failure(&status));
        }
        context.ui.note("lost the daemon; going on when it is back");
        api.wait_for_daemon().await?;
    }
    Ok(())
}

fn line(event: &Event) -> String {
    format!(
        "{}  {}  {}  {}  {}  {}  {}",
        Tone::Dim.paint(&at(event)),
        event.position,
        tone(&event.kind).paint(&Untrusted(&event.kind).to_string()),
        Untrusted(&event.name),
        Tone::Dim.paint(&Untrusted(&event.entity_id).to_string()),
        Untrusted(&event.by),
        Tone::Dim.paint(&Untrusted(&event.data).to_string()),
    )
}

fn at(event: &Event) -> String {
    time(event.at_us).map_or_else(String::new, |at| format!("{at:.3}"))
}

fn tone(kind: &str) -> Tone {
    match kind.rsplit('.').next() {
        Some("failed" | "lost") => Tone::Bad,
        Some("unresponsive" | "limits_not_enforced" | "output_gap" | "restarting") => Tone::Warning,
        Some("started" | "responsive") => Tone::Good,
        Some(_) | None => Tone::Plain,
    }
}
