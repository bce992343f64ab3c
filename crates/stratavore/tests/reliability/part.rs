//! T-PART: the network between a daemon and its database is cut, both ways, one way, or by resets.
//!
//! The daemon and its runners are on one host, PostgreSQL is behind a cable. Each host is a network
//! namespace; what is cut is dropped by the kernel, and nobody is told.

use std::time::{Duration, Instant};

use stratavore_proto::v1::StatusRequest;
use stratavore_testkit::netns::{Cut, Link, inside_with_postgres};
use stratavore_testkit::postgres::{TestPostgres, database};
use stratavore_testkit::proxy::Proxy;
use stratavore_testkit::trial::{Trial, is_long, scale};
use stratavore_testkit::wire::{client, on_runtime};
use stratavore_testkit::world::{World, signal, until};

use crate::pgdown::{attach, no_event_missing, running};
use crate::printing::{Printing, events};

/// How soon after the cut the daemon says that its database is away: who asks waits
/// two seconds at most, and the machine does other things too.
const TOLD: Duration = Duration::from_secs(6);
/// How soon after the heal all is as before: two looks at a runner, five seconds apart at most, and
/// the same allowance.
const CONVERGED: Duration = Duration::from_secs(13);

/// What is done to the network.
#[derive(Debug, Clone, Copy)]
enum Fault {
    Cut(Cut),
    /// Every connection is reset, again and again.
    Resets,
}

const FAULTS: [Fault; 4] =
    [Fault::Cut(Cut::Both), Fault::Cut(Cut::Up), Fault::Cut(Cut::Down), Fault::Resets];

/// A daemon here, and its database there.
struct Apart {
    world: World,
    link: Link,
    /// There, before the database.
    door: Proxy,
    database: TestPostgres,
}

impl Apart {
    fn new() -> Self {
        let database = database();
        let link = Link::new();
        let door = Proxy::before(link.listen(database.port), &database.socket());
        let settings = database.settings(std::path::Path::new(link.there()));
        // Without certificates.
        let settings = settings.replace("  postgres:\n", "  postgres:\n    sslmode: disable\n");
        Self { world: World::with_config(&settings), link, door, database }
    }

    fn break_by(&self, fault: Fault) {
        match fault {
            Fault::Cut(cut) => self.link.cut(cut),
            Fault::Resets => self.go_on(fault),
        }
    }

    /// A reset is over at once.
    fn go_on(&self, fault: Fault) {
        if let Fault::Resets = fault {
            // Whoever connects anew hears nothing, and is reset the next time.
            self.door.set(|wire| wire.up.flow = stratavore_testkit::proxy::Flow::Hold);
            self.door.reset_all();
        }
    }

    fn heal(&self) {
        self.link.heal();
        self.door.reset_all();
        self.door.heal();
    }

    /// Whether the daemon says that its database is away.
    fn says_so(&self) -> Result<(), String> {
        on_runtime(async {
            let status = client(&self.world).await.daemon().status(StatusRequest {}).await;
            let status = status.map_err(|status| status.to_string())?.into_inner();
            if status.problems.is_empty() { Err("all is well".into()) } else { Ok(()) }
        })
    }
}

/// The network is gone for so long, and a runner ends meanwhile.
fn partition(
    apart: &Apart,
    fault: Fault,
    long: Duration,
    runners: &[Printing],
    ending: &Printing,
    trial: &mut Trial,
) {
    let world = &apart.world;
    apart.break_by(fault);
    let began = Instant::now();
    until("the daemon says that its database is away", || {
        apart.go_on(fault);
        apart.says_so()
    });
    let told = began.elapsed();
    trial.measured("told after", told);
    trial.tried(match told < TOLD {
        true => Ok(()),
        false => Err(format!("{fault:?}: told after {told:?}")),
    });
    attach(world, &runners[0]);
    until("a runner has ended while nobody could write it down", || {
        if ending.process.is_alive() { Err("it lives") } else { Ok(()) }
    });
    while began.elapsed() < long {
        apart.go_on(fault);
        // The runners' lines are the clock.
        let line = runners[0].printed();
        until("it prints", || if runners[0].printed() > line + 5 { Ok(()) } else { Err(line) });
    }
}

/// What another daemon says of a runner of one that is cut off.
fn as_seen_by(other: &World, runner: &Printing) -> Result<(), String> {
    let shown = other.runner(&runner.runner);
    match shown["state"].as_str() {
        Some("running" | "unreachable" | "unresponsive") if shown["epoch"] == 1 => Ok(()),
        _ => Err(format!("the other daemon says {shown}")),
    }
}

/// One of two daemons is cut off: the other one goes on, and judges nothing that it cannot see.
#[test]
fn t_part_a_daemon_that_is_cut_off_is_not_judged_by_the_other() {
    inside_with_postgres(
        "part::t_part_a_daemon_that_is_cut_off_is_not_judged_by_the_other",
        || {
            let mut trial = Trial::new(
                "T-PART",
                "one of two daemons is cut off: the other goes on, and takes no runner of it for dead",
            );
            let mut dice = trial.dice();
            let apart = Apart::new();
            let far = &apart.world;
            far.project("demo");
            let runners =
                ["one", "two"].map(|name| Printing::launch(far, name, &["--every", "20"]));
            let near = World::with_config(&apart.database.settings(&apart.database.socket_dir));
            let rounds = scale(1, 100);
            for round in 0..rounds {
                let fault = FAULTS[dice.below(FAULTS.len())];
                let ending = ["--every", "20", "--lines", "60", "--exit", "7"];
                let ending = Printing::launch(far, &format!("ending-{round}"), &ending);
                apart.break_by(fault);
                until("the daemon says that its database is away", || {
                    apart.go_on(fault);
                    apart.says_so()
                });
                // The other one does all that it does: it looks after what runs, and launches.
                let own = near.launch("demo", &format!("own-{round}"), &["sleep", "1000"]);
                near.run(["reconcile"]).ok();
                until("a runner has ended while nobody could write it down", || {
                    apart.go_on(fault);
                    if ending.process.is_alive() { Err("it lives") } else { Ok(()) }
                });
                near.run(["reconcile"]).ok();
                for runner in runners.iter().chain([&ending]) {
                    trial.tried(as_seen_by(&near, runner));
                }
                apart.heal();
                let began = Instant::now();
                let shown = far.until_state(&ending.runner, &["exited", "failed", "lost"]);
                trial.measured("caught up after", began.elapsed());
                trial.tried(match (began.elapsed() < CONVERGED, &shown["cause"]) {
                    (true, cause) if cause == "exit 7" => Ok(()),
                    _ => Err(format!("{fault:?}: after {:?} its end was {shown}", began.elapsed())),
                });
                for runner in &runners {
                    trial.tried(runner.held(far));
                }
                until("every event is there and has its place", || {
                    no_event_missing(&apart.database)
                });
                near.run(["kill", &own, "--force"]).ok();
            }
            let ended = ["runner.failed", "runner.lost"].map(|kind| events(&near, kind));
            trial.tried(match ended == [rounds, 0] && far.agents().len() == runners.len() {
                true => Ok(()),
                false => Err(format!("{ended:?} have ended, {:?} are left", far.agents())),
            });

            // The control: a runner whose row says that it is the other one's, who finds nothing of it.
            far.kill_daemon();
            let node = |world: &World| {
                let id = std::fs::read_to_string(world.path("state/node")).expect("it has an id");
                id.trim().to_owned()
            };
            apart.database.query(&format!(
                "UPDATE runners SET node_id = '{near}', record = replace(record, '{far}', '{near}')
             WHERE id = '{}'",
                runners[0].runner,
                near = node(&near),
                far = node(far),
            ));
            near.run(["reconcile"]).ok();
            near.until_state(&runners[0].runner, &["exited", "failed", "lost"]);
            let caught = as_seen_by(&near, &runners[0]).is_err();
            trial.control("a daemon that takes the runners of all for its own", caught);
            trial.end();
        },
    );
}

#[test]
fn t_part_a_network_that_is_cut_harms_no_runner() {
    inside_with_postgres("part::t_part_a_network_that_is_cut_harms_no_runner", || {
        let mut trial =
            Trial::new("T-PART", "the database is cut off: no runner fails, no event is lost");
        let mut dice = trial.dice();
        let apart = Apart::new();
        let world = &apart.world;
        world.project("demo");
        let runners = ["one", "two"].map(|name| Printing::launch(world, name, &["--every", "20"]));
        trial.control("a network that carries", apart.says_so().is_err());
        let rounds = scale(3, 200);
        for round in 0..rounds {
            let fault = FAULTS[(round + dice.below(2)) % FAULTS.len()];
            let long = match is_long() {
                true => Duration::from_millis(1000 + dice.below(60_000) as u64),
                false => Duration::from_millis(1000),
            };
            let ending = ["--every", "20", "--lines", "60", "--exit", "7"];
            let ending = Printing::launch(world, &format!("ending-{round}"), &ending);
            partition(&apart, fault, long, &runners, &ending, &mut trial);
            apart.heal();
            let began = Instant::now();
            on_runtime(async {
                let client = client(world).await;
                while running(&client).await.ok() != Some(runners.len()) {
                    assert!(began.elapsed() < CONVERGED * 3, "{:?}", running(&client).await);
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            });
            let shown = world.until_state(&ending.runner, &["exited", "failed", "lost"]);
            let converged = began.elapsed();
            trial.measured("as before after", converged);
            trial.tried(match (converged < CONVERGED, &shown["cause"]) {
                (true, cause) if cause == "exit 7" => Ok(()),
                _ => Err(format!("{fault:?}: after {converged:?} its end was {shown}")),
            });
            for runner in &runners {
                trial.tried(runner.held(world));
            }
            until("every event is there and has its place", || no_event_missing(&apart.database));
        }
        let ended = ["runner.failed", "runner.lost"].map(|kind| events(world, kind));
        assert_eq!(ended, [rounds, 0], "only those that ended by themselves");
        let agents = world.agents().len();
        assert_eq!(agents, runners.len(), "no runner runs twice, and none is left");

        // Without the triggers, which would not have it.
        apart.database.query(
            "SET session_replication_role = replica; DELETE FROM events WHERE kind = 'runner.failed'",
        );
        let found = no_event_missing(&apart.database);
        trial.control("an event that is gone", found.is_err());
        let [agent] = world.agents_of(&runners[0].runner)[..] else { panic!("it has one agent") };
        signal(agent, rustix::process::Signal::KILL);
        until("its process has gone with it", || {
            if runners[0].process.is_alive() { Err(agent) } else { Ok(()) }
        });
        trial.control("a runner that the cut cost", runners[0].held(world).is_err());
        trial.end();
    });
}
