//! `stratavore run`: one prompt in, one result out, whatever dies meanwhile.
//!
//! What an assistant does is held against the stand-in that it talks to: the text, the files, and the bill.

use std::fs;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;
use stratavore_testkit::assistant_home::{AssistantHome, KEY};
use stratavore_testkit::model::{Hold, Place, Purpose, Reply, StandIn};
use stratavore_testkit::programs::Program;
use stratavore_testkit::running::{Running, billed, used};
use stratavore_testkit::world::{Ran, World, rows, signal, until, until_within};

/// A world in which claude is the real one, and talks to the stand-in.
pub(crate) struct ClaudeWorld {
    pub world: World,
    pub model: StandIn,
    home: AssistantHome,
}

impl ClaudeWorld {
    pub(crate) fn new() -> Self {
        let model = StandIn::start();
        let world = World::with_config(&format!(
            "assistants:\n  claude:\n    program: {}\n",
            Program::Claude.path().display()
        ));
        let (home, work) = (world.path("assistant"), world.work());
        let home = AssistantHome::at(Program::Claude, &model.url(), &home, &work);
        fs::write(world.path("key"), KEY).unwrap();
        world.project("demo");
        Self { world, model, home }
    }

    /// The variables of a run, as options. The key is a file's: no secret is in an argument.
    pub(crate) fn options(&self) -> Vec<String> {
        let mut environment = self.home.environment();
        environment.insert("CLAUDE_CODE_MAX_RETRIES".into(), "0".into());
        let key = self.world.path("key").display().to_string();
        environment.insert("ANTHROPIC_API_KEY".into(), format!("file:{key}"));
        let options = environment.iter().map(|(key, value)| format!("--env={key}={value}"));
        options.chain(["--assistant=claude".into()]).collect()
    }

    pub(crate) fn work(&self, name: &str) -> String {
        fs::read_to_string(self.world.work().join(name)).unwrap_or_default()
    }
}

#[test]
fn a_run_of_any_command_tells_what_it_prints_and_how_it_came_out() {
    let world = World::new();
    world.project("demo");
    // The prompt is its standard input.
    let ran = world.run(["run", "demo", "what is said", "--", "sh", "-c", "cat; echo; echo two"]);
    let ran = ran.ok();
    assert_eq!(ran.stdout(), "what is said\ntwo\n");
    assert!(ran.stderr().contains("done"), "{}", ran.everything());
    // The same from a file, and from the caller's own standard input.
    let file = world.path("task.md");
    fs::write(&file, "what is written\nin two lines").unwrap();
    let named = file.display().to_string();
    let script = ["--", "sh", "-c", "cat; echo"];
    let ran = world.run(["run", "demo", "--file", &named].iter().chain(&script)).ok();
    assert_eq!(ran.stdout(), "what is written\nin two lines\n");
    for dash in [&["-"][..], &["--file", "-"]] {
        let mut command = world.command("stratavore");
        command.args(["run", "demo"]).args(dash).args(script);
        command.stdin(fs::File::open(&file).unwrap());
        assert_eq!(Ran::of(command).ok().stdout(), "what is written\nin two lines\n");
    }
    let ran = world.run(["run", "demo", "--file", "no-such-file", "--", "cat"]).fails(3);
    assert!(ran.stderr().contains("no-such-file"), "{}", ran.everything());

    let words = ["--prompt", "x", "--", "sh", "-c", "printf '\\033[31mred\\033]0;t\\007'; exit 3"];
    let mut running = Running::start(&world, &words);
    assert_eq!(running.until("text")["text"], "\u{1b}[31mred\u{1b}]0;t\u{7}");
    let result = running.until("result");
    assert_eq!((&result["outcome"], &result["state"]), (&"failed".into(), &"failed".into()));
    assert!(result["why"].as_str().unwrap().starts_with("exit 3"), "{result}");
    assert_eq!((running.next(), running.end().0), (None, 10));

    // To people nothing is shown that their terminal would obey.
    let ran = world.run(["run", "demo", "--", "printf", "a\\033[31mb\\007c\\n"]).ok();
    assert_eq!(ran.stdout(), "abc\n");
    assert!(!ran.stderr().contains("\u{1b}[31m") && !ran.stderr().contains('\u{7}'));

    let ran = world.run(["run", "demo", "--timeout", "1s", "--", "sleep", "1000"]).fails(9);
    assert!(ran.stderr().contains("its time was over"), "{}", ran.everything());
    world.run(["run", "demo", "--", "no-such-program"]).fails(3);
    world.run(["run", "demo"]).fails(2);
}

#[test]
fn ctrl_c_stops_a_run_and_reports_it() {
    let world = World::new();
    world.project("demo");
    let mut running = Running::start(&world, &["--", "sh", "-c", "echo begun; sleep 1000"]);
    running.until("text");
    signal(running.pid(), Signal::INT);
    let result = running.until("result");
    assert_eq!(result["outcome"], "stopped");
    assert_eq!(running.end().0, 130);
    let runner = result["runner"].as_str().unwrap();
    until("nothing of it is left", || match world.processes_of(runner) {
        left if left.is_empty() => Ok(()),
        left => Err(left),
    });
}

#[test]
fn a_run_survives_the_daemon_and_is_told_without_a_gap() {
    let world = World::new();
    world.project("demo");
    let go = world.path("go");
    let script = format!(
        "echo one; echo two; while ! test -e {}; do sleep 0.05; done; echo three; echo half",
        go.display()
    );
    let mut running = Running::start(&world, &["--", "sh", "-c", &script]);
    running.until("text");
    let mut said = vec!["one".to_owned()];
    world.kill_daemon();
    fs::write(go, "").unwrap();
    let result = loop {
        let line = running.next().expect("it goes on to the result");
        if line["kind"] == "result" {
            break line;
        }
        said.push(line["text"].as_str().unwrap().to_owned());
    };
    assert_eq!(said, ["one", "two", "three", "half"], "each once, in their order");
    assert_eq!((&result["outcome"], running.end().0), (&"done".into(), 0));
    assert_eq!(result["text"], "one\ntwo\nthree\nhalf");
}

#[test]
fn a_run_of_claude_ends_with_its_result_its_usage_and_its_session() {
    let claude = ClaudeWorld::new();
    let options = claude.options();
    let mut words: Vec<&str> = options.iter().map(String::as_str).collect();
    let prompt = "[[shell:echo by-claude >> made.txt]] [[text:all is done]]";
    words.extend(["--prompt", prompt, "--", "--allowedTools", "Bash"]);
    let mut running = Running::start(&claude.world, &words);
    let told = running.until("session")["text"].clone();
    assert!(running.until("tool")["text"].as_str().unwrap().contains("by-claude"));
    let result = running.until("result");
    let (code, said) = running.end();
    assert_eq!((code, &result["outcome"]), (0, &"done".into()), "{result}\n{said}");
    assert_eq!(result["text"], "all is done");
    assert_eq!(claude.work("made.txt"), "by-claude\n");
    assert_eq!(result["assistant_session"], told);
    let bill = claude.model.bill();
    assert_eq!(used(&result), billed(&bill), "{bill}");
    assert_eq!(result["usage"]["messages"], bill.complete().entries.len());
    assert!(result["usage"]["reported_cost"].as_i64().unwrap() > 0, "{result}");

    // The next one goes on in the same session, and counts what it has used itself.
    let session = result["session"].as_str().unwrap();
    let mut words: Vec<&str> = options.iter().map(String::as_str).collect();
    words.extend(["--resume", session, "marker-two: what did you do?"]);
    claude.model.on_prompt("marker-two", [Reply::text("as was said")]);
    let before = billed(&bill);
    let mut running = Running::start(&claude.world, &words);
    let again = running.until("result");
    assert_eq!((running.end().0, &again["text"]), (0, &"as was said".into()), "{again}");
    assert_eq!(again["session"], result["session"]);
    assert_eq!(again["assistant_session"], told);
    let after = billed(&claude.model.bill());
    let own: Vec<u64> = after.iter().zip(before).map(|(after, before)| after - before).collect();
    assert_eq!(used(&again).to_vec(), own);
}

#[test]
fn a_run_of_claude_survives_the_daemon_and_loses_no_token() {
    let claude = ClaudeWorld::new();
    let hold = Hold::new();
    claude.model.on_prompt(
        "marker-one",
        [
            Reply::shell("echo once >> made.txt"),
            Reply::text("after the daemon").held(Place::Start, &hold),
        ],
    );
    let options = claude.options();
    let mut words: Vec<&str> = options.iter().map(String::as_str).collect();
    words.extend(["marker-one: do it", "--", "--allowedTools", "Bash"]);
    let mut running = Running::start(&claude.world, &words);
    hold.until_reached();
    claude.world.kill_daemon();
    hold.release();
    let result = running.until("result");
    assert_eq!((running.end().0, &result["text"]), (0, &"after the daemon".into()), "{result}");
    assert_eq!(claude.work("made.txt"), "once\n");
    let bill = claude.model.bill();
    assert_eq!(used(&result), billed(&bill), "{bill}");
}

#[test]
fn a_run_that_meets_a_limit_says_which() {
    let claude = ClaudeWorld::new();
    let options = claude.options();
    let run = |more: &[&str]| {
        let mut words: Vec<&str> = options.iter().map(String::as_str).collect();
        words.extend(more);
        let mut running = Running::start(&claude.world, &words);
        let result = running.until("result");
        (result, running.end().0)
    };
    let prompt = "[[shell:echo 1]] [[shell:echo 2]] [[shell:echo 3]]";
    for (limit, what) in [(["--max-turns", "1"], "max_turns"), (["--max-cost", "0.01"], "max_cost")]
    {
        let words = [&[prompt][..], &limit, &["--", "--allowedTools", "Bash"]].concat();
        let (result, code) = run(&words);
        assert_eq!((&result["outcome"], code), (&"limit_reached".into(), 4), "{result}");
        assert!(result["why"].as_str().is_some_and(|why| why.contains(what)), "{result}");
        // Three tools, and an answer to the last.
        assert!(result["usage"]["messages"].as_u64().unwrap() < 4, "{result}");
    }
    // The control: one that stays below both comes to its end.
    let words = [prompt, "--max-turns", "9", "--max-cost", "9", "--", "--allowedTools", "Bash"];
    let (result, code) = run(&words);
    assert_eq!((&result["outcome"], code), (&"done".into(), 0), "{result}");
    claude
        .model
        .on_prompt("marker-limit", [Reply::rate_limited(std::time::Duration::from_secs(1))]);
    let (result, code) = run(&["marker-limit: anything"]);
    assert_eq!((&result["outcome"], code), (&"rate_limited".into(), 6), "{result}");
}

/// Words of `stratavore run` that leave permissions to whoever answers.
fn asking<'a>(options: &'a [String], more: &[&'a str]) -> Vec<&'a str> {
    options.iter().map(String::as_str).chain(more.iter().copied()).collect()
}

#[test]
fn a_run_of_claude_asks_in_the_inbox_and_goes_on_as_it_is_answered() {
    let claude = ClaudeWorld::new();
    let world = &claude.world;
    claude.model.on_prompt(
        "marker-ask",
        [
            Reply::shell("echo one >> made.txt"),
            Reply::shell("echo two >> made.txt"),
            Reply::text("as was answered"),
        ],
    );
    let options = claude.options();
    let mut running = Running::start(world, &asking(&options, &["marker-ask: do both"]));
    let told = running.until("asks");
    assert_eq!((&told["tool"], &told["text"]), (&"Bash".into(), &"echo one >> made.txt".into()));
    let first = only_ask(world);
    assert_eq!((&first["answerable"], &first["kind"]), (&true.into(), &"permission".into()));
    assert_eq!(claude.work("made.txt"), "", "nobody has allowed it");
    // The daemon that took the question in is not the one that takes the answer.
    world.kill_daemon();
    let id = first["id"].as_str().unwrap();
    let approved = world.json(&["approve", id]);
    assert_eq!((&approved["state"], &approved["allowed"]), (&"answered".into(), &true.into()));
    let again = world.run(["deny", id]);
    assert_ne!(again.code(), 0, "an answer counts once: {}", again.everything());

    let second = until_within(Duration::from_secs(120), "it asks for the next", || {
        let asks = asks(world);
        asks.iter().find(|ask| ask["id"] != id).cloned().ok_or(asks)
    });
    assert_eq!(claude.work("made.txt"), "one\n", "it was let do that");
    assert_eq!(second["text"], "echo two >> made.txt");
    world.run(["deny", second["id"].as_str().unwrap(), "--message", "leave it as it is"]).ok();
    let result = running.until("result");
    assert_eq!((running.end().0, &result["text"]), (0, &"as was answered".into()), "{result}");
    assert_eq!(claude.work("made.txt"), "one\n");
    let asked = claude.model.asked();
    let last = asked.iter().rfind(|asked| asked.purpose == Purpose::Main).unwrap();
    let results = last.tool_results();
    assert!(results.iter().any(|text| text.contains("leave it as it is")), "{results:?}");
    let bill = claude.model.bill();
    assert_eq!(used(&result), billed(&bill), "{bill}");
    // Who gave the answers is on the record, and nothing is left to be answered.
    let record = world.json(&["audit", "list", "--limit", "500"]);
    let answers: Vec<_> =
        rows(&record).iter().filter(|entry| entry["kind"] == "request.answer").collect();
    assert_eq!(answers.len(), 2, "{record}");
    assert_eq!(asks(world), Vec::<Value>::new());
}

/// An item of a queue waits for its answer, and is done then.
#[test]
fn an_item_of_claude_waits_for_its_permission() {
    let claude = ClaudeWorld::new();
    let world = &claude.world;
    claude.model.on_prompt(
        "marker-item",
        [Reply::shell("echo by-item >> made.txt"), Reply::text("the item is done")],
    );
    let options = claude.options();
    let mut words = vec!["queue", "add", "demo", "marker-item: do it", "--format", "json"];
    words.extend(options.iter().map(String::as_str));
    let added = world.run(words).ok().json();
    let item = || world.json(&["queue", "show", added["id"].as_str().unwrap()]);
    let ask = until_within(Duration::from_secs(120), "it asks", || {
        asks(world).pop().ok_or("nothing is asked")
    });
    assert_eq!(item()["state"], "running");
    world.run(["approve", ask["id"].as_str().unwrap()]).ok();
    until_within(Duration::from_secs(120), "the item is done", || match item() {
        item if item["state"] == "done" => Ok(()),
        item => Err(item),
    });
    assert_eq!(claude.work("made.txt"), "by-item\n");
}

/// Without anybody to answer it is refused by Claude itself, as it is asked to, and nobody waits.
#[test]
fn a_run_of_claude_that_is_told_not_to_ask_does_not() {
    let claude = ClaudeWorld::new();
    claude.model.on_prompt(
        "marker-none",
        [Reply::shell("echo one >> made.txt"), Reply::text("it is not made")],
    );
    let options = claude.options();
    let more = ["marker-none: do it", "--", "--permission-mode", "dontAsk"];
    let mut running = Running::start(&claude.world, &asking(&options, &more));
    let result = running.until("result");
    assert_eq!((running.end().0, &result["text"]), (0, &"it is not made".into()), "{result}");
    assert_eq!(claude.work("made.txt"), "");
}

/// What waits for an answer.
fn asks(world: &World) -> Vec<Value> {
    let inbox = world.json(&["inbox"]);
    rows(&inbox).iter().map(|row| row["ask"].clone()).filter(Value::is_object).collect()
}

/// The one thing that is asked.
fn only_ask(world: &World) -> Value {
    until("one thing is asked", || match &asks(world)[..] {
        [one] => Ok(one.clone()),
        other => Err(other.to_vec()),
    })
}
