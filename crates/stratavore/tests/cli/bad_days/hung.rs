//! Agents that hang: they hold their lock, and neither work nor let go of it.

use std::fs;

use stratavore_testkit::trace::Process;
use stratavore_testkit::world::{World, until};

const IMPATIENT: &str =
    "agent:\n  heartbeat: 1s\nrunner:\n  unresponsive_after: 2s\n  launch_timeout: 5s\n";

/// The one agent of the world, once it hangs.
fn hung_agent(world: &World) -> Process {
    let agent = until("an agent hangs", || {
        let stopped = |pid: &u32| {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            stat.rsplit_once(')').is_some_and(|(_, rest)| rest.starts_with(" T"))
        };
        world.agents().into_iter().find(stopped).ok_or_else(|| world.agents())
    });
    Process::of(agent).expect("it is there, and stopped")
}

fn ends(agent: Process) {
    until("the agent that hangs is ended", || if agent.is_alive() { Err(agent) } else { Ok(()) });
}

/// The agent has told how its run ended, and hangs before it lets go of the lock; the next run
/// waits for that lock.
#[test]
fn an_agent_of_an_earlier_run_does_not_keep_the_next_one_from_starting() {
    let mut world = World::with_config(IMPATIENT);
    world.set_env("STRATAVORE_FAILPOINTS", "exit_told=pause");
    world.project("demo");
    // The first run ends when it is told to, the next one stays.
    let script = "test -e go && exec sleep 1000; until test -e go; do sleep 0.05; done";
    world.launch_with("demo", "one", &["--restart", "always"], &["sh", "-c", script]);
    fs::write(world.work().join("go"), "").expect("it can be told");
    let agent = hung_agent(&world);
    until("its line is given up", || match world.runner("one") {
        shown if shown["connected"] == false => Ok(()),
        shown => Err(shown),
    });
    ends(agent);
    let shown = world.until_state("one", &["running", "failed", "lost", "exited"]);
    assert_eq!((&shown["state"], &shown["epoch"]), (&"running".into(), &2.into()), "{shown}");
}

/// An agent that hangs before it has said a word: the launch ends, and says how.
#[test]
fn an_agent_that_never_greets_is_ended_and_the_launch_fails() {
    let mut world = World::with_config(IMPATIENT);
    world.set_env("STRATAVORE_FAILPOINTS", "before_hello=pause");
    world.project("demo");
    let launched =
        world.run(["launch", "--project", "demo", "--name", "one", "--", "sleep", "1000"]);
    assert!(launched.everything().contains("launch_interrupted"), "{}", launched.everything());
    let shown = world.runner("one");
    assert_eq!(shown["state"], "failed", "{shown}");
    assert_eq!(world.agents(), [0; 0], "nothing of it is left");
    assert_eq!(shown["cause"], "launch_interrupted", "{shown}");
}
