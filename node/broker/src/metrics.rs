//! Figures about requests, connections and memory. The catalogue is `docs/metrics.md` of this crate.

use std::time::Duration;

use meridian_wire::{ApiKey, ErrorCode};
use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
};

/// From 50 microseconds to the half minute that a client waits for an answer.
const LATENCY_BUCKETS_SECONDS: &[f64] = &[
    0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5,
    5.0, 10.0, 30.0,
];

/// All figures of one broker.
#[derive(Debug)]
pub(crate) struct Metrics {
    /// In the order of [`ApiKey::ALL`].
    apis: Vec<ApiMetrics>,
    errors: IntCounterVec,
    pub(crate) connections: IntGauge,
    pub(crate) connections_opened: IntCounter,
    pub(crate) connections_rejected: IntCounterVec,
    pub(crate) connections_closed: IntCounterVec,
    pub(crate) request_bytes_in_flight: IntGauge,
    pub(crate) response_bytes_in_flight: IntGauge,
    pub(crate) produce_bytes: IntCounter,
    pub(crate) produce_records: IntCounter,
    pub(crate) geo_acks_fallbacks: IntCounter,
    pub(crate) produce_batches: IntCounter,
    pub(crate) fetch_bytes: IntCounter,
    pub(crate) fetch_records: IntCounter,
    pub(crate) fetch_batches: IntCounter,
    pub(crate) fetch_waits: IntCounter,
    pub(crate) fetch_stale_redirects: IntCounter,
    pub(crate) fetches_waiting: IntGauge,
    pub(crate) fetch_sessions: IntGauge,
    pub(crate) fetch_session_partitions: IntGauge,
    pub(crate) fetch_session_evictions: IntGauge,
    pub(crate) groups: IntGaugeVec,
}

#[derive(Debug)]
struct ApiMetrics {
    requests: IntCounter,
    request_bytes: IntCounter,
    response_bytes: IntCounter,
    latency: Histogram,
}

impl Metrics {
    /// Makes the figures and registers them. Errors when one of the names is taken in `registry`.
    pub(crate) fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let r = Registrar(registry);
        let requests = r.counters("meridian_requests_total", "Requests answered, by API.", &["api"])?;
        let request_bytes = r.counters(
            "meridian_request_bytes_total",
            "Bytes of requests read, by API.",
            &["api"],
        )?;
        let response_bytes = r.counters(
            "meridian_response_bytes_total",
            "Bytes of responses written, by API.",
            &["api"],
        )?;
        let latency = r.histograms(
            "meridian_request_latency_seconds",
            "From the last byte of a request to its encoded response, by API; waiting fetches included.",
            &["api"],
        )?;
        let of_api = |api: &ApiKey| {
            let label = &[api.name()];
            ApiMetrics {
                requests: requests.with_label_values(label),
                request_bytes: request_bytes.with_label_values(label),
                response_bytes: response_bytes.with_label_values(label),
                latency: latency.with_label_values(label),
            }
        };
        let apis = ApiKey::ALL.iter().map(of_api).collect();
        Ok(Self {
            apis,
            errors: r.counters(
                "meridian_request_errors_total",
                "Error codes in responses, by API and Kafka's name of the code.",
                &["api", "error"],
            )?,
            connections: r.gauge("meridian_connections", "Open client connections.")?,
            connections_opened: r.counter("meridian_connections_opened_total", "Connections accepted.")?,
            connections_rejected: r.counters(
                "meridian_connections_rejected_total",
                "Connections closed at once because a limit was reached, by limit.",
                &["limit"],
            )?,
            connections_closed: r.counters(
                "meridian_connections_closed_total",
                "Connections closed, by reason.",
                &["reason"],
            )?,
            request_bytes_in_flight: r.gauge(
                "meridian_request_in_flight_bytes",
                "Bytes of requests read and not yet answered.",
            )?,
            response_bytes_in_flight: r.gauge(
                "meridian_response_in_flight_bytes",
                "Bytes of fetch responses not yet written to their sockets.",
            )?,
            produce_bytes: r.counter(
                "meridian_produce_bytes_total",
                "Bytes of record batches acknowledged.",
            )?,
            produce_records: r.counter("meridian_produce_records_total", "Records acknowledged.")?,
            geo_acks_fallbacks: r.counter(
                "meridian_geo_acks_fallbacks_total",
                "Batches acknowledged though fewer other regions held them than geo.acks wants.",
            )?,
            produce_batches: r.counter("meridian_produce_batches_total", "Record batches acknowledged.")?,
            fetch_bytes: r.counter("meridian_fetch_bytes_total", "Bytes of record batches fetched.")?,
            fetch_records: r.counter("meridian_fetch_records_total", "Records fetched.")?,
            fetch_batches: r.counter("meridian_fetch_batches_total", "Record batches fetched.")?,
            fetch_waits: r.counter(
                "meridian_fetch_waits_total",
                "Fetches that did not have enough data at once and waited.",
            )?,
            fetch_stale_redirects: r.counter(
                "meridian_fetch_stale_redirects_total",
                "Partitions of fetches sent to the owner because the copy here was older than geo.staleness.max.ms.",
            )?,
            fetches_waiting: r.gauge("meridian_fetches_waiting", "Fetches that wait for data now.")?,
            fetch_sessions: r.gauge("meridian_fetch_sessions", "Fetch sessions in the cache.")?,
            fetch_session_partitions: r.gauge(
                "meridian_fetch_session_partitions",
                "Partitions of all fetch sessions.",
            )?,
            fetch_session_evictions: r.gauge(
                "meridian_fetch_session_evictions",
                "Fetch sessions that had to go for others, since the start.",
            )?,
            groups: r.gauges(
                "meridian_groups",
                "Consumer groups coordinated here, by state.",
                &["state"],
            )?,
        })
    }

    /// Counts a request that was answered.
    pub(crate) fn answered(&self, api: ApiKey, request_bytes: usize, response_bytes: usize, took: Duration) {
        if let Ok(place) = ApiKey::ALL.binary_search(&api) {
            let metrics = &self.apis[place];
            metrics.requests.inc();
            metrics.request_bytes.inc_by(request_bytes as u64);
            metrics.response_bytes.inc_by(response_bytes as u64);
            metrics.latency.observe(took.as_secs_f64());
        }
    }

    /// Counts an error code on its way to a client.
    pub(crate) fn error(&self, api: ApiKey, error: ErrorCode) {
        self.errors.with_label_values(&[api.name(), error.name()]).inc();
    }
}

struct Registrar<'a>(&'a Registry);

impl Registrar<'_> {
    fn register<C: prometheus::core::Collector + Clone + 'static>(
        &self,
        collector: C,
    ) -> Result<C, prometheus::Error> {
        self.0.register(Box::new(collector.clone()))?;
        Ok(collector)
    }

    fn counter(&self, name: &str, help: &str) -> Result<IntCounter, prometheus::Error> {
        self.register(IntCounter::new(name, help)?)
    }

    fn counters(&self, name: &str, help: &str, labels: &[&str]) -> Result<IntCounterVec, prometheus::Error> {
        self.register(IntCounterVec::new(Opts::new(name, help), labels)?)
    }

    fn gauge(&self, name: &str, help: &str) -> Result<IntGauge, prometheus::Error> {
        self.register(IntGauge::new(name, help)?)
    }

    fn gauges(&self, name: &str, help: &str, labels: &[&str]) -> Result<IntGaugeVec, prometheus::Error> {
        self.register(IntGaugeVec::new(Opts::new(name, help), labels)?)
    }

    fn histograms(&self, name: &str, help: &str, labels: &[&str]) -> Result<HistogramVec, prometheus::Error> {
        let options = HistogramOpts::new(name, help).buckets(LATENCY_BUCKETS_SECONDS.to_vec());
        self.register(HistogramVec::new(options, labels)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_metric_is_in_the_catalogue_and_the_other_way_round() {
        let registry = Registry::new();
        let metrics = Metrics::new(&registry).unwrap();
        metrics.answered(ApiKey::Produce, 1, 1, Duration::from_millis(1));
        metrics.error(ApiKey::Produce, ErrorCode::CorruptMessage);
        metrics.connections_rejected.with_label_values(&["total"]).inc();
        metrics.connections_closed.with_label_values(&["peer"]).inc();
        metrics.groups.with_label_values(&["Stable"]).set(1);
        let registered: Vec<String> = registry
            .gather()
            .iter()
            .map(|family| family.name().to_owned())
            .collect();
        let catalogue = include_str!("../docs/metrics.md");
        let mut listed: Vec<String> = catalogue
            .lines()
            .filter_map(|line| line.strip_prefix("| `"))
            .filter_map(|line| line.split('`').next())
            .map(str::to_owned)
            .collect();
        listed.sort();
        assert_eq!(listed, registered);
    }
}
