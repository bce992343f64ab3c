//! Options that limit a runner, or all runners of a project together.

use std::time::Duration;

use clap::Args;
use stratavore_proto::v1::{Limits, LimitsEdit, Quota, QuotaEdit};

use crate::units::{self, parse_cpu, parse_seconds, parse_size};

/// Limits on all runners of a project together.
#[derive(Debug, Default, Args)]
pub(crate) struct QuotaArgs {
    /// Runners that may live at once
    #[arg(long, value_name = "N", help_heading = "Quota of the project")]
    quota_runners: Option<u64>,
    /// Memory of all runners together, such as 8GiB, or none
    #[arg(long, value_name = "SIZE", value_parser = or_none(parse_size), help_heading = "Quota of the project")]
    quota_memory: Option<u64>,
    /// Cores of all runners together, such as 4, or none
    #[arg(long, value_name = "CORES", value_parser = or_none(parse_cpu), help_heading = "Quota of the project")]
    quota_cpu: Option<u64>,
    /// Processes of all runners together, or none
    #[arg(long, value_name = "N", value_parser = or_none(parse_count), help_heading = "Quota of the project")]
    quota_pids: Option<u64>,
    /// How long any one runner may run, such as 8h, or none
    #[arg(long, value_name = "DURATION", value_parser = or_none(parse_seconds), help_heading = "Quota of the project")]
    quota_wall: Option<u64>,
}

/// Limits of one runner.
#[derive(Debug, Default, Args)]
pub(crate) struct LimitArgs {
    /// Memory, such as 2GiB, or none
    #[arg(long, value_name = "SIZE", value_parser = or_none(parse_size), help_heading = "Limits of a runner")]
    memory: Option<u64>,
    /// Cores, such as 1.5, or none
    #[arg(long, value_name = "CORES", value_parser = or_none(parse_cpu), help_heading = "Limits of a runner")]
    cpu: Option<u64>,
    /// Processes and threads, or none
    #[arg(long, value_name = "N", value_parser = or_none(parse_count), help_heading = "Limits of a runner")]
    pids: Option<u64>,
    /// How long it may run, such as 2h, or none
    #[arg(long, value_name = "DURATION", value_parser = or_none(parse_seconds), help_heading = "Limits of a runner")]
    wall: Option<u64>,
    /// How long it may be idle until it is stopped, such as 8h, or none
    #[arg(long, value_name = "DURATION", value_parser = or_none(parse_seconds), help_heading = "Limits of a runner")]
    stop_idle: Option<u64>,
}

fn parse_count(text: &str) -> Result<u64, String> {
    text.parse()
        .ok()
        .filter(|n| *n > 0)
        .ok_or_else(|| format!("`{}` is no number above 0", text.escape_debug()))
}

/// `none` is 0, which the wire takes for "no limit".
fn or_none(parse: fn(&str) -> Result<u64, String>) -> impl Fn(&str) -> Result<u64, String> + Clone {
    move |text| if text == "none" { Ok(0) } else { parse(text) }
}

impl QuotaArgs {
    /// What of a quota is to change; `None` if nothing is.
    pub(crate) fn edit(&self) -> Option<QuotaEdit> {
        let edit = QuotaEdit {
            runners: self.quota_runners,
            memory: self.quota_memory,
            cpu_millis: self.quota_cpu,
            pids: self.quota_pids,
            wall_seconds: self.quota_wall,
        };
        (edit != QuotaEdit::default()).then_some(edit)
    }

    /// The quota of what is new.
    pub(crate) fn quota(&self) -> Option<Quota> {
        self.edit().map(|edit| Quota {
            runners: edit.runners(),
            memory: edit.memory(),
            cpu_millis: edit.cpu_millis(),
            pids: edit.pids(),
            wall_seconds: edit.wall_seconds(),
        })
    }
}

impl LimitArgs {
    /// What of a runner's limits is to change; `None` if nothing is.
    pub(crate) fn edit(&self) -> Option<LimitsEdit> {
        let edit = LimitsEdit {
            memory: self.memory,
            cpu_millis: self.cpu,
            pids: self.pids,
            wall_seconds: self.wall,
            idle_seconds: self.stop_idle,
        };
        (edit != LimitsEdit::default()).then_some(edit)
    }

    /// The limits of what is new.
    pub(crate) fn limits(&self) -> Option<Limits> {
        self.edit().map(|edit| Limits {
            memory: edit.memory(),
            cpu_millis: edit.cpu_millis(),
            pids: edit.pids(),
            wall_seconds: edit.wall_seconds(),
            idle_seconds: edit.idle_seconds(),
        })
    }
}

/// A runner's limits in words.
pub(crate) fn limits_text(limits: &Limits) -> String {
    let mut parts = Vec::new();
    if limits.memory != 0 {
        parts.push(format!("memory {}", units::bytes(limits.memory)));
    }
    if limits.cpu_millis != 0 {
        parts.push(format!("cores {}", units::cores(limits.cpu_millis)));
    }
    if limits.pids != 0 {
        parts.push(format!("processes {}", limits.pids));
    }
    if limits.wall_seconds != 0 {
        parts.push(format!("wall time {}", units::span(Duration::from_secs(limits.wall_seconds))));
    }
    if limits.idle_seconds != 0 {
        parts.push(format!("idle time {}", units::span(Duration::from_secs(limits.idle_seconds))));
    }
    if parts.is_empty() { "none".into() } else { parts.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_given_is_not_changed() {
        assert_eq!(QuotaArgs::default().edit(), None);
        assert_eq!(QuotaArgs::default().quota(), None);
        assert_eq!(LimitArgs::default().edit(), None);
        let args = QuotaArgs { quota_memory: Some(0), ..QuotaArgs::default() };
        assert_eq!(args.edit(), Some(QuotaEdit { memory: Some(0), ..QuotaEdit::default() }));
    }

    #[test]
    fn none_lifts_a_limit() {
        let parse = or_none(parse_size);
        assert_eq!(parse("none"), Ok(0));
        assert_eq!(parse("1KiB"), Ok(1024));
        assert!(parse("0").is_err() && parse("nothing").is_err());
    }
}
