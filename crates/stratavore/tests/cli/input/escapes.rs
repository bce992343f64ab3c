//! Row 83: hostile text in lists, tables, views and errors reaches no terminal, and is stored and
//! told to programs as it was.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::Value;
use stratavore_proto::v1::{CreateProject, EditProject, LaunchRunners};
use stratavore_testkit::world::{Ran, World, until};

use super::corpus::{self, Case};
use super::untamed;
use stratavore_testkit::trial::is_long;
use stratavore_testkit::wire::{client, fresh_key, on_runtime};

/// The colours that the command line itself prints.
const OWN: [&str; 7] =
    ["\u{1b}[0m", "\u{1b}[1m", "\u{1b}[2m", "\u{1b}[31m", "\u{1b}[32m", "\u{1b}[33m", "\u{1b}[39m"];

/// A home whose every field is hostile, and where colours are printed: taking colours out would
/// take out some of what must not be there in the first place.
struct Hostile {
    world: World,
    cases: Vec<Case>,
    directory: String,
}

const DIRECTORY: &str = "w\u{1b}]0;owned\u{7}\n\u{202e}x\u{9b}2J";
const PROGRAM: &str = "ev\u{1b}]52;c;b3duZWQ=\u{7}il\u{200b}";

impl Hostile {
    fn new() -> Self {
        let mut world = World::new();
        world.set_env("CLICOLOR_FORCE", "1");
        let cases = corpus::terminal();
        let place = world.work().join(DIRECTORY);
        fs::create_dir(&place).unwrap();
        let program = place.join(PROGRAM);
        fs::write(&program, "#!/no/such\u{1b}[8m\u{202e}interpreter\n").unwrap();
        fs::set_permissions(&program, PermissionsExt::from_mode(0o755)).unwrap();
        let printed: String = cases.iter().map(|case| format!("{}\n", case.text)).collect();
        fs::write(place.join("corpus"), printed).unwrap();
        world.run(["daemon", "start"]).ok();
        let this = Self { directory: place.display().to_string(), world, cases };
        on_runtime(this.fill());
        this.world.until_state("broken", &["failed"]);
        until("the corpus was printed", || {
            let recorded = this.world.recorded(this.talker()["id"].as_str().unwrap());
            if recorded.windows(6).any(|end| end == b"over\r\n") {
                Ok(())
            } else {
                Err(recorded.len())
            }
        });
        this
    }

    async fn fill(&self) {
        let client = client(&self.world).await;
        let create = CreateProject {
            idempotency_key: fresh_key("hostile"),
            name: "demo".into(),
            directory: self.directory.clone(),
            description: self.cases[0].text.clone(),
            ..CreateProject::default()
        };
        client.projects().create(create).await.unwrap();
        for description in self.descriptions() {
            let edit = EditProject {
                idempotency_key: fresh_key("hostile"),
                project: "demo".into(),
                description: Some(description),
                ..EditProject::default()
            };
            client.projects().edit(edit).await.unwrap();
        }
        // Its title is the last thing that it sets, so that it still has one.
        let script = "stty -echo; cat corpus; printf '\\033c\\033]2;a\\302\\2332Jb\\342\\200\\256c\\007over\\n'; exec sleep 1000";
        let mut launch = LaunchRunners {
            idempotency_key: fresh_key("hostile"),
            project: "demo".into(),
            assistant: "generic".into(),
            name: "talker".into(),
            args: ["sh", "-c", script].map(String::from).into(),
            env: self.env().map(|(key, value)| format!("{key}={value}")).collect(),
            ..LaunchRunners::default()
        };
        launch.args.extend(self.cases.iter().map(|case| case.text.clone()));
        client.runners().launch(launch.clone()).await.unwrap();
        let broken = LaunchRunners {
            idempotency_key: fresh_key("hostile"),
            name: "broken".into(),
            args: vec![format!("./{PROGRAM}")],
            ..launch
        };
        client.runners().launch(broken).await.unwrap();
    }

    /// All texts in as few descriptions as hold them.
    fn descriptions(&self) -> Vec<String> {
        let mut descriptions = vec![String::new()];
        for case in &self.cases {
            let last = descriptions.last_mut().unwrap();
            if last.chars().count() + case.text.chars().count() > 1000 {
                descriptions.push(case.text.clone());
            } else {
                last.push_str(&case.text);
            }
        }
        descriptions
    }

    fn env(&self) -> impl Iterator<Item = (String, String)> + '_ {
        self.cases.iter().enumerate().map(|(n, case)| (format!("V{n}"), case.text.clone()))
    }

    fn talker(&self) -> Value {
        self.world.runner("talker")
    }
}

/// Panics if it has printed more than text and our own colours.
#[track_caller]
fn only_text_and_colours(ran: &Ran, what: &str) {
    for (stream, bytes) in [("output", &ran.output.stdout), ("errors", &ran.output.stderr)] {
        if let Err(found) = without_own_colours(bytes) {
            panic!("{what} prints {found} in its {stream}");
        }
    }
}

fn without_own_colours(bytes: &[u8]) -> Result<(), String> {
    let mut text = String::from_utf8_lossy(bytes).into_owned();
    for colour in OWN {
        text = text.replace(colour, "");
    }
    untamed(text.as_bytes())
}

/// What a runner has printed is shown by itself, in lines of its own, and keeps its tabs and the
/// characters that join others to one; its controls it does not keep.
fn without_controls(ran: &Ran) -> Result<(), String> {
    let text = String::from_utf8_lossy(&ran.output.stdout);
    match text.chars().find(|c| c.is_control() && *c != '\n' && *c != '\t') {
        None => untamed(&ran.output.stderr),
        Some(c) => Err(format!("{c:?}")),
    }
}

/// Every command that shows something of others' making.
const SHOWS: [&[&str]; 19] = [
    &["projects"],
    &["projects", "list", "--archived"],
    &["projects", "show", "demo"],
    &["runners", "--all"],
    &["runners", "list", "--state", "failed"],
    &["runners", "show", "talker"],
    &["runners", "show", "broken"],
    &["status"],
    &["events"],
    &["events", "list", "--after", "0", "--limit", "1000"],
    &["events", "subscribe", "--after", "0", "--limit", "12"],
    &["screen", "talker"],
    &["logs", "talker", "--lines", "3"],
    &["logs", "talker"],
    &["daemon", "status"],
    &["config", "show"],
    &["doctor"],
    &["recover", "--dry-run"],
    &["reconcile"],
];

#[test]
fn hostile_text_in_every_list_and_view_is_shown_and_not_obeyed() {
    let hostile = Hostile::new();
    let world = &hostile.world;
    for command in SHOWS {
        for format in ["table", "json", "yaml"] {
            let ran = world.run(command.iter().chain(&["--format", format]));
            assert!(ran.code() == 0 || command == ["doctor"], "{command:?}\n{}", ran.everything());
            if format == "table" && ["screen", "logs"].contains(&command[0]) {
                without_controls(&ran).unwrap();
            } else if command[0] != "logs" {
                only_text_and_colours(&ran, &format!("{command:?} --format {format}"));
            }
        }
    }
    // On a terminal tables are cut to its width, perhaps in the middle of something.
    for columns in [30, 80, 200] {
        for command in [&["runners", "--all"][..], &["projects"], &["events"], &["status"]] {
            let mut terminal = world.terminal(command, 50, columns);
            assert!(terminal.wait_exit().success());
            let printed = String::from_utf8_lossy(terminal.raw()).replace("\r\n", "\n");
            if let Err(found) = without_own_colours(printed.as_bytes()) {
                panic!("{command:?} prints {found} to a terminal of {columns} columns");
            }
        }
    }

    // Programs are told the very texts.
    let shown = hostile.talker();
    let argv: Vec<_> = shown["argv"].as_array().unwrap().iter().skip(3).cloned().collect();
    let given: Vec<_> = hostile.cases.iter().map(|case| Value::from(case.text.clone())).collect();
    assert_eq!(argv, given);
    let env = shown["env"].as_object().unwrap();
    assert_eq!(env.len(), hostile.cases.len());
    for (key, value) in hostile.env() {
        assert_eq!(env[&key], value);
    }
    assert_eq!(shown["directory"], hostile.directory);
    let events = world.json(&["events", "list", "--after", "0", "--kind", "project.edited"]);
    let edits: Vec<_> =
        events.as_array().unwrap().iter().map(|e| e["data"]["description"].clone()).collect();
    assert_eq!(edits, hostile.descriptions());
    assert!(world.runner("broken")["cause"].as_str().unwrap().contains(PROGRAM));

    // The control: the same texts are there to be noticed, in what is asked for as it is.
    let raw = world.run(["logs", "talker", "--raw"]).ok();
    without_own_colours(&raw.output.stdout).unwrap_err();
    without_controls(&raw).unwrap_err();
    for case in hostile.cases.iter().filter(|case| case.what != "wide") {
        without_own_colours(case.text.as_bytes()).unwrap_err();
    }
}

/// How a text gets into an error: as each argument that is looked up, parsed or refused.
const ERRORS: [&[&str]; 26] = [
    &["runners", "show", "%"],
    &["kill", "%"],
    &["projects", "show", "%"],
    &["new", "%"],
    &["launch", "--project", "%", "--", "true"],
    &["launch", "--project", "demo", "--name", "%", "--", "true"],
    &["launch", "--project", "demo", "--assistant", "%"],
    &["launch", "--project", "demo", "--env", "%", "--", "true"],
    &["launch", "--project", "demo", "--env", "PATH=%", "--", "true"],
    &["launch", "--project", "demo", "--directory", "%", "--", "true"],
    &["launch", "--project", "demo", "--", "%"],
    &["launch", "--project", "demo", "--restart", "%", "--", "true"],
    &["launch", "--memory", "%"],
    &["runners", "--state", "%"],
    &["runners", "--limit", "%"],
    &["events", "--runner", "%"],
    &["send", "%", "text"],
    &["screen", "%"],
    &["logs", "%"],
    &["logs", "x", "--since", "%"],
    &["recover", "%"],
    &["projects", "edit", "demo", "--assistant", "%"],
    &["--config", "%", "status"],
    &["--no-start", "--home", "%", "status"],
    &["completions", "%"],
    &["kill", "x", "--%"],
];

#[test]
fn hostile_text_in_an_error_is_shown_and_not_obeyed() {
    let mut world = World::new();
    world.set_env("CLICOLOR_FORCE", "1");
    world.project("demo");
    let cases = corpus::terminal();
    // Each text once, each way in some fifteen times; or each text in each way.
    let rounds = if is_long() { ERRORS.len() } else { 1 };
    let jobs: Vec<(&[&str], &Case)> = (0..rounds)
        .flat_map(|round| {
            let way = move |n: usize| ERRORS[(n + round) % ERRORS.len()];
            cases.iter().enumerate().map(move |(n, case)| (way(n), case))
        })
        .collect();
    let next = AtomicUsize::new(0);
    let work = || {
        while let Some((way, case)) = jobs.get(next.fetch_add(1, Ordering::Relaxed)) {
            let arguments = way.iter().map(|word| word.replace('%', &case.text));
            let format = if case.text.len() % 2 == 0 { "table" } else { "json" };
            let ran =
                world.run(["--format", format].map(String::from).into_iter().chain(arguments));
            assert_ne!(ran.code(), 0, "{way:?} {:?}\n{}", case.text, ran.everything());
            assert!(!ran.output.stderr.is_empty(), "{way:?} {:?}", case.text);
            only_text_and_colours(&ran, &format!("{way:?} with {:?}", case.text));
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(work);
        work();
    });
    assert!(crate::bad_days::runners(&world).is_empty(), "and nothing was done");
    assert_eq!(world.json(&["projects"]).as_array().unwrap().len(), 1);
}
