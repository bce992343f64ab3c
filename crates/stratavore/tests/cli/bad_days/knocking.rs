//! Whoever knocks at the sockets with something else than what is spoken there: noise, frames that
//! are too large, silence, and programs that pretend to be an agent.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use futures_util::{SinkExt, StreamExt};
use stratavore_proto::frame::{FRAME_MAX, FrameCodec};
use stratavore_proto::unix;
use stratavore_proto::v1::{
    AgentHello, AgentIdentity, AgentReport, Exit, FromAgent, Rejected, ToAgent, agent_report,
    from_agent, to_agent,
};
use stratavore_testkit::world::{PATIENCE, World, rows, signal, start_time, until};
use tokio_util::codec::Framed;

use super::runners;
use stratavore_testkit::wire::on_runtime;

/// The three doors: the API's, the agents', and that of one runner's agent.
fn doors(world: &World, runner: &str) -> [PathBuf; 3] {
    [
        world.path("run/d.sock"),
        world.path("state/agents.sock"),
        world.path(&format!("state/runners/{runner}/agent.sock")),
    ]
}

/// Bytes that look random and are the same each time.
fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    (0..length).map(|_| next()).collect()
}

#[test]
fn noise_at_the_sockets_costs_nobody_else_anything() {
    let world = World::new();
    world.project("demo");
    let runner = world.launch("demo", "one", &["cat"]);
    let (daemon, process) = (world.daemon_pid(), world.process_of(&runner));
    let too_long = u32::MAX.to_be_bytes().to_vec();
    let over_the_limit = (FRAME_MAX as u32 + 1).to_be_bytes().to_vec();
    let half = [&1000_u32.to_be_bytes()[..], b"half a frame"].concat();
    let no_message = [&8_u32.to_be_bytes()[..], b"\xff\xff\xff\xff\xff\xff\xff\xff"].concat();
    let http = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n".to_vec();
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x63\x00\x00\x00\x00\x01".to_vec();
    let mut knocks = vec![too_long, over_the_limit, half, no_message, http, preface, Vec::new()];
    knocks.extend((0..20).map(|seed| noise(seed, 1 + 400 * seed as usize)));
    for door in doors(&world, &runner) {
        for knock in &knocks {
            let mut stream = UnixStream::connect(&door).unwrap();
            // Whoever is cut off in the middle has written enough.
            let _cut_off = stream.write_all(knock);
        }
    }
    assert_eq!(world.daemon_pid(), daemon);
    assert_eq!(world.process_of(&runner), process);
    assert_eq!(world.json(&["status"])["daemon"]["health"], "ready");
    world.run(["--no-start", "send", "one", "hello"]).ok();
    until("the runner has answered", || {
        let screen = world.run(["screen", "one"]).ok().stdout();
        if screen.matches("hello").count() == 2 { Ok(()) } else { Err(screen) }
    });
    assert_eq!(runners(&world).len(), 1);
}

/// Row 70: who says nothing, or next to nothing, is not waited for: no door keeps a file open for it.
#[test]
fn silence_at_the_sockets_ends() {
    let world = World::new();
    world.project("demo");
    let runner = world.launch("demo", "one", &["cat"]);
    let doors = doors(&world, &runner);
    let silent = doors.each_ref().map(|door| UnixStream::connect(door).unwrap());
    // The beginning of what each would hear from somebody who means it.
    let beginnings = [b'P', 0, 0];
    let slow = doors.each_ref().map(|door| UnixStream::connect(door).unwrap());
    for (mut stream, beginning) in slow.iter().zip(beginnings) {
        stream.write_all(&[beginning]).unwrap();
    }
    for mut stream in silent.into_iter().chain(slow) {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut answer = Vec::new();
        // A daemon that has read something may reset what it closes.
        match stream.read_to_end(&mut answer) {
            Ok(_) => {}
            Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset),
        }
    }
    world.run(["kill", "one", "--force"]).ok();
}

type Line = Framed<unix::Stream, FrameCodec<ToAgent, FromAgent>>;

/// A program that pretends to be an agent.
struct Rogue {
    line: Line,
}

impl Rogue {
    fn dial(world: &World) -> Self {
        let stream = unix::connect(&world.path("state/agents.sock")).expect("a daemon listens");
        Self { line: Framed::new(stream, FrameCodec::default()) }
    }

    async fn say(&mut self, kind: from_agent::Kind) {
        // The other side may have closed.
        self.line.send(FromAgent { kind: Some(kind) }).await.ok();
    }

    async fn hear(&mut self) -> Option<to_agent::Kind> {
        let heard = tokio::time::timeout(PATIENCE, self.line.next()).await;
        heard.expect("the daemon answers or closes")?.ok()?.kind
    }

    /// Greets, and answers how that was refused.
    async fn greet(world: &World, hello: AgentHello) -> Rejected {
        let mut rogue = Self::dial(world);
        rogue.say(from_agent::Kind::Hello(hello)).await;
        match rogue.hear().await {
            Some(to_agent::Kind::Rejected(rejected)) => {
                assert!(rogue.hear().await.is_none(), "the line is closed then");
                rejected
            }
            other => panic!("a rogue was let in: {other:?}"),
        }
    }
}

/// A greeting of this very process.
fn hello(runner: &str, epoch: i64) -> AgentHello {
    let pid = std::process::id();
    AgentHello {
        version_min: 1,
        version_max: 1,
        runner_id: runner.into(),
        epoch,
        identity: Some(AgentIdentity {
            boot_id: boot_id(),
            pid,
            start_time: start_time(pid).unwrap(),
            nonce: "00".repeat(16),
        }),
        key: vec![7; 32].into(),
        join_token: vec![9; 32].into(),
        program_version: "0".into(),
        started: false,
    }
}

fn boot_id() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap().trim().to_owned()
}

/// What the runner's own agent has written of itself.
fn identity_of(world: &World, runner: &str) -> AgentIdentity {
    let path = world.path(&format!("state/runners/{runner}/agent.json"));
    let record: serde_json::Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let text = |field: &str| record["identity"][field].as_str().unwrap().to_owned();
    AgentIdentity {
        boot_id: text("boot_id"),
        pid: record["identity"]["pid"].as_u64().unwrap() as u32,
        start_time: record["identity"]["start_time"].as_u64().unwrap(),
        nonce: text("nonce"),
    }
}

#[test]
fn an_agent_that_is_none_is_refused_and_the_real_one_keeps_its_runner() {
    let world = World::new();
    world.project("demo");
    let runner = world.launch("demo", "one", &["cat"]);
    let generation = world.runner(&runner)["generation"].clone();
    let own = identity_of(&world, &runner);
    let nobody = "run_00000000000000000000";
    on_runtime(async {
        let refusals = [
            (hello(nobody, 1), "does not know this runner"),
            (hello("no-id", 1), "no-id"),
            (hello(&runner, 0), "over"),
            (hello(&runner, 2), "does not know this run of it"),
            // With its own identity, and with that of the real agent.
            (hello(&runner, 1), "another agent"),
            (AgentHello { identity: Some(own.clone()), ..hello(&runner, 1) }, "identity"),
            (AgentHello { identity: None, ..hello(&runner, 1) }, "identity"),
            (AgentHello { key: vec![7; 8].into(), ..hello(&runner, 1) }, "key"),
            (AgentHello { version_min: 900, version_max: 901, ..hello(&runner, 1) }, "version"),
        ];
        for (hello, why) in refusals {
            let rejected = Rogue::greet(&world, hello).await;
            assert!(rejected.why.contains(why), "{why}: {rejected:?}");
            assert!(!rejected.why.contains(&world.path("").display().to_string()), "{rejected:?}");
        }
        // Reports before a greeting are no reports.
        let exited = Exit { cause: r#"{"exit":0}"#.into(), at_us: 1 };
        let what = Some(agent_report::What::Exited(exited));
        let report = AgentReport { seq: 1, at_us: 1, what };
        let mut rogue = Rogue::dial(&world);
        rogue.say(from_agent::Kind::Report(report)).await;
        assert!(rogue.hear().await.is_none());
    });
    // Row 72: it is on the record, as what it was: one that is not proved to be the runner's agent.
    let recorded = until("the refusals are on the record", || {
        let listed = world.json(&["audit", "list", "--refused", "--limit", "100"]);
        let of = rows(&listed).iter().filter(|one| one.to_string().contains("agents.greet"));
        match of.cloned().collect::<Vec<_>>() {
            none if none.is_empty() => Err(listed),
            some => Ok(some),
        }
    });
    for record in &recorded {
        assert_eq!(record["decision"], "refused", "{record}");
        let told = record.to_string();
        assert!(told.contains(&std::process::id().to_string()), "who it was: {told}");
        assert!(record["reason"].as_str().is_some_and(|reason| !reason.is_empty()), "{told}");
    }
    let shown = world.runner(&runner);
    assert_eq!(shown["generation"], generation, "nothing about it has changed: {shown}");
    assert_eq!(shown["connected"], true);
    // The real agent hears what it is told.
    world.run(["kill", "one", "--force"]).ok();
}

/// The moment that matters: the runner waits for its agent, and somebody else is there first.
#[test]
fn without_the_join_token_nobody_becomes_a_runners_agent() {
    let mut world = World::new();
    world.project("demo");
    world.kill_daemon();
    // The real agent stops just before it greets; the daemon hands the variable on.
    world.set_env("STRATAVORE_FAILPOINTS", "before_hello=pause");
    world.run(["daemon", "start"]).ok();
    let mut launch = world.command("stratavore");
    launch.args(["launch", "--project", "demo", "--name", "one", "--", "cat"]);
    let mut launching = launch.spawn().unwrap();
    let agent = until("its agent has stopped", || {
        let agents = world.agents();
        let stopped = |pid: &u32| {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('T'))
        };
        match agents[..] {
            [pid] if stopped(&pid) => Ok(pid),
            _ => Err(agents),
        }
    });
    let listed = runners(&world);
    assert_eq!(listed[0]["state"], "pending", "{listed:?}");
    let runner = listed[0]["id"].as_str().unwrap().to_owned();
    on_runtime(async {
        for token in [vec![9; 32], Vec::new(), vec![0; 4096]] {
            let rogue = AgentHello { join_token: token.into(), ..hello(&runner, 1) };
            let rejected = Rogue::greet(&world, rogue).await;
            assert!(rejected.why.contains("join token"), "{rejected:?}");
        }
        // What the directory says in the clear is not the token.
        let spec = std::fs::read(world.path(&format!("state/runners/{runner}/spec.json"))).unwrap();
        let spec: serde_json::Value = serde_json::from_slice(&spec).unwrap();
        let digest = spec["join_token_sha256"].as_str().unwrap().to_owned();
        let rogue = AgentHello { join_token: digest.into_bytes().into(), ..hello(&runner, 1) };
        assert!(Rogue::greet(&world, rogue).await.why.contains("join token"));
    });
    assert_eq!(world.runner(&runner)["state"], "pending");
    signal(agent, rustix::process::Signal::CONT);
    world.until_state(&runner, &["running"]);
    assert_eq!(world.runner(&runner)["agent_pid"], agent);
    assert!(launching.wait().unwrap().success());
}
