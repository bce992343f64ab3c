//! What viewers that do not keep up cost the program that they look at: the same output with a crowd of
//! them, and without.

use std::cell::RefCell;
use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use futures_util::{SinkExt, StreamExt};
use stratavore_proto::frame::FrameCodec;
use stratavore_proto::unix;
use stratavore_proto::v1::{
    Attach, FromAgentSocket, SocketHello, ToAgentSocket, from_agent_socket, socket_hello,
    to_agent_socket,
};
use tokio::io::AsyncReadExt;
use tokio::task::JoinSet;
use tokio_util::codec::Framed;

use crate::Lab;
use crate::home::{Home, succeed};
use crate::output::{MEGABYTES, Reports, rate};
use crate::report::{Row, Target};
use crate::sample::in_turns;

/// Half of the viewers.
const HALF: usize = 25;

type Frames = Framed<unix::Stream, FrameCodec<FromAgentSocket, ToAgentSocket>>;

/// Somebody who only looks on, and has seen the first picture.
async fn attach(socket: &Path) -> anyhow::Result<Frames> {
    let mut frames: Frames = Framed::new(unix::connect(socket)?, FrameCodec::default());
    let attach = Attach { read_only: true, steal: false, columns: 80, rows: 24 };
    let wish = Some(socket_hello::Wish::Attach(attach));
    let hello = SocketHello { version_min: 1, version_max: 1, who: "viewer".into(), wish };
    frames.send(ToAgentSocket { kind: Some(to_agent_socket::Kind::Hello(hello)) }).await?;
    loop {
        let frame = frames.next().await.context("the agent hung up")??;
        if let Some(from_agent_socket::Kind::Screen(_)) = frame.kind {
            return Ok(frames);
        }
    }
}

/// Viewers of one runner: so many take a byte a second, and so many all that they get. They are gone when
/// this is dropped.
async fn viewers(socket: &Path, slow: usize, fast: usize) -> anyhow::Result<JoinSet<()>> {
    let mut all = JoinSet::new();
    for _ in 0..slow {
        let mut stream = attach(socket).await?.into_inner();
        all.spawn(async move {
            let mut seconds = tokio::time::interval(Duration::from_secs(1));
            while stream.read_u8().await.is_ok() {
                seconds.tick().await;
            }
        });
    }
    for _ in 0..fast {
        let mut stream = attach(socket).await?.into_inner();
        all.spawn(async move {
            let mut taken = vec![0; 64 << 10];
            while stream.read(&mut taken).await.is_ok_and(|n| n > 0) {}
        });
    }
    Ok(all)
}

pub(crate) fn crowd(lab: &Lab) -> anyhow::Result<Vec<Row>> {
    let home = Home::new(lab)?;
    let client = home.client()?;
    let reports = RefCell::new(Reports::new()?);
    // Milliseconds until the program was rid of its output.
    let printed = |slow, fast| {
        let (report, argv) = reports.borrow_mut().next()?;
        let argv: Vec<&str> = argv.iter().map(String::as_str).collect();
        let runner = home.run(&client, &argv)?;
        let socket = home.path().join(format!("state/runners/{}/agent.sock", runner.id));
        let viewers = lab.runtime.block_on(viewers(&socket, slow, fast))?;
        succeed(&mut home.cli(["send", &runner.id, "go"]))?;
        let rate = rate(&report)?;
        drop(viewers);
        home.kill(&runner.id)?;
        Ok(MEGABYTES as f64 / rate * 1000.0)
    };
    let [alone, slow, crowd] = in_turns(
        lab.rounds,
        [&mut || printed(0, 0), &mut || printed(HALF, 0), &mut || printed(HALF, HALF)],
    )?;
    let row = |what: &str, samples| {
        Row::new(format!("{MEGABYTES} MB printed, {what}"), "ms", samples)
            .against("the same without viewers", &alone)
    };
    Ok(vec![
        row("with 50 viewers of which half read 1 B/s", &crowd).target(Target::AtMost(1.05)),
        row("with 25 viewers that read 1 B/s", &slow).target(Target::AtMost(1.05)),
    ])
}
