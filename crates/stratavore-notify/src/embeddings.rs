//! Vectors of texts from a service: what OpenAI's interface is, which many speak, and Ollama's.
//!
//! Where it is stands in the configuration, so whoever set it up meant that address, this host's own
//! among them; no redirect is followed all the same.

use std::sync::Arc;
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use stratavore_core::Timestamp;
use stratavore_core::notify::url::PlainUrl;

use crate::address::Range;
use crate::dial::{Dialer, Resolve};
use crate::{Failure, http, said};

/// The most that is read of an answer.
const ANSWER_MAX: usize = 32 << 20;

/// Which interface a service has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Interface {
    /// `POST URL/embeddings`, as OpenAI has it below `/v1`.
    OpenAi,
    /// `POST URL/api/embed`.
    Ollama,
}

/// Reads the key when it is used.
pub type ReadKey = Arc<dyn Fn() -> Result<Option<SecretString>, String> + Send + Sync>;

/// A service that makes vectors of texts.
#[derive(Clone)]
pub struct Embeddings {
    inner: Arc<Inner>,
}

impl std::fmt::Debug for Embeddings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Embeddings({})", self.inner.model)
    }
}

struct Inner {
    dialer: Dialer,
    interface: Interface,
    url: PlainUrl,
    model: String,
    key: ReadKey,
    timeout: Duration,
}

/// What asking depends on.
pub struct EmbeddingSettings {
    pub interface: Interface,
    /// Without what the interface adds.
    pub url: PlainUrl,
    pub model: String,
    pub key: ReadKey,
    pub resolver: Arc<dyn Resolve>,
    /// Whom to trust.
    pub roots: rustls::RootCertStore,
    pub timeout: Duration,
}

#[derive(Deserialize)]
struct OpenAiAnswer {
    data: Vec<OpenAiVector>,
}

#[derive(Deserialize)]
struct OpenAiVector {
    index: usize,
    embedding: Vec<f32>,
}

#[derive(Deserialize)]
struct OllamaAnswer {
    embeddings: Vec<Vec<f32>>,
}

impl Embeddings {
    pub fn new(settings: EmbeddingSettings) -> Self {
        let EmbeddingSettings { interface, url, model, key, resolver, roots, timeout } = settings;
        let dialer = Dialer::new(resolver, Range::everywhere(), roots);
        Self { inner: Arc::new(Inner { dialer, interface, url, model, key, timeout }) }
    }

    /// A vector for each text, in their order.
    pub async fn embed(&self, texts: &[String], now: Timestamp) -> Result<Vec<Vec<f32>>, Failure> {
        let asking = self.inner.ask(texts, now);
        match tokio::time::timeout(self.inner.timeout, asking).await {
            Ok(answer) => answer,
            Err(_) => {
                let seconds = self.inner.timeout.as_secs_f32();
                Err(Failure::away(format!("no answer within {seconds} s")))
            }
        }
    }
}

impl Inner {
    async fn ask(&self, texts: &[String], now: Timestamp) -> Result<Vec<Vec<f32>>, Failure> {
        let end = match self.interface {
            Interface::OpenAi => "embeddings",
            Interface::Ollama => "api/embed",
        };
        let path = format!("{}/{end}", self.url.path.trim_end_matches('/'));
        let url = PlainUrl { path, ..self.url.clone() };
        let key = (self.key)().map_err(|why| {
            Failure::misconfigured(format!("the key of the embeddings cannot be read: {why}"))
        })?;
        let bearer = key.as_ref().map(|key| format!("Bearer {}", key.expose_secret()));
        let headers: Vec<_> = bearer.into_iter().map(|value| ("authorization", value)).collect();
        let body = serde_json::json!({ "model": self.model, "input": texts }).to_string();
        let answer =
            http::post_for(&self.dialer, &url, &headers, body.into_bytes(), now, ANSWER_MAX)
                .await?;
        let secrets: Vec<&SecretString> = key.iter().collect();
        answer.judge(&said(&answer.body, &secrets))?;
        let vectors = match self.interface {
            Interface::OpenAi => serde_json::from_str(&answer.body).map(|answer: OpenAiAnswer| {
                let mut data = answer.data;
                data.sort_by_key(|one| one.index);
                data.into_iter().map(|one| one.embedding).collect()
            }),
            Interface::Ollama => {
                serde_json::from_str(&answer.body).map(|answer: OllamaAnswer| answer.embeddings)
            }
        };
        let vectors: Vec<Vec<f32>> = vectors.map_err(|error| {
            Failure::misconfigured(format!(
                "{} answers with something else: {error}",
                self.url.host
            ))
        })?;
        let size = vectors.first().map_or(0, Vec::len);
        if vectors.len() != texts.len() || size == 0 || vectors.iter().any(|v| v.len() != size) {
            return Err(Failure::misconfigured(format!(
                "{} answers with {} vectors for {} texts, or with some of another length",
                self.url.host,
                vectors.len(),
                texts.len()
            )));
        }
        Ok(vectors)
    }
}
