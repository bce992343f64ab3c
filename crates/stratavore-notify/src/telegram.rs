//! Telegram, by a bot's token.

use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};
use stratavore_core::Timestamp;
use stratavore_core::notify::url::PlainUrl;
use stratavore_core::notify::{Message, SecretRef, Url};

use crate::{Answer, Failure, Inner, http, said};

const SERVER: &str = "https://api.telegram.org";
/// Telegram refuses what is longer.
const TEXT_MAX: usize = 4000;

pub(crate) async fn send(
    inner: &Inner,
    token: &SecretRef,
    chat: &str,
    server: Option<&Url>,
    message: &Message,
    now: Timestamp,
) -> Answer {
    let token = inner.secret(token)?;
    let server = match server {
        Some(server) => inner.url(server)?,
        None => SERVER.parse().map_err(Failure::misconfigured)?,
    };
    let url = method(&server, &token)?;
    let text: String = message.text().chars().take(TEXT_MAX).collect();
    // Without a parse mode nothing in the text is markup.
    let body = json!({
        "chat_id": chat, "text": text, "link_preview_options": { "is_disabled": true },
    });
    let body = body.to_string().into_bytes();
    let mut response = http::post(&inner.dialer, &url, &[], body, now).await?;
    let answer: Value = serde_json::from_str(&response.body).unwrap_or_default();
    if let Some(seconds) = answer["parameters"]["retry_after"].as_u64() {
        response.retry_after.get_or_insert(Duration::from_secs(seconds));
    }
    let why = answer["description"].as_str().unwrap_or_default();
    response.judge(&said(why, &[&token]))
}

fn method(server: &PlainUrl, token: &SecretString) -> Result<PlainUrl, Failure> {
    let token = token.expose_secret();
    let is_token = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b':' | b'_' | b'-');
    if !token.bytes().all(is_token) {
        return Err(Failure::misconfigured("the secret is no token of a bot, as 123456:ABC…"));
    }
    let base = server.path.trim_end_matches('/');
    Ok(PlainUrl { path: format!("{base}/bot{token}/sendMessage"), ..server.clone() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_one_or_nothing_is_asked() {
        let server: PlainUrl = "https://t.example/api/".parse().unwrap();
        let url = method(&server, &SecretString::from("123:ab_c-D")).unwrap();
        assert_eq!(url.path, "/api/bot123:ab_c-D/sendMessage");
        for wrong in ["no/../token", "a bad token", "no?token", "no\r\ntoken"] {
            let failure = method(&server, &SecretString::from(wrong)).unwrap_err();
            assert!(!failure.detail.contains(wrong));
        }
    }
}
