//! A node of the simulated region: its disks, its clock, and the process that runs on them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use meridian_journal::inspect::{self, Finding};
use meridian_journal::{FaultyDisk, Journal, JournalSettings, RoundOutcome, Writer};
use meridian_shard::{
    CompressionSetting, GeoSettings, GeoTls, GeoTlsError as TlsError, HostPort, LinkSettings, PeerSettings,
    Region, RegionParts, RegionSettings, ShardSettings, SwitchOverError,
};
use meridian_types::{NodeId, RegionEpoch, RegionNumber, TimestampMs, Uuid};
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio::sync::oneshot;

use crate::bucket::SimBucket;
use crate::geo_network::SimGeoNetwork;
use crate::network::SimNet;

/// Where every node listens for the others.
const PEER_PORT: u16 = 9190;
/// Where every node listens for other regions.
const GEO_PORT: u16 = 9191;
/// Wall clocks start here: 2026-01-01.
const EPOCH_MS: i64 = 1_767_225_600_000;
/// A journal file begins with what is known of the files before it.
const FIRST_FRAMES_AT: u64 = 4096;
/// What the journal of a node aims at that has a bucket.
const LOCAL_BYTES_MAX: u64 = 512 << 10;
/// An idle journal looks for work this often.
const ROUND_INTERVAL: Duration = Duration::from_millis(1);

/// Where a node belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Counted from 1 over all regions.
    pub index: u32,
    /// Its region.
    pub region: RegionNumber,
    /// Regions in all.
    pub regions: u16,
    /// Nodes of each region, which found it together.
    pub nodes: u32,
}

impl Place {
    /// The places of all nodes.
    pub fn all(regions: u16, nodes: u32) -> impl Iterator<Item = Self> {
        (0..regions).flat_map(move |region| {
            (1..=nodes).map(move |local| Self {
                index: u32::from(region) * nodes + local,
                region: RegionNumber(region),
                regions,
                nodes,
            })
        })
    }

    /// The indices of a region's nodes.
    pub fn nodes_of(region: RegionNumber, nodes: u32) -> std::ops::RangeInclusive<u32> {
        let before = u32::from(region.0) * nodes;
        before + 1..=before + nodes
    }

    /// Under which id the others know it.
    fn id(self) -> NodeId {
        let local = self.index - u32::from(self.region.0) * self.nodes;
        self.region.node(local).expect("few nodes and regions")
    }
}

/// What outlives the node's processes, and the process that runs at present.
pub struct Node {
    /// Its id.
    pub id: NodeId,
    /// Where it belongs.
    pub place: Place,
    /// Its host in the simulated network.
    pub host: String,
    /// The journal's disk.
    pub journal: FaultyDisk,
    /// The checkpoints' disk.
    pub checkpoints: FaultyDisk,
    incarnation: Uuid,
    seed: u64,
    /// By how much faults last longer than usual.
    stretch: u32,
    /// Processes started so far: each has randomness of its own.
    lives: AtomicU64,
    /// How far its wall clock is off.
    pub clock_offset_ms: AtomicI64,
    /// A round of the journal takes so much longer.
    pub disk_delay_ms: AtomicU64,
    /// Bits of its journal were changed behind its back.
    pub has_rotted: AtomicBool,
    /// The region's bucket, if it has one.
    bucket: Option<SimBucket>,
    region: Mutex<Option<Region>>,
    /// Switchovers that are asked of the process.
    switchovers: Mutex<Option<UnboundedSender<AskedSwitchover>>>,
}

/// A switchover that is asked of a process: where to, how long it may take, and where the answer goes.
type AskedSwitchover = (RegionNumber, Duration, oneshot::Sender<SwitchoverAnswer>);

/// What came of asking for a switchover.
pub(crate) type SwitchoverAnswer = Result<RegionEpoch, SwitchOverError>;

/// The host's name of a node.
pub fn host(node: u32) -> String {
    format!("node-{node}")
}

/// The name of one of several regions.
pub(crate) fn region_name(region: RegionNumber) -> String {
    format!("sim-{region}")
}

impl Node {
    /// A node with empty disks.
    pub fn new(place: Place, seed: u64, stretch: u32, bucket: Option<SimBucket>) -> Self {
        let own = seed
            .wrapping_mul(0x9e37_79b9_7f4a_7c15)
            .wrapping_add(u64::from(place.index));
        Self {
            id: place.id(),
            place,
            host: host(place.index),
            journal: FaultyDisk::seeded(own ^ 1),
            checkpoints: FaultyDisk::seeded(own ^ 2),
            incarnation: Uuid::from_u128(u128::from(own)),
            seed: own,
            stretch,
            lives: AtomicU64::new(0),
            clock_offset_ms: AtomicI64::new(0),
            disk_delay_ms: AtomicU64::new(0),
            has_rotted: AtomicBool::new(false),
            bucket,
            region: Mutex::new(None),
            switchovers: Mutex::new(None),
        }
    }

    /// Asks the process for a switchover, in the process: every host has a clock of its own. `None`: it does not serve, or
    /// ends over it.
    pub(crate) async fn switch_over(&self, to: RegionNumber, limit: Duration) -> Option<SwitchoverAnswer> {
        let (answer, answered) = oneshot::channel();
        let asked = self.switchovers.lock().clone()?;
        asked.send((to, limit, answer)).ok()?;
        answered.await.ok()
    }

    /// The region as this node has it; `None` while no process serves.
    pub fn region(&self) -> Option<Region> {
        self.region.lock().clone()
    }

    /// The process ends at once. What it wrote stays visible.
    pub fn kill(&self) {
        *self.region.lock() = None;
        *self.switchovers.lock() = None;
        self.journal.kill();
        self.checkpoints.kill();
    }

    /// The power goes: what was not synced survives in part.
    pub fn power_cut(&self) {
        *self.region.lock() = None;
        *self.switchovers.lock() = None;
        self.journal.power_cut();
        self.checkpoints.power_cut();
    }

    /// Flips a bit of the journal, at a share of its bytes in a million. Only while no process runs.
    pub fn rot(&self, at_millionths: u64) {
        let Ok(files) = self.journal.mount().list() else {
            return;
        };
        // Half of the damage goes where most of the work is done at a restart: into the newest file.
        if at_millionths % 2 == 1 {
            if let Some((newest, synced_to)) = self.newest_file()
                && synced_to > FIRST_FRAMES_AT
            {
                let at = FIRST_FRAMES_AT + (synced_to - FIRST_FRAMES_AT) * at_millionths / 1_000_000;
                self.has_rotted.store(true, Ordering::Relaxed);
                self.journal.rot(&newest, at, 1);
            }
            return;
        }
        let all = files.iter().map(|file| file.bytes).sum::<u64>();
        let mut at = all * at_millionths / 1_000_000;
        for file in files {
            if at < file.bytes {
                self.has_rotted.store(true, Ordering::Relaxed);
                self.journal.rot(&file.name, at, 1 << (at % 8));
                return;
            }
            at -= file.bytes;
        }
    }

    /// The journal's newest file, and up to where its frames prove that it was synced. What is behind nobody can tell
    /// from a torn write.
    fn newest_file(&self) -> Option<(String, u64)> {
        let mut newest = None;
        let mut look = |finding| match finding {
            Finding::File { name, .. } => newest = Some((name, 0)),
            Finding::Frame(frame) => {
                if let Some((_, synced_to)) = &mut newest {
                    *synced_to = u64::from(frame.synced_to).max(*synced_to);
                }
            }
            Finding::Problem(_) => {}
        };
        inspect::walk(&*self.journal.image().mount(), &mut look, &mut |_| {}).ok()?;
        newest
    }

    /// One life of the process, until the host is crashed.
    pub async fn live(self: Arc<Self>) -> turmoil::Result {
        let life = self.lives.fetch_add(1, Ordering::Relaxed);
        let seed = self.seed ^ life.rotate_left(32);
        // With a bucket so little that most records are there alone before the run is over.
        let (file_bytes, bytes_max) = match &self.bucket {
            None => (256 << 10, 4 << 20),
            Some(_) => (64 << 10, LOCAL_BYTES_MAX),
        };
        let journal = JournalSettings {
            file_bytes,
            bytes_max,
            cache_bytes: 64 << 10,
            queue_bytes_max: 4 << 20,
            ..JournalSettings::new(seed)
        };
        let (journal, writer) = Journal::open(self.journal.mount(), journal)?;
        tokio::spawn(Arc::clone(&self).write(writer));
        let generator = Mutex::new(StdRng::seed_from_u64(seed));
        let random = move || {
            let mut generator = generator.lock();
            u128::from(generator.next_u64()) << 64 | u128::from(generator.next_u64())
        };
        let clock = Arc::clone(&self);
        let now = move || {
            let simulated = i64::try_from(turmoil::sim_elapsed().unwrap_or_default().as_millis());
            let offset = clock.clock_offset_ms.load(Ordering::Relaxed);
            TimestampMs(EPOCH_MS + simulated.unwrap_or_default() + offset)
        };
        let parts = RegionParts {
            journal,
            checkpoints: self.checkpoints.mount(),
            net: Arc::new(SimNet),
            clock: Arc::new(now),
            random: Arc::new(random),
        };
        let mut settings = self.settings(seed)?;
        if let Some(bucket) = &self.bucket {
            settings.bucket = Some(bucket.open().await?);
            settings.journal_bytes_max = LOCAL_BYTES_MAX;
            settings.shard.checkpoint_entries = 100;
            settings.shard.checkpoint_bytes = 64 << 10;
        }
        let region = Region::start(settings, parts).await?;
        let kafka = meridian_controller::HostPort {
            host: self.host.clone(),
            port: 9092,
        };
        region.register(kafka).await?;
        let (switchovers, mut asked) = unbounded_channel();
        *self.switchovers.lock() = Some(switchovers);
        *self.region.lock() = Some(region.clone());
        while let Some((to, limit, answer)) = asked.recv().await {
            let answered = region.switch_over(to, limit).await;
            // Who asked may be gone.
            drop(answer.send(answered));
        }
        Ok(())
    }

    /// The journal's writer, a round at a time.
    async fn write(self: Arc<Self>, mut writer: Writer) {
        loop {
            let delay = self.disk_delay_ms.load(Ordering::Relaxed);
            if delay > 0 {
                tokio::time::sleep(Duration::from_millis(delay)).await;
            }
            match writer.run_round() {
                RoundOutcome::Wrote { .. } => tokio::task::yield_now().await,
                RoundOutcome::Idle | RoundOutcome::Marked | RoundOutcome::Stalled => {
                    tokio::time::sleep(ROUND_INTERVAL).await;
                }
                RoundOutcome::Poisoned | RoundOutcome::Stopped => return,
            }
        }
    }

    fn settings(&self, seed: u64) -> Result<RegionSettings, TlsError> {
        let Place {
            region,
            regions,
            nodes,
            ..
        } = self.place;
        let (name, geo) = match regions {
            1 => ("sim".to_owned(), None),
            _ => (region_name(region), Some(self.geo(seed)?)),
        };
        let defaults = RegionSettings::new(PeerSettings::new(self.id, self.incarnation, name));
        Ok(RegionSettings {
            peer_listen: SocketAddr::from(([0, 0, 0, 0], PEER_PORT)),
            peer_advertise: Some(self.address()),
            seeds: Place::nodes_of(region, nodes)
                .map(|node| HostPort::new(host(node), PEER_PORT))
                .collect(),
            geo,
            rack: Some(format!("rack-{}", self.id)),
            shards: 2,
            maintenance_interval: Duration::from_secs(2),
            journal_bytes_max: 2 << 20,
            shard: ShardSettings {
                command_bytes_max: 16 << 10,
                checkpoint_entries: 200,
                checkpoint_bytes: 256 << 10,
                ..ShardSettings::default()
            },
            dead_after: defaults.dead_after * self.stretch,
            ..defaults
        })
    }

    /// Every other region is told where the first one is.
    fn geo(&self, seed: u64) -> Result<GeoSettings, TlsError> {
        let first = match self.place.region {
            RegionNumber(0) => 0..0,
            _ => 1..self.place.nodes + 1,
        };
        let mut random = [0; 32];
        random[..8].copy_from_slice(&seed.to_le_bytes());
        Ok(GeoSettings {
            number: self.place.region,
            listen: SocketAddr::from(([0, 0, 0, 0], GEO_PORT)),
            advertise: Some(format!("{}:{GEO_PORT}", self.host)),
            seeds: first.map(|node| format!("{}:{GEO_PORT}", host(node))).collect(),
            buckets: Vec::new(),
            send_bytes_per_second_max: None,
            transport: LinkSettings {
                connections: 1,
                is_insecure_allowed: true,
                // Its entry must fit into a file of the journal.
                frame_bytes_max: 64 << 10,
                // How well it pays is measured with the real clock.
                compression: CompressionSetting::Off,
                ..LinkSettings::new(random)
            },
            tls: GeoTls::ephemeral()?,
            network: Arc::new(SimGeoNetwork),
        })
    }

    fn address(&self) -> HostPort {
        HostPort::new(self.host.clone(), PEER_PORT)
    }
}
