//! Sums as a table with bars.

use stratavore_proto::v1::{UsageGroup, UsageReport, UsageSums};
use unicode_width::UnicodeWidthStr;

use crate::table::{Cell, Column, Table, Tone};
use crate::units;
use crate::view::total;

/// The chart's narrowest and widest bar, and how wide it is where there is no terminal.
const BAR_MIN: usize = 6;
const BAR_MAX: usize = 40;
const BAR_USUAL: usize = 20;

pub(super) fn several(messages: i64) -> String {
    format!("{} message{}", units::grouped(messages), if messages == 1 { "" } else { "s" })
}

/// A line for each group, with a bar that fits what is left of the width, and the sum of all.
pub(crate) fn group_table(
    heading: &'static str,
    groups: &[UsageGroup],
    report: Option<&UsageReport>,
    width: Option<usize>,
) -> Vec<String> {
    let mut rows: Vec<(String, UsageSums, Tone)> = groups
        .iter()
        .map(|group| {
            let label = if group.label.is_empty() { "(none)" } else { &*group.label };
            let label = label.lines().next().unwrap_or(label);
            (label.to_owned(), group.sums.unwrap_or_default(), Tone::Strong)
        })
        .collect();
    if let Some(report) = report {
        if report.more > 0 {
            let label = format!("{} more", report.more);
            rows.push((label, report.others.unwrap_or_default(), Tone::Dim));
        }
        rows.push(("total".into(), report.total.unwrap_or_default(), Tone::Plain));
    }
    // By money if any of it has a price, else by tokens.
    let by_cost = groups.iter().any(|group| group.sums.unwrap_or_default().cost > 0);
    let much = |sums: &UsageSums| if by_cost { sums.cost } else { total(sums) };
    let most = groups.iter().map(|g| much(&g.sums.unwrap_or_default())).max().unwrap_or(0);
    let plain = lines(heading, &rows, width, |_| None);
    let used = plain.iter().map(|line| anstream::adapter::strip_str(line).to_string().width());
    let used = used.max().unwrap_or(0);
    let room = width.map_or(BAR_USUAL, |width| width.saturating_sub(used + 2)).min(BAR_MAX);
    if room < BAR_MIN || most <= 0 {
        return plain;
    }
    let groups = groups.len();
    lines(heading, &rows, width, |place| {
        (place < groups).then(|| bar(much(&rows[place].1), most, room))
    })
}

fn lines(
    heading: &'static str,
    rows: &[(String, UsageSums, Tone)],
    width: Option<usize>,
    bar: impl Fn(usize) -> Option<String>,
) -> Vec<String> {
    let with_bars = (0..rows.len()).any(|place| bar(place).is_some());
    let mut columns = vec![
        Column::new(heading).shrinks(),
        Column::new("MESSAGES").right(),
        Column::new("INPUT").right(),
        Column::new("CACHED").right(),
        Column::new("WRITTEN").right(),
        Column::new("OUTPUT").right(),
        Column::new("TOKENS").right(),
        Column::new("COST").right(),
    ];
    columns.extend(with_bars.then_some(Column::new("")));
    let mut table = Table::new(columns);
    for (place, (label, sums, tone)) in rows.iter().enumerate() {
        let cost =
            if sums.unpriced == sums.messages { "-".into() } else { units::money(sums.cost) };
        let mut cells = vec![
            Cell::toned(label, *tone),
            Cell::new(units::grouped(sums.messages)),
            Cell::new(units::grouped(sums.input)),
            Cell::new(units::grouped(sums.cache_read)),
            Cell::new(units::grouped(sums.cache_write.saturating_add(sums.cache_write_1h))),
            Cell::new(units::grouped(sums.output.saturating_add(sums.reasoning))),
            Cell::new(units::grouped(total(sums))),
            Cell::new(cost),
        ];
        if with_bars {
            cells.push(Cell::toned(bar(place).unwrap_or_default(), Tone::Good));
        }
        table.row(cells);
    }
    table.lines(width)
}

/// A bar of as many signs as `much` is of `most`; at least one if it is anything.
fn bar(much: i64, most: i64, room: usize) -> String {
    if much <= 0 {
        return String::new();
    }
    let signs = i128::from(much) * room as i128 / i128::from(most);
    "#".repeat(usize::try_from(signs).unwrap_or(room).clamp(1, room))
}

/// Tokens and cost in a line.
pub(crate) fn tokens_text(sums: &UsageSums) -> String {
    if sums.messages == 0 {
        return String::new();
    }
    let cost = if sums.unpriced == sums.messages {
        "no price is known".into()
    } else {
        units::money(sums.cost)
    };
    format!("{} tokens in {}, {cost}", units::grouped(total(sums)), several(sums.messages))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(label: &str, tokens: i64, cost: i64) -> UsageGroup {
        let sums = UsageSums { input: tokens, cost, messages: 3, ..UsageSums::default() };
        UsageGroup { of: label.into(), label: label.into(), sums: Some(sums) }
    }

    fn chart(width: Option<usize>) -> Vec<String> {
        let groups = [
            group("large", 1_234_567, 4_200_000),
            group("sm\u{1b}[2Jall", 1000, 1),
            group("", 0, 0),
        ];
        let total =
            UsageSums { input: 1_235_567, cost: 4_200_001, messages: 9, ..Default::default() };
        let report = UsageReport { total: Some(total), ..UsageReport::default() };
        let lines = group_table("MODEL", &groups, Some(&report), width);
        lines.iter().map(|line| anstream::adapter::strip_str(line).to_string()).collect()
    }

    #[test]
    fn the_chart_is_stable() {
        insta::assert_snapshot!(chart(Some(110)).join("\n"));
    }

    #[test]
    fn the_chart_fits_any_width() {
        for width in [1, 20, 60, 80, 90, 100, 200] {
            for line in chart(Some(width)) {
                assert!(line.width() <= width && !line.contains('\u{1b}'), "{line:?} in {width}");
            }
        }
        assert!(chart(Some(200))[1].ends_with(&"#".repeat(BAR_MAX)));
        assert!(!chart(Some(60)).join("").contains('#'), "there is no room for a bar");
        assert!(chart(None)[1].ends_with(&"#".repeat(BAR_USUAL)));
    }
}
