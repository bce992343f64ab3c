//! One request over one connection: no redirects, no cookies, no proxy, and a bounded answer.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper::header::{ACCEPT, CONTENT_TYPE, HOST, HeaderMap, RETRY_AFTER, USER_AGENT};
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use jiff::Timestamp;
use stratavore_core::notify::url::PlainUrl;

use crate::address::Range;
use crate::dial::{Dialer, Resolve, Stream};
use crate::{Failure, Fault};

/// The most that is read of an answer, headers and body each.
const ANSWER_MAX: usize = 16 << 10;
const AGENT: &str = concat!("stratavore/", env!("CARGO_PKG_VERSION"));

/// What was answered.
pub(crate) struct Response {
    pub(crate) status: u16,
    pub(crate) retry_after: Option<Duration>,
    /// As much as was read of it; empty if it is none or too long.
    pub(crate) body: String,
}

impl Response {
    /// What it means for whoever sent; `said` is fit to be shown.
    pub(crate) fn judge(&self, said: &str) -> Result<Option<u16>, Failure> {
        let status = self.status;
        if (200..300).contains(&status) {
            return Ok(Some(status));
        }
        let what = match status {
            300..400 => "it answers with a redirect, and none is followed",
            404 => "there is nothing at this URL",
            401 | 403 => "it does not let us in",
            410 => "it is gone for good",
            429 => "it was sent too much",
            400..500 => "it does not take the message",
            _ => "it has trouble of its own",
        };
        let said = if said.is_empty() { String::new() } else { format!(": {said}") };
        let fault = if status == 410 { Fault::Gone } else { Fault::Refused };
        let detail = format!("{what}{said}");
        Err(Failure { fault, status: Some(status), detail, retry_after: self.retry_after })
    }
}

/// Sends `body` to `url`.
pub(crate) async fn post(
    dialer: &Dialer,
    url: &PlainUrl,
    headers: &[(&'static str, String)],
    body: Vec<u8>,
    now: Timestamp,
) -> Result<Response, Failure> {
    post_for(dialer, url, headers, body, now, ANSWER_MAX).await
}

/// The same, for an answer of at most so many bytes.
pub(crate) async fn post_for(
    dialer: &Dialer,
    url: &PlainUrl,
    headers: &[(&'static str, String)],
    body: Vec<u8>,
    now: Timestamp,
    answer_max: usize,
) -> Result<Response, Failure> {
    let typed = headers.iter().any(|(name, _)| CONTENT_TYPE == *name);
    let json = (!typed).then(|| (CONTENT_TYPE.as_str(), "application/json".to_owned()));
    let headers = headers.iter().cloned().chain(json).collect();
    let asked = Asked { method: Method::POST, url: url.clone(), headers, body, answer_max };
    let answered = exchange(dialer, asked).await?;
    Ok(Response {
        status: answered.status,
        retry_after: retry_after(&answered.headers, now),
        // The status is what counts: an answer that is cut off or too long has one as well.
        body: String::from_utf8_lossy(&answered.body.unwrap_or_default()).into_owned(),
    })
}

/// A request.
#[derive(Debug, Clone)]
pub struct Asked {
    pub method: Method,
    pub url: PlainUrl,
    pub headers: Vec<(&'static str, String)>,
    pub body: Vec<u8>,
    /// The most bytes of the answer's body.
    pub answer_max: usize,
}

/// What was answered to it.
#[derive(Debug, Clone)]
pub struct Answered {
    pub status: u16,
    pub headers: HeaderMap,
    /// All of it, or why it did not come whole.
    pub body: Result<Bytes, String>,
}

impl Answered {
    /// A header, if it is text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }
}

/// Talks with servers that the configuration names, this host's own among them; cheap to clone.
#[derive(Clone)]
pub struct Http {
    dialer: Arc<Dialer>,
    timeout: Duration,
}

impl std::fmt::Debug for Http {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Http")
    }
}

impl Http {
    /// `roots`: whom to trust; `timeout`: how long a request may take from its beginning to the end of
    /// its answer.
    pub fn new(
        resolver: Arc<dyn Resolve>,
        roots: rustls::RootCertStore,
        timeout: Duration,
    ) -> Self {
        Self { dialer: Arc::new(Dialer::new(resolver, Range::everywhere(), roots)), timeout }
    }

    /// Makes one request, once.
    pub async fn exchange(&self, asked: Asked) -> Result<Answered, Failure> {
        match tokio::time::timeout(self.timeout, exchange(&self.dialer, asked)).await {
            Ok(answer) => answer,
            Err(_) => {
                let seconds = self.timeout.as_secs_f32();
                Err(Failure::away(format!("no answer within {seconds} s")))
            }
        }
    }
}

async fn exchange(dialer: &Dialer, asked: Asked) -> Result<Answered, Failure> {
    let Asked { method, url, headers, body, answer_max } = asked;
    let mut request = Request::builder()
        .method(method)
        .uri(&url.path)
        .header(HOST, url.authority())
        .header(USER_AGENT, AGENT)
        .header(ACCEPT, "*/*");
    for (name, value) in &headers {
        request = request.header(*name, value);
    }
    let request = request
        .body(Full::new(Bytes::from(body)))
        // What is in a header may be a secret, so it is not told.
        .map_err(|_| {
            Failure::misconfigured("the URL or a secret has characters that HTTP does not carry")
        })?;
    let stream = dialer.dial(&url.host, url.port).await?;
    let stream: Stream = match url.is_https {
        true => dialer.protect(stream, &url.host).await?,
        false => Box::new(stream),
    };
    let broken =
        |error: hyper::Error| Failure::away(format!("talk HTTP with {}: {error}", url.host));
    let (mut sender, connection) = http1::Builder::new()
        .max_buf_size(ANSWER_MAX)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(broken)?;
    let exchange = async {
        let response = sender.send_request(request).await.map_err(broken)?;
        let (head, body) = response.into_parts();
        let body = Limited::new(body, answer_max).collect().await;
        Ok(Answered {
            status: head.status.as_u16(),
            headers: head.headers,
            body: body.map(|body| body.to_bytes()).map_err(|error| error.to_string()),
        })
    };
    let mut exchange = std::pin::pin!(exchange);
    tokio::select! {
        done = &mut exchange => done,
        // It does the reading and writing; once it has ended, what it has read is there.
        _ = connection => exchange.await,
    }
}

/// How long the receiver wants to be left alone: seconds, or a date.
fn retry_after(headers: &HeaderMap, now: Timestamp) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let at = jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(text).ok()?;
    Duration::try_from(at.duration_since(now)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wait_that_is_asked_for_is_read() {
        let now: Timestamp = "2026-11-21T10:00:00Z".parse().unwrap();
        let of = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(RETRY_AFTER, text.parse().unwrap());
            retry_after(&headers, now)
        };
        assert_eq!(of("120"), Some(Duration::from_secs(120)));
        assert_eq!(of("Sat, 21 Nov 2026 10:01:00 GMT"), Some(Duration::from_secs(60)));
        assert_eq!(of("Sat, 21 Nov 2026 09:00:00 GMT"), None);
        for wrong in ["-1", "soon", "", "99999999999999999999999"] {
            assert_eq!(of(wrong), None, "{wrong}");
        }
    }
}
