//! What several tellings of one message come to.

use jiff::SignedDuration;
use proptest::prelude::*;
use stratavore_core::Timestamp;
use stratavore_core::message::Place;
use stratavore_core::usage::{Purpose, Quality, Tokens, UsageRecord};

fn tokens() -> impl Strategy<Value = Tokens> {
    prop::array::uniform6(0_u64..50).prop_map(|[a, b, c, d, e, f]| Tokens {
        input: a,
        output: b,
        cache_read: c,
        cache_write: d,
        cache_write_1h: e,
        reasoning: f,
    })
}

prop_compose! {
    fn record()(
        session in "[ab]?",
        ids in (prop::option::of("[rs]"), prop::option::of("[mn]")),
        model in "[xy]?",
        purpose in prop::sample::select(&Purpose::ALL[..]),
        tokens in tokens(),
        reported_cost in prop::option::of(0_i64..9),
        quality in prop::sample::select(&Quality::ALL[..]),
        second in 0_i64..9,
        offset in 0_u64..9,
    ) -> UsageRecord {
        UsageRecord {
            key: "key".into(),
            session,
            request_id: ids.0,
            message_id: ids.1,
            model,
            purpose,
            tokens,
            reported_cost,
            quality,
            at: Timestamp::UNIX_EPOCH + SignedDuration::from_secs(second),
            place: Place { file: "file".into(), offset },
        }
    }
}

/// What must not depend on who told first.
fn figures(record: &UsageRecord) -> (Tokens, Quality, Option<i64>, Timestamp, Purpose) {
    (record.tokens, record.quality, record.reported_cost, record.at, record.purpose)
}

proptest! {
    #[test]
    fn telling_it_again_changes_nothing(a in record(), b in record()) {
        prop_assert_eq!(a.merged(&a), a.clone());
        let both = a.merged(&b);
        prop_assert_eq!(both.merged(&a), both.clone());
        prop_assert_eq!(both.merged(&b), both);
    }

    #[test]
    fn figures_do_not_depend_on_the_order(a in record(), b in record(), c in record()) {
        prop_assert_eq!(figures(&a.merged(&b)), figures(&b.merged(&a)));
        prop_assert_eq!(
            figures(&a.merged(&b).merged(&c)),
            figures(&a.merged(&b.merged(&c)))
        );
    }

    #[test]
    fn whom_it_belongs_to_stays_as_it_was_told_first(a in record(), b in record()) {
        let both = a.merged(&b);
        prop_assert_eq!(&both.place, &a.place);
        if !a.session.is_empty() {
            prop_assert_eq!(&both.session, &a.session);
        }
    }

    /// The control of the next: adding up the larger of each kind counts what is in both.
    #[test]
    fn no_sum_is_larger_than_the_larger_one(a in tokens(), b in tokens()) {
        let both = a.larger(&b);
        let writes = |t: &Tokens| t.cache_write + t.cache_write_1h;
        let out = |t: &Tokens| t.output + t.reasoning;
        prop_assert_eq!(writes(&both), writes(&a).max(writes(&b)));
        prop_assert_eq!(out(&both), out(&a).max(out(&b)));
        prop_assert_eq!(both.input, a.input.max(b.input));
        prop_assert_eq!(both.cache_read, a.cache_read.max(b.cache_read));
    }

    #[test]
    fn what_is_kept_is_bounded(mut a in record(), text in ".{0,400}", huge in any::<u64>()) {
        let now = Timestamp::from_second(1_800_000_000).unwrap();
        a.key = format!("{text}\0");
        a.tokens.input = huge;
        a.reported_cost = Some(i64::MIN);
        let kept = a.bounded(now);
        prop_assert!(kept.key.chars().count() <= 256 && !kept.key.contains('\0'));
        prop_assert!(kept.tokens.input <= 1_000_000_000_000);
        prop_assert_eq!(kept.reported_cost, Some(0));
        prop_assert!(kept.at.as_second() >= 1_577_836_800);
        prop_assert_eq!(kept.clone().bounded(now), kept);
    }
}

#[test]
fn writes_to_a_cache_that_one_source_tells_apart_are_not_added_to_the_sum_of_another() {
    let split = Tokens { cache_write: 30, cache_write_1h: 70, ..Tokens::default() };
    let sum = Tokens { cache_write: 100, ..Tokens::default() };
    assert_eq!(split.larger(&sum), split);
    assert_eq!(sum.larger(&split), split);
    let careless = split.cache_write.max(sum.cache_write) + split.cache_write_1h;
    assert_eq!(careless, 170, "what the larger of each kind would come to");
}
