//! DescribeMirror (API key 20004), Meridian's own.

api! {
    /// Asks a node what it knows of the mirror between regions: who owns, which regions there are, how its links do, and
    /// how far the shards are that it leads. The whole picture of a region is the answers of all its nodes.
    DescribeMirror: versions (0-1), flexible (0+);

    request DescribeMirrorRequest {
        /// Also tells the digest of every partition of the shards that the node leads.
        include_partitions: bool (0+);
    }

    response DescribeMirrorResponse {
        /// The error code, or 0 if there was no error.
        error_code: int16 (0+);
        /// What went wrong, or null.
        error_message: string (0+), nullable(0+), default(None);
        /// The node that answers.
        node_id: int32 (0+), default(-1);
        /// Id of the cluster.
        cluster_id: string (0+);
        /// Number of the node's region.
        region_number: int32 (0+);
        /// Name of the node's region.
        region: string (0+);
        /// The present region epoch, as the region knows.
        region_epoch: int32 (0+);
        /// Number of the region that owns.
        owner: int32 (0+);
        /// The region that ownership is being moved to, -1 while it is not being moved.
        draining_to: int32 (0+), default(-1);
        /// By when that must be done, or it is taken back: milliseconds since 1970, -1 while there is none.
        drain_deadline_ms: int64 (0+), default(-1);
        /// Every region that is registered or heard, the node's own among them.
        regions: [MirrorRegion] (0+);
        /// The node's links to other regions.
        links: [MirrorLink] (0+);
        /// The shards that the node leads, the controller's (-1) among them.
        shards: [MirrorShard] (0+);
        /// The partitions of those shards, where they were asked for.
        partitions: [MirrorPartition] (0+);
    }

    /// One of: every region that is registered or heard.
    struct MirrorRegion {
        /// Its number.
        number: int32 (0+);
        /// Its name.
        name: string (0+);
        /// Where its nodes are reached by other regions, as HOST:PORT.
        addresses: [string] (0+);
        /// Whether it is registered with the owner.
        is_registered: bool (0+);
        /// How long ago it was heard, in milliseconds; -1: never. 0 for the node's own.
        heard_ms: int64 (0+), default(-1);
        /// The region epoch that it believes in, -1 where it was never heard.
        region_epoch: int32 (0+), default(-1);
        /// The owner that it believes in, -1 where it was never heard.
        owner: int32 (0+), default(-1);
        /// Its brokers.
        nodes: [MirrorNode] (0+);
    }

    /// One of: its brokers.
    struct MirrorNode {
        /// Its id.
        node_id: int32 (0+);
        /// Where clients reach it.
        host: string (0+);
        /// The port there.
        port: int32 (0+);
        /// Its rack, or null.
        rack: string (0+), nullable(0+), default(None);
    }

    /// One of: the node's links to other regions.
    struct MirrorLink {
        /// Number of the other region, -1 while it is not known.
        region: int32 (0+), default(-1);
        /// Where the other end is.
        address: string (0+);
        /// How bytes travel: quic or tcp; empty while there is no connection.
        transport: string (0+);
        /// What the link does, for people.
        state: string (0+);
        /// Time for a packet there and back, in microseconds; -1 while it is not known.
        rtt_us: int64 (0+), default(-1);
        /// Bytes sent.
        sent_bytes: int64 (0+);
        /// Bytes received.
        received_bytes: int64 (0+);
        /// Packets sent.
        sent_packets: int64 (0+);
        /// Packets of those that were lost and sent again.
        lost_packets: int64 (0+);
        /// Bytes of frames before compression.
        frame_bytes: int64 (0+);
        /// The same after it.
        compressed_bytes: int64 (0+);
        /// The link carries no more content than this per second; 0 for no limit.
        bytes_per_second_max: int64 (0+);
        /// Content commands that the logs lack together which the node takes in over the link, or that the other side lacks of
        /// those it takes; -1 where that is not known.
        lag_sequences: int64 (1+), default(-1);
        /// About how many bytes these have; -1 where that is not known, as on the side that gives.
        lag_bytes: int64 (1+), default(-1);
        /// The greatest staleness of the logs that the node takes in, in milliseconds; -1 where one is not known.
        staleness_ms: int64 (1+), default(-1);
    }

    /// One of: the shards that the node leads.
    struct MirrorShard {
        /// The shard, -1 for the controller's.
        shard: int32 (0+);
        /// Its role: owner, fenced or mirror.
        role: string (0+);
        /// Its region epoch.
        region_epoch: int32 (0+);
        /// Content commands it has applied.
        sequence: int64 (0+);
        /// Digest of them, as its bits.
        digest: int64 (0+);
        /// The region that it follows, -1 for none.
        follows: int32 (0+), default(-1);
        /// Content commands that the source was last heard to have; -1 while it was not heard.
        source_sequence: int64 (0+), default(-1);
        /// It holds everything that the source had so long ago, in milliseconds; -1 where that is not known.
        staleness_ms: int64 (0+), default(-1);
        /// About how many bytes it lacks of what the source has; -1 where that is not known.
        lag_bytes: int64 (1+), default(-1);
        /// Why the source gives nothing, or null.
        refusal: string (0+), nullable(0+), default(None);
        /// The content command at which its digest differed from the source's, -1 where it never did.
        diverged_at: int64 (0+), default(-1);
        /// How far other regions have said that they hold it.
        acks: [MirrorAck] (0+);
    }

    /// One of: how far other regions have said that they hold it.
    struct MirrorAck {
        /// Number of the region.
        region: int32 (0+);
        /// Content commands that it holds on a quorum.
        sequence: int64 (0+);
    }

    /// One of: the partitions of those shards.
    struct MirrorPartition {
        /// The topic's name.
        topic: string (0+);
        /// The topic's id.
        topic_id: uuid (0+);
        /// The partition.
        partition: int32 (0+);
        /// Its end offset.
        end_offset: int64 (0+);
        /// Digest of the base offset and CRC of every batch that it ever held, as its bits.
        digest: int64 (0+);
    }
}
