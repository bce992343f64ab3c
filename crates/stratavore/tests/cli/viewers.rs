//! People at their keyboards: attached, several at once, while daemons and agents come and go.

use stratavore_testkit::terminal::{Terminal, differences, framed};
use stratavore_testkit::world::{World, until};

const PROMPT: &str = "ready$ ";
const SHELL: [&str; 4] = ["env", "PS1=ready$ ", "bash", "--norc"];
const DETACH: &[u8] = b"\x11";

fn world() -> World {
    let world = World::new();
    world.project("api");
    world
}

fn attached(world: &World, options: &[&str], rows: u16, columns: u16) -> Terminal {
    let mut arguments = vec!["attach", "shell"];
    arguments.extend(options);
    let mut terminal = world.terminal(&arguments, rows, columns);
    terminal.until_text(PROMPT.trim_end());
    terminal
}

#[test]
fn typing_detaching_and_coming_back_change_nothing_in_the_runner() {
    let world = world();
    world.launch("api", "shell", &SHELL);
    let mut terminal = attached(&world, &[], 24, 80);
    terminal.until_title("api/shell");
    terminal.type_line("echo one-$((1+1))").until_text("one-2");
    let settings = terminal.settings();
    terminal.press(DETACH);
    assert!(terminal.wait_exit().success());
    assert!(terminal.text().contains("detached from api/shell"), "{}", framed(terminal.screen()));
    assert!(!terminal.screen().hide_cursor() && !terminal.screen().bracketed_paste());
    let after = terminal.settings();
    assert_ne!(settings.local_modes, after.local_modes, "it was raw while attached");
    assert!(
        after
            .local_modes
            .contains(rustix::termios::LocalModes::ECHO | rustix::termios::LocalModes::ICANON)
    );

    let mut again = attached(&world, &[], 24, 80);
    again.until_text("one-2").type_line("echo two-$((1+2))").until_text("two-3");
}

#[test]
fn the_detach_key_is_the_configured_one_and_may_be_several_keys() {
    let world = World::with_config("attach:\n  detach_key: ctrl-a d\n");
    world.project("api");
    world.launch("api", "shell", &["cat", "-v"]);
    let mut terminal = world.terminal(&["attach", "shell"], 24, 80);
    terminal.until_title("ctrl-a d");
    // The usual key is typed into the runner, and so is the first key without the second.
    terminal.press(DETACH).press(b"\x01").type_line("x").until_text("^Ax");
    terminal.press(b"\x01");
    terminal.press(b"d");
    assert!(terminal.wait_exit().success());
}

/// Waits for it: what one of them has shown may be on its way to the other still, and more of it to both.
#[track_caller]
fn until_both_show_the_same(one: &mut Terminal, other: &mut Terminal) {
    until("both show the same", || {
        one.read();
        other.read();
        let found = differences(one.screen(), other.screen());
        if found.is_empty() { Ok(()) } else { Err((found, framed(one.screen()))) }
    });
}

#[test]
fn one_types_and_the_others_see_who_does() {
    let world = world();
    world.launch("api", "shell", &SHELL);
    let mut first = attached(&world, &[], 24, 80);
    let mut second = attached(&world, &[], 24, 80);
    second.until_title("[watching");
    first.until_title("(2 viewers)");
    second.type_text("echo not-typed\r");
    first.type_line("echo by-the-first").until_text("\nby-the-first");
    second.until_text("\nby-the-first");
    assert!(!second.text().contains("not-typed"), "{}", framed(second.screen()));
    until("who only watches is told so", || {
        second.read();
        if second.bells() > 0 { Ok(()) } else { Err(framed(second.screen())) }
    });
    until_both_show_the_same(&mut first, &mut second);

    let mut thief = attached(&world, &["--steal"], 24, 80);
    thief.type_line("echo stolen-$((2+2))").until_text("stolen-4");
    first.until_title("[watching").until_text("stolen-4");
    thief.press(DETACH);
    thief.wait_exit();
    first.until_title("api/shell (2 viewers)");
    first.type_line("echo mine-$((3+3))").until_text("mine-6");

    let mut watcher = attached(&world, &["--read-only"], 24, 80);
    watcher.until_title("[watching").type_text("exit\r");
    first.type_line("echo still-$((4+4))").until_text("still-8");
    watcher.until_text("still-8");
}

#[test]
fn terminals_of_other_sizes_show_the_part_that_both_have() {
    let world = world();
    world.launch("api", "shell", &SHELL);
    let mut large = attached(&world, &[], 30, 100);
    large.type_line("stty size").until_text("30 100");
    let mut small = attached(&world, &[], 12, 40);
    large.until_text("│");
    large.type_line("clear; stty size").until_text("12 40");
    small.until_text("12 40");
    // Long lines and scrolling happen where the small one's edges are.
    large.type_line("seq 1 30; printf 'x%.0s' $(seq 60); echo").until_text("xxxxx│");
    small.until_text("xxxxx");
    // The smaller one has an edge that the larger one marks: compared is what both have.
    until_both_show_the_same(&mut large, &mut small);

    small.press(DETACH);
    small.wait_exit();
    large.until_gone("│").type_line("clear; stty size").until_text("30 100");
    large.resize(20, 70);
    // A shell may be faster than the resize on its way through the agent.
    until("the runner has the new size", || {
        large.type_line("clear; stty size");
        large.read();
        if large.text().contains("20 70") { Ok(()) } else { Err(framed(large.screen())) }
    });
}

#[test]
fn a_watcher_with_a_smaller_terminal_sees_where_the_cursor_is() {
    let world = world();
    world.launch("api", "shell", &SHELL);
    let mut writer = attached(&world, &[], 24, 80);
    let mut watcher = world.terminal(&["attach", "shell", "--read-only"], 6, 30);
    watcher.until_title("[watching");
    writer.type_line("seq 1 50").until_text("50");
    watcher.until_text("50").until_text("ready$");
    writer.type_line("stty size").until_text("24 80");
}

#[test]
fn who_watches_is_told_what_ended_even_while_no_daemon_ran() {
    let world = world();
    world.launch("api", "shell", &SHELL);
    let mut status = world.terminal(&["status", "--watch"], 12, 100);
    status.until_text("ready on").until_text("shell");
    world.kill_daemon();
    status.until_text("no daemon answers");
    world.run(["--no-start", "send", "shell", "exit 3"]).ok();
    world.run(["daemon", "start"]).ok();
    status.until_text("no runner lives").until_text("ENDED").until_text("failed (exit 3)");
    status.press(b"q");
    assert!(status.wait_exit().success());
}

#[test]
fn an_attached_terminal_survives_daemons_and_agents_that_are_replaced() {
    let world = world();
    world.launch("api", "shell", &SHELL);
    let mut terminal = attached(&world, &[], 24, 80);
    let mut logs = world.terminal(&["logs", "shell", "--follow"], 24, 80);
    let mut status = world.terminal(&["status", "--watch"], 12, 100);
    status.until_text("ready on").until_text("shell");
    terminal.type_line("echo one-$((1+1))").until_text("one-2");
    logs.until_text("one-2");

    world.kill_daemon();
    terminal.type_line("echo two-$((1+2))").until_text("two-3");
    status.until_text("no daemon answers");
    let mut other = world.terminal(&["--no-start", "attach", "shell", "--read-only"], 24, 80);
    other.until_text("two-3");
    until_both_show_the_same(&mut terminal, &mut other);
    let screen = world.run(["--no-start", "screen", "shell"]).ok().stdout();
    assert!(screen.contains("two-3"), "{screen}");
    world.run(["--no-start", "send", "shell", "echo three-$((1+3))"]).ok();
    terminal.until_text("three-4");
    assert!(world.daemon_pid().is_none(), "none of this started a daemon");

    world.run(["daemon", "start"]).ok();
    status.until_text("ready on");
    logs.until_text("three-4");

    world.run(["upgrade", "shell"]).ok();
    // What is typed while an agent replaces itself can be lost.
    let mut tries = 0;
    until("the new agent takes what is typed", || {
        tries += 1;
        terminal.type_line(&format!("echo four-{tries}-$((1+4))"));
        terminal.read();
        if terminal.text().contains("-5\n") { Ok(()) } else { Err(framed(terminal.screen())) }
    });
    // Of the log only whole lines are shown, so nothing comes after the last of them.
    let last = format!("four-{tries}-5");
    logs.until_text(&last);
    other.until_text(&last);

    status.press(b"q");
    assert!(status.wait_exit().success());
    assert!(!status.screen().alternate_screen() && !status.screen().hide_cursor());
}

#[test]
fn an_attached_terminal_stays_through_a_restart_and_tells_the_end() {
    let world = world();
    world.launch("api", "shell", &SHELL);
    let mut terminal = attached(&world, &[], 24, 80);
    let mut logs = world.terminal(&["logs", "shell", "--follow"], 24, 80);
    terminal.type_line("echo before-$((1+1))").until_text("before-2");
    world.run(["restart", "shell"]).ok();
    terminal.until_gone("before").type_line("echo after-$((1+2))").until_text("after-3");
    terminal.type_line("echo last-$((2+2)); exit 3");
    assert_eq!(terminal.wait_exit().code(), Some(10));
    assert!(terminal.text().contains("last-4"), "{}", framed(terminal.screen()));
    assert!(
        terminal.text().contains("runner shell ended: exit 3"),
        "{}",
        framed(terminal.screen())
    );
    assert!(logs.wait_exit().success());
    assert!(
        logs.text().contains("before-2") && logs.text().contains("after-3"),
        "{}",
        framed(logs.screen())
    );
    world.run(["attach", "shell"]).fails(2);
    let mut late = world.terminal(&["attach", "shell"], 24, 80);
    assert_eq!(late.wait_exit().code(), Some(4));
    late.until_text("has ended: failed (exit 3)");
}

#[test]
fn a_full_screen_program_is_shown_as_it_is_after_a_detach_and_a_resize() {
    let world = world();
    world.launch("api", "shell", &SHELL);
    let mut terminal = attached(&world, &[], 24, 80);
    let file = world.work().join("text");
    let lines: String = (1..200).map(|n| format!("line {n} \t with 漢字 and é\n")).collect();
    std::fs::write(file, lines).unwrap();
    terminal.type_line("vim -u NONE -N --cmd 'set nocp mouse=a' text").until_text("line 20 ");
    terminal.type_text("30Gzt5l").until_text("line 50 ");
    terminal.resize(40, 100).until_text("line 65 ");
    terminal.type_text(":set number\r").until_text(" 60 line 60 ");
    let mut watcher = world.terminal(&["attach", "shell", "--read-only"], 40, 100);
    watcher.until_text("line 65 ");
    until_both_show_the_same(&mut terminal, &mut watcher);
    terminal.press(DETACH);
    terminal.wait_exit();
    assert!(!terminal.screen().alternate_screen(), "the viewer's own screen is back");

    let mut again = world.terminal(&["attach", "shell"], 40, 100);
    again.until_text(" 60 line 60 ");
    until_both_show_the_same(&mut again, &mut watcher);
    again.type_line(":q!").until_text(PROMPT.trim_end()).until(|screen| !screen.alternate_screen());
}

#[test]
fn opening_a_project_attaches_or_launches() {
    let world = world();
    let mut none = world.terminal(&["api"], 24, 80);
    none.until_text("next: say which: stratavore projects edit api --assistant");
    assert_eq!(none.wait_exit().code(), Some(2), "{}", framed(none.screen()));

    // The person's shell is what `generic` is opened with.
    world.run(["projects", "edit", "api", "--assistant", "generic"]).ok();
    let mut first = world.terminal(&["api"], 24, 80);
    first.until_title("api/");
    first.type_line("echo here-$((1+1))").until_text("here-2").press(DETACH);
    assert!(first.wait_exit().success());
    let mut second = world.terminal(&["api"], 24, 80);
    second.until_text("here-2");
    assert_eq!(
        world.json(&["runners"]).as_array().unwrap().len(),
        1,
        "attached, not launched again"
    );

    let mut unknown = world.terminal(&["apo"], 24, 80);
    assert_eq!(unknown.wait_exit().code(), Some(3));
    unknown.until_text("did you mean api?");
}

#[test]
fn a_program_that_ends_at_once_is_shown_all_the_same() {
    let world = world();
    for (program, code, ended) in
        [("echo hi there", 0, "ended: exit 0"), ("echo hi there; exit 3", 10, "ended: ")]
    {
        for _ in 0..4 {
            let launch = ["launch", "--attach", "-p", "api", "-a", "generic", "--"];
            let arguments: Vec<&str> = launch.into_iter().chain(["sh", "-c", program]).collect();
            let mut terminal = world.terminal(&arguments, 24, 80);
            let status = terminal.wait_exit();
            assert_eq!(status.code(), Some(code), "{}", framed(terminal.screen()));
            let raw = String::from_utf8_lossy(terminal.raw()).into_owned();
            assert!(raw.contains("hi there") && raw.contains(ended), "{raw:?}");
        }
    }
}

#[test]
fn who_types_into_a_paused_runner_is_told() {
    let world = world();
    world.launch("api", "shell", &["cat"]);
    let ran = world.run(["send", "shell", "one"]).ok();
    assert!(!ran.stderr().contains("paused"), "{}", ran.everything());
    world.run(["pause", "shell"]).ok();
    let ran = world.run(["send", "shell", "two"]).ok();
    assert!(ran.stderr().contains("stratavore unpause shell"), "{}", ran.everything());
}

#[test]
fn a_directory_of_several_projects_is_not_guessed_and_a_secret_is_not_repeated() {
    let world = world();
    world.project("shop");
    let mut command = world.command("stratavore");
    command.current_dir(world.work()).args(["launch", "-a", "generic", "--", "true"]);
    let output = command.output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(5), "{told}");
    assert!(told.contains("belongs to 2 projects: api, shop"), "{told}");

    for given in ["GITHUB_TOKEN=ghp_abcdef", "ghp_abcdef"] {
        let ran = world.run(["launch", "-p", "api", "--env", given, "--", "true"]).fails(2);
        assert!(!ran.everything().contains("ghp_abcdef"), "{}", ran.everything());
    }

    world.run(["projects", "archive", "shop"]).ok();
    let listed = world.run(["projects", "list", "--archived"]).ok().stdout();
    assert!(listed.contains("shop (archived)") && !listed.contains("api (archived)"), "{listed}");
}

#[test]
fn what_a_runner_prints_cannot_reach_past_the_screen() {
    let world = world();
    // Clipboard, a question, and an own title.
    let hostile =
        r"printf '\033]52;c;aGk=\007\033[c\033[5n\033]2;mine\007'; echo done; exec cat -v";
    world.launch("api", "shell", &["sh", "-c", hostile]);
    let mut terminal = world.terminal(&["attach", "shell"], 24, 80);
    terminal.until_text("done").type_line("typed").until_text("typed");
    let raw = String::from_utf8_lossy(terminal.raw()).into_owned();
    assert!(terminal.clipboard().is_empty() && !raw.contains("\u{1b}]52"), "{raw:?}");
    assert!(!raw.contains("\u{1b}[c") && !raw.contains("\u{1b}[5n"), "{raw:?}");
    terminal.press(DETACH);
    assert!(terminal.wait_exit().success());
}

#[test]
fn a_terminal_that_goes_away_leaves_the_runner_alone() {
    let world = world();
    let id = world.launch("api", "shell", &SHELL);
    let mut terminal = attached(&world, &[], 24, 80);
    terminal.type_line("echo still-$((1+1))").until_text("still-2");
    drop(terminal);
    let mut again = attached(&world, &[], 24, 80);
    again.until_text("still-2");
    assert_eq!(world.runner(&id)["state"], "running");
    let pid = rustix::process::Pid::from_raw(i32::try_from(again.pid()).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert_eq!(again.wait_exit().code(), Some(143));
    let modes = again.settings().local_modes;
    assert!(
        modes.contains(rustix::termios::LocalModes::ECHO),
        "the terminal is put back: {modes:?}"
    );
}

/// A command that finds the daemon's socket and none of the runners' directories, as one on
/// another host would.
pub(crate) fn from_elsewhere(
    world: &World,
    arguments: &[&str],
    rows: u16,
    columns: u16,
) -> Terminal {
    let run = world.path("elsewhere/run");
    if !run.exists() {
        std::fs::create_dir_all(&run).expect("another home");
        std::os::unix::fs::symlink(world.path("run"), run.join("stratavore"))
            .expect("the same socket");
    }
    let mut command = world.command("stratavore");
    command
        .env_remove("STRATAVORE_HOME")
        .env("HOME", world.path("elsewhere"))
        .env("XDG_RUNTIME_DIR", run);
    command.arg("--no-start").args(arguments);
    Terminal::spawn(command, rows, columns)
}

#[test]
fn a_runner_is_attached_to_through_the_daemon_where_its_agent_is_out_of_reach() {
    let world = world();
    world.launch("api", "shell", &SHELL);
    let mut terminal = from_elsewhere(&world, &["attach", "shell"], 24, 80);
    terminal.until_text(PROMPT.trim_end()).until_title("api/shell");
    terminal.type_line("echo one-$((1+1))").until_text("one-2");
    let mut near = attached(&world, &["--read-only"], 24, 80);
    near.until_text("one-2");
    until_both_show_the_same(&mut terminal, &mut near);
    let mut screen = from_elsewhere(&world, &["screen", "shell"], 24, 80);
    screen.until_text("one-2").wait_exit();
    let mut send = from_elsewhere(&world, &["send", "shell", "echo sent-$((1+2))"], 24, 80);
    assert!(send.wait_exit().success(), "{}", framed(send.screen()));
    terminal.until_text("sent-3");

    world.kill_daemon();
    world.run(["daemon", "start"]).ok();
    let mut tries = 0;
    until("what is typed arrives through the new daemon", || {
        tries += 1;
        terminal.type_line(&format!("echo two-{tries}-$((1+4))"));
        terminal.read();
        if terminal.text().contains("-5\n") { Ok(()) } else { Err(framed(terminal.screen())) }
    });
    terminal.press(DETACH);
    assert!(terminal.wait_exit().success());
}
