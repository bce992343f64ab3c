//! What an assistant asks, as it is taken in.

use std::time::Duration;

use sha2::{Digest as _, Sha256};
use stratavore_assistants as assistants;
use stratavore_core::observation::Asked;
use stratavore_core::runner::Runner;
use stratavore_core::{AskId, RunnerId};

use crate::control::Control;

/// How often a screen is looked at for what is asked there, and how long it is waited between.
const LOOKS: u32 = 5;
const LOOK: Duration = Duration::from_millis(100);

impl Control {
    /// What is asked, for whoever answers: where no signal says it, its screen does, a moment later.
    pub(crate) async fn asked_on_screen(&self, runner: &Runner, mut asked: Asked) -> Asked {
        let adapter = assistants::adapter(&runner.command.assistant);
        if !asked.text.is_empty() || runner.is_terminal() || adapter.dialog().is_none() {
            return asked;
        }
        for _ in 0..LOOKS {
            // Of one that cannot be reached only a person sees it.
            let Ok(screen) = self.inner.runtime.screen(runner.id).await else { break };
            if let Some((tool, text)) = adapter.asked_on_screen(&screen.text) {
                (asked.tool, asked.text) = (tool, text);
                break;
            }
            tokio::time::sleep(LOOK).await;
        }
        asked
    }
}

/// The id of an ask: the same where the signal that told of it is read again.
pub(crate) fn ask_id(runner: RunnerId, epoch: i64, asked: &Asked) -> AskId {
    let at = asked.at.as_microsecond();
    let told = format!("{runner} {epoch} {at} {:?} {}", asked.call, asked.tool);
    let digest = Sha256::digest(told);
    let mut id = [0; 16];
    id.copy_from_slice(&digest[..16]);
    AskId::from_entropy(id)
}
