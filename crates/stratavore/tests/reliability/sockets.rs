//! T-SURV, where agents are given several daemon addresses: while their own daemon is away another one of
//! the same host and database takes in what they report.

use std::time::Instant;

use stratavore_testkit::postgres::{TestPostgres, database};
use stratavore_testkit::trial::{Trial, scale};
use stratavore_testkit::world::{World, until};

use crate::printing::Printing;

/// Whether its end is known, and is an event once. Who published events may be dead, and its term not over.
fn has_ended(by: &World, database: &TestPostgres, runner: &str) -> Result<(), String> {
    let shown = by.runner(runner);
    let counts = ["runner.started", "runner.failed"].map(|kind| {
        database.query(&format!(
            "SELECT count(*) FROM events WHERE entity_id = '{runner}' AND kind = '{kind}'"
        ))
    });
    match shown["state"] == "failed" && shown["cause"] == "exit 7" && counts == ["1", "1"] {
        true => Ok(()),
        false => Err(format!("{counts:?}: {shown}")),
    }
}

#[test]
fn t_surv_an_agent_whose_daemon_is_away_reports_to_the_next_one() {
    let mut trial = Trial::new(
        "T-SURV",
        "a daemon is killed, and its agents know another one: what runs goes on, and its end is known there",
    );
    let database = database();
    let settings = database.settings(&database.socket_dir);
    let next = World::with_config(&settings);
    let further = next.path("state/agents.sock").display().to_string();
    let own = World::with_config(&format!("{settings}agent:\n  sockets: [{further}]\n"));
    let alone = World::with_config(&settings);
    own.large_project("demo");
    next.run(["daemon", "start"]).ok();
    let runner = Printing::launch(&own, "one", &["--every", "20"]);
    let ending = ["--every", "20", "--lines", "100", "--exit", "7"];
    for round in 0..scale(1, 25) {
        let of = |world: &World, name: &str| {
            Printing::launch(world, &format!("{name}-{round}"), &ending)
        };
        let (ends, unheard) = (of(&own, "ends"), of(&alone, "unheard"));
        own.kill_daemon();
        alone.kill_daemon();
        let began = Instant::now();
        until("its agent has gone to the next one", || match next.runner(&runner.runner) {
            shown if shown["connected"] == true => Ok(()),
            shown => Err(shown),
        });
        trial.measured("with the next one after", began.elapsed());
        for one in [&ends, &unheard] {
            until("it has ended", || if one.process.is_alive() { Err("it lives") } else { Ok(()) });
        }
        next.until_state(&ends.runner, &["exited", "failed", "lost"]);
        trial.tried(has_ended(&next, &database, &ends.runner));
        trial.control(
            "an agent that knows no other",
            has_ended(&next, &database, &unheard.runner).is_err(),
        );
        trial.tried(runner.held(&own));

        // And back to its own.
        own.run(["daemon", "start"]).ok();
        until("its agent has come back", || match own.runner(&runner.runner) {
            shown if shown["connected"] == true && shown["state"] == "running" => Ok(()),
            shown => Err(shown),
        });
        trial.tried(has_ended(&own, &database, &ends.runner));
        alone.run(["daemon", "start"]).ok();
        alone.until_state(&unheard.runner, &["exited", "failed", "lost"]);
        trial.tried(runner.held(&own));
        assert_eq!(own.process_of(&runner.runner), runner.process, "it is the same process");
    }
    until("its log has all that it printed", || runner.held(&own));
    trial.end();
}
