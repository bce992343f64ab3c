//! Row 67: heartbeats that are too many, too large, or tell of what cannot be.
//!
//! They come over the agent's own line, of which the test takes a duplicate; nobody else is let in.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};

use prost::Message;
use rustix::net::{SocketAddrUnix, getpeername};
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};
use stratavore_proto::v1::{AgentHeartbeat, FromAgent, from_agent};
use stratavore_testkit::netns::inside;
use stratavore_testkit::world::{World, until};

/// A duplicate of the agent's end of its line to the daemon.
fn line_of(agent: u32) -> File {
    let process = Pid::from_raw(agent as i32).expect("a pid");
    let process = pidfd_open(process, PidfdFlags::empty()).expect("it runs");
    let entries = std::fs::read_dir(format!("/proc/{agent}/fd")).expect("we may look at it");
    let numbers = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    let files = numbers
        .filter_map(|number| pidfd_getfd(process.as_fd(), number, PidfdGetfdFlags::empty()).ok());
    let lines = files.filter(|file: &OwnedFd| {
        let peer = getpeername(file).ok().flatten();
        let peer = peer.and_then(|peer| SocketAddrUnix::try_from(peer).ok());
        let path = peer.as_ref().and_then(SocketAddrUnix::path_bytes).unwrap_or_default();
        path.ends_with(b"agents.sock")
    });
    let mut lines: Vec<OwnedFd> = lines.collect();
    assert_eq!(lines.len(), 1, "an agent has one line");
    File::from(lines.remove(0))
}

/// A heartbeat with so many bytes more than it needs, as of a field that nobody knows.
fn frame(beat: AgentHeartbeat, more: usize) -> Vec<u8> {
    let mut message = FromAgent { kind: Some(from_agent::Kind::Heartbeat(beat)) }.encode_to_vec();
    if more > 0 {
        // The field 1000, with bytes, of which there are more than 127.
        message.extend([0xc2, 0x3e, (more & 0x7f) as u8 | 0x80, (more >> 7) as u8]);
        message.extend(std::iter::repeat_n(0, more));
    }
    [&(message.len() as u32).to_be_bytes()[..], &message].concat()
}

/// One that tells of more than there can be, and of a time before time.
fn monstrous() -> AgentHeartbeat {
    AgentHeartbeat {
        cpu_ms: u64::MAX,
        memory: u64::MAX,
        processes: u32::MAX,
        output_bytes: u64::MAX,
        output_at_us: i64::MIN,
        viewers: u32::MAX,
    }
}

fn is_connected(world: &World, runner: &str) -> Result<(), String> {
    match world.runner(runner) {
        shown if shown["connected"] == true => Ok(()),
        shown => Err(shown.to_string()),
    }
}

#[test]
fn heartbeats_that_cannot_be_change_nothing_but_their_own_line() {
    inside("bad_days::beats::heartbeats_that_cannot_be_change_nothing_but_their_own_line", || {
        let world = World::new();
        world.project("demo");
        let runner = world.launch("demo", "one", &["cat"]);
        until("its agent is there", || is_connected(&world, &runner));
        let [agent] = world.agents_of(&runner)[..] else { panic!("it has one agent") };
        let (daemon, process) = (world.daemon_pid(), world.process_of(&runner));
        let mut line = line_of(agent);
        let inode = |line: &File| rustix::fs::fstat(line).expect("a file").st_ino;
        // Many at once, and one as large as may be: nothing is wrong with that.
        let flood = frame(monstrous(), 0).repeat(2000);
        line.write_all(&flood).expect("the daemon reads");
        line.write_all(&frame(monstrous(), 4000)).expect("the daemon reads");
        let shown = until("it was heard", || match world.runner(&runner) {
            shown if shown["usage"]["output_bytes"].as_u64() >= Some(1 << 50) => Ok(shown),
            shown => Err(shown),
        });
        assert_eq!(shown["usage"]["output_bytes"], 1_u64 << 53, "{shown}");
        assert_eq!(shown["usage"]["memory"], 1_u64 << 53, "{shown}");
        assert!(shown["usage"]["output_at"].is_null(), "{shown}");
        assert_eq!(inode(&line_of(agent)), inode(&line), "it is the same line");

        // Larger ones end it, whether they come or are only announced.
        let announced = (100_u32 << 20).to_be_bytes().to_vec();
        for too_large in [frame(monstrous(), 5000), announced] {
            let mut line = line_of(agent);
            line.write_all(&too_large).expect("the daemon reads");
            until("the daemon has closed it", || match line.read(&mut [0; 4096]) {
                Ok(0) => Ok(()),
                other => Err(format!("{other:?}")),
            });
            drop(line);
            until("its agent is back", || {
                is_connected(&world, &runner)?;
                Ok::<_, String>(())
            });
        }
        assert_eq!((world.daemon_pid(), world.process_of(&runner)), (daemon, process));
        world.run(["send", "one", "hello"]).ok();
    });
}
