//! Between the terminal and the agent: output is read at full speed, input is written as it fits.

use std::io;
use std::time::Duration;

use crate::pty::{Master, Read};
use crate::runner::Runner;

/// How much is read before it is recorded and shown.
const BATCH: usize = 64 * 1024;
/// How long recording is left alone after it failed, with strict recording.
const RETRY: Duration = Duration::from_millis(250);
/// How much a terminal can hold for its program's end: more comes from a process that still runs.
const REST_MAX: usize = 16 * BATCH;

/// Reads all that the program prints. Ends only if the terminal fails.
pub(crate) async fn output(runner: &Runner, master: &Master) -> io::Result<()> {
    let mut buffer = vec![0; BATCH];
    loop {
        match master.read(&mut buffer).await? {
            Read::Bytes(n) => {
                let mut stuck = runner.take_output(&buffer[..n]);
                while stuck {
                    tokio::time::sleep(RETRY).await;
                    stuck = runner.retry_output();
                }
                // However much it prints, viewers and the daemon have their turn.
                if n == BATCH {
                    tokio::task::yield_now().await;
                }
            }
            Read::Empty => {}
            Read::Closed => return Ok(()),
        }
    }
}

/// Reads what is in the terminal now and returns without waiting for more.
pub(crate) fn rest(runner: &Runner, master: &Master) -> io::Result<()> {
    let mut buffer = vec![0; BATCH];
    let mut total = 0;
    while total < REST_MAX {
        match master.read_now(&mut buffer)? {
            Read::Bytes(n) => {
                total += n;
                if runner.take_output(&buffer[..n]) {
                    return Ok(());
                }
            }
            Read::Empty | Read::Closed => return Ok(()),
        }
    }
    Ok(())
}

/// Writes what is typed. Ends when the terminal can no longer be written to.
pub(crate) async fn input(runner: &Runner, master: &Master) -> io::Result<()> {
    loop {
        let bytes = runner.input.next().await;
        let written = master.write(&bytes).await?;
        runner.input.wrote(written);
    }
}
