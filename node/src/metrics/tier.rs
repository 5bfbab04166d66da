//! Metrics of the bucket as this node uses it.

use meridian_shard::{BucketStanding, TierUsage};
use meridian_tiered_storage::store::Operation;
use prometheus::{CounterVec, GaugeVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry};

use super::{advance, registered, signed};

pub(super) struct TierMetrics {
    waiting_bytes: IntGaugeVec,
    waiting_seconds: GaugeVec,
    objects: IntGaugeVec,
    object_bytes: IntGaugeVec,
    record_bytes: IntGaugeVec,
    unlinked_objects: IntGaugeVec,
    owned: IntGauge,
    rounds: IntCounter,
    rounds_failed: IntCounter,
    tiered_bytes: IntCounter,
    merges: IntCounter,
    compactions: IntCounter,
    rewrites_failed: IntCounter,
    rewrite_read_bytes: IntCounter,
    rewrite_written_bytes: IntCounter,
    deleted: IntCounter,
    orphans_deleted: IntCounter,
    requests: IntCounterVec,
    requests_failed: IntCounterVec,
    request_bytes: IntCounterVec,
    request_seconds: CounterVec,
    reads: IntCounterVec,
    reads_failed: IntCounter,
    frames_damaged: IntCounter,
}

impl TierMetrics {
    pub(super) fn new(registry: &Registry) -> prometheus::Result<Self> {
        let gauges = |name: &str, help: &str| {
            registered(registry, IntGaugeVec::new(Opts::new(name, help), &["shard"]))
        };
        let counter =
            |name: &str, help: &str| registered(registry, IntCounter::with_opts(Opts::new(name, help)));
        let counters = |name: &str, help: &str, label: &str| {
            registered(registry, IntCounterVec::new(Opts::new(name, help), &[label]))
        };
        let waiting_seconds = registered(
            registry,
            GaugeVec::new(
                Opts::new(
                    "meridian_tier_waiting_seconds",
                    "How long the oldest records of a shard led here have waited for the bucket.",
                ),
                &["shard"],
            ),
        )?;
        let owned = IntGauge::new(
            "meridian_tier_owned",
            "1 while the bucket is known to be this region's; otherwise nothing is written to it.",
        )?;
        registry.register(Box::new(owned.clone()))?;
        let request_seconds = registered(
            registry,
            CounterVec::new(
                Opts::new(
                    "meridian_tier_request_seconds_total",
                    "Time that requests to the store took together.",
                ),
                &["operation"],
            ),
        )?;
        Ok(Self {
            waiting_bytes: gauges(
                "meridian_tier_waiting_bytes",
                "Bytes of a shard led here that wait for the bucket.",
            )?,
            waiting_seconds,
            objects: gauges(
                "meridian_tier_objects",
                "Objects in the bucket with records of a shard led here.",
            )?,
            object_bytes: gauges("meridian_tier_object_bytes", "Bytes of these objects.")?,
            record_bytes: gauges(
                "meridian_tier_record_bytes",
                "Bytes of the batches in these objects, as producers sent them.",
            )?,
            unlinked_objects: gauges(
                "meridian_tier_unlinked_objects",
                "Objects of a shard led here that wait for their deletion.",
            )?,
            owned,
            rounds: counter(
                "meridian_tier_rounds_total",
                "Rounds that brought records into the bucket.",
            )?,
            rounds_failed: counter(
                "meridian_tier_rounds_failed_total",
                "Rounds to the bucket that failed; they are tried again.",
            )?,
            tiered_bytes: counter(
                "meridian_tier_tiered_bytes_total",
                "Bytes of batches that rounds brought into the bucket.",
            )?,
            merges: counter(
                "meridian_tier_merges_total",
                "Merges of small pieces of partitions in the bucket into one object.",
            )?,
            compactions: counter(
                "meridian_tier_compactions_total",
                "Passes of compaction over a partition in the bucket.",
            )?,
            rewrites_failed: counter(
                "meridian_tier_rewrites_failed_total",
                "Steps of merges and compaction that failed; they are tried again, unless the bucket is damaged.",
            )?,
            rewrite_read_bytes: counter(
                "meridian_tier_rewrite_read_bytes_total",
                "Bytes that merges and compaction read from the bucket.",
            )?,
            rewrite_written_bytes: counter(
                "meridian_tier_rewrite_written_bytes_total",
                "Bytes of objects that merges and compaction brought into the bucket.",
            )?,
            deleted: counter("meridian_tier_deleted_total", "Objects deleted from the bucket.")?,
            orphans_deleted: counter(
                "meridian_tier_orphans_deleted_total",
                "Of those, objects that no manifest ever named.",
            )?,
            requests: counters(
                "meridian_tier_requests_total",
                "Requests to the store that were answered well.",
                "operation",
            )?,
            requests_failed: counters(
                "meridian_tier_requests_failed_total",
                "Requests to the store that failed, each attempt.",
                "operation",
            )?,
            request_bytes: counters(
                "meridian_tier_request_bytes_total",
                "Bytes of objects that requests moved.",
                "operation",
            )?,
            request_seconds,
            reads: counters(
                "meridian_tier_reads_total",
                "Frames of the bucket that reads needed, by where they were found.",
                "from",
            )?,
            reads_failed: counter(
                "meridian_tier_reads_failed_total",
                "Requests for frames and footers that failed.",
            )?,
            frames_damaged: counter(
                "meridian_tier_frames_damaged_total",
                "Frames and footers that came damaged from the bucket.",
            )?,
        })
    }

    pub(super) fn fill(&self, usage: &TierUsage) {
        self.owned.set(i64::from(usage.standing == BucketStanding::Ours));
        let by_shard = [
            &self.waiting_bytes,
            &self.objects,
            &self.object_bytes,
            &self.record_bytes,
            &self.unlinked_objects,
        ];
        // A shard that is led elsewhere now is told there.
        by_shard.iter().for_each(|gauges| gauges.reset());
        self.waiting_seconds.reset();
        for shard in &usage.shards {
            let name = shard.shard.to_string();
            let totals = &shard.totals;
            let values = [
                shard.waiting_bytes,
                totals.objects,
                totals.object_bytes,
                totals.raw_bytes,
                totals.unlinked,
            ];
            for (gauges, value) in by_shard.iter().zip(values) {
                gauges.with_label_values(&[&name]).set(signed(value));
            }
            self.waiting_seconds
                .with_label_values(&[&name])
                .set(shard.waiting_for.as_secs_f64());
        }
        advance(&self.rounds, usage.rounds);
        advance(&self.rounds_failed, usage.rounds_failed);
        advance(&self.tiered_bytes, usage.tiered_bytes);
        advance(&self.merges, usage.merges);
        advance(&self.compactions, usage.compactions);
        advance(&self.rewrites_failed, usage.rewrites_failed);
        advance(&self.rewrite_read_bytes, usage.rewrite_read_bytes);
        advance(&self.rewrite_written_bytes, usage.rewrite_written_bytes);
        advance(&self.deleted, usage.deleted);
        advance(&self.orphans_deleted, usage.orphans_deleted);
        for operation in Operation::ALL {
            let (stats, name) = (usage.store.of(operation), [operation.name()]);
            advance(&self.requests.with_label_values(&name), stats.done);
            advance(&self.requests_failed.with_label_values(&name), stats.failed);
            advance(&self.request_bytes.with_label_values(&name), stats.bytes);
            let seconds = self.request_seconds.with_label_values(&name);
            seconds.inc_by((stats.time.as_secs_f64() - seconds.get()).max(0.0));
        }
        let cold = &usage.cold;
        for (from, count) in [
            ("memory", cold.memory_hits),
            ("disk", cold.disk_hits),
            ("others", cold.joined),
            ("bucket", cold.misses),
        ] {
            advance(&self.reads.with_label_values(&[from]), count);
        }
        advance(&self.reads_failed, cold.failures);
        advance(&self.frames_damaged, cold.damaged);
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::time::Duration;

    use meridian_shard::ShardTierUsage;
    use meridian_tiered_storage::Totals;
    use meridian_tiered_storage::cold::ColdStats;
    use meridian_tiered_storage::store::StoreStats;
    use meridian_types::ShardId;
    use prometheus::TextEncoder;

    use super::*;

    pub(in super::super) fn usage() -> TierUsage {
        TierUsage {
            store: StoreStats::default(),
            cold: ColdStats::default(),
            rounds: 1,
            rounds_failed: 2,
            tiered_bytes: 3,
            merges: 6,
            compactions: 7,
            rewrites_failed: 8,
            rewrite_read_bytes: 9,
            rewrite_written_bytes: 10,
            deleted: 4,
            orphans_deleted: 5,
            standing: BucketStanding::Ours,
            last_failure: None,
            shards: vec![ShardTierUsage {
                shard: ShardId(7),
                waiting_bytes: 1000,
                waiting_for: Duration::from_millis(1500),
                totals: Totals::default(),
            }],
        }
    }

    #[test]
    fn lag_is_told_by_the_leader_only() {
        let registry = Registry::new();
        let metrics = TierMetrics::new(&registry).expect("no two have one name");
        let text = || {
            TextEncoder::new()
                .encode_to_string(&registry.gather())
                .expect("text")
        };
        metrics.fill(&usage());
        let lag = r#"meridian_tier_waiting_seconds{shard="7"} 1.5"#;
        assert!(text().contains(lag), "{}", text());
        metrics.fill(&TierUsage {
            shards: Vec::new(),
            ..usage()
        });
        assert!(!text().contains(lag), "{}", text());
        assert!(text().contains("meridian_tier_rounds_failed_total 2"));
    }
}
