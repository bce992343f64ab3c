//! What tests count and measure, and how much of it they do.

use std::time::Duration;

/// Whether the long tests were asked for.
pub(crate) fn is_long() -> bool {
    std::env::var_os("STRATAVORE_TEST_LONG").is_some_and(|value| !value.is_empty() && value != "0")
}

/// Durations that a test has measured.
#[derive(Debug)]
pub(crate) struct Figures {
    what: String,
    measured: Vec<Duration>,
}

impl Figures {
    pub(crate) fn new(what: String) -> Self {
        Self { what, measured: Vec::new() }
    }

    pub(crate) fn push(&mut self, duration: Duration) {
        self.measured.push(duration);
    }

    pub(crate) fn extend(&mut self, durations: Vec<Duration>) {
        self.measured.extend(durations);
    }

    pub(crate) fn max(&self) -> Duration {
        self.measured.iter().copied().max().unwrap_or_default()
    }

    /// Tells them to whoever reads the test's output.
    #[expect(clippy::print_stderr, reason = "figures are for the reader of the test's output")]
    pub(crate) fn tell(&self) {
        let mut sorted = self.measured.clone();
        sorted.sort();
        let p50 = sorted.get(sorted.len() / 2).copied().unwrap_or_default();
        let (what, n, max) = (&self.what, sorted.len(), self.max());
        eprintln!("figure: {what}: n {n}, p50 {} ms, max {} ms", p50.as_millis(), max.as_millis());
    }
}

/// Dice that fall the same way for the same seed, which is told if the test fails.
#[derive(Debug)]
pub(crate) struct Dice {
    #[expect(dead_code, reason = "it is in the text of a failure")]
    seed: u64,
    state: u64,
}

impl Dice {
    /// From `STRATAVORE_TEST_SEED`, or new ones.
    #[expect(clippy::print_stderr, reason = "a failure can be repeated by its seed")]
    pub(crate) fn new() -> Self {
        let given = std::env::var("STRATAVORE_TEST_SEED").ok().and_then(|seed| seed.parse().ok());
        let seed = given.unwrap_or_else(|| {
            use std::hash::{BuildHasher, Hasher};
            // Each is keyed at random by the standard library.
            std::hash::RandomState::new().build_hasher().finish()
        });
        eprintln!("seed: STRATAVORE_TEST_SEED={seed}");
        Self { seed, state: seed }
    }

    /// One of 0, 1, …, `sides` - 1 (splitmix64).
    pub(crate) fn below(&mut self, sides: usize) -> usize {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) as usize % sides
    }
}
