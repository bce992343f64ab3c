//! What is there is found: by its words, and by other words for the same.

use std::collections::BTreeSet;

use stratavore_core::embedding::builtin;
use stratavore_core::message::{Message, Place, Role};
use stratavore_store::Unembedded;

use super::*;
use crate::rig::{Dice, Rig, at, both};

#[test]
fn what_both_have_comes_first_and_nothing_is_lost() {
    let found = ranked(vec![(1, 9.0), (2, 8.0), (3, 7.0)], vec![(4, 0.9), (2, 0.8)]);
    let order: Vec<i64> = found.iter().map(|(number, _)| *number).collect();
    assert_eq!(order, [2, 1, 4, 3]);
    assert!(found[0].1.by_words && found[0].1.by_meaning && !found[2].1.by_words);
    assert!(ranked(Vec::new(), Vec::new()).is_empty());
}

/// Words for the same thing. Some share a stem, some share nothing.
const SYNONYMS: [[&str; 3]; 40] = [
    ["delete", "deletion", "remove"],
    ["retry", "retries", "again"],
    ["timeout", "timeouts", "deadline"],
    ["connection", "connections", "link"],
    ["database", "databases", "postgres"],
    ["migration", "migrate", "upgrade"],
    ["terminal", "terminals", "console"],
    ["refactor", "refactoring", "restructure"],
    ["parser", "parsing", "grammar"],
    ["certificate", "certificates", "credential"],
    ["browser", "browsers", "firefox"],
    ["button", "buttons", "widget"],
    ["schedule", "scheduler", "cron"],
    ["memory", "memories", "heap"],
    ["leak", "leaking", "growth"],
    ["crash", "crashes", "panic"],
    ["permission", "permissions", "rights"],
    ["encrypt", "encryption", "cipher"],
    ["compress", "compression", "zip"],
    ["invoice", "invoices", "billing"],
    ["customer", "customers", "client"],
    ["payment", "payments", "checkout"],
    ["colour", "colours", "palette"],
    ["layout", "layouts", "grid"],
    ["translate", "translation", "locale"],
    ["search", "searching", "lookup"],
    ["index", "indexes", "catalogue"],
    ["backup", "backups", "snapshot"],
    ["restore", "restoring", "recover"],
    ["network", "networking", "socket"],
    ["packet", "packets", "frame"],
    ["thread", "threads", "worker"],
    ["deadlock", "deadlocks", "stuck"],
    ["benchmark", "benchmarks", "measure"],
    ["compiler", "compilers", "rustc"],
    ["warning", "warnings", "lint"],
    ["document", "documents", "manual"],
    ["release", "releases", "publish"],
    ["branch", "branches", "fork"],
    ["commit", "commits", "revision"],
];

const FILLERS: [&str; 12] = [
    "please look at",
    "the",
    "in this part",
    "I think that",
    "we should see about",
    "and then",
    "of the system",
    "before tomorrow",
    "as it was",
    "with care",
    "it seems",
    "because of",
];

/// Messages, each about five things, and the things.
struct Labelled {
    about: Vec<BTreeSet<usize>>,
    messages: Vec<Message>,
}

fn text(dice: &mut Dice, words: &[&str]) -> String {
    let mut text = Vec::new();
    for word in words {
        text.push(FILLERS[dice.below(FILLERS.len() as u64) as usize]);
        text.push(word);
    }
    text.join(" ")
}

fn labelled(dice: &mut Dice, count: usize) -> Labelled {
    let mut about: Vec<BTreeSet<usize>> = Vec::new();
    while about.len() < count {
        let mut things = BTreeSet::new();
        while things.len() < 5 {
            things.insert(dice.below(SYNONYMS.len() as u64) as usize);
        }
        if !about.contains(&things) {
            about.push(things);
        }
    }
    let messages = about.iter().enumerate().map(|(number, things)| {
        let words: Vec<&str> = things.iter().map(|thing| SYNONYMS[*thing][0]).collect();
        Message {
            id: format!("m{number}"),
            session: "theirs".into(),
            role: Role::User,
            at: at(number as i64),
            model: None,
            text: text(dice, &words),
            place: Place { file: "/t.jsonl".into(), offset: number as u64 },
        }
    });
    let messages = messages.collect();
    Labelled { about, messages }
}

/// For each of some messages a query for it, whose words are chosen by `word` of each thing.
fn queries(
    dice: &mut Dice,
    set: &Labelled,
    things: usize,
    word: impl Fn(&mut Dice, usize) -> &'static str,
) -> Vec<(String, String)> {
    let every = set.messages.len() / 60;
    let some = set.about.iter().enumerate().step_by(every.max(1));
    some.map(|(number, about)| {
        let words: Vec<&str> = about.iter().take(things).map(|thing| word(dice, *thing)).collect();
        (words.join(" "), format!("m{number}"))
    })
    .collect()
}

/// How many of the queries have the message that they are for among their first ten results.
async fn recall(rig: &Rig, by: SearchBy, queries: &[(String, String)]) -> f64 {
    let finder = Finder { store: rig.db.store(), embedder: &Embedder::Builtin, now: at(0) };
    let mut found = 0;
    for (text, wanted) in queries {
        let query = Query::parse(text).unwrap();
        let page = finder.page(&query, &SearchFilter::default(), by, 10, 0).await.unwrap();
        assert!(page.note.is_none() && page.hits.len() <= 10);
        found += usize::from(page.hits.iter().any(|hit| hit.message == *wanted));
    }
    found as f64 / queries.len() as f64
}

async fn embed(rig: &Rig, rotate: usize) {
    let pending = rig.db.store().embedding_pending(100_000).await.unwrap();
    let mut vectors: Vec<Vec<f32>> = pending.iter().map(|one| builtin(&one.text)).collect();
    vectors.rotate_left(rotate);
    let all: Vec<(Unembedded, Vec<f32>)> = pending.into_iter().zip(vectors).collect();
    rig.db.store().embedding_keep(stratavore_core::embedding::BUILTIN, &all).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_there_is_found_by_its_words_and_by_others() {
    both(async |rig| {
        let mut dice = Dice(5);
        let set = labelled(&mut dice, 1200);
        let all: Vec<_> = set.messages.iter().map(|message| (rig.session, message)).collect();
        rig.db.store().message_record(&all).await.unwrap();
        embed(&rig, 0).await;
        let exact = queries(&mut dice, &set, 4, |_, thing| SYNONYMS[thing][0]);
        // Of each thing one of its three words: a third are those of the message, a third share a stem.
        let other =
            queries(&mut dice, &set, 5, |dice, thing| SYNONYMS[thing][dice.below(3) as usize]);
        let of = async |by, queries: &[_]| recall(&rig, by, queries).await;
        let figures = [
            of(SearchBy::Words, &exact).await,
            of(SearchBy::Both, &exact).await,
            of(SearchBy::Words, &other).await,
            of(SearchBy::Meaning, &other).await,
            of(SearchBy::Both, &other).await,
        ];
        let [words, both, words_other, meaning_other, both_other] = figures;
        assert!(words >= 0.9 && both >= 0.9, "{figures:?}");
        // Without the words of the message itself only what is alike finds it.
        assert!(words_other <= 0.2, "{figures:?}");
        assert!(meaning_other >= 0.6 && both_other >= 0.6, "{figures:?}");

        // The control: vectors that are those of other messages find next to nothing.
        rig.db.store().embedding_forget_others("none", 100_000).await.unwrap();
        embed(&rig, 600).await;
        let shuffled = of(SearchBy::Meaning, &other).await;
        assert!(shuffled <= 0.1, "{shuffled}, with {figures:?}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_follow_one_another_and_leave_out_what_is_not_wanted() {
    both(async |rig| {
        let mut dice = Dice(9);
        let mut set = labelled(&mut dice, 90);
        for (number, message) in set.messages.iter_mut().enumerate() {
            message.text =
                format!("needle {} {}", if number % 3 == 0 { "odd" } else { "even" }, message.text);
        }
        let all: Vec<_> = set.messages.iter().map(|message| (rig.session, message)).collect();
        rig.db.store().message_record(&all).await.unwrap();
        embed(&rig, 0).await;
        let finder = Finder { store: rig.db.store(), embedder: &Embedder::Builtin, now: at(0) };
        let query = Query::parse("needle -odd").unwrap();
        let mut seen = BTreeSet::new();
        let mut offset = 0;
        loop {
            let filter = SearchFilter::default();
            let page = finder.page(&query, &filter, SearchBy::Both, 13, offset).await.unwrap();
            for hit in &page.hits {
                assert!(seen.insert(hit.message.clone()), "{} twice", hit.message);
                let shown: String = hit.snippet.iter().map(|piece| &*piece.text).collect();
                assert!(shown.contains("needle") && !shown.contains("odd"), "{shown}");
                assert!(hit.snippet.iter().any(|piece| piece.is_match && piece.text == "needle"));
            }
            offset += page.hits.len() as u32;
            if !page.has_more {
                break;
            }
            assert_eq!(page.hits.len(), 13);
        }
        assert_eq!(seen.len(), 60);
        // What makes no vectors is no hindrance.
        let off = Finder { embedder: &Embedder::Off, ..finder };
        let page = off.page(&query, &SearchFilter::default(), SearchBy::Both, 10, 0).await.unwrap();
        assert_eq!((page.hits.len(), page.has_more), (10, true));
    })
    .await;
}
