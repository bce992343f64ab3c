//! `stratavore explain`: why a runner is said to do what it does.

use clap::Args;
use stratavore_core::clock::Clock;
use stratavore_proto::v1::{Explanation, GetRunner};

use crate::api::Api;
use crate::clock::ago;
use crate::context::Context;
use crate::exit::{Exit, Failure};
use crate::table::{Cell, Column, Table};
use crate::view::{ExplanationView, time};

/// Explain what is known of a runner's assistant, and from which signals
#[derive(Debug, Args)]
#[command(after_help = "\
What an assistant tells by its own events is trusted most, then its transcript, and only then its
screen. What cannot be proved of an assistant is shown as not proved.

Examples:
  stratavore explain claude
  stratavore explain claude --format json")]
pub(crate) struct Explain {
    /// The runner, by id, the beginning of one, or name
    runner: String,
    /// Narrows a name to one project
    #[arg(long, short, value_name = "PROJECT")]
    project: Option<String>,
}

pub(crate) fn run(context: &Context, args: Explain) -> Result<Exit, Failure> {
    context.block_on(async {
        let mut api = Api::connect(context).await?;
        let get = GetRunner { runner: args.runner, project: args.project.unwrap_or_default() };
        let asked = api.call(async |client| client.inbox().explain(get.clone()).await);
        show(context, &asked.await?)?;
        Ok(Exit::Ok)
    })
}

fn show(context: &Context, explained: &Explanation) -> Result<(), Failure> {
    let view = ExplanationView::from(explained);
    context.ui.show(&view, || {
        let now = context.clock.now();
        let runner = explained.runner.clone().unwrap_or_default();
        let mut fields = vec![
            ("runner", runner.name.clone()),
            ("state", runner.state.clone()),
            ("activity", runner.activity.replace('_', " ")),
        ];
        match &runner.doing {
            Some(doing) => {
                fields.push(("since", ago(now, time(doing.since_us))));
                fields.push(("known by", format!("{} ({})", doing.source, doing.signal)));
                fields.push(("confidence", doing.confidence.clone()));
                if !doing.question.is_empty() {
                    fields.push(("question", doing.question.clone()));
                }
                if doing.resets_at_us != 0 {
                    let at = time(doing.resets_at_us).map(|at| at.to_string());
                    fields.push(("limit ends", at.unwrap_or_default()));
                }
            }
            None if explained.observed => {
                fields.push(("known by", "nothing yet: its assistant has told nothing".into()));
            }
            None if runner.bare => fields.push(("known by", "nothing: it runs bare".into())),
            None => fields.push(("known by", "nothing: it is not known what it runs".into())),
        }
        fields.push(("proved", proved(&view, true)));
        fields.push(("not proved", proved(&view, false)));
        context.ui.fields(&fields)?;
        if explained.signals.is_empty() {
            return Ok(());
        }
        context.ui.line("")?;
        let mut table = Table::new([
            Column::new("SIGNAL"),
            Column::new("AGO").right(),
            Column::new("MEANS").shrinks(),
        ]);
        for read in &explained.signals {
            let meaning = if read.meaning.is_empty() { "-" } else { &read.meaning };
            table.row([
                Cell::new(&read.signal),
                Cell::new(ago(now, time(read.at_us))),
                Cell::new(meaning.replace('\n', " ")),
            ]);
        }
        context.ui.table(&table)
    })
}

/// What can be proved of the assistant, or cannot.
fn proved(view: &ExplanationView, wanted: bool) -> String {
    let serde_json::Value::Object(proves) = &view.proves else { return "-".into() };
    let is_proved = |value: &serde_json::Value| {
        !matches!(value, serde_json::Value::Null | serde_json::Value::Bool(false))
    };
    let named = proves.iter().filter(|(_, value)| is_proved(value) == wanted);
    let names: Vec<String> = named.map(|(name, _)| name.replace('_', " ")).collect();
    if names.is_empty() { "-".into() } else { names.join(", ") }
}
