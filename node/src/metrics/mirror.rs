//! Metrics of the mirror between regions.

use std::sync::atomic::Ordering;

use meridian_shard::{MirrorCounters, MirrorStatus};
use meridian_types::ShardId;
use prometheus::{Counter, Gauge, GaugeVec, IntCounter, IntGauge, IntGaugeVec, Opts, Registry};

use super::{advance, registered, signed};

pub(super) struct MirrorMetrics {
    region_epoch: IntGauge,
    is_owner: IntGauge,
    draining: IntGauge,
    sequence: IntGaugeVec,
    lag_sequences: IntGaugeVec,
    lag_bytes: IntGaugeVec,
    staleness_seconds: GaugeVec,
    unacknowledged: IntGaugeVec,
    diverged: IntGaugeVec,
    refused: IntGaugeVec,
    links: IntGaugeVec,
    link_rtt_seconds: GaugeVec,
    link_sent_packets: IntGaugeVec,
    link_lost_packets: IntGaugeVec,
    frames_sent: IntCounter,
    frames_repeated: IntCounter,
    raw_sent_bytes: IntCounter,
    wire_sent_bytes: IntCounter,
    raw_received_bytes: IntCounter,
    wire_received_bytes: IntCounter,
    commands_applied: IntCounter,
    frames_refused: IntCounter,
    connects_failed: IntCounter,
    fallbacks: IntCounter,
    rejected: IntCounter,
    refusals: IntCounter,
    compression_seconds: Counter,
    age_seconds_max: Gauge,
}

impl MirrorMetrics {
    pub(super) fn new(registry: &Registry) -> prometheus::Result<Self> {
        let gauge = |name: &str, help: &str| registered(registry, IntGauge::with_opts(Opts::new(name, help)));
        let gauges = |name: &str, help: &str, labels: &[&str]| {
            registered(registry, IntGaugeVec::new(Opts::new(name, help), labels))
        };
        let seconds = |name: &str, help: &str, labels: &[&str]| {
            registered(registry, GaugeVec::new(Opts::new(name, help), labels))
        };
        let counter =
            |name: &str, help: &str| registered(registry, IntCounter::with_opts(Opts::new(name, help)));
        let compression_seconds = registered(
            registry,
            Counter::with_opts(Opts::new(
                "meridian_mirror_compression_seconds_total",
                "Processor time of compressing frames for other regions.",
            )),
        )?;
        let age_seconds_max = registered(
            registry,
            Gauge::with_opts(Opts::new(
                "meridian_mirror_staleness_seconds_max",
                "The greatest staleness of the logs led here; -1 while one does not know it, or none follows.",
            )),
        )?;
        let by_shard = ["shard"];
        let by_region = ["region"];
        Ok(Self {
            region_epoch: gauge(
                "meridian_mirror_region_epoch",
                "The region epoch in force, as this region knows.",
            )?,
            is_owner: gauge("meridian_mirror_owner", "1 while this region owns the topics.")?,
            draining: gauge(
                "meridian_mirror_draining",
                "1 while ownership is being moved to another region.",
            )?,
            sequence: gauges(
                "meridian_mirror_sequence",
                "Content commands that a log led here has applied; equal in all regions that are level.",
                &by_shard,
            )?,
            lag_sequences: gauges(
                "meridian_mirror_lag_sequences",
                "Content commands that a log led here lacks of its source; absent while the source is not heard.",
                &by_shard,
            )?,
            lag_bytes: gauges(
                "meridian_mirror_lag_bytes",
                "About how many bytes these have; absent while it is not known.",
                &by_shard,
            )?,
            staleness_seconds: seconds(
                "meridian_mirror_staleness_seconds",
                "How long ago a log led here had everything of its source; absent while that is not known.",
                &by_shard,
            )?,
            unacknowledged: gauges(
                "meridian_mirror_unacknowledged_sequences",
                "Content commands of a log led and owned here that another region has not acknowledged.",
                &["shard", "region"],
            )?,
            diverged: gauges(
                "meridian_mirror_diverged",
                "1 where the digest of a log led here differs from its source's.",
                &by_shard,
            )?,
            refused: gauges(
                "meridian_mirror_refused",
                "1 where the source gives a log led here nothing; `meridian mirror status` says why.",
                &by_shard,
            )?,
            links: gauges(
                "meridian_link_connections",
                "Links to another region that are up, by what they run over.",
                &["region", "transport"],
            )?,
            link_rtt_seconds: seconds(
                "meridian_link_rtt_seconds",
                "Time for a packet to another region and back; the greatest of its links.",
                &by_region,
            )?,
            link_sent_packets: gauges(
                "meridian_link_sent_packets",
                "Packets sent over the present links to another region; not known of TCP.",
                &by_region,
            )?,
            link_lost_packets: gauges(
                "meridian_link_lost_packets",
                "Packets of those that were lost.",
                &by_region,
            )?,
            frames_sent: counter(
                "meridian_mirror_frames_sent_total",
                "Frames of content sent to other regions.",
            )?,
            frames_repeated: counter(
                "meridian_mirror_frames_repeated_total",
                "Those of them that were sent twice.",
            )?,
            raw_sent_bytes: counter(
                "meridian_mirror_raw_sent_bytes_total",
                "Bytes of the commands in them.",
            )?,
            wire_sent_bytes: counter(
                "meridian_mirror_wire_sent_bytes_total",
                "Bytes of these frames as they were sent.",
            )?,
            raw_received_bytes: counter(
                "meridian_mirror_raw_received_bytes_total",
                "Bytes of the commands that came from other regions.",
            )?,
            wire_received_bytes: counter(
                "meridian_mirror_wire_received_bytes_total",
                "Bytes of the frames that carried them.",
            )?,
            commands_applied: counter(
                "meridian_mirror_commands_applied_total",
                "Content commands of other regions that were applied.",
            )?,
            frames_refused: counter(
                "meridian_mirror_frames_refused_total",
                "Frames that did not fit to what came before, or whose body was wrong.",
            )?,
            connects_failed: counter(
                "meridian_link_connects_failed_total",
                "Attempts to open a link to another region that failed.",
            )?,
            fallbacks: counter(
                "meridian_link_fallbacks_total",
                "Links opened over TCP because QUIC did not come up.",
            )?,
            rejected: counter(
                "meridian_link_rejected_total",
                "Connections from other regions that were not let in.",
            )?,
            refusals: counter(
                "meridian_mirror_refusals_total",
                "Logs that were refused to other regions.",
            )?,
            compression_seconds,
            age_seconds_max,
        })
    }

    pub(super) fn fill(&self, status: &MirrorStatus, counters: Option<&MirrorCounters>) {
        // What is led, followed or linked elsewhere now is not known here.
        for gauges in [
            &self.sequence,
            &self.lag_sequences,
            &self.lag_bytes,
            &self.unacknowledged,
            &self.diverged,
            &self.refused,
            &self.links,
            &self.link_sent_packets,
            &self.link_lost_packets,
        ] {
            gauges.reset();
        }
        self.staleness_seconds.reset();
        self.link_rtt_seconds.reset();
        self.region_epoch.set(status.region_epoch.0.into());
        self.is_owner.set((status.owner == status.number).into());
        self.draining.set(status.draining.is_some().into());
        let mut oldest = None;
        let mut knows_all = true;
        for shard in &status.shards {
            let name = match shard.shard {
                ShardId::CONTROLLER => "controller".to_owned(),
                shard => shard.to_string(),
            };
            let labels = [name.as_str()];
            self.sequence
                .with_label_values(&labels)
                .set(signed(shard.sequence));
            if let Some(source) = shard.source_sequence {
                let lag = source.saturating_sub(shard.sequence);
                self.lag_sequences.with_label_values(&labels).set(signed(lag));
            }
            if let Some(bytes) = shard.lag_bytes {
                self.lag_bytes.with_label_values(&labels).set(signed(bytes));
            }
            if let Some(age) = shard.staleness {
                self.staleness_seconds
                    .with_label_values(&labels)
                    .set(age.as_secs_f64());
                oldest = oldest.max(Some(age));
            }
            knows_all &= shard.follows.is_none() || shard.staleness.is_some();
            self.diverged
                .with_label_values(&labels)
                .set(shard.diverged_at.is_some().into());
            self.refused
                .with_label_values(&labels)
                .set(shard.refusal.is_some().into());
            for (region, held) in &shard.acks {
                let lag = shard.sequence.saturating_sub(*held);
                let region = region.to_string();
                self.unacknowledged
                    .with_label_values(&[name.as_str(), region.as_str()])
                    .set(signed(lag));
            }
        }
        let oldest = oldest.filter(|_| knows_all).map_or(-1.0, |age| age.as_secs_f64());
        self.age_seconds_max.set(oldest);
        for link in &status.links {
            let region = link.region.to_string();
            if let Some(transport) = link.transport {
                self.links.with_label_values(&[region.as_str(), transport]).inc();
            }
            if let Some(rtt) = link.rtt {
                let gauge = self.link_rtt_seconds.with_label_values(&[region.as_str()]);
                gauge.set(gauge.get().max(rtt.as_secs_f64()));
            }
            let labels = [region.as_str()];
            self.link_sent_packets
                .with_label_values(&labels)
                .add(signed(link.sent_packets));
            self.link_lost_packets
                .with_label_values(&labels)
                .add(signed(link.lost_packets));
        }
        let Some(counters) = counters else { return };
        let total = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
        for (to, from) in [
            (&self.frames_sent, &counters.frames_sent),
            (&self.frames_repeated, &counters.frames_repeated),
            (&self.raw_sent_bytes, &counters.raw_bytes_sent),
            (&self.wire_sent_bytes, &counters.wire_bytes_sent),
            (&self.raw_received_bytes, &counters.raw_bytes_received),
            (&self.wire_received_bytes, &counters.wire_bytes_received),
            (&self.commands_applied, &counters.commands_applied),
            (&self.frames_refused, &counters.frames_refused),
            (&self.connects_failed, &counters.connects_failed),
            (&self.fallbacks, &counters.fallbacks),
            (&self.rejected, &counters.rejected),
            (&self.refusals, &counters.refusals_sent),
        ] {
            advance(to, total(from));
        }
        let seconds = total(&counters.compression_nanos) as f64 / 1e9;
        self.compression_seconds
            .inc_by((seconds - self.compression_seconds.get()).max(0.0));
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::time::Duration;

    use meridian_shard::{MirrorLinkStatus, MirrorRole, MirrorShardStatus};
    use meridian_types::{RegionEpoch, RegionNumber};

    use super::*;

    pub(in crate::metrics) fn status(source_sequence: Option<u64>) -> MirrorStatus {
        let shard = MirrorShardStatus {
            shard: ShardId(3),
            role: MirrorRole::Mirror,
            region_epoch: RegionEpoch(2),
            sequence: 90,
            digest: 1,
            follows: Some(RegionNumber(0)),
            source_sequence,
            lag_bytes: Some(7),
            staleness: source_sequence.map(|_| Duration::from_millis(250)),
            refusal: None,
            diverged_at: None,
            acks: vec![(RegionNumber(2), 80)],
        };
        let link = MirrorLinkStatus {
            region: RegionNumber(0),
            node: None,
            is_ours: true,
            address: "there:1".to_owned(),
            transport: Some("quic"),
            state: String::new(),
            rtt: Some(Duration::from_millis(80)),
            sent_bytes: 1,
            received_bytes: 1,
            sent_packets: 1,
            lost_packets: 1,
            frame_bytes: 1,
            compressed_bytes: 1,
            compression_time: Duration::ZERO,
            bytes_per_second_max: None,
            lag_sequences: source_sequence.map(|_| 10),
            lag_bytes: Some(7),
            staleness: None,
        };
        MirrorStatus {
            number: RegionNumber(1),
            is_geo: true,
            region_epoch: RegionEpoch(2),
            owner: RegionNumber(0),
            draining: None,
            regions: Vec::new(),
            links: vec![link],
            shards: vec![shard],
        }
    }

    #[test]
    fn a_lag_that_is_not_known_is_not_zero() {
        let registry = Registry::new();
        let metrics = MirrorMetrics::new(&registry).expect("no two have one name");
        metrics.fill(&status(Some(100)), None);
        let text = || {
            prometheus::TextEncoder::new()
                .encode_to_string(&registry.gather())
                .expect("text")
        };
        assert!(
            text().contains(r#"meridian_mirror_lag_sequences{shard="3"} 10"#),
            "{}",
            text()
        );
        assert!(
            text().contains("meridian_mirror_staleness_seconds_max 0.25"),
            "{}",
            text()
        );
        metrics.fill(&status(None), None);
        assert!(!text().contains("meridian_mirror_lag_sequences{"), "{}", text());
        assert!(
            text().contains("meridian_mirror_staleness_seconds_max -1"),
            "{}",
            text()
        );
    }
}
