//! Sending, to servers that are real: what arrives, what comes back of it, and what is never sent.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod chat;
mod embeddings;
mod http;
mod mail;

use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use secrecy::SecretString;
use stratavore_core::notify::{Channel, Message, SecretRef, Url};
use stratavore_core::{NotificationId, Timestamp};
use stratavore_notify::{Answer, Resolve, Resolving, Sender, Settings, roots};

pub(crate) const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

/// Names that a test makes up, and how often each was asked for.
#[derive(Default)]
pub(crate) struct Names {
    /// The answers to one question after another; the last goes on.
    answers: Mutex<HashMap<String, Vec<Vec<IpAddr>>>>,
    pub(crate) asked: AtomicUsize,
}

impl Names {
    pub(crate) fn of(name: &str, answers: &[&[&str]]) -> Arc<Self> {
        let read = |answer: &&[&str]| answer.iter().map(|text| text.parse().unwrap()).collect();
        let answers = answers.iter().rev().map(read).collect();
        let answers = Mutex::new(HashMap::from([(name.to_owned(), answers)]));
        Arc::new(Self { answers, asked: AtomicUsize::new(0) })
    }
}

impl Resolve for Names {
    fn resolve<'a>(&'a self, host: &'a str) -> Resolving<'a> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        let mut all = self.answers.lock().unwrap();
        let answer = all.get_mut(host).map(|answers| match answers.len() {
            1 => answers[0].clone(),
            _ => answers.pop().unwrap(),
        });
        Box::pin(async move { answer.ok_or_else(|| io::Error::other("no such name")) })
    }
}

/// What a test sends with.
pub(crate) struct With {
    pub(crate) allow: &'static str,
    pub(crate) names: Arc<Names>,
    pub(crate) root: Option<String>,
    pub(crate) timeout: Duration,
    pub(crate) secrets: HashMap<String, String>,
    pub(crate) desktop: PathBuf,
}

impl Default for With {
    fn default() -> Self {
        Self {
            allow: "127.0.0.1",
            names: Arc::default(),
            root: None,
            timeout: Duration::from_secs(10),
            secrets: HashMap::from([("file:/hook".into(), SECRET.into())]),
            desktop: "/nonexistent".into(),
        }
    }
}

impl With {
    pub(crate) fn secret(mut self, name: &str, text: &str) -> Self {
        self.secrets.insert(format!("file:/{name}"), text.into());
        self
    }

    pub(crate) fn sender(self) -> Sender {
        let Self { allow, names, root, timeout, secrets, desktop } = self;
        let allow = allow.split(',').filter(|range| !range.is_empty());
        Sender::new(Settings {
            allow: allow.map(|range| range.parse().unwrap()).collect(),
            resolver: names,
            roots: roots(root.as_deref().map(str::as_bytes)).unwrap(),
            timeout,
            secrets: Arc::new(move |reference: &SecretRef| {
                let found = secrets.get(reference.as_str());
                found.map(|text| SecretString::from(text.as_str())).ok_or("no such file".into())
            }),
            desktop,
        })
    }
}

pub(crate) fn file(name: &str) -> SecretRef {
    format!("file:/{name}").parse().unwrap()
}

pub(crate) fn webhook(url: &str) -> Channel {
    Channel::Webhook { url: url.parse::<Url>().unwrap(), secret: file("hook") }
}

pub(crate) fn message() -> Message {
    let mut message = Message::test("place", "ada <!channel> & \u{1b}[31m", Timestamp::UNIX_EPOCH);
    message.title.push_str(" 漢字");
    message
}

pub(crate) fn id() -> NotificationId {
    NotificationId::from_entropy([5; 16])
}

pub(crate) async fn send(sender: &Sender, channel: &Channel) -> Answer {
    sender.send(channel, id(), &message(), "2026-11-21T10:00:00Z".parse().unwrap()).await
}
