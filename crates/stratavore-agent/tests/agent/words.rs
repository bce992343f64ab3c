//! What is typed on behalf of others: of one id once, and the word that ends a program before signals do.

use std::time::{Duration, Instant};

use stratavore_core::runner::Cause;
use stratavore_proto::v1::from_agent_socket::Kind;
use stratavore_proto::v1::socket_hello::Wish;
use stratavore_proto::v1::{SendInput, StopAssistant, to_agent};

use crate::daemon::{AGENT, World};
use crate::viewer::Viewer;

fn text(id: &str, data: &str) -> SendInput {
    let data = data.as_bytes().to_vec().into();
    SendInput { data, enter: true, id: id.into(), ..SendInput::default() }
}

async fn wish(world: &World, wish: Wish) -> Result<(), String> {
    let mut viewer = Viewer::connect(world, "daemon", wish).await;
    viewer.welcome().await;
    match viewer.next().await {
        Some(Kind::Done(_)) => Ok(()),
        Some(Kind::Refused(refused)) => Err(refused.why),
        other => panic!("neither done nor refused but {other:?}"),
    }
}

#[tokio::test]
async fn of_one_id_one_text_is_typed_over_upgrades_too() {
    let mut world = World::shell("while read x; do echo got $x; done");
    let mut line = world.launch().await;
    wish(&world, Wish::Send(text("a", "one"))).await.unwrap();
    wish(&world, Wish::Again(text("a", "one"))).await.unwrap();
    wish(&world, Wish::Send(text("a", "one"))).await.unwrap();
    // One whose first try was lost on its way.
    wish(&world, Wish::Again(text("b", "two"))).await.unwrap();
    world.until_recorded("got two").await;
    line.upgrade(AGENT).await;
    let mut line = world.take_in_knowing(1).await.0;
    wish(&world, Wish::Again(text("a", "one"))).await.unwrap();
    wish(&world, Wish::Again(text("b", "two"))).await.unwrap();
    // The control: without an id it is typed whenever it comes.
    wish(&world, Wish::Send(text("", "three"))).await.unwrap();
    wish(&world, Wish::Send(text("", "three"))).await.unwrap();
    let unsure = wish(&world, Wish::Again(text("", "four"))).await.unwrap_err();
    assert!(unsure.contains("cannot tell"), "{unsure}");
    wish(&world, Wish::Send(text("", "last"))).await.unwrap();
    world.until_recorded("got last").await;
    let recorded = world.recorded_text();
    let count = |word: &str| recorded.matches(&format!("got {word}")).count();
    assert_eq!(["one", "two", "three", "four"].map(count), [1, 1, 2, 0], "{recorded}");
    line.kill().await;
}

#[tokio::test]
async fn an_upgrade_waits_for_the_end_of_what_is_being_typed() {
    let mut world = World::shell("while read x; do echo got $x; done");
    let mut line = world.launch().await;
    let typing = wish(&world, Wish::Send(text("a", "one")));
    let upgrading = async {
        // The text is there, and its enter key comes a moment later.
        world.until_recorded("one").await;
        line.upgrade(AGENT).await;
    };
    let (typed, ()) = tokio::join!(typing, upgrading);
    typed.unwrap();
    let mut line = world.take_in_knowing(1).await.0;
    world.until_recorded("got one").await;
    line.kill().await;
}

#[tokio::test]
async fn a_word_ends_a_program_before_a_signal_does() {
    let mut world = World::shell("while read x; do [ \"$x\" = /exit ] && exit 3; done");
    let mut line = world.launch().await;
    let quit = "/exit".to_owned();
    line.say(to_agent::Kind::Stop(StopAssistant { grace_ms: 60_000, quit, ..Default::default() }))
        .await;
    assert_eq!(line.exited().await, Cause::Exit(3));
}

#[tokio::test]
async fn who_does_not_heed_the_word_is_ended_by_a_signal_within_the_grace() {
    let mut world = World::new(&["sleep", "1000"]);
    let mut line = world.launch().await;
    let began = Instant::now();
    let quit = "/exit".to_owned();
    line.say(to_agent::Kind::Stop(StopAssistant { grace_ms: 4000, quit, ..Default::default() }))
        .await;
    assert_eq!(line.exited().await, Cause::Signal(15));
    let took = began.elapsed();
    assert!(took >= Duration::from_secs(1), "the word had its time: {took:?}");
}
