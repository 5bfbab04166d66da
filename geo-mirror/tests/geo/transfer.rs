//! What is sent arrives: once, in order, bit for bit, and no faster than allowed.

use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use meridian_geo_mirror::{
    CompressionSetting, FollowState, GeoTls, OsNetwork, Settings, Transport, TransportSetting,
};
use meridian_types::ShardId;
use tokio::time::{Instant, sleep};

use crate::harness::{Node, commands, settings, until};

async fn pair(settings: Settings) -> (Node, Node) {
    let start = |number| {
        let tls = GeoTls::ephemeral().expect("TLS");
        Node::start_with(number, settings.clone(), tls, std::sync::Arc::new(OsNetwork))
    };
    (start(0).await, start(1).await)
}

async fn everything_arrives(transport: TransportSetting, expected: Transport) {
    let settings = Settings {
        transport,
        frame_bytes_max: 256 << 10,
        ..settings()
    };
    let (owner, mirror) = pair(settings).await;
    for shard in 0..4 {
        owner.region.append(
            ShardId(shard),
            commands(shard.into(), 400, 10_000, shard % 2 == 0),
        );
    }
    // One command larger than any frame is meant to be, and one of nothing.
    owner
        .region
        .append(ShardId(3), [Bytes::from(vec![7; 3 << 20]), Bytes::new()]);
    mirror.follow(&owner, 0..4);
    for shard in 0..4 {
        mirror.caught_up(&owner, shard).await;
    }
    // What comes later comes too, and quickly: a machine that stands still spoils one try, not all.
    let mut took = Vec::new();
    for seed in 9..14 {
        let started = Instant::now();
        owner.region.append(ShardId(1), commands(seed, 1, 100, true));
        mirror.caught_up(&owner, 1).await;
        took.push(started.elapsed());
    }
    assert!(took.iter().any(|took| *took < Duration::from_secs(1)), "{took:?}");
    until("everything is acknowledged", || {
        (0..4).all(|shard| {
            let acknowledged = owner.region.acknowledged.lock();
            acknowledged
                .get(&(mirror.region.number(), ShardId(shard)))
                .copied()
                == Some(owner.region.sequence(ShardId(shard)))
        })
    })
    .await;
    let mut link = mirror.link();
    until("the lag is known and small", || {
        link = mirror.link();
        let is_small = |lag: Duration| !lag.is_zero() && lag < Duration::from_secs(2);
        link.shards.len() == 4
            && link
                .shards
                .iter()
                .all(|shard| shard.lag_sequences == Some(0) && shard.lag.is_some_and(is_small))
    })
    .await;
    let status = link.transport.expect("connected");
    assert_eq!(status.transport, expected);
    assert!(!status.is_authenticated);
    assert!(status.rtt.is_some_and(|rtt| !rtt.is_zero()), "{status:?}");
    for shard in link.shards {
        assert_eq!(shard.state, FollowState::Following);
    }
    until("the source's status is there", || {
        owner
            .listener
            .status()
            .iter()
            .any(|session| session.shards.len() == 4)
    })
    .await;
    let session = owner.listener.status().remove(0);
    assert_eq!(session.region, mirror.region.number());
    // Half of it was text, the large command too.
    assert!(
        session.wire_bytes_sent * 4 < session.raw_bytes_sent * 3,
        "{session:?}"
    );
    assert!(session.compression_time > Duration::ZERO);
    assert_eq!(mirror.counters.frames_refused.load(Ordering::Relaxed), 0);
    // Small ones may come twice over QUIC; over TCP nothing does.
    let dropped = mirror.counters.frames_dropped.load(Ordering::Relaxed);
    let repeated = owner.counters.frames_repeated.load(Ordering::Relaxed);
    assert!(dropped <= repeated, "{dropped} dropped, {repeated} sent twice");
    assert!(expected == Transport::Quic || repeated == 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_arrives_once_in_order_and_bit_for_bit_over_quic() {
    everything_arrives(TransportSetting::Auto, Transport::Quic).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_arrives_once_in_order_and_bit_for_bit_over_tcp() {
    everything_arrives(TransportSetting::Tcp, Transport::Tcp).await;
}

/// Bytes per second that reach the mirror.
async fn rate(mirror: &Node, shard: ShardId) -> f64 {
    // The burst, and what is under way, do not count.
    sleep(Duration::from_millis(400)).await;
    let bytes = || -> usize { mirror.region.commands(shard).iter().map(Bytes::len).sum() };
    let (started, before) = (Instant::now(), bytes());
    sleep(Duration::from_millis(1500)).await;
    (bytes() - before) as f64 / started.elapsed().as_secs_f64()
}

/// Whether the rate is what is allowed. A machine that stands still spoils one measurement, not all of them.
async fn keeps(owner: &Node, mirror: &Node, shard: ShardId, limit: f64) {
    let mut rates = Vec::new();
    for seed in 2..8 {
        let rate = rate(mirror, shard).await;
        if (rate / limit - 1.0).abs() < 0.1 {
            return;
        }
        rates.push(rate);
        // As much as the next measurement takes.
        owner.region.append(shard, commands(seed, 2000, 4000, true));
    }
    panic!("{rates:?} of {limit}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_limit_is_kept_within_a_tenth_and_changed_while_it_runs() {
    let settings = Settings {
        compression: CompressionSetting::Off,
        ..settings()
    };
    let (owner, mirror) = pair(settings).await;
    let shard = ShardId(0);
    owner.region.append(shard, commands(1, 8000, 4000, true));
    owner.listener.throttle(mirror.region.number(), Some(2_000_000));
    mirror.follow(&owner, [0]);
    until("it begins", || mirror.region.sequence(shard) > 0).await;
    keeps(&owner, &mirror, shard, 2e6).await;
    // The mirror may ask for less.
    mirror.links.throttle(owner.region.number(), Some(1_000_000));
    keeps(&owner, &mirror, shard, 1e6).await;
    assert_eq!(owner.listener.status()[0].limit_bytes_per_second, Some(1_000_000));
    mirror.links.throttle(owner.region.number(), None);
    owner.listener.throttle(mirror.region.number(), Some(4_000_000));
    keeps(&owner, &mirror, shard, 4e6).await;
    owner.listener.throttle(mirror.region.number(), None);
    mirror.caught_up(&owner, 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_sink_bounds_what_is_under_way() {
    let settings = Settings {
        compression: CompressionSetting::Off,
        frame_bytes_max: 64 << 10,
        shard_window_bytes: 1 << 20,
        ..settings()
    };
    let (owner, mirror) = pair(settings).await;
    mirror.region.is_sink_stuck.store(true, Ordering::Relaxed);
    owner.region.append(ShardId(0), commands(1, 2000, 4000, true));
    owner.region.append(ShardId(1), commands(2, 10, 100, true));
    mirror.follow(&owner, [0, 1]);
    let read = || owner.region.bytes_read.load(Ordering::Relaxed);
    until("the window fills", || read() > 900 << 10).await;
    sleep(Duration::from_millis(300)).await;
    // The window, and one frame read ahead.
    assert!(read() < (1 << 20) + (128 << 10), "{}", read());
    mirror.region.is_sink_stuck.store(false, Ordering::Relaxed);
    mirror.caught_up(&owner, 0).await;
    mirror.caught_up(&owner, 1).await;
}
