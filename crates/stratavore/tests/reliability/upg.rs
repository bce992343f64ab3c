//! T-UPG: agents are replaced in place, and daemons by other versions, and no session is lost.

use std::fs;

use stratavore_testkit::trace::Process;
use stratavore_testkit::world::{World, until};

use crate::printing::Printing;

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
