//! T-UPG: agents are replaced in place, and daemons by other versions, and no session is lost.

use std::fs;

use rustix::process::Signal;
use stratavore_testkit::trace::Process;
use stratavore_testkit::trial::{Trial, scale};
use stratavore_testkit::world::{World, of_process, signal, until};

use crate::printing::Printing;

#[test]
fn an_agent_that_is_upgraded_keeps_its_process_its_log_and_its_screen() {
    let world = World::new();
    world.project("demo");
    let printing = Printing::launch(&world, "printing", &["--every", "5"]);
    let script = "printf '\\033]2;a title\\007\\033[3;7H\\033[1;31mred\\033[m\\033[?1h'; exec cat";
    let still = world.launch("demo", "still", &["sh", "-c", script]);
    let drawn = until("it has drawn", || {
        let screen = world.json(&["screen", "still"]);
        if screen["title"] == "a title" { Ok(screen) } else { Err(screen) }
    });
    for runner in [&printing.runner, &still] {
        let [agent] = world.agents_of(runner)[..] else { panic!("it has one agent") };
        let (agent, process) = (Process::of(agent), world.process_of(runner));
        world.run(["upgrade", runner]).ok();
        until("the agent executes the new program", || {
            let pid = agent.map(|agent| agent.pid).unwrap_or_default();
            let line = of_process(pid, "cmdline");
            let line = String::from_utf8_lossy(&line).into_owned();
            if line.contains("resume") { Ok(()) } else { Err(line) }
        });
        until("it is back", || {
            let shown = world.runner(runner);
            if shown["connected"] == true { Ok(()) } else { Err(shown) }
        });
        assert_eq!(world.agents_of(runner).first().and_then(|pid| Process::of(*pid)), agent);
        assert_eq!(world.process_of(runner), process);
        assert_eq!(world.runner(runner)["epoch"], 1);
    }
    let before = printing.printed();
    until("it goes on printing", || match printing.printed() {
        now if now > before + 20 => Ok(()),
        now => Err(now),
    });
    until("its log has all of it", || printing.held(&world));
    assert_eq!(world.json(&["screen", "still"]), drawn);
    // Typing still works, and a stop.
    world.run(["send", "still", "hello"]).ok();
    until("it is typed", || {
        let text = world.json(&["screen", "still"])["text"].as_str().unwrap_or_default().to_owned();
        if text.matches("hello").count() == 2 { Ok(()) } else { Err(text) }
    });
    world.run(["kill", "--all", "--force"]).ok();
    for runner in [&printing.runner, &still] {
        until("nothing is left of it", || match world.left_of(runner) {
            left if left.is_empty() => Ok(()),
            left => Err(left),
        });
    }
}

/// The agent, if the same process is back under the new program, and its runner has lost nothing.
fn upgraded(world: &World, of: &Printing, agent: Option<Process>) -> Result<(), String> {
    let now = world.agents_of(&of.runner).first().and_then(|pid| Process::of(*pid));
    if now != agent {
        return Err(format!("the agent was {agent:?} and is {now:?}"));
    }
    of.held(world)
}

/// Each is replaced by the same program, and daemons as well in between: many times, which needs no
/// program of an earlier version. Those take turns with ours in `before.rs`.
#[test]
fn t_upg_agents_are_replaced_again_and_again_and_no_session_is_lost() {
    let mut trial = Trial::new("T-UPG", "agents and daemons are replaced, and no session is lost");
    let world = World::new();
    world.project("demo");
    let names = ["one", "two", "three"];
    let runners = names.map(|name| Printing::launch(&world, name, &["--every", "20"]));
    let agents = runners.each_ref().map(|runner| {
        let [agent] = world.agents_of(&runner.runner)[..] else { panic!("it has one agent") };
        Process::of(agent)
    });
    for round in 0..scale(5, 100) {
        let began = std::time::Instant::now();
        for runner in &runners {
            world.run(["upgrade", &runner.runner]).ok();
        }
        if round % 2 == 1 {
            world.kill_daemon();
            world.run(["daemon", "start"]).ok();
        }
        for (runner, agent) in runners.iter().zip(agents) {
            until("its agent is back", || {
                let shown = world.runner(&runner.runner);
                if shown["connected"] == true { Ok(()) } else { Err(shown) }
            });
            until("nothing of it is lost", || upgraded(&world, runner, agent));
            trial.measured("all agents back after an upgrade", began.elapsed());
            trial.tried(Ok(()));
        }
    }
    // The control: an agent that does not come back as itself.
    signal(agents[0].expect("it lived").pid, Signal::KILL);
    world.until_state(&runners[0].runner, &["lost"]);
    trial.control("an agent that was killed", upgraded(&world, &runners[0], agents[0]).is_err());
    trial.end();
}

/// A daemon that speaks these versions of the agents' protocol, oldest and newest, takes over.
fn daemon_speaking(world: &mut World, versions: &str) {
    if world.daemon_pid().is_some() {
        world.kill_daemon();
    }
    world.set_env("STRATAVORE_TEST_PROTOCOL", versions);
    world.run(["daemon", "start"]).ok();
}

/// Row 71: what an agent and a daemon have in common is spoken. With nothing in common the agent goes
/// on as it was, and is found again by the next daemon that it understands.
#[test]
fn t_upg_agents_and_daemons_of_other_protocol_versions_get_along() {
    let mut trial = Trial::new("T-UPG", "daemons and agents of other protocol versions");
    let mut world =
        World::with_config("agent:\n  heartbeat: 200ms\nrunner:\n  unresponsive_after: 1s\n");
    daemon_speaking(&mut world, "1-2");
    world.project("demo");
    let newer = Printing::launch(&world, "newer", &["--every", "20"]);
    daemon_speaking(&mut world, "1-1");
    let older = Printing::launch(&world, "older", &["--every", "20"]);
    // What each daemon speaks, and whether the newer and the older agent understand it.
    let daemons = [
        ("2-3", [true, false]),
        ("3-3", [false, false]),
        ("1-1", [true, true]),
        ("1-2", [true, true]),
    ];
    for round in 0..scale(2, 200) {
        let (versions, understood) = daemons[round % daemons.len()];
        daemon_speaking(&mut world, versions);
        for (runner, understood) in [&newer, &older].into_iter().zip(understood) {
            let state = if understood { "running" } else { "unresponsive" };
            until(&format!("of a daemon of {versions} it is known as {state}"), || {
                match world.runner(&runner.runner) {
                    shown if shown["state"] == state && shown["connected"] == understood => Ok(()),
                    shown => Err(shown),
                }
            });
            if !understood {
                let refused = world.run(["--no-start", "screen", &runner.runner]).fails(4);
                let said = refused.stderr();
                assert!(said.contains("use programs of one version"), "{said}");
                let log = world.path(&format!("state/runners/{}/agent.log", runner.runner));
                let log = fs::read_to_string(log).unwrap();
                assert!(log.contains("no common version"), "{log}");
            }
            trial.tried(runner.held(&world));
        }
    }
    // All are back with a daemon that speaks with both, in the run that they were in.
    daemon_speaking(&mut world, "1-2");
    for runner in [&newer, &older] {
        let shown = world.until_state(&runner.runner, &["running"]);
        assert_eq!(shown["epoch"], 1, "{shown}");
        trial.tried(runner.held(&world));
    }
    // One that nobody understands is ended all the same when somebody wants that.
    daemon_speaking(&mut world, "3-3");
    world.run(["kill", "older", "--force"]).ok();
    trial.control("a runner that was killed", older.held(&world).is_err());
    trial.end();
}
