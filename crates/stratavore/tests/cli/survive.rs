//! T-SURV, small: whatever happens to daemons, runners go on, and no byte of theirs is lost.
//!
//! Each assistant keeps a file of the lines that it has printed, which nobody else writes: that is
//! the truth. A process is known by its pid and the kernel's start time. The check of both is run
//! on a killed agent and on damaged logs as well, and has to notice them.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use stratavore_testkit::trace::Process;
use stratavore_testkit::world::{World, rows, signal, until};

use crate::figures::{Dice, Figures, is_long};
use crate::wire::{client, on_runtime};

/// How soon after its start a daemon has all its runners back.
const READOPTED: Duration = Duration::from_secs(2);

fn scale() -> (usize, usize) {
    if is_long() { (20, 500) } else { (5, 5) }
}

/// A runner that prints numbered lines, and what is known of it without asking Stratavore.
struct Printing {
    runner: String,
    process: Process,
    truth: PathBuf,
}

impl Printing {
    fn launch(world: &World, name: &str, options: &[&str]) -> Self {
        let truth = world.path(&format!("truth-{name}"));
        let assistant = World::program("scripted-assistant").display().to_string();
        let file = truth.display().to_string();
        let argv = [&[assistant.as_str(), "--truth", file.as_str()], options].concat();
        let runner = world.launch("demo", name, &argv);
        let process = until("its process is there", || match world.processes_of(&runner)[..] {
            [pid] => Process::of(pid).ok_or(vec![pid]),
            ref pids => Err(pids.to_vec()),
        });
        Self { runner, process, truth }
    }

    /// How many lines it has printed, or is about to have.
    fn printed(&self) -> usize {
        fs::read(&self.truth).unwrap_or_default().iter().filter(|byte| **byte == b'\n').count()
    }

    fn held(&self, world: &World) -> Result<(), String> {
        // In this order: what is printed later may be recorded, but need not be.
        let printed = self.printed();
        nothing_missing(&world.recorded(&self.runner), printed)?;
        match self.process.is_alive() {
            true => Ok(()),
            false => Err(format!("{:?} is gone", self.process)),
        }
    }
}

/// Whether a log has the lines `line 1`, `line 2`, … each once and in order, and at least as many
/// as were `printed`, but for the one that may not have left the assistant yet.
fn nothing_missing(log: &[u8], printed: usize) -> Result<(), String> {
    let text = String::from_utf8_lossy(log);
    let mut recorded = 0;
    // The last line may not be whole yet.
    for line in text.split_inclusive('\n').filter(|line| line.ends_with('\n')) {
        let wanted = format!("line {}\r\n", recorded + 1);
        if line != wanted {
            return Err(format!("{line:?} stands where {wanted:?} should"));
        }
        recorded += 1;
    }
    match recorded + 1 < printed {
        true => Err(format!("{recorded} lines are recorded of {printed}")),
        false => Ok(()),
    }
}

/// When each runner was seen to be running, with its agent connected, after `began`.
async fn readopted(world: &World, runners: &[Printing], began: Instant) -> Vec<Duration> {
    let client = client(world).await;
    let mut back: Vec<Option<Duration>> = vec![None; runners.len()];
    while back.contains(&None) {
        let known = crate::wire::all_runners(&client).await;
        for (of, back) in runners.iter().zip(&mut back) {
            let shown = known.iter().find(|known| known.id == of.runner).expect("it is listed");
            if back.is_none() && shown.state == "running" && shown.connected {
                assert_eq!(shown.pid, of.process.pid, "{shown:?}");
                *back = Some(began.elapsed());
            }
            let seen = (&shown.state, shown.connected);
            assert!(began.elapsed() < READOPTED * 5, "after {:?}: {seen:?}", began.elapsed());
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    back.into_iter().flatten().collect()
}

/// Ends the daemon, at a moment that the dice choose: while all is quiet, or while it starts.
fn end_daemon(world: &World, dice: &mut Dice, runners: &[Printing], how: Signal) {
    if dice.below(3) == 0 {
        let mut starting = world.command("stratavore");
        signal(world.daemon_pid().expect("a daemon runs"), how);
        until("it is gone", || world.daemon_pid().map_or(Ok(()), Err));
        let mut starting = starting.args(["daemon", "start"]).spawn().expect("stratavore runs");
        until("the next one begins", || world.daemon_pid().ok_or("no daemon"));
        signal(world.daemon_pid().unwrap_or_default(), Signal::KILL);
        starting.wait().expect("it is our child");
    } else {
        // The assistants' lines are the clock.
        let chosen = &runners[dice.below(runners.len())];
        let enough = chosen.printed() + dice.below(40);
        until("the moment has come", || match chosen.printed() {
            printed if printed >= enough => Ok(()),
            printed => Err(format!("{printed} of {enough} lines")),
        });
    }
    if let Some(pid) = world.daemon_pid() {
        signal(pid, how);
        until("the daemon is gone", || world.daemon_pid().map_or(Ok(()), Err));
    }
}

fn t_surv(how: Signal, rounds: usize) {
    let world = World::new();
    world.project("demo");
    let (count, _) = scale();
    let names: Vec<String> = (1..=count).map(|n| format!("runner-{n}")).collect();
    let runners: Vec<Printing> =
        names.iter().map(|name| Printing::launch(&world, name, &["--every", "20"])).collect();
    let mut dice = Dice::new();
    let mut figures = Figures::new(format!("T-SURV ({how:?}): back after the daemon's start"));
    for _ in 0..rounds {
        end_daemon(&world, &mut dice, &runners, how);
        let began = Instant::now();
        world.run(["daemon", "start"]).ok();
        figures.extend(on_runtime(readopted(&world, &runners, began)));
        for runner in &runners {
            until("its log has all that it printed", || runner.held(&world));
            assert_eq!(world.process_of(&runner.runner), runner.process);
        }
    }
    figures.tell();
    assert!(figures.max() <= READOPTED, "{figures:?}; {dice:?}");

    world.run(["kill", "--all", "--force"]).ok();
    for runner in &runners {
        assert!(!runner.process.is_alive());
        let printed = runner.printed();
        assert!(printed > 1, "it has printed at all");
        nothing_missing(&world.recorded(&runner.runner), printed).unwrap();
    }
}

#[test]
fn t_surv_a_killed_daemon_costs_no_runner_and_no_byte() {
    t_surv(Signal::KILL, scale().1);
}

#[test]
fn t_surv_a_daemon_that_is_asked_to_end_takes_no_runner_with_it() {
    t_surv(Signal::TERM, scale().1.div_ceil(2));
}

/// The control: the same check notices a runner whose agent was killed, and every kind of damage
/// to a log.
#[test]
fn the_check_notices_a_lost_runner_and_a_lost_line() {
    let world = World::new();
    world.project("demo");
    let runner = Printing::launch(&world, "one", &["--every", "5"]);
    until("it has printed something", || match runner.printed() {
        printed if printed > 5 => Ok(()),
        printed => Err(printed),
    });
    until("its log has it", || runner.held(&world));

    let printed = runner.printed();
    let log = String::from_utf8(world.recorded(&runner.runner)).unwrap();
    let without = log.replace("line 3\r\n", "");
    nothing_missing(without.as_bytes(), printed).expect_err("a line is missing");
    let twice = log.replace("line 3\r\n", "line 3\r\nline 3\r\n");
    nothing_missing(twice.as_bytes(), printed).expect_err("a line is there twice");
    let cut: String = log.lines().take(printed - 3).map(|line| format!("{line}\r\n")).collect();
    nothing_missing(cut.as_bytes(), printed).expect_err("the end is missing");

    let [agent] = world.agents_of(&runner.runner)[..] else { panic!("it has one agent") };
    signal(agent, Signal::KILL);
    until("its process has gone with it", || {
        if runner.process.is_alive() { Err(agent) } else { Ok(()) }
    });
    // That it is gone, or that lines are missing which it printed meanwhile.
    runner.held(&world).expect_err("the check notices a lost runner");
}

#[test]
fn an_end_while_no_daemon_runs_is_taken_in_once_and_with_its_true_time() {
    let world = World::new();
    world.project("demo");
    let options = ["--every", "10", "--lines", "60", "--exit", "7"];
    let runner = Printing::launch(&world, "one", &options);
    world.kill_daemon();
    assert!(runner.process.is_alive(), "it ends later");
    let (mut last_seen, mut first_missed) = (jiff_now(), jiff_now());
    until("it has ended", || {
        let now = jiff_now();
        if runner.process.is_alive() {
            last_seen = now;
            return Err("it lives");
        }
        first_missed = now;
        Ok(())
    });
    // Its agent waits for a daemon for a while; then nobody is left who could tell.
    until("its agent is gone", || match world.agents_of(&runner.runner) {
        agents if agents.is_empty() => Ok(()),
        agents => Err(agents),
    });
    let began = jiff_now();
    assert!(began > first_missed);
    for _ in 0..2 {
        world.run(["daemon", "start"]).ok();
        let shown = world.until_state(&runner.runner, &["failed"]);
        assert_eq!(shown["cause"], "exit 7");
        let ended_at: jiff::Timestamp = shown["ended_at"].as_str().unwrap().parse().unwrap();
        // The kernel's end comes a little before the agent's clock is read.
        assert!(
            last_seen <= ended_at && ended_at < began,
            "{ended_at} is not from {last_seen} to {first_missed}, but up to {began}"
        );
        assert_eq!(events(&world, "runner.failed"), 1);
        world.kill_daemon();
    }
    nothing_missing(&world.recorded(&runner.runner), 61).unwrap();
    nothing_missing(&world.recorded(&runner.runner), 62).expect_err("it printed 60 lines");
}

/// How many events of this kind there are.
fn events(world: &World, kind: &str) -> usize {
    let all = world.json(&["events", "list", "--limit", "1000"]);
    rows(&all).iter().filter(|event| event["kind"] == kind).count()
}

#[expect(clippy::disallowed_methods, reason = "the truth is told by the system's clock")]
fn jiff_now() -> jiff::Timestamp {
    std::time::SystemTime::now().try_into().expect("the clock is set")
}

#[test]
fn an_agent_that_is_upgraded_keeps_its_process_its_log_and_its_screen() {
    let world = World::new();
    world.project("demo");
    let printing = Printing::launch(&world, "printing", &["--every", "5"]);
    let script = "printf '\\033]2;a title\\007\\033[3;7H\\033[1;31mred\\033[m\\033[?1h'; exec cat";
    let still = world.launch("demo", "still", &["sh", "-c", script]);
    let drawn = until("it has drawn", || {
        let screen = world.json(&["screen", "still"]);
        if screen["title"] == "a title" { Ok(screen) } else { Err(screen) }
    });
    for runner in [&printing.runner, &still] {
        let [agent] = world.agents_of(runner)[..] else { panic!("it has one agent") };
        let (agent, process) = (Process::of(agent), world.process_of(runner));
        world.run(["upgrade", runner]).ok();
        until("the agent executes the new program", || {
            let pid = agent.map(|agent| agent.pid).unwrap_or_default();
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let line = String::from_utf8_lossy(&line).into_owned();
            if line.contains("resume") { Ok(()) } else { Err(line) }
        });
        until("it is back", || {
            let shown = world.runner(runner);
            if shown["connected"] == true { Ok(()) } else { Err(shown) }
        });
        assert_eq!(world.agents_of(runner).first().and_then(|pid| Process::of(*pid)), agent);
        assert_eq!(world.process_of(runner), process);
        assert_eq!(world.runner(runner)["epoch"], 1);
    }
    let before = printing.printed();
    until("it goes on printing", || match printing.printed() {
        now if now > before + 20 => Ok(()),
        now => Err(now),
    });
    until("its log has all of it", || printing.held(&world));
    assert_eq!(world.json(&["screen", "still"]), drawn);
    // Typing still works, and a stop.
    world.run(["send", "still", "hello"]).ok();
    until("it is typed", || {
        let text = world.json(&["screen", "still"])["text"].as_str().unwrap_or_default().to_owned();
        if text.matches("hello").count() == 2 { Ok(()) } else { Err(text) }
    });
    world.run(["kill", "--all", "--force"]).ok();
    for runner in [&printing.runner, &still] {
        until("nothing is left of it", || match world.left_of(runner) {
            left if left.is_empty() => Ok(()),
            left => Err(left),
        });
    }
}

#[test]
fn a_killed_agent_is_noticed_and_takes_all_that_it_ran_with_it() {
    let world = World::new();
    world.project("demo");
    let mut figures = Figures::new("kill -9 of an agent: lost and cleared after".into());
    let stubborn = "trap '' HUP TERM; setsid sleep 1000 & sleep 1001";
    for round in 0..if is_long() { 100 } else { 5 } {
        let runner = world.launch("demo", &format!("runner-{round}"), &["sh", "-c", stubborn]);
        until("all of it runs", || match world.processes_of(&runner) {
            processes if processes.len() == 3 => Ok(()),
            processes => Err(processes),
        });
        let [agent] = world.agents_of(&runner)[..] else { panic!("it has one agent") };
        let began = Instant::now();
        signal(agent, Signal::KILL);
        let shown = world.until_state(&runner, &["exited", "failed", "lost"]);
        assert_eq!((&shown["state"], &shown["cause"]), (&"lost".into(), &"agent_died".into()));
        assert_eq!(world.processes_of(&runner), Vec::<u32>::new(), "cleared before it is told");
        figures.push(began.elapsed());
        until("nothing is left of it", || match world.left_of(&runner) {
            left if left.is_empty() => Ok(()),
            left => Err(left),
        });
    }
    figures.tell();
    assert!(figures.max() < Duration::from_secs(4), "{figures:?}");
}

/// The same while nothing resists: the hang-up of the terminal ends the program, and what is left
/// is an empty cgroup.
#[test]
fn a_killed_agent_of_a_meek_program_leaves_no_cgroup() {
    let world = World::new();
    world.project("demo");
    let runner = world.launch("demo", "one", &["sleep", "1000"]);
    world.kill_daemon();
    let [agent] = world.agents_of(&runner)[..] else { panic!("it has one agent") };
    signal(agent, Signal::KILL);
    until("the terminal's hang-up has ended it", || match world.processes_of(&runner) {
        processes if processes.is_empty() => Ok(()),
        processes => Err(processes),
    });
    world.run(["daemon", "start"]).ok();
    let shown = world.until_state(&runner, &["exited", "failed", "lost"]);
    assert_eq!((&shown["state"], &shown["cause"]), (&"lost".into(), &"agent_died".into()));
    until("nothing is left of it", || match world.left_of(&runner) {
        left if left.is_empty() => Ok(()),
        left => Err(left),
    });
}

#[test]
fn a_stopped_agent_is_unresponsive_and_never_dead() {
    let config = "agent:\n  heartbeat: 200ms\nrunner:\n  unresponsive_after: 1s\n";
    let world = World::with_config(config);
    world.project("demo");
    let printing = Printing::launch(&world, "one", &["--every", "20"]);
    let [agent] = world.agents_of(&printing.runner)[..] else { panic!("it has one agent") };
    let mut figures = Figures::new("SIGSTOP of an agent: unresponsive after".into());
    for restart in [false, true] {
        let began = Instant::now();
        signal(agent, Signal::STOP);
        if restart {
            world.kill_daemon();
            world.run(["daemon", "start"]).ok();
        }
        let shown = world.until_state(&printing.runner, &["unresponsive", "failed", "lost"]);
        assert_eq!(shown["state"], "unresponsive", "{shown}");
        figures.push(began.elapsed());
        assert!(printing.process.is_alive());

        signal(agent, Signal::CONT);
        let shown = world.until_state(&printing.runner, &["running", "failed", "lost"]);
        assert_eq!((&shown["state"], &shown["epoch"]), (&"running".into(), &1.into()), "{shown}");
        until("it has lost nothing", || printing.held(&world));
    }
    figures.tell();
    assert!(figures.max() < Duration::from_secs(4), "{figures:?}");
    // A wish to stop is not lost on it either: it is killed from outside.
    signal(agent, Signal::STOP);
    world.run(["kill", "one", "--force"]).ok();
    assert!(!printing.process.is_alive());
    until("nothing is left of it", || match world.left_of(&printing.runner) {
        left if left.is_empty() => Ok(()),
        left => Err(left),
    });
    let told = ["runner.unresponsive", "runner.responsive"].map(|kind| events(&world, kind));
    assert_eq!(told, [2, 2]);
}
