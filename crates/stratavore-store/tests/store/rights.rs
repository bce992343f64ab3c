//! The rights of the daemons' role on PostgreSQL: `deploy/postgres/rights.sql`, as it is shipped.

use serde_json::json;
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use stratavore_audit::{Chain, Checkpoint, PrivateKey};
use stratavore_core::event::{EventFilter, NewEvent};
use stratavore_store::testing::TestStore;
use stratavore_store::{AuditCheckpoint, AuditKey, Database, Settings, Store};

use crate::given::{self, at};
use crate::lease::{LONG, daemon};
use crate::raw;

const RIGHTS: &str = include_str!("../../../../deploy/postgres/rights.sql");

/// A role with those rights and no others; roles are the server's, so it goes with the test.
struct Role<'d> {
    db: &'d TestStore,
    name: String,
}

impl<'d> Role<'d> {
    async fn new(db: &'d TestStore) -> Self {
        let name = format!("app_{}", db.server().unwrap().database);
        let role = Self { db, name };
        role.owner(&format!("CREATE ROLE {} LOGIN", role.name)).await;
        role.owner(&RIGHTS.replace("stratavore_app", &role.name)).await;
        role
    }

    async fn owner(&self, sql: &str) {
        let text = AssertSqlSafe(sql.to_owned());
        let done = sqlx::raw_sql(text).execute(&mut raw::postgres(self.db).await).await;
        done.unwrap_or_else(|error| panic!("{sql}: {error}"));
    }

    fn settings(&self) -> Settings {
        let mut settings = self.db.settings().clone();
        let Database::Postgres(at) = &mut settings.database else { panic!("this is PostgreSQL") };
        at.user = self.name.clone();
        settings
    }

    /// What the server says to a statement of this role.
    async fn try_run(&self, sql: &str) -> Result<(), String> {
        let server = self.db.server().unwrap();
        let (owner, role) = (format!("//{}@", server.user), format!("//{}@", self.name));
        let url = server.url().replacen(&owner, &role, 1);
        let mut conn = PgConnection::connect(&url).await.expect("the role may log in");
        let done = sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(&mut conn).await;
        done.map(drop).map_err(|error| error.to_string())
    }

    async fn gone(self) {
        self.owner(&format!("DROP OWNED BY {0}; DROP ROLE {0}", self.name)).await;
    }
}

/// All that a daemon does to the record.
async fn works(store: &Store) {
    let project = given::project(store, "api").await;
    let node = given::node(store).await;
    let runner = given::runner(store, &project, node, "one").await;
    given::end(store, &runner).await;
    let relay = store.lease_acquire("relay", daemon(), LONG).await.unwrap().unwrap();
    assert_eq!(store.outbox_publish(&relay, 100).await.unwrap().len(), 3);
    let sealer = store.lease_acquire("audit", daemon(), LONG).await.unwrap().unwrap();
    let key = PrivateKey::new("log", [1; 32]).unwrap();
    let public = AuditKey {
        id: key.public().id(),
        origin: "log".into(),
        public: key.public().text(),
        state: "active".into(),
        node,
        since_size: 0,
        change: None,
        created_at: at(0),
    };
    store.audit_key_begin(&sealer, &public).await.unwrap();
    let mut chain = Chain::new("log");
    let rows = store.audit_unsealed(0, 100).await.unwrap();
    let hashes: Vec<_> =
        rows.iter().map(|row| chain.append(row.content.as_ref().unwrap(), b"")).collect();
    let signed = Checkpoint { origin: "log".into(), size: chain.size(), root: chain.root() };
    let kept = AuditCheckpoint {
        size: chain.size(),
        note: signed.signed(&key),
        frontier: chain.frontier().to_bytes(),
        at: at(0),
    };
    store.audit_seal(&sealer, 0, &hashes, Some(&kept)).await.unwrap();
    let another = PrivateKey::new("log", [2; 32]).unwrap();
    let id = another.public().id();
    let (next, told) =
        (AuditKey { id, since_size: 3, ..public }, NewEvent::new("node.told", json!({})));
    store.audit_key_add(&sealer, &next, &told, &"ada".into()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_daemons_role_adds_to_the_record_and_changes_nothing_of_it() {
    let db = TestStore::postgres().await;
    let role = Role::new(&db).await;
    let store = Store::open(role.settings()).await.expect("the schema is there already");
    works(&store).await;
    for refused in [
        "UPDATE events SET data = '{}'",
        "UPDATE events SET caused_by = 'eve' WHERE position = 1",
        "DELETE FROM events",
        "TRUNCATE events CASCADE",
        "UPDATE audit_seals SET hash = '\\x00'",
        "DELETE FROM audit_seals",
        "TRUNCATE audit_seals",
        "UPDATE audit_checkpoints SET note = ''",
        "DELETE FROM audit_checkpoints",
        "DELETE FROM audit_keys",
        "DELETE FROM record_trims",
        "UPDATE record_trims SET upto = 1",
        "UPDATE _sqlx_migrations SET success = false",
        "UPDATE schema_compatibility SET works_from = 1",
    ] {
        let said = role.try_run(refused).await.expect_err(refused);
        assert!(said.contains("permission denied"), "{refused}: {said}");
    }
    for refused in [
        "ALTER TABLE events DISABLE TRIGGER events_immutable",
        "DROP TRIGGER events_kept ON events",
        "DROP TABLE audit_seals",
        "ALTER TABLE events DROP COLUMN mac",
    ] {
        let said = role.try_run(refused).await.expect_err(refused);
        assert!(said.contains("must be owner"), "{refused}: {said}");
    }
    let said = role.try_run("UPDATE events SET position = 9 WHERE position = 1").await;
    assert!(said.expect_err("it has one").contains("its position is given once"));
    // What is in files it removes by a function, which leaves what is young whoever says that it was
    // moved.
    let old = "INSERT INTO record_trims VALUES (2, 1, '', '', '', now())";
    role.try_run(old).await.unwrap();
    assert_eq!(store.trim_remove(1000).await.unwrap(), 2);
    assert_eq!(store.trim_remove(1000).await.unwrap(), 0);
    let young =
        "INSERT INTO events (id, position, entity, entity_id, name, seq, kind, at, caused_by, data)
            VALUES ('evt_young', 4, 'node', 'n', 'n', 1, 'k', now(), 'eve', '{}');
        INSERT INTO record_trims VALUES (4, 3, '', '', '', now())";
    role.try_run(young).await.unwrap();
    let said = role.try_run("SELECT record_remove(1000)").await.expect_err("one is young");
    assert!(said.contains("younger than a day"), "{said}");
    assert_eq!(raw::number(&db, "SELECT count(*) FROM events WHERE position > 0").await, 2);
    // Nor does it work on tables of the role's own.
    let own =
        "CREATE TEMPORARY TABLE record_trims (upto bigint); INSERT INTO record_trims VALUES (9);
        CREATE TEMPORARY TABLE audit_seals (position bigint); SELECT record_remove(1000)";
    role.try_run(own).await.expect_err("it is that of the record");
    // The control: what the owner may do, who has no trigger in the way.
    role.owner("ALTER TABLE events DISABLE TRIGGER ALL; UPDATE events SET data = '{}'").await;
    store.close().await;
    role.gone().await;
}

/// Row 105.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_the_record_cannot_be_written_nothing_is_changed_and_reading_goes_on() {
    let db = TestStore::postgres().await;
    let role = Role::new(&db).await;
    let store = Store::open(role.settings()).await.unwrap();
    works(&store).await;
    role.owner(&format!("REVOKE INSERT ON events FROM {}", role.name)).await;
    let before = store.project_list(true).await.unwrap();
    let refused = store.project_create(&given::unborn_project("more"), "ada", None).await;
    assert!(refused.is_err(), "{refused:?}");
    let new = given::unborn(before[0].id, given::node(&store).await, "two");
    assert!(store.runners_admit(vec![new], "ada", at(1), None).await.is_err());
    assert_eq!(store.project_list(true).await.unwrap(), before);
    assert_eq!(raw::number(&db, "SELECT count(*) FROM runners").await, 1);
    assert_eq!(store.event_list(0, &EventFilter::default(), 10).await.unwrap().len(), 3);
    role.owner(&format!("GRANT INSERT ON events TO {}", role.name)).await;
    given::project(&store, "more").await;
    store.close().await;
    role.gone().await;
}
