//! What servers answer, as far as it is looked into.

use stratavore_notify::Answered;

/// A URL from its path on.
pub(super) fn path_of(url: &str) -> &str {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    rest.find('/').map_or("/", |at| &rest[at..])
}

/// What a server says of what it does not do: the status, and the name of the fault.
pub(super) fn said(answered: &Answered) -> String {
    let status = answered.status;
    match code(answered) {
        Some(code) => format!("it answers {status} {code}"),
        None => format!("it answers {status}"),
    }
}

/// `<Code>` of an answer, if that is one.
fn code(answered: &Answered) -> Option<String> {
    let body = String::from_utf8_lossy(answered.body.as_ref().ok()?);
    let (_, rest) = body.split_once("<Code>")?;
    let (code, _) = rest.split_once("</Code>")?;
    let is_code = code.len() <= 64 && code.bytes().all(|b| b.is_ascii_alphanumeric());
    is_code.then(|| code.to_owned())
}

/// The bucket is there, and the blob is not.
pub(super) fn is_no_such_key(answered: &Answered) -> bool {
    answered.status == 404 && code(answered).is_none_or(|code| code == "NoSuchKey")
}
