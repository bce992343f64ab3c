//! Agents that know further daemons: they go there when their own is away, and back, and what was not
//! acknowledged goes with them.

use stratavore_core::runner::Cause;
use stratavore_proto::unix;

use crate::daemon::{Line, World};

/// The numbers of the reports that came over a line.
fn numbers(line: &Line) -> Vec<u64> {
    line.reports.iter().map(|report| report.seq).collect()
}

#[tokio::test]
async fn an_agent_whose_daemon_goes_away_loses_and_doubles_nothing_at_the_next() {
    let mut world = World::shell("read line; exit 3");
    let (nobody, further) = (world.path("nobody.sock"), world.path("further.sock"));
    world.spec.agents_sockets = vec![nobody, further.clone()];
    let second = unix::listen(&further).unwrap();
    world.start();
    let mut line = world.take_in().await;
    line.acks = false;
    line.go().await;
    line.started().await;
    world.daemon_down();
    drop(line);

    // What its own daemon has not acknowledged comes here, and is asked for once.
    let (mut line, hello) = world.take_in_at(&second, 0).await;
    assert!(hello.started && hello.join_token.is_empty());
    line.started().await;
    assert_eq!(numbers(&line), [1]);
    line.heartbeat().await;
    crate::viewer::send(&world, b"go on", false, true).await.unwrap();
    line.acks = false;
    assert_eq!(line.exited().await, Cause::Exit(3));
    assert_eq!(numbers(&line), [1, 2]);

    // And back: its own daemon knows the first one by what both keep in one database.
    world.daemon_up();
    drop((line, second));
    let (mut line, _) = world.take_in_knowing(1).await;
    assert_eq!(line.exited().await, Cause::Exit(3));
    assert_eq!(numbers(&line), [2]);
    world.agent_gone().await;
}

/// The control: what a daemon does not say that it has is sent again.
#[tokio::test]
async fn a_daemon_that_forgets_is_told_again_and_one_that_is_there_is_dialled_first() {
    let mut world = World::shell("read line; exit 3");
    let further = world.path("further.sock");
    world.spec.agents_sockets = vec![further.clone()];
    let second = unix::listen(&further).unwrap();
    let line = world.launch().await;
    drop(line);
    // Its own daemon is there, so it comes back and not to the other one.
    let (line, _) = world.take_in_knowing(1).await;
    crate::viewer::send(&world, b"go on", false, true).await.unwrap();
    world.daemon_down();
    drop(line);
    let (mut line, _) = world.take_in_at(&second, 0).await;
    assert_eq!(line.exited().await, Cause::Exit(3));
    assert_eq!(numbers(&line), [2], "the first was acknowledged, and is kept no longer");
    world.agent_gone().await;
}
