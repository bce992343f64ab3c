//! Moves, the pure part: who may be stopped for one, and that a wish to end comes before it.

use stratavore_core::activity::{Confidence, Source};
use stratavore_core::moving::{MOVE_STOPPER, Move, MoveView, Stage};
use stratavore_core::restart::{Backoff, RestartPolicy};
use stratavore_core::runner::{
    Activity, After, Cause, Desired, Doing, Exit, Headless, Input, Outcome, ProcessIdentity,
    Runner, RunnerState, Stop,
};
use stratavore_core::{NodeId, RunnerId};

use crate::given::{agent, at, runner};

fn resting() -> Runner {
    let process = ProcessIdentity { pid: 2, start_time: 8 };
    Runner {
        state: RunnerState::Running { agent: agent(1), process, since: at(0) },
        activity: Activity::Idle,
        doing: Some(Doing::told(Activity::Idle, at(0), "a hook")),
        ..runner(RestartPolicy::Always)
    }
}

fn stop(by: &str) -> Stop {
    Stop { by: by.into(), grace_ms: 5_000, force: false, after: After::End }
}

fn applied(runner: &Runner, input: Input) -> Option<Runner> {
    match runner.apply(input, at(9), &Backoff::default()).expect("it is never refused") {
        Outcome::Changed(next, _) => Some(*next),
        Outcome::Unchanged => None,
    }
}

fn leave(runner: &Runner) -> Option<Runner> {
    applied(runner, Input::Move { epoch: runner.epoch, stop: stop(MOVE_STOPPER) })
}

fn exited(runner: &Runner, cause: Cause) -> Runner {
    let exit = Exit { cause, at: at(10) };
    applied(runner, Input::Exited { epoch: runner.epoch, exit }).expect("it ends")
}

#[test]
fn who_rests_is_stopped_politely_and_is_to_go_on() {
    let resting = resting();
    assert_eq!(resting.is_busy_because(), None);
    let leaving = leave(&resting).expect("it rests");
    let RunnerState::Stopping { stop, .. } = &leaving.state else { panic!("{leaving:?}") };
    assert!(!stop.force && stop.by == MOVE_STOPPER, "{stop:?}");
    assert_eq!(leaving.desired, Desired::Running);
    assert!(!leaving.has_left());
    // Its policy does not start it again: another node does.
    let left = exited(&leaving, Cause::Exit(0));
    assert!(left.has_left(), "{left:?}");
    // What a host loses meanwhile is for `recover`, as all that ran there.
    let lost = applied(&leaving, Input::HostRebooted { epoch: 1 }).unwrap();
    assert!(matches!(lost.state, RunnerState::Lost { .. }) && !lost.has_left());
    assert_eq!(lost.desired, Desired::Running);
}

#[test]
fn who_works_or_waits_or_may_do_so_is_not_stopped_for_a_move() {
    for activity in Activity::ALL.into_iter().filter(|activity| *activity != Activity::Idle) {
        let doing = Some(Doing::told(activity, at(0), "a hook"));
        let busy = Runner { activity, doing, ..resting() };
        assert_eq!(leave(&busy), None, "{activity:?}");
        assert!(busy.is_busy_because().is_some(), "{activity:?}");
    }
    let guess = Doing {
        source: Source::Screen,
        confidence: Confidence::Guess,
        ..Doing::told(Activity::Idle, at(0), "its screen")
    };
    let mut headless = resting();
    headless.command.headless = Some(Headless::default());
    for other in [
        Runner { doing: Some(guess), ..resting() },
        Runner { doing: None, ..resting() },
        Runner { desired: Desired::Paused, ..resting() },
        Runner { state: RunnerState::Pending { not_before: None }, ..resting() },
        headless,
    ] {
        assert_eq!(leave(&other), None, "{other:?}");
        assert!(other.is_busy_because().is_some(), "{other:?}");
    }
    // The control: the one that all of these were made of, and of an earlier epoch.
    assert!(leave(&resting()).is_some());
    let late = Input::Move { epoch: 0, stop: stop(MOVE_STOPPER) };
    assert_eq!(applied(&resting(), late), None);
}

#[test]
fn a_person_who_wants_it_to_end_meanwhile_is_heard() {
    let leaving = leave(&resting()).unwrap();
    let killed = applied(&leaving, Input::Stop(stop("ada"))).expect("the wish is another one");
    assert_eq!(killed.desired, Desired::Stopped);
    let ended = exited(&killed, Cause::Exit(0));
    assert!(!ended.has_left(), "{ended:?}");
    assert_eq!(ended.state.ended().unwrap().0, &Cause::StoppedBy("ada".into()));
    // And a move does not take that back.
    assert_eq!(leave(&killed), None);
}

#[test]
fn how_far_a_move_is_and_why_not_further_is_told() {
    let node = |n: u8| NodeId::from_entropy([n; 16]);
    let of = Move {
        runner: RunnerId::from_entropy([1; 16]),
        from: node(1),
        asked_by: "ada".into(),
        stays: None,
        to: None,
        refused: Default::default(),
        is_read: false,
        since: at(0),
    };
    let view = |of: Move, has_ended, successor| {
        let view = MoveView { of, name: "claude".parse().unwrap(), has_ended, successor };
        (view.stage(), view.why())
    };
    let stays = Move { stays: Some("it works".into()), ..of.clone() };
    assert_eq!(view(stays, false, None), (Stage::Stays, "it works".into()));
    let refused = [(node(2), "host-2 is cordoned".to_owned())].into();
    let refused = Move { refused, ..of.clone() };
    assert_eq!(view(refused, false, None), (Stage::Sought, "host-2 is cordoned".into()));
    assert_eq!(view(of.clone(), false, None).0, Stage::Sought);
    let going = Move { to: Some(node(2)), ..of };
    assert_eq!(view(going.clone(), false, None), (Stage::Leaves, String::new()));
    let (stage, why) = view(going.clone(), true, None);
    assert!(stage == Stage::Between && why.contains("read"), "{why}");
    let read = Move { is_read: true, ..going };
    assert_eq!(view(read.clone(), true, None), (Stage::Between, String::new()));
    let next = Some((RunnerId::from_entropy([2; 16]), node(2)));
    assert_eq!(view(read, true, next).0, Stage::Moved);
}
