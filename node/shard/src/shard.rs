//! One data shard as this node sees it: whether it has a replica here or not.

use std::sync::Arc;

use arc_swap::ArcSwap;
use bytes::{Bytes, BytesMut};
use meridian_journal::Journal;
use meridian_raft::{Group, Leadership};
use meridian_state::{Chunk, Command, Outcome};
use meridian_types::{LeaderEpoch, Offset, Partition, RaftIndex, RegionEpoch, ShardId, Term};
use meridian_wire::batch::BatchHeader;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::append::{Append, AppendQueue};
use crate::errors::{AppendError, ControlError, DeleteRecordsError, ReadError};
use crate::machine::{ShardMachine, StateGuard};
use crate::propose;
use crate::read::{Batches, Positions, ReadFrom, read_chunks, storage, trim};
use crate::tier::Tier;
use crate::writing::Writing;

/// A shard of the region.
pub(crate) struct Shard {
    id: ShardId,
    journal: Journal,
    machine: Arc<ShardMachine>,
    queue: Arc<AppendQueue>,
    /// The region's bucket, if this node was told of one.
    tier: Option<Arc<Tier>>,
    replica: ArcSwap<Replica>,
}

/// What this node has of a shard. One damaged shard does not stop the node.
pub(crate) enum Replica {
    /// Nothing: it is placed on other nodes.
    Absent,
    /// Its group runs.
    Running(Running),
    /// It lost something. It must not vote as who it was: its leader takes it out, then it begins anew.
    Damaged(Arc<str>),
    /// It does not run until the node is started again.
    Failed(Arc<str>),
}

/// A replica that runs.
pub(crate) struct Running {
    pub(crate) group: Group,
    /// The term under which the pacemaker lets this node speak for the shard: it hears a quorum, and hands
    /// nothing over.
    pub(crate) led: watch::Sender<Option<Term>>,
    /// When it was started.
    pub(crate) since: Instant,
    /// Ends the replica's tasks.
    pub(crate) stop: CancellationToken,
}

impl Running {
    /// Who leads, for everyone who asks this node.
    pub(crate) fn leadership(&self) -> Leadership {
        let leadership = *self.group.leadership().borrow();
        match leadership {
            Leadership::Leading { term } if *self.led.borrow() != Some(term) => Leadership::Unknown,
            leadership => leadership,
        }
    }
}

impl Shard {
    pub(crate) fn new(
        id: ShardId,
        journal: Journal,
        queue_bytes_max: usize,
        writing: Writing,
        tier: Option<Arc<Tier>>,
    ) -> Self {
        Self {
            id,
            journal,
            machine: Arc::new(ShardMachine::new(id, writing)),
            queue: Arc::new(AppendQueue::new(queue_bytes_max)),
            tier,
            replica: ArcSwap::from_pointee(Replica::Absent),
        }
    }

    pub(crate) fn id(&self) -> ShardId {
        self.id
    }

    pub(crate) fn journal(&self) -> &Journal {
        &self.journal
    }

    pub(crate) fn tier(&self) -> Option<&Tier> {
        self.tier.as_deref()
    }

    pub(crate) fn shared_tier(&self) -> Option<Arc<Tier>> {
        self.tier.clone()
    }

    pub(crate) fn machine(&self) -> &Arc<ShardMachine> {
        &self.machine
    }

    pub(crate) fn queue(&self) -> &Arc<AppendQueue> {
        &self.queue
    }

    pub(crate) fn writing(&self) -> &Writing {
        &self.machine.writing
    }

    pub(crate) fn replica(&self) -> Arc<Replica> {
        self.replica.load_full()
    }

    /// Puts another replica in the place of the present one, whose tasks end.
    pub(crate) fn set_replica(&self, replica: Replica) {
        if let Replica::Running(before) = &*self.replica.swap(Arc::new(replica)) {
            before.stop.cancel();
        }
        self.machine.waiters.wake_all();
    }

    pub(crate) fn group(&self) -> Option<Group> {
        match &**self.replica.load() {
            Replica::Running(running) => Some(running.group.clone()),
            _ => None,
        }
    }

    /// Why there should be a replica here and is none that runs.
    pub(crate) fn stopped(&self) -> Option<Arc<str>> {
        match &**self.replica.load() {
            Replica::Damaged(reason) | Replica::Failed(reason) => Some(Arc::clone(reason)),
            Replica::Absent | Replica::Running(_) => None,
        }
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

    /// Who leads, as the replica here knows; unknown where there is none.
    pub(crate) fn leadership(&self) -> Leadership {
        match &**self.replica.load() {
            Replica::Running(running) => running.leadership(),
            _ => Leadership::Unknown,
        }
    }

    /// The epoch under which this node leads the partitions of the shard; `None` when it does not, or another region owns
    /// them.
    pub(crate) fn leading(&self) -> Option<LeaderEpoch> {
        self.led().filter(|_| self.writing().is_open())
    }

    /// The epoch under which this node leads the group, whatever the region may do with it; `None` when it does not.
    pub(crate) fn led(&self) -> Option<LeaderEpoch> {
        match self.leadership() {
            Leadership::Leading { term } => Some(self.epoch(term)),
            _ => None,
        }
    }

    /// The epoch of a term of this shard.
    pub(crate) fn epoch(&self, term: Term) -> LeaderEpoch {
        epoch(self.writing().region_epoch(), term)
    }

    /// The epoch that readers are told of a term of this shard: where another region owns, that of its leader.
    fn read_epoch(&self, term: Term) -> LeaderEpoch {
        match self.writing().speaks() {
            true => self.epoch(term),
            false => self.writing().owner_epoch(),
        }
    }

    /// The epoch that a read speaks under, or why this node does not serve it.
    fn serve(&self, from: ReadFrom) -> Result<LeaderEpoch, ReadError> {
        let leadership = match &**self.replica.load() {
            Replica::Running(running) => running.leadership(),
            Replica::Damaged(reason) | Replica::Failed(reason) => {
                return Err(ReadError::Storage {
                    reason: reason.to_string(),
                });
            }
            Replica::Absent => return Err(ReadError::NotLeader { leader: None }),
        };
        match (leadership, from) {
            (Leadership::Leading { term }, ReadFrom::Leader) if self.writing().speaks() => {
                Ok(self.epoch(term))
            }
            // The leader is in another region.
            (Leadership::Leading { .. }, ReadFrom::Leader) => Err(ReadError::NotLeader { leader: None }),
            (Leadership::Leading { term } | Leadership::Following { term, .. }, ReadFrom::Any) => {
                Ok(self.read_epoch(term))
            }
            (Leadership::Unknown, ReadFrom::Any) => {
                let group = self.group().ok_or(ReadError::NotLeader { leader: None })?;
                let term = group.applied().borrow().term;
                Ok(self.read_epoch(term))
            }
            (Leadership::Following { leader, .. }, ReadFrom::Leader) => {
                Err(ReadError::NotLeader { leader: Some(leader) })
            }
            (Leadership::Unknown, ReadFrom::Leader) => Err(ReadError::NotLeader { leader: None }),
        }
    }

    pub(crate) fn append(&self, partition: Partition, batch: BytesMut, header: BatchHeader) -> Append {
        match &**self.replica.load() {
            Replica::Running(_) => self.queue.push(partition, batch, header),
            Replica::Absent => Append::refused(AppendError::NotLeader { leader: None }),
            Replica::Damaged(reason) | Replica::Failed(reason) => Append::refused(AppendError::Storage {
                reason: reason.to_string(),
            }),
        }
    }

    pub(crate) fn state(&self, from: ReadFrom) -> Result<StateGuard<'_>, ReadError> {
        self.serve(from)?;
        Ok(self.machine.state())
    }

    /// The applied state whether this node leads or not; for metrics and maintenance.
    pub(crate) fn applied_state(&self) -> StateGuard<'_> {
        self.machine.state()
    }

    pub(crate) fn positions(&self, partition: Partition, from: ReadFrom) -> Result<Positions, ReadError> {
        let leader_epoch = self.serve(from)?;
        Ok(positions(&self.machine.state(), partition, leader_epoch))
    }

    pub(crate) async fn read(
        &self,
        partition: Partition,
        from: Offset,
        bytes_max: usize,
        reader: ReadFrom,
    ) -> Result<Batches, ReadError> {
        let leader_epoch = self.serve(reader)?;
        let leads = self.led().is_some() && self.writing().speaks();
        let (positions, chunks, tiered) = {
            let state = self.machine.state();
            let positions = positions(&state, partition, leader_epoch);
            if from > positions.high_watermark && !leads {
                return Err(ReadError::Behind { positions });
            }
            if from < positions.log_start_offset || from > positions.high_watermark {
                return Err(ReadError::OffsetOutOfRange { positions });
            }
            let chunks = state
                .partition(partition)
                .map(|partition| partition.spans(from, bytes_max as u64))
                .transpose()
                .map_err(|_| ReadError::OffsetOutOfRange { positions })?;
            (positions, chunks.unwrap_or_default(), state.manifest().through())
        };
        let records = match self.read_hot(&chunks, tiered, leads).await? {
            Some(records) => trim(records, from, bytes_max)?,
            None if from == positions.high_watermark => Vec::new(),
            None => match self.read_cold(partition, from, bytes_max).await? {
                Some(records) => records,
                None if leads => return Err(storage(&"neither the journal nor the bucket has the records")),
                None => return Err(ReadError::NotHeld { positions }),
            },
        };
        let bytes = records.iter().map(Bytes::len).sum();
        Ok(Batches {
            records,
            bytes,
            positions,
        })
    }

    /// The bytes of chunks, as far as the journal has them; `None` when it does not have the first, or there is none.
    /// The bucket has all entries up to `tiered`.
    async fn read_hot(
        &self,
        chunks: &[Chunk],
        tiered: RaftIndex,
        leads: bool,
    ) -> Result<Option<Vec<Bytes>>, ReadError> {
        let Some(first) = chunks.first() else {
            return Ok(None);
        };
        // A replica that was made from a checkpoint learns of records that its log never had; the commands that
        // trimmed or tiered them are further on in the log.
        if !leads && self.journal.term_of(self.id, first.index).is_none() {
            return Ok(None);
        }
        read_chunks(&self.journal, self.id, chunks, tiered).await
    }

    /// Wakes `waiter` when the partition moves past `seen`; at once if it has, or if this node does not serve it.
    pub(crate) fn watch(&self, partition: Partition, seen: Offset, reader: ReadFrom, waiter: &Arc<Notify>) {
        self.machine.waiters.add(partition, waiter);
        let end = self
            .machine
            .state()
            .partition(partition)
            .map_or(Offset(0), |p| p.high_watermark());
        if end > seen || self.serve(reader).is_err() {
            waiter.notify_one();
        }
    }

    pub(crate) fn epoch_at(
        &self,
        partition: Partition,
        offset: Offset,
        from: ReadFrom,
    ) -> Result<Option<LeaderEpoch>, ReadError> {
        Ok(self
            .state(from)?
            .partition(partition)
            .and_then(|p| p.epoch_at(offset)))
    }

    /// Proposes a command under the present leadership, or only under that of `epoch`, and waits for its
    /// outcome.
    pub(crate) async fn propose(
        &self,
        command: &Command,
        epoch: Option<LeaderEpoch>,
    ) -> Result<Outcome, ControlError> {
        let (group, leadership) = match &*self.replica() {
            Replica::Running(running) => (running.group.clone(), running.leadership()),
            Replica::Absent => return Err(ControlError::NotLeader { leader: None }),
            Replica::Damaged(reason) | Replica::Failed(reason) => {
                return Err(ControlError::Storage {
                    reason: reason.to_string(),
                });
            }
        };
        let term = match leadership {
            Leadership::Leading { term } if epoch.is_none_or(|epoch| epoch == self.epoch(term)) => term,
            Leadership::Leading { .. } | Leadership::Unknown => {
                return Err(ControlError::NotLeader { leader: None });
            }
            Leadership::Following { leader, .. } => {
                return Err(ControlError::NotLeader { leader: Some(leader) });
            }
        };
        let (_, outcome) = propose::propose(&group, term, command.encode()).await?;
        match outcome {
            // Ownership went while it was on its way: it changed nothing.
            Outcome::NotOwner(_) => Err(ControlError::NotLeader { leader: None }),
            outcome => Ok(outcome),
        }
    }

    pub(crate) async fn delete_records(
        &self,
        partition: Partition,
        before: Option<Offset>,
    ) -> Result<Offset, DeleteRecordsError> {
        let positions = self.positions(partition, ReadFrom::Leader)?;
        let before = before.unwrap_or(positions.high_watermark);
        if before > positions.high_watermark {
            return Err(ReadError::OffsetOutOfRange { positions }.into());
        }
        if before > positions.log_start_offset {
            let command = Command::SetLogStart {
                starts: vec![(partition, before)],
            };
            self.propose(&command, None).await.map_err(AppendError::from)?;
        }
        Ok(self.positions(partition, ReadFrom::Leader)?.log_start_offset)
    }
}

/// The epoch of a term. A term beyond an epoch's bits counts as the last that fits: it came from another
/// node's message, and no group ever has a million elections.
pub(crate) fn epoch(region: RegionEpoch, term: Term) -> LeaderEpoch {
    let last = (1 << LeaderEpoch::ELECTION_BITS) - 1;
    LeaderEpoch::new(region, u32::try_from(term.0).unwrap_or(last).min(last))
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
