//! Row 27 of the fault catalogue, the pure part: what is silent or idle goes on for ever, but for one that
//! has a limit of idle time and says itself that it is idle.

use std::time::Duration;

use stratavore_core::Timestamp;
use stratavore_core::activity::{Confidence, Source};
use stratavore_core::clock::Clock;
use stratavore_core::limits::Limits;
use stratavore_core::restart::{Backoff, RestartPolicy};
use stratavore_core::runner::{
    Activity, After, Desired, Doing, Headless, IDLE_STOPPER, Input, Outcome, ProcessIdentity,
    Runner, RunnerState, Stop,
};
use stratavore_testkit::clock::TestClock;

use crate::given::{agent, at, runner};

const LIMIT: u64 = 3600;

/// A runner that does this since the beginning.
fn doing(activity: Activity, idle_seconds: Option<u64>) -> Runner {
    let process = ProcessIdentity { pid: 2, start_time: 8 };
    Runner {
        state: RunnerState::Running { agent: agent(1), process, since: at(0) },
        limits: Limits { idle_seconds, ..Limits::default() },
        activity,
        doing: Some(Doing::told(activity, at(0), "a hook")),
        ..runner(RestartPolicy::Always)
    }
}

/// What becomes of a runner that is looked at now.
fn looked(runner: &Runner, now: Timestamp) -> Outcome {
    let stop = Stop { by: IDLE_STOPPER.into(), grace_ms: 10_000, force: false, after: After::End };
    let input = Input::Idle { epoch: runner.epoch, at: now, stop };
    runner.apply(input, now, &Backoff::default()).expect("it is never refused")
}

#[test]
fn a_runner_that_is_idle_or_silent_is_left_alone_unless_it_has_a_limit() {
    let clock = TestClock::at(at(0));
    clock.advance(Duration::from_secs(365 * 24 * 3600));
    for activity in Activity::ALL {
        assert_eq!(looked(&doing(activity, None), clock.now()), Outcome::Unchanged, "{activity:?}");
    }
    let silent = Runner { doing: None, ..doing(Activity::Unknown, Some(LIMIT)) };
    assert_eq!(looked(&silent, clock.now()), Outcome::Unchanged);
}

#[test]
fn one_with_a_limit_is_stopped_once_it_is_over_and_the_record_says_why() {
    let clock = TestClock::at(at(0));
    let idle = doing(Activity::Idle, Some(LIMIT));
    clock.advance(Duration::from_secs(LIMIT - 1));
    assert_eq!(looked(&idle, clock.now()), Outcome::Unchanged);
    clock.advance(Duration::from_secs(1));
    let Outcome::Changed(stopping, event) = looked(&idle, clock.now()) else {
        panic!("its time is over")
    };
    assert_eq!((event.kind, &event.data["by"]), ("runner.stopping", &IDLE_STOPPER.into()));
    let RunnerState::Stopping { stop, .. } = &stopping.state else { panic!("{stopping:?}") };
    assert!(!stop.force && stop.after == After::End && stop.grace_ms > 0, "politely: {stop:?}");
    assert_eq!(stopping.session, idle.session, "it can be resumed");
}

#[test]
fn whoever_works_or_waits_or_may_do_so_is_never_stopped_for_being_idle() {
    let late = at(10 * LIMIT as i64);
    for activity in Activity::ALL.into_iter().filter(|activity| *activity != Activity::Idle) {
        let runner = doing(activity, Some(LIMIT));
        assert_eq!(looked(&runner, late), Outcome::Unchanged, "{activity:?}");
    }
    let idle = doing(Activity::Idle, Some(LIMIT));
    let guess = Doing {
        source: Source::Screen,
        confidence: Confidence::Guess,
        ..Doing::told(Activity::Idle, at(0), "its screen")
    };
    let again = Doing::told(Activity::Idle, late, "a hook");
    for other in [
        Runner { doing: Some(guess), ..idle.clone() },
        Runner { doing: Some(again), ..idle.clone() },
        Runner { desired: Desired::Paused, ..idle.clone() },
        Runner { limits: Limits { idle_seconds: Some(u64::MAX), ..idle.limits }, ..idle.clone() },
        Runner {
            command: stratavore_core::runner::Command {
                headless: Some(Headless::default()),
                ..idle.command.clone()
            },
            ..idle.clone()
        },
    ] {
        assert_eq!(looked(&other, late), Outcome::Unchanged, "{other:?}");
    }
    // The control: the one that all of these were made of.
    assert!(matches!(looked(&idle, late), Outcome::Changed(..)));
}
