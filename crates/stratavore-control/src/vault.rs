//! The vault: conversations' files taken in as they grow, given back, and forgotten when it is time.
//!
//! Each node has a vault of its own, below its state directory, with the files of its host. Those of several
//! nodes may be in one bucket: then each reads what the others have, and writes to its own only.

pub(crate) mod document;
mod export;
mod found;
mod import;
pub(crate) mod intake;
mod restore;
mod tidy;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use stratavore_core::SessionId;
use stratavore_core::activity::Activity;
use stratavore_core::name::Name;
use stratavore_core::runner::Runner;
use stratavore_store::VaultTotals;

use crate::control::Control;
use crate::error::Error;
use crate::supervisor::chain;
use intake::Intake;

pub use export::{ExportPart, Manifest, ManifestFile, ManifestSession, SessionExport};
pub use found::{Found, FoundFile, Imported, Importing};
pub use import::SessionImport;
pub use intake::{Care, Taken};
pub(crate) use tidy::EVERY as TIDY_EVERY;

/// Where a transcript of another host is said to be.
const ELSEWHERE: &str = "import:";

/// How long transcripts and the text of messages are kept.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct VaultSettings {
    /// `None`: for ever.
    pub keep: Option<Duration>,
    /// Of the projects of these names.
    pub keep_of: BTreeMap<String, Duration>,
}

impl Control {
    fn intake(&self) -> Intake {
        Intake {
            store: self.inner.store.clone(),
            vault: self.inner.vault.clone(),
            node: self.inner.node.id,
            name: self.inner.node.id.to_string(),
            entropy: self.inner.entropy.clone(),
        }
    }

    /// Takes in what is new of a conversation's file.
    ///
    /// Safe to repeat, and at the same time.
    pub async fn vault_take_in(
        &self,
        session: SessionId,
        path: &Path,
        care: Care,
    ) -> Result<Taken, Error> {
        self.intake().take_in(session, path, care, self.now()).await
    }

    /// The same with the files beside it, as those of subagents. Answers how many bytes are new.
    pub async fn vault_take_in_all(
        &self,
        session: SessionId,
        assistant: &Name,
        path: &Path,
        care: Care,
    ) -> Result<u64, Error> {
        let mut bytes = self.vault_take_in(session, path, care).await?.bytes;
        for beside in found::beside(assistant, path).await? {
            bytes += self.vault_take_in(session, &beside, care).await?.bytes;
        }
        Ok(bytes)
    }

    /// How much the vault of this node holds.
    pub async fn vault_totals(&self) -> Result<VaultTotals, Error> {
        Ok(self.inner.store.vault_totals(&self.inner.node.id.to_string()).await?)
    }
}

impl Control {
    /// Keeps what is new of a transcript that was just read. `told`: whose it is, if its lines said
    /// so; else it is whose it was, or the runner's.
    pub(crate) async fn keep_transcript(
        &self,
        runner: &Runner,
        path: &Path,
        told: Option<SessionId>,
    ) -> Result<(), Error> {
        let session = match told {
            Some(session) => Some(session),
            None => {
                let shown = path.to_string_lossy();
                let known = self.inner.store.transcript_latest(self.inner.node.id, &shown).await?;
                known.map(|known| known.session).or(runner.session)
            }
        };
        let Some(session) = session else { return Ok(()) };
        let care = match runner.activity {
            _ if runner.is_terminal() => Care::ToItsEnd,
            Activity::Working | Activity::Unknown => Care::WhileItGrows,
            Activity::Idle
            | Activity::NeedsInput
            | Activity::NeedsPermission
            | Activity::RateLimited => Care::Now,
        };
        match self.vault_take_in(session, path, care).await {
            Ok(_) => Ok(()),
            // What is read of it counts all the same; the next look is the next try.
            Err(error @ (Error::Vault(_) | Error::Absent { .. })) => {
                tracing::warn!(runner = %runner.id, error = %chain(&error), "a transcript could not be kept");
                Ok(())
            }
            Err(error) => Err(error),
        }
    }
}
