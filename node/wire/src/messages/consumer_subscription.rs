//! ConsumerProtocolSubscription: what a member of a classic consumer group wants to read.

data! {
    /// The bytes in `metadata` of a JoinGroup request; read and written by [`embedded`](crate::embedded).
    ConsumerProtocolSubscription: versions (0-3), flexible (none) {
        /// The topics that the member wants to consume.
        topics: [string] (0+);
        /// User data that will be passed back to the consumer.
        user_data: bytes (0+), nullable(0+), default(None);
        /// The partitions that the member owns.
        owned_partitions: [TopicPartition] (1+), ignorable;
        /// The generation id of the member.
        generation_id: int32 (2+), ignorable, default(-1);
        /// The rack id of the member.
        rack_id: string (3+), nullable(3+), ignorable, default(None);
    }

    /// One of: the partitions that the member owns.
    struct TopicPartition {
        /// The topic name.
        topic: string (1+);
        /// The partition ids.
        partitions: [int32] (1+);
    }
}
