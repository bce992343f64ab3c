//! How it is started.

use crate::reading::{Launch, PRESET, SESSION, launch};

/// The command with what is ours for watching left out, which is tested by itself.
fn line(launch: Launch) -> String {
    let started = launch.start("codex");
    let mut words = Vec::new();
    let mut skip = false;
    for (nth, word) in started.argv.iter().enumerate() {
        let is_hook = started.argv.get(nth + 1).is_some_and(|next| {
            let ours = ["hooks.", "otel.exporter={otlp-http", "notice.hide_rate_limit"];
            ours.iter().any(|ours| next.starts_with(ours))
        });
        if skip || (word == "-c" && is_hook) {
            skip = !skip;
            continue;
        }
        words.push(if word == "--dangerously-bypass-hook-trust" { "HOOKS" } else { word.as_str() });
    }
    words.join(" ").replace(PRESET, "PRESET").replace(SESSION, "SESSION")
}

#[test]
fn a_new_run_learns_its_id() {
    let before = "codex --no-daemon";
    assert_eq!(line(launch(before, &[])), "codex --no-daemon HOOKS");
    assert_eq!(line(launch(before, &["-m", "x", "fix it"])), "codex --no-daemon HOOKS -m x fix it");
    assert_eq!(
        line(launch(before, &["-i", "a.png"]).prompt("fix it")),
        "codex --no-daemon HOOKS -i a.png -- fix it"
    );
    assert_eq!(line(launch(before, &["--", "x"])), "codex --no-daemon HOOKS -- x");
    assert_eq!(launch(before, &[]).start("codex").session, None);
}

#[test]
fn what_the_caller_says_of_the_conversation_counts() {
    assert_eq!(
        line(launch("codex --no-daemon", &["resume", "--last"])),
        "codex --no-daemon resume HOOKS --last"
    );
    let resumes = launch("codex --no-daemon", &["resume", SESSION, "go on"]);
    assert_eq!(resumes.start("codex").session.as_deref(), Some(SESSION));
    assert_eq!(line(resumes), "codex --no-daemon resume HOOKS SESSION go on");
    let forks = launch("codex --no-daemon", &["fork", SESSION]);
    assert_eq!(forks.start("codex").session, None);
    assert_eq!(line(launch("codex", &["exec", "--json", "fix"])), "codex exec HOOKS --json fix");
    assert_eq!(line(launch("codex", &["e", "fix"])), "codex e HOOKS fix");
}

#[test]
fn a_resumed_run_leaves_out_the_prompt_and_the_first_choice() {
    let resumed = "codex --no-daemon resume HOOKS -C /home/dev/p1 SESSION";
    for (given, kept) in [
        (&["fix it"][..], ""),
        (&["-m", "x", "fix it"], " -m x"),
        (&["resume", "--last"], ""),
        (&["resume", "other", "go", "-m", "x"], " -m x"),
        (&["fork", "other"], ""),
        (&["--", "fix it"], ""),
        (&["--brand-new", "fix it"], " --brand-new fix it"),
        (&["-c", "model=x", "--search"], " -c model=x --search"),
    ] {
        let line = line(launch("codex --no-daemon", given).resume());
        assert_eq!(line, format!("{resumed}{kept}"), "{given:?}");
    }
    assert_eq!(
        line(launch("codex --no-daemon", &["-C", "/x"]).resume().prompt("go on")),
        "codex --no-daemon resume HOOKS SESSION -C /x -- go on"
    );
    assert_eq!(
        line(launch("codex --no-daemon", &["fix"]).fork()),
        "codex --no-daemon fork HOOKS -C /home/dev/p1 SESSION"
    );
    let session = |launch: Launch| launch.start("codex").session;
    assert_eq!(session(launch("codex", &[]).resume()).as_deref(), Some(SESSION));
    assert_eq!(session(launch("codex", &[]).fork()), None);
}

#[test]
fn without_a_screen_it_takes_its_prompt_from_its_input() {
    let exec = "exec --json --skip-git-repo-check HOOKS";
    assert_eq!(line(launch("codex", &[]).headless()), format!("codex {exec} -"));
    assert_eq!(
        line(launch("codex -m x", &["-s", "workspace-write"]).headless()),
        format!("codex -m x {exec} -s workspace-write -")
    );
    // A second `--json` would be refused.
    assert_eq!(
        line(launch("codex", &["exec", "--json"]).headless()),
        "codex exec --skip-git-repo-check HOOKS --json -"
    );
    assert_eq!(line(launch("codex", &["fix it"]).headless()), format!("codex {exec} fix it"));
    // What `exec` takes, its `resume` does not.
    assert_eq!(
        line(launch("codex", &["-s", "workspace-write", "fix it"]).headless().resume()),
        format!("codex {exec} -s workspace-write resume SESSION -")
    );
    assert_eq!(
        line(launch("codex", &["exec", "-C", "/x", "--", "fix it"]).headless().fork()),
        format!("codex {exec} -C /x fork SESSION -")
    );
}

#[test]
fn bare_it_runs_as_if_we_were_not_there_but_for_what_was_asked() {
    assert_eq!(line(launch("codex --no-daemon", &["fix"]).bare()), "codex --no-daemon fix");
    assert_eq!(
        line(launch("codex --no-daemon", &[]).bare().resume()),
        "codex --no-daemon resume -C /home/dev/p1 SESSION"
    );
    assert_eq!(
        line(launch("codex", &[]).bare().headless()),
        "codex exec --json --skip-git-repo-check -"
    );
    assert!(!launch("codex", &[]).bare().start("codex").watch_title);
}

#[test]
fn what_is_no_conversation_is_left_alone() {
    for given in [&["mcp", "list"][..], &["--help"], &["login"], &["-m", "x", "review"], &["-V"]] {
        let started = launch("codex", given).headless().start("codex");
        assert_eq!(started.argv[1..], *given, "{given:?}");
    }
    assert!(line(launch("codex", &["--", "login"])).contains("HOOKS"));
}

#[test]
fn each_hook_is_one_value_of_its_configuration() {
    let started = launch("codex", &[]).start("codex");
    let hooks: Vec<&String> =
        started.argv.iter().filter(|word| word.starts_with("hooks.")).collect();
    assert!(hooks.len() > 5);
    assert!(hooks.iter().any(|hook| {
        *hook
            == r#"hooks.Stop=[{hooks=[{type="command",command="/opt/stratavore hook /state/runners/r1",timeout=10}]}]"#
    }));
    // A hook that waits would keep the dialog off the screen.
    assert!(hooks.iter().all(|hook| !hook.contains("--wait")));
    let flag = "--dangerously-bypass-hook-trust";
    let count = |given: &[&str]| {
        launch("codex", given).start("codex").argv.iter().filter(|word| *word == flag).count()
    };
    assert_eq!((count(&[]), count(&[flag])), (1, 1));
}

/// Its dialog would take a prompt of ours for an answer. What the user says comes later, and counts.
#[test]
fn it_offers_no_other_model_where_prompts_are_typed() {
    const OURS: &str = "notice.hide_rate_limit_model_nudge=true";
    let places = |launch: Launch| {
        let argv = launch.start("codex").argv;
        let is_one = |word: &&String| word.starts_with("notice.hide_rate_limit_model_nudge=");
        argv.iter().filter(is_one).cloned().collect::<Vec<_>>()
    };
    assert_eq!(places(launch("codex", &[])), [OURS]);
    assert_eq!(places(launch("codex", &[]).resume()), [OURS]);
    assert!(places(launch("codex", &[]).headless()).is_empty());
    assert!(places(launch("codex", &[]).bare()).is_empty());
    let own = "notice.hide_rate_limit_model_nudge=false";
    assert_eq!(places(launch("codex", &["-c", own])), [OURS, own]);
}

#[test]
fn telemetry_is_for_titles_and_stays_the_users_if_it_is() {
    let tells = |launch: Launch| {
        let started = launch.start("codex");
        let told = started.argv.iter().any(|word| {
            word == r#"otel.exporter={otlp-http={endpoint="{stratavore:otlp}/v1/logs",protocol="json"}}"#
        });
        assert_eq!(told, !started.telemetry.is_empty());
        told
    };
    let home = tempfile::tempdir().unwrap();
    let in_home = || launch("codex", &[]).env("CODEX_HOME", &home.path().to_string_lossy());
    assert!(tells(launch("codex", &[])));
    assert!(tells(in_home()));
    assert!(!tells(launch("codex", &[]).headless()));
    assert!(!tells(launch("codex", &[]).bare()));
    assert!(!tells(launch("codex", &["-c", "otel.exporter=none"])));
    std::fs::write(home.path().join("config.toml"), "model = \"x\"\n").unwrap();
    assert!(tells(in_home()));
    for own in ["[otel]\nexporter = \"none\"", "otel.environment = \"x\"", "[profiles.a.otel]"] {
        std::fs::write(home.path().join("config.toml"), format!("model = \"x\"\n{own}\n")).unwrap();
        assert!(!tells(in_home()), "{own}");
    }
}
