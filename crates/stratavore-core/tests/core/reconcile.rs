//! The reconcile table is total, and keeps its invariants whatever is found.

use std::time::Duration;

use proptest::prelude::*;
use stratavore_core::reconcile::{Action, Context, Found, QUARANTINE, decide};
use stratavore_core::restart::RestartPolicy;
use stratavore_core::runner::{Cause, Exit, Input, Outcome, Runner};

use crate::given::{at, input, runner};

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
            if let Ok(Outcome::Changed(next, _)) = now.apply(input, at(1), 0) {
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
    if !found.same_boot {
        let touches = matches!(
            action,
            Action::Start
                | Action::Poke
                | Action::StopAgent
                | Action::Clear(_)
                | Action::CallUnresponsive(_)
        );
        ensure(!touches, "something of another boot is touched")?;
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
            let outcome = row.apply(input.clone(), at(2), 0);
            prop_assert!(matches!(outcome, Ok(Outcome::Changed(..))), "{:?} does nothing to {:?}", input, row);
        }
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
