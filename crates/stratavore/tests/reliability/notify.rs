//! T-NOTIFY and T-SSRF: who is to be told is told, whoever dies meanwhile and whatever others do; many
//! events at once are few messages; and nothing is sent where nothing may be.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;
use stratavore_testkit::receiver::{Got, Receiver, Reply};
use stratavore_testkit::trial::{Trial, scale};
use stratavore_testkit::world::{World, is_gone, signal, until};

const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
/// Waits of minutes are milliseconds, and those of a day minutes.
pub(crate) const HASTE: &str = "STRATAVORE_TEST_NOTIFY_HASTE";

/// A world whose daemon may send to this host.
fn world(allow: &str, haste: u32) -> World {
    let yaml = format!("notify:\n  allow_addresses: [{allow}]\n  timeout: 1s\n");
    let mut world = World::with_config(&yaml);
    world.set_env(HASTE, &haste.to_string());
    world
}

/// A file with a secret.
fn secret(world: &World, name: &str, text: &str) -> String {
    let path: PathBuf = world.path(name);
    std::fs::write(&path, text).unwrap();
    std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    format!("file:{}", path.display())
}

pub(crate) fn webhook(world: &World, name: &str, url: &str, options: &[&str]) {
    let secret = secret(world, "hook-secret", SECRET);
    let add = ["notify", "add", name, "webhook", "--url", url, "--secret", &secret];
    world.run(add.iter().chain(options)).ok();
}

/// Makes so many projects, each of which is an event.
pub(crate) fn happen(world: &World, count: usize) {
    let made = world.json(&["projects", "list"]).as_array().unwrap().len();
    for n in made..made + count {
        world.run(["new", &format!("p{n}"), "--directory", "/"]).ok();
    }
}

fn shown(world: &World, name: &str) -> Value {
    world.json(&["notify", "show", name, "--limit", "200"])
}

/// The positions of the events that were told, each with the ids of the messages that told of it.
pub(crate) fn told(got: &[Got]) -> BTreeMap<String, BTreeSet<String>> {
    let mut told: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for one in got {
        let position = one.json()["data"]["sequence"].as_str().unwrap_or_default().to_owned();
        told.entry(position).or_default().insert(one.header("webhook-id").to_owned());
    }
    told
}

/// Each of `count` events was told, and whenever it was, by the same message.
pub(crate) fn judge(got: &[Got], count: usize) -> Result<(), String> {
    let told = told(got);
    if told.len() != count {
        return Err(format!("{} of {count} events were told", told.len()));
    }
    match told.iter().find(|(_, ids)| ids.len() != 1) {
        None => Ok(()),
        Some((position, ids)) => Err(format!("{position} was told by {ids:?}")),
    }
}

pub(crate) fn until_told(receiver: &Receiver, count: usize) {
    until("every event was told", || {
        let found = told(&receiver.got()).len();
        if found >= count { Ok(()) } else { Err(found) }
    });
}

#[test]
fn t_notify_a_receiver_that_fails_gets_all_in_the_end_and_delays_no_other() {
    let mut trial = Trial::new(
        "T-NOTIFY",
        "receivers that are down, slow, overrun, failing or gone: each gets all in the end or is off, and delays no other",
    );
    let world = world("127.0.0.1", 100);
    let good = Receiver::start();
    let slow = Receiver::answering(|_, _| Reply::Silence);
    let failing = Receiver::answering(|_, _| Reply::Status(500));
    // 100 s are 1 s here.
    let busy = Receiver::answering(|_, before| match before {
        0 => Reply::With(429, "retry-after", "100".into(), "too much".into()),
        _ => Reply::Status(200),
    });
    let gone = Receiver::answering(|_, _| Reply::Status(410));
    let down = Receiver::start();
    let (down_url, down_at) = (down.url(), down.address);
    drop(down);
    for (name, url) in [
        ("good", good.url()),
        ("slow", slow.url()),
        ("failing", failing.url()),
        ("busy", busy.url()),
        ("gone", gone.url()),
        ("down", down_url),
    ] {
        webhook(&world, name, &url, &["--events", "project.*"]);
    }
    let count = scale(10, 500);
    happen(&world, count);
    until_told(&good, count);
    trial.tried_times(count, judge(&good.got(), count));
    trial.control("events that a failing receiver has not taken", {
        let waiting = shown(&world, "failing")["notifications"].as_array().unwrap().len();
        waiting > 0 && judge(&[], count).is_err()
    });

    // The one that said that it is gone was asked once, and is off.
    let off = until("the receiver that is gone is off", || {
        let shown = shown(&world, "gone")["destination"].clone();
        if shown["enabled"] == false { Ok(shown) } else { Err(shown) }
    });
    trial.tried(match (gone.got().len(), off["problem"].as_str()) {
        (1, Some(why)) if why.contains("410") => Ok(()),
        (asked, why) => Err(format!("asked {asked} times, told {why:?}")),
    });
    let status = world.json(&["status"])["daemon"]["problems"].to_string();
    trial.tried(match status.contains("gone is stopped") {
        true => Ok(()),
        false => Err(format!("the status does not say so: {status}")),
    });

    // The one that was overrun was left alone as long as it asked.
    until_told(&busy, count);
    let got = busy.got();
    let pause = got[1].at.duration_since(got[0].at);
    trial.measured("left alone that asked for 1 s", pause);
    trial.tried(match pause >= Duration::from_millis(990) {
        true => Ok(()),
        false => Err(format!("asked again after {pause:?}")),
    });
    trial.tried_times(count, judge(&got, count));

    // Whatever comes back gets all of it, under the ids of before.
    let health = until("a receiver that fails is said to", || {
        let shown = shown(&world, "failing")["destination"].clone();
        let problem = shown["problem"].as_str().unwrap_or_default();
        if problem.contains("again and again") { Ok(shown) } else { Err(shown) }
    });
    trial.tried(match health["health"] == "waiting" {
        true => Ok(()),
        false => Err(health.to_string()),
    });
    for receiver in [&slow, &failing] {
        receiver.answers(|_, _| Reply::Status(204));
        until_told(receiver, count);
        trial.tried_times(count, judge(&receiver.got(), count));
    }
    gone.answers(|_, _| Reply::Status(200));
    world.run(["notify", "enable", "gone"]).ok();
    until_told(&gone, count);
    trial.tried_times(count, judge(&gone.got(), count));

    let mut other = good.got();
    other[0].headers.insert("webhook-id".into(), "msg_other".into());
    other.extend(good.got());
    trial.control("an event that was told by two messages", judge(&other, count).is_err());
    let down = shown(&world, "down");
    let told = down["notifications"].to_string();
    trial.tried(match told.contains(&format!("connect to {down_at}: ")) {
        true => Ok(()),
        false => Err(format!("its history does not say why: {down}")),
    });
    trial.end();
}

#[test]
fn t_notify_a_message_that_nobody_takes_is_given_up_and_can_be_sent_again() {
    let mut trial = Trial::new(
        "T-NOTIFY given up",
        "a message that is refused for days is given up, told, and goes again under its id when asked for",
    );
    let world = world("127.0.0.1", 1_000_000);
    let receiver =
        Receiver::answering(|_, _| Reply::With(400, "x", "y".into(), "no \u{1b}[31m".into()));
    webhook(&world, "hook", &receiver.url(), &["--events", "project.created"]);
    happen(&world, 1);
    let dead = until("it is given up", || {
        let shown = shown(&world, "hook");
        if shown["notifications"][0]["state"] == "dead" { Ok(shown) } else { Err(shown) }
    });
    let sent = &dead["notifications"][0];
    let attempts = receiver.got().len();
    trial.tried(match (attempts, sent["history"].as_array().map(Vec::len)) {
        (10, Some(10)) => Ok(()),
        found => Err(format!("not tried ten times but {found:?}")),
    });
    let last = &sent["history"][9];
    trial.tried(
        match last["status"] == 400 && last["detail"].as_str().unwrap().contains("no \\x1b[31m") {
            true => Ok(()),
            false => Err(format!("its history does not say why: {last}")),
        },
    );
    trial.control("a message that was not delivered", judge(&[], 1).is_err());
    receiver.answers(|_, _| Reply::Status(200));
    world.run(["notify", "retry", "hook"]).ok();
    until("it is delivered", || {
        let state = shown(&world, "hook")["notifications"][0]["state"].clone();
        if state == "delivered" { Ok(()) } else { Err(state) }
    });
    trial.tried(judge(&receiver.got(), 1));
    trial.end();
}

#[test]
fn t_notify_a_daemon_that_dies_anywhere_loses_nothing_and_tells_by_the_same_message() {
    let mut trial = Trial::new(
        "T-NOTIFY crash",
        "the daemon dies before a message is written, after, before it is sent, and before that is written down: each event is told, by one message",
    );
    for _ in 0..scale(1, 25) {
        for point in ["notify_before_write", "notify_written", "notify_before_send", "notify_sent"]
        {
            let mut world = world("127.0.0.1", 100);
            let receiver = Receiver::start();
            webhook(&world, "hook", &receiver.url(), &["--events", "project.*"]);
            world.run(["daemon", "stop"]).ok();
            world.set_env("STRATAVORE_FAILPOINTS", &format!("{point}=abort"));
            world.run(["daemon", "start"]).ok();
            let pid = world.daemon_pid().unwrap();
            world.set_env("STRATAVORE_FAILPOINTS", "");
            happen(&world, 3);
            until("the daemon has died", || if is_gone(pid) { Ok(()) } else { Err(pid) });
            world.run(["daemon", "start"]).ok();
            until_told(&receiver, 3);
            until_delivered(&world, 3);
            let got = receiver.got();
            trial.tried(judge(&got, 3).map_err(|why| format!("{point}: {why}")));
            let repeated = got.len() - 3;
            let expected = usize::from(point == "notify_sent");
            trial.tried(match repeated == expected {
                true => Ok(()),
                false => Err(format!("{point}: {repeated} were repeated")),
            });
            if repeated > 0 {
                let mut unlike = got;
                unlike[0].headers.insert("webhook-id".into(), "msg_other".into());
                trial.control("a repetition under another id", judge(&unlike, 3).is_err());
            }
        }
    }
    trial.end();
}

/// Waits until the hook has taken all of so many messages.
pub(crate) fn until_delivered(world: &World, count: usize) {
    until("all of it is settled", || {
        let all = shown(world, "hook")["notifications"].clone();
        let states = all.as_array().unwrap().iter().map(|one| one["state"].clone());
        let states: Vec<Value> = states.collect();
        let done = states.len() == count && states.iter().all(|state| state == "delivered");
        if done { Ok(()) } else { Err(states) }
    });
}

#[test]
fn t_notify_many_events_at_once_are_few_messages() {
    let mut trial = Trial::new(
        "T-NOTIFY storm",
        "many runners are lost at once: a few messages, that count all of them",
    );
    let runners = scale(24, 500);
    let world = world("127.0.0.1", 1);
    let (grouped, each) = (Receiver::start(), Receiver::start());
    webhook(&world, "grouped", &grouped.url(), &["--events", "runner.lost", "--group", "3s"]);
    webhook(&world, "each", &each.url(), &["--events", "runner.lost"]);
    world.large_project("demo");
    let count = runners.to_string();
    let launch =
        ["launch", "--project", "demo", "--assistant", "generic", "--count", &count, "--", "cat"];
    world.run(launch).ok();
    until("all of them run", || {
        let all = world.json(&["runners", "list"]);
        let all = stratavore_testkit::world::rows(&all);
        let running = all.iter().filter(|runner| runner["state"] == "running").count();
        if running == runners { Ok(()) } else { Err(running) }
    });
    for agent in world.agents() {
        signal(agent, rustix::process::Signal::KILL);
    }
    let told_of = |got: &[Got]| -> u64 {
        let of = |one: &Got| one.json()["data"]["count"].as_u64().unwrap_or(1);
        got.iter().map(of).sum()
    };
    for receiver in [&grouped, &each] {
        until("all of them are told of", || {
            let found = told_of(&receiver.got());
            if found >= runners as u64 { Ok(()) } else { Err(found) }
        });
    }
    let few = |got: &[Got]| match got.len() <= 3 && told_of(got) == runners as u64 {
        true => Ok(()),
        false => Err(format!("{} messages told of {}", got.len(), told_of(got))),
    };
    trial.tried_times(runners, few(&grouped.got()));
    trial.counted("messages", grouped.got().len() as u64);
    trial.control("a message for each", few(&each.got()).is_err());
    trial.end();
}

#[test]
fn t_notify_no_more_than_so_many_messages_come_in_an_hour() {
    let mut trial = Trial::new(
        "T-NOTIFY rate",
        "3 messages an hour and 20 events: 3 messages, the rest waits and is not lost",
    );
    let events = 20;
    let world = world("127.0.0.1", 1);
    let (limited, gathered, each) = (Receiver::start(), Receiver::start(), Receiver::start());
    let rules = ["--events", "project.created"];
    let limit = [&rules[..], &["--per-hour", "3", "--group", "0s"]].concat();
    webhook(&world, "limited", &limited.url(), &limit);
    let group = [&rules[..], &["--per-hour", "3", "--group", "1s"]].concat();
    webhook(&world, "gathered", &gathered.url(), &group);
    webhook(&world, "each", &each.url(), &rules);
    happen(&world, events);
    until_told(&each, events);
    let counted = |got: &[Got]| -> u64 {
        got.iter().map(|one| one.json()["data"]["count"].as_u64().unwrap_or(1)).sum()
    };
    let few = |receiver: &Receiver| match receiver.got().len() {
        0..=3 => Ok(()),
        more => Err(format!("{more} messages")),
    };
    until("its three have come", || match limited.got().len() {
        3.. => Ok(()),
        fewer => Err(fewer),
    });
    trial.tried_times(events, few(&limited));
    trial.tried_times(events, few(&gathered));
    trial.control("a receiver without a limit", few(&each).is_err());
    // The next hour: what had to wait is told. No event was lost, and none is told twice.
    world.kill_daemon();
    let mut world = world;
    world.set_env(HASTE, "3600");
    world.run(["daemon", "start"]).ok();
    until_told(&limited, events);
    trial.tried(judge(&limited.got(), events));
    until("what is gathered has come as well", || match counted(&gathered.got()) {
        all if all >= events as u64 => Ok(()),
        some => Err(some),
    });
    let all = counted(&gathered.got());
    trial.tried(if all == events as u64 { Ok(()) } else { Err(format!("{all} of {events}")) });
    trial.end();
}

#[test]
fn t_ssrf_nothing_is_sent_where_nothing_may_be() {
    let mut trial = Trial::new(
        "T-SSRF",
        "addresses that are not public are not dialled: given, by a name, or by a redirect",
    );
    let world = world("127.0.0.1", 1);
    let secret = secret(&world, "hook-secret", SECRET);
    // Of which there are none: only tests are sent.
    let none = ["--events", "runner.lost"];
    for host in [
        "127.0.0.2",
        "10.0.0.1",
        "169.254.169.254",
        "0.0.0.0",
        "[::1]",
        "[::ffff:127.0.0.2]",
        "[64:ff9b::a9fe:a9fe]",
        "[fe80::1]",
        "[fd00:ec2::254]",
        "192.168.0.1",
        "100.64.0.1",
    ] {
        let url = format!("http://{host}/latest");
        let ran =
            world.run(["notify", "add", "bad", "webhook", "--url", &url, "--secret", &secret]);
        trial.tried(match ran.code() == 2 && ran.stderr().contains("notify.allow_addresses") {
            true => Ok(()),
            false => Err(format!("{host}: {}", ran.everything())),
        });
    }
    let other = Receiver::at("127.0.0.2".parse().unwrap(), |_, _| Reply::Status(200));
    // Forms that only the host's resolver makes an address of.
    for host in ["0x7f.0.0.2", "2130706434", "127.2"] {
        let url = format!("http://{host}:{}/", other.address.port());
        let add = ["notify", "add", host, "webhook", "--url", &url, "--secret", &secret];
        let ran = world.run(add.iter().chain(&none));
        if ran.code() == 0 {
            world.run(["notify", "test", host]).fails(1);
        }
        trial.tried(match other.got().is_empty() {
            true => Ok(()),
            false => Err(format!("{host} was reached")),
        });
    }
    // A redirect to where nothing may be sent.
    let to = format!("http://{}/", other.address);
    let redirecting =
        Receiver::answering(move |_, _| Reply::With(302, "location", to.clone(), String::new()));
    webhook(&world, "redirects", &redirecting.url(), &none);
    let ran = world.run(["notify", "test", "redirects"]).fails(1);
    assert!(ran.stderr().contains("redirect"), "{}", ran.stderr());
    trial.tried(match (redirecting.got().len(), other.got().len()) {
        (1, 0) => Ok(()),
        found => Err(format!("a redirect was followed: {found:?}")),
    });
    // The control: without the rule it is reached.
    let open = self::world("127.0.0.0/8", 1);
    webhook(&open, "other", &format!("http://{}/", other.address), &none);
    open.run(["notify", "test", "other"]).ok();
    trial.control("an address that is allowed", other.got().len() == 1);
    trial.end();
}
