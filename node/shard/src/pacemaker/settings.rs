//! What the pacemaker is told at its start.

use std::time::Duration;

use meridian_types::{NodeId, Uuid};

/// Settings of one node's pacemaker.
#[derive(Clone, Debug)]
pub(crate) struct PacemakerSettings {
    /// This node.
    pub(crate) node: NodeId,
    /// Names this node's data directory for its whole life.
    pub(crate) incarnation: Uuid,
    /// Differs at every start of the process: others notice a restart by it.
    pub(crate) start_id: u64,
    /// Where other nodes reach this one, `HOST:PORT`; goes out with every beat.
    pub(crate) address: String,
    /// Seeds the jitter of elections.
    pub(crate) seed: u64,
    /// How long everything takes.
    pub(crate) timing: Timing,
}

/// The pacemaker's intervals and limits. The defaults go together: see `docs/formats/beat.md`.
#[derive(Clone, Debug)]
pub(crate) struct Timing {
    /// Between two beats of a node.
    pub(crate) beat_interval: Duration,
    /// The least pause between two beats, even when there is news.
    pub(crate) news_interval: Duration,
    /// A node that was not heard of for so long is suspected.
    pub(crate) suspect_after: Duration,
    /// Beats that arrive this soon after a refused connection were on their way before the process ended.
    pub(crate) refused_hold: Duration,
    /// A gap between two calls above this means that this process stood still.
    pub(crate) stall: Duration,
    /// How long a live node may go without claiming a shard before its leadership counts as gone.
    pub(crate) claim_grace: Duration,
    /// By so much each replica lets the one before it in the placement go first.
    pub(crate) rank_step: Duration,
    /// Random part of a first attempt's delay.
    pub(crate) jitter_max: Duration,
    /// Pause after the first attempt without success; doubles with each.
    pub(crate) retry_min: Duration,
    /// Longest pause between attempts.
    pub(crate) retry_max: Duration,
    /// Between two heartbeats of an active group.
    pub(crate) heartbeat_interval: Duration,
    /// Heartbeats after the last activity before a group hibernates.
    pub(crate) heartbeats_after: u8,
    /// A leader that heard no quorum of its voters for so long steps aside.
    pub(crate) quorum_silence_max: Duration,
    /// Age of the applied index that a follower must have reached to count as caught up.
    pub(crate) lag_max: Duration,
    /// How long the preferred leader must have been fit before it is given the shard.
    pub(crate) preferred_after: Duration,
    /// Least pause between two hand-overs of a group to its preferred leader; doubles with each that fails.
    pub(crate) handover_interval: Duration,
    /// The most that it grows to.
    pub(crate) handover_interval_max: Duration,
    /// A hand-over that has not happened, or was refused, is asked for again after so long.
    pub(crate) handover_retry: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        let ms = Duration::from_millis;
        Self {
            beat_interval: ms(100),
            news_interval: ms(10),
            suspect_after: ms(500),
            refused_hold: ms(250),
            stall: ms(250),
            claim_grace: ms(300),
            rank_step: ms(150),
            jitter_max: ms(30),
            retry_min: ms(300),
            retry_max: ms(2000),
            heartbeat_interval: ms(1000),
            heartbeats_after: 3,
            quorum_silence_max: ms(1000),
            lag_max: ms(500),
            preferred_after: ms(10_000),
            handover_interval: ms(10_000),
            handover_interval_max: ms(600_000),
            handover_retry: ms(150),
        }
    }
}
