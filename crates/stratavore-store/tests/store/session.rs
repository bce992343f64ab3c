use stratavore_core::SessionId;
use stratavore_store::{SessionFilter, StoreError, on_both_databases};

use crate::given::{self, at};

on_both_databases! {
    async fn its_runner_is_the_live_one_that_carries_it(db: TestStore) {
        let store = db.store();
        let node = given::node(store).await;
        let project = given::project(store, "alpha").await;
        let runner = given::runner(store, &project, node, "one").await;
        let id = runner.session.unwrap();

        let session = store.session_get(id).await.unwrap();
        assert_eq!((session.id, session.project, session.runner), (id, project.id, Some(runner.id)));
        assert_eq!(session.assistant, runner.command.assistant);
        assert_eq!((session.created_at, session.updated_at), (at(1), at(1)));

        given::end(store, &runner).await;
        let session = store.session_get(id).await.unwrap();
        assert_eq!((session.runner, session.updated_at), (None, at(10)));
        let unknown = store.session_get(SessionId::from_entropy([9; 16])).await;
        assert!(matches!(unknown, Err(StoreError::NotFound { noun: "session", .. })), "{unknown:?}");
    }

    async fn a_list_begins_with_what_was_used_last(db: TestStore) {
        let store = db.store();
        let node = given::node(store).await;
        let (alpha, beta) = (given::project(store, "alpha").await, given::project(store, "beta").await);
        let one = given::runner(store, &alpha, node, "one").await;
        let two = store.runners_admit(vec![given::unborn(alpha.id, node, "two")], "ada", at(3), None).await;
        let two = two.unwrap().remove(0);
        given::runner(store, &beta, node, "three").await;
        given::end(store, &one).await;

        let list = |project, limit| {
            let filter = SessionFilter { project, limit: Some(limit), ..SessionFilter::default() };
            async move { store.session_list(&filter).await.unwrap() }
        };
        let of_alpha = list(Some(alpha.id), 10).await;
        assert_eq!(of_alpha.iter().map(|s| s.id).collect::<Vec<_>>(), [one.session.unwrap(), two.session.unwrap()]);
        assert_eq!(list(None, 10).await.len(), 3);
        assert_eq!(list(None, 1).await[0].id, one.session.unwrap());
    }
}
