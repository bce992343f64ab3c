//! Three daemons that share a PostgreSQL, beside one of them: real launches, over their API.

use std::time::Instant;

use anyhow::ensure;
use stratavore_testkit::postgres::database;

use crate::Lab;
use crate::home::{Home, PROJECT, on_postgres, succeed};
use crate::report::Row;
use crate::sample::in_turns;

/// Clients that launch at the same time, and how many runners each launches, one after the other.
const CLIENTS: usize = 6;
const LAUNCHES: usize = 5;

/// Launches a second until each is told to run, of clients that take the daemons in turn.
fn launches(homes: &[&Home<'_>]) -> anyhow::Result<f64> {
    let mut clients = Vec::new();
    for home in homes.iter().cycle().take(CLIENTS) {
        clients.push((*home, home.client()?));
    }
    let began = Instant::now();
    let launched = std::thread::scope(|scope| {
        let working: Vec<_> = clients
            .iter()
            .map(|(home, client)| {
                scope.spawn(move || -> anyhow::Result<usize> {
                    let mut running = 0;
                    for _ in 0..LAUNCHES {
                        let runner = home.run(client, &["sleep", "1000"])?;
                        running += usize::from(runner.state == "running");
                    }
                    Ok(running)
                })
            })
            .collect();
        let mut all = 0;
        for one in working {
            all += one.join().map_err(|_| anyhow::anyhow!("a client failed"))??;
        }
        anyhow::Ok(all)
    })?;
    let took = began.elapsed();
    ensure!(launched == CLIENTS * LAUNCHES, "{launched} of {} run", CLIENTS * LAUNCHES);
    for home in homes {
        succeed(&mut home.cli(["kill", "--all", "--force"]))?;
    }
    Ok(launched as f64 / took.as_secs_f64())
}

pub(crate) fn three_against_one(lab: &Lab) -> anyhow::Result<Vec<Row>> {
    let server = database();
    let settings = on_postgres(&server);
    let mut homes = Vec::new();
    for _ in 0..3 {
        let home = Home::without_daemon(lab, &settings)?;
        succeed(&mut home.cli(["daemon", "start"]))?;
        homes.push(home);
    }
    let limit = "--quota-runners=100000";
    succeed(&mut homes[0].cli(["new", PROJECT, "--directory", "/", limit]))?;
    let all: Vec<&Home<'_>> = homes.iter().collect();
    let [three, one] =
        in_turns(lab.rounds.min(7), [&mut || launches(&all), &mut || launches(&all[..1])])?;
    Ok(vec![
        Row::new(
            format!("launches of {CLIENTS} clients of three daemons on one PostgreSQL, to running"),
            "/s",
            &three,
        )
        .against("the same clients of one of them", &one),
    ])
}
