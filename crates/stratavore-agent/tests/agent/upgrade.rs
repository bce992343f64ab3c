//! Replacing the agent's program while its runner runs.

use stratavore_core::runner::Cause;
use stratavore_proto::v1::Steal;
use stratavore_proto::v1::to_agent_socket;

use crate::daemon::{AGENT, World};
use crate::viewer::{Viewer, attach_wish, poke, screen, send};

#[tokio::test]
async fn an_upgrade_keeps_everything() {
    let script = "printf '\\033]2;title\\007primary\\r\\n\\033[?1049h\\033[?2004h\\033[3;5Hfull'; \
                  while read line; do echo got $line; done; exit 3";
    let mut world = World::shell(script).with(|spec| spec.limits.wall_seconds = Some(100));
    let _first = world.launch().await;
    world.until_recorded("full").await;
    let process = world.dir.agent().unwrap().unwrap().process;
    let identity = poke(&world).await;
    let (mut line, hello) = world.take_in_knowing(1).await;
    assert!(hello.started);
    let before = screen(&world).await;
    for round in 0..3 {
        line.upgrade(AGENT).await;
        let _cut = world.take_in_knowing(1).await.0;
        assert_eq!(poke(&world).await, identity, "the same process");
        line = world.take_in_knowing(1).await.0;
        let after = screen(&world).await;
        if round == 0 {
            assert_eq!(after, before);
        }
        assert_eq!((after.title.as_str(), after.alternate), ("title", true));
        assert_eq!(world.dir.agent().unwrap().unwrap().process, process);
        assert!(world.dir.is_locked().unwrap());
        send(&world, format!("round {round}").as_bytes(), false, true).await.unwrap();
        world.until_recorded(&format!("got round {round}")).await;
        let all = world.recorded().len() as u64;
        assert_eq!(screen(&world).await.offset, all, "offsets go on");
    }
    let mut viewer = Viewer::attach(&world, "me", attach_wish(false, false, 80, 24)).await;
    viewer.say(to_agent_socket::Kind::Steal(Steal {})).await;
    viewer.type_in("\x04").await;
    assert_eq!(line.exited().await, Cause::Exit(3));
    let seqs: Vec<u64> = line.reports.iter().map(|report| report.seq).collect();
    assert_eq!(seqs, [2], "numbers go on");
    assert!(world.agent_gone().await.success());
}

#[tokio::test]
async fn an_upgrade_loses_no_output_and_no_report() {
    let script = "i=0; while [ $i -lt 30000 ]; do echo line $i; i=$((i+1)); done; read x; exit 1";
    let mut world = World::shell(script);
    world.start();
    let mut line = world.take_in().await;
    line.acks = false;
    line.go().await;
    line.started().await;
    for _ in 0..10 {
        line.upgrade(AGENT).await;
        line = world.take_in_knowing(0).await.0;
        line.acks = false;
        line.started().await;
        assert_eq!(line.reports[0].seq, 1, "it was never acknowledged");
    }
    world.until_recorded("line 29999\r\n").await;
    let expected: String = (0..30000).map(|n| format!("line {n}\r\n")).collect();
    assert!(world.recorded() == expected.as_bytes());
    line.kill().await;
    assert_eq!(line.exited().await, Cause::Signal(9));
}

#[tokio::test]
async fn a_program_that_cannot_be_executed_changes_nothing() {
    let mut world = World::shell("while read line; do echo got $line; done");
    let mut line = world.launch().await;
    let mut viewer = Viewer::attach(&world, "me", attach_wish(false, false, 80, 24)).await;
    let bad = world.path("bad");
    std::fs::write(&bad, "not a program").unwrap();
    // One that could be executed, and would not know what to do.
    for program in [bad.to_str().unwrap(), "/no/such/agent", "relative", "/bin/sh"] {
        line.upgrade(program).await;
    }
    viewer.type_in("still here\n").await;
    viewer.until_shown("got still here").await;
    line.heartbeat().await;
    let log = std::fs::read_to_string(world.dir.log()).unwrap();
    assert_eq!(log.matches("this program goes on").count(), 4, "{log}");
    line.kill().await;
    line.exited().await;
    let told = line.failed_upgrades.last().expect("the daemon is told");
    assert_eq!(told, "it is no agent that can take over from this one");
}

#[tokio::test]
async fn a_stop_that_is_under_way_goes_on_after_an_upgrade() {
    let mut world = World::shell("trap '' TERM HUP; echo ready; while :; do sleep 0.01; done");
    let mut line = world.launch().await;
    world.until_recorded("ready").await;
    line.stop(1500).await;
    line.upgrade(AGENT).await;
    let mut line = world.take_in_knowing(1).await.0;
    assert_eq!(line.exited().await, Cause::Signal(9));
}

#[tokio::test]
async fn a_program_that_ends_during_the_upgrade_is_noticed() {
    let mut world = World::shell("read x; exit 8");
    let mut line = world.launch().await;
    send(&world, b"", false, true).await.unwrap();
    line.upgrade(AGENT).await;
    drop(line);
    world.agent_gone().await;
    assert_eq!(world.exit(), Some(Cause::Exit(8)));
}
