//! The help is part of the product: a change to it is seen here.

use crate::Home;

/// Every command, with the path that leads to it.
const COMMANDS: [&str; 107] = [
    "",
    "new",
    "projects",
    "projects list",
    "projects show",
    "projects edit",
    "projects archive",
    "projects delete",
    "launch",
    "run",
    "queue",
    "queue list",
    "queue add",
    "queue show",
    "queue cancel",
    "queue retry",
    "queue set",
    "runners",
    "runners list",
    "runners show",
    "attach",
    "send",
    "inbox",
    "approve",
    "deny",
    "explain",
    "logs",
    "screen",
    "kill",
    "restart",
    "pause",
    "unpause",
    "recover",
    "status",
    "sessions",
    "sessions list",
    "sessions show",
    "sessions rm",
    "sessions resume",
    "sessions fork",
    "sessions search",
    "sessions messages",
    "sessions export",
    "sessions import",
    "usage",
    "usage explain",
    "usage windows",
    "search",
    "import",
    "events",
    "events list",
    "events subscribe",
    "outbox",
    "outbox status",
    "outbox dead",
    "outbox retry",
    "outbox forget",
    "notify",
    "notify list",
    "notify show",
    "notify add",
    "notify test",
    "notify remove",
    "notify enable",
    "notify disable",
    "notify retry",
    "budget",
    "budget list",
    "budget set",
    "budget rm",
    "budget show",
    "budget history",
    "budget allow",
    "nodes",
    "nodes list",
    "nodes show",
    "nodes cordon",
    "nodes uncordon",
    "nodes drain",
    "nodes remove",
    "nodes token",
    "nodes tokens",
    "nodes revoke",
    "nodes join",
    "ca",
    "ca init",
    "ca show",
    "daemon",
    "daemon start",
    "daemon stop",
    "daemon restart",
    "daemon status",
    "config",
    "config show",
    "doctor",
    "audit",
    "audit list",
    "audit verify",
    "audit export",
    "audit keys",
    "audit keys list",
    "audit keys rotate",
    "audit keys export",
    "reconcile",
    "upgrade",
    "completions",
    "version",
];

#[test]
fn the_whole_help() {
    let home = Home::new();
    let mut pages = String::new();
    for command in COMMANDS {
        let mut arguments: Vec<&str> = command.split_whitespace().collect();
        arguments.push("--help");
        let help = home.run(&arguments).ok();
        // The options that every command has are shown once.
        let help = match help.split_once("Global options:\n") {
            Some((before, after)) if !command.is_empty() => {
                let rest = after.split_once("\n\n").map_or("", |(_, rest)| rest);
                format!("{before}{rest}")
            }
            _ => help,
        };
        pages.push_str(&format!("──── stratavore {command}\n{}\n\n", help.trim_end()));
    }
    insta::assert_snapshot!(pages);
}

#[test]
fn every_command_is_in_the_list_above() {
    let home = Home::new();
    for command in COMMANDS {
        let mut arguments: Vec<&str> = command.split_whitespace().collect();
        arguments.push("--help");
        let help = home.run(&arguments).ok();
        let Some((_, listed)) = help.split_once("Commands:\n") else { continue };
        for line in listed.lines().take_while(|line| !line.is_empty()) {
            // What does not fit into a line goes on in the next one.
            if line.starts_with("   ") {
                continue;
            }
            let name = line.split_whitespace().next().unwrap();
            let path = format!("{command} {name}").trim().to_owned();
            // Their pages say nothing that the list does not.
            let plain = ["config validate", "config path"].contains(&path.as_str());
            assert!(
                plain || COMMANDS.contains(&path.as_str()),
                "`{path}` has a help page that is not looked at"
            );
        }
    }
}

#[test]
fn completions_are_made_for_every_shell() {
    let home = Home::new();
    for shell in ["bash", "zsh", "fish"] {
        let script = home.run(&["completions", shell]).ok();
        assert!(script.contains("stratavore") && script.contains("launch"), "{shell}: {script}");
    }
    let error = home.run(&["completions", "basic"]).failed(2);
    assert!(error.contains("bash"), "{error}");
}

#[test]
fn manual_pages_are_written() {
    let home = Home::new();
    let target = home.path().join("man");
    std::fs::create_dir(&target).unwrap();
    home.run(&["man", "--output", target.to_str().unwrap()]).ok();
    let page = std::fs::read_to_string(target.join("stratavore-attach.1")).unwrap();
    assert!(page.contains("detach"), "{page}");
    home.run(&["man", "--output", "/nowhere/at/all"]).failed(3);
}

#[test]
fn the_version_is_told_briefly_and_in_full() {
    let home = Home::new();
    let version = env!("CARGO_PKG_VERSION");
    assert_eq!(home.run(&["version"]).ok(), format!("stratavore {version}\n"));
    assert_eq!(home.run(&["--version"]).ok(), format!("stratavore {version}\n"));
    let detailed = home.run(&["version", "--detailed"]).ok();
    for word in ["commit", "built", "target"] {
        assert!(detailed.contains(word), "{detailed}");
    }
    let json: serde_json::Value =
        serde_json::from_str(&home.run(&["version", "--format", "json"]).ok()).unwrap();
    assert_eq!(json["version"], version);
    assert!(json["built_at"].as_str().unwrap().ends_with('Z'), "{json}");
}
