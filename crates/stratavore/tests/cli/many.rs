//! Lists of runners that are longer than one message may be.

use prost::Message;
use stratavore_proto::v1::{LaunchRunners, ListRunners, Runner};
use stratavore_testkit::wire::{all_runners, client, fresh_key, new_runner, on_runtime, refusal};
use stratavore_testkit::world::{World, rows};

/// What gRPC's clients take unless they are told otherwise.
const MESSAGE: usize = 4 << 20;
const COUNT: u32 = 60;
const LONG: usize = 100_000;

fn launch(args: Vec<String>, count: u32) -> LaunchRunners {
    LaunchRunners { args, count, ..new_runner("demo", fresh_key("many")) }
}

fn bytes(runners: &[Runner]) -> usize {
    runners.iter().map(Message::encoded_len).sum()
}

#[test]
fn many_runners_with_long_arguments_are_listed_page_by_page() {
    let world = World::new();
    world.project("demo");
    world.run(["projects", "edit", "demo", "--quota-runners", "100"]).ok();
    on_runtime(async {
        let client = client(&world).await;
        let request = launch(vec!["true".into(), "x".repeat(LONG)], COUNT);
        let launched = client.runners().launch(request).await.expect("they are launched");
        let launched = launched.into_inner().runners;
        assert_eq!(launched.len(), COUNT as usize);
        assert!(bytes(&launched) < MESSAGE && launched.iter().any(|runner| runner.shortened));

        // The control: as one message the list would be too long for a client.
        let listed = all_runners(&client).await;
        assert!(bytes(&listed) > MESSAGE, "{}", bytes(&listed));
        let mut ids: Vec<&str> = listed.iter().map(|runner| runner.id.as_str()).collect();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), COUNT as usize, "each is listed once");
        assert!(listed.iter().all(|runner| runner.argv[1].len() == LONG));

        let list = ListRunners { all: true, limit: 10, ..ListRunners::default() };
        let page = client.runners().list(list).await.unwrap().into_inner();
        assert_eq!((page.runners.len(), &page.next), (10, &page.runners[9].id));
    });
    let listed = world.json(&["runners", "--all"]);
    assert_eq!(rows(&listed).len(), COUNT as usize);
    assert_eq!(rows(&world.json(&["runners", "--all", "--limit", "45"])).len(), 45);
    world.run(["status"]).ok();
    world.run(["kill", "--all", "--force"]).ok();
    world.run(["events", "list", "--limit", "500"]).ok();
}

#[test]
fn what_does_not_fit_into_one_message_is_refused_at_the_launch() {
    let world = World::new();
    world.project("demo");
    on_runtime(async {
        let client = client(&world).await;
        let args = [vec!["true".into()], vec!["x".repeat(LONG); 2]].concat();
        let refused = refusal(client.runners().launch(launch(args, 1)).await);
        assert!(refused.message.contains("bytes of arguments and variables"), "{refused:?}");
        assert!(refused.message.contains("over the limit of 131072"), "{refused:?}");
        assert!(all_runners(&client).await.is_empty());
    });
}

#[test]
fn a_variable_that_the_daemon_does_not_have_is_named_and_nothing_is_launched() {
    let world = World::new();
    world.project("demo");
    let launch = ["launch", "--project", "demo", "--env", "T=env:UNSET_HERE", "--", "true"];
    let said = world.run(launch).fails(2).stderr();
    assert!(said.contains("T refers to UNSET_HERE"), "{said}");
    assert!(rows(&world.json(&["runners", "--all"])).is_empty());
}
