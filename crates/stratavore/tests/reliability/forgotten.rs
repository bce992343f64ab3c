//! A broker that nobody delivers to any more is forgotten when somebody says so, and not before.

use stratavore_testkit::rabbit::vhost;
use stratavore_testkit::world::{rows, until};

use crate::outbox::{Outlet, destination};

#[test]
fn a_broker_that_was_taken_out_of_the_configuration_is_forgotten_by_hand() {
    let outlet = Outlet::new(vhost());
    let world = outlet.world(&[]);
    world.project("alpha");
    until("it gets what happens", || match destination(&world) {
        seen if seen["health"] == "connected" && seen["pending"] == 0 => Ok(()),
        seen => Err(seen),
    });
    let forget = ["outbox", "forget", "rabbitmq"];
    let refused = world.run(forget).fails(2).stderr();
    assert!(refused.contains("a daemon delivers to rabbitmq"), "{refused}");
    assert_eq!(destination(&world)["name"], "rabbitmq");

    world.run(["daemon", "stop"]).ok();
    let without = outlet.database.settings(&outlet.database.socket_dir);
    std::fs::write(world.path("stratavore.yaml"), without).unwrap();
    world.run(["daemon", "start"]).ok();
    for n in 0..3 {
        world.run(["projects", "edit", "alpha", "--description", &n.to_string()]).ok();
    }
    until("they wait for it", || match destination(&world) {
        seen if seen["pending"].as_u64() >= Some(3) => Ok(()),
        seen => Err(seen),
    });
    world.run(["outbox", "forget", "rabbit"]).fails(3);
    let forgotten = world.json(&forget);
    assert!(forgotten["pending"].as_u64() >= Some(3), "{forgotten}");
    assert_eq!(rows(&world.json(&["outbox"])).len(), 0);
    let told = until("it is on the record", || {
        let told = world.json(&["audit", "list", "--kind", "node.destination_removed"]);
        rows(&told).first().cloned().ok_or(told)
    });
    assert_eq!(told["data"]["destination"], "rabbitmq", "{told}");
    assert_eq!(told["data"]["pending"], forgotten["pending"], "{told}");
    assert_eq!(told["origin"]["door"], "unix", "{told}");
}
