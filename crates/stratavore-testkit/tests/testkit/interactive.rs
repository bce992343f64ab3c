//! Each assistant on a terminal, where a person lets it use its shell.

use std::fs;
use std::time::{Duration, Instant};

use stratavore_testkit::assistant_home::AssistantHome;
use stratavore_testkit::model::{Purpose, Reply, StandIn};
use stratavore_testkit::programs::Program;
use stratavore_testkit::terminal::Terminal;

/// How long a machine with much else to do may take for one of them to start.
const PATIENCE: Duration = Duration::from_secs(90);
const LOOK: Duration = Duration::from_millis(200);

/// Waits until it is so; the screen is told if it never is.
fn patiently(screen: &mut Terminal, mut is_so: impl FnMut(&mut Terminal) -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so(screen) {
        assert!(Instant::now() < deadline, "waited too long before:\n{}", screen.text());
        std::thread::sleep(LOOK);
    }
}

/// Starts it with a prompt, presses `yes` at `question`, and waits for the model's last words.
fn asks_a_person(program: Program, question: &str, yes: &str, mut billed: Vec<Purpose>) {
    let model = StandIn::start();
    let home = AssistantHome::new(program, &model.url());
    let file = home.work().join("by-shell.txt");
    model.on_prompt(
        "marker-four",
        [Reply::escalated("echo by-shell > by-shell.txt"), Reply::text("the very last words")],
    );
    let mut screen = Terminal::spawn(home.interactive("marker-four: make it"), 40, 120);
    let shows = |screen: &mut Terminal, text: &str| {
        screen.read();
        screen.text().contains(text)
    };
    patiently(&mut screen, |screen| shows(screen, question));
    assert!(!file.exists(), "nobody has allowed it");
    // A key that comes as soon as the question may be taken for one that was meant for something
    // else, and ignored.
    patiently(&mut screen, |screen| {
        let asks = shows(screen, question);
        if asks {
            screen.type_text(yes);
        }
        !asks
    });
    patiently(&mut screen, |screen| shows(screen, "the very last words"));
    assert_eq!(fs::read_to_string(&file).expect("it was made"), "by-shell\n");
    assert_eq!(model.faults(), Vec::<String>::new());
    // A title may still be on its way.
    patiently(&mut screen, |_| model.bill().entries.len() >= billed.len());
    let mut purposes = model.bill().purposes();
    purposes.sort_unstable();
    billed.sort_unstable();
    assert_eq!(purposes, billed, "{}", model.bill());
}

#[test]
fn claude_asks_a_person() {
    let billed = vec![Purpose::Main, Purpose::Main, Purpose::Title];
    asks_a_person(Program::Claude, "Do you want to proceed?", "\r", billed);
}

#[test]
fn codex_asks_a_person() {
    let billed = vec![Purpose::Main, Purpose::Main, Purpose::Title];
    asks_a_person(Program::Codex, "Would you like to run the following command?", "y", billed);
}

#[test]
fn opencode_asks_a_person() {
    let billed = vec![Purpose::Main, Purpose::Main, Purpose::Title];
    asks_a_person(Program::Opencode, "Permission required", "\r", billed);
}

#[test]
fn gemini_asks_a_person() {
    asks_a_person(Program::Gemini, "Allow execution of", "\r", vec![Purpose::Main, Purpose::Main]);
}
