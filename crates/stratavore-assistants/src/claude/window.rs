//! The windows of a subscription to Claude: what its status line is given, and what a run without a screen
//! prints of them.

use jiff::Timestamp;
use serde_json::Value;
use stratavore_core::observation::{Observation, RateWindow};

use super::WINDOWS;
use crate::excerpt::{NAME_MAX, clipped};

/// How long the windows are that its maker has had, by what it calls them.
fn minutes(name: &str) -> Option<u64> {
    if name.starts_with("five_hour") {
        Some(5 * 60)
    } else if name.starts_with("seven_day") {
        Some(7 * 24 * 60)
    } else {
        None
    }
}

fn window(name: &str, used_percent: f64, resets: Option<i64>, at: Timestamp) -> RateWindow {
    RateWindow {
        name: clipped(name, NAME_MAX),
        used_percent: used_percent.clamp(0.0, 100.0),
        window_minutes: minutes(name),
        resets_at: resets.and_then(|second| Timestamp::from_second(second).ok()),
        at,
    }
}

/// What the status line was given; `None`: it is no call of the status line.
pub(super) fn of_line(body: &Value, at: Timestamp) -> Option<Vec<Observation>> {
    let windows = body.get(WINDOWS).filter(|_| body.get("hook_event_name").is_none())?;
    let each = windows.as_object()?.iter().filter_map(|(name, told)| {
        let used = told.get("used_percentage")?.as_f64()?;
        Some(window(name, used, told.get("resets_at").and_then(Value::as_i64), at))
    });
    Some(each.map(Observation::Window).collect())
}

/// What a run without a screen printed of them: the last of each. It says how much is used only when that is
/// much, and that all is when it was refused.
pub(super) fn of_output(output: &str, at: Timestamp) -> Vec<RateWindow> {
    let mut windows: Vec<RateWindow> = Vec::new();
    let told = output.lines().filter(|line| line.contains("\"rate_limit_event\""));
    for line in told {
        let Ok(line) = serde_json::from_str::<Value>(line) else { continue };
        let Some(info) = line.get("rate_limit_info") else { continue };
        let Some(name) = info.get("rateLimitType").and_then(Value::as_str) else { continue };
        let share = info.get("utilization").and_then(Value::as_f64).map(|share| share * 100.0);
        let refused = info.get("status").and_then(Value::as_str) == Some("rejected");
        let Some(used) = share.or(refused.then_some(100.0)) else { continue };
        let resets = info.get("resetsAt").and_then(Value::as_i64);
        windows.retain(|window| window.name != name);
        windows.push(window(name, used, resets, at));
    }
    windows
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_run_tells_of_windows_when_much_is_used_and_when_all_is() {
        let event = |info: Value| json!({ "type": "rate_limit_event", "rate_limit_info": info });
        let lines = [
            event(json!({ "status": "allowed", "rateLimitType": "five_hour", "resetsAt": 1 })),
            event(json!({ "status": "allowed_warning", "rateLimitType": "seven_day",
                "resetsAt": 1_795_974_696, "utilization": 0.81 })),
            event(json!({ "status": "rejected", "rateLimitType": "five_hour", "resetsAt": 99 })),
            json!({ "type": "result", "result": "\"rate_limit_event\"" }),
        ];
        let output = lines.map(|line| line.to_string()).join("\n");
        let windows = of_output(&output, Timestamp::UNIX_EPOCH);
        let told: Vec<_> =
            windows.iter().map(|w| (w.name.as_str(), w.used_percent, w.window_minutes)).collect();
        assert_eq!(told, [("seven_day", 81.0, Some(10_080)), ("five_hour", 100.0, Some(300))]);
        assert_eq!(windows[0].resets_at.unwrap().as_second(), 1_795_974_696);
    }

    #[test]
    fn the_status_line_tells_of_all_of_them() {
        let body = json!({ "rate_limits": {
            "five_hour": { "used_percentage": 42, "resets_at": 1_795_974_696 },
            "seven_day": { "used_percentage": 17.5, "resets_at": null },
            "odd": "text",
        } });
        let told = of_line(&body, Timestamp::UNIX_EPOCH).unwrap();
        assert_eq!(told.len(), 2, "{told:?}");
        assert!(of_line(&json!({ "hook_event_name": "Stop" }), Timestamp::UNIX_EPOCH).is_none());
    }
}
