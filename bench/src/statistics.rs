//! Medians, quantiles and what is said of a few samples.

use serde::{Deserialize, Serialize};

/// A few samples of one figure, in the order they were taken.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Samples(pub(crate) Vec<f64>);

impl Samples {
    /// The middle sample, or the mean of the two in the middle; none without samples.
    pub(crate) fn median(&self) -> Option<f64> {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let middle = sorted.len() / 2;
        match sorted.len() {
            0 => None,
            odd if odd % 2 == 1 => Some(sorted[middle]),
            _ => Some(f64::midpoint(sorted[middle - 1], sorted[middle])),
        }
    }

    /// The smallest and the largest.
    pub(crate) fn spread(&self) -> Option<(f64, f64)> {
        let smallest = self.0.iter().copied().min_by(f64::total_cmp)?;
        let largest = self.0.iter().copied().max_by(f64::total_cmp)?;
        Some((smallest, largest))
    }

    /// Each sample divided by the one of `other` that was taken next to it.
    pub(crate) fn paired_ratios(&self, other: &Self) -> Self {
        Self(self.0.iter().zip(&other.0).map(|(one, other)| one / other).collect())
    }
}

/// Latencies in milliseconds, summed up.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Latency {
    /// How many were measured.
    pub(crate) count: usize,
    /// Half of them were not longer.
    pub(crate) p50_ms: f64,
    /// 99 of 100 were not longer.
    pub(crate) p99_ms: f64,
    /// The longest.
    pub(crate) max_ms: f64,
}

impl Latency {
    /// Sums up latencies in microseconds; none without any.
    pub(crate) fn of(mut micros: Vec<u64>) -> Option<Self> {
        micros.sort_unstable();
        let ms = |micros: u64| micros as f64 / 1000.0;
        Some(Self {
            count: micros.len(),
            p50_ms: ms(quantile(&micros, 0.5)?),
            p99_ms: ms(quantile(&micros, 0.99)?),
            max_ms: ms(*micros.last()?),
        })
    }
}

/// The nearest-rank quantile of sorted values: the smallest that `share` of all do not exceed.
pub(crate) fn quantile(sorted: &[u64], share: f64) -> Option<u64> {
    let rank = (share * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.clamp(1, sorted.len().max(1)) - 1).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_median_is_in_the_middle_of_odd_and_even_counts() {
        let check = |samples: &[f64], median| assert_eq!(Samples(samples.to_vec()).median(), median);
        check(&[], None);
        check(&[4.0], Some(4.0));
        check(&[9.0, 1.0, 2.0], Some(2.0));
        check(&[9.0, 1.0, 2.0, 3.0], Some(2.5));
    }

    #[test]
    fn a_quantile_is_the_nearest_rank() {
        let hundred: Vec<u64> = (1..=100).collect();
        let check = |values: &[u64], share, value| assert_eq!(quantile(values, share), value);
        check(&[], 0.5, None);
        check(&[7], 0.99, Some(7));
        check(&hundred, 0.5, Some(50));
        check(&hundred, 0.99, Some(99));
        check(&hundred, 1.0, Some(100));
        check(&hundred, 0.0, Some(1));
    }

    #[test]
    fn ratios_pair_samples_that_were_taken_together() {
        let ratios = Samples(vec![10.0, 30.0]).paired_ratios(&Samples(vec![5.0, 10.0]));
        assert_eq!((ratios.0.clone(), ratios.median()), (vec![2.0, 3.0], Some(2.5)));
        assert_eq!(ratios.spread(), Some((2.0, 3.0)));
    }

    #[test]
    fn latencies_are_told_in_milliseconds() {
        let latency = Latency::of(vec![3000, 1000, 2000]).unwrap();
        assert_eq!((latency.count, latency.p50_ms, latency.p99_ms, latency.max_ms), (3, 2.0, 3.0, 3.0));
        assert_eq!(Latency::of(Vec::new()), None);
    }
}
