//! The same operations over ten times the history: none may get slower.

use std::time::Instant;

use anyhow::{Context, ensure};
use stratavore_proto::client::Client;
use stratavore_proto::v1::{ListRunners, StatusRequest};
use stratavore_store::{Database, PoolSettings, Settings, Store};

use crate::home::{Home, PROJECT, succeed};
use crate::report::{Row, Target};
use crate::sample::{in_turns, ms_since};
use crate::{Lab, given};

/// Runners that have ended, each with its events.
const HISTORY: usize = 1000;
const TIMES: usize = 10;
/// What noise may make of it.
const SAME: f64 = 1.2;

fn with_history(lab: &Lab, count: usize) -> anyhow::Result<Home<'_>> {
    let home = Home::new(lab)?;
    succeed(&mut home.cli(["daemon", "stop"]))?;
    lab.runtime.block_on(async {
        let database = Database::Sqlite { path: home.path().join("state/stratavore.db") };
        let store = Store::open(Settings { database, pool: PoolSettings::default() }).await?;
        let projects = store.project_list(false).await?;
        let project = projects.iter().find(|project| project.name.as_str() == PROJECT);
        given::ended(&store, project.context("the project is gone")?.id, count).await?;
        store.close().await;
        anyhow::Ok(())
    })?;
    // Starts the daemon, and gives it the time to relay the events.
    succeed(&mut home.cli(["status"]))?;
    let client = home.client()?;
    let began = Instant::now();
    loop {
        let asked = async { client.daemon().status(StatusRequest {}).await };
        if lab.runtime.block_on(asked)?.into_inner().outbox_pending == 0 {
            return Ok(home);
        }
        ensure!(began.elapsed().as_secs() < 180, "the events are never relayed");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}

pub(crate) fn ten_times(lab: &Lab) -> anyhow::Result<Vec<Row>> {
    let homes = [with_history(lab, HISTORY)?, with_history(lab, HISTORY * TIMES)?];
    let clients = [homes[0].client()?, homes[1].client()?];
    let launch = |home: &Home<'_>, client: &Client| {
        let began = Instant::now();
        let runner = home.run(client, &["sleep", "100000"])?;
        let took = ms_since(began);
        home.kill(&runner.id)?;
        Ok(took)
    };
    let list = |client: &Client| {
        let list = ListRunners { all: true, limit: 100, ..ListRunners::default() };
        let began = Instant::now();
        let asked = async { client.runners().list(list).await };
        let listed = lab.runtime.block_on(asked)?.into_inner().runners.len();
        ensure!(listed == 100, "a short list");
        Ok(ms_since(began))
    };
    let status = |home: &Home<'_>| {
        let began = Instant::now();
        succeed(&mut home.cli(["status"]))?;
        Ok(ms_since(began))
    };
    let [few_l, many_l, few_p, many_p, few_s, many_s] = in_turns(
        lab.rounds,
        [
            &mut || launch(&homes[0], &clients[0]),
            &mut || launch(&homes[1], &clients[1]),
            &mut || list(&clients[0]),
            &mut || list(&clients[1]),
            &mut || status(&homes[0]),
            &mut || status(&homes[1]),
        ],
    )?;
    let against = format!("the same with {HISTORY}");
    let after = HISTORY * TIMES;
    let row = |what: &str, many, few| {
        let what = format!("{what}, {after} ended runners before");
        Row::new(what, "ms", many).against(&against, few).target(Target::AtMost(SAME))
    };
    Ok(vec![
        row("launch until running", &many_l, &few_l),
        row("list, first page of 100, by the API", &many_p, &few_p),
        row("`stratavore status`", &many_s, &few_s),
    ])
}
