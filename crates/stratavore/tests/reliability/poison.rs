//! T-POISON: events that the broker will not take are set aside with their reason, the others go on,
//! and what was set aside can be delivered later.

use std::time::Duration;

use stratavore_testkit::rabbit::{Broker, Received, vhost};
use stratavore_testkit::trial::{Trial, is_long, scale};
use stratavore_testkit::world::{World, rows, until};

use crate::outbox::{Outlet, destination, projects, write};
use crate::queues::problems;

/// How much later events may come while others are refused, besides twice as late: the machine does
/// other things too, and a few events say little about the slowest of a hundred.
fn slack() -> Duration {
    if is_long() { Duration::from_millis(100) } else { Duration::from_secs(2) }
}

/// What a broker of the test's own takes at most, in bytes: less than the daemon sends.
const TAKEN_MAX: usize = 2000;

/// How long after it happened each event of projects that are called so was received, in the order in
/// which they came.
fn delays(received: &[Received], named: &str) -> Vec<Duration> {
    let of = received.iter().filter(|one| !one.is_repeated);
    let of = of.filter(|one| one.envelope()["entityname"].as_str().unwrap().starts_with(named));
    of.map(|one| {
        let text = one.envelope()["time"].as_str().unwrap();
        let at: stratavore_core::Timestamp = text.parse().unwrap();
        let received = one.line["received"].as_f64().unwrap();
        Duration::from_secs_f64((received - at.as_microsecond() as f64 / 1e6).max(0.0))
    })
    .collect()
}

fn bind(outlet: &Outlet, queue: &str, key: &str) {
    outlet.vhost.eval(&format!(
        "rabbit_binding:add({{binding, rabbit_misc:r(VHOST, exchange, <<\"stratavore.events\">>), \
         <<\"{key}\">>, rabbit_misc:r(VHOST, queue, <<\"{queue}\">>), []}}, <<\"tests\">>)."
    ));
}

fn p99(delays: &[Duration]) -> Duration {
    let mut delays = delays.to_vec();
    delays.sort();
    delays[delays.len() * 99 / 100]
}

fn dead(world: &World) -> Vec<(String, String)> {
    let listed = world.json(&["outbox", "dead", "--limit", "1000"]);
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    let listed = rows(&listed).iter();
    listed.map(|letter| (text(&letter["event"]["kind"]), text(&letter["reason"]))).collect()
}

#[test]
fn t_poison_what_is_refused_is_set_aside_and_the_rest_goes_on() {
    let mut trial = Trial::new(
        "T-POISON",
        "events are refused, too large, or for no queue: they are set aside, and the others go on",
    );
    // What is too large for a broker is so for all of it: the one that the tests share has no such limit.
    let broker = is_long().then(Broker::start);
    let vhost = broker.as_ref().map_or_else(vhost, Broker::vhost);
    let outlet = Outlet::bound(vhost, &["project.created.#", "project.edited.#"]);
    let world = outlet.world(&["message_max: 4KiB", "refusals_max: 3", "refused_for: 500ms"]);
    let good = projects(&world, "good", 4);
    let edits = scale(60, 2500);
    write(&world, &good, edits);
    let before = delays(&outlet.drained(Duration::from_secs(20)).unwrap(), "good");
    let calm_words = problems(&world);

    // A queue that takes nothing is bound for one project, and none for what is archived. What would
    // take that in place of one is gone, and the daemon may not make it anew.
    let each = scale(3, 25);
    let full = projects(&world, "full", each);
    let limit_broker = |bytes: usize| {
        outlet.vhost.eval(&format!("application:set_env(rabbit, max_message_size, {bytes})."));
        // It holds for channels that are opened from now on.
        outlet.wire.reset_all();
    };
    if broker.is_some() {
        limit_broker(TAKEN_MAX);
    }
    // They go over the new connection, which has to be there before it may declare nothing.
    let odd = projects(&world, "odd", each);
    until("all is delivered so far", || outlet.drained(Duration::ZERO).map(drop));
    outlet.vhost.eval(
        "rabbit_amqqueue:declare(rabbit_misc:r(VHOST, queue, <<\"full\">>), true, false, \
         [{<<\"x-max-length\">>, long, 0}, {<<\"x-overflow\">>, longstr, <<\"reject-publish\">>}], \
         none, <<\"tests\">>).",
    );
    for name in &full {
        let id = world.json(&["projects", "show", name])["id"].as_str().unwrap().to_owned();
        bind(&outlet, "full", &format!("project.edited.{id}"));
    }
    let unrouted = "rabbit_exchange:delete(rabbit_misc:r(VHOST, exchange, \
                    <<\"stratavore.unrouted\">>), false, <<\"tests\">>).";
    let (user, all) = (&outlet.vhost.user, "<<\".*\">>");
    let permit = |configure: &str| {
        format!(
            "rabbit_auth_backend_internal:set_permissions(<<\"{user}\">>, VHOST, {configure}, \
             {all}, {all}, <<\"tests\">>)."
        )
    };
    outlet.vhost.eval(&permit("<<\"^$\">>"));
    outlet.vhost.eval(unrouted);

    // Of four bytes each: more than the daemon sends, and less, but more than such a broker takes.
    let [longest, long] = [1000, 600].map(|count| "\u{1f980}".repeat(count));
    for name in &odd {
        world.run(["projects", "edit", name, "--description", &longest]).ok();
        if broker.is_some() {
            world.run(["projects", "edit", name, "--description", &long]).ok();
        }
        world.run(["projects", "archive", name]).ok();
    }
    write(&world, &full, each);
    write(&world, &good, edits);

    let kinds = if broker.is_some() { 4 } else { 3 };
    let wanted = kinds * each;
    until("all of them are set aside", || {
        let seen = destination(&world);
        if seen["dead"] == wanted && seen["pending"] == 0 { Ok(()) } else { Err(seen) }
    });
    let aside = dead(&world);
    for (kind, reason) in &[
        ("project.archived", "no queue is there for it"),
        ("project.edited", "has refused it 3 times"),
        ("project.edited", "and bus.rabbitmq.message_max is 4096"),
        ("project.edited", "is larger than configured max size"),
    ][..kinds]
    {
        let count = aside.iter().filter(|(k, r)| k == kind && r.contains(*reason)).count();
        trial.tried_times(
            each,
            if count == each { Ok(()) } else { Err(format!("{reason}: {count} of {aside:?}")) },
        );
    }
    // Row 51: who looks is told, and what to do about it.
    let alarmed = |problems: String| match problems.contains("stratavore outbox dead") {
        true => Ok(()),
        false => Err(format!("nothing is said of what was set aside: {problems}")),
    };
    trial.tried(alarmed(problems(&world)));
    trial.control("a daemon that has nothing to say", alarmed(calm_words).is_err());
    let during = delays(&outlet.consumer.received(), "good").split_off(before.len());
    let (calm, poisoned) = (p99(&before), p99(&during));
    trial.measured("p99 of good events before", calm);
    trial.measured("p99 of good events beside poison", poisoned);
    trial.tried(match poisoned < calm * 2 + slack() {
        true => Ok(()),
        false => Err(format!("good events took {poisoned:?} and not {calm:?}")),
    });
    trial.control("events that are set aside", outlet.drained(Duration::ZERO).is_err());

    // The causes are taken away; what is too large for the daemon still is.
    if broker.is_some() {
        limit_broker(128 << 20);
    }
    outlet.vhost.eval(&permit(all));
    outlet.vhost.eval(
        "rabbit_amqqueue:with(rabbit_misc:r(VHOST, queue, <<\"full\">>), fun (Q) -> \
         rabbit_amqqueue:delete(Q, false, false, <<\"tests\">>) end).",
    );
    bind(&outlet, "test", "#");
    world.run(["outbox", "retry", "--all"]).ok();
    until("those that can be are delivered", || {
        let seen = destination(&world);
        if seen["dead"] == each { Ok(()) } else { Err(seen) }
    });
    let left = dead(&world);
    trial.tried(match left.iter().all(|(_, reason)| reason.contains("message_max")) {
        true => Ok(()),
        false => Err(format!("left are {left:?}")),
    });
    let got = outlet.consumer.received();
    let archived = got.iter().filter(|one| one.envelope()["type"] == "stratavore.project.archived");
    trial.tried(match archived.count() >= each {
        true => Ok(()),
        false => Err("what was replayed has not arrived".into()),
    });
    trial.end();
}
