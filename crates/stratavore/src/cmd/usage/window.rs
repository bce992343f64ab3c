//! `stratavore usage windows`.

use std::time::Duration;

use stratavore_core::Timestamp;
use stratavore_core::clock::Clock;
use stratavore_proto::v1::{ListWindows, Window};

use crate::api::Api;
use crate::context::Context;
use crate::exit::{Exit, Failure};
use crate::table::{Cell, Column, Table, Tone};
use crate::units;
use crate::view::{WindowView, time};

/// From so many percent on it is worth a warning.
const MUCH: f64 = 90.0;

pub(super) fn run(context: &Context, assistant: String) -> Result<Exit, Failure> {
    let request = ListWindows { assistant };
    context.block_on(async {
        let mut api = Api::connect(context).await?;
        let list = api.call(async |client| client.ledger().windows(request.clone()).await).await?;
        let views: Vec<WindowView> = list.windows.iter().map(WindowView::from).collect();
        context.ui.show(&views, || {
            if list.windows.is_empty() {
                context.ui.note("no assistant has told of a subscription's window");
                return Ok(());
            }
            context.ui.table(&table(&list.windows, context.clock.now()))
        })?;
        Ok(Exit::Ok)
    })
}

/// Tells in a line each what is used of the windows that are open, below a report. A daemon that knows of
/// none is no reason to complain.
pub(super) async fn note(context: &Context, api: &mut Api<'_>) {
    let request = ListWindows::default();
    let asked = api.call(async |client| client.ledger().windows(request.clone()).await).await;
    let now = context.clock.now();
    for window in asked.map(|list| list.windows).unwrap_or_default() {
        if !window.over {
            let (assistant, name) = (Cell::new(&window.assistant), Cell::new(&window.name));
            context.ui.note(format!(
                "{} {}: {:.0} % used, {}",
                assistant.text(),
                name.text(),
                window.used_percent,
                resets(&window, now)
            ));
        }
    }
}

fn resets(window: &Window, now: Timestamp) -> String {
    match time(window.resets_at_us) {
        Some(at) if at <= now => "begun anew since".into(),
        Some(at) => {
            let left = Duration::try_from(at.duration_since(now)).unwrap_or_default();
            format!("begins anew in {}", units::span(left))
        }
        None => "it is not told when it begins anew".into(),
    }
}

fn table(windows: &[Window], now: Timestamp) -> Table {
    let mut table = Table::new([
        Column::new("ASSISTANT"),
        Column::new("HOST").shrinks(),
        Column::new("WINDOW"),
        Column::new("USED").right(),
        Column::new("RESET"),
        Column::new("TOLD"),
    ]);
    for window in windows {
        let used = match (window.over, window.used_percent) {
            (true, _) => Cell::toned("-", Tone::Dim),
            (false, used) if used >= MUCH => Cell::toned(format!("{used:.0} %"), Tone::Warning),
            (false, used) => Cell::new(format!("{used:.0} %")),
        };
        let told = time(window.at_us).map_or_else(String::new, |at| format!("{at:.0}"));
        table.row([
            Cell::new(&window.assistant),
            Cell::new(&window.host),
            Cell::new(&window.name),
            used,
            Cell::new(resets(window, now)),
            Cell::toned(told, Tone::Dim),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    /// So many seconds after the time that the table is made at.
    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + seconds).unwrap()
    }

    fn window(assistant: &str, name: &str, used: f64, resets: Option<i64>) -> Window {
        Window {
            assistant: assistant.into(),
            host: "forge".into(),
            name: name.into(),
            used_percent: used,
            resets_at_us: resets.map_or(0, |seconds| at(seconds).as_microsecond()),
            at_us: at(-60).as_microsecond(),
            ..Window::default()
        }
    }

    fn lines(width: Option<usize>) -> Vec<String> {
        let windows = [
            window("claude", "five_hour", 42.4, Some(3 * 3600 + 120)),
            window("claude", "seven_day", 90.0, Some(2 * 86_400)),
            Window { over: true, ..window("codex", "primary", 100.0, Some(-5)) },
            window("codex", "sec\u{1b}[2Jondary", 0.0, None),
        ];
        let lines = table(&windows, at(0)).lines(width);
        lines.iter().map(|line| anstream::adapter::strip_str(line).to_string()).collect()
    }

    #[test]
    fn the_windows_are_shown_the_same() {
        insta::assert_snapshot!(lines(Some(110)).join("\n"));
    }

    #[test]
    fn the_windows_fit_and_do_nothing_to_the_terminal() {
        for width in [40, 80, 110] {
            for line in lines(Some(width)) {
                assert!(!line.contains('\u{1b}'), "{line:?}");
            }
        }
    }
}
