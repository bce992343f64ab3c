//! Telling people and programs: what a person gives, is shown, and is refused.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use stratavore_testkit::receiver::Receiver;
use stratavore_testkit::world::{World, until};

const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

fn world() -> World {
    World::with_config("notify:\n  allow_addresses: [127.0.0.1]\n")
}

/// Writes a file that only we can read; answers how it is referred to.
fn secret(world: &World, name: &str, text: &str) -> String {
    let path = world.path(name);
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    format!("file:{}", path.display())
}

/// The destinations of every kind, with canaries where secrets are.
#[test]
fn no_secret_is_shown_or_kept_and_a_new_one_is_used_at_once() {
    let world = world();
    let receiver = Receiver::start();
    let hook = secret(&world, "hook", SECRET);
    let url = format!("http://{}/canary-path?canary=1", receiver.address);
    let slack = secret(&world, "slack", &format!("http://{}/canary-slack", receiver.address));
    let token = secret(&world, "token", "1:canary-token");
    let topic = secret(&world, "topic", "canary-topic");
    let server = format!("http://{}", receiver.address);
    let mail = ["--host", "mail.invalid", "--from", "a@b.c", "--to", "d@e.f", "--to", "g@h.i"];
    let login = ["--user", "sv", "--password", &token];
    let kinds: [(&str, &str, Vec<&str>); 6] = [
        ("a", "webhook", vec!["--url", &url, "--secret", &hook]),
        ("b", "slack", vec!["--url", &slack]),
        ("c", "telegram", vec!["--token", &token, "--chat", "-4711", "--url", &server]),
        ("d", "ntfy", vec!["--topic", &topic, "--token", &token, "--url", &server]),
        ("e", "email", mail.into_iter().chain(login).collect()),
        ("f", "desktop", Vec::new()),
    ];
    // Of these events there are none: only tests are sent.
    let none = ["--events", "runner.lost"];
    for (name, kind, options) in &kinds {
        world.run(["notify", "add", name, kind].iter().chain(options).chain(&none)).ok();
        // The same again is no mistake.
        world.run(["notify", "add", name, kind].iter().chain(options).chain(&none)).ok();
    }
    for name in ["a", "b", "c", "d"] {
        world.run(["notify", "test", name]).ok();
    }
    world.run(["notify", "test", "e"]).fails(1);
    assert_eq!(receiver.got().len(), 4);
    assert_eq!(receiver.got()[0].path, "/canary-path?canary=1");
    let signed = receiver.got()[0].header("webhook-signature").to_owned();
    assert_eq!(signed.split(' ').count(), 1);

    let list = world.json(&["notify"]);
    let of = |name: &str| {
        let all = list.as_array().unwrap();
        all.iter().find(|one| one["name"] == name).unwrap()["to"].as_str().unwrap().to_owned()
    };
    assert_eq!(of("a"), format!("{server}/…"));
    assert_eq!(of("b"), slack);
    assert_eq!(of("e"), "d@e.f, g@h.i by mail.invalid:587");
    let mut shown = list.to_string();
    for (name, _, _) in &kinds {
        shown += &world.run(["notify", "show", name]).ok().stdout();
        shown += &world.json(&["notify", "show", name]).to_string();
    }
    for command in ["outbox", "audit list", "status", "events"] {
        shown += &world.json(&command.split(' ').collect::<Vec<_>>()).to_string();
    }
    for canary in ["canary", &SECRET[6..]] {
        assert!(!shown.contains(canary), "{shown}");
    }

    // Two secrets sign while one replaces the other; no daemon is started again for that.
    secret(&world, "hook", &format!("{SECRET} whsec_{}", "QUJD".repeat(8)));
    world.run(["notify", "test", "a"]).ok();
    let got = receiver.got();
    let signed = got.last().unwrap().header("webhook-signature");
    assert_eq!(signed.split(' ').count(), 2, "{signed}");
    fs::remove_file(world.path("hook")).unwrap();
    let ran = world.run(["notify", "test", "a"]).fails(1);
    assert!(ran.stderr().contains("cannot be read here"), "{}", ran.stderr());

    world.run(["daemon", "stop"]).ok();
    for entry in fs::read_dir(world.path("state")).unwrap() {
        let path = entry.unwrap().path();
        let bytes = fs::read(&path).unwrap_or_default();
        let text = String::from_utf8_lossy(&bytes);
        // A URL that was not given as a secret is kept; what stands in files is not.
        for canary in ["canary-slack", "canary-token", "canary-topic", &SECRET[6..]] {
            assert!(!text.contains(canary), "{canary} is in {}", path.display());
        }
    }
}

#[test]
fn what_cannot_be_is_refused_with_what_to_do() {
    let world = world();
    let hook = secret(&world, "hook", SECRET);
    let open = world.path("open");
    fs::write(&open, SECRET).unwrap();
    fs::set_permissions(&open, fs::Permissions::from_mode(0o644)).unwrap();
    let open = format!("file:{}", open.display());
    let web = |rest: &str| format!("x webhook --url https://example.org/h --secret {hook} {rest}");
    for (given, code, says) in [
        ("x pigeon".to_owned(), 2, "webhook, slack, telegram, ntfy, email, desktop"),
        ("rabbitmq desktop".into(), 2, "another destination"),
        ("-x desktop".into(), 2, ""),
        ("x webhook --url https://example.org/h".into(), 2, "--secret is missing"),
        (format!("x webhook --url https://example.org/h --secret {SECRET}"), 2, "file:/PATH"),
        (format!("x webhook --url https://u:p@example.org/h --secret {hook}"), 2, "file:/PATH"),
        (format!("x webhook --url ftp://example.org --secret {hook}"), 2, "https://"),
        (format!("x webhook --url https://example.org/h --secret {open}"), 2, "chmod 600"),
        (
            "x webhook --url https://example.org/h --secret file:/none".into(),
            2,
            "cannot be read here",
        ),
        (
            "x webhook --url https://example.org/h --secret systemd-cred:a".into(),
            2,
            "service manager",
        ),
        ("x slack --url https://hooks.slack.com/services/T/B/X".into(), 2, "secret as a whole"),
        (web("--chat 1"), 2, "--chat means nothing to webhook"),
        (web("--events Runner"), 2, "no pattern"),
        (web("--project nope"), 3, "nope"),
        (web("--severity loud"), 2, "info, warning, error, critical"),
        (web("--quiet-hours 22:00-07:00"), 2, "--group"),
        (web("--group 5s --quiet-hours 22-7"), 2, "22:00-07:00"),
        (web("--group 5s --quiet-hours 22:00-07:00 --zone Mars/Base"), 2, "Europe/Berlin"),
        (web("--group 2d"), 2, "24 h"),
        (web("--per-hour 99999"), 2, "3600"),
        ("x ntfy --topic a/b".into(), 2, "up to 64 letters"),
        ("x email --host h --from a@b --to c".into(), 2, "no address of mail"),
        ("x email --host h --from a@b>c --to c@d".into(), 2, "no address of mail"),
        ("x email --host h --from a@b".into(), 2, "receivers"),
        (
            format!(
                "x email --host h --from a@b --to c@d --user u --password {hook} --mail-tls off"
            ),
            2,
            "without TLS",
        ),
        ("x email --host h --from a@b --to c@d --user u".into(), 2, "go together"),
    ] {
        let words = ["notify", "add"].into_iter().chain(given.split_whitespace());
        let ran = world.run(words).fails(code);
        let said = ran.stderr();
        assert!(said.contains(says), "{given}: {said}");
        assert!(!said.contains(&SECRET[6..]) && !said.contains("u:p"), "{said}");
    }
    assert_eq!(world.json(&["notify"]), serde_json::json!([]));
    world.run(["notify", "add", "me", "ntfy", "--topic", "t"]).ok();
    let ran = world.run(["notify", "add", "me", "ntfy", "--topic", "other"]).fails(2);
    assert!(ran.stderr().contains("notify remove me"), "{}", ran.stderr());
    for command in ["show", "test", "remove", "enable", "disable", "retry"] {
        let ran = world.run(["notify", command, "mee"]).fails(3);
        assert!(ran.stderr().contains("did you mean me"), "{}", ran.stderr());
    }
    world.run(["notify", "remove", "me"]).ok();
    world.run(["notify", "add", "me", "ntfy", "--topic", "other"]).ok();
}

/// In quiet hours only what is urgent is sent, and takes along what has waited.
#[expect(clippy::disallowed_methods, reason = "the hours are those of the daemon's clock")]
#[test]
fn quiet_hours_hold_back_what_is_not_urgent() {
    let world = world();
    let (asleep, woken) = (Receiver::start(), Receiver::start());
    let hook = secret(&world, "hook", SECRET);
    // An hour ago until in two hours.
    let now = jiff::Timestamp::try_from(std::time::SystemTime::now())
        .unwrap()
        .to_zoned(jiff::tz::TimeZone::UTC);
    let at = |hours: i8| format!("{:02}:{:02}", (now.hour() + 24 + hours) % 24, now.minute());
    let quiet = format!("{}-{}", at(-1), at(2));
    for (name, receiver, urgent) in [("asleep", &asleep, "critical"), ("woken", &woken, "error")] {
        let url = receiver.url();
        let rules = ["--group", "100ms", "--quiet-hours", &quiet, "--urgent", urgent];
        let only = ["--events", "project.created,runner.failed"];
        let add = ["notify", "add", name, "webhook", "--url", &url, "--secret", &hook];
        world.run(add.iter().chain(&rules).chain(&only)).ok();
    }
    world.project("demo");
    // It may fail before the launch ends; then that is what the launch says.
    world.run(["launch", "--project", "demo", "--name", "fails", "--", "sh", "-c", "exit 3"]);
    let got = until("who may be woken is", || woken.got().first().cloned().ok_or(()));
    let told = got.json();
    assert_eq!(
        (&told["data"]["count"], &told["data"]["severity"]),
        (&2.into(), &"error".into()),
        "{told}"
    );
    let shown = world.json(&["notify", "show", "asleep"]);
    assert_eq!(shown["notifications"], serde_json::json!([]));
    assert!(asleep.got().is_empty());
}

/// Something is wrong for as long as a destination cannot be reached.
#[test]
fn of_what_is_wrong_its_beginning_and_its_end_are_told_once_each() {
    let mut world = world();
    world.set_env("STRATAVORE_TEST_TIMES", "alerts_every=100ms");
    let receiver = Receiver::start();
    let hook = secret(&world, "hook", SECRET);
    let add = |name: &str, url: &str, events: &str| {
        let to = ["webhook", "--url", url, "--secret", &hook, "--events", events];
        world.run(["notify", "add", name].iter().chain(&to)).ok();
    };
    add("ops", &receiver.url(), "system.*");
    // Nobody listens there.
    add("deaf", "http://127.0.0.1:1/", "project.*");
    world.project("demo");
    for n in 0..6 {
        world.run(["projects", "edit", "demo", "--description", &n.to_string()]).ok();
    }
    let told = |state: &str| -> Vec<serde_json::Value> {
        let got = receiver.got().into_iter().map(|got| got.json()["data"].clone());
        got.filter(|event| event["data"]["state"] == state && event["data"]["about"] == "deaf")
            .collect()
    };
    let raised = until("it is told", || match told("raised").pop() {
        Some(event) => Ok(event),
        None => Err(world.json(&["status"])["daemon"]["problems"].clone()),
    });
    assert_eq!(raised["type"], "stratavore.system.alert");
    assert_eq!(raised["data"]["severity"], "error");
    assert_eq!(raised["data"]["scope"], "cluster");
    let words = raised["data"]["words"].as_str().unwrap();
    assert!(words.starts_with("deaf is waiting"), "{words}");
    let looks = || {
        let status = world.json(&["status"]);
        let tasks = status["daemon"]["tasks"].as_array().unwrap();
        tasks.iter().find(|task| task["name"] == "alerts").unwrap()["runs"].as_u64().unwrap()
    };
    let looked = |more: u64| {
        let before = looks();
        until("it is looked again and again", || match looks() {
            now if now >= before + more => Ok(()),
            now => Err(now),
        });
    };
    looked(5);
    world.run(["notify", "remove", "deaf"]).ok();
    let cleared = until("its end is told", || told("cleared").pop().ok_or(()));
    assert_eq!(cleared["data"]["severity"], "error", "whoever was told of it is told of that");
    assert!(cleared["data"]["raised_at"].is_string(), "{cleared}");
    looked(5);
    assert_eq!((told("raised").len(), told("cleared").len()), (1, 1));
}
