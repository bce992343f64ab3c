//! What agents say, and what they are answered.

use std::time::Duration;

use stratavore_core::RunnerId;
use stratavore_core::caller::Caller;
use stratavore_core::liveness::Liveness;
use stratavore_core::runner::{AgentIdentity, Exit, Input, ProcessIdentity, Runner, RunnerState};
use stratavore_runtime::failpoint;
use stratavore_store::StoreError;
use tokio::sync::mpsc;

use crate::control::Control;
use crate::error::Error;
use crate::launch::sha256;
use crate::links::AgentCommand;

/// The first words of an agent.
#[derive(Clone)]
pub struct AgentGreeting {
    pub runner: RunnerId,
    pub epoch: i64,
    pub identity: AgentIdentity,
    /// The key that it made; it proves later that it is the same agent.
    pub key: Vec<u8>,
    /// Empty once the agent is bound.
    pub join_token: Vec<u8>,
    /// Of its program.
    pub version: String,
    pub started: bool,
    /// The pid that the kernel names as the peer.
    pub peer_pid: Option<u32>,
}

/// A greeting that was accepted.
pub struct Welcome {
    /// Pass it back with [`Control::agent_left`].
    pub connection: u64,
    pub commands: mpsc::Receiver<AgentCommand>,
}

/// A greeting that was refused.
#[derive(Debug)]
pub struct WelcomeError {
    pub why: String,
    /// The epoch is known to be over: nothing of it may run.
    pub is_final: bool,
}

/// Something an agent reports that must not be lost.
#[derive(Debug, Clone)]
pub enum Note {
    Started(ProcessIdentity),
    Exited(Exit),
    LimitsNotEnforced(String),
    OutputGap { from: u64, to: u64, why: String },
}

impl Control {
    /// Lets an agent in: a new one by its join token, one that comes back by its key.
    ///
    /// When this answers, the agent stands in the store and its commands are queued: *go* for one
    /// that has not started, the wish to stop for one that is to stop.
    pub async fn agent_greeted(&self, greeting: AgentGreeting) -> Result<Welcome, WelcomeError> {
        let for_now = |why: &str| WelcomeError { why: why.into(), is_final: false };
        let for_good = |why: &str| WelcomeError { why: why.into(), is_final: true };
        let runner = match self.inner.store.runner_get(greeting.runner).await {
            Ok(runner) => runner,
            // The database may be restored; only a person knows. See QUARANTINE.
            Err(StoreError::NotFound { .. }) => {
                return Err(for_now("the store does not know this runner"));
            }
            Err(error) => {
                self.not_done(greeting.runner, "could not look an agent up", &error.into());
                return Err(for_now("the store is not available"));
            }
        };
        if runner.epoch > greeting.epoch || runner.is_terminal() {
            return Err(for_good("this run of it is over"));
        }
        if runner.epoch < greeting.epoch {
            return Err(for_now("the store does not know this run of it yet"));
        }
        if greeting.peer_pid.is_some_and(|pid| pid != greeting.identity.pid)
            || !self.inner.runtime.is_same_process(&greeting.identity)
        {
            tracing::warn!(runner = %runner.id, claimed = greeting.identity.pid, peer = ?greeting.peer_pid,
                "a program that is not the agent it claims to be was refused");
            self.agent_refused(&greeting, "the identity is not that of the process").await;
            return Err(for_now("the identity is not that of the process"));
        }
        let key = sha256(&greeting.key);
        let runner = match runner.state.agent() {
            None => self.bind(&runner, &greeting, key).await?,
            Some(bound) => {
                if *bound != greeting.identity || runner.agent_key.as_ref() != Some(&key) {
                    tracing::warn!(runner = %runner.id, "an agent without the runner's key was refused");
                    self.agent_refused(&greeting, "it does not have the runner's key").await;
                    return Err(for_now("the runner is bound to another agent"));
                }
                runner
            }
        };
        let (connection, commands) = self.inner.links.connect(runner.id, greeting.epoch);
        // What was written before the connection stood could not be told; what comes later can.
        let instructed = match self.inner.store.runner_get(runner.id).await {
            Ok(now) if now.epoch == greeting.epoch && !now.is_terminal() => {
                self.instruct(&now, greeting.started).await
            }
            Ok(_) => Err(for_good("this run of it is over")),
            Err(_) => Err(for_now("the store is not available")),
        };
        match instructed {
            Ok(()) => {
                // Whoever waits for an upgrade hears that it has come back, and looks as what.
                self.inner.links.end_upgrade(runner.id, Ok(greeting.version));
                if greeting.started {
                    self.hand_over_answers(runner.id).await;
                    if let Err(error) = self.say_unsaid(&runner).await {
                        self.not_done(runner.id, "could not type its first prompt", &error);
                    }
                }
                Ok(Welcome { connection, commands })
            }
            Err(refusal) => {
                self.agent_left(runner.id, connection);
                Err(refusal)
            }
        }
    }

    /// Whoever it was: it named a runner, and nothing that it said is proved.
    async fn agent_refused(&self, greeting: &AgentGreeting, why: &str) {
        let mut caller = Caller::agent(greeting.runner);
        (caller.origin.auth, caller.origin.pid) = (None, greeting.peer_pid);
        let error = Error::Forbidden { message: why.into() };
        self.refused(&caller, "agents.greet", &greeting.runner.to_string(), &error).await;
    }

    async fn bind(
        &self,
        runner: &Runner,
        greeting: &AgentGreeting,
        key: String,
    ) -> Result<Runner, WelcomeError> {
        let refuse = |why: &str| WelcomeError { why: why.into(), is_final: false };
        let (runtime, id, epoch) = (self.inner.runtime.clone(), runner.id, runner.epoch);
        let _turn = self.inner.links.turn(id).await;
        let seen = runner.clone();
        let found = tokio::task::spawn_blocking(move || runtime.find(id, Some(&seen)));
        let token = match found.await {
            Ok(Ok(discovery)) => discovery.join_token,
            Ok(Err(_)) | Err(_) => None,
        };
        if token != Some((epoch, sha256(&greeting.join_token))) {
            tracing::warn!(runner = %id, "an agent without the join token was refused");
            self.agent_refused(greeting, "it does not have the join token").await;
            // Another start has taken its place. It runs nothing yet, so it may go.
            let why = "the join token is not the one that was handed out".into();
            return Err(WelcomeError { why, is_final: true });
        }
        failpoint("L9");
        let input = Input::AgentRegistered { epoch, agent: greeting.identity.clone(), key };
        let bound = self.apply_to(runner, input, &Caller::agent(id)).await.map_err(|error| {
            self.not_done(id, "could not bind an agent", &error);
            refuse("the agent could not be recorded")
        })?;
        match bound.state.agent() {
            Some(agent) if *agent == greeting.identity => Ok(bound),
            Some(_) => Err(refuse("another agent was faster")),
            // It was stopped in between.
            None => Err(WelcomeError { why: "this run of it is over".into(), is_final: true }),
        }
    }

    /// Tells an agent that has just connected what is wanted of it.
    async fn instruct(&self, runner: &Runner, started: bool) -> Result<(), WelcomeError> {
        let id = runner.id;
        match &runner.state {
            RunnerState::Starting { .. } if !started => {
                failpoint("L10");
                self.inner.links.tell(id, AgentCommand::Go);
            }
            RunnerState::Unresponsive { .. } => {
                let input = Input::Heard { epoch: runner.epoch };
                match self.apply(id, input, &Caller::agent(id), None).await {
                    Ok(runner) => self.converge(&runner),
                    Err(error) => {
                        self.not_done(id, "could not record that an agent is back", &error);
                        let why = "the store is not available".into();
                        return Err(WelcomeError { why, is_final: false });
                    }
                }
            }
            // Also what is no longer wished, such as a pause, may have changed meanwhile.
            RunnerState::Running { .. } | RunnerState::Stopping { .. } => self.converge(runner),
            RunnerState::Pending { .. }
            | RunnerState::Starting { .. }
            | RunnerState::Exited { .. }
            | RunnerState::Failed { .. }
            | RunnerState::Lost { .. } => {}
        }
        Ok(())
    }

    /// Takes a report in. When this answers the report is durable and may be acknowledged.
    ///
    /// Reports come again after a lost acknowledgement; a repeated one changes nothing.
    pub async fn agent_noted(
        &self,
        runner: RunnerId,
        epoch: i64,
        seq: u64,
        note: Note,
    ) -> Result<(), Error> {
        use stratavore_core::runner::Note as Noted;
        failpoint("L12");
        let has_started = matches!(note, Note::Started(_));
        let input = match note {
            Note::Started(process) => Input::Started { epoch, process },
            Note::Exited(exit) => Input::Exited { epoch, exit },
            Note::LimitsNotEnforced(why) => {
                Input::Noted { epoch, seq, note: Noted::LimitsNotEnforced(why) }
            }
            Note::OutputGap { from, to, why } => {
                Input::Noted { epoch, seq, note: Noted::OutputGap { from, to, why } }
            }
        };
        self.apply(runner, input, &Caller::agent(runner), None).await?;
        if has_started {
            // Not every assistant tells its agent that its transcript has begun.
            self.signals_grown(runner);
        }
        Ok(())
    }

    /// The agent could not replace itself, and goes on as it was.
    pub fn agent_not_upgraded(&self, runner: RunnerId, why: String) {
        self.inner.links.end_upgrade(runner, Err(why));
    }

    /// How many agents are connected to this daemon.
    pub fn agents_connected(&self) -> usize {
        self.inner.links.count()
    }

    /// Keeps the latest heartbeat; it reaches the store in a batch.
    pub fn agent_beat(&self, liveness: Liveness) {
        self.keep_liveness(liveness);
    }

    /// The connection ended. Looks at once why.
    pub fn agent_left(&self, runner: RunnerId, connection: u64) {
        self.agent_fell_silent(runner, connection, Duration::ZERO);
    }

    /// The connection is given up, since nothing has come over it for a time. Looks at once why:
    /// an agent that was stopped, or hangs, keeps its connection open and its lock held.
    pub fn agent_fell_silent(&self, runner: RunnerId, connection: u64, silent_for: Duration) {
        self.inner.links.disconnect(runner, connection);
        // What it wrote down last, it could not tell.
        self.signals_grown(runner);
        // Not only if it was the latest one: a full queue may have cut it off before.
        if !self.inner.links.is_connected(runner) {
            self.watch_silent(runner, silent_for);
        }
    }
}
