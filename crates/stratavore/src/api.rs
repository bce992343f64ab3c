//! Requests to the daemon: started if none runs, asked again if the connection is lost.
//!
//! Invariant: a mutation that is asked again carries the same key, so it happens once.

use std::error::Error;
use std::time::Duration;

use stratavore_proto::client::Client;
use tonic::{Response, Status};

use crate::clock::dice;
use crate::context::Context;
use crate::daemon_start;
use crate::exit::{Exit, Failure};

/// How long an answer may take, unless the request itself says how long it waits.
const ANSWER: Duration = Duration::from_secs(60);
/// How often a request is sent whose connection is lost. The waits between add up to about 8 s,
/// which is longer than a daemon takes to start again.
const ATTEMPTS: u32 = 10;
const FIRST_WAIT: Duration = Duration::from_millis(50);
const LONGEST_WAIT: Duration = Duration::from_millis(1500);

/// A connection to the daemon.
pub(crate) struct Api<'c> {
    context: &'c Context,
    client: Client,
    /// Whether a daemon that goes away is asked again, and started if none comes.
    insists: bool,
}

impl<'c> Api<'c> {
    /// Connects to the daemon, and starts one if there is none and that is allowed.
    pub(crate) async fn connect(context: &'c Context) -> Result<Self, Failure> {
        Ok(Self { context, client: daemon_start::connect(context).await?, insists: true })
    }

    /// Connects to the daemon if one runs. If that goes away, requests fail: asking again would start
    /// another one.
    pub(crate) async fn connect_if_running(context: &'c Context) -> Result<Option<Self>, Failure> {
        let client = daemon_start::connect_if_running(context).await?;
        Ok(client.map(|client| Self { context, client, insists: false }))
    }

    /// The same connection, that starts no other daemon if its own goes away.
    pub(crate) fn only_while_it_runs(self) -> Self {
        Self { insists: false, ..self }
    }

    pub(crate) fn client(&self) -> Client {
        self.client.clone()
    }

    /// Sends a request and answers its reply. A lost connection is made anew and the request sent
    /// again, so a mutation has to carry a key.
    pub(crate) async fn call<T>(
        &mut self,
        request: impl AsyncFn(Client) -> Result<Response<T>, Status>,
    ) -> Result<T, Failure> {
        self.call_within(ANSWER, request).await
    }

    /// The same, for a request that may take `patience` to be answered.
    pub(crate) async fn call_within<T>(
        &mut self,
        patience: Duration,
        request: impl AsyncFn(Client) -> Result<Response<T>, Status>,
    ) -> Result<T, Failure> {
        let mut attempt = 1;
        loop {
            let answer = tokio::time::timeout(patience, request(self.client.clone())).await;
            let Ok(answer) = answer else {
                return Err(silent(patience));
            };
            match answer {
                Ok(response) => return Ok(response.into_inner()),
                Err(status) if self.insists && attempt < ATTEMPTS && is_lost(&status) => {
                    self.reconnect(&mut attempt).await?;
                }
                Err(status) => return Err(failure(&status)),
            }
        }
    }

    /// Waits for a daemon to answer again, however long that takes, and starts none: whoever stopped
    /// it has a reason.
    pub(crate) async fn wait_for_daemon(&mut self) -> Result<(), Failure> {
        let mut attempt = 1;
        loop {
            tokio::time::sleep(backoff(attempt, dice())).await;
            attempt = (attempt + 1).min(ATTEMPTS);
            if let Some(client) = daemon_start::connect_if_running(self.context).await? {
                self.client = client;
                return Ok(());
            }
        }
    }

    /// Connects anew after a loss. Fails only once all attempts are used up.
    pub(crate) async fn reconnect(&mut self, attempt: &mut u32) -> Result<(), Failure> {
        loop {
            tokio::time::sleep(backoff(*attempt, dice())).await;
            *attempt += 1;
            match daemon_start::connect(self.context).await {
                Ok(client) => {
                    self.client = client;
                    return Ok(());
                }
                Err(failure) if *attempt >= ATTEMPTS || failure.exit != Exit::Unavailable => {
                    return Err(failure);
                }
                Err(_) => {}
            }
        }
    }
}

/// What a status that was not worth another attempt means.
pub(crate) fn failure(status: &Status) -> Failure {
    if is_lost(status) && status.details().is_empty() {
        let cause = status.source().map_or_else(|| status.message().to_owned(), crate::exit::chain);
        return Failure::new(
            Exit::Unavailable,
            "unavailable",
            format!("lost the connection to the daemon: {cause}"),
        )
        .next("stratavore daemon status; stratavore doctor");
    }
    Failure::from_status(status)
}

/// True if the connection is to blame, or the daemon is going down: it may not have seen the
/// request, or its answer is lost.
pub(crate) fn is_lost(status: &Status) -> bool {
    // A refusal of the daemon's has a problem in its details, and no cause on our side.
    if !status.details().is_empty() {
        return stratavore_proto::client::problem(status).code == "unavailable";
    }
    // What a connection is cut off with depends on how far it had come.
    use tonic::Code::{Cancelled, Internal, Unavailable, Unknown};
    status.source().is_some()
        || matches!(status.code(), Unavailable | Cancelled | Unknown | Internal)
}

fn silent(patience: Duration) -> Failure {
    let seconds = patience.as_secs();
    Failure::new(Exit::Timeout, "timeout", format!("the daemon did not answer within {seconds} s"))
        .next("stratavore doctor")
}

/// The wait before attempt `attempt + 1`, spread by `dice` over its upper half.
fn backoff(attempt: u32, dice: f64) -> Duration {
    let whole = FIRST_WAIT.saturating_mul(1 << attempt.saturating_sub(1).min(16)).min(LONGEST_WAIT);
    whole.mul_f64(0.5 + dice / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_and_are_bounded() {
        let total: Duration = (1..ATTEMPTS).map(|n| backoff(n, 1.0)).sum();
        assert!(total > Duration::from_secs(5) && total < Duration::from_secs(15), "{total:?}");
        for attempt in 1..100 {
            let (short, long) = (backoff(attempt, 0.0), backoff(attempt, 1.0));
            assert!(
                short * 2 <= long + Duration::from_millis(1) && long <= LONGEST_WAIT,
                "{short:?} {long:?}"
            );
        }
    }

    #[test]
    fn only_a_lost_connection_is_tried_again() {
        let problem = |code: &str| {
            let problem = stratavore_proto::v1::Problem { code: code.into(), ..Default::default() };
            Status::with_details(
                tonic::Code::Unavailable,
                "",
                prost::Message::encode_to_vec(&problem).into(),
            )
        };
        assert!(!is_lost(&problem("store_unavailable")), "the daemon answered");
        assert!(is_lost(&problem("unavailable")), "the daemon is going down");
        assert!(!is_lost(&Status::not_found("no such thing")));
        let lost =
            Status::from_error(Box::new(std::io::Error::from(std::io::ErrorKind::ConnectionReset)));
        assert!(is_lost(&lost));
        assert_eq!(failure(&lost).exit, Exit::Unavailable);
    }
}
