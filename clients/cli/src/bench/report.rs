//! What a benchmark says in the end. Pure.

use std::time::Duration;

use hdrhistogram::Histogram;
use serde_json::{Value, json};

/// Latencies in microseconds, up to a minute; longer ones count as a minute.
#[derive(Clone, Debug)]
pub(super) struct Latencies {
    histogram: Histogram<u64>,
}

const LATENCY_US_MAX: u64 = 60_000_000;

impl Default for Latencies {
    fn default() -> Self {
        Self {
            histogram: Histogram::new_with_bounds(1, LATENCY_US_MAX, 3).expect("the bounds are constants"),
        }
    }
}

impl Latencies {
    /// Counts `count` events of one latency.
    pub(super) fn record(&mut self, latency: Duration, count: u64) {
        let us = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
        self.histogram
            .saturating_record_n(us.clamp(1, LATENCY_US_MAX), count);
    }

    pub(super) fn merge(&mut self, other: &Self) {
        self.histogram
            .add(&other.histogram)
            .expect("both have the same bounds");
    }

    pub(super) fn is_empty(&self) -> bool {
        self.histogram.is_empty()
    }

    fn ms(&self, quantile: f64) -> f64 {
        self.histogram.value_at_quantile(quantile) as f64 / 1000.0
    }

    pub(super) fn json(&self) -> Value {
        if self.is_empty() {
            return Value::Null;
        }
        json!({
            "p50": self.ms(0.5),
            "p90": self.ms(0.9),
            "p99": self.ms(0.99),
            "p999": self.ms(0.999),
            "max": self.ms(1.0),
            "mean": self.histogram.mean() / 1000.0,
        })
    }

    fn text(&self) -> String {
        format!(
            "p50 {:.2} ms   p90 {:.2} ms   p99 {:.2} ms   p99.9 {:.2} ms   max {:.2} ms",
            self.ms(0.5),
            self.ms(0.9),
            self.ms(0.99),
            self.ms(0.999),
            self.ms(1.0)
        )
    }
}

/// What went through.
#[derive(Clone, Debug, Default)]
pub(super) struct Totals {
    /// Records that were acknowledged or read.
    pub(super) records: u64,
    /// Bytes of their values.
    pub(super) value_bytes: u64,
    /// Bytes of their batches, as they went over the wire.
    pub(super) batch_bytes: u64,
    /// Requests, or fetches.
    pub(super) requests: u64,
    /// Records that were refused.
    pub(super) failed_records: u64,
    /// What the first refusal said.
    pub(super) first_failure: Option<String>,
    pub(super) latencies: Latencies,
}

impl Totals {
    pub(super) fn merge(&mut self, other: Self) {
        self.records += other.records;
        self.value_bytes += other.value_bytes;
        self.batch_bytes += other.batch_bytes;
        self.requests += other.requests;
        self.failed_records += other.failed_records;
        if self.first_failure.is_none() {
            self.first_failure = other.first_failure;
        }
        self.latencies.merge(&other.latencies);
    }
}

/// Totals over a time.
#[derive(Clone, Debug)]
pub(super) struct Measured {
    pub(super) totals: Totals,
    pub(super) elapsed: Duration,
    /// Processor time of this process in that time.
    pub(super) cpu: Duration,
}

impl Measured {
    fn per_second(&self, amount: u64) -> f64 {
        amount as f64 / self.elapsed.as_secs_f64().max(1e-9)
    }

    /// Millions of bytes of values per second.
    pub(super) fn mb_per_s(&self) -> f64 {
        self.per_second(self.totals.value_bytes) / 1e6
    }

    fn cpu_per_gb(&self) -> Option<f64> {
        let gb = self.totals.value_bytes as f64 / 1e9;
        (gb > 0.0).then(|| self.cpu.as_secs_f64() / gb)
    }

    pub(super) fn json(&self) -> Value {
        let totals = &self.totals;
        json!({
            "elapsed_s": self.elapsed.as_secs_f64(),
            "records": totals.records,
            "value_bytes": totals.value_bytes,
            "batch_bytes": totals.batch_bytes,
            "requests": totals.requests,
            "failed_records": totals.failed_records,
            "first_failure": totals.first_failure,
            "records_per_s": self.per_second(totals.records),
            "mb_per_s": self.mb_per_s(),
            "latency_ms": totals.latencies.json(),
            "client_cpu_s": self.cpu.as_secs_f64(),
            "client_cpu_s_per_gb": self.cpu_per_gb(),
        })
    }

    pub(super) fn text(&self) -> String {
        let totals = &self.totals;
        let mut lines = vec![format!(
            "{} records in {:.1} s: {:.0} records/s, {:.1} MB/s, {} requests",
            totals.records,
            self.elapsed.as_secs_f64(),
            self.per_second(totals.records),
            self.mb_per_s(),
            totals.requests
        )];
        if !totals.latencies.is_empty() {
            lines.push(format!("latency  {}", totals.latencies.text()));
        }
        lines.push(match self.cpu_per_gb() {
            Some(per_gb) => format!(
                "this process used {:.2} cpu-s, {per_gb:.2} cpu-s/GB",
                self.cpu.as_secs_f64()
            ),
            None => format!("this process used {:.2} cpu-s", self.cpu.as_secs_f64()),
        });
        if totals.failed_records > 0 {
            lines.push(format!(
                "{} records FAILED; the first: {}",
                totals.failed_records,
                totals.first_failure.as_deref().unwrap_or("no reason given")
            ));
        }
        lines.join("\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latencies_keep_their_order_and_stay_in_bounds() {
        let mut latencies = Latencies::default();
        for ms in 1..=1000 {
            latencies.record(Duration::from_millis(ms), 1);
        }
        latencies.record(Duration::from_secs(3600), 1);
        let json = latencies.json();
        assert!((json["p50"].as_f64().unwrap() - 500.0).abs() < 2.0, "{json}");
        assert!((json["p99"].as_f64().unwrap() - 991.0).abs() < 2.0, "{json}");
        assert!(json["max"].as_f64().unwrap() >= 60_000.0, "{json}");
    }
}
