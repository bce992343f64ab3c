//! Those of the conversations that their program prints.

use std::collections::VecDeque;
use std::sync::Arc;

use stratavore_assistants as assistants;
use stratavore_core::name::Name;
use stratavore_core::observation::Observation;

use super::{Found, FoundFile};
use crate::control::Control;
use crate::error::Error;
use crate::supervisor::chain;
use crate::vault::document::Source;

/// Conversations by the program that prints them and their ids; and why those of an assistant cannot be had.
type Printed = (VecDeque<(Arc<Source>, String)>, VecDeque<FoundFile>);

impl Control {
    pub(super) async fn printed_list(&self, only: Option<&Name>) -> Result<Printed, Error> {
        let (mut documents, mut unlisted) = (VecDeque::new(), VecDeque::new());
        for known in assistants::known() {
            let assistant: Name = known.name.parse().map_err(Error::internal)?;
            if only.is_some_and(|only| *only != assistant) {
                continue;
            }
            let Some(source) = self.documents_of(&assistant).map(Arc::new) else { continue };
            match self.document_list(&source).await {
                Ok(ids) => documents.extend(ids.into_iter().map(|id| (source.clone(), id))),
                Err(Error::Stopping) => return Err(Error::Stopping),
                Err(error) => unlisted.push_back(FoundFile {
                    assistant: known.name.into(),
                    problem: Some(chain(&error)),
                    ..FoundFile::default()
                }),
            }
        }
        Ok((documents, unlisted))
    }
}

impl Found {
    /// Takes in a conversation that its program prints.
    pub(super) async fn printed(
        &mut self,
        file: &mut FoundFile,
        source: &Source,
        id: &str,
    ) -> Result<(), Error> {
        let document = self.control.document(source, id).await?;
        file.path = document.name.clone().into();
        for observation in &document.observations {
            match observation {
                Observation::Session(seen) => {
                    file.directory = file.directory.take().or_else(|| seen.directory.clone());
                }
                Observation::Message(_) => file.imported.messages += 1,
                Observation::Usage(_)
                | Observation::Doing(_)
                | Observation::Asked(_)
                | Observation::AskOver { .. }
                | Observation::PromptTaken { .. }
                | Observation::Window(_)
                | Observation::TurnOver { .. } => {}
            }
        }
        let project = self.whose(file, &source.assistant, id).await?;
        let Some(project) = project.filter(|_| !self.is_dry_run) else {
            file.imported.messages = 0;
            return Ok(());
        };
        let (control, caller, assistant) = (&self.control, &self.caller, &source.assistant);
        let keeping = control.document_keep(caller, assistant, project, None, id, &document);
        let (_, session, bytes) = keeping.await?;
        file.imported.session = session.or(file.imported.session);
        file.imported.bytes += bytes;
        self.control.messages_told();
        self.control.inner.relay_wake.notify_one();
        Ok(())
    }
}
