//! Several hosts with one database: how they join, where launches go, and using what runs elsewhere.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};

use rustix::process::Signal;
use serde_json::Value;
use stratavore_testkit::hosts::Hosts;
use stratavore_testkit::trial::Trial;
use stratavore_testkit::world::{Ran, World, is_gone, rows, signal, until};

fn held(held: bool, else_: impl Into<String>) -> Result<(), String> {
    if held { Ok(()) } else { Err(else_.into()) }
}

fn node_of(ran: &Ran) -> String {
    rows(&ran.json())[0]["node_id"].as_str().unwrap().to_owned()
}

const ECHO: [&str; 3] = ["sh", "-c", "while read line; do echo \"you said: $line\"; done"];

#[test]
fn a_runner_of_another_host_is_used_like_one_of_this() {
    let hosts = Hosts::joined(&["labels: [disk=small]", "labels: [disk=large]"]);
    let here = &hosts.worlds[0];
    here.project("p");
    let launched = hosts.launch("far", &["--label", "disk=large"], &ECHO).ok();
    assert_eq!(node_of(&launched), hosts.id(1));
    let runner = here.until_state("far", &["running"]);
    let id = runner["id"].as_str().unwrap();
    assert_eq!(here.agents(), Vec::<u32>::new(), "nothing of it is on this host");
    assert_eq!(hosts.worlds[1].agents().len(), 1);

    here.run(["send", "far", "hello"]).ok();
    until("its output is read from here", || {
        let logs = here.run(["logs", "far"]).ok().stdout();
        if logs.contains("you said: hello") { Ok(()) } else { Err(logs) }
    });
    let mut screen = here.terminal(&["attach", "far"], 24, 80);
    screen.until_text("you said: hello");
    screen.type_line("again");
    screen.until_text("you said: again");
    drop(screen);

    // Whoever asked there is named, and by whom they asked.
    let events = here.json(&["events", "--runner", id]);
    let by = rows(&events)[0]["by"].as_str().unwrap();
    assert!(by.contains(&format!("by {}", hosts.id(0))), "{by}");

    let pid = runner["pid"].as_u64().unwrap() as u32;
    here.run(["kill", "far"]).ok();
    until("its process is gone", || if is_gone(pid) { Ok(()) } else { Err(pid) });
    assert_eq!(here.runner("far")["state"], "exited");
    let logs = here.run(["logs", "far"]).ok().stdout();
    assert!(logs.contains("you said: again"), "what it printed stays where it ran: {logs}");
}

#[test]
fn a_launch_goes_where_it_is_asked_to_or_says_why_not() {
    let hosts = Hosts::joined(&["capacity: 1", "labels: [gpu]"]);
    let here = &hosts.worlds[0];
    here.project("p");
    let (first, second) = (hosts.id(0), hosts.id(1));
    assert_eq!(node_of(&hosts.launch("a", &[], &["sleep", "600"]).ok()), first, "here is room");
    assert_eq!(node_of(&hosts.launch("b", &[], &["sleep", "600"]).ok()), second, "here is none");
    assert_eq!(node_of(&hosts.launch("c", &["--label", "gpu"], &["sleep", "600"]).ok()), second);

    let full = hosts.launch("d", &["--node", &first], &["sleep", "600"]).fails(4).stderr();
    assert!(full.contains("has 1 of 1 runners"), "{full}");
    let other = hosts.launch("d", &["--label", "gpu=b200"], &["sleep", "600"]).fails(4).stderr();
    assert!(other.contains("is not labelled gpu=b200"), "{other}");
    here.run(["nodes", "cordon", &second]).ok();
    let closed = hosts.launch("d", &["--label", "gpu"], &["sleep", "600"]).fails(4).stderr();
    assert!(closed.contains("is cordoned"), "{closed}");
    let drain = ["nodes", "drain", &second, "--wait", "--timeout", "1ms"];
    let busy = here.run(drain).fails(9).stderr();
    assert!(busy.contains("2 runners still live"), "{busy}");
    for name in ["b", "c"] {
        here.run(["kill", name, "--force"]).ok();
    }
    let empty = here.run(["nodes", "drain", &second, "--wait"]).ok().everything();
    assert!(empty.contains("is empty"), "{empty}");
    here.run(["nodes", "uncordon", &second]).ok();
    assert_eq!(node_of(&hosts.launch("d", &["--label", "gpu"], &["sleep", "600"]).ok()), second);
}

#[test]
fn a_node_that_is_the_only_one_moves_nothing_and_says_so() {
    let world = World::new();
    let nodes = world.json(&["nodes"]);
    let node = rows(&nodes)[0]["id"].as_str().unwrap().to_owned();
    let refused = world.run(["nodes", "drain", &node, "--move"]).fails(2).stderr();
    assert!(refused.contains("is the only node"), "{refused}");
    assert_eq!(world.json(&["nodes", "show", &node])["scheduling"], "open");
    world.run(["nodes", "drain", &node]).ok();
}

#[test]
fn a_host_whose_daemon_is_gone_is_told_and_does_later_what_was_wished() {
    let hosts = Hosts::joined(&["labels: []", "labels: []"]);
    let here = &hosts.worlds[0];
    here.project("p");
    hosts.launch("far", &["--node", &hosts.id(1)], &ECHO).ok();
    let pid = here.until_state("far", &["running"])["pid"].as_u64().unwrap() as u32;
    hosts.worlds[1].kill_daemon();
    let gone = here.run(["send", "far", "hello"]).fails(6).everything();
    assert!(gone.contains("node_unreachable") || gone.contains("cannot be reached"), "{gone}");
    // Why is said once, in words.
    assert!(!gone.contains("tonic") && !gone.contains("code:"), "{gone}");
    assert!(gone.matches("os error").count() <= 1, "{gone}");
    assert!(!is_gone(pid), "its runner goes on");
    until("the host is known to be away", || {
        let nodes = here.json(&["nodes"]);
        let away = rows(&nodes).iter().any(|node| node["ready"] == false);
        if away { Ok(()) } else { Err(nodes.to_string()) }
    });
    let mut kill = kill_that_tells_who_is_away(here);
    here.until_state("far", &["stopping"]);
    assert!(!is_gone(pid), "nobody there knows yet");
    hosts.worlds[1].run(["daemon", "start"]).ok();
    assert!(kill.wait().unwrap().success());
    until("it is stopped", || if is_gone(pid) { Ok(()) } else { Err(pid) });
    here.until_state("far", &["exited"]);
}

/// Nobody knows of it yet when the stop is asked for; whoever waits is told all the same.
#[test]
fn a_host_that_stands_still_while_its_runner_is_stopped_is_told() {
    let hosts = Hosts::joined(&["labels: []", "labels: []"]);
    let here = &hosts.worlds[0];
    here.project("p");
    hosts.launch("far", &["--node", &hosts.id(1)], &ECHO).ok();
    let pid = here.until_state("far", &["running"])["pid"].as_u64().unwrap() as u32;
    let daemon = hosts.worlds[1].daemon_pid().expect("it runs");
    signal(daemon, Signal::STOP);
    let mut kill = kill_that_tells_who_is_away(here);
    signal(daemon, Signal::CONT);
    assert!(kill.wait().unwrap().success());
    until("it is stopped", || if is_gone(pid) { Ok(()) } else { Err(pid) });
}

/// A `kill` of the runner `far` that waits, and has said why.
fn kill_that_tells_who_is_away(here: &World) -> Child {
    let mut kill = here.command("stratavore");
    let mut kill = kill.args(["kill", "far"]).stderr(Stdio::piped()).spawn().unwrap();
    let mut said = BufReader::new(kill.stderr.take().unwrap()).lines();
    let said = said.find(|line| !line.as_ref().is_ok_and(|line| line.starts_with("stopping")));
    let said = said.expect("it says something while it waits").unwrap();
    assert!(said.starts_with("far is stopped when its host"), "{said}");
    kill
}

/// T-JOIN: of many hosts that show one token at the same time one is let in, or none.
#[test]
fn t_join_a_token_lets_one_host_in() {
    let hosts = Hosts::apart(&["labels: []", "labels: []", "labels: []"]);
    let mut trial = Trial::new("T-JOIN", "a join token works once");
    let token = hosts.token();
    let secret = token.split('_').nth(2).unwrap().to_owned();
    hosts.join(&hosts.worlds[1], &token).ok();
    let second = hosts.join(&hosts.worlds[2], &token).fails(8).stderr();
    trial.tried(held(second.contains("both are out"), second.clone()));
    // The first is out as well: nobody knows which of the two was meant.
    let bound = "SELECT count(*) FROM nodes WHERE key_digest IS NOT NULL";
    trial.tried(held(hosts.database.query(bound) == "1", hosts.database.query(bound)));
    // Neither is a spent, a made-up or a damaged one good.
    for bad in [token.clone(), token.replace(&secret, &"0".repeat(64)), token[..40].into()] {
        let refused = hosts.join(&hosts.worlds[2], &bad);
        trial.tried(held(refused.code() != 0, refused.everything()));
    }
    let fresh = hosts.token();
    hosts.join(&hosts.worlds[1], &fresh).ok();
    // The secret is nowhere but where it was put.
    let dump = hosts.database.query("SELECT string_agg(join_tokens::text, ' ') FROM join_tokens");
    trial.tried(held(!dump.contains(&secret), "the database has the secret"));
    for world in &hosts.worlds {
        let log = fs::read_to_string(world.path("state/daemon.log")).unwrap_or_default();
        trial.tried(held(!log.contains(&secret), "a log has the secret"));
        let table = world.run(["nodes", "tokens"]).ok().everything();
        trial.tried(held(!table.contains(&secret), "a list has the secret"));
    }
    // The control: the search would find it.
    let file = fs::read_to_string(hosts.worlds[1].path("token")).unwrap();
    let other = fresh.split('_').nth(2).unwrap();
    trial.control("a secret that stands in a file is found", file.contains(other));
    trial.end();
}

#[test]
fn a_ca_is_made_once_and_one_that_is_there_is_never_touched() {
    let hosts = Hosts::apart(&["labels: []", "labels: []"]);
    let (here, there) = (&hosts.worlds[0], &hosts.worlds[1]);
    let files = |world: &World| {
        ["key.pem", "certificate.pem"].map(|file| fs::read(world.path("state/ca").join(file)).ok())
    };
    let own = files(here);
    assert!(own.iter().all(Option::is_some));
    here.run(["ca", "init"]).ok();
    assert_eq!(files(here), own, "asked again, it is the same");
    let refused = there.run(["ca", "init"]).fails(2).stderr();
    assert!(refused.contains("has its CA already"), "{refused}");
    assert_eq!(files(there), [None, None]);
    // A host that keeps another cluster's CA, and was given the wrong database.
    fs::create_dir_all(there.path("state/ca")).unwrap();
    for (file, content) in ["key.pem", "certificate.pem"].iter().zip(&own) {
        fs::write(there.path("state/ca").join(file), content.as_ref().unwrap()).unwrap();
    }
    hosts.database.query("UPDATE clusters SET certificate = 'another'");
    there.run(["ca", "init"]).fails(2);
    assert_eq!(files(there), own);
}

#[test]
fn the_key_of_the_record_is_changed_by_whichever_daemon_is_asked() {
    let hosts = Hosts::joined(&["labels: []", "labels: []"]);
    let keys = || hosts.worlds[0].json(&["audit", "keys"]);
    let active = until("one of them seals", || {
        let keys = keys();
        let active = rows(&keys).iter().find(|key| key["state"] == "active").cloned();
        active.ok_or(keys)
    });
    let keeper = active["node_id"].as_str().unwrap();
    let sealer = (0..2).find(|which| hosts.id(*which) == keeper).unwrap();
    let (keeper, other) = (&hosts.worlds[sealer], &hosts.worlds[1 - sealer]);
    let changed = rows(&other.json(&["audit", "keys", "rotate"])).to_vec();
    assert_eq!(changed.len(), 2, "{changed:?}");
    let now = changed.iter().find(|key| key["state"] == "active").unwrap();
    assert_ne!(now["id"], active["id"]);
    assert_eq!(now["node_id"], active["node_id"], "it stays where it was");
    let told = until("it is on the record, with who asked and by whom", || {
        let told = other.json(&["audit", "list", "--kind", "node.record_key_changed"]);
        rows(&told).first().cloned().ok_or(told)
    });
    let by = told["by"].as_str().unwrap();
    assert!(by.contains(&format!("by {}", hosts.id(1 - sealer))), "{told}");
    assert_eq!(told["origin"]["door"], "node", "{told}");
    other.run(["audit", "verify"]).ok();
    // The control: asked where it is, it needs nobody.
    assert_eq!(rows(&keeper.json(&["audit", "keys", "rotate"])).len(), 3);
    keeper.kill_daemon();
    let refused =
        until("its host is known to be away", || match other.run(["audit", "keys", "rotate"]) {
            ran if ran.code() == 6 => Ok(ran.everything()),
            ran => Err(ran.everything()),
        });
    assert!(refused.contains("cannot be reached"), "{refused}");
    assert_eq!(rows(&other.json(&["audit", "keys"])).len(), 3);
}

#[test]
fn a_host_that_is_refused_at_the_door_is_on_the_record() {
    let hosts = Hosts::apart(&["labels: []", "labels: []"]);
    let token = hosts.token();
    let accessor = token.split('_').nth(1).unwrap().to_owned();
    hosts.worlds[0].run(["nodes", "revoke", &accessor]).ok();
    hosts.join(&hosts.worlds[1], &token).fails(8);
    let refused = until("who was refused is told by the host that refused", || {
        let told = hosts.worlds[0].json(&["audit", "list", "--refused", "--limit", "100"]);
        let of = rows(&told).iter().find(|one| one["data"]["what"] == "joining.sign").cloned();
        of.ok_or(told)
    });
    assert_eq!(refused["data"]["on"], accessor.as_str(), "{refused}");
    assert_eq!(refused["origin"]["door"], "node", "{refused}");
    assert!(refused["by"].as_str().unwrap().contains(&hosts.id(1)), "{refused}");
    assert!(refused["reason"].as_str().unwrap().contains("revoked"), "{refused}");
    // Nothing has proved that it is that host.
    assert_eq!(refused["origin"]["auth"], Value::Null, "{refused}");
    let joined =
        "SELECT count(*) FROM events WHERE kind = 'node.joined' AND data LIKE '%keeps_ca%'";
    assert_eq!(hosts.database.query(joined), "1", "the host that keeps the CA is in by the record");
}

#[test]
fn a_join_token_is_short_lived() {
    let hosts = Hosts::apart(&["labels: []"]);
    let refused = hosts.worlds[0].run(["nodes", "token", "--ttl", "6m"]).fails(2).stderr();
    assert!(refused.contains("at most 5 minutes"), "{refused}");
    hosts.worlds[0].run(["nodes", "token", "--ttl", "5m"]).ok();
    hosts.token();
    let long =
        "SELECT count(*) FROM join_tokens WHERE expires_at > created_at + interval '5 minutes'";
    assert_eq!(hosts.database.query(long), "0");
}

#[test]
fn a_removed_host_is_served_no_more() {
    let hosts = Hosts::joined(&["labels: []", "labels: []"]);
    let (here, there) = (&hosts.worlds[0], &hosts.worlds[1]);
    here.project("p");
    hosts.launch("near", &["--node", &hosts.id(0)], &ECHO).ok();
    here.until_state("near", &["running"]);
    there.run(["send", "near", "before"]).ok();
    here.run(["nodes", "remove", &hosts.id(1)]).ok();
    // A connection that stands already is cut as well.
    let refused = until("it is not served", || {
        let sent = there.run(["send", "near", "after"]);
        if sent.code() == 6 { Ok(sent.everything()) } else { Err(sent.everything()) }
    });
    assert!(refused.contains("cannot be reached") || refused.contains("lost"), "{refused}");
    let listed: Value = here.json(&["nodes"]);
    assert_eq!(rows(&listed).len(), 1);
    hosts.join(there, &hosts.token()).ok();
    there.run(["send", "near", "again"]).ok();

    let record = here.json(&["audit", "list", "--limit", "1000"]).to_string();
    for kind in ["node.ca_made", "node.token_made", "node.joined", "node.removed"] {
        assert!(record.contains(kind), "{kind} is not on the record: {record}");
    }
}
