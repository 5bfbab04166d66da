//! When to beat, whom to suspect, who calls an election: the timing of every group of this node.
//!
//! openraft's own timers are off. One [`Pacemaker`] a node decides for all its groups, as a pure core:
//! it is told of events with the time at which they came, and gives back [`Action`]s. Nodes tell each
//! other every 100 ms, in one small [`Beat`], that they live and how they see each shard; so a group in
//! which nothing happens costs nothing, and a thousand groups notice a death as quickly as one.
//!
//! ```text
//!  beats, links ──> Detector ── who is alive, what they say of each shard
//!                      │
//!                   Leaders ─── for each shard of the region, who claims to lead it
//!                      │
//!  one Group a shard hosted here:  Leading   heartbeats, hibernation, stepping aside, hand-over
//!                                  Following when the leader counts as gone, when to call an election
//! ```
//!
//! A follower calls an election only when the voters that it hears, itself included, are a quorum that
//! sees no leader any more. This is a pre-vote over the beats: it holds also in hibernating groups, whose
//! leases have lapsed, and keeps a node with a bad link from unseating a leader that serves the others.
//!
//! Time is a [`Duration`](std::time::Duration) since any fixed moment, from a clock that never steps back.

mod action;
mod beat;
mod clock;
mod core;
mod detector;
mod following;
mod group;
mod leaders;
mod leading;
mod pulse;
mod random;
mod settings;

#[cfg(test)]
mod tests;

pub(crate) use self::core::Pacemaker;
pub(crate) use action::{Action, View};
pub(crate) use beat::{Beat, NodePhase};
#[cfg(test)]
pub(crate) use beat::{HostedShard, ShardRole};
pub(crate) use detector::LinkState;
pub(crate) use group::{Members, Role};
pub(crate) use settings::{PacemakerSettings, Timing};
