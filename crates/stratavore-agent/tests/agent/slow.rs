//! T-SLOW: viewers that do not keep up cost no byte of the record, and the agent little memory.

use std::time::{Duration, Instant};

use futures_util::{SinkExt, StreamExt};
use stratavore_agent::output::{Chunk, OutputReader};
use stratavore_proto::frame::FrameCodec;
use stratavore_proto::unix;
use stratavore_proto::v1::{
    FromAgentSocket, SocketHello, ToAgentSocket, from_agent_socket::Kind, to_agent_socket,
};
use stratavore_testkit::trial::{Trial, scale};
use tokio::io::AsyncReadExt;
use tokio::task::JoinSet;
use tokio_util::codec::Framed;

use crate::daemon::World;
use crate::viewer::{Viewer, attach_wish, output_wish, send};

const VIEWERS: usize = 50;
/// The most that an agent may ever have in memory.
const MEMORY_MAX: u64 = 64 << 20;

/// The most that the agent ever had in memory, in bytes.
fn peak(world: &World) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", world.agent_pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

/// Has the runner print once more, and waits until that is recorded.
async fn print(world: &World, end: u64) -> Duration {
    let began = Instant::now();
    send(world, b"", false, true).await.unwrap();
    let last = format!("round {end}\r\n");
    let bound = Instant::now() + Duration::from_secs(600);
    let log = world.dir.output();
    let tail = || {
        let mut reader = OutputReader::new(log.clone());
        let (_, end) = reader.bounds().unwrap();
        match reader.read(end.saturating_sub(last.len() as u64), 1 << 10).unwrap() {
            Chunk::Data { data, .. } => data,
            Chunk::Gap { .. } | Chunk::End => Vec::new(),
        }
    };
    while tail()[..] != *last.as_bytes() {
        assert!(Instant::now() < bound, "round {end} does not end");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    began.elapsed()
}

/// A viewer that takes one byte a second off its connection.
async fn dawdle(world: &World) -> JoinSet<()> {
    let stream = unix::connect(&world.dir.socket()).unwrap();
    let mut frames: Framed<_, FrameCodec<FromAgentSocket, ToAgentSocket>> =
        Framed::new(stream, FrameCodec::default());
    let wish = Some(attach_wish(true, false, 80, 24));
    let hello = SocketHello { version_min: 1, version_max: 1, who: "slow".into(), wish };
    frames.send(ToAgentSocket { kind: Some(to_agent_socket::Kind::Hello(hello)) }).await.unwrap();
    let mut task = JoinSet::new();
    task.spawn(async move {
        let mut stream = frames.into_inner();
        let mut byte = [0];
        let mut seconds = tokio::time::interval(Duration::from_secs(1));
        while stream.read(&mut byte).await.is_ok_and(|n| n == 1) {
            seconds.tick().await;
        }
    });
    task
}

/// A viewer that takes all it gets, and shows nothing.
async fn hurry(world: &World) -> JoinSet<()> {
    let mut viewer = Viewer::attach(world, "fast", attach_wish(true, false, 80, 24)).await;
    let mut task = JoinSet::new();
    task.spawn(async move {
        while let Some(Ok(frame)) = viewer.frames.next().await {
            if matches!(frame.kind, Some(Kind::Ended(_))) {
                return;
            }
        }
    });
    task
}

#[tokio::test]
async fn t_slow_viewers_cost_no_byte_and_little_memory() {
    let mut trial = Trial::new(
        "T-SLOW",
        "with 50 viewers, half of which read a byte a second, the agent stays below 64 MiB and every byte is there",
    );
    let megabytes = scale(10, 200);
    // Lines of 62 bytes, and what the terminal makes of their ends.
    let lines = megabytes * 1_000_000 / 64;
    let script = format!(
        "r=0; while read x; do yes {} | head -n {lines}; r=$((r+1)); echo round $r; done",
        "abcdefghij".repeat(6)
    );
    let mut world = World::shell(&script).with(|spec| {
        spec.output_max_bytes = 1 << 30;
        spec.segment_bytes = 16 << 20;
    });
    let mut line = world.launch().await;
    let (reader, mut reports) = (&world, JoinSet::new());
    // Heartbeats are read, or the line would fill.
    reports.spawn(async move { line.read_on().await });

    let alone = print(reader, 1).await;
    let mut viewers = Vec::new();
    for n in 0..VIEWERS {
        viewers.push(if n % 2 == 0 { dawdle(reader).await } else { hurry(reader).await });
    }
    let watched = print(reader, 2).await;
    let again = {
        viewers.clear();
        print(reader, 3).await
    };

    // One that goes away in the middle and comes back gets the same bytes.
    let recorded = world.recorded();
    let mut resumed = Vec::new();
    while resumed.len() < recorded.len() {
        let mut viewer =
            Viewer::connect(&world, "reader", output_wish(resumed.len() as u64, false)).await;
        viewer.offset = resumed.len() as u64;
        viewer.welcome().await;
        let until = recorded.len() / 5 + 1;
        while viewer.output.len() < until && viewer.step_unseen().await {}
        resumed.append(&mut viewer.output);
    }
    let round = format!("{}\r\n", "abcdefghij".repeat(6)).repeat(lines);
    let mut expected = Vec::new();
    for r in 1..=3 {
        // The empty line is the echo of what started the round.
        expected.extend_from_slice(format!("\r\n{round}round {r}\r\n").as_bytes());
    }
    let same = |stream: &[u8]| match stream == &expected[..] {
        true => Ok(()),
        false => Err(format!("{} bytes are not the {} expected", stream.len(), expected.len())),
    };
    trial.tried(same(&recorded));
    trial.tried(same(&resumed));
    let peak = peak(&world);
    trial.tried(if peak <= MEMORY_MAX { Ok(()) } else { Err(format!("{peak} bytes of memory")) });
    trial.measured("without viewers", alone);
    trial.measured("with viewers", watched);
    trial.measured("without viewers, again", again);
    let base = alone.max(again);
    trial.most("slowdown, percent", (watched.as_millis() * 100 / base.as_millis().max(1)) as u64);
    trial.most("peak of memory, bytes", peak);
    resumed.truncate(resumed.len() - 1);
    trial.control("a byte is missing", same(&resumed).is_err());
    reports.shutdown().await;
    trial.end();
}
