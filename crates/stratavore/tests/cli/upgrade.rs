//! `upgrade` answers what came of it.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use rustix::process::Signal;
use stratavore_testkit::world::{World, signal};

/// A world whose agents run a program that the test can replace.
fn world() -> World {
    let mut world = World::new();
    let program = world.work().join("stratavore-agent");
    fs::copy(World::program("stratavore-agent"), &program).unwrap();
    world.set_env("STRATAVORE_AGENT__BINARY", &program.display().to_string());
    world.project("demo");
    world
}

/// Puts another file in the place of the agent's program, as an installation does.
fn install(world: &World, content: &[u8]) {
    let new = world.work().join("new");
    fs::write(&new, content).unwrap();
    fs::set_permissions(&new, fs::Permissions::from_mode(0o755)).unwrap();
    fs::rename(&new, world.work().join("stratavore-agent")).unwrap();
}

#[test]
fn an_upgrade_tells_the_version_that_runs_then() {
    let world = world();
    let runner = world.launch("demo", "one", &["cat"]);
    let process = world.process_of(&runner);
    install(&world, &fs::read(World::program("stratavore-agent")).unwrap());
    let said = world.run(["upgrade", "one"]).ok().stdout();
    assert!(said.contains("upgraded the agent of one: it runs version "), "{said}");
    assert_eq!(world.process_of(&runner), process);
    world.run(["kill", "one", "--force"]).ok();
}

#[test]
fn an_upgrade_that_fails_says_why_and_the_agent_goes_on() {
    let world = world();
    let runner = world.launch("demo", "one", &["cat"]);
    let process = world.process_of(&runner);
    install(&world, b"no program of ours");
    let said = world.run(["upgrade", "one"]).fails(2).stderr();
    assert!(said.contains("the agent of one goes on as it was: "), "{said}");
    assert_eq!(world.process_of(&runner), process);
    world.run(["send", "one", "hello"]).ok();
    world.run(["kill", "one", "--force"]).ok();
}

#[test]
fn an_agent_that_does_not_say_is_not_waited_for_for_ever() {
    let world = world();
    world.launch("demo", "one", &["cat"]);
    let agent = world.agents()[0];
    signal(agent, Signal::STOP);
    let said = world.run(["upgrade", "one"]);
    signal(agent, Signal::CONT);
    let said = said.fails(9).stderr();
    assert!(said.contains("within 10 s"), "{said}");
}
