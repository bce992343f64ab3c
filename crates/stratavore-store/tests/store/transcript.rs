//! Pieces of transcripts follow one another, and what a piece names is kept.

use stratavore_core::transcript::{Digest, FileMark, Transcript};
use stratavore_core::{NodeId, SessionId, TranscriptId};
use stratavore_store::{BlobRow, Store, StoreError, on_both_databases};

use crate::given::{self, at};

const HERE: &str = "here";

fn blob(fill: u8, length: u64) -> BlobRow {
    BlobRow { store: HERE.into(), digest: Digest([fill; 32]), length, stored: length / 2 }
}

fn identity(fill: u8) -> FileMark {
    FileMark { file: format!("1:{fill}"), head: Digest([fill; 32]), head_length: 10 }
}

fn unborn(session: SessionId, node: NodeId, version: u64) -> Transcript {
    Transcript {
        id: TranscriptId::from_entropy(given::entropy()),
        session,
        node,
        path: "/home/ada/a.jsonl".into(),
        version,
        identity: identity(1),
        size: 0,
        created_at: at(1),
        updated_at: at(1),
        is_replaced: false,
    }
}

async fn begun(store: &Store) -> Transcript {
    let node = given::node(store).await;
    let project = given::project(store, "alpha").await;
    let session = given::runner(store, &project, node, "one").await.session.unwrap();
    let new = unborn(session, node, 1);
    store.transcript_begin(&new).await.unwrap();
    new
}

fn is_conflict<T: std::fmt::Debug>(answer: Result<T, StoreError>) -> bool {
    matches!(answer, Err(StoreError::Conflict { .. }))
}

on_both_databases! {
    async fn pieces_follow_one_another(db: TestStore) {
        let store = db.store();
        let new = begun(store).await;
        assert_eq!(store.transcript_latest(new.node, &new.path).await.unwrap(), Some(new.clone()));
        let one = store.transcript_append(&new, &blob(1, 100), &identity(2), at(2)).await.unwrap();
        // Whoever saw it without the piece adds nothing.
        assert!(is_conflict(store.transcript_append(&new, &blob(2, 50), &identity(2), at(3)).await));
        let two = store.transcript_append(&one, &blob(1, 100), &identity(2), at(3)).await.unwrap();
        assert_eq!(store.transcript_latest(new.node, &new.path).await.unwrap(), Some(two.clone()));
        let segments = store.transcript_segments(new.id).await.unwrap();
        let of: Vec<_> = segments.iter().map(|s| (s.segment.offset, s.segment.length)).collect();
        assert_eq!(of, [(0, 100), (100, 100)]);
        // The same bytes twice are one blob.
        let totals = store.vault_totals(HERE).await.unwrap();
        assert_eq!((totals.transcripts, totals.taken, totals.blobs, totals.length, totals.stored), (1, 200, 1, 100, 50));
        assert!(store.transcript_latest(new.node, "/other").await.unwrap().is_none());
    }

    async fn one_that_was_found_unchanged_was_looked_at(db: TestStore) {
        let store = db.store();
        let new = begun(store).await;
        let looked_at = async || {
            let latest = store.transcript_latest(new.node, &new.path).await.unwrap().unwrap();
            (latest.updated_at, latest.size)
        };
        store.transcript_seen(new.id, at(9)).await.unwrap();
        assert_eq!(looked_at().await, (at(9), 0));
        // By a clock that was set back.
        store.transcript_seen(new.id, at(5)).await.unwrap();
        assert_eq!(looked_at().await, (at(9), 0));
    }

    async fn of_two_that_add_at_once_one_does(db: TestStore) {
        let store = db.store();
        let other = db.another().await;
        let mut seen = begun(store).await;
        for turn in 0..10 {
            let (a, b) = (blob(turn, 10), blob(100 + turn, 20));
            let same = identity(2);
            let (a, b) = tokio::join!(
                store.transcript_append(&seen, &a, &same, at(2)),
                other.transcript_append(&seen, &b, &same, at(2)),
            );
            let (won, lost) = if a.is_ok() { (a, b) } else { (b, a) };
            assert!(is_conflict(lost));
            seen = won.unwrap();
        }
        let segments = store.transcript_segments(seen.id).await.unwrap();
        let mut end = 0;
        for kept in segments {
            assert_eq!(kept.segment.offset, end);
            end += kept.segment.length;
        }
        assert_eq!(end, seen.size);
    }

    async fn a_new_version_ends_the_one_before(db: TestStore) {
        let store = db.store();
        let first = begun(store).await;
        let first = store.transcript_append(&first, &blob(1, 100), &identity(1), at(2)).await.unwrap();
        let second = unborn(first.session, first.node, 2);
        store.transcript_begin(&second).await.unwrap();
        assert!(is_conflict(store.transcript_begin(&unborn(first.session, first.node, 2)).await));
        assert!(is_conflict(store.transcript_append(&first, &blob(2, 1), &identity(1), at(3)).await));
        let all = store.transcript_list(first.session).await.unwrap();
        let of: Vec<_> = all.iter().map(|t| (t.version, t.size, t.is_replaced)).collect();
        assert_eq!(of, [(1, 100, true), (2, 0, false)]);
    }

    async fn merged_pieces_are_one(db: TestStore) {
        let store = db.store();
        let mut seen = begun(store).await;
        for fill in 1..=4 {
            seen = store.transcript_append(&seen, &blob(fill, 10), &identity(1), at(2)).await.unwrap();
        }
        let pieces = store.transcript_segments(seen.id).await.unwrap();
        assert_eq!(store.transcript_last_segments(seen.id, 2).await.unwrap(), pieces[2..]);
        // One that does not have all of their bytes, and pieces that do not follow one another.
        let wrong = store.transcript_merge(seen.id, &pieces[..3], &blob(9, 29), at(3)).await;
        assert!(matches!(wrong, Err(StoreError::Invalid { .. })), "{wrong:?}");
        let gap = [pieces[0].clone(), pieces[2].clone()];
        assert!(is_conflict(store.transcript_merge(seen.id, &gap, &blob(9, 20), at(3)).await));

        store.transcript_merge(seen.id, &pieces[..3], &blob(9, 30), at(3)).await.unwrap();
        assert!(is_conflict(store.transcript_merge(seen.id, &pieces[..3], &blob(9, 30), at(3)).await));
        let merged = store.transcript_segments(seen.id).await.unwrap();
        let of: Vec<_> = merged.iter().map(|s| (s.segment.offset, s.segment.length)).collect();
        assert_eq!(of, [(0, 30), (30, 10)]);
        // It grows on as if nothing had been.
        store.transcript_append(&seen, &blob(5, 10), &identity(1), at(4)).await.unwrap();
    }

    async fn only_what_nobody_names_is_forgotten(db: TestStore) {
        let store = db.store();
        let new = begun(store).await;
        let one = store.transcript_append(&new, &blob(1, 10), &identity(1), at(10)).await.unwrap();
        store.transcript_append(&one, &blob(2, 10), &identity(1), at(10)).await.unwrap();
        let pieces = store.transcript_segments(new.id).await.unwrap();
        store.transcript_merge(new.id, &pieces, &blob(3, 20), at(11)).await.unwrap();
        // Young ones are left alone: somebody may be about to name them.
        assert_eq!(store.blob_unnamed(HERE, at(10), 9).await.unwrap(), []);
        assert!(!store.blob_forget(HERE, Digest([1; 32]), at(10)).await.unwrap());
        assert_eq!(store.blob_unnamed(HERE, at(20), 9).await.unwrap(), [Digest([1; 32]), Digest([2; 32])]);
        assert_eq!(store.blob_unnamed("elsewhere", at(20), 9).await.unwrap(), []);
        assert!(store.blob_forget(HERE, Digest([1; 32]), at(20)).await.unwrap());
        assert!(!store.blob_forget(HERE, Digest([1; 32]), at(20)).await.unwrap());
        assert!(!store.blob_forget(HERE, Digest([3; 32]), at(20)).await.unwrap(), "it is named");
        assert!(store.blob_is_known(HERE, Digest([3; 32])).await.unwrap());
        assert!(!store.blob_is_known(HERE, Digest([1; 32])).await.unwrap());
    }
}

on_both_databases! {
    async fn what_is_kept_no_longer_is_forgotten_and_told(db: TestStore) {
        let store = db.store();
        let new = begun(store).await;
        store.transcript_append(&new, &blob(1, 100), &identity(1), at(2)).await.unwrap();
        crate::message::record(store, new.session, &[crate::message::message("m", "a needle")]).await;
        let expired = async || store.vault_expired(at(-100), at(1_000), 10).await.unwrap();
        // While a runner carries it, it is kept whatever its age.
        assert_eq!(expired().await, []);
        assert!(!store.session_expire(new.session, at(1_000), "daemon", at(2_000)).await.unwrap());
        let runner = store.session_get(new.session).await.unwrap().runner.unwrap();
        let runner = store.runner_get(runner).await.unwrap();
        given::end(store, &runner).await;
        assert_eq!(expired().await, [(new.session, runner.project)]);
        assert_eq!(store.vault_expired(at(-100), at(1), 10).await.unwrap(), [], "it is younger");
        assert!(!store.session_expire(new.session, at(1), "daemon", at(2_000)).await.unwrap());

        assert!(store.session_expire(new.session, at(1_000), "daemon", at(2_000)).await.unwrap());
        assert_eq!(expired().await, []);
        assert_eq!(store.transcript_list(new.session).await.unwrap(), []);
        assert_eq!(store.message_count(new.session).await.unwrap(), 0);
        let query = stratavore_core::search::Query::parse("needle").unwrap();
        assert_eq!(store.message_search(&query, &Default::default(), 9).await.unwrap(), []);
        assert_eq!(store.blob_unnamed(HERE, at(3_000), 9).await.unwrap(), [Digest([1; 32])]);
        let events = "SELECT count(*) FROM events WHERE kind = 'session.expired'
            AND data LIKE '%\"messages\":1%' AND data LIKE '%\"bytes\":100%'";
        assert_eq!(crate::raw::number(&db, events).await, 1);
    }

    async fn a_session_that_is_removed_takes_its_files_along(db: TestStore) {
        let store = db.store();
        let new = begun(store).await;
        store.transcript_append(&new, &blob(1, 100), &identity(1), at(2)).await.unwrap();
        let runner = store.session_get(new.session).await.unwrap().runner.unwrap();
        given::end(store, &store.runner_get(runner).await.unwrap()).await;
        store.session_remove(new.session, "ada", at(20), None).await.unwrap();
        assert_eq!(store.transcript_list(new.session).await.unwrap(), []);
    }
}
