//! A consumer in another language: Python, with packages from PyPI in an environment of its own.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::OnceLock;

use serde_json::{Value, json};

use super::Vhost;

const SCRIPT: &str = include_str!("consumer.py");
const VALIDATE: &str = include_str!("validate.py");
const PACKAGES: [&str; 3] = ["pika==1.3.2", "jsonschema==4.23.0", "aiosmtpd==1.4.6"];

/// A running consumer of a queue that is bound to the exchange of events. Dropping it ends it.
#[derive(Debug)]
pub struct Consumer {
    child: Child,
    _lifeline: Option<ChildStdin>,
    file: PathBuf,
}

/// One message, as it was received.
#[derive(Debug, Clone)]
pub struct Received {
    pub id: String,
    /// One with this id was received before.
    pub is_repeated: bool,
    /// All that was written down of it.
    pub line: Value,
}

impl Consumer {
    /// Declares `queue` with these bindings at `at`, which is the broker or stands before it, and
    /// takes what comes. Answers once it is ready; what it receives is kept in `directory`.
    ///
    /// # Panics
    /// If Python or its packages cannot be had.
    pub fn start(
        vhost: &Vhost,
        at: SocketAddr,
        queue: &str,
        keys: &[&str],
        directory: &Path,
    ) -> Self {
        let file = directory.join(format!("{queue}.received"));
        let mut child = Command::new(python())
            .args(["-c", SCRIPT])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the consumer can be started");
        let mut input = child.stdin.take().expect("it is a pipe");
        let settings = json!({
            "host": at.ip(), "port": at.port(), "vhost": vhost.name, "user": vhost.user,
            "password": vhost.password, "exchange": "stratavore.events", "queue": queue,
            "keys": keys, "file": file,
        });
        writeln!(input, "{settings}").expect("the consumer listens");
        let mut said = String::new();
        let output = child.stdout.take().expect("it is a pipe");
        BufReader::new(output).read_line(&mut said).expect("the consumer says something");
        assert_eq!(said, "ready\n", "the consumer is ready");
        Self { child, _lifeline: Some(input), file }
    }

    /// All that it has received so far, in order.
    pub fn received(&self) -> Vec<Received> {
        let text = fs::read_to_string(&self.file).unwrap_or_default();
        // The last line may be half written.
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        whole.lines().map(Received::read).collect()
    }

    /// How often an event has taken effect, by the consumer's own count. One that is repeated does not.
    pub fn effects(&self) -> u64 {
        let received = self.received();
        received.last().map_or(0, |last| last.line["effects"].as_u64().unwrap_or_default())
    }
}

impl Consumer {
    /// Holds every message that was received against the JSON Schema of its kind, `KIND.json` in
    /// `schemas`. Answers how many fit.
    ///
    /// # Errors
    /// What does not fit.
    pub fn validate(&self, schemas: &Path) -> Result<usize, String> {
        validate(&self.file, schemas)
    }
}

/// Publishes a message to an exchange, as any program may.
///
/// # Panics
/// If it is not taken.
pub fn publish(vhost: &Vhost, exchange: &str) {
    const SCRIPT: &str = "import pika, sys; \
        connection = pika.BlockingConnection(pika.URLParameters(sys.stdin.readline().strip())); \
        connection.channel().basic_publish(sys.stdin.readline().strip(), '', b'x'); connection.close()";
    let mut child = Command::new(python())
        .args(["-c", SCRIPT])
        .stdin(Stdio::piped())
        .spawn()
        .expect("Python can be started");
    let mut input = child.stdin.take().expect("it is a pipe");
    writeln!(input, "{}\n{exchange}", vhost.url()).expect("it reads");
    drop(input);
    assert!(child.wait().is_ok_and(|status| status.success()), "it is published");
}

/// The same of a file that a consumer has written, or a test.
///
/// # Errors
/// What does not fit.
pub fn validate(file: &Path, schemas: &Path) -> Result<usize, String> {
    let mut child = Command::new(python())
        .args(["-c", VALIDATE])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|error| error.to_string())?;
    let mut input = child.stdin.take().expect("it is a pipe");
    writeln!(input, "{}", json!({ "file": file, "schemas": schemas }))
        .map_err(|error| error.to_string())?;
    drop(input);
    let output = child.wait_with_output().map_err(|error| error.to_string())?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let held = said.strip_suffix(" held\n").and_then(|count| count.parse().ok());
    held.ok_or(said)
}

impl Drop for Consumer {
    fn drop(&mut self) {
        // It may have ended by itself.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

impl Received {
    fn read(line: &str) -> Self {
        let line: Value = serde_json::from_str(line).expect("the consumer writes JSON");
        Self {
            id: line["id"].as_str().unwrap_or_default().to_owned(),
            is_repeated: line["repeated"] == true,
            line,
        }
    }

    pub fn envelope(&self) -> &Value {
        &self.line["envelope"]
    }
}

/// Whether what was received is exactly what was committed, once the repeated ones are taken out:
/// each id, and nothing else, and of each entity in the order of its numbers without a gap.
///
/// # Errors
/// What is missing, too much, or out of order.
pub fn same(committed: &[String], received: &[Received]) -> Result<(), String> {
    let first: Vec<&Received> = received.iter().filter(|one| !one.is_repeated).collect();
    let got: HashSet<&str> = first.iter().map(|one| one.id.as_str()).collect();
    let wanted: HashSet<&str> = committed.iter().map(String::as_str).collect();
    let lost: Vec<_> = wanted.difference(&got).take(5).collect();
    if !lost.is_empty() {
        let (has, of) = (got.len(), wanted.len());
        return Err(format!("{has} of {of} were received; missing are {lost:?}"));
    }
    let strange: Vec<_> = got.difference(&wanted).take(5).collect();
    if !strange.is_empty() || first.len() != got.len() {
        return Err(format!("received, and never committed: {strange:?}"));
    }
    let mut last: HashMap<&str, i64> = HashMap::new();
    for one in first {
        let subject = one.envelope()["subject"].as_str().unwrap_or_default();
        let seq = one.envelope()["entityseq"].as_i64().unwrap_or_default();
        let before = last.insert(subject, seq).unwrap_or(0);
        if seq != before + 1 {
            return Err(format!("of {subject}, number {seq} came after {before}"));
        }
    }
    Ok(())
}

/// Python with what the scripts need, made once for all test runs of this user.
pub(crate) fn python() -> &'static Path {
    static MADE: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    match MADE.get_or_init(make) {
        Ok(python) => python,
        Err(reason) => panic!("no Python with {PACKAGES:?} to test with: {reason}"),
    }
}

fn make() -> Result<PathBuf, String> {
    let test = std::env::current_exe().map_err(|error| error.to_string())?;
    let target = test.ancestors().nth(2).ok_or("tests stand in target/PROFILE/deps")?;
    let home = target.join("consumer");
    let python = home.join("bin/python");
    fs::create_dir_all(target).map_err(|error| error.to_string())?;
    let lock = fs::File::create(target.join("consumer.lock")).map_err(|error| error.to_string())?;
    // Other test programs may want it at the same time.
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive)
        .map_err(|error| error.to_string())?;
    let has_all = || {
        let tried = Command::new(&python)
            .args(["-c", "import pika, jsonschema, aiosmtpd"])
            .stderr(Stdio::null())
            .status();
        tried.is_ok_and(|status| status.success())
    };
    if has_all() {
        return Ok(python);
    }
    let run = |command: &mut Command| match command.output() {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(format!("{command:?}: {}", String::from_utf8_lossy(&output.stderr))),
        Err(error) => Err(format!("{command:?}: {error}")),
    };
    run(Command::new("python3").args(["-m", "venv"]).arg(&home))?;
    run(Command::new(&python).args(["-m", "pip", "install", "--quiet"]).args(PACKAGES))?;
    Ok(python)
}
