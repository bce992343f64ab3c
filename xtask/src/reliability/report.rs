//! The report: a table of what was tried and what broke.

use std::collections::BTreeSet;
use std::fmt::Write;

use super::Asked;
use super::lines::{Control, Line, merged, under_way};
use crate::test::Length;

pub(super) fn report(asked: &Asked, facts: &[(&str, String)], lines: &[Line]) -> String {
    let took = under_way(lines);
    let lines = merged(lines);
    let tests: BTreeSet<&str> = lines.iter().map(|line| line.test.as_str()).collect();
    let (violations, n) =
        lines.iter().fold((0, 0), |(v, n), line| (v + line.violations, n + line.n));
    let controls: Vec<&Control> = lines.iter().flat_map(|line| &line.controls).collect();
    let caught = controls.iter().filter(|control| control.caught).count();
    let tier = match (asked.length, asked.soak) {
        (_, Some(soak)) => &format!("the soak, for {} s", soak.as_secs()),
        (Length::Short, None) => "commit (small counts, the ones of `make test`)",
        (Length::Long, None) => "full, each promise at the commit that it was last run in full at",
    };
    let mut text = format!(
        "# What was tried, and what broke\n\n\
         Made by `cargo xtask reliability`; not written by hand. The tests and their names are \
         explained in [docs/reliability.md](docs/reliability.md).\n\n\
         **{violations} violations in {n} trials of {} tests; {caught} of {} controls caught.** \
         Tier: {tier}.\n\n| | |\n|---|---|\n",
        tests.len(),
        controls.len(),
    );
    for (what, value) in facts {
        row(&mut text, &[what, value]);
    }
    // What is kept of full runs has no times.
    if !took.is_zero() {
        row(&mut text, &["at least one trial was under way for", &format!("{} s", took.as_secs())]);
    }
    text.push_str(
        "\nNo failure in n trials is no proof of none ever: the bound is what the rate of failures \
         is below with 95 % confidence, 3/n.\n\n\
         | test | what must hold | n | violations | bound | measured | controls |",
    );
    let with_commits = lines.iter().any(|line| line.commit.is_some());
    text.push_str(if with_commits { " commit |\n" } else { "\n" });
    text.push_str("|---|---|--:|--:|--:|---|---|");
    text.push_str(if with_commits { "---|\n" } else { "\n" });
    for line in &lines {
        let bound = match (line.violations, line.n) {
            (0, 1..) => format!("< {}", percent(3.0 / line.n as f64)),
            _ => "-".into(),
        };
        let mut measured: Vec<String> = line
            .measured
            .iter()
            .map(|(what, m)| {
                let [p50, p99, max] = [m.p50_us, m.p99_us, m.max_us].map(millis);
                format!("{what}: p50 {p50}, p99 {p99}, max {max} (n {})", m.n)
            })
            .collect();
        let numbers = line.counted.iter().chain(&line.most);
        measured.extend(numbers.map(|(what, number)| format!("{what}: {number}")));
        let controls: Vec<String> = line
            .controls
            .iter()
            .map(|c| format!("{}: {}", c.what, if c.caught { "caught" } else { "**MISSED**" }))
            .collect();
        let (n, violations) = (line.n.to_string(), line.violations.to_string());
        let (measured, controls) = (measured.join("; "), controls.join("; "));
        let mut cells =
            vec![&*line.test, &line.promise, &n, &violations, &bound, &measured, &controls];
        cells.extend(line.commit.as_deref());
        row(&mut text, &cells);
    }
    let broken: Vec<&Line> = lines.iter().filter(|line| line.violations > 0).collect();
    if !broken.is_empty() {
        text.push_str("\n## Violations\n\n");
        for line in broken {
            let seed = line.seed.as_deref().unwrap_or("none");
            let words = line.words.join(" / ").replace('\n', " ");
            // Writing to a string does not fail.
            writeln!(text, "- {} ({}), seed {seed}: {words}", line.test, line.promise).ok();
        }
    }
    text
}

fn row(text: &mut String, cells: &[&str]) {
    let cells: Vec<String> =
        cells.iter().map(|cell| cell.replace('|', "\\|").replace('\n', " ")).collect();
    writeln!(text, "| {} |", cells.join(" | ")).ok();
}

fn millis(micros: u64) -> String {
    let millis = micros as f64 / 1000.0;
    if millis < 10.0 { format!("{millis:.1} ms") } else { format!("{millis:.0} ms") }
}

fn percent(share: f64) -> String {
    let percent = (share * 100.0).min(100.0);
    if percent < 1.0 { format!("{percent:.2} %") } else { format!("{percent:.0} %") }
}

#[cfg(test)]
mod tests {
    use super::super::lines::{kept, read};
    use super::*;

    #[test]
    fn a_violation_and_a_missed_control_are_told() {
        let line = |n: u64, violations: u64, caught: bool| {
            format!(
                r#"{{"test":"T-SURV","promise":"a | b","long":false,"seed":"7","n":{n},
                "violations":{violations},"words":["it is gone"],"counted":{{}},
                "measured":{{"back":{{"n":2,"p50_us":1500,"p99_us":20000,"max_us":20000}}}},
                "controls":[{{"what":"a lost line","caught":{caught}}}]}}"#
            )
            .replace('\n', " ")
        };
        let asked = Asked::read(&[]).unwrap();
        let good = report(&asked, &[], &read(&line(300, 0, true)).unwrap());
        assert!(
            good.contains("**0 violations in 300 trials of 1 tests; 1 of 1 controls caught.**")
        );
        assert!(good.contains("| T-SURV | a \\| b | 300 | 0 | < 1 % |"), "{good}");
        assert!(
            good.contains("p50 1.5 ms, p99 20 ms") && !good.contains("## Violations"),
            "{good}"
        );
        let both = format!("{}\n{}", line(10, 0, true), line(10, 1, false));
        let bad = report(&asked, &[], &read(&both).unwrap());
        assert!(bad.contains("**1 violations in 20 trials") && bad.contains("**MISSED**"), "{bad}");
        assert!(bad.contains("seed 7: it is gone"), "{bad}");
        read("not json").unwrap_err();
    }

    #[test]
    fn each_promise_keeps_its_latest_full_run() {
        let line = |promise: &str, n: u64| {
            format!(
                r#"{{"test":"T-SURV","promise":"{promise}","seed":null,"n":{n},"violations":0,
                "words":[],"counted":{{}},"measured":{{}},"controls":[]}}"#
            )
            .replace('\n', " ")
        };
        let first = read(&format!("{}\n{}", line("a", 1), line("b", 2))).unwrap();
        let first = kept(Vec::new(), &first, "one");
        let second = read(&format!("{}\n{}", line("b", 3), line("b", 4))).unwrap();
        let all = kept(first, &second, "two");
        let told = all.iter().map(|line| (&*line.promise, line.n, line.commit.as_deref()));
        assert_eq!(told.collect::<Vec<_>>(), [("a", 1, Some("one")), ("b", 7, Some("two"))]);
        let asked = Asked::read(&["--tier".into(), "full".into()]).unwrap();
        let text = report(&asked, &[], &all);
        assert!(
            text.contains("| controls | commit |\n|---|---|--:|--:|--:|---|---|---|\n"),
            "{text}"
        );
        assert!(text.contains("| T-SURV | b | 7 | 0 |") && text.contains("| two |"), "{text}");
    }
}
