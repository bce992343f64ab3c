use stratavore_core::limits::Limits;
use stratavore_core::name::Name;
use stratavore_core::project::Project;
use stratavore_core::quota::{Quota, Resource};
use stratavore_core::runner::Runner;
use stratavore_core::{NodeId, ProjectId, RunnerId};
use stratavore_store::testing::TestStore;
use stratavore_store::{NameWish, NewRunner, Store, StoreError, on_both_databases};
use tokio::task::JoinSet;

use crate::given::{self, at, name};
use crate::raw;

/// The live runners that were there at the worst, after `clients` at once asked for one each.
async fn rush(
    daemons: &[Store],
    project: &Project,
    node: NodeId,
    clients: usize,
) -> Vec<Result<Runner, StoreError>> {
    let mut asking = JoinSet::new();
    for n in 0..clients {
        let store = daemons[n % daemons.len()].clone();
        let new = given::unborn(project.id, node, &format!("r{n}"));
        asking.spawn(async move {
            let admitted = store.runners_admit(vec![new], "ada", at(1), None).await?;
            Ok(admitted.into_iter().next().expect("one was asked for"))
        });
    }
    asking.join_all().await
}

async fn live(db: &TestStore) -> i64 {
    raw::number(db, "SELECT count(*) FROM runners WHERE ended_at IS NULL").await
}

fn quota(runners: u64) -> Quota {
    Quota { runners, ..Quota::default() }
}

fn names(runners: &[Runner]) -> Vec<&str> {
    runners.iter().map(|r| r.name.as_str()).collect()
}

on_both_databases! {
    /// T-QUOTA, the store's part.
    async fn at_a_quota_of_five_sixteen_clients_of_two_daemons_get_five(db: TestStore) {
        let daemons = [db.store().clone(), db.another().await];
        let node = given::node(db.store()).await;
        let project = given::project_with(db.store(), "alpha", quota(5)).await;
        for round in 0..3 {
            let answers = rush(&daemons, &project, node, 16).await;
            let (admitted, refused): (Vec<_>, Vec<_>) = answers.into_iter().partition(Result::is_ok);
            assert_eq!(admitted.len(), 5, "round {round}: {refused:?}");
            assert_eq!(live(&db).await, 5);
            for refusal in refused {
                let Err(StoreError::Quota(refusal)) = refusal else { panic!("{refusal:?}") };
                assert_eq!((refusal.resource, refusal.limit, refusal.used), (Resource::Runners, 5, 5));
                assert_eq!(refusal.holders.len(), 5);
            }
            // What ends gives its place back: none leaks.
            for runner in admitted {
                given::end(db.store(), &runner.unwrap()).await;
            }
            assert_eq!(live(&db).await, 0);
        }
    }

    async fn a_batch_is_admitted_whole_or_not_at_all(db: TestStore) {
        let store = db.store();
        let node = given::node(store).await;
        let project = given::project_with(store, "alpha", quota(3)).await;
        let batch = |count: usize| (0..count).map(|n| given::unborn(project.id, node, &format!("r{n}"))).collect();
        let refused = store.runners_admit(batch(4), "ada", at(1), None).await;
        match refused {
            Err(StoreError::Quota(refusal)) => {
                assert_eq!((refusal.used, refusal.requested), (0, Some(4)), "nothing runs yet");
                assert!(refusal.holders.is_empty(), "it does not hold against itself: {refusal}");
            }
            other => panic!("{other:?}"),
        }
        assert_eq!(live(&db).await, 0);
        assert_eq!(raw::number(&db, "SELECT count(*) FROM sessions").await, 0);
        assert_eq!(raw::number(&db, "SELECT count(*) FROM events").await, 1, "the project's");

        assert_eq!(store.runners_admit(batch(3), "ada", at(1), None).await.unwrap().len(), 3);
        assert!(store.runners_admit(Vec::new(), "ada", at(1), None).await.unwrap().is_empty());
        let elsewhere = given::project(store, "beta").await;
        let mixed = vec![given::unborn(project.id, node, "x"), given::unborn(elsewhere.id, node, "y")];
        assert!(matches!(store.runners_admit(mixed, "ada", at(1), None).await, Err(StoreError::Invalid { .. })));
    }

    async fn limits_come_from_the_project_where_none_are_asked_for_and_count(db: TestStore) {
        let store = db.store();
        let node = given::node(store).await;
        let runner_limits = Limits { memory: Some(60), ..Limits::default() };
        let quota = Quota { memory: Some(100), wall_seconds: Some(9), ..Quota::default() };
        let project = Project { quota, runner_limits, ..given::unborn_project("alpha") };
        store.project_create(&project, "ada", None).await.unwrap();
        let one = given::runner(store, &project, node, "one").await;
        assert_eq!((one.limits.memory, one.limits.wall_seconds), (Some(60), Some(9)));
        let refused = store.runners_admit(vec![given::unborn(project.id, node, "two")], "ada", at(1), None).await;
        match refused {
            Err(StoreError::Quota(refusal)) => assert_eq!((refusal.resource, refusal.used), (Resource::Memory, 60)),
            other => panic!("{other:?}"),
        }
        let small = Limits { memory: Some(40), ..Limits::default() };
        given::admit(store, NewRunner { limits: small, ..given::unborn(project.id, node, "two") }).await;
    }

    async fn a_live_name_is_taken_and_a_numbered_one_goes_on_counting(db: TestStore) {
        let store = db.store();
        let node = given::node(store).await;
        let project = given::project(store, "alpha").await;
        let one = given::runner(store, &project, node, "one").await;
        let again = given::unborn(project.id, node, "one");
        let refused = store.runners_admit(vec![again.clone()], "ada", at(1), None).await;
        assert!(matches!(refused, Err(StoreError::NameTaken { noun: "runner", .. })), "{refused:?}");

        let wish = |base: Name| NewRunner {
            name: NameWish::Numbered(base),
            ..given::unborn(project.id, node, "unused")
        };
        let three = (0..3).map(|_| wish(name("one"))).collect();
        let admitted = store.runners_admit(three, "ada", at(2), None).await.unwrap();
        assert_eq!(names(&admitted), ["one-2", "one-3", "one-4"]);
        given::end(store, &one).await;
        given::end(store, &admitted[1]).await;
        assert_eq!(given::admit(store, wish(name("one"))).await.name.as_str(), "one");
        assert_eq!(given::admit(store, wish(name("one"))).await.name.as_str(), "one-3");

        let long = name(&"x".repeat(63));
        let two = store.runners_admit(vec![wish(long.clone()), wish(long.clone())], "ada", at(3), None).await.unwrap();
        assert_eq!(two[0].name, long);
        assert_eq!(two[1].name.as_str(), format!("{}-2", "x".repeat(61)));
    }

    async fn clients_who_want_numbered_names_at_once_all_get_one(db: TestStore) {
        let node = given::node(db.store()).await;
        let project = given::project(db.store(), "alpha").await;
        let mut asking = JoinSet::new();
        for _ in 0..10 {
            let store = db.store().clone();
            let new = NewRunner {
                name: NameWish::Numbered(name("claude")),
                ..given::unborn(project.id, node, "unused")
            };
            asking.spawn(async move { store.runners_admit(vec![new], "ada", at(1), None).await.unwrap().remove(0) });
        }
        let mut given: Vec<_> = asking.join_all().await.into_iter().map(|r| r.name.to_string()).collect();
        given.sort_by_key(|name| (name.len(), name.clone()));
        let expected: Vec<_> =
            (1..=10).map(|n| if n == 1 { "claude".into() } else { format!("claude-{n}") }).collect();
        assert_eq!(given, expected);
    }

    async fn a_session_is_open_in_one_runner(db: TestStore) {
        let store = db.store().clone();
        let node = given::node(&store).await;
        let project = given::project(&store, "alpha").await;
        let first = given::runner(&store, &project, node, "one").await;
        let session = first.session.unwrap();
        let resume = |called: &str| NewRunner { session, continues: true, ..given::unborn(project.id, node, called) };
        match store.runners_admit(vec![resume("two")], "ada", at(2), None).await {
            Err(StoreError::SessionBusy { session: busy, runner }) => assert_eq!((busy, runner), (session, first.id)),
            other => panic!("{other:?}"),
        }
        given::end(&store, &first).await;

        // T-DUPE, the store's part: of many that resume it at once, one does.
        let mut asking = JoinSet::new();
        for n in 0..8 {
            let (store, new) = (store.clone(), resume(&format!("r{n}")));
            asking.spawn(async move { store.runners_admit(vec![new], "ada", at(20), None).await });
        }
        let answers = asking.join_all().await;
        assert_eq!(answers.iter().filter(|a| a.is_ok()).count(), 1, "{answers:?}");
        assert!(
            answers.iter().all(|a| matches!(a, Ok(_) | Err(StoreError::SessionBusy { .. }))),
            "{answers:?}"
        );
        assert_eq!(store.session_get(session).await.unwrap().updated_at, at(20));

        let elsewhere = given::project(&store, "beta").await;
        let stray = NewRunner { project: elsewhere.id, ..resume("two") };
        let answer = store.runners_admit(vec![stray], "ada", at(2), None).await;
        assert!(matches!(answer, Err(StoreError::Invalid { .. })), "{answer:?}");
        let unknown = NewRunner { continues: true, ..given::unborn(project.id, node, "two") };
        let answer = store.runners_admit(vec![unknown], "ada", at(2), None).await;
        assert!(matches!(answer, Err(StoreError::NotFound { noun: "session", .. })), "{answer:?}");
    }

    async fn a_runner_has_one_successor(db: TestStore) {
        let store = db.store().clone();
        let node = given::node(&store).await;
        let project = given::project(&store, "alpha").await;
        let first = given::runner(&store, &project, node, "one").await;
        let after = |called: &str| NewRunner {
            successor_of: Some(first.id),
            ..given::unborn(project.id, node, called)
        };
        let early = store.runners_admit(vec![after("two")], "ada", at(2), None).await;
        assert!(matches!(early, Err(StoreError::Invalid { .. })), "it lives: {early:?}");
        given::end(&store, &first).await;

        let mut asking = JoinSet::new();
        for n in 0..6 {
            let (store, new) = (store.clone(), after(&format!("r{n}")));
            asking.spawn(async move { store.runners_admit(vec![new], "ada", at(20), None).await });
        }
        let answers = asking.join_all().await;
        let won: Vec<_> = answers.iter().filter_map(|a| a.as_ref().ok()).collect();
        assert_eq!(won.len(), 1, "{answers:?}");
        let successor = won[0][0].id;
        assert_eq!(store.runner_successor(first.id).await.unwrap(), Some(successor));
        assert_eq!(store.runner_successor(successor).await.unwrap(), None);
        for answer in &answers {
            match answer {
                Ok(_) => {}
                Err(StoreError::AlreadySucceeded { runner, by }) => assert_eq!((*runner, *by), (first.id, successor)),
                other => panic!("{other:?}"),
            }
        }
    }

    async fn what_is_not_there_is_named(db: TestStore) {
        let store = db.store();
        let node = given::node(store).await;
        let project = given::project(store, "alpha").await;
        let noun = |answer: Result<Vec<Runner>, StoreError>| match answer {
            Err(StoreError::NotFound { noun, .. }) => noun,
            other => panic!("{other:?}"),
        };
        let stray = given::unborn(ProjectId::from_entropy([1; 16]), node, "one");
        assert_eq!(noun(store.runners_admit(vec![stray], "ada", at(1), None).await), "project");
        let stray = given::unborn(project.id, NodeId::from_entropy([1; 16]), "one");
        assert_eq!(noun(store.runners_admit(vec![stray], "ada", at(1), None).await), "node");
        let stray = NewRunner {
            successor_of: Some(RunnerId::from_entropy([1; 16])),
            ..given::unborn(project.id, node, "one")
        };
        assert_eq!(noun(store.runners_admit(vec![stray], "ada", at(1), None).await), "runner");
        let twin = given::unborn(project.id, node, "one");
        given::admit(store, twin.clone()).await;
        let twin = NewRunner { name: NameWish::Numbered(name("one")), ..twin };
        let twin = NewRunner { session: given::unborn(project.id, node, "x").session, ..twin };
        let answer = store.runners_admit(vec![twin], "ada", at(1), None).await;
        assert!(matches!(answer, Err(StoreError::Invalid { .. })), "{answer:?}");
    }
}

/// The control of T-QUOTA: without the project's lock the same rush gets more than the quota.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_lock_the_quota_does_not_hold() {
    let db = TestStore::postgres().await;
    let node = given::node(db.store()).await;
    let daemons =
        [db.store().without_admission_lock(), db.another().await.without_admission_lock()];
    let mut worst = 0;
    for round in 0..50 {
        let project = given::project_with(db.store(), &format!("p{round}"), quota(5)).await;
        let answers = rush(&daemons, &project, node, 16).await;
        worst = answers.iter().filter(|a| a.is_ok()).count().max(worst);
        if worst > 5 {
            return;
        }
    }
    panic!("50 rushes without the lock never got more than {worst}: the test would not notice");
}
