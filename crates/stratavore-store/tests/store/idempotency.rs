use stratavore_core::idempotency::IDEMPOTENCY_TTL;
use stratavore_core::project::Project;
use stratavore_store::{StoreError, on_both_databases};
use tokio::task::JoinSet;

use crate::given::{self, at, idempotency};
use crate::raw;

on_both_databases! {
    /// T-IDEM, the store's part.
    async fn the_same_key_at_once_and_again_has_one_effect_and_one_answer(db: TestStore) {
        let daemons = [db.store().clone(), db.another().await];
        let node = given::node(db.store()).await;
        let project = given::project(db.store(), "alpha").await;
        let key = idempotency("launch-1", 1);
        let mut asking = JoinSet::new();
        for n in 0..12 {
            // A retry makes ids of its own: the answer must be that of whoever was first.
            let new = given::unborn(project.id, node, "one");
            let (store, key) = (daemons[n % 2].clone(), key.clone());
            asking.spawn(async move { store.runners_admit(vec![new], "ada", at(1), Some(&key)).await });
        }
        let answers: Vec<_> = asking.join_all().await.into_iter().map(|a| a.unwrap()).collect();
        let again = vec![given::unborn(project.id, node, "two")];
        let again = db.store().runners_admit(again, "ada", at(3600), Some(&key)).await.unwrap();
        assert!(answers.iter().all(|a| *a == again), "{answers:?}");
        assert_eq!(raw::number(&db, "SELECT count(*) FROM runners").await, 1);
        assert_eq!(raw::number(&db, "SELECT count(*) FROM idempotency_records").await, 1);
        assert_eq!(raw::number(&db, "SELECT count(*) FROM events WHERE entity = 'runner'").await, 1);
    }

    /// The control: without a key each of the same requests has its effect.
    async fn without_a_key_every_request_counts(db: TestStore) {
        let node = given::node(db.store()).await;
        let project = given::project(db.store(), "alpha").await;
        for n in 0..3 {
            given::runner(db.store(), &project, node, &format!("r{n}")).await;
        }
        assert_eq!(raw::number(&db, "SELECT count(*) FROM runners").await, 3);
    }

    async fn every_kind_of_change_answers_a_repetition_with_its_first_answer(db: TestStore) {
        let store = db.store();
        let node = given::node(store).await;
        let born = given::unborn_project("alpha");
        let create = idempotency("create", 1);
        assert_eq!(store.project_create(&born, "ada", Some(&create)).await.unwrap(), born);
        let retried = given::unborn_project("alpha");
        assert_eq!(store.project_create(&retried, "ada", Some(&create)).await.unwrap(), born);

        let edit = idempotency("edit", 1);
        let next = Project { generation: 2, description: "first".into(), updated_at: at(2), ..born.clone() };
        let event = || stratavore_core::event::NewEvent::new("project.edited", serde_json::json!({}));
        assert_eq!(store.project_write(&born, &next, event(), "ada", Some(&edit)).await.unwrap(), next);
        let other = Project { description: "second".into(), ..next.clone() };
        assert_eq!(store.project_write(&born, &other, event(), "ada", Some(&edit)).await.unwrap(), next);

        let seen = given::runner(store, &born, node, "one").await;
        let stop = idempotency("stop", 1);
        let (ended, event) = given::ended(&seen);
        assert_eq!(store.runner_write(&seen, &ended, event.clone(), "ada", Some(&stop)).await.unwrap(), ended);
        let answer = store.runner_write(&seen, &ended, event, "ada", Some(&stop)).await;
        assert_eq!(answer.unwrap(), ended, "and not a conflict");
    }

    async fn a_key_is_for_one_request(db: TestStore) {
        let store = db.store();
        let born = given::unborn_project("alpha");
        store.project_create(&born, "ada", Some(&idempotency("k", 1))).await.unwrap();
        let answer = store.project_create(&given::unborn_project("beta"), "ada", Some(&idempotency("k", 2))).await;
        assert!(matches!(&answer, Err(StoreError::IdempotencyReuse { key }) if key == "k"), "{answer:?}");
        assert_eq!(raw::number(&db, "SELECT count(*) FROM projects").await, 1);
    }

    async fn a_refusal_is_not_recorded(db: TestStore) {
        let store = db.store();
        let old = given::project(store, "alpha").await;
        let key = idempotency("k", 1);
        let born = given::unborn_project("alpha");
        let refused = store.project_create(&born, "ada", Some(&key)).await;
        assert!(matches!(refused, Err(StoreError::NameTaken { .. })), "{refused:?}");
        assert_eq!(raw::number(&db, "SELECT count(*) FROM idempotency_records").await, 0);

        let archived = Project { archived_at: Some(at(2)), generation: 2, ..old.clone() };
        let event = stratavore_core::event::NewEvent::new("project.archived", serde_json::json!({}));
        store.project_write(&old, &archived, event, "ada", None).await.unwrap();
        assert_eq!(store.project_create(&born, "ada", Some(&key)).await.unwrap(), born);
    }

    async fn after_a_day_the_key_is_free(db: TestStore) {
        let store = db.store();
        let key = idempotency("k", 1);
        let day = i64::try_from(IDEMPOTENCY_TTL.as_secs()).unwrap();
        let born_at = |called: &str, second| Project {
            created_at: at(second), updated_at: at(second), ..given::unborn_project(called)
        };
        let alpha = store.project_create(&born_at("alpha", 0), "ada", Some(&key)).await.unwrap();
        let just_before = store.project_create(&born_at("beta", day - 1), "ada", Some(&key)).await.unwrap();
        assert_eq!(just_before, alpha);
        let other_request = idempotency("k", 2);
        let beta = store.project_create(&born_at("beta", day), "ada", Some(&other_request)).await.unwrap();
        assert_eq!(beta.name.as_str(), "beta");

        assert_eq!(store.idempotency_purge(at(day + 1)).await.unwrap(), 0, "the key was used anew");
        assert_eq!(store.idempotency_purge(at(2 * day)).await.unwrap(), 1);
        assert_eq!(raw::number(&db, "SELECT count(*) FROM idempotency_records").await, 0);
    }
}
