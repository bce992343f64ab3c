//! Row 84: what a runner prints reaches the screen of whoever is attached, and nothing beyond it.

use std::fs;

use stratavore_testkit::terminal::Terminal;
use stratavore_testkit::world::World;

use super::corpus;
use crate::viewers::from_elsewhere;

/// The first thing in `bytes` that does more to a terminal than draw: its clipboard, a title that is
/// not said to be the runner's, questions, printing, keys, window sizes, files.
fn reaches_past_the_screen(bytes: &[u8]) -> Result<(), String> {
    let text = std::str::from_utf8(bytes).map_err(|error| format!("not UTF-8: {error}"))?;
    if let Some(c) = text.chars().find(|c| ('\u{80}'..='\u{9f}').contains(c)) {
        return Err(format!("{c:?}"));
    }
    for (at, _) in text.match_indices('\u{1b}') {
        let rest = &text[at + 1..];
        let harmful = match rest.as_bytes() {
            [b']', ..] => commands(rest[1..].split(['\u{7}', '\u{1b}']).next().unwrap_or_default()),
            // Of device strings, an image.
            [b'P', ..] => {
                !rest[1..].trim_start_matches(|c: char| c.is_ascii_digit()).starts_with('q')
            }
            [b'X' | b'^' | b'_' | b'Z', ..] => true,
            [b'[', sequence @ ..] => asks_or_acts(sequence),
            _ => false,
        };
        if harmful {
            return Err(format!("{:?}", rest.chars().take(30).collect::<String>()));
        }
    }
    Ok(())
}

/// Commands of the system, of which these draw: colours, a link, a mark of a prompt, a directory's
/// name, a notification, and a title that says whose it is.
fn commands(command: &str) -> bool {
    let (number, text) = command.split_once(';').unwrap_or((command, ""));
    match number {
        "0" | "1" | "2" => !text.starts_with("stratavore: ") && !text.contains("api/shell"),
        "4" | "10" | "11" | "12" => text.contains('?'),
        "7" | "8" | "9" | "104" | "110" | "111" | "112" | "133" => false,
        "777" => !text.starts_with("notify;"),
        _ => true,
    }
}

fn asks_or_acts(sequence: &[u8]) -> bool {
    let end = sequence.iter().position(|byte| (0x40..=0x7e).contains(byte));
    let Some(end) = end else { return true };
    let fields = &sequence[..end];
    match sequence[end] {
        b'c' | b'n' | b'i' | b'x' => true,
        // Saving and restoring the title, which is ours.
        b't' => !fields.starts_with(b"22") && !fields.starts_with(b"23"),
        // A cursor's shape, but not the version; restoring a keyboard, but not asking for it.
        b'q' => fields.starts_with(b">"),
        b'u' => fields.starts_with(b"?"),
        b'p' => fields.contains(&b'$'),
        _ => false,
    }
}

/// Has the corpus printed before this viewer, who leaves then.
fn watched(mut terminal: Terminal, seen: &str, said: &str) -> Terminal {
    terminal.until_text(seen).type_line("corpus").until_text("over").until_gone(seen);
    terminal.type_line(said).until_text(said).press(b"\x11");
    assert!(terminal.wait_exit().success());
    terminal
}

/// The corpus is printed before viewers of each kind: near, through the daemon, and one who follows
/// the recorded bytes on a terminal.
#[test]
fn the_corpus_is_printed_before_viewers_and_reaches_nothing_but_their_screens() {
    let world = World::new();
    world.project("api");
    let cases = corpus::terminal();
    // After each, CAN ends what was begun, so that none is hidden in another.
    let printed: String = cases.iter().map(|case| format!("{}\u{18}\r\n", case.text)).collect();
    fs::write(world.work().join("corpus"), &printed).unwrap();
    // What asked a question is answered by its agent, and the answer is typed: it is read, too.
    let script = "stty -echo; echo ready; while read -r line; do case $line in corpus) cat corpus
        printf '\\030\\033\\\\\\033[?1049l\\033(B\\017\\033[0m\\033[2J\\033[Hover\\n';;
        *) printf '%s\\n' \"$line\" | cat -v;; esac; done";
    let runner = world.launch("api", "shell", &["sh", "-c", script]);

    let near = world.terminal(&["attach", "shell"], 24, 80);
    let watcher = world.terminal(&["attach", "shell", "--read-only"], 24, 80);
    let follower = world.terminal(&["logs", "shell", "--raw", "--follow"], 24, 80);
    let mut terminals = vec![("near", watched(near, "ready", "one"))];
    let far = from_elsewhere(&world, &["attach", "shell"], 24, 80);
    terminals.push(("far", watched(far, "one", "two")));
    for (who, mut terminal) in [("watcher", watcher), ("follower", follower)] {
        terminal.until_text("two");
        terminals.push((who, terminal));
    }
    let later = world.terminal(&["attach", "shell", "--read-only"], 24, 80);
    let mut later = ("later", later);
    later.1.until_text("two");
    terminals.push(later);
    for (who, terminal) in &mut terminals {
        terminal.read();
        assert!(terminal.raw().len() > 500, "{who} has seen something");
        assert!(terminal.clipboard().is_empty(), "{who}");
        if let Err(found) = reaches_past_the_screen(terminal.raw()) {
            panic!("{who} was given {found}");
        }
    }
    // The control: the same check on what the runner has printed, and on each text of it.
    assert!(reaches_past_the_screen(&world.recorded(&runner)).is_err());
    let raw = world.run(["logs", "shell", "--raw"]).ok();
    assert!(reaches_past_the_screen(&raw.output.stdout).is_err());
    let caught = |case: &&corpus::Case| reaches_past_the_screen(case.text.as_bytes()).is_err();
    assert!(cases.iter().filter(caught).count() > 150);
    for sequence in ["c", ">c", "5n", "?6n", "14t", "8;1;1t", "4i", ">q", "?u", "?2026$p", "x"] {
        reaches_past_the_screen(format!("\u{1b}[{sequence}").as_bytes()).unwrap_err();
    }
}
