//! The corpus of hostile output, and the promises of the attach filter.

use proptest::prelude::*;

use super::*;

/// What a runner may print to make a viewer's terminal answer, or act outside its screen.
const HOSTILE: &[(&str, &[u8])] = &[
    ("DA1", b"\x1b[c"),
    ("DA1 with a zero", b"\x1b[0c"),
    ("DA1 with zeros", b"\x1b[;0;0c"),
    ("DA2", b"\x1b[>c"),
    ("DA2 with a zero", b"\x1b[>0c"),
    ("DA3", b"\x1b[=c"),
    ("DA3 with a zero", b"\x1b[=0c"),
    ("DECID", b"\x1bZ"),
    ("status", b"\x1b[5n"),
    ("cursor position", b"\x1b[6n"),
    ("cursor position with zeros", b"\x1b[0006n"),
    ("extended cursor position", b"\x1b[?6n"),
    ("printer status", b"\x1b[?15n"),
    ("user defined keys status", b"\x1b[?25n"),
    ("keyboard status", b"\x1b[?26n"),
    ("locator status", b"\x1b[?55n"),
    ("macro space", b"\x1b[?62n"),
    ("memory checksum", b"\x1b[?63;1n"),
    ("data integrity", b"\x1b[?75n"),
    ("colour scheme", b"\x1b[?996n"),
    ("XTVERSION", b"\x1b[>q"),
    ("XTVERSION with a zero", b"\x1b[>0q"),
    ("kitty keyboard", b"\x1b[?u"),
    ("DECRQM", b"\x1b[4$p"),
    ("DECRQM private", b"\x1b[?2026$p"),
    ("DECREQTPARM", b"\x1b[x"),
    ("DECREQTPARM 1", b"\x1b[1x"),
    ("window away", b"\x1b[2t"),
    ("window moved", b"\x1b[3;0;0t"),
    ("window sized", b"\x1b[8;24;80t"),
    ("window enlarged", b"\x1b[9;1t"),
    ("window sized to lines", b"\x1b[36t"),
    ("window state", b"\x1b[11t"),
    ("window position", b"\x1b[13t"),
    ("text area position", b"\x1b[13;2t"),
    ("window pixels", b"\x1b[14t"),
    ("screen pixels", b"\x1b[15t"),
    ("cell pixels", b"\x1b[16t"),
    ("text area", b"\x1b[18t"),
    ("screen size", b"\x1b[19t"),
    ("icon title", b"\x1b[20t"),
    ("title", b"\x1b[21t"),
    ("title with zeros", b"\x1b[00021t"),
    ("title by overflow", b"\x1b[4294967317t"),
    ("tab stops", b"\x1b[2$w"),
    ("cursor information", b"\x1b[1$w"),
    ("checksum of a rectangle", b"\x1b[1;1;1;1;10;10*y"),
    ("displayed extent", b"\x1b[\"v"),
    ("preferred charset", b"\x1b[&u"),
    ("terminal state", b"\x1b[1$u"),
    ("locator position", b"\x1b[1'|"),
    ("locator reports", b"\x1b[1;1'z"),
    ("key modifiers", b"\x1b[?4m"),
    ("graphics attributes", b"\x1b[?2;1;0S"),
    ("colour stack", b"\x1b[#R"),
    ("attributes", b"\x1b[1;1;2;2#|"),
    ("title stack", b"\x1b[#S"),
    ("size reports", b"\x1b[?2048h"),
    ("size reports among others", b"\x1b[?1004;2048h"),
    ("palette", b"\x1b]4;1;?\x07"),
    ("palette among others", b"\x1b]4;1;#fff;2;?\x1b\\"),
    ("special colour", b"\x1b]5;0;?\x07"),
    ("foreground", b"\x1b]10;?\x07"),
    ("background", b"\x1b]11;?\x1b\\"),
    ("background by foreground", b"\x1b]10;#fff;?\x07"),
    ("background with a zero", b"\x1b]011;?\x07"),
    ("cursor colour", b"\x1b]12;?\x07"),
    ("selection colour", b"\x1b]17;?\x07"),
    ("kitty colours", b"\x1b]21;foreground=?\x1b\\"),
    ("pointer shape", b"\x1b]22;?__current__\x1b\\"),
    ("font", b"\x1b]50;?\x07"),
    ("clipboard read", b"\x1b]52;c;?\x07"),
    ("clipboard read of all", b"\x1b]52;;?\x1b\\"),
    ("clipboard read with a zero", b"\x1b]052;c;?\x07"),
    ("clipboard write", b"\x1b]52;c;ZXZpbA==\x07"),
    ("clipboard write to ST", b"\x1b]52;p;ZXZpbA==\x1b\\"),
    ("kitty clipboard", b"\x1b]5522;type=read;Lg==\x1b\\"),
    ("allowed features", b"\x1b]60\x07"),
    ("notification support", b"\x1b]99;i=1:p=?;\x1b\\"),
    ("locale", b"\x1b]701;?\x07"),
    ("version of rxvt", b"\x1b]702;?\x07"),
    ("cell size of iTerm", b"\x1b]1337;ReportCellSize\x07"),
    ("variable of iTerm", b"\x1b]1337;ReportVariable=cGF0aA==\x07"),
    ("download of iTerm", b"\x1b]1337;File=name=eA==:AAAA\x07"),
    ("macro of ConEmu", b"\x1b]9;6;\"print\"\x07"),
    ("file transfer of kitty", b"\x1b]5113;ac=send\x1b\\"),
    ("DECRQSS", b"\x1bP$qm\x1b\\"),
    ("XTGETTCAP", b"\x1bP+q544e\x1b\\"),
    ("XTGETXRES", b"\x1bP+Q666f6e74\x1b\\"),
    ("user defined keys", b"\x1bP0;1|17/0d\x1b\\"),
    ("macro", b"\x1bP1;0;1!z1b5b63\x1b\\\x1b[1*z"),
    ("kitty graphics", b"\x1b_Gi=31,s=1,v=1,a=q,t=d,f=24;AAAA\x1b\\"),
    ("tmux passes it on", b"\x1bPtmux;\x1b\x1b[c\x1b\\"),
    ("tmux passes ENQ on", b"\x1bPtmux;\x05\x1b\\"),
    ("screen passes it on", b"\x1bP\x1b[c\x1b\\"),
    ("ENQ", b"\x05"),
    ("ENQ in text", b"abc\x05def"),
    ("ENQ in a sequence", b"\x1b[\x051m"),
    ("ENQ in a title", b"\x1b]0;\x05\x07"),
    ("DA1 around a control", b"\x1b[\n0\rc"),
    ("cursor position around DEL", b"\x1b[\x7f6\x7fn"),
    ("DA1 in a title", b"\x1b]0;t\x1b[c\x07"),
    ("DA1 in a link", b"\x1b]8;;http://a\x1b[c\x1b\\"),
    ("DA1 after an escape", b"\x1b\x1b[c"),
    ("DA1 after a broken one", b"\x1b[12;\x1b[c"),
    ("DA1 after a broken character", b"\xe2\x82\x1b[c"),
    ("DA1 after a cancelled one", b"\x1b[1\x18\x1b[c"),
    ("DA1 by C1", b"\x9bc"),
    ("DA1 by C1 in UTF-8", b"\xc2\x9bc"),
    ("DA1 by C1 overlong", b"\xe0\x82\x9bc"),
    ("DA1 by C1 in a title", b"\x1b]2;\xc2\x9bc\x07"),
    ("DA1 by C1 in a link", b"\x1b]8;;\xc2\x9bc\x07"),
    ("DECID by C1", b"\x9a"),
    ("background by C1", b"\x9d11;?\x9c"),
    ("background by C1 in UTF-8", b"\xc2\x9d11;?\xc2\x9c"),
    ("DECRQSS by C1", b"\x90$qm\x9c"),
    ("DECRQSS by C1 in UTF-8", b"\xc2\x90$qm\xc2\x9c"),
    ("out of UTF-8, then C1", b"\x1b%@\xc4\x9bc"),
    ("printing", b"\x1b[5i"),
    ("printing the screen", b"\x1b[?4i"),
    ("VT52 mode", b"\x1b[?2l\x1bZ"),
];

/// What programs print every day, all of which passes.
const ORDINARY: &[&str] = &[
    "plain text\r\n\ttabs\x08 \x07",
    "ě Ünïcödé ✳ 漢字 \u{1f600} e\u{301}",
    "\x1b[0;1;4:3;38;2;10;20;30;48:5:17mcolour\x1b[m",
    "\x1b[?1049h\x1b[2J\x1b[H\x1b[10;20Hx\x1b[5A\x1b[K\x1b[?25l\x1b[?1049l",
    "\x1b[?1000;1006h\x1b[?2004h\x1b[?1004h\x1b[?2026h\x1b[?2026l",
    "\x1b[1;24r\x1b[3S\x1b[2L\x1b[4P\x1b7\x1b8\x1bM\x1bD\x1bE\x1bc",
    "\x1b(0lqqk\x1b(B\x0e\x0f\x1b)0\x1b*B\x1bOA\x1bNx\x1b#8",
    "\x1b[>1u\x1b[<u\x1b[=1;1u\x1b[>4;2m\x1b[2 q\x1b[!p\x1b[1\"q\x1b[2'}",
    "\x1b]8;id=1;https://example.org/?q=1\x1b\\link\x1b]8;;\x1b\\",
    "\x1b]4;1;#ff0000\x07\x1b]11;rgb:00/00/00\x1b\\\x1b]112\x07\x1b]7;file:///tmp\x07\x1b]133;A\x07",
    "\x1b]9;4;1;50\x07\x1b]9;done ✳\x07\x1b]777;notify;title;body\x1b\\",
    "\x1bPq#0;2;0;0;0~~\n-\x1b\\\x1bP=1s\x1b\\\x1b[22;0t\x1b[23;0t",
];

/// What a gullible terminal would answer to or obey. Independent of the tokenizer: it reads
/// characters, honours every introducer, and forgives what the tokenizer does not.
fn answers(bytes: &[u8]) -> Vec<String> {
    let mut chars = Vec::new();
    for chunk in bytes.utf8_chunks() {
        chars.extend(chunk.valid().chars());
        chars.extend(chunk.invalid().iter().map(|&b| char::from(b)));
    }
    let (mut found, mut at) = (Vec::new(), 0);
    while at < chars.len() {
        let c = chars[at];
        at += 1;
        let introducer = match c {
            '\x05' => {
                found.push("ENQ".into());
                continue;
            }
            '\u{80}'..='\u{9f}' => char::from(u8::try_from(u32::from(c)).unwrap() - 0x40),
            '\x1b' if at < chars.len() => {
                at += 1;
                chars[at - 1]
            }
            _ => continue,
        };
        match introducer {
            '\x1b' => at -= 1,
            'Z' => found.push("DECID".into()),
            '%' => found.push("charset".into()),
            '[' => {
                let mut body = String::new();
                while at < chars.len() && !matches!(chars[at], '@'..='~' | '\x1b' | '\x18') {
                    match chars[at] {
                        '\x05' => found.push("ENQ in CSI".into()),
                        c @ ' '..='?' => body.push(c),
                        _ => {}
                    }
                    at += 1;
                }
                if at < chars.len() && chars[at] > '\x1b' {
                    body.push(chars[at]);
                    at += 1;
                    if csi_answers(&body) {
                        found.push(format!("CSI {body}"));
                    }
                }
            }
            ']' | 'P' | '_' | '^' | 'X' | 'k' => {
                let start = at;
                while at < chars.len()
                    && !matches!(chars[at], '\x07' | '\x1b' | '\x18' | '\u{80}'..='\u{9f}')
                {
                    at += 1;
                }
                let body: String = chars[start..at].iter().collect();
                if string_answers(introducer, &body) {
                    found.push(format!("{introducer} {body}"));
                }
            }
            _ => {}
        }
    }
    found
}

fn csi_answers(body: &str) -> bool {
    let last = body.chars().last().unwrap();
    let digits: String = body.chars().filter(char::is_ascii_digit).collect();
    let first: String =
        body.chars().skip_while(|c| !c.is_ascii_digit()).take_while(char::is_ascii_digit).collect();
    let number = first.parse::<u64>().unwrap_or(0) as u32;
    match last {
        'c' | 'i' => true,
        'n' => !body.starts_with('>'),
        'q' => body.starts_with('>'),
        'u' => body.contains(['?', '&', '$']),
        'p' => body.contains('$'),
        'x' => !body.contains(['$', '*']),
        't' => !matches!(number, 22 | 23) && !body.contains(['$', '>']),
        'w' | 'R' | 'S' | 'm' | 'y' | 'v' | '|' | 'z' => {
            body.contains(['*', '#', '"', '\'', '?']) || body.ends_with("$w") || last == 'y'
        }
        'h' => body.starts_with('?') && digits.contains("2048"),
        'l' => body == "?2l",
        _ => false,
    }
}

fn string_answers(introducer: char, body: &str) -> bool {
    match introducer {
        ']' => {
            let number = body.split(';').next().unwrap().trim_start_matches('0');
            let asks = body.split([';', '=']).skip(1).any(|field| field.starts_with('?'));
            let reaches_out = ["52", "60", "99", "5522", "5113", "1337"].contains(&number)
                || body.starts_with("9;6");
            // In titles, directories, links, notifications and marks a `?` is text.
            let is_text = ["", "1", "2", "7", "8", "9", "133", "777"].contains(&number);
            body.contains('\x05') || (asks && !is_text) || reaches_out
        }
        'P' => {
            let function = body.trim_start_matches(|c: char| c.is_ascii_digit() || c == ';');
            function.starts_with(['$', '+', 't', '|', '!']) || body.contains('\x05')
        }
        '_' => body.starts_with('G'),
        _ => false,
    }
}

fn filter(chunks: &[&[u8]]) -> (Vec<u8>, Withheld) {
    let (mut filter, mut out) = (AttachFilter::default(), Vec::new());
    for chunk in chunks {
        filter.push(chunk, &mut out);
    }
    (out, filter.withheld())
}

#[test]
fn nothing_hostile_passes_wherever_it_is_split() {
    assert!(HOSTILE.len() >= 60);
    for (name, hostile) in HOSTILE {
        let stream = [b"before ", *hostile, b" after"].concat();
        let (whole, withheld) = filter(&[&stream]);
        assert_eq!(answers(&whole), [""; 0], "{name}: {}", whole.escape_ascii());
        let text = String::from_utf8_lossy(&whole);
        assert!(text.starts_with("before ") && text.ends_with(" after"), "{name}: {text:?}");
        for at in 0..stream.len() {
            let (split, same) = filter(&[&stream[..at], &stream[at..]]);
            assert_eq!((split, same), (whole.clone(), withheld), "{name} split at {at}");
        }
        let bytes: Vec<&[u8]> = stream.chunks(1).collect();
        assert_eq!(filter(&bytes).0, whole, "{name} byte by byte");
    }
}

#[test]
fn the_corpus_does_ask_when_nobody_filters_it() {
    for (name, hostile) in HOSTILE {
        assert_ne!(answers(hostile), [""; 0], "{name} is not hostile, or the detector is blind");
    }
    for ordinary in ORDINARY {
        assert_eq!(answers(ordinary.as_bytes()), [""; 0], "{ordinary:?}");
    }
}

#[test]
fn ordinary_output_passes_byte_for_byte() {
    for stream in ORDINARY {
        let stream = stream.as_bytes();
        for at in 0..stream.len() {
            let (out, withheld) = filter(&[&stream[..at], &stream[at..]]);
            assert_eq!(
                out.escape_ascii().to_string(),
                stream.escape_ascii().to_string(),
                "split at {at}"
            );
            assert_eq!(withheld, Withheld::default());
        }
    }
    let latin = b"caf\xe9 \xff\xfe";
    assert_eq!(filter(&[latin]).0, latin);
}

#[test]
fn an_unfinished_sequence_is_held_back() {
    let (mut filter, mut out) = (AttachFilter::default(), Vec::new());
    filter.push(b"a\x1b[3", &mut out);
    assert_eq!(out, b"a");
    filter.push(b"1m\xc4", &mut out);
    assert_eq!(out, b"a\x1b[31m");
    filter.push(b"\x9b", &mut out);
    assert_eq!(out, "a\x1b[31mě".as_bytes());
}

#[test]
fn clipboard_writes_are_counted_and_titles_are_marked() {
    let (out, withheld) = filter(&[b"\x1b]52;c;eA==\x07\x1b]52;c;eQ==\x1b\\\x1b[c"]);
    assert_eq!((out, withheld), (vec![], Withheld { clipboard_writes: 2, others: 1 }));

    let (out, _) = filter(&["\x1b]0;✳ work\x07\x1b]2;a\u{202e}b\x1b\\\x1b]1;\x07".as_bytes()]);
    let expected =
        "\x1b]0;stratavore: ✳ work\x07\x1b]2;stratavore: a\\u{202e}b\x1b\\\x1b]1;stratavore: \x07";
    assert_eq!(String::from_utf8(out).unwrap(), expected);

    let long = format!("\x1b]2;{}\x07", "x".repeat(5000));
    assert!(filter(&[long.as_bytes()]).0.len() < 300);
}

#[test]
fn the_reset_passes_its_own_filter_and_undoes_colours_only_if_they_changed() {
    let (out, withheld) = filter(&[RESET]);
    assert_eq!(
        withheld,
        Withheld { clipboard_writes: 0, others: 1 },
        "only the end of size reports"
    );
    assert!(out.len() + b"\x1b[?2048l".len() == RESET.len());

    let mut changed = AttachFilter::default();
    assert_eq!(changed.reset(), RESET);
    changed.push(b"\x1b]11;#123456\x07", &mut Vec::new());
    assert!(changed.reset().ends_with(b"\x1b]112\x1b\\"));
}

/// Streams worth trying: hostile and ordinary pieces, torn and mixed with arbitrary bytes.
pub(super) fn stream() -> impl Strategy<Value = Vec<u8>> {
    let torn = |bytes: Vec<u8>| {
        let len = bytes.len();
        (0..=len, 0..=len).prop_map(move |(a, b)| bytes[a.min(b)..a.max(b)].to_vec())
    };
    let hostile = (0..HOSTILE.len()).prop_map(|i| HOSTILE[i].1.to_vec());
    let ordinary = (0..ORDINARY.len()).prop_map(|i| ORDINARY[i].as_bytes().to_vec());
    let long = (0usize..20_000).prop_map(|n| [b"\x1b]0;", "é".repeat(n / 2).as_bytes()].concat());
    let piece = prop_oneof![
        4 => hostile.clone(),
        4 => ordinary.clone(),
        4 => hostile.prop_flat_map(torn),
        4 => ordinary.prop_flat_map(torn),
        4 => proptest::collection::vec(any::<u8>(), 0..30),
        2 => any::<String>().prop_map(String::into_bytes),
        1 => long,
    ];
    proptest::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat())
}

/// Where to split a stream, as fractions of its length.
pub(super) fn cuts() -> impl Strategy<Value = Vec<prop::sample::Index>> {
    proptest::collection::vec(any::<prop::sample::Index>(), 0..8)
}

pub(super) fn chunks<'a>(bytes: &'a [u8], cuts: &[prop::sample::Index]) -> Vec<&'a [u8]> {
    let mut at: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
    at.extend([0, bytes.len()]);
    at.sort_unstable();
    at.windows(2).map(|pair| &bytes[pair[0]..pair[1]]).collect()
}

proptest! {
    #[test]
    fn whatever_is_printed_nothing_asks_the_viewer(bytes in stream()) {
        let (out, _) = filter(&[&bytes]);
        prop_assert_eq!(answers(&out), Vec::<String>::new(), "{}", out.escape_ascii());
    }

    #[test]
    fn chunks_do_not_matter_to_the_viewer(bytes in stream(), cuts in cuts()) {
        prop_assert_eq!(filter(&chunks(&bytes, &cuts)), filter(&[&bytes]));
    }

    #[test]
    fn filtered_twice_is_filtered_once_but_for_titles(bytes in stream()) {
        let (once, _) = filter(&[&bytes]);
        let (twice, withheld) = filter(&[&once]);
        prop_assert_eq!(withheld, Withheld::default());
        if !once.windows(2).any(|pair| pair == b"\x1b]") {
            // The beginning of a character at the very end is held back.
            prop_assert!(once.starts_with(&twice) && once.len() - twice.len() < 4);
        }
    }
}
