//! Starting the agent of an admitted runner, until it is known or cannot be.
//!
//! Invariant: an agent that ended before it was known has run nothing, so another one may follow.

use std::time::Duration;

use stratavore_core::caller::Caller;
use stratavore_core::observation::{Observation, SessionSeen};
use stratavore_core::runner::{Input, Runner};
use stratavore_core::usage::Tokens;
use stratavore_runtime::{Agent, Start, StartError, failpoint};
use stratavore_store::Observed;

use crate::command::CommandOfStart;
use crate::control::Control;
use crate::error::Error;
use crate::launch::{hex, sha256};
use crate::supervisor::chain;

/// How often it is looked whether a started agent has connected.
const AGENT_LOOK: Duration = Duration::from_millis(10);

/// How often an agent is started anew when that failed, or it ended before it connected, and the
/// first wait; each one is four times as long as the one before.
const START_TRIES: u32 = 4;
const START_AGAIN: Duration = Duration::from_millis(100);

/// Why an agent was not started.
struct Failed {
    text: String,
    /// Another try may succeed.
    passing: bool,
}

impl Control {
    /// Starts the runner's agent when it is time to, in a task of its own.
    pub(crate) fn start_when_due(&self, runner: &Runner) {
        let id = runner.id;
        let wait = runner.due_in(self.now());
        let Some(number) = self.inner.links.begin_launch(id, !wait.is_zero()) else { return };
        let (control, runner) = (self.clone(), runner.clone());
        self.inner.supervisor.spawn(async move {
            let stopping = control.inner.supervisor.stopping();
            let start = async {
                if !wait.is_zero() {
                    tokio::time::sleep(wait).await;
                }
                let is_due = control.inner.links.is_due(id, number);
                if is_due {
                    control.start_now(&runner).await;
                }
                is_due
            };
            let is_due = tokio::select! {
                biased;
                () = stopping.cancelled() => false,
                is_due = start => is_due,
            };
            control.inner.links.end_launch(id, number);
            if is_due && !control.inner.links.is_connected(id) {
                control.watch(id);
            }
        });
    }

    /// Starts the agent; again and again for a while, if it does not come to be known.
    async fn start_now(&self, runner: &Runner) {
        let stopping = self.inner.supervisor.stopping();
        let until = self.inner.clock.monotonic() + self.inner.settings.launch_timeout;
        for tried in 0.. {
            let Some(why) = self.start_once(runner).await else { return };
            let wait = START_AGAIN * 4u32.pow(tried);
            let too_late = self.inner.clock.monotonic() + wait > until;
            if tried == START_TRIES || too_late || !why.passing {
                return self.start_failed(runner, tried + 1, why.text).await;
            }
            tracing::warn!(runner = %runner.id, why = why.text, "could not start an agent; will try again");
            tokio::select! {
                biased;
                () = stopping.cancelled() => return,
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    /// Starts the agent and waits until it is known. `Some`: it will not be.
    async fn start_once(&self, runner: &Runner) -> Option<Failed> {
        let turn = self.inner.links.turn(runner.id).await;
        // The watch that follows comes back to it.
        if !self.has_host() {
            return None;
        }
        // It may have been stopped, or started, while it waited.
        match self.inner.store.runner_get(runner.id).await {
            Ok(now) if now.generation == runner.generation => {}
            Ok(_) => return None,
            Err(error) => {
                self.not_done(
                    runner.id,
                    "could not look before starting; will look again",
                    &error.into(),
                );
                return None;
            }
        }
        if let Err(error) = self.check_variables(&runner.command) {
            return Some(Failed { text: error.to_string(), passing: false });
        }
        let result = {
            // Nobody closes it.
            let _place = self.inner.starting.acquire().await.ok();
            self.start_agent(runner).await
        };
        drop(turn);
        failpoint("L8");
        match result {
            Ok(agent) => {
                let text = self.agent_shows(runner, agent).await?;
                Some(Failed {
                    text: format!("the agent ended before it was known: {text}"),
                    passing: true,
                })
            }
            // Whoever holds the lock is asked who it is by the watch that follows.
            Err(StartError::Locked) => None,
            Err(error) => Some(Failed { text: error.to_string(), passing: error.is_passing() }),
        }
    }

    async fn start_failed(&self, runner: &Runner, tries: u32, why: String) {
        let why = if tries > 1 { format!("{why} (tried {tries} times)") } else { why };
        tracing::error!(runner = %runner.id, why, "could not start an agent");
        let input = Input::SpawnFailed { epoch: runner.epoch, why };
        if let Err(error) = self.apply(runner.id, input, &Caller::daemon(), None).await {
            tracing::error!(runner = %runner.id, %error, "could not record the failed start");
        }
    }

    async fn start_agent(&self, runner: &Runner) -> Result<Agent, StartError> {
        let command = self
            .command_of_start(runner)
            .await
            .map_err(|error| StartError::Command(chain(&error)))?;
        let project = self.project_name(runner.project).await;
        let token = [self.entropy(), self.entropy()].concat();
        let digest = sha256(&token);
        let token = hex(&token);
        failpoint("L6");
        let CommandOfStart { session, unsaid, argv, env, observe, files } = command;
        let kept = async {
            if let Some(session) = session {
                self.name_session(runner, session).await?;
            }
            match unsaid {
                Some(text) => self.keep_unsaid(runner, &text).await,
                None => Ok(()),
            }
        };
        kept.await.map_err(|error| StartError::Command(chain(&error)))?;
        let start = Start {
            project,
            env,
            join_token: token,
            join_token_sha256: digest,
            argv,
            observe,
            files,
        };
        self.inner.runtime.start(runner, start).await
    }

    /// Takes down what the assistant is about to call the conversation.
    async fn name_session(&self, runner: &Runner, session: String) -> Result<(), Error> {
        let (price, now) = (|_: &str, _: &Tokens, _| None, self.now());
        let named = SessionSeen {
            session,
            directory: Some(runner.command.directory.clone()),
            at: Some(now),
            is_current: true,
            ..SessionSeen::default()
        };
        let batch = Observed {
            assistant: &runner.command.assistant,
            node: self.inner.node.id,
            project: Some(runner.project),
            runner: Some(runner.id),
            epoch: Some(runner.epoch),
            follow: None,
            observations: &[Observation::Session(named)],
            price: &price,
            now,
        };
        self.inner.store.observed(&batch, self.by(&Caller::daemon(), None)).await?;
        Ok(())
    }

    /// Waits until the agent has connected, has ended, or has had the time that one may take.
    /// Until then nobody else starts one. `Some`: it ended, and how.
    async fn agent_shows(&self, runner: &Runner, mut agent: Agent) -> Option<String> {
        let stopping = self.inner.supervisor.stopping();
        let connected = async {
            while !self.inner.links.is_connected_at(runner.id, runner.epoch) {
                tokio::time::sleep(AGENT_LOOK).await;
            }
        };
        tokio::select! {
            biased;
            () = stopping.cancelled() => None,
            () = connected => None,
            ended = agent.failed() => ended,
            () = tokio::time::sleep(self.inner.settings.launch_timeout) => None,
        }
    }
}
