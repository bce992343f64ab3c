//! A full-screen program inside a runner looks as it does without us, cell by cell.
//!
//! The same shell with the same `vim` is driven by the same keys twice: on a terminal of its own,
//! and in a runner that the person is attached to. Every step ends with a comparison of the two
//! screens: letters, colours, cursor, and modes.

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use stratavore_testkit::terminal::{Terminal, differences, framed};
use stratavore_testkit::world::{World, until};

use crate::viewers::from_elsewhere;

const DETACH: &[u8] = b"\x11";
const REDRAW: &str = "\x0c";
const PROMPT: &str = "ready$";
/// What makes both shells alike, whatever the environment of the tests is.
const ENVIRONMENT: [(&str, &str); 6] = [
    ("PS1", "ready$ "),
    ("TERM", "xterm-256color"),
    ("COLORTERM", "truecolor"),
    ("LANG", "C.UTF-8"),
    ("LC_ALL", "C.UTF-8"),
    ("HISTFILE", "/dev/null"),
];
const SHELL: [&str; 3] = ["bash", "--norc", "--noprofile"];
/// It asks its terminal nothing: a runner's terminal answers, and the one beside it does not.
const VIM: &str = "vim --clean -n -i NONE --cmd 'set t_RV= t_RB= t_RF= t_u7=' text.c";
const TEXT: &str = "int main(void) {\n\treturn 0; /* a comment */\n}\n";

/// The same person at two keyboards.
struct Both {
    world: World,
    ours: Terminal,
    real: Terminal,
}

impl Both {
    fn start() -> Self {
        let world = World::new();
        world.project("demo");
        let beside = world.path("beside");
        fs::create_dir(&beside).expect("a directory for the other one");
        for directory in [world.work(), beside.clone()] {
            fs::write(directory.join("text.c"), TEXT).expect("something to edit");
        }
        let mut launch = vec!["launch".to_owned(), "--name".into(), "shell".into()];
        launch.extend(["--attach", "--assistant", "generic"].map(String::from));
        for (key, value) in ENVIRONMENT {
            launch.extend(["--env".into(), format!("{key}={value}")]);
        }
        launch.push("--".into());
        launch.extend(SHELL.map(String::from));
        let launch: Vec<&str> = launch.iter().map(String::as_str).collect();
        let ours = world.terminal(&launch, 24, 80);

        let mut shell = Command::new(SHELL[0]);
        shell.args(&SHELL[1..]).env_clear().current_dir(beside).envs(ENVIRONMENT);
        for key in ["PATH", "HOME"] {
            shell.envs(std::env::var_os(key).map(|value| (key, value)));
        }
        let real = Terminal::spawn(shell, 24, 80);
        let mut both = Self { world, ours, real };
        both.see(PROMPT).same("a shell's prompt");
        both
    }

    fn press(&mut self, keys: &str) -> &mut Self {
        self.real.type_text(keys);
        self.ours.type_text(keys);
        self
    }

    fn see(&mut self, text: &str) -> &mut Self {
        self.real.until_text(text);
        self.ours.until_text(text);
        self
    }

    /// Resizes both, and waits until both editors have followed: their lowest status line reaches
    /// into the last column, in the last row but one.
    fn resize(&mut self, rows: u16, columns: u16) -> &mut Self {
        for (whose, terminal) in [("the real", &mut self.real), ("our", &mut self.ours)] {
            terminal.resize(rows, columns);
            let mut nudged = Instant::now();
            until(&format!("{whose} vim has the new size"), || {
                terminal.read();
                let screen = terminal.screen();
                let is_bar = |row| screen.cell(row, columns - 1).is_some_and(|cell| cell.inverse());
                if (0..rows).all(|row| is_bar(row) == (row == rows - 2)) {
                    return Ok(());
                }
                let seen = framed(screen);
                // It looks whether its size has changed just before it waits for a key, and misses
                // what happens in between; a redraw alone does not ask for the size again.
                if nudged.elapsed() > Duration::from_millis(500) {
                    terminal.resize(rows, columns - 1);
                    terminal.resize(rows, columns);
                    terminal.type_text(REDRAW);
                    nudged = Instant::now();
                }
                Err(seen)
            });
        }
        // Neither has a message of before below its windows now.
        self.press(REDRAW)
    }

    /// Waits until both show the same.
    #[track_caller]
    fn same(&mut self, what: &str) -> &mut Self {
        until(&format!("{what} looks the same"), || {
            self.real.read();
            self.ours.read();
            let found = differences(self.ours.screen(), self.real.screen());
            if found.is_empty() {
                return Ok(());
            }
            let shown = [framed(self.ours.screen()), framed(self.real.screen())];
            Err(format!("{} in all, the first {:?}\n{}", found.len(), found[0], shown.join("\n")))
        });
        self
    }

    fn alternate(&mut self, wished: bool) -> &mut Self {
        self.real.until(|screen| screen.alternate_screen() == wished);
        self.ours.until(|screen| screen.alternate_screen() == wished);
        self
    }

    /// Leaves, and comes back by `attach`; nothing is typed, so the screen has to be there at once.
    fn come_back(&mut self, attach: impl FnOnce(&World, u16, u16) -> Terminal) -> &mut Self {
        let (rows, columns) = self.ours.screen().size();
        self.ours.press(DETACH);
        assert!(self.ours.wait_exit().success());
        assert!(!self.ours.screen().alternate_screen() && !self.ours.screen().bracketed_paste());
        self.ours = attach(&self.world, rows.get(), columns.get());
        self
    }
}

fn attach(world: &World, rows: u16, columns: u16) -> Terminal {
    world.terminal(&["attach", "shell"], rows, columns)
}

fn attach_through_the_daemon(world: &World, rows: u16, columns: u16) -> Terminal {
    from_elsewhere(world, &["attach", "shell"], rows, columns)
}

/// Edits, resizes, leaves, comes back, and quits.
fn edit_and_compare(attach: fn(&World, u16, u16) -> Terminal) {
    let mut both = Both::start();
    // What is typed before a shell prompts again is shown twice, on the one or on the other.
    both.press("echo above\r").see(&format!("\nabove\n{PROMPT}"));
    both.press(&format!("{VIM}\r")).alternate(true).see("comment").same("vim");
    both.press("ggO// k\u{f6}nnen \u{6f22}\u{5b57} e\u{301}\x1b")
        .see("\u{6f22}")
        .same("a line more");
    both.press(":set number hlsearch\r/return\r").see("/return").same("what was found");
    both.press("gg:vsplit\rGV").see("VISUAL").same("two windows");

    both.resize(30, 100).same("a larger terminal");
    both.press("\x1bggyy20p").see("20 more lines").same("more lines");
    both.resize(24, 80).same("the first size").resize(30, 100).same("the larger one");

    both.come_back(attach).alternate(true).same("what is come back to");
    both.press("Go// typed later\x1b").see("typed later").same("typing after coming back");
    // The daemon's death changes nothing on the screen.
    both.world.kill_daemon();
    both.world.run(["daemon", "start"]).ok();
    both.come_back(attach).alternate(true).same("what the new daemon shows");

    both.press(":wqa\r").alternate(false).see(PROMPT).see("above").same("the shell behind it");
    let texts = ["work", "beside"].map(|directory| {
        fs::read_to_string(both.world.path(directory).join("text.c")).expect("it was written")
    });
    assert_eq!(texts[0], texts[1]);
    assert!(texts[0].contains("typed later"));
    // The shell's own screen, come back to.
    both.come_back(attach).see(PROMPT).same("the shell after coming back");
}

#[test]
fn vim_in_a_runner_looks_as_it_does_on_a_terminal_of_its_own() {
    edit_and_compare(attach);
}

#[test]
fn vim_looks_the_same_through_the_daemon() {
    edit_and_compare(attach_through_the_daemon);
}

/// The control: one wrong key is a difference.
#[test]
fn the_comparison_notices_a_single_cell() {
    let mut both = Both::start();
    both.press(&format!("{VIM}\r")).alternate(true).see("comment").same("vim");
    both.ours.type_text("x");
    both.ours.until_text("nt main");
    until("a difference is seen", || {
        both.ours.read();
        match differences(both.ours.screen(), both.real.screen()) {
            found if found.is_empty() => Err(framed(both.ours.screen())),
            _ => Ok(()),
        }
    });
    both.ours.type_text("u");
    both.press(":\x1b");
    both.ours.until_text("int main");
    both.real.type_text("gg");
    let found = differences(both.ours.screen(), both.real.screen());
    assert!(found.len() < 24 * 80 / 2, "most is the same all the time: {found:?}");
}
