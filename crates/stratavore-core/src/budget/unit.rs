//! What a budget counts, and how people write it.

use serde::{Deserialize, Serialize};

use crate::price::parse_dollars;

/// What is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    /// All kinds together.
    Tokens,
    /// In millionths of a US dollar.
    Money,
    /// That runners run, in milliseconds.
    Time,
}

impl Unit {
    pub const ALL: [Unit; 3] = [Self::Tokens, Self::Money, Self::Time];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tokens => "tokens",
            Self::Money => "money",
            Self::Time => "time",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|unit| unit.as_str() == text)
    }

    /// How much of it a message was.
    pub fn of(self, tokens: i64, cost: i64) -> i64 {
        match self {
            Self::Tokens => tokens,
            Self::Money => cost,
            Self::Time => 0,
        }
    }

    /// Reads an amount as people write it: `2M` or `500k` tokens, `12.50` dollars, `1h30m` of time.
    pub fn read(self, text: &str) -> Option<i64> {
        let amount = match self {
            Self::Tokens => {
                let text = text.strip_suffix("tokens").unwrap_or(text).trim_end();
                let (number, factor) = match text.as_bytes().last()? {
                    b'k' | b'K' => (&text[..text.len() - 1], 1_000),
                    b'M' | b'm' => (&text[..text.len() - 1], 1_000_000),
                    b'G' | b'g' => (&text[..text.len() - 1], 1_000_000_000),
                    _ => (text, 1),
                };
                let plain: String = number.chars().filter(|c| !matches!(c, ',' | '_')).collect();
                // In millionths, so that 1.5M is exact; what is less than a token is no amount.
                let millionths = u128::from(parse_dollars(&plain)?) * factor;
                (millionths % 1_000_000 == 0).then_some(millionths / 1_000_000)?
            }
            Self::Money => {
                let text = text.strip_suffix("USD").unwrap_or(text).trim_end();
                u128::from(parse_dollars(text.strip_prefix('$').unwrap_or(text))?)
            }
            Self::Time => {
                let mut rest = text;
                let mut total: u128 = 0;
                while !rest.is_empty() {
                    let digits = rest.find(|c: char| !c.is_ascii_digit())?;
                    let number: u64 = rest[..digits].parse().ok()?;
                    let letters = rest[digits..].find(|c: char| c.is_ascii_digit());
                    let (unit, after) =
                        rest[digits..].split_at(letters.unwrap_or(rest.len() - digits));
                    let millis: u128 = match unit {
                        "s" => 1_000,
                        "m" | "min" => 60_000,
                        "h" => 3_600_000,
                        "d" => 86_400_000,
                        _ => return None,
                    };
                    total = total.checked_add(u128::from(number) * millis)?;
                    rest = after;
                }
                total
            }
        };
        i64::try_from(amount).ok().filter(|amount| *amount > 0)
    }

    /// An amount with its unit, for people. Money is to the cent; of less than a dollar, to the
    /// hundredth of one. What is cut off is cut off towards zero.
    pub fn show(self, amount: i64) -> String {
        let sign = if amount < 0 { "-" } else { "" };
        let all = amount.unsigned_abs();
        match self {
            Self::Tokens => format!("{sign}{} tokens", grouped(all)),
            Self::Money if all < 1_000_000 => {
                format!("{sign}{}.{:04} USD", all / 1_000_000, all % 1_000_000 / 100)
            }
            Self::Money => {
                let (dollars, cents) = (all / 1_000_000, all % 1_000_000 / 10_000);
                format!("{sign}{}.{cents:02} USD", grouped(dollars))
            }
            Self::Time => {
                let seconds = all / 1000;
                let (h, m, s) = (seconds / 3600, seconds % 3600 / 60, seconds % 60);
                match (h, m) {
                    (0, 0) => format!("{sign}{s} s"),
                    (0, m) => format!("{sign}{m} min {s:02} s"),
                    (h, m) => format!("{sign}{h} h {m:02} min"),
                }
            }
        }
    }
}

/// `1234567` as `1,234,567`.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}
