//! What a client reports: one line of JSON on standard output.

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

/// What a client did. The window is the time that counts; before it lies the client's own warm-up.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Outcome {
    /// Record bytes (values only) acknowledged or read in all, the warm-up included.
    pub bytes: u64,
    /// Of these, within the window.
    pub window_bytes: u64,
    /// Length of the window in seconds.
    pub window_s: f64,
    /// Median latency in milliseconds, where the client knows one.
    #[serde(default)]
    pub p50_ms: Option<f64>,
    /// 99th percentile.
    #[serde(default)]
    pub p99_ms: Option<f64>,
    /// 99.9th percentile.
    #[serde(default)]
    pub p999_ms: Option<f64>,
}

impl Outcome {
    /// Takes the percentiles out of a histogram of microseconds.
    #[must_use]
    pub fn with_latencies(mut self, latencies_us: &Histogram<u64>) -> Self {
        let at = |quantile: f64| {
            (!latencies_us.is_empty()).then(|| latencies_us.value_at_quantile(quantile) as f64 / 1000.0)
        };
        self.p50_ms = at(0.5);
        self.p99_ms = at(0.99);
        self.p999_ms = at(0.999);
        self
    }

    /// 10^6 record bytes per second within the window.
    pub fn mb_per_s(&self) -> f64 {
        self.window_bytes as f64 / 1e6 / self.window_s
    }
}

/// A histogram of microseconds up to ten minutes, exact to three digits.
pub fn latencies() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 600_000_000, 3).expect("the bounds are fixed and valid")
}
