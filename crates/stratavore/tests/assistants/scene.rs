//! A Stratavore with one real assistant, and the model that it talks to.

use std::fmt::Debug;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use stratavore_store::testing::{sqlite_number, sqlite_texts};
use stratavore_testkit::assistant_home::{AssistantHome, KEY};
use stratavore_testkit::model::StandIn;
use stratavore_testkit::programs::Program;
use stratavore_testkit::running::Running;
use stratavore_testkit::wire::on_runtime;
use stratavore_testkit::world::{Ran, World, rows};

/// How long a machine with much else to do may take for what an assistant does at most in seconds.
const PATIENCE: Duration = Duration::from_secs(240);
const LOOK: Duration = Duration::from_millis(50);

pub(crate) struct Scene {
    pub(crate) program: Program,
    pub(crate) model: StandIn,
    pub(crate) home: AssistantHome,
    pub(crate) world: World,
}

impl Scene {
    pub(crate) fn new(program: Program) -> Self {
        Self::at(program, World::new())
    }

    pub(crate) fn at(program: Program, mut world: World) -> Self {
        let model = StandIn::start();
        let home = world.path("assistant");
        let home = AssistantHome::at(program, &model.url(), &home, &world.work());
        let executable = executable(program, &world.path(""));
        // What it needs comes from its daemon as well, as an import has nothing else. But not how it logs in.
        let mut needed = home.environment();
        needed.retain(|_, value| value != KEY);
        for (name, value) in &needed {
            world.set_env(name, value);
        }
        let names: Vec<&String> = needed.keys().collect();
        let mut config = json!({
            "runner": { "grace": "5s" },
            "assistants": { program.name(): {
                "program": executable, "args": home.arguments(), "env_pass": names,
            } },
        });
        if program == Program::Opencode {
            // What its model costs nobody has published.
            config["prices"] = json!({ home.model(): { "input": 1, "output": 5 } });
        }
        let file = world.path("stratavore.yaml");
        // JSON is YAML.
        fs::write(&file, config.to_string()).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        world.project("demo");
        Self { program, model, home, world }
    }

    /// The words that launch it, up to what a test wants besides.
    fn launching(&self, name: &str) -> Vec<String> {
        let mut words: Vec<String> =
            ["launch", "--project", "demo", "--assistant", self.program.name(), "--name", name]
                .map(Into::into)
                .into();
        words.extend(self.variables());
        words
    }

    /// The options that give it its variables.
    fn variables(&self) -> Vec<String> {
        let option = |(key, value): (String, String)| {
            if value != KEY {
                return format!("--env={key}={value}");
            }
            let file = self.world.path("key");
            fs::write(&file, KEY).unwrap();
            fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
            format!("--env={key}=file:{}", file.display())
        };
        self.home.environment().into_iter().map(option).collect()
    }

    /// Has it run without a screen, where it may use all its tools.
    pub(crate) fn run(&self, options: &[&str]) -> Running {
        let may: &[&str] = match self.program {
            Program::Claude => &["--allowedTools", "Bash"],
            Program::Codex => &["-s", "danger-full-access"],
            Program::Opencode => &["--auto"],
            Program::Gemini => &["-y"],
        };
        self.run_that_may(options, may)
    }

    /// The same where it may do what these words of its own say.
    pub(crate) fn run_that_may(&self, options: &[&str], may: &[&str]) -> Running {
        let mut words = self.variables();
        words.push(format!("--assistant={}", self.program.name()));
        words.extend(options.iter().map(ToString::to_string));
        words.push("--".into());
        words.extend(may.iter().map(ToString::to_string));
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        Running::start(&self.world, &words)
    }

    /// Asks for it with these options; what follows `--` is for the assistant.
    pub(crate) fn ask_to_launch(&self, name: &str, options: &[&str]) -> Ran {
        self.world.run(self.launch_words(name, options))
    }

    pub(crate) fn launch_words(&self, name: &str, options: &[&str]) -> Vec<String> {
        let mut words = self.launching(name);
        let cut = options.iter().position(|word| *word == "--").unwrap_or(options.len());
        words.extend(options[..cut].iter().map(ToString::to_string));
        words.extend(["--format".into(), "json".into(), "--".into()]);
        if self.program == Program::Codex {
            // A person is asked, who then lets it out of its sandbox.
            words.extend(["-a", "on-request", "-s", "workspace-write"].map(Into::into));
        }
        words.extend(options[cut..].iter().skip(1).map(ToString::to_string));
        words
    }

    /// Launches it, and answers the runner's id.
    #[track_caller]
    pub(crate) fn launch(&self, name: &str, options: &[&str]) -> String {
        let launched = self.ask_to_launch(name, options).ok().json();
        rows(&launched)[0]["id"].as_str().expect("a launched runner has an id").to_owned()
    }

    /// `stratavore sessions` with these words, of which a runner comes. Answers its id.
    #[track_caller]
    pub(crate) fn session_command(&self, words: &[&str]) -> String {
        let words = [&["sessions"], words].concat();
        let launched = self.world.json(&words);
        rows(&launched)[0]["id"].as_str().expect("a launched runner has an id").to_owned()
    }

    /// Starts a daemon that dies at a failpoint.
    pub(crate) fn start_doomed(&self, failpoint: &str) {
        let mut command = self.world.command("stratavore");
        let point = format!("{failpoint}=abort");
        command.args(["daemon", "start"]).env("STRATAVORE_FAILPOINTS", point);
        // It may die before that is answered.
        Ran::of(command);
    }

    /// Waits until the runner does this.
    #[track_caller]
    pub(crate) fn until_activity(&self, runner: &str, activity: &str) -> Value {
        self.until(&format!("{runner} is {activity}"), || {
            let shown = self.world.runner(runner);
            if shown["activity"] == activity { Ok(shown) } else { Err(of_interest(&shown)) }
        })
    }

    /// Sends a prompt, and says how that came out. It has to be delivered.
    #[track_caller]
    pub(crate) fn send(&self, runner: &str, prompt: &str, options: &[&str]) -> Value {
        let mut words = vec!["send", runner, prompt, "--format", "json"];
        words.extend(options);
        let sent = self.world.run(words);
        assert_eq!(sent.code(), 0, "{prompt:?}: {}\n{}", sent.everything(), self.screens());
        sent.json()
    }

    /// Waits until it asks something that can be answered from here.
    #[track_caller]
    pub(crate) fn until_asks(&self, runner: &str) -> Value {
        self.until(&format!("the inbox has something of {runner}"), || {
            let inbox = self.world.json(&["inbox"]);
            let of_it = |row: &&Value| row["runner"]["id"] == runner && row["ask"].is_object();
            rows(&inbox).iter().find(of_it).map(|row| row["ask"].clone()).ok_or(inbox.to_string())
        })
    }

    /// What the runner was said to do, one after the other.
    fn activities(&self, runner: &str) -> Vec<String> {
        let events = self.world.json(&["events", "--runner", runner, "--kind", "runner.activity"]);
        let all = rows(&events).iter();
        let mut told: Vec<(i64, String)> = all
            .map(|event| {
                let activity = event["data"]["activity"].as_str().unwrap_or_default();
                (event["position"].as_i64().unwrap(), activity.to_owned())
            })
            .collect();
        told.sort();
        let mut activities: Vec<String> = told.into_iter().map(|(_, activity)| activity).collect();
        activities.dedup();
        activities
    }

    /// Waits until it was said to do this, one after the other: events are listed a moment after they are true.
    #[track_caller]
    pub(crate) fn until_did(&self, runner: &str, wanted: &[&str]) {
        self.until(&format!("it has been {wanted:?}"), || {
            let activities = self.activities(runner);
            if comes_in_order(&activities, wanted) { Ok(()) } else { Err(activities) }
        });
    }

    /// Waits until `look` finds what is wished. The screens are told if it never does.
    #[track_caller]
    pub(crate) fn until<T, E: Debug>(
        &self,
        wished: &str,
        mut look: impl FnMut() -> Result<T, E>,
    ) -> T {
        let began = Instant::now();
        loop {
            match look() {
                Ok(found) => return found,
                Err(seen) if began.elapsed() > PATIENCE => {
                    panic!("waited in vain until {wished}; last seen: {seen:?}\n{}", self.screens())
                }
                Err(_) => std::thread::sleep(LOOK),
            }
        }
    }

    /// What all runners show, and what is known of them.
    fn screens(&self) -> String {
        let live = self.world.json(&["runners"]);
        let mut told = String::new();
        for row in rows(&live) {
            let id = row["id"].as_str().unwrap_or_default();
            let screen = self.world.run(["screen", id]).stdout();
            let known = self.world.run(["explain", id]).stdout();
            told.push_str(&format!("--- {}\n{screen}\n{known}\n", row["name"]));
        }
        told + &format!("--- billed\n{}{:?}", self.model.bill(), self.model.faults())
    }

    /// A file in the directory that it works in.
    pub(crate) fn made(&self, name: &str) -> Option<String> {
        fs::read_to_string(self.world.work().join(name)).ok()
    }

    /// How many prompts are in this state.
    pub(crate) fn prompts(&self, state: &str) -> i64 {
        let file = self.world.path("state/stratavore.db");
        let sql = format!("SELECT count(*) FROM prompts WHERE state = '{state}'");
        on_runtime(sqlite_number(&file, &sql))
    }

    /// How many asks are in this state.
    pub(crate) fn asks(&self, state: &str) -> i64 {
        let file = self.world.path("state/stratavore.db");
        let sql = format!("SELECT count(*) FROM asks WHERE state = '{state}'");
        on_runtime(sqlite_number(&file, &sql))
    }

    /// The assistant's own id of a session.
    pub(crate) fn external_session(&self, session: &str) -> Option<String> {
        let file = self.world.path("state/stratavore.db");
        let sql = format!(
            "SELECT external_id FROM sessions WHERE id = '{session}' AND external_id IS NOT NULL"
        );
        on_runtime(sqlite_texts(&file, &sql)).pop()
    }

    /// Waits until an answer is known to be written down. That comes a moment after the assistant is idle, and
    /// one that is killed before has nothing to go on with.
    #[track_caller]
    pub(crate) fn until_begun(&self, runner: &str) {
        let session = self.world.runner(runner)["session_id"].as_str().unwrap().to_owned();
        let file = self.world.path("state/stratavore.db");
        let counted = match self.program {
            Program::Claude | Program::Codex | Program::Gemini => "assistant_messages",
            // It may tell of its answers only at its end.
            Program::Opencode => "user_messages + assistant_messages",
        };
        let sql = format!("SELECT {counted} FROM sessions WHERE id = '{session}'");
        self.until("its conversation has begun", || match on_runtime(sqlite_number(&file, &sql)) {
            0 => Err("nothing was said"),
            _ => Ok(()),
        });
    }

    /// Kills the process of the assistant, with all that it started, and waits until its runner has ended.
    pub(crate) fn kill_assistant(&self, runner: &str) {
        self.world.run(["kill", runner, "--force"]).ok();
        self.world.until_state(runner, &["exited", "failed", "lost"]);
    }
}

fn of_interest(shown: &Value) -> String {
    format!("{} {} {} {}", shown["state"], shown["activity"], shown["doing"], shown["cause"])
}

/// What runs it. Gemini CLI is no program by itself, but a script of Node.js: one that starts it is put here.
pub(crate) fn executable(program: Program, directory: &Path) -> PathBuf {
    if program != Program::Gemini {
        return program.path();
    }
    let script = directory.join(program.name());
    let text = format!("#!/bin/sh\nexec node '{}' \"$@\"\n", program.path().display());
    fs::write(&script, text).unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    script
}

/// Why a command that was to print JSON was refused.
#[track_caller]
pub(crate) fn refusal(ran: &Ran) -> Value {
    assert_ne!(ran.code(), 0, "it is refused: {}", ran.everything());
    let told = ran.stderr();
    let problem = told.lines().rev().find_map(|line| serde_json::from_str(line).ok());
    problem.unwrap_or_else(|| panic!("it says why: {}", ran.everything()))
}

/// The steps that came one after another, with others between them.
fn comes_in_order(all: &[String], wanted: &[&str]) -> bool {
    let mut left = all.iter();
    wanted.iter().all(|step| left.any(|seen| seen == step))
}
