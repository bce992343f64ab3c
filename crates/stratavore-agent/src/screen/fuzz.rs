//! T-FUZZ for the screen model: whatever a program prints, in whatever pieces and sizes.

use stratavore_testkit::fuzz::{Corpus, bears, fuzz, peak_memory};
use stratavore_testkit::trial::{Dice, Trial, scale};

use super::{Screen, Size};

/// The most memory that this whole test program may ever have.
const MEMORY_MAX: u64 = 512 << 20;
/// The most that a drawing of 200 × 60 cells may have; colours of every cell are about 40 bytes.
const DRAWING_MAX: usize = 2 * 200 * 60 * 64;
/// The most that may be held back, as an unfinished sequence.
const HELD_MAX: usize = 64 * 1024;

fn corpus() -> Corpus {
    let long = |head: &str| format!("{head}{}", "9;".repeat(4000)).into_bytes();
    Corpus::new([
        b"plain text\r\nand more\ttext\r\n\x08\x07\x0b\x0c".to_vec(),
        "žluťoučký kůň 漢字漢字漢字 👨‍👩‍👧 e\u{301}\u{301}\u{301}".into(),
        b"\x1b[1;31mred\x1b[0m\x1b[2J\x1b[10;10H\x1b[5L\x1b[5M\x1b[3P\x1b[3@\x1b[2X".to_vec(),
        b"\x1b[3;5r\x1b[?6h\x1bM\x1bD\x1bE\x1b[99999A\x1b[65535;65535H\x1b[0;0r".to_vec(),
        b"\x1b[?1049h\x1b[?47l\x1b7\x1b[?1048h\x1b8\x1bc\x1b[!p\x1b(0lqk\x1b(B".to_vec(),
        b"\x1b[4294967296S\x1b[18446744073709551616T\x1b[-1@\x1b[;;;;;;;H".to_vec(),
        b"\x1b]0;title\x07\x1b]52;c;?\x07\x1b]8;;http://a\x1b\\\x1bPq#0;2\x1b\\".to_vec(),
        b"\x1b[c\x1b[6n\x1b[18t\x05\x9b6n\xe6\xbc\xf0\x9f\xff".to_vec(),
        long("\x1b["),
        long("\x1b]0;"),
        long("\x1bP"),
        b"line\n".repeat(2000),
        b"\x1b".repeat(3000),
    ])
}

fn size(dice: &mut Dice) -> Size {
    Size { columns: 1 + dice.below(200) as u16, rows: 1 + dice.below(60) as u16 }
}

fn judge(bytes: &[u8]) -> Result<(), String> {
    let mut dice = Dice::of(bytes.iter().fold(7, |sum, byte| sum * 31 % 65_521 + u64::from(*byte)));
    let mut screen = Screen::new(size(&mut dice));
    let mut rest = bytes;
    while !rest.is_empty() {
        let (piece, after) = rest.split_at(1 + dice.below(rest.len().min(5000)));
        let answers = screen.feed(piece);
        // The shortest question has one byte, and the longest answer about fifty.
        if answers.len() > piece.len() * 64 + 64 {
            return Err(format!("{} bytes of answers to {}", answers.len(), piece.len()));
        }
        if dice.below(3) == 0 {
            let size = size(&mut dice);
            screen.resize(size);
        }
        rest = after;
    }
    let picture = screen.picture();
    let held = screen.held().to_vec();
    if picture.drawing.len() > DRAWING_MAX || held.len() > HELD_MAX {
        return Err(format!("drawn in {}, {} held back", picture.drawing.len(), held.len()));
    }
    if picture.title.len() > 64 * 1024 {
        return Err(format!("a title of {} bytes", picture.title.len()));
    }
    // Whoever attaches gets a screen that shows the same.
    let mut copy = Screen::restore(picture.size, &picture.drawing, &held);
    let shown = copy.picture();
    if (&shown.text, shown.cursor) != (&picture.text, picture.cursor) {
        return Err(format!("{:?} is drawn as {:?}", picture.text, shown.text));
    }
    Ok(())
}

#[test]
fn t_fuzz_no_output_breaks_the_screen() {
    let mut trial = Trial::new(
        "T-FUZZ screen",
        "whatever is printed: no panic, nothing grows, and the drawing shows the same screen",
    );
    let mut dice = trial.dice();
    fuzz(&mut trial, &mut dice, scale(150, 50_000), &corpus(), judge);
    let peak = peak_memory();
    trial.most("peak of memory, bytes", peak);
    trial.tried(if peak <= MEMORY_MAX { Ok(()) } else { Err(format!("{peak} bytes")) });
    let other = bears(b"text", |bytes| {
        let mut screen = Screen::new(Size { columns: 20, rows: 2 });
        screen.feed(bytes);
        let right = screen.picture().text;
        screen.feed(b"\x1b[H-");
        if screen.picture().text == right { Ok(()) } else { Err("another screen".into()) }
    });
    trial.control("a screen with another character", other.is_err());
    trial.end();
}
