//! Ending: in order, within a bound, and without touching a runner.

use rustix::process::Signal;
use stratavore_proto::client::Client;
use stratavore_proto::v1::SendToRunner;
use stratavore_testkit::world::{World, signal, until};

use crate::{Daemon, Systemd, until_ready};

#[test]
fn an_open_stream_does_not_keep_it() {
    let world = World::new();
    let daemon = Daemon::start(&world, |_| {});
    until_ready(&world);
    let mut subscriber = world.command("stratavore");
    subscriber
        .args(["events", "subscribe", "--format", "json"])
        .stdout(std::process::Stdio::null());
    let mut subscriber = subscriber.spawn().expect("it starts");
    // It has its answer, and so its stream, once the daemon knows a connection more.
    world.project("demo");
    signal(daemon.pid(), Signal::TERM);
    let (code, said) = daemon.ended();
    subscriber.kill().ok();
    subscriber.wait().ok();
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("stopped"), "{said}");
    assert!(!world.path("run/d.sock").exists(), "clients see at once that none runs");
}

#[test]
fn its_end_touches_no_runner_unless_told_to() {
    let world = World::new();
    let daemon = Daemon::start(&world, |_| {});
    until_ready(&world);
    world.project("demo");
    let runner = world.launch("demo", "sleeper", &["sleep", "1000"]);
    let before = world.processes_of(&runner);
    assert!(!before.is_empty());
    signal(daemon.pid(), Signal::TERM);
    let (code, said) = daemon.ended();
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(world.processes_of(&runner), before, "the runner goes on");

    world.run(["daemon", "start"]).ok();
    world.run(["daemon", "stop", "--stop-runners"]).ok();
    until("nothing of the runner is left", || {
        let left = world.processes_of(&runner);
        if left.is_empty() { Ok(()) } else { Err(left) }
    });
}

#[test]
fn a_second_signal_skips_the_waiting() {
    let mut world = World::new();
    let hooks = world.path("hooks");
    world.set_env("STRATAVORE_TEST_HOOKS", &hooks.display().to_string());
    let systemd = Systemd::listen(&world);
    let daemon = Daemon::start(&world, |command| {
        command.env("NOTIFY_SOCKET", systemd.path());
    });
    assert_eq!(systemd.told(), "READY=1");
    world.project("demo");
    let runner = world.launch("demo", "sleeper", &["sleep", "1000"]);
    // A request that hangs, since the agent that it goes to is stopped: something to wait for.
    let agent = world.agents()[0];
    signal(agent, Signal::STOP);
    let socket = world.path("run/d.sock");
    let request = SendToRunner { runner, data: "hello".into(), ..SendToRunner::default() };
    let sending = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("a runtime").block_on(async {
            let client = Client::connect(&socket).await.expect("the daemon answers");
            client.runners().send(request).await
        })
    });
    until("the request is on its way", || {
        let passed = std::fs::read_to_string(&hooks).unwrap_or_default();
        if passed.lines().any(|place| place == "send") { Ok(()) } else { Err(passed) }
    });

    signal(daemon.pid(), Signal::TERM);
    assert_eq!(systemd.told(), "STOPPING=1");
    signal(daemon.pid(), Signal::TERM);
    let (code, said) = daemon.ended();
    signal(agent, Signal::CONT);
    let answer = sending.join().expect("it does not panic");
    assert!(answer.is_err(), "the request was cut off: {answer:?}");
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("stopping at once"), "{said}");
}
