//! DescribeRegion (API key 20001), Meridian's own.

api! {
    /// Asks a node what it knows of its region: the nodes, and where every shard lives. Facts and leaders are the
    /// same from any node that is up to date; how far each replica has come only the leader of a shard knows.
    DescribeRegion: versions (0-2), flexible (0+);

    request DescribeRegionRequest {}

    response DescribeRegionResponse {
        /// The error code, or 0 if there was no error.
        error_code: int16 (0+);
        /// What went wrong, or null.
        error_message: string (0+), nullable(0+), default(None);
        /// The node that answers.
        node_id: int32 (0+), default(-1);
        /// Id of the cluster.
        cluster_id: string (0+);
        /// Name of the region.
        region: string (0+);
        /// How many copies a shard wants.
        copies: int32 (0+);
        /// The version of commands that every node of the region understands.
        feature_level: int32 (0+);
        /// Every registered node.
        nodes: [RegionNode] (0+);
        /// The controller's shard (-1), then every data shard.
        shards: [RegionShard] (0+);
        /// How the region stands to its bucket, as the node that answers knows: -1 it was told of none, 0 it does not know, 1
        /// the bucket is the region's, 2 it is another region's, 3 a restored region has taken it over.
        bucket_standing: int8 (1+), default(-1);
        /// What went wrong last with the bucket on this node, or null.
        bucket_error: string (1+), nullable(1+), default(None);
        /// When that was, -1 for never.
        bucket_error_at_ms: int64 (1+), default(-1);
        /// Why the disk of the node that answers takes no more records, or null.
        disk_full: string (2+), nullable(2+), default(None);
    }

    /// One of: every registered node.
    struct RegionNode {
        /// Its id.
        node_id: int32 (0+);
        /// Where clients reach it.
        host: string (0+);
        /// The port there.
        port: int32 (0+);
        /// Where other nodes reach it; empty in a region of one node.
        peer_host: string (0+);
        /// The port there.
        peer_port: int32 (0+);
        /// Its rack, or null.
        rack: string (0+), nullable(0+), default(None);
        /// The newest version of commands that it understands.
        version_max: int32 (0+);
        /// Whether the node that answers hears it.
        is_alive: bool (0+);
        /// Whether its shards are being moved away.
        is_draining: bool (0+);
        /// Replicas that are to come to it.
        arriving: int32 (0+);
        /// Replicas that are to go from it.
        leaving: int32 (0+);
        /// Replicas that should go from it and have nowhere to go: another node is missing, or more copies are
        /// wanted than the other nodes can hold.
        stuck: int32 (0+);
    }

    /// One of: the controller's shard, then every data shard.
    struct RegionShard {
        /// Its number, -1 for the controller's.
        shard: int32 (0+);
        /// Its leader, -1 while there is none that the node knows.
        leader_id: int32 (0+), default(-1);
        /// The leader's epoch, -1 where it is not known. The greatest one is the present one.
        leader_epoch: int32 (0+), default(-1);
        /// The nodes that should hold it, the preferred leader first. Empty for the controller's.
        placement: [int32] (0+);
        /// Why it does not run on the node that answers, or null.
        stopped: string (0+), nullable(0+), default(None);
        /// Whether the node that answers holds a replica, so that `replicas` says something.
        is_held: bool (0+);
        /// Index of the last entry that the node knows to be committed.
        committed_index: int64 (0+);
        /// Partitions with records.
        partitions: int32 (0+);
        /// Its replicas as the group counts them now.
        replicas: [RegionReplica] (0+);
        /// Bytes that wait for the bucket, about; -1 where the node does not lead it or has no bucket.
        waiting_bytes: int64 (1+), default(-1);
        /// How long the oldest of them have waited, in milliseconds; -1 likewise.
        waiting_ms: int64 (1+), default(-1);
    }

    /// One of: its replicas as the group counts them now.
    struct RegionReplica {
        /// The node.
        node_id: int32 (0+);
        /// Whether it votes; a learner only copies.
        is_voter: bool (0+);
        /// Index of the last entry that it is known to have, -1 where only the leader knows.
        matched_index: int64 (0+), default(-1);
    }
}
