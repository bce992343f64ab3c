//! `stratavore usage`.

mod chart;
mod days;
mod window;

use clap::{Args, Subcommand, builder::PossibleValuesParser};
use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan};
use stratavore_core::clock::Clock;
use stratavore_proto::v1::{
    ExplainUsage, ReportUsage, UsageExplained, UsageFilter, UsageReport, UsageSums,
};

use crate::api::Api;
use crate::context::Context;
use crate::exit::{Exit, Failure};
use crate::table::{Cell, Column, Table, Tone};
use crate::units;
use crate::view::{UsageExplainedView, UsageReportView, time};

use chart::several;
pub(super) use chart::{group_table, tokens_text};

/// How many days a report by day goes back.
const DAYS: i64 = 30;

/// Show what was used: tokens and money, to the last token
#[derive(Debug, Args)]
#[command(after_help = "\
Each billed message counts once, however often it is read. What is counted, and what no assistant
tells, is in docs/usage.md.

Examples:
  stratavore usage                              By model, all there is
  stratavore usage --by day --project api       The last 30 days
  stratavore usage --by runner --since 2026-01-01 --until 2026-02-01
  stratavore usage explain claude               The rows, with where each was read
  stratavore usage windows                      What is used of your subscriptions")]
pub(crate) struct Usage {
    #[command(subcommand)]
    command: Option<UsageCommand>,
    #[command(flatten)]
    report: Report,
}

#[derive(Debug, Subcommand)]
#[expect(clippy::large_enum_variant, reason = "it is made once")]
enum UsageCommand {
    /// Show how much of your subscriptions' windows is used, as assistants were last told
    Windows {
        /// Only those of this assistant
        #[arg(long, short, value_name = "NAME", default_value = "", hide_default_value = true)]
        assistant: String,
    },
    /// Show the rows of a runner, session or project, and where each was read
    ///
    /// Beside our cost stands what the assistant itself says, and at the end what it does not tell at all.
    Explain {
        /// A runner, session or project, by id, the beginning of one, or name
        about: String,
        #[command(flatten)]
        filter: Filter,
        /// At most so many rows, the latest [default: 100]
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
        limit: Option<u32>,
        /// Go on where the rows before said
        #[arg(long, value_name = "PAGE")]
        page: Option<String>,
    },
}

#[derive(Debug, Default, PartialEq, Eq, Args)]
struct Report {
    /// A line for each project, runner, session, model, day or assistant [default: model]
    #[arg(long, value_name = "WHAT", hide_possible_values = true, value_parser = PossibleValuesParser::new(
        ["project", "runner", "session", "model", "day", "assistant"]))]
    by: Option<String>,
    #[command(flatten)]
    filter: Filter,
    /// At most so many lines [default: 100]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    limit: Option<u32>,
}

#[derive(Debug, Default, PartialEq, Eq, Args)]
struct Filter {
    /// Only what this project used
    #[arg(long, short, value_name = "PROJECT")]
    project: Option<String>,
    /// Only what this runner used
    #[arg(long, short, value_name = "RUNNER")]
    runner: Option<String>,
    /// Only what was used in this session
    #[arg(long, value_name = "SESSION")]
    session: Option<String>,
    /// Only what this assistant used
    #[arg(long, short, value_name = "NAME")]
    assistant: Option<String>,
    /// Only what this model was asked for
    #[arg(long, value_name = "MODEL")]
    model: Option<String>,
    /// Only from then on: 7d, a day such as 2026-01-31, or a time
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Only up to then; a day is not of it
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
    /// Whose days are meant, such as Europe/Berlin [default: this host's]
    #[arg(long, value_name = "ZONE")]
    zone: Option<String>,
}

/// What a filter means: its times, and the zone that they were read in.
struct Meant {
    wire: UsageFilter,
    since: Option<Timestamp>,
    until: Option<Timestamp>,
    zone: String,
}

impl Filter {
    fn meant(self, now: Timestamp, days: Option<i64>) -> Result<Meant, Failure> {
        let (name, zone) = match self.zone {
            Some(name) => {
                let zone = TimeZone::get(&name).map_err(|_| {
                    Failure::usage(format!("the time zone `{}` is not known", name.escape_debug()))
                        .next("give a name such as Europe/Berlin")
                })?;
                (name, zone)
            }
            None => match TimeZone::system().iana_name() {
                Some(name) if name != "Etc/Unknown" => (name.to_owned(), TimeZone::system()),
                Some(_) | None => ("UTC".to_owned(), TimeZone::UTC),
            },
        };
        let time = |text: &Option<String>| {
            text.as_deref().map(|text| moment(text, now, &zone)).transpose()
        };
        let (mut since, until) = (time(&self.since)?, time(&self.until)?);
        if let (None, Some(days)) = (since, days) {
            let today = until.unwrap_or(now).to_zoned(zone.clone()).date();
            let first = today.checked_sub((days - 1).days()).unwrap_or(today);
            since = first.to_zoned(zone).ok().map(|first| first.timestamp());
        }
        let micros = |at: Option<Timestamp>| at.map_or(0, |at| at.as_microsecond());
        let wire = UsageFilter {
            project: self.project.unwrap_or_default(),
            session: self.session.unwrap_or_default(),
            runner: self.runner.unwrap_or_default(),
            assistant: self.assistant.unwrap_or_default(),
            model: self.model.unwrap_or_default(),
            since_us: micros(since),
            until_us: micros(until),
        };
        Ok(Meant { wire, since, until, zone: name })
    }
}

/// Reads `7d`, `2026-01-31` (the beginning of that day), or a time.
fn moment(text: &str, now: Timestamp, zone: &TimeZone) -> Result<Timestamp, Failure> {
    if let Ok(at) = text.parse::<Timestamp>() {
        return Ok(at);
    }
    let day = text.parse::<Date>().ok().and_then(|day| day.to_zoned(zone.clone()).ok());
    if let Some(day) = day {
        return Ok(day.timestamp());
    }
    let before = units::parse_duration(text).ok().and_then(|span| now.checked_sub(span).ok());
    before.ok_or_else(|| {
        let text = text.escape_debug();
        Failure::usage(format!("`{text}` is no duration, no day and no time"))
            .next("write 7d, 2026-01-31 or 2026-01-31T12:00:00Z")
    })
}

pub(crate) fn run(context: &Context, args: Usage) -> Result<Exit, Failure> {
    let Usage { command, report } = args;
    if command.is_some() && report != Report::default() {
        return Err(Failure::usage("options come after `explain` or `windows`")
            .next("stratavore usage --help"));
    }
    let now = context.clock.now();
    match command {
        None => {
            let by = report.by.unwrap_or_else(|| "model".into());
            let meant = report.filter.meant(now, (by == "day").then_some(DAYS))?;
            let request = ReportUsage {
                by,
                filter: Some(meant.wire.clone()),
                zone: meant.zone.clone(),
                limit: report.limit.unwrap_or(0),
            };
            context.block_on(async {
                let mut api = Api::connect(context).await?;
                let mut report =
                    api.call(async |client| client.ledger().report(request.clone()).await).await?;
                if report.by == "day" {
                    report.groups = days::with_empty(report.groups);
                }
                show(context, &report, &meant)?;
                window::note(context, &mut api).await;
                Ok(Exit::Ok)
            })
        }
        Some(UsageCommand::Windows { assistant }) => window::run(context, assistant),
        Some(UsageCommand::Explain { about, filter, limit, page }) => {
            let meant = filter.meant(now, None)?;
            let request = ExplainUsage {
                about,
                filter: Some(meant.wire),
                limit: limit.unwrap_or(0),
                page: page.unwrap_or_default(),
            };
            context.block_on(async {
                let mut api = Api::connect(context).await?;
                let explained =
                    api.call(async |client| client.ledger().explain(request.clone()).await).await?;
                explain(context, &explained)?;
                Ok(Exit::Ok)
            })
        }
    }
}

fn show(context: &Context, report: &UsageReport, meant: &Meant) -> Result<(), Failure> {
    let view = UsageReportView::new(report, meant.since, meant.until, &meant.zone);
    context.ui.show(&view, || {
        if report.groups.is_empty() {
            context.ui.note("nothing was used, as far as assistants tell");
            return Ok(());
        }
        let heading: &'static str = match &*report.by {
            "project" => "PROJECT",
            "runner" => "RUNNER",
            "session" => "SESSION",
            "day" => "DAY",
            "assistant" => "ASSISTANT",
            _ => "MODEL",
        };
        let lines = group_table(heading, &report.groups, Some(report), context.ui.width());
        context.ui.line(lines.join("\n"))?;
        remarks(context, &report.total.unwrap_or_default());
        Ok(())
    })
}

/// What is to be known of sums.
fn remarks(context: &Context, total: &UsageSums) {
    let ui = &context.ui;
    if total.unpriced > 0 {
        ui.note(format!("{} have no price, and are not in the cost", several(total.unpriced)));
    }
    if total.estimated > 0 {
        ui.note(format!("{} are the assistant's own guess", several(total.estimated)));
    }
    if total.lost > 0 {
        ui.note(format!("{} were billed and have no figures", several(total.lost)));
    }
    if total.reporting > 0 {
        let (of, reported) = (several(total.reporting), units::money(total.reported));
        ui.note(format!("assistants themselves say {reported} for {of}"));
    }
}

fn explain(context: &Context, explained: &UsageExplained) -> Result<(), Failure> {
    context.ui.show(&UsageExplainedView::from(explained), || {
        let sums = explained.total.unwrap_or_default();
        context.ui.fields(&[
            (&*explained.noun, format!("{} {}", explained.id, explained.label)),
            ("used", tokens_text(&sums)),
            (
                "reported",
                if sums.reporting == 0 {
                    String::new()
                } else {
                    format!("{} for {}", units::money(sums.reported), several(sums.reporting))
                },
            ),
        ])?;
        if explained.rows.is_empty() {
            context.ui.note("nothing was used, as far as the assistant tells");
        } else {
            context.ui.line("")?;
            context.ui.table(&rows(explained))?;
        }
        for not in &explained.not_covered {
            for what in &not.what {
                let of = Cell::new(&not.assistant);
                context.ui.note(format!("not covered ({}): {what}", of.text()));
            }
        }
        if !explained.next.is_empty() {
            let next = Cell::new(&explained.next);
            context.ui.note(format!("there may be more: --page '{}'", next.text()));
        }
        Ok(())
    })
}

fn rows(explained: &UsageExplained) -> Table {
    let mut table = Table::new([
        Column::new("TIME"),
        Column::new("MODEL").shrinks(),
        Column::new("FOR"),
        Column::new("INPUT").right(),
        Column::new("CACHED").right(),
        Column::new("WRITTEN").right(),
        Column::new("OUTPUT").right(),
        Column::new("COST").right(),
        Column::new("REPORTED").right(),
        Column::new("QUALITY"),
        Column::new("MESSAGE").shrinks(),
        Column::new("REQUEST").shrinks(),
        Column::new("READ AT").shrinks(),
    ]);
    let or_dash = |text: &str| if text.is_empty() { "-".to_owned() } else { text.to_owned() };
    for row in &explained.rows {
        let sums = row.sums.unwrap_or_default();
        let money = |cost: Option<i64>| cost.map_or_else(|| "-".to_owned(), units::money);
        let tone = if row.quality == "exact" { Tone::Good } else { Tone::Warning };
        table.row([
            Cell::toned(
                time(row.at_us).map_or_else(String::new, |at| format!("{at:.0}")),
                Tone::Dim,
            ),
            Cell::new(&row.model),
            Cell::new(&row.purpose),
            Cell::new(units::grouped(sums.input)),
            Cell::new(units::grouped(sums.cache_read)),
            Cell::new(units::grouped(sums.cache_write.saturating_add(sums.cache_write_1h))),
            Cell::new(units::grouped(sums.output.saturating_add(sums.reasoning))),
            Cell::new(money(row.cost)),
            Cell::new(money(row.reported)),
            Cell::toned(&row.quality, tone),
            Cell::new(or_dash(&row.message_id)),
            Cell::new(or_dash(&row.request_id)),
            Cell::toned(format!("{}:{}", row.file, row.offset), Tone::Dim),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_a_duration_a_day_or_a_time() {
        let now: Timestamp = "2026-01-31T12:00:00Z".parse().unwrap();
        let zone = TimeZone::get("Europe/Berlin").unwrap();
        let read = |text: &str| moment(text, now, &zone).unwrap().to_string();
        assert_eq!(read("1d"), "2026-01-30T12:00:00Z");
        assert_eq!(read("2026-01-30"), "2026-01-29T23:00:00Z");
        assert_eq!(read("2026-01-30T12:00:00+01:00"), "2026-01-30T11:00:00Z");
        assert_eq!(moment("soon", now, &zone).unwrap_err().exit, Exit::Usage);
        let filter = Filter { zone: Some("Europe/Berlin".into()), ..Filter::default() };
        let meant = filter.meant(now, Some(30)).unwrap();
        assert_eq!(meant.since.unwrap().to_string(), "2026-01-01T23:00:00Z");
    }
}
