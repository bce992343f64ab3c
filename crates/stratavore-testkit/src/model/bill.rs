//! What the stand-in would have billed: the truth that ledgers are compared with.

use std::fmt;
use std::iter::Sum;
use std::ops::Add;

use super::{Protocol, Purpose};

/// Tokens by kind. No token is in two of them, whatever the protocol's own figures contain.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Read by the model and neither taken from its cache nor put there.
    pub input: u64,
    pub cache_read: u64,
    pub cache_write_5m: u64,
    pub cache_write_1h: u64,
    /// Written by the model, without what it thought.
    pub output: u64,
    pub reasoning: u64,
}

impl Usage {
    /// What the request with this number uses unless its reply says otherwise.
    ///
    /// Each kind grows by another step, so that a sum shows which request was missed or counted
    /// twice. Kinds that the protocol cannot tell are zero.
    pub fn of_request(protocol: Protocol, number: u64) -> Self {
        let all = Self {
            input: 1_000 + 7 * number,
            cache_read: 20_000 + 101 * number,
            cache_write_5m: 300 + 13 * number,
            cache_write_1h: 200 + 11 * number,
            output: 40 + 3 * number,
            reasoning: 60 + 5 * number,
        };
        match protocol {
            Protocol::Messages => Self { reasoning: 0, ..all },
            Protocol::Responses => Self { cache_write_1h: 0, ..all },
            Protocol::Chat | Protocol::Gemini => {
                Self { cache_write_5m: 0, cache_write_1h: 0, ..all }
            }
        }
    }

    pub fn cache_write(&self) -> u64 {
        self.cache_write_5m + self.cache_write_1h
    }

    pub fn total(&self) -> u64 {
        self.input + self.cache_read + self.cache_write() + self.output + self.reasoning
    }
}

impl Add for Usage {
    type Output = Usage;

    fn add(self, other: Usage) -> Usage {
        Usage {
            input: self.input + other.input,
            cache_read: self.cache_read + other.cache_read,
            cache_write_5m: self.cache_write_5m + other.cache_write_5m,
            cache_write_1h: self.cache_write_1h + other.cache_write_1h,
            output: self.output + other.output,
            reasoning: self.reasoning + other.reasoning,
        }
    }
}

impl Sum for Usage {
    fn sum<I: Iterator<Item = Usage>>(all: I) -> Usage {
        all.fold(Usage::default(), Add::add)
    }
}

/// How far an answer came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Still being written, or held.
    Open,
    /// Its last byte was handed over.
    Complete,
    /// It was cut, by the script or because whoever asked is gone; the final figures were never sent.
    Dropped,
}

/// One request that was answered, and what it cost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The request's place among all, from 1, refused ones included.
    pub number: u64,
    pub protocol: Protocol,
    /// As the client sees it in a header: `request-id`, `x-request-id`. Gemini has none.
    pub request_id: String,
    /// As the client sees it in the body: a message's, response's or completion's id, `responseId`.
    pub message_id: String,
    pub model: String,
    pub purpose: Purpose,
    /// Of a dropped answer, what it would have told in the end.
    pub usage: Usage,
    pub outcome: Outcome,
}

/// All that was billed, in the order of the requests.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Bill {
    pub entries: Vec<Entry>,
}

impl Bill {
    /// The part whose final figures were sent.
    pub fn complete(&self) -> Bill {
        self.only(|entry| entry.outcome == Outcome::Complete)
    }

    /// The part for one purpose.
    pub fn of(&self, purpose: Purpose) -> Bill {
        self.only(|entry| entry.purpose == purpose)
    }

    pub fn only(&self, wanted: impl Fn(&Entry) -> bool) -> Bill {
        Bill { entries: self.entries.iter().filter(|entry| wanted(entry)).cloned().collect() }
    }

    pub fn usage(&self) -> Usage {
        self.entries.iter().map(|entry| entry.usage).sum()
    }

    pub fn purposes(&self) -> Vec<Purpose> {
        self.entries.iter().map(|entry| entry.purpose).collect()
    }
}

/// A line per entry, for whoever reads a failed test.
impl fmt::Display for Bill {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for entry in &self.entries {
            let Usage { input, cache_read, output, reasoning, .. } = entry.usage;
            writeln!(
                f,
                "{} {:?} {:?} {:?} {} {}: input {input}, cache read {cache_read}, cache write {}, \
                 output {output}, reasoning {reasoning}",
                entry.number,
                entry.protocol,
                entry.purpose,
                entry.outcome,
                entry.model,
                entry.message_id,
                entry.usage.cache_write(),
            )?;
        }
        Ok(())
    }
}
