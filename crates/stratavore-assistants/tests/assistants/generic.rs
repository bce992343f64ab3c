//! Any program, and assistants that we do not know.

use serde_json::json;
use stratavore_assistants::adapter::{Memory, Outcome, Step};

use crate::sample::*;

#[test]
fn a_program_is_run_as_it_was_given() {
    let generic = adapter("generic");
    let asked = Asked::new(&["make", "-k", "a b"]).observed("/runs/r1");
    let started = asked.fresh(generic);
    assert_eq!(started.argv, ["make", "-k", "a b"]);
    assert!(started.session.is_none() && started.env.is_empty() && started.files.is_empty());
    assert_eq!(Asked::new(&["x"]).prompt("do it").fresh(generic).argv, ["x", "do it"]);
    // It has it on its standard input.
    assert_eq!(Asked::new(&["x"]).headless().prompt("do it").fresh(generic).argv, ["x"]);
    assert_eq!(adapter("never-heard-of").proves(), generic.proves());
}

#[test]
fn how_it_ends_is_its_exit_code() {
    let generic = adapter("generic");
    let done = Outcome::Done { text: "all\nwell".into() };
    assert_eq!(generic.outcome("all\nwell\n", Some(0)), done);
    let failed = |why: &str| Outcome::Failed { why: why.into() };
    assert_eq!(generic.outcome("a\nno rule\n\n", Some(2)), failed("exit 2: no rule"));
    assert_eq!(generic.outcome("", Some(2)), failed("exit 2"));
    for signal in [129, 130, 137, 143] {
        assert_eq!(generic.outcome("a", Some(signal)), Outcome::Cut);
    }
    assert_eq!(generic.outcome("a", None), Outcome::Cut);
    assert_eq!(generic.step("a \n"), [Step::Text { text: "a".into() }]);
    assert_eq!(generic.step("\n"), []);
}

#[test]
fn nothing_is_known_of_what_it_does() {
    let generic = adapter("generic");
    let mut memory = Memory::default();
    let signals = [hook(json!({"hook_event_name": "Stop"})), title("✦ Working")];
    assert_eq!(told(generic, &mut memory, signals), []);
    assert_eq!(read(generic, &mut memory, "/f", "{\"type\":\"user\"}\n"), []);
    assert_eq!(generic.answer(&json!({}), true, None), None);
    assert_eq!(generic.proves().activity, None);
}
