//! From a key to its echo, through everything between.

use std::process::Command;
use std::time::{Duration, Instant};

use crate::Lab;
use crate::home::{Home, succeed};
use crate::peer::{Dtach, Tmux};
use crate::play::{FULL, words};
use crate::pty::Pty;
use crate::relay::Relays;
use crate::report::{Row, Target};
use crate::sample::{in_turns, ms_since};

/// Keys, two that no control sequence of a terminal contains.
const KEYS: [&[u8]; 2] = [b"^", b"|"];

pub(crate) const TYPED: usize = 600;

/// As many processes as ours, that do nothing but wait, read and write.
const TWO: &str = "bare relays: a viewer, one with the terminal";
const THREE: &str = "bare relays: a viewer, one between, one with the terminal";

pub(crate) struct Typist {
    terminal: Pty,
    typed: usize,
}

impl Typist {
    pub(crate) fn at(mut attach: Command) -> anyhow::Result<Self> {
        let mut terminal = Pty::spawn(&mut attach)?;
        terminal.until(FULL.as_bytes())?;
        terminal.settle(Duration::from_millis(100))?;
        Ok(Self { terminal, typed: 0 })
    }

    pub(crate) fn key(&mut self) -> anyhow::Result<f64> {
        let key = KEYS[self.typed % KEYS.len()];
        self.typed += 1;
        let began = Instant::now();
        self.terminal.write(key)?;
        self.terminal.until(key)?;
        let took = ms_since(began);
        // The rest of what this key has caused is not the next one's.
        self.terminal.settle(Duration::from_millis(1))?;
        Ok(took)
    }
}

pub(crate) fn keystroke(lab: &Lab) -> anyhow::Result<Vec<Row>> {
    let home = Home::new(lab)?;
    let client = home.client()?;
    let tmux = Tmux::new()?;
    let dtach = Dtach::new()?;
    let play = words(&["echo"])?;
    let argv: Vec<&str> = play.iter().map(String::as_str).collect();
    let near = home.run(&client, &argv)?;
    let far = home.run(&client, &argv)?;
    tmux.session("echo", &argv)?;
    succeed(&mut dtach.start("echo", &argv))?;

    // A home that knows no runners, only the socket of the other one's daemon.
    let elsewhere = Home::without_daemon(lab, "")?;
    std::fs::create_dir_all(elsewhere.path().join("run"))?;
    std::os::unix::fs::symlink(home.socket(), elsewhere.socket())?;

    let mut at_socket = Typist::at(home.cli(["attach", &near.id]))?;
    let mut through_daemon = Typist::at(elsewhere.cli(["attach", &far.id]))?;
    let mut at_tmux = Typist::at(tmux.command(&["attach", "-t", "=echo"]))?;
    let (two, three) = (Relays::start(&argv, false)?, Relays::start(&argv, true)?);
    let (mut by_two, mut by_three) = (Typist::at(two.attach()?)?, Typist::at(three.attach()?)?);
    // dtach shows nothing of before: the program is not one that paints again.
    let mut at_dtach = {
        let mut terminal = Pty::spawn(&mut dtach.attach("echo"))?;
        terminal.settle(Duration::from_millis(200))?;
        Typist { terminal, typed: 0 }
    };
    let mut bare = {
        let mut terminal = Pty::spawn(Command::new(argv[0]).args(&argv[1..]))?;
        terminal.until(FULL.as_bytes())?;
        Typist { terminal, typed: 0 }
    };
    let [at_socket, through_daemon, by_tmux, by_dtach, by_two, by_three, bare] = in_turns(
        TYPED,
        [
            &mut || at_socket.key(),
            &mut || through_daemon.key(),
            &mut || at_tmux.key(),
            &mut || at_dtach.key(),
            &mut || by_two.key(),
            &mut || by_three.key(),
            &mut || bare.key(),
        ],
    )?;
    std::fs::remove_file(elsewhere.socket())?;
    let socket = || Row::new("keystroke echo, at the agent's socket", "ms", &at_socket);
    let daemon = || Row::new("keystroke echo, through the daemon", "ms", &through_daemon);
    Ok(vec![
        socket().against("dtach", &by_dtach).p99().target(Target::AtMostPlus(1.0, 0.1)),
        socket().against("dtach", &by_dtach),
        daemon().against("tmux", &by_tmux).p99().target(Target::AtMost(1.0)),
        daemon().against("tmux", &by_tmux),
        socket().against(TWO, &by_two).p99().target(Target::AtMost(1.3)),
        socket().against(TWO, &by_two),
        daemon().against(THREE, &by_three).p99().target(Target::AtMost(1.3)),
        daemon().against(THREE, &by_three),
        // What no three processes in a row can do better.
        Row::new(THREE, "ms", &by_three).against("tmux", &by_tmux).p99(),
        Row::new(THREE, "ms", &by_three).against("tmux", &by_tmux),
        socket().against("a bare terminal", &bare),
    ])
}
