//! `stratavore budget`: how much may be used, and what is.

use clap::{ArgGroup, Args, Subcommand};
use jiff::tz::TimeZone;
use stratavore_core::budget::{Unit, Zone};
use stratavore_core::terminal::escape_untrusted;
use stratavore_proto::v1;

use crate::api::Api;
use crate::clock::fresh_key;
use crate::context::Context;
use crate::exit::{Exit, Failure};
use crate::table::{Cell, Column, Table, Tone};
use crate::view::{AllowedView, BudgetDetailView, BudgetHistoryView, BudgetView, time};

/// The width of a bar, in characters.
const BAR: usize = 20;

/// Limit what is used: tokens, money, or time
#[derive(Debug, Args)]
#[command(after_help = "\
A budget counts what is reported from when it was set on. A launch is refused where it does not
fit; what else is done as the budget is used up, its steps say. docs/budgets.md has all of it, and
by how much a budget can be overrun.

Examples:
  stratavore budget
  stratavore budget set daily --money 50 --step 90=pause --step 100=stop_now
  stratavore budget set api-week --project api --every week --tokens 20M
  stratavore budget set careful --every run --time 2h --step 100=stop_at_turn_end
  stratavore budget show daily
  stratavore budget history daily
  stratavore budget allow my-runner --amount 5
  stratavore budget rm daily")]
pub(crate) struct Budget {
    #[command(subcommand)]
    command: Option<BudgetCommand>,
}

#[derive(Debug, Subcommand)]
enum BudgetCommand {
    /// List all budgets, and what is used of them
    List {
        /// Only those that count what this project uses
        #[arg(long, short)]
        project: Option<String>,
    },
    /// Make a budget, or change one
    Set(Box<Set>),
    /// Remove a budget; its history stays
    #[command(visible_alias = "remove")]
    Rm { name: String },
    /// Show a budget, and who has used it
    Show { name: String },
    /// Show what was used in each period
    History {
        name: String,
        /// At most so many periods [default: 30]
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
        limit: Option<u32>,
    },
    /// Let a runner go on although a budget holds it, or will
    Allow(Allow),
}

#[derive(Debug, Args)]
#[command(
    group(ArgGroup::new("what").args(["tokens", "money", "time", "amount"])),
    after_help = "\
What is done at a step, weakest first:
  notify            People are told (stratavore notify)
  ask               Runners are paused, and a person is asked (budget allow)
  pause             Runners are paused until there is room again
  stop_at_turn_end  Runners are stopped once they have done what they are at
  stop_now          Runners are stopped

Without steps, people are told at 75, 90 and 100 %. Of a budget that is there, only what is given
changes: its amount, --reserve, and all steps.

Examples:
  stratavore budget set daily --money 50 --step 75=notify --step 100=stop_at_turn_end
  stratavore budget set daily --amount 80
  stratavore budget set api-month --project api --every month --zone Europe/Berlin --tokens 500M"
)]
struct Set {
    /// What it is called
    name: String,
    /// Tokens of all kinds: 500000, 500k, 20M
    #[arg(long, value_name = "N")]
    tokens: Option<String>,
    /// US dollars: 50, 12.50
    #[arg(long, value_name = "DOLLARS")]
    money: Option<String>,
    /// That runners run: 90m, 8h
    #[arg(long, value_name = "TIME")]
    time: Option<String>,
    /// Another amount of the same unit, for a budget that is there
    #[arg(long, value_name = "N")]
    amount: Option<String>,
    /// Count what one project uses [default: everybody]
    #[arg(long, short, value_name = "PROJECT")]
    project: Option<String>,
    /// Count what one runner uses
    #[arg(long, value_name = "RUNNER")]
    runner: Option<String>,
    /// hour, day, week, month, or run [default: day; of a runner: run]
    #[arg(long, value_name = "PERIOD")]
    every: Option<String>,
    /// The time zone in which days begin [default: that of this host]
    #[arg(long, value_name = "NAME")]
    zone: Option<String>,
    /// What each launch reserves [default: a hundredth of the amount]
    #[arg(long, value_name = "N")]
    reserve: Option<String>,
    /// What is done at so many percent: 90=pause; may be given several times
    #[arg(long = "step", value_name = "PERCENT=DEED", value_delimiter = ',')]
    steps: Vec<String>,
}

#[derive(Debug, Args)]
struct Allow {
    runner: String,
    /// The project of the runner
    #[arg(long, short)]
    project: Option<String>,
    /// The budget [default: the one that holds it]
    #[arg(long, value_name = "NAME")]
    budget: Option<String>,
    /// So much more than it has used [default: whatever it uses until the period ends]
    #[arg(long, value_name = "N")]
    amount: Option<String>,
}

impl From<Set> for v1::SetBudget {
    fn from(set: Set) -> Self {
        let (unit, amount) = match (set.tokens, set.money, set.time, set.amount) {
            (Some(tokens), ..) => (Unit::Tokens.as_str(), tokens),
            (_, Some(money), ..) => (Unit::Money.as_str(), money),
            (_, _, Some(time), _) => (Unit::Time.as_str(), time),
            (_, _, _, amount) => ("", amount.unwrap_or_default()),
        };
        Self {
            name: set.name,
            project: set.project.unwrap_or_default(),
            runner: set.runner.unwrap_or_default(),
            every: set.every.unwrap_or_default(),
            zone: set.zone.unwrap_or_default(),
            unit: unit.into(),
            amount,
            reserve: set.reserve.unwrap_or_default(),
            steps: set.steps,
            idempotency_key: fresh_key(),
        }
    }
}

/// Where days begin for whoever sits at this host.
fn zone_here() -> String {
    let here = TimeZone::system();
    let known = here.iana_name().filter(|name| Zone::parse(name).is_some());
    known.unwrap_or("UTC").into()
}

pub(crate) fn run(context: &Context, args: Budget) -> Result<Exit, Failure> {
    context.block_on(async {
        let mut api = Api::connect(context).await?;
        match args.command.unwrap_or(BudgetCommand::List { project: None }) {
            BudgetCommand::List { project } => {
                let list = v1::ListBudgets { project: project.unwrap_or_default() };
                let asked = api.call(async |client| client.budgets().list(list.clone()).await);
                self::list(context, &asked.await?.budgets)?;
            }
            BudgetCommand::Set(set) => {
                let mut set = v1::SetBudget::from(*set);
                // That of this host is for new ones; one that is there has its own.
                let is_new = set.zone.is_empty() && !exists(&mut api, &set.name).await?;
                if is_new {
                    set.zone = zone_here();
                }
                let asked = api.call(async |client| client.budgets().set(set.clone()).await);
                show(context, &asked.await?)?;
            }
            BudgetCommand::Rm { name } => {
                let remove = v1::RemoveBudget { budget: name, idempotency_key: fresh_key() };
                let asked = api.call(async |client| client.budgets().remove(remove.clone()).await);
                let removed = asked.await?;
                context.ui.note(format!("{} counts and holds nothing any more", removed.name));
                context.ui.show(&BudgetView::from(&removed), || Ok(()))?;
            }
            BudgetCommand::Show { name } => {
                let wanted = v1::ShowBudget { budget: name };
                let asked = api.call(async |client| client.budgets().show(wanted.clone()).await);
                detail(context, &asked.await?)?;
            }
            BudgetCommand::History { name, limit } => {
                let of = v1::BudgetHistoryOf { budget: name, limit: limit.unwrap_or(0) };
                let asked = api.call(async |client| client.budgets().history(of.clone()).await);
                history(context, &asked.await?)?;
            }
            BudgetCommand::Allow(allow) => {
                let wish = v1::AllowBudget {
                    runner: allow.runner,
                    project: allow.project.unwrap_or_default(),
                    budget: allow.budget.unwrap_or_default(),
                    amount: allow.amount.unwrap_or_default(),
                    idempotency_key: fresh_key(),
                };
                let asked = api.call(async |client| client.budgets().allow(wish.clone()).await);
                allowed(context, &asked.await?, &wish.amount)?;
            }
        }
        Ok(Exit::Ok)
    })
}

async fn exists(api: &mut Api<'_>, name: &str) -> Result<bool, Failure> {
    let asked = api.call(async |client| client.budgets().list(v1::ListBudgets::default()).await);
    Ok(asked.await?.budgets.iter().any(|budget| budget.name == name))
}

fn unit(budget: &v1::Budget) -> Unit {
    Unit::parse(&budget.unit).unwrap_or(Unit::Tokens)
}

fn limit(budget: &v1::Budget) -> String {
    let amount = unit(budget).show(budget.amount);
    match budget.every.as_str() {
        "run" => format!("{amount} a run"),
        every => format!("{amount} a{} {every}", if every == "hour" { "n" } else { "" }),
    }
}

fn scope(budget: &v1::Budget) -> String {
    match budget.scope.as_str() {
        "project" => format!("project {}", budget.project),
        "runner" => format!("runner {}", budget.runner),
        _ => "everybody".into(),
    }
}

fn steps(steps: &[v1::BudgetStep]) -> String {
    let shown: Vec<String> =
        steps.iter().map(|step| format!("{}={}", step.percent, step.action)).collect();
    shown.join(" ")
}

/// How much of `amount` is used, in whole percent, and how it looks.
fn percent(used: i64, amount: i64) -> (i64, Tone) {
    let percent = i128::from(used.max(0)) * 100 / i128::from(amount.max(1));
    let percent = i64::try_from(percent).unwrap_or(i64::MAX);
    let tone = match percent {
        ..75 => Tone::Good,
        75..100 => Tone::Warning,
        _ => Tone::Bad,
    };
    (percent, tone)
}

/// `used` of `whole` as a bar of plain characters, with what is reserved after it.
fn bar(used: i64, reserved: i64, whole: i64) -> String {
    let part = |amount: i64| {
        let cells = i128::from(amount.max(0)) * BAR as i128 / i128::from(whole.max(1));
        usize::try_from(cells).unwrap_or(BAR).min(BAR)
    };
    // What is used at all is seen.
    let full = if used > 0 { part(used).max(1) } else { 0 };
    let held = part(used.saturating_add(reserved)).max(full) - full;
    format!("[{}{}{}]", "#".repeat(full), "+".repeat(held), ".".repeat(BAR - full - held))
}

fn list(context: &Context, budgets: &[v1::Budget]) -> Result<(), Failure> {
    let views: Vec<BudgetView> = budgets.iter().map(BudgetView::from).collect();
    context.ui.show(&views, || {
        if budgets.is_empty() {
            context.ui.note("nothing is limited: stratavore budget set --help");
            return Ok(());
        }
        let mut table = Table::new([
            Column::new("NAME"),
            Column::new("OF").shrinks(),
            Column::new("LIMIT"),
            Column::new("USED").right(),
            Column::new("%").right(),
            Column::new(""),
            Column::new("STEPS").shrinks(),
        ]);
        for budget in budgets {
            let period = budget.periods.first().cloned().unwrap_or_default();
            let (percent, tone) = percent(period.used, budget.amount);
            table.row([
                Cell::new(&budget.name),
                Cell::new(scope(budget)),
                Cell::new(limit(budget)),
                Cell::new(unit(budget).show(period.used)),
                Cell::toned(percent.to_string(), tone),
                Cell::toned(bar(period.used, period.reserved, budget.amount), tone),
                Cell::toned(steps(&budget.steps), Tone::Dim),
            ]);
        }
        context.ui.table(&table)
    })
}

fn show(context: &Context, budget: &v1::Budget) -> Result<(), Failure> {
    context.ui.show(&BudgetView::from(budget), || fields(context, budget))
}

fn fields(context: &Context, budget: &v1::Budget) -> Result<(), Failure> {
    let unit = unit(budget);
    let mut fields = vec![
        ("name", budget.name.clone()),
        ("id", budget.id.clone()),
        ("counts", scope(budget)),
        ("limit", limit(budget)),
        ("days begin in", budget.zone.clone()),
        ("a launch reserves", unit.show(budget.reserve)),
        ("steps", steps(&budget.steps)),
    ];
    if let Some(at) = time(budget.removed_at_us) {
        fields.push(("removed", format!("{at:.0}")));
    }
    if let [period] = &budget.periods[..]
        && budget.removed_at_us == 0
    {
        let (percent, _) = percent(period.used, budget.amount);
        fields.push(("used", format!("{} ({percent} %)", unit.show(period.used))));
        fields.push(("", bar(period.used, period.reserved, budget.amount)));
        fields.push(("reserved", unit.show(period.reserved)));
        if let (Some(at), Some(zone)) = (time(period.ends_at_us), Zone::parse(&budget.zone)) {
            fields.push(("begins anew", format!("{} {zone}", zone.show(at))));
        }
    }
    let fields: Vec<(&str, String)> =
        fields.into_iter().map(|(name, text)| (name, escape_untrusted(&text))).collect();
    context.ui.fields(&fields)
}

fn detail(context: &Context, detail: &v1::BudgetDetail) -> Result<(), Failure> {
    context.ui.show(&BudgetDetailView::from(detail), || {
        let budget = detail.budget.clone().unwrap_or_default();
        fields(context, &budget)?;
        let unit = unit(&budget);
        if budget.every == "run" {
            return periods(context, &budget, &budget.periods);
        }
        if detail.shares.is_empty() {
            return Ok(());
        }
        let mut table = Table::new([
            Column::new("RUNNER").shrinks(),
            Column::new("USED").right(),
            Column::new("RESERVED").right(),
            Column::new("MAY USE").right(),
        ]);
        for share in &detail.shares {
            let allowed = match share.allowed {
                None => String::new(),
                Some(i64::MAX) => "any amount".into(),
                Some(upto) => unit.show(upto),
            };
            table.row([
                Cell::new(&share.runner),
                Cell::new(unit.show(share.used)),
                Cell::toned(unit.show(share.reserved), Tone::Dim),
                Cell::new(allowed),
            ]);
        }
        context.ui.line("")?;
        context.ui.table(&table)
    })
}

fn history(context: &Context, history: &v1::BudgetHistory) -> Result<(), Failure> {
    context.ui.show(&BudgetHistoryView::from(history), || {
        let budget = history.budget.clone().unwrap_or_default();
        if history.periods.is_empty() {
            context.ui.note("nothing was used yet");
            return Ok(());
        }
        periods(context, &budget, &history.periods)
    })
}

fn periods(
    context: &Context,
    budget: &v1::Budget,
    periods: &[v1::BudgetPeriod],
) -> Result<(), Failure> {
    let (unit, zone) = (unit(budget), Zone::parse(&budget.zone).unwrap_or_else(Zone::utc));
    // What is above the limit is seen as such.
    let most = periods.iter().map(|period| period.used).max().unwrap_or(0).max(budget.amount);
    let mut table = Table::new([
        Column::new("PERIOD"),
        Column::new("USED").right(),
        Column::new("%").right(),
        Column::new(""),
        Column::new("REACHED").shrinks(),
    ]);
    for period in periods {
        let begins = match time(period.starts_at_us) {
            Some(at) => zone.show(at),
            None => period.runner_id.clone(),
        };
        let (percent, tone) = percent(period.used, budget.amount);
        table.row([
            Cell::new(begins),
            Cell::new(unit.show(period.used)),
            Cell::toned(percent.to_string(), tone),
            Cell::toned(bar(period.used, period.reserved, most), tone),
            Cell::toned(steps(&period.reached), Tone::Dim),
        ]);
    }
    context.ui.table(&table)
}

fn allowed(context: &Context, allowed: &v1::AllowedBudget, amount: &str) -> Result<(), Failure> {
    context.ui.show(&AllowedView::from(allowed), || {
        let budget = allowed.budget.clone().unwrap_or_default();
        let much = match unit(&budget).read(amount) {
            Some(amount) => format!("may use {} more", unit(&budget).show(amount)),
            None => "may go on".into(),
        };
        let until = match time(allowed.until_us) {
            Some(at) => format!(", until {at:.0} at the latest"),
            None => String::new(),
        };
        let line = format!("{} {much} beyond {}{until}", allowed.runner, budget.name);
        context.ui.line(escape_untrusted(&line))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_shows_what_is_used_and_reserved_and_never_more_than_all() {
        assert_eq!(bar(0, 0, 100), "[....................]");
        assert_eq!(bar(1, 0, 1000), "[#...................]");
        assert_eq!(bar(50, 25, 100), "[##########+++++.....]");
        assert_eq!(bar(500, 25, 100), "[####################]");
        assert_eq!(bar(-5, 0, 100), "[....................]");
        assert_eq!(bar(i64::MAX, i64::MAX, i64::MAX), "[####################]");
    }

    #[test]
    fn percents_are_rounded_down_so_that_all_is_all() {
        assert_eq!(percent(999, 1000).0, 99);
        assert_eq!(percent(1000, 1000), (100, Tone::Bad));
        assert_eq!(percent(i64::MAX, 1).0, i64::MAX);
    }
}
