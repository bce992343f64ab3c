//! Measurements of one thing, and what they say together.

/// In the order in which they were taken.
#[derive(Debug, Clone, Default)]
pub(crate) struct Samples(pub Vec<f64>);

impl Samples {
    /// The smallest value that so many percent of them do not exceed.
    pub(crate) fn percentile(&self, percent: f64) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let rank = (sorted.len() as f64 * percent / 100.0).ceil() as usize;
        sorted.get(rank.max(1) - 1).copied().unwrap_or(f64::NAN)
    }

    pub(crate) fn median(&self) -> f64 {
        self.percentile(50.0)
    }

    pub(crate) fn least(&self) -> f64 {
        self.percentile(0.0)
    }

    pub(crate) fn most(&self) -> f64 {
        self.percentile(100.0)
    }
}

/// Takes a measurement.
pub(crate) type Side<'s> = &'s mut dyn FnMut() -> anyhow::Result<f64>;

/// Lets the sides take turns, a different one first in each round, after one that does not count.
pub(crate) fn in_turns<const N: usize>(
    rounds: usize,
    sides: [Side<'_>; N],
) -> anyhow::Result<[Samples; N]> {
    let mut samples = std::array::from_fn(|_| Samples::default());
    for round in 0..=rounds {
        for turn in 0..N {
            let side = (round + turn) % N;
            let value = sides[side]()?;
            if round > 0 {
                samples[side].0.push(value);
            }
        }
    }
    Ok(samples)
}

/// Milliseconds since `began`.
pub(crate) fn ms_since(began: std::time::Instant) -> f64 {
    began.elapsed().as_secs_f64() * 1000.0
}
