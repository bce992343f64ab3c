//! T-MONO, the pure part: no order of messages makes an illegal step.

use proptest::prelude::*;
use proptest::test_runner::{RngAlgorithm, TestRng, TestRunner};
use stratavore_core::restart::{Backoff, RestartPolicy};
use stratavore_core::runner::{
    After, CAUSE_TEXT_MAX, Cause, Desired, Exit, Input, Outcome, ProcessIdentity, Refusal, Runner,
    RunnerState, Stop,
};
use stratavore_testkit::trial::{Trial, is_long};

use crate::given::{agent, at, input, policy, runner};

fn rank(state: &RunnerState) -> u8 {
    match state {
        RunnerState::Pending { .. } => 0,
        RunnerState::Starting { .. } => 1,
        RunnerState::Running { .. } | RunnerState::Unresponsive { .. } => 2,
        RunnerState::Stopping { .. } => 3,
        RunnerState::Exited { .. } | RunnerState::Failed { .. } | RunnerState::Lost { .. } => 4,
    }
}

/// What must hold of every step.
fn check(before: &Runner, input: &Input, after: &Runner) -> Result<(), String> {
    let told = format!("{input:?}\nbefore {before:?}\nafter {after:?}");
    let ensure =
        |holds: bool, what: &str| if holds { Ok(()) } else { Err(format!("{what}: {told}")) };
    ensure(!before.is_terminal(), "a terminal state changed")?;
    ensure(after.generation == before.generation + 1, "a change is not one generation")?;
    ensure(after.epoch == before.epoch || after.epoch == before.epoch + 1, "an epoch was skipped")?;
    if after.epoch == before.epoch {
        ensure(rank(&after.state) >= rank(&before.state), "a step back within an epoch")?;
    } else {
        ensure(
            matches!(after.state, RunnerState::Pending { .. }),
            "a new epoch does not begin at the beginning",
        )?;
        ensure(after.agent_key.is_none(), "a new epoch keeps the old agent's key")?;
        ensure(after.desired == before.desired, "a new epoch forgets what was wished")?;
    }
    if let Some(epoch) = input.epoch() {
        ensure(epoch == before.epoch, "a message about another epoch changed something")?;
    }
    if before.desired == Desired::Stopped {
        ensure(after.epoch == before.epoch, "what was to stop was started again")?;
    }
    Ok(())
}

/// A deliberately broken state machine: a late exit overwrites an end. The same check catches it.
fn broken_apply(runner: &Runner, exit: &Exit) -> Runner {
    Runner {
        state: RunnerState::Failed { cause: exit.cause.clone(), at: exit.at },
        generation: runner.generation + 1,
        ..runner.clone()
    }
}

fn cases() -> ProptestConfig {
    // T-MONO's full count is 100,000; STRATAVORE_TEST_LONG asks for it.
    let cases = if is_long() { 100_000 } else { 2_000 };
    ProptestConfig { cases, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn a_repeated_message_changes_nothing(policy in policy(), inputs in proptest::collection::vec(input(), 1..20)) {
        let mut now = runner(policy);
        for (i, input) in inputs.into_iter().enumerate() {
            let Ok(Outcome::Changed(next, _)) = now.apply(input.clone(), at(i as i64), &Backoff::default()) else { continue };
            let again = next.apply(input.clone(), at(i as i64), &Backoff::default());
            // The state and the epoch stay; only a wish can be repeated into a refusal.
            if let Ok(Outcome::Changed(twice, _)) = again {
                prop_assert_eq!(twice.epoch, next.epoch, "{:?} twice", input);
            }
            now = *next;
        }
    }
}

/// What the inputs make of a runner, each step checked.
fn live(policy: RestartPolicy, inputs: Vec<(Input, u32)>) -> Result<(), TestCaseError> {
    let mut now = runner(policy);
    for (i, (input, dice)) in inputs.into_iter().enumerate() {
        match now.apply(input.clone(), at(i as i64), &Backoff { dice, ..Backoff::default() }) {
            Ok(Outcome::Changed(next, event)) => {
                prop_assert!(event.kind.starts_with("runner."));
                if let Err(why) = check(&now, &input, &next) {
                    return Err(TestCaseError::fail(why));
                }
                now = *next;
            }
            Ok(Outcome::Unchanged) => {}
            Err(Refusal::Ended { .. }) => prop_assert!(now.is_terminal()),
            Err(Refusal::NotRunning { .. }) => prop_assert!(!now.is_terminal()),
        }
    }
    Ok(())
}

#[test]
fn t_mono_no_order_of_messages_makes_an_illegal_step() {
    let mut trial =
        Trial::new("T-MONO", "messages in every order make no illegal step of the state machine");
    let seed = trial.dice().bytes(32);
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &seed);
    let (config, all) = (cases(), proptest::collection::vec((input(), any::<u32>()), 1..40));
    let n = config.cases as usize;
    let mut tried = TestRunner::new_with_rng(config, rng);
    let held = tried.run(&(policy(), all), |(policy, inputs)| live(policy, inputs));
    trial.tried_times(n, held.map_err(|found| found.to_string()));
    trial.control("a machine that changes an end", broken().is_err());
    trial.end();
}

/// What the check says of the broken machine.
fn broken() -> Result<(), String> {
    let mut ended = runner(RestartPolicy::Never);
    ended.state = RunnerState::Exited { cause: Cause::Exit(0), at: at(1) };
    let exit = Exit { cause: Cause::Exit(1), at: at(2) };
    let after = broken_apply(&ended, &exit);
    check(&ended, &Input::Exited { epoch: 1, exit }, &after)
}

#[test]
fn the_check_catches_a_machine_that_changes_an_end() {
    let why = broken().unwrap_err();
    assert!(why.starts_with("a terminal state changed"), "{why}");
}

fn changed(runner: &Runner, input: Input) -> Runner {
    match runner.apply(input.clone(), at(10), &Backoff::default()) {
        Ok(Outcome::Changed(next, _)) => *next,
        other => panic!("{input:?} on {runner:?} gave {other:?}"),
    }
}

fn running(policy: RestartPolicy) -> Runner {
    let runner = runner(policy);
    let starting =
        changed(&runner, Input::AgentRegistered { epoch: 1, agent: agent(1), key: "key".into() });
    changed(
        &starting,
        Input::Started { epoch: 1, process: ProcessIdentity { pid: 2, start_time: 3 } },
    )
}

fn exited(epoch: i64, cause: Cause) -> Input {
    Input::Exited { epoch, exit: Exit { cause, at: at(9) } }
}

fn stop(after: After) -> Input {
    Input::Stop(Stop { by: "alice".into(), grace_ms: 1000, force: false, after })
}

#[test]
fn a_runner_ends_as_its_cause_says() {
    let end = |cause: Cause| {
        changed(&running(RestartPolicy::Never), exited(1, cause)).state.as_str().to_owned()
    };
    assert_eq!(end(Cause::Exit(0)), "exited");
    assert_eq!(end(Cause::Exit(1)), "failed");
    assert_eq!(end(Cause::Signal(9)), "failed");
    assert_eq!(end(Cause::Oom), "failed");
    let lost = changed(&running(RestartPolicy::Never), Input::AgentDied { epoch: 1 });
    assert_eq!(lost.state.ended().unwrap().0.to_string(), "agent_died");
    assert_eq!(lost.state.as_str(), "lost");
}

#[test]
fn a_cause_is_cut_where_it_would_fill_every_list() {
    let why = "ä".repeat(100_000);
    let ended = changed(&running(RestartPolicy::Never), exited(1, Cause::ExecError(why)));
    let Some((Cause::ExecError(why), _)) = ended.state.ended() else { panic!("{ended:?}") };
    assert_eq!(why.chars().count(), CAUSE_TEXT_MAX + 1, "and a sign that it was cut");
}

#[test]
fn a_runner_that_is_paused_stays_so_when_it_is_started_again() {
    let paused = changed(&running(RestartPolicy::Always), Input::Pause);
    let again = changed(&paused, exited(1, Cause::Oom));
    assert_eq!((again.epoch, again.desired), (2, Desired::Paused));
}

#[test]
fn a_stopped_runner_ends_as_stopped_however_it_died() {
    let stopping = changed(&running(RestartPolicy::Always), stop(After::End));
    let ended = changed(&stopping, exited(1, Cause::Signal(15)));
    assert_eq!(ended.state.as_str(), "exited");
    assert_eq!(ended.state.ended().unwrap().0.to_string(), "stopped by alice");
}

#[test]
fn a_restart_goes_to_the_next_epoch_and_never_over_an_end() {
    let stopping = changed(&running(RestartPolicy::Never), stop(After::Restart));
    let again = changed(&stopping, exited(1, Cause::Signal(15)));
    assert_eq!((again.epoch, again.state.as_str(), again.restarts.total), (2, "pending", 0));
    assert!(
        matches!(
            again.apply(exited(1, Cause::Exit(0)), at(11), &Backoff::default()),
            Ok(Outcome::Unchanged)
        ),
        "late exit"
    );
}

#[test]
fn a_crashing_runner_is_given_up_after_five_restarts() {
    let mut now = running(RestartPolicy::OnFailure);
    for n in 0..Backoff::default().limit {
        now = changed(&now, exited(now.epoch, Cause::Exit(1)));
        assert_eq!(now.state.as_str(), "pending", "after {n} restarts");
        let epoch = now.epoch;
        now = changed(&now, Input::AgentRegistered { epoch, agent: agent(1), key: "key".into() });
        now = changed(
            &now,
            Input::Started { epoch, process: ProcessIdentity { pid: 2, start_time: 3 } },
        );
    }
    let given_up = changed(&now, exited(now.epoch, Cause::Exit(1)));
    assert_eq!(given_up.state.as_str(), "failed");
    assert_eq!(given_up.state.ended().unwrap().0.to_string(), "crash_loop: exit 1");
}

#[test]
fn a_restart_by_hand_ends_the_wait_for_the_planned_one() {
    let waiting = changed(&running(RestartPolicy::OnFailure), exited(1, Cause::Exit(1)));
    assert_eq!(waiting.last_end.as_ref().map(|end| &end.cause), Some(&Cause::Exit(1)));
    let due = changed(&waiting, stop(After::Restart));
    assert_eq!((due.epoch, &due.state), (2, &RunnerState::Pending { not_before: None }));
    // And once is enough.
    let again = due.apply(stop(After::Restart), at(10), &Backoff::default());
    assert_eq!(again, Ok(Outcome::Unchanged));
}

#[test]
fn what_was_paused_comes_back_paused_unless_someone_asks_for_the_restart() {
    let paused = changed(&running(RestartPolicy::OnFailure), Input::Pause);
    let again = changed(&paused, exited(1, Cause::Signal(9)));
    assert_eq!((again.epoch, again.desired), (2, Desired::Paused));
    let by_hand = changed(&changed(&paused, stop(After::Restart)), exited(1, Cause::Signal(15)));
    assert_eq!((by_hand.epoch, by_hand.desired), (2, Desired::Running));
}

#[test]
fn a_reboot_is_understood_and_starts_nothing() {
    let lost = changed(&running(RestartPolicy::Always), Input::HostRebooted { epoch: 1 });
    assert_eq!(lost.state.ended().unwrap().0.to_string(), "host_reboot");
    assert_eq!(lost.desired, Desired::Running, "recover brings it back");
}

#[test]
fn a_runner_stopped_before_its_agent_came_has_ended() {
    let ended = changed(&runner(RestartPolicy::Always), stop(After::End));
    assert_eq!(ended.state.as_str(), "exited");
}
