//! Moves: what nodes say of them, and that a runner is carried on once.

use stratavore_core::moving::{Move, Stage};
use stratavore_core::node::Scheduling;
use stratavore_core::runner::Runner;
use stratavore_core::{NodeId, RunnerId};
use stratavore_store::{NewRunner, Store, StoreError, on_both_databases};

use crate::given::{self, at};

fn of(runner: &Runner) -> Move {
    Move {
        runner: runner.id,
        from: runner.node,
        asked_by: "ada".into(),
        stays: Some("it works".into()),
        to: None,
        refused: Default::default(),
        is_read: false,
        since: at(1),
    }
}

/// The only move, as far as it is.
async fn stage(store: &Store) -> (Stage, String) {
    let [view] = store.move_list().await.unwrap().try_into().unwrap();
    (view.stage(), view.why())
}

/// A runner that carries another one on.
fn next(of: &Runner, node: NodeId) -> NewRunner {
    NewRunner {
        id: RunnerId::from_entropy(given::entropy()),
        session: of.session.unwrap(),
        continues: true,
        successor_of: Some(of.id),
        ..given::unborn(of.project, node, "one")
    }
}

on_both_databases! {
    async fn a_node_that_is_drained_may_have_its_runners_moved(db: TestStore) {
        let store = db.store();
        let node = given::node(store).await;
        for (scheduling, moves, changes, moving) in [
            (Scheduling::Draining, false, true, None),
            (Scheduling::Draining, true, true, Some("ada")),
            (Scheduling::Draining, true, false, Some("ada")),
            // Waits for them again.
            (Scheduling::Draining, false, true, None),
            (Scheduling::Draining, true, true, Some("ada")),
            (Scheduling::Open, false, true, None),
            (Scheduling::Cordoned, true, true, None),
        ] {
            let by = "ada".into();
            let changed = store.node_schedule(node, scheduling, moves, &by, at(2)).await.unwrap();
            let seen = store.node_get(node).await.unwrap().unwrap();
            assert_eq!((changed, seen.moving.as_deref()), (changes, moving), "{scheduling:?} {moves}");
        }
    }

    async fn what_several_nodes_say_of_a_move_is_all_kept(db: TestStore) {
        let store = db.store();
        let project = given::project(store, "api").await;
        let node = given::node(store).await;
        let runner = given::runner(store, &project, node, "one").await;
        store.move_begin(&of(&runner)).await.unwrap();
        assert_eq!(stage(store).await, (Stage::Stays, "it works".into()));
        let mut nodes = Vec::new();
        for _ in 0..8 {
            nodes.push(given::node(store).await);
        }
        let mut told = tokio::task::JoinSet::new();
        for node in nodes.clone() {
            let (store, id) = (store.clone(), runner.id);
            told.spawn(async move {
                store.move_change(id, |of| drop(of.refused.insert(node, "is full".into()))).await
            });
        }
        for answer in told.join_all().await {
            answer.unwrap();
        }
        // One that is known is not begun anew.
        store.move_begin(&of(&runner)).await.unwrap();
        let now = store.move_change(runner.id, |of| of.stays = None).await.unwrap().unwrap();
        assert_eq!(now.refused.len(), 8, "{now:?}");
        assert_eq!(stage(store).await.0, Stage::Sought);
        store.move_forget(runner.id).await.unwrap();
        assert_eq!(store.move_list().await.unwrap(), []);
        assert_eq!(store.move_change(runner.id, |_| ()).await.unwrap(), None);
    }

    async fn of_many_nodes_that_carry_a_runner_on_one_does_and_it_is_told(db: TestStore) {
        let store = db.store();
        let project = given::project(store, "api").await;
        let node = given::node(store).await;
        let runner = given::runner(store, &project, node, "one").await;
        store.move_begin(&Move { stays: None, to: Some(node), ..of(&runner) }).await.unwrap();
        assert_eq!(stage(store).await.0, Stage::Leaves);
        let (next_of_it, event) = given::ended(&runner);
        let runner = store.runner_write(&runner, &next_of_it, event, "agent", None).await.unwrap();
        assert_eq!(stage(store).await.0, Stage::Between);
        // It is nowhere: its node is needed.
        let removed = store.node_remove(node, &"ada".into(), at(9)).await;
        assert!(matches!(removed, Err(StoreError::Invalid { .. })), "{removed:?}");
        let mut nodes = Vec::new();
        for _ in 0..8 {
            nodes.push(given::node(store).await);
        }
        let mut taken = tokio::task::JoinSet::new();
        for node in nodes {
            let (store, new) = (store.clone(), next(&runner, node));
            taken.spawn(async move { store.runners_admit(vec![new], "daemon", at(10), None).await });
        }
        let answers = taken.join_all().await;
        let admitted: Vec<_> = answers.iter().filter_map(|answer| answer.as_ref().ok()).collect();
        assert_eq!(admitted.len(), 1, "{answers:?}");
        let [view] = store.move_list().await.unwrap().try_into().unwrap();
        assert_eq!(view.successor, Some((admitted[0][0].id, admitted[0][0].node)));
        assert_eq!(view.stage(), Stage::Moved);
        store.node_remove(node, &"ada".into(), at(11)).await.unwrap();
    }
}
