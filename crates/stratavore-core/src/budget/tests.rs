//! The rules of budgets, by properties and by example.

use proptest::prelude::*;

use super::*;

fn budget(amount: i64, ladder: &[(u16, Action)]) -> Budget {
    Budget {
        id: BudgetId::from_entropy([1; 16]),
        name: "daily".parse().unwrap(),
        scope: Scope::Global,
        every: Every::Day,
        zone: Zone::utc(),
        unit: Unit::Tokens,
        amount,
        reserve: Budget::usual_reserve(amount),
        ladder: ladder.iter().map(|&(percent, action)| Step { percent, action }).collect(),
        generation: 1,
        created_at: Timestamp::UNIX_EPOCH,
        updated_at: Timestamp::UNIX_EPOCH,
        removed_at: None,
    }
}

fn percents(steps: &[Step]) -> Vec<u16> {
    steps.iter().map(|step| step.percent).collect()
}

proptest! {
    /// In whatever pieces it is reported: what is used is the sum, each step is told of once, in
    /// order, and as soon as it is reached.
    #[test]
    fn what_is_used_is_the_sum_and_each_step_is_reached_once(
        amount in 1i64..1_000_000, charges in proptest::collection::vec(0i64..200_000, 0..40),
    ) {
        let budget = budget(amount, &[(75, Action::Notify), (90, Action::Ask), (100, Action::StopNow), (101, Action::Notify)]);
        let (mut account, mut told, mut sum) = (Account::default(), Vec::new(), 0);
        for charge in charges {
            sum += charge;
            told.extend(budget.charge(&mut account, charge));
            prop_assert_eq!(account.used, sum);
            let due: Vec<Step> =
                budget.ladder.iter().filter(|s| sum * 100 >= amount * i64::from(s.percent)).copied().collect();
            prop_assert_eq!(&told, &due);
        }
    }

    /// Launches beside one another, use within what was reserved, and ends: the amount is never
    /// exceeded, and at the end nothing is reserved.
    #[test]
    fn launches_that_use_what_they_reserve_never_exceed_the_amount(
        amount in 1i64..10_000, reserve in 1i64..500,
        moves in proptest::collection::vec((0usize..3, 0usize..8, 0i64..500), 0..200),
    ) {
        let budget = Budget { reserve: reserve.min(amount), ..budget(amount, &[]) };
        let mut account = Account::default();
        let mut shares: Vec<Share> = Vec::new();
        for (what, who, much) in moves {
            let live: Vec<usize> = (0..shares.len()).filter(|i| !shares[*i].released).collect();
            match what {
                0 => if let Some(asked) = budget.fits(&account, 1) {
                    account.reserved += asked;
                    shares.push(Share { reserved: asked, ..Share::default() });
                },
                1 if !live.is_empty() => {
                    let share = &mut shares[live[who % live.len()]];
                    let much = much.min(share.open());
                    budget.charge(&mut account, much);
                    account.reserved += share.settle(much);
                }
                _ if !live.is_empty() => {
                    let share = &mut shares[live[who % live.len()]];
                    account.reserved -= share.open();
                    share.released = true;
                }
                _ => {}
            }
            prop_assert!(account.used + account.reserved <= amount);
            prop_assert_eq!(account.reserved, shares.iter().map(Share::open).sum::<i64>());
            prop_assert_eq!(account.used, shares.iter().map(|s| s.settled).sum::<i64>());
        }
    }

    /// Responses are counted when they are complete, and runners are held after the step.
    #[test]
    fn no_more_is_used_beyond_a_step_than_is_said(
        amount in 1000i64..100_000, live in 1usize..10, response in 1i64..5_000,
        order in proptest::collection::vec(0usize..10, 0..500),
    ) {
        let budget = budget(amount, &[(100, Action::StopNow)]);
        let mut account = Account::default();
        // Each has one under way when the step is reached, and begins none after that.
        let mut under_way = vec![true; live];
        for who in order {
            let held = budget.in_force(account.used, &Share::default()).is_some();
            let who = who % live;
            if under_way[who] {
                budget.charge(&mut account, response);
                under_way[who] = !held;
            }
        }
        let bound = Action::StopNow.overshoot(live as u64, response as u64, 0).unwrap();
        prop_assert!(account.used - amount <= bound as i64);
    }

    #[test]
    fn no_numbers_are_too_large(used: i64, amount in 1i64.., charge: i64, percent in 1u16..1000) {
        let budget = budget(amount, &[(percent, Action::Pause)]);
        let mut account = Account { used, ..Account::default() };
        budget.charge(&mut account, charge);
        budget.fits(&account, i64::MAX);
        Share { reserved: used, settled: charge, ..Share::default() }.settle(amount);
        for unit in Unit::ALL {
            prop_assert!(!unit.show(used).is_empty());
        }
    }
}

#[test]
fn a_step_is_reached_again_after_the_budget_was_raised_above_it() {
    let mut daily = budget(100, &[(50, Action::Notify), (100, Action::Pause)]);
    let mut account = Account::default();
    assert_eq!(percents(&daily.charge(&mut account, 100)), [50, 100]);
    assert!(daily.charge(&mut account, 10).is_empty());

    daily.amount = 200;
    assert!(daily.changed(&mut account).is_empty(), "half of it is used, and that was told");
    assert_eq!(percents(&account.reached.iter().copied().collect::<Vec<_>>()), [50]);
    assert_eq!(percents(&daily.charge(&mut account, 90)), [100]);

    daily.ladder.insert(Step { percent: 80, action: Action::StopNow });
    assert_eq!(percents(&daily.changed(&mut account)), [80], "a new step that is behind already");
}

#[test]
fn the_strongest_that_is_reached_is_in_force_unless_the_runner_is_allowed_more() {
    let budget = budget(100, &[(50, Action::Notify), (80, Action::StopNow), (90, Action::Ask)]);
    let no = Share::default();
    assert_eq!(budget.in_force(79, &no), None, "to be told holds nobody");
    assert_eq!(budget.in_force(95, &no).unwrap().action, Action::StopNow);
    let allowed = Share { settled: 30, allowed: Some(40), ..no };
    assert_eq!(budget.in_force(95, &allowed), None);
    let used_up = Share { settled: 40, ..allowed };
    assert_eq!(budget.in_force(95, &used_up).unwrap().percent, 80);
}

#[test]
fn a_refusal_names_the_budget_its_use_its_holders_and_what_lifts_it() {
    let at: Timestamp = "2026-11-29T12:00:00Z".parse().unwrap();
    let zone = Zone::parse("Europe/Berlin").unwrap();
    let budget = Budget { zone, unit: Unit::Money, ..budget(50_000_000, &[]) };
    let refusal = BudgetExceeded {
        period: budget.period(at, None).unwrap(),
        account: Account { used: 49_200_000, reserved: 500_000, reached: BTreeSet::new() },
        launches: 1,
        holders: vec![Reserved {
            runner: RunnerId::from_entropy([7; 16]),
            name: "api".parse().unwrap(),
            open: 500_000,
        }],
        budget,
    };
    assert_eq!(
        refusal.to_string(),
        "the budget `daily` of all projects is 50.00 USD a day: 49.20 USD used, 0.5000 USD reserved, \
         0.5000 USD asked for; reserved by api (0.5000 USD)"
    );
    assert_eq!(
        refusal.hint(),
        "wait until 2026-11-30 00:00 Europe/Berlin, or stop a runner that has reserved, or raise it: \
         stratavore budget set daily --amount …"
    );
}

#[test]
fn amounts_are_shown_with_their_unit() {
    assert_eq!(Unit::Tokens.show(1_234_567), "1,234,567 tokens");
    assert_eq!(Unit::Money.show(12_345_678_900), "12,345.67 USD");
    assert_eq!(Unit::Money.show(-1_230), "-0.0012 USD");
    assert_eq!(Unit::Time.show(5_400_000), "1 h 30 min");
    assert_eq!(Unit::Time.show(59_999), "59 s");
}

#[test]
fn what_is_no_budget_is_refused() {
    let good = budget(100, &[(100, Action::StopNow)]);
    assert_eq!(good.check(), Ok(()));
    let bad = [
        Budget { amount: 0, ..good.clone() },
        Budget { reserve: 0, ..good.clone() },
        Budget { reserve: 101, ..good.clone() },
        Budget { ladder: [Step { percent: 0, action: Action::Ask }].into(), ..good.clone() },
        Budget { ladder: [Step { percent: 1001, action: Action::Ask }].into(), ..good.clone() },
    ];
    assert!(bad.iter().all(|budget| budget.check().is_err()));
}

#[test]
fn amounts_are_read_as_people_write_them() {
    let good = [
        (Unit::Tokens, "1500", 1500),
        (Unit::Tokens, "2M", 2_000_000),
        (Unit::Tokens, "1.5k", 1500),
        (Unit::Tokens, "1,234,567 tokens", 1_234_567),
        (Unit::Money, "$12.50", 12_500_000),
        (Unit::Money, "0.000001 USD", 1),
        (Unit::Time, "1h30m", 5_400_000),
        (Unit::Time, "2d", 172_800_000),
    ];
    for (unit, text, amount) in good {
        assert_eq!(unit.read(text), Some(amount), "{text}");
    }
    let bad = [
        (Unit::Tokens, "0"),
        (Unit::Tokens, "0.5"),
        (Unit::Tokens, ""),
        (Unit::Tokens, "-1"),
        (Unit::Money, "12,50"),
        (Unit::Money, "many"),
        (Unit::Time, "90"),
        (Unit::Time, ""),
        (Unit::Time, "99999999999999999d"),
    ];
    for (unit, text) in bad {
        assert_eq!(unit.read(text), None, "{text}");
    }
    assert_eq!("90%=stop-at-turn-end".parse::<Step>().unwrap().to_string(), "90=stop_at_turn_end");
    assert!(
        ["", "90", "=ask", "0=ask", "1001=ask", "90=sing"]
            .iter()
            .all(|s| s.parse::<Step>().is_err())
    );
}
