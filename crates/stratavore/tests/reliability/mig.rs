//! T-MIG: daemons of two versions share a database. A schema that only adds harms none of them, one
//! that takes away is refused, and a migration that is killed has happened or has not.

use std::collections::BTreeMap;
use std::process::Stdio;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use stratavore_store::testing::schema::{Next, make_kept, make_next, newest};
use stratavore_store::testing::{on_server, sqlite_execute, sqlite_texts};
use stratavore_store::{Database, PoolSettings, Settings};
use stratavore_testkit::before::Before;
use stratavore_testkit::postgres::{TestPostgres, database};
use stratavore_testkit::trial::{Trial, scale};
use stratavore_testkit::wire::on_runtime;
use stratavore_testkit::world::{Ran, World, rows, signal, until};

use crate::quota::{QUOTA, t_quota};

/// A home whose daemon has this database; none: SQLite's.
struct Place {
    world: World,
    server: Option<TestPostgres>,
}

impl Place {
    fn sqlite() -> Self {
        Self { world: World::new(), server: None }
    }

    fn postgres() -> Self {
        let server = database();
        Self {
            world: World::with_config(&server.settings(&server.socket_dir)),
            server: Some(server),
        }
    }

    fn settings(&self) -> Settings {
        let database = match &self.server {
            Some(server) => on_server(server),
            None => {
                let path = self.world.path("state/stratavore.db");
                let state = path.parent().expect("it has a directory");
                std::fs::create_dir_all(state).unwrap();
                let owner = std::os::unix::fs::PermissionsExt::from_mode(0o700);
                std::fs::set_permissions(state, owner).unwrap();
                Database::Sqlite { path }
            }
        };
        Settings { database, pool: PoolSettings::default() }
    }

    fn execute(&self, sql: &str) {
        match &self.server {
            Some(server) => drop(server.query(sql)),
            None => drop(on_runtime(sqlite_execute(&self.world.path("state/stratavore.db"), sql))),
        }
    }

    fn lines(&self, sql: &str) -> Vec<String> {
        match &self.server {
            Some(server) => server.query(sql).lines().map(str::to_owned).collect(),
            None => on_runtime(sqlite_texts(&self.world.path("state/stratavore.db"), sql)),
        }
    }

    /// `stratavored --migrate`, which is to be waited for.
    fn migrate(&self) -> std::process::Child {
        let mut command = self.world.command("stratavored");
        command.arg("--migrate").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().unwrap()
    }

    /// Everything that a migration makes, as the database tells it.
    fn shape(&self) -> Vec<String> {
        let sql = match &self.server {
            Some(_) => {
                "SELECT table_name || '.' || column_name || ' ' || data_type || ' ' || is_nullable
                    || coalesce(column_default, '') FROM information_schema.columns
                    WHERE table_schema = 'public'
                 UNION ALL SELECT indexdef FROM pg_indexes WHERE schemaname = 'public'
                 UNION ALL SELECT pg_get_triggerdef(oid) FROM pg_trigger WHERE NOT tgisinternal
                 UNION ALL SELECT conname || ' ' || pg_get_constraintdef(oid) FROM pg_constraint
                    WHERE connamespace = 'public'::regnamespace
                 UNION ALL SELECT proname || md5(prosrc) FROM pg_proc
                    WHERE pronamespace = 'public'::regnamespace ORDER BY 1"
            }
            None => "SELECT name || ' ' || coalesce(sql, '') FROM sqlite_schema ORDER BY 1",
        };
        self.lines(sql)
    }

    /// The number of the newest migration that counts as applied.
    fn number(&self) -> i64 {
        let number = "SELECT '' || max(version) FROM _sqlx_migrations WHERE success";
        self.lines(number)[0].parse().unwrap()
    }

    /// What was there before, whatever the schema is.
    fn content(&self) -> Vec<String> {
        self.lines(
            "SELECT 'event ' || id || ' ' || position || ' ' || entity_id || ' ' || seq || ' ' || kind || data
             FROM events
             UNION ALL SELECT 'seal ' || position FROM audit_seals
             UNION ALL SELECT 'project ' || name || generation FROM projects ORDER BY 1",
        )
    }

    /// The schema of before, with something in it.
    fn make_older(&self) {
        on_runtime(make_kept(&self.settings()));
        let (time, hash) = match &self.server {
            Some(_) => ("to_timestamp(1)", "'\\x00'::bytea"),
            None => ("1000000", "x'00'"),
        };
        let numbers =
            "WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 3000)";
        self.execute(&format!(
            "INSERT INTO projects (id, name, generation, created_at, updated_at, record)
                VALUES ('prj_1', 'old', 3000, {time}, {time}, '{{}}')"
        ));
        self.execute(&format!(
            "{numbers} INSERT INTO events (id, position, entity, entity_id, name, project_id, seq, kind, at,
                caused_by, data, origin, decision, mac)
             SELECT 'evt_' || n, n, 'project', 'prj_1', 'old', 'prj_1', n, 'project.edited', {time}, 'ada', '{{}}',
                '{{}}', 'allowed', 'x' FROM n"
        ));
        self.execute(&format!(
            "{numbers} INSERT INTO audit_seals (position, hash) SELECT n, {hash} FROM n"
        ));
        self.execute("UPDATE event_positions SET last = 3000 WHERE name = 'events'");
    }

    /// Nobody is connected any more who was killed.
    fn until_alone(&self) {
        let Some(server) = &self.server else { return };
        until("the killed one's connection is gone", || {
            let others = "SELECT count(*) FROM pg_stat_activity
                WHERE datname = current_database() AND application_name = 'stratavore'";
            match server.query(others).as_str() {
                "0" => Ok(()),
                others => Err(others.to_owned()),
            }
        });
    }
}

/// Launch, list, events, and stop, on a daemon that runs.
fn works(world: &World, called: &str) -> Result<(), String> {
    let runner = world.launch("demo", called, &["sleep", "1000"]);
    let listed = world.json(&["runners"]);
    let seen = rows(&listed).iter().any(|row| row["id"] == *runner);
    world.run(["kill", called, "--force"]).ok();
    let ended = world.until_state(&runner, &["exited", "failed", "lost"]);
    let events = until("its end is among the events", || {
        let events = world.json(&["events", "list", "--runner", &runner]);
        let kinds: Vec<String> =
            rows(&events).iter().map(|event| event["kind"].to_string()).collect();
        if kinds.iter().any(|kind| kind.contains("runner.exited")) { Ok(kinds) } else { Err(kinds) }
    });
    let wanted = ["accepted", "starting", "started", "stopping", "exited"];
    let whole = wanted.iter().all(|kind| events.iter().any(|event| event.contains(kind)));
    if seen && whole { Ok(()) } else { Err(format!("{listed}, {ended}, {events:?}")) }
}

fn t_mig_next(place: &Place, trial: &mut Trial) {
    let world = &place.world;
    world.project("demo");
    let stays = world.launch("demo", "stays", &["sleep", "1000"]);
    let process = world.process_of(&stays);
    trial.tried(works(world, "before"));

    let next = on_runtime(make_next(&place.settings(), Next::Expand));
    trial.tried(works(world, "under-its-feet"));
    world.kill_daemon();
    world.run(["daemon", "start"]).ok();
    trial.tried(works(world, "started-on-it"));
    assert_eq!(world.json(&["daemon", "status"])["store"]["schema_version"], next);
    trial.tried(match process.is_alive() && world.runner(&stays)["state"] == "running" {
        true => Ok(()),
        false => Err("the runner of before did not live through it".into()),
    });

    world.run(["daemon", "stop"]).ok();
    let next = on_runtime(make_next(&place.settings(), Next::Contract));
    let refused = world.run(["daemon", "start"]).fails(6).stderr();
    let words = [format!("schema version {next}"), format!("up to {}", newest()), "newer".into()];
    let told = words.iter().all(|word| refused.contains(word));
    trial.control("a schema that takes something away", told);
    assert!(process.is_alive(), "a daemon that cannot start ends no runner");
}

#[test]
fn t_mig_a_daemon_of_today_works_on_the_schema_of_the_next_version() {
    let mut trial =
        Trial::new("T-MIG", "launch, stop, list and events on a schema of the next version");
    for place in [Place::sqlite(), Place::postgres()] {
        t_mig_next(&place, &mut trial);
    }
    trial.end();
}

/// The shapes that the schema has after each migration, by its number.
fn shapes(make: fn() -> Place) -> BTreeMap<i64, Vec<String>> {
    let mut shapes = BTreeMap::new();
    for number in on_runtime(make_kept(&make().settings()))..=newest() {
        let mut place = make();
        on_runtime(make_kept(&place.settings()));
        place.world.set_env("STRATAVORE_TEST_SCHEMA", &number.to_string());
        let mut command = place.world.command("stratavored");
        command.arg("--migrate");
        Ran::of(command).ok();
        shapes.insert(place.number(), place.shape());
    }
    shapes
}

/// Whether the schema is what it was before or after a migration, and all that was there is.
fn whole(
    place: &Place,
    shapes: &BTreeMap<i64, Vec<String>>,
    content: &[String],
) -> Result<i64, String> {
    let number = place.number();
    let (shape, wanted) = (place.shape(), shapes.get(&number));
    if wanted != Some(&shape) {
        let wanted = wanted.cloned().unwrap_or_default();
        let differ: Vec<_> = shape.iter().filter(|line| !wanted.contains(line)).take(5).collect();
        return Err(format!("at {number} the schema is none that a migration leaves: {differ:?}"));
    }
    match place.content() {
        kept if kept == content => Ok(number),
        kept => Err(format!("{} rows of {} are left", kept.len(), content.len())),
    }
}

fn t_mig_killed(make: fn() -> Place, rounds: usize, trial: &mut Trial) {
    let shapes = shapes(make);
    let mut dice = trial.dice();
    let (mut longest, mut cut, mut helped) = (Duration::ZERO, 0, 0);
    for round in 0..=rounds {
        let place = make();
        place.make_older();
        let content = place.content();
        let began = Instant::now();
        let mut first = place.migrate();
        if round == 0 {
            // How long it takes when nobody disturbs it.
            assert!(first.wait().unwrap().success());
            longest = began.elapsed();
            trial.tried(whole(&place, &shapes, &content).map(drop));
            place.execute("CREATE TABLE half_made (id text)");
            let noticed = whole(&place, &shapes, &content).is_err();
            trial.control("a schema that no migration leaves", noticed);
            place.execute("DROP TABLE half_made");
            place.execute("DELETE FROM projects");
            trial.control("a row that is gone", whole(&place, &shapes, &content).is_err());
            continue;
        }
        // Every other time another one waits for it, or comes while it is at it.
        let second = round.is_multiple_of(2).then(|| place.migrate());
        let wait = longest.mul_f64(dice.below(1000) as f64 / 900.0);
        std::thread::sleep(wait.saturating_sub(began.elapsed()));
        let done = first.try_wait().unwrap().is_some();
        signal(first.id(), Signal::KILL);
        first.wait().unwrap();
        cut += u64::from(!done);
        if let Some(second) = second {
            let second = second.wait_with_output().unwrap();
            let said = String::from_utf8_lossy(&second.stderr).into_owned();
            trial.tried(match second.status.success() {
                true => Ok(()),
                false => Err(format!("the one that waited: {said}")),
            });
            helped += u64::from(!done);
        } else {
            place.until_alone();
            trial.tried(whole(&place, &shapes, &content).map(drop));
        }
        let again = place.migrate().wait_with_output().unwrap();
        assert!(again.status.success(), "{}", String::from_utf8_lossy(&again.stderr));
        trial.tried(match whole(&place, &shapes, &content) {
            Ok(number) if number == newest() => Ok(()),
            other => Err(format!("after it was run again: {other:?}")),
        });
        trial.measured("killed after", wait);
    }
    trial.counted("killed before their end", cut);
    trial.counted("of them while another one waited", helped);
    assert!(cut > 0, "none was killed before its end");
}

#[test]
fn t_mig_a_migration_that_is_killed_has_happened_or_has_not_on_sqlite() {
    let mut trial = Trial::new("T-MIG", "a migration of SQLite is killed and run again");
    t_mig_killed(Place::sqlite, scale(6, 50), &mut trial);
    trial.end();
}

#[test]
fn t_mig_a_migration_that_is_killed_has_happened_or_has_not_on_postgresql() {
    let mut trial = Trial::new("T-MIG", "a migration of PostgreSQL is killed and run again");
    t_mig_killed(Place::postgres, scale(6, 50), &mut trial);
    trial.end();
}

/// A daemon of before has made the database, and one of today brings it up to date beside it. Then
/// both launch, and are killed and started again.
#[test]
fn t_mig_daemons_of_two_versions_keep_a_quota_together() {
    let database = database();
    let mut worlds: [World; 2] =
        std::array::from_fn(|_| World::with_config(&database.settings(&database.socket_dir)));
    let before = Before::find(&worlds[0]);
    worlds[0].set_programs(Some(&before.directory));
    // Copies of ours know less of the schema than ours; the real ones do so anyway.
    let older = newest() - 1;
    worlds[0].set_env("STRATAVORE_TEST_SCHEMA", &older.to_string());
    worlds[0].run(["daemon", "start"]).ok();
    let number = || database.query("SELECT max(version) FROM _sqlx_migrations");
    assert!(number().parse::<i64>().unwrap() <= older);
    worlds[1].run(["daemon", "start"]).ok();
    assert_eq!(number(), newest().to_string());
    worlds[0].kill_daemon();
    worlds[0].run(["daemon", "start"]).ok();
    let log = std::fs::read_to_string(worlds[0].path("state/daemon.log")).unwrap();
    assert!(log.contains("the schema is newer, and made for this program too"), "{log}");

    let promise = "daemons of two versions, killed again and again: no more runners than the quota";
    let every = Duration::from_millis(if scale(0, 1) == 0 { 700 } else { 2000 });
    t_quota(Trial::new("T-MIG", promise), QUOTA, &worlds, scale(1, 60), Some(every));
}
