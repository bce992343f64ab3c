//! Whatever shape a runner takes, a stop leaves nothing of it.
//!
//! Every shape is stopped by the agent, and left to `clear_runner` by a killed agent. What is left
//! is looked for by the agent's own ways and by the mark in `/proc`. The negative control shows that
//! signalling the process group alone, as one might, leaves some of them.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use stratavore_agent::identity::start_time;
use stratavore_agent::kill::{clear_runner, is_populated};
use stratavore_core::runner::Cause;
use stratavore_testkit::trial::{Trial, scale};

use crate::daemon::World;
use crate::part::{PLAY, cast};
use crate::viewer::{Viewer, attach_wish};
use crate::wait::until;

/// A name, and a script that writes the pid of what must not be left to `pid`.
const SHAPES: [(&str, &str); 11] = [
    ("plain", "echo $$ > pid; exec sleep 1000"),
    ("double fork", "( ( echo $(exec sh -c 'echo $PPID') > pid; exec sleep 1000 ) & ); sleep 1000"),
    ("own session", "setsid sh -c 'echo $$ > pid; exec sleep 1000' & wait"),
    ("ignores TERM and HUP", "trap '' TERM HUP INT; echo $$ > pid; while :; do sleep 1; done"),
    ("stopped", "sh -c 'echo $$ > pid; kill -STOP $$; sleep 1000' & wait"),
    (
        "closed everything",
        "setsid sh -c 'exec 0<&- 1>&- 2>&-; echo $$ > pid; exec sleep 1000' & wait",
    ),
    ("cleared its environment", "setsid env -i /bin/sh -c 'echo $$ > pid; exec sleep 1000' & wait"),
    (
        "left by its parent",
        "setsid sh -c 'setsid env -i /bin/sh -c \"echo \\$\\$ > pid; exec sleep 1000\" & exit' ; sleep 1000",
    ),
    (
        "many",
        "n=0; while [ $n -lt 200 ]; do setsid sleep 1000 & n=$((n+1)); done; echo $! > pid; wait",
    ),
    (
        // Bounded, as there may be hosts on which its limit does not hold. The program itself starts
        // nothing beside it: a shell that cannot fork ends.
        "fork bomb",
        "bomb() { [ $1 -lt 10 ] || exec sleep 1000; bomb $(($1+1)) & bomb $(($1+1)); }; \
         sh -c 'echo $$ > pid; exec sleep 1000' & ( bomb 0 ) 2>/dev/null & wait",
    ),
    ("waits in vfork", "trap '' TERM HUP; exec sh -c \"$PLAY\""),
];

/// The shapes meet this many processes.
const PROCESSES: u64 = 400;
/// How long beyond its grace a stop may take.
const WITHIN: Duration = Duration::from_secs(2);

/// A runner of that shape.
fn shape(script: &str) -> World {
    let world = World::shell(script).with(|spec| spec.limits.pids = Some(PROCESSES));
    let mut world = cast(world, "vfork", Path::new("/"));
    world.env.insert("PLAY".into(), format!("exec {PLAY}"));
    world
}

/// The processes that carry a runner's mark, as anybody can see them.
fn marked(world: &World) -> usize {
    let mark = format!("STRATAVORE_RUNNER_ID={}", world.spec.runner);
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    let environs = entries.filter_map(|entry| std::fs::read(entry.path().join("environ")).ok());
    let carries = |environ: &Vec<u8>| environ.split(|b| *b == 0).any(|e| e == mark.as_bytes());
    environs.filter(carries).count()
}

/// The pid is that of the same process as before, and it runs.
fn lives(pid: u32, since: Option<u64>) -> bool {
    let state = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let zombie = state.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('Z'));
    since.is_some() && start_time(pid) == since && !zombie
}

fn pid(raw: u32) -> Pid {
    Pid::from_raw(raw.cast_signed()).unwrap()
}

/// What is left of a runner whose deepest process was `deepest`.
fn left(world: &World, name: &str, deepest: (u32, Option<u64>)) -> Result<(), String> {
    let cgroups = world.dir.agent().unwrap().unwrap().cgroups;
    let survives = lives(deepest.0, deepest.1);
    let (marked, populated) = (marked(world), is_populated(world.spec.runner, &cgroups));
    if !survives && marked == 0 && !populated {
        return Ok(());
    }
    Err(format!("{name}: survives {survives}, marked {marked}, populated {populated}"))
}

#[tokio::test]
async fn t_orphan_a_stop_leaves_nothing_of_any_shape() {
    let mut trial =
        Trial::new("T-ORPHAN", "after a stop nothing is left of a runner, whatever shape it took");
    for _ in 0..scale(1, 50) {
        for (name, script) in SHAPES {
            for force in [false, true] {
                let mut world = shape(script);
                let mut line = world.launch().await;
                let deepest = world.pid_in("pid").await;
                let since = start_time(deepest);
                assert!(lives(deepest, since), "{name}");
                // In the middle of an exec a process shows no environment.
                until("it shows its mark", || (marked(&world) > 0).then_some(()).ok_or(name)).await;
                let began = Instant::now();
                let grace = if force { Duration::ZERO } else { Duration::from_millis(200) };
                if force {
                    line.kill().await
                } else {
                    line.stop(grace.as_millis() as u64).await
                }
                line.exited().await;
                // Told only when nothing is left, so there is nothing to wait for.
                let took = began.elapsed();
                trial.measured(if force { "kill" } else { "stop" }, took);
                trial.tried(left(&world, name, (deepest, since)));
                let late = took > grace + WITHIN;
                trial.tried(if late { Err(format!("{name}: {took:?}")) } else { Ok(()) });
                let cgroups = world.dir.agent().unwrap().unwrap().cgroups;
                assert!(world.agent_gone().await.success(), "{name}");
                assert!(cgroups.iter().all(|dir| !dir.exists()), "{name}: {cgroups:?}");
            }
        }
    }
    let caught = signalling_the_group_alone_leaves_survivors().await;
    trial.control("only the process group is signalled", caught);
    trial.end();
}

#[tokio::test]
async fn t_orphan_what_a_killed_agent_leaves_is_cleared() {
    let mut trial =
        Trial::new("T-ORPHAN", "what a killed agent leaves of a runner is cleared, whatever shape");
    for _ in 0..scale(1, 50) {
        for (name, script) in SHAPES {
            let mut world = shape(script);
            let line = world.launch().await;
            let deepest = world.pid_in("pid").await;
            let since = start_time(deepest);
            let cgroups = world.dir.agent().unwrap().unwrap().cgroups;
            kill_process(pid(world.agent_pid()), Signal::KILL).unwrap();
            world.agent_gone().await;
            drop(line);
            assert!(!world.dir.is_locked().unwrap(), "{name}: no child has the lock");
            assert_eq!(clear_runner(world.spec.runner, &cgroups).unwrap(), 0, "{name}");
            trial.tried(left(&world, name, (deepest, since)));
        }
    }
    // The control: nobody clears. The hangup of the terminal does not end this one.
    let (name, script) = SHAPES[2];
    let mut world = shape(script);
    let line = world.launch().await;
    let deepest = world.pid_in("pid").await;
    let since = start_time(deepest);
    kill_process(pid(world.agent_pid()), Signal::KILL).unwrap();
    world.agent_gone().await;
    drop(line);
    trial.control("nobody clears what is left", left(&world, name, (deepest, since)).is_err());
    trial.end();
}

#[tokio::test]
async fn a_shape_that_waits_in_vfork_is_one_that_no_signal_interrupts() {
    let mut world = shape(SHAPES[10].1);
    let mut line = world.launch().await;
    let waiter = world.pid_in("pid").await;
    until("it to wait", || {
        let tasks = std::fs::read_dir(format!("/proc/{waiter}/task")).unwrap().flatten();
        let stats = tasks.filter_map(|task| std::fs::read_to_string(task.path().join("stat")).ok());
        let stats: Vec<String> = stats.collect();
        if stats.iter().any(|stat| stat.contains(") D ")) { Ok(()) } else { Err(stats) }
    })
    .await;
    line.kill().await;
    line.exited().await;
}

#[tokio::test]
async fn without_cgroups_the_mark_finds_what_a_killed_agent_left() {
    // Those that the hangup of the terminal does not end anyway.
    for (name, script) in [SHAPES[2], SHAPES[5]] {
        let mut world = World::shell(script);
        let line = world.launch().await;
        let deepest = world.pid_in("pid").await;
        let since = start_time(deepest);
        kill_process(pid(world.agent_pid()), Signal::KILL).unwrap();
        world.agent_gone().await;
        drop(line);
        assert!(lives(deepest, since) && is_populated(world.spec.runner, &[]), "{name}");
        assert_eq!(clear_runner(world.spec.runner, &[]).unwrap(), 0, "{name}");
        assert!(!lives(deepest, since), "{name}");
    }
}

/// The control: to signal the group is not enough. True if that leaves somebody.
async fn signalling_the_group_alone_leaves_survivors() -> bool {
    let home = tempfile::tempdir().unwrap();
    let mut shell = Command::new("setsid")
        .args(["sh", "-c", SHAPES[2].1])
        .current_dir(home.path())
        .env("STRATAVORE_RUNNER_ID", "run_00000000000000000000")
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    let path = home.path().join("pid");
    let deepest: u32 = until("a pid", || {
        std::fs::read_to_string(&path).unwrap_or_default().trim().parse().map_err(|_| "none")
    })
    .await;
    let since = start_time(deepest);
    kill_process_group(pid(shell.id()), Signal::KILL).unwrap();
    shell.wait().unwrap();
    // A session of its own is not in the group.
    let survives = lives(deepest, since);
    kill_process(pid(deepest), Signal::KILL).unwrap();
    survives
}

#[tokio::test]
async fn what_a_program_leaves_behind_ends_with_it() {
    let mut world = World::shell(
        "setsid sh -c 'echo $$ > pid; exec sleep 1000' & while [ ! -s pid ]; do :; done; exit 4",
    );
    let mut line = world.launch().await;
    let left = world.pid_in("pid").await;
    let since = start_time(left);
    assert_eq!(line.exited().await, Cause::Exit(4));
    assert!(!lives(left, since));
}

#[tokio::test]
async fn no_zombie_is_left_while_a_runner_runs() {
    let mut world = World::shell(&format!(
        "n=0; while [ $n -lt {} ]; do ( ( : ) & ); n=$((n+1)); done; echo all; exec sleep 1000",
        scale(300, 10_000)
    ));
    let mut line = world.launch().await;
    world.until_recorded("all").await;
    let agent = world.agent_pid();
    until("no zombie", || {
        let children =
            std::fs::read_to_string(format!("/proc/{agent}/task/{agent}/children")).unwrap();
        if children.split_whitespace().count() == 1 { Ok(()) } else { Err(children) }
    })
    .await;
    line.kill().await;
    line.exited().await;
}

#[tokio::test]
async fn an_interactive_shell_ends_when_asked() {
    if !Path::new("/bin/bash").exists() {
        return;
    }
    let mut world = World::new(&["/bin/bash", "--norc", "-i"]);
    let mut line = world.launch().await;
    let mut viewer = Viewer::attach(&world, "me", attach_wish(false, false, 80, 24)).await;
    viewer.type_in("echo up$((1+1))\n").await;
    viewer.until_shown("up2").await;
    line.stop(60_000).await;
    // Long before the grace is over: it ignores TERM, and heeds the hangup.
    assert!(matches!(line.exited().await, Cause::Signal(1) | Cause::Exit(_)));
}

/// As bash is, when a hangup comes between a command and its prompt.
#[tokio::test]
async fn who_misses_a_hangup_and_heeds_nothing_else_is_hung_up_on_again() {
    let mut world = World::shell(
        "trap '' TERM; trap 'n=$((n+1)); [ $n -lt 2 ] || exit 7' HUP; echo ready; while :; do sleep 0.1; done",
    );
    let mut line = world.launch().await;
    world.until_recorded("ready").await;
    line.stop(60_000).await;
    assert_eq!(line.exited().await, Cause::Exit(7));
}

#[tokio::test]
async fn a_paused_runner_stands_still_and_can_be_stopped() {
    let mut world = World::shell("while :; do echo tick; sleep 0.01; done");
    let mut line = world.launch().await;
    world.until_recorded("tick").await;
    line.pause(true).await;
    // It prints a hundred lines a second; two looks that far apart with nothing new are a pause.
    let (mut last, mut same) = (0, 0);
    until("no more output", || {
        let now = world.recorded().len();
        same = if now == last { same + 1 } else { 0 };
        last = now;
        if same > 60 { Ok(()) } else { Err(now) }
    })
    .await;
    line.pause(false).await;
    until("output again", || if world.recorded().len() > last { Ok(()) } else { Err(last) }).await;
    line.pause(true).await;
    line.stop(60_000).await;
    assert_eq!(line.exited().await, Cause::Signal(15));
}
