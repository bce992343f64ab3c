//! Who is dialled outside of the cluster: those who are told, and what makes vectors of texts.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use secrecy::SecretString;
use stratavore_config as config;
use stratavore_control::{Embedder, NotifySettings, chain};
use stratavore_core::notify::SecretRef;
use stratavore_notify::{EmbeddingSettings, Embeddings, Interface, Sender, SystemResolver};

use super::{Setup, SetupError};

/// Divides the waits between attempts to tell somebody, in the tests of what follows them.
#[cfg(debug_assertions)]
const HASTE: &str = "STRATAVORE_TEST_NOTIFY_HASTE";

impl Setup {
    /// How people and programs are told.
    pub(super) fn notify(&self) -> Result<NotifySettings, SetupError> {
        let own = &self.config.notify;
        let roots = self.roots()?;
        let credentials = self.env.get("CREDENTIALS_DIRECTORY").map(PathBuf::from);
        #[cfg(debug_assertions)]
        let haste = self.env.get(HASTE).and_then(|haste| haste.parse().ok()).unwrap_or(1).max(1);
        #[cfg(not(debug_assertions))]
        let haste = 1;
        Ok(NotifySettings {
            sender: Sender::new(stratavore_notify::Settings {
                allow: own.allow_addresses.iter().filter_map(|range| range.parse().ok()).collect(),
                resolver: Arc::new(SystemResolver),
                roots,
                timeout: own.timeout,
                secrets: Arc::new(move |reference| secret(reference, credentials.as_deref())),
                desktop: "notify-send".into(),
            }),
            haste,
        })
    }

    /// What makes vectors of messages.
    pub(super) fn embedder(&self) -> Result<Embedder, SetupError> {
        let own = &self.config.search;
        let (interface, usual, kind) = match own.embeddings {
            config::Embeddings::Off => return Ok(Embedder::Off),
            config::Embeddings::Builtin => return Ok(Embedder::Builtin),
            config::Embeddings::OpenAi => {
                (Interface::OpenAi, "https://api.openai.com/v1", "openai")
            }
            config::Embeddings::Ollama => (Interface::Ollama, "http://127.0.0.1:11434", "ollama"),
        };
        let wrong = |why: String| SetupError::Embeddings { why };
        let model = own.model.clone().ok_or_else(|| wrong("search.model is not set".into()))?;
        let url = own.url.as_deref().unwrap_or(usual);
        let key_file = own.key_file.clone();
        let service = Embeddings::new(EmbeddingSettings {
            interface,
            url: url.parse().map_err(|why| wrong(format!("search.url is no URL: {why}")))?,
            model: model.clone(),
            key: Arc::new(move || match &key_file {
                Some(path) => config::read_secret(path).map(Some).map_err(|error| chain(&error)),
                None => Ok(None),
            }),
            resolver: Arc::new(SystemResolver),
            roots: self.roots()?,
            timeout: own.timeout,
        });
        Ok(Embedder::Service { service, name: format!("{kind}/{model}") })
    }

    /// Whom to trust of those that are dialled.
    pub(crate) fn roots(&self) -> Result<rustls::RootCertStore, SetupError> {
        let own = &self.config.notify;
        let read = |path| std::fs::read(path).map_err(|error| (path, error.to_string()));
        let further = own.root_cert.as_ref().map(read);
        let roots = match further.transpose() {
            Ok(pem) => {
                let path = own.root_cert.clone().unwrap_or_default();
                stratavore_notify::roots(pem.as_deref()).map_err(|why| (path, why))
            }
            Err((path, why)) => Err((path.clone(), why)),
        };
        roots.map_err(|(path, why)| SetupError::Roots { path: path.display().to_string(), why })
    }
}

/// Reads what a reference names; anew each time, since secrets change.
fn secret(reference: &SecretRef, credentials: Option<&Path>) -> Result<SecretString, String> {
    let path = match reference.as_str().split_once(':') {
        Some(("file", path)) => PathBuf::from(path),
        Some(("systemd-cred", name)) => match credentials {
            Some(directory) => directory.join(name),
            None => return Err("the service manager has handed over no credentials".into()),
        },
        Some(_) | None => return Err("it is of no kind that is known".into()),
    };
    config::read_secret(&path).map_err(|error| chain(&error))
}
