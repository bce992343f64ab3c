//! What became of runners, written down by the database itself and by an observer of the kernel,
//! and judged by the rules as they stand here once more.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;

use stratavore_store::testing::{sqlite_execute, sqlite_texts};
use stratavore_testkit::postgres::TestPostgres;
use stratavore_testkit::trace::Process;
use stratavore_testkit::wire::on_runtime;
use stratavore_testkit::world::processes;

/// The daemons' database.
pub(crate) enum Database {
    Postgres(TestPostgres),
    Sqlite(PathBuf),
}

impl Database {
    /// What a query answers that has one text for each row, a line each.
    pub(crate) fn rows(&self, sql: &str) -> String {
        match self {
            Self::Postgres(database) => database.query(sql),
            Self::Sqlite(file) => on_runtime(sqlite_texts(file, sql)).join("\n"),
        }
    }

    fn change(&self, sql: &str) {
        match self {
            Self::Postgres(database) => drop(database.query(sql)),
            Self::Sqlite(file) => drop(on_runtime(sqlite_execute(file, sql))),
        }
    }

    /// Lets it write down every state that a runner is given, whoever gives it.
    pub(crate) fn observe(&self) {
        let seen = "INSERT INTO observed (runner, state, epoch, generation)
            VALUES (NEW.id, NEW.state, NEW.epoch, NEW.generation)";
        self.change(&match self {
            Self::Postgres(_) => format!(
                "CREATE TABLE observed (n bigserial PRIMARY KEY, runner text, state text,
                    epoch bigint, generation bigint);
                CREATE FUNCTION observe() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                    {seen}; RETURN NULL;
                END $$;
                CREATE TRIGGER observe AFTER INSERT OR UPDATE ON runners FOR EACH ROW
                    EXECUTE FUNCTION observe()"
            ),
            Self::Sqlite(_) => format!(
                "CREATE TABLE observed (n INTEGER PRIMARY KEY, runner TEXT, state TEXT,
                    epoch INTEGER, generation INTEGER);
                CREATE TRIGGER observe_new AFTER INSERT ON runners BEGIN {seen}; END;
                CREATE TRIGGER observe_changed AFTER UPDATE ON runners BEGIN {seen}; END"
            ),
        });
    }

    /// Takes away what keeps an end from being changed, and changes it.
    pub(crate) fn live_again(&self, runner: &str) {
        let unlock = match self {
            Self::Postgres(_) => "ALTER TABLE runners DISABLE TRIGGER runners_terminal",
            Self::Sqlite(_) => "DROP TRIGGER runners_terminal",
        };
        self.change(&format!(
            "{unlock}; UPDATE runners SET state = 'running', ended_at = NULL,
                generation = generation + 1 WHERE id = '{runner}'"
        ));
    }

    /// Takes away what keeps events from being deleted, and deletes those of one kind.
    pub(crate) fn forget(&self, runner: &str, kind: &str) {
        let unlock = match self {
            Self::Postgres(_) => "SET session_replication_role = replica",
            Self::Sqlite(_) => "DROP TRIGGER events_kept; PRAGMA foreign_keys = off",
        };
        self.change(&format!(
            "{unlock}; DELETE FROM events WHERE entity_id = '{runner}' AND kind = '{kind}'"
        ));
    }

    pub(crate) fn count(&self, of: &str) -> i64 {
        number(&self.rows(&format!("SELECT '' || count(*) FROM {of}")))
    }
}

const ENDS: [&str; 3] = ["exited", "failed", "lost"];

/// Whether each runner was given one generation after the other, no earlier epoch, and nothing any
/// more once it had ended. Answers how many states were given in all.
pub(crate) fn ends_are_final(database: &Database) -> Result<usize, String> {
    let rows = "SELECT runner || '|' || state || '|' || epoch || '|' || generation
        FROM observed ORDER BY n";
    let rows = database.rows(rows);
    let mut last: BTreeMap<&str, (&str, i64, i64)> = BTreeMap::new();
    for row in rows.lines() {
        let [runner, state, epoch, generation] = fields(row);
        let now = (state, number(epoch), number(generation));
        let fits = match last.insert(runner, now) {
            None => now == ("pending", 1, 1),
            Some((before, epoch, generation)) => {
                !ENDS.contains(&before) && now.1 >= epoch && now.2 == generation + 1
            }
        };
        if !fits {
            return Err(format!("{runner} became {now:?}: {}", of(&rows, runner)));
        }
    }
    Ok(rows.lines().count())
}

/// Whether the events of each runner, in their order, are a way through the states of its life.
/// Answers how many steps there were.
pub(crate) fn events_are_a_path(database: &Database) -> Result<usize, String> {
    let data = match database {
        Database::Postgres(_) => "data::json",
        Database::Sqlite(_) => "data",
    };
    let rows = database.rows(&format!(
        "SELECT entity_id || '|' || seq || '|' || kind || '|' || ({data} ->> 'state') || '|'
            || ({data} ->> 'epoch')
        FROM events WHERE entity = 'runner' ORDER BY entity_id, seq"
    ));
    let mut at: BTreeMap<&str, (i64, &str, i64)> = BTreeMap::new();
    for row in rows.lines() {
        let [runner, seq, kind, state, epoch] = fields(row);
        let (seq, epoch) = (number(seq), number(epoch));
        let before = at.insert(runner, (seq, state, epoch));
        let follows = before.map_or(seq == 1, |(before, ..)| seq == before + 1);
        let before = before.map(|(_, state, epoch)| (state, epoch));
        if !follows || !is_a_step(before, kind, (state, epoch)) {
            let kind = format!("{before:?} {kind} ({state}, {epoch})");
            return Err(format!("{runner}: {kind}: {}", of(&rows, runner)));
        }
    }
    Ok(rows.lines().count())
}

/// The rules of a runner's life, once more and in other words.
fn is_a_step(before: Option<(&str, i64)>, kind: &str, after: (&str, i64)) -> bool {
    let Some(before) = before else {
        return kind == "runner.accepted" && after == ("pending", 1);
    };
    let lives = !ENDS.contains(&before.0);
    let same_epoch = before.1 == after.1;
    lives
        && match (before.0, kind, after.0) {
            ("pending", "runner.starting", "starting")
            | ("starting", "runner.started", "running")
            | ("stopping", "runner.started", "stopping")
            | ("running", "runner.unresponsive", "unresponsive")
            | ("unresponsive", "runner.responsive", "running") => same_epoch,
            (
                "starting" | "running" | "unresponsive" | "stopping",
                "runner.stopping",
                "stopping",
            ) => same_epoch,
            // A planned restart that is brought forward.
            ("pending", "runner.restarting", "pending") if same_epoch => true,
            (_, "runner.restarting", "pending") => after.1 == before.1 + 1,
            (_, "runner.exited", "exited")
            | (_, "runner.failed", "failed")
            | (_, "runner.lost", "lost") => same_epoch,
            (
                state,
                "runner.paused"
                | "runner.unpaused"
                | "runner.activity"
                | "runner.output_gap"
                | "runner.limits_not_enforced",
                next,
            ) => same_epoch && state == next,
            _ => false,
        }
}

fn fields<const N: usize>(row: &str) -> [&str; N] {
    let fields: Vec<&str> = row.split('|').collect();
    fields.try_into().unwrap_or_else(|fields| panic!("{N} fields, not {fields:?}"))
}

fn number(text: &str) -> i64 {
    text.parse().unwrap_or_else(|_| panic!("{text:?} is no number"))
}

/// The rows of one runner.
fn of(rows: &str, runner: &str) -> String {
    rows.lines().filter(|row| row.contains(runner)).collect::<Vec<_>>().join("; ")
}

/// The processes of runners that were alive at the same moment, moment by moment.
#[derive(Debug, Default)]
pub(crate) struct Moments {
    seen: BTreeSet<BTreeMap<String, BTreeSet<Process>>>,
    pub(crate) looks: u64,
}

impl Moments {
    /// Looks at what carries `mark` now.
    pub(crate) fn look(&mut self, mark: &str) {
        let mut found = Vec::new();
        for pid in processes() {
            let process = Process::of(pid);
            let environ = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            let mut entries = environ.split(|byte| *byte == 0).map(String::from_utf8_lossy);
            if !entries.clone().any(|entry| entry == mark) {
                continue;
            }
            let runner = entries
                .find_map(|entry| entry.strip_prefix("STRATAVORE_RUNNER_ID=").map(str::to_owned));
            found.extend(runner.zip(process));
        }
        // A look takes a while: only what lives still has lived all at the same time.
        let mut now: BTreeMap<String, BTreeSet<Process>> = BTreeMap::new();
        for (runner, process) in found.into_iter().filter(|(_, process)| process.is_alive()) {
            now.entry(runner).or_default().insert(process);
        }
        self.looks += 1;
        self.seen.insert(now);
    }

    /// All processes that were ever seen.
    pub(crate) fn processes(&self) -> usize {
        let all = self.seen.iter().flat_map(|moment| moment.values().flatten());
        all.collect::<BTreeSet<_>>().len()
    }

    /// Whether at no moment a runner, or it and whoever carries it on, had two processes.
    pub(crate) fn never_two(&self, database: &Database) -> Result<(), String> {
        let rows = "SELECT id || '|' || successor_of FROM runners WHERE successor_of IS NOT NULL";
        let rows = database.rows(rows);
        let carries_on: BTreeMap<&str, &str> = rows
            .lines()
            .map(|row| {
                let [id, before] = fields(row);
                (id, before)
            })
            .collect();
        for moment in &self.seen {
            let mut conversations: BTreeMap<&str, Vec<Process>> = BTreeMap::new();
            for (runner, processes) in moment {
                let mut first = runner.as_str();
                while let Some(before) = carries_on.get(first) {
                    first = before;
                }
                conversations.entry(first).or_default().extend(processes);
            }
            if let Some((first, all)) = conversations.iter().find(|(_, all)| all.len() > 1) {
                return Err(format!("of {first} lived at once {all:?}: {moment:?}"));
            }
        }
        Ok(())
    }
}

#[test]
fn steps_that_no_runner_may_take_are_noticed() {
    let step = |from: &str, kind: &str, to: &str| is_a_step(Some((from, 1)), kind, (to, 1));
    assert!(step("starting", "runner.started", "running"));
    assert!(!step("pending", "runner.started", "running"), "without an agent");
    assert!(!step("exited", "runner.starting", "starting"), "after its end");
    assert!(!step("lost", "runner.exited", "exited"), "a second end");
    assert!(!step("running", "runner.restarting", "pending"), "in the same epoch");
    assert!(!is_a_step(Some(("running", 2)), "runner.exited", ("exited", 1)), "an earlier epoch");
    assert!(!is_a_step(None, "runner.started", ("running", 1)), "from nothing");
}
