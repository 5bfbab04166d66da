//! One data shard on this node.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use meridian_journal::{Disk, Journal};
use meridian_raft::{CheckpointStore, Group, GroupSettings, Leadership, StartError};
use meridian_state::{Command, Outcome};
use meridian_types::{LeaderEpoch, NodeId, Offset, Partition, RegionEpoch, ShardId};
use meridian_wire::batch::BatchHeader;
use tokio::sync::{Notify, watch};

use crate::append::{Append, AppendQueue, Appender};
use crate::errors::{AppendError, ControlError, DeleteRecordsError, ReadError};
use crate::machine::{ShardMachine, StateGuard};
use crate::read::{Batches, Positions, read_chunks, trim};
use crate::region;
use crate::start::{Clock, RegionSettings};

/// A shard that started, or the reason why it did not: one damaged shard does not stop the node.
pub(crate) struct Shard {
    id: ShardId,
    journal: Journal,
    machine: Arc<ShardMachine>,
    queue: Arc<AppendQueue>,
    region_epoch: watch::Receiver<RegionEpoch>,
    running: Result<Group, Arc<str>>,
}

/// What every shard of a node shares.
#[derive(Clone)]
pub(crate) struct Shared {
    pub(crate) journal: Journal,
    pub(crate) checkpoints: Arc<dyn Disk>,
    pub(crate) clock: Clock,
    pub(crate) region_epoch: watch::Receiver<RegionEpoch>,
}

pub(crate) fn group_settings(settings: &RegionSettings, shard: ShardId) -> GroupSettings {
    GroupSettings {
        shard,
        node: settings.node,
        founders: BTreeSet::from([settings.node]),
        heartbeat_interval: settings.heartbeat_interval,
        election_timeout: settings.election_timeout,
    }
}

impl Shard {
    pub(crate) async fn start(id: ShardId, settings: &RegionSettings, shared: Shared) -> Self {
        let machine = Arc::new(ShardMachine::new(id));
        let queue = Arc::new(AppendQueue::new(settings.shard.queue_bytes_max));
        let running = Self::start_group(id, settings, &shared, &machine).await;
        let running = match running {
            Ok(group) => {
                let appender = Appender {
                    group: group.clone(),
                    machine: Arc::clone(&machine),
                    queue: Arc::clone(&queue),
                    settings: settings.shard.clone(),
                    region_epoch: shared.region_epoch.clone(),
                    clock: shared.clock,
                };
                tokio::spawn(appender.run());
                Ok(group)
            }
            Err(error) => {
                tracing::error!(shard = %id, %error, "the shard does not start on this node");
                Err(error.to_string().into())
            }
        };
        Self {
            id,
            journal: shared.journal,
            machine,
            queue,
            region_epoch: shared.region_epoch,
            running,
        }
    }

    async fn start_group(
        id: ShardId,
        settings: &RegionSettings,
        shared: &Shared,
        machine: &Arc<ShardMachine>,
    ) -> Result<Group, StartError> {
        if let Some(damage) = shared.journal.log(id).damaged {
            return Err(StartError::Recovery {
                shard: id,
                reason: format!(
                    "{} (journal file {}, position {})",
                    damage.reason, damage.file, damage.position
                ),
            });
        }
        let checkpoints = CheckpointStore::new(Arc::clone(&shared.checkpoints), id);
        let machine = Arc::clone(machine);
        Group::start(
            group_settings(settings, id),
            shared.journal.clone(),
            checkpoints,
            machine,
        )
        .await
    }

    pub(crate) fn id(&self) -> ShardId {
        self.id
    }

    pub(crate) fn journal(&self) -> &Journal {
        &self.journal
    }

    pub(crate) fn group(&self) -> Result<&Group, Arc<str>> {
        self.running.as_ref().map_err(Arc::clone)
    }

    pub(crate) fn queued_bytes(&self) -> usize {
        self.queue.bytes()
    }

    pub(crate) fn applied_bytes(&self) -> u64 {
        self.machine.applied_bytes()
    }

    pub(crate) fn sweep_waiters(&self) {
        self.machine.waiters.sweep();
    }

    pub(crate) fn wake_all(&self) {
        self.machine.waiters.wake_all();
    }

    /// The leader as far as this node knows.
    pub(crate) fn leader(&self, here: NodeId) -> Option<NodeId> {
        match *self.running.as_ref().ok()?.leadership().borrow() {
            Leadership::Unknown => None,
            Leadership::Following { leader } => Some(leader),
            Leadership::Leading { .. } => Some(here),
        }
    }

    /// The epoch under which this node leads; `None` when it does not.
    pub(crate) fn leading(&self) -> Option<LeaderEpoch> {
        match *self.running.as_ref().ok()?.leadership().borrow() {
            Leadership::Leading { term } => {
                let elections = u32::try_from(term.0).unwrap_or(u32::MAX);
                Some(LeaderEpoch::new(*self.region_epoch.borrow(), elections))
            }
            _ => None,
        }
    }

    fn lead(&self) -> Result<LeaderEpoch, ReadError> {
        match &self.running {
            Err(reason) => Err(ReadError::Storage {
                reason: reason.to_string(),
            }),
            Ok(group) => self.leading().ok_or_else(|| {
                let leader = match *group.leadership().borrow() {
                    Leadership::Following { leader } => Some(leader),
                    _ => None,
                };
                ReadError::NotLeader { leader }
            }),
        }
    }

    pub(crate) fn append(&self, partition: Partition, batch: BytesMut, header: BatchHeader) -> Append {
        match &self.running {
            Ok(_) => self.queue.push(partition, batch, header),
            Err(reason) => Append::refused(AppendError::Storage {
                reason: reason.to_string(),
            }),
        }
    }

    pub(crate) fn state(&self) -> Result<StateGuard<'_>, ReadError> {
        self.lead()?;
        Ok(self.machine.state())
    }

    /// The applied state whether this node leads or not; for metrics and maintenance.
    pub(crate) fn applied_state(&self) -> StateGuard<'_> {
        self.machine.state()
    }

    pub(crate) fn positions(&self, partition: Partition) -> Result<Positions, ReadError> {
        let leader_epoch = self.lead()?;
        Ok(positions(&self.machine.state(), partition, leader_epoch))
    }

    pub(crate) async fn read(
        &self,
        partition: Partition,
        from: Offset,
        bytes_max: usize,
    ) -> Result<Batches, ReadError> {
        let leader_epoch = self.lead()?;
        let (positions, chunks) = {
            let state = self.machine.state();
            let positions = positions(&state, partition, leader_epoch);
            if from < positions.log_start_offset || from > positions.high_watermark {
                return Err(ReadError::OffsetOutOfRange { positions });
            }
            let chunks = state
                .partition(partition)
                .map(|partition| partition.spans(from, bytes_max as u64))
                .transpose()
                .map_err(|_| ReadError::OffsetOutOfRange { positions })?;
            (positions, chunks.unwrap_or_default())
        };
        let records = read_chunks(&self.journal, self.id, &chunks).await?;
        let records = trim(records, from, bytes_max)?;
        let bytes = records.iter().map(Bytes::len).sum();
        Ok(Batches {
            records,
            bytes,
            positions,
        })
    }

    /// Wakes `waiter` when the partition moves past `seen`; at once if it has.
    pub(crate) fn watch(&self, partition: Partition, seen: Offset, waiter: &Arc<Notify>) {
        self.machine.waiters.add(partition, waiter);
        let end = self
            .machine
            .state()
            .partition(partition)
            .map_or(Offset(0), |p| p.high_watermark());
        if end > seen || self.leading().is_none() {
            waiter.notify_one();
        }
    }

    pub(crate) fn epoch_at(
        &self,
        partition: Partition,
        offset: Offset,
    ) -> Result<Option<LeaderEpoch>, ReadError> {
        Ok(self
            .state()?
            .partition(partition)
            .and_then(|p| p.epoch_at(offset)))
    }

    /// Proposes a command under the present leadership and waits for its outcome.
    pub(crate) async fn propose(&self, command: &Command) -> Result<Outcome, ControlError> {
        let group = self.group().map_err(|reason| ControlError::Storage {
            reason: reason.to_string(),
        })?;
        region::propose(group, command.encode()).await
    }

    pub(crate) async fn delete_records(
        &self,
        partition: Partition,
        before: Option<Offset>,
    ) -> Result<Offset, DeleteRecordsError> {
        let positions = self.positions(partition)?;
        let before = before.unwrap_or(positions.high_watermark);
        if before > positions.high_watermark {
            return Err(ReadError::OffsetOutOfRange { positions }.into());
        }
        if before > positions.log_start_offset {
            let command = Command::SetLogStart {
                starts: vec![(partition, before)],
            };
            self.propose(&command).await.map_err(AppendError::from)?;
        }
        Ok(self.positions(partition)?.log_start_offset)
    }
}

fn positions(state: &StateGuard<'_>, partition: Partition, leader_epoch: LeaderEpoch) -> Positions {
    let zero = Offset(0);
    let (log_start_offset, last_stable_offset, high_watermark) =
        state.partition(partition).map_or((zero, zero, zero), |p| {
            (p.log_start_offset(), p.last_stable_offset(), p.high_watermark())
        });
    Positions {
        log_start_offset,
        last_stable_offset,
        high_watermark,
        leader_epoch,
    }
}
