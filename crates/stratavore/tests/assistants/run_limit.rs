//! The limits of a run without a screen, for an assistant that has none of its own.

use stratavore_testkit::model::Reply;
use stratavore_testkit::programs::Program;

use crate::scene::Scene;

/// It knows neither a limit of turns nor one of cost: we hold it to them.
fn is_held_to_limits(program: Program) {
    let scene = Scene::new(program);
    let tools = |count| (0..count).map(|n| Reply::shell(&format!("echo {n} >> made.txt; sleep 1")));
    let ends = [(&["--max-turns", "2"], "max_turns"), (&["--max-cost", "0.000001"], "max_cost")];
    for (limit, what) in ends {
        scene.model.on_prompt(what, tools(40));
        let mut running =
            scene.run(&[&limit[..], &["--prompt", &format!("work for {what}")]].concat());
        let result = running.until("result");
        let (code, said) = running.end();
        assert_eq!((&result["outcome"], code), (&"limit_reached".into(), 4), "{result}\n{said}");
        assert!(result["why"].as_str().is_some_and(|why| why.contains(what)), "{result}");
        let asked = scene.model.asked().iter().filter(|asked| asked.says(what)).count();
        assert!(asked < 20, "{what}: {asked} of 40 answers were asked for");
    }
    // The control: one that stays below both comes to its end.
    scene.model.on_prompt("a short one", [Reply::text("done")]);
    let limits = ["--max-turns", "2", "--max-cost", "100", "--prompt", "a short one"];
    let mut running = scene.run(&limits);
    let result = running.until("result");
    assert_eq!((&result["outcome"], running.end().0), (&"done".into(), 0), "{result}");
}

#[test]
fn codex_is_held_to_limits_of_turns_and_cost() {
    is_held_to_limits(Program::Codex);
}

#[test]
fn opencode_is_held_to_limits_of_turns_and_cost() {
    is_held_to_limits(Program::Opencode);
}

#[test]
fn gemini_is_held_to_limits_of_turns_and_cost() {
    is_held_to_limits(Program::Gemini);
}
