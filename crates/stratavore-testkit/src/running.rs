//! A `stratavore run --json` while it runs, and whether what it says it used is what was billed.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, ChildStdout, Stdio};

use serde_json::Value;

use crate::model::Bill;
use crate::world::World;

/// A run in the project `demo`, read line by line.
pub struct Running {
    child: Child,
    lines: BufReader<ChildStdout>,
}

impl Running {
    /// # Panics
    /// If the program cannot be started.
    pub fn start(world: &World, words: &[&str]) -> Self {
        let mut command = world.command("stratavore");
        command.args(["run", "demo", "--json"]).args(words);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("the program runs");
        let lines = BufReader::new(child.stdout.take().expect("its output is a pipe"));
        Self { child, lines }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Reads until there is one of this kind.
    ///
    /// # Panics
    /// If there is none, with what there was.
    #[track_caller]
    pub fn until(&mut self, kind: &str) -> Value {
        let mut seen = Vec::new();
        for line in self.by_ref() {
            if line["kind"] == kind {
                return line;
            }
            seen.push(line);
        }
        panic!("no {kind} among {seen:?}: {}", self.end().1);
    }

    /// The exit code, and what it said on the side.
    ///
    /// # Panics
    /// If it cannot be waited for.
    pub fn end(&mut self) -> (i32, String) {
        let mut said = String::new();
        let errors = self.child.stderr.as_mut().expect("it is a pipe");
        errors.read_to_string(&mut said).expect("it is text");
        (self.child.wait().expect("it ends").code().unwrap_or(-1), said)
    }
}

/// The lines that are to come.
impl Iterator for Running {
    type Item = Value;

    fn next(&mut self) -> Option<Value> {
        let mut line = String::new();
        let read = self.lines.read_line(&mut line).expect("its output can be read");
        (read > 0).then(|| serde_json::from_str(&line).unwrap_or_else(|_| panic!("{line}")))
    }
}

/// Input, output, cache read, cache write, reasoning: of what was answered to its end.
pub fn billed(bill: &Bill) -> [u64; 5] {
    let usage = bill.complete().usage();
    [usage.input, usage.output, usage.cache_read, usage.cache_write(), usage.reasoning]
}

/// The same of a run's result.
///
/// # Panics
/// If it does not say.
#[track_caller]
pub fn used(result: &Value) -> [u64; 5] {
    let usage = &result["usage"];
    let number = |name: &str| usage[name].as_u64().unwrap_or_else(|| panic!("{name} of {usage}"));
    let write = number("cache_write") + number("cache_write_1h");
    [number("input"), number("output"), number("cache_read"), write, number("reasoning")]
}
