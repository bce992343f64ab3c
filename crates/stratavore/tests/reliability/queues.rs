//! Rows 56 and 58 of the fault catalogue, as whoever looks at the daemon sees them: a queue that nobody
//! reads, and messages that consumers have failed on. How they come about at the broker is in the
//! tests of `stratavore-bus`.

use stratavore_testkit::rabbit::{publish, vhost};
use stratavore_testkit::trial::Trial;
use stratavore_testkit::world::{World, until};

use crate::outbox::{Outlet, projects};

pub(crate) fn problems(world: &World) -> String {
    world.json(&["status"])["daemon"]["problems"].to_string()
}

fn until_said(world: &World, what: &str, is_said: bool) {
    until(&format!("`{what}` is said: {is_said}"), || {
        let problems = problems(world);
        if problems.contains(what) == is_said { Ok(()) } else { Err(problems) }
    });
}

/// Whether none of these is said.
fn silent(said: &str, names: &[&str]) -> Result<(), String> {
    if names.iter().any(|name| said.contains(name)) { Err(said.to_owned()) } else { Ok(()) }
}

#[test]
fn t_mqdown_queues_that_nobody_reads_are_told() {
    let mut trial =
        Trial::new("T-MQDOWN", "a queue that nobody reads, or fails on, is told in status");
    let outlet = Outlet::new(vhost());
    let mut world = outlet.world(&["queues: [work]"]);
    world.set_env("STRATAVORE_TEST_TIMES", "queues_every=200ms,unread_for=600ms");
    projects(&world, "p", 2);
    let unread = "the queue work has";
    until_said(&world, unread, true);
    trial.tried(Ok(()));
    // The queue that the consumer reads, and those that are empty, are not named.
    let said = problems(&world);
    trial.tried(silent(&said, &["the queue test", "stratavore.unrouted", "stratavore.dead"]));
    trial.control("a queue that nobody reads", silent(&said, &[unread]).is_err());
    let purge = |queue: &str| {
        outlet.vhost.eval(&format!(
            "rabbit_amqqueue:with(rabbit_misc:r(VHOST, queue, <<\"{queue}\">>), \
             fun (Q) -> rabbit_amqqueue:purge(Q) end)."
        ))
    };
    purge("work");
    until_said(&world, unread, false);
    trial.tried(silent(&problems(&world), &[unread]));

    // Something stands where consumers' failures go.
    publish(&outlet.vhost, "stratavore.dead");
    until_said(&world, "consumers have failed on 1 messages", true);
    trial.tried(Ok(()));
    purge("stratavore.dead");
    until_said(&world, "consumers have failed on", false);
    trial.end();
}
