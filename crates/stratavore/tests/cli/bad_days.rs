//! Bad input and bad days: each ends in one line with the cause, one with the next step, an exit
//! code of its own, and nothing half done.

mod beats;
mod crowd;
mod disk;
mod files;
mod hung;
mod knocking;
mod scarcity;
mod start;

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::process::Signal;
use stratavore_testkit::world::{Ran, World, rows, signal, until};

/// What a failed command told, as a person meets it: the cause in one line, then the next step, and
/// nothing where data goes.
#[track_caller]
pub(crate) fn told(ran: Ran, code: i32, words: &[&str]) -> String {
    let ran = ran.fails(code);
    let said = ran.stderr();
    assert_eq!(ran.stdout(), "", "{said}");
    let lines: Vec<&str> = said.lines().collect();
    let [cause, next] = lines[..] else { panic!("two lines are wanted:\n{said}") };
    assert!(cause.starts_with("error: ") && next.starts_with("next: "), "{said}");
    assert!(next.len() > "next: ".len() + 5, "{said}");
    for word in words {
        assert!(said.contains(word), "`{word}` should stand in:\n{said}");
    }
    said
}

/// Rows of a list, ended runners too.
pub(crate) fn runners(world: &World) -> Vec<serde_json::Value> {
    rows(&world.json(&["runners", "list", "--all"])).clone()
}

pub(crate) fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).expect("the mode can be set");
}

pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// The same command without the right to pass every permission by, which root has.
fn obeying_permissions(command: &Command) -> Command {
    let mut obeying = if is_root() {
        let mut setpriv = Command::new("setpriv");
        let rights = "-dac_override,-dac_read_search";
        setpriv.args(["--bounding-set", rights, "--inh-caps", rights]).arg(command.get_program());
        setpriv
    } else {
        Command::new(command.get_program())
    };
    obeying.args(command.get_args()).env_clear().stdin(Stdio::null());
    for (key, value) in command.get_envs() {
        if let Some(value) = value {
            obeying.env(key, value);
        }
    }
    if let Some(directory) = command.get_current_dir() {
        obeying.current_dir(directory);
    }
    obeying
}

/// Runs `stratavore` so, and the daemon that it may start.
fn run_obeying(world: &World, arguments: &[&str]) -> Ran {
    let mut command = world.command("stratavore");
    command.args(arguments);
    Ran::of(obeying_permissions(&command))
}

#[test]
fn what_is_not_there_is_answered_with_the_nearest_names() {
    let world = World::new();
    for name in ["demo", "demon", "other"] {
        world.project(name);
    }
    world.launch("demo", "worker", &["sleep", "1000"]);

    told(world.run(["projects", "show", "dmeo"]), 3, &["`dmeo`", "did you mean", "demo"]);
    told(world.run(["launch", "--project", "demp", "--", "true"]), 3, &["demo", "demon"]);
    told(world.run(["runners", "show", "wroker"]), 3, &["`wroker`", "did you mean worker?"]);
    told(world.run(["kill", "werker"]), 3, &["did you mean worker?"]);
    told(world.run(["screen", "workr"]), 3, &["worker"]);
    told(world.run(["logs", "workr"]), 3, &["worker"]);
    told(world.run(["send", "workr", "hello"]), 3, &["worker"]);
    told(world.run(["events", "--runner", "workr"]), 3, &["worker"]);
    told(world.run(["runners", "--project", "zzzz"]), 3, &["stratavore projects list"]);
    told(world.run(["runners", "show", "zzzz"]), 3, &["stratavore runners list --all"]);
    told(
        world.run(["launch", "--project", "demo", "--assistant", "cluade"]),
        2,
        &["did you mean `claude`?", "--assistant generic -- "],
    );
    // A program is told the same in a form of its own.
    let problem = world.run(["--format", "json", "kill", "werker"]).fails(3).stderr();
    let problem: serde_json::Value = serde_json::from_str(&problem).unwrap();
    assert_eq!(problem["code"], "not_found");
    assert_eq!(problem["related"], serde_json::json!(["worker"]));

    assert_eq!(runners(&world).len(), 1, "nothing was launched, and nothing stopped");
    assert_eq!(world.runner("worker")["state"], "running");
}

#[test]
fn a_program_that_is_missing_is_told_before_anything_is_admitted() {
    let world = World::new();
    world.project("demo");
    let plain = world.work().join("plain");
    fs::write(&plain, "no program").unwrap();
    let launch = |program: &str| world.run(["launch", "--project", "demo", "--", program]);

    let said = told(launch("no-such-program"), 3, &["`no-such-program`", "PATH", "install it"]);
    assert!(said.len() < 200, "one short line: {said}");
    told(launch("./no/such/program"), 3, &["does not exist"]);
    told(launch("/nowhere/program"), 3, &["/nowhere/program does not exist"]);
    told(launch("./plain"), 8, &["may not be executed", "chmod +x"]);
    told(launch("/tmp"), 8, &["/tmp may not be executed"]);
    told(launch(""), 2, &["no command is given", "-- COMMAND"]);
    // An assistant of ours is a program like others.
    let bare = World::with_config("assistants:\n  claude:\n    program: /opt/nowhere/claude\n");
    bare.project("demo");
    told(
        bare.run(["launch", "--project", "demo", "--assistant", "claude"]),
        3,
        &["/opt/nowhere/claude does not exist"],
    );
    assert!(runners(&world).is_empty() && runners(&bare).is_empty(), "nobody was admitted");
    assert!(world.agents().is_empty() && bare.agents().is_empty());
}

#[test]
fn a_directory_that_is_gone_is_told_at_the_launch() {
    let world = World::new();
    let gone = world.work().join("gone");
    let at = gone.display().to_string();
    fs::create_dir(&gone).unwrap();
    world.run(["new", "demo", "--directory", &at]).ok();
    fs::remove_dir(&gone).unwrap();

    let launch = ["launch", "--project", "demo", "--", "true"];
    told(world.run(launch), 3, &[&at, "does not exist", "make it first", "projects edit"]);
    // A file in its place is no directory.
    fs::write(&gone, "").unwrap();
    told(world.run(launch), 2, &[&at, "is not a directory"]);
    fs::remove_file(&gone).unwrap();
    told(world.run(["new", "next", "--directory", &at]), 3, &["does not exist"]);
    let elsewhere = world.work().display().to_string();
    let inside = ["launch", "--project", "demo", "--directory", "/nowhere", "--", "true"];
    told(world.run(inside), 3, &["/nowhere does not exist"]);
    assert!(runners(&world).is_empty());

    world.run(["projects", "edit", "demo", "--directory", &elsewhere]).ok();
    world.run(launch).ok();
}

#[test]
fn a_directory_that_is_gone_at_a_restart_is_told_and_costs_no_runner_that_lives() {
    let world = World::new();
    world.project("demo");
    let below = world.work().join("below");
    fs::create_dir(&below).unwrap();
    let at = below.display().to_string();
    let options = ["--directory", &at, "--restart", "always"];
    let runner = world.launch_with("demo", "one", &options, &["sleep", "1000"]);
    let process = world.process_of(&runner);
    fs::remove_dir(&below).unwrap();

    // Who asks is told, and what runs goes on.
    told(world.run(["restart", "one", "--force"]), 3, &[&at, "does not exist"]);
    assert!(process.is_alive());

    // Nobody can be asked when it ends by itself: it stays ended, and says why.
    signal(process.pid, Signal::KILL);
    let shown = world.until_state(&runner, &["failed"]);
    let cause = shown["cause"].as_str().unwrap();
    assert!(cause.contains(&at) && cause.contains("does not exist"), "{shown}");
    until("nothing of it is left", || match world.left_of(&runner) {
        left if left.is_empty() => Ok(()),
        left => Err(left),
    });
    told(world.run(["restart", "one"]), 3, &["does not exist"]);
    assert_eq!(runners(&world).len(), 1, "no successor was admitted");

    // It is carried on once the directory is back.
    fs::create_dir(&below).unwrap();
    world.run(["restart", "one"]).ok();
    assert_eq!(world.runner("one")["state"], "running");
}

#[test]
fn without_permission_the_exit_code_is_eight() {
    let world = World::new();
    let closed = world.work().join("closed");
    let inside = closed.join("inside");
    fs::create_dir_all(&inside).unwrap();
    let program = closed.join("program");
    fs::write(&program, "#!/bin/sh\n").unwrap();
    set_mode(&program, 0o755);
    // Its mode lets nobody in, not even us.
    set_mode(&closed, 0);
    let (inside, program) = (inside.display().to_string(), program.display().to_string());
    let work = world.work().display().to_string();

    run_obeying(&world, &["new", "demo", "--directory", &work]).ok();
    let said = run_obeying(&world, &["new", "next", "--directory", &inside]);
    told(said, 8, &["may not enter", &inside, "give access"]);
    let said = run_obeying(&world, &["launch", "--project", "demo", "--", &program]);
    told(said, 8, &[&program, "may not be executed"]);
    assert_eq!(rows(&world.json(&["projects"])).len(), 1);
    assert!(runners(&world).is_empty());

    // A place that we may not write to.
    let home = world.work().join("home");
    fs::create_dir(&home).unwrap();
    set_mode(&home, 0o500);
    let home = home.display().to_string();
    told(run_obeying(&world, &["--home", &home, "status"]), 8, &[&home, "Permission denied"]);
    set_mode(&closed, 0o700);
}

#[test]
fn a_runner_that_has_ended_is_told_apart_from_one_that_is_missing() {
    let world = World::new();
    world.project("demo");
    world.launch("demo", "short", &["true"]);
    world.until_state("short", &["exited"]);
    told(world.run(["send", "short", "hello"]), 4, &["has ended", "exited", "restart short"]);
    told(world.run(["screen", "short"]), 4, &["has ended"]);
    told(world.run(["pause", "short"]), 4, &["has ended", "exited", "stratavore restart"]);
    world.run(["logs", "short"]).ok();
}

#[test]
fn what_asks_for_too_much_is_told_the_limit() {
    let world = World::new();
    world.project("demo");
    let many = |option: &str, text: &str, times: usize| -> Vec<String> {
        (0..times).flat_map(|n| [option.to_owned(), format!("{text}{n}")]).collect()
    };
    let kinds = [vec!["events".into()], many("--kind", "runner.k", 65)].concat();
    told(world.run(kinds), 2, &["65 kinds", "limit of 64"]);
    let kind = "k".repeat(101);
    told(world.run(["events", "--kind", &kind]), 2, &["101 bytes in a kind", "limit of 100"]);
    let named = [vec!["recover".into()], (0..1001).map(|n| format!("r{n}")).collect()].concat();
    told(world.run(named), 2, &["1001 runners", "limit of 1000"]);
    let long = "x".repeat(66_000);
    let launch = ["launch", "--project", "demo", "--", "echo", &long, &long];
    told(world.run(launch), 2, &["bytes of arguments and variables", "limit of 131072"]);
    let variable = format!("LONG={long}");
    let launch = ["launch", "--project", "demo", "--env", &variable, "--", "echo", &long];
    told(world.run(launch), 2, &["limit of 131072"]);
    assert!(runners(&world).is_empty(), "nothing was launched");
}

#[test]
fn a_project_with_live_runners_is_not_put_away() {
    let world = World::new();
    world.project("demo");
    world.launch("demo", "one", &["sleep", "1000"]);
    for command in ["archive", "delete"] {
        told(world.run(["projects", command, "demo"]), 5, &["one", "stratavore kill --project"]);
    }
    told(world.run(["new", "demo", "--directory", "/tmp"]), 5, &["`demo` is taken"]);
    world.run(["kill", "one", "--force"]).ok();
    world.run(["projects", "archive", "demo"]).ok();
    let launch = ["launch", "--project", "demo", "--", "true"];
    told(world.run(launch), 4, &["archived", "projects archive --restore demo"]);
    world.run(["projects", "archive", "--restore", "demo"]).ok();
    world.run(launch).ok();
}

/// An assistant is a principal of its own: it may look, and change nothing, whichever way it asks.
#[test]
fn a_program_inside_a_runner_may_look_and_change_nothing() {
    let world = World::new();
    world.project("demo");
    let other = world.launch("demo", "other", &["cat"]);
    let stratavore = World::program("stratavore").display().to_string();
    let home = world.path("").display().to_string();
    let script = world.work().join("inside.sh");
    let text = format!(
        "s='{stratavore} --home {home}'
        c='env -i {stratavore} --home {home}'
        $s kill other; echo \"kill $?\"
        $s launch --project demo -- true; echo \"launch $?\"
        $s send other hello; echo \"send $?\"
        $s projects edit demo --description x; echo \"edit $?\"
        $s daemon stop; echo \"stop $?\"
        $c kill other; echo \"clean kill $?\"
        $c send other hello; echo \"clean send $?\"
        (setsid sh -c \"$c kill other; echo orphan kill \\$?; echo over\" &)
        $s runners; echo \"list $?\"
        cat\n"
    );
    fs::write(&script, text).unwrap();
    let daemon = world.daemon_pid();
    let runner = world.launch("demo", "curious", &["sh", "inside.sh"]);
    let printed = until("the script has come to its end", || {
        let printed = String::from_utf8_lossy(&world.recorded(&runner)).into_owned();
        let done = printed.contains("over") && printed.contains("list ");
        if done { Ok(printed) } else { Err(printed) }
    });
    for line in [
        "kill 8",
        "launch 8",
        "edit 8",
        "stop 8",
        "clean kill 8",
        "orphan kill 8",
        "send 4",
        "clean send 4",
        "list 0",
    ] {
        assert!(printed.contains(&format!("{line}\r\n")), "{line} is missing:\n{printed}");
    }
    assert_eq!(world.runner(&other)["state"], "running");
    assert_eq!(world.recorded(&other), b"", "nothing was typed into it");
    assert_eq!(runners(&world).len(), 2);
    assert_eq!(world.daemon_pid(), daemon);
    // The control: what is refused is who asks, not what is asked for.
    world.run(["send", "other", "hello"]).ok();
    world.run(["kill", "other", "--force"]).ok();
}
