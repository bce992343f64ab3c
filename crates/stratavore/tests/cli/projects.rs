//! Projects as they are changed by several people at once.

use serde_json::json;
use stratavore_testkit::world::{World, until};

#[test]
fn edits_of_different_limits_at_the_same_time_all_hold() {
    let world = World::new();
    world.project("demo");
    let edits = [
        ["--quota-runners", "7"],
        ["--quota-memory", "8GiB"],
        ["--quota-cpu", "4"],
        ["--quota-pids", "500"],
        ["--quota-wall", "8h"],
        ["--memory", "1GiB"],
        ["--pids", "50"],
    ];
    std::thread::scope(|scope| {
        for edit in edits {
            let world = &world;
            scope.spawn(move || world.run(["projects", "edit", "demo", edit[0], edit[1]]).ok());
        }
    });
    let project = world.json(&["projects", "show", "demo"]);
    let quota = json!({
        "runners": 7,
        "memory": 8_u64 << 30,
        "cpu": 4.0,
        "pids": 500,
        "wall_seconds": 8 * 3600,
    });
    assert_eq!(project["quota"], quota);
    assert_eq!(project["runner_limits"]["memory"], 1 << 30);
    assert_eq!(project["runner_limits"]["pids"], 50);

    world.run(["projects", "edit", "demo", "--quota-memory", "none"]).ok();
    // Its event tells what was changed, and nothing of what was not.
    let edited = until("it is told", || {
        let events = world.json(&["events", "--kind", "project.edited", "--limit", "1"]);
        let data = events[0]["data"].clone();
        if data["quota"] == json!({ "memory": 0 }) { Ok(data) } else { Err(data) }
    });
    assert_eq!(edited, json!({ "quota": { "memory": 0 }, "runner_limits": {} }));
    let project = world.json(&["projects", "show", "demo"]);
    assert_eq!(project["quota"]["memory"], json!(null));
    assert_eq!(project["quota"]["pids"], 500);
}
