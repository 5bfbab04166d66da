//! Measures how much a link carries over a WAN: two regions in memory, and the relay between them.
//!
//! `cargo run --release -p meridian-geo-mirror --example wan -- RTT_MS LOSS_PERCENT RATE_MB_PER_S [SECONDS]
//! [CONNECTIONS] [bbr|cubic|newreno] [quic|tcp] [RTT_MS_BEFORE]`. A rate of 0 is a loopback without relay. Counts bytes of
//! commands that the mirror has applied, after four seconds of warming up; they do not compress. RTT_MS_BEFORE is the round trip
//! while the link comes up and for two seconds more: paths change.

use std::net::SocketAddr;
use std::num::NonZeroU64;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use meridian_geo_mirror::{
    CongestionControl, Counters, Cursor, Entries, GeoListener, GeoTls, Hello, Links, OsNetwork, PeerRegion,
    Reader, Refusal, Settings, Sink, SinkError, Source, TransportSetting, Watermark,
};
use meridian_types::{RegionEpoch, RegionNumber, ShardId, TimestampMs};
use meridian_wan_relay::{Conditions, Direction, Probability, Relay};
use rustix::time::{ClockId, clock_gettime};
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

const COMMAND_BYTES: usize = 64 << 10;
/// Before the bottleneck.
const QUEUE: Duration = Duration::from_millis(50);
const WARM: Duration = Duration::from_secs(4);

/// Has always more of what nobody can compress, and takes everything.
struct Side {
    number: RegionNumber,
    command: Bytes,
    card: watch::Sender<Bytes>,
    applied: AtomicU64,
}

struct Endless {
    command: Bytes,
    next: u64,
}

impl Reader for Endless {
    fn next(&mut self, bytes_max: usize) -> BoxFuture<'_, Result<Entries, Refusal>> {
        let count = (bytes_max / COMMAND_BYTES).max(1);
        let first_sequence = self.next;
        self.next += count as u64;
        let commands = vec![self.command.clone(); count];
        let entries = Entries {
            region_epoch: RegionEpoch(0),
            first_sequence,
            commands,
            digest: 0,
        };
        async move { Ok(entries) }.boxed()
    }
}

impl Source for Side {
    fn hello(&self) -> Hello {
        Hello {
            cluster_id: "wan".to_owned(),
            region: format!("region-{}", self.number),
            number: self.number,
            node: self.number.node(1).expect("in range"),
            shards: 16,
            region_epoch: RegionEpoch(0),
            feature_level: 4,
        }
    }

    fn card(&self) -> watch::Receiver<Bytes> {
        self.card.subscribe()
    }

    fn open(&self, _: ShardId, cursor: Cursor) -> BoxFuture<'_, Result<Box<dyn Reader>, Refusal>> {
        let reader = Endless {
            command: self.command.clone(),
            next: cursor.sequence,
        };
        async move { Ok(Box::new(reader) as Box<dyn Reader>) }.boxed()
    }

    fn watermark(&self, _: ShardId) -> Option<Watermark> {
        Some(Watermark {
            sequence: 0,
            closed_at: TimestampMs(0),
        })
    }

    fn acknowledged(&self, _: RegionNumber, _: ShardId, _: u64) {}
}

impl Sink for Side {
    fn cursor(&self, _: ShardId) -> BoxFuture<'_, Result<Cursor, SinkError>> {
        let sequence = self.applied.load(Ordering::Relaxed);
        let cursor = Cursor {
            sequence,
            digest: 0,
            lineage: Vec::new(),
        };
        async move { Ok(cursor) }.boxed()
    }

    fn apply(&self, _: ShardId, entries: Entries) -> BoxFuture<'_, Result<u64, SinkError>> {
        self.applied.store(entries.end_sequence(), Ordering::Relaxed);
        async move { Ok(entries.end_sequence()) }.boxed()
    }

    fn watermark(&self, _: ShardId, _: Watermark) {}

    fn card(&self, _: RegionNumber, _: Bytes) {}

    fn refused(&self, shard: ShardId, refusal: Refusal) {
        eprintln!("shard {shard}: {refusal}");
    }
}

fn processor_seconds() -> f64 {
    let now = clock_gettime(ClockId::ProcessCPUTime);
    now.tv_sec as f64 + now.tv_nsec as f64 / 1e9
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let number = |at: usize, default: f64| words.get(at).map_or(Ok(default), |word| word.parse::<f64>());
    let (rtt_ms, loss, rate, seconds) = (
        number(0, 100.0)?,
        number(1, 0.0)?,
        number(2, 0.0)?,
        number(3, 8.0)?,
    );
    let connections = number(4, 4.0)? as usize;
    let word = |at: usize| words.get(at).map_or("", String::as_str);
    let congestion = match word(5) {
        "cubic" => CongestionControl::Cubic,
        "newreno" => CongestionControl::NewReno,
        _ => CongestionControl::Bbr,
    };
    let rtt_before_ms = number(7, rtt_ms)?;
    let transport = match word(6) {
        "tcp" => TransportSetting::Tcp,
        _ => TransportSetting::Quic,
    };

    let side = |n: u16| {
        let mut state = 1_u64;
        let command: Vec<u8> = (0..COMMAND_BYTES)
            .map(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                (state >> 33) as u8
            })
            .collect();
        Arc::new(Side {
            number: RegionNumber(n),
            command: command.into(),
            card: watch::Sender::new(Bytes::from_static(b"card")),
            applied: AtomicU64::new(0),
        })
    };
    let settings = |n: u8| Settings {
        connections,
        congestion,
        transport,
        compression: meridian_geo_mirror::CompressionSetting::Off,
        ..Settings::new([n; 32])
    };
    let (owner, mirror) = (side(0), side(1));
    let network = Arc::new(OsNetwork);
    let tls = GeoTls::ephemeral()?;
    let loopback: SocketAddr = "127.0.0.1:0".parse()?;
    let counters: Arc<Counters> = Arc::default();
    let listener = GeoListener::start(
        settings(0),
        tls.clone(),
        network.clone(),
        loopback,
        owner.clone(),
        owner,
        Arc::default(),
    )
    .await?;
    let relay = Relay::start()?;
    let mut conditions = Conditions::delayed(Duration::from_secs_f64(rtt_before_ms / 2000.0));
    conditions.loss.share = Probability::new(loss / 100.0).ok_or("a loss between 0 and 100")?;
    conditions.rate_bytes_per_second = NonZeroU64::new((rate * 1e6) as u64);
    conditions.queue_bytes_max = (rate * 1e6 * QUEUE.as_secs_f64()) as usize;
    let link = relay.link(7, conditions);
    let port = relay.open(loopback, listener.local_addr(), &link)?;
    let address = if rate > 0.0 {
        port.address()
    } else {
        listener.local_addr()
    };

    let links = Links::start(
        settings(1),
        tls,
        network,
        mirror.clone(),
        mirror.clone(),
        counters,
    );
    links.set_peers(vec![PeerRegion {
        number: RegionNumber(0),
        name: None,
        addresses: vec![address.to_string()],
    }]);
    links.follow(ShardId(0), RegionNumber(0), &address.to_string(), 1);
    if rtt_before_ms != rtt_ms {
        sleep(Duration::from_secs(2)).await;
        conditions.delay = Duration::from_secs_f64(rtt_ms / 2000.0);
        link.set(Direction::Forward, conditions);
        link.set(Direction::Backward, conditions);
    }
    sleep(WARM).await;
    let carried = || link.counters(Direction::Backward);
    let (started, before, busy, sent_before) = (
        Instant::now(),
        mirror.applied.load(Ordering::Relaxed),
        processor_seconds(),
        carried(),
    );
    let mut until_now = before;
    for _ in 0..seconds as u64 {
        sleep(Duration::from_secs(1)).await;
        let applied = mirror.applied.load(Ordering::Relaxed);
        let bytes = (applied - until_now) as usize * COMMAND_BYTES;
        until_now = applied;
        eprint!("{:.1} ", bytes as f64 / 1e6);
    }
    eprintln!("MB in each second");
    let commands = mirror.applied.load(Ordering::Relaxed) - before;
    let gigabytes = (commands as usize * COMMAND_BYTES) as f64 / 1e9;
    let (elapsed, busy) = (started.elapsed().as_secs_f64(), processor_seconds() - busy);
    let sent = carried();
    println!(
        "{rtt_ms} ms, {loss} % loss, {rate} MB/s, {connections} x {congestion:?} {transport:?}: {:.1} MB/s applied, \
         {:.3} bytes sent for each, {} packets lost, {} met a full queue, held {:.0} ms, {:.2} processor seconds per GB with both ends and the relay",
        gigabytes * 1000.0 / elapsed,
        (sent.received_bytes - sent_before.received_bytes) as f64 / 1e9 / gigabytes,
        sent.lost_packets - sent_before.lost_packets,
        sent.queue_full_packets - sent_before.queue_full_packets,
        (sent.held_total - sent_before.held_total).as_secs_f64() * 1e3
            / (sent.delivered_packets - sent_before.delivered_packets).max(1) as f64,
        busy / gigabytes
    );
    for link in links.status() {
        if let Some(trouble) = link.trouble {
            println!("trouble: {trouble}");
        }
    }
    Ok(())
}
