//! Messages are kept once, and found by their words alike on both databases.

use std::collections::BTreeSet;

use stratavore_core::message::{MESSAGE_MAX, Message, Place, Role};
use stratavore_core::search::{Query, SearchFilter};
use stratavore_core::{SessionId, Timestamp};
use stratavore_store::{Store, on_both_databases};

use crate::given::{self, at};
use crate::raw;

pub(crate) fn message(id: &str, text: &str) -> Message {
    Message {
        id: id.into(),
        session: "theirs".into(),
        role: Role::User,
        at: at(100),
        model: None,
        text: text.into(),
        place: Place { file: "/home/ada/a.jsonl".into(), offset: 10 },
    }
}

/// A session of a project of its own.
pub(crate) async fn session(store: &Store, project: &str) -> SessionId {
    let node = given::node(store).await;
    let project = given::project(store, project).await;
    given::runner(store, &project, node, "one").await.session.unwrap()
}

pub(crate) async fn record(store: &Store, session: SessionId, messages: &[Message]) {
    let all: Vec<_> = messages.iter().map(|message| (session, message)).collect();
    store.message_record(&all).await.unwrap();
}

/// The ids of what is found, in the order of ids.
async fn found_with(store: &Store, query: &str, filter: &SearchFilter) -> BTreeSet<String> {
    let query = Query::parse(query).unwrap();
    let found = store.message_search(&query, filter, 100).await.unwrap();
    let numbers: Vec<i64> = found.iter().map(|(number, _)| *number).collect();
    let kept = store.message_numbered(&numbers).await.unwrap();
    assert_eq!(kept.iter().map(|kept| kept.number).collect::<Vec<_>>(), numbers);
    kept.into_iter().map(|kept| kept.message.id).collect()
}

async fn found(store: &Store, query: &str) -> String {
    let ids = found_with(store, query, &SearchFilter::default()).await;
    ids.into_iter().collect::<Vec<_>>().join(" ")
}

on_both_databases! {
    async fn words_phrases_and_exclusions_find_the_same(db: TestStore) {
        let store = db.store();
        let session = session(store, "alpha").await;
        record(store, session, &[
            message("race", "Fix the race condition in the outbox relay"),
            message("swap", "a condition of the race: nobody falls"),
            message("cafe", "Le CAFÉ de Zürich, naïve crème"),
            message("code", "crates/core/src/words.rs: fold_into(&mut out) panics at 12:5"),
            message("cjk", "検索エンジンを直す"),
            message("quote", "it's 'quoted' \"twice\" & (bracketed) | piped ! <-> NEAR/3 * : \\ %s"),
            message("empty", " \u{1b}[0m -- "),
        ]).await;
        for (query, ids) in [
            ("race condition", "race swap"),
            ("\"race condition\"", "race"),
            ("race -outbox", "swap"),
            ("condition -\"race condition\"", "swap"),
            ("cafe ZURICH creme", "cafe"),
            ("Café", "cafe"),
            ("fold_into", "code"),
            ("words.rs", "code"),
            ("core/src", "code"),
            ("wor", ""),
            ("wor*", "code"),
            ("検索", "cjk"),
            ("索検", ""),
            ("it's", "quote"),
            ("near twice", "quote"),
            ("\"quoted twice\"", "quote"),
            ("AND", ""),
            ("the", "race swap"),
            ("0m", "empty"),
        ] {
            assert_eq!(found(store, query).await, ids, "{query}");
        }
        // Whatever somebody types is a query or an error of ours, and never one of the database's.
        for hostile in [
            "' OR 1=1 --", "\"; DROP TABLE messages; --", "a NEAR(b) c:d ^e {f} +g", "'a'::tsquery",
            "a & | ! <-> b", "x\0y", "* *", "\u{202e}evil", "words MATCH 'a'", "-a- --b \"-c\"",
        ] {
            if let Ok(query) = Query::parse(hostile) {
                store.message_search(&query, &SearchFilter::default(), 10).await.unwrap();
            }
        }
        assert_eq!(raw::number(&db, "SELECT count(*) FROM messages").await, 7);
    }

    async fn a_message_is_kept_once_and_its_last_state_counts(db: TestStore) {
        let store = db.store();
        let session = session(store, "alpha").await;
        let first = message("m1", "the first draft");
        let later = Message { place: Place { offset: 99, ..first.place.clone() }, ..message("m1", "the final text") };
        record(store, session, std::slice::from_ref(&first)).await;
        assert_eq!(found(store, "draft").await, "m1");
        // Both in one batch, as a file has them that is read at once.
        record(store, session, &[first.clone(), later.clone(), message("m2", "another")]).await;
        assert_eq!(found(store, "draft").await, "");
        assert_eq!(found(store, "final").await, "m1");
        // Read again from the beginning: what is known changes nothing.
        for again in [first.clone(), later.clone()] {
            record(store, session, &[again]).await;
        }
        assert_eq!(found(store, "final").await, "m1");
        assert_eq!(store.message_count(session).await.unwrap(), 2);
        assert_eq!(store.message_get(session, "m1").await.unwrap().message.text, "the final text");
        // In another file the longer one is the later one.
        let elsewhere = |text: &str| {
            let place = Place { file: "/home/ada/b.jsonl".into(), offset: 0 };
            Message { place, ..message("m1", text) }
        };
        record(store, session, &[elsewhere("cut")]).await;
        assert_eq!(found(store, "final").await, "m1");
        record(store, session, &[elsewhere("the final text and more")]).await;
        assert_eq!(found(store, "more").await, "m1");
        // The same id in another session is another message.
        let other = crate::message::session(store, "beta").await;
        record(store, other, &[message("m1", "the final word")]).await;
        assert_eq!(found_with(store, "final", &SearchFilter::default()).await.len(), 1);
        assert_eq!(store.message_search(&Query::parse("final").unwrap(), &SearchFilter::default(), 9).await.unwrap().len(), 2);
    }

    async fn filters_say_where_and_when(db: TestStore) {
        let store = db.store();
        let alpha = session(store, "alpha").await;
        let beta = session(store, "beta").await;
        let tool = Message { role: Role::Tool, at: at(200), ..message("tool", "needle of a tool") };
        record(store, alpha, &[message("a", "a needle"), tool]).await;
        record(store, beta, &[message("b", "needle b")]).await;
        let project = store.session_get(beta).await.unwrap().project;
        let all = SearchFilter::default();
        for (filter, ids) in [
            (all.clone(), "a b tool"),
            (SearchFilter { session: Some(alpha), ..all.clone() }, "a tool"),
            (SearchFilter { project: Some(project), ..all.clone() }, "b"),
            (SearchFilter { assistant: Some(given::name("generic")), ..all.clone() }, "a b tool"),
            (SearchFilter { assistant: Some(given::name("claude")), ..all.clone() }, ""),
            (SearchFilter { role: Some(Role::Tool), ..all.clone() }, "tool"),
            (SearchFilter { since: Some(at(101)), ..all.clone() }, "tool"),
            (SearchFilter { until: Some(at(101)), project: Some(project), ..all.clone() }, "b"),
        ] {
            let ids_found = found_with(store, "needle", &filter).await;
            assert_eq!(ids_found.into_iter().collect::<Vec<_>>().join(" "), ids, "{filter:?}");
        }
    }

    async fn what_is_too_long_is_cut_and_what_no_column_takes_is_left_out(db: TestStore) {
        let store = db.store();
        let session = session(store, "alpha").await;
        let long = format!("begin {} tail", "éé ".repeat(MESSAGE_MAX / 4));
        let mut odd = message(&"i".repeat(5000), &format!("nul\0inside {long}"));
        odd.model = Some("m\0".repeat(400));
        odd.place.file = "/f\0".repeat(4000);
        odd.place.offset = u64::MAX;
        record(store, session, &[odd.clone()]).await;
        record(store, session, &[odd]).await;
        let kept = store.message_list(session, None, 10).await.unwrap();
        assert_eq!(kept.len(), 1);
        let kept = &kept[0].message;
        assert!(kept.text.len() <= MESSAGE_MAX && kept.text.starts_with("nul inside begin"));
        assert_eq!(kept.id.len(), 256);
        assert_eq!(found(store, "inside").await, kept.id);
        assert_eq!(found(store, "tail").await, "");
        // The control of the cut: what stands before it is found.
        assert_eq!(found(store, "\"begin ee\"").await, kept.id);
    }

    async fn a_conversation_is_listed_in_pages(db: TestStore) {
        let store = db.store();
        let session = session(store, "alpha").await;
        let messages: Vec<_> = (0..7)
            .map(|i| Message { at: at(i / 2), ..message(&format!("m{i}"), "x") })
            .collect();
        record(store, session, &messages).await;
        let (mut ids, mut after): (Vec<String>, Option<(Timestamp, i64)>) = (Vec::new(), None);
        loop {
            let page = store.message_list(session, after, 3).await.unwrap();
            let Some(last) = page.last() else { break };
            after = Some((last.message.at, last.number));
            ids.extend(page.into_iter().map(|kept| kept.message.id));
        }
        assert_eq!(ids, ["m0", "m1", "m2", "m3", "m4", "m5", "m6"]);
    }

    /// Two of a word beat one, and a short message a long one, on both databases.
    async fn what_says_more_of_it_comes_first(db: TestStore) {
        let store = db.store();
        let session = session(store, "alpha").await;
        record(store, session, &[
            message("passing", &format!("needle {}", "hay and more hay ".repeat(200))),
            message("much", "needle, needle and needle"),
            message("none", "nothing of it"),
        ]).await;
        let query = Query::parse("needle").unwrap();
        let found = store.message_search(&query, &SearchFilter::default(), 10).await.unwrap();
        let numbers: Vec<i64> = found.iter().map(|(number, _)| *number).collect();
        let kept = store.message_numbered(&numbers).await.unwrap();
        assert_eq!(kept.iter().map(|k| &*k.message.id).collect::<Vec<_>>(), ["much", "passing"]);
        assert!(found[0].1 > found[1].1, "{found:?}");
    }
}

on_both_databases! {
    async fn only_what_was_not_known_is_new(db: TestStore) {
        let store = db.store();
        let session = session(store, "alpha").await;
        let [a, b, c] = ["a", "b", "c"].map(|id| message(id, id));
        let count = async |messages: &[&Message]| {
            let all: Vec<_> = messages.iter().map(|message| (session, *message)).collect();
            store.message_record(&all).await.unwrap()
        };
        assert_eq!(count(&[&a, &b, &a]).await, 2);
        assert_eq!(count(&[&b, &c]).await, 1);
        assert_eq!(count(&[&a, &b, &c]).await, 0);
        let many: Vec<_> = (0..300).map(|i| message(&format!("m{i}"), "x")).collect();
        let all: Vec<&Message> = many.iter().collect();
        assert_eq!(count(&all[..200]).await, 200);
        assert_eq!(count(&all).await, 100);
        assert_eq!(count(&[]).await, 0);
    }
}
