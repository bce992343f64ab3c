//! T-PIDREUSE and T-REBOOT: pids come round again, and boots; no foreign process is touched.
//!
//! Both have a machine of their own, in namespaces: there an innocent `sleep` gets exactly the pid
//! that a dead agent had.

use std::collections::BTreeSet;
use std::fs;
use std::process::Child;
use std::time::Instant;

use rustix::process::Signal;
use stratavore_proto::runner_dir::RunnerDir;
use stratavore_testkit::netns::{Boot, innocent, inside};
use stratavore_testkit::trace::{Process, cgroups_of};
use stratavore_testkit::trial::{Trial, scale};
use stratavore_testkit::world::{World, rows, signal, until};

/// A live runner of which nothing will be left but what Stratavore knows of it.
struct Gone {
    runner: String,
    pids: [u32; 2],
}

impl Gone {
    fn launch(world: &World, name: &str) -> Self {
        let runner = world.launch("demo", name, &["sleep", "1000"]);
        let [agent] = world.agents_of(&runner)[..] else { panic!("it has one agent") };
        let process = world.process_of(&runner);
        Self { runner, pids: [agent, process.pid] }
    }

    /// Ends it as a power cut would: nobody hears of it, and nobody cleans up.
    fn end(&self) {
        for pid in self.pids {
            signal(pid, Signal::KILL);
            until("it is gone", || Process::of(pid).map_or(Ok(()), Err));
        }
    }
}

/// Processes that have nothing to do with Stratavore, but for their pids.
struct Innocents(Vec<(Child, Process)>);

impl Innocents {
    fn with_the_pids_of(gone: &[Gone]) -> Self {
        let pids = gone.iter().flat_map(|gone| gone.pids);
        let started = pids.map(innocent).map(|child| {
            let process = Process::of(child.id()).expect("it has just been started");
            (child, process)
        });
        Self(started.collect())
    }

    fn live(&self) -> Result<(), String> {
        let hurt: Vec<_> = self.0.iter().filter(|(_, process)| !process.is_alive()).collect();
        if hurt.is_empty() { Ok(()) } else { Err(format!("killed: {hurt:?}")) }
    }
}

impl Drop for Innocents {
    fn drop(&mut self) {
        for (child, _) in &mut self.0 {
            child.kill().and_then(|()| child.wait()).ok();
        }
    }
}

fn ended(world: &World, runner: &str) -> (String, String) {
    let shown = world.until_state(runner, &["lost", "exited", "failed"]);
    (shown["state"].as_str().unwrap().into(), shown["cause"].as_str().unwrap().into())
}

/// Somebody else holds the dead agent's lock, so that it seems to live and not to answer: now it
/// would be killed by its pid. Answers whether the innocents lived.
fn with_the_lock_held(world: &World, name: &str, mut before: impl FnMut()) -> Result<(), String> {
    let gone = [Gone::launch(world, name)];
    // The wish to stop comes before the end: the daemon that follows knows it from the store.
    world.kill_daemon();
    gone[0].end();
    let innocents = Innocents::with_the_pids_of(&gone);
    before();
    let dir = RunnerDir::at(world.path(&format!("state/runners/{}", gone[0].runner)));
    let lock = dir.take_lock().unwrap().expect("nobody has it");
    world.run(["daemon", "start"]).ok();
    let log = || fs::read_to_string(world.path("state/daemon.log")).unwrap_or_default();
    let mut stop = world.command("stratavore");
    stop.args(["kill", name, "--force"]);
    let mut stop = stop.spawn().expect("stratavore runs");
    until("the daemon has done what it can to end it", || {
        let state = world.runner(&gone[0].runner)["state"].clone();
        let killed = log().contains("killed an agent that did not answer");
        if killed || ["lost", "exited"].iter().any(|end| state == *end) {
            Ok(())
        } else {
            Err(state)
        }
    });
    let lived = innocents.live();
    drop(lock);
    ended(world, &gone[0].runner);
    stop.wait().expect("it is our child");
    lived.and_then(|()| innocents.live())
}

#[test]
fn t_pidreuse_an_innocent_with_the_pid_of_a_dead_agent_lives() {
    inside("pidreuse::t_pidreuse_an_innocent_with_the_pid_of_a_dead_agent_lives", || {
        let mut trial =
            Trial::new("T-PIDREUSE", "a process that got the pid of a dead agent is not touched");
        let mut world = World::with_config("runner:\n  grace: 1s\n");
        world.project("demo");
        for round in 0..scale(8, 300) {
            let gone = [Gone::launch(&world, &format!("runner-{round}"))];
            world.kill_daemon();
            gone[0].end();
            let innocents = Innocents::with_the_pids_of(&gone);
            let began = Instant::now();
            world.run(["daemon", "start"]).ok();
            let runner = gone[0].runner.as_str();
            // Whoever is faster: a wish to stop it, or the look that finds it dead.
            let wish = if round % 2 == 0 { "kill" } else { "reconcile" };
            match wish {
                "kill" => drop(world.run(["kill", runner, "--force"])),
                _ => drop(world.run(["reconcile"]).ok()),
            }
            let (state, cause) = ended(&world, runner);
            trial.measured("known to be lost after the daemon's start", began.elapsed());
            world.run(["reconcile"]).ok();
            let known = (state == "lost" && cause == "agent_died")
                || (wish == "kill" && cause.starts_with("stopped"));
            assert!(known, "{wish}: {state}, {cause}");
            trial.tried(innocents.live());
        }
        trial.tried(with_the_lock_held(&world, "held", || {}));

        // The control: without the check of who it is, the same innocent is killed.
        world.set_env("STRATAVORE_FAILPOINTS", "identity=off");
        let fresh =
            || fs::write(world.path("state/daemon.log"), "").expect("the log can be emptied");
        let caught = with_the_lock_held(&world, "unchecked", fresh).is_err();
        trial.control("the identity of a process is not checked", caught);
        trial.end();
    });
}

#[test]
fn t_reboot_what_ran_before_it_is_lost_and_nothing_is_signalled() {
    inside("pidreuse::t_reboot_what_ran_before_it_is_lost_and_nothing_is_signalled", || {
        let mut trial = Trial::new(
            "T-REBOOT",
            "after a reboot all is lost(host_reboot), and nothing is signalled",
        );
        let mut boot = Boot::new();
        let mut world = World::with_config("runner:\n  grace: 1s\n");
        world.project("demo");
        world.run(["projects", "edit", "demo", "--quota-runners", "3"]).ok();
        for _ in 0..scale(5, 200) {
            trial.tried(one_reboot(&world, &mut boot, true));
        }
        let caught = one_reboot(&world, &mut boot, false).is_err();
        trial.control("the boot has the same id as before", caught);

        world.kill_daemon();
        world.set_env("STRATAVORE_FAILPOINTS", "identity=off");
        let fresh = || {
            boot.again();
            fs::write(world.path("state/daemon.log"), "").expect("the log can be emptied");
        };
        let caught = with_the_lock_held(&world, "unchecked", fresh).is_err();
        trial.control("the boot of a process is not checked", caught);
        trial.end();
    });
}

/// Fills the project's quota, reboots, and brings everything back.
fn one_reboot(world: &World, boot: &mut Boot, other_id: bool) -> Result<(), String> {
    let gone: Vec<Gone> =
        (1..=3).map(|number| Gone::launch(world, &format!("runner-{number}"))).collect();
    world.kill_daemon();
    for gone in &gone {
        gone.end();
        // The file systems of cgroups begin anew as well.
        cgroups_of(&gone.runner).iter().for_each(|dir| drop(fs::remove_dir(dir)));
    }
    let innocents = Innocents::with_the_pids_of(&gone);
    if other_id {
        boot.again();
        // What was not synced need not be there, or not whole.
        let dir = |gone: &Gone| world.path(&format!("state/runners/{}", gone.runner));
        for name in ["spec.json", "agent.json"] {
            fs::write(dir(&gone[1]).join(name), "").expect("it can be emptied");
        }
        fs::remove_dir_all(dir(&gone[2])).expect("it can be removed");
    }
    world.run(["daemon", "start"]).ok();
    let ends: Vec<_> = gone.iter().map(|gone| ended(world, &gone.runner)).collect();
    // All in one transaction, so at one time.
    let times: BTreeSet<String> =
        gone.iter().map(|gone| world.runner(&gone.runner)["ended_at"].to_string()).collect();
    world.run(["reconcile"]).ok();
    let offered = rows(&world.json(&["recover", "--dry-run"])["runners"]).len();
    // All three places are free again, or they could not come back.
    let back = world.json(&["recover"])["runners"].take();
    let back: Vec<&str> = rows(&back).iter().map(|row| row["id"].as_str().unwrap()).collect();
    for runner in &back {
        world.until_state(runner, &["running"]);
    }
    let lived = innocents.live();
    world.run(["kill", "--all", "--force"]).ok();
    let as_wanted = ends.iter().all(|(state, cause)| state == "lost" && cause == "host_reboot");
    if !as_wanted || times.len() != 1 || (offered, back.len()) != (3, 3) {
        return Err(format!("{ends:?} at {times:?}; {offered} offered, {} back", back.len()));
    }
    lived.and_then(|()| innocents.live())
}
