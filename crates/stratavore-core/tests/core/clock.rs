//! T-CLOCK, the pure part: the wall clock jumps by hours and years while time passes as ever, and no
//! trust in a lease, no silence of an agent and no wait for a restart is longer or shorter for it.

use std::time::Duration;

use jiff::SignedDuration;
use stratavore_core::clock::Clock;
use stratavore_core::lease::Trust;
use stratavore_core::reconcile::{Action, Context, Found, decide};
use stratavore_core::restart::{Backoff, RestartPolicy, Restarts, Verdict};
use stratavore_core::runner::{ProcessIdentity, Runner, RunnerState};
use stratavore_testkit::clock::TestClock;
use stratavore_testkit::trial::{Dice, Trial, scale};

use crate::given::{agent, at, runner};

const JUMPS: [i64; 4] = [3600, -3600, 365 * 24 * 3600, -365 * 24 * 3600];
const SILENT: Duration = Duration::from_secs(30);

/// What a rule reads as the time since the beginning.
type Reading = fn(&TestClock) -> Duration;

fn monotonic(clock: &TestClock) -> Duration {
    clock.monotonic()
}

/// The control's: by the wall clock.
fn wall(clock: &TestClock) -> Duration {
    Duration::try_from(clock.now().duration_since(at(0))).unwrap_or_default()
}

fn running() -> Runner {
    let process = ProcessIdentity { pid: 2, start_time: 8 };
    let state = RunnerState::Running { agent: agent(1), process, since: at(0) };
    Runner { state, ..runner(RestartPolicy::Never) }
}

/// Whether a living agent that has been silent for so long is called unresponsive.
fn is_called(silent_for: Duration) -> bool {
    let found = Found {
        directory: true,
        lock_held: true,
        same_boot: true,
        exit: None,
        populated: false,
        age: Duration::ZERO,
    };
    let context = Context {
        connected: false,
        launching: false,
        due: true,
        unchanged_for: silent_for,
        disconnected_for: silent_for,
        launch_timeout: Duration::from_secs(60),
        unresponsive_after: SILENT,
    };
    match decide(Some(&running()), &found, &context) {
        Action::CallUnresponsive(_) => true,
        Action::Clear(_) | Action::Apply(_) | Action::Start | Action::StopAgent => {
            panic!("a living agent is taken for another")
        }
        Action::Nothing | Action::Poke | Action::RepeatStop | Action::Quarantine => false,
    }
}

/// A while with a clock that jumps; what has passed in truth is counted apart.
fn case(dice: &mut Dice, reading: Reading) -> Result<(), String> {
    let clock = TestClock::at(at(0));
    let mut passed = Duration::ZERO;
    let ttl = Duration::from_secs(5 + dice.below(60) as u64);
    let (mut trust, mut taken) = (Trust::new(reading(&clock), ttl), passed);
    let (mut heard, mut heard_at) = (reading(&clock), passed);
    let (mut restarts, mut restarted) = (Restarts::default(), 0);
    for _ in 0..1 + dice.below(40) {
        match dice.below(6) {
            0 | 1 => {
                let by = Duration::from_millis(dice.below(20_000) as u64);
                clock.advance(by);
                passed += by;
            }
            2 => clock.jump(SignedDuration::from_secs(JUMPS[dice.below(JUMPS.len())])),
            3 => (trust, taken) = (Trust::new(reading(&clock), ttl), passed),
            4 => (heard, heard_at) = (reading(&clock), passed),
            _ => {
                let backoff = Backoff { dice: dice.number() as u32, ..Backoff::default() };
                match restarts.next(clock.now(), &backoff) {
                    Verdict::Again(next, not_before) => {
                        let wait = not_before.duration_since(clock.now());
                        let most = SignedDuration::try_from(backoff.max * 5 / 4).expect("it fits");
                        if wait.is_negative() || wait > most {
                            return Err(format!("a restart waits for {wait:?}"));
                        }
                        (restarts, restarted) = (next, restarted + 1);
                    }
                    Verdict::CrashLoop if restarted >= backoff.limit => {
                        (restarts, restarted) = (Restarts::default(), 0);
                    }
                    Verdict::CrashLoop => {
                        return Err(format!("a crash loop after {restarted} restarts"));
                    }
                }
            }
        }
        let (holds, should) = (trust.holds(reading(&clock)), passed - taken < ttl - ttl / 5);
        if holds != should {
            return Err(format!("a lease of {ttl:?} after {:?}: trusted {holds}", passed - taken));
        }
        let called = is_called(reading(&clock).saturating_sub(heard));
        if called != (passed - heard_at >= SILENT) {
            return Err(format!("silent for {:?}, and called so: {called}", passed - heard_at));
        }
    }
    Ok(())
}

#[test]
fn t_clock_no_rule_goes_by_a_wall_clock_that_jumps() {
    let mut trial =
        Trial::new("T-CLOCK", "the wall clock jumps by hours and years: no rule is early or late");
    let mut dice = trial.dice();
    for _ in 0..scale(1000, 100_000) {
        trial.tried(case(&mut dice, monotonic));
    }
    let caught = (0..100).any(|_| case(&mut dice, wall).is_err());
    trial.control("rules that go by the wall clock", caught);
    trial.end();
}
