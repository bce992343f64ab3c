//! T-NOTIFY with several daemons: whoever tells a destination dies, and the next one goes on.

use stratavore_testkit::postgres::database;
use stratavore_testkit::receiver::Receiver;
use stratavore_testkit::trial::{Trial, scale};
use stratavore_testkit::world::{World, is_gone, until};

use crate::notify::{HASTE, happen, judge, told, until_delivered, until_told, webhook};

/// Two daemons of one PostgreSQL: the one that tells dies, and the other one takes its place.
#[test]
fn t_notify_the_next_daemon_takes_over_and_tells_by_the_same_message() {
    let mut trial = Trial::new(
        "T-NOTIFY crash of one of two",
        "the daemon that tells dies at each step, and another one goes on: each event is told, by one message",
    );
    let points = ["notify_sent", "notify_written", "notify_before_send", "notify_before_write"];
    for _ in 0..scale(1, 25) {
        for point in &points[..scale(1, 4)] {
            let database = database();
            let settings = database.settings(&database.socket_dir);
            let notify = "notify:\n  allow_addresses: [127.0.0.1]\n  timeout: 1s\n";
            let mut worlds = [(); 2].map(|()| World::with_config(&format!("{settings}{notify}")));
            worlds.iter_mut().for_each(|world| world.set_env(HASTE, "100"));
            let receiver = Receiver::start();
            webhook(&worlds[0], "hook", &receiver.url(), &["--events", "project.*"]);
            worlds[0].run(["daemon", "stop"]).ok();
            worlds[0].set_env("STRATAVORE_FAILPOINTS", &format!("{point}=abort"));
            worlds[0].run(["daemon", "start"]).ok();
            let pid = worlds[0].daemon_pid().unwrap();
            until("the first one tells", || {
                let held = "SELECT count(*) FROM leases
                    WHERE name = 'relay:hook' AND expires_at > clock_timestamp()";
                if database.query(held) == "1" { Ok(()) } else { Err("it does not") }
            });
            happen(&worlds[1], 3);
            until("it has died", || if is_gone(pid) { Ok(()) } else { Err(pid) });
            let alone = told(&receiver.got()).len();
            trial.control("events that only the next one can tell", alone < 3);
            // Its time need not be waited for.
            database.query("UPDATE leases SET expires_at = 'epoch' WHERE name LIKE 'relay%'");
            let began = std::time::Instant::now();
            until_told(&receiver, 3);
            trial.measured("the next one has told all after", began.elapsed());
            until_delivered(&worlds[1], 3);
            let got = receiver.got();
            trial.tried(judge(&got, 3).map_err(|why| format!("{point}: {why}")));
            let (repeated, expected) = (got.len() - 3, usize::from(*point == "notify_sent"));
            trial.tried(match repeated == expected {
                true => Ok(()),
                false => Err(format!("{point}: {repeated} were repeated")),
            });
        }
    }
    trial.end();
}
