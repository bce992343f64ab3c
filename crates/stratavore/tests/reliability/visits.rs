//! T-AUDITCOV: who attaches to a runner at its own socket, or types into it there, is on the record once,
//! whether a daemon was there or not.
//!
//! The oracle is what the test did: so many texts, so many attaches, by these processes.

use serde_json::Value;
use stratavore_testkit::trial::{Trial, scale};
use stratavore_testkit::world::{World, until};

const DETACH: &[u8] = b"\x11";

/// What was done at the socket of one runner.
#[derive(Debug, Clone, Copy, Default)]
struct Done {
    texts: u64,
    bytes: u64,
    attaches: u64,
    /// At least: what a terminal answers counts too.
    typed: u64,
}

impl Done {
    fn send(&mut self, world: &World, runner: &str, text: &str) {
        world.run(["--no-start", "send", runner, text]).ok();
        self.texts += 1;
        self.bytes += text.len() as u64;
    }

    /// Attaches to look on, and detaches.
    fn look(&mut self, world: &World, runner: &str) {
        let look = ["--no-start", "attach", "--read-only", runner];
        let mut terminal = world.terminal(&look, 24, 80);
        terminal.until_title("api/cat").press(DETACH);
        self.attaches += 1;
        assert!(terminal.wait_exit().success(), "{}", terminal.text());
    }

    /// Attaches, types a line and detaches. Answers the pid that did.
    fn attach(&mut self, world: &World, runner: &str, line: &str) -> u64 {
        let mut terminal = world.terminal(&["--no-start", "attach", runner], 24, 80);
        // Before it is attached, keys are not the runner's yet.
        terminal.until_title("api/cat").type_line(line).until_text(line);
        self.attaches += 1;
        self.typed += line.len() as u64 + 1;
        let pid = terminal.pid().into();
        terminal.press(DETACH);
        assert!(terminal.wait_exit().success(), "{}", terminal.text());
        pid
    }
}

/// The records of what came in by runners' own sockets.
fn records(world: &World) -> Vec<Value> {
    let Value::Array(all) = world.json(&["audit", "list", "--limit", "1000"]) else {
        return vec![];
    };
    all.into_iter().filter(|record| record["origin"]["door"] == "runner").collect()
}

fn sum(records: &[Value], kind: &str, field: &str) -> u64 {
    let of_it = records.iter().filter(|record| record["kind"] == kind);
    of_it.map(|record| record["data"][field].as_u64().unwrap_or(0)).sum()
}

/// Whether the record says what was done, and nothing else.
fn judge(records: &[Value], done: &Done) -> Result<(), String> {
    let found = Done {
        texts: sum(records, "request.sent", "times"),
        bytes: sum(records, "request.sent", "bytes"),
        attaches: sum(records, "request.attach", "times"),
        typed: sum(records, "request.detach", "bytes"),
    };
    let ends = sum(records, "request.detach", "times");
    let same = (found.texts, found.bytes, found.attaches, ends)
        == (done.texts, done.bytes, done.attaches, done.attaches);
    if same && found.typed >= done.typed {
        Ok(())
    } else {
        Err(format!("{done:?} was done, and {found:?} with {ends} ends is on the record"))
    }
}

/// Everything that a runner's own socket lets one do, with a daemon, without one, and over daemons that die
/// while they take it in. Answers what is on the record in the end, and what was done.
fn visited(failpoints: &str) -> (Vec<Value>, Done, u64) {
    let mut world = World::new();
    world.set_env("STRATAVORE_FAILPOINTS", failpoints);
    world.project("api");
    world.launch("api", "cat", &["cat"]);
    let mut done = Done::default();
    for text in ["one words", "two words", "three words"] {
        done.send(&world, "cat", text);
    }
    done.attach(&world, "cat", "words with one");
    world.kill_daemon();
    done.send(&world, "cat", "four words");
    let pid = done.attach(&world, "cat", "words with none");
    // Of a kind that was not there before, so that it is written at once and not only counted: there is
    // something to read, however much the daemon has read before it was killed.
    done.look(&world, "cat");
    for point in ["visits_read=abort", "visits_recorded=abort"] {
        world.set_env("STRATAVORE_FAILPOINTS", &format!("{failpoints};{point}"));
        // It may die before it says that it has started.
        world.run(["daemon", "start"]);
        if !failpoints.contains("visits=off") {
            until("the daemon has died of it", || world.daemon_pid().map_or(Ok(()), Err));
        }
        world.run(["daemon", "stop"]);
    }
    world.set_env("STRATAVORE_FAILPOINTS", failpoints);
    world.run(["daemon", "start"]).ok();
    world.run(["upgrade", "cat"]).ok();
    done.send(&world, "cat", "five words");
    done.attach(&world, "cat", "words to another program");
    // What was counted is written when the agent ends.
    world.run(["kill", "cat", "--force"]).ok();
    world.until_state("cat", &["exited", "failed"]);
    let found = stratavore_testkit::world::until_within(
        std::time::Duration::from_secs(if failpoints.is_empty() { 60 } else { 3 }),
        "all of it is on the record",
        || {
            let found = records(&world);
            match judge(&found, &done) {
                Err(_) if !failpoints.is_empty() => Ok(found),
                Err(why) => Err(why),
                Ok(()) => Ok(found),
            }
        },
    );
    let whole = world.json(&["audit", "list", "--limit", "1000"]).to_string();
    assert!(!whole.contains("words"), "what was typed is not on the record");
    world.run(["audit", "verify"]).ok();
    (found, done, pid)
}

#[test]
fn t_auditcov_who_comes_to_a_runners_own_socket_is_on_the_record_once() {
    let promise = "attaching and typing on the runner's host, without a daemon, over daemons that die as they take it in, and over an upgrade: on the record, once";
    let mut trial = Trial::new("T-AUDITCOV", promise);
    let mut last = None;
    for _ in 0..scale(1, 20) {
        let (records, done, pid) = visited("");
        trial.tried(judge(&records, &done));
        let with_none = records
            .iter()
            .find(|record| record["kind"] == "request.attach" && record["origin"]["pid"] == pid);
        let told = with_none.is_some_and(|record| {
            record["data"]["keyboard"] == true
                && record["origin"]["uid"].is_u64()
                && record["origin"]["auth"] == "peer"
                && record["by"].as_str().is_some_and(|by| !by.is_empty())
        });
        // Alike ones within a minute are one record, of which the pid is the last one's.
        let lines = records.iter().filter(|record| record["kind"] == "request.attach").count();
        trial.tried(match told || lines < done.attaches as usize {
            true => Ok(()),
            false => Err(format!("{pid} has attached, and that is not in {records:#?}")),
        });
        last = Some((records, done));
    }
    let (mut records, done) = last.expect("it was tried");
    let more = Done { texts: done.texts + 1, ..done };
    trial.control("a text that is not on the record", judge(&records, &more).is_err());
    let sent = records.iter().position(|record| record["kind"] == "request.sent");
    let twice = records[sent.expect("something was sent")].clone();
    records.push(twice);
    trial.control("a text that is on it twice", judge(&records, &done).is_err());
    let (records, done, _) = visited("visits=off");
    trial.control("agents that write down nothing", judge(&records, &done).is_err());
    trial.end();
}

#[test]
fn what_a_program_inside_a_runner_is_refused_at_another_ones_socket_is_on_the_record() {
    let world = World::new();
    world.project("demo");
    let other = world.launch("demo", "other", &["cat"]);
    let program = World::program("stratavore").display().to_string();
    let home = world.path("").display().to_string();
    let script =
        format!("{program} --home {home} send other words </dev/null\necho over; exec cat\n");
    std::fs::write(world.work().join("inside.sh"), script).unwrap();
    let mine = world.launch("demo", "mine", &["sh", "inside.sh"]);
    let record = until("it is on the record", || {
        let all = records(&world);
        let of_it = |record: &&Value| record["data"]["what"] == "socket.send";
        all.iter().find(of_it).cloned().ok_or(all)
    });
    assert_eq!(record["by"], format!("program inside {mine}"));
    assert_eq!((&record["decision"], &record["data"]["on"]), (&"refused".into(), &other.into()));
    assert!(record["reason"].as_str().unwrap().contains("may not"), "{record}");
    assert_eq!(sum(&records(&world), "request.sent", "times"), 0);
}
