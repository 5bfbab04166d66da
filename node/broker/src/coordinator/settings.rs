//! The settings of the coordinator, under Kafka's names.

/// Limits and delays of classic groups. Each field names Kafka's setting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupSettings {
    /// `group.min.session.timeout.ms`: the shortest session timeout a member may ask for.
    pub session_timeout_min_ms: i32,
    /// `group.max.session.timeout.ms`: the longest session timeout a member may ask for.
    pub session_timeout_max_ms: i32,
    /// `group.initial.rebalance.delay.ms`: how long an empty group waits for more members after the
    /// first one; each member that joins meanwhile extends the wait, up to the rebalance timeout.
    pub initial_rebalance_delay_ms: i64,
    /// `group.max.size`: members of one group, and separately its handed-out member ids that have not
    /// joined yet. Kafka's default has no bound; ours has one, so that one group cannot take all memory.
    pub group_size_max: usize,
    /// How long a new member's JoinGroup may wait before the member is taken for gone. Kafka has five
    /// minutes, not settable: such a member does not know its id yet, so it cannot heartbeat.
    pub new_member_join_timeout_ms: i64,
    /// Bytes of one group's members, metadata and assignments together: a group is saved as one
    /// command. Kafka's bound is the size of one record (`max.message.bytes`).
    pub group_bytes_max: usize,
    /// Bytes of all groups' members on this node together; beyond it new members are refused with
    /// COORDINATOR_NOT_AVAILABLE.
    pub total_bytes_max: usize,
    /// Groups on this node; beyond it new groups are refused with COORDINATOR_NOT_AVAILABLE.
    pub groups_max: usize,
}

impl Default for GroupSettings {
    fn default() -> Self {
        Self {
            session_timeout_min_ms: 6_000,
            session_timeout_max_ms: 1_800_000,
            initial_rebalance_delay_ms: 3_000,
            group_size_max: 10_000,
            new_member_join_timeout_ms: 300_000,
            group_bytes_max: 4 * 1024 * 1024,
            total_bytes_max: 256 * 1024 * 1024,
            groups_max: 1_000_000,
        }
    }
}
