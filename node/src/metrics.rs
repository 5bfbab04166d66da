//! Metrics of journal, shards and region, read when they are scraped. The catalogue is `docs/metrics.md`.

mod mirror;
mod region;
mod tier;

use meridian_shard::{Region, Usage};
use prometheus::core::Collector;
use prometheus::{Gauge, IntCounter, IntGauge, IntGaugeVec, Opts, Registry, TextEncoder};

use self::mirror::MirrorMetrics;
use self::region::RegionMetrics;
use self::tier::TierMetrics;

/// The node's registry, with the gauges that are filled from [`Usage`].
pub(crate) struct Metrics {
    registry: Registry,
    journal: Journal,
    shards: Shards,
    region: RegionMetrics,
    tier: TierMetrics,
    mirror: MirrorMetrics,
    not_compacted: IntGauge,
}

struct Journal {
    disk_bytes: IntGauge,
    files: IntGauge,
    cache_bytes: IntGauge,
    queued_bytes: IntGauge,
    full: IntGauge,
    poisoned: IntGauge,
    rounds: IntCounter,
    operations: IntCounter,
    syncs: IntCounter,
    written_bytes: IntCounter,
    disk_reads: IntCounter,
    files_retired: IntCounter,
    round_seconds_total: Gauge,
    round_seconds_max: Gauge,
}

struct Shards {
    led: IntGauge,
    stopped: IntGauge,
    damaged: IntGauge,
    partitions: IntGauge,
    queued_bytes: IntGaugeVec,
    applied_index: IntGaugeVec,
}

impl Metrics {
    pub(crate) fn new(registry: Registry) -> prometheus::Result<Self> {
        let gauge =
            |name: &str, help: &str| registered(&registry, IntGauge::with_opts(Opts::new(name, help)));
        let counter =
            |name: &str, help: &str| registered(&registry, IntCounter::with_opts(Opts::new(name, help)));
        let seconds = |name: &str, help: &str| registered(&registry, Gauge::with_opts(Opts::new(name, help)));
        let by_shard = |name: &str, help: &str| {
            registered(&registry, IntGaugeVec::new(Opts::new(name, help), &["shard"]))
        };
        let journal = Journal {
            disk_bytes: gauge("meridian_journal_disk_bytes", "Bytes of journal files.")?,
            files: gauge("meridian_journal_files", "Journal files.")?,
            cache_bytes: gauge(
                "meridian_journal_cache_bytes",
                "Bytes of recent entries in memory.",
            )?,
            queued_bytes: gauge("meridian_journal_queued_bytes", "Bytes that wait for the disk.")?,
            full: gauge("meridian_journal_full", "1 while the disk takes no more records.")?,
            poisoned: gauge(
                "meridian_journal_poisoned",
                "1 after a write or sync failed; restart the node.",
            )?,
            rounds: counter(
                "meridian_journal_rounds_total",
                "Rounds of the writer: one gathered write each.",
            )?,
            operations: counter(
                "meridian_journal_operations_total",
                "Appends, votes, truncations and purges written.",
            )?,
            syncs: counter("meridian_journal_syncs_total", "Calls of fdatasync.")?,
            written_bytes: counter("meridian_journal_written_bytes_total", "Bytes written.")?,
            disk_reads: counter(
                "meridian_journal_disk_reads_total",
                "Reads that memory could not serve.",
            )?,
            files_retired: counter(
                "meridian_journal_files_retired_total",
                "Files that were given up or recycled.",
            )?,
            round_seconds_total: seconds("meridian_journal_round_seconds_total", "Time spent in rounds.")?,
            round_seconds_max: seconds("meridian_journal_round_seconds_max", "The longest round so far.")?,
        };
        let shards = Shards {
            led: gauge("meridian_shards_led", "Shards that this node leads.")?,
            stopped: gauge("meridian_shards_stopped", "Shards that do not run on this node.")?,
            damaged: gauge(
                "meridian_shards_damaged",
                "Shards whose replica on this node has lost something.",
            )?,
            partitions: gauge("meridian_partitions", "Partitions with records on this node.")?,
            queued_bytes: by_shard(
                "meridian_shard_queued_bytes",
                "Bytes of batches that wait to be sequenced.",
            )?,
            applied_index: by_shard(
                "meridian_shard_applied_index",
                "Raft index of the last applied entry.",
            )?,
        };
        let not_compacted = gauge(
            "meridian_topics_not_compacted",
            "Topics that ask for compaction in a region without a bucket, where nothing is compacted.",
        )?;
        let region = RegionMetrics::new(&registry)?;
        let tier = TierMetrics::new(&registry)?;
        let mirror = MirrorMetrics::new(&registry)?;
        Ok(Self {
            registry,
            journal,
            shards,
            not_compacted,
            region,
            tier,
            mirror,
        })
    }

    /// The text that Prometheus scrapes.
    pub(crate) fn encode(&self, region: &Region) -> prometheus::Result<String> {
        self.fill(&region.usage());
        self.region.fill(&region.status(), &region.peers().stats());
        self.not_compacted.set(signed(region.uncompacted_topics() as u64));
        let mirror = region.mirror_status();
        if mirror.is_geo {
            self.mirror.fill(&mirror, region.mirror_counters().as_deref());
        }
        if let Some(usage) = region.tier_usage() {
            self.tier.fill(&usage);
        }
        TextEncoder::new().encode_to_string(&self.registry.gather())
    }

    fn fill(&self, usage: &Usage) {
        let (from, to) = (&usage.journal, &self.journal);
        to.disk_bytes.set(signed(from.disk_bytes));
        to.files.set(signed(from.files as u64));
        to.cache_bytes.set(signed(from.cache_bytes as u64));
        to.queued_bytes.set(signed(from.queued_bytes as u64));
        to.full.set(from.full.is_some().into());
        to.poisoned.set(from.poisoned.is_some().into());
        advance(&to.rounds, from.rounds);
        advance(&to.operations, from.operations);
        advance(&to.syncs, from.syncs);
        advance(&to.written_bytes, from.written_bytes);
        advance(&to.disk_reads, from.disk_reads);
        advance(&to.files_retired, from.files_retired);
        to.round_seconds_total.set(from.round_us as f64 / 1e6);
        to.round_seconds_max.set(from.round_us_max as f64 / 1e6);

        let led = usage.shards.iter().filter(|shard| shard.led_here).count();
        let stopped = usage
            .shards
            .iter()
            .filter(|shard| shard.stopped.is_some())
            .count();
        self.shards.led.set(signed(led as u64));
        let damaged = usage.shards.iter().filter(|shard| shard.damaged).count();
        self.shards.stopped.set(signed(stopped as u64));
        self.shards.damaged.set(signed(damaged as u64));
        self.shards.partitions.set(signed(
            usage.shards.iter().map(|shard| shard.partitions as u64).sum(),
        ));
        for shard in &usage.shards {
            let name = shard.shard.to_string();
            self.shards
                .queued_bytes
                .with_label_values(&[&name])
                .set(signed(shard.queued_bytes as u64));
            self.shards
                .applied_index
                .with_label_values(&[&name])
                .set(signed(shard.applied_index));
        }
    }
}

fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// A collector that the registry now knows.
fn registered<C: Collector + Clone + 'static>(
    registry: &Registry,
    collector: prometheus::Result<C>,
) -> prometheus::Result<C> {
    let collector = collector?;
    registry.register(Box::new(collector.clone()))?;
    Ok(collector)
}

/// Brings a counter up to a total that is counted elsewhere.
fn advance(counter: &IntCounter, total: u64) {
    counter.inc_by(total.saturating_sub(counter.get()));
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use meridian_shard::{Leadership, MemberStatus, RegionStatus, ReplicaStatus, ShardStatus, ShardUsage};
    use meridian_types::{NodeId, RaftIndex, ShardId, Term};

    use super::*;

    #[test]
    fn every_metric_of_journal_and_shards_is_in_the_catalogue() {
        let metrics = Metrics::new(Registry::new()).expect("no two have one name");
        let shard = ShardUsage {
            shard: ShardId(0),
            led_here: true,
            stopped: None,
            damaged: false,
            partitions: 1,
            queued_bytes: 1,
            applied_index: 1,
        };
        let usage = Usage {
            journal: meridian_journal::Usage::default(),
            shards: vec![shard],
        };
        metrics.fill(&usage);
        metrics.region.fill(&whole_region(), &[peer()]);
        metrics.tier.fill(&tier::tests::usage());
        metrics.mirror.fill(&mirror::tests::status(Some(100)), None);
        let registered: BTreeSet<String> = metrics
            .registry
            .gather()
            .iter()
            .map(|family| family.name().to_owned())
            .collect();
        let catalogue: BTreeSet<String> = include_str!("../../docs/metrics.md")
            .lines()
            .filter_map(|line| line.strip_prefix("| `meridian_"))
            .filter_map(|line| line.split('`').next())
            .map(|name| format!("meridian_{name}"))
            .collect();
        assert_eq!(registered, catalogue);
    }

    fn peer() -> meridian_peer::PeerStats {
        meridian_peer::PeerStats {
            node: NodeId(2),
            lane: meridian_peer::Lane::Bulk,
            sent_bytes: 1,
            sent_frames: 1,
            received_bytes: 1,
            received_frames: 1,
            connects: 1,
            failed_dials: 1,
            dropped_notices: 1,
            queue_bytes: 1,
            last_failure: None,
        }
    }

    fn whole_region() -> RegionStatus {
        let member = MemberStatus {
            node: NodeId(2),
            is_voter: true,
            matched: None,
            applied: Some(RaftIndex(5)),
        };
        let replica = ReplicaStatus {
            leadership: Leadership::Leading { term: Term(3) },
            committed: RaftIndex(7),
            partitions: 1,
            members: vec![member],
            is_moving: false,
        };
        let shard = ShardStatus {
            shard: ShardId::CONTROLLER,
            leader: Some(NodeId(1)),
            leader_epoch: None,
            placement: vec![NodeId(1), NodeId(2)],
            stopped: None,
            replica: Some(replica),
        };
        RegionStatus {
            node: NodeId(1),
            nodes: Vec::new(),
            shards: vec![shard],
        }
    }

    #[test]
    fn a_leader_tells_how_far_each_replica_is_behind() {
        let metrics = Metrics::new(Registry::new()).expect("no two have one name");
        metrics.region.fill(&whole_region(), &[]);
        let text = TextEncoder::new()
            .encode_to_string(&metrics.registry.gather())
            .expect("text");
        let lag = r#"meridian_shard_replica_lag_entries{node="2",shard="controller"} 2"#;
        assert!(text.contains(lag), "{text}");
        assert!(
            text.contains(r#"meridian_shard_term{shard="controller"} 3"#),
            "{text}"
        );
    }

    #[test]
    fn a_total_counted_elsewhere_never_falls() {
        let counter = IntCounter::new("a", "b").expect("a good name");
        for total in [3, 7, 7] {
            advance(&counter, total);
            assert_eq!(counter.get(), total);
        }
    }
}
