//! T-BYTES: what is replayed is what was printed, whatever that was and whatever died meanwhile.

use stratavore_core::runner::Cause;
use stratavore_testkit::trial::{Dice, Trial, scale};

use crate::daemon::{AGENT, Line, World};
use crate::viewer::{Viewer, output_wish, poke, send};

/// How often the program waits to be asked for more.
const PARTS: usize = 4;

/// A stream that no program would print on purpose.
fn stream(dice: &mut Dice) -> Vec<u8> {
    const PIECES: [&[u8]; 12] = [
        "žluťoučký kůň".as_bytes(),
        "漢字".as_bytes(),
        b"\xe6\xbc",
        b"\xf0\x9f",
        b"\0\0\0",
        b"\x1b[31m",
        b"\x1b[",
        b"\x1b]52;c;?",
        b"\x1bP+q544e",
        b"\x1b[?1049h",
        b"\r\n\r\r\n",
        b"\x9b\x9d\x90\xff",
    ];
    let wanted = 1 + dice.below(200_000);
    let mut stream = Vec::with_capacity(wanted + 300);
    while stream.len() < wanted {
        match dice.below(4) {
            0 => {
                let length = dice.below(300);
                stream.extend(dice.bytes(length));
            }
            1 => stream.extend("a line of text\n".repeat(1 + dice.below(40)).bytes()),
            2 | 3 => stream.extend(PIECES[dice.below(PIECES.len())]),
            _ => unreachable!("four sides"),
        }
    }
    stream
}

/// Something dies, or is replaced, while the runner prints.
async fn mishap(world: &mut World, line: Line, dice: &mut Dice) -> (Line, &'static str) {
    match dice.below(4) {
        0 => (line, "nothing"),
        1 => {
            drop(line);
            (world.take_in_knowing(1).await.0, "the line")
        }
        2 => {
            world.daemon_down();
            drop(line);
            world.daemon_up();
            poke(world).await;
            (world.take_in_knowing(1).await.0, "the daemon")
        }
        _ => {
            let mut line = line;
            line.upgrade(AGENT).await;
            (world.take_in_knowing(1).await.0, "the agent's program")
        }
    }
}

/// What the agent's socket replays, by a reader that comes back until it has all.
async fn replayed(world: &World, length: usize, dice: &mut Dice) -> Vec<u8> {
    let mut all = Vec::new();
    while all.len() < length {
        let before = all.len();
        let mut viewer = Viewer::connect(world, "reader", output_wish(before as u64, false)).await;
        viewer.offset = before as u64;
        viewer.welcome().await;
        let enough = 1 + dice.below(length);
        while viewer.output.len() < enough && viewer.step_unseen().await {}
        all.append(&mut viewer.output);
        assert!(all.len() > before, "nothing after {before} of {length}");
    }
    all
}

fn same(what: &str, found: &[u8], source: &[u8]) -> Result<(), String> {
    if found == source {
        return Ok(());
    }
    let at = found.iter().zip(source).position(|(a, b)| a != b).unwrap_or(found.len());
    Err(format!("{what}: {} of {} bytes, another from {at} on", found.len(), source.len()))
}

#[tokio::test]
async fn t_bytes_what_is_replayed_is_what_was_printed() {
    let mut trial = Trial::new(
        "T-BYTES",
        "random bytes are recorded and replayed as they were printed, over lost lines, dead daemons and upgrades of the agent",
    );
    let mut dice = trial.dice();
    for round in 0..scale(20, 1000) {
        let source = stream(&mut dice);
        // Raw: an answer of the terminal's may end in a backslash, which would take the next line's
        // end for its own.
        let script = format!(
            "stty raw -echo; echo ready; \
             for n in {}; do read -r x; cat part$n; done; read -r x; exit 0",
            (0..PARTS).map(|n| n.to_string()).collect::<Vec<_>>().join(" ")
        );
        let mut world = World::shell(&script);
        let cuts: Vec<usize> = {
            let mut cuts: Vec<usize> = (1..PARTS).map(|_| dice.below(source.len())).collect();
            cuts.extend([0, source.len()]);
            cuts.sort_unstable();
            cuts
        };
        for (n, cut) in cuts.windows(2).enumerate() {
            let path = std::path::Path::new(&world.spec.command.directory).join(format!("part{n}"));
            std::fs::write(path, &source[cut[0]..cut[1]]).unwrap();
        }
        let mut line = world.launch().await;
        world.until_recorded("ready\n").await;
        let mut met = Vec::new();
        for _ in 0..PARTS {
            send(&world, b"\n", false, false).await.unwrap();
            let (next, what) = mishap(&mut world, line, &mut dice).await;
            line = next;
            met.push(what);
        }
        let length = source.len() + "ready\n".len();
        crate::wait::until("all to be recorded", || match world.recorded().len() {
            n if n >= length => Ok(()),
            n => Err((n, length)),
        })
        .await;
        let replayed = replayed(&world, length, &mut dice).await;
        send(&world, b"\n", false, false).await.unwrap();
        assert_eq!(line.exited().await, Cause::Exit(0));
        let recorded = world.recorded();
        let source = [b"ready\n", &source[..]].concat();
        let held = same("recorded", &recorded, &source).and(same("replayed", &replayed, &source));
        trial.tried(held.map_err(|found| format!("round {round}, {met:?}: {found}")));
        if round == 0 {
            let mut wrong = replayed.clone();
            wrong[length / 2] ^= 1;
            trial.control("one bit is another", same("", &wrong, &source).is_err());
            trial.control(
                "the last byte is missing",
                same("", &replayed[..length - 1], &source).is_err(),
            );
        }
    }
    trial.end();
}
