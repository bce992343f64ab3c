//! Duplicate delivery: all that an assistant has told is read a second time, from its beginning, and
//! changes nothing.

use std::path::PathBuf;

use stratavore_store::testing::{sqlite_execute, sqlite_number};
use stratavore_testkit::model::Reply;
use stratavore_testkit::programs::Program;
use stratavore_testkit::trial::Trial;
use stratavore_testkit::wire::on_runtime;
use stratavore_testkit::world::rows;

use crate::booked::{billed, counted, is_the_bill};
use crate::scene::Scene;

fn database(scene: &Scene) -> PathBuf {
    scene.world.path("state/stratavore.db")
}

fn number(scene: &Scene, sql: &str) -> i64 {
    on_runtime(sqlite_number(&database(scene), sql))
}

const READ: &str = "SELECT coalesce(sum(read_to), 0) FROM follows";
const ASKS: &str = "SELECT count(*) FROM asks";

/// Between two daemons it is forgotten what was read; `besides` is done to the database as well. Waits
/// until all of it was read again.
pub(crate) fn read_again(scene: &Scene, besides: Option<&str>) {
    scene.world.kill_daemon();
    let before = number(scene, READ);
    assert!(before > 0, "something was read");
    for sql in besides.into_iter().chain(["DELETE FROM follows"]) {
        assert!(on_runtime(sqlite_execute(&database(scene), sql)) > 0, "{sql}");
    }
    scene.world.run(["daemon", "start"]).ok();
    scene.until("all was read again", || match number(scene, READ) {
        again if again >= before => Ok(()),
        again => Err((again, before)),
    });
}

fn changes_nothing(program: Program) {
    let promise = format!("{}: what is delivered twice counts once", program.name());
    let mut trial = Trial::new("T-LEDGER", &promise);
    let scene = Scene::new(program);
    let first = [Reply::escalated("echo one > first.txt"), Reply::text("the first is made")];
    scene.model.on_prompt("make the first", first);
    let runner = scene.launch("one", &["--prompt", "make the first, please"]);
    let ask = scene.until_asks(&runner);
    scene.world.run(["approve", ask["id"].as_str().unwrap()]).ok();
    scene.until_activity(&runner, "idle");
    scene.until_ledger_is_the_bill();
    let (booked, asks) = (scene.ledger().len(), number(&scene, ASKS));

    read_again(&scene, None);
    assert_eq!(is_the_bill(&scene.ledger(), &scene.model.bill()), Ok(()));
    assert_eq!((scene.ledger().len(), number(&scene, ASKS)), (booked, asks));
    let inbox = scene.world.json(&["inbox"]);
    assert!(rows(&inbox).iter().all(|row| row["ask"].is_null()), "it is answered: {inbox}");
    scene.until_activity(&runner, "idle");
    scene.send(&runner, "and once more", &["--wait", "2m"]);
    scene.until_activity(&runner, "idle");
    scene.until_ledger_is_the_bill();
    trial.tried_times(scene.model.bill().entries.len(), Ok(()));

    // The control: what is not known by its key any more counts again.
    let renamed = "UPDATE usage_records SET key = key || '-' WHERE key =
        (SELECT min(key) FROM usage_records WHERE quality = 'exact')";
    read_again(&scene, Some(renamed));
    scene.until("it is noticed", || {
        let found = counted(&scene.ledger());
        if found != billed(&scene.model.bill()) { Ok(()) } else { Err(found) }
    });
    trial.control("a message that is delivered twice and counted so", true);
    trial.end();
}

#[test]
fn t_ledger_claude_is_read_again() {
    changes_nothing(Program::Claude);
}

#[test]
fn t_ledger_codex_is_read_again() {
    changes_nothing(Program::Codex);
}

#[test]
fn t_ledger_opencode_is_read_again() {
    changes_nothing(Program::Opencode);
}

#[test]
fn t_ledger_gemini_is_read_again() {
    changes_nothing(Program::Gemini);
}
