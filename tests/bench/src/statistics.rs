//! Medians, and how sure they are.

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use serde::Serialize;

/// Draws of the bootstrap.
const DRAWS: usize = 10_000;

/// A median with the interval that holds 95 % of the medians of resampled values.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Estimate {
    /// The median.
    pub median: f64,
    /// Lower end of the interval.
    pub low: f64,
    /// Upper end of the interval.
    pub high: f64,
}

/// The median; `None` of nothing.
pub fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => None,
        n if n % 2 == 1 => Some(sorted[middle]),
        _ => Some(f64::midpoint(sorted[middle - 1], sorted[middle])),
    }
}

/// The median of `values` with its bootstrap interval, the same for the same values; `None` of nothing.
pub fn estimate(values: &[f64]) -> Option<Estimate> {
    let center = median(values)?;
    let mut random = SmallRng::seed_from_u64(1);
    let mut medians: Vec<f64> = (0..DRAWS)
        .filter_map(|_| {
            let draw: Vec<f64> = values
                .iter()
                .map(|_| values[random.random_range(0..values.len())])
                .collect();
            median(&draw)
        })
        .collect();
    medians.sort_by(f64::total_cmp);
    Some(Estimate {
        median: center,
        low: medians[DRAWS * 25 / 1000],
        high: medians[DRAWS * 975 / 1000],
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_or_between_the_two_middles() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), Some(2.5));
    }

    #[test]
    fn an_interval_holds_the_median_and_lies_within_the_values() {
        let found = estimate(&[1.0, 1.1, 0.9, 1.2, 1.0]).unwrap();
        assert!(found.low <= found.median && found.median <= found.high);
        assert!(found.low >= 0.9 && found.high <= 1.2);
        assert_eq!(estimate(&[2.0, 2.0]).unwrap().high, 2.0);
    }
}
