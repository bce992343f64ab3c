//! The recorded output of all runners of a host together, and what of it goes when it is too much.
//!
//! Invariant: output of runners that live is removed only when none is left of those that have ended, and
//! never the segment that is being written to.

use std::collections::BinaryHeap;

use crate::RunnerId;

/// The recorded output of one runner.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    pub runner: RunnerId,
    /// First offset and length of each segment, oldest first.
    pub segments: Vec<(u64, u64)>,
}

/// The output of a runner from one offset to another, which goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Removed {
    pub runner: RunnerId,
    pub from: u64,
    pub to: u64,
    /// What of it is there.
    pub bytes: u64,
}

impl Kept {
    pub fn bytes(&self) -> u64 {
        self.segments.iter().map(|(_, length)| length).sum()
    }

    /// The oldest segments, as many as hold `over` bytes, of all but the last `spared`.
    fn oldest(&self, over: u64, spared: usize) -> Option<Removed> {
        let mut removed: Option<Removed> = None;
        for &(start, length) in &self.segments[..self.segments.len().saturating_sub(spared)] {
            let (from, bytes) = removed.map_or((start, 0), |removed| (removed.from, removed.bytes));
            if bytes >= over {
                break;
            }
            let runner = self.runner;
            removed = Some(Removed { runner, from, to: start + length, bytes: bytes + length });
        }
        removed.filter(|removed| removed.bytes > 0)
    }
}

/// What goes of one that has ended, where it is `over` bytes too much.
pub fn of_ended(kept: &Kept, over: u64) -> Option<Removed> {
    kept.oldest(over, 0)
}

/// What goes of those that live, where it is `over` bytes too much: again and again the oldest segment of
/// whoever keeps most.
pub fn of_live(live: &[Kept], mut over: u64) -> Vec<Removed> {
    let mut left: Vec<Kept> = live.to_vec();
    let mut removed: Vec<Option<Removed>> = vec![None; live.len()];
    let mut most: BinaryHeap<(u64, usize)> =
        left.iter().enumerate().map(|(n, kept)| (kept.bytes(), n)).collect();
    while over > 0
        && let Some((bytes, n)) = most.pop()
    {
        let Some(oldest) = left[n].oldest(1, 1) else { continue };
        left[n].segments.retain(|(start, _)| *start >= oldest.to);
        over = over.saturating_sub(oldest.bytes);
        removed[n] = Some(match removed[n] {
            Some(before) => {
                Removed { from: before.from, bytes: before.bytes + oldest.bytes, ..oldest }
            }
            None => oldest,
        });
        most.push((bytes - oldest.bytes, n));
    }
    removed.into_iter().flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(n: u8, segments: &[(u64, u64)]) -> Kept {
        Kept { runner: RunnerId::from_entropy([n; 16]), segments: segments.to_vec() }
    }

    fn removed(n: u8, from: u64, to: u64, bytes: u64) -> Removed {
        Removed { runner: RunnerId::from_entropy([n; 16]), from, to, bytes }
    }

    #[test]
    fn of_an_ended_runner_goes_as_much_as_has_to_and_if_need_be_all() {
        let one = kept(1, &[(0, 10), (10, 10), (25, 5)]);
        assert_eq!(of_ended(&one, 1), Some(removed(1, 0, 10, 10)));
        assert_eq!(of_ended(&one, 11), Some(removed(1, 0, 20, 20)));
        // There was a hole from 20 to 25.
        assert_eq!(of_ended(&one, 100), Some(removed(1, 0, 30, 25)));
        // Nothing is left of it but where it ended.
        assert_eq!(of_ended(&kept(1, &[(30, 0)]), 100), None);
        assert_eq!(of_ended(&kept(1, &[]), 100), None);
    }

    #[test]
    fn of_the_living_whoever_keeps_most_gives_first_and_each_keeps_its_last_segment() {
        let live = [
            kept(1, &[(0, 10), (10, 10)]),
            kept(2, &[(100, 10), (110, 10), (120, 10), (130, 1)]),
            kept(3, &[(0, 500)]),
        ];
        assert_eq!(of_live(&live, 0), []);
        assert_eq!(of_live(&live, 1), [removed(2, 100, 110, 10)]);
        assert_eq!(of_live(&live, 11), [removed(2, 100, 120, 20)]);
        let all = [removed(1, 0, 10, 10), removed(2, 100, 130, 30)];
        assert_eq!(of_live(&live, 10_000), all);
    }
}
