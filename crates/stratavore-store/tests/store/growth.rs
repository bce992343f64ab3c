//! Nothing that is done for the living reads more for those that have ended.
//!
//! Counted and not timed: rows that PostgreSQL read, steps that SQLite made.

use std::collections::BTreeMap;

use stratavore_core::event::EventFilter;
use stratavore_core::project::Project;
use stratavore_core::runner::Runner;
use stratavore_core::{NodeId, RunnerId};
use stratavore_store::testing::TestStore;
use stratavore_store::{NameWish, NewRunner, RunnerFilter, Store, on_both_databases};

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
    let count = |store: Store| async move {
        assert_eq!(store.runner_counts().await.unwrap(), BTreeMap::from([("pending", 1)]));
    };
    costs.insert("count the living", db.work(count).await.1);
    let sessions = |store: Store| async move { store.session_list(Some(of), 10).await.unwrap() };
    costs.insert("list sessions", db.work(sessions).await.1);
    let events = |store: Store| async move {
        store.event_latest(&EventFilter::default(), 10).await.unwrap()
    };
    costs.insert("list events", db.work(events).await.1);
    costs
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

        let store = db.another().await;
        history(&store, &project, node, FEW * 9).await;
        store.close().await;
        tidy(&db).await;
        let many = costs(&db, &project, node, &alive).await;
        assert_eq!(grown(&few, &many), [], "{few:?}, and then {many:?}");

        // The control: without indexes of the living, an admission reads all that ever were.
        for index in LIVING {
            raw::execute(&db, &format!("DROP INDEX {index}")).await.unwrap();
        }
        let without = costs(&db, &project, node, &alive).await;
        assert!(grown(&few, &without).iter().any(|(what, ..)| *what == "admit"), "{without:?}");
    }
}
