//! ntfy, its public server or one's own.

use secrecy::{ExposeSecret, SecretString};
use serde_json::json;
use stratavore_core::Timestamp;
use stratavore_core::notify::{Message, SecretRef, Severity, Topic, Url};

use crate::{Answer, Inner, http, said};

/// ntfy makes an attachment of what is longer.
const TEXT_MAX: usize = 3500;

pub(crate) async fn send(
    inner: &Inner,
    server: &Url,
    topic: &Topic,
    token: Option<&SecretRef>,
    message: &Message,
    now: Timestamp,
) -> Answer {
    let url = inner.url(server)?;
    let topic = match topic {
        Topic::Plain(topic) => SecretString::from(topic.as_str()),
        Topic::Secret(reference) => inner.secret(reference)?,
    };
    let token = token.map(|token| inner.secret(token)).transpose()?;
    // In the body, and not in headers: those carry no more than ASCII.
    let body = json!({
        "topic": topic.expose_secret(), "title": "Stratavore", "message": cut(message.text()),
        "priority": priority(message.severity),
    });
    let mut headers = Vec::new();
    let mut secrets = vec![&topic];
    if let Some(token) = &token {
        headers.push(("authorization", format!("Bearer {}", token.expose_secret())));
        secrets.push(token);
    }
    let body = body.to_string().into_bytes();
    let response = http::post(&inner.dialer, &url, &headers, body, now).await?;
    response.judge(&said(&response.body, &secrets))
}

fn priority(severity: Severity) -> u8 {
    match severity {
        Severity::Info => 2,
        Severity::Warning => 3,
        Severity::Error => 4,
        Severity::Critical => 5,
    }
}

/// At most so many bytes.
fn cut(mut text: String) -> String {
    if text.len() > TEXT_MAX {
        text.truncate(text.floor_char_boundary(TEXT_MAX));
        text.push('…');
    }
    text
}
