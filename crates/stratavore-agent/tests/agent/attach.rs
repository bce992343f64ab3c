//! Viewers: what they are shown, who of them writes, and how slow they may be.

use stratavore_core::runner::Cause;
use stratavore_proto::v1::{Pong, Resize, Steal, Yield, from_agent_socket::Kind, to_agent_socket};

use crate::daemon::World;
use crate::viewer::{self, Viewer, attach_wish, send};

#[tokio::test]
async fn a_viewer_sees_the_screen_first_and_then_what_comes() {
    let mut world = World::shell(
        "printf '\\033]2;a title\\007early\\r\\n'; read line; echo got $line; read line; exit 9",
    );
    let mut line = world.launch().await;
    world.until_recorded("early").await;
    let mut viewer = Viewer::attach(&world, "me", attach_wish(false, false, 80, 24)).await;
    assert!(viewer.text().contains("early") && viewer.output.is_empty(), "a picture, not a replay");
    viewer
        .until("being the writer", |viewer| viewer.writer.as_ref().is_some_and(|writer| writer.you))
        .await;
    viewer.type_in("hello\n").await;
    viewer.until_shown("got hello").await;
    let screen = viewer::screen(&world).await;
    assert_eq!((screen.title.as_str(), screen.alternate), ("a title", false));
    assert!(screen.text.starts_with("early\nhello\ngot hello"), "{:?}", screen.text);
    viewer.type_in("\n").await;
    viewer.until("the end", |viewer| viewer.ended.is_some()).await;
    assert_eq!(viewer.ended.as_deref(), Some("exit 9"));
    assert_eq!(line.exited().await, Cause::Exit(9));
    assert!(!viewer.step().await, "nothing comes after the end");
}

#[tokio::test]
async fn one_writes_and_the_others_are_told_who() {
    let mut world = World::shell("while read line; do echo got $line; done");
    let mut line = world.launch().await;
    let mut first = Viewer::attach(&world, "first", attach_wish(false, false, 100, 40)).await;
    let mut second = Viewer::attach(&world, "second", attach_wish(false, false, 90, 50)).await;
    let mut watcher = Viewer::attach(&world, "watcher", attach_wish(true, true, 20, 5)).await;
    let named = |who: &'static str, viewers: u32| {
        move |viewer: &mut Viewer| {
            viewer
                .writer
                .as_ref()
                .is_some_and(|writer| writer.who == who && writer.viewers == viewers)
        }
    };
    for viewer in [&mut first, &mut second, &mut watcher] {
        viewer.until("first writes", named("first", 3)).await;
    }
    assert!(first.writer.as_ref().unwrap().you && !second.writer.as_ref().unwrap().you);
    for viewer in [&mut first, &mut second, &mut watcher] {
        viewer
            .until("the smallest size of those that can write", |viewer| viewer.size() == (90, 40))
            .await;
    }

    // What observers type goes nowhere, even if they insist.
    watcher.say(to_agent_socket::Kind::Steal(Steal {})).await;
    watcher.type_in("watcher\n").await;
    second.type_in("second\n").await;
    first.type_in("one\n").await;
    first.until_shown("got one").await;
    for viewer in [&mut second, &mut watcher] {
        viewer.until_shown("got one").await;
        assert!(
            !viewer.text().contains("second") && !viewer.text().contains("watcher"),
            "{}",
            viewer.text()
        );
    }

    second.say(to_agent_socket::Kind::Steal(Steal {})).await;
    for viewer in [&mut first, &mut second] {
        viewer.until("second writes", named("second", 3)).await;
    }
    second.type_in("two\n").await;
    first.until_shown("got two").await;

    second.say(to_agent_socket::Kind::Yield(Yield {})).await;
    first.until("first writes again", named("first", 3)).await;
    first.until("its own width", |viewer| viewer.size() == (100, 40)).await;

    second.say(to_agent_socket::Kind::Pong(Pong {})).await;
    second.say(to_agent_socket::Kind::Steal(Steal {})).await;
    second.until("second writes", named("second", 3)).await;
    drop(second);
    first.until("the one who waits writes", named("first", 2)).await;
    line.kill().await;
    line.exited().await;
}

#[tokio::test]
async fn the_terminal_follows_the_sizes_and_the_last_one_holds() {
    let mut world =
        World::shell("trap 'stty size' WINCH; echo ready; while :; do sleep 0.01; done");
    let mut line = world.launch().await;
    world.until_recorded("ready").await;
    let mut viewer = Viewer::attach(&world, "me", attach_wish(false, false, 90, 30)).await;
    viewer.until_shown("30 90").await;
    for columns in 20..200 {
        viewer.say(to_agent_socket::Kind::Resize(Resize { columns, rows: 10 })).await;
    }
    viewer.until("the last size", |viewer| viewer.size() == (199, 10)).await;
    viewer.until_shown("10 199").await;
    let all = world.recorded_text();
    let changes = all.lines().filter(|line| line.starts_with("10 ")).count();
    assert!(changes < 40, "{changes} changes for 180 sizes");
    line.kill().await;
    line.exited().await;
}

#[tokio::test]
async fn a_full_screen_program_is_restored_with_both_its_screens() {
    let mut world = World::shell(
        "printf 'shell line\\r\\n\\033[?1049h\\033[2;3Hfull \\033[31mscreen\\033[?1h\\033[?2004h\\033[?25l'; read x; \
         printf '\\033[?1049l\\033[?25hback'; read x",
    );
    let mut line = world.launch().await;
    world.until_recorded("?25l").await;
    let mut viewer = Viewer::attach(&world, "me", attach_wish(false, false, 80, 24)).await;
    let screen = viewer.terminal.screen();
    assert!(
        screen.alternate_screen()
            && screen.hide_cursor()
            && screen.bracketed_paste()
            && screen.application_cursor()
    );
    assert_eq!(screen.contents().trim_start(), "full screen");
    viewer.type_in("\n").await;
    viewer.until_shown("back").await;
    assert!(viewer.text().starts_with("shell line"), "{}", viewer.text());
    line.kill().await;
    line.exited().await;
}

#[tokio::test]
async fn an_editor_is_shown_cell_by_cell_as_if_watched_from_the_start() {
    const EDITOR: &str = "/usr/bin/vim";
    if !std::path::Path::new(EDITOR).exists() {
        return;
    }
    let mut world = World::new(&[EDITOR, "-u", "NONE", "-i", "NONE", "-N", "text"]);
    let text: String =
        (0..200).map(|n| format!("line {n} of a text\twith a tab and wide 漢字\n")).collect();
    std::fs::write(std::path::Path::new(&world.spec.command.directory).join("text"), text).unwrap();
    let mut line = world.launch().await;
    // One watches from the start, and one comes when much has happened.
    let mut first = Viewer::attach(&world, "first", attach_wish(false, false, 80, 24)).await;
    first.until_shown("200L").await;
    first.type_in(":set number hlsearch\r").await;
    first.until_shown("  1 line 0").await;
    first.type_in("/wide\r20\x05").await;
    first.until_shown("40 line 39").await;
    first.say(to_agent_socket::Kind::Resize(Resize { columns: 61, rows: 17 })).await;
    first.until("the new size", |viewer| viewer.size() == (61, 17)).await;
    // Something that a redraw does not wipe away.
    first.type_in(":%s/of a text/chan\\0ged/\r").await;
    first.until_shown("chanof a textged").await;
    let mut late = Viewer::attach(&world, "late", attach_wish(true, false, 80, 24)).await;
    // Both have read the same, then.
    while first.offset != late.offset {
        let behind = if first.offset < late.offset { &mut first } else { &mut late };
        assert!(behind.step().await);
    }
    let (watched, drawn) = (first.terminal.screen(), late.terminal.screen());
    assert_eq!(watched.contents(), drawn.contents());
    for row in 0..17 {
        for column in 0..61 {
            let (watched, drawn) =
                (watched.cell(row, column).unwrap(), drawn.cell(row, column).unwrap());
            let look = |cell: &vt100::Cell| {
                (cell.fgcolor(), cell.bgcolor(), cell.bold(), cell.inverse(), cell.is_wide())
            };
            let shown = |cell: &vt100::Cell| {
                if cell.has_contents() { cell.contents().to_owned() } else { " ".into() }
            };
            assert_eq!(
                (shown(watched), look(watched)),
                (shown(drawn), look(drawn)),
                "at {row},{column}"
            );
        }
    }
    assert_eq!(watched.cursor_position(), drawn.cursor_position());
    assert_eq!(watched.input_mode_formatted(), drawn.input_mode_formatted());
    assert!(drawn.alternate_screen());
    first.type_in(":q!\r").await;
    assert_eq!(line.exited().await, Cause::Exit(0));
}

#[tokio::test]
async fn questions_are_answered_once_whoever_watches() {
    let script = "stty raw -echo; printf 'ab\\033[6n'; dd bs=1 count=6 2>/dev/null | od -An -c; stty sane; read x; exit 0";
    let mut world = World::shell(script);
    let mut line = world.launch().await;
    world.until_recorded("3   R").await;
    let answered = world.recorded_text();
    let mut viewers = Vec::new();
    for _ in 0..3 {
        viewers.push(Viewer::attach(&world, "me", attach_wish(false, false, 80, 24)).await);
    }
    viewers[0].type_in("\n").await;
    assert_eq!(line.exited().await, Cause::Exit(0));
    assert_eq!(world.recorded_text().matches(" R").count(), answered.matches(" R").count());
}

#[tokio::test]
async fn a_slow_viewer_is_told_what_it_missed_and_nobody_waits_for_it() {
    let mut world =
        World::shell("head -c 20000001 /dev/zero | tr '\\0' x; echo; echo last; read x");
    let mut line = world.launch().await;
    let mut slow = Viewer::attach(&world, "slow", attach_wish(true, false, 80, 24)).await;
    let mut fast = Viewer::attach(&world, "fast", attach_wish(false, false, 80, 24)).await;
    // The slow one reads nothing at all until everything was printed.
    world.until_recorded("last").await;
    let total = world.recorded().len() as u64;
    assert!(total > 20_000_000, "{total}");
    slow.until_shown("last").await;
    assert!(!slow.lagged.is_empty(), "it was told");
    let missed: u64 = slow.lagged.iter().map(|(from, to)| to - from).sum();
    assert_eq!(slow.offset, total);
    assert!(missed > total / 2 && missed + slow.output.len() as u64 <= total);
    fast.until_shown("last").await;
    // The record has all of it, and so has whoever replays it.
    let mut reader = Viewer::connect(&world, "reader", viewer::output_wish(0, false)).await;
    reader.welcome().await;
    while reader.step().await {}
    assert_eq!(reader.output.len() as u64, total);
    assert!(reader.output == world.recorded());
    line.kill().await;
    line.exited().await;
}

#[tokio::test]
async fn a_follower_gets_every_byte_in_order_to_the_end() {
    let mut world = World::shell("i=0; while [ $i -lt 20000 ]; do echo line $i; i=$((i+1)); done");
    world.start();
    let mut line = world.take_in().await;
    let mut follower = Viewer::connect(&world, "follower", viewer::output_wish(0, true)).await;
    follower.welcome().await;
    line.go().await;
    let mut reports = tokio::task::JoinSet::new();
    reports.spawn(async move { line.exited().await });
    while follower.step().await {}
    assert_eq!(follower.ended.as_deref(), Some("exit 0"));
    let expected: String = (0..20000).map(|n| format!("line {n}\r\n")).collect();
    assert!(
        follower.output == expected.as_bytes(),
        "{} bytes of {}",
        follower.output.len(),
        expected.len()
    );
    assert_eq!(reports.join_next().await.unwrap().unwrap(), Cause::Exit(0));
}

#[tokio::test]
async fn what_is_sent_is_pasted_and_entered() {
    // In raw mode each read shows what arrived together.
    let script = "stty raw -echo; printf '\\033[?2004h ready '; for n in 1 2 3; do \
                  dd bs=100 count=1 2>/dev/null | od -An -c | tr -d ' \\n'; echo \" read$n\"; done";
    let mut world = World::shell(script);
    let mut line = world.launch().await;
    world.until_recorded("ready").await;
    send(&world, b"two\nlines\x1b[201~", true, true).await.unwrap();
    world.until_recorded("read2").await;
    send(&world, b"plain", false, false).await.unwrap();
    assert_eq!(line.exited().await, Cause::Exit(0));
    let text: String =
        world.recorded_text().split("ready").nth(1).unwrap().split_whitespace().collect();
    assert_eq!(text, "033[200~two\\nlines033[201~read1\\rread2plainread3");
}

#[tokio::test]
async fn a_program_that_does_not_read_makes_nobody_hang() {
    let mut world = World::shell("stty raw -echo; echo ready; exec sleep 1000");
    let mut line = world.launch().await;
    world.until_recorded("ready").await;
    let refused = send(&world, &vec![b'x'; 200_000], false, false).await.unwrap_err();
    assert!(refused.contains("does not read its input"), "{refused}");
    // The agent goes on as ever.
    line.heartbeat().await;
    let mut viewer = Viewer::attach(&world, "me", attach_wish(false, false, 80, 24)).await;
    viewer.type_in("more").await;
    line.kill().await;
    assert_eq!(line.exited().await, Cause::Signal(9));
}

#[tokio::test]
async fn a_bad_connection_harms_no_other() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    let mut world = World::shell("exec sleep 1000");
    let mut line = world.launch().await;
    let mut viewer = Viewer::attach(&world, "me", attach_wish(false, false, 80, 24)).await;
    for bytes in [&[0xff; 64][..], b"\0\0\0\x05hello", b"\0\0\0\0", b"GET / HTTP/1.1\r\n\r\n"] {
        let mut stream = stratavore_proto::unix::connect(&world.dir.socket()).unwrap();
        stream.write_all(bytes).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut answer = Vec::new();
        let _closed =
            crate::wait::soon("the agent to close it", stream.read_to_end(&mut answer)).await;
    }
    let hello = stratavore_proto::v1::SocketHello {
        version_min: 90,
        version_max: 99,
        who: "future".into(),
        wish: Some(attach_wish(false, false, 80, 24)),
    };
    let mut future = Viewer::connect(&world, "x", attach_wish(true, false, 1, 1)).await;
    future.welcome().await;
    let stream = stratavore_proto::unix::connect(&world.dir.socket()).unwrap();
    future.frames = tokio_util::codec::Framed::new(stream, Default::default());
    future.say(to_agent_socket::Kind::Hello(hello)).await;
    assert!(
        matches!(future.next().await, Some(Kind::Refused(refused)) if refused.why.contains("version"))
    );
    viewer.say(to_agent_socket::Kind::Pong(Pong {})).await;
    line.heartbeat().await;
    line.kill().await;
    viewer.until("the end", |viewer| viewer.ended.is_some()).await;
    line.exited().await;
}

#[tokio::test]
async fn too_many_connections_are_refused_and_the_others_stay() {
    let mut world = World::shell("exec sleep 1000");
    let mut line = world.launch().await;
    let mut viewers = Vec::new();
    for n in 0..64 {
        viewers.push(
            Viewer::attach(&world, &format!("viewer {n}"), attach_wish(true, false, 80, 24)).await,
        );
    }
    let mut late = Viewer::connect(&world, "late", attach_wish(true, false, 80, 24)).await;
    assert!(
        matches!(late.next().await, Some(Kind::Refused(refused)) if refused.why.contains("64"))
    );
    // Heartbeats of the time when they came are read first.
    line.heartbeat_with("64 viewers", |beat| beat.viewers == 64).await;
    let first = viewers.swap_remove(0);
    drop(first);
    line.heartbeat_with("63 viewers", |beat| beat.viewers == 63).await;
    let mut next = Viewer::connect(&world, "next", attach_wish(true, false, 80, 24)).await;
    next.welcome().await;
    line.kill().await;
    line.exited().await;
}
