//! The reconcile table is total, and keeps its invariants whatever is found.

use std::time::Duration;

use proptest::prelude::*;
use stratavore_core::reconcile::{Action, Context, Found, QUARANTINE, decide};
use stratavore_core::restart::{Backoff, RestartPolicy};
use stratavore_core::runner::{Cause, Exit, Input, Outcome, Runner, RunnerState};

use crate::given::{agent, at, input, runner};

fn found() -> impl Strategy<Value = Found> {
    (any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>(), 0..1200u64)
        .prop_map(|(directory, lock_held, same_boot, exit, populated, age)| Found {
            directory: directory || lock_held || exit,
            lock_held: lock_held && same_boot,
            same_boot,
            exit: exit.then(|| Exit { cause: Cause::Exit(3), at: at(1) }),
            populated: populated && same_boot,
            age: Duration::from_secs(age),
        })
}

fn context() -> impl Strategy<Value = Context> {
    (any::<bool>(), any::<bool>(), any::<bool>(), 0..120u64, 0..120u64).prop_map(
        |(connected, launching, due, unchanged, disconnected)| Context {
            connected,
            launching,
            due,
            unchanged_for: Duration::from_secs(unchanged),
            disconnected_for: Duration::from_secs(disconnected),
            launch_timeout: Duration::from_secs(60),
            unresponsive_after: Duration::from_secs(30),
        },
    )
}

/// A runner in any state that some order of messages leads to, or none.
fn row() -> impl Strategy<Value = Option<Runner>> {
    let reached = proptest::collection::vec(input(), 0..12).prop_map(|inputs| {
        let mut now = runner(RestartPolicy::OnFailure);
        for input in inputs {
            if let Ok(Outcome::Changed(next, _)) = now.apply(input, at(1), &Backoff::default()) {
                now = *next;
            }
        }
        now
    });
    proptest::option::weighted(0.9, reached)
}

/// What must hold of every decision.
fn check(row: Option<&Runner>, found: &Found, action: &Action) -> Result<(), String> {
    let told = format!("{action:?} for {row:?} and {found:?}");
    let ensure =
        |holds: bool, what: &str| if holds { Ok(()) } else { Err(format!("{what}: {told}")) };
    let says_dead = |input: &Input| {
        matches!(
            input,
            Input::AgentDied { .. } | Input::LaunchInterrupted { .. } | Input::StateMissing { .. }
        )
    };
    if found.lock_held {
        ensure(*action != Action::Start, "an agent is started while the lock is held")?;
        ensure(!matches!(action, Action::Clear(_)), "what lives is cleared away")?;
        if let Action::Apply(input) = action {
            ensure(!says_dead(input), "a living agent is called dead")?;
        }
    }
    if found.populated
        && let Action::Apply(input) = action
    {
        ensure(!says_dead(input), "what a dead agent left is left to itself")?;
    }
    let waits = row.is_some_and(|row| matches!(row.state, RunnerState::Pending { .. }));
    if !found.same_boot {
        // One that nothing has run of may start; nothing is left of it that could be touched.
        let touches = matches!(
            action,
            Action::Start
                | Action::Poke
                | Action::StopAgent
                | Action::Clear(_)
                | Action::CallUnresponsive(_)
        );
        let begins = waits && *action == Action::Start;
        ensure(begins || !touches, "something of another boot is touched")?;
    }
    let input = match action {
        Action::Apply(input) | Action::CallUnresponsive(input) | Action::Clear(Some(input)) => {
            Some(input)
        }
        Action::Clear(None)
        | Action::Nothing
        | Action::Start
        | Action::Poke
        | Action::RepeatStop
        | Action::StopAgent
        | Action::Quarantine => None,
    };
    if let Some(input) = input {
        let Some(row) = row else {
            return Err(format!("something is written about no row: {told}"));
        };
        ensure(!row.is_terminal(), "something is written about an ended runner")?;
        ensure(input.epoch() == Some(row.epoch), "something is written about another epoch")?;
    }
    if row.is_none() && found.age < QUARANTINE {
        ensure(matches!(action, Action::Nothing | Action::Quarantine), "a fresh stray is touched")?;
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

    #[test]
    fn the_table_is_total_and_keeps_its_invariants(row in row(), found in found(), context in context()) {
        let action = decide(row.as_ref(), &found, &context);
        if let Err(why) = check(row.as_ref(), &found, &action) {
            return Err(TestCaseError::fail(why));
        }
        // What it wants written is something that the state machine takes.
        if let (Action::Apply(input), Some(row)) = (&action, &row) {
            let outcome = row.apply(input.clone(), at(2), &Backoff::default());
            prop_assert!(matches!(outcome, Ok(Outcome::Changed(..))), "{:?} does nothing to {:?}", input, row);
        }
    }
}

/// The rule for what is found after a reboot, whichever of its files was written last.
#[test]
fn after_a_reboot_the_exit_record_is_the_truth_and_without_one_it_is_lost() {
    let context = Context {
        connected: false,
        launching: false,
        due: true,
        unchanged_for: Duration::ZERO,
        disconnected_for: Duration::ZERO,
        launch_timeout: Duration::from_secs(60),
        unresponsive_after: Duration::from_secs(30),
    };
    let exit = Exit { cause: Cause::Exit(3), at: at(1) };
    let found = |same_boot, exit: Option<&Exit>| Found {
        directory: true,
        lock_held: false,
        same_boot,
        exit: exit.cloned(),
        populated: false,
        age: Duration::ZERO,
    };
    let pending = runner(RestartPolicy::OnFailure);
    let state = RunnerState::Starting { agent: agent(1) };
    let starting = Runner { state, ..pending.clone() };

    let ended = Action::Apply(Input::Exited { epoch: 1, exit: exit.clone() });
    let lost = Action::Apply(Input::HostRebooted { epoch: 1 });
    assert_eq!(decide(Some(&starting), &found(false, Some(&exit)), &context), ended);
    assert_eq!(decide(Some(&starting), &found(false, None), &context), lost);
    // A restart that was decided stands, on whichever side of the reboot its agent gets ready.
    for found in [found(false, None), found(false, Some(&exit)), found(true, None)] {
        assert_eq!(decide(Some(&pending), &found, &context), Action::Start);
    }
}

#[test]
fn the_check_catches_a_table_that_goes_by_heartbeats() {
    // The mistake of calling a runner dead because its agent has been silent.
    let row = runner(RestartPolicy::Never);
    let found = Found {
        directory: true,
        lock_held: true,
        same_boot: true,
        exit: None,
        populated: true,
        age: Duration::ZERO,
    };
    let broken = Action::Apply(Input::AgentDied { epoch: 1 });
    assert!(
        check(Some(&row), &found, &broken)
            .unwrap_err()
            .starts_with("a living agent is called dead")
    );
    // And that of writing an end while something still runs.
    let found = Found { lock_held: false, ..found };
    assert!(
        check(Some(&row), &found, &broken)
            .unwrap_err()
            .starts_with("what a dead agent left is left to itself")
    );
}
