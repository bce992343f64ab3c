//! Nothing that is done for the living reads more for those that have ended.
//!
//! Counted and not timed: rows that PostgreSQL read, steps that SQLite made.

use std::collections::{BTreeMap, BTreeSet};

use stratavore_core::event::EventFilter;
use stratavore_core::project::Project;
use stratavore_core::runner::Runner;
use stratavore_core::{NodeId, RunnerId};
use stratavore_store::testing::TestStore;
use stratavore_store::{
    NameWish, NewRunner, RunnerFilter, SessionFilter, Store, on_both_databases,
};

use crate::given::{self, at, name};
use crate::lease::{LONG, daemon};
use crate::raw;

/// How many have ended, at first; then it is ten times as many.
const FEW: usize = 30;
/// All of one project, node and name, within its quota.
const AT_ONCE: usize = 10;

/// The indexes that hold no runner that has ended.
const LIVING: [&str; 6] = [
    "runners_live_name",
    "runners_live_name_anywhere",
    "runners_live_page",
    "runners_live_project_page",
    "runners_live_session",
    "runners_node_page",
];

async fn history(store: &Store, project: &Project, node: NodeId, count: usize) {
    for _ in 0..count / AT_ONCE {
        let new: Vec<_> = (0..AT_ONCE).map(|_| another(project, node)).collect();
        for runner in store.runners_admit(new, "ada", at(1), None).await.unwrap() {
            given::end(store, &runner).await;
        }
    }
    for number in 0..count / AT_ONCE {
        // One that was lost and carried on, and a project that was archived.
        let lost = given::lose(store, &given::admit(store, another(project, node)).await).await;
        let next = NewRunner { successor_of: Some(lost.id), ..another(project, node) };
        given::end(store, &given::admit(store, next).await).await;
        let old = given::project(store, &format!("old-{count}-{number}")).await;
        given::archive(store, &old).await;
    }
    let lease = store.lease_acquire("history", daemon(), LONG).await.unwrap().unwrap();
    while !store.outbox_publish(&lease, 500).await.unwrap().is_empty() {}
    store.lease_release(&lease).await.unwrap();
}

/// What was changed since leaves old versions behind, until PostgreSQL gets round to them.
async fn tidy(db: &TestStore) {
    if db.server().is_some() {
        raw::execute(db, "VACUUM").await.unwrap();
    }
}

fn another(project: &Project, node: NodeId) -> NewRunner {
    NewRunner {
        id: RunnerId::from_entropy(given::entropy()),
        name: NameWish::Numbered(name("sleep")),
        ..given::unborn(project.id, node, "sleep")
    }
}

type Costs = BTreeMap<&'static str, u64>;

/// What each deed costs. A runner `sleep` lives before and after.
async fn costs(db: &TestStore, project: &Project, node: NodeId, alive: &Runner) -> Costs {
    let mut costs = Costs::new();
    let new = another(project, node);
    let admit = |store: Store| async move {
        store.runners_admit(vec![new], "ada", at(2), None).await.unwrap().remove(0)
    };
    let (admitted, cost) = db.work(admit).await;
    costs.insert("admit", cost);

    let (next, event) = given::activity(&admitted);
    let seen = admitted.clone();
    let write = |store: Store| async move {
        store.runner_write(&seen, &next, event, "ada", None).await.unwrap()
    };
    let (written, cost) = db.work(write).await;
    costs.insert("write", cost);
    let end = |store: Store| async move { given::end(&store, &written).await };
    costs.insert("end", db.work(end).await.1);

    let publish = |store: Store| async move {
        let lease = store.lease_acquire("relay", daemon(), LONG).await.unwrap().unwrap();
        assert!(!store.outbox_publish(&lease, 256).await.unwrap().is_empty());
        store.lease_release(&lease).await.unwrap();
    };
    costs.insert("publish", db.work(publish).await.1);

    let (id, of) = (alive.id, project.id);
    let find = |text: String, project| {
        move |store: Store| async move {
            let wanted = given::reference(&text, "run");
            store.runner_find(&wanted, project).await.unwrap().id
        }
    };
    for (what, project) in [("find by name", None), ("find by name in its project", Some(of))] {
        let (found, cost) = db.work(find("sleep".into(), project)).await;
        assert_eq!(found, id);
        costs.insert(what, cost);
    }
    costs.insert("find by id", db.work(find(id.to_string(), None)).await.1);

    let live = RunnerFilter { live_only: true, ..RunnerFilter::default() };
    for (what, filter) in [
        ("list the living", live.clone()),
        ("list the living of a project", RunnerFilter { project: Some(of), ..live.clone() }),
        ("list the living of a node", RunnerFilter { node: Some(node), ..live }),
        (
            "list those that start",
            RunnerFilter { states: vec!["pending".into()], ..RunnerFilter::default() },
        ),
        ("list a page", RunnerFilter { limit: Some(10), ..RunnerFilter::default() }),
        (
            "list a page of a project",
            RunnerFilter { limit: Some(10), project: Some(of), ..RunnerFilter::default() },
        ),
    ] {
        let list = |store: Store| async move { store.runner_list(&filter).await.unwrap().len() };
        costs.insert(what, db.work(list).await.1);
    }
    let lost = |store: Store| async move { store.runner_lost(node, None, 100).await.unwrap() };
    let (lost, cost) = db.work(lost).await;
    assert_eq!(lost, [], "each was carried on");
    costs.insert("recover", cost);
    let ids = |store: Store| async move { store.runner_live_ids(node).await.unwrap().len() };
    costs.insert("reconcile", db.work(ids).await.1);
    let projects = |store: Store| async move { store.project_list(false).await.unwrap().len() };
    costs.insert("list projects", db.work(projects).await.1);
    let names = |store: Store| async move {
        store.project_names(&BTreeSet::from([of])).await.unwrap().len()
    };
    costs.insert("name projects", db.work(names).await.1);
    let counts = |store: Store| async move {
        assert_eq!(store.project_live_count(of).await.unwrap(), 1);
        assert_eq!(
            store.project_live_counts().await.unwrap().into_iter().collect::<Vec<_>>(),
            [(of, 1)]
        );
    };
    costs.insert("count the living of projects", db.work(counts).await.1);
    let count = |store: Store| async move {
        assert_eq!(store.runner_counts().await.unwrap(), BTreeMap::from([("pending", 1)]));
    };
    costs.insert("count the living", db.work(count).await.1);
    let filter = SessionFilter { project: Some(of), limit: Some(10), ..SessionFilter::default() };
    let sessions = |store: Store| async move { store.session_list(&filter).await.unwrap() };
    costs.insert("list sessions", db.work(sessions).await.1);
    let events = |store: Store| async move {
        store.event_latest(&EventFilter::default(), 10).await.unwrap()
    };
    costs.insert("list events", db.work(events).await.1);
    costs
}

/// What `recover` looked through before: all that ever were lost.
async fn cost_of_all_lost(db: &TestStore) -> u64 {
    let filter = RunnerFilter { states: vec!["lost".into()], ..RunnerFilter::default() };
    db.work(|store: Store| async move { store.runner_list(&filter).await.unwrap() }).await.1
}

/// The deeds that cost more than a fifth more.
fn grown<'c>(few: &'c Costs, many: &Costs) -> Vec<(&'c str, u64, u64)> {
    let both = few.iter().map(|(what, few)| (*what, *few, many[what]));
    both.filter(|(_, few, many)| *many > few + few / 5 + 5).collect()
}

/// What one launch costs of `count`, each in a project of its own, by one store that keeps its plans.
async fn launch_each(db: &TestStore, node: NodeId, count: usize, called: &str) -> u64 {
    let store = db.another().await;
    let mut projects = Vec::new();
    for number in 0..count {
        projects.push(given::project(&store, &format!("{called}-{number}")).await);
    }
    store.close().await;
    let launch = |store: Store| async move {
        for project in &projects {
            store.runners_admit(vec![another(project, node)], "ada", at(1), None).await.unwrap();
        }
    };
    db.work(launch).await.1 / count as u64
}

on_both_databases! {
    async fn a_launch_reads_no_more_when_many_live_in_other_projects(db: TestStore) {
        let store = db.another().await;
        let node = given::node(&store).await;
        store.close().await;
        let few = launch_each(&db, node, 20, "few").await;
        let many = launch_each(&db, node, 200, "many").await;
        assert!(many <= few + few / 2 + 5, "{few}, and then {many}");

        // The control: without the indexes that begin with the project.
        for index in ["runners_live_project_page", "runners_live_name", "runners_project_page"] {
            raw::execute(&db, &format!("DROP INDEX {index}")).await.unwrap();
        }
        let without = launch_each(&db, node, 20, "without").await;
        assert!(without > few + few / 2 + 5, "{few}, and without indexes {without}");
    }

    async fn nothing_reads_more_when_ten_times_as_many_have_ended(db: TestStore) {
        let store = db.another().await;
        if let Some(server) = db.server() {
            // So few rows are read fastest one and all; what is asked is whether an index fits.
            for way in ["seqscan", "bitmapscan", "sort", "hashjoin", "mergejoin"] {
                let sql = format!("ALTER DATABASE {} SET enable_{way} = off", server.database);
                raw::execute(&db, &sql).await.unwrap();
            }
        }
        let project = given::project(&store, "alpha").await;
        let node = given::node(&store).await;
        let alive = given::admit(&store, another(&project, node)).await;
        history(&store, &project, node, FEW).await;
        store.close().await;
        tidy(&db).await;
        let few = costs(&db, &project, node, &alive).await;
        let few_lost = cost_of_all_lost(&db).await;

        let store = db.another().await;
        history(&store, &project, node, FEW * 9).await;
        store.close().await;
        tidy(&db).await;
        let many = costs(&db, &project, node, &alive).await;
        assert_eq!(grown(&few, &many), [], "{few:?}, and then {many:?}");

        // The controls: one who passes by all that were lost; and without indexes of the living, an admission reads all that ever were.
        let many_lost = cost_of_all_lost(&db).await;
        assert!(many_lost > 2 * few_lost, "{few_lost}, and then {many_lost}");
        for index in LIVING {
            raw::execute(&db, &format!("DROP INDEX {index}")).await.unwrap();
        }
        let without = costs(&db, &project, node, &alive).await;
        assert!(grown(&few, &without).iter().any(|(what, ..)| *what == "admit"), "{without:?}");
    }
}
