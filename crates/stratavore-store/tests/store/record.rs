//! What cannot be put on the record is not done: of a change whose event the database refuses nothing
//! remains, on both databases.

use std::time::Duration;

use serde_json::json;
use stratavore_core::ask::{Prompt, PromptState};
use stratavore_core::caller::By;
use stratavore_core::destination::Retry;
use stratavore_core::event::NewEvent;
use stratavore_core::join::Redeemed;
use stratavore_core::node::Profile;
use stratavore_core::notify::{Message, Notification, State};
use stratavore_core::{NotificationId, PromptId};
use stratavore_store::testing::TestStore;
use stratavore_store::{AuditKey, on_both_databases};

use crate::given::{self, at};
use crate::lease::{LONG, daemon};
use crate::raw;

const MINUTE: Duration = Duration::from_secs(60);

/// From now on the database takes no event about a node.
async fn refuse_events(db: &TestStore) {
    let sql = match db.file() {
        Some(_) => {
            "CREATE TRIGGER no_node BEFORE INSERT ON events WHEN NEW.entity = 'node'
                BEGIN SELECT RAISE(ABORT, 'no'); END"
        }
        None => "ALTER TABLE events ADD CONSTRAINT no_node CHECK (entity <> 'node') NOT VALID",
    };
    raw::execute(db, sql).await.unwrap();
}

/// All rows that the deeds here would change, as text.
async fn rows(db: &TestStore) -> Vec<String> {
    let mut all = Vec::new();
    for sql in [
        "SELECT accessor || COALESCE(CAST(revoked_at AS TEXT), '') || COALESCE(node_id, '')
            FROM join_tokens ORDER BY accessor",
        "SELECT name || certificate FROM clusters",
        "SELECT id || COALESCE(key_digest, '') || COALESCE(labels, '') FROM nodes ORDER BY id",
        "SELECT id || state FROM audit_keys ORDER BY id",
        "SELECT id || COALESCE(CAST(retry_at AS TEXT), '') FROM dead_letters ORDER BY id",
        "SELECT id || state FROM notifications ORDER BY id",
        "SELECT id || state FROM prompts ORDER BY id",
    ] {
        all.extend(raw::texts(db, sql).await);
    }
    all
}

fn key(node: stratavore_core::NodeId, id: &str) -> AuditKey {
    AuditKey {
        id: id.into(),
        origin: "log".into(),
        public: format!("log+{id}+"),
        state: "active".into(),
        node,
        since_size: 0,
        change: None,
        created_at: at(1),
    }
}

fn given_up() -> Notification {
    Notification {
        id: NotificationId::from_entropy(given::entropy()),
        destination: "hook".into(),
        message: Message::test("hook", "ada", at(1)),
        state: State::Dead,
        created_at: at(1),
        due_at: at(1),
        attempts: 1,
        history: Vec::new(),
    }
}

on_both_databases! {
    async fn what_cannot_be_recorded_is_not_done(db: TestStore) {
        let (store, ada) = (db.store(), By::from("ada"));
        let here = given::node(store).await;
        let project = given::project(store, "api").await;
        let runner = given::runner(store, &project, here, "one").await;
        let relay = store.lease_acquire("relay", daemon(), LONG).await.unwrap().unwrap();
        let events = store.outbox_publish(&relay, 100).await.unwrap();
        store.join_token_add("aaaa", "digest", MINUTE, here, &ada, at(1)).await.unwrap();
        let sealer = store.lease_acquire("audit", daemon(), LONG).await.unwrap().unwrap();
        store.audit_key_begin(&sealer, &key(here, "one")).await.unwrap();
        store.destination_ensure("mq", "rabbitmq", "{}", at(1)).await.unwrap();
        let duty = store.lease_acquire("relay:mq", daemon(), LONG).await.unwrap().unwrap();
        store.dead_letter_bury(&duty, "mq", &events[0], "no", 1, at(1)).await.unwrap();
        let letter = store.dead_letter_list("mq", 0, 1).await.unwrap()[0].0.id;
        store.destination_define("hook", "webhook", "{}", here, &ada, at(1)).await.unwrap();
        store.notification_note(&given_up()).await.unwrap();
        let prompt = Prompt {
            id: PromptId::from_entropy(given::entropy()),
            runner: runner.id,
            epoch: 1,
            text: "go on".into(),
            by: "ada".into(),
            made_at: at(1),
            state: PromptState::Queued,
        };
        store.prompt_queue(&prompt).await.unwrap();
        let told = NewEvent::new("node.record_key_changed", json!({}));
        let before = rows(&db).await;

        // All of it is done, or nothing; answers what came of each.
        let all = async || {
            let again = Retry::All("mq".into());
            let one = Retry::One(letter);
            [
                ("make", store.join_token_add("b", "d", MINUTE, here, &ada, at(2)).await.map(drop)),
                ("found", store.cluster_found("pem", here, &ada, at(2)).await.map(drop)),
                ("bind", store.node_bind(here, "key-0", &ada, at(2)).await.map(drop)),
                (
                    "join",
                    store.node_join("aaaa", "digest", here, "key-1", &ada, at(2)).await.map(|done| {
                        assert_eq!(done, Redeemed::Bound);
                    }),
                ),
                ("revoke", store.join_token_revoke("aaaa", here, &ada, at(2)).await.map(drop)),
                ("rotate", store.audit_key_add(&sealer, &key(here, "two"), &told, &ada).await),
                ("retry", store.dead_letter_retry(&one, here, &ada, at(2)).await.map(drop)),
                ("retry all", store.dead_letter_retry(&again, here, &ada, at(2)).await.map(drop)),
                ("again", store.notification_again("hook", None, here, &ada, at(2)).await.map(drop)),
                ("send", store.prompt_send(prompt.id, 1, here, &ada, at(2)).await.map(drop)),
            ]
        };
        refuse_events(&db).await;
        for (deed, done) in all().await {
            assert!(done.is_err(), "{deed} was done, and is not on the record");
        }
        assert_eq!(rows(&db).await, before);
        // The control: the look sees a change that has no event of its own.
        let profile = Profile {
            labels: [("a".parse().unwrap(), "b".into())].into(),
            ..Profile::default()
        };
        store.node_profile(here, &profile, false).await.unwrap();
        assert_ne!(rows(&db).await, before);

        let allow = match db.file() {
            Some(_) => "DROP TRIGGER no_node",
            None => "ALTER TABLE events DROP CONSTRAINT no_node",
        };
        raw::execute(&db, allow).await.unwrap();
        for (deed, done) in all().await {
            done.unwrap_or_else(|error| panic!("{deed}: {error}"));
        }
        assert_eq!(
            raw::texts(&db, "SELECT kind FROM events WHERE entity = 'node' ORDER BY seq").await,
            [
                "node.token_made",
                "node.destination_added",
                "node.token_made",
                "node.ca_made",
                "node.joined",
                "node.joined",
                "node.token_revoked",
                "node.record_key_changed",
                "request.retry",
                "request.retry",
                "request.notify_retry",
                "request.sent",
            ]
        );
    }
}
