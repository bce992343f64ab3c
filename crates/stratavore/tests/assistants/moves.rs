//! `nodes drain --move` with a real assistant on two hosts: what rests goes on on the other one, what does
//! not is waited for and says why, and whichever daemon dies where, one process holds the conversation.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use stratavore_testkit::assistant_home::{AssistantHome, KEY};
use stratavore_testkit::hosts::Hosts;
use stratavore_testkit::model::{Hold, Place, Reply, StandIn};
use stratavore_testkit::programs::Program;
use stratavore_testkit::world::{World, is_zombie, of_process, parent, processes, rows};

use crate::scene::executable;

/// How long a machine with much else to do may take for what an assistant does at most in seconds.
const PATIENCE: Duration = Duration::from_secs(240);
const LOOK: Duration = Duration::from_millis(100);

/// Two hosts that share the project's directory and the assistant's home, as those of a team do that moves
/// its runners.
struct Two {
    program: Program,
    hosts: Hosts,
    model: StandIn,
    home: AssistantHome,
    key: PathBuf,
    /// All assistants of this test have it in their environment.
    mark: String,
}

impl Two {
    fn new(labels: &[&str; 2]) -> Self {
        Self::of(Program::Claude, labels)
    }

    fn of(program: Program, labels: &[&str; 2]) -> Self {
        let model = StandIn::start();
        let home = AssistantHome::new(program, &model.url());
        let (name, runs) = (program.name(), executable(program, home.home()));
        let assistant = json!({ "program": runs, "args": home.arguments() });
        let settings = format!("runner:\n  grace: 5s\nassistants:\n  {name}: {assistant}\n");
        let hosts = Hosts::joined_with_settings(labels, &settings);
        let work = home.work().display().to_string();
        hosts.worlds[0].run(["new", "demo", "--directory", &work]).ok();
        let key = home.home().join("key");
        fs::write(&key, KEY).unwrap();
        fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
        let mark = format!("MOVED_IN={}", hosts.id(0));
        Self { program, hosts, model, home, key, mark }
    }

    fn here(&self) -> &World {
        &self.hosts.worlds[0]
    }

    /// Has the first host drained, whose daemon dies of it at this point.
    fn drain_and_die_at(&mut self, point: &str) {
        let first = &mut self.hosts.worlds[0];
        first.set_env("STRATAVORE_FAILPOINTS", &format!("{point}=abort"));
        first.run(["daemon", "restart"]).ok();
        first.set_env("STRATAVORE_FAILPOINTS", "");
        let other = &self.hosts.worlds[1];
        let pid = self.here().daemon_pid().unwrap();
        other.run(["nodes", "drain", &self.hosts.id(0), "--move"]).ok();
        self.until("its daemon has died", || match self.here().daemon_pid() {
            Some(now) if now == pid => Err(other.run(["nodes"]).everything()),
            Some(_) | None => Ok(()),
        });
    }

    /// Launches it on a host, and answers the runner's id.
    fn launch(&self, name: &str, options: &[&str]) -> String {
        let mut words = vec!["launch".to_owned(), "--project=demo".into()];
        words.push(format!("--assistant={}", self.program.name()));
        words.push(format!("--name={name}"));
        words.push(format!("--env={}", self.mark));
        for (variable, value) in self.home.environment() {
            words.push(match value == KEY {
                true => format!("--env={variable}=file:{}", self.key.display()),
                false => format!("--env={variable}={value}"),
            });
        }
        words.extend(options.iter().map(ToString::to_string));
        words.push("--format=json".into());
        let launched = self.here().run(words).ok().json();
        rows(&launched)[0]["id"].as_str().unwrap().to_owned()
    }

    #[track_caller]
    fn until<T>(&self, wished: &str, mut look: impl FnMut() -> Result<T, String>) -> T {
        let began = Instant::now();
        loop {
            match look() {
                Ok(found) => return found,
                Err(seen) if began.elapsed() > PATIENCE => {
                    let nodes = self.here().json(&["nodes"]);
                    let live = self.here().run(["runners"]).everything();
                    panic!("waited in vain until {wished}; last seen: {seen}\n{nodes}\n{live}")
                }
                Err(_) => std::thread::sleep(LOOK),
            }
        }
    }

    #[track_caller]
    fn until_activity(&self, runner: &str, activity: &str) -> Value {
        self.until(&format!("{runner} is {activity}"), || {
            let shown = self.here().runner(runner);
            match shown["activity"] == activity {
                true => Ok(shown),
                false => {
                    Err(format!("{} {} {}", shown["state"], shown["activity"], shown["cause"]))
                }
            }
        })
    }

    /// Waits until its conversation is told to have begun: an answer is written down a moment after it is idle.
    fn until_begun(&self, runner: &str) {
        let session = self.here().runner(runner)["session_id"].as_str().unwrap().to_owned();
        self.until("its conversation has begun", || {
            let shown = self.here().json(&["sessions", "show", &session]);
            let said = shown["messages"]["assistant"].as_u64();
            if said.is_some_and(|said| said > 0) { Ok(()) } else { Err(shown.to_string()) }
        });
    }

    /// Has the runner say something, and looks that it has what was said to it before the move.
    #[track_caller]
    fn remembers_walnut(&self, runner: &str) {
        self.here().run(["send", runner, "say the word", "--wait", "2m"]).ok();
        let goes_on = self.until("the model is asked", || {
            let asked = self.model.asked();
            let last = asked.iter().find(|asked| asked.says("say the word"));
            last.map(|asked| asked.conversation()).ok_or(asked.len().to_string())
        });
        assert!(goes_on.contains("walnut"), "{goes_on}");
    }

    /// The move of a runner as its node tells it.
    fn move_of(&self, node: usize, runner: &str) -> Result<Value, String> {
        let shown = self.here().json(&["nodes", "show", &self.hosts.id(node)]);
        let moves = shown["moves"].as_array().unwrap();
        let found = moves.iter().find(|of| of["runner_id"] == runner);
        found.cloned().ok_or_else(|| shown.to_string())
    }

    #[track_caller]
    fn until_stage(&self, node: usize, runner: &str, stage: &str, why: &str) -> Value {
        self.until(&format!("{runner} {stage}: {why}"), || {
            let of = self.move_of(node, runner)?;
            let told = of["why"].as_str().unwrap_or_default();
            if of["stage"] == stage && told.contains(why) { Ok(of) } else { Err(of.to_string()) }
        })
    }

    /// The assistants that run, by the kernel: what an agent has started, and has our mark.
    fn holders(&self) -> Vec<u32> {
        let runs = |pid: &u32| {
            let environ = of_process(*pid, "environ");
            let is_ours = environ.split(|byte| *byte == 0).any(|word| word == self.mark.as_bytes());
            let above = parent(*pid).map(|parent| of_process(parent, "comm")).unwrap_or_default();
            // The kernel cuts names.
            is_ours && above.starts_with(b"stratavore-agen") && !is_agent(*pid) && !is_zombie(*pid)
        };
        processes().into_iter().filter(runs).collect()
    }

    /// Does this, and answers the most assistants that were seen to run at once meanwhile.
    fn most_holders<T>(&self, work: impl FnOnce() -> T) -> (T, usize) {
        let (over, most) = (AtomicBool::new(false), AtomicUsize::new(0));
        let done = std::thread::scope(|scope| {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    most.fetch_max(self.holders().len(), Ordering::Relaxed);
                    std::thread::sleep(Duration::from_millis(20));
                }
            });
            let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
            over.store(true, Ordering::Relaxed);
            done
        });
        match done {
            Ok(done) => (done, most.into_inner()),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }

    /// The live runners that hold this session.
    fn live(&self, session: &Value) -> Vec<String> {
        let live = self.here().json(&["runners"]);
        let of_it = rows(&live).iter().filter(|row| row["session_id"] == *session);
        of_it.map(|row| row["id"].as_str().unwrap().to_owned()).collect()
    }
}

fn is_agent(pid: u32) -> bool {
    of_process(pid, "comm").starts_with(b"stratavore-agen")
}

#[test]
fn what_rests_goes_on_on_another_node_and_what_does_not_is_waited_for_and_says_why() {
    let two = Two::new(&["labels: []", "labels: [big]"]);
    let (here, far) = (two.here(), two.hosts.id(1));
    let on = format!("--node={far}");
    let hold = Hold::new();
    two.model.on_prompt("take your time", [Reply::text("done now").held(Place::Start, &hold)]);
    let rests = two.launch("rests", &[&on, "--prompt=the word is walnut"]);
    let bound = two.launch("bound", &["--label=big", "--prompt=say something"]);
    let works = two.launch("works", &[&on, "--prompt=take your time"]);
    two.until_activity(&rests, "idle");
    two.until_begun(&rests);
    two.until_activity(&bound, "idle");
    two.until_begun(&bound);
    two.until_activity(&works, "working");
    hold.until_reached();
    let plain = [
        "launch",
        "--project=demo",
        "--assistant=generic",
        "--name=plain",
        &on,
        "--format=json",
        "--",
        "sleep",
        "1000",
    ];
    let plain = here.run(plain).ok().json();
    let plain = rows(&plain)[0]["id"].as_str().unwrap().to_owned();
    here.until_state(&plain, &["running"]);
    assert_eq!(here.runner(&bound)["node_id"], far.as_str());

    // Without the wish to move them all are waited for.
    here.run(["nodes", "drain", &far]).ok();
    let shown = here.json(&["nodes", "show", &far]);
    assert_eq!((&shown["scheduling"], &shown["moving_for"]), (&"draining".into(), &Value::Null));
    here.run(["nodes", "drain", &far, "--move"]).ok();
    let moved = two.until_stage(1, &rests, "moved", "");
    let next = moved["successor_id"].as_str().unwrap();
    let shown = two.until_activity(next, "idle");
    assert_eq!((&shown["node_id"], &shown["name"]), (&two.hosts.id(0).into(), &"rests".into()));
    assert_eq!(shown["successor_of"], rests.as_str());
    let ended = here.runner(&rests);
    assert_eq!(ended["cause"], "stopped by the drain of its node");
    assert_eq!(shown["session_id"], ended["session_id"]);

    // What does not go says why.
    two.until_stage(1, &bound, "sought", "is not labelled big");
    two.until_stage(1, &works, "stays", "it works");
    two.until_stage(1, &plain, "stays", "generic cannot go on with a conversation");
    let late = ["nodes", "drain", &far, "--move", "--wait", "--timeout", "1ms"];
    let told = here.run(late).fails(9).stderr();
    assert!(told.contains("works is waited for: it works"), "{told}");
    let listed = here.run(["nodes"]).ok().stdout();
    assert!(listed.contains("draining: 1 moved, 3 not yet"), "{listed}");

    // Who asked is on the record, and that it was moved.
    let asked = here.json(&["nodes", "show", &far])["moving_for"].as_str().unwrap().to_owned();
    let draining = two.until("the drain is on the record", || {
        let events = here.json(&["events", "--kind", "node.draining"]);
        let moves = rows(&events).iter().find(|event| event["data"]["move"] == true);
        moves.cloned().ok_or(events.to_string())
    });
    assert_eq!(draining["by"], asked.as_str());
    for (runner, kind) in [(rests.as_str(), "runner.stopping"), (next, "runner.accepted")] {
        let by = two.until("the move is on the record", || {
            let events = here.json(&["events", "--runner", runner, "--kind", kind]);
            let by = rows(&events).first().and_then(|event| event["by"].as_str());
            by.map(String::from).ok_or(events.to_string())
        });
        assert!(by.contains(&format!("moving it for {asked}")), "{by}");
    }

    two.remembers_walnut(next);

    // One that somebody looks at stays, and goes once nobody does.
    let viewer = {
        let viewer = here.terminal(&["attach", &works], 24, 80);
        // Its own host knows.
        two.until("it has a viewer", || match two.hosts.worlds[1].runner(&works) {
            shown if shown["usage"]["viewers"] == 1 => Ok(()),
            shown => Err(shown.to_string()),
        });
        viewer
    };
    hold.release();
    two.until_activity(&works, "idle");
    two.until_stage(1, &works, "stays", "somebody is attached");
    drop(viewer);
    two.until_stage(1, &works, "moved", "");

    // An opened node moves nothing more.
    here.run(["nodes", "uncordon", &far]).ok();
    two.until("no move is told", || {
        let shown = here.json(&["nodes", "show", &far]);
        if shown["moves"] == json!([]) { Ok(()) } else { Err(shown.to_string()) }
    });
    for runner in [&bound, &plain] {
        assert_eq!(here.runner(runner)["state"], "running");
    }
    // And one whose runners all end becomes empty.
    for runner in [&bound, &plain] {
        here.run(["kill", runner, "--force"]).ok();
    }
    let empty = here.run(["nodes", "drain", &far, "--move", "--wait"]).ok().everything();
    assert!(empty.contains("is empty"), "{empty}");
}

/// One that rests goes on on the other host with what it had.
fn is_moved(program: Program) {
    let two = Two::of(program, &["labels: []", "labels: []"]);
    let runner = two.launch("rests", &["--prompt=the word is walnut"]);
    two.until_activity(&runner, "idle");
    two.until_begun(&runner);
    two.here().run(["nodes", "drain", &two.hosts.id(0), "--move"]).ok();
    let moved = two.until_stage(0, &runner, "moved", "");
    let next = moved["successor_id"].as_str().unwrap();
    let shown = two.until_activity(next, "idle");
    assert_eq!(shown["node_id"], two.hosts.id(1).as_str());
    assert_eq!(shown["session_id"], two.here().runner(&runner)["session_id"]);
    two.remembers_walnut(next);
}

#[test]
fn codex_is_moved() {
    is_moved(Program::Codex);
}

#[test]
fn gemini_is_moved() {
    is_moved(Program::Gemini);
}

/// Its conversations are in a database of its own, which two hosts do not share.
#[test]
fn opencode_is_waited_for_and_says_why() {
    let two = Two::of(Program::Opencode, &["labels: []", "labels: []"]);
    let runner = two.launch("rests", &["--prompt=say something"]);
    two.until_activity(&runner, "idle");
    two.here().run(["nodes", "drain", &two.hosts.id(0), "--move"]).ok();
    two.until_stage(
        0,
        &runner,
        "stays",
        "opencode cannot go on with a conversation on another host",
    );
}

#[test]
fn whichever_daemon_dies_where_a_moved_conversation_is_held_by_one_process() {
    let mut two = Two::new(&["labels: []", "labels: []"]);
    let mut runner = two.launch("one", &["--prompt=the word is walnut"]);
    two.until_activity(&runner, "idle");
    two.until_begun(&runner);
    let session = two.here().runner(&runner)["session_id"].clone();
    // Where it is, and which host's daemon dies: the one that it leaves, or the one that it comes to.
    let mut at = 0;
    for (point, leaves) in [
        ("move_stop", true),
        ("move_stopped", true),
        ("move_read", true),
        ("move_admit", false),
        ("move_admitted", false),
    ] {
        let doomed = if leaves { at } else { 1 - at };
        two.hosts.worlds[doomed].set_env("STRATAVORE_FAILPOINTS", &format!("{point}=abort"));
        two.hosts.worlds[doomed].run(["daemon", "restart"]).ok();
        two.hosts.worlds[doomed].set_env("STRATAVORE_FAILPOINTS", "");
        // Another one answers.
        let asks = &two.hosts.worlds[1 - doomed];
        two.until("it is known to be idle there", || {
            let shown = asks.runner(&runner);
            if shown["activity"] == "idle" { Ok(()) } else { Err(shown.to_string()) }
        });
        let ((), most) = two.most_holders(|| {
            let pid = two.hosts.worlds[doomed].daemon_pid().unwrap();
            asks.run(["nodes", "drain", &two.hosts.id(at), "--move"]).ok();
            two.until(&format!("it has died at {point}"), || {
                match two.hosts.worlds[doomed].daemon_pid() {
                    Some(now) if now == pid => Err(asks.run(["nodes"]).everything()),
                    Some(_) | None => Ok(()),
                }
            });
            two.hosts.worlds[doomed].run(["daemon", "start"]).ok();
            let moved = two.until_stage(at, &runner, "moved", "");
            runner = moved["successor_id"].as_str().unwrap().to_owned();
            two.until_activity(&runner, "idle");
        });
        assert_eq!(most, 1, "{point}");
        assert_eq!(two.live(&session), [runner.as_str()], "{point}");
        let shown = two.here().runner(&runner);
        assert_eq!(shown["node_id"], two.hosts.id(1 - at).as_str(), "{point}");
        two.here().run(["nodes", "uncordon", &two.hosts.id(at)]).ok();
        at = 1 - at;
    }
    two.remembers_walnut(&runner);

    // The control: a second one that is begun by hand is noticed.
    let ((), most) = two.most_holders(|| {
        let second = two.launch("second", &["--prompt=say something"]);
        two.until_activity(&second, "idle");
    });
    assert_eq!(most, 2);
}

#[test]
fn who_is_killed_while_it_leaves_does_not_come_up_elsewhere() {
    let mut two = Two::new(&["labels: []", "labels: []"]);
    let runner = two.launch("one", &["--prompt=say something"]);
    two.until_activity(&runner, "idle");
    two.until_begun(&runner);
    let session = two.here().runner(&runner)["session_id"].clone();
    // Its daemon dies once the wish is written: its agent has not heard of it.
    two.drain_and_die_at("move_stopped");
    let other = &two.hosts.worlds[1];
    let mut kill = other.command("stratavore").args(["kill", &runner]).spawn().unwrap();
    two.until("it is known", || {
        let shown = other.json(&["events", "--runner", &runner, "--kind", "runner.stopping"]);
        if rows(&shown).len() == 2 { Ok(()) } else { Err(shown.to_string()) }
    });
    two.here().run(["daemon", "start"]).ok();
    assert!(kill.wait().unwrap().success());
    let ended = two.here().until_state(&runner, &["exited"]);
    assert_ne!(ended["cause"], "stopped by the drain of its node");
    two.until("the move is given up", || match two.move_of(0, &runner) {
        Ok(of) => Err(of.to_string()),
        Err(_) => Ok(()),
    });
    assert_eq!(two.live(&session), Vec::<String>::new());
    // The control: it can be gone on with by hand.
    let session = session.as_str().unwrap();
    two.here().run(["nodes", "uncordon", &two.hosts.id(0)]).ok();
    let resumed = two.here().json(&["sessions", "resume", session]);
    two.until_activity(rows(&resumed)[0]["id"].as_str().unwrap(), "idle");
}

#[test]
fn what_a_person_went_on_with_meanwhile_is_not_taken_up_again() {
    let mut two = Two::new(&["labels: []", "labels: []"]);
    let runner = two.launch("one", &["--prompt=say something"]);
    two.until_activity(&runner, "idle");
    two.until_begun(&runner);
    let session = two.here().runner(&runner)["session_id"].clone();
    // It was stopped, and nobody says that it is read to its end.
    two.drain_and_die_at("move_read");
    let other = &two.hosts.worlds[1];
    let removed = other.run(["nodes", "remove", &two.hosts.id(0)]).everything();
    assert!(removed.contains("were stopped and run nowhere else yet"), "{removed}");
    let node = two.hosts.id(1);
    let words = ["sessions", "resume", session.as_str().unwrap(), "--node", &node];
    let resumed = other.json(&words);
    let by_hand = rows(&resumed)[0]["id"].as_str().unwrap().to_owned();
    two.until("it is idle there", || {
        let shown = other.runner(&by_hand);
        if shown["activity"] == "idle" { Ok(()) } else { Err(shown.to_string()) }
    });
    two.until("the move is given up", || {
        let shown = other.json(&["nodes", "show", &two.hosts.id(0)]);
        if shown["moves"] == json!([]) { Ok(()) } else { Err(shown.to_string()) }
    });
    // Nor once nobody holds it any more.
    other.run(["kill", &by_hand, "--force"]).ok();
    two.here().run(["daemon", "start"]).ok();
    for world in &two.hosts.worlds {
        looked_for_moves(&two, world);
    }
    assert_eq!(two.live(&session), Vec::<String>::new());
}

#[test]
fn a_host_that_does_not_have_the_conversations_files_does_not_take_it() {
    let mut two = Two::new(&["labels: []", "labels: []"]);
    let elsewhere = tempfile::tempdir().unwrap();
    let own = two.home.home().to_owned();
    for (world, home) in two.hosts.worlds.iter_mut().zip([own.as_path(), elsewhere.path()]) {
        world.set_env("ASSISTANT_HOME", &home.display().to_string());
        world.run(["daemon", "restart"]).ok();
    }
    // Its home is what that is on its host.
    let home = "--env=HOME=env:ASSISTANT_HOME";
    let runner = two.launch("one", &[home, "--prompt=say something"]);
    two.until_activity(&runner, "idle");
    two.until_begun(&runner);
    two.here().run(["nodes", "drain", &two.hosts.id(0), "--move"]).ok();
    two.until_stage(0, &runner, "sought", "does not have the conversation's file");
    looked_for_moves(&two, &two.hosts.worlds[0]);
    assert_eq!(two.here().runner(&runner)["state"], "running", "it was not stopped for nothing");
    // The control: once they share it, it goes.
    two.hosts.worlds[1].set_env("ASSISTANT_HOME", &own.display().to_string());
    two.hosts.worlds[1].run(["daemon", "restart"]).ok();
    let moved = two.until_stage(0, &runner, "moved", "");
    two.until_activity(moved["successor_id"].as_str().unwrap(), "idle");
}

/// Waits until a daemon has looked for moves some times more.
fn looked_for_moves(two: &Two, world: &World) {
    let looks = || {
        let status = world.json(&["status"]);
        let tasks = status["daemon"]["tasks"].as_array().unwrap();
        tasks.iter().find(|task| task["name"] == "moves").unwrap()["runs"].as_u64().unwrap()
    };
    let before = looks();
    two.until("it has looked", || match looks() {
        now if now >= before + 2 => Ok(()),
        now => Err(now.to_string()),
    });
}
