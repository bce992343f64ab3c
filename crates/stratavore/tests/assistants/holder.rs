//! T-DUPE with conversations: of many that go on with one conversation at the same time, one does.

use std::process::Stdio;

use stratavore_testkit::programs::Program;
use stratavore_testkit::trial::{Trial, scale};
use stratavore_testkit::world::{Ran, of_process, processes, rows};

use crate::scene::{Scene, refusal};

/// The processes of the assistant itself that hold this conversation, by their words.
fn holders(scene: &Scene, conversation: &str) -> Vec<u32> {
    let program = scene.program.path();
    let is_one = |pid: &u32| {
        let line = of_process(*pid, "cmdline");
        let words: Vec<&[u8]> = line.split(|byte| *byte == 0).collect();
        words[0] == program.as_os_str().as_encoded_bytes()
            && words.contains(&conversation.as_bytes())
    };
    processes().into_iter().filter(is_one).collect()
}

#[test]
fn t_dupe_of_many_that_resume_a_conversation_one_does() {
    let mut trial =
        Trial::new("T-DUPE", "many launch with one conversation, and one process holds it");
    let scene = Scene::new(Program::Claude);
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
    scene.kill_assistant(&first);

    for round in 0..scale(1, 10) {
        let asking: Vec<_> = (0..scale(8, 20))
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
        let won: Vec<_> = ran.iter().filter(|output| output.status.success()).collect();
        let live = scene.world.json(&["runners"]);
        let live: Vec<&str> = rows(&live).iter().map(|row| row["id"].as_str().unwrap()).collect();
        let held = holders(&scene, &conversation);
        let lost_well = ran.iter().filter(|output| !output.status.success()).all(|output| {
            let told = String::from_utf8_lossy(&output.stderr);
            told.contains("session_busy") && live.iter().any(|id| told.contains(id))
        });
        trial.tried_times(
            ran.len(),
            match (won.len(), live.len(), held.len(), lost_well) {
                (1, 1, 1, true) => Ok(()),
                _ => Err(format!("{} won, live {live:?}, processes {held:?}: {ran:?}", won.len())),
            },
        );
        let only = live[0].to_owned();
        scene.until_activity(&only, "idle");
        scene.kill_assistant(&only);
    }
    // The control: two that were started behind Stratavore's back are seen as two.
    let started: Vec<_> = (0..2)
        .map(|_| {
            let mut command = scene.home.interactive("nothing");
            command.args(["--resume", &conversation]);
            stratavore_testkit::terminal::Terminal::spawn(command, 24, 80)
        })
        .collect();
    let seen = scene.until("both are there", || match holders(&scene, &conversation).len() {
        2 => Ok(2),
        other => Err(other),
    });
    trial.control("two processes with one conversation", seen != 1);
    drop(started);
    trial.end();
}

fn refused_by(ran: &Ran) -> String {
    refusal(ran)["code"].as_str().unwrap_or_default().to_owned()
}
