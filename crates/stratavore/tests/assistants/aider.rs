//! An assistant that takes no prompt at its start and tells no messages: what it was launched to do is
//! typed once, and a restart goes on with its conversation. aider itself is no program of the npm registry;
//! this one keeps its log as that does.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use stratavore_testkit::world::{Ran, World, until};

/// What it is called with and what it is asked are files beside it.
const AIDER: &str = r#"#!/bin/sh
here=$(dirname "$0")
echo "$*" >> "$here/called"
while [ $# -gt 0 ]; do
  case "$1" in
    --analytics-log) log=$2; shift ;;
    --notifications-command) rings=$2; shift ;;
  esac
  shift
done
told() {
  echo "{\"event\":\"$1\",\"properties\":{$2},\"user_id\":\"u\",\"time\":$(date +%s)}" >> "$log"
}
told launched ""
told "cli session" '"main_model":"m"'
while read -r line; do
  [ "$line" = /exit ] && exit 0
  echo "$line" >> "$here/asked"
  told message_send_starting ""
  told message_send '"main_model":"m","prompt_tokens":10,"completion_tokens":2,"total_tokens":12'
  sh -c "$rings"
done
"#;

struct Aider {
    world: World,
}

impl Aider {
    fn new() -> Self {
        let mut world = World::named("aider");
        let program = world.path("aider");
        fs::write(&program, AIDER).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        let config = world.path("stratavore.yaml");
        let before = fs::read_to_string(&config).unwrap_or_default();
        let own = format!("assistants:\n  aider:\n    program: {}\n", program.display());
        fs::write(&config, before + &own).unwrap();
        fs::set_permissions(&config, fs::Permissions::from_mode(0o600)).unwrap();
        world.set_env("SHELL", "/bin/sh");
        world.project("demo");
        Self { world }
    }

    fn launch(&self, prompt: &str) -> Ran {
        let launch = ["launch", "--project", "demo", "--assistant", "aider", "--name", "one"];
        self.world.run([&launch[..], &["--prompt", prompt]].concat())
    }

    fn lines(&self, file: &str) -> Vec<String> {
        let text = fs::read_to_string(self.world.path(file)).unwrap_or_default();
        text.lines().map(Into::into).collect()
    }

    fn until_asked(&self, wanted: &[&str]) {
        until(&format!("it was asked {wanted:?}"), || {
            let shown = self.world.runner("one");
            match self.lines("asked") {
                asked if asked == wanted && shown["activity"] == "idle" => Ok(()),
                asked => Err((asked, shown)),
            }
        });
    }
}

#[test]
fn what_it_was_launched_to_do_is_typed_once_and_a_restart_goes_on() {
    let aider = Aider::new();
    aider.launch("write a poem").ok();
    aider.until_asked(&["write a poem"]);
    let session = aider.world.runner("one")["session_id"].clone();

    aider.world.run(["restart", "one"]).ok();
    until("it was started again and is idle", || {
        let shown = aider.world.runner("one");
        let is_idle = shown["epoch"] == 2 && shown["activity"] == "idle";
        if is_idle { Ok(()) } else { Err(shown) }
    });
    let called = aider.lines("called");
    let restores: Vec<bool> =
        called.iter().map(|words| words.contains("--restore-chat-history")).collect();
    assert_eq!(restores, [false, true], "{called:?}");
    assert_eq!(aider.world.runner("one")["session_id"], session);
    aider.world.run(["send", "one", "and another"]).ok();
    aider.until_asked(&["write a poem", "and another"]);
}

/// A daemon dies after it has said that it will type, and before it types.
#[test]
fn what_it_was_launched_to_do_survives_its_daemon() {
    let aider = Aider::new();
    let mut command = aider.world.command("stratavore");
    command.args(["daemon", "restart"]).env("STRATAVORE_FAILPOINTS", "prompt_written=abort");
    Ran::of(command).ok();
    // It may die before that is answered.
    let _asked = aider.launch("write a poem");
    until("its daemon is gone", || match aider.world.daemon_pid() {
        None => Ok(()),
        Some(pid) => Err(pid),
    });
    assert_eq!(aider.lines("asked"), [] as [&str; 0]);
    aider.world.run(["daemon", "start"]).ok();
    aider.until_asked(&["write a poem"]);
}
