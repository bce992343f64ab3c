//! What becomes of runners when their host or their agent has died, and how they are brought back.

use std::fs;

use rustix::process::Signal;
use serde_json::Value;
use stratavore_testkit::reboot::{host_dies, of_another_boot};
use stratavore_testkit::world::{World, rows, signal, until};

fn world() -> World {
    let world = World::with_config("runner:\n  restart_backoff: 1h\n");
    world.project("demo");
    world
}

fn launch(world: &World, name: &str, policy: &str, script: &str) -> String {
    world.launch_with("demo", name, &["--restart", policy], &["sh", "-c", script])
}

fn ended(world: &World, runner: &str) -> (String, String) {
    let shown = world.until_state(runner, &["exited", "failed", "lost"]);
    let text = |key: &str| shown[key].as_str().unwrap().to_owned();
    (text("state"), text("cause"))
}

fn lost(cause: &str) -> (String, String) {
    ("lost".into(), cause.into())
}

/// Every runner, ended ones too, as `name state`.
fn all(world: &World) -> Vec<String> {
    let listed = world.json(&["runners", "--all"]);
    let text = |row: &Value, key: &str| row[key].as_str().unwrap().to_owned();
    rows(&listed).iter().map(|r| format!("{} {}", text(r, "name"), text(r, "state"))).collect()
}

#[test]
fn after_a_reboot_nothing_starts_unasked_and_recover_brings_all_of_it_back_once() {
    let world = world();
    let kept = launch(&world, "kept", "always", "exec sleep 1000");
    let stopped = launch(&world, "stopped", "always", "exec sleep 1000");
    world.run(["kill", "stopped", "--force"]).ok();
    host_dies(&world, &kept);
    of_another_boot(&world, &kept);

    assert_eq!(ended(&world, &kept), lost("host_reboot"));
    assert_eq!(all(&world), ["stopped exited", "kept lost"], "nothing is started unasked");
    let would = world.run(["recover", "--dry-run"]).ok().stdout();
    assert!(would.contains("would recover kept") && !would.contains("stopped"), "{would}");
    assert_eq!(all(&world).len(), 2, "a dry run does nothing");

    let told = world.run(["recover"]).ok().stdout();
    assert!(told.contains("recovered kept in demo"), "{told}");
    let back = world.until_state("kept", &["running"]);
    assert_eq!(back["successor_of"], kept.as_str());
    let id = back["id"].as_str().unwrap();
    assert!(world.process_of(id).is_alive());
    // Once is enough, also for one that is named.
    world.run(["recover"]).ok();
    let again = world.run(["recover", &kept]).ok().everything();
    assert!(again.contains(id), "{again}");
    assert_eq!(all(&world).len(), 3);
    assert!(world.left_of(&stopped).is_empty());
}

#[test]
fn one_whose_agent_died_is_recovered_or_restarted_as_its_policy_says() {
    let world = world();
    let never = launch(&world, "never", "never", "exec sleep 1000");
    let policy = launch(&world, "policy", "on-failure", "exec sleep 1000");
    for runner in [&never, &policy] {
        for agent in world.agents_of(runner) {
            signal(agent, Signal::KILL);
        }
    }
    assert_eq!(ended(&world, &never), lost("agent_died"));
    let shown = world.until_state(&policy, &["pending"]);
    assert_eq!((&shown["epoch"], &shown["last_cause"]), (&2.into(), &"agent_died".into()));
    until("nothing of the dead agents is left", || match world.left_of(&never) {
        left if left.is_empty() => Ok(()),
        left => Err(left),
    });

    let told = world.run(["recover"]).ok().stdout();
    assert!(told.contains("recovered never") && !told.contains("policy"), "{told}");
    assert_eq!(world.until_state("never", &["running"])["successor_of"], never.as_str());
    world.run(["restart", "policy"]).ok();
    assert_eq!(world.runner("policy")["id"], policy.as_str());
}

/// A runner that ended before its host did, while no daemon listened.
fn ended_before_the_reboot(world: &World, name: &str, policy: &str) -> String {
    let id = launch(world, name, policy, "trap 'exit 3' USR1; echo ready; read line; exit 4");
    until("it listens", || if world.recorded(&id).is_empty() { Err(()) } else { Ok(()) });
    world.kill_daemon();
    signal(world.process_of(&id).pid, Signal::USR1);
    let exit = world.path(&format!("state/runners/{id}/exit.json"));
    until("its end is written down", || if exit.exists() { Ok(()) } else { Err(()) });
    host_dies(world, &id);
    of_another_boot(world, &id);
    id
}

/// The exit record is the truth about how a runner ended, and its policy holds; only without one
/// has the reboot ended it.
#[test]
fn what_had_ended_before_the_reboot_ended_as_it_wrote_down() {
    let world = world();
    let never = ended_before_the_reboot(&world, "never", "never");
    assert_eq!(ended(&world, &never), ("failed".into(), "exit 3".into()));

    let policy = ended_before_the_reboot(&world, "policy", "on-failure");
    let shown = world.until_state(&policy, &["pending"]);
    assert_eq!((&shown["epoch"], &shown["last_cause"]), (&2.into(), &"exit 3".into()));
    // However often a daemon comes and reads the files of the epoch before, on the other boot.
    for _ in 0..3 {
        world.kill_daemon();
        let report = world.run(["reconcile"]).ok().stdout();
        assert!(!report.contains("booted"), "{report}");
        assert_eq!(world.runner(&policy)["state"], "pending");
    }
    world.run(["restart", "policy"]).ok();
    let back = world.runner(&policy);
    assert_eq!((&back["state"], &back["epoch"]), (&"running".into(), &2.into()));

    // The control: the same files without the record are those of a run that the reboot cut off.
    let control = ended_before_the_reboot(&world, "control", "on-failure");
    fs::remove_file(world.path(&format!("state/runners/{control}/exit.json"))).unwrap();
    assert_eq!(ended(&world, &control), lost("host_reboot"));
}
