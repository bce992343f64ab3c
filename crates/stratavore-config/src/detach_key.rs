//! The keys that detach a viewer, such as `ctrl-q` or `ctrl-a d`.

use std::fmt;
use std::str::FromStr;

/// Keys to be pressed one after the other. The first is a control key, since any other is typed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DetachKey {
    keys: Vec<Key>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Key {
    /// By its character in lower case.
    Control(u8),
    Plain(u8),
}

/// Why a text names no keys to detach with.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DetachKeyError {
    #[error("no key is named")]
    Empty,
    #[error("more than {MOST} keys are named")]
    TooMany,
    #[error("`{}` is no key: write `ctrl-` and a letter or one of `\\ ] ^ _ @`, or one character", .0.escape_debug())]
    Unknown(String),
    #[error(
        "the first key must be a control key, such as `ctrl-a`, since `{0}` is typed all the time"
    )]
    PlainFirst(char),
    #[error("`ctrl-{0}` is the same key as {1}")]
    Taken(char, &'static str),
}

const MOST: usize = 4;

impl DetachKey {
    /// What a terminal sends for these keys without any keyboard protocol.
    pub fn bytes(&self) -> Vec<u8> {
        self.keys.iter().map(|key| key.byte()).collect()
    }

    /// For each key in turn, everything that a terminal may send for it. A runner may have
    /// switched the viewer's terminal to the kitty keyboard protocol or to xterm's
    /// `modifyOtherKeys`, and then the plain byte never comes.
    pub fn forms(&self) -> Vec<Vec<Vec<u8>>> {
        self.keys.iter().map(|key| key.forms()).collect()
    }
}

impl Key {
    fn byte(self) -> u8 {
        match self {
            Self::Control(c) => c.to_ascii_uppercase() & 0x1f,
            Self::Plain(c) => c,
        }
    }

    fn forms(self) -> Vec<Vec<u8>> {
        let (code, modifiers) = match self {
            Self::Control(c) => (c, "5"),
            Self::Plain(c) => (c, "1"),
        };
        vec![
            vec![self.byte()],
            format!("\x1b[{code};{modifiers}u").into_bytes(),
            format!("\x1b[{code};{modifiers}:1u").into_bytes(),
            format!("\x1b[27;{modifiers};{code}~").into_bytes(),
        ]
    }
}

impl Default for DetachKey {
    /// `ctrl-q`: on one hand, free in shells and in the assistants, and not a signal.
    fn default() -> Self {
        Self { keys: vec![Key::Control(b'q')] }
    }
}

impl FromStr for DetachKey {
    type Err = DetachKeyError;

    fn from_str(text: &str) -> Result<Self, DetachKeyError> {
        let mut keys = Vec::new();
        for word in text.split_whitespace() {
            let unknown = || DetachKeyError::Unknown(word.into());
            let lower = word.to_ascii_lowercase();
            let key = match (lower.strip_prefix("ctrl-"), word.as_bytes()) {
                (Some(rest), _) => match *rest.as_bytes() {
                    [c @ (b'a'..=b'z' | b'[' | b'\\' | b']' | b'^' | b'_' | b'@')] => {
                        Key::Control(c)
                    }
                    _ => return Err(unknown()),
                },
                (None, &[c @ b'!'..=b'~']) => Key::Plain(c),
                (None, _) => return Err(unknown()),
            };
            keys.push(key);
        }
        if keys.len() > MOST {
            return Err(DetachKeyError::TooMany);
        }
        match keys.first() {
            None => Err(DetachKeyError::Empty),
            Some(Key::Plain(c)) => Err(DetachKeyError::PlainFirst(char::from(*c))),
            Some(Key::Control(c)) => {
                let same = match c {
                    b'm' | b'j' => "enter",
                    b'i' => "tab",
                    b'[' => "escape",
                    b'h' => "backspace in many terminals",
                    b'c' => "the one that interrupts the runner",
                    _ => return Ok(Self { keys }),
                };
                Err(DetachKeyError::Taken(char::from(*c), same))
            }
        }
    }
}

impl fmt::Display for DetachKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (nth, key) in self.keys.iter().enumerate() {
            let space = if nth == 0 { "" } else { " " };
            match key {
                Key::Control(c) => write!(f, "{space}ctrl-{}", char::from(*c))?,
                Key::Plain(c) => write!(f, "{space}{}", char::from(*c))?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_read_and_shown() {
        for (text, bytes) in [
            ("ctrl-q", b"\x11".as_slice()),
            ("ctrl-\\", b"\x1c"),
            ("Ctrl-A d", b"\x01d"),
            ("ctrl-@", b"\0"),
            ("ctrl-b D", b"\x02D"),
        ] {
            let key: DetachKey = text.parse().unwrap();
            assert_eq!(key.bytes(), bytes, "{text}");
            assert_eq!(key.to_string().parse::<DetachKey>().unwrap(), key, "{text}");
        }
        assert_eq!(DetachKey::default().to_string(), "ctrl-q");
    }

    #[test]
    fn what_cannot_work_is_refused() {
        for text in [
            "",
            "q",
            "d ctrl-a",
            "ctrl-",
            "ctrl-qq",
            "ctrl-1",
            "alt-x",
            "ctrl-m",
            "ctrl-[",
            "ctrl-c",
            "ctrl-a a b c d",
        ] {
            assert!(text.parse::<DetachKey>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn every_keyboard_protocol_is_known() {
        let forms = "ctrl-q d".parse::<DetachKey>().unwrap().forms();
        assert!(
            forms[0].contains(&b"\x11".to_vec()) && forms[0].contains(&b"\x1b[113;5u".to_vec())
        );
        assert!(forms[0].contains(&b"\x1b[27;5;113~".to_vec()));
        assert!(forms[1].contains(&b"d".to_vec()));
    }
}
