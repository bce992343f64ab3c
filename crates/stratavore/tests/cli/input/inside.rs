//! Row 88, beside what `bad_days` shows of one: whatever a program inside a runner asks for, it
//! changes nothing, and of other runners it learns no value that they were given.

use std::fs;

use serde_json::Value;
use stratavore_testkit::world::{World, until};

use crate::bad_days::runners;

/// Every command that would change something, and the code that it ends with inside a runner.
const CHANGES: [(&str, i32); 20] = [
    ("new more --directory /tmp", 8),
    ("projects edit demo --description changed", 8),
    ("projects archive spare", 8),
    ("projects delete spare", 8),
    ("launch -p demo -- true", 8),
    ("demo", 2),
    ("kill other", 8),
    ("kill --all --force", 8),
    ("kill --project demo", 8),
    ("restart other", 8),
    ("pause other", 8),
    ("unpause other", 8),
    ("recover ended", 8),
    ("upgrade other", 8),
    ("reconcile", 8),
    ("logs other", 8),
    ("sessions rm ses_", 8),
    ("daemon stop", 8),
    ("daemon restart", 8),
    ("daemon stop --stop-runners", 8),
];

/// Every command that shows something.
const LOOKS: [&str; 9] = [
    "runners show other",
    "runners show ended",
    "runners list --all",
    "status",
    "events list --after 0 --limit 1000",
    "projects list",
    "runners show mine",
    "sessions list",
    "usage --by runner",
];

fn script(world: &World) -> String {
    let program = World::program("stratavore").display().to_string();
    let home = world.path("").display().to_string();
    let mut script = String::new();
    // With the mark of the runner, without it, and as an orphan in a session of its own.
    for (how, before) in [("plain", ""), ("bare", "env -i "), ("orphan", "setsid -w env -i ")] {
        for (command, _) in CHANGES {
            script.push_str(&format!(
                "{before}{program} --home {home} {command} </dev/null; echo \"[{how} {command}: $?]\"\n"
            ));
        }
        for command in LOOKS {
            script.push_str(&format!(
                "{before}{program} --home {home} --format json {command} > '{how} {command}' 2>&1; \
                 echo \"[{how} {command}: $?]\"\n"
            ));
        }
    }
    script + "echo over; exec cat\n"
}

#[test]
fn a_program_inside_a_runner_changes_nothing_and_learns_no_value_of_others() {
    let world = World::new();
    world.project("demo");
    world.run(["new", "spare", "--directory", "/"]).ok();
    let given = ["--env", "MODE=canary-of-others", "--env", "LOGIN_TOKEN=env:HOME"];
    let argv = ["sh", "-c", "exec cat", "canary-argument"];
    let other = world.launch_with("demo", "other", &given, &argv);
    world.launch_with("demo", "ended", &given, &["true", "canary-argument"]);
    world.until_state("ended", &["exited"]);
    let before = changeable(&world);

    fs::write(world.work().join("inside.sh"), script(&world)).unwrap();
    let options = ["--env", "MODE=own-value"];
    let mine = world.launch_with("demo", "mine", &options, &["sh", "inside.sh", "own-argument"]);
    let printed = until("the script has come to its end", || {
        let printed = String::from_utf8_lossy(&world.recorded(&mine)).into_owned();
        if printed.contains("over\r\n") { Ok(printed) } else { Err(printed) }
    });
    for how in ["plain", "bare", "orphan"] {
        for (command, code) in CHANGES {
            let line = format!("[{how} {command}: {code}]");
            assert!(printed.contains(&line), "{line} is missing:\n{printed}");
        }
        for command in LOOKS {
            let line = format!("[{how} {command}: 0]");
            assert!(printed.contains(&line), "{line} is missing:\n{printed}");
            let seen = fs::read_to_string(world.work().join(format!("{how} {command}"))).unwrap();
            assert!(!seen.contains("canary"), "{how} {command} tells:\n{seen}");
        }
        // It sees that they are there, and itself as it is.
        let of = |command: &str| -> Value {
            let path = world.work().join(format!("{how} {command}"));
            serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
        };
        let shown = of("runners show other");
        assert_eq!((&shown["state"], &shown["id"]), (&"running".into(), &other.as_str().into()));
        assert_eq!(shown["argv"][0], "sh");
        let names: Vec<_> = shown["env"].as_object().unwrap().keys().collect();
        assert_eq!(names, ["LOGIN_TOKEN", "MODE"]);
        let own = of("runners show mine");
        assert_eq!(
            (&own["env"]["MODE"], &own["argv"][2]),
            (&"own-value".into(), &"own-argument".into())
        );
        assert_eq!(of("runners list --all").as_array().unwrap().len(), 3);
    }
    assert!(!printed.contains("canary"), "{printed}");
    assert_eq!(changeable(&world), before);
    assert_eq!(world.recorded(&other), b"", "nothing was typed into it");
    assert_eq!(runners(&world).len(), 3);
    let log = fs::read_to_string(world.path("state/daemon.log")).unwrap();
    let refusals = log.lines().filter(|line| line.contains("inside a runner was refused"));
    assert!(refusals.filter(|line| line.contains(&mine)).count() > 30, "each was told in the log");

    let status = world.json(&["status"]).to_string();
    assert!(status.contains(&format!("a program inside {mine} was refused")), "{status}");
    assert!(!status.contains(&format!("a program inside {other}")), "{status}");

    // The control: the same commands are a person's to give, and a person sees every value.
    let shown = world.runner("other");
    assert_eq!(shown["env"]["MODE"], "canary-of-others");
    assert_eq!(shown["argv"][3], "canary-argument");
    for command in ["pause other", "unpause other", "projects archive spare", "kill other"] {
        world.run(command.split(' ')).ok();
    }
    assert_ne!(changeable(&world), before);
}

/// What there is that could be changed: projects and runners with the count of their changes, and
/// the daemon.
fn changeable(world: &World) -> (Vec<(String, i64)>, Option<u32>) {
    let projects = world.json(&["projects", "list", "--archived"]);
    let runners = world.json(&["runners", "list", "--all"]);
    let all = projects.as_array().unwrap().iter().chain(runners.as_array().unwrap());
    let counts = all.filter(|thing| thing["name"] != "mine");
    let counts = counts.map(|thing| {
        (thing["id"].as_str().unwrap().to_owned(), thing["generation"].as_i64().unwrap())
    });
    (counts.collect(), world.daemon_pid())
}
