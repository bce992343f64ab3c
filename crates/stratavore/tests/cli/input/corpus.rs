//! The hostile texts, made by rules so that each kind is whole.

/// One text, and which kind of harm it is meant to do.
pub(super) struct Case {
    pub what: &'static str,
    pub text: String,
}

/// Some 400 texts that would do something to a terminal or deceive its reader. None has a NUL, and
/// all differ.
pub(super) fn terminal() -> Vec<Case> {
    let mut cases = Vec::new();
    let mut add = |what, text: String| cases.push(Case { what, text });
    for c in ('\u{1}'..='\u{1f}').chain('\u{7f}'..='\u{9f}').filter(|c| *c != '\n') {
        add("control", format!("one{c}two"));
    }
    for number in [0, 1, 2, 4, 7, 8, 9, 10, 11, 12, 50, 52, 104, 133, 633, 777, 1337] {
        for begin in ["\u{1b}]", "\u{9d}"] {
            for end in ["\u{7}", "\u{1b}\\", "\u{9c}", ""] {
                let payload = match number {
                    52 => "c;c3RvbGVu",
                    8 => ";file:///etc/shadow",
                    4 => "0;?",
                    10..=12 => "?",
                    _ => "owned",
                };
                add("command", format!("{begin}{number};{payload}{end}x"));
            }
        }
    }
    for begin in
        ["\u{1b}P", "\u{90}", "\u{1b}X", "\u{98}", "\u{1b}^", "\u{9e}", "\u{1b}_", "\u{9f}"]
    {
        for payload in ["q#0;2;0;0;0~", "+q544e", "$qm", "1000p"] {
            for end in ["\u{1b}\\", ""] {
                add("string", format!("{begin}{payload}{end}x"));
            }
        }
    }
    for sequence in CSI {
        for begin in ["\u{1b}[", "\u{9b}"] {
            add("sequence", format!("a{begin}{sequence}b"));
        }
    }
    for escape in ["c", "7", "8", "D", "E", "H", "M", "N", "O", "Z", "=", ">", "#8", "(0", "%@"] {
        add("escape", format!("a\u{1b}{escape}b"));
    }
    for c in HIDDEN.chars() {
        add("hidden", format!("user{c}name"));
    }
    for (what, text) in [
        ("lines", "fine\r\u{1b}[1Aerror: all is well".to_owned()),
        ("lines", "x\u{8}\u{8}\u{8}y".into()),
        ("lines", "a\tb\u{b}c\u{c}d".into()),
        ("lines", "x\u{1b}[9999999999999999999999C".into()),
        ("lines", "\u{1b}".repeat(50)),
        ("wide", "漢".repeat(60)),
        ("wide", format!("e{}", "\u{301}".repeat(60))),
        ("wide", "🦀🏴👩".repeat(20)),
        ("wide", "ﷺ".repeat(30)),
        ("hidden", "👩\u{200d}👩\u{200d}👧\u{fe0f}".repeat(10)),
    ] {
        add(what, text);
    }
    cases
}

/// What follows the introducer of a control sequence: what moves, erases, asks, changes modes.
const CSI: [&str; 38] = [
    "2J", "3J", "K", "H", "999B", "38;5;9m", "8m", "0;7m", "c", ">c", "=c", "5n", "6n", "?6n",
    "14t", "18t", "21t", "8;1;1t", "22;0t", "23;0t", "?1049h", "?1000h", "?1004h", "?2004h",
    "?25l", "?5h", "2;3r", "x", "!p", "20h", "4i", "5i", "q", ">q", "s", "u", "?u", "200~",
];

const HIDDEN: &str = "\u{ad}\u{34f}\u{61c}\u{115f}\u{1160}\u{17b4}\u{17b5}\u{180b}\u{180e}\u{200b}\u{200c}\u{200d}\
    \u{200e}\u{200f}\u{2028}\u{2029}\u{202a}\u{202b}\u{202c}\u{202d}\u{202e}\u{2060}\u{2061}\u{2062}\u{2063}\u{2064}\
    \u{2066}\u{2067}\u{2068}\u{2069}\u{206a}\u{206f}\u{3164}\u{fe00}\u{fe0f}\u{feff}\u{ffa0}\u{fff9}\u{fffa}\u{fffb}\
    \u{1d173}\u{e0001}\u{e0020}\u{e0041}\u{e007f}\u{e0100}";

/// Texts that end a statement, a quotation or a word where text is put together to a command.
pub(super) const SQL: [&str; 14] = [
    "'; DROP TABLE projects; --",
    "\" OR \"\"=\"",
    "1' OR '1'='1",
    "x') ; DELETE FROM runners; --",
    "' UNION SELECT record FROM runners --",
    "$1 $2 :name ?1 ? @x",
    "\\'; --",
    "%_\\%",
    "$$; SELECT pg_sleep(9); $$",
    "/* */ ; ATTACH DATABASE '/tmp/x' AS x",
    "robert'); UPDATE runners SET state='lost';--",
    "{\"a\": [1, 2], \"b\": \"'\"}",
    "`backticks` $(subshell) ${variable}",
    "line\nline; -- \ttab",
];

#[test]
fn there_are_some_four_hundred_and_each_is_another() {
    let texts: std::collections::BTreeSet<_> =
        terminal().into_iter().map(|case| case.text).collect();
    assert_eq!(texts.len(), terminal().len());
    assert!(texts.len() >= 400, "{}", texts.len());
    assert!(texts.iter().all(|text| !text.contains('\0')));
}
