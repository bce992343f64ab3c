use std::collections::BTreeSet;

use stratavore_core::event::NewEvent;
use stratavore_core::name::Reference;
use stratavore_core::runner::{Input, Runner, RunnerState, Stop};
use stratavore_core::{ProjectId, RunnerId};
use stratavore_store::{
    NewRunner, RunnerFilter, RunnerWrite, Store, StoreError, on_both_databases,
};
use tokio::task::JoinSet;

use crate::given::{self, at, reference};
use crate::raw;

async fn listed(store: &Store, filter: RunnerFilter) -> Vec<String> {
    store.runner_list(&filter).await.unwrap().into_iter().map(|(r, _)| r.name.to_string()).collect()
}

fn stop(by: &str) -> Input {
    Input::Stop(Stop {
        by: by.into(),
        grace_ms: 1000,
        force: false,
        after: stratavore_core::runner::After::End,
    })
}

fn writes<'a>(seen: &'a [Runner], next: &'a [(Runner, NewEvent)]) -> Vec<RunnerWrite<'a>> {
    let pairs = seen.iter().zip(next);
    pairs.map(|(seen, (next, event))| RunnerWrite { seen, next, event: event.clone() }).collect()
}

on_both_databases! {
    async fn lost_are_those_that_no_other_carries_on(db: TestStore) {
        let store = db.store();
        let node = given::node(store).await;
        let (alpha, beta) = (given::project(store, "alpha").await, given::project(store, "beta").await);
        let names = |project| async move {
            let lost = store.runner_lost(node, project, 10).await.unwrap();
            lost.into_iter().map(|runner| runner.name.to_string()).collect::<Vec<_>>()
        };
        let one = given::runner(store, &alpha, node, "one").await;
        given::end(store, &given::runner(store, &alpha, node, "done").await).await;
        given::runner(store, &alpha, node, "alive").await;
        let other = given::node(store).await;
        given::lose(store, &given::runner(store, &alpha, other, "elsewhere").await).await;
        assert!(names(None).await.is_empty());
        let one = given::lose(store, &one).await;
        given::lose(store, &given::runner(store, &beta, node, "two").await).await;
        assert_eq!(BTreeSet::from_iter(names(None).await), BTreeSet::from(["one".into(), "two".into()]));
        assert_eq!(names(Some(beta.id)).await, ["two"]);
        assert_eq!(store.runner_lost(node, None, 1).await.unwrap().len(), 1);

        let next = NewRunner { successor_of: Some(one.id), ..given::unborn(alpha.id, node, "one") };
        let next = given::admit(store, next).await;
        assert_eq!(names(None).await, ["two"]);
        given::lose(store, &next).await;
        assert_eq!(names(Some(alpha.id)).await, ["one"], "and who carried it on is lost again");
    }

    async fn it_reads_back_as_it_was_admitted(db: TestStore) {
        let store = db.store();
        let node = given::node(store).await;
        let project = given::project(store, "alpha").await;
        let admitted = given::runner(store, &project, node, "one").await;
        assert_eq!((admitted.epoch, admitted.generation), (1, 1));
        assert_eq!(admitted.state, RunnerState::Pending { not_before: None });
        assert_eq!(store.runner_get(admitted.id).await.unwrap(), admitted);
        let unknown = store.runner_get(RunnerId::from_entropy([3; 16])).await;
        assert!(matches!(unknown, Err(StoreError::NotFound { noun: "runner", .. })), "{unknown:?}");
    }

    async fn a_name_means_the_live_runner_and_then_the_latest_that_ended(db: TestStore) {
        let store = db.store();
        let node = given::node(store).await;
        let project = given::project(store, "alpha").await;
        let wanted = reference("one", "run");
        let mut last = None;
        for second in 1..4 {
            let new = given::unborn(project.id, node, "one");
            let runner = store.runners_admit(vec![new], "ada", at(second), None).await.unwrap().remove(0);
            assert_eq!(store.runner_find(&wanted, None).await.unwrap(), runner);
            last = Some(given::end(store, &runner).await);
        }
        assert_eq!(store.runner_find(&wanted, None).await.unwrap(), last.unwrap());
    }

    async fn a_name_that_two_projects_use_is_ambiguous_unless_the_project_is_given(db: TestStore) {
        let store = db.store();
        let node = given::node(store).await;
        let (alpha, beta) = (given::project(store, "alpha").await, given::project(store, "beta").await);
        let ours = given::runner(store, &alpha, node, "one").await;
        let theirs = given::runner(store, &beta, node, "one").await;
        let wanted = reference("one", "run");
        match store.runner_find(&wanted, None).await {
            Err(StoreError::Ambiguous { candidates, .. }) => assert_eq!(candidates.len(), 2),
            other => panic!("{other:?}"),
        }
        assert_eq!(store.runner_find(&wanted, Some(alpha.id)).await.unwrap(), ours);
        assert_eq!(store.runner_find(&wanted, Some(beta.id)).await.unwrap(), theirs);
        given::end(store, &theirs).await;
        assert_eq!(store.runner_find(&wanted, None).await.unwrap(), ours, "live before ended");
    }

    async fn the_beginning_of_an_id_is_enough_while_it_names_one(db: TestStore) {
        let store = db.store();
        let node = given::node(store).await;
        let project = given::project(store, "alpha").await;
        let bits = |last: u128| RunnerId::from_entropy((0xabcd_u128 << 84 | last).to_be_bytes());
        for (called, last) in [("one", 1), ("two", 2 << 50)] {
            let new = NewRunner { id: bits(last), ..given::unborn(project.id, node, called) };
            given::admit(store, new).await;
        }
        let text = bits(1).to_string();
        let found = store.runner_find(&reference(&text[..20], "run"), None).await.unwrap();
        assert_eq!(found.name.as_str(), "one");
        let bare = store.runner_find(&reference(&text[4..20], "run"), None).await.unwrap();
        assert_eq!(bare.id, found.id, "the prefix of the noun may be left out");
        let ambiguous = store.runner_find(&reference(&text[..8], "run"), None).await;
        assert!(matches!(ambiguous, Err(StoreError::Ambiguous { .. })), "{ambiguous:?}");
        let elsewhere = Some(ProjectId::from_entropy([1; 16]));
        let answer = store.runner_find(&reference(&text[..20], "run"), elsewhere).await;
        assert!(matches!(answer, Err(StoreError::NotFound { .. })), "{answer:?}");
    }

    async fn wildcards_are_letters_like_others(db: TestStore) {
        let store = db.store();
        let node = given::node(store).await;
        let project = given::project(store, "alpha").await;
        given::runner(store, &project, node, "one").await;
        for pattern in ["%", "run_%", "o%", "_ne", "run__", "*", "[a-z]", "run_~"] {
            // Also as a prefix, which the reference's own check would not let through.
            let prefix = Reference { id_prefix: Some(pattern.into()), ..reference(pattern, "run") };
            let answer = store.runner_find(&prefix, None).await;
            assert!(matches!(answer, Err(StoreError::NotFound { .. })), "{pattern}: {answer:?}");
        }
    }

    async fn a_list_is_newest_first_in_pages_and_by_filter(db: TestStore) {
        let store = db.store();
        let node = given::node(store).await;
        let other_node = given::node(store).await;
        let (alpha, beta) = (given::project(store, "alpha").await, given::project(store, "beta").await);
        for (called, project, node, second) in [
            ("a1", &alpha, node, 1), ("b1", &beta, node, 1), ("a2", &alpha, other_node, 2), ("a3", &alpha, node, 3),
        ] {
            let new = given::unborn(project.id, node, called);
            store.runners_admit(vec![new], "ada", at(second), None).await.unwrap();
        }
        let a1 = store.runner_find(&reference("a1", "run"), None).await.unwrap();
        given::end(store, &a1).await;

        let all = RunnerFilter::default();
        let of_alpha = RunnerFilter { project: Some(alpha.id), ..all.clone() };
        assert_eq!(listed(store, of_alpha.clone()).await, ["a3", "a2", "a1"]);
        let live = RunnerFilter { live_only: true, ..of_alpha.clone() };
        assert_eq!(listed(store, live.clone()).await, ["a3", "a2"]);
        assert_eq!(listed(store, RunnerFilter { node: Some(other_node), ..live }).await, ["a2"]);
        let exited = RunnerFilter { states: vec!["exited".into(), "lost".into()], ..all.clone() };
        assert_eq!(listed(store, exited).await, ["a1"]);

        let whole = listed(store, all.clone()).await;
        assert_eq!(whole.len(), 4);
        let (mut paged, mut before) = (Vec::new(), None);
        loop {
            let page = RunnerFilter { limit: Some(1), before, ..all.clone() };
            let Some((runner, _)) = store.runner_list(&page).await.unwrap().pop() else { break };
            before = Some((runner.created_at, runner.id));
            paged.push(runner.name.to_string());
        }
        assert_eq!(paged, whole, "pages join without a gap, even where times are equal");

        let slip = RunnerFilter { states: vec!["runing".into()], ..all };
        let answer = store.runner_list(&slip).await;
        assert!(matches!(answer, Err(StoreError::Invalid { .. })), "{answer:?}");
    }

    async fn of_writers_who_saw_the_same_one_wins(db: TestStore) {
        let store = db.store().clone();
        let node = given::node(&store).await;
        let project = given::project(&store, "alpha").await;
        let seen = given::runner(&store, &project, node, "one").await;
        let mut writers = JoinSet::new();
        for n in 0..8 {
            let (store, seen) = (store.clone(), seen.clone());
            writers.spawn(async move {
                let (next, event) = given::changed(&seen, stop(&n.to_string()), at(5));
                store.runner_write(&seen, &next, event, "ada", None).await
            });
        }
        let answers = writers.join_all().await;
        let won: Vec<_> = answers.iter().filter_map(|a| a.as_ref().ok()).collect();
        assert_eq!(won.len(), 1, "{answers:?}");
        assert!(answers.iter().all(|a| matches!(a, Ok(_) | Err(StoreError::Conflict { .. }))), "{answers:?}");
        assert_eq!(&store.runner_get(seen.id).await.unwrap(), won[0]);
        let events = format!("SELECT count(*) FROM events WHERE entity_id = '{}'", seen.id);
        assert_eq!(raw::number(&db, &events).await, 2);
    }

    async fn a_write_that_saw_another_epoch_or_generation_changes_nothing(db: TestStore) {
        let store = db.store();
        let node = given::node(store).await;
        let project = given::project(store, "alpha").await;
        let kept = given::runner(store, &project, node, "one").await;
        for seen in [
            Runner { epoch: 2, ..kept.clone() },
            Runner { generation: 2, ..kept.clone() },
            Runner { generation: 0, ..kept.clone() },
        ] {
            let (next, event) = given::activity(&seen);
            let answer = store.runner_write(&seen, &next, event, "ada", None).await;
            assert!(matches!(answer, Err(StoreError::Conflict { .. })), "{answer:?}");
        }
        assert_eq!(store.runner_get(kept.id).await.unwrap(), kept);
    }

    async fn what_admission_wrote_stays(db: TestStore) {
        let store = db.store();
        let node = given::node(store).await;
        let project = given::project(store, "alpha").await;
        let seen = given::runner(store, &project, node, "one").await;
        let (next, event) = given::activity(&seen);
        for wrong in [
            Runner { name: given::name("two"), ..next.clone() },
            Runner { session: None, ..next.clone() },
            Runner { epoch: 0, ..next.clone() },
            Runner { generation: 7, ..next.clone() },
        ] {
            let answer = store.runner_write(&seen, &wrong, event.clone(), "ada", None).await;
            assert!(matches!(answer, Err(StoreError::Invalid { .. })), "{answer:?}");
        }
    }

    async fn one_that_has_ended_never_changes_not_even_by_hand(db: TestStore) {
        let store = db.store();
        let node = given::node(store).await;
        let project = given::project(store, "alpha").await;
        let live = given::runner(store, &project, node, "one").await;
        let gone = given::end(store, &live).await;

        let (next, event) = given::activity(&gone);
        let answer = store.runner_write(&gone, &next, event, "ada", None).await;
        assert!(matches!(answer, Err(StoreError::Conflict { .. })), "{answer:?}");
        for sql in [
            "UPDATE runners SET state = 'running', ended_at = NULL",
            "UPDATE runners SET record = '{}'",
            "UPDATE runners SET generation = generation + 1",
            "DELETE FROM runners",
        ] {
            let said = raw::execute(&db, sql).await.unwrap_err();
            assert!(said.contains("never"), "{sql}: {said}");
        }
        assert_eq!(store.runner_get(gone.id).await.unwrap(), gone);

        // The control: the same statement goes through for a runner that lives.
        let live = given::runner(store, &project, node, "two").await;
        let sql = format!("UPDATE runners SET generation = 5 WHERE id = '{}'", live.id);
        assert_eq!(raw::execute(&db, &sql).await, Ok(1));
        let back = format!("UPDATE runners SET epoch = 0 WHERE id = '{}'", live.id);
        assert!(raw::execute(&db, &back).await.unwrap_err().contains("never shrinks"));
    }

    async fn many_are_written_all_or_none(db: TestStore) {
        let store = db.store();
        let node = given::node(store).await;
        let project = given::project(store, "alpha").await;
        let mut seen = Vec::new();
        for called in ["one", "two", "three"] {
            seen.push(given::runner(store, &project, node, called).await);
        }
        let next: Vec<(Runner, NewEvent)> = seen.iter().map(given::ended).collect();
        let mut stale = seen.clone();
        stale[1].epoch = 0;
        let answer = store.runners_write(&writes(&stale, &next), "daemon").await;
        match answer {
            Err(StoreError::Conflict { what }) => assert!(what.contains("two"), "{what}"),
            other => panic!("{other:?}"),
        }
        assert_eq!(listed(store, RunnerFilter { live_only: true, ..RunnerFilter::default() }).await.len(), 3);

        store.runners_write(&writes(&seen, &next), "daemon").await.unwrap();
        assert!(listed(store, RunnerFilter { live_only: true, ..RunnerFilter::default() }).await.is_empty());
        for (next, _) in &next {
            assert_eq!(&store.runner_get(next.id).await.unwrap(), next);
        }
    }
}
