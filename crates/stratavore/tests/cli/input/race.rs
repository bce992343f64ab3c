//! Row 77: a directory that is swapped for a link between the check and its use.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use stratavore_proto::client::Client;
use stratavore_proto::v1::{CreateProject, LaunchRunners, Quota};
use stratavore_testkit::world::{PATIENCE, World};

use stratavore_testkit::trial::{Dice, is_long};
use stratavore_testkit::wire::{client, fresh_key, on_runtime, refusal, wait};

/// Puts a link to `other` in the place of `place` and takes it away again, until told to stop.
fn swap(place: &Path, kept: &Path, other: &Path, over: &AtomicBool) {
    let mut dice = Dice::new();
    let mut pause = || std::thread::sleep(Duration::from_micros(dice.below(2500) as u64));
    while !over.load(Ordering::Relaxed) {
        fs::rename(place, kept).unwrap();
        symlink(other, place).unwrap();
        pause();
        fs::remove_file(place).unwrap();
        fs::rename(kept, place).unwrap();
        pause();
    }
}

/// How many runners have been in a directory.
fn traces(directory: &Path) -> usize {
    let entries = fs::read_dir(directory).unwrap().flatten();
    entries.filter(|entry| entry.file_name().to_string_lossy().starts_with("ran-")).count()
}

/// How one try ended.
enum Outcome {
    Ran,
    /// By the agent, which opened another directory than was meant, or none.
    Stopped,
    /// By the daemon, which had seen a link already, or for a moment nothing at all.
    Refused,
}

async fn launch(client: &Client) -> Outcome {
    let launch = LaunchRunners {
        idempotency_key: fresh_key("race"),
        project: "demo".into(),
        args: ["sh", "-c", "echo > ran-$STRATAVORE_RUNNER_ID"].map(String::from).into(),
        ..LaunchRunners::default()
    };
    let launched = match client.runners().launch(launch).await {
        Ok(launched) => launched.into_inner().runners.remove(0),
        answer => {
            let problem = refusal(answer);
            assert!(["invalid", "not_found"].contains(&&*problem.code), "{problem:?}");
            return Outcome::Refused;
        }
    };
    let ended = wait(client, &launched.id, &[]).await;
    match (ended.state.as_str(), ended.cause) {
        ("exited", _) => Outcome::Ran,
        ("failed", why) if why.contains("is now") || why.contains("does not exist") => {
            Outcome::Stopped
        }
        (state, cause) => panic!("{state}: {cause}"),
    }
}

#[test]
fn a_directory_that_is_swapped_for_a_link_while_runners_start_leads_none_astray() {
    let tries = if is_long() { 10_000 } else { 200 };
    let world = World::new();
    let work = world.work().canonicalize().unwrap();
    let [place, kept, other] = ["place", "kept", "other"].map(|name| work.join(name));
    fs::create_dir(&place).unwrap();
    fs::create_dir(&other).unwrap();
    world.run(["daemon", "start"]).ok();
    let over = AtomicBool::new(false);
    let (mut ran, mut stopped, mut refused) = (0, 0, 0);
    std::thread::scope(|scope| {
        on_runtime(async {
            let client = client(&world).await;
            let create = CreateProject {
                idempotency_key: fresh_key("race"),
                name: "demo".into(),
                directory: place.display().to_string(),
                quota: Some(Quota { runners: 100, ..Quota::default() }),
                ..CreateProject::default()
            };
            client.projects().create(create).await.unwrap();
            scope.spawn(|| swap(&place, &kept, &other, &over));
            while ran + stopped + refused < tries || ran * stopped * refused == 0 {
                let launches = (0..10).map(|_| launch(&client));
                for outcome in join_all(launches).await {
                    match outcome {
                        Outcome::Ran => ran += 1,
                        Outcome::Stopped => stopped += 1,
                        Outcome::Refused => refused += 1,
                    }
                }
            }
        });
        naive_is_led_astray(&place, &other);
        over.store(true, Ordering::Relaxed);
    });
    assert_eq!(traces(&other), 0, "no runner has ever run elsewhere");
    assert_eq!(traces(&place), ran, "all that ran did so in the directory that was meant");
}

/// The control: whoever looks first and then uses the path is led astray by this very racer.
fn naive_is_led_astray(place: &Path, other: &Path) {
    let began = Instant::now();
    let canary = other.join("canary");
    while !canary.exists() {
        assert!(began.elapsed() < PATIENCE, "the racer never wins");
        if place.canonicalize().is_ok_and(|found| found == place) {
            fs::write(place.join("canary"), "").ok();
        }
    }
}
