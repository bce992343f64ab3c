//! Windows of subscriptions.

use stratavore_core::Timestamp;
use stratavore_core::observation::{Observation, RateWindow};
use stratavore_store::{Observed, on_both_databases};

use crate::observed::Teller;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn window(name: &str, used_percent: f64, told: i64) -> Observation {
    let resets_at = Some(at(5000));
    let window_minutes = Some(300);
    Observation::Window(RateWindow {
        name: name.into(),
        used_percent,
        window_minutes,
        resets_at,
        at: at(told),
    })
}

on_both_databases! {
    async fn of_a_window_the_latest_that_was_told_holds(db: TestStore) {
        let store = db.store();
        let (teller, runner) = Teller::new(store).await;
        teller.tell(&[window("week", 7.0, 10), window("five", 40.0, 20), window("five", 41.5, 30)]).await;
        // What was read later and told before changes nothing.
        teller.tell(&[window("five", 3.0, 25)]).await;
        let windows = store.window_list().await.unwrap();
        let told: Vec<_> = windows.iter().map(|w| (&*w.told.name, w.told.used_percent)).collect();
        assert_eq!(told, [("five", 41.5), ("week", 7.0)]);
        assert_eq!((windows[0].node, windows[0].runner), (teller.node, runner.id));
        assert!(!windows[0].is_over(at(4999)) && windows[0].is_over(at(5000)));
        // What is told of the future is told now: the next one holds.
        let now = teller.batch(&[]).now.as_second();
        teller.tell(&[window("week", 8.0, now + 900_000)]).await;
        let next = [window("week", 9.0, now + 500)];
        let later = Observed { now: at(now + 1000), ..teller.batch(&next) };
        store.observed(&later, "agent").await.unwrap();
        assert_eq!(store.window_list().await.unwrap()[1].told.used_percent, 9.0);
    }

    async fn what_is_imported_tells_of_no_window_and_names_are_bounded(db: TestStore) {
        let store = db.store();
        let (teller, _) = Teller::new(store).await;
        let imported = [window("five", 40.0, 20)];
        let batch = Observed { runner: None, ..teller.batch(&imported) };
        store.observed(&batch, "agent").await.unwrap();
        assert_eq!(store.window_list().await.unwrap(), []);
        let many: Vec<_> = (0..200).map(|n| window(&format!("w{n:03}"), 1.0, 20)).collect();
        teller.tell(&many).await;
        assert_eq!(store.window_list().await.unwrap().len(), 50);
        // Those that are known are told of all the same.
        teller.tell(&[window("w000", 2.0, 21), window("w199", 2.0, 21)]).await;
        let windows = store.window_list().await.unwrap();
        assert_eq!((windows.len(), windows[0].told.used_percent), (50, 2.0));
    }
}
