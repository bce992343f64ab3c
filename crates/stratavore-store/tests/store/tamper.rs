//! T-TAMPER: whoever can write anything into the database changes the record, and a verifier with a
//! public key and the checkpoints that were kept elsewhere notices, always.
//!
//! The intruder knows how the record is made, drops every trigger, and makes all hashes anew where
//! that helps. What it does not have is the private key and the files of the hosts.

use std::sync::Arc;

use sqlx::{AssertSqlSafe, PgConnection, SqliteConnection};
use stratavore_audit::{
    Chain, Checkpoint, Checks, Fault, KeyChange, PrivateKey, Report, Verifier, Writer,
};
use stratavore_core::event::NewEvent;
use stratavore_core::lease::Lease;
use stratavore_core::project::Project;
use stratavore_store::testing::TestStore;
use stratavore_store::{AuditCheckpoint, AuditKey, Store, on_both_databases};
use stratavore_testkit::trial::{Dice, Trial, scale};

use crate::given::{self, at};
use crate::lease::{LONG, daemon};
use crate::raw;

pub(crate) const ORIGIN: &str = "stratavore/log";
const OTHER: &str = "stratavore/other";
/// Records between two checkpoints.
const EVERY: usize = 7;
const TABLES: [&str; 4] = ["events", "audit_seals", "audit_checkpoints", "audit_keys"];

pub(crate) fn key(seed: u8) -> PrivateKey {
    PrivateKey::new(ORIGIN, [seed; 32]).unwrap()
}

fn public(
    key: &PrivateKey,
    node: stratavore_core::NodeId,
    since: u64,
    by: Option<&PrivateKey>,
) -> AuditKey {
    let new = key.public().clone();
    let change = by.map(|by| KeyChange { size: since, new, replaces: true }.signed(by));
    AuditKey {
        id: key.public().id(),
        origin: key.public().name().into(),
        public: key.public().text(),
        state: "active".into(),
        node,
        since_size: since,
        change,
        created_at: at(i64::try_from(since).unwrap()),
    }
}

/// What is published and not sealed yet is sealed, and signed.
async fn seal(store: &Store, lease: &Lease, chain: &mut Chain, key: &PrivateKey) -> String {
    let after = chain.size();
    let rows = store.audit_unsealed(after, 1000).await.unwrap();
    let hashes: Vec<_> = rows
        .iter()
        .map(|row| {
            chain.append(
                row.content.as_ref().unwrap(),
                row.mac.as_deref().unwrap_or_default().as_bytes(),
            )
        })
        .collect();
    let checkpoint = Checkpoint { origin: ORIGIN.into(), size: chain.size(), root: chain.root() };
    let kept = AuditCheckpoint {
        size: chain.size(),
        note: checkpoint.signed(key),
        frontier: chain.frontier().to_bytes(),
        at: at(0),
    };
    store.audit_seal(lease, after, &hashes, Some(&kept)).await.unwrap();
    kept.note
}

/// A record of so many events by three daemons, with two changes of the key. Answers the checkpoints
/// that were kept elsewhere.
pub(crate) async fn given_record(db: &TestStore, events: usize) -> Vec<String> {
    let home = tempfile::tempdir().unwrap();
    let mut daemons = Vec::new();
    for seed in 0..3_u8 {
        let store = db.another().await;
        let path = home.path().join(seed.to_string());
        let writer = Writer::open(&path, [seed; 32], at(0).as_microsecond()).unwrap();
        store.write_codes(Arc::new(writer));
        daemons.push(store);
    }
    let store = db.store();
    let node = given::node(store).await;
    let sealer = store.lease_acquire("audit", daemon(), LONG).await.unwrap().unwrap();
    let relay = store.lease_acquire("relay", daemon(), LONG).await.unwrap().unwrap();
    let (mut chain, mut signing, mut notes) = (Chain::new(ORIGIN), key(1), Vec::new());
    store.audit_key_begin(&sealer, &public(&signing, node, 0, None)).await.unwrap();
    let mut seen =
        daemons[0].project_create(&given::unborn_project("api"), "ada", None).await.unwrap();
    // Each change of the key is one of them.
    for n in 1..events - 2 {
        let next =
            Project { generation: seen.generation + 1, updated_at: at(n as i64), ..seen.clone() };
        let event = NewEvent::new("project.edited", serde_json::json!({ "n": n }));
        seen = daemons[n % 3].project_write(&seen, &next, event, "ada", None).await.unwrap();
        if n % EVERY == 0 {
            store.outbox_publish(&relay, 1000).await.unwrap();
            notes.push(seal(store, &sealer, &mut chain, &signing).await);
        }
        if n == events / 3 || n == events * 2 / 3 {
            let next = key(signing.public().id().as_bytes()[0]);
            let added = public(&next, node, chain.size(), Some(&signing));
            let told = NewEvent::new("node.record_key_changed", serde_json::json!({ "n": n }));
            store.audit_key_add(&sealer, &added, &told, &"ada".into()).await.unwrap();
            signing = next;
        }
    }
    if !store.outbox_publish(&relay, 1000).await.unwrap().is_empty() {
        notes.push(seal(store, &sealer, &mut chain, &signing).await);
    }
    notes
}

/// The database in the hands of somebody who may do everything with it.
enum Intruder {
    Postgres(Box<PgConnection>),
    Sqlite(Box<SqliteConnection>),
}

impl Intruder {
    /// Before that, each of its deeds is refused.
    async fn enter(db: &TestStore) -> Self {
        for refused in [
            "UPDATE events SET data = '{}' WHERE position = 1",
            "UPDATE events SET reason = 'x' WHERE position = 1",
            "UPDATE events SET mac = NULL WHERE position = 1",
            "DELETE FROM events WHERE position = 1",
            "UPDATE audit_seals SET position = 0 WHERE position = 1",
            "DELETE FROM audit_seals WHERE position = 1",
            "UPDATE audit_checkpoints SET note = 'x'",
            "DELETE FROM audit_checkpoints",
        ] {
            assert!(raw::execute(db, refused).await.unwrap_err().contains("never"), "{refused}");
        }
        let mut intruder = match db.file() {
            Some(_) => Self::Sqlite(Box::new(raw::sqlite(db).await)),
            None => Self::Postgres(Box::new(raw::postgres(db).await)),
        };
        if db.file().is_none() {
            raw::execute(db, "TRUNCATE audit_seals").await.unwrap_err();
            for table in TABLES {
                intruder.run(&format!("ALTER TABLE {table} DISABLE TRIGGER ALL")).await;
            }
        } else {
            let sql = "SELECT name FROM sqlite_schema WHERE type = 'trigger'";
            for trigger in raw::texts(db, sql).await {
                intruder.run(&format!("DROP TRIGGER {trigger}")).await;
            }
        }
        for table in TABLES {
            intruder.run(&format!("CREATE TABLE old_{table} AS SELECT * FROM {table}")).await;
        }
        intruder
    }

    async fn run(&mut self, sql: &str) {
        let text = AssertSqlSafe(sql.to_owned());
        let done = match self {
            Self::Postgres(conn) => sqlx::raw_sql(text).execute(&mut **conn).await.map(drop),
            Self::Sqlite(conn) => sqlx::raw_sql(text).execute(&mut **conn).await.map(drop),
        };
        done.unwrap_or_else(|error| panic!("{sql}: {error}"));
    }

    fn bytes(&self, bytes: &[u8]) -> String {
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        match self {
            Self::Postgres(_) => format!("'\\x{hex}'"),
            Self::Sqlite(_) => format!("x'{hex}'"),
        }
    }

    /// Everything as it was.
    async fn undo(&mut self) {
        for table in TABLES {
            self.run(&format!("DELETE FROM {table}")).await;
            self.run(&format!("INSERT INTO {table} SELECT * FROM old_{table}")).await;
        }
    }

    /// Makes all hashes anew, over what is there now.
    async fn reseal(&mut self, store: &Store, origin: &str) {
        self.run("DELETE FROM audit_seals").await;
        let mut chain = Chain::new(origin);
        for row in store.audit_unsealed(0, 100_000).await.unwrap() {
            let mac = row.mac.unwrap_or_default();
            let hash = chain.append(&row.content.unwrap(), mac.as_bytes());
            let hash = self.bytes(&hash);
            self.run(&format!("INSERT INTO audit_seals VALUES ({}, {hash})", row.position)).await;
        }
    }

    /// Makes room for one more event at `position`, or closes the gap of one that was there.
    async fn shift(&mut self, position: u64, by: i64) {
        self.run(&format!(
            "UPDATE events SET position = -(position + {by}) WHERE position >= {position}"
        ))
        .await;
        self.run("UPDATE events SET position = -position WHERE position < 0").await;
    }

    /// Signs all checkpoints anew, with a key of its own that it says is ours.
    async fn forge(&mut self, store: &Store) {
        let mine = key(99);
        self.run("DELETE FROM audit_keys; DELETE FROM audit_checkpoints").await;
        self.run(&format!(
            "INSERT INTO audit_keys (id, origin, public, state, node_id, since_size, created_at)
             SELECT '{}', '{ORIGIN}', '{}', 'active', min(node_id), 0, min(created_at) FROM old_audit_keys",
            mine.public().id(),
            mine.public().text(),
        ))
        .await;
        let mut chain = Chain::new(ORIGIN);
        for hash in store.audit_hashes(0, 100_000).await.unwrap() {
            chain.append_hash(hash);
        }
        let checkpoint =
            Checkpoint { origin: ORIGIN.into(), size: chain.size(), root: chain.root() };
        let note = checkpoint.signed(&mine);
        self.run(&format!(
            "INSERT INTO audit_checkpoints (size, note, frontier, at)
             SELECT {}, '{note}', frontier, at FROM old_audit_checkpoints LIMIT 1",
            chain.size(),
        ))
        .await;
    }

    async fn cut(&mut self, after: u64) {
        self.run(&format!("DELETE FROM events WHERE position > {after}")).await;
        self.run(&format!("DELETE FROM audit_seals WHERE position > {after}")).await;
        self.run(&format!("DELETE FROM audit_checkpoints WHERE size > {after}")).await;
    }

    async fn add(&mut self, position: u64) {
        self.run(&format!(
            "INSERT INTO events (id, position, entity, entity_id, name, seq, kind, at, caused_by, data)
             SELECT 'evt_new{position}', {position}, entity, 'prj_other', name, {position}, kind, at, 'eve', data
             FROM old_events WHERE position = 1"
        ))
        .await;
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Deed {
    EditData,
    EditWho,
    EditDecision,
    EditTime,
    EditCode,
    EditSeal,
    EditAndReseal,
    EditResealAndForge,
    Delete,
    DeleteAndReseal,
    Insert,
    Reorder,
    CutTail,
    GoOnFromOlder,
    SwapChain,
    NoCheckpoints,
}

const DEEDS: [Deed; 15] = [
    Deed::EditData,
    Deed::EditWho,
    Deed::EditDecision,
    Deed::EditTime,
    Deed::EditCode,
    Deed::EditSeal,
    Deed::EditAndReseal,
    Deed::EditResealAndForge,
    Deed::Delete,
    Deed::DeleteAndReseal,
    Deed::Insert,
    Deed::Reorder,
    Deed::CutTail,
    Deed::GoOnFromOlder,
    Deed::SwapChain,
];

impl Deed {
    /// Where the verifier must point at the very record.
    fn is_at_its_place(self) -> bool {
        matches!(
            self,
            Self::EditData
                | Self::EditWho
                | Self::EditDecision
                | Self::EditTime
                | Self::EditCode
                | Self::EditSeal
                | Self::Delete
        )
    }

    /// Where it is done: where that is possible the first time to the first record, the second time to the
    /// last one, and then anywhere.
    fn position(self, round: usize, dice: &mut Dice, events: u64) -> u64 {
        match (self, round) {
            // There has to be something left of an older state, and something that is not of it.
            (Self::CutTail | Self::GoOnFromOlder, _) | (_, 2..) => {
                2 + dice.below(events as usize - 3) as u64
            }
            (_, 0) => 1,
            (_, _) => events,
        }
    }

    /// `position` is one of 1 to `events`.
    async fn do_it(self, intruder: &mut Intruder, store: &Store, position: u64, events: u64) {
        let edit = |what: &str| format!("UPDATE events SET {what} WHERE position = {position}");
        match self {
            Self::EditData => intruder.run(&edit("data = '{}'")).await,
            Self::EditWho => intruder.run(&edit("caused_by = 'eve'")).await,
            Self::EditDecision => {
                intruder.run(&edit("decision = 'refused', reason = 'never'")).await
            }
            Self::EditTime => {
                let (from, of) =
                    ("(SELECT min(at) FROM old_events)", "(SELECT max(at) FROM old_events)");
                let at = if position > events / 2 { from } else { of };
                intruder.run(&edit(&format!("at = {at}"))).await;
            }
            Self::EditCode => intruder.run(&edit("mac = '00000000.20454:00'")).await,
            Self::EditSeal => {
                let hash = intruder.bytes(&[7; 32]);
                let sql =
                    format!("UPDATE audit_seals SET hash = {hash} WHERE position = {position}");
                intruder.run(&sql).await;
            }
            Self::EditAndReseal => {
                intruder.run(&edit("caused_by = 'eve'")).await;
                intruder.reseal(store, ORIGIN).await;
            }
            Self::EditResealAndForge => {
                intruder.run(&edit("caused_by = 'eve'")).await;
                intruder.reseal(store, ORIGIN).await;
                intruder.forge(store).await;
            }
            Self::Delete => {
                intruder.run(&format!("DELETE FROM events WHERE position = {position}")).await;
            }
            Self::DeleteAndReseal => {
                intruder.run(&format!("DELETE FROM events WHERE position = {position}")).await;
                intruder.shift(position, -1).await;
                intruder.reseal(store, ORIGIN).await;
                intruder
                    .run(&format!("DELETE FROM audit_checkpoints WHERE size >= {position}"))
                    .await;
            }
            Self::Insert => {
                intruder.shift(position, 1).await;
                intruder.add(position).await;
                intruder.reseal(store, ORIGIN).await;
                intruder
                    .run(&format!("DELETE FROM audit_checkpoints WHERE size >= {position}"))
                    .await;
            }
            Self::Reorder => {
                // The last one changes places with the one before it.
                let other = if position == events { position - 1 } else { position + 1 };
                intruder
                    .run(&format!(
                        "UPDATE events SET position = -position WHERE position = {position};
                         UPDATE events SET position = {position} WHERE position = {other};
                         UPDATE events SET position = {other} WHERE position = -{position}"
                    ))
                    .await;
                intruder.reseal(store, ORIGIN).await;
            }
            Self::CutTail => intruder.cut(position).await,
            Self::GoOnFromOlder => {
                intruder.cut(position).await;
                for new in position + 1..=events {
                    intruder.add(new).await;
                }
                intruder.reseal(store, ORIGIN).await;
            }
            Self::SwapChain => {
                intruder.reseal(store, OTHER).await;
                intruder.run(&format!("UPDATE audit_keys SET origin = '{OTHER}'")).await;
                intruder.run("DELETE FROM audit_checkpoints").await;
            }
            Self::NoCheckpoints => intruder.run("DELETE FROM audit_checkpoints").await,
        }
    }
}

/// As `stratavore audit export` and `audit verify` do it.
async fn verify(store: &Store, checks: &Checks) -> Result<Report, Fault> {
    let unreadable =
        |error: stratavore_store::StoreError| Fault { position: None, what: error.to_string() };
    let Some(mut export) = store.audit_export_head().await.map_err(unreadable)? else {
        return Err(Fault { position: None, what: "nothing is sealed".into() });
    };
    for row in store.audit_records(0, 100_000).await.map_err(unreadable)? {
        row.write_line(&mut export);
    }
    Verifier::export(&export[..], checks, 2).unwrap()
}

/// The control: that the positions have no gap is no proof of anything.
async fn has_no_gap(store: &Store) -> bool {
    let rows = store.audit_unsealed(0, 100_000).await.unwrap();
    rows.iter().zip(1..).all(|(row, position)| row.position == position)
}

on_both_databases! {
    async fn t_tamper_whatever_is_changed_in_the_database_is_noticed(db: TestStore) {
        let events = scale(45, 500);
        let notes = given_record(&db, events).await;
        let store = db.store();
        let elsewhere = notes.iter().map(|note| ("elsewhere".to_owned(), note.clone())).collect();
        let checks = Checks {
            keys: vec![key(1).public().clone()],
            checkpoints: elsewhere,
            ..Checks::default()
        };
        let engine = if db.file().is_some() { "SQLite" } else { "PostgreSQL" };
        let mut trial = Trial::new(
            "T-TAMPER",
            &format!("15 kinds of changes of the record on {engine}: each is noticed, by whoever has a public key and the checkpoints of a host"),
        );
        let mut dice: Dice = trial.dice();
        let report = verify(store, &checks).await.unwrap();
        assert_eq!((report.records, report.covered), (events as u64, events as u64));
        let mut intruder = Intruder::enter(&db).await;
        let (mut weak_missed, mut bare_missed) = (Vec::new(), 0);
        let (mut clean, mut false_alarms) = (0, Vec::new());
        for deed in DEEDS {
            for round in 0..scale(3, 1000) {
                let position = deed.position(round, &mut dice, events as u64);
                deed.do_it(&mut intruder, store, position, events as u64).await;
                trial.tried(match verify(store, &checks).await {
                    Ok(_) => Err(format!("{deed:?} at {position} was not noticed")),
                    Err(fault) if deed.is_at_its_place() && fault.position != Some(position) => {
                        Err(format!("{deed:?} at {position} was told as {fault}"))
                    }
                    Err(_) => Ok(()),
                });
                // Whoever believes what the database itself says of its keys and checkpoints.
                if verify(store, &Checks::default()).await.is_ok() && !weak_missed.contains(&deed) {
                    weak_missed.push(deed);
                }
                bare_missed += usize::from(deed == Deed::EditData && has_no_gap(store).await);
                intruder.undo().await;
                clean += 1;
                if let Err(fault) = verify(store, &checks).await {
                    false_alarms.push(fault.to_string());
                }
            }
        }
        assert_eq!(false_alarms, [""; 0], "of {clean} clean ones");
        trial.counted("clean verifications without a false alarm", clean);
        trial.control("positions without a gap, and no chain: edits are missed", bare_missed > 0);
        for deed in [Deed::EditResealAndForge, Deed::CutTail] {
            trial.control(
                &format!("no checkpoint of elsewhere: {deed:?} is missed"),
                weak_missed.contains(&deed),
            );
        }
        // What a host has kept stands also where the database has forgotten it.
        Deed::NoCheckpoints.do_it(&mut intruder, store, 2, events as u64).await;
        assert!(verify(store, &checks).await.is_ok());
        trial.end();
    }

    async fn a_sealer_that_another_one_has_followed_is_refused(db: TestStore) {
        given_record(&db, 9).await;
        let store = db.store();
        let (first, second) = (daemon(), daemon());
        let held = store.lease_get("audit").await.unwrap().unwrap();
        store.lease_release(&held).await.unwrap();
        let stale = store.lease_acquire("audit", first, LONG).await.unwrap().unwrap();
        store.lease_release(&stale).await.unwrap();
        let lease = store.lease_acquire("audit", second, LONG).await.unwrap().unwrap();
        let refused = store.audit_seal(&stale, 9, &[[1; 32]], None).await.unwrap_err();
        assert!(matches!(refused, stratavore_store::StoreError::StaleLease { .. }), "{refused}");
        let refused = store.audit_seal(&lease, 8, &[[1; 32]], None).await.unwrap_err();
        assert!(matches!(refused, stratavore_store::StoreError::Conflict { .. }), "{refused}");
        assert_eq!(store.audit_head().await.unwrap().unwrap().0, 9);
    }
}
