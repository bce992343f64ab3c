//! `.aider.chat.history.md`: what was said in a directory, all of it in one file that grows.
//!
//! It is meant for people and for aider itself: no ids, no time but that of each start (of the clock on the
//! wall, without its zone), and figures that are rounded. So a file is one conversation, which is called
//! by its path; what was said is as old as the start before it; and nothing of it is in the ledger.
//!
//! A message is over once a line of another kind comes. After an answer that is what it cost.

use std::path::{Path, PathBuf};

use jiff::Timestamp;
use jiff::civil::DateTime;
use stratavore_core::message::{Message, Place, Role};
use stratavore_core::observation::{Observation, SessionSeen};

use crate::adapter::Memory;
use crate::told::cut;

const FILE: &str = ".aider.chat.history.md";
const STARTED: &str = "# aider chat started at ";
const ASKED: &str = "#### ";
/// What aider itself says.
const TOLD: &str = "> ";
const MODEL: &str = "> Model: ";
/// What is typed to have it end is said to nobody.
const ENDS: [&str; 2] = ["/exit", "/quit"];
/// The most bytes of a message that are kept until it is over.
const TEXT_MAX: usize = 64 << 10;

/// Names in the memory: of the message that is not over yet, and when aider was started.
const ROLE: &str = "role";
const TEXT: &str = "text";
const BEGINS: &str = "begins";
const SECOND: &str = "second";

/// The file of a directory, if there is one.
pub(super) fn found_in(directory: &Path) -> Option<PathBuf> {
    Some(directory.join(FILE)).filter(|path| path.is_file())
}

pub(super) fn is_one(place: &Place) -> bool {
    Path::new(&place.file).file_name().is_some_and(|name| name == FILE)
}

/// What one line of it says.
pub(super) fn line(memory: &mut Memory, line: &[u8], place: &Place) -> Vec<Observation> {
    let text = String::from_utf8_lossy(line);
    let text = text.trim_end();
    if let Some(time) = text.strip_prefix(STARTED) {
        let at = time.trim().parse::<DateTime>().ok();
        let at = at.and_then(|at| at.to_zoned(jiff::tz::TimeZone::UTC).ok());
        let Some(at) = at.map(|at| at.timestamp()) else { return Vec::new() };
        let mut seen: Vec<_> = over(memory, place).into_iter().collect();
        memory.more.insert(SECOND.into(), at.as_second().to_string());
        let session = memory.session.insert(session(place)).clone();
        seen.push(Observation::Session(SessionSeen {
            session,
            directory: Path::new(&place.file).parent().map(|dir| dir.display().to_string()),
            transcript: Some(place.file.clone()),
            at: Some(at),
            ..SessionSeen::default()
        }));
        return seen;
    }
    if memory.session.is_none() || text.is_empty() {
        return Vec::new();
    }
    if let Some(asked) = text.strip_prefix(ASKED) {
        return goes_on(memory, Role::User, asked, place);
    }
    if text == TOLD.trim_end() || text.starts_with(TOLD) {
        if let Some(model) = text.strip_prefix(MODEL) {
            memory.model = model.split_whitespace().next().map(Into::into);
        }
        return over(memory, place).into_iter().collect();
    }
    goes_on(memory, Role::Assistant, text, place)
}

/// Adds a line to the message that is being said, or begins one.
fn goes_on(memory: &mut Memory, role: Role, text: &str, place: &Place) -> Vec<Observation> {
    let same = memory.more.get(ROLE).map(String::as_str) == Some(role.as_str());
    let before = if same { None } else { over(memory, place) };
    match memory.more.get_mut(TEXT) {
        Some(said) if said.len() + text.len() < TEXT_MAX => {
            said.push('\n');
            said.push_str(text);
        }
        Some(_) => {}
        None => {
            memory.more.insert(TEXT.into(), cut(text, TEXT_MAX));
            memory.more.insert(ROLE.into(), role.as_str().into());
            memory.more.insert(BEGINS.into(), place.offset.to_string());
        }
    }
    before.into_iter().collect()
}

/// The message that was being said, which is whole now.
fn over(memory: &mut Memory, place: &Place) -> Option<Observation> {
    let text = memory.more.remove(TEXT)?;
    let role = memory.more.remove(ROLE)?;
    let begins: u64 = memory.more.remove(BEGINS)?.parse().ok()?;
    let role = if role == Role::User.as_str() { Role::User } else { Role::Assistant };
    let second = memory.more.get(SECOND).and_then(|second| second.parse().ok())?;
    if role == Role::User && ENDS.contains(&text.trim()) {
        return None;
    }
    Some(Observation::Message(Message {
        id: format!("{second}/{begins}"),
        session: memory.session.clone()?,
        role,
        at: Timestamp::from_second(second).ok()?,
        model: memory.model.clone().filter(|_| role == Role::Assistant),
        text,
        place: Place { offset: begins, ..place.clone() },
    }))
}

/// What a file's conversation is called: it has no name of its own (FNV-1a).
fn session(place: &Place) -> String {
    let bytes = place.file.bytes();
    let hash = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    format!("aider-{hash:016x}")
}
