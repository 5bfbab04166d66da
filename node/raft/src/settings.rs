//! What a group is told at its start, and what openraft is told of it.

use std::collections::BTreeSet;
use std::time::Duration;

use meridian_types::{NodeId, ShardId};
use openraft::{Config, SnapshotPolicy};

use crate::network::NetworkSettings;

/// What a group needs to know at its start.
#[derive(Clone, Debug)]
pub struct GroupSettings {
    /// The shard that this group replicates.
    pub shard: ShardId,
    /// This node.
    pub node: NodeId,
    /// The voters of a group that never existed before, on the nodes that found it. Empty everywhere else: a replica
    /// that joins waits to be contacted. A group of one is founded at its start, one of several when a founder
    /// first [calls an election](crate::Group::elect). Ignored once the group has a log.
    pub founders: BTreeSet<NodeId>,
    /// Time for a heartbeat to be answered. Who beats, and when, is the caller's decision.
    pub heartbeat_interval: Duration,
    /// Time for a vote to be answered. Twice this is the lease: how long a leader may take proposals after a quorum
    /// answered it, and how long followers stand by a leader they hear no more, unless it is
    /// [ended](crate::Group::end_lease). Longer than the slowest commit, or a busy leader refuses proposals.
    pub election_timeout: Duration,
    /// How the group uses the network.
    pub network: NetworkSettings,
}

impl GroupSettings {
    pub(crate) fn config(&self) -> Config {
        let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        let election_min = millis(self.election_timeout);
        Config {
            cluster_name: format!("shard-{}", self.shard),
            heartbeat_interval: millis(self.heartbeat_interval),
            election_timeout_min: election_min,
            election_timeout_max: election_min * 2,
            // The node's pacemaker decides who beats and who calls an election.
            enable_tick: false,
            // The shard bounds bytes in flight; these only bound queues by count.
            max_payload_entries: 300,
            api_channel_size: Some(1024),
            notification_channel_size: Some(1024),
            state_machine_channel_size: Some(1024),
            // Checkpoints and purges are the shard's decision.
            snapshot_policy: SnapshotPolicy::Never,
            max_in_snapshot_log_to_keep: u64::MAX,
            enable_pre_vote: Some(true),
            // A restarted leader must win a new term: an epoch is never used by two lives of a node.
            enable_leader_restore: Some(false),
            // It would forbid the heartbeat that wakes an idle group. A leader without a quorum is told by the
            // pacemaker to be quiet (openraft #2080).
            quorum_loss_probe_interval: None,
            // A follower that lost its log must not stop the leader.
            allow_log_reversion: Some(true),
            ..Config::default()
        }
    }
}
