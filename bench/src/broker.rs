//! Events on their way to RabbitMQ, beside the same client that publishes messages of its own.

use std::collections::HashMap;
use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, ensure};
use stratavore_bus::rabbit::{Lane, Link, Message, Outcome, Settings};
use stratavore_core::envelope::{cloud_event, further_key, routing_key, type_of};
use stratavore_core::event::EventFilter;
use stratavore_proto::client::Client;
use stratavore_proto::v1::CreateProject;
use stratavore_store::Store;
use stratavore_store::testing::TestStore;
use stratavore_testkit::rabbit::{Broker, Consumer, Vhost};
use tokio::task::JoinSet;

use crate::Lab;
use crate::given;
use crate::home::{Home, on_postgres};
use crate::report::{Row, Target};
use crate::sample::{Samples, in_turns};

/// The queue that gets every event.
const QUEUE: &str = "measured";
/// Messages of one drain.
const BACKLOG: usize = 6_000;
/// The part of a drain that is timed: from so much of the backlog to so much of it.
const FROM: f64 = 0.1;
const TO: f64 = 0.9;
/// What the daemon has unconfirmed at most, on so many channels.
const LANES: usize = 4;
const BATCH: usize = 64;
/// Events a second: what a target is for, and a tenth of it, where nobody waits for a core. They are made by
/// so many at once.
const RATE: usize = 1000;
const CALM: usize = 100;
const MAKERS: usize = 8;
const PATIENCE: Duration = Duration::from_secs(120);

/// A daemon on PostgreSQL that delivers to a broker.
struct Delivering<'l> {
    lab: &'l Lab,
    home: Home<'l>,
    client: Client,
    db: TestStore,
    vhost: Vhost,
    broker: Broker,
    settings: Settings,
    /// Asks how many messages there are: the broker's own figures are up to five seconds old.
    watch: Link,
    kept: tempfile::TempDir,
}

impl<'l> Delivering<'l> {
    fn start(lab: &'l Lab) -> anyhow::Result<Self> {
        let broker = Broker::try_start().map_err(anyhow::Error::msg)?;
        let vhost = broker.vhost();
        let kept = tempfile::tempdir()?;
        let password: PathBuf = kept.path().join("password");
        let mut file =
            OpenOptions::new().create_new(true).write(true).mode(0o600).open(&password)?;
        file.write_all(vhost.password.as_bytes())?;
        let db = lab.runtime.block_on(TestStore::postgres());
        let server = db.server().context("a PostgreSQL server")?;
        let bus = vhost.settings(broker.address(), &password);
        let yaml = format!("{}{bus}    queues: [{QUEUE}]\n", on_postgres(server));
        let home = Home::with_config(lab, &yaml)?;
        let client = home.client()?;
        let at = broker.address();
        let settings = Settings {
            host: at.ip().to_string(),
            port: at.port(),
            vhost: vhost.name.clone(),
            user: vhost.user.clone(),
            password: vhost.password.clone().into(),
            tls: None,
            exchange: "stratavore.events".into(),
            queues: vec![QUEUE.into()],
            message_max: 1 << 20,
            connect_timeout: Duration::from_secs(10),
            heartbeat: Duration::from_secs(60),
            name: "bench".into(),
        };
        until("the daemon has declared the queue", || Ok(vhost.depth(QUEUE).is_some()))?;
        let watch = lab.runtime.block_on(Link::connect(settings.clone()))?;
        Ok(Self { lab, home, client, db, vhost, broker, settings, watch, kept })
    }

    fn store(&self) -> &Store {
        self.db.store()
    }

    fn depth(&self) -> anyhow::Result<usize> {
        let queues = self.lab.runtime.block_on(self.watch.queues())?;
        let queue = queues.iter().find(|queue| queue.name == QUEUE).context("no queue")?;
        Ok(usize::try_from(queue.messages)?)
    }

    /// Empties the queue.
    fn purge(&self) -> anyhow::Result<()> {
        self.vhost.eval(&format!(
            "{{ok, Q}} = rabbit_amqqueue:lookup(rabbit_misc:r(VHOST, queue, <<\"{QUEUE}\">>)), \
             rabbit_amqqueue:purge(Q)."
        ));
        until("the queue is empty", || Ok(self.depth()? == 0))
    }

    async fn lanes(&self, count: usize) -> anyhow::Result<(Link, Vec<Lane>)> {
        let link = Link::connect(self.settings.clone()).await?;
        let mut lanes = Vec::new();
        for _ in 0..count {
            lanes.push(link.lane().await?);
        }
        Ok((link, lanes))
    }

    /// Messages a second of what `begin` sets free, over the middle of it.
    fn drained(&self, begin: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<f64> {
        let began = Instant::now();
        begin()?;
        let mut before = (0.0, 0.0);
        let mut reached = None;
        loop {
            let (depth, at) = (self.depth()? as f64, began.elapsed().as_secs_f64());
            let crossed = |part: f64| {
                let wanted = part * BACKLOG as f64;
                let share = (wanted - before.1) / (depth - before.1);
                (before.1 < wanted && wanted <= depth).then_some(before.0 + share * (at - before.0))
            };
            reached = reached.or(crossed(FROM));
            if let (Some(from), Some(to)) = (reached, crossed(TO)) {
                let rate = (TO - FROM) * BACKLOG as f64 / (to - from);
                until("all is there", || Ok(self.depth()? >= BACKLOG))?;
                return Ok(rate);
            }
            ensure!(began.elapsed() < PATIENCE, "{depth} of {BACKLOG} messages came");
            before = (at, depth);
        }
    }
}

fn until(what: &str, mut is_so: impl FnMut() -> anyhow::Result<bool>) -> anyhow::Result<()> {
    let began = Instant::now();
    while !is_so()? {
        ensure!(began.elapsed() < PATIENCE, "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// Publishes all of them, as many unconfirmed as the daemon has.
async fn publish(lanes: Vec<Lane>, messages: &[Message]) -> anyhow::Result<()> {
    let parts = messages.chunks(messages.len().div_ceil(lanes.len()));
    let mut tasks = JoinSet::new();
    for (mut lane, part) in lanes.into_iter().zip(parts) {
        let part = part.to_vec();
        tasks.spawn(async move {
            for batch in part.chunks(BATCH) {
                let outcomes = lane.send(batch).await;
                let taken = outcomes.iter().all(|outcome| *outcome == Outcome::Confirmed);
                ensure!(taken, "the broker did not take all: {outcomes:?}");
            }
            Ok(())
        });
    }
    while let Some(done) = tasks.join_next().await {
        done??;
    }
    Ok(())
}

/// How fast a backlog of events leaves for the broker.
pub(crate) fn drain(lab: &Lab) -> anyhow::Result<Vec<Row>> {
    let wait = &lab.runtime;
    let delivering = Delivering::start(lab)?;
    let store = delivering.store();
    let server = delivering.db.server().context("a PostgreSQL server")?;
    let node = wait.block_on(given::node(store))?;
    delivering.purge()?;
    // The same messages: those of a backlog, read back.
    let backlog = |round: usize| -> anyhow::Result<i64> {
        let before = wait.block_on(store.event_last_position())?;
        let project = wait.block_on(given::project(store, &format!("backlog-{round}")))?;
        for begin in (1..BACKLOG).step_by(500) {
            let new: anyhow::Result<Vec<_>> = (begin..BACKLOG.min(begin + 500))
                .map(|n| given::unborn(project, node, &format!("r{n}")))
                .collect();
            wait.block_on(store.runners_admit(new?, "bench", given::at(0), None))?;
        }
        until("all events have a position", || {
            Ok(server.query("SELECT count(*) FROM outbox").trim() == "0")
        })?;
        Ok(before)
    };
    delivering.broker.block();
    let before = backlog(0)?;
    let mut messages: Vec<Message> = Vec::with_capacity(BACKLOG);
    let mut after = before;
    while messages.len() < BACKLOG {
        let events = wait.block_on(store.event_list(after, &EventFilter::default(), 1000))?;
        after = events.last().and_then(|event| event.position).context("too few events")?;
        messages.extend(events.iter().map(|event| Message {
            id: event.id.to_string(),
            routing_key: routing_key(event),
            further_key: further_key(event),
            kind: type_of(&event.kind),
            at: event.at,
            body: cloud_event(event).to_string().into_bytes(),
        }));
    }
    messages.truncate(BACKLOG);
    let drop_all = || {
        until("all is there", || Ok(delivering.depth()? >= BACKLOG))?;
        delivering.purge()
    };
    delivering.broker.unblock();
    drop_all()?;

    let mut round = 0;
    let [ours, bare] = in_turns(
        lab.rounds.min(7),
        [
            &mut || {
                round += 1;
                delivering.broker.block();
                backlog(round)?;
                let rate = delivering.drained(|| {
                    delivering.broker.unblock();
                    Ok(())
                })?;
                delivering.purge()?;
                Ok(rate)
            },
            &mut || {
                let (link, lanes) = wait.block_on(delivering.lanes(LANES))?;
                let sent = messages.clone();
                let publishing = wait.spawn(async move { publish(lanes, &sent).await });
                let rate = delivering.drained(|| Ok(()))?;
                wait.block_on(publishing)??;
                wait.block_on(link.close());
                delivering.purge()?;
                Ok(rate)
            },
        ],
    )?;
    delivering.home.stop()?;
    let what = format!("a backlog of {BACKLOG} events to RabbitMQ");
    Ok(vec![
        Row::new(&what, "/s", &ours)
            .against("the same client publishing the same messages, no database", &bare)
            .target(Target::AtLeast(0.7)),
        Row::new(what, "/s", &ours),
    ])
}

#[expect(clippy::disallowed_methods, reason = "the consumer and PostgreSQL go by the host's clock")]
fn now_ms() -> anyhow::Result<f64> {
    Ok(SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs_f64() * 1000.0)
}

/// When each message came to the consumer, in milliseconds of the host's clock, by what `key` reads.
fn came(consumer: &Consumer, key: &str) -> HashMap<String, f64> {
    let read = |line: &serde_json::Value| {
        let at = line["received"].as_f64()? * 1000.0;
        let id = line.pointer(key)?.as_str()?.to_owned();
        Some((id, at))
    };
    consumer.received().iter().filter_map(|received| read(&received.line)).collect()
}

/// Does `one` `rate` times a second for a second, by a few at once.
async fn a_second<F>(
    rate: usize,
    one: impl Fn(usize) -> F + Clone + Send + 'static,
) -> anyhow::Result<()>
where
    F: Future<Output = anyhow::Result<()>> + Send,
{
    let mut tasks = JoinSet::new();
    let began = tokio::time::Instant::now();
    for maker in 0..MAKERS {
        let one = one.clone();
        tasks.spawn(async move {
            for number in (maker..rate).step_by(MAKERS) {
                let due = Duration::from_secs(1) * u32::try_from(number)? / u32::try_from(rate)?;
                tokio::time::sleep_until(began + due).await;
                one(number).await?;
            }
            anyhow::Ok(())
        });
    }
    while let Some(done) = tasks.join_next().await {
        done??;
    }
    Ok(())
}

/// From the commit of an event until a program in another language has it.
pub(crate) fn latency(lab: &Lab) -> anyhow::Result<Vec<Row>> {
    let delivering = Delivering::start(lab)?;
    let consumer = Consumer::start(
        &delivering.vhost,
        delivering.broker.address(),
        "heard",
        &["project.created.#", "bare.#"],
        delivering.kept.path(),
    );
    let busy = latency_at(RATE, &delivering, &consumer)?;
    let calm = latency_at(CALM, &delivering, &consumer)?;
    Ok(vec![
        busy.row().target(Target::AtMostPlus(1.0, 1.5)),
        busy.row().p99().target(Target::AtMostPlus(1.0, 8.0)),
        calm.row(),
        calm.row().p99(),
    ])
}

/// How long events took at this rate, and messages of a client's own.
struct Latency {
    rate: usize,
    by_event: Samples,
    by_message: Samples,
}

impl Latency {
    fn row(&self) -> Row {
        let Self { rate, by_event, by_message } = self;
        let what = format!("event at {rate} /s: commit on PostgreSQL to a consumer in Python");
        Row::new(what, "ms", by_event)
            .against("the same client publishes as many itself", by_message)
    }
}

fn latency_at(
    rate: usize,
    delivering: &Delivering<'_>,
    consumer: &Consumer,
) -> anyhow::Result<Latency> {
    let wait = &delivering.lab.runtime;
    let server = delivering.db.server().context("a PostgreSQL server")?;
    let directory = delivering.home.path().display().to_string();
    let (mut by_event, mut by_message) = (Samples::default(), Samples::default());
    for round in 0..=delivering.lab.rounds.min(7) {
        let counts = round > 0;
        let made = format!("made-{rate}-{round}-");
        let (client, directory) = (delivering.client.clone(), directory.clone());
        let name = made.clone();
        wait.block_on(a_second(rate, move |number| {
            let (client, directory) = (client.clone(), directory.clone());
            let name = format!("{name}{number}");
            async move {
                let request = CreateProject { name, directory, ..CreateProject::default() };
                client.projects().create(request).await?;
                Ok(())
            }
        }))?;
        let mut heard = HashMap::new();
        until("all events have come", || {
            heard = came(consumer, "/envelope/entityname");
            Ok(heard.keys().filter(|name| name.starts_with(&made)).count() >= rate)
        })?;
        let commits = server.query(&format!(
            "SELECT name, (extract(epoch FROM pg_xact_commit_timestamp(xmin)) * 1000)::text \
             FROM projects WHERE name LIKE '{made}%'"
        ));
        for line in commits.lines().filter(|_| counts) {
            let (name, at) = line.split_once('|').context("two columns")?;
            let came = heard.get(name).with_context(|| format!("`{name}` never came"))?;
            by_event.0.push(came - at.parse::<f64>()?);
        }

        let (link, lanes) = wait.block_on(delivering.lanes(MAKERS))?;
        let lanes: std::sync::Arc<[tokio::sync::Mutex<Lane>]> =
            lanes.into_iter().map(tokio::sync::Mutex::new).collect();
        let (told, sent) = std::sync::mpsc::channel();
        let body = bare_body(consumer)?;
        wait.block_on(a_second(rate, move |number| {
            let (lanes, told, body) = (lanes.clone(), told.clone(), body.clone());
            async move {
                let id = format!("bare-{rate}-{round}-{number}");
                let (routing_key, kind) = ("bare.message".into(), "bare".into());
                let at = given::at(0);
                let further_key = None;
                let message = Message { id: id.clone(), routing_key, further_key, kind, at, body };
                let mut lane = lanes[number % MAKERS].lock().await;
                told.send((id, now_ms()?))?;
                let outcomes = lane.send(&[message]).await;
                ensure!(outcomes == [Outcome::Confirmed], "not taken: {outcomes:?}");
                Ok(())
            }
        }))?;
        let sent: Vec<(String, f64)> = sent.iter().collect();
        let mut heard = HashMap::new();
        until("all messages have come", || {
            heard = came(consumer, "/id");
            Ok(sent.iter().all(|(id, _)| heard.contains_key(id)))
        })?;
        by_message.0.extend(sent.iter().filter(|_| counts).map(|(id, at)| heard[id] - at));
        wait.block_on(link.close());
    }
    Ok(Latency { rate, by_event, by_message })
}

/// The body of an event that came, so that both sides carry as much.
fn bare_body(consumer: &Consumer) -> anyhow::Result<Vec<u8>> {
    let received = consumer.received();
    let line = &received.first().context("nothing came")?.line;
    Ok(line["envelope"].to_string().into_bytes())
}
