use proptest::prelude::*;

use super::*;

const SIZE: Size = Size { columns: 20, rows: 6 };

fn screen(stream: &[u8]) -> Screen {
    let mut screen = Screen::new(SIZE);
    screen.feed(stream);
    screen
}

/// All that can be seen of a screen, in both buffers.
fn seen(screen: &mut Screen) -> Vec<String> {
    screen.settle();
    let mut all = vec![screen.model.cells.callbacks().title.clone()];
    let cells = &mut screen.model.cells;
    let alternate = cells.screen().alternate_screen();
    for buffer in [alternate, false] {
        if buffer != alternate {
            cells.process(b"\x1b[?47l");
        }
        let shown = cells.screen();
        for row in 0..SIZE.rows {
            for column in 0..SIZE.columns {
                let cell = shown.cell(row, column).unwrap();
                // An erased cell and a space look the same.
                let text = if cell.has_contents() { cell.contents() } else { " " };
                all.push(format!(
                    "{buffer} {row},{column} {text:?} {:?} {:?} {}{}{}{}{}{}",
                    cell.fgcolor(),
                    cell.bgcolor(),
                    cell.bold(),
                    cell.dim(),
                    cell.italic(),
                    cell.underline(),
                    cell.inverse(),
                    cell.is_wide(),
                ));
            }
        }
        all.push(format!("{buffer} cursor {:?}", shown.cursor_position()));
        if buffer == alternate {
            all.push(format!(
                "modes {:?} hidden {}",
                shown.input_mode_formatted(),
                shown.hide_cursor()
            ));
            all.push(format!("attributes {:?}", shown.attributes_formatted()));
        }
        if buffer != alternate {
            cells.process(b"\x1b[?47h");
        }
    }
    all
}

fn assert_draws_itself(stream: &[u8]) {
    let mut original = screen(stream);
    let picture = original.picture();
    let held = original.held().to_vec();
    let mut copy = Screen::restore(SIZE, &picture.drawing, &held);
    for (original, copy) in seen(&mut original).into_iter().zip(seen(&mut copy)) {
        assert_eq!(original, copy, "after {}", stream.escape_ascii());
    }
    // What cannot be seen on a copy is in its drawing.
    assert_eq!(copy.picture(), original.picture(), "after {}", stream.escape_ascii());
    // And what comes next looks the same on both.
    let next = b"next\r\nline\x1b8x\x1b[3Ay";
    original.feed(next);
    copy.feed(next);
    assert_eq!(original.picture().text, copy.picture().text, "after {}", stream.escape_ascii());
}

#[test]
fn a_drawing_restores_what_a_viewer_sees() {
    for stream in [
        "",
        "hello\r\n\x1b[31;1mred\x1b[0m \x1b[48;5;17mblue\x1b[m",
        "exactly twenty chars",
        "twenty chars and some that wrap around",
        "\x1b]2;✳ a title\x07",
        "\x1b[?1h\x1b=\x1b[?2004h\x1b[?1002h\x1b[?1006h\x1b[?1004h\x1b[?25l",
        "\x1b[3 qbar",
        "wide 漢字 and ✳️ marks",
        "\x1b[2;4rin a region\x1b[?6h\x1b[2;3Horigin",
        "\x1b[3;7H\x1b[35m\x1b7\x1b[m\x1b[1;1Hsaved elsewhere",
        "\x1b(0lqqk\x1b(B plain",
        "\x1b(0lq",
        "\x1b)0\x0elq",
        "\x1b[>1u\x1b[>4;2m",
        "\x1b[4h\x1b[?7l",
        "cut in a sequence\x1b[3",
        "cut in a character \u{1b}]0;tit",
    ] {
        assert_draws_itself(stream.as_bytes());
    }
}

#[test]
fn what_a_terminal_passes_over_in_a_sequence_does_not_hide_it() {
    for stream in [
        &b"\x1b[3;5r\x1b[?6h\x1bM\x1b\xc5D\x1b[99999A\x1b[65535;65535H\x1b[0;\xb0r"[..],
        b"\x1b[3;5r\x1b[?6h\x1b\x80\x80\xc4c7\xaf",
        b"\x1b[3;5r\x1b[?6h\x1b[6\x1b[\xff\xff\xff0;0r",
        // What is done before the sequence that it stands in.
        b"\x1b[2;4\nr\x1b[?\r6h\x1b[99Bx\x1b[0;\n0ry",
        b"\x1b[?1047\nh\x1b(\x800lqk",
        // What looks like the beginning of a string.
        b"\x1b(Pa\x1b*Xb\x1b [c\x1b[3;5rd",
    ] {
        assert_draws_itself(stream);
    }
}

#[test]
fn a_saved_cursor_comes_back_with_the_way_in_which_rows_were_counted() {
    for stream in [
        &b"\x1b[3;5r\x1b[?6h\x1b8x"[..],
        b"\x1b[3;5r\x1b[?6h\x1b[2;4H\x1b7\x1b[?6lx",
        b"\x1b[3;5r\x1b[?6h\x1b[2;4H\x1b[s\x1b[?6l\x1b[ux",
        b"\x1b[3;5r\x1b[?6h\x1b[2;4H\x1b[?1048h\x1b[?6l\x1b[?1048lx",
        b"\x1b[3;5r\x1b[?6h\x1b[2;4H\x1b[31m\x1b[!px",
        b"\x1b[3;5r\x1b[?6h\x1b[?1049h\x1b[?6l\x1b[?1049lx",
    ] {
        assert_draws_itself(stream);
        let mut original = screen(stream);
        let drawing = original.picture().drawing;
        let mut copy = Screen::restore(SIZE, &drawing, b"");
        for screen in [&mut original, &mut copy] {
            screen.feed(b"\x1b8y\x1b[99;1Hz");
        }
        assert_eq!(seen(&mut original), seen(&mut copy), "after {}", stream.escape_ascii());
    }
}

#[test]
fn both_buffers_are_restored() {
    let full = "shell $ vim\r\n\x1b]2;vim\x07\x1b[?1049h\x1b[H\x1b[7mfull screen\x1b[m\x1b[5;9H";
    assert_draws_itself(full.as_bytes());
    let mut original = screen(full.as_bytes());
    let mut copy = Screen::restore(SIZE, &original.picture().drawing, b"");
    assert!(copy.picture().alternate);
    for both in [&mut original, &mut copy] {
        both.feed(b"\x1b[?1049l");
        let picture = both.picture();
        assert_eq!(picture.text, "shell $ vim");
        assert_eq!(picture.cursor, (1, 0));
        assert!(!picture.alternate);
    }
    assert_draws_itself(b"one\x1b[?47htwo\x1b[2;3r");
    assert_draws_itself(b"one\x1b[2;3r\x1b[?1047htwo\x1b[?1047lback");
}

/// The shell behind an editor does not write in the colours of the editor's status line.
#[test]
fn leaving_the_alternate_screen_brings_back_how_text_looked_before() {
    for before in ["", "\x1b[1;32m"] {
        let full = format!("{before}$ vim\r\n\x1b[?1049h\x1b[m\x1b[3;1H\x1b[1;7mstatus");
        assert_draws_itself(full.as_bytes());
        let mut original = screen(full.as_bytes());
        let mut copy = Screen::restore(SIZE, &original.picture().drawing, b"");
        for both in [&mut original, &mut copy] {
            both.feed(b"\x1b[?1049l$ ");
        }
        assert_eq!(original.picture().drawing, copy.picture().drawing);
    }
}

#[test]
fn a_drawing_undoes_what_the_viewers_terminal_was_in() {
    let mut viewer =
        screen(b"\x1b[?1049h\x1b[2;4r\x1b[?6h\x1b(0\x1b[?1000h\x1b[?2004h\x1b[?25l\x1b[31mold");
    let mut original = screen(b"new");
    viewer.feed(&original.picture().drawing);
    for (original, viewer) in seen(&mut original).into_iter().zip(seen(&mut viewer)) {
        assert_eq!(original, viewer);
    }
}

#[test]
fn questions_are_answered_where_they_are_asked() {
    let mut screen = Screen::new(SIZE);
    assert_eq!(screen.feed(b"ab\x1b[6ncd\r\n\x1b[6"), b"\x1b[1;3R");
    assert_eq!(screen.feed(b"n"), b"\x1b[2;1R");
    assert_eq!(screen.feed(b"exactly twenty chars\x1b[6n"), b"\x1b[2;20R");
}

#[test]
fn sequences_that_the_cells_do_not_know_are_carried_out() {
    assert_eq!(screen(b"ab\x1bDc\x1bEd").picture().text, "ab\n  c\nd");
    assert_eq!(screen(b"123456789\x1b[Zx").picture().text, "12345678x");
    assert_eq!(screen(b"12345678\x1b[Zx").picture().text, "x2345678");
    assert_eq!(screen(b"a\x1b[sbc\x1b[ux").picture().text, "axc");
    assert_eq!(screen(b"a\x1b[?1048hbc\x1b[?1048lx").picture().text, "axc");
}

#[test]
fn a_repeat_cannot_keep_the_agent_busy() {
    let mut screen = Screen::new(SIZE);
    screen.feed(&b"x\x1b[65535b".repeat(100));
    assert!(screen.picture().text.starts_with("xxxx"));
}

#[test]
fn an_overlong_string_leaves_the_viewer_inside_of_it() {
    let mut original = Screen::new(SIZE);
    original.feed(b"before");
    original.feed(&[b"\x1b]52;c;".to_vec(), vec![b'A'; 40_000]].concat());
    let mut viewer = screen(&original.picture().drawing);
    viewer.feed(b"AAAA\x07after");
    assert_eq!(viewer.picture().text, "beforeafter");
}

/// A screen on which everything is drawn, byte by byte, so that nothing is a flood.
fn drawn_slowly(stream: &[u8]) -> Screen {
    let mut screen = Screen::new(SIZE);
    for byte in stream {
        screen.feed(&[*byte]);
    }
    screen
}

#[test]
fn a_flood_ends_with_the_right_screen() {
    for line in [
        "short",
        "a line that is longer than the screen is wide, and wraps",
        "\x1b[31mred\x1b[m plain",
        "\x1b[1mbold for ever",
        "tab\tand 漢字",
    ] {
        for end in ["", "no line end", "\x1b[2;2Hmoved", "\x1b[4A up"] {
            let stream =
                format!("before\x1b[32m\x1b[3;3H{}{end}", format!("{line}\r\n").repeat(200));
            let (mut fast, mut slow) = (screen(stream.as_bytes()), drawn_slowly(stream.as_bytes()));
            assert_eq!(seen(&mut fast), seen(&mut slow), "{line:?} {end:?}");
        }
    }
    // Nothing is asked for in between, and chunks end anywhere.
    for line in
        ["\x1b[3{n};1mline {n}\x1b[m plain", "\x1b[3{n}mcoloured for ever {n}", "漢字 {n} ě"]
    {
        let stream: String =
            (0..20_000).map(|n| line.replace("{n}", &(n % 7).to_string()) + "\r\n").collect();
        for chunk in [4096, 30_011, 65_536] {
            let mut fast = Screen::new(SIZE);
            for chunk in stream.as_bytes().chunks(chunk) {
                fast.feed(chunk);
                assert!(fast.put_off() < 256 * 1024, "what is put off grows");
            }
            // What came before the last lines has no part in what is seen but by its colours.
            let last = stream.len() - 30_000;
            let mut slow = drawn_slowly(&stream.as_bytes()[last..]);
            assert_eq!(seen(&mut fast), seen(&mut slow), "{line:?} in chunks of {chunk}");
            assert_eq!(fast.put_off(), 0, "it was looked at");
        }
    }
    // Where only a part scrolls, nothing may be left out.
    let stream = format!("top\x1b[3;5r{}", "line\r\n".repeat(100));
    assert_eq!(screen(stream.as_bytes()).picture().text, "top\n\nline\nline");
}

fn flood() -> impl Strategy<Value = Vec<u8>> {
    let part = prop_oneof![
        6 => "[ -~ě漢]{0,30}\r\n".prop_map(String::into_bytes),
        1 => "[a-z\t\x08]{0,5}\n".prop_map(String::into_bytes),
        1 => "[a-z]{0,45}".prop_map(String::into_bytes),
        1 => (0u16..110).prop_map(|n| format!("\x1b[{n}m").into_bytes()),
    ];
    let rare = prop_oneof![
        Just(String::new()),
        (1u16..7, 1u16..20).prop_map(|(row, column)| format!("\x1b[{row};{column}H")),
        (1u16..7, 1u16..7).prop_map(|(top, bottom)| format!("\x1b[{top};{bottom}r")),
        Just("\x1b[?1049h".into()),
        Just("\x1b[m".into()),
    ];
    let stretch = (rare, proptest::collection::vec(part, 0..60));
    proptest::collection::vec(
        stretch.prop_map(|(rare, parts)| [rare.into_bytes(), parts.concat()].concat()),
        1..4,
    )
    .prop_map(|all| all.concat())
}

fn stream() -> impl Strategy<Value = Vec<u8>> {
    let part = prop_oneof![
        4 => "[ -~ěš漢─✳]{1,12}".prop_map(String::into_bytes),
        2 => Just(b"\r\n".to_vec()),
        1 => proptest::collection::vec(any::<u8>(), 1..4),
        3 => (0u16..9, 0u16..25).prop_map(|(row, column)| format!("\x1b[{row};{column}H").into_bytes()),
        3 => (0u16..110).prop_map(|n| format!("\x1b[{n}m").into_bytes()),
        2 => "[@A-GJKLMPSTXZbdrsu`]".prop_flat_map(|last| (0u16..8).prop_map(move |n| format!("\x1b[{n}{last}").into_bytes())),
        1 => (0u16..7, 0u16..7).prop_map(|(top, bottom)| format!("\x1b[{top};{bottom}r").into_bytes()),
        2 => (proptest::sample::select(vec![1, 7, 25, 47, 1000, 1002, 1004, 1006, 1047, 1048, 1049, 2004]), "[hl]")
            .prop_map(|(mode, on)| format!("\x1b[?{mode}{on}").into_bytes()),
        1 => proptest::sample::select(vec!["\x1b7", "\x1b8", "\x1bM", "\x1bD", "\x1bE", "\x1b(0", "\x1b(B", "\x1b=", "\x1bc", "\x1b[!p"])
            .prop_map(|text| text.as_bytes().to_vec()),
    ];
    proptest::collection::vec(part, 0..30).prop_map(|parts| parts.concat())
}

proptest! {
    #[test]
    fn a_drawing_draws_itself(stream in stream()) {
        let mut original = screen(&stream);
        let picture = original.picture();
        let held = original.held().to_vec();
        let mut copy = Screen::restore(SIZE, &picture.drawing, &held);
        for (original, copy) in seen(&mut original).into_iter().zip(seen(&mut copy)) {
            prop_assert_eq!(original, copy, "after {}", stream.escape_ascii());
        }
    }

    #[test]
    fn a_flood_is_drawn_as_if_slowly(stream in flood()) {
        let (mut fast, mut slow) = (screen(&stream), drawn_slowly(&stream));
        for (fast, slow) in seen(&mut fast).into_iter().zip(seen(&mut slow)) {
            prop_assert_eq!(fast, slow, "after {}", stream.escape_ascii());
        }
    }

    #[test]
    fn no_output_ends_the_screen(stream: Vec<u8>, columns in 1u32..40, rows in 1u32..10) {
        let mut screen = Screen::new(SIZE);
        screen.feed(&stream);
        screen.resize(Size::new(columns, rows).unwrap());
        screen.feed(&stream);
        screen.picture();
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn what_was_put_off_is_there_for_whoever_looks(
        streams in proptest::collection::vec((flood(), 1usize..40, 0u8..4), 1..4)
    ) {
        let (mut fast, mut slow) = (Screen::new(SIZE), Screen::new(SIZE));
        for (stream, times, deed) in streams {
            let stream = stream.repeat(times);
            fast.feed(&stream);
            // Too few bytes for anything to scroll through.
            for bytes in stream.chunks(8) {
                slow.feed(bytes);
            }
            let size = Size::new(30, 7).unwrap();
            match deed {
                0 => prop_assert_eq!(fast.feed(b"\x1b[6n"), slow.feed(b"\x1b[6n")),
                1 => [&mut fast, &mut slow].into_iter().for_each(|screen| screen.resize(size)),
                2 => prop_assert_eq!(fast.picture().text, slow.picture().text),
                _ => {}
            }
        }
        for (fast, slow) in seen(&mut fast).into_iter().zip(seen(&mut slow)) {
            prop_assert_eq!(fast, slow);
        }
    }
}
