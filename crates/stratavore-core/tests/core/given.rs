//! Made-up runners and inputs.

use proptest::prelude::*;
use stratavore_core::Timestamp;
use stratavore_core::limits::Limits;
use stratavore_core::moving::MOVE_STOPPER;
use stratavore_core::restart::{RestartPolicy, Restarts};
use stratavore_core::runner::{
    Activity, After, AgentIdentity, Cause, Command, Desired, Doing, Exit, IDLE_STOPPER, Input,
    Note, ProcessIdentity, Runner, RunnerState, Stop,
};
use stratavore_core::{NodeId, ProjectId, RunnerId};

pub(crate) fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_700_000_000 + seconds).expect("made-up values are valid")
}

pub(crate) fn agent(pid: u32) -> AgentIdentity {
    AgentIdentity { boot_id: "boot".into(), pid, start_time: 7, nonce: format!("nonce-{pid}") }
}

pub(crate) fn runner(restart: RestartPolicy) -> Runner {
    Runner {
        id: RunnerId::from_entropy([1; 16]),
        project: ProjectId::from_entropy([2; 16]),
        name: "claude".parse().expect("made-up values are valid"),
        node: NodeId::from_entropy([3; 16]),
        command: Command {
            assistant: "generic".parse().expect("made-up values are valid"),
            argv: vec!["sh".into()],
            given: 0,
            prompt: None,
            bare: false,
            headless: None,
            after_limit: Default::default(),
            labels: Vec::new(),
            env: Default::default(),
            directory: "/".into(),
            columns: 80,
            rows: 24,
        },
        limits: Limits::default(),
        restart,
        desired: Desired::Running,
        state: RunnerState::Pending { not_before: None },
        activity: Activity::Unknown,
        doing: None,
        epoch: 1,
        generation: 1,
        restarts: Restarts::default(),
        last_end: None,
        session: None,
        successor_of: None,
        agent_key: None,
        noted: 0,
        limits_not_enforced: None,
        created_at: at(0),
        updated_at: at(0),
        started_at: None,
    }
}

pub(crate) fn policy() -> impl Strategy<Value = RestartPolicy> {
    proptest::sample::select(RestartPolicy::ALL.to_vec())
}

fn cause() -> impl Strategy<Value = Cause> {
    prop_oneof![
        (0..3i32).prop_map(Cause::Exit),
        (1..16i32).prop_map(Cause::Signal),
        Just(Cause::Oom),
        Just(Cause::PidsLimit),
        Just(Cause::WallTime),
        Just(Cause::ExecError("no such program".into())),
    ]
}

/// Anything that can happen to a runner, of this epoch or another one.
pub(crate) fn input() -> impl Strategy<Value = Input> {
    let epoch = 1..4i64;
    let stop = (any::<bool>(), any::<bool>()).prop_map(|(force, again)| {
        let after = if again { After::Restart } else { After::End };
        Stop { by: "alice".into(), grace_ms: 1, force, after }
    });
    prop_oneof![
        (epoch.clone(), 1..4u32).prop_map(|(epoch, pid)| Input::AgentRegistered {
            epoch,
            agent: agent(pid),
            key: "key".into()
        }),
        (epoch.clone(), 1..4u32).prop_map(|(epoch, pid)| Input::Started {
            epoch,
            process: ProcessIdentity { pid, start_time: 9 }
        }),
        (epoch.clone(), cause())
            .prop_map(|(epoch, cause)| Input::Exited { epoch, exit: Exit { cause, at: at(5) } }),
        epoch.clone().prop_map(|epoch| Input::SpawnFailed { epoch, why: "no".into() }),
        epoch.clone().prop_map(|epoch| Input::LaunchInterrupted { epoch }),
        epoch.clone().prop_map(|epoch| Input::AgentDied { epoch }),
        epoch.clone().prop_map(|epoch| Input::HostRebooted { epoch }),
        epoch.clone().prop_map(|epoch| Input::StateMissing { epoch }),
        epoch.clone().prop_map(|epoch| Input::Silent { epoch }),
        epoch.clone().prop_map(|epoch| Input::Heard { epoch }),
        (epoch.clone(), proptest::sample::select(Activity::ALL.to_vec())).prop_map(
            |(epoch, activity)| Input::Activity {
                epoch,
                doing: Doing::told(activity, at(1), "a hook"),
            }
        ),
        (epoch, 1..4u64).prop_map(|(epoch, seq)| Input::Noted {
            epoch,
            seq,
            note: Note::OutputGap { from: 1, to: 2, why: "full".into() }
        }),
        (1..4i64, 0..20i64).prop_map(|(epoch, second)| Input::Idle {
            epoch,
            at: at(second),
            stop: Stop { by: IDLE_STOPPER.into(), grace_ms: 1, force: false, after: After::End },
        }),
        (1..4i64).prop_map(|epoch| Input::Move {
            epoch,
            stop: Stop { by: MOVE_STOPPER.into(), grace_ms: 1, force: false, after: After::End },
        }),
        stop.prop_map(Input::Stop),
        Just(Input::Pause),
        Just(Input::Unpause),
    ]
}
