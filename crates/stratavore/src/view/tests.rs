//! The views as they were, so that a change to them is seen.

use super::*;

fn runner() -> v1::Runner {
    v1::Runner {
        id: "run_7k3m9x0000000000000a".into(),
        name: "claude-1".into(),
        project_id: "prj_00000000000000000000".into(),
        project: "api".into(),
        assistant: "claude".into(),
        argv: vec!["claude".into(), "--model".into(), "opus".into()],
        env: vec![v1::EnvVariable { key: "TOKEN".into(), value: "file:/home/me/token".into() }],
        directory: "/src/api".into(),
        limits: Some(v1::Limits {
            memory: 2 << 30,
            cpu_millis: 1500,
            pids: 0,
            wall_seconds: 7200,
            idle_seconds: 0,
        }),
        restart: "on-failure".into(),
        desired: "running".into(),
        state: "running".into(),
        activity: "working".into(),
        epoch: 2,
        generation: 9,
        restarts: 1,
        node_id: "node_0000000000000000000n".into(),
        pid: 4242,
        agent_pid: 4241,
        created_at_us: 1_767_225_600_000_000,
        updated_at_us: 1_767_225_660_500_000,
        started_at_us: 1_767_225_601_000_000,
        usage: Some(v1::Usage {
            at_us: 1_767_225_660_000_000,
            cpu_ms: 1250,
            memory: 180 << 20,
            processes: 3,
            output_bytes: 4096,
            output_at_us: 0,
            viewers: 1,
            output_rate: Some(512),
        }),
        connected: true,
        ..v1::Runner::default()
    }
}

#[test]
fn a_runner_as_json() {
    insta::assert_json_snapshot!(RunnerView::from(&runner()));
}

#[test]
fn an_ended_runner_as_yaml() {
    let ended = v1::Runner {
        state: "failed".into(),
        cause: "exit 1".into(),
        ended_at_us: 1_767_225_700_000_000,
        pid: 0,
        agent_pid: 0,
        usage: None,
        connected: false,
        ..runner()
    };
    insta::assert_snapshot!(serde_saphyr::to_string(&RunnerView::from(&ended)).unwrap());
}

#[test]
fn a_project_as_json() {
    insta::assert_json_snapshot!(ProjectView::from(&v1::Project {
        id: "prj_00000000000000000000".into(),
        name: "api".into(),
        directory: "/src/api".into(),
        assistant: "claude".into(),
        quota: Some(v1::Quota { runners: 20, memory: 8 << 30, ..v1::Quota::default() }),
        generation: 1,
        created_at_us: 1_767_225_600_000_000,
        updated_at_us: 1_767_225_600_000_000,
        live_runners: 2,
        ..v1::Project::default()
    }));
}

#[test]
fn an_event_as_json() {
    insta::assert_json_snapshot!(EventView::from(&v1::Event {
        id: "evt_00000000000000000000".into(),
        position: 1042,
        entity: "runner".into(),
        entity_id: "run_7k3m9x0000000000000a".into(),
        name: "brisk-otter".into(),
        project_id: "prj_00000000000000000000".into(),
        seq: 3,
        kind: "runner.started".into(),
        at_us: 1_767_225_601_000_000,
        by: "me".into(),
        data: r#"{"pid":4242,"state":"running","epoch":1}"#.into(),
        ..v1::Event::default()
    }));
}

fn sums() -> v1::UsageSums {
    v1::UsageSums {
        input: 100,
        output: 20,
        cache_read: 3000,
        cache_write: 40,
        cache_write_1h: 500,
        reasoning: 6,
        cost: 1_234_567,
        reported: 1_200_000,
        messages: 3,
        unpriced: 1,
        reporting: 2,
        estimated: 0,
        lost: 0,
    }
}

fn session() -> v1::Session {
    v1::Session {
        id: "ses_7k3m9x0000000000000a".into(),
        project_id: "prj_00000000000000000000".into(),
        project: "api".into(),
        assistant: "claude".into(),
        external_id: "0f8e7d6c-0000-4000-8000-000000000001".into(),
        title: "Mend the login page".into(),
        first_prompt: "please mend the login page".into(),
        directory: "/src/api".into(),
        models: vec!["opus".into()],
        user_messages: 2,
        assistant_messages: 3,
        tool_messages: 4,
        started_at_us: 1_767_225_600_000_000,
        ended_at_us: 1_767_225_660_000_000,
        created_at_us: 1_767_225_600_000_000,
        updated_at_us: 1_767_225_660_000_000,
        ..v1::Session::default()
    }
}

#[test]
fn a_session_as_json() {
    let held = v1::SessionHolder {
        runner_id: "run_7k3m9x0000000000000a".into(),
        runner: "claude-1".into(),
        epoch: 2,
        first_at_us: 1_767_225_600_000_000,
        last_at_us: 1_767_225_660_000_000,
    };
    let group = v1::UsageGroup { of: "opus".into(), label: "opus".into(), sums: Some(sums()) };
    insta::assert_json_snapshot!(SessionDetailsView::from(&v1::SessionDetails {
        session: Some(session()),
        parent: None,
        children: vec![v1::Session { lineage: "forked".into(), ..session() }],
        held: vec![held],
        usage: Some(sums()),
        by_model: vec![group],
    }));
}

#[test]
fn a_report_of_usage_as_json() {
    let day =
        v1::UsageGroup { of: "2026-01-01".into(), label: "2026-01-01".into(), sums: Some(sums()) };
    let none = v1::UsageGroup { sums: Some(sums()), ..v1::UsageGroup::default() };
    let report = v1::UsageReport {
        by: "day".into(),
        groups: vec![day, none],
        others: Some(v1::UsageSums::default()),
        more: 0,
        total: Some(sums()),
    };
    let since = time(1_767_225_600_000_000);
    insta::assert_json_snapshot!(UsageReportView::new(&report, since, None, "Europe/Berlin"));
}

fn explained() -> v1::UsageExplained {
    let row = v1::UsageRow {
        assistant: "claude".into(),
        key: "req_1".into(),
        session_id: session().id,
        external_session: session().external_id,
        runner_id: "run_7k3m9x0000000000000a".into(),
        request_id: "req_1".into(),
        message_id: "msg_1".into(),
        model: "opus".into(),
        purpose: "main".into(),
        sums: Some(v1::UsageSums { messages: 1, ..sums() }),
        cost: Some(1_234_567),
        price_version: "2026-11".into(),
        reported: None,
        quality: "exact".into(),
        at_us: 1_767_225_600_000_000,
        file: "/home/me/.claude/projects/-src-api/0f8e7d6c.jsonl".into(),
        offset: 4096,
        recorded_at_us: 1_767_225_601_000_000,
        ..v1::UsageRow::default()
    };
    let not = v1::NotCovered { assistant: "claude".into(), what: vec!["some of it".into()] };
    v1::UsageExplained {
        noun: "session".into(),
        id: session().id,
        label: session().title,
        rows: vec![row],
        total: Some(sums()),
        not_covered: vec![not],
        next: "1767225600000000/claude/req_1".into(),
    }
}

#[test]
fn explained_usage_as_json() {
    insta::assert_json_snapshot!(UsageExplainedView::from(&explained()));
}

#[test]
fn an_event_whose_data_is_no_json_is_still_shown() {
    let event = v1::Event { data: "{broken".into(), ..v1::Event::default() };
    assert_eq!(EventView::from(&event).data, serde_json::json!("{broken"));
}

#[test]
fn the_status_as_json() {
    let status = v1::DaemonStatus {
        id: "dmn_00000000000000000000".into(),
        node_id: "node_0000000000000000000n".into(),
        hostname: "desk".into(),
        version: "0.1.0".into(),
        commit: "0123456789ab".into(),
        pid: 99,
        started_at_us: 1_767_225_600_000_000,
        health: "ready".into(),
        store: Some(v1::StoreStatus {
            engine: "sqlite".into(),
            schema_version: 1,
            connections_max: 25,
            connections_open: 2,
            connections_idle: 1,
            ping_us: 250,
            max_lifetime_ms: 3_600_000,
            idle_timeout_ms: 1_800_000,
            acquire_timeout_ms: 2_000,
        }),
        runners: [("running".to_owned(), 2)].into(),
        projects: 1,
        agents_connected: 2,
        last_event_position: 1042,
        memory: 20 << 20,
        tasks: vec![v1::TaskStatus {
            name: "reconcile".into(),
            runs: 3,
            ran_at_us: 1_767_225_660_000_000,
            report: "2 looked at".into(),
            error: String::new(),
        }],
        state_dir: "/home/me/.local/state/stratavore".into(),
        ..v1::DaemonStatus::default()
    };
    let daemon = DaemonView { running: true, status: Some(DaemonStatusView::from(&status)) };
    insta::assert_json_snapshot!(StatusView { daemon, runners: Vec::new() });
    insta::assert_json_snapshot!("no_daemon", DaemonView { running: false, status: None });
}

/// Every field of the snapshots stands in docs/cli.md.
#[test]
fn every_field_is_documented() {
    fn fields(value: &serde_json::Value, found: &mut Vec<String>) {
        match value {
            serde_json::Value::Object(object) => {
                for (key, value) in object {
                    found.push(key.clone());
                    // Keys of these are names, not fields.
                    if !["env", "data"].contains(&key.as_str()) {
                        fields(value, found);
                    }
                }
            }
            serde_json::Value::Array(items) => items.iter().for_each(|item| fields(item, found)),
            serde_json::Value::Null
            | serde_json::Value::Bool(_)
            | serde_json::Value::Number(_)
            | serde_json::Value::String(_) => {}
        }
    }
    let page = include_str!("../../../../docs/cli.md");
    let usage = Some(v1::Usage::default());
    let daemon = v1::DaemonStatus {
        store: Some(v1::StoreStatus::default()),
        tasks: vec![v1::TaskStatus::default()],
        ..v1::DaemonStatus::default()
    };
    let views = [
        serde_json::to_value(RunnerView::from(&v1::Runner { usage, ..runner() })).unwrap(),
        serde_json::to_value(ProjectView::from(&v1::Project::default())).unwrap(),
        serde_json::to_value(EventView::from(&v1::Event::default())).unwrap(),
        serde_json::to_value(ScreenView::new("", &v1::Screen::default())).unwrap(),
        serde_json::to_value(DaemonStatusView::from(&daemon)).unwrap(),
        serde_json::to_value(RecoveryView { dry_run: true, runners: vec![], remarks: vec![] })
            .unwrap(),
        serde_json::to_value(SessionDetailsView::from(&v1::SessionDetails {
            held: vec![v1::SessionHolder::default()],
            by_model: vec![v1::UsageGroup::default()],
            ..v1::SessionDetails::default()
        }))
        .unwrap(),
        serde_json::to_value(UsageReportView::new(&v1::UsageReport::default(), None, None, "UTC"))
            .unwrap(),
        serde_json::to_value(UsageExplainedView::from(&explained())).unwrap(),
        serde_json::to_value(ReconcileView { looked_at: 0, actions: vec![] }).unwrap(),
    ];
    let mut found = Vec::new();
    views.iter().for_each(|view| fields(view, &mut found));
    assert!(found.len() > 80, "{found:?}");
    for field in found {
        assert!(page.contains(&format!("`{field}`")), "`{field}` is not in docs/cli.md");
    }
}
