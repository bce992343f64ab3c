//! `config`, and what a configuration that cannot be used does to every command.

use std::os::unix::fs::PermissionsExt;

use crate::Home;

impl Home {
    fn configure(&self, text: &str) {
        std::fs::write(self.path().join("stratavore.yaml"), text).expect("write the configuration");
    }
}

#[test]
fn values_are_shown_with_where_they_came_from() {
    let home = Home::new();
    home.configure("attach:\n  detach_key: ctrl-a d\n");
    let rows = home
        .command(&["config", "show", "--format", "json"])
        .env("STRATAVORE_DAEMON__LOG", "json")
        .output();
    let rows: serde_json::Value = serde_json::from_slice(&rows.unwrap().stdout).unwrap();
    let row =
        |key: &str| rows.as_array().unwrap().iter().find(|row| row["key"] == key).cloned().unwrap();
    assert_eq!(row("attach.detach_key")["value"], "ctrl-a d");
    assert!(row("attach.detach_key")["source"].as_str().unwrap().contains("stratavore.yaml:2"));
    assert_eq!(row("daemon.log")["value"], "json");
    assert!(row("daemon.log")["source"].as_str().unwrap().contains("STRATAVORE_DAEMON__LOG"));
    assert_eq!(row("agent.heartbeat")["source"], "default");

    let table = home.run(&["config"]).ok();
    assert!(table.starts_with("KEY") && table.contains("ctrl-a d"), "{table}");
}

#[test]
fn a_wrong_configuration_stops_every_command_with_seven() {
    let home = Home::new();
    for (text, expected) in [
        ("attach:\n  detach_kee: ctrl-q\n", "detach_key"),
        ("attach:\n  detach_key: q\n", "control key"),
        ("attach: [\n", "stratavore.yaml"),
    ] {
        home.configure(text);
        for command in [
            &["config", "validate"][..],
            &["runners"],
            &["daemon", "start"],
            &["--no-start", "status"],
        ] {
            let error = home.run(command).failed(7);
            assert!(error.contains(expected), "{command:?}: {error}");
            assert!(error.contains("next: "), "{error}");
        }
    }
    assert!(!home.path().join("state").exists(), "nothing was started");
    home.configure("attach:\n  detach_key: ctrl-q\n");
    assert!(home.run(&["config", "validate"]).ok().starts_with("valid"));
}

#[test]
fn a_file_that_everybody_can_write_is_not_trusted() {
    let home = Home::new();
    home.configure("daemon:\n  log: json\n");
    let file = home.path().join("stratavore.yaml");
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o666)).unwrap();
    let error = home.run(&["config", "validate"]).failed(7);
    assert!(error.contains("chmod"), "{error}");
}

#[test]
fn another_file_and_another_home_can_be_named() {
    let home = Home::new();
    home.configure("daemon:\n  log: json\n");
    let other = home.path().join("other.yaml");
    std::fs::write(&other, "daemon:\n  log: human\n").unwrap();
    let shown = home.run(&["config", "show", "--config", other.to_str().unwrap()]).ok();
    assert!(shown.contains("other.yaml") && !shown.contains("stratavore.yaml"), "{shown}");

    let elsewhere = home.path().join("elsewhere");
    let paths = home
        .run(&["--home", elsewhere.to_str().unwrap(), "config", "path", "--format", "json"])
        .ok();
    let paths: serde_json::Value = serde_json::from_str(&paths).unwrap();
    assert_eq!(paths["state_dir"], elsewhere.join("state").to_str().unwrap());
    // Relative to where the command runs.
    let paths = home.run(&["--home", "elsewhere", "config", "path"]).ok();
    assert!(paths.contains(elsewhere.to_str().unwrap()), "{paths}");

    home.run(&["config", "show", "--config", "/nowhere.yaml"]).failed(7);
}
