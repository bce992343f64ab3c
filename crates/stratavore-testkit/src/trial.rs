//! A promise that is put to the test many times: how often it was tried, how often it was broken,
//! what was measured, and whether the check notices a promise that is broken on purpose.
//!
//! With [`REPORT_VARIABLE`] set, each trial appends one line of JSON to that file when it ends,
//! however it ends; `cargo xtask reliability` makes `RELIABILITY.md` of them.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::Write;
use std::path::PathBuf;
use std::sync::Once;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::json;

/// Names the file that takes a line for each trial.
pub const REPORT_VARIABLE: &str = "STRATAVORE_RELIABILITY_REPORT";
/// Set, and neither empty nor `0`: the full counts.
pub const LONG_VARIABLE: &str = "STRATAVORE_TEST_LONG";
/// The seed of a run that is to be repeated.
pub const SEED_VARIABLE: &str = "STRATAVORE_TEST_SEED";

/// How many broken promises are told in words; all are counted.
const TOLD: usize = 5;

thread_local! {
    /// What the last panic of this thread has said.
    static PANIC: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Whether the full counts were asked for.
pub fn is_long() -> bool {
    std::env::var_os(LONG_VARIABLE).is_some_and(|value| !value.is_empty() && value != "0")
}

/// One of two counts: for every change, or for a long run.
pub fn scale(short: usize, long: usize) -> usize {
    if is_long() { long } else { short }
}

/// A promise under test.
///
/// [`Trial::end`] judges it. One that is dropped before, by a panic, counts as broken.
#[derive(Debug)]
pub struct Trial {
    /// The test's name in `RELIABILITY.md`, as `T-SURV`.
    test: String,
    /// What was done and what must hold, in a few words.
    promise: String,
    seed: Option<u64>,
    n: usize,
    broken: usize,
    words: Vec<String>,
    /// Microseconds.
    measured: BTreeMap<String, Vec<u64>>,
    counted: BTreeMap<String, u64>,
    most: BTreeMap<String, u64>,
    /// What was broken on purpose, and whether the check noticed.
    controls: Vec<(String, bool)>,
    ended: bool,
    /// Milliseconds of the host's clock.
    began: u64,
    /// Takes the line.
    report: Option<PathBuf>,
}

impl Trial {
    pub fn new(test: &str, promise: &str) -> Self {
        keep_what_panics_say();
        Self {
            test: test.into(),
            promise: promise.into(),
            seed: None,
            n: 0,
            broken: 0,
            words: Vec::new(),
            measured: BTreeMap::new(),
            counted: BTreeMap::new(),
            most: BTreeMap::new(),
            controls: Vec::new(),
            ended: false,
            began: now_ms(),
            report: std::env::var_os(REPORT_VARIABLE)
                .filter(|path| !path.is_empty())
                .map(PathBuf::from),
        }
    }

    /// Dice whose seed is told with the result.
    pub fn dice(&mut self) -> Dice {
        let dice = Dice::new();
        self.seed = Some(dice.seed);
        dice
    }

    /// Counts one trial.
    pub fn tried(&mut self, held: Result<(), String>) {
        self.tried_times(1, held);
    }

    /// Counts so many trials that were judged together; of a broken promise it is one that broke.
    pub fn tried_times(&mut self, n: usize, held: Result<(), String>) {
        self.n += n;
        if let Err(words) = held {
            self.broken += 1;
            if self.words.len() < TOLD {
                self.words.push(words);
            }
        }
    }

    /// Keeps how long something took.
    pub fn measured(&mut self, what: &str, took: Duration) {
        let took = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.measured.entry(what.into()).or_default().push(took);
    }

    /// The longest that was kept of it.
    pub fn longest(&self, what: &str) -> Duration {
        let all = self.measured.get(what).into_iter().flatten();
        Duration::from_micros(all.copied().max().unwrap_or_default())
    }

    /// Adds to a number that is no duration.
    pub fn counted(&mut self, what: &str, number: u64) {
        *self.counted.entry(what.into()).or_default() += number;
    }

    /// Keeps the greatest of a number that is no duration.
    pub fn most(&mut self, what: &str, number: u64) {
        let most = self.most.entry(what.into()).or_default();
        *most = (*most).max(number);
    }

    /// Tells whether the check noticed a promise that was broken on purpose.
    pub fn control(&mut self, what: &str, caught: bool) {
        self.controls.push((what.into(), caught));
    }

    /// Judges.
    ///
    /// # Panics
    /// If nothing was tried, the promise was broken, or a control was not caught.
    #[track_caller]
    pub fn end(mut self) {
        self.ended = true;
        let seed = self.seed.map_or_else(String::new, |seed| format!(", {SEED_VARIABLE}={seed}"));
        let missed: Vec<&str> =
            self.controls.iter().filter(|(_, caught)| !caught).map(|(what, _)| &**what).collect();
        assert!(missed.is_empty(), "{}: the check did not notice {missed:?}", self.test);
        assert!(self.n > 0 || !self.controls.is_empty(), "{}: nothing was tried", self.test);
        assert!(
            self.broken == 0,
            "{}: broken in {} of {}{seed}: {:#?}",
            self.test,
            self.broken,
            self.n,
            self.words
        );
    }

    fn line(&self) -> String {
        let measured: BTreeMap<&String, serde_json::Value> = self
            .measured
            .iter()
            .map(|(what, all)| {
                let mut sorted = all.clone();
                sorted.sort_unstable();
                let at = |percent| percentile(&sorted, percent);
                let figures = json!({
                    "n": sorted.len(), "p50_us": at(50), "p99_us": at(99), "max_us": at(100),
                    "all_us": sorted,
                });
                (what, figures)
            })
            .collect();
        let controls: Vec<_> = self
            .controls
            .iter()
            .map(|(what, caught)| json!({ "what": what, "caught": caught }))
            .collect();
        json!({
            "test": self.test,
            "promise": self.promise,
            "long": is_long(),
            "seed": self.seed.map(|seed| seed.to_string()),
            "n": self.n,
            "violations": self.broken + usize::from(!self.ended),
            "words": self.words,
            "measured": measured,
            "counted": self.counted,
            "most": self.most,
            "controls": controls,
            "began_ms": self.began,
            "ended_ms": now_ms(),
        })
        .to_string()
    }
}

/// The smallest of these, which are in order, that so many percent of them do not exceed.
pub fn percentile(sorted: &[u64], percent: usize) -> u64 {
    let rank = (sorted.len() * percent).div_ceil(100).max(1) - 1;
    sorted.get(rank).copied().unwrap_or_default()
}

/// Has each panic leave its words to the trial that it ends, beside what is done with it otherwise.
fn keep_what_panics_say() {
    static KEPT: Once = Once::new();
    KEPT.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            PANIC.set(Some(info.to_string()));
            before(info);
        }));
    });
}

#[expect(clippy::disallowed_methods, reason = "trials of several processes are put in order")]
fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

impl Drop for Trial {
    #[expect(clippy::print_stderr, reason = "figures are for the reader of the test's output")]
    fn drop(&mut self) {
        if !self.ended {
            let said = PANIC.take().filter(|_| std::thread::panicking());
            self.words.push(said.unwrap_or_else(|| "it was not ended".into()));
        }
        let line = self.line();
        eprintln!("trial: {line}");
        let Some(path) = &self.report else { return };
        // One write a line: several processes append to the same file.
        let file = OpenOptions::new().create(true).append(true).open(path);
        if let Err(error) = file.and_then(|mut file| file.write_all(format!("{line}\n").as_bytes()))
        {
            eprintln!("trial: cannot write {}: {error}", path.display());
        }
    }
}

/// Dice that fall the same way for the same seed.
#[derive(Debug, Clone)]
pub struct Dice {
    seed: u64,
    state: u64,
}

impl Dice {
    /// From [`SEED_VARIABLE`], or new ones. The seed is told to the reader of the test's output.
    ///
    /// # Panics
    /// If the variable is set and is no number.
    #[expect(clippy::print_stderr, reason = "a failure can be repeated by its seed")]
    #[expect(clippy::new_without_default, reason = "dice are thrown on purpose")]
    pub fn new() -> Self {
        let given = std::env::var(SEED_VARIABLE).ok().filter(|seed| !seed.is_empty());
        let seed = match given {
            Some(seed) => seed.parse().expect("the seed is a number"),
            None => {
                use std::hash::{BuildHasher, Hasher};
                // Each is keyed at random by the standard library.
                std::hash::RandomState::new().build_hasher().finish()
            }
        };
        eprintln!("seed: {SEED_VARIABLE}={seed}");
        Self::of(seed)
    }

    pub fn of(seed: u64) -> Self {
        Self { seed, state: seed }
    }

    /// Any number (splitmix64, Steele et al. 2014).
    pub fn number(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// One of 0, 1, …, `sides` - 1.
    pub fn below(&mut self, sides: usize) -> usize {
        (self.number() % sides as u64) as usize
    }

    /// So many bytes.
    pub fn bytes(&mut self, length: usize) -> Vec<u8> {
        (0..length).map(|_| (self.number() >> 56) as u8).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One that says nothing to whoever counts the real ones.
    fn made_up() -> Trial {
        let mut trial = Trial::new("T-NAME", "nothing is lost");
        trial.report = None;
        trial
    }

    #[test]
    fn the_same_seed_gives_the_same_throws() {
        let throws = |mut dice: Dice| (0..20).map(|_| dice.below(1000)).collect::<Vec<_>>();
        assert_eq!(throws(Dice::of(7)), throws(Dice::of(7)));
        assert_ne!(throws(Dice::of(7)), throws(Dice::of(8)));
    }

    #[test]
    fn a_trial_tells_what_it_counted() {
        let mut trial = made_up();
        trial.tried_times(3, Ok(()));
        trial.tried(Ok(()));
        for millis in 1..=100 {
            trial.measured("back", Duration::from_millis(millis));
        }
        for (lost, peak) in [(2, 70), (3, 50)] {
            trial.counted("lost", lost);
            trial.most("peak", peak);
        }
        trial.control("a lost one", true);
        let told: serde_json::Value = serde_json::from_str(&trial.line()).unwrap();
        assert_eq!((&told["n"], &told["violations"]), (&4.into(), &1.into()), "not ended yet");
        assert_eq!(told["measured"]["back"]["p99_us"], 99_000);
        assert_eq!((&told["counted"]["lost"], &told["most"]["peak"]), (&5.into(), &70.into()));
        assert_eq!(trial.longest("back"), Duration::from_millis(100));
        trial.end();
    }

    #[test]
    fn a_trial_that_a_panic_ends_tells_what_the_panic_said() {
        let report = tempfile::NamedTempFile::new().unwrap();
        let path = report.path().to_owned();
        let panicked = std::panic::catch_unwind(|| {
            let mut trial = made_up();
            trial.report = Some(path);
            panic!("the runner is gone");
        });
        panicked.unwrap_err();
        let told: serde_json::Value = serde_json::from_reader(report.as_file()).unwrap();
        assert_eq!(told["violations"], 1);
        assert!(told["words"][0].as_str().unwrap().contains("the runner is gone"), "{told}");
        assert!(told["began_ms"].as_u64() <= told["ended_ms"].as_u64(), "{told}");
    }

    #[test]
    fn a_broken_promise_and_a_control_that_was_missed_fail() {
        let fails = |change: fn(&mut Trial)| {
            let mut trial = made_up();
            change(&mut trial);
            let said = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| trial.end()));
            *said.expect_err("it fails").downcast::<String>().expect("it says why")
        };
        assert!(fails(|trial| trial.tried(Err("gone".into()))).contains("gone"));
        assert!(fails(|trial| trial.control("a lost one", false)).contains("a lost one"));
        assert!(fails(|_| {}).contains("nothing was tried"));
    }
}
