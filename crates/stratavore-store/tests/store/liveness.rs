use stratavore_core::liveness::Liveness;
use stratavore_core::quota::Quota;
use stratavore_core::runner::Runner;
use stratavore_core::{RunnerId, Timestamp};
use stratavore_store::{RunnerFilter, Store, on_both_databases};

use crate::given::{self, at};

fn beat(runner: RunnerId, epoch: i64, at: Timestamp) -> Liveness {
    Liveness {
        runner,
        epoch,
        at,
        cpu_ms: 1500,
        memory: 1 << 33,
        processes: 4,
        output_bytes: 123_456,
        output_at: None,
        viewers: 1,
    }
}

async fn shown(store: &Store, id: RunnerId) -> Option<Liveness> {
    let all = store.runner_list(&RunnerFilter::default()).await.unwrap();
    all.into_iter().find(|(runner, _)| runner.id == id).unwrap().1
}

on_both_databases! {
    async fn the_latest_heartbeat_of_the_epoch_is_shown(db: TestStore) {
        let store = db.store();
        let node = given::node(store).await;
        let project = given::project(store, "alpha").await;
        let runner = given::runner(store, &project, node, "one").await;
        assert_eq!(shown(store, runner.id).await, None);

        let late = Liveness { output_at: Some(at(7)), ..beat(runner.id, 1, at(8)) };
        let nobody = RunnerId::from_entropy([5; 16]);
        store
            .liveness_record(&[beat(runner.id, 1, at(6)), late, beat(nobody, 1, at(6)), beat(runner.id, 2, at(9))])
            .await
            .unwrap();
        assert_eq!(shown(store, runner.id).await, None, "only what speaks of another epoch came last");
        store.liveness_record(&[beat(runner.id, 1, at(6)), late, beat(nobody, 1, at(6))]).await.unwrap();
        assert_eq!(shown(store, runner.id).await, Some(late), "the latest of the batch");
        store.liveness_record(&[beat(runner.id, 1, at(7))]).await.unwrap();
        assert_eq!(shown(store, runner.id).await, Some(late), "an older one changes nothing");
        store.liveness_record(&[]).await.unwrap();

        let (next, event) = given::activity(&runner);
        let next = Runner { epoch: 2, ..next };
        store.runner_write(&runner, &next, event, "daemon", None).await.unwrap();
        assert_eq!(shown(store, runner.id).await, None, "the new epoch has had no heartbeat");
        store.liveness_record(&[beat(runner.id, 1, at(20))]).await.unwrap();
        assert_eq!(shown(store, runner.id).await, None, "the old epoch is over");
        store.liveness_record(&[beat(runner.id, 2, at(10))]).await.unwrap();
        assert_eq!(shown(store, runner.id).await, Some(beat(runner.id, 2, at(10))));
    }

    async fn a_thousand_runners_are_one_batch(db: TestStore) {
        let store = db.store();
        let node = given::node(store).await;
        let quota = Quota { runners: 2000, ..Quota::default() };
        let project = given::project_with(store, "alpha", quota).await;
        let new = (0..1000).map(|n| given::unborn(project.id, node, &format!("r{n}"))).collect();
        let runners = store.runners_admit(new, "ada", at(1), None).await.unwrap();
        let batch: Vec<_> = runners.iter().map(|r| beat(r.id, 1, at(5))).collect();
        store.liveness_record(&batch).await.unwrap();
        assert_eq!(crate::raw::number(&db, "SELECT count(*) FROM runner_liveness").await, 1000);
    }
}
