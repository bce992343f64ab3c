//! Recorded output for somebody who wants all of it, byte by byte, and then what comes.
//!
//! It is read from the files, so how slow the reader is makes no difference to anybody.

use std::rc::Rc;

use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt, StreamExt};
use stratavore_proto::frame::FrameError;
use stratavore_proto::v1::{
    Ended, FromAgentSocket, Lagged, Output, OutputWish, SocketRefused, from_agent_socket::Kind,
};

use crate::output::{Chunk, OutputReader};
use crate::runner::Runner;
use crate::socket::{Connection, done, frame};

/// How much is read at a time.
const CHUNK: usize = 64 * 1024;

/// Serves one reader until it has everything or leaves.
pub(crate) async fn run(
    runner: &Rc<Runner>,
    connection: Connection,
    wish: OutputWish,
) -> Result<(), FrameError> {
    let (to_reader, from_reader) = connection.split();
    tokio::select! {
        sent = send(runner, to_reader, wish) => sent,
        () = until_gone(from_reader) => Ok(()),
    }
}

async fn until_gone(mut frames: SplitStream<Connection>) {
    while let Some(Ok(_)) = frames.next().await {}
}

async fn send(
    runner: &Runner,
    mut to_reader: SplitSink<Connection, FromAgentSocket>,
    OutputWish { mut from, follow }: OutputWish,
) -> Result<(), FrameError> {
    let mut reader = OutputReader::new(runner.dir.output());
    let mut changed = runner.changed.subscribe();
    loop {
        changed.mark_unchanged();
        let exit = runner.exit();
        match reader.read(from, CHUNK) {
            Ok(Chunk::Data { offset, data }) => {
                from = offset + data.len() as u64;
                to_reader.send(frame(Kind::Output(Output { offset, data: data.into() }))).await?;
            }
            Ok(Chunk::Gap { from: gap, to }) => {
                from = to;
                to_reader.send(frame(Kind::Lagged(Lagged { from: gap, to }))).await?;
            }
            Ok(Chunk::End) => {
                if !follow {
                    return to_reader.send(done()).await;
                }
                if let Some(exit) = exit {
                    let end = runner.terminal.borrow().end();
                    if from < end {
                        to_reader.feed(frame(Kind::Lagged(Lagged { from, to: end }))).await?;
                    }
                    to_reader
                        .feed(frame(Kind::Ended(Ended { cause: exit.cause.to_string() })))
                        .await?;
                    return to_reader.send(done()).await;
                }
                if changed.changed().await.is_err() {
                    return Ok(());
                }
            }
            Err(error) => {
                let why = format!("read the recorded output: {error}");
                return to_reader.send(frame(Kind::Refused(SocketRefused { why }))).await;
            }
        }
    }
}
