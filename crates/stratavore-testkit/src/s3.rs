//! A stand-in for a server of S3: one bucket, on loopback, that checks each signature by its own
//! arithmetic and fails when it is told to.
//!
//! It knows signed URLs only (`X-Amz-Signature`), and of the requests those that a store of blobs makes.

use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use aws_lc_rs::{digest, hmac};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;

use crate::receiver::{Got, Receiver, Reply};

pub const BUCKET: &str = "blobs";
pub const REGION: &str = "eu-north-1";
pub const KEY: &str = "AKIASTANDIN";
pub const SECRET: &str = "stand/in+secret";

/// How far the clocks of both sides may be apart.
const SKEW: i64 = 15 * 60;

/// What goes wrong with a request.
#[derive(Debug, Clone)]
pub enum Fault {
    /// This is answered, with the name of the fault.
    Status(u16, &'static str),
    /// It is carried out, and the answer ends after so many bytes of its body.
    Cut(usize),
    /// It is carried out, and what is answered has a bit that is another one.
    WrongBytes,
    /// It is carried out, and nothing is answered.
    Silence,
    /// The connection ends, and nothing is done.
    End,
}

#[derive(Default)]
struct State {
    objects: BTreeMap<String, (Vec<u8>, Timestamp)>,
    /// Of which method (empty: any), and what.
    faults: VecDeque<(&'static str, Fault)>,
    refused: Vec<String>,
}

/// The server. Dropping it ends it.
pub struct S3 {
    receiver: Receiver,
    state: Arc<Mutex<State>>,
}

#[expect(clippy::disallowed_methods, reason = "a server has a clock of its own")]
fn now() -> Timestamp {
    Timestamp::now()
}

fn locked(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Default for S3 {
    fn default() -> Self {
        Self::start()
    }
}

impl S3 {
    pub fn start() -> Self {
        let state = Arc::<Mutex<State>>::default();
        let own = state.clone();
        let receiver = Receiver::answering(move |got, _| locked(&own).answer(got));
        Self { receiver, state }
    }

    /// Where it is.
    pub fn url(&self) -> String {
        format!("http://{}", self.receiver.address)
    }

    /// The requests that came in, as `METHOD KEY`, refused ones among them.
    pub fn asked(&self) -> Vec<String> {
        let got = self.receiver.got();
        got.iter().map(|got| format!("{} {}", got.method, key_of(&got.path))).collect()
    }

    /// Why requests were refused, one for each.
    pub fn refused(&self) -> Vec<String> {
        locked(&self.state).refused.clone()
    }

    pub fn keys(&self) -> Vec<String> {
        locked(&self.state).objects.keys().cloned().collect()
    }

    pub fn object(&self, key: &str) -> Option<Vec<u8>> {
        locked(&self.state).objects.get(key).map(|(bytes, _)| bytes.clone())
    }

    /// Puts something there, behind the back of whoever has signed.
    pub fn set(&self, key: &str, bytes: Vec<u8>) {
        locked(&self.state).objects.insert(key.into(), (bytes, now()));
    }

    pub fn erase(&self, key: &str) {
        locked(&self.state).objects.remove(key);
    }

    /// Has an object be there since then.
    pub fn date(&self, key: &str, at: Timestamp) {
        if let Some((_, modified)) = locked(&self.state).objects.get_mut(key) {
            *modified = at;
        }
    }

    /// Has the next request of this method (empty: any) go wrong.
    pub fn fail(&self, method: &'static str, fault: Fault) {
        locked(&self.state).faults.push_back((method, fault));
    }
}

impl State {
    fn answer(&mut self, got: &Got) -> Reply {
        let next = self.faults.front().map(|(method, _)| *method);
        let fault = match next {
            Some(method) if method.is_empty() || method == got.method => self.faults.pop_front(),
            Some(_) | None => None,
        };
        match fault.map(|(_, fault)| fault) {
            None => self.carry_out(got),
            Some(Fault::Status(status, code)) => refusal(status, code),
            Some(Fault::End) => Reply::End,
            Some(Fault::Silence) => {
                self.carry_out(got);
                Reply::Silence
            }
            Some(Fault::Cut(most)) => match self.carry_out(got) {
                Reply::Part(status, headers, body, sent) => {
                    Reply::Part(status, headers, body, sent.min(most))
                }
                other @ (Reply::Status(_) | Reply::With(..) | Reply::Silence | Reply::End) => other,
            },
            Some(Fault::WrongBytes) => match self.carry_out(got) {
                Reply::Part(status, headers, mut body, sent) => {
                    if let Some(last) = body.last_mut() {
                        *last ^= 1;
                    }
                    Reply::Part(status, headers, body, sent)
                }
                other @ (Reply::Status(_) | Reply::With(..) | Reply::Silence | Reply::End) => other,
            },
        }
    }

    fn carry_out(&mut self, got: &Got) -> Reply {
        if let Err(code) = check(got, now()) {
            self.refused.push(code.into());
            return refusal(403, code);
        }
        let key = key_of(&got.path);
        let query = query_of(&got.path);
        match got.method.as_str() {
            "PUT" => {
                let wanted = got.header("x-amz-checksum-sha256");
                let sum = STANDARD.encode(digest::digest(&digest::SHA256, &got.bytes));
                if !wanted.is_empty() && wanted != sum {
                    return refusal(400, "BadDigest");
                }
                self.objects.insert(key, (got.bytes.clone(), now()));
                whole(200, Vec::new(), true)
            }
            "DELETE" => {
                self.objects.remove(&key);
                whole(204, Vec::new(), true)
            }
            "GET" if query.contains_key("list-type") => self.list(&query),
            method @ ("GET" | "HEAD") => match self.objects.get(&key) {
                None if method == "HEAD" => whole(404, Vec::new(), false),
                None => refusal(404, "NoSuchKey"),
                Some((bytes, modified)) => {
                    let mut reply = whole(200, bytes.clone(), method == "GET");
                    if let Reply::Part(_, headers, ..) = &mut reply {
                        headers.push(("last-modified", http_date(*modified)));
                    }
                    reply
                }
            },
            _ => refusal(405, "MethodNotAllowed"),
        }
    }

    fn list(&self, query: &BTreeMap<String, String>) -> Reply {
        let of = |name: &str| query.get(name).map_or("", String::as_str);
        let most = of("max-keys").parse().unwrap_or(1000).min(1000);
        let after = of("start-after").max(of("continuation-token"));
        let mut keys = self
            .objects
            .iter()
            .filter(|(key, _)| key.starts_with(of("prefix")) && key.as_str() > after);
        let mut text = String::from(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?><ListBucketResult xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">",
        );
        let mut last = "";
        for (key, (bytes, modified)) in keys.by_ref().take(most) {
            last = key;
            write!(
                text,
                "<Contents><Key>{key}</Key><LastModified>{modified}</LastModified><Size>{}</Size></Contents>",
                bytes.len()
            )
            .expect("a string takes it");
        }
        let is_cut = keys.next().is_some();
        write!(text, "<IsTruncated>{is_cut}</IsTruncated>").expect("a string takes it");
        if is_cut {
            write!(text, "<NextContinuationToken>{last}</NextContinuationToken>")
                .expect("a string takes it");
        }
        text.push_str("</ListBucketResult>");
        whole(200, text.into_bytes(), true)
    }
}

fn http_date(at: Timestamp) -> String {
    let printer = jiff::fmt::rfc2822::DateTimePrinter::new();
    printer.timestamp_to_rfc9110_string(&at).unwrap_or_default()
}

fn whole(status: u16, body: Vec<u8>, has_body: bool) -> Reply {
    let sent = if has_body { body.len() } else { 0 };
    Reply::Part(status, vec![("date", http_date(now()))], body, sent)
}

fn refusal(status: u16, code: &str) -> Reply {
    whole(status, format!("<Error><Code>{code}</Code></Error>").into_bytes(), true)
}

/// What stands behind the bucket's name in a path.
fn key_of(path: &str) -> String {
    let path = path.split('?').next().unwrap_or_default();
    decoded(path.trim_start_matches('/').split_once('/').map_or("", |(_, key)| key))
}

fn query_of(path: &str) -> BTreeMap<String, String> {
    let query = path.split_once('?').map_or("", |(_, query)| query);
    let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    pairs.map(|(name, value)| (decoded(name), decoded(value))).collect()
}

/// Takes `%XX` apart.
fn decoded(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        let hex = (*first == b'%').then(|| tail.get(..2)).flatten();
        let byte = hex.and_then(|hex| u8::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok());
        bytes.push(byte.unwrap_or(*first));
        rest = if byte.is_some() { &tail[2..] } else { tail };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Whether a request is signed by whom we know, for this time.
fn check(got: &Got, now: Timestamp) -> Result<(), &'static str> {
    let query = query_of(&got.path);
    let of = |name: &str| query.get(name).map(String::as_str).ok_or("AccessDenied");
    if of("X-Amz-Algorithm")? != "AWS4-HMAC-SHA256" {
        return Err("InvalidRequest");
    }
    let (key, scope) = of("X-Amz-Credential")?.split_once('/').ok_or("InvalidRequest")?;
    if key != KEY {
        return Err("InvalidAccessKeyId");
    }
    if scope.split('/').nth(1) != Some(REGION) {
        return Err("AuthorizationHeaderMalformed");
    }
    let expires: i64 = of("X-Amz-Expires")?.parse().map_err(|_| "InvalidRequest")?;
    let at = of("X-Amz-Date")?;
    let format = "%Y%m%dT%H%M%SZ%z";
    let signed_at =
        Timestamp::strptime(format, format!("{at}+0000")).map_err(|_| "InvalidRequest")?;
    let age = now.as_second() - signed_at.as_second();
    if age > expires {
        return Err("AccessDenied");
    }
    if age < -SKEW {
        return Err("RequestTimeTooSkewed");
    }
    match signature(got, SECRET)? == of("X-Amz-Signature")? {
        true => Ok(()),
        false => Err("SignatureDoesNotMatch"),
    }
}

/// The signature that a request should have: AWS Signature Version 4, in a URL.
fn signature(got: &Got, secret: &str) -> Result<String, &'static str> {
    let query = query_of(&got.path);
    let of = |name: &str| query.get(name).map(String::as_str).ok_or("AccessDenied");
    let (path, pairs) = got.path.split_once('?').unwrap_or((&got.path, ""));
    let mut pairs: Vec<&str> =
        pairs.split('&').filter(|pair| !pair.starts_with("X-Amz-Signature=")).collect();
    pairs.sort_unstable();
    let signed = of("X-Amz-SignedHeaders")?;
    // Every header of Amazon's own has to be among them.
    let own = got.headers.keys().filter(|name| name.starts_with("x-amz-"));
    if !signed.split(';').any(|name| name == "host")
        || own.into_iter().any(|name| !signed.split(';').any(|one| one == name))
    {
        return Err("AccessDenied");
    }
    let mut canonical = format!("{}\n{path}\n{}\n", got.method, pairs.join("&"));
    for name in signed.split(';') {
        canonical.push_str(&format!("{name}:{}\n", got.header(name).trim()));
    }
    canonical.push_str(&format!("\n{signed}\nUNSIGNED-PAYLOAD"));
    let (_, scope) = of("X-Amz-Credential")?.split_once('/').ok_or("InvalidRequest")?;
    let to_sign = format!(
        "AWS4-HMAC-SHA256\n{}\n{scope}\n{}",
        of("X-Amz-Date")?,
        hex(digest::digest(&digest::SHA256, canonical.as_bytes()).as_ref())
    );
    let mut key = format!("AWS4{secret}").into_bytes();
    for part in scope.split('/').chain([to_sign.as_str()]) {
        key = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &key), part.as_bytes()).as_ref().into();
    }
    Ok(hex(&key))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A time long ago.
pub fn long_ago() -> Timestamp {
    Timestamp::try_from(SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000))
        .expect("it is a time")
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    /// The example of Amazon's own documentation of signed URLs.
    fn example(signature: &str) -> Got {
        let path = format!(
            "/test.txt?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=AKIAIOSFODNN7EXAMPLE%2F20130524%2Fus-east-1%2Fs3%2Faws4_request&X-Amz-Date=20130524T000000Z&X-Amz-Expires=86400&X-Amz-SignedHeaders=host&X-Amz-Signature={signature}"
        );
        let headers = [("host".into(), "examplebucket.s3.amazonaws.com".into())].into();
        let (method, body, bytes) = ("GET".into(), String::new(), Vec::new());
        Got { at: Instant::now(), method, path, headers, body, bytes }
    }

    #[test]
    fn the_arithmetic_is_that_of_amazon() {
        let found = signature(&example(""), "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY").unwrap();
        assert_eq!(found, "aeeed9bbccd4d02ee5c0109b86d86835f995330da4c265957d157751f604d404");
        assert_ne!(signature(&example(""), "another").unwrap(), found);
    }
}
