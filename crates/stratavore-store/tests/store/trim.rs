//! What is in files by now is removed, and nothing else; the record stands from there on, and with
//! the files as a whole.

use stratavore_audit::{
    Checkpoint, Checks, Fault, Frontier, Line, PrivateKey, Report, Trim, Verifier, line,
};
use stratavore_core::event::{EventFilter, NewEvent};
use stratavore_core::lease::Lease;
use stratavore_core::{NodeId, Timestamp};
use stratavore_store::testing::TestStore;
use stratavore_store::{AuditCheckpoint, RecordTrim, Store, StoreError, on_both_databases};

use crate::given::{self, at};
use crate::lease::{LONG, daemon};
use crate::raw;
use crate::tamper::{ORIGIN, given_record, key};

const EVENTS: u64 = 47;
const OLD: i64 = 100_000;

/// The key that has signed at the end of [`given_record`].
fn last_key() -> PrivateKey {
    let next = |before: PrivateKey| key(before.public().id().as_bytes()[0]);
    next(next(key(1)))
}

async fn sealer(store: &Store) -> Lease {
    let held = store.lease_get("audit").await.unwrap().unwrap();
    store.lease_release(&held).await.unwrap();
    store.lease_acquire("audit", daemon(), LONG).await.unwrap().unwrap()
}

async fn due(store: &Store) -> AuditCheckpoint {
    store.trim_due(at(OLD), 3).await.unwrap().expect("something is old")
}

/// The trim up to a checkpoint, signed by `key`.
async fn trim_upto(
    store: &Store,
    due: &AuditCheckpoint,
    node: NodeId,
    key: &PrivateKey,
) -> RecordTrim {
    let begins = store.trim_last().await.unwrap().map_or(0, |last| last.upto) + 1;
    let trim = Trim {
        origin: ORIGIN.into(),
        size: EVENTS,
        upto: due.size,
        hash: store.audit_hashes(due.size - 1, 1).await.unwrap()[0],
        frontier: Frontier::from_bytes(due.size, &due.frontier).unwrap(),
    };
    let (note, file) = (trim.signed(key), format!("record-{begins}"));
    RecordTrim { begins, upto: due.size, note, file, node, at: at(OLD) }
}

fn moved() -> NewEvent {
    NewEvent::new("node.record_trimmed", serde_json::json!({}))
}

/// The export of what is in the database.
async fn export(store: &Store) -> Vec<u8> {
    let mut export = store.audit_export_head().await.unwrap().unwrap();
    let after = store.trimmed_upto().await.unwrap().unsigned_abs();
    for row in store.audit_records(after, 100_000).await.unwrap() {
        row.write_line(&mut export);
    }
    export
}

/// The part of an export that goes into a file.
fn segment(whole: &[u8], trim: &RecordTrim) -> Vec<u8> {
    let fits = |text: &str| match serde_json::from_str(text) {
        Ok(Line::Checkpoint(note)) => Checkpoint::read(&note).unwrap().size <= trim.upto,
        Ok(_) => true,
        Err(_) => {
            let record: serde_json::Value = serde_json::from_str(text).unwrap();
            record["position"].as_u64() <= Some(trim.upto)
        }
    };
    let text = std::str::from_utf8(whole).unwrap();
    text.split_inclusive('\n').filter(|line| fits(line)).collect::<String>().into_bytes()
}

fn checks(notes: &[String]) -> Checks {
    let elsewhere = notes.iter().map(|note| ("elsewhere".to_owned(), note.clone()));
    Checks {
        keys: vec![key(1).public().clone()],
        checkpoints: elsewhere.collect(),
        ..Checks::default()
    }
}

fn verify(files: &[&[u8]], checks: &Checks) -> Result<Report, Fault> {
    Verifier::exports(files.iter().map(|file| Ok(*file)), checks, 2).unwrap()
}

async fn remove_all(store: &Store) -> Vec<u64> {
    let mut removed = Vec::new();
    loop {
        match store.trim_remove(5).await.unwrap() {
            0 => return removed,
            some => removed.push(some),
        }
    }
}

async fn oldest(db: &TestStore, of: &str) -> i64 {
    raw::number(db, of).await
}

on_both_databases! {
    async fn what_was_moved_is_removed_and_the_rest_stands(db: TestStore) {
        let store = db.store();
        let notes = given_record(&db, EVENTS as usize).await;
        let node = given::node(store).await;
        let checks = checks(&notes);
        let mut files = Vec::new();
        // In two parts, of three checkpoints each.
        for _ in 0..2 {
            let whole = export(store).await;
            let due = due(store).await;
            let trim = trim_upto(store, &due, node, &last_key()).await;
            let delete = format!("DELETE FROM events WHERE position = {}", due.size);
            assert!(raw::execute(&db, &delete).await.unwrap_err().contains("never deleted"));
            store.trim_add(&sealer(store).await, &trim, &moved(), "daemon").await.unwrap();
            // As long as it is there it is given.
            let after = i64::try_from(trim.begins).unwrap() - 1;
            let page = store.event_list(after, &EventFilter::default(), 3).await.unwrap();
            assert_eq!(page.len(), 3);
            let removed = remove_all(store).await;
            assert_eq!(removed.iter().sum::<u64>(), trim.upto + 1 - trim.begins);
            assert!(removed.iter().all(|some| *some <= 5), "{removed:?}");
            assert_eq!(store.trim_last().await.unwrap(), Some(trim.clone()));

            // Nothing else is gone, and what the next one builds on is there.
            let upto = i64::try_from(trim.upto).unwrap();
            assert_eq!(oldest(&db, "SELECT min(position) FROM events").await, upto + 1);
            assert_eq!(oldest(&db, "SELECT min(position) FROM audit_seals").await, upto);
            assert_eq!(oldest(&db, "SELECT min(size) FROM audit_checkpoints").await, upto);
            for delete in [
                format!("DELETE FROM events WHERE position = {}", upto + 1),
                format!("DELETE FROM audit_seals WHERE position = {upto}"),
                format!("DELETE FROM audit_checkpoints WHERE size = {upto}"),
                "DELETE FROM record_trims".into(),
                "UPDATE record_trims SET upto = upto + 1".into(),
            ] {
                let said = raw::execute(&db, &delete).await.unwrap_err();
                assert!(said.contains("never deleted") || said.contains("stays on the record"), "{said}");
            }
            files.push(segment(&whole, &trim));

            let report = verify(&[&export(store).await], &checks).unwrap();
            assert_eq!((report.trimmed, report.records), (trim.upto, EVENTS - trim.upto));
            for after in [0, upto - 1] {
                match store.event_list(after, &EventFilter::default(), 10).await {
                    Err(StoreError::Trimmed { upto: told, .. }) => assert_eq!(told, upto),
                    other => panic!("{other:?}"),
                }
            }
            let page = store.event_list(upto, &EventFilter::default(), 1).await.unwrap();
            assert_eq!(page[0].position, Some(upto + 1));
        }

        let rest = export(store).await;
        let report = verify(&[&files[0], &files[1], &rest], &checks).unwrap();
        assert_eq!((report.trimmed, report.records, report.covered), (0, EVENTS, EVENTS));
        assert_eq!(report.checkpoints, notes.len() as u64, "all that were ever signed");
        // The control: a file that is missing, or another one, or in another order, or changed.
        let other = verify(&[&files[0], &rest], &checks).unwrap_err();
        assert!(other.what.contains("a file is missing"), "{other}");
        let other = verify(&[&files[1], &files[0], &rest], &checks).unwrap_err();
        assert!(other.what.contains("begins anew"), "{other}");
        let text = String::from_utf8(files[0].clone()).unwrap();
        let changed = text.replace("\"n\":5}", "\"n\":6}");
        assert_ne!(text, changed);
        let fault = verify(&[changed.as_bytes(), &files[1], &rest], &checks).unwrap_err();
        assert_eq!(fault.position, Some(6), "{fault}");
        let cut: String = text.split_inclusive('\n').take(text.lines().count() - 1).collect();
        assert!(verify(&[cut.as_bytes(), &files[1], &rest], &checks).is_err());
    }

    async fn nothing_is_moved_that_somebody_waits_for_or_that_is_young(db: TestStore) {
        let store = db.store();
        given_record(&db, EVENTS as usize).await;
        assert_eq!(store.trim_due(at(-1), 100).await.unwrap(), None, "all are younger");
        assert_eq!(store.trim_due(at(OLD), 100).await.unwrap().unwrap().size, EVENTS);
        let next = due(store).await.size;
        store.destination_ensure("far", "test", "{}", at(0)).await.unwrap();
        assert_eq!(due(store).await.size, next, "it has all of it");
        let behind = |position: u64| format!("UPDATE destinations SET position = {position}");
        raw::execute(&db, &behind(next - 1)).await.unwrap();
        assert!(due(store).await.size < next);
        raw::execute(&db, &behind(1)).await.unwrap();
        assert_eq!(store.trim_due(at(OLD), 100).await.unwrap(), None);
        raw::execute(&db, "UPDATE destinations SET enabled = 0").await.unwrap();
        assert_eq!(due(store).await.size, next, "one that is off is not waited for");

        let dead = "INSERT INTO dead_letters (id, destination, event_id, position, reason, attempts, died_at)
            SELECT 'dl_1', 'far', id, position, 'no', 1, at FROM events WHERE position = 2";
        raw::execute(&db, dead).await.unwrap();
        assert_eq!(store.trim_due(at(OLD), 100).await.unwrap(), None);
        raw::execute(&db, "UPDATE dead_letters SET replayed_at = died_at").await.unwrap();
        let due = due(store).await;
        assert_eq!(due.size, next);
        // One that was delivered goes with its event.
        let node = given::node(store).await;
        let trim = trim_upto(store, &due, node, &last_key()).await;
        store.trim_add(&sealer(store).await, &trim, &moved(), "daemon").await.unwrap();
        remove_all(store).await;
        assert_eq!(raw::number(&db, "SELECT count(*) FROM dead_letters").await, 0);
    }

    async fn a_trim_needs_the_sealers_lease_and_follows_the_one_before(db: TestStore) {
        let store = db.store();
        given_record(&db, EVENTS as usize).await;
        let node = given::node(store).await;
        let stale = sealer(store).await;
        let lease = sealer(store).await;
        let trim = trim_upto(store, &due(store).await, node, &last_key()).await;
        let refused = store.trim_add(&stale, &trim, &moved(), "daemon").await.unwrap_err();
        assert!(matches!(refused, StoreError::StaleLease { .. }), "{refused}");
        let gap = RecordTrim { begins: 2, ..trim.clone() };
        let refused = store.trim_add(&lease, &gap, &moved(), "daemon").await.unwrap_err();
        assert!(matches!(refused, StoreError::Conflict { .. }), "{refused}");
        assert_eq!(store.trim_remove(1000).await.unwrap(), 0, "nothing was moved");
        store.trim_add(&lease, &trim, &moved(), "daemon").await.unwrap();
        let refused = store.trim_add(&lease, &trim, &moved(), "daemon").await.unwrap_err();
        assert!(matches!(refused, StoreError::Conflict { .. }), "{refused}");
        assert_eq!(raw::number(&db, "SELECT count(*) FROM record_trims").await, 1);
    }

    /// T-TAMPER: whoever has the database and not the key cannot pass off as moved what they have
    /// removed.
    async fn a_trim_that_the_log_has_not_signed_is_noticed(db: TestStore) {
        let store = db.store();
        let notes = given_record(&db, EVENTS as usize).await;
        let node = given::node(store).await;
        let checks = checks(&notes);
        verify(&[&export(store).await], &checks).unwrap();
        let forger = PrivateKey::new(ORIGIN, [99; 32]).unwrap();
        let trim = trim_upto(store, &due(store).await, node, &forger).await;
        store.trim_add(&sealer(store).await, &trim, &moved(), "daemon").await.unwrap();
        remove_all(store).await;
        let fault = verify(&[&export(store).await], &checks).unwrap_err();
        assert!(fault.what.contains("signed by no key that is trusted"), "{fault}");
        // Nor without saying so.
        let text = String::from_utf8(export(store).await).unwrap();
        let note = line(&Line::Trimmed(trim.note));
        assert!(text.contains(&note));
        assert!(verify(&[text.replace(&note, "").as_bytes()], &checks).is_err());
    }

    /// The events of a node are numbered by what is on the record of it.
    async fn a_node_counts_on_where_its_moved_events_have_ended(db: TestStore) {
        let store = db.store();
        let quiet = given::node(store).await;
        for _ in 0..3 {
            let event = NewEvent::new("node.cordoned", serde_json::json!({}));
            store.node_event(quiet, &event, "ada", at(0)).await.unwrap();
        }
        given_record(&db, EVENTS as usize).await;
        let trim = trim_upto(store, &due(store).await, given::node(store).await, &last_key()).await;
        store.trim_add(&sealer(store).await, &trim, &moved(), "daemon").await.unwrap();
        remove_all(store).await;
        let of_it = format!("SELECT count(*) FROM events WHERE entity_id = '{quiet}'");
        assert_eq!(raw::number(&db, &of_it).await, 0, "all are moved");
        let event = NewEvent::new("node.opened", serde_json::json!({}));
        store.node_event(quiet, &event, "ada", later()).await.unwrap();
        let seq = format!("SELECT seq FROM events WHERE entity_id = '{quiet}'");
        assert_eq!(raw::number(&db, &seq).await, 4);
    }
}

fn later() -> Timestamp {
    at(OLD + 1)
}
