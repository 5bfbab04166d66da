//! ConsumerProtocolAssignment: what a member of a classic consumer group is to read.

data! {
    /// The bytes in `assignment` of a SyncGroup response; read and written by [`embedded`](crate::embedded).
    ConsumerProtocolAssignment: versions (0-3), flexible (none) {
        /// The list of topics and partitions assigned to this consumer.
        assigned_partitions: [TopicPartition] (0+);
        /// User data.
        user_data: bytes (0+), nullable(0+), default(None);
    }

    /// One of: the list of topics and partitions assigned to this consumer.
    struct TopicPartition {
        /// The topic name.
        topic: string (0+);
        /// The list of partitions assigned to this consumer.
        partitions: [int32] (0+);
    }
}
