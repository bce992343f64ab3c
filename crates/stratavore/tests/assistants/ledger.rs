//! The ledger is the model's bill: whatever a conversation is made of, whoever dies on the way.

use stratavore_testkit::model::{Hold, Outcome, Place, Purpose, Reply};
use stratavore_testkit::programs::Program;
use stratavore_testkit::trial::Trial;

use crate::again::read_again;
use crate::booked::{Row, is_the_bill};
use crate::scene::Scene;

/// Waits until the model was asked so many things for this purpose, and has answered all.
pub(crate) fn until_billed(scene: &Scene, purpose: Purpose, times: usize) {
    scene.until(&format!("{times} requests for {purpose:?}"), || {
        let bill = scene.model.bill();
        let open = bill.only(|entry| entry.outcome == Outcome::Open).entries.len();
        let found = bill.of(purpose).entries.len();
        if open == 0 && found >= times { Ok(()) } else { Err((found, open)) }
    });
}

/// Has it say its conversation in short.
fn compact(scene: &Scene, runner: &str) {
    let command = if scene.program == Program::Gemini { "/compress" } else { "/compact" };
    scene.until_activity(runner, "idle");
    scene.world.run(["send", runner, "--raw", command]).ok();
    if !matches!(scene.program, Program::Opencode | Program::Gemini) {
        return;
    }
    scene.until("it compacts", || {
        if !scene.model.bill().of(Purpose::Compaction).entries.is_empty() {
            return Ok(());
        }
        // Its list of commands was on its way, or took the enter key for itself.
        let screen = scene.world.run(["screen", runner]).stdout();
        if screen.contains(command) {
            scene.world.run(["send", runner, "--raw", ""]).ok();
        }
        Err(screen)
    });
}

/// Two at once, a subagent, a compaction, and a daemon that is killed while they work.
fn everything_is_booked(program: Program) {
    let scene = Scene::new(program);
    let hold = Hold::new();
    let held = Reply::text("there are three").held(Place::Start, &hold);
    scene.model.on(|asked| asked.purpose == Purpose::Subagent, [held]);
    let agent = "[[agent:count the files]] [[text:it has said so]]";
    let one = scene.launch("one", &["--prompt", &format!("ask another {agent}")]);
    let until_at_work = || {
        scene.until("its subagent is at work", || if hold.is_reached() { Ok(()) } else { Err(()) });
    };
    if program == Program::Opencode {
        // Of two first starts in a home one may wait for ever for the other's database.
        until_at_work();
    }
    let two = scene.launch("two", &["--prompt", "say it in short [[text:it]]"]);
    until_at_work();
    scene.until("both were asked", || {
        let asked = scene.model.asked();
        if asked.iter().any(|asked| asked.says("say it in short")) {
            Ok(())
        } else {
            Err(asked.len())
        }
    });
    scene.world.kill_daemon();
    hold.release();
    until_billed(&scene, Purpose::Subagent, 1);
    scene.world.run(["daemon", "start"]).ok();
    for runner in [&one, &two] {
        scene.until_activity(runner, "idle");
    }
    scene.send(&one, "and once more [[text:done again]]", &[]);
    scene.until_activity(&one, "idle");
    compact(&scene, &one);
    until_billed(&scene, Purpose::Compaction, 1);
    scene.until_ledger_is_the_bill();

    // Nothing is counted again when all is read again, whoever tells more meanwhile.
    let (before, turns) =
        (scene.ledger().len(), scene.model.bill().of(Purpose::Main).entries.len());
    read_again(&scene, None);
    assert_eq!(is_the_bill(&scene.ledger(), &scene.model.bill()), Ok(()));
    scene.send(&two, "one thing more [[text:yes]]", &["--wait", "2m"]);
    until_billed(&scene, Purpose::Main, turns + 1);
    scene.until_activity(&two, "idle");
    scene.until_ledger_is_the_bill();
    assert!(scene.ledger().len() > before);
    let owners: Owners = [
        (&one, &["ask another", "count the files", "and once more"]),
        (&two, &["say it in short", "one thing more"]),
    ];
    scene.until_booked_to(&owners);
    scene.each_row_is_where_it_says();

    let promise = format!("{}: what the model has billed is in the ledger, once", program.name());
    let mut trial = Trial::new("T-LEDGER", &promise);
    trial.tried_times(scene.model.bill().entries.len(), Ok(()));
    the_check_notices(&scene, owners, &mut trial);
    trial.end();
}

/// Two runners, and words that were said to each of them alone.
type Owners<'a> = [(&'a str, &'a [&'a str]); 2];

/// The controls: a message that is missing, one that is there twice, one that nobody was billed, one whose figures
/// nobody has counted, and one that another runner has.
fn the_check_notices(scene: &Scene, owners: Owners<'_>, trial: &mut Trial) {
    let (mut rows, bill) = (scene.ledger(), scene.model.bill());
    let notices = |rows: &[Row]| is_the_bill(rows, &bill).is_err();
    assert!(!notices(&rows));
    let later = bill.only(|entry| entry.number > 1);
    trial.control("a message that nobody was billed", is_the_bill(&rows, &later).is_err());
    let last = rows.pop().unwrap();
    trial.control("a message that is missing", notices(&rows));
    let mut guessed = last.clone();
    guessed.0["quality"] = "estimated".into();
    rows.extend([last.clone(), guessed]);
    trial.control("a guess beside what was counted", notices(&rows));
    rows.pop();
    assert_eq!(scene.is_booked_to(&owners, rows.clone()), Ok(()));
    let [(one, _), (two, _)] = owners;
    // Of the main conversation, since what is said on the side may be about another one.
    let main = rows.iter_mut().find(|row| row.0["purpose"] == "main").unwrap();
    let whose = &mut main.0["runner"];
    *whose = if *whose == one { two } else { one }.into();
    let others = scene.is_booked_to(&owners, rows.clone()).is_err();
    trial.control("a message that another runner has", others);
    rows.push(last);
    trial.control("a message that counts twice", notices(&rows));
}

#[test]
fn t_ledger_claude_s_bill_is_the_ledger() {
    everything_is_booked(Program::Claude);
}

#[test]
fn t_ledger_codex_s_bill_is_the_ledger() {
    everything_is_booked(Program::Codex);
}

#[test]
fn opencode_s_bill_is_the_ledger() {
    everything_is_booked(Program::Opencode);
}

#[test]
fn gemini_s_bill_is_the_ledger() {
    everything_is_booked(Program::Gemini);
}
