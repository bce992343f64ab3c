//! A daemon of a few lines: starts agents as a real one does, takes them in, and keeps what they say.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{Seek, Write};
use std::process::{Child, Command};

use futures_util::{SinkExt, StreamExt};
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::net::{RecvFlags, recv};
use stratavore_agent::kill::clear_runner;
use stratavore_core::RunnerId;
use stratavore_core::limits::Limits;
use stratavore_core::runner::{Cause, Command as Program, EnvValue, ProcessIdentity};
use stratavore_proto::frame::FrameCodec;
use stratavore_proto::runner_dir::{Handover, Recording, Resize, RunnerDir, Spec};
use stratavore_proto::unix;
use stratavore_proto::v1::agent_report::What;
use stratavore_proto::v1::{
    AgentHeartbeat, AgentHello, AgentReport, FromAgent, Go, Rejected, SetPaused, StopAssistant,
    ToAgent, Upgrade, Welcome, from_agent, to_agent,
};
use tempfile::TempDir;
use tokio::io::Interest;
use tokio::net::{UnixListener, UnixStream};
use tokio_util::codec::Framed;

use crate::wait::{BOUND, soon, until};

pub(crate) const AGENT: &str = env!("CARGO_BIN_EXE_stratavore-agent");
pub(crate) const TOKEN: [u8; 32] = [7; 32];

/// A runner's directory, the agent that looks after it, and the daemon's socket.
///
/// Dropping it ends everything, also in a test that fails.
pub(crate) struct World {
    pub(crate) spec: Spec,
    pub(crate) dir: RunnerDir,
    pub(crate) env: BTreeMap<String, String>,
    pub(crate) failpoints: Option<&'static str>,
    /// Where the agent's own words go instead of its log.
    pub(crate) words: Option<std::path::PathBuf>,
    /// What runs the agent's program, for faults from outside.
    pub(crate) wrapper: Vec<&'static str>,
    pub(crate) agent: Option<Child>,
    listener: Option<UnixListener>,
    home: TempDir,
}

impl Drop for World {
    fn drop(&mut self) {
        if let Some(agent) = &mut self.agent {
            let _killed = agent.kill();
            let _reaped = agent.wait();
        }
        let cgroups =
            self.dir.agent().ok().flatten().map(|record| record.cgroups).unwrap_or_default();
        let _cleared = clear_runner(self.spec.runner, &cgroups);
        if std::thread::panicking() {
            let log = std::fs::read_to_string(self.dir.log()).unwrap_or_default();
            eprintln!("agent.log:\n{log}");
        }
    }
}

impl World {
    /// A runner that will run `script` in a shell.
    pub(crate) fn shell(script: &str) -> Self {
        Self::new(&["/bin/sh", "-c", script])
    }

    pub(crate) fn new(argv: &[&str]) -> Self {
        let home = tempfile::tempdir().unwrap();
        let root = home.path().canonicalize().unwrap();
        let mut entropy = [0; 16];
        entropy.copy_from_slice(&std::fs::read("/proc/sys/kernel/random/uuid").unwrap()[..16]);
        let runner = RunnerId::from_entropy(entropy);
        let dir = RunnerDir::of(&root.join("runners"), runner);
        let work = root.join("work");
        std::fs::create_dir(&work).unwrap();
        let spec = Spec {
            runner,
            epoch: 1,
            project: "project".into(),
            name: "name".into(),
            command: Program {
                assistant: "generic".parse().unwrap(),
                argv: argv.iter().map(|arg| (*arg).to_owned()).collect(),
                given: 0,
                prompt: None,
                bare: false,
                headless: None,
                after_limit: Default::default(),
                labels: Vec::new(),
                env: BTreeMap::new(),
                directory: work.to_str().unwrap().into(),
                columns: 80,
                rows: 24,
            },
            limits: Limits::default(),
            agents_socket: root.join("agents.sock"),
            agents_sockets: Vec::new(),
            join_token_sha256: String::new(),
            launch_timeout_ms: 60_000,
            heartbeat_ms: 200,
            recording: Recording::BestEffort,
            resize: Resize::Smallest,
            segment_bytes: 1 << 20,
            output_max_bytes: 64 << 20,
            observe: None,
        };
        let listener = unix::listen(&spec.agents_socket).unwrap();
        let env = BTreeMap::from([("PATH".to_owned(), std::env::var("PATH").unwrap())]);
        let listener = Some(listener);
        let (failpoints, words, wrapper) = (None, None, Vec::new());
        Self { spec, dir, env, failpoints, words, wrapper, agent: None, listener, home }
    }

    /// The same among the runners of another one.
    pub(crate) fn beside(mut self, other: &Self) -> Self {
        self.dir = RunnerDir::of(other.dir.path().parent().unwrap(), self.spec.runner);
        self
    }

    pub(crate) fn env(mut self, key: &str, value: EnvValue) -> Self {
        self.spec.command.env.insert(key.into(), value);
        self
    }

    pub(crate) fn with(mut self, change: impl FnOnce(&mut Spec)) -> Self {
        change(&mut self.spec);
        self
    }

    /// A path in a directory of this world's own.
    pub(crate) fn path(&self, name: &str) -> std::path::PathBuf {
        self.home.path().canonicalize().unwrap().join(name)
    }

    /// Waits until the agent has noted `text`.
    pub(crate) async fn until_noted(&self, text: &str) {
        until(&format!("{text:?} in agent.log"), || {
            let log = std::fs::read_to_string(self.dir.log()).unwrap_or_default();
            if log.contains(text) { Ok(()) } else { Err(log) }
        })
        .await;
    }

    /// Starts the agent, as a daemon does. It waits for a line to be taken.
    pub(crate) fn start(&mut self) {
        self.dir.create().unwrap();
        self.dir.write_spec(&self.spec).unwrap();
        self.agent = Some(self.spawn());
    }

    pub(crate) fn spawn(&self) -> Child {
        let join_token = TOKEN.iter().map(|byte| format!("{byte:02x}")).collect();
        let handover = Handover { join_token, env: self.env.clone() };
        let mut memory = File::from(memfd_create("handover", MemfdFlags::CLOEXEC).unwrap());
        serde_json::to_writer(&mut memory, &handover).unwrap();
        memory.flush().unwrap();
        memory.rewind().unwrap();
        let words = self.words.clone().unwrap_or_else(|| self.dir.log());
        let log = OpenOptions::new().create(true).append(true).open(words).unwrap();
        let mut program = self.wrapper.iter().chain(&[AGENT]);
        let mut command = Command::new(program.next().unwrap());
        command
            .args(program)
            .arg("run")
            .arg("--dir")
            .arg(self.dir.path())
            .arg("--epoch")
            .arg(self.spec.epoch.to_string());
        command.env_clear().stdin(memory).stdout(log.try_clone().unwrap()).stderr(log);
        if let Some(points) = self.failpoints {
            command.env("STRATAVORE_FAILPOINTS", points);
        }
        command.spawn().unwrap()
    }

    /// Starts the agent, takes it in, says go, and waits until the program runs.
    pub(crate) async fn launch(&mut self) -> Line {
        self.start();
        let mut line = self.take_in().await;
        line.go().await;
        line.started().await;
        line
    }

    /// Waits for the agent to dial, and takes its line without a word.
    pub(crate) async fn accept(&self) -> Line {
        self.accept_at(self.listener.as_ref().expect("this daemon is not down")).await
    }

    /// Passes by who only looks which process listens, and says nothing.
    async fn accept_at(&self, listener: &UnixListener) -> Line {
        let speaking = async {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let look = || Ok(recv(&stream, &mut [0; 1], RecvFlags::PEEK)?.0);
                if stream.async_io(Interest::READABLE, look).await.unwrap() > 0 {
                    return stream;
                }
            }
        };
        let stream = soon("the agent's line", speaking).await;
        Line {
            frames: Framed::new(stream, FrameCodec::default()),
            reports: Vec::new(),
            acks: true,
            heartbeats: Vec::new(),
            failed_upgrades: Vec::new(),
            signals: 0,
        }
    }

    pub(crate) async fn take_in(&self) -> Line {
        self.take_in_knowing(0).await.0
    }

    /// Takes the agent in as a daemon that has its reports up to `acked`.
    pub(crate) async fn take_in_knowing(&self, acked: u64) -> (Line, AgentHello) {
        self.greeted(self.accept().await, acked).await
    }

    /// The same of another daemon, which listens there.
    pub(crate) async fn take_in_at(
        &self,
        listener: &UnixListener,
        acked: u64,
    ) -> (Line, AgentHello) {
        self.greeted(self.accept_at(listener).await, acked).await
    }

    async fn greeted(&self, mut line: Line, acked: u64) -> (Line, AgentHello) {
        let hello = line.hello().await;
        let heartbeat_ms = u32::try_from(self.spec.heartbeat_ms).unwrap();
        line.say(to_agent::Kind::Welcome(Welcome { version: 1, acked, heartbeat_ms })).await;
        (line, hello)
    }

    /// Nobody listens any more, until [`Self::daemon_up`].
    pub(crate) fn daemon_down(&mut self) {
        self.listener = None;
        std::fs::remove_file(&self.spec.agents_socket).unwrap();
    }

    pub(crate) fn daemon_up(&mut self) {
        self.listener = Some(unix::listen(&self.spec.agents_socket).unwrap());
    }

    pub(crate) fn agent_pid(&self) -> u32 {
        self.agent.as_ref().unwrap().id()
    }

    /// Waits until the agent's process has ended.
    pub(crate) async fn agent_gone(&mut self) -> std::process::ExitStatus {
        let agent = self.agent.as_mut().unwrap();
        until("the agent to end", || agent.try_wait().unwrap().ok_or("it runs")).await
    }

    pub(crate) fn exit(&self) -> Option<Cause> {
        self.dir.exit().unwrap().map(|record| record.exit.cause)
    }

    /// All output recorded so far.
    pub(crate) fn recorded(&self) -> Vec<u8> {
        let mut reader = stratavore_agent::output::OutputReader::new(self.dir.output());
        let mut all = Vec::new();
        while let stratavore_agent::output::Chunk::Data { data, .. } =
            reader.read(all.len() as u64, 1 << 20).unwrap()
        {
            all.extend(data);
        }
        all
    }

    pub(crate) fn recorded_text(&self) -> String {
        String::from_utf8_lossy(&self.recorded()).into_owned()
    }

    /// Waits until the output has `text`.
    pub(crate) async fn until_recorded(&self, text: &str) {
        until(&format!("{text:?} in the output"), || {
            let all = self.recorded_text();
            if all.contains(text) { Ok(()) } else { Err(all) }
        })
        .await;
    }

    /// Waits for the pid that a script has written to `name` in the working directory.
    pub(crate) async fn pid_in(&self, name: &str) -> u32 {
        let path = std::path::Path::new(&self.spec.command.directory).join(name);
        until(&format!("a pid in {name}"), || {
            let text = std::fs::read_to_string(&path).unwrap_or_default();
            if text.ends_with('\n') { text.trim().parse().map_err(|_| text) } else { Err(text) }
        })
        .await
    }
}

/// The daemon's end of an agent's line.
pub(crate) struct Line {
    frames: Framed<UnixStream, FrameCodec<FromAgent, ToAgent>>,
    /// All reports that came, in order.
    pub(crate) reports: Vec<AgentReport>,
    pub(crate) heartbeats: Vec<AgentHeartbeat>,
    /// Why each upgrade that failed did so.
    pub(crate) failed_upgrades: Vec<String>,
    /// How far the log of signals goes, as it was told last.
    pub(crate) signals: u64,
    /// Whether reports are acknowledged as they come.
    pub(crate) acks: bool,
}

impl Line {
    pub(crate) async fn say(&mut self, kind: to_agent::Kind) {
        self.frames.send(ToAgent { kind: Some(kind) }).await.unwrap();
    }

    pub(crate) async fn hello(&mut self) -> AgentHello {
        match self.frame().await {
            Some(from_agent::Kind::Hello(hello)) => hello,
            other => panic!("no greeting but {other:?}"),
        }
    }

    /// The next frame, `None` once the line is closed.
    pub(crate) async fn frame(&mut self) -> Option<from_agent::Kind> {
        let frame = soon("a frame of the agent", self.frames.next()).await?;
        frame.ok()?.kind
    }

    pub(crate) async fn go(&mut self) {
        self.say(to_agent::Kind::Go(Go {})).await;
    }

    pub(crate) async fn stop(&mut self, grace_ms: u64) {
        self.say(to_agent::Kind::Stop(StopAssistant { grace_ms, ..StopAssistant::default() }))
            .await;
    }

    pub(crate) async fn kill(&mut self) {
        self.say(to_agent::Kind::Stop(StopAssistant { force: true, ..StopAssistant::default() }))
            .await;
    }

    pub(crate) async fn pause(&mut self, paused: bool) {
        self.say(to_agent::Kind::SetPaused(SetPaused { paused })).await;
    }

    pub(crate) async fn upgrade(&mut self, program: &str) {
        self.say(to_agent::Kind::Upgrade(Upgrade { program: program.into() })).await;
    }

    pub(crate) async fn reject(&mut self, r#final: bool) {
        self.say(to_agent::Kind::Rejected(Rejected { why: "the epoch is over".into(), r#final }))
            .await;
    }

    /// Waits for the next report.
    pub(crate) async fn report(&mut self) -> What {
        loop {
            match self.frame().await {
                Some(from_agent::Kind::Report(report)) => {
                    let what = report.what.clone().expect("a report says something");
                    if self.acks {
                        // The agent may have left after its last report.
                        let ack = ToAgent { kind: Some(to_agent::Kind::Ack(report.seq)) };
                        let _sent = self.frames.send(ack).await;
                    }
                    self.reports.push(report);
                    return what;
                }
                Some(from_agent::Kind::Heartbeat(heartbeat)) => self.heartbeats.push(heartbeat),
                Some(from_agent::Kind::UpgradeFailed(why)) => self.failed_upgrades.push(why),
                Some(from_agent::Kind::Signals(end)) => self.signals = end,
                Some(from_agent::Kind::Visits(_)) => {}
                other => panic!("no report but {other:?}, after {:?}", self.reports),
            }
        }
    }

    pub(crate) async fn heartbeat(&mut self) -> AgentHeartbeat {
        loop {
            match self.frame().await {
                Some(from_agent::Kind::Heartbeat(heartbeat)) => return heartbeat,
                Some(from_agent::Kind::Report(report)) => self.reports.push(report),
                Some(from_agent::Kind::UpgradeFailed(why)) => self.failed_upgrades.push(why),
                Some(from_agent::Kind::Signals(end)) => self.signals = end,
                Some(from_agent::Kind::Visits(_)) => {}
                other => panic!("no heartbeat but {other:?}"),
            }
        }
    }

    pub(crate) async fn started(&mut self) -> ProcessIdentity {
        match self.report().await {
            What::Started(process) => process.into(),
            other @ (What::Exited(_) | What::LimitsNotEnforced(_) | What::Gap(_)) => {
                panic!("not started but {other:?}")
            }
        }
    }

    /// Waits for a heartbeat that is as wanted.
    pub(crate) async fn heartbeat_with(
        &mut self,
        what: &str,
        wanted: impl Fn(&AgentHeartbeat) -> bool,
    ) {
        let deadline = tokio::time::Instant::now() + BOUND;
        loop {
            let beat = self.heartbeat().await;
            if wanted(&beat) {
                return;
            }
            assert!(
                tokio::time::Instant::now() < deadline,
                "waited in vain for {what}; last seen: {beat:?}"
            );
        }
    }

    /// Reads what comes until the line is closed.
    pub(crate) async fn read_on(&mut self) {
        while let Some(Ok(_)) = self.frames.next().await {}
    }

    /// Waits until it is told how far the log of signals goes.
    pub(crate) async fn signals(&mut self) -> u64 {
        while self.signals == 0 {
            self.heartbeat().await;
        }
        self.signals
    }

    /// Waits until the program has ended; other reports may come before.
    pub(crate) async fn exited(&mut self) -> Cause {
        loop {
            if let What::Exited(exit) = self.report().await {
                return serde_json::from_str(&exit.cause).unwrap();
            }
        }
    }
}
