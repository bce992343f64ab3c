//! T-OUTBOX, where one daemon has to hear of another: an event that is written at one of them is with
//! the subscribers of the other and at the broker at once, and does not wait until somebody looks.

use std::fs::File;
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use stratavore_testkit::rabbit::vhost;
use stratavore_testkit::trial::{Trial, scale};
use stratavore_testkit::world::{PATIENCE, World, until};

use crate::outbox::Outlet;

/// How long the control waits for what does not come. What is told takes milliseconds.
const IN_VAIN: Duration = Duration::from_secs(3);

const DEAFEN: &str = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
    WHERE datname = current_database() AND application_name = 'stratavore listens'";

/// Two daemons of two hosts with one database, that look by themselves once an hour. The first has the
/// broker, and a subscriber.
struct Pair {
    outlet: Outlet,
    worlds: [World; 2],
    subscriber: Child,
    heard: PathBuf,
}

impl Pair {
    fn new(points: &str) -> Self {
        let outlet = Outlet::new(vhost());
        let plain = outlet.database.settings(&outlet.database.socket_dir);
        let mut worlds = [outlet.world(&[]), World::with_config(&plain)];
        for world in &mut worlds {
            world.set_env("STRATAVORE_TEST_TIMES", "look_every=1h");
            world.set_env("STRATAVORE_FAILPOINTS", points);
            world.run(["daemon", "start"]).ok();
        }
        // Whoever publishes next has the duty from then on.
        outlet.database.query("UPDATE leases SET expires_at = 'epoch' WHERE name = 'relay'");
        worlds[0].project("demo");
        let heard = worlds[0].path("heard");
        let mut command = worlds[0].command("stratavore");
        command.args(["events", "subscribe", "--after", "0", "--format", "json"]);
        command.stdin(Stdio::null()).stdout(File::create(&heard).unwrap());
        let subscriber = command.spawn().unwrap();
        let pair = Self { outlet, worlds, subscriber, heard };
        until("the subscriber has all so far", || pair.arrived());
        pair
    }

    /// Makes an event at this daemon. The first one publishes it, or the writer does.
    fn edit(&self, which: usize, text: &str, by_first: bool) {
        let sql = match by_first {
            true => "UPDATE leases SET expires_at = now() + interval '25 s' WHERE name = 'relay'",
            false => "UPDATE leases SET expires_at = 'epoch' WHERE name = 'relay'",
        };
        self.outlet.database.query(sql);
        self.worlds[which].run(["projects", "edit", "demo", "--description", text]).ok();
    }

    /// Whether the subscriber and the broker's consumer have everything.
    fn arrived(&self) -> Result<(), String> {
        let (committed, received) = (self.outlet.committed(), self.outlet.consumer.received());
        stratavore_testkit::rabbit::same(&committed, &received)?;
        let heard = std::fs::read_to_string(&self.heard).unwrap();
        match heard.matches('\n').count() {
            count if count == committed.len() => Ok(()),
            count => Err(format!("{count} of {} were heard", committed.len())),
        }
    }

    fn arrives(&self, within: Duration) -> Result<(), String> {
        let began = Instant::now();
        loop {
            match self.arrived() {
                Err(missing) if began.elapsed() > within => return Err(missing),
                Err(_) => std::thread::sleep(Duration::from_millis(2)),
                Ok(()) => return Ok(()),
            }
        }
    }

    /// Who of the two has the duty of publishing, by the database.
    fn first_relays(&self) -> bool {
        let holder = self.outlet.database.query(
            "SELECT pid FROM daemons JOIN leases ON holder = daemons.id WHERE leases.name = 'relay'",
        );
        self.worlds[0].daemon_pid().is_some_and(|pid| pid.to_string() == holder)
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        self.subscriber.kill().ok();
        self.subscriber.wait().ok();
    }
}

#[test]
fn t_outbox_what_is_written_at_another_daemon_does_not_wait_for_a_look() {
    let mut trial = Trial::new(
        "T-OUTBOX",
        "an event written at another daemon reaches subscribers and the broker without a look",
    );
    let pair = Pair::new("");
    assert!(pair.first_relays(), "its project was the first event");
    for round in 0..scale(5, 200) {
        pair.edit(1, &format!("told {round}"), true);
        let began = Instant::now();
        trial.tried(pair.arrives(PATIENCE));
        trial.measured("published by the other one after", began.elapsed());
    }
    assert!(pair.first_relays(), "it has been told each time");

    for round in 0..scale(2, 20) {
        // What is written while nobody hears is looked for by whoever hears again.
        assert_ne!(pair.outlet.database.query(DEAFEN), "0");
        pair.edit(1, &format!("deaf {round}"), true);
        let began = Instant::now();
        trial.tried(pair.arrives(PATIENCE));
        trial.measured("after the listening connection was killed", began.elapsed());
    }

    // The second one publishes what it has written, and the first hears of that.
    pair.edit(1, "itself", false);
    trial.tried(pair.arrives(PATIENCE));
    assert!(!pair.first_relays(), "the duty has moved");

    let deaf = Pair::new("wakes=off");
    deaf.edit(1, "unheard", true);
    let caught = deaf.arrives(IN_VAIN).is_err();
    trial.control("daemons that do not listen", caught);
    // It was there all the time: who writes something himself looks.
    deaf.edit(0, "something else", true);
    trial.tried(deaf.arrives(PATIENCE));
    trial.end();
}
