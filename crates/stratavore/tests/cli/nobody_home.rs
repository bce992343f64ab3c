//! Commands where no daemon runs and none may be started, or none can be.

use std::os::unix::fs::PermissionsExt;

use crate::Home;

#[test]
fn without_a_daemon_the_exit_code_is_six() {
    let home = Home::new();
    for command in [
        &["runners"][..],
        &["projects"],
        &["kill", "--all"],
        &["events"],
        &["recover"],
        &["reconcile"],
    ] {
        let mut arguments = vec!["--no-start"];
        arguments.extend(command);
        let error = home.run(&arguments).failed(6);
        assert!(
            error.contains("no daemon runs") && error.contains("next: "),
            "{command:?}: {error}"
        );
    }
    assert!(!home.path().join("state").exists(), "nothing was started");
}

#[test]
fn an_error_can_be_read_by_a_program() {
    let home = Home::new();
    let error = home.run(&["--no-start", "runners", "--format", "json"]).failed(6);
    let problem: serde_json::Value = serde_json::from_str(&error).unwrap();
    assert_eq!(
        (problem["code"].as_str(), problem["exit"].as_u64()),
        (Some("unavailable"), Some(6))
    );
}

#[test]
fn a_stale_socket_is_no_daemon() {
    let home = Home::new();
    let run = home.path().join("run");
    std::fs::create_dir(&run).unwrap();
    // Nobody listens on it any more once this is dropped.
    drop(std::os::unix::net::UnixListener::bind(run.join("d.sock")).unwrap());
    let error = home.run(&["--no-start", "runners"]).failed(6);
    assert!(error.contains("no daemon runs"), "{error}");
}

#[test]
fn a_runner_that_is_not_here_is_not_found() {
    let home = Home::new();
    for command in ["screen", "send"] {
        let mut arguments = vec!["--no-start", command, "claude-1"];
        if command == "send" {
            arguments.push("hello");
        }
        let error = home.run(&arguments).failed(3);
        assert!(error.contains("claude-1") && error.contains("next: "), "{error}");
    }
}

#[test]
fn the_daemons_status_is_told_without_starting_one() {
    let home = Home::new();
    let ran = home.run(&["daemon", "status"]);
    assert_eq!((ran.code, ran.out.contains("no daemon runs")), (6, true), "{ran:?}");
    let ran = home.run(&["daemon", "status", "--format", "json"]);
    let view: serde_json::Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!((ran.code, view), (6, serde_json::json!({ "running": false })));
    assert_eq!(home.run(&["daemon", "stop"]).code, 0, "what does not run is stopped");
    assert!(!home.path().join("state").exists(), "nothing was started");
}

/// This program in a directory of its own, perhaps beside a daemon that is `script`.
fn installed(home: &Home, script: Option<&str>) -> std::io::Result<std::path::PathBuf> {
    let bin = home.path().join("bin");
    std::fs::create_dir(&bin)?;
    let program = bin.join("stratavore");
    std::fs::copy(env!("CARGO_BIN_EXE_stratavore"), &program)?;
    if let Some(script) = script {
        let daemon = bin.join("stratavored");
        std::fs::write(&daemon, script)?;
        std::fs::set_permissions(&daemon, std::fs::Permissions::from_mode(0o755))?;
    }
    Ok(program)
}

/// `runners`, run by that program.
fn runners(home: &Home, program: &std::path::Path, path: &str) -> crate::Ran {
    let mut command = std::process::Command::new(program);
    command.arg("runners").env_clear().env("STRATAVORE_HOME", home.path()).env("PATH", path);
    crate::Ran::new(&["runners"], &command.output().expect("the program starts"))
}

#[test]
fn a_daemon_that_does_not_start_says_why_and_its_code_is_ours() {
    let home = Home::new();
    let script = "#!/bin/sh\necho 'stratavored: the database is of version 9'\necho 'next: install the newer one'\nexit 5\n";
    let program = installed(&home, Some(script)).unwrap();
    let error = runners(&home, &program, "/usr/bin:/bin").failed(5);
    assert!(
        error.contains("the database is of version 9")
            && error.contains("next: install the newer one"),
        "{error}"
    );
}

#[test]
fn without_the_daemons_program_the_next_step_is_to_install_it() {
    let home = Home::new();
    let program = installed(&home, None).unwrap();
    let error = runners(&home, &program, "/nowhere").failed(3);
    assert!(error.contains("stratavored") && error.contains("install"), "{error}");
}

#[test]
fn the_doctor_changes_nothing_and_says_what_to_do() {
    let home = Home::new();
    let ran = home.run(&["doctor", "--format", "json"]);
    let findings: serde_json::Value = serde_json::from_str(&ran.out).unwrap();
    let findings = findings.as_array().unwrap();
    let of = |check: &str| {
        findings.iter().find(|f| f["check"] == check).unwrap_or_else(|| panic!("{check}: {ran:?}"))
    };
    for check in [
        "configuration",
        "state directory",
        "disk",
        "limits",
        "open files",
        "assistants",
        "terminal",
        "locale",
    ] {
        assert_ne!(of(check)["verdict"], "broken", "{check}: {ran:?}");
    }
    for finding in findings.iter().filter(|f| f["verdict"] != "ok") {
        assert!(finding["next"].is_string(), "{finding}");
    }
    assert!(!home.path().join("state").exists(), "it changes nothing");

    std::fs::create_dir(home.path().join("state")).unwrap();
    std::fs::set_permissions(home.path().join("state"), std::fs::Permissions::from_mode(0o777))
        .unwrap();
    let ran = home.run(&["doctor"]);
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(ran.out.contains("chmod 700"), "{ran:?}");

    std::fs::write(home.path().join("stratavore.yaml"), "nonsense: 1\n").unwrap();
    let ran = home.run(&["doctor"]);
    assert_eq!((ran.code, ran.out.contains("nonsense")), (1, true), "{ran:?}");
}
