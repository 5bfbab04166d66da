//! A region on this node: where Raft, state, journal, controller and the other nodes meet.
//!
//! [`Region`] is what the broker holds: it finds the shard of a partition, appends, reads and waits.
//! A [`shard::Shard`] is one of the region's shards as this node sees it; where it has a replica here, with the
//! Raft group, its state machine and the task that sequences appends.
//!
//! ```text
//! append: queue ─> sequencer (stamps offset, epoch) ─> raft.propose ─> journal on a quorum
//!                                                                    └─> machine.apply ─> answer
//! read:   state (which spans) ─> journal (memory | file) ─> bytes as the producer sent them
//! ```
//!
//! How the nodes of a region work together, each concept in a module of its own:
//!
//! | module | what it decides or does |
//! |---|---|
//! | [`join`], [`enter`] | how an empty node finds its region or founds it |
//! | [`service`], [`message`] | what nodes ask one another |
//! | [`pacemaker`], [`pacing`] | who is alive, who leads, when to beat and to call an election |
//! | [`hosting`] | which replicas are here; how damaged ones begin anew |
//! | [`planner`] | on the controller's leader: where replicas should be |
//! | [`reconcile`], [`changes`] | on a shard's leader: from the members there are to those wished |
//! | [`forward`], [`control`] | commands to the controller from any node |
//! | [`mirror`], [`writing`] | other regions: content from one to the next, and who owns it |
//! | [`tier`] | the bucket: rounds, cold reads, deletion |
//! | [`restore`] | a region rebuilt from its bucket |

/// Whether a deliberate defect acts, see `tests/mutants`. Only the simulation can switch one on.
#[cfg(feature = "mutants")]
macro_rules! mutant {
    ($name:ident) => {
        meridian_mutants::is_on(meridian_mutants::Mutant::$name)
    };
}
#[cfg(not(feature = "mutants"))]
macro_rules! mutant {
    ($name:ident) => {
        false
    };
}

mod append;
mod changes;
mod control;
mod driver;
mod enter;
mod errors;
mod forward;
mod hosting;
mod join;
mod machine;
mod message;
mod mirror;
mod offsets;
mod pacemaker;
mod pacing;
mod planner;
mod propose;
mod read;
mod reconcile;
mod region;
pub mod restore;
mod room;
mod round;
mod same_bucket;
mod service;
mod settings;
mod shard;
mod start;
mod status;
mod strangers;
mod tier;
mod wait;
mod writing;

pub use append::Append;
pub use errors::{AppendError, ControlError, DeleteRecordsError, ReadError};
pub use machine::StateGuard;
pub use meridian_geo_mirror::{
    CompressionSetting, CongestionControl, Counters as MirrorCounters, GeoTls, OsNetwork,
    Settings as LinkSettings, TlsError as GeoTlsError, TlsFiles, TransportSetting,
};
pub use meridian_lineage::Role as MirrorRole;
pub use meridian_peer::{HostPort, PeerSettings, PeerTls, Peers};
pub use meridian_raft::Leadership;
pub use mirror::{
    CopyAge, GeoSettings, HeldByTooFew, Hosts, MirrorLinkStatus, MirrorRegionStatus, MirrorShardStatus,
    MirrorStatus, PartitionDigest, RemoteNode, RemoteRegion, RemoteRegions, RemoteShard, SwitchOverError,
};
pub use offsets::{FoundOffset, OffsetSpec};
pub use read::{Batches, Positions, ReadFrom};
pub use region::{Appended, LeadershipView, Region};
pub use settings::{Clock, Random, RegionSettings, ShardSettings};
pub use start::{RegionParts, RegionStartError, RegisterError};
pub use status::{MemberStatus, NodeStatus, RegionStatus, ReplicaStatus, ShardStatus, ShardUsage, Usage};
pub use tier::{
    AtStep, Bringing, Bucket, BucketStanding, BundleStage, ShardTierUsage, TierFailure, TierSettings,
    TierStep, TierUsage,
};
