//! A host that has too little of something when the program is to be started.

use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};
use stratavore_core::runner::Cause;

use crate::daemon::World;

/// Lets the agent open no more files; those that it has stay. Returns the limit from before.
fn take_files(world: &World) -> Rlimit {
    let maximum = getrlimit(Resource::Nofile).maximum;
    let agent = Pid::from_raw(world.agent_pid().cast_signed());
    prlimit(agent, Resource::Nofile, Rlimit { current: Some(0), maximum }).unwrap()
}

#[tokio::test]
async fn a_start_that_the_host_has_no_files_for_is_tried_again() {
    let mut world = World::shell("exit 3");
    world.start();
    let mut line = world.take_in().await;
    let before = take_files(&world);
    line.go().await;
    world.until_noted("open files").await;
    world.until_noted("will try again").await;
    let agent = Pid::from_raw(world.agent_pid().cast_signed());
    prlimit(agent, Resource::Nofile, before).unwrap();
    line.started().await;
    assert_eq!(line.exited().await, Cause::Exit(3));
}

#[tokio::test]
async fn a_start_that_stays_impossible_says_what_to_do_and_leaves_nothing() {
    let mut world = World::shell("touch ran");
    world.start();
    let mut line = world.take_in().await;
    let before = take_files(&world);
    line.go().await;
    world.until_noted("will try again in 2.7s").await;
    // An end that a daemon knows of need not be written down.
    line.acks = false;
    let cause = line.exited().await;
    let agent = Pid::from_raw(world.agent_pid().cast_signed());
    prlimit(agent, Resource::Nofile, before).unwrap();
    drop(line);
    assert!(matches!(&cause, Cause::ExecError(why) if why.contains("ulimit -n")), "{cause:?}");
    assert!(world.agent_gone().await.success());
    assert_eq!(world.exit(), Some(cause));
    assert!(!std::path::Path::new(&world.spec.command.directory).join("ran").exists());
}

#[tokio::test]
async fn a_stop_ends_the_waiting_for_a_better_moment() {
    let mut world = World::shell("touch ran");
    world.start();
    let mut line = world.take_in().await;
    let before = take_files(&world);
    line.go().await;
    world.until_noted("will try again").await;
    line.stop(1000).await;
    assert!(matches!(line.exited().await, Cause::StoppedBy(_)));
    let agent = Pid::from_raw(world.agent_pid().cast_signed());
    let _restored = prlimit(agent, Resource::Nofile, before);
    world.agent_gone().await;
    assert!(!std::path::Path::new(&world.spec.command.directory).join("ran").exists());
}
