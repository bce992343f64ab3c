//! T-IDEM, the harder half: answers are lost at every byte, between the database and the daemon and
//! between the daemon and the client. Who asks again with the key, whichever daemon, finds the one
//! thing that was made.

use std::time::{Duration, Instant};

use stratavore_proto::client::{Client, problem};
use stratavore_proto::v1::{LaunchRunners, PauseRunner, RestartRunner, Runner, StopRunner};
use stratavore_testkit::postgres::{TestPostgres, database};
use stratavore_testkit::proxy::{Ambush, Proxy, Strike, Way};
use stratavore_testkit::trace::Process;
use stratavore_testkit::trial::{Trial, scale};
use stratavore_testkit::wire::{
    client, fresh_key, kill, new_project, new_runner, on_runtime, wait,
};
use stratavore_testkit::world::{PATIENCE, World, until_within};
use tonic::{Response, Status};

use crate::idem::{recorded, recorded_project};
use crate::quota;

/// The longest answer to COMMIT: its name and that no transaction is open any more.
const COMMITTED: usize = 18;
/// The longest one to the statement that admits a launch, and is its own transaction: that it is bound, how many
/// rows it has written, and that no transaction is open.
const ADMITTED: usize = 27;
/// Stands in the record of a runner that is launched without a key.
const KEYLESS: &str = "keyless-launch";
/// More bytes than a daemon sends until it has answered a launch.
const ANSWERED: usize = 700;

/// Asks for a project or a runner; answers all that is said of what was made, or the problem's code.
async fn ask(client: &Client, world: &World, launches: bool, key: &str) -> Result<String, String> {
    let answer = if launches {
        // What comes after `true` tells its statement from others on the way to the database.
        let mark = if key.is_empty() { KEYLESS } else { key };
        let args = vec!["true".into(), mark.into()];
        let launch = LaunchRunners { args, ..new_runner("demo", key.into()) };
        let launched = client.runners().launch(launch).await;
        launched.map(|list| format!("{:?}", recorded(&list.into_inner().runners[0])))
    } else {
        let name = if key.is_empty() { fresh_key("keyless") } else { format!("p-{key}") };
        let project = new_project(world, &name, key.into());
        let created = client.projects().create(project).await;
        created.map(|project| format!("{:?}", recorded_project(&project.into_inner())))
    };
    answer.map_err(|status| problem(&status).code)
}

/// The same of the daemon of `by`, until it is answered. What is refused otherwise than for an outage is answered at once.
async fn insist(by: &World, world: &World, launches: bool, key: &str) -> Result<String, String> {
    let began = Instant::now();
    loop {
        let answer = match Client::connect(&by.path("run/d.sock")).await {
            Ok(client) => ask(&client, world, launches, key).await,
            Err(error) => Err(error.to_string()),
        };
        match answer {
            Err(code) if code == "store_unavailable" && began.elapsed().as_secs() < 20 => {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            answer => return answer,
        }
    }
}

#[test]
fn t_idem_a_lost_answer_is_found_again_by_its_key() {
    let mut trial = Trial::new("T-IDEM", "lost answers: one thing for each key, answered alike");
    let mut dice = trial.dice();
    let database = database();
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join(database.socket().file_name().unwrap());
    let to_database = Proxy::unix(&socket, &database.socket());
    // The first one's ways are bad; the others share its database.
    let worlds = [directory.path(), &database.socket_dir, &database.socket_dir]
        .map(|way| World::with_config(&database.settings(way)));
    worlds[0].project("demo");
    for world in &worlds[1..] {
        world.run(["daemon", "start"]).ok();
    }
    let door = directory.path().join("d.sock");
    let to_daemon = Proxy::unix(&door, &worlds[0].path("run/d.sock"));

    let (mut lost, mut launched, mut keys) = (0, 0, 0);
    // In the full count a thousand answers of the database are cut.
    for _ in 0..scale(50, 1500) {
        let launches = dice.below(4) == 0;
        let key = fresh_key("lost");
        let strike = if dice.below(12) == 0 { Strike::Silence } else { Strike::Cut };
        if dice.below(3) == 0 {
            let bytes = dice.below(ANSWERED);
            to_daemon.lay(Ambush { after: vec![], way: Way::Down, bytes, then: Strike::Cut });
        } else {
            let (after, longest) = match launches {
                true => (key.clone().into_bytes(), ADMITTED),
                false => (b"COMMIT".to_vec(), COMMITTED),
            };
            let bytes = dice.below(longest);
            to_database.lay(Ambush { after, way: Way::Down, bytes, then: strike });
        }
        let answers = on_runtime(async {
            let first = match Client::connect(&door).await {
                Ok(client) => ask(&client, &worlds[0], launches, &key).await,
                Err(error) => Err(error.to_string()),
            };
            to_database.lift();
            to_daemon.lift();
            let by = &worlds[dice.below(3)];
            let again = insist(by, &worlds[0], launches, &key).await;
            [first, again, insist(&worlds[0], &worlds[0], launches, &key).await]
        });
        lost += u64::from(answers[0].is_err());
        (launched, keys) = (launched + usize::from(launches), keys + 1);
        let [first, again, last] = &answers;
        let alike = again.is_ok() && again == last && (first.is_err() || first == again);
        trial.tried(if alike { Ok(()) } else { Err(format!("{key}: {answers:#?}")) });
    }
    let count = |rows: &str| database.query(&format!("SELECT count(*) FROM {rows}"));
    let counted = [
        count("runners"),
        count("projects WHERE name <> 'demo'"),
        count("idempotency_records WHERE key LIKE 'lost-%'"),
    ];
    let wanted = [launched, keys - launched, keys].map(|n: usize| n.to_string());
    trial.tried(match counted == wanted {
        true => Ok(()),
        false => Err(format!("{counted:?} runners, projects, records instead of {wanted:?}")),
    });
    trial.counted("answers lost", lost);
    trial.counted("answers of the database struck", to_database.struck());
    trial.counted("answers of the daemon struck", to_daemon.struck());
    trial.control("answers that are lost at all", lost > 0);

    // The control: an answer is lost, and asked for again without a key it happens twice.
    let (after, way) = (KEYLESS.as_bytes().to_vec(), Way::Down);
    to_database.lay(Ambush { after, way, bytes: 0, then: Strike::Cut });
    on_runtime(async {
        let client = Client::connect(&worlds[0].path("run/d.sock")).await.unwrap();
        ask(&client, &worlds[0], true, "").await.expect_err("its answer is lost");
        insist(&worlds[1], &worlds[0], true, "").await.unwrap();
    });
    trial.control("a retry without its key", count("runners") == (launched + 2).to_string());
    trial.end();
}

/// What is asked of a runner that is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Deed {
    Stop,
    Pause,
    Restart,
}

/// What was committed is acted on so soon after it is asked again: well before the next look at all runners, which
/// is a minute after the last one.
const ACTED: Duration = Duration::from_secs(15);

impl Deed {
    async fn ask(
        self,
        client: &Client,
        runner: &str,
        key: &str,
    ) -> Result<Response<Runner>, Status> {
        let (idempotency_key, runner, force) = (key.to_owned(), runner.to_owned(), true);
        let mut runners = client.runners();
        match self {
            Deed::Stop => {
                let stop = StopRunner { idempotency_key, runner, force, ..StopRunner::default() };
                runners.stop(stop).await
            }
            Deed::Pause => {
                let paused = true;
                let pause =
                    PauseRunner { idempotency_key, runner, paused, ..PauseRunner::default() };
                runners.pause(pause).await
            }
            Deed::Restart => {
                let restart =
                    RestartRunner { idempotency_key, runner, force, ..RestartRunner::default() };
                runners.restart(restart).await
            }
        }
    }

    /// Whether it has come about, by the kernel. `before` is the process that was there.
    fn is_done(self, now: &[Process], before: Process) -> bool {
        match (self, now) {
            (Deed::Stop, now) => now.is_empty(),
            (Deed::Pause, [process]) => process.is_held(),
            (Deed::Restart, [process]) => *process != before,
            (_, _) => false,
        }
    }
}

/// Asks for `deed` so that it is committed and the daemon does not hear of it. Answers the runner's process before,
/// or nothing if the commit that was struck was another one.
async fn committed_unheard(
    world: &World,
    wire: &Proxy,
    database: &TestPostgres,
    deed: Deed,
    key: &str,
) -> (String, Option<Process>) {
    let client = client(world).await;
    let launched = client.runners().launch(new_runner("demo", fresh_key("acted"))).await;
    let runner = launched.expect("it is launched").into_inner().runners.remove(0).id;
    wait(&client, &runner, &["running"]).await;
    let process = processes(world, &runner)[0];
    wire.lay(Ambush { after: b"COMMIT".into(), way: Way::Down, bytes: 0, then: Strike::Cut });
    let first = deed.ask(&client, &runner, key).await;
    wire.lift();
    let records = format!("SELECT count(*) FROM idempotency_records WHERE key = '{key}'");
    let is_committed = database.query(&records) == "1";
    let unheard = first.is_err_and(|status| problem(&status).code == "store_unavailable");
    (runner, (unheard && is_committed).then_some(process))
}

fn processes(world: &World, runner: &str) -> Vec<Process> {
    world.processes_of(runner).into_iter().filter_map(Process::of).collect()
}

/// How long it took until the kernel shows what was asked for.
fn acted(world: &World, runner: &str, deed: Deed, before: Process) -> Duration {
    let began = Instant::now();
    until_within(4 * PATIENCE, "what was asked for is done", || match processes(world, runner) {
        now if deed.is_done(&now, before) => Ok(()),
        now => Err((deed, now)),
    });
    began.elapsed()
}

/// The daemon does not learn that its commit went well, and does nothing of what was asked for; it does it when it
/// is asked again, or sees that its database is back.
#[test]
fn t_idem_what_was_committed_unheard_is_acted_on_when_it_is_asked_again() {
    const PROMISE: &str =
        "a stop, pause or restart that was committed unheard is acted on when it is asked again";
    let mut trial = Trial::new("T-IDEM", PROMISE);
    let database = database();
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join(database.socket().file_name().unwrap());
    let wire = Proxy::unix(&socket, &database.socket());
    let world = World::with_config(&database.settings(directory.path()));
    world.project("demo");
    // Of what is wished already, another one who wishes it is as good.
    let deeds = [Deed::Stop, Deed::Pause, Deed::Restart];
    let ways = deeds.into_iter().flat_map(|deed| [(deed, true), (deed, false)]);
    let mut idle = 0;
    for (deed, same_key) in ways.cycle().take(scale(6, 120)) {
        let (key, runner, before) = (0..10)
            .find_map(|_| {
                let key = fresh_key("unheard");
                let (runner, before) =
                    on_runtime(committed_unheard(&world, &wire, &database, deed, &key));
                let Some(before) = before else {
                    on_runtime(async { kill(&client(&world).await, &runner).await });
                    return None;
                };
                Some((key, runner, before))
            })
            .expect("one of ten strikes hits the commit that it is laid for");
        idle += usize::from(!deed.is_done(&processes(&world, &runner), before));
        let again = if same_key { key } else { fresh_key("another") };
        let ask = async |client| deed.ask(&client, &runner, &again).await;
        let answer = on_runtime(quota::insist(&world, ask));
        let concerned = answer.expect("it is answered").id;
        let took = acted(&world, &concerned, deed, before);
        trial.measured("done after it was asked again", took);
        trial.tried(match took {
            took if took <= ACTED => Ok(()),
            took => Err(format!("{deed:?}, same key {same_key}: done after {took:?}")),
        });
        on_runtime(async { kill(&client(&world).await, &concerned).await });
    }
    trial.control("what nobody has asked for again is not done yet", idle > 0);
    trial.end();
}
