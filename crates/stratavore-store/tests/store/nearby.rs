//! Near vectors by pgvector's index, on a server that has it.

use std::collections::BTreeSet;

use stratavore_core::embedding::{BUILTIN, builtin};
use stratavore_core::search::SearchFilter;
use stratavore_store::testing::on_server;
use stratavore_store::{PoolSettings, Settings, Store, Unembedded};
use stratavore_testkit::pgvector::VectorServer;

use crate::message::{message, record, session};

const SIZE: usize = 32;

/// Numbers that a seed gives.
struct Dice(u64);

impl Dice {
    fn vector(&mut self) -> Vec<f32> {
        let mut vector: Vec<f32> = (0..SIZE)
            .map(|_| {
                self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                (self.0 >> 40) as f32 / (1u64 << 23) as f32 - 1.0
            })
            .collect();
        let length = vector.iter().map(|n| n * n).sum::<f32>().sqrt();
        vector.iter_mut().for_each(|n| *n /= length);
        vector
    }
}

async fn keep(store: &Store, dice: &mut Dice) {
    let pending = store.embedding_pending(10_000).await.unwrap();
    let all: Vec<(Unembedded, Vec<f32>)> =
        pending.into_iter().map(|one| (one, dice.vector())).collect();
    store.embedding_keep("it's a model", &all).await.unwrap();
}

async fn nearest(store: &Store, vector: &[f32], filter: &SearchFilter) -> BTreeSet<i64> {
    let found = store.embedding_nearest("it's a model", vector, filter, 10).await.unwrap();
    assert!(found.windows(2).all(|two| two[0].1 >= two[1].1), "{found:?}");
    found.into_iter().map(|(number, _)| number).collect()
}

/// How many of the ten that are nearest the index finds.
async fn recall(store: &Store, everything: &SearchFilter, wrong: bool) -> f64 {
    let mut dice = Dice(99);
    let (mut found, rounds) = (0, 30);
    for _ in 0..rounds {
        let wanted = dice.vector();
        // A filter that everything passes is answered by comparing all.
        let exact = nearest(store, &wanted, everything).await;
        let asked = if wrong { dice.vector() } else { wanted };
        found +=
            nearest(store, &asked, &SearchFilter::default()).await.intersection(&exact).count();
    }
    found as f64 / (rounds * 10) as f64
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_index_finds_what_comparing_all_finds() {
    let server = tokio::task::spawn_blocking(VectorServer::start).await.unwrap();
    let home = server.database();
    let pool = PoolSettings { min_connections: 0, ..PoolSettings::default() };
    let settings = Settings { database: on_server(&home), pool };
    let store = Store::open(settings.clone()).await.unwrap();
    assert!(store.has_vector_index());
    let session = session(&store, "alpha").await;
    let everything = SearchFilter { session: Some(session), ..SearchFilter::default() };
    let mut dice = Dice(1);
    let messages: Vec<_> = (0..3000).map(|i| message(&format!("m{i}"), "x")).collect();
    record(&store, session, &messages[..2000]).await;
    keep(&store, &mut dice).await;
    // Until it is known to have all of them it is not asked.
    home.query("DELETE FROM _message_vectors WHERE message_id % 2 = 0");
    assert_eq!(recall(&store, &everything, false).await, 1.0);
    let mut filled = 0;
    loop {
        match store.nearby_fill("it's a model", 300).await.unwrap() {
            0 => break,
            more => filled += more,
        }
    }
    assert_eq!(filled, 1000);
    record(&store, session, &messages).await;
    keep(&store, &mut dice).await;
    assert_eq!(home.query("SELECT count(*) FROM _message_vectors"), "3000");
    let found = recall(&store, &everything, false).await;
    assert!(found >= 0.95, "{found}");
    // The control: what is near something else is not what was wanted.
    let wrong = recall(&store, &everything, true).await;
    assert!(wrong < 0.3, "{wrong}");
    let plan = home.query(
        "SET enable_seqscan = off; EXPLAIN SELECT message_id FROM _message_vectors
            WHERE model = 'it''s a model' ORDER BY vector::vector(32) <#> array_fill(1, ARRAY[32])::vector(32) LIMIT 10",
    );
    assert!(plan.contains("_message_vectors_it_s_a_model_32"), "{plan}");

    // What goes, goes there too; and another daemon finds it set up.
    let other = Store::open(settings).await.unwrap();
    assert!(other.has_vector_index());
    other.embedding_forget_others("another", 10_000).await.unwrap();
    assert_eq!(home.query("SELECT count(*) FROM _message_vectors"), "0");
    // Dropped before its server.
    drop(home);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_extension_all_are_compared() {
    let db = stratavore_store::testing::TestStore::sqlite().await;
    assert!(!db.store().has_vector_index());
    assert_eq!(db.store().nearby_fill("x", 10).await.unwrap(), 0);
}

/// An index would miss some: two words have little in common with any text.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn built_in_vectors_are_all_compared_by_the_server() {
    let server = tokio::task::spawn_blocking(VectorServer::start).await.unwrap();
    let home = server.database();
    let pool = PoolSettings { min_connections: 0, ..PoolSettings::default() };
    let store = Store::open(Settings { database: on_server(&home), pool }).await.unwrap();
    let session = session(&store, "alpha").await;
    let word = |number: usize| format!("word{}", number * number % 97);
    let messages: Vec<_> = (0..600)
        .map(|n| message(&format!("m{n}"), &[word(n), word(n / 7), word(n / 3 + 1)].join(" ")))
        .collect();
    record(&store, session, &messages).await;
    let pending = store.embedding_pending(1000).await.unwrap().into_iter();
    let all: Vec<_> = pending.map(|one| (one.clone(), builtin(&one.text))).collect();
    store.embedding_keep(BUILTIN, &all).await.unwrap();
    assert_eq!(store.nearby_fill(BUILTIN, 1000).await.unwrap(), 0);
    let indexes = "SELECT count(*) FROM pg_indexes WHERE indexdef LIKE '%hnsw%'";
    assert_eq!(home.query(indexes), "0");

    let one_by_one = SearchFilter { session: Some(session), ..SearchFilter::default() };
    for text in ["word4 word9", "word16", "word25 word36 word1"] {
        let vector = builtin(text);
        let near = async |filter: &SearchFilter| {
            let found = store.embedding_nearest(BUILTIN, &vector, filter, 20).await.unwrap();
            // Of what is as near, any is as good, and the two add up in another order.
            found.into_iter().map(|(_, near)| (near * 1000.0).round()).collect::<Vec<_>>()
        };
        assert_eq!(near(&SearchFilter::default()).await, near(&one_by_one).await, "{text}");
    }
    // The control: it is the server's table that is asked.
    home.query("TRUNCATE _message_vectors");
    let vector = builtin("word4");
    let found = store.embedding_nearest(BUILTIN, &vector, &SearchFilter::default(), 20).await;
    assert_eq!(found.unwrap(), []);
    // Dropped before its server.
    drop(home);
}
