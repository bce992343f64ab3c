//! An assistant of a version that nobody here has seen: it runs, and nothing is made up of what it tells.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use serde_json::Value;
use stratavore_testkit::world::{World, until};

const ALL: [&str; 4] = ["claude", "codex", "opencode", "gemini"];

/// It says what no version has said so far by its hook, its title, and its transcript; and, once it is told to, what
/// every version of Claude says.
fn script(world: &World) -> String {
    let agent = World::program("stratavore-agent");
    let runners = world.path("state/runners");
    format!(
        r#"#!/bin/sh
[ "$1" = --version ] && {{ echo 99.0; exit; }}
session=none
for word in "$@"; do
    [ "$before" = --session-id ] && session=$word
    before=$word
done
transcripts=$HOME/.claude/projects/-work
mkdir -p "$transcripts"
echo '{{"type":"thought","sessionId":"'$session'","spent":{{"photons":7}},"usage":{{"tokens":"many"}}}}' \
    > "$transcripts/$session.jsonl"
tell() {{ '{agent}' hook --dir '{runners}'/"$STRATAVORE_RUNNER_ID"; }}
echo '{{"hook_event_name":"Dreamt","event":"Dreamt","type":"dream.over","tokens":7,"usage":{{"output":7}}}}' | tell
printf '\033]0;@@ 99.0 dreams\007'
while ! test -e '{go}'; do sleep 0.1; done
echo '{{"hook_event_name":"UserPromptSubmit","session_id":"'$session'","prompt":"x"}}' | tell
exec sleep 1000
"#,
        agent = agent.display(),
        runners = runners.display(),
        go = world.path("go").display(),
    )
}

#[test]
fn a_version_that_nobody_knows_runs_and_nothing_is_made_up_of_it() {
    let mut world = World::new();
    let home = world.path("home");
    fs::create_dir(&home).unwrap();
    world.set_env("HOME", &home.display().to_string());
    let program = world.path("assistant");
    fs::write(&program, script(&world)).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let config = world.path("stratavore.yaml");
    let each = ALL.map(|name| format!("  {name}:\n    program: {}\n", program.display()));
    fs::write(&config, format!("assistants:\n{}", each.concat())).unwrap();
    fs::set_permissions(&config, fs::Permissions::from_mode(0o600)).unwrap();
    world.project("demo");

    for name in ALL {
        world.run(["launch", "--project", "demo", "--assistant", name, "--name", name]).ok();
        let read = |signal: &str| {
            let explained = world.json(&["explain", name]);
            let signals = explained["signals"].as_array().unwrap();
            let told = signals.iter().find(|told| told["signal"] == signal).cloned();
            told.ok_or(explained)
        };
        until("its hook is read", || {
            let told = read("hook Dreamt").or_else(|_| read("hook dream.over"))?;
            if told["meaning"].is_null() { Ok(()) } else { Err(told) }
        });
        until("its title is read", || read("title @@ 99.0 dreams"));
        // Idle, Codex has a title without any mark: each one without is taken for that, and not for certain.
        let known = match name {
            "codex" => ("idle".into(), "screen".into(), "likely".into()),
            _ => ("unknown".into(), Value::Null, Value::Null),
        };
        until("all of it is taken in", || {
            let shown = world.runner(name);
            let doing = &shown["doing"];
            let told = (&shown["activity"], &doing["source"], &doing["confidence"]);
            let is_so = shown["state"] == "running" && told == (&known.0, &known.1, &known.2);
            if is_so { Ok(()) } else { Err(shown) }
        });
    }
    let used = world.json(&["usage"]);
    assert_eq!(used["total"]["messages"], 0, "{used}");

    // The control: what is known is understood beside it.
    fs::write(world.path("go"), "").unwrap();
    until("it is seen to work", || match world.runner("claude") {
        shown if shown["activity"] == "working" => Ok(()),
        shown => Err(shown),
    });
    world.run(["kill", "--all", "--force"]).ok();
}
