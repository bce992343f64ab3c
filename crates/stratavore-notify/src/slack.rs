//! Slack, and what takes its incoming webhooks.

use secrecy::{ExposeSecret, SecretString};
use serde_json::json;
use stratavore_core::Timestamp;
use stratavore_core::notify::{Message, SecretRef, Url};

use crate::{Answer, Inner, http, said};

/// Slack cuts what is longer.
const TEXT_MAX: usize = 4000;

pub(crate) async fn send(
    inner: &Inner,
    url: &SecretRef,
    message: &Message,
    now: Timestamp,
) -> Answer {
    let secret = inner.secret(url)?;
    let url = inner.url(&Url::Secret(url.clone()))?;
    let body = json!({ "text": escape(&message.text()), "mrkdwn": false, "unfurl_links": false });
    let response = http::post(&inner.dialer, &url, &[], body.to_string().into_bytes(), now).await?;
    let path = SecretString::from(url.path.as_str());
    // It has something in it only if it is long enough to be one.
    let secrets: &[&SecretString] =
        if path.expose_secret().len() > 1 { &[&secret, &path] } else { &[&secret] };
    response.judge(&said(&response.body, secrets))
}

/// The three characters that Slack takes for more than themselves: by them a text could call everybody.
fn escape(text: &str) -> String {
    let mut escaped = String::new();
    for c in text.chars().take(TEXT_MAX) {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            c => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_text_calls_anybody() {
        assert_eq!(escape("<!channel> & co"), "&lt;!channel&gt; &amp; co");
        assert_eq!(escape(&"x".repeat(TEXT_MAX + 1)).len(), TEXT_MAX);
    }
}
