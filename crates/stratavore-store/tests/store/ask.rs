//! T-ASK: an ask is opened once however often it is read, and answered once whoever tries.

use stratavore_core::ask::{Ask, AskState, Prompt, PromptState};
use stratavore_core::caller::By;
use stratavore_core::observation::{AskKind, Asked};
use stratavore_core::{AskId, NodeId, PromptId};
use stratavore_store::testing::TestStore;
use stratavore_store::{Store, StoreError, on_both_databases};
use tokio::task::JoinSet;

use crate::given::{self, at};
use crate::raw;

const RACERS: usize = 16;

/// An ask that only the assistant's own screen takes the answer to: no call tells it from others.
async fn ask(store: &Store) -> (Ask, NodeId) {
    let (project, node) = (given::project(store, "alpha").await, given::node(store).await);
    let runner = given::runner(store, &project, node, "one").await;
    let asked = Asked {
        call: None,
        session: "s-1".into(),
        kind: AskKind::Permission,
        tool: "shell".into(),
        text: "rm -r build".into(),
        at: at(7),
    };
    let id = AskId::from_entropy(given::entropy());
    (Ask::new(id, runner.id, 1, asked, None), node)
}

async fn answer(store: &Store, ask: AskId, node: NodeId, racer: usize) -> Result<Ask, StoreError> {
    let who = format!("racer-{racer}");
    store.ask_answer(ask, racer.is_multiple_of(2), None, &who, node, &By::from("ada"), at(8)).await
}

/// All answer at once, through two stores by turns. Answers who was told to have succeeded.
async fn race(db: &TestStore, ask: AskId, node: NodeId, before: Option<String>) -> Vec<Ask> {
    let stores = [db.store().clone(), db.another().await];
    if let Some(sql) = before {
        // The control: whoever comes finds it open again.
        let mut winners = Vec::new();
        for racer in 0..RACERS {
            raw::execute(db, &sql).await.unwrap();
            winners.extend(answer(&stores[racer % 2], ask, node, racer).await);
        }
        return winners;
    }
    let mut racers = JoinSet::new();
    for racer in 0..RACERS {
        let store = stores[racer % 2].clone();
        racers.spawn(async move { answer(&store, ask, node, racer).await });
    }
    let mut winners = Vec::new();
    for told in racers.join_all().await {
        match told {
            Ok(ask) => winners.push(ask),
            Err(StoreError::AskOver { state: "answered", .. }) => {}
            Err(other) => panic!("{other:?}"),
        }
    }
    winners
}

/// Exactly one of them, and it is the one on the record.
async fn one_won(db: &TestStore, winners: &[Ask]) -> Result<(), String> {
    let [winner] = winners else { return Err(format!("{} won", winners.len())) };
    let kept = db.store().ask_get(winner.id).await.unwrap();
    let events = raw::number(db, "SELECT count(*) FROM events WHERE kind = 'request.answer'").await;
    if kept != *winner || events != 1 {
        return Err(format!("kept is {kept:?}, and {events} are on the record"));
    }
    Ok(())
}

on_both_databases! {
    async fn of_sixteen_who_answer_at_once_one_has(db: TestStore) {
        let (ask, node) = ask(db.store()).await;
        db.store().ask_open(&ask).await.unwrap();
        let winners = race(&db, ask.id, node, None).await;
        one_won(&db, &winners).await.unwrap();
        // The control: without the look at the state all of them do.
        let record = serde_json::to_string(&ask).unwrap();
        let open = format!("UPDATE asks SET state = 'open', record = '{record}'");
        let winners = race(&db, ask.id, node, Some(open)).await;
        assert_eq!(one_won(&db, &winners).await, Err(format!("{RACERS} won")));
    }

    async fn an_ask_that_is_read_twice_is_one(db: TestStore) {
        let (ask, node) = ask(db.store()).await;
        db.store().ask_open(&ask).await.unwrap();
        db.another().await.ask_open(&ask).await.unwrap();
        assert_eq!(db.store().asks_open(10).await.unwrap(), std::slice::from_ref(&ask));
        answer(db.store(), ask.id, node, 0).await.unwrap();
        db.store().ask_open(&ask).await.unwrap();
        let asks = db.store().asks_of(ask.runner, 10).await.unwrap();
        assert_eq!(asks.len(), 1);
        assert!(matches!(asks[0].state, AskState::Answered { .. }), "it is not opened anew: {asks:?}");
    }

    async fn a_prompt_leaves_its_queue_once(db: TestStore) {
        let (ask, _) = ask(db.store()).await;
        let prompt = Prompt {
            id: PromptId::from_entropy(given::entropy()),
            runner: ask.runner,
            epoch: 1,
            text: "go on".into(),
            by: "ada".into(),
            made_at: at(7),
            state: PromptState::Queued,
        };
        let stores = [db.store().clone(), db.another().await];
        assert_eq!(stores[0].prompt_queue(&prompt).await.unwrap(), prompt);
        let written = PromptState::Written { at: at(8), epoch: 3 };
        let mut racers = JoinSet::new();
        for racer in 0..RACERS {
            let (store, written) = (stores[racer % 2].clone(), written.clone());
            racers.spawn(async move { store.prompt_leave_queue(prompt.id, written).await.unwrap() });
        }
        let left = racers.join_all().await;
        assert_eq!(left.iter().filter(|left| **left).count(), 1);
        let kept = stores[1].prompt_queue(&prompt).await.unwrap();
        assert_eq!(kept.state, written, "asked for once more it is told as it is");
        assert_eq!(stores[0].prompt_taken(prompt.runner, "go on", at(7)).await.unwrap(), None);
        let taken = stores[0].prompt_taken(prompt.runner, " go  on", at(9)).await.unwrap();
        assert_eq!(taken, Some(prompt.id));
    }
}
