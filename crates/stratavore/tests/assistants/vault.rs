//! The vault of a conversation that is being had: what comes out is what the assistant has written, byte
//! for byte.

use std::fs;
use std::path::{Path, PathBuf};

use stratavore_testkit::model::Reply;
use stratavore_testkit::programs::Program;

use crate::scene::Scene;

/// All files that an export has of transcripts.
fn given_out(directory: &Path) -> Vec<Vec<u8>> {
    // Without one there is no directory of them.
    let entries = fs::read_dir(directory.join("transcripts")).into_iter().flatten();
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files.iter().map(|file| fs::read(file).unwrap()).collect()
}

/// Exports it until that has all that is in the assistant's own file.
fn until_it_is_all_there(scene: &Scene, session: &str, file: &Path) -> Vec<u8> {
    let mut number = 0;
    scene.until("what is given out is the file", || {
        number += 1;
        let directory = scene.world.path(&format!("out-{number}"));
        let exported =
            scene.world.run(["sessions", "export", session, directory.to_str().unwrap()]);
        if exported.code() != 0 {
            return Err(exported.everything());
        }
        // It may be named before it is made.
        let Ok(written) = fs::read(file) else { return Err("it is not there yet".into()) };
        match given_out(&directory) {
            given if given == [written.clone()] => Ok(written),
            given => Err(format!(
                "{} is {} bytes, and given out are {:?}",
                file.display(),
                written.len(),
                given.iter().map(Vec::len).collect::<Vec<_>>()
            )),
        }
    })
}

fn comes_out_as_it_is_written(program: Program) {
    let scene = Scene::new(program);
    let first = [Reply::text("the word is walnut"), Reply::text("it is still walnut")];
    scene.model.on_prompt("which is the word", first);
    let runner = scene.launch("one", &["--prompt", "which is the word?"]);
    scene.until_activity(&runner, "idle");
    let session = scene.world.runner(&runner)["session_id"].as_str().unwrap().to_owned();
    let file = scene.until("its file is known", || {
        let shown = scene.world.json(&["sessions", "show", &session]);
        shown["transcript"].as_str().map(PathBuf::from).ok_or(shown)
    });
    let before = until_it_is_all_there(&scene, &session, &file);
    scene.send(&runner, "which is the word now?", &[]);
    scene.until_activity(&runner, "idle");
    scene.until_ledger_is_the_bill();
    let after = until_it_is_all_there(&scene, &session, &file);
    assert!(after.len() > before.len() && after.starts_with(&before), "it has grown meanwhile");
    let has = |bytes: &[u8], words: &str| bytes.windows(words.len()).any(|w| w == words.as_bytes());
    assert!(has(&after, "walnut") && has(&after, "which is the word now?"));

    // Its assistant may remove it: what was taken in stays.
    scene.kill_assistant(&runner);
    let after = until_it_is_all_there(&scene, &session, &file);
    fs::remove_file(&file).unwrap();
    let directory = scene.world.path("kept");
    scene.world.run(["sessions", "export", &session, directory.to_str().unwrap()]).ok();
    assert_eq!(given_out(&directory), std::slice::from_ref(&after));
    // The control: one byte is another one.
    let mut other = after;
    other[0] ^= 1;
    assert_ne!(given_out(&directory), [other]);
}

#[test]
fn claude_s_conversation_comes_out_as_it_is_written() {
    comes_out_as_it_is_written(Program::Claude);
}

#[test]
fn codex_s_conversation_comes_out_as_it_is_written() {
    comes_out_as_it_is_written(Program::Codex);
}

#[test]
fn gemini_s_conversation_comes_out_as_it_is_written() {
    comes_out_as_it_is_written(Program::Gemini);
}
