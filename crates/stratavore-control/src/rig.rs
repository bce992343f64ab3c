//! What tests start from: a store, a host's vault, a project, and a conversation in it.

use std::sync::Arc;

use stratavore_core::daemon::{Daemon, Node};
use stratavore_core::node::Profile;
use stratavore_core::observation::{Observation, SessionSeen};
use stratavore_core::project::Project;
use stratavore_core::{DaemonId, NodeId, ProjectId, SessionId, Timestamp};
use stratavore_store::testing::TestStore;
use stratavore_store::{Observed, Recorded};
use stratavore_vault::Vault;
use tempfile::TempDir;

use crate::vault::intake::Intake;

fn entropy() -> [u8; 16] {
    let mut bytes = [0; 16];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty()).unwrap();
    bytes
}

pub(crate) fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_767_225_600 + second).unwrap()
}

pub(crate) struct Rig {
    pub(crate) db: TestStore,
    pub(crate) home: TempDir,
    pub(crate) intake: Intake,
    pub(crate) session: SessionId,
}

impl Rig {
    pub(crate) async fn new(db: TestStore) -> Rig {
        let home = tempfile::tempdir().unwrap();
        let store = db.store().clone();
        let node = Node {
            id: NodeId::from_entropy(entropy()),
            hostname: "box".into(),
            boot_id: "boot".into(),
            seen_at: at(0),
        };
        let daemon = Daemon {
            id: DaemonId::from_entropy(entropy()),
            node: node.id,
            version: "0".into(),
            pid: 1,
            started_at: at(0),
            seen_at: at(0),
            stopped_at: None,
        };
        store.daemon_started(&node, &daemon, &Profile::default()).await.unwrap();
        let project = Project {
            id: ProjectId::from_entropy(entropy()),
            name: "alpha".parse().unwrap(),
            directory: "/srv/work".into(),
            description: String::new(),
            assistant: None,
            quota: Default::default(),
            runner_limits: Default::default(),
            generation: 1,
            created_at: at(0),
            updated_at: at(0),
            archived_at: None,
            deleted_at: None,
        };
        store.project_create(&project, "ada", None).await.unwrap();
        let seen = SessionSeen { session: "theirs".into(), ..SessionSeen::default() };
        let told = Observed {
            assistant: &"claude".parse().unwrap(),
            node: node.id,
            project: Some(project.id),
            runner: None,
            epoch: None,
            follow: None,
            observations: &[Observation::Session(seen)],
            price: &|_, _, _| None,
            now: at(0),
        };
        let Recorded { sessions, .. } = store.observed(&told, "ada").await.unwrap();
        let vault = Vault::open(home.path().join("vault")).unwrap();
        let name = node.id.to_string();
        let intake = Intake { store, vault, node: node.id, name, entropy: Arc::new(entropy) };
        Rig { db, home, intake, session: sessions["theirs"] }
    }
}

/// Numbers that a seed gives.
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % end
    }
}

/// Runs a test on both databases.
pub(crate) async fn both(test: impl AsyncFn(Rig)) {
    test(Rig::new(TestStore::sqlite().await).await).await;
    test(Rig::new(TestStore::postgres().await).await).await;
}
