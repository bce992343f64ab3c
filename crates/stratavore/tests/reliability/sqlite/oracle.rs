//! What was asked of a daemon and what it answered: the truth by which its database is judged.
//!
//! Each request has a key. One that was answered has happened, once. One whose answer did not come
//! has happened once or not at all, and asked again with its key it has happened once.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::future::join_all;
use stratavore_proto::client::{Client, problem};
use stratavore_proto::v1::{EditProject, LaunchRunners, Problem, StopRunner};
use stratavore_store::testing::{sqlite_number, sqlite_texts};
use stratavore_testkit::trial::Dice;
use stratavore_testkit::wire::{client, fresh_key, new_project, new_runner, on_runtime};
use stratavore_testkit::world::World;

const WRITERS: usize = 8;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wish {
    Create,
    Edit,
    Launch,
    Stop,
}

/// One request, and the id and generation that were answered; the generation of a project only,
/// which an answer does not change any more.
#[derive(Debug, Clone)]
struct Asked {
    key: String,
    wish: Wish,
    /// The project or runner that is to be changed.
    of: String,
    answer: Option<(String, i64)>,
}

impl Asked {
    fn new(wish: Wish, of: &str) -> Self {
        Self { key: fresh_key("sqlite"), wish, of: of.into(), answer: None }
    }

    async fn ask(&self, client: &Client, world: &World) -> Result<(String, i64), Problem> {
        let (key, of) = (self.key.clone(), self.of.clone());
        match self.wish {
            Wish::Create => {
                let project = new_project(world, &format!("p-{key}"), key);
                let made = client.projects().create(project).await;
                made.map(|made| made.into_inner()).map(|made| (made.id, made.generation))
            }
            Wish::Edit => {
                let edit = EditProject {
                    idempotency_key: key.clone(),
                    project: of,
                    description: Some(key),
                    ..EditProject::default()
                };
                let edited = client.projects().edit(edit).await;
                edited.map(|edited| edited.into_inner()).map(|of| (of.id, of.generation))
            }
            Wish::Launch => {
                let runner = LaunchRunners { args: vec!["true".into()], ..new_runner("demo", key) };
                let launched = client.runners().launch(runner).await;
                launched.map(|list| (list.into_inner().runners.remove(0).id, 0))
            }
            Wish::Stop => {
                let stop = StopRunner {
                    idempotency_key: key,
                    runner: of,
                    force: true,
                    ..StopRunner::default()
                };
                let stopped = client.runners().stop(stop).await;
                stopped.map(|stopped| (stopped.into_inner().id, 0))
            }
        }
        .map_err(|status| problem(&status))
    }
}

/// All that was asked for, in the order of each writer.
#[derive(Debug, Default, Clone)]
pub(crate) struct Oracle {
    asked: Vec<Asked>,
}

impl Oracle {
    pub(crate) fn add(&mut self, other: &Self) {
        self.asked.extend(other.asked.iter().cloned());
    }

    pub(crate) fn acknowledged(&self) -> usize {
        self.asked.iter().filter(|asked| asked.answer.is_some()).count()
    }

    pub(crate) fn ambiguous(&self) -> usize {
        self.asked.len() - self.acknowledged()
    }

    /// The control: as if something had been acknowledged that was never written.
    pub(crate) fn with_a_lie(&self) -> Self {
        let answer = Some(("prj_00000000000000000000000000".to_owned(), 1));
        let mut lying = self.clone();
        lying.asked.push(Asked { answer, ..Asked::new(Wish::Create, "") });
        lying
    }

    /// A project that was acknowledged.
    pub(crate) fn project(&self) -> &str {
        let made = self.asked.iter().filter(|asked| asked.wish == Wish::Create);
        made.filter_map(|asked| asked.answer.as_ref()).map(|(id, _)| id.as_str()).next().unwrap()
    }

    /// A project that was edited.
    pub(crate) fn edited(&self) -> &str {
        &self.asked.iter().find(|asked| asked.wish == Wish::Edit).unwrap().of
    }

    /// Whether the database has all that was acknowledged, whole and in order. Nothing is asked of
    /// a daemon, and none need run.
    pub(crate) async fn held(&self, world: &World) -> Result<(), String> {
        let file = world.path("state/stratavore.db");
        let damage = "SELECT count(*) FROM pragma_integrity_check WHERE integrity_check <> 'ok'";
        if sqlite_number(&file, damage).await != 0 {
            return Err("the integrity check finds damage".into());
        }
        let ids = "SELECT id FROM projects UNION ALL SELECT id FROM runners";
        let ids: BTreeSet<String> = sqlite_texts(&file, ids).await.into_iter().collect();
        let keys = "SELECT key FROM idempotency_records WHERE answer IS NOT NULL";
        let keys: BTreeSet<String> = sqlite_texts(&file, keys).await.into_iter().collect();
        // One event for each generation of each thing, no more and no less.
        let uneven = "SELECT count(*) FROM
                (SELECT id, generation FROM runners UNION ALL SELECT id, generation FROM projects) AS of
            WHERE generation <> (SELECT count(*) FROM events WHERE entity_id = of.id)";
        let uneven = sqlite_number(&file, uneven).await;
        if uneven != 0 {
            return Err(format!("{uneven} things have more or fewer events than changes"));
        }
        for Asked { key, answer, wish, .. } in &self.asked {
            if let Some((id, _)) = answer
                && !(ids.contains(id) && keys.contains(key))
            {
                return Err(format!("acknowledged and lost: {wish:?} {key} of {id}"));
            }
        }
        Ok(())
    }

    /// Asks for everything once more with its key: what was answered is answered alike, and what
    /// was not is answered now.
    pub(crate) async fn resolve(&mut self, client: &Client, world: &World) -> Result<(), String> {
        for asked in &mut self.asked {
            let now = asked.ask(client, world).await;
            match (&asked.answer, now) {
                (Some(before), Ok(now)) if *before == now => {}
                (None, Ok(now)) => asked.answer = Some(now),
                (before, now) => {
                    return Err(format!("{} was answered {before:?}, then {now:?}", asked.key));
                }
            }
        }
        Ok(())
    }

    /// Whether everything has happened once; to be asked when all of it is resolved.
    pub(crate) async fn once(&self, world: &World) -> Result<(), String> {
        let file = world.path("state/stratavore.db");
        let wished = |wish| self.asked.iter().filter(|asked| asked.wish == wish).count();
        let runners = sqlite_number(&file, "SELECT count(*) FROM runners").await;
        // One more is the project of the runners.
        let projects = sqlite_number(&file, "SELECT count(*) - 1 FROM projects").await;
        let found = (runners as usize, projects as usize);
        let wanted = (wished(Wish::Launch), wished(Wish::Create));
        if found != wanted {
            return Err(format!("{found:?} runners and projects, of {wanted:?} wished for"));
        }
        // Each edit is one generation, and the last one is what is to be read.
        let mut projects: BTreeMap<&str, Vec<&Asked>> = BTreeMap::new();
        for asked in self.asked.iter().filter(|asked| asked.wish == Wish::Edit) {
            projects.entry(&asked.of).or_default().push(asked);
        }
        for (project, edits) in projects {
            let sql = format!(
                "SELECT generation || ' ' || json_extract(record, '$.description') FROM projects
                WHERE id = '{project}'"
            );
            let found = sqlite_texts(&file, &sql).await;
            let last =
                edits.iter().filter_map(|asked| Some((asked.answer.as_ref()?.1, &asked.key)));
            let (generation, key) = last.max().ok_or("nothing was resolved")?;
            if generation as usize != edits.len() + 1 || found != [format!("{generation} {key}")] {
                return Err(format!("{project}: {} edits, and {found:?}", edits.len()));
            }
        }
        Ok(())
    }
}

/// Writes over as many connections at the same time as there are writers, until the daemon answers
/// no more. Counts what is acknowledged.
pub(crate) fn write(world: &World, dice: &mut Dice, acknowledged: &AtomicUsize) -> Oracle {
    let seeds: Vec<Dice> = (0..WRITERS).map(|_| Dice::of(dice.number())).collect();
    on_runtime(async {
        let writers = seeds.into_iter().map(|dice| one_writer(world, dice, acknowledged));
        Oracle { asked: join_all(writers).await.into_iter().flatten().collect() }
    })
}

async fn one_writer(world: &World, mut dice: Dice, acknowledged: &AtomicUsize) -> Vec<Asked> {
    // It may be gone already.
    let Ok(client) = Client::connect(&world.path("run/d.sock")).await else { return Vec::new() };
    let (mut all, mut project, mut runner) = (Vec::new(), None::<String>, None::<String>);
    loop {
        let mut asked = match (dice.below(16), &project, &runner) {
            (0..2, ..) => Asked::new(Wish::Launch, ""),
            (2..4, _, Some(runner)) => Asked::new(Wish::Stop, runner),
            (4..14, Some(project), _) => Asked::new(Wish::Edit, project),
            _ => Asked::new(Wish::Create, ""),
        };
        match asked.ask(&client, world).await {
            Ok(answer) => {
                match asked.wish {
                    Wish::Create => project = Some(answer.0.clone()),
                    Wish::Launch => runner = Some(answer.0.clone()),
                    Wish::Edit | Wish::Stop => {}
                }
                asked.answer = Some(answer);
                all.push(asked);
                acknowledged.fetch_add(1, Ordering::Relaxed);
            }
            Err(problem) => {
                let away = ["unavailable", "store_unavailable", "cancelled"];
                // The connection broke in the middle; the daemon itself would say what to do.
                let broken = problem.code == "internal" && problem.hint.is_empty();
                assert!(away.contains(&&*problem.code) || broken, "{asked:?}: {problem:?}");
                all.push(asked);
                return all;
            }
        }
    }
}

/// Resolves what was asked for in one life of a daemon, and judges it.
pub(crate) fn judge(world: &World, oracle: &mut Oracle) -> Result<(), String> {
    on_runtime(async {
        oracle.held(world).await?;
        oracle.resolve(&client(world).await, world).await?;
        oracle.held(world).await
    })
}
