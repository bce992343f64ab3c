//! Input that nobody would send on purpose: good and hostile examples, changed by chance.
//!
//! It knows nothing of the code's branches, as a coverage-guided fuzzer does, and so finds less; it
//! needs no other compiler, and runs with every test.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use crate::trial::{Dice, Trial};

/// The longest that one input may take, on a busy machine.
const TIME_MAX: Duration = Duration::from_secs(5);
/// The longest input.
const LENGTH_MAX: usize = 64 * 1024;
/// How many changes an input gets, at most.
const CHANGES_MAX: usize = 8;

/// Examples that inputs are made of.
#[derive(Debug, Clone)]
pub struct Corpus(Vec<Vec<u8>>);

impl Corpus {
    /// # Panics
    /// Without any example.
    pub fn new(examples: impl IntoIterator<Item = impl Into<Vec<u8>>>) -> Self {
        let examples: Vec<Vec<u8>> = examples.into_iter().map(Into::into).collect();
        assert!(!examples.is_empty(), "there is nothing to change");
        Self(examples)
    }

    fn example(&self, dice: &mut Dice) -> &[u8] {
        &self.0[dice.below(self.0.len())]
    }

    /// One of them, changed by chance.
    pub fn input(&self, dice: &mut Dice) -> Vec<u8> {
        let mut input = self.example(dice).to_vec();
        for _ in 0..dice.below(CHANGES_MAX + 1) {
            let at = dice.below(input.len() + 1);
            let end = at + dice.below((input.len() - at).min(64) + 1);
            match dice.below(7) {
                0 => input.truncate(at),
                1 => drop(input.drain(at..end)),
                2 => {
                    let length = dice.below(32);
                    let bytes = dice.bytes(length);
                    input.splice(at..at, bytes);
                }
                3 => {
                    let other = self.example(dice).to_vec();
                    input.splice(at..end, other);
                }
                4 => {
                    let piece = input[at..end].repeat(1 + dice.below(200));
                    input.splice(at..end, piece);
                }
                5 => {
                    // Lengths and numbers go wrong at their ends.
                    const EDGES: [u8; 6] = [0, 1, 0x7f, 0x80, 0xfe, 0xff];
                    let edge = EDGES[dice.below(EDGES.len())];
                    input[at..end].fill(edge);
                }
                _ => {
                    if let Some(byte) = input.get_mut(at) {
                        *byte ^= 1 << dice.below(8);
                    }
                }
            }
            input.truncate(LENGTH_MAX);
        }
        input
    }
}

/// Whether `take` bears an input: no panic, within time, and with nothing to complain of itself.
pub fn bears(input: &[u8], take: impl FnOnce(&[u8]) -> Result<(), String>) -> Result<(), String> {
    let began = Instant::now();
    // Whatever a panic leaves half done is not used again.
    let taken = catch_unwind(AssertUnwindSafe(|| take(input)));
    let took = began.elapsed();
    let held = match taken {
        Ok(Ok(())) if took > TIME_MAX => Err(format!("takes {took:?}")),
        Ok(held) => held,
        Err(_) => Err("panics".into()),
    };
    held.map_err(|found| format!("{found}: b\"{}\"", input.escape_ascii()))
}

/// Tries so many inputs.
pub fn fuzz(
    trial: &mut Trial,
    dice: &mut Dice,
    times: usize,
    corpus: &Corpus,
    take: impl Fn(&[u8]) -> Result<(), String>,
) {
    for _ in 0..times {
        let input = corpus.input(dice);
        let began = Instant::now();
        trial.tried(bears(&input, &take));
        trial.measured("an input", began.elapsed());
    }
}

/// The most that this process ever had in memory, in bytes.
///
/// # Panics
/// If the kernel does not say.
pub fn peak_memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("it is readable");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kilobytes = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    kilobytes.expect("a number of kilobytes") * 1024
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_makes_the_same_inputs() {
        let corpus = Corpus::new(["one example", "and another"]);
        let inputs = |seed| {
            let mut dice = Dice::of(seed);
            (0..100).map(|_| corpus.input(&mut dice)).collect::<Vec<_>>()
        };
        assert_eq!(inputs(7), inputs(7));
        assert_ne!(inputs(7), inputs(8));
        assert!(inputs(7).iter().all(|input| input.len() <= LENGTH_MAX));
    }

    #[test]
    fn what_panics_or_complains_is_noticed() {
        bears(b"fine", |_| Ok(())).unwrap();
        assert!(
            bears(b"\xff", |_| panic!("on purpose")).unwrap_err().starts_with("panics: b\"\\xff")
        );
        assert!(bears(b"x", |_| Err("too large".into())).unwrap_err().starts_with("too large"));
    }
}
