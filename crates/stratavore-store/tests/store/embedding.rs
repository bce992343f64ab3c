//! Vectors of messages: which are missing, and which are near.

use stratavore_core::message::{Message, Place};
use stratavore_core::search::SearchFilter;
use stratavore_store::{Store, StoreError, on_both_databases};

use crate::message::{message, record, session};

/// Of length 1, and the nearer to `(1, 0, …)` the smaller the angle.
fn turned(degrees: u32) -> Vec<f32> {
    let angle = (degrees as f32).to_radians();
    let mut vector = vec![0.0; 20];
    (vector[0], vector[1]) = (angle.cos(), angle.sin());
    vector
}

/// Gives each waiting message the vector that `of` makes of its text.
async fn embed(store: &Store, model: &str, of: impl Fn(&str) -> Vec<f32>) -> usize {
    let pending = store.embedding_pending(10_000).await.unwrap();
    let vectors: Vec<_> = pending.into_iter().map(|m| (m.clone(), of(&m.text))).collect();
    store.embedding_keep(model, &vectors).await.unwrap();
    vectors.len()
}

async fn nearest(store: &Store, model: &str, filter: &SearchFilter, limit: u32) -> Vec<String> {
    let found = store.embedding_nearest(model, &turned(0), filter, limit).await.unwrap();
    let numbers: Vec<i64> = found.iter().map(|(number, _)| *number).collect();
    assert!(found.windows(2).all(|two| two[0].1 >= two[1].1), "{found:?}");
    let kept = store.message_numbered(&numbers).await.unwrap();
    kept.into_iter().map(|kept| kept.message.text).collect()
}

on_both_databases! {
    async fn the_nearest_are_found_exactly(db: TestStore) {
        let store = db.store();
        let alpha = session(store, "alpha").await;
        let beta = session(store, "beta").await;
        // More than one page.
        let many: Vec<_> = (0..5000).map(|i| message(&format!("m{i}"), &(20 + i % 200).to_string())).collect();
        record(store, alpha, &many).await;
        record(store, beta, &[message("b1", "7"), message("b2", "3"), message("b3", "120")]).await;
        let of = |text: &str| turned(text.parse().unwrap());
        assert_eq!(store.embedding_pending_count().await.unwrap(), 5003);
        assert_eq!(embed(store, "angles", of).await, 5003);
        assert_eq!(store.embedding_pending_count().await.unwrap(), 0);
        let all = SearchFilter::default();
        assert_eq!(nearest(store, "angles", &all, 4).await, ["3", "7", "20", "20"]);
        let of_beta = SearchFilter { session: Some(beta), ..all.clone() };
        // What points the other way is no answer.
        assert_eq!(nearest(store, "angles", &of_beta, 9).await, ["3", "7"]);
        assert_eq!(nearest(store, "another", &all, 9).await, [""; 0]);
        let short = store.embedding_nearest("angles", &[1.0; 3], &all, 4).await;
        assert!(matches!(short, Err(StoreError::Corrupt { .. })), "{short:?}");
    }

    async fn a_message_that_changes_loses_its_vector(db: TestStore) {
        let store = db.store();
        let session = session(store, "alpha").await;
        record(store, session, &[message("m", "10")]).await;
        let stale = store.embedding_pending(9).await.unwrap();
        embed(store, "angles", |_| turned(1)).await;
        record(store, session, &[message("m", "10")]).await;
        assert_eq!(store.embedding_pending(9).await.unwrap(), [], "it is the same");
        let later = Place { offset: 77, ..message("m", "").place };
        record(store, session, &[Message { place: later, ..message("m", "20") }]).await;
        assert_eq!(nearest(store, "angles", &SearchFilter::default(), 9).await, [""; 0]);
        // A vector of the text that was comes too late.
        store.embedding_keep("angles", &[(stale[0].clone(), turned(1))]).await.unwrap();
        assert_eq!(store.embedding_pending(9).await.unwrap()[0].text, "20");
        embed(store, "angles", |_| turned(2)).await;
        assert_eq!(nearest(store, "angles", &SearchFilter::default(), 9).await, ["20"]);
    }

    async fn vectors_of_another_model_are_made_anew(db: TestStore) {
        let store = db.store();
        let session = session(store, "alpha").await;
        let messages: Vec<_> = (0..5).map(|i| message(&format!("m{i}"), "10")).collect();
        record(store, session, &messages).await;
        embed(store, "old", |_| turned(1)).await;
        assert_eq!(store.embedding_forget_others("old", 9).await.unwrap(), 0);
        assert_eq!(store.embedding_forget_others("new", 3).await.unwrap(), 3);
        assert_eq!(store.embedding_forget_others("new", 3).await.unwrap(), 2);
        assert_eq!(embed(store, "new", |_| turned(1)).await, 5);
        assert_eq!(nearest(store, "new", &SearchFilter::default(), 9).await.len(), 5);
    }
}
