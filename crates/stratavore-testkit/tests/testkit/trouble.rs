//! What each assistant does when its provider refuses, breaks off, or is never heard again.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use stratavore_testkit::assistant_home::AssistantHome;
use stratavore_testkit::model::{Hold, Outcome, Place, Reply, StandIn};
use stratavore_testkit::programs::Program;

use crate::told;

/// A refused and a cut answer, and then one in full: it asks again until it has it.
fn asks_again(program: Program) {
    let model = StandIn::start();
    let home = AssistantHome::new(program, &model.url());
    model.on_prompt(
        "marker-two",
        [
            Reply::rate_limited(Duration::from_secs(1)),
            Reply::text("broken off words").cut(),
            Reply::text("final words"),
        ],
    );
    let output = home.headless("marker-two").output().expect("it can be started");
    let told = format!("{}\n{}", told(&output), model.bill());
    assert!(output.status.success() && told.contains("final words"), "{told}");
    assert_eq!(model.asked().len(), 3, "{told}");
    let outcomes: Vec<_> = model.bill().entries.iter().map(|entry| entry.outcome).collect();
    assert_eq!(outcomes, [Outcome::Dropped, Outcome::Complete], "{told}");
}

/// Killed while the model speaks, it leaves an entry that nobody has the figures of.
fn dies_in_the_middle(program: Program) {
    let (model, hold) = (StandIn::start(), Hold::new());
    let home = AssistantHome::new(program, &model.url());
    model.on_prompt(
        "marker-three",
        [Reply::text("one half and another").held(Place::Middle, &hold)],
    );
    let mut command = home.headless("marker-three");
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = Killed::start(&mut command);
    hold.until_reached();
    assert_eq!(model.bill().entries[0].outcome, Outcome::Open);
    child.kill();
    let deadline = Instant::now() + Duration::from_secs(20);
    while model.bill().entries[0].outcome != Outcome::Dropped {
        assert!(Instant::now() < deadline, "{}", model.bill());
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A child that does not outlive its test.
struct Killed(Child);

impl Killed {
    fn start(command: &mut Command) -> Self {
        Self(command.spawn().expect("it can be started"))
    }

    fn kill(&mut self) {
        self.0.kill().expect("it runs");
        self.0.wait().expect("it has ended");
    }
}

impl Drop for Killed {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

#[test]
fn claude_asks_again() {
    asks_again(Program::Claude);
}

#[test]
fn codex_asks_again() {
    asks_again(Program::Codex);
}

#[test]
fn opencode_asks_again() {
    asks_again(Program::Opencode);
}

#[test]
fn gemini_asks_again_when_refused_and_gives_up_when_cut_off() {
    let model = StandIn::start();
    let home = AssistantHome::new(Program::Gemini, &model.url());
    model.on_prompt(
        "marker-two",
        [
            Reply::rate_limited(Duration::from_secs(1)),
            Reply::text("final words"),
            Reply::text("broken off words").cut(),
        ],
    );
    let output = home.headless("marker-two").output().expect("it can be started");
    assert!(output.status.success(), "{}", told(&output));
    let output = home.headless("marker-two").output().expect("it can be started");
    assert!(!output.status.success(), "{}", told(&output));
    assert!(told(&output).contains(r#""status":"error""#), "{}", told(&output));
    let outcomes: Vec<_> = model.bill().entries.iter().map(|entry| entry.outcome).collect();
    assert_eq!(outcomes, [Outcome::Complete, Outcome::Dropped], "{}", model.bill());
}

#[test]
fn claude_dies_in_the_middle() {
    dies_in_the_middle(Program::Claude);
}

#[test]
fn codex_dies_in_the_middle() {
    dies_in_the_middle(Program::Codex);
}

#[test]
fn opencode_dies_in_the_middle() {
    dies_in_the_middle(Program::Opencode);
}

#[test]
fn gemini_dies_in_the_middle() {
    dies_in_the_middle(Program::Gemini);
}
