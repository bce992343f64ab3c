//! The command line as a person or a script meets it: the real binary, started anew each time.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod backup;
mod bad_days;
mod budget;
mod compose;
mod config;
mod crash;
mod events;
mod help;
mod input;
mod journey;
mod ledger;
mod many;
mod nobody_home;
mod nodes;
mod notify;
mod placement;
mod projects;
mod queue;
mod recover;
mod renewal;
mod restart;
mod retention;
mod run;
mod runbooks;
mod screen;
mod upgrade;
mod usage;
mod vault;
#[cfg(feature = "s3-tests")]
mod vault_s3;
mod versions;
mod viewers;

use std::path::Path;
use std::process::{Command, Output};

/// A home of its own, where no daemon runs.
struct Home {
    directory: tempfile::TempDir,
}

impl Home {
    fn new() -> Self {
        Self { directory: tempfile::tempdir().expect("a temporary directory") }
    }

    fn path(&self) -> &Path {
        self.directory.path()
    }

    /// The program with these arguments, in this home and with nothing else of the environment.
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_stratavore"));
        command
            .args(arguments)
            .env_clear()
            .env("STRATAVORE_HOME", self.path())
            .env("HOME", self.path())
            .env("PATH", "/usr/bin:/bin")
            .env("LANG", "C.UTF-8")
            .env("TERM", "xterm-256color")
            .current_dir(self.path());
        command
    }

    fn run(&self, arguments: &[&str]) -> Ran {
        let output = self.command(arguments).output().expect("the program starts");
        Ran::new(arguments, &output)
    }
}

/// What came of a command.
#[derive(Debug)]
struct Ran {
    arguments: String,
    code: i32,
    out: String,
    err: String,
}

impl Ran {
    fn new(arguments: &[&str], output: &Output) -> Self {
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("it speaks UTF-8");
        Self {
            arguments: arguments.join(" "),
            code: output.status.code().expect("it was not killed"),
            out: text(&output.stdout),
            err: text(&output.stderr),
        }
    }

    #[track_caller]
    fn ok(self) -> String {
        assert_eq!(self.code, 0, "stratavore {}: {self:#?}", self.arguments);
        self.out
    }

    /// Ended with `code`, said why on standard error, and printed nothing.
    #[track_caller]
    fn failed(self, code: i32) -> String {
        assert_eq!(self.code, code, "{self:#?}");
        assert_eq!(self.out, "", "{self:#?}");
        assert!(!self.err.is_empty(), "{self:#?}");
        self.err
    }
}
