//! An agent that stands still for a while, and a terminal whose size changes all the time.

use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use stratavore_core::runner::Cause;
use stratavore_proto::v1::{Resize, to_agent_socket};
use stratavore_testkit::trial::{Trial, scale};

use crate::daemon::World;
use crate::viewer::{Viewer, attach_wish};
use crate::wait::until;

/// Row 18: its lock says that it lives, and nothing is lost once it goes on.
#[tokio::test]
async fn an_agent_that_was_stopped_goes_on_where_it_was() {
    let script = "i=0; while [ $i -lt 20000 ]; do echo line $i; i=$((i+1)); done; read x; exit 9";
    let mut world = World::shell(script);
    let mut line = world.launch().await;
    let agent = Pid::from_raw(world.agent_pid().cast_signed()).unwrap();
    for _ in 0..scale(3, 50) {
        kill_process(agent, Signal::STOP).unwrap();
        let stat = format!("/proc/{}/stat", world.agent_pid());
        until("the agent to stand still", || {
            let text = std::fs::read_to_string(&stat).unwrap();
            if text.contains(") T ") { Ok(()) } else { Err(text) }
        })
        .await;
        assert!(world.dir.is_locked().unwrap(), "whoever stands still is not dead");
        let recorded = world.recorded().len();
        // The program fills its terminal, and waits.
        assert_eq!(world.recorded().len(), recorded);
        kill_process(agent, Signal::CONT).unwrap();
        line.heartbeat().await;
    }
    world.until_recorded("line 19999\r\n").await;
    let expected: String = (0..20000).map(|n| format!("line {n}\r\n")).collect();
    assert!(world.recorded() == expected.as_bytes());
    crate::viewer::send(&world, b"", false, true).await.unwrap();
    assert_eq!(line.exited().await, Cause::Exit(9));
}

/// Gives a terminal 1,000 sizes in a second. Answers how often the program was told, and how often a
/// viewer, or that either was more often than 20 times a second.
async fn storm(failpoints: Option<&'static str>) -> Result<[u64; 2], String> {
    let script = "n=0; trap 'n=$((n+1))' WINCH; echo ready; \
                  while ! read x; do :; done; echo \"<$n times>\" \"<$(stty size)>\"; read x";
    let mut world = World::shell(script);
    world.failpoints = failpoints;
    let mut line = world.launch().await;
    world.until_recorded("ready").await;
    let mut viewer = Viewer::attach(&world, "me", attach_wish(false, false, 80, 24)).await;
    let mut watcher = Viewer::attach(&world, "watcher", attach_wish(true, false, 1, 1)).await;
    let began = Instant::now();
    let mut ticks = tokio::time::interval(Duration::from_millis(1));
    for n in 0..1000 {
        ticks.tick().await;
        let size = Resize { columns: 40 + n % 100, rows: 10 + n % 30 };
        viewer.say(to_agent_socket::Kind::Resize(size)).await;
    }
    let last = Resize { columns: 77, rows: 33 };
    viewer.say(to_agent_socket::Kind::Resize(last)).await;
    watcher.until("the last size", |viewer| viewer.size() == (77, 33)).await;
    let took = began.elapsed();
    viewer.type_in("\n").await;
    world.until_recorded("times>").await;
    world.until_recorded("<33 77>").await;
    let text = world.recorded_text();
    let times: u64 = text
        .split_once("<")
        .and_then(|(_, rest)| rest.split_once(" times>"))
        .and_then(|(n, _)| n.parse().ok())
        .expect("a number of times");
    line.kill().await;
    line.exited().await;
    let bound = took.as_millis() as u64 / 50 + 2;
    let both = [times, u64::from(watcher.sizes)];
    if both.iter().all(|seen| *seen <= bound) {
        Ok(both)
    } else {
        Err(format!("{both:?} of {bound}"))
    }
}

/// Row 29.
#[tokio::test]
async fn row_29_a_storm_of_sizes_changes_the_terminal_rarely_and_the_last_one_holds() {
    let mut trial = Trial::new(
        "row 29",
        "1,000 sizes a second change a terminal at most 20 times, the last wins",
    );
    for _ in 0..scale(1, 20) {
        let held = storm(None).await;
        if let Ok([times, sizes]) = held {
            trial.counted("signals", times);
            trial.counted("sizes a viewer saw", sizes);
        }
        trial.tried(held.map(drop));
    }
    let caught = storm(Some("coalescing=off")).await.is_err();
    trial.control("an agent that follows every size", caught);
    trial.end();
}
