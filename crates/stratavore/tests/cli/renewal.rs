//! Certificates of nodes are renewed while what goes over them goes on; and what it comes to if nobody
//! signs any more.

use std::fs;
use std::time::Duration;

use stratavore_testkit::hosts::Hosts;
use stratavore_testkit::world::{World, until};

/// A certificate's life here, and how old it is when it is renewed.
const LIFE: Duration = Duration::from_secs(6);
const TIMES: &str = "node_life=6s,renew_after=1s";
const ECHO: [&str; 3] = ["sh", "-c", "while read line; do echo \"you said: $line\"; done"];

fn certificate(world: &World) -> Vec<u8> {
    fs::read(world.path("state/tls/certificate.pem")).unwrap()
}

/// A certificate counts in whole seconds, and is good through the last one of them.
const SECONDS: Duration = Duration::from_secs(2);

/// How long its certificate is good still, by the times of files.
fn left(world: &World) -> Duration {
    let now = world.path("now");
    fs::write(&now, "").unwrap();
    let [written, now] = [world.path("state/tls/certificate.pem"), now]
        .map(|path| fs::metadata(path).unwrap().modified().unwrap());
    (written + LIFE + SECONDS).duration_since(now).unwrap_or_default()
}

#[test]
fn certificates_are_renewed_and_connections_go_on() {
    let hosts = Hosts::joined_with_times(&["labels: []", "labels: []", "labels: []"], TIMES);
    let [signs, one, two] = &hosts.worlds[..] else { panic!("three hosts") };
    let first: Vec<_> = hosts.worlds.iter().map(certificate).collect();
    one.project("p");
    hosts.launch("near", &["--node", &hosts.id(1)], &ECHO).ok();
    hosts.launch("far", &["--node", &hosts.id(2)], &ECHO).ok();
    one.until_state("far", &["running"]);
    one.until_state("near", &["running"]);
    let mut screen = one.terminal(&["attach", "far"], 24, 80);
    screen.type_line("first");
    screen.until_text("you said: first");
    until("all certificates are renewed", || {
        let same =
            hosts.worlds.iter().zip(&first).filter(|(world, old)| certificate(world) == **old);
        match same.count() {
            0 => Ok(()),
            left => Err(left),
        }
    });
    screen.type_line("second");
    screen.until_text("you said: second");

    // Nobody signs any more, and what was signed is over.
    signs.kill_daemon();
    until("the last certificates are over", || {
        let left = left(one).max(left(two));
        if left.is_zero() { Ok(()) } else { Err(left) }
    });
    // A connection that stands is not cut. No other is made.
    screen.type_line("third");
    screen.until_text("you said: third");
    let refused = two.run(["send", "near", "too late"]).fails(6).everything();
    assert!(refused.contains("cannot be reached"), "{refused}");

    // With a new token they are let in again.
    signs.run(["daemon", "start"]).ok();
    for world in [one, two] {
        hosts.join(world, &hosts.token()).ok();
    }
    two.run(["send", "near", "again"]).ok();
}
