//! Vectors of messages, made in the background: by the built-in rule, or by a service.
//!
//! Invariant: a service that fails costs no message its words: those are found without it.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use stratavore_core::Timestamp;
use stratavore_core::embedding::{BUILTIN, BUILTIN_FLOOR, builtin, normalize};
use stratavore_notify::Embeddings;
use stratavore_store::Unembedded;

use crate::control::Control;
use crate::error::Error;

/// How often it is looked for messages without a vector, besides when some were told.
pub(crate) const EVERY: Duration = Duration::from_secs(60);
/// Texts of one request, and messages of one activation.
const AT_ONCE: u32 = 64;
const MOST: usize = 20_000;
/// The most characters of a text that a service is given: models take no more of it.
const TEXT_MAX: usize = 8000;
/// How long a service that failed is left alone.
const LEFT_ALONE: Duration = Duration::from_secs(30);
const LEFT_ALONE_MAX: Duration = Duration::from_secs(15 * 60);

/// What makes vectors.
#[derive(Debug, Clone)]
pub enum Embedder {
    /// Nothing: words are all that is found by.
    Off,
    Builtin,
    /// A service, and what its vectors are kept under.
    Service {
        service: Embeddings,
        name: String,
    },
}

impl Embedder {
    /// What its vectors are kept under.
    pub(crate) fn name(&self) -> Option<&str> {
        match self {
            Self::Off => None,
            Self::Builtin => Some(BUILTIN),
            Self::Service { name, .. } => Some(name),
        }
    }

    /// What is less alike than this is no result.
    pub(crate) fn floor(&self) -> f32 {
        match self {
            Self::Off | Self::Builtin => BUILTIN_FLOOR,
            Self::Service { .. } => 0.25,
        }
    }

    /// A vector of length 1 for each text. One that has none gets a vector of no length.
    pub(crate) async fn embed(
        &self,
        texts: &[String],
        now: Timestamp,
    ) -> Result<Vec<Vec<f32>>, String> {
        match self {
            Self::Off => Ok(Vec::new()),
            Self::Builtin => {
                let texts = texts.to_vec();
                let all = move || texts.iter().map(|text| builtin(text)).collect();
                tokio::task::spawn_blocking(all).await.map_err(|error| error.to_string())
            }
            Self::Service { service, .. } => {
                let texts: Vec<String> = texts.iter().map(|text| beginning(text)).collect();
                let answer = service.embed(&texts, now).await;
                let mut vectors = answer.map_err(|failure| failure.detail)?;
                for vector in &mut vectors {
                    if !normalize(vector) {
                        vector.fill(0.0);
                    }
                }
                Ok(vectors)
            }
        }
    }
}

/// What a service is given. None takes a text that is empty.
fn beginning(text: &str) -> String {
    let text: String = text.chars().take(TEXT_MAX).collect();
    if text.trim().is_empty() { "-".into() } else { text }
}

/// When a service that failed may be asked again.
#[derive(Debug, Default)]
pub(crate) struct Patience {
    state: Mutex<(Duration, u32)>,
}

impl Patience {
    fn is_left_alone(&self, now: Duration) -> bool {
        now < self.state.lock().unwrap_or_else(PoisonError::into_inner).0
    }

    fn failed(&self, now: Duration) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let wait = LEFT_ALONE.saturating_mul(1 << state.1.min(10)).min(LEFT_ALONE_MAX);
        *state = (now + wait, state.1 + 1);
    }

    fn worked(&self) {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) = (Duration::ZERO, 0);
    }
}

impl Control {
    /// Messages were told: those without a vector are to be looked for now.
    pub(crate) fn messages_told(&self) {
        self.inner.embed_wake.notify_one();
    }

    /// The periodic task. What it does not come to, the next activation does.
    pub(crate) async fn embed_messages(&self) -> Result<String, Error> {
        let embedder = &self.inner.settings.embedder;
        let Some(name) = embedder.name() else { return Ok("vectors are not made".into()) };
        if self.inner.embed_patience.is_left_alone(self.inner.clock.monotonic()) {
            return Ok("the service failed, and is left alone for a while".into());
        }
        let stopping = self.inner.supervisor.stopping();
        while self.inner.store.embedding_forget_others(name, 500).await? > 0 {
            if stopping.is_cancelled() {
                return Ok("stopped".into());
            }
        }
        // Those that were kept before the database had an index for them.
        while self.inner.store.nearby_fill(name, 500).await? > 0 {
            if stopping.is_cancelled() {
                return Ok("stopped".into());
            }
        }
        let mut made = 0;
        while made < MOST && !stopping.is_cancelled() {
            let pending = self.inner.store.embedding_pending(AT_ONCE).await?;
            if pending.is_empty() {
                return Ok(format!("{made} vectors made"));
            }
            let texts: Vec<String> = pending.iter().map(|message| message.text.clone()).collect();
            let vectors = match embedder.embed(&texts, self.now()).await {
                Ok(vectors) => vectors,
                Err(why) => {
                    self.inner.embed_patience.failed(self.inner.clock.monotonic());
                    return Err(Error::internal(format!("make vectors of messages: {why}")));
                }
            };
            self.inner.embed_patience.worked();
            made += pending.len();
            let all: Vec<(Unembedded, Vec<f32>)> = pending.into_iter().zip(vectors).collect();
            self.inner.store.embedding_keep(name, &all).await?;
        }
        self.messages_told();
        Ok(format!("{made} vectors made, and there is more to do"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_that_fails_is_left_alone_for_longer_each_time() {
        let patience = Patience::default();
        let mut now = Duration::from_secs(5);
        assert!(!patience.is_left_alone(now));
        let mut waits = Vec::new();
        for _ in 0..8 {
            patience.failed(now);
            let from = now;
            while patience.is_left_alone(now) {
                now += Duration::from_secs(1);
            }
            waits.push((now - from).as_secs());
        }
        assert_eq!(waits, [30, 60, 120, 240, 480, 900, 900, 900]);
        patience.failed(now);
        patience.worked();
        assert!(!patience.is_left_alone(now));
    }

    #[test]
    fn no_text_is_empty_for_a_service() {
        assert_eq!(beginning(" \n"), "-");
        assert_eq!(beginning(&"é".repeat(9000)).chars().count(), TEXT_MAX);
    }
}
