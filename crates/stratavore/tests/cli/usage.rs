//! Mistakes on the command line: told at once, before anything is started.

use crate::Home;

#[test]
fn wrong_usage_ends_with_two_and_says_what_is_right() {
    let home = Home::new();
    let cases: &[(&[&str], &str)] = &[
        (&[], "Usage"),
        (&["launch", "--count", "0"], "1..=1000"),
        (&["launch", "--memory", "much"], "2GiB"),
        (&["launch", "--wall", "0.5h"], "1h30m"),
        (&["launch", "--restart", "sometimes"], "on-failure"),
        (&["launch", "--env", "LD_PRELOAD=/x"], "may not set"),
        (&["launch", "--env", "API_KEY=hunter2"], "file:"),
        (&["launch", "--env", "novalue"], "KEY=VALUE"),
        (&["launch", "--count", "2", "--attach"], "one runner"),
        (&["kill"], "RUNNERS"),
        (&["kill", "--all", "some"], "cannot be used with"),
        (&["kill", "x", "--force", "--timeout", "5s"], "cannot be used with"),
        (&["attach", "x", "--steal", "--read-only"], "cannot be used with"),
        (&["send", "x"], "TEXT"),
        (&["send", "x", "text", "--stdin"], "cannot be used with"),
        (&["events", "--limit", "5000"], "1..=1000"),
        (&["runners", "--state", "sleeping"], "unresponsive"),
        (&["--format", "xml", "runners"], "yaml"),
        (&["some-project", "status"], "no command"),
        (&["runners", "--all", "list"], "after `list`"),
        (&["events", "--limit", "3", "subscribe"], "after `list`"),
    ];
    for (arguments, expected) in cases {
        let error = home.run(arguments).failed(2);
        assert!(error.contains(expected), "{arguments:?}: {error}");
    }
    assert!(!home.path().join("state").exists(), "nothing was started");
}

#[test]
fn attaching_without_a_terminal_is_refused_with_what_works_instead() {
    let home = Home::new();
    for arguments in [&["attach", "x"][..], &["launch", "--attach"], &["some-project"]] {
        let error = home.run(arguments).failed(2);
        assert!(error.contains("terminal") && error.contains("next: "), "{arguments:?}: {error}");
    }
}

#[test]
fn hostile_arguments_come_back_harmless() {
    let home = Home::new();
    for text in ["\u{1b}]0;owned\u{7}", "\u{1b}[2J", "a\u{202e}b"] {
        for arguments in [
            &["--no-start", "screen", text][..],
            &["--no-start", "projects", "show", text],
            &["launch", "--env", &format!("{text}=1")],
            &["--no-start", "logs", "x", "--since", text],
        ] {
            let ran = home.run(arguments);
            assert_ne!(ran.code, 0, "{ran:?}");
            let harmful = ran.err.replace("\u{1b}[", "").contains(['\u{1b}', '\u{7}', '\u{202e}']);
            assert!(!harmful, "{ran:?}");
        }
    }
}

#[test]
fn colours_are_for_terminals_and_for_who_asks_for_them() {
    let home = Home::new();
    let plain = home.run(&["--no-start", "runners"]);
    assert!(!plain.err.contains('\u{1b}'), "{plain:?}");
    let forced =
        home.command(&["--no-start", "runners"]).env("CLICOLOR_FORCE", "1").output().unwrap();
    assert!(String::from_utf8_lossy(&forced.stderr).contains("\u{1b}[31m"), "{forced:?}");
    let never = home
        .command(&["--no-start", "runners"])
        .env("CLICOLOR_FORCE", "1")
        .env("NO_COLOR", "1")
        .output()
        .unwrap();
    assert!(!String::from_utf8_lossy(&never.stderr).contains('\u{1b}'), "{never:?}");
}
