//! The tests of what goes to RabbitMQ, with later ones than this machine's: 4.x, where queues are not what they
//! were in 3.x.

use stratavore_testkit::rabbit::{self, BROKER_VARIABLE, ROOT_VARIABLE};
use stratavore_testkit::trial::LONG_VARIABLE;

use crate::machine;
use crate::step::{self, Steps};
use crate::test::build;
use crate::workspace::{TESTED, cargo};

/// The releases of Debian that have them, and what their step is called.
const STEPS: [(&str, &str); 2] = [("trixie", "rabbitmq 4.0"), ("forky", "rabbitmq 4.3")];

/// What is tried with each, by the names of tests.
const TESTS: [&str; 8] = [
    "t_outbox",
    "t_mqdown",
    "t_blocked",
    "t_poison",
    "row_59",
    "what_a_consumer_always_fails_on",
    "a_missing_way_for_dead_letters",
    "what_is_published_fits_its_schema",
];

/// The verb: builds the programs before.
pub(crate) fn brokers() -> anyhow::Result<()> {
    let mut steps = Steps::default();
    if steps.take("machine", machine::prepare) && steps.take("build", build) {
        test(&mut steps);
    }
    steps.finish()
}

/// Runs those tests with each of them. The programs are built.
pub(crate) fn test(steps: &mut Steps) {
    for (release, name) in STEPS {
        steps.take(name, || {
            let root = rabbit::prepare(release).map_err(anyhow::Error::msg)?;
            let with = |tests: &mut std::process::Command| {
                step::without_settings(tests);
                tests.env(ROOT_VARIABLE, &root).env_remove(BROKER_VARIABLE);
                // Small counts: the full ones are tried with this machine's.
                tests.env_remove(LONG_VARIABLE);
            };
            // As they were built for all tests.
            let tests = |name: &str| {
                let mut tests = cargo();
                tests.args(["test", "--no-fail-fast", "--workspace", "--features", TESTED]);
                tests.args(["--test", name]);
                with(&mut tests);
                tests
            };
            let (mut bus, mut promises) = (tests("bus"), tests("reliability"));
            promises.arg("--").args(TESTS);
            // Both, so that one run tells everything that is wrong.
            let (bus, promises) = (step::run(name, &mut bus), step::run(name, &mut promises));
            bus.and(promises)
        });
    }
}
