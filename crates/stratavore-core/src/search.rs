//! What is looked for in conversations, and what is found.

use std::ops::Range;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::message::{Place, Role};
use crate::name::Name;
use crate::words::{fold_into, spans, words};
use crate::{ProjectId, SessionId};

/// The most characters of a query, and the most things that it may ask for.
pub const QUERY_MAX: usize = 1000;
pub const TERMS_MAX: usize = 32;

/// The most results of one search, however they are paged through.
pub const RESULTS_MAX: u32 = 200;

/// One word, or several that stand one after another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Term {
    /// Folded, and never none.
    pub words: Vec<String>,
    /// The last word is the beginning of one.
    pub is_prefix: bool,
}

/// A query: all of `wanted`, and none of `unwanted`.
///
/// `words like these`, `"a phrase"`, `-without`, `begin*`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Query {
    pub wanted: Vec<Term>,
    pub unwanted: Vec<Term>,
    /// What was typed.
    pub text: String,
}

/// Why nothing can be looked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum QueryError {
    #[error("there is no word in it; say what to look for, such as: fix \"race condition\" -flaky")]
    NoWord,
    #[error("it only says what is not wanted; add a word that is")]
    OnlyUnwanted,
    #[error("it has {0} characters, and the limit is {QUERY_MAX}")]
    TooLong(usize),
    #[error("it asks for {0} things, and the limit is {TERMS_MAX}")]
    TooMuch(usize),
}

impl Query {
    pub fn parse(text: &str) -> Result<Self, QueryError> {
        let length = text.chars().count();
        if length > QUERY_MAX {
            return Err(QueryError::TooLong(length));
        }
        let mut query =
            Query { wanted: Vec::new(), unwanted: Vec::new(), text: text.trim().into() };
        let mut rest = text.trim_start();
        while !rest.is_empty() {
            let (is_unwanted, after) = match rest.strip_prefix('-') {
                Some(after) if !after.starts_with(char::is_whitespace) => (true, after),
                Some(_) | None => (false, rest),
            };
            let (piece, is_quoted, after) = match after.strip_prefix('"') {
                // A quote that is never closed reaches to the end.
                Some(inner) => match inner.split_once('"') {
                    Some((piece, after)) => (piece, true, after),
                    None => (inner, true, ""),
                },
                None => {
                    let end = after.find(char::is_whitespace).unwrap_or(after.len());
                    (&after[..end], false, &after[end..])
                }
            };
            let words = words(piece);
            if !words.is_empty() {
                let is_prefix = !is_quoted && piece.ends_with('*');
                let term = Term { words, is_prefix };
                if is_unwanted { &mut query.unwanted } else { &mut query.wanted }.push(term);
            }
            rest = after.trim_start();
        }
        let terms = query.wanted.len() + query.unwanted.len();
        match (query.wanted.is_empty(), terms) {
            (true, 0) => Err(QueryError::NoWord),
            (true, _) => Err(QueryError::OnlyUnwanted),
            (false, terms) if terms > TERMS_MAX => Err(QueryError::TooMuch(terms)),
            (false, _) => Ok(query),
        }
    }

    /// Whether a text has something that is not wanted.
    pub fn forbids(&self, text: &str) -> bool {
        if self.unwanted.is_empty() {
            return false;
        }
        let words = words(text);
        self.unwanted.iter().any(|term| {
            let last = term.words.len() - 1;
            words.windows(term.words.len()).any(|window| {
                window.iter().zip(&term.words).enumerate().all(|(at, (found, unwanted))| {
                    found == unwanted
                        || (term.is_prefix && at == last && found.starts_with(&**unwanted))
                })
            })
        })
    }

    /// Whether a folded word is one that is looked for.
    fn wants(&self, word: &str) -> bool {
        self.wanted.iter().any(|term| {
            let last = term.words.len() - 1;
            term.words.iter().enumerate().any(|(at, wanted)| {
                wanted == word || (term.is_prefix && at == last && word.starts_with(&**wanted))
            })
        })
    }
}

/// Where and when to look; an empty one looks everywhere.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SearchFilter {
    pub project: Option<ProjectId>,
    pub session: Option<SessionId>,
    pub assistant: Option<Name>,
    pub role: Option<Role>,
    pub since: Option<Timestamp>,
    pub until: Option<Timestamp>,
}

/// A piece of a message's text; `is_match` is what was looked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Piece {
    pub text: String,
    #[serde(rename = "match")]
    pub is_match: bool,
}

/// By what a message was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FoundBy {
    Words,
    Meaning,
    Both,
}

impl FoundBy {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Words => "words",
            Self::Meaning => "meaning",
            Self::Both => "both",
        }
    }
}

/// One result. Untrusted text, as the message is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Hit {
    pub session: SessionId,
    pub project: ProjectId,
    pub assistant: Name,
    /// The conversation and the message, as the assistant names them.
    pub external_id: Option<String>,
    pub message: String,
    pub role: Role,
    pub at: Timestamp,
    pub model: Option<String>,
    pub snippet: Vec<Piece>,
    pub place: Place,
    pub score: f64,
    pub found_by: FoundBy,
}

/// The most bytes of a snippet.
pub const SNIPPET_MAX: usize = 240;

/// The part of `text` that has the most of what was looked for, with that marked.
///
/// Whitespace is one space, and characters that control a terminal are left out, so a piece may be
/// shown on one line. It is still untrusted text.
pub fn snippet(text: &str, query: &Query) -> Vec<Piece> {
    let mut word = String::new();
    let matches: Vec<Range<usize>> = spans(text)
        .filter(|span| {
            word.clear();
            fold_into(&mut word, &text[span.clone()]);
            query.wants(&word)
        })
        .take(MATCHES_LOOKED_AT)
        .collect();
    let begin = best_begin(text, &matches);
    let end = floor(text, (begin + SNIPPET_MAX).min(text.len()));
    let mut pieces = Vec::new();
    if begin > 0 {
        push(&mut pieces, "…", false);
    }
    let mut at = begin;
    for span in matches.iter().filter(|span| span.start >= begin && span.end <= end) {
        push(&mut pieces, &text[at..span.start], false);
        push(&mut pieces, &text[span.clone()], true);
        at = span.end;
    }
    push(&mut pieces, &text[at..end], false);
    if end < text.len() {
        push(&mut pieces, "…", false);
    }
    pieces
}

const MATCHES_LOOKED_AT: usize = 2000;
/// How much stands before the first match.
const LEAD: usize = 48;

/// Where the window with the most different words begins.
fn best_begin(text: &str, matches: &[Range<usize>]) -> usize {
    let mut best = (0, 0);
    for (at, span) in matches.iter().enumerate() {
        let mut seen: Vec<String> = Vec::new();
        let mut count = 0;
        let near = matches[at..].iter().take_while(|m| m.end <= span.start + SNIPPET_MAX - LEAD);
        for found in near {
            let mut word = String::new();
            fold_into(&mut word, &text[found.clone()]);
            // A further word is worth more than the same one again.
            count += if seen.contains(&word) { 1 } else { 16 };
            seen.push(word);
            if seen.len() == TERMS_MAX {
                break;
            }
        }
        if count > best.0 {
            best = (count, span.start);
        }
    }
    if best.1 <= LEAD {
        return 0;
    }
    let begin = floor(text, best.1 - LEAD);
    // Not in the middle of a word, if there is a gap near.
    match text[begin..best.1].find(char::is_whitespace) {
        Some(gap) => begin + gap,
        None => begin,
    }
}

fn floor(text: &str, mut at: usize) -> usize {
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}

fn push(pieces: &mut Vec<Piece>, text: &str, is_match: bool) {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_whitespace() {
            if !shown.ends_with(' ') {
                shown.push(' ');
            }
        } else if !c.is_control() && !is_invisible(c) {
            shown.push(c);
        }
    }
    if shown.is_empty() {
        return;
    }
    match pieces.last_mut() {
        Some(last) if last.is_match == is_match => last.text.push_str(&shown),
        Some(_) | None => pieces.push(Piece { text: shown, is_match }),
    }
}

/// What turns text around, or is not seen.
fn is_invisible(c: char) -> bool {
    matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

/// How much the first ranks count over later ones when two lists become one.
const FUSION: f64 = 60.0;

/// What a place in a list, from 0, adds to the score of what stands there (reciprocal rank fusion).
pub fn rank_score(rank: usize) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "ranks are small")]
    let rank = rank as f64;
    1.0 / (FUSION + rank + 1.0)
}

#[cfg(test)]
mod tests;
