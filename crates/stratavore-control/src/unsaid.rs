//! The first prompt of a runner whose assistant cannot be started with one: it is typed once the assistant
//! is idle for the first time.
//!
//! It is kept among the prompts, under an id that is the runner's, so there is one of it for all of its
//! starts. One that its assistant does not tell to have counts as taken once the agent has typed it.
//!
//! Invariant: it is typed once, whatever dies meanwhile.

use stratavore_core::PromptId;
use stratavore_core::ask::{Prompt, PromptState};
use stratavore_core::runner::{Activity, Runner};
use stratavore_runtime::failpoint;
use stratavore_runtime::socket::SocketError;
use stratavore_store::StoreError;

use crate::control::Control;
use crate::error::Error;
use crate::prompt::id_of;

impl Control {
    /// Keeps it until the assistant is idle.
    pub(crate) async fn keep_unsaid(&self, runner: &Runner, text: &str) -> Result<(), Error> {
        let prompt = Prompt {
            id: unsaid(runner),
            runner: runner.id,
            epoch: runner.epoch,
            text: text.into(),
            by: "launch".into(),
            made_at: self.now(),
            state: PromptState::Queued,
        };
        self.inner.store.prompt_queue(&prompt).await?;
        Ok(())
    }

    /// True if there is one that was not given with the command.
    pub(crate) async fn has_unsaid(&self, runner: &Runner) -> Result<bool, Error> {
        Ok(self.unsaid(runner).await?.is_some())
    }

    async fn unsaid(&self, runner: &Runner) -> Result<Option<Prompt>, Error> {
        if runner.command.prompt.is_none() || runner.command.headless.is_some() {
            return Ok(None);
        }
        match self.inner.store.prompt_get(unsaid(runner)).await {
            Ok(prompt) => Ok(Some(prompt)),
            Err(StoreError::NotFound { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Types it, if it is time to and nobody has.
    pub(crate) async fn say_unsaid(&self, runner: &Runner) -> Result<(), Error> {
        if runner.activity != Activity::Idle || runner.is_terminal() {
            return Ok(());
        }
        let Some(prompt) = self.unsaid(runner).await? else { return Ok(()) };
        let again = match prompt.state {
            PromptState::Queued => {
                let written = PromptState::Written { at: self.now(), epoch: runner.epoch };
                if !self.inner.store.prompt_leave_queue(prompt.id, written).await? {
                    return Ok(());
                }
                failpoint("prompt_written");
                false
            }
            // Whoever wrote it may have died before it was typed.
            PromptState::Written { epoch, .. } if epoch == runner.epoch => true,
            PromptState::Written { .. }
            | PromptState::Taken { .. }
            | PromptState::Failed { .. } => {
                return Ok(());
            }
        };
        match self.inner.runtime.prompt(runner.id, prompt.id, &prompt.text, again).await {
            // An agent that cannot tell has typed it, as far as anybody knows.
            Ok(()) | Err(SocketError::Refused(_)) => {}
            Err(error) => return Err(error.into()),
        }
        if !self.tells_of_prompts(runner) {
            self.inner.store.prompt_taken(runner.id, &prompt.text, self.now()).await?;
        }
        Ok(())
    }
}

fn unsaid(runner: &Runner) -> PromptId {
    id_of(&format!("unsaid {}", runner.id))
}
