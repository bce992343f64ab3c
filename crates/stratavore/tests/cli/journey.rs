//! A person's day at a terminal, with the worst of it: the daemon is killed under their hands.
//!
//! What must have been typed and printed is known beforehand, to the byte, since the assistant only
//! answers; so the log is compared with that, and with the files that the agent wrote.

use stratavore_testkit::terminal::Terminal;
use stratavore_testkit::trace::cgroups_of;
use stratavore_testkit::world::{World, until};

/// The default detach key, as it is shown and as it is pressed.
const DETACH: (&str, &[u8]) = ("ctrl-q", b"\x11");

/// What a line that is typed leaves in the log: its echo, and the answer.
fn exchange(said: &str) -> String {
    format!("{said}\r\nyou said: {said}\r\n")
}

fn say(terminal: &mut Terminal, text: &str) {
    terminal.type_line(text).until_text(&format!("you said: {text}"));
}

/// Detaches as the window's title says to, and sees that the viewer's program ends well.
fn detach(mut terminal: Terminal) {
    terminal.until_title(&format!("{} detaches", DETACH.0)).press(DETACH.1);
    let status = terminal.wait_exit();
    let last = String::from_utf8_lossy(terminal.raw());
    assert!(status.success(), "{status}: {last}");
    assert!(last.contains("it goes on"), "the person is told: {last}");
}

/// The assistant that `stratavore demo` starts is one that answers what is typed.
fn world_with_an_assistant() -> World {
    let assistant = World::program("scripted-assistant");
    let world = World::with_config(&format!(
        "assistants:\n  parrot:\n    program: {}\n    args: [--echo]\n",
        assistant.display()
    ));
    let work = world.work().display().to_string();
    world.run(["new", "demo", "--assistant", "parrot", "--directory", &work]).ok();
    world
}

fn the_only_runner(world: &World) -> (String, String) {
    let listed = world.json(&["runners"]);
    let text = |field: &str| listed[0][field].as_str().expect("it has one").to_owned();
    assert_eq!(listed.as_array().map(Vec::len), Some(1), "{listed}");
    (text("id"), text("name"))
}

#[test]
fn a_session_survives_the_death_of_the_daemon_and_leaves_nothing_when_it_is_stopped() {
    let world = world_with_an_assistant();
    let mut expected = String::new();

    let mut terminal = world.terminal(&["demo"], 24, 80);
    say(&mut terminal, "before");
    expected += &exchange("before");
    detach(terminal);
    let (runner, name) = the_only_runner(&world);
    let process = world.process_of(&runner);
    assert_eq!(world.runner(&runner)["pid"], process.pid);

    // The daemon dies; the person comes back before anybody has noticed.
    world.kill_daemon();
    let mut terminal = world.terminal(&["--no-start", "attach", &name], 24, 80);
    terminal.until_text("you said: before");
    say(&mut terminal, "while it is down");
    expected += &exchange("while it is down");
    assert_eq!(world.daemon_pid(), None, "to attach needs no daemon, and starts none");
    detach(terminal);
    assert_eq!(world.daemon_pid(), None);

    // Any command that needs a daemon brings one back, which finds what runs.
    let shown = until("the new daemon has its agent back", || {
        let shown = world.runner(&runner);
        if shown["connected"] == true { Ok(shown) } else { Err(shown) }
    });
    assert_eq!((&shown["state"], &shown["epoch"]), (&"running".into(), &1.into()), "{shown}");
    assert_eq!(shown["pid"], process.pid);
    assert_eq!(world.process_of(&runner), process, "it is the same process");

    let mut terminal = world.terminal(&["demo"], 24, 80);
    terminal.until_text("you said: while it is down");
    say(&mut terminal, "after");
    expected += &exchange("after");
    detach(terminal);
    let listed = world.json(&["runners", "--all"]);
    assert_eq!(listed.as_array().map(Vec::len), Some(1), "the same runner each time: {listed}");

    let logged = world.run(["logs", &name, "--raw"]).ok().stdout();
    assert_eq!(logged, expected);
    assert_eq!(String::from_utf8_lossy(&world.recorded(&runner)), expected);

    // The control: what is looked for at the end is there before.
    let left = world.left_of(&runner);
    assert!(left.len() >= 2 && process.is_alive(), "{left:?}");
    let stopped = world.run(["kill", &name]).ok().stdout();
    assert!(stopped.contains("stopped by"), "{stopped}");
    assert!(!process.is_alive(), "it is gone when the command says so");
    until("nothing is left of it", || match world.left_of(&runner) {
        left if left.is_empty() => Ok(()),
        left => Err(left),
    });
    assert_eq!(world.run(["logs", &name, "--raw"]).ok().stdout(), expected, "but for its log");
}

#[test]
fn a_shell_is_launched_and_attached_to_in_one_go_and_ends_with_its_code() {
    let world = World::new();
    world.project("demo");
    let launch = ["launch", "--name", "sh", "--attach", "--", "bash", "--norc", "--noprofile"];
    let mut terminal = world.terminal(&launch, 24, 80);
    terminal.until_text("bash-").type_line("echo sum-$((40 + 2))").until_text("sum-42");
    let (runner, _) = the_only_runner(&world);
    let shell = world.process_of(&runner);
    // What the shell starts is the runner's as well.
    terminal.type_line("sleep 1000 &").until_text("[1]");
    until("both carry its mark", || match world.processes_of(&runner) {
        processes if processes.len() == 2 => Ok(()),
        processes => Err(processes),
    });
    terminal.type_line("exit 3");
    assert_eq!(terminal.wait_exit().code(), Some(10), "the runner failed");
    let said = String::from_utf8_lossy(terminal.raw()).into_owned();
    assert!(said.contains("runner sh ended: exit 3"), "{said}");
    assert!(!shell.is_alive());
    let shown = world.until_state("sh", &["failed"]);
    assert_eq!(shown["cause"], "exit 3");
    until("nothing is left of it", || match world.left_of(&runner) {
        left if left.is_empty() => Ok(()),
        left => Err(left),
    });
}

#[test]
fn of_several_viewers_one_types_and_hands_over_where_all_can_see_it() {
    let world = World::new();
    world.project("demo");
    let assistant = World::program("scripted-assistant").display().to_string();
    let runner = world.launch("demo", "one", &[&assistant, "--echo"]);
    let attach = |more: &[&str]| {
        let arguments = [&["attach", "one"], more].concat();
        world.terminal(&arguments, 24, 80)
    };

    let mut first = attach(&[]);
    first.until_title("demo/one - ");
    say(&mut first, "from the first");

    // The second one sees all, and is told who types.
    let mut second = attach(&[]);
    second.until_text("you said: from the first").until_title("watching").until_title("types");
    first.until_title("(2 viewers)");
    let bells = second.bells();
    second.type_line("from the second");
    second.until_bell(bells);

    let mut observer = attach(&["--read-only"]);
    observer.until_text("you said: from the first").until_title("watching");
    first.until_title("(3 viewers)");
    observer.type_line("from the observer");

    // Taken over: the first is told, and types no more.
    let mut thief = attach(&["--steal"]);
    thief.until_text("you said: from the first");
    first.until_title("watching").until_title("types");
    say(&mut thief, "from the thief");
    for viewer in [&mut first, &mut second, &mut observer] {
        viewer.until_text("you said: from the thief");
    }
    let bells = first.bells();
    // Without the enter key, which might come on its own and find that nobody types any more.
    first.type_text("from the first again");
    first.until_bell(bells);

    // The writer leaves, and someone else can take over.
    detach(thief);
    let mut heir = attach(&["--steal"]);
    say(&mut heir, "from the heir");
    for viewer in [first, second, observer, heir] {
        detach(viewer);
    }

    let said: Vec<String> =
        ["from the first", "from the thief", "from the heir"].map(exchange).into();
    assert_eq!(String::from_utf8_lossy(&world.recorded(&runner)), said.concat());
    assert_eq!(world.run(["logs", "one", "--raw"]).ok().stdout(), said.concat());
}

#[test]
fn a_viewer_that_is_killed_costs_the_runner_nothing() {
    let world = World::new();
    world.project("demo");
    let assistant = World::program("scripted-assistant").display().to_string();
    let runner = world.launch("demo", "one", &[&assistant, "--echo"]);
    let process = world.process_of(&runner);
    let mut viewer = world.terminal(&["attach", "one"], 24, 80);
    say(&mut viewer, "hello");
    // As when its window is closed: the whole session is killed.
    drop(viewer);
    let mut viewer = world.terminal(&["attach", "one"], 24, 80);
    viewer.until_text("you said: hello");
    say(&mut viewer, "again");
    detach(viewer);
    assert!(process.is_alive());
    assert_eq!(world.process_of(&runner), process);
    assert!(cgroups_of("run_of_nobody").is_empty(), "the control: cgroups are told apart");
}
