//! A runner whose output and process are known without asking Stratavore.
//!
//! The assistant keeps a file of the lines that it has printed, which nobody else writes: that is
//! the truth. A process is known by its pid and the kernel's start time. The check is run on a
//! killed agent and on damaged logs as well, and has to notice them.

use std::fs;
use std::path::PathBuf;

use rustix::process::Signal;
use stratavore_testkit::trace::Process;
use stratavore_testkit::trial::Trial;
use stratavore_testkit::world::{World, rows, signal, until};

/// A runner that prints numbered lines, and what is known of it without asking Stratavore.
pub(crate) struct Printing {
    pub(crate) runner: String,
    pub(crate) process: Process,
    truth: PathBuf,
}

impl Printing {
    pub(crate) fn launch(world: &World, name: &str, options: &[&str]) -> Self {
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
    pub(crate) fn printed(&self) -> usize {
        fs::read(&self.truth).unwrap_or_default().iter().filter(|byte| **byte == b'\n').count()
    }

    pub(crate) fn held(&self, world: &World) -> Result<(), String> {
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
pub(crate) fn nothing_missing(log: &[u8], printed: usize) -> Result<(), String> {
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

/// How many events of this kind there are, up to a thousand.
pub(crate) fn events(world: &World, kind: &str) -> usize {
    rows(&world.json(&["events", "list", "--limit", "1000", "--kind", kind])).len()
}

/// The control: the same check notices a runner whose agent was killed, and every kind of damage
/// to a log.
#[test]
fn t_surv_the_check_notices_a_lost_runner_and_a_lost_line() {
    let mut trial = Trial::new("T-SURV", "the check of runners and logs");
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
    trial.control("a line is missing", nothing_missing(without.as_bytes(), printed).is_err());
    let twice = log.replace("line 3\r\n", "line 3\r\nline 3\r\n");
    trial.control("a line is there twice", nothing_missing(twice.as_bytes(), printed).is_err());
    let cut: String = log.lines().take(printed - 3).map(|line| format!("{line}\r\n")).collect();
    trial.control("the end is missing", nothing_missing(cut.as_bytes(), printed).is_err());

    let [agent] = world.agents_of(&runner.runner)[..] else { panic!("it has one agent") };
    signal(agent, Signal::KILL);
    until("its process has gone with it", || {
        if runner.process.is_alive() { Err(agent) } else { Ok(()) }
    });
    // That it is gone, or that lines are missing which it printed meanwhile.
    trial.control("a runner whose agent was killed", runner.held(&world).is_err());
    trial.end();
}
