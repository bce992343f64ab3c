//! Recording that fails, and goes on.

use std::process::Command;

use stratavore_agent::output::{Chunk, OutputReader};
use stratavore_core::runner::Cause;
use stratavore_proto::runner_dir::Recording;
use stratavore_proto::v1::agent_report::What;

use crate::daemon::World;
use crate::viewer::{Viewer, attach_wish, output_wish, send};
use crate::wait::until;

/// A file system of a megabyte for the recorded output; gone when dropped.
struct SmallDisk(std::path::PathBuf);

impl SmallDisk {
    /// `None`: this user may not mount.
    fn mount(at: std::path::PathBuf) -> Option<Self> {
        let mounted =
            Command::new("mount").args(["-t", "tmpfs", "-o", "size=1m", "tmpfs"]).arg(&at).status();
        mounted.is_ok_and(|status| status.success()).then_some(Self(at))
    }

    fn fill(&self) {
        let _full = std::fs::write(self.0.join("filling"), vec![0; 2 << 20]);
    }

    fn free(&self) {
        std::fs::remove_file(self.0.join("filling")).unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _unmounted = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[tokio::test]
async fn a_full_disk_costs_a_gap_that_is_told_once() {
    let script = "while read n; do head -c 9000 /dev/zero | tr '\\0' x; echo; echo got $n; done";
    let mut world = World::shell(script);
    world.dir.create().unwrap();
    let Some(disk) = SmallDisk::mount(world.dir.output()) else { return };
    let mut line = world.launch().await;
    send(&world, b"one", false, true).await.unwrap();
    world.until_recorded("got one").await;
    let mut viewer = Viewer::attach(&world, "me", attach_wish(true, false, 80, 24)).await;
    disk.fill();
    // The last page of the segment has room for less than this.
    for text in ["two", "three"] {
        send(&world, text.as_bytes(), false, true).await.unwrap();
        viewer.until_shown(&format!("got {text}")).await;
    }
    disk.free();
    // It tries again when there is something to record, and not with every byte.
    let mut gap = None;
    for _ in 0..100 {
        send(&world, b"again", false, true).await.unwrap();
        let report =
            tokio::time::timeout(std::time::Duration::from_millis(200), line.report()).await;
        if let Ok(What::Gap(told)) = report {
            gap = Some(told);
            break;
        }
    }
    let gap = gap.expect("the gap is told");
    assert!(gap.to > gap.from && gap.why.contains("space"), "{gap:?}");
    // Whoever reads is told the same, and everything else is there.
    let mut reader = OutputReader::new(world.dir.output());
    let (mut at, mut gaps) = (0, Vec::new());
    loop {
        match reader.read(at, 1 << 20).unwrap() {
            Chunk::Data { data, .. } => at += data.len() as u64,
            Chunk::Gap { from, to } => {
                gaps.push((from, to));
                at = to;
            }
            Chunk::End => break,
        }
    }
    assert_eq!(gaps, [(gap.from, gap.to)]);
    line.kill().await;
    line.exited().await;
    drop(disk);
}

#[tokio::test]
async fn with_strict_recording_the_runner_waits_for_the_disk() {
    let mut world =
        World::shell("i=0; while [ $i -lt 60000 ]; do echo line $i; i=$((i+1)); done; exit 2")
            .with(|spec| spec.recording = Recording::Strict);
    world.dir.create().unwrap();
    let Some(disk) = SmallDisk::mount(world.dir.output()) else { return };
    disk.fill();
    let mut line = world.launch().await;
    until("the agent to be stuck", || {
        let log = std::fs::read_to_string(world.dir.log()).unwrap();
        if log.contains("the runner waits") { Ok(()) } else { Err(log) }
    })
    .await;
    // Heartbeats go on, and nothing is counted that was not recorded.
    let beat = line.heartbeat().await;
    assert_eq!(beat.output_bytes as usize, world.recorded().len());
    disk.free();
    assert_eq!(line.exited().await, Cause::Exit(2));
    let expected: String = (0..60000).map(|n| format!("line {n}\r\n")).collect();
    assert!(world.recorded() == expected.as_bytes());
    assert!(!line.reports.iter().any(|report| matches!(report.what, Some(What::Gap(_)))));
    drop(disk);
}

#[tokio::test]
async fn the_record_stays_small_and_says_what_is_gone() {
    let mut world = World::shell("i=0; while [ $i -lt 20000 ]; do echo line $i; i=$((i+1)); done")
        .with(|spec| {
            spec.segment_bytes = 10_000;
            spec.output_max_bytes = 50_000;
        });
    let mut line = world.launch().await;
    assert_eq!(line.exited().await, Cause::Exit(0));
    let mut reader = OutputReader::new(world.dir.output());
    let (first, end) = reader.bounds().unwrap();
    let expected: String = (0..20000).map(|n| format!("line {n}\r\n")).collect();
    assert_eq!(end, expected.len() as u64);
    assert!(end - first <= 50_000 && end - first >= 30_000, "{first} to {end}");
    assert_eq!(reader.read(0, 10).unwrap(), Chunk::Gap { from: 0, to: first });
    let Chunk::Data { data, .. } = reader.read(first, 100).unwrap() else {
        panic!("nothing at {first}")
    };
    assert_eq!(data, expected.as_bytes()[first as usize..first as usize + 100]);
}

#[tokio::test]
async fn a_restart_goes_on_with_the_same_record() {
    let mut world = World::shell("echo first; exit 1");
    let mut line = world.launch().await;
    line.exited().await;
    world.agent_gone().await;
    world.spec.epoch = 2;
    world.spec.command.argv[2] = "echo second; read x".into();
    let mut line = world.launch().await;
    world.until_recorded("first\r\nsecond\r\n").await;
    let mut reader = Viewer::connect(&world, "reader", output_wish(7, false)).await;
    reader.offset = 7;
    reader.welcome().await;
    while reader.step().await {}
    assert_eq!(reader.output, b"second\r\n");
    assert_eq!(line.reports[0].seq, 1, "an epoch counts anew");
    line.kill().await;
    line.exited().await;
}
