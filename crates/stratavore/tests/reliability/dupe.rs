//! T-DUPE: of many that carry one ended runner on at the same time, one does.
//!
//! Sessions at several hosts are in `dupe_hosts.rs`, and those of real assistants in `assistants/holder.rs`.

use std::process::Stdio;

use rustix::process::Signal;
use stratavore_testkit::trial::{Trial, scale};
use stratavore_testkit::world::{World, rows, signal, until};

use crate::launch::{mark, observed};

/// How many ask in each way: by `restart`, by `recover`, and by opening the project on a terminal.
fn askers() -> [usize; 3] {
    [scale(10, 44), scale(3, 10), scale(3, 10)]
}

fn live(world: &World) -> Vec<String> {
    let live = world.json(&["runners"]);
    rows(&live).iter().map(|row| row["id"].as_str().unwrap().to_owned()).collect()
}

/// Lets all of them ask for the same ended runner, and answers the one that lives then.
fn carried_on(world: &World, ended: &str) -> Result<String, String> {
    let [restarts, recovers, opens] = askers();
    let mut terminals = Vec::new();
    let mut commands = Vec::new();
    for asker in 0..restarts.max(recovers).max(opens) {
        let ways = [(asker < restarts, "restart"), (asker < recovers, "recover")];
        for (_, way) in ways.into_iter().filter(|(asks, _)| *asks) {
            let mut command = world.command("stratavore");
            command.args([way, ended]).stdin(Stdio::null());
            command.stdout(Stdio::null()).stderr(Stdio::null());
            commands.push(command.spawn().expect("stratavore runs"));
        }
        if asker < opens {
            terminals.push(world.terminal(&["demo"], 24, 80));
        }
    }
    for command in &mut commands {
        command.wait().expect("it is our child");
    }
    until("one runs", || match live(world) {
        live if live.is_empty() => Err(live),
        _ => Ok(()),
    });
    for terminal in &mut terminals {
        terminal.until_text("this is one");
    }
    let known = live(world);
    match &known[..] {
        [only] => Ok(only.clone()),
        _ => Err(format!("{known:?} live")),
    }
}

#[test]
fn t_dupe_of_many_that_carry_a_runner_on_one_does() {
    let mut trial = Trial::new("T-DUPE", "many carry one ended runner on, and one process runs");
    let world = World::new();
    world.project("demo");
    let mark = mark(&world);
    let shown = ["sh", "-c", "echo this is one; exec sleep 1000"];
    let mut runner = world.launch_with("demo", "one", &["--env", &mark], &shown);
    for _ in 0..scale(3, 500) {
        let [agent] = world.agents_of(&runner)[..] else { panic!("it has one agent") };
        signal(agent, Signal::KILL);
        world.until_state(&runner, &["lost"]);
        let (carried, seen) = observed(&mark, || carried_on(&world, &runner));
        trial.tried(carried.and_then(|next| {
            runner = next;
            seen.held(1)
        }));
    }
    world.run(["kill", "--all", "--force"]).ok();

    // The control: who launches anew instead is noticed.
    let (carried, seen) = observed(&mark, || {
        world.launch_with("demo", "one", &["--env", &mark], &shown);
        world.launch_with("demo", "one-too", &["--env", &mark], &shown);
        live(&world).len()
    });
    trial.control("two launches", carried == 2 && seen.held(1).is_err());
    trial.end();
}
