//! What the agent takes down of the assistant that it runs: calls of its hook, its telemetry, its
//! terminal's title, and that something was typed.
//!
//! It understands none of it. The daemon is told how far the log of signals goes, and reads it.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use stratavore_core::signal::{Signal, What};
use stratavore_proto::frame::FrameError;
use stratavore_proto::runner_dir::OTLP;
use stratavore_proto::v1::{FromAgentSocket, Hook, HookAnswer, from_agent_socket};
use tokio::net::TcpListener;
use tokio::sync::{Notify, oneshot};

use crate::runner::Runner;
use crate::signal_log::SignalLog;
use crate::socket::{Connection, done, frame, refuse};
use crate::telemetry;

/// The time between two titles that are taken down: spinners change them all the time.
const TITLE_EVERY: Duration = Duration::from_millis(400);
/// How many hooks may wait for an answer.
const CALLS_MAX: usize = 32;

/// What an agent keeps for observing.
#[derive(Default)]
pub(crate) struct Observing {
    log: RefCell<Option<SignalLog>>,
    /// The hooks that wait for an answer.
    calls: RefCell<BTreeMap<String, oneshot::Sender<String>>>,
    /// The title that was taken down last.
    title: RefCell<String>,
    titled: Notify,
    /// Where the assistant's telemetry comes to.
    telemetry: Option<TcpListener>,
}

impl Observing {
    pub(crate) fn new(log: SignalLog, telemetry: Option<TcpListener>) -> Self {
        Self { log: Some(log).into(), telemetry, ..Self::default() }
    }

    pub(crate) fn listener(&self) -> Option<&TcpListener> {
        self.telemetry.as_ref()
    }

    /// How far the log goes.
    pub(crate) fn end(&self) -> u64 {
        self.log.borrow().as_ref().map_or(0, SignalLog::end)
    }
}

impl Runner {
    /// Takes a signal down, and has the daemon told.
    pub(crate) fn note_signal(&self, what: What) {
        let signal = Signal { at: self.now(), epoch: self.spec.epoch, what };
        if let Some(log) = &mut *self.observing.log.borrow_mut()
            && let Err(error) = log.append(&signal)
        {
            crate::log::note(format_args!("write a signal down: {error}"));
        }
        self.told.send_replace(());
    }

    /// Looks whether the terminal's title is another one, if it tells something of this assistant.
    pub(crate) fn look_at_title(&self) {
        if self.spec.observe.as_ref().is_some_and(|observe| observe.title)
            && self.new_title().is_some()
        {
            self.observing.titled.notify_one();
        }
    }

    fn new_title(&self) -> Option<String> {
        let mut terminal = self.terminal.borrow_mut();
        let title = terminal.screen().title();
        let taken = self.observing.title.borrow();
        let same = title.chars().map(without_spinner).eq(taken.chars());
        (!same).then(|| title.chars().map(without_spinner).collect())
    }

    /// Something was typed on behalf of somebody who is not attached.
    pub(crate) fn note_sent(&self, bytes: usize) {
        if self.spec.observe.is_some() {
            self.note_signal(What::Sent { bytes: bytes as u64 });
        }
    }
}

/// Takes down what nobody calls for: titles, and telemetry. Never ends.
pub(crate) async fn run(runner: Rc<Runner>) {
    let titles = async {
        loop {
            runner.observing.titled.notified().await;
            if let Some(title) = runner.new_title() {
                runner.observing.title.borrow_mut().clone_from(&title);
                runner.note_signal(What::Title { title });
            }
            tokio::time::sleep(TITLE_EVERY).await;
        }
    };
    let telemetry = async {
        match runner.observing.listener() {
            Some(listener) => telemetry::serve(Rc::clone(&runner), listener).await,
            None => std::future::pending().await,
        }
    };
    tokio::join!(titles, telemetry);
}

/// The command, and the variables that the assistant has besides.
pub(crate) struct Filled {
    pub argv: Vec<String>,
    pub env: BTreeMap<String, String>,
}

/// Both with the address of the receiver in its place.
pub(crate) fn filled(runner: &Runner) -> Filled {
    let mut argv = runner.spec.command.argv.clone();
    let Some(observe) = &runner.spec.observe else { return Filled { argv, env: BTreeMap::new() } };
    let address = runner.observing.listener().and_then(|listener| listener.local_addr().ok());
    let address = address.map_or_else(String::new, |address| format!("http://{address}"));
    for place in &observe.words {
        if let Some(word) = argv.get_mut(*place) {
            *word = word.replace(OTLP, &address);
        }
    }
    let fill = |(key, value): (&String, &String)| (key.clone(), value.replace(OTLP, &address));
    Filled { argv, env: observe.env.iter().map(fill).collect() }
}

/// The frames of a spinner are one picture.
fn without_spinner(c: char) -> char {
    if ('\u{2800}'..='\u{28ff}').contains(&c) { '⠿' } else { c }
}

/// Takes a call of the hook down and, if it waits, stays until it is answered or gone.
pub(crate) async fn hooked(
    runner: &Runner,
    mut connection: Connection,
    welcome: FromAgentSocket,
    Hook { call, body }: Hook,
) -> Result<(), FrameError> {
    let Ok(body) = serde_json::from_str(&body) else {
        return refuse(&mut connection, "what the hook was given is no JSON").await;
    };
    connection.send(welcome).await?;
    if call.is_empty() {
        runner.note_signal(What::Hook { call: None, body });
        return connection.send(done()).await;
    }
    let (sender, answered) = oneshot::channel();
    {
        let mut calls = runner.observing.calls.borrow_mut();
        calls.retain(|_, waiting| !waiting.is_closed());
        if calls.len() < CALLS_MAX {
            calls.insert(call.clone(), sender);
        }
    }
    runner.note_signal(What::Hook { call: Some(call.clone()), body });
    let answer = tokio::select! {
        answer = answered => answer.ok(),
        // Nothing comes from it but its end.
        _ = connection.next() => None,
    };
    runner.observing.calls.borrow_mut().remove(&call);
    let sent = match answer {
        Some(output) => {
            let answer = from_agent_socket::Kind::HookAnswer(HookAnswer { output });
            connection.feed(frame(answer)).await?;
            connection.send(done()).await
        }
        None => Ok(()),
    };
    runner.note_signal(What::HookOver { call });
    sent
}

/// Gives a waiting hook its answer.
pub(crate) fn answer(runner: &Runner, call: &str, output: String) -> Result<(), &'static str> {
    const GONE: &str = "the assistant no longer waits for this answer";
    let waiting = runner.observing.calls.borrow_mut().remove(call).ok_or(GONE)?;
    waiting.send(output).map_err(|_| GONE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spinner_does_not_change_a_title() {
        assert_eq!(without_spinner('⠂'), without_spinner('⠐'));
        assert_ne!(without_spinner('⠂'), without_spinner('✳'));
    }
}
