//! Row 66: a crowd at the sockets. Those who are too many are told so, or closed; whoever was there
//! before notices nothing, and nothing grows with the number of those who knock.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use stratavore_testkit::trial::scale;
use stratavore_testkit::world::{World, until};

use super::told;

/// What a client of HTTP/2 says first, with settings that are the usual ones.
const HTTP2: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
/// How much more memory a daemon or an agent may have for it, in bytes.
const MORE_MEMORY: u64 = 64 << 20;

/// Connections that were made, of which some may be closed already.
fn crowd(door: &Path, many: usize, greeting: &[u8]) -> Vec<UnixStream> {
    let open = |_| {
        let mut stream = UnixStream::connect(door).expect("somebody listens");
        // Whoever is closed at once has said enough.
        stream.write_all(greeting).ok();
        stream
    };
    (0..many).map(open).collect()
}

/// How many of them are open still.
fn open(crowd: &[UnixStream]) -> usize {
    let is_open = |mut stream: &UnixStream| {
        stream.set_nonblocking(true).expect("it can be asked");
        let mut bytes = [0; 4096];
        loop {
            match stream.read(&mut bytes) {
                Ok(0) => return false,
                Ok(_) => {}
                Err(error) => return error.kind() == std::io::ErrorKind::WouldBlock,
            }
        }
    };
    crowd.iter().filter(|stream| is_open(stream)).count()
}

fn memory(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("it has memory");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") << 10
}

fn raise_file_limit() {
    let limit = getrlimit(Resource::Nofile);
    let most = Rlimit { current: limit.maximum, maximum: limit.maximum };
    setrlimit(Resource::Nofile, most).expect("the limit may be raised so far");
}

#[test]
fn a_crowd_at_the_api_is_refused_and_harms_nobody() {
    raise_file_limit();
    let world = World::new();
    world.project("demo");
    let runner = world.launch("demo", "one", &["cat"]);
    let daemon = world.daemon_pid().expect("a daemon runs");
    let before = memory(daemon);
    let door = world.path("run/d.sock");
    let asks = || world.run(["--no-start", "runners", "list"]);
    let mut kept = Vec::new();
    for _ in 0..scale(2, 15) {
        kept.extend(crowd(&door, 700, HTTP2));
    }
    until("there is no more room", || match open(&kept) {
        // The limit, and those who are told about it.
        512..=528 => Ok(()),
        open => Err(open),
    });
    // Room for one who is told, perhaps taken by one who knocks.
    let last = kept.iter().rposition(|stream| open(std::slice::from_ref(stream)) == 1);
    drop(kept.remove(last.expect("one is open")));
    until("it is told that there are too many", || {
        let asked = asks();
        match asked.stderr().contains("connections to the daemon are open already") {
            true => Ok(told(asked, 6, &["512", "close some"])),
            false => Err(asked.everything()),
        }
    });
    // The runner's own door is another one, and so is the agents'.
    world.run(["--no-start", "send", "one", "hello"]).ok();
    let grown = memory(daemon).saturating_sub(before);
    assert!(grown < MORE_MEMORY, "{grown} bytes for {} connections", kept.len());
    drop(kept);
    until("there is room again", || match asks() {
        listed if listed.code() == 0 => Ok(()),
        refused => Err(refused.everything()),
    });
    assert_eq!(world.runner(&runner)["connected"], true);
    assert_eq!(world.daemon_pid(), Some(daemon), "it is the same daemon");
}

#[test]
fn a_crowd_at_a_runner_is_refused_and_its_viewer_stays() {
    raise_file_limit();
    let world = World::new();
    world.project("demo");
    let runner = world.launch("demo", "one", &["sh", "-c", "echo ready; exec cat"]);
    let [agent] = world.agents_of(&runner)[..] else { panic!("it has one agent") };
    let before = memory(agent);
    let mut viewer = world.terminal(&["attach", "one"], 24, 80);
    viewer.until_text("ready");
    let door = world.path(&format!("state/runners/{runner}/agent.sock"));
    until("it is told that there are too many", || {
        // They have said so little that they are not answered yet.
        let _kept = crowd(&door, 70, &[0]);
        let asked = world.run(["--no-start", "screen", "one"]);
        match asked.stderr().contains("64 connections to this runner are open: close some") {
            true => Ok(()),
            false => Err(asked.everything()),
        }
    });
    let mut kept = Vec::new();
    for _ in 0..scale(1, 15) {
        kept.extend(crowd(&door, 700, &[0]));
    }
    until("there is no more room", || match open(&kept) {
        60..=80 => Ok(()),
        open => Err(open),
    });
    viewer.press(b"still here\r");
    viewer.until_text("still here");
    let grown = memory(agent).saturating_sub(before);
    assert!(grown < MORE_MEMORY, "{grown} bytes for {} connections", kept.len());
    drop(kept);
    until("there is room again", || match world.run(["--no-start", "screen", "one"]) {
        shown if shown.code() == 0 => Ok(()),
        refused => Err(refused.everything()),
    });
    assert_eq!(world.agents_of(&runner), [agent]);
}
