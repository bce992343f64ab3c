//! T-FUZZ for text: whatever a program prints or a caller sends, it stays text.

use stratavore_core::RunnerId;
use stratavore_core::name::Name;
use stratavore_core::runner::{Cause, Exit, parse_env};
use stratavore_core::terminal::{
    AttachFilter, PlainText, Queries, Untrusted, escape_json, has_invisible, truncate_to_width,
};
use stratavore_testkit::fuzz::{Corpus, bears, fuzz, peak_memory};
use stratavore_testkit::trial::{Dice, Trial, scale};

/// The most memory that this whole test program may ever have.
const MEMORY_MAX: u64 = 512 << 20;

fn corpus() -> Corpus {
    let long = |head: &str| format!("{head}{}", "0;".repeat(4000)).into_bytes();
    Corpus::new([
        b"plain text\r\nand more\ttext\r\n".to_vec(),
        "žluťoučký kůň 漢字 👨‍👩‍👧 \u{202e}\u{200b}\u{feff}".into(),
        b"\x1b[1;31mred\x1b[0m\x1b[2J\x1b[10;10H\x1b[?1049h\x1b[?2004h".to_vec(),
        b"\x1b]0;title\x07\x1b]52;c;?\x07\x1b]52;c;QUJD\x1b\\\x1b]8;;http://a\x1b\\".to_vec(),
        b"\x1bP+q544e\x1b\\\x1b_Gi=1;AAAA\x1b\\\x1b^pm\x1b\\\x1bX sos\x1b\\\x1bktitle\x1b\\"
            .to_vec(),
        b"\x1b[c\x1b[>c\x1b[6n\x1b[5n\x1b[18t\x1b[?u\x05\x1bZ\x1b[4$p".to_vec(),
        b"\x9b6n\x9d52;c;?\x9c\x90q\x9c\xc2\x9b6n".to_vec(),
        b"\xe6\xbc\xf0\x9f\x92\xc3\xed\xa0\x80\xff\xfe".to_vec(),
        long("\x1b["),
        long("\x1b]52;c;"),
        long("\x1bP"),
        b"\x1b".repeat(3000),
        br#"{"exit":{"cause":"\u0000\ud800","at":"2024"}}"#.to_vec(),
        b"KEY=file:/a\0b".to_vec(),
        b"run_gtahd3byntevc3nhsp5v".to_vec(),
    ])
}

/// Cuts the bytes where the dice say.
fn pieces<'a>(bytes: &'a [u8], dice: &mut Dice) -> Vec<&'a [u8]> {
    let (mut pieces, mut rest) = (Vec::new(), bytes);
    while !rest.is_empty() {
        let (piece, after) = rest.split_at(1 + dice.below(rest.len().min(40)));
        pieces.push(piece);
        rest = after;
    }
    pieces
}

/// All that is promised of one stream: how it is cut changes nothing, nothing grows, and what is
/// for people is fit for people.
fn judge(bytes: &[u8]) -> Result<(), String> {
    let mut dice = Dice::of(bytes.iter().fold(7, |sum, byte| sum * 31 % 65_521 + u64::from(*byte)));
    let filtered = |pieces: &[&[u8]]| {
        let (mut filter, mut out) = (AttachFilter::default(), Vec::new());
        pieces.iter().for_each(|piece| filter.push(piece, &mut out));
        out
    };
    let plain = |pieces: &[&[u8]]| {
        let (mut plain, mut out) = (PlainText::default(), String::new());
        pieces.iter().for_each(|piece| plain.push(piece, &mut out));
        plain.finish(&mut out);
        out
    };
    let asked = |pieces: &[&[u8]]| {
        let (mut queries, mut asked, mut at) = (Queries::default(), Vec::new(), 0);
        for piece in pieces {
            queries.push(piece, |offset, query| asked.push((at + offset, format!("{query:?}"))));
            at += piece.len();
        }
        asked
    };
    let cut = pieces(bytes, &mut dice);
    let (whole, in_pieces) = (filtered(&[bytes]), filtered(&cut));
    if whole != in_pieces {
        return Err(format!("the filter sees how it is cut: {}", whole.escape_ascii()));
    }
    if whole.len() > bytes.len() * 8 + 4096 {
        return Err(format!("{} bytes pass the filter", whole.len()));
    }
    if asked(&[bytes]) != asked(&cut) {
        return Err("the queries depend on how it is cut".into());
    }
    // What passed has nothing left that asks.
    let left = asked(&[&whole]);
    if !left.is_empty() {
        return Err(format!("{left:?} pass the filter"));
    }
    let text = plain(&[bytes]);
    if text != plain(&cut) {
        return Err("plain text sees how it is cut".into());
    }
    for text in [text.as_str(), &String::from_utf8_lossy(bytes)] {
        let shown = Untrusted(text).to_string();
        if has_invisible(&shown) || shown.contains('\n') {
            return Err(format!("shown as it is: {}", shown.escape_debug()));
        }
        let narrow = truncate_to_width(&shown, 20);
        if narrow.len() > shown.len() + 3 {
            return Err("cut, and longer".into());
        }
        let _parsed = (text.parse::<RunnerId>(), text.parse::<Name>(), parse_env(text));
        let _decoded = (serde_json::from_str::<Cause>(text), serde_json::from_str::<Exit>(text));
        let json = escape_json(&serde_json::to_string(text).map_err(|error| error.to_string())?);
        if serde_json::from_str::<String>(&json).ok().as_deref() != Some(text) {
            return Err("JSON comes back as another".into());
        }
    }
    Ok(())
}

#[test]
fn t_fuzz_no_output_gets_past_the_terminal_text() {
    let mut trial = Trial::new(
        "T-FUZZ terminal text",
        "whatever is printed: no panic, nothing grows, how it is cut changes nothing, no question passes",
    );
    let mut dice = trial.dice();
    fuzz(&mut trial, &mut dice, scale(300, 100_000), &corpus(), judge);
    let peak = peak_memory();
    trial.most("peak of memory, bytes", peak);
    trial.tried(if peak <= MEMORY_MAX { Ok(()) } else { Err(format!("{peak} bytes")) });
    let unfiltered = bears(b"\x1b[6n", |bytes| {
        let mut asked = 0;
        Queries::default().push(bytes, |_, _| asked += 1);
        if asked == 0 { Ok(()) } else { Err("it asks".into()) }
    });
    trial.control("output that nobody filters", unfiltered.is_err());
    trial.end();
}
