//! Days on which nothing was used: a chart without them looks as if there were none.

use jiff::civil::Date;
use stratavore_proto::v1::{UsageGroup, UsageSums};

/// The most days that are put in.
const EMPTY_MAX: usize = 1000;

/// The same days with those between them, in their order. What is no day stays where it is.
pub(super) fn with_empty(groups: Vec<UsageGroup>) -> Vec<UsageGroup> {
    let mut all: Vec<UsageGroup> = Vec::with_capacity(groups.len());
    let mut put_in = 0;
    for group in groups {
        let day = |group: &UsageGroup| group.of.parse::<Date>().ok();
        if let (Some(before), Some(this)) = (all.last().and_then(day), day(&group)) {
            let mut between = before.tomorrow();
            while let Ok(empty) = between
                && empty < this
                && put_in < EMPTY_MAX
            {
                let (of, sums) = (empty.to_string(), Some(UsageSums::default()));
                all.push(UsageGroup { label: of.clone(), of, sums });
                put_in += 1;
                between = empty.tomorrow();
            }
        }
        all.push(group);
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(of: &str) -> UsageGroup {
        let sums = UsageSums { messages: 1, ..UsageSums::default() };
        UsageGroup { of: of.into(), label: of.into(), sums: Some(sums) }
    }

    #[test]
    fn the_days_between_are_there() {
        let all = with_empty(vec![group("2026-02-27"), group("2026-03-02"), group("2026-03-03")]);
        let days: Vec<&str> = all.iter().map(|group| &*group.of).collect();
        assert_eq!(days, ["2026-02-27", "2026-02-28", "2026-03-01", "2026-03-02", "2026-03-03"]);
        let used: Vec<i64> = all.iter().map(|group| group.sums.unwrap().messages).collect();
        assert_eq!(used, [1, 0, 0, 1, 1]);
        assert_eq!(with_empty(vec![group(""), group("x")]).len(), 2);
        assert!(with_empty(vec![group("0001-01-01"), group("9999-12-31")]).len() <= EMPTY_MAX + 2);
    }
}
