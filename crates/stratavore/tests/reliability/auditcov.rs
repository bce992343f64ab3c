//! T-AUDITCOV: every request of the API leaves what it did on the record, and every one that is refused. What
//! becomes of that under kills is in `auditkill.rs`.

use prost::Message;
use serde_json::Value;
use stratavore_testkit::wire::{client, on_runtime};
use stratavore_testkit::world::{World, until};

/// Every request of the API, and what is on the record when it has been carried out; none for those
/// that only look. A new one has to be put here, or the test fails.
const REQUESTS: &[(&str, Option<&str>)] = &[
    ("Projects.Create", Some("project.created")),
    ("Projects.Get", None),
    ("Projects.List", None),
    ("Projects.Edit", Some("project.edited")),
    ("Projects.Archive", Some("project.archived")),
    ("Projects.Delete", Some("project.deleted")),
    // What needs several hosts is done under kills, in `auditkill.rs`.
    ("Joining.Sign", None),
    ("Nodes.Get", None),
    ("Nodes.GetCa", None),
    ("Nodes.InitCa", None),
    ("Nodes.Join", None),
    ("Nodes.List", None),
    ("Nodes.ListTokens", None),
    ("Nodes.MintToken", None),
    ("Nodes.Remove", None),
    ("Nodes.RevokeToken", None),
    ("Nodes.Schedule", Some("node.cordoned")),
    ("Peers.Renew", None),
    ("Runners.Launch", Some("runner.accepted")),
    ("Runners.Get", None),
    ("Runners.List", None),
    ("Runners.Stop", Some("runner.stopping")),
    ("Runners.Restart", Some("runner.stopping")),
    ("Runners.Pause", Some("runner.paused")),
    ("Runners.Recover", Some("runner.accepted")),
    ("Runners.Wait", None),
    ("Runners.Send", Some("request.sent")),
    ("Runners.ReadOutput", None),
    ("Runners.Connect", Some("request.attach")),
    ("Runners.UpgradeAgent", Some("request.upgrade")),
    ("Runs.Result", None),
    ("Runs.Watch", None),
    ("Queue.Add", Some("project.item_added")),
    ("Queue.Cancel", Some("project.item_cancelled")),
    ("Queue.Get", None),
    ("Queue.List", None),
    ("Queue.Retry", Some("project.item_retried")),
    ("Queue.Set", Some("project.queue_set")),
    ("Sessions.Get", None),
    ("Sessions.List", None),
    ("Sessions.Remove", Some("session.removed")),
    ("Ledger.Explain", None),
    ("Ledger.Report", None),
    ("Ledger.Windows", None),
    ("Events.List", None),
    ("Events.Subscribe", None),
    ("Audit.Export", Some("request.export")),
    ("Audit.Keys", None),
    ("Audit.Rotate", Some("node.record_key_changed")),
    ("Outbox.Status", None),
    ("Outbox.DeadLetters", None),
    ("Outbox.Retry", Some("request.retry")),
    // What needs a broker is done in `forgotten.rs`.
    ("Outbox.Forget", None),
    ("Notify.Add", Some("node.destination_added")),
    ("Notify.List", None),
    ("Notify.Remove", Some("node.destination_removed")),
    ("Notify.Retry", Some("request.notify_retry")),
    ("Notify.Show", None),
    ("Notify.Switch", Some("node.destination_disabled")),
    ("Notify.Test", Some("request.notify_test")),
    ("Budgets.Allow", Some("budget.allowed")),
    ("Budgets.History", None),
    ("Budgets.List", None),
    ("Budgets.Remove", Some("budget.removed")),
    ("Budgets.Set", Some("budget.created")),
    ("Budgets.Show", None),
    // What needs an assistant that asks is done in the tests with the real programs.
    ("Inbox.Answer", None),
    ("Inbox.Explain", None),
    ("Inbox.List", None),
    ("Inbox.Prompt", Some("request.sent")),
    ("Search.Find", None),
    ("Search.Messages", None),
    ("Vault.Import", Some("request.import")),
    ("Vault.ExportSession", Some("request.session_export")),
    ("Vault.ImportSession", Some("request.session_import")),
    ("Vault.Status", None),
    ("Daemon.Status", None),
    ("Daemon.Reconcile", Some("request.reconcile")),
    ("Daemon.Shutdown", Some("request.shutdown")),
];

#[test]
fn every_request_that_changes_something_is_on_the_record() {
    let files = prost_types::FileDescriptorSet::decode(stratavore_proto::DESCRIPTORS).unwrap();
    let mut served: Vec<String> = Vec::new();
    for service in files.file.iter().flat_map(|file| &file.service) {
        served.extend(service.method.iter().map(|m| format!("{}.{}", service.name(), m.name())));
    }
    served.sort();
    let mut listed: Vec<&str> = REQUESTS.iter().map(|(name, _)| *name).collect();
    listed.sort_unstable();
    assert_eq!(served, listed, "each request is to be listed with what it leaves on the record");

    let mut world = World::new();
    // What is imported is of this home, and of nobody's own.
    let home = world.path("").display().to_string();
    world.set_env("HOME", &home);
    world.project("demo");
    let cat = world.launch("demo", "cat", &["cat"]);
    let topic = world.path("topic");
    std::fs::write(&topic, "topic").unwrap();
    std::fs::set_permissions(&topic, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let topic = format!("file:{}", topic.display());
    let done: &[&[&str]] = &[
        &["notify", "add", "n", "ntfy", "--url", "http://host.invalid", "--topic", &topic],
        &["notify", "retry", "n"],
        &["notify", "disable", "n"],
        &["notify", "enable", "n"],
        &["projects", "edit", "demo", "--description", "other"],
        &["reconcile"],
        &["upgrade", "cat"],
        &["pause", "cat"],
        &["unpause", "cat"],
        &["budget", "set", "b", "--tokens", "1M"],
        &["budget", "allow", "cat", "--budget", "b"],
        &["budget", "rm", "b"],
        &["restart", "cat"],
        &["audit", "keys", "rotate"],
        &["nodes", "cordon", "node_"],
        &["nodes", "uncordon", "node_"],
        &["kill", "cat", "--force"],
        &["new", "spare", "--directory", "/"],
        &["projects", "archive", "spare"],
        &["projects", "delete", "spare"],
        &["audit", "verify"],
    ];
    on_runtime(async {
        use stratavore_proto::v1::{
            ConnectFrame, GetRunner, RetryDeadLetters, SendToRunner, connect_frame,
        };
        let client = client(&world).await;
        let open = GetRunner { runner: cat.clone(), project: String::new() };
        let frame = ConnectFrame { kind: Some(connect_frame::Kind::Open(open)) };
        let frames = futures_util::stream::iter([frame]);
        client.runners().connect(frames).await.expect("it is connected");
        let data = "words".into();
        let typed = SendToRunner { runner: cat.clone(), data, ..SendToRunner::default() };
        client.runners().send(typed).await.expect("it is typed");
        let again = RetryDeadLetters::default();
        client.outbox().retry(again).await.expect("there is none to try again");
    });
    for command in done {
        world.run(*command).ok();
    }
    let session =
        world.json(&["runners", "show", "cat"])["session_id"].as_str().unwrap().to_owned();
    let exported = world.path("exported").display().to_string();
    world.run(["queue", "set", "demo", "--pause"]).ok();
    let queued =
        world.run(["queue", "add", "demo", "words", "--format", "json", "--", "true"]).ok().json();
    for change in ["cancel", "retry", "cancel"] {
        world.run(["queue", change, queued["id"].as_str().unwrap()]).ok();
    }
    world.run(["import"]).ok();
    world.run(["sessions", "export", &session, &exported]).ok();
    world.run(["sessions", "import", &exported]).ok();
    // There is no such host.
    world.run(["notify", "test", "n"]).fails(1);
    world.run(["notify", "remove", "n"]).ok();
    world.until_state("cat", &["exited", "failed"]);
    world.run(["sessions", "rm", &session]).ok();
    world.run(["restart", "cat"]).ok();
    world.run(["kill", "--all", "--force"]).ok();
    world.run(["daemon", "restart"]).ok();
    // The last of them is published by the next daemon.
    let records = until("all of it is published", || {
        let records = world.json(&["audit", "list", "--limit", "1000"]);
        match REQUESTS
            .iter()
            .find(|(_, kind)| kind.is_some_and(|kind| by(&records, kind).is_none()))
        {
            None => Ok(records),
            Some((request, kind)) => Err(format!("{request} leaves no {kind:?}: {records:#}")),
        }
    });
    for (request, kind) in REQUESTS {
        let Some(record) = kind.and_then(|kind| by(&records, kind)) else { continue };
        for field in ["uid", "pid", "request", "daemon", "auth"] {
            assert!(
                record["origin"][field] != Value::Null,
                "{request} is recorded without {field}"
            );
        }
    }
    assert!(!records.to_string().contains("words"), "what was typed is not on the record");
}

/// The record of something that was asked for at the API and done.
fn by<'r>(records: &'r Value, kind: &str) -> Option<&'r Value> {
    records.as_array()?.iter().find(|record| {
        record["kind"] == kind
            && record["origin"]["door"] == "unix"
            && record["decision"] == "allowed"
    })
}

/// What a program inside a runner asks for, and under which name that is refused.
const REFUSED: &[(&str, &str)] = &[
    ("new more --directory /tmp", "projects.create"),
    ("projects edit demo --description changed", "projects.edit"),
    ("projects archive spare", "projects.archive"),
    ("projects delete spare", "projects.delete"),
    ("launch -p demo -- true", "runners.launch"),
    ("queue add demo -- true", "queue.add"),
    ("queue set demo --pause", "queue.set"),
    ("queue cancel item_", "queue.cancel"),
    ("queue retry item_", "queue.retry"),
    ("kill other", "runners.stop"),
    ("restart other", "runners.restart"),
    ("pause other", "runners.pause"),
    ("recover other", "runners.recover"),
    ("upgrade other", "runners.upgrade_agent"),
    ("reconcile", "daemon.reconcile"),
    ("daemon stop", "daemon.shutdown"),
    ("audit export stolen", "audit.export"),
    ("audit keys", "audit.keys"),
    ("audit keys rotate", "audit.rotate"),
    ("audit verify", "audit.export"),
    ("kill --all", "runners.stop"),
    ("nodes cordon node_", "nodes.schedule"),
    ("nodes remove node_", "nodes.remove"),
    ("nodes token", "nodes.mint_token"),
    ("nodes revoke 000000000000", "nodes.revoke_token"),
    ("nodes join --token-file /dev/null", "nodes.join"),
    ("ca init", "nodes.init_ca"),
    ("import", "import"),
    ("search --project spare words", "search"),
    ("notify add n ntfy --topic n", "notify.add"),
    ("notify remove n", "notify.remove"),
    ("notify disable n", "notify.switch"),
    ("notify test n", "notify.test"),
    ("notify retry n", "notify.retry"),
    ("outbox retry --all", "outbox.retry"),
    ("outbox forget n", "outbox.forget"),
    ("budget set b --tokens 5", "budget.set"),
    ("budget rm theirs", "budget.remove"),
    ("budget allow other --budget theirs", "budget.allow"),
    ("budget list -p spare", "budget.list"),
    ("budget show theirs", "budget.show"),
    ("budget history theirs", "budget.history"),
    ("sessions rm ses_", "sessions.remove"),
    ("sessions export ses_ taken", "sessions.export"),
    ("sessions show ses_", "sessions.get"),
    ("usage explain other", "ledger.explain"),
    ("usage --runner other", "ledger.report"),
];

#[test]
fn what_a_program_inside_a_runner_is_refused_is_on_the_record() {
    let world = World::new();
    world.project("demo");
    world.run(["new", "spare", "--directory", "/"]).ok();
    world.run(["budget", "set", "theirs", "-p", "spare", "--tokens", "1M"]).ok();
    world.launch("demo", "other", &["cat"]);
    world.run(["queue", "set", "demo", "--pause"]).ok();
    world.run(["queue", "add", "demo", "--", "true"]).ok();
    let program = World::program("stratavore").display().to_string();
    let home = world.path("").display().to_string();
    let mut script = String::new();
    for (command, _) in REFUSED {
        script.push_str(&format!("{program} --home {home} {command} </dev/null\n"));
    }
    std::fs::write(world.work().join("inside.sh"), script + "echo over; exec cat\n").unwrap();
    let mine = world.launch("demo", "mine", &["sh", "inside.sh"]);
    until("the script has come to its end", || {
        let printed = String::from_utf8_lossy(&world.recorded(&mine)).into_owned();
        if printed.contains("over\r\n") { Ok(()) } else { Err(printed) }
    });
    let of = |records: &Value, what: &str| {
        let all = records.as_array().unwrap();
        all.iter().find(|record| record["data"]["what"] == what).cloned()
    };
    let records = until("all of it is published", || {
        let records = world.json(&["audit", "list", "--refused", "--limit", "1000"]);
        match REFUSED.iter().find(|(_, what)| of(&records, what).is_none()) {
            None => Ok(records),
            Some((command, _)) => Err(format!("{command} is not on the record: {records:#}")),
        }
    });
    for (command, what) in REFUSED {
        let record = of(&records, what).unwrap();
        assert_eq!(record["by"], format!("program inside {mine}"), "{command}");
        assert_eq!(record["decision"], "refused", "{command}");
        assert_eq!(record["data"]["code"], "forbidden", "{command}");
        assert!(record["reason"].as_str().unwrap().contains("may not"), "{command}");
        assert!(record["origin"]["pid"].is_u64(), "{command}");
    }
}
