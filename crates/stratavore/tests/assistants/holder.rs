//! T-DUPE with conversations: of many that go on with one conversation at the same time, one does.

use std::process::{Output, Stdio};

use stratavore_testkit::programs::Program;
use stratavore_testkit::terminal::Terminal;
use stratavore_testkit::trial::{Trial, scale};
use stratavore_testkit::world::{Ran, of_process, parent, processes, rows};

use crate::scene::{Scene, refusal};

/// The processes of the assistant itself that hold this conversation, by their words. What one of them has
/// forked is called as it is until it has become another program.
fn holders(scene: &Scene, conversation: &str) -> Vec<u32> {
    let program = scene.program.path();
    let is_one = |pid: &u32| {
        let line = of_process(*pid, "cmdline");
        let words: Vec<&[u8]> = line.split(|byte| *byte == 0).collect();
        // What is a script stands behind what runs it.
        words.iter().take(2).any(|word| *word == program.as_os_str().as_encoded_bytes())
            && words.contains(&conversation.as_bytes())
            // That one only prints it, for the vault.
            && !words.contains(&b"export".as_slice())
    };
    let all: Vec<u32> = processes().into_iter().filter(is_one).collect();
    let is_forked = |pid: u32| parent(pid).is_some_and(|parent| all.contains(&parent));
    all.iter().copied().filter(|pid| !is_forked(*pid)).collect()
}

/// What became of many that asked for it at the same time.
fn one_of_many_holds_it(
    scene: &Scene,
    conversation: &str,
    ran: &[Output],
) -> (String, Result<(), String>) {
    let live = scene.world.json(&["runners"]);
    let live: Vec<&str> = rows(&live).iter().map(|row| row["id"].as_str().unwrap()).collect();
    let won = ran.iter().filter(|output| output.status.success()).count();
    // A runner is there before its assistant is.
    let held = scene.until("somebody holds it", || match holders(scene, conversation) {
        held if held.is_empty() => Err("nobody"),
        held => Ok(held),
    });
    let lost_well = ran.iter().filter(|output| !output.status.success()).all(|output| {
        let told = String::from_utf8_lossy(&output.stderr);
        let holder = told.contains("session_busy") && live.iter().any(|id| told.contains(id));
        // On a machine that has too much to do some are not even heard.
        holder || told.contains("store_unavailable")
    });
    let judged = match (won, live.len(), held.len(), lost_well) {
        (1, 1, 1, true) => Ok(()),
        _ => Err(format!("{won} won, live {live:?}, processes {held:?}: {ran:?}")),
    };
    (live.first().copied().unwrap_or_default().to_owned(), judged)
}

fn of_many_one_holds_it(program: Program, control: impl FnOnce(&Scene, &str, &mut Trial)) {
    let promise =
        format!("{}: many launch with one conversation, and one process holds it", program.name());
    let mut trial = Trial::new("T-DUPE", &promise);
    let scene = Scene::new(program);
    let first = scene.launch("first", &["--prompt", "say something"]);
    scene.until_activity(&first, "idle");
    let shown = scene.world.runner(&first);
    let ours = shown["session_id"].as_str().unwrap();
    let conversation =
        scene.until("its conversation is known", || scene.external_session(ours).ok_or("not yet"));

    // While it is held, with its holder's name.
    let refused = scene.ask_to_launch("other", &["--resume", ours]);
    assert_eq!(refused_by(&refused), "session_busy", "{}", refused.everything());
    assert!(refused.stderr().contains(&first), "{}", refused.stderr());
    scene.until_begun(&first);
    scene.kill_assistant(&first);

    for round in 0..scale(1, 10) {
        let asking: Vec<_> = (0..scale(8, 40))
            .map(|number| {
                let mut command = scene.world.command("stratavore");
                let name = format!("r{round}-{number}");
                command.args(scene.launch_words(&name, &["--resume", ours]));
                command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
                command.spawn().expect("stratavore runs")
            })
            .collect();
        let ran: Vec<_> =
            asking.into_iter().map(|child| child.wait_with_output().unwrap()).collect();
        let (holder, judged) = one_of_many_holds_it(&scene, &conversation, &ran);
        trial.tried_times(ran.len(), judged);
        scene.until_activity(&holder, "idle");
        scene.kill_assistant(&holder);
    }
    control(&scene, &conversation, &mut trial);
    trial.end();
}

#[test]
fn t_dupe_of_many_that_resume_a_conversation_of_claude_one_does() {
    of_many_one_holds_it(Program::Claude, two_are_seen);
}

/// The control: two that were started behind Stratavore's back are seen as two.
fn two_are_seen(scene: &Scene, conversation: &str, trial: &mut Trial) {
    let started: Vec<_> = (0..2)
        .map(|_| {
            let mut command = scene.home.command();
            match scene.program {
                Program::Claude | Program::Gemini => command.args(["--resume", conversation]),
                Program::Codex => command.args(["--no-daemon", "resume", conversation]),
                Program::Opencode => command.args(["--session", conversation]),
            };
            Terminal::spawn(command, 24, 80)
        })
        .collect();
    let seen = scene.until("both are there", || match holders(scene, conversation).len() {
        2 => Ok(2),
        other => Err(other),
    });
    trial.control("two processes with one conversation", seen != 1);
    drop(started);
}

/// Two of it cannot be had: it refuses the second one itself.
#[test]
fn t_dupe_of_many_that_resume_a_conversation_of_codex_one_does() {
    of_many_one_holds_it(Program::Codex, |_, _, _| {});
}

#[test]
fn t_dupe_of_many_that_resume_a_conversation_of_opencode_one_does() {
    of_many_one_holds_it(Program::Opencode, two_are_seen);
}

#[test]
fn t_dupe_of_many_that_resume_a_conversation_of_gemini_one_does() {
    of_many_one_holds_it(Program::Gemini, two_are_seen);
}

fn refused_by(ran: &Ran) -> String {
    refusal(ran)["code"].as_str().unwrap_or_default().to_owned()
}
