use stratavore_core::event::{EventFilter, NewEvent};
use stratavore_core::project::{Project, ProjectEdit};
use stratavore_core::{ProjectId, Timestamp};
use stratavore_store::{Store, StoreError, on_both_databases};
use tokio::task::JoinSet;

use crate::given::{self, at, name, reference};

fn edited(seen: &Project, description: &str) -> (Project, NewEvent) {
    let edit = ProjectEdit { description: Some(description.into()), ..ProjectEdit::default() };
    (seen.edited(edit, at(3)), NewEvent::new("project.edited", serde_json::json!({})))
}

fn archived(seen: &Project) -> (Project, NewEvent) {
    let next = Project {
        archived_at: Some(at(4)),
        generation: seen.generation + 1,
        updated_at: at(4),
        ..seen.clone()
    };
    (next, NewEvent::new("project.archived", serde_json::json!({})))
}

async fn archive(store: &Store, seen: &Project) -> Result<Project, StoreError> {
    let (next, event) = archived(seen);
    store.project_write(seen, &next, event, "ada", None).await
}

fn with_bits(called: &str, bits: u128) -> Project {
    Project { id: ProjectId::from_entropy(bits.to_be_bytes()), ..given::unborn_project(called) }
}

on_both_databases! {
    async fn it_is_found_by_its_id_its_name_and_the_beginning_of_its_id(db: TestStore) {
        let store = db.store();
        let alpha = given::project(store, "alpha").await;
        given::project(store, "beta").await;

        let id = alpha.id.to_string();
        for wanted in ["alpha", &id, &id[..id.len() - 1], &id[4..20]] {
            assert_eq!(store.project_find(&reference(wanted, "prj")).await.unwrap(), alpha, "{wanted}");
        }
        for wanted in ["alph", "ALPHA", "gamma", "prj_00000000000000000000", "%", "_", "", "prj_"] {
            let answer = store.project_find(&reference(wanted, "prj")).await;
            assert!(matches!(answer, Err(StoreError::NotFound { .. })), "{wanted}: {answer:?}");
        }
    }

    async fn a_name_that_might_be_an_id_is_a_name_first(db: TestStore) {
        let store = db.store();
        let alpha = given::project(store, "alpha").await;
        let whole = &alpha.id.to_string()[4..];
        for called in [whole, &whole[..6]] {
            assert_eq!(store.project_find(&reference(called, "prj")).await.unwrap(), alpha);
            let named = given::project(store, called).await;
            assert_eq!(store.project_find(&reference(called, "prj")).await.unwrap(), named, "{called}");
            let with_noun = reference(&format!("prj_{called}"), "prj");
            assert_eq!(store.project_find(&with_noun).await.unwrap(), alpha, "{called}");
        }
    }

    async fn an_ambiguous_beginning_is_answered_with_the_candidates(db: TestStore) {
        let store = db.store();
        // 100 bits, five to a character: these differ in the last character only.
        for (called, bits) in [("one", 0x1234 << 84 | 1), ("two", 0x1234 << 84 | 2)] {
            store.project_create(&with_bits(called, bits), "ada", None).await.unwrap();
        }
        let one = store.project_find(&reference("one", "prj")).await.unwrap();
        let beginning = &one.id.to_string()[..12];
        match store.project_find(&reference(beginning, "prj")).await {
            Err(StoreError::Ambiguous { candidates, .. }) => {
                assert_eq!(candidates.len(), 2, "{candidates:?}");
                assert!(candidates[0].contains("(one)") && candidates[1].contains("(two)"), "{candidates:?}");
            }
            other => panic!("{other:?}"),
        }
    }

    async fn a_name_means_the_project_in_use_before_an_archived_one(db: TestStore) {
        let store = db.store();
        let old = given::project(store, "alpha").await;
        let old = archive(store, &old).await.unwrap();
        assert_eq!(store.project_find(&reference("alpha", "prj")).await.unwrap(), old);

        let new = given::project(store, "alpha").await;
        assert_eq!(store.project_find(&reference("alpha", "prj")).await.unwrap(), new);
        assert_eq!(store.project_list(false).await.unwrap(), std::slice::from_ref(&new));
        assert_eq!(store.project_list(true).await.unwrap().len(), 2);

        let gone = Project {
            deleted_at: Some(at(5)), generation: old.generation + 1, updated_at: at(5), ..old.clone()
        };
        let event = NewEvent::new("project.deleted", serde_json::json!({}));
        store.project_write(&old, &gone, event, "ada", None).await.unwrap();
        assert_eq!(store.project_list(true).await.unwrap(), [new]);
        let whole = reference(&gone.id.to_string(), "prj");
        assert_eq!(store.project_find(&whole).await.unwrap(), gone);
        let beginning = reference(&gone.id.to_string()[..15], "prj");
        assert!(matches!(store.project_find(&beginning).await, Err(StoreError::NotFound { .. })));
    }

    async fn of_writers_who_saw_the_same_one_wins(db: TestStore) {
        let store = db.store().clone();
        let seen = given::project(&store, "alpha").await;
        let mut writers = JoinSet::new();
        for n in 0..6 {
            let (store, seen) = (store.clone(), seen.clone());
            writers.spawn(async move {
                let (next, event) = edited(&seen, &n.to_string());
                store.project_write(&seen, &next, event, "ada", None).await
            });
        }
        let answers = writers.join_all().await;
        let won: Vec<_> = answers.iter().filter_map(|a| a.as_ref().ok()).collect();
        assert_eq!(won.len(), 1, "{answers:?}");
        let lost = answers.iter().filter(|a| matches!(a, Err(StoreError::Conflict { .. }))).count();
        assert_eq!(lost, 5, "{answers:?}");
        assert_eq!(&store.project_find(&reference("alpha", "prj")).await.unwrap(), won[0]);
        assert_eq!(crate::raw::number(&db, "SELECT count(*) FROM events").await, 2, "one event per change");
        assert_eq!(crate::raw::number(&db, "SELECT count(*) FROM outbox").await, 2);
    }

    async fn a_taken_name_is_refused_whichever_way_it_is_taken(db: TestStore) {
        let store = db.store();
        let alpha = given::project(store, "alpha").await;
        let taken = |answer: Result<Project, StoreError>| match answer {
            Err(StoreError::NameTaken { noun: "project", name }) => assert_eq!(name.as_str(), "alpha"),
            other => panic!("{other:?}"),
        };
        taken(store.project_create(&given::unborn_project("alpha"), "ada", None).await);

        let beta = given::project(store, "beta").await;
        let edit = ProjectEdit { name: Some(name("alpha")), ..ProjectEdit::default() };
        let renamed = NewEvent::new("project.edited", serde_json::json!({}));
        taken(store.project_write(&beta, &beta.edited(edit, at(2)), renamed, "ada", None).await);

        let old = archive(store, &alpha).await.unwrap();
        given::project(store, "alpha").await;
        let back = Project { archived_at: None, generation: 3, updated_at: at(6), ..old.clone() };
        let event = NewEvent::new("project.unarchived", serde_json::json!({}));
        taken(store.project_write(&old, &back, event, "ada", None).await);
    }

    async fn it_is_not_archived_under_live_runners(db: TestStore) {
        let store = db.store();
        let node = given::node(store).await;
        let seen = given::project(store, "alpha").await;
        let runner = given::runner(store, &seen, node, "one").await;
        match archive(store, &seen).await {
            Err(StoreError::LiveRunners(holders)) => assert_eq!(holders[0].runner, runner.id),
            other => panic!("{other:?}"),
        }
        given::end(store, &runner).await;
        archive(store, &seen).await.unwrap();
        let refused = store.runners_admit(vec![given::unborn(seen.id, node, "two")], "ada", at(5), None).await;
        assert!(matches!(refused, Err(StoreError::ProjectArchived(_))), "{refused:?}");
    }

    async fn archiving_and_launching_at_once_never_leaves_a_live_runner_in_an_archived_project(db: TestStore) {
        let store = db.store().clone();
        let node = given::node(&store).await;
        for round in 0..8 {
            let seen = given::project(&store, &format!("p{round}")).await;
            let new = given::unborn(seen.id, node, "one");
            let (a, b) = tokio::join!(
                archive(&store, &seen),
                store.runners_admit(vec![new], "ada", at(5), None),
            );
            match (&a, &b) {
                (Ok(_), Err(StoreError::ProjectArchived(_))) | (Err(StoreError::LiveRunners(_)), Ok(_)) => {}
                both => panic!("{both:?}"),
            }
        }
    }

    async fn each_change_is_one_event_with_the_generation_as_its_number(db: TestStore) {
        let store = db.store();
        let mut seen = given::project(store, "alpha").await;
        for n in 0..3 {
            let (next, event) = edited(&seen, &n.to_string());
            seen = store.project_write(&seen, &next, event, "grace", None).await.unwrap();
        }
        let relay = store.lease_acquire("relay", given::daemon_on(&given::host("b")).id, crate::lease::LONG);
        let relay = relay.await.unwrap().unwrap();
        store.outbox_publish(&relay, 100).await.unwrap();
        let events = store.event_list(0, &EventFilter::default(), 100).await.unwrap();
        assert_eq!(events.iter().map(|e| e.seq).collect::<Vec<_>>(), [1, 2, 3, 4]);
        assert_eq!(events[0].kind, "project.created");
        assert_eq!((events[0].by.as_str(), events[3].by.as_str()), ("ada", "grace"));
        assert_eq!(events[3].at, seen.updated_at);
        assert_eq!(events[3].entity_id, seen.id.to_string());
    }

    async fn a_generation_that_does_not_follow_is_refused(db: TestStore) {
        let store = db.store();
        let seen = given::project(store, "alpha").await;
        let (next, event) = edited(&seen, "x");
        let skipping = Project { generation: 3, ..next };
        let answer = store.project_write(&seen, &skipping, event, "ada", None).await;
        assert!(matches!(answer, Err(StoreError::Invalid { .. })), "{answer:?}");
    }

    async fn times_come_back_as_they_were_given(db: TestStore) {
        let store = db.store();
        let precise: Timestamp = "2026-02-03T04:05:06.789012Z".parse().unwrap();
        let born = Project { created_at: precise, updated_at: precise, ..given::unborn_project("alpha") };
        store.project_create(&born, "ada", None).await.unwrap();
        assert_eq!(store.project_find(&reference("alpha", "prj")).await.unwrap(), born);
        assert_eq!(store.outbox_depth().await.unwrap().oldest, Some(precise));
    }
}
