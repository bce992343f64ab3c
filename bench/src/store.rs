//! What the store does, beside the same rows written and read without it.

use std::path::Path;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, ensure};
use stratavore_store::testing::TestStore;
use stratavore_store::testing::bare::Bare;
use stratavore_store::{RunnerFilter, Store};

use crate::home::succeed;
use crate::report::{Row, Target};
use crate::sample::{Samples, in_turns, ms_since};
use crate::{Lab, given};

/// How many runners there are.
const RUNNERS: usize = 10_000;
/// Heartbeats in one batch.
const BATCH: usize = 1000;
/// Clients that launch at the same time, each in projects of its own.
const CLIENTS: usize = 16;
/// Launches of each in one measurement: enough that what is done once for a connection does not count.
const LAUNCHES: usize = 300;
/// Launches in one project, as many as its quota is unless it says otherwise: each reads who lives.
const TO_A_PROJECT: usize = 20;

fn both(lab: &Lab) -> [(&'static str, TestStore); 2] {
    let open = async { (TestStore::postgres().await, TestStore::sqlite().await) };
    let (postgres, sqlite) = lab.runtime.block_on(open);
    [("PostgreSQL", postgres), ("SQLite", sqlite)]
}

/// Heartbeats, and the list of the runners that they are of.
pub(crate) fn runners(lab: &Lab) -> anyhow::Result<Vec<Row>> {
    let mut rows = Vec::new();
    for (engine, db) in both(lab) {
        let wait = &lab.runtime;
        let store = db.store();
        let runners = wait.block_on(given::runners(store, RUNNERS))?;
        let mut bare = wait.block_on(Bare::open(db.settings()))?;
        let mut bare_list = wait.block_on(Bare::open(db.settings()))?;
        // So that every later one is an update.
        wait.block_on(store.liveness_record(&given::heartbeats(&runners, 0)))?;

        let mut round = 0;
        let mut other = 0;
        let [ours, limit] = in_turns(
            lab.rounds,
            [
                &mut || {
                    round += 1;
                    let all = given::heartbeats(&runners, round);
                    let began = Instant::now();
                    for batch in all.chunks(BATCH) {
                        wait.block_on(store.liveness_record(batch))?;
                    }
                    Ok(RUNNERS as f64 / began.elapsed().as_secs_f64())
                },
                &mut || {
                    other += 1;
                    let all = given::heartbeats(&runners, other);
                    let began = Instant::now();
                    for batch in all.chunks(BATCH) {
                        let written = wait.block_on(bare.heartbeats(batch))?;
                        ensure!(written == batch.len() as u64, "{written} heartbeats were taken");
                    }
                    Ok(RUNNERS as f64 / began.elapsed().as_secs_f64())
                },
            ],
        )?;
        let what = format!("heartbeats taken, {engine}, {BATCH} a batch");
        rows.push(
            Row::new(&what, "/s", &ours)
                .against("bare batched UPDATE", &limit)
                .target(Target::AtLeast(0.5)),
        );
        rows.push(Row::new(what, "/s", &ours).target(Target::Above(100_000.0)));

        let list = |limit: Option<u32>| {
            let filter = RunnerFilter { limit, ..RunnerFilter::default() };
            let began = Instant::now();
            let listed = wait.block_on(store.runner_list(&filter))?;
            let took = ms_since(began);
            ensure!(listed.len() == limit.map_or(RUNNERS, |n| n as usize), "a short list");
            Ok(took)
        };
        let mut page = Samples::default();
        let mut bare_reads = wait.block_on(Bare::open(db.settings()))?;
        let [whole, limit, looked_through] = in_turns(
            lab.rounds,
            [
                &mut || {
                    page.0.push(list(Some(100))?);
                    list(None)
                },
                &mut || {
                    let began = Instant::now();
                    ensure!(wait.block_on(bare_list.list(RUNNERS as i64))? > 0, "an empty list");
                    Ok(ms_since(began))
                },
                &mut || {
                    let began = Instant::now();
                    let bytes = wait.block_on(bare_reads.list_looked_through(RUNNERS as i64))?;
                    ensure!(bytes > 0, "an empty list");
                    Ok(ms_since(began))
                },
            ],
        )?;
        rows.push(
            Row::new(
                format!("list of {RUNNERS} runners, {engine}, first page of 100"),
                "ms",
                &page,
            )
            .target(Target::Below(2.0)),
        );
        rows.push(
            Row::new(format!("list of {RUNNERS} runners, {engine}, whole"), "ms", &whole)
                .against("bare query", &limit)
                .target(Target::AtMost(1.3)),
        );
        rows.push(
            Row::new(format!("list of {RUNNERS} runners, {engine}, whole"), "ms", &whole)
                .against("bare query, its JSON looked through and nothing kept", &looked_through),
        );
        wait.block_on(bare.close())?;
        wait.block_on(bare_list.close())?;
        wait.block_on(bare_reads.close())?;
    }
    Ok(rows)
}

/// One launch as a transaction without us, by a client that knows its statements beforehand.
const BARE_LAUNCH: &str = "\
\\set project random(1, :projects)
BEGIN;
SELECT record FROM projects WHERE id = 'prj_bare_' || :round || '_' || :client_id || '_' || :project FOR UPDATE;
SELECT count(*) FROM runners WHERE project_id = 'prj_bare_' || :round || '_' || :client_id || '_' || :project AND ended_at IS NULL;
INSERT INTO runners (id, project_id, name, node_id, limits, state, epoch, generation, created_at, updated_at, record)
 VALUES ('run_' || gen_random_uuid(), 'prj_bare_' || :round || '_' || :client_id || '_' || :project, gen_random_uuid()::text, 'node_bare',
  '{}', 'pending', 1, 1, now(), now(), repeat('x', 700));
INSERT INTO events (id, entity, entity_id, name, seq, kind, at, caused_by, data)
 VALUES ('evt_' || gen_random_uuid(), 'runner', gen_random_uuid()::text, 'bare', 1, 'runner.accepted', now(), 'bench', repeat('x', 100));
COMMIT;
";

/// The same with all the rows that ours writes, in one statement.
const BARE_LAUNCH_ALL_ROWS: &str = "\
\\set project random(1, :projects)
BEGIN;
SELECT record FROM projects WHERE id = 'prj_bare_' || :round || '_' || :client_id || '_' || :project FOR UPDATE;
SELECT count(*) FROM runners WHERE project_id = 'prj_bare_' || :round || '_' || :client_id || '_' || :project AND ended_at IS NULL;
WITH new AS MATERIALIZED (
 SELECT 'ses_' || gen_random_uuid() AS session, 'run_' || gen_random_uuid() AS runner, 'evt_' || gen_random_uuid() AS event,
  'prj_bare_' || :round || '_' || :client_id || '_' || :project AS project
), session AS (
 INSERT INTO sessions (id, project_id, assistant, created_at, updated_at) SELECT session, project, 'generic', now(), now() FROM new
), runner AS (
 INSERT INTO runners (id, project_id, name, node_id, limits, state, epoch, generation, session_id, created_at, updated_at, record)
 SELECT runner, project, runner, 'node_bare', '{}', 'pending', 1, 1, session, now(), now(), repeat('x', 700) FROM new
), event AS (
 INSERT INTO events (id, entity, entity_id, name, project_id, seq, kind, at, caused_by, data)
 SELECT event, 'runner', runner, 'bare', project, 1, 'runner.accepted', now(), 'bench', repeat('x', 100) FROM new RETURNING id, at
) INSERT INTO outbox (destination, event_id, created_at) SELECT 'bus', id, at FROM event;
COMMIT;
";

/// Admissions on PostgreSQL beside `pgbench`.
pub(crate) fn launches(lab: &Lab) -> anyhow::Result<Vec<Row>> {
    let wait = &lab.runtime;
    let db = wait.block_on(TestStore::postgres());
    let server = db.server().context("a PostgreSQL server")?;
    server.query("INSERT INTO nodes VALUES ('node_bare', 'bare', 'boot', now())");
    let (script, all_rows) = (tempfile::NamedTempFile::new()?, tempfile::NamedTempFile::new()?);
    std::fs::write(script.path(), BARE_LAUNCH)?;
    std::fs::write(all_rows.path(), BARE_LAUNCH_ALL_ROWS)?;
    let bin = stratavore_testkit::postgres::newest_bin().context("a PostgreSQL server")?;
    let node = wait.block_on(given::node(db.store()))?;

    let (round, other) = (std::cell::Cell::new(0), std::cell::Cell::new(0));
    let one_store = [db.store().clone()];
    let three_stores =
        [db.store().clone(), wait.block_on(db.another()), wait.block_on(db.another())];
    let ours = |stores: &[Store], clients: usize| -> anyhow::Result<f64> {
        round.set(round.get() + 1);
        wait.block_on(admissions(stores, node, clients, round.get()))
    };
    let bare = |script: &Path, clients: usize| -> anyhow::Result<f64> {
        other.set(other.get() + 1);
        let number = other.get();
        let projects = LAUNCHES / TO_A_PROJECT;
        server.query(&format!(
            "INSERT INTO projects (id, name, generation, created_at, updated_at, record) \
             SELECT 'prj_bare_{number}_' || n || '_' || p, 'bare-{number}-' || n || '-' || p, 1, now(), now(), repeat('x', 300) \
             FROM generate_series(0, {}) n, generate_series(1, {projects}) p",
            clients - 1
        ));
        let mut pgbench = Command::new(bin.join("pgbench"));
        pgbench.args(["--no-vacuum", "--protocol=prepared", "--client", &clients.to_string()]);
        pgbench.args([
            "--transactions",
            &LAUNCHES.to_string(),
            "--define",
            &format!("round={number}"),
            "--define",
            &format!("projects={projects}"),
        ]);
        pgbench.arg("--file").arg(script).arg("--host").arg(&server.socket_dir);
        pgbench.args(["--port", &server.port.to_string(), "--username", &server.user]);
        let printed = succeed(pgbench.arg(&server.database))?;
        let line = printed.lines().find_map(|line| line.strip_prefix("tps = "));
        let rate = line.and_then(|line| line.split(' ').next()).context("pgbench tells no rate")?;
        Ok(rate.parse()?)
    };
    let (two, four) = (script.path(), all_rows.path());
    let [one, sixteen, of_three, two_one, two_sixteen, four_one, four_sixteen] = in_turns(
        // Seven sides of some thousand transactions each.
        lab.rounds.min(7),
        [
            &mut || ours(&one_store, 1),
            &mut || ours(&one_store, CLIENTS),
            &mut || ours(&three_stores, CLIENTS),
            &mut || bare(two, 1),
            &mut || bare(two, CLIENTS),
            &mut || bare(four, 1),
            &mut || bare(four, CLIENTS),
        ],
    )?;
    let (what, same) = (
        "launch transactions, one daemon on PostgreSQL, 1 client",
        format!("the same, {CLIENTS} clients"),
    );
    let three = format!("the same, {CLIENTS} clients on the pools of three daemons");
    let against = "the bare transaction in pgbench, of two rows";
    let against_all = "the bare transaction in pgbench, of the four rows that ours has";
    Ok(vec![
        Row::new(what, "/s", &one).against(against, &two_one).target(Target::AtLeast(0.7)),
        Row::new(&same, "/s", &sixteen).against(against, &two_sixteen).target(Target::AtLeast(0.7)),
        Row::new(&three, "/s", &of_three)
            .against(against, &two_sixteen)
            .target(Target::AtLeast(0.7)),
        Row::new(&three, "/s", &of_three).against("one daemon's", &sixteen),
        Row::new(what, "/s", &one).against(against_all, &four_one),
        Row::new(&same, "/s", &sixteen).against(against_all, &four_sixteen),
    ])
}

/// Admissions a second of so many clients at once, who take the stores in turn.
async fn admissions(
    stores: &[Store],
    node: stratavore_core::NodeId,
    clients: usize,
    round: u32,
) -> anyhow::Result<f64> {
    let mut projects = Vec::new();
    for number in 0..clients * LAUNCHES / TO_A_PROJECT {
        projects.push(given::project(&stores[0], &format!("ours-{round}-{number}")).await?);
    }
    let mut tasks = tokio::task::JoinSet::new();
    let began = Instant::now();
    for (of_client, store) in projects.chunks(LAUNCHES / TO_A_PROJECT).zip(stores.iter().cycle()) {
        let (store, projects) = (store.clone(), of_client.to_vec());
        tasks.spawn(async move {
            for number in 0..LAUNCHES {
                let project = projects[number / TO_A_PROJECT];
                let new = given::unborn(project, node, &format!("r{number}"))?;
                store.runners_admit(vec![new], "bench", given::at(0), None).await?;
            }
            anyhow::Ok(())
        });
    }
    while let Some(done) = tasks.join_next().await {
        done??;
    }
    Ok((clients * LAUNCHES) as f64 / began.elapsed().as_secs_f64())
}
