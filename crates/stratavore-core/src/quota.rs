//! What a project's live runners may use together, and the refusal when it is not enough.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::RunnerId;
use crate::limits::{Limits, edited};
use crate::name::Name;

/// Live runners that a project may have at once unless it says otherwise.
pub const DEFAULT_MAX_RUNNERS: u64 = 20;

/// A project's limits on what may exist or be used at once. `None` is no limit.
///
/// Lowering a quota never touches running work: it only keeps new work from starting.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Quota {
    /// Runners that are not in a terminal state.
    pub runners: u64,
    /// Bytes, as the sum of the runners' memory limits.
    pub memory: Option<u64>,
    /// Thousandths of a core, as the sum of the runners' CPU limits.
    pub cpu_millis: Option<u64>,
    /// Processes, as the sum of the runners' limits.
    pub pids: Option<u64>,
    /// Seconds that any one runner may run.
    pub wall_seconds: Option<u64>,
}

impl Default for Quota {
    fn default() -> Self {
        Self {
            runners: DEFAULT_MAX_RUNNERS,
            memory: None,
            cpu_millis: None,
            pids: None,
            wall_seconds: None,
        }
    }
}

impl Quota {
    /// This quota after `edit`.
    pub fn edited(self, edit: QuotaEdit) -> Quota {
        Quota {
            runners: edited(Some(self.runners), edit.runners).unwrap_or(DEFAULT_MAX_RUNNERS),
            memory: edited(self.memory, edit.memory),
            cpu_millis: edited(self.cpu_millis, edit.cpu_millis),
            pids: edited(self.pids, edit.pids),
            wall_seconds: edited(self.wall_seconds, edit.wall_seconds),
        }
    }
}

/// What to change of a quota: `None` leaves a limit as it is, and 0 lifts it; that of runners
/// becomes [`DEFAULT_MAX_RUNNERS`] again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct QuotaEdit {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub runners: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_millis: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pids: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wall_seconds: Option<u64>,
}

/// What a quota limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Resource {
    Runners,
    Memory,
    CpuMillis,
    Pids,
    WallSeconds,
}

impl Resource {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Runners => "runners",
            Self::Memory => "memory",
            Self::CpuMillis => "cpu",
            Self::Pids => "processes",
            Self::WallSeconds => "wall time",
        }
    }

    /// `n` of this resource with its unit, for people.
    pub fn amount(self, n: u64) -> String {
        match self {
            Self::Runners | Self::Pids => n.to_string(),
            Self::Memory => format!("{} MiB", n.div_ceil(1 << 20)),
            Self::CpuMillis => format!("{}.{:03} cores", n / 1000, n % 1000),
            Self::WallSeconds => format!("{n} s"),
        }
    }
}

/// One live runner's hold on the quota.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    pub runner: RunnerId,
    pub name: Name,
    pub limits: Limits,
}

/// Why a launch does not fit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct QuotaExceeded {
    pub resource: Resource,
    pub limit: u64,
    pub used: u64,
    /// `None`: the runner did not say how much it needs, and the quota requires it to.
    pub requested: Option<u64>,
    /// Who holds what is in use.
    pub holders: Vec<Holder>,
}

impl QuotaExceeded {
    /// The same refusal for a request of several runners: those of its own that would have fitted
    /// (all but the first `existing` holders) are part of what is asked for, not of what is used.
    pub fn of_request(mut self, existing: usize) -> Self {
        let own = self.holders.split_off(existing.min(self.holders.len()));
        let of = |limits: &Limits| match self.resource {
            Resource::Runners => Some(1),
            Resource::Memory => limits.memory,
            Resource::CpuMillis => limits.cpu_millis,
            Resource::Pids => limits.pids,
            Resource::WallSeconds => None,
        };
        let own: u64 = own.iter().filter_map(|holder| of(&holder.limits)).sum();
        self.used = self.used.saturating_sub(own);
        self.requested = self.requested.map(|requested| requested.saturating_add(own));
        self
    }
}

impl std::error::Error for QuotaExceeded {}

impl fmt::Display for QuotaExceeded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { resource, limit, used, requested, holders } = self;
        let (name, limit) = (resource.as_str(), resource.amount(*limit));
        let Some(requested) = requested else {
            return write!(
                f,
                "the project's {name} is limited to {limit}, so a runner must say its own limit"
            );
        };
        if *resource == Resource::WallSeconds {
            let requested = resource.amount(*requested);
            return write!(
                f,
                "the project limits a runner to {limit} of wall time, {requested} asked for"
            );
        }
        write!(
            f,
            "the project's quota of {name} is {limit}, {} in use, {} asked for",
            resource.amount(*used),
            resource.amount(*requested)
        )?;
        if !holders.is_empty() {
            write!(f, "; held by ")?;
            for (i, holder) in holders.iter().take(8).enumerate() {
                write!(f, "{}{}", if i == 0 { "" } else { ", " }, holder.name)?;
            }
            if holders.len() > 8 {
                write!(f, " and {} more", holders.len() - 8)?;
            }
        }
        Ok(())
    }
}

impl Quota {
    /// Decides whether a runner with `asked` fits beside `holders`, the project's live runners,
    /// and answers the limits that it gets.
    ///
    /// The caller holds the project's lock, so that no other launch decides on the same holders.
    pub fn admit(&self, asked: Limits, holders: &[Holder]) -> Result<Limits, QuotaExceeded> {
        let refuse = |resource, limit, used, requested| {
            Err(QuotaExceeded { resource, limit, used, requested, holders: holders.to_vec() })
        };
        let live = holders.len() as u64;
        if live >= self.runners {
            return refuse(Resource::Runners, self.runners, live, Some(1));
        }
        type Share = fn(&Limits) -> Option<u64>;
        let sums: [(Resource, Option<u64>, Option<u64>, Share); 3] = [
            (Resource::Memory, self.memory, asked.memory, |l| l.memory),
            (Resource::CpuMillis, self.cpu_millis, asked.cpu_millis, |l| l.cpu_millis),
            (Resource::Pids, self.pids, asked.pids, |l| l.pids),
        ];
        for (resource, limit, requested, of) in sums {
            let Some(limit) = limit else { continue };
            // A live runner without a limit (launched before the quota was set) may use it all.
            let used =
                holders.iter().map(|h| of(&h.limits).unwrap_or(limit)).fold(0, u64::saturating_add);
            let Some(requested) = requested else {
                return refuse(resource, limit, used, None);
            };
            if used.saturating_add(requested) > limit {
                return refuse(resource, limit, used, Some(requested));
            }
        }
        let mut granted = asked;
        if let Some(limit) = self.wall_seconds {
            match asked.wall_seconds {
                Some(requested) if requested > limit => {
                    return refuse(Resource::WallSeconds, limit, 0, Some(requested));
                }
                Some(_) => {}
                None => granted.wall_seconds = Some(limit),
            }
        }
        Ok(granted)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn holder(i: u8, limits: Limits) -> Holder {
        Holder {
            runner: RunnerId::from_entropy([i; 16]),
            name: format!("r{i}").parse().unwrap(),
            limits,
        }
    }

    proptest! {
        /// Whatever is asked for in whatever order, what was admitted never exceeds the quota.
        #[test]
        fn the_sum_of_what_was_admitted_stays_within_the_quota(
            runners in 0u64..6, memory in 0u64..100, asks in proptest::collection::vec(proptest::option::of(0u64..40), 0..12),
        ) {
            let quota = Quota { runners, memory: Some(memory), ..Quota::default() };
            let mut live = Vec::new();
            for (i, ask) in asks.into_iter().enumerate() {
                let asked = Limits { memory: ask, ..Limits::default() };
                match quota.admit(asked, &live) {
                    Ok(granted) => live.push(holder(i as u8, granted)),
                    Err(refusal) => {
                        prop_assert_eq!(refusal.holders.len(), live.len());
                        prop_assert!(refusal.to_string().contains("limit") || refusal.to_string().contains("quota"));
                    }
                }
            }
            prop_assert!(live.len() as u64 <= runners);
            prop_assert!(live.iter().map(|h| h.limits.memory.unwrap()).sum::<u64>() <= memory);
        }
    }

    #[test]
    fn a_refusal_names_limit_use_and_holders() {
        let quota = Quota { runners: 1, ..Quota::default() };
        let refusal = quota.admit(Limits::default(), &[holder(7, Limits::default())]).unwrap_err();
        assert_eq!(
            refusal.to_string(),
            "the project's quota of runners is 1, 1 in use, 1 asked for; held by r7"
        );
    }

    #[test]
    fn a_request_of_several_does_not_hold_against_itself() {
        let quota = Quota { runners: 2, ..Quota::default() };
        let own = [holder(1, Limits::default()), holder(2, Limits::default())];
        let refusal = quota.admit(Limits::default(), &own).unwrap_err().of_request(0);
        assert_eq!(
            refusal.to_string(),
            "the project's quota of runners is 2, 0 in use, 3 asked for"
        );
    }

    #[test]
    fn wall_time_is_given_where_none_was_asked_for() {
        let quota = Quota { wall_seconds: Some(60), ..Quota::default() };
        assert_eq!(quota.admit(Limits::default(), &[]).unwrap().wall_seconds, Some(60));
        let long = Limits { wall_seconds: Some(61), ..Limits::default() };
        assert!(quota.admit(long, &[]).is_err());
    }
}
