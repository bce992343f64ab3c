//! The person at the keyboard: a real terminal (a PTY) that a program runs on, and its screen.
//!
//! A test types and looks; it never sleeps. Looking is [`Terminal::until`], which waits until the
//! screen is as wished and tells what it saw last if that takes longer than [`PATIENCE`].
//!
//! It does not answer questions that programs put to a terminal (`CSI c`, `CSI 6 n`), as some real
//! terminals do not.
//!
//! Invariant: when it is dropped, the whole session that it started is killed.

use std::fmt::Write as _;
use std::io;
use std::num::NonZeroU16;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};
use vt100::Screen;

/// How long a test waits for a screen before it gives up.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// A program on a terminal of its own.
pub struct Terminal {
    master: OwnedFd,
    child: Child,
    pidfd: OwnedFd,
    parser: vt100::Parser<Heard>,
    raw: Vec<u8>,
    /// No process has the terminal open any more.
    closed: bool,
    status: Option<ExitStatus>,
}

/// What a terminal hears that is not on its screen.
#[derive(Debug, Default, Clone)]
struct Heard {
    title: String,
    bells: usize,
    clipboard: Vec<Vec<u8>>,
}

impl vt100::Callbacks for Heard {
    fn audible_bell(&mut self, _: &mut Screen) {
        self.bells += 1;
    }
    fn set_window_title(&mut self, _: &mut Screen, title: &[u8]) {
        self.title = String::from_utf8_lossy(title).into_owned();
    }
    fn copy_to_clipboard(&mut self, _: &mut Screen, _: &[u8], data: &[u8]) {
        self.clipboard.push(data.to_vec());
    }
}

impl Terminal {
    /// Starts `command` as the leader of a session on a new terminal. `TERM` is set unless the
    /// command sets it.
    ///
    /// # Panics
    /// If there is no terminal to be had, or the program cannot be started.
    #[track_caller]
    pub fn spawn(mut command: Command, rows: u16, columns: u16) -> Terminal {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)
            .expect("open a terminal");
        unlockpt(&master).expect("unlock the terminal");
        tcsetwinsize(&master, winsize(rows, columns)).expect("give the terminal its size");
        let slave = ioctl_tiocgptpeer(
            &master,
            OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC,
        )
        .expect("open the terminal's other side");
        let flags = rustix::fs::fcntl_getfl(&master).expect("read the terminal's flags");
        rustix::fs::fcntl_setfl(&master, flags | OFlags::NONBLOCK)
            .expect("make the terminal non-blocking");

        let again = || Stdio::from(slave.try_clone().expect("one descriptor more"));
        command.stdin(again()).stdout(again()).stderr(again());
        if !command.get_envs().any(|(key, _)| key == "TERM") {
            command.env("TERM", "xterm-256color");
        }
        command.env_remove("COLUMNS").env_remove("LINES");
        let lead_session = || {
            rustix::process::setsid()?;
            // Descriptor 0 is the terminal by now.
            rustix::process::ioctl_tiocsctty(rustix::stdio::stdin())?;
            Ok(())
        };
        #[expect(unsafe_code, reason = "a new session needs a call between fork and exec")]
        // SAFETY: both calls are plain system calls; nothing is allocated and no lock is taken.
        unsafe {
            command.pre_exec(lead_session)
        };
        let child = command
            .spawn()
            .unwrap_or_else(|error| panic!("start {:?}: {error}", command.get_program()));
        let pid = Pid::from_child(&child);
        let pidfd = pidfd_open(pid, PidfdFlags::empty())
            .expect("a descriptor of a child that was not waited for");
        let parser =
            vt100::Parser::new_with_callbacks(size(rows), size(columns), 10_000, Heard::default());
        Terminal { master, child, pidfd, parser, raw: Vec::new(), closed: false, status: None }
    }

    /// Types `text` as it is.
    #[track_caller]
    pub fn type_text(&mut self, text: &str) -> &mut Self {
        self.press(text.as_bytes())
    }

    /// Types `text` and presses enter.
    #[track_caller]
    pub fn type_line(&mut self, text: &str) -> &mut Self {
        self.press(text.as_bytes()).press(b"\r")
    }

    /// Presses keys, given as the bytes that they send.
    #[track_caller]
    pub fn press(&mut self, mut keys: &[u8]) -> &mut Self {
        let deadline = Instant::now() + PATIENCE;
        while !keys.is_empty() {
            // Whoever does not read what is printed may find that its typing is not read either.
            self.read();
            match rustix::io::write(&self.master, keys) {
                Ok(n) => keys = &keys[n..],
                Err(Errno::AGAIN | Errno::INTR) => {
                    if !self.wait_until(deadline, PollFlags::IN | PollFlags::OUT) {
                        self.give_up("the program to read what was typed");
                    }
                }
                Err(error) => self.give_up(&format!("typing, which failed: {error}")),
            }
        }
        self
    }

    /// Changes the terminal's size, as by dragging a corner of its window.
    #[track_caller]
    pub fn resize(&mut self, rows: u16, columns: u16) -> &mut Self {
        self.read();
        self.parser.set_size(size(rows), size(columns));
        tcsetwinsize(&self.master, winsize(rows, columns)).expect("resize the terminal");
        self
    }

    /// Waits until the screen is as `wished`.
    ///
    /// # Panics
    /// If it is not so within [`PATIENCE`], or cannot become so any more; with the last screen.
    #[track_caller]
    pub fn until(&mut self, wished: impl FnMut(&Screen) -> bool) -> &mut Self {
        self.until_as("the screen to be as wished", wished)
    }

    /// Waits until `text` stands on the screen, on one row.
    #[track_caller]
    pub fn until_text(&mut self, text: &str) -> &mut Self {
        self.until_as(&format!("{text:?} on the screen"), |screen| screen.contents().contains(text))
    }

    /// Waits until `text` is nowhere on the screen.
    #[track_caller]
    pub fn until_gone(&mut self, text: &str) -> &mut Self {
        self.until_as(&format!("{text:?} to go from the screen"), |screen| {
            !screen.contents().contains(text)
        })
    }

    /// Waits until the window's title contains `text`.
    #[track_caller]
    pub fn until_title(&mut self, text: &str) -> &mut Self {
        let deadline = Instant::now() + PATIENCE;
        loop {
            self.read();
            if self.title().contains(text) {
                return self;
            }
            if self.closed || !self.wait_until(deadline, PollFlags::IN) {
                self.give_up(&format!("a title with {text:?} (it is {:?})", self.title()));
            }
        }
    }

    /// Waits until the bell has rung more than `times`.
    #[track_caller]
    pub fn until_bell(&mut self, times: usize) -> &mut Self {
        let deadline = Instant::now() + PATIENCE;
        loop {
            self.read();
            if self.bells() > times {
                return self;
            }
            if self.closed || !self.wait_until(deadline, PollFlags::IN) {
                self.give_up("the bell");
            }
        }
    }

    #[track_caller]
    fn until_as(&mut self, what: &str, mut wished: impl FnMut(&Screen) -> bool) -> &mut Self {
        let deadline = Instant::now() + PATIENCE;
        loop {
            self.read();
            if wished(self.screen()) {
                return self;
            }
            if self.closed || !self.wait_until(deadline, PollFlags::IN) {
                self.give_up(what);
            }
        }
    }

    /// Waits until the program has ended, and everything that it printed was read.
    #[track_caller]
    pub fn wait_exit(&mut self) -> ExitStatus {
        let deadline = Instant::now() + PATIENCE;
        loop {
            self.read();
            if let Some(status) = self.exited() {
                self.read();
                return status;
            }
            if !self.wait_until(deadline, PollFlags::IN) {
                self.give_up("the program to end");
            }
        }
    }

    /// How the program ended, if it has.
    pub fn exited(&mut self) -> Option<ExitStatus> {
        if self.status.is_none() {
            self.status = self.child.try_wait().expect("wait for our own child");
        }
        self.status
    }

    /// The screen as it was when last looked at.
    pub fn screen(&self) -> &Screen {
        self.parser.screen()
    }

    /// The screen's text, without the blank end of rows and the blank rows at the end.
    pub fn text(&self) -> String {
        self.screen().contents()
    }

    pub fn title(&self) -> &str {
        &self.parser.callbacks().title
    }

    pub fn bells(&self) -> usize {
        self.parser.callbacks().bells
    }

    /// What was put on the clipboard, encoded as it came.
    pub fn clipboard(&self) -> &[Vec<u8>] {
        &self.parser.callbacks().clipboard
    }

    /// Every byte that was printed so far.
    pub fn raw(&self) -> &[u8] {
        &self.raw
    }

    /// The process that was started.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The terminal's own settings, such as whether it echoes.
    pub fn settings(&self) -> rustix::termios::Termios {
        rustix::termios::tcgetattr(&self.master).expect("read the terminal's settings")
    }

    /// Takes in what was printed by now.
    pub fn read(&mut self) {
        let mut buffer = [0; 16 << 10];
        while !self.closed {
            match rustix::io::read(&self.master, &mut buffer) {
                Ok(n) if n > 0 => {
                    self.raw.extend_from_slice(&buffer[..n]);
                    self.parser.process(&buffer[..n]);
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return,
                // Linux says EIO when the last process has closed the terminal.
                Ok(_) | Err(Errno::IO) => self.closed = true,
                Err(error) => panic!("read the terminal: {error}"),
            }
        }
    }

    /// Waits for `flags` on the terminal or the end of the program; false once it is too late.
    fn wait_until(&mut self, deadline: Instant, flags: PollFlags) -> bool {
        let Some(left) = deadline.checked_duration_since(Instant::now()) else {
            return false;
        };
        let timeout = Timespec::try_from(left).expect("seconds fit");
        let mut waited_for = Vec::new();
        if !self.closed {
            waited_for.push(PollFd::new(&self.master, flags));
        }
        if self.status.is_none() {
            waited_for.push(PollFd::new(&self.pidfd, PollFlags::IN));
        }
        let result = poll(&mut waited_for, Some(&timeout));
        drop(waited_for);
        match result {
            Ok(0) => false,
            Ok(_) => {
                // Noticed here, so that an ended program does not end every wait at once.
                self.exited();
                true
            }
            Err(Errno::INTR) => true,
            Err(error) => panic!("wait for the terminal: {}", io::Error::from(error)),
        }
    }

    #[track_caller]
    fn give_up(&mut self, waited_for: &str) -> ! {
        let ended = match self.exited() {
            Some(status) => format!("the program has ended: {status}"),
            None => "the program still runs".into(),
        };
        panic!("waited for {waited_for}; {ended}; the screen was:\n{}", framed(self.screen()));
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // The child leads its session and group; the hang-up when the terminal closes reaches the
        // groups that a shell in it has made.
        if self.exited().is_none() {
            let _ = kill_process_group(Pid::from_child(&self.child), Signal::KILL);
            let _ = self.child.wait();
        }
    }
}

fn size(cells: u16) -> NonZeroU16 {
    NonZeroU16::new(cells).expect("a terminal has at least one row and column")
}

fn winsize(rows: u16, columns: u16) -> Winsize {
    Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 }
}

/// A screen as text in a frame, with the cursor's place below it.
pub fn framed(screen: &Screen) -> String {
    let (rows, columns) = screen.size();
    let line = "-".repeat(usize::from(columns.get()));
    let mut text = format!("+{line}+\n");
    for row in screen.rows(0, columns.get()) {
        let _ = writeln!(text, "|{row}");
    }
    let (row, column) = screen.cursor_position();
    let _ = write!(
        text,
        "+{line}+ {rows} rows, {columns} columns, cursor in row {row}, column {column}"
    );
    text
}

/// In what two screens differ, cell by cell; empty if a person sees the same.
///
/// Compared is the part that both have; a different size alone is no difference.
pub fn differences(one: &Screen, other: &Screen) -> Vec<String> {
    let rows = one.size().0.min(other.size().0).get();
    let columns = one.size().1.min(other.size().1).get();
    let mut found = Vec::new();
    for row in 0..rows {
        for column in 0..columns {
            let (a, b) = (one.cell(row, column), other.cell(row, column));
            if !a.zip(b).is_some_and(|(a, b)| looks_same(a, b)) {
                found.push(format!("row {row}, column {column}: {a:?} is not {b:?}"));
            }
        }
    }
    if one.cursor_position() != other.cursor_position() {
        found.push(format!(
            "the cursor is at {:?}, not at {:?}",
            one.cursor_position(),
            other.cursor_position()
        ));
    }
    for (what, a, b) in [
        ("alternate screen", one.alternate_screen(), other.alternate_screen()),
        ("hidden cursor", one.hide_cursor(), other.hide_cursor()),
        ("application cursor keys", one.application_cursor(), other.application_cursor()),
        ("bracketed paste", one.bracketed_paste(), other.bracketed_paste()),
    ] {
        if a != b {
            found.push(format!("{what}: {a} is not {b}"));
        }
    }
    found
}

/// A cell that was never written and one with a blank in it look the same.
fn looks_same(a: &vt100::Cell, b: &vt100::Cell) -> bool {
    let text = |cell: &vt100::Cell| {
        if cell.has_contents() { cell.contents().to_owned() } else { " ".to_owned() }
    };
    let look = |cell: &vt100::Cell| {
        let style = (cell.bold(), cell.dim(), cell.italic(), cell.underline(), cell.inverse());
        (cell.fgcolor(), cell.bgcolor(), style, cell.is_wide(), cell.is_wide_continuation())
    };
    let blank = |cell: &vt100::Cell| text(cell) == " ";
    if blank(a) && blank(b) {
        // The colour of a letter that is not there does not show.
        return (a.bgcolor(), a.underline(), a.inverse())
            == (b.bgcolor(), b.underline(), b.inverse());
    }
    text(a) == text(b) && look(a) == look(b)
}

impl AsFd for Terminal {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.master.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn a_program_is_typed_to_and_its_screen_seen() {
        let mut terminal =
            Terminal::spawn(shell("read line; echo \"you said: $line\"; exit 3"), 10, 40);
        terminal.type_line("hello").until_text("you said: hello");
        assert_eq!(terminal.wait_exit().code(), Some(3));
    }

    #[test]
    fn a_resize_reaches_the_program() {
        let script = "trap 'stty size; exit' WINCH; echo ready; while :; do read line || :; done";
        let mut terminal = Terminal::spawn(shell(script), 10, 40);
        terminal.until_text("ready").resize(33, 77).until_text("33 77");
    }

    #[test]
    fn what_a_program_says_last_is_not_lost() {
        let mut terminal = Terminal::spawn(shell("seq 1 2000"), 10, 40);
        assert!(terminal.wait_exit().success());
        assert!(terminal.text().contains("2000"), "{}", framed(terminal.screen()));
    }

    #[test]
    fn waiting_in_vain_tells_what_was_seen() {
        let mut terminal = Terminal::spawn(shell("echo something else"), 10, 40);
        let waited = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            terminal.until_text("never");
        }));
        let message = *waited.expect_err("it is not there").downcast::<String>().unwrap();
        assert!(message.contains("never") && message.contains("something else"), "{message}");
    }

    #[test]
    fn a_dropped_terminal_leaves_no_process() {
        let mut terminal = Terminal::spawn(
            shell("trap '' HUP TERM; echo ready; while :; do sleep 100; done"),
            10,
            40,
        );
        terminal.until_text("ready");
        let pid = Pid::from_child(&terminal.child);
        assert!(rustix::process::test_kill_process_group(pid).is_ok(), "it runs before the drop");
        drop(terminal);
        // The sleep in the same group is killed too, and reaped by whoever adopts it.
        let deadline = Instant::now() + PATIENCE;
        while rustix::process::test_kill_process_group(pid).is_ok()
            && zombies_only(pid) == Some(false)
        {
            assert!(Instant::now() < deadline, "a process of group {pid:?} is left");
            std::thread::yield_now();
        }
    }

    /// Whether all processes of a group are dead, though perhaps not reaped. `None`: there is none.
    fn zombies_only(group: Pid) -> Option<bool> {
        let mut states = Vec::new();
        for entry in std::fs::read_dir("/proc").unwrap().flatten() {
            let Ok(stat) = std::fs::read_to_string(entry.path().join("stat")) else { continue };
            let Some((_, rest)) = stat.rsplit_once(") ") else { continue };
            let fields: Vec<_> = rest.split(' ').collect();
            if fields[2] == group.as_raw_nonzero().to_string() {
                states.push(fields[0] == "Z");
            }
        }
        (!states.is_empty()).then(|| states.iter().all(|zombie| *zombie))
    }

    #[test]
    fn differences_are_found_and_equals_are_equal() {
        let screen = |text: &str| {
            let mut parser = vt100::Parser::new(size(5), size(20), 0);
            parser.process(text.as_bytes());
            parser.screen().clone()
        };
        assert_eq!(
            differences(&screen("a \x1b[31mb\x1b[m"), &screen("a \x1b[31mb\x1b[m ").clone()).len(),
            1,
            "the cursor"
        );
        assert!(differences(&screen("a\x1b[31mb"), &screen("a\x1b[31mb")).is_empty());
        assert!(!differences(&screen("a\x1b[31mb"), &screen("a\x1b[32mb")).is_empty());
        assert!(!differences(&screen("\x1b[?1049h"), &screen("")).is_empty());
    }
}
