//! How running time is cut into pieces, by example.

use std::collections::BTreeMap;

use stratavore_core::limits::Limits;
use stratavore_core::restart::{RestartPolicy, Restarts};
use stratavore_core::runner::{AgentIdentity, Cause, Command, Exit, ProcessIdentity};
use stratavore_core::{NodeId, ProjectId};

use super::*;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_767_225_600 + second).unwrap()
}

fn running(since: i64) -> Runner {
    let agent = AgentIdentity { boot_id: "b".into(), pid: 1, start_time: 2, nonce: String::new() };
    let process = ProcessIdentity { pid: 3, start_time: 4 };
    Runner {
        id: RunnerId::from_entropy([1; 16]),
        project: ProjectId::from_entropy([2; 16]),
        name: "one".parse().unwrap(),
        node: NodeId::from_entropy([3; 16]),
        command: Command {
            assistant: "generic".parse().unwrap(),
            argv: vec!["cat".into()],
            given: 0,
            prompt: None,
            bare: false,
            headless: None,
            after_limit: Default::default(),
            labels: Vec::new(),
            env: BTreeMap::new(),
            directory: "/".into(),
            columns: 80,
            rows: 24,
        },
        limits: Limits::default(),
        restart: RestartPolicy::Never,
        desired: Desired::Running,
        state: RunnerState::Running { agent, process, since: at(since) },
        doing: None,
        activity: Activity::Unknown,
        epoch: 1,
        generation: 3,
        restarts: Restarts::default(),
        last_end: None,
        session: None,
        successor_of: None,
        agent_key: None,
        noted: 0,
        limits_not_enforced: None,
        created_at: at(0),
        updated_at: at(since),
        started_at: Some(at(since)),
    }
}

fn seconds(time: &BudgetTime<'_>) -> Vec<i64> {
    time.ran.iter().map(|(from, until)| until.as_second() - from.as_second()).collect()
}

#[test]
fn what_ran_since_the_last_look_is_counted() {
    let runner = running(0);
    assert_eq!(seconds(&time_of(&runner, Some(at(10)), None, at(20))), [10]);
    assert_eq!(time_of(&runner, Some(at(10)), None, at(20)).counted, Some(at(20)));
    let paused = Runner { desired: Desired::Paused, ..runner.clone() };
    assert!(seconds(&time_of(&paused, Some(at(10)), None, at(20))).is_empty());
    // Stopped and started again in between.
    let last_end = Some(Exit { cause: Cause::Exit(1), at: at(13) });
    let again = Runner { last_end, ..running(17) };
    assert_eq!(seconds(&time_of(&again, Some(at(10)), None, at(20))), [3, 3]);
    let ended =
        Runner { state: RunnerState::Exited { cause: Cause::Exit(0), at: at(14) }, ..runner };
    let time = time_of(&ended, Some(at(10)), None, at(20));
    assert_eq!((seconds(&time), time.counted), (vec![4], None));
}

#[test]
fn a_clock_that_was_set_adds_nothing_and_takes_nothing() {
    let runner = running(0);
    let passed = Some(Duration::from_secs(10));
    assert_eq!(seconds(&time_of(&runner, Some(at(10)), passed, at(3620))), [10], "set forward");
    assert_eq!(seconds(&time_of(&runner, Some(at(3610)), passed, at(30))), [10], "set back");
    // Without a look before, as after a restart of the daemon, only the wall clock is there.
    assert_eq!(seconds(&time_of(&runner, Some(at(10)), None, at(3620))), [3610]);
    assert!(seconds(&time_of(&runner, Some(at(3610)), None, at(30))).is_empty());
}
