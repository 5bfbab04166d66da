//! The bucket, as this node uses it: rounds that upload what a shard's log holds, reads of what only the bucket has,
//! and deletion of what nobody needs there.
//!
//! Only the leader of a shard writes, and only its committed commands change what counts: a leader that was deposed can
//! do no more than leave an orphan. What the modules decide is pure; what they do stands in [`driver`] and [`round`].
//!
//! | module | what it decides or does |
//! |---|---|
//! | [`owner`] | whose the bucket is |
//! | [`pace`] | when a shard's next round is due |
//! | [`burst`] | whether producers need the disk for themselves |
//! | [`window`] | how far in the log a round goes |
//! | [`round`] | read and bundle what the bucket lacks |
//! | [`commit`] | upload, verify, propose |
//! | [`rewrite`] | whose turn it is to rewrite what lies there |
//! | [`merge`], [`compaction`] | small extents become one; of every key the latest record stays |
//! | [`local`] | where hot indexes may begin, since the bucket has the rest |
//! | [`copies`], [`topics`], [`kept`] | what readers without brokers and a rebuild need: copies of manifests, states, names of topics |
//! | [`deletion`], [`clean`] | what may be deleted there: unlinked objects and orphans |
//! | [`cold`] | reads that the journal cannot serve |
//! | [`step`] | where a test can let a node die |

use std::sync::Arc;
use std::time::Duration;

use meridian_tiered_storage::aside::{Aside, Priority};
use meridian_tiered_storage::cold::ColdReader;
use meridian_tiered_storage::merge::MergeSettings;
use meridian_tiered_storage::store::Store;
use meridian_tiered_storage::upload::ReadBack;
use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tokio::task::JoinError;
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

pub(crate) mod adopt;
mod burst;
mod clean;
pub(crate) mod cold;
mod commit;
pub(crate) mod compaction;
mod copies;
mod deletion;
pub(crate) mod driver;
mod kept;
mod local;
mod merge;
pub(crate) mod owner;
mod pace;
mod rewrite;
mod round;
mod stats;
mod step;
pub(crate) mod topics;
mod window;

pub use owner::BucketStanding;
pub use stats::{ShardTierUsage, TierFailure, TierUsage};
pub use step::{AtStep, Bringing, BundleStage, TierStep};

use burst::Burst;
use stats::TierStats;

/// From this feature level on every node knows the commands of the tier and reads what they leave behind.
pub(crate) const TIER_LEVEL: u16 = 3;

/// How a node uses the region's bucket.
#[derive(Clone, Debug)]
pub struct TierSettings {
    /// A shard's round begins when so many bytes of commands wait.
    pub round_bytes: u64,
    /// A shard's round begins when anything waited so long.
    pub round_interval: Duration,
    /// Bytes of batches in one round (soft by one command), which are in memory meanwhile.
    pub bundle_bytes: u64,
    /// Rounds of this node at once.
    pub rounds_in_flight_max: usize,
    /// How long reading, uploading and verifying one bundle may take before the attempt counts as failed.
    pub round_timeout: Duration,
    /// How much of a bundle is read back before it is committed.
    pub read_back: ReadBack,
    /// A failed round is tried again after so long; after further failures up to 32 times as long.
    pub retry_pause: Duration,
    /// A changed manifest, and changed topics, are told in the bucket after so long, for readers without brokers.
    pub copy_interval: Duration,
    /// Objects that nothing refers to stay in the bucket for so long, so that who reads them can end.
    pub delete_grace: Duration,
    /// The bucket is searched for orphans this often.
    pub sweep_interval: Duration,
    /// How long a read waits for the bucket. What it fetched by then is not lost: the next read finds it.
    pub read_timeout: Duration,
    /// When and how much small extents are merged; with `extents_min` 0 they never are.
    pub merge: MergeSettings,
    /// Memory for the keys of the one partition of this node that is being compacted.
    pub compaction_keys_bytes: usize,
    /// Pause between two passes of compaction over the same partition, at least.
    pub compaction_interval: Duration,
    /// What a test does when the tier comes to a step.
    pub at_step: Option<AtStep>,
}

impl Default for TierSettings {
    fn default() -> Self {
        Self {
            round_bytes: 32 << 20,
            round_interval: Duration::from_secs(10),
            bundle_bytes: 64 << 20,
            rounds_in_flight_max: 2,
            round_timeout: Duration::from_secs(300),
            read_back: ReadBack::Whole,
            retry_pause: Duration::from_secs(1),
            copy_interval: Duration::from_secs(60),
            delete_grace: Duration::from_secs(3600),
            sweep_interval: Duration::from_secs(3600),
            read_timeout: Duration::from_secs(10),
            merge: MergeSettings::default(),
            compaction_keys_bytes: 128 << 20,
            compaction_interval: Duration::from_secs(60),
            at_step: None,
        }
    }
}

/// A bucket with how it is used: what a node brings into its region. All nodes of a region use the same bucket.
#[derive(Clone)]
pub struct Bucket {
    /// Where objects are.
    pub store: Store,
    /// Reads for fetches, with their cache.
    pub reader: ColdReader,
    /// How it is used.
    pub settings: TierSettings,
}

impl std::fmt::Debug for Bucket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Bucket")
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

/// The bucket, as all shards of this node share it.
pub(crate) struct Tier {
    pub(crate) store: Store,
    pub(crate) reader: ColdReader,
    pub(crate) settings: TierSettings,
    /// First part of every key: the region's cluster id.
    pub(crate) cluster: String,
    /// Nothing is written unless the bucket is known to be this region's.
    pub(crate) ownership: owner::Ownership,
    /// A permit for each round at once.
    rounds: Semaphore,
    /// One permit: steps of merges and compaction have little priority, and go one after the other.
    rewrites: Semaphore,
    /// The next of these steps comes no sooner.
    rest_until: Mutex<Instant>,
    /// One permit: a pass of compaction holds the keys of its partition from step to step.
    passes: Arc<Semaphore>,
    /// Reads of the journal that outlive the task that waits for them.
    reads: TaskTracker,
    /// Makes bundles while that is not urgent.
    bundler: Aside,
    burst: Mutex<Burst>,
    pub(crate) stats: TierStats,
}

impl Tier {
    pub(crate) fn new(bucket: Bucket, cluster: String) -> Arc<Self> {
        let Bucket {
            store,
            reader,
            settings,
        } = bucket;
        Arc::new(Self {
            store,
            reader,
            cluster,
            ownership: owner::Ownership::default(),
            rounds: Semaphore::new(settings.rounds_in_flight_max.max(1)),
            rewrites: Semaphore::new(1),
            rest_until: Mutex::new(Instant::now()),
            passes: Arc::new(Semaphore::new(1)),
            reads: TaskTracker::new(),
            bundler: Aside::start("bundle", 1, Priority::Lowest),
            burst: Mutex::default(),
            settings,
            stats: TierStats::default(),
        })
    }

    /// Runs what blocks on the journal. The end of the tier waits for it, whoever waits for its answer.
    async fn read<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, JoinError> {
        let token = self.reads.token();
        meridian_raft::blocking(move || {
            let done = work();
            drop(token);
            done
        })
        .await
    }

    fn is_owned(&self) -> bool {
        self.ownership.standing() == BucketStanding::Ours
    }
}
