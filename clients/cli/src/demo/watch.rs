//! Looks at the nodes, the load and the links of a demo, and draws its picture.

use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::time::Duration;

use meridian_wan_relay::Direction;
use tokio::time::Instant;

use super::network::ask;
use super::picture::{LoadPicture, TierPicture};
use super::stage::{RegionStage, Stage};

/// A node that does not answer for so long is looked at again later.
const ANSWER_TIMEOUT: Duration = Duration::from_millis(800);

/// Remembers what it needs to tell rates.
#[derive(Debug, Default)]
pub(super) struct Watch {
    looked_at: Option<Instant>,
    loads: Vec<Seen>,
    link_bytes: Vec<u64>,
}

/// What a load had done at the last look.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    produced: u64,
    consumed: u64,
    delay_ms: u64,
}

/// What the metrics of the nodes of a region say together.
#[derive(Clone, Debug, Default)]
struct RegionMetrics {
    tier: TierPicture,
    /// For each node; `None` for one that did not answer.
    leads: Vec<Option<u64>>,
}

impl Watch {
    /// Looks at everything and puts it into the picture of `stage`.
    pub(super) async fn look(&mut self, stage: &Stage) {
        let metrics = futures::future::join_all(stage.regions.iter().map(look_at)).await;
        let now = Instant::now();
        let since = self.looked_at.replace(now).map(|before| now - before);
        self.loads.resize(stage.regions.len(), Seen::default());
        self.link_bytes.resize(stage.links.len(), 0);
        let mut news = Vec::new();
        stage.refresh();
        let mut picture = stage.picture.lock();
        for (index, region) in stage.regions.iter().enumerate() {
            let shown = &mut picture.regions[index];
            shown.tier = metrics[index].tier;
            for (place, node) in shown.nodes.iter_mut().enumerate() {
                node.leads = metrics[index].leads[place];
            }
            let load = &region.load;
            let seen = Seen {
                produced: load.produced.load(Ordering::Relaxed),
                consumed: load.consumed.load(Ordering::Relaxed),
                delay_ms: load.delay_ms.load(Ordering::Relaxed),
            };
            let failed = load.failed.load(Ordering::Relaxed);
            shown.load = rates(
                seen,
                std::mem::replace(&mut self.loads[index], seen),
                since,
                failed,
            );
            news.extend(load.take_trouble());
        }
        for (index, link) in stage.links.iter().enumerate() {
            let shown = &mut picture.links[index];
            shown.is_cut = link.link.is_cut(Direction::Forward) || link.link.is_cut(Direction::Backward);
            let directions = [Direction::Forward, Direction::Backward];
            shown.bytes = directions
                .map(|direction| link.link.counters(direction).delivered_bytes)
                .iter()
                .sum();
            let before = std::mem::replace(&mut self.link_bytes[index], shown.bytes);
            shown.bytes_per_second = per_second(shown.bytes - before, since);
        }
        drop(picture);
        for text in news {
            stage.tell(&text);
        }
    }
}

fn per_second(count: u64, since: Option<Duration>) -> f64 {
    match since {
        Some(since) if since > Duration::ZERO => count as f64 / since.as_secs_f64(),
        _ => 0.0,
    }
}

fn rates(now: Seen, before: Seen, since: Option<Duration>, failed: u64) -> LoadPicture {
    let consumed = now.consumed - before.consumed;
    LoadPicture {
        produced: now.produced,
        failed,
        consumed: now.consumed,
        produced_per_second: per_second(now.produced - before.produced, since),
        consumed_per_second: per_second(consumed, since),
        delay_ms: (consumed > 0).then(|| (now.delay_ms - before.delay_ms) as f64 / consumed as f64),
    }
}

async fn look_at(region: &RegionStage) -> RegionMetrics {
    let answers = region.plan.nodes.iter().map(|node| metrics(node.admin));
    let answers = futures::future::join_all(answers).await;
    let mut seen = RegionMetrics::default();
    for answer in &answers {
        let value = |name: &str| answer.as_deref().map_or(0, |text| sum(text, name) as u64);
        let tier = &mut seen.tier;
        tier.objects += value("meridian_tier_objects");
        tier.object_bytes += value("meridian_tier_object_bytes");
        tier.record_bytes += value("meridian_tier_record_bytes");
        tier.waiting_bytes += value("meridian_tier_waiting_bytes");
        let leads = answer
            .as_deref()
            .map(|text| sum(text, "meridian_shards_led") as u64);
        seen.leads.push(leads);
    }
    seen
}

async fn metrics(admin: SocketAddr) -> Option<String> {
    match ask(admin, "/metrics", None, ANSWER_TIMEOUT).await {
        Ok((200, text)) => Some(text),
        _ => None,
    }
}

/// The sum of a metric over all its labels.
fn sum(text: &str, name: &str) -> f64 {
    let values = text.lines().filter_map(|line| {
        let rest = line.strip_prefix(name)?;
        let value = match rest.strip_prefix('{') {
            Some(labels) => labels.split_once("} ")?.1,
            None => rest.strip_prefix(' ')?,
        };
        value.parse::<f64>().ok()
    });
    values.sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_metric_is_summed_over_its_labels_and_not_over_others() {
        let text = "# HELP a_b help\na_b{shard=\"0\"} 3\na_b{shard=\"1\"} 4\na_bc 100\na_b_total 50\n";
        assert_eq!(sum(text, "a_b"), 7.0);
        assert_eq!(sum(text, "a_bc"), 100.0);
        assert_eq!(sum(text, "none"), 0.0);
    }

    #[test]
    fn rates_are_over_the_time_between_two_looks() {
        let before = Seen {
            produced: 10,
            consumed: 20,
            delay_ms: 100,
        };
        let now = Seen {
            produced: 30,
            consumed: 24,
            delay_ms: 120,
        };
        let shown = rates(now, before, Some(Duration::from_secs(2)), 1);
        assert_eq!(
            (shown.produced_per_second, shown.consumed_per_second),
            (10.0, 2.0)
        );
        assert_eq!((shown.delay_ms, shown.failed), (Some(5.0), 1));
        assert_eq!(rates(now, now, Some(Duration::from_secs(2)), 1).delay_ms, None);
        assert_eq!(rates(now, before, None, 1).produced_per_second, 0.0);
    }
}
