//! All shards of this node and the controller: what the broker holds.

use std::any::Any;
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use meridian_controller::{Command as ControlCommand, Controller, Outcome as ControlOutcome};
use meridian_journal::Journal;
use meridian_raft::{Group, Leadership};
use meridian_state::{Command, Outcome, PartitionState, Producer};
use meridian_types::{
    LeaderEpoch, NodeId, Offset, Partition, ShardId, TimestampMs, TopicId, Uuid, shard_of, shard_of_name,
};
use meridian_wire::batch::BatchHeader;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use crate::append::Append;
use crate::control::ControlMachine;
use crate::errors::{ControlError, DeleteRecordsError, ReadError};
use crate::machine::StateGuard;
use crate::offsets::{FoundOffset, OffsetSpec};
use crate::read::{Batches, Positions};
use crate::shard::Shard;
use crate::start::{Clock, Random, RegionSettings};

/// Where an acknowledged batch went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Appended {
    /// Offset of its first record.
    pub base_offset: Offset,
    /// The partition's log start offset.
    pub log_start_offset: Offset,
    /// The epoch that it was appended under; of a duplicate, the present one.
    pub leader_epoch: LeaderEpoch,
    /// The producer had sent it before: nothing was appended again.
    pub duplicate: bool,
}

/// The shards that this node leads, by shard, with the epoch; `None` where another one leads.
pub type LeadershipView = Arc<[Option<LeaderEpoch>]>;

/// A handle on the region's part that lives on this node. Clones share it.
#[derive(Clone)]
pub struct Region {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) settings: RegionSettings,
    pub(crate) journal: Journal,
    pub(crate) shards: Vec<Shard>,
    pub(crate) control: Arc<ControlMachine>,
    pub(crate) control_group: Group,
    pub(crate) leadership: watch::Receiver<LeadershipView>,
    pub(crate) clock: Clock,
    pub(crate) random: Random,
    /// Wakes the maintenance task before its time.
    pub(crate) maintain: Notify,
    pub(crate) stop: CancellationToken,
}

impl Region {
    /// Read lock on the controller's state. Hold it briefly and never across an await.
    pub fn controller(&self) -> impl Deref<Target = Controller> + '_ {
        self.inner.control.controller()
    }

    /// Proposes to the controller's group and waits until it is applied here.
    pub async fn control(&self, command: ControlCommand) -> Result<ControlOutcome, ControlError> {
        let outcome = self.inner.control(&command).await?;
        // A deleted topic's data goes at once, not with the next round.
        if matches!(command, ControlCommand::DeleteTopics { .. }) {
            self.inner.maintain.notify_one();
        }
        Ok(outcome)
    }

    /// This node.
    pub fn node_id(&self) -> NodeId {
        self.inner.settings.node
    }

    /// Kafka's cluster id.
    pub fn cluster_id(&self) -> String {
        self.controller()
            .founding()
            .map(|founding| founding.cluster_id.clone())
            .unwrap_or_default()
    }

    /// Data shards of the region.
    pub fn shards(&self) -> u32 {
        u32::try_from(self.inner.shards.len()).expect("a region has few shards")
    }

    /// The node that leads a shard, as far as this node knows.
    pub fn leader_of(&self, shard: ShardId) -> Option<NodeId> {
        self.inner.shard(shard).leader(self.inner.settings.node)
    }

    /// The node that leads the controller's group, as far as this node knows.
    pub fn controller_node(&self) -> Option<NodeId> {
        match *self.inner.control_group.leadership().borrow() {
            Leadership::Unknown => None,
            Leadership::Following { leader } => Some(leader),
            Leadership::Leading { .. } => Some(self.inner.settings.node),
        }
    }

    /// The shard that holds a partition.
    pub fn shard_of(&self, partition: Partition) -> ShardId {
        shard_of(partition, self.shards())
    }

    /// The shard that coordinates a group.
    pub fn group_shard(&self, group: &str) -> ShardId {
        shard_of_name(group, self.shards())
    }

    /// The epoch under which this node leads a shard; `None` when it does not.
    pub fn leader_epoch(&self, shard: ShardId) -> Option<LeaderEpoch> {
        self.inner.shard(shard).leading()
    }

    /// Changes of what this node leads.
    pub fn leadership(&self) -> watch::Receiver<LeadershipView> {
        self.inner.leadership.clone()
    }

    /// A fresh topic id.
    pub fn new_topic_id(&self) -> TopicId {
        TopicId(uuid_v4((self.inner.random)()))
    }

    /// The node's wall clock.
    pub fn now(&self) -> TimestampMs {
        (self.inner.clock)()
    }

    /// Queues one validated batch, in call order. The caller has checked that the topic exists.
    pub fn append(&self, partition: Partition, batch: BytesMut, header: BatchHeader) -> Append {
        self.of(partition).append(partition, batch, header)
    }

    /// What a partition holds. One without records reads as empty.
    pub fn positions(&self, partition: Partition) -> Result<Positions, ReadError> {
        self.of(partition).positions(partition)
    }

    /// Whole committed batches from the one that contains `from`, undecoded.
    ///
    /// `bytes_max` is soft: the first batch is returned whole (KIP-74). Empty at the high watermark.
    /// Errors: `OffsetOutOfRange` outside `log_start_offset..=high_watermark`.
    pub async fn read(
        &self,
        partition: Partition,
        from: Offset,
        bytes_max: usize,
    ) -> Result<Batches, ReadError> {
        self.of(partition).read(partition, from, bytes_max).await
    }

    /// Wakes `waiter` once when the partition moves past `seen`, its log start moves, or the leader
    /// changes; at once if it already has. Forgotten when the `Notify` is dropped.
    pub fn watch(&self, partition: Partition, seen: Offset, waiter: &Arc<Notify>) {
        self.of(partition).watch(partition, seen, waiter);
    }

    /// Finds an offset by name or time; `None` when no record fits.
    pub async fn offset_for(
        &self,
        partition: Partition,
        spec: OffsetSpec,
    ) -> Result<Option<FoundOffset>, ReadError> {
        self.of(partition).offset_for(partition, spec).await
    }

    /// The largest epoch not above `epoch`, with the offset at which it ends (KIP-320). `None` when
    /// `epoch` is newer than all.
    pub fn end_offset_for_epoch(
        &self,
        partition: Partition,
        epoch: LeaderEpoch,
    ) -> Result<Option<(LeaderEpoch, Offset)>, ReadError> {
        let shard = self.of(partition);
        let current = shard.positions(partition)?.leader_epoch;
        let state = shard.state()?;
        Ok(match state.partition(partition) {
            Some(partition) => partition.end_offset_for_leader(epoch, current),
            None => (epoch <= current).then_some((epoch, Offset(0))),
        })
    }

    /// The epoch that an offset was appended under.
    pub fn epoch_at(&self, partition: Partition, offset: Offset) -> Result<Option<LeaderEpoch>, ReadError> {
        self.of(partition).epoch_at(partition, offset)
    }

    /// Bytes of batches that the partition holds.
    pub fn size_bytes(&self, partition: Partition) -> u64 {
        self.of(partition)
            .applied_state()
            .partition(partition)
            .map_or(0, PartitionState::size_bytes)
    }

    /// The idempotent producers that a partition remembers.
    pub fn producers(&self, partition: Partition) -> Result<Vec<Producer>, ReadError> {
        let state = self.of(partition).state()?;
        Ok(state
            .partition(partition)
            .map(|held| held.producers().to_vec())
            .unwrap_or_default())
    }

    /// Moves the log start offset to `before` (`None`: to the high watermark). Returns where it is.
    pub async fn delete_records(
        &self,
        partition: Partition,
        before: Option<Offset>,
    ) -> Result<Offset, DeleteRecordsError> {
        self.of(partition).delete_records(partition, before).await
    }

    /// Proposes a command to a data shard and waits until it is applied here.
    pub async fn propose(&self, shard: ShardId, command: Command) -> Result<Outcome, ControlError> {
        self.inner.shard(shard).propose(&command).await
    }

    /// Read access to the applied state of a shard that this node leads. Hold it briefly and never
    /// across an await.
    pub fn state(&self, shard: ShardId) -> Result<StateGuard<'_>, ReadError> {
        self.inner.shard(shard).state()
    }

    /// Figures for metrics and status.
    pub fn usage(&self) -> Usage {
        let shards = self.inner.shards.iter().map(|shard| {
            let state = shard.applied_state();
            ShardUsage {
                shard: shard.id(),
                led_here: shard.leading().is_some(),
                stopped: shard.group().err(),
                partitions: state.partitions().count(),
                queued_bytes: shard.queued_bytes(),
                applied_index: shard.group().map_or(0, |group| group.applied().borrow().index.0),
            }
        });
        Usage {
            journal: self.inner.journal.usage(),
            shards: shards.collect(),
        }
    }

    /// Stops accepting, makes checkpoints so that the next start is quick, and stops the groups.
    pub async fn shutdown(&self) {
        self.inner.stop.cancel();
        for shard in &self.inner.shards {
            if let Ok(group) = shard.group() {
                if let Err(error) = tokio::time::timeout(Duration::from_secs(10), group.checkpoint())
                    .await
                    .unwrap_or_else(|_| {
                        Err(meridian_raft::ProposeError::Unknown {
                            reason: "it took too long".to_owned(),
                        })
                    })
                {
                    tracing::warn!(shard = %shard.id(), %error, "no checkpoint at shutdown; the next start replays more");
                }
                group.shutdown().await;
            }
        }
        let _ = self.inner.control_group.checkpoint().await;
        self.inner.control_group.shutdown().await;
        self.inner.journal.shutdown();
    }

    fn of(&self, partition: Partition) -> &Shard {
        self.inner.shard(self.shard_of(partition))
    }
}

impl Inner {
    pub(crate) fn shard(&self, shard: ShardId) -> &Shard {
        // Every id comes from `shard_of`, or from a caller that took it from this region.
        &self.shards[shard.0 as usize % self.shards.len()]
    }

    pub(crate) async fn control(&self, command: &ControlCommand) -> Result<ControlOutcome, ControlError> {
        control(&self.control_group, command).await
    }
}

/// Proposes a command to the controller's group.
pub(crate) async fn control(group: &Group, command: &ControlCommand) -> Result<ControlOutcome, ControlError> {
    propose(group, command.encode()).await
}

/// Proposes an encoded command under the present leadership, and waits for its outcome. `T` is what the
/// group's machine answers.
pub(crate) async fn propose<T: Any>(group: &Group, command: Vec<Bytes>) -> Result<T, ControlError> {
    let leadership = *group.leadership().borrow();
    let term = match leadership {
        Leadership::Leading { term } => term,
        Leadership::Following { leader } => return Err(ControlError::NotLeader { leader: Some(leader) }),
        Leadership::Unknown => return Err(ControlError::NotLeader { leader: None }),
    };
    let (_, reply) = group.propose(term, command).await?.await?;
    reply.into::<T>().ok_or_else(|| ControlError::Unknown {
        reason: "answered by another type".to_owned(),
    })
}

/// A version 4 UUID from 128 random bits.
pub(crate) fn uuid_v4(random: u128) -> Uuid {
    let version = 0x4 << 76;
    let variant = 0x2 << 62;
    Uuid::from_u128(random & !(0xf << 76) & !(0x3 << 62) | version | variant)
}

/// Figures of this node.
#[derive(Clone, Debug)]
pub struct Usage {
    /// The journal's.
    pub journal: meridian_journal::Usage,
    /// Each shard's.
    pub shards: Vec<ShardUsage>,
}

/// Figures of one shard on this node.
#[derive(Clone, Debug)]
pub struct ShardUsage {
    /// The shard.
    pub shard: ShardId,
    /// Whether this node leads it.
    pub led_here: bool,
    /// Why it does not run here, if it does not.
    pub stopped: Option<Arc<str>>,
    /// Partitions with records.
    pub partitions: usize,
    /// Bytes of batches that wait for the sequencer.
    pub queued_bytes: usize,
    /// Index of the last applied entry.
    pub applied_index: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_made_from_random_bits_are_uuids_of_version_4() {
        for random in [0, u128::MAX, 0x1234_5678_9abc_def0_1234_5678_9abc_def0] {
            let id = uuid_v4(random);
            assert_eq!(id.get_version_num(), 4);
            assert_eq!(
                id.get_variant(),
                meridian_types::Uuid::from_u128(0x2 << 62).get_variant()
            );
        }
    }
}
