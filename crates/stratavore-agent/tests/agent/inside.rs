//! Programs inside runners, at the sockets of agents.

use crate::daemon::{Line, World};
use crate::part::{PLAY, cast};

/// What a program inside `asker` is answered, by wish.
async fn answers(script: &str, part: &str, about: &World, own: bool) -> (String, String) {
    let mut asker = World::shell(script).beside(about);
    let socket = if own { asker.dir.socket() } else { about.dir.socket() };
    asker = cast(asker, part, &socket);
    let mut line = asker.launch().await;
    asker.until_recorded(if part == "ask" { "<all: asked>" } else { "<heir: " }).await;
    let said = asker.recorded_text();
    line.kill().await;
    line.exited().await;
    (said, asker.spec.runner.to_string())
}

async fn victim() -> (World, Line) {
    let mut victim = World::shell("echo secret; read x; echo got $x; read x");
    let line = victim.launch().await;
    victim.until_recorded("secret").await;
    (victim, line)
}

#[tokio::test]
async fn a_program_inside_a_runner_reaches_no_other_runner() {
    let (victim, mut line) = victim().await;
    let cleared = "export P=$STRATAVORE_TEST_PART S=$STRATAVORE_TEST_SOCKET; setsid sh -c '( exec env -i EXE=\"$EXE\" STRATAVORE_TEST_PART=\"$P\" STRATAVORE_TEST_SOCKET=\"$S\" /bin/sh -c \"$PLAY\" ) & exit'; read x";
    let plain = format!("{PLAY}; read x");
    for script in [plain, format!("PLAY='{PLAY}'; export PLAY; {cleared}")] {
        let (said, asker) = answers(&script, "ask", &victim, false).await;
        for (wish, why) in [
            ("attach", "may not attach to runners"),
            ("send", "may not attach to runners"),
            ("output", "may not read what other runners print"),
            ("screen", "may not read what other runners print"),
            ("poke", "may not make agents dial anew"),
            ("answer", "may not answer what assistants ask"),
        ] {
            let refused = format!("<{wish}: a program inside {asker} {why}");
            assert!(said.contains(&refused), "{script}: no {refused:?} in {said}");
        }
        assert!(said.contains("<hook: only what runs inside of this runner may"), "{said}");
    }
    assert!(!victim.recorded_text().contains("typed"));
    // The control: the same wishes of somebody outside are granted.
    crate::viewer::send(&victim, b"typed", false, true).await.unwrap();
    victim.until_recorded("got typed").await;
    line.kill().await;
    line.exited().await;
}

#[tokio::test]
async fn a_program_may_read_its_own_runner_and_not_type_into_it() {
    let (victim, mut line) = victim().await;
    let (said, asker) = answers(&format!("{PLAY}; read x"), "ask", &victim, true).await;
    for wish in ["attach", "send", "poke", "answer"] {
        assert!(said.contains(&format!("<{wish}: a program inside {asker} may not")), "{said}");
    }
    for wish in ["output", "screen", "hook"] {
        assert!(said.contains(&format!("<{wish}: granted>")), "{said}");
    }
    line.kill().await;
    line.exited().await;
}

/// The kernel names the process that connected, which may be gone when the greeting comes.
#[tokio::test]
async fn a_connection_that_was_handed_on_belongs_to_its_maker() {
    let (victim, mut line) = victim().await;
    let (said, _) = answers(&format!("{PLAY}; read x"), "hand over", &victim, false).await;
    assert!(said.contains("<heir: a program inside ") || said.contains("<heir: whoever"), "{said}");
    assert!(said.contains("may not attach"), "{said}");
    line.kill().await;
    line.exited().await;
}
