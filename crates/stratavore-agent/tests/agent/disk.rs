//! T-ENOSPC: disks that are full or broken. Nothing is missing from a record without a mark.
//!
//! These mount a file system, in namespaces of their own, or run the agent under `strace`. Where that
//! cannot be had they fail, and say what is missing.

use std::path::PathBuf;
use std::process::Command;

use stratavore_agent::output::{Chunk, OutputReader};
use stratavore_core::runner::Cause;
use stratavore_proto::runner_dir::Recording;
use stratavore_proto::v1::AgentReport;
use stratavore_proto::v1::agent_report::What;
use stratavore_testkit::netns::inside;
use stratavore_testkit::strace;
use stratavore_testkit::trial::{Dice, Trial, scale};

use crate::daemon::World;
use crate::viewer::send;

fn on_runtime(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.unwrap().block_on(test);
}

/// A file system of a megabyte; gone when dropped.
struct SmallDisk(PathBuf);

impl SmallDisk {
    /// Only inside, where everybody may mount.
    fn mount(at: PathBuf) -> Self {
        let mut mount = Command::new("mount");
        let mounted = mount.args(["-t", "tmpfs", "-o", "size=1m", "tmpfs"]).arg(&at).output();
        let mounted = mounted.expect("mount is installed");
        assert!(mounted.status.success(), "a tmpfs of a megabyte is needed: {mounted:?}");
        Self(at)
    }

    /// Leaves room for so many bytes, a page more or less.
    fn fill(&self, room: usize) {
        let _full = std::fs::write(self.0.join("filling"), vec![0; 2 << 20]);
        let filling = std::fs::OpenOptions::new().write(true).open(self.0.join("filling")).unwrap();
        let length = filling.metadata().unwrap().len();
        filling.set_len(length.saturating_sub(room as u64)).unwrap();
        // The last pages, one by one.
        let page = |n: &u32| std::fs::write(self.0.join(format!("filling-{n}")), "x").is_ok();
        let _pages = (0..1000).take_while(|n| room == 0 && page(n)).count();
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

/// Whether every byte of `source` is in the record where it belongs, or in a gap that is marked.
/// Answers how many bytes are in gaps.
fn accounted(world: &World, source: &[u8], told: &[(u64, u64)]) -> Result<u64, String> {
    let mut reader = OutputReader::new(world.dir.output());
    let (mut at, mut gaps) = (0, Vec::new());
    loop {
        match reader.read(at, 1 << 20).map_err(|error| error.to_string())? {
            Chunk::Data { data, .. } => {
                let end = at as usize + data.len();
                if source.get(at as usize..end) != Some(&data[..]) {
                    return Err(format!("{} bytes at {at} are not what was printed", data.len()));
                }
                at = end as u64;
            }
            Chunk::Gap { from, to } => {
                gaps.push((from, to));
                at = to;
            }
            Chunk::End => break,
        }
    }
    // What is missing at the very end has no record after it, and is only told.
    gaps.extend(told.iter().filter(|(from, to)| *from == at && *to == source.len() as u64));
    let end = gaps.last().map_or(at, |(_, to)| at.max(*to));
    if end != source.len() as u64 {
        return Err(format!("{end} of {} bytes are accounted for", source.len()));
    }
    if let Some(silent) = gaps.iter().find(|gap| !told.contains(gap)) {
        return Err(format!("{silent:?} is missing, and was not told: {told:?}"));
    }
    Ok(gaps.iter().map(|(from, to)| to - from).sum())
}

/// A runner on a full disk that gets room after a while.
async fn round(dice: &mut Dice, recording: Recording) -> Result<u64, String> {
    // More than the disk has room for.
    let lines = 40_000 + dice.below(60_000);
    let script = format!(
        "stty -echo; echo ready; read x; seq {lines}; read x; \
         i=0; while [ $i -lt 40 ]; do echo again $i; sleep 0.01; i=$((i+1)); done"
    );
    let mut world = World::shell(&script).with(|spec| {
        spec.recording = recording;
        spec.segment_bytes = 100_000;
    });
    world.dir.create().unwrap();
    let disk = SmallDisk::mount(world.dir.output());
    let mut line = world.launch().await;
    world.until_recorded("ready").await;
    disk.fill(dice.below(100_000));
    send(&world, b"", false, true).await.unwrap();
    world
        .until_noted(match recording {
            Recording::BestEffort => "cannot be recorded",
            Recording::Strict => "the runner waits",
        })
        .await;
    disk.free();
    let larger = Command::new("mount").args(["-o", "remount,size=8m"]).arg(&disk.0).status();
    assert!(larger.unwrap().success());
    send(&world, b"", false, true).await.unwrap();
    let cause = line.exited().await;
    let numbers: String = (1..=lines).map(|n| format!("{n}\r\n")).collect();
    let again: String = (0..40).map(|n| format!("again {n}\r\n")).collect();
    let source = format!("ready\r\n{numbers}{again}");
    let gap = |report: &AgentReport| match &report.what {
        Some(What::Gap(gap)) => Some((gap.from, gap.to)),
        Some(_) | None => None,
    };
    let told: Vec<(u64, u64)> = line.reports.iter().filter_map(gap).collect();
    let held = accounted(&world, source.as_bytes(), &told);
    let held =
        if cause == Cause::Exit(0) { held } else { Err(format!("the runner ended as {cause}")) };
    // What is to be broken on purpose: a gap that nobody was told of.
    let silent = accounted(&world, source.as_bytes(), &[]);
    assert!(told.is_empty() || silent.is_err(), "the check does not notice a silent gap");
    world.agent_gone().await;
    drop(disk);
    held
}

#[test]
fn t_enospc_nothing_is_missing_without_a_mark() {
    let test = "disk::t_enospc_nothing_is_missing_without_a_mark";
    inside(test, || on_runtime(nothing_is_missing_without_a_mark()));
}

async fn nothing_is_missing_without_a_mark() {
    let mut trial = Trial::new(
        "T-ENOSPC",
        "on a disk of a megabyte that is full for a while, every byte is recorded or in a gap that is told",
    );
    let mut dice = trial.dice();
    let (mut lost, mut rounds_with_gaps) = (0, 0);
    for _ in 0..scale(2, 50) {
        for recording in [Recording::BestEffort, Recording::Strict] {
            let strict = recording == Recording::Strict;
            trial.tried(match round(&mut dice, recording).await {
                Ok(gaps) if strict && gaps > 0 => Err(format!("strict lost {gaps} bytes")),
                Ok(gaps) => {
                    lost += gaps;
                    rounds_with_gaps += u64::from(gaps > 0);
                    Ok(())
                }
                Err(found) => Err(format!("{recording:?}: {found}")),
            });
        }
    }
    trial.counted("bytes in gaps that were told", lost);
    // Each of the rounds with a gap was judged without what was told, too.
    trial.control("a gap that nobody is told of", rounds_with_gaps > 0);
    trial.end();
}

/// Everything of the runner is on the disk that is full: its end cannot be written down.
#[test]
fn an_end_that_cannot_be_written_is_told_and_written_later() {
    let test = "disk::an_end_that_cannot_be_written_is_told_and_written_later";
    inside(test, || on_runtime(an_end_is_told_and_written_later()));
}

async fn an_end_is_told_and_written_later() {
    let mut world = World::shell("read x; exit 5");
    std::fs::create_dir_all(world.dir.path()).unwrap();
    let disk = SmallDisk::mount(world.dir.path().into());
    // On the full disk there is no room for the agent's words either.
    world.words = Some(world.path("words"));
    let mut line = world.launch().await;
    // What was acknowledged is removed from the disk, and would make room.
    crate::wait::until("the spool to be empty", || {
        match std::fs::metadata(world.dir.spool()).map_or(0, |spool| spool.len()) {
            0 => Ok(()),
            length => Err(length),
        }
    })
    .await;
    disk.fill(0);
    line.acks = false;
    world.daemon_down();
    drop(line);
    send(&world, b"", false, true).await.unwrap();
    let lost = world.path("words");
    crate::wait::until("the agent to miss its room", || {
        let words = std::fs::read_to_string(&lost).unwrap_or_default();
        if words.contains("write exit.json") { Ok(()) } else { Err(words) }
    })
    .await;
    assert!(world.exit().is_none(), "there is no room for it");
    assert!(world.dir.is_locked().unwrap(), "the agent stays until its end is known");
    disk.free();
    assert!(world.agent_gone().await.success());
    assert_eq!(world.exit(), Some(Cause::Exit(5)));
    drop(disk);
}

/// One whose log is a full disk: it serves, is upgraded, and tells the end of its program.
async fn works_without_words() -> Result<(), String> {
    let mut world = World::shell("while read x; do echo got $x; done; exit 2");
    world.words = Some("/dev/full".into());
    let mut line = world.launch().await;
    // Both are noted, or would be.
    line.upgrade("/no/such/agent").await;
    drop(line);
    let mut line = world.take_in_knowing(1).await.0;
    send(&world, b"one", false, true).await.unwrap();
    world.until_recorded("got one").await;
    line.upgrade(crate::daemon::AGENT).await;
    let mut line = world.take_in_knowing(1).await.0;
    send(&world, b"two", false, true).await.unwrap();
    world.until_recorded("got two").await;
    send(&world, b"\x04", false, false).await.unwrap();
    match (line.exited().await, world.exit()) {
        (Cause::Exit(2), Some(Cause::Exit(2))) => Ok(()),
        other => Err(format!("its end is {other:?}")),
    }
}

#[tokio::test]
async fn t_enospc_an_agent_whose_words_go_nowhere_does_its_work() {
    let mut trial = Trial::new(
        "T-ENOSPC",
        "/dev/full for the agent's log: it does all its work and tells the end",
    );
    for _ in 0..scale(2, 50) {
        trial.tried(works_without_words().await);
    }
    trial.end();
}

/// Row 32. `exit.json` is not taken for written when `fsync` has failed on it; the end is told all
/// the same, and the agent says what its disk did.
#[tokio::test]
async fn a_disk_that_fails_to_sync_is_not_believed() {
    strace::needed();
    let mut world = World::shell("echo printed; read x; exit 7");
    // `-D`: the agent stays our own child. The spool may sync before; its failure is told as well.
    world.wrapper = vec!["strace", "-D", "-f", "-qq", "-o", "/dev/null"];
    world.wrapper.extend(["-e", "trace=fsync,fdatasync"]);
    world.wrapper.extend(["-e", "inject=fsync,fdatasync:error=EIO"]);
    let mut line = world.launch().await;
    world.until_recorded("printed").await;
    send(&world, b"", false, true).await.unwrap();
    assert_eq!(line.exited().await, Cause::Exit(7));
    world.until_noted("write exit.json: Input/output error").await;
    world.until_noted("make the output durable: Input/output error").await;
    assert!(world.agent_gone().await.success(), "a daemon knows the end");
    assert!(world.exit().is_none(), "a record that may not be durable is no record");
    assert_eq!(world.recorded_text(), "printed\r\n\r\n");
}
