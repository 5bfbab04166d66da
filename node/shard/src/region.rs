//! The region as this node sees it: what the broker holds.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Deref;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::BytesMut;
use meridian_controller::{Command as ControlCommand, Controller, Outcome as ControlOutcome};
use meridian_journal::{Disk, Journal};
use meridian_peer::{HostPort, Peers};
use meridian_raft::{Group, Leadership};
use meridian_state::{Command, Outcome, PartitionState, Producer};
use meridian_types::{
    LeaderEpoch, NodeId, Offset, Partition, RegionEpoch, RegionNumber, ShardId, ShardMap, Term, TimestampMs,
    TopicId, Uuid, shard_of_name,
};
use meridian_wire::batch::BatchHeader;
use parking_lot::Mutex;
use tokio::sync::{Notify, OnceCell, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::append::Append;
use crate::control::ControlMachine;
use crate::errors::{ControlError, DeleteRecordsError, ReadError};
use crate::hosting::Damaged;
use crate::join::SeedAnswer;
use crate::machine::StateGuard;
use crate::message::{JoinInfo, ReplicaState};
use crate::mirror::{self, Mirror};
use crate::offsets::{FoundOffset, OffsetSpec};
use crate::pacing::{Known, Pacing};
use crate::read::{Batches, Positions, ReadFrom};
use crate::room;
use crate::settings::{Clock, Random, RegionSettings};
use crate::shard::{Replica, Shard, epoch};
use crate::tier::Tier;
use crate::writing::Rule;

/// How long a checkpoint may take when a node stops.
const SHUTDOWN_CHECKPOINT_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a stop waits for tasks that may hold the journal. They end within moments, unless a disk does not answer.
const SHUTDOWN_TASKS_TIMEOUT: Duration = Duration::from_secs(5);

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
    pub(crate) checkpoints: Arc<dyn Disk>,
    pub(crate) peers: Peers,
    pub(crate) pacing: Pacing,
    pub(crate) control: Arc<ControlMachine>,
    pub(crate) control_group: Group,
    /// Where others reach this node; set once it listens.
    pub(crate) address: OnceLock<HostPort>,
    /// The other nodes that the controller's log here names, where no facts were known when this node started.
    pub(crate) logged_nodes: BTreeMap<NodeId, Known>,
    /// The id of this node's bucket, once it was asked for.
    pub(crate) bucket_id: OnceCell<Uuid>,
    /// What seeds have said of themselves, until the region is founded.
    pub(crate) introduced: Mutex<BTreeMap<NodeId, SeedAnswer>>,
    /// Set once the founding is known.
    pub(crate) shards: OnceLock<Shards>,
    /// What the controller decided last about ownership; for shards without a replica here.
    pub(crate) rule: watch::Sender<Rule>,
    /// Woken when a shard begins or ends to take writes here.
    pub(crate) writing_changed: Arc<Notify>,
    /// The other regions; set once the founding is known.
    pub(crate) mirror: OnceLock<Mirror>,
    pub(crate) leadership: watch::Sender<LeadershipView>,
    /// Replicas that their nodes have reported as damaged, of shards led here.
    pub(crate) damaged: Mutex<Damaged>,
    pub(crate) clock: Clock,
    pub(crate) random: Random,
    /// Wakes the maintenance task before its time.
    pub(crate) maintain: Notify,
    /// What a stop waits for: tasks that end when the region stops, and may hold the journal until then.
    pub(crate) tasks: TaskTracker,
    pub(crate) stop: CancellationToken,
}

/// The shards of the region.
pub(crate) struct Shards {
    /// By number.
    pub(crate) all: Vec<Shard>,
    /// How partitions are dealt to them.
    pub(crate) map: ShardMap,
    /// Stands for the shards of other regions' own topics: it has no replica here, ever.
    pub(crate) elsewhere: Shard,
    /// The epoch that the region was founded with: that of topics which stay here.
    pub(crate) founded: RegionEpoch,
}

impl Region {
    /// Read lock on the controller's state. Hold it briefly and never across an await.
    pub fn controller(&self) -> impl Deref<Target = Controller> + '_ {
        self.inner.control.controller()
    }

    /// Proposes to the controller's group, wherever it is led, and waits until it is applied here: whoever
    /// looks at [`Self::controller`] afterwards sees what it did.
    pub async fn control(&self, command: ControlCommand) -> Result<ControlOutcome, ControlError> {
        self.inner.control(&command).await
    }

    /// This node.
    pub fn node_id(&self) -> NodeId {
        self.inner.node()
    }

    /// Where the other nodes reach this one.
    pub fn peer_address(&self) -> HostPort {
        self.inner.address()
    }

    /// Calls between nodes, for their figures.
    pub fn peers(&self) -> &Peers {
        &self.inner.peers
    }

    /// Whether this node was told of the region's bucket.
    pub fn has_bucket(&self) -> bool {
        self.inner.settings.bucket.is_some()
    }

    /// Kafka's cluster id.
    pub fn cluster_id(&self) -> String {
        self.controller()
            .founding()
            .map(|founding| founding.cluster_id.clone())
            .unwrap_or_default()
    }

    /// Data shards that all regions have; groups of consumers lie in them.
    pub fn shards(&self) -> u32 {
        self.shard_map().shared_count()
    }

    /// How partitions are dealt to the region's shards.
    pub fn shard_map(&self) -> ShardMap {
        self.inner.shard_map()
    }

    /// The node that leads a shard, whether this node holds a replica or not; `None` while nobody alive does.
    pub fn leader_of(&self, shard: ShardId) -> Option<NodeId> {
        Some(self.inner.pacing.view().leaders.get(&shard)?.node)
    }

    /// The epoch of a shard's present leader, as [`Self::leader_of`] names it.
    pub fn leader_epoch_of(&self, shard: ShardId) -> Option<LeaderEpoch> {
        let term = self.inner.pacing.view().leaders.get(&shard)?.term;
        Some(self.inner.epoch_of(shard, term))
    }

    /// A shard's present leader with its epoch, both of one moment: what clients are told.
    pub fn leader_and_epoch_of(&self, shard: ShardId) -> Option<(NodeId, LeaderEpoch)> {
        let leader = *self.inner.pacing.view().leaders.get(&shard)?;
        Some((leader.node, self.inner.epoch_of(shard, leader.term)))
    }

    /// The node that leads the controller's group, as far as this node knows.
    pub fn controller_node(&self) -> Option<NodeId> {
        self.leader_of(ShardId::CONTROLLER)
    }

    /// The nodes that this node hears, itself among them.
    pub fn alive_nodes(&self) -> BTreeSet<NodeId> {
        self.inner.pacing.view().alive.clone()
    }

    /// The shard that holds a partition; [`ShardId::ELSEWHERE`], which nobody leads here, where its topic stays in another
    /// region.
    pub fn shard_of(&self, partition: Partition) -> ShardId {
        self.shard_map().of(partition)
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
        self.inner.leadership.subscribe()
    }

    /// A fresh id of a topic, which may be to stay in one region.
    pub fn new_topic_id(&self, home: Option<RegionNumber>) -> TopicId {
        TopicId::random((self.inner.random)(), home)
    }

    /// This region's number.
    pub fn number(&self) -> RegionNumber {
        self.inner.number()
    }

    /// The node's wall clock.
    pub fn now(&self) -> TimestampMs {
        (self.inner.clock)()
    }

    /// Queues one validated batch, in call order. The caller has checked that the topic exists.
    pub fn append(&self, partition: Partition, batch: BytesMut, header: BatchHeader) -> Append {
        self.of(partition).append(partition, batch, header)
    }

    /// What a partition holds. One without records reads as empty. From a replica: what it has so far.
    pub fn positions(&self, partition: Partition, from: ReadFrom) -> Result<Positions, ReadError> {
        self.of(partition).positions(partition, from)
    }

    /// Whole committed batches from the one that contains `from`, undecoded.
    ///
    /// `bytes_max` is soft: the first batch is returned whole (KIP-74). Empty at the high watermark.
    /// Errors: `OffsetOutOfRange` outside `log_start_offset..=high_watermark`; from a replica that is not the
    /// leader `Behind` above it, and `NotHeld` where its copy begins later than the partition.
    pub async fn read(
        &self,
        partition: Partition,
        from: Offset,
        bytes_max: usize,
        reader: ReadFrom,
    ) -> Result<Batches, ReadError> {
        self.of(partition).read(partition, from, bytes_max, reader).await
    }

    /// Waits until everything is applied that the log of a shard which this node leads has now, at most `timeout`: whatever
    /// was committed, and shown by a follower that was faster, can be read here then. `false` if it took longer, or the
    /// leadership is on its way to another node.
    pub async fn catch_up(&self, shard: ShardId, timeout: Duration) -> bool {
        let Some(group) = self.inner.shard(shard).group() else {
            return true;
        };
        let Some(last) = group.progress().and_then(|progress| progress.last) else {
            return false;
        };
        let mut applied = group.applied();
        let reached = applied.wait_for(|applied| applied.index >= last);
        tokio::time::timeout(timeout, reached).await.is_ok()
    }

    /// Wakes `waiter` once when the partition moves past `seen`, its log start moves, or the leader
    /// changes; at once if it already has. Forgotten when the `Notify` is dropped.
    pub fn watch(&self, partition: Partition, seen: Offset, reader: ReadFrom, waiter: &Arc<Notify>) {
        self.of(partition).watch(partition, seen, reader, waiter);
    }

    /// Finds an offset by name or time; `None` when no record fits. Asks the leader.
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
        from: ReadFrom,
    ) -> Result<Option<(LeaderEpoch, Offset)>, ReadError> {
        let shard = self.of(partition);
        let current = shard.positions(partition, from)?.leader_epoch;
        let state = shard.state(from)?;
        Ok(match state.partition(partition) {
            Some(partition) => partition.end_offset_for_leader(epoch, current),
            None => (epoch <= current).then_some((epoch, Offset(0))),
        })
    }

    /// The epoch that an offset was appended under.
    pub fn epoch_at(
        &self,
        partition: Partition,
        offset: Offset,
        from: ReadFrom,
    ) -> Result<Option<LeaderEpoch>, ReadError> {
        self.of(partition).epoch_at(partition, offset, from)
    }

    /// Bytes of batches that the partition holds here.
    pub fn size_bytes(&self, partition: Partition) -> u64 {
        self.of(partition)
            .applied_state()
            .partition(partition)
            .map_or(0, PartitionState::size_bytes)
    }

    /// The idempotent producers that a partition remembers.
    pub fn producers(&self, partition: Partition) -> Result<Vec<Producer>, ReadError> {
        let state = self.of(partition).state(ReadFrom::Leader)?;
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

    /// Proposes a command to a data shard that this node leads, and waits until it is applied here.
    pub async fn propose(&self, shard: ShardId, command: Command) -> Result<Outcome, ControlError> {
        self.inner.propose(shard, &command, None).await
    }

    /// The same, only under the leadership of `epoch`: what was decided under it never commits under a later
    /// one. `NotLeader` is certain.
    pub async fn propose_at(
        &self,
        shard: ShardId,
        epoch: LeaderEpoch,
        command: Command,
    ) -> Result<Outcome, ControlError> {
        self.inner.propose(shard, &command, Some(epoch)).await
    }

    /// Read access to the applied state of a shard that this node leads. Hold it briefly and never
    /// across an await.
    pub fn state(&self, shard: ShardId) -> Result<StateGuard<'_>, ReadError> {
        self.inner.shard(shard).state(ReadFrom::Leader)
    }

    /// Read access to the applied state of a shard's replica on this node, led here or not; empty where there is
    /// none.
    pub fn applied_state(&self, shard: ShardId) -> StateGuard<'_> {
        self.inner.shard(shard).applied_state()
    }

    /// Gives every leadership of this node away that another live voter can take, and takes none any more: for
    /// planned stops. Returns how many shards it still leads.
    pub async fn hand_over(&self, timeout: Duration) -> usize {
        self.inner.pacing.hand_over(timeout).await
    }

    /// Leaves the other nodes, makes checkpoints so that the next start is quick, and stops the groups.
    pub async fn shutdown(&self) {
        self.inner.stop.cancel();
        // Nobody is to ask groups that are about to end.
        mirror::stop(&self.inner);
        self.inner.peers.shutdown();
        for shard in self.inner.shards() {
            if let Replica::Running(running) = &*shard.replica() {
                running.stop.cancel();
                if let Err(error) =
                    tokio::time::timeout(SHUTDOWN_CHECKPOINT_TIMEOUT, running.group.checkpoint())
                        .await
                        .unwrap_or_else(|_| {
                            Err(meridian_raft::ProposeError::Unknown {
                                reason: "it took too long".to_owned(),
                            })
                        })
                {
                    tracing::warn!(shard = %shard.id(), %error, "no checkpoint at shutdown; the next start replays more");
                }
                running.group.shutdown().await;
            }
        }
        let _ =
            tokio::time::timeout(SHUTDOWN_CHECKPOINT_TIMEOUT, self.inner.control_group.checkpoint()).await;
        self.inner.control_group.shutdown().await;
        self.inner.peers.stopped().await;
        self.inner.tasks.close();
        let tasks = self.inner.tasks.wait();
        if tokio::time::timeout(SHUTDOWN_TASKS_TIMEOUT, tasks).await.is_err() {
            let left = self.inner.tasks.len();
            tracing::warn!(
                left,
                "tasks still hold the journal; a start in this process may have to wait for them"
            );
        }
        self.inner.journal.shutdown();
    }

    fn of(&self, partition: Partition) -> &Shard {
        self.inner.shard(self.shard_of(partition))
    }
}

impl Inner {
    pub(crate) fn node(&self) -> NodeId {
        self.settings.peer.node
    }

    /// Where others reach this node.
    pub(crate) fn address(&self) -> HostPort {
        self.address
            .get()
            .cloned()
            .unwrap_or_else(|| HostPort::new(String::new(), 0))
    }

    /// The region's bucket, if this node was told of one and the founding is known.
    pub(crate) fn tier(&self) -> Option<Arc<Tier>> {
        self.shards().first()?.shared_tier()
    }

    /// All data shards; none before the founding is known.
    pub(crate) fn shards(&self) -> &[Shard] {
        self.shards.get().map_or(&[], |shards| &shards.all)
    }

    /// Those of them that all regions have.
    pub(crate) fn shared_shards(&self) -> &[Shard] {
        let shared = self.shard_map().shared_count() as usize;
        &self.shards()[..shared]
    }

    /// How partitions are dealt to the shards; to none before the founding is known.
    pub(crate) fn shard_map(&self) -> ShardMap {
        self.shards.get().map_or(ShardMap::shared(0), |shards| shards.map)
    }

    pub(crate) fn shard(&self, shard: ShardId) -> &Shard {
        // A `Region` is only handed out once there are shards.
        let shards = self.shards.get().expect("the founding is known");
        shards.all.get(shard.0 as usize).unwrap_or(&shards.elsewhere)
    }

    pub(crate) async fn propose(
        &self,
        shard: ShardId,
        command: &Command,
        epoch: Option<LeaderEpoch>,
    ) -> Result<Outcome, ControlError> {
        self.pacing.note_activity(shard);
        if command.is_of_clients()
            && let Some(group) = self.shard(shard).group()
        {
            // However long it is, it is short beside what is left.
            room::admit_records(&group, &self.pacing.view(), 0).map_err(|refusal| ControlError::Storage {
                reason: refusal.to_string(),
            })?;
        }
        self.shard(shard).propose(command, epoch).await
    }

    /// What this node says of itself to seeds and to those that ask it as a seed.
    pub(crate) fn join_info(&self) -> JoinInfo {
        JoinInfo {
            region: self.settings.peer.region.clone(),
            address: self.address(),
            is_founded: self.is_initialized(),
            seeds: self.settings.seeds.clone(),
            rack: self.settings.rack.clone(),
            version_max: self.settings.feature_level_max,
        }
    }

    /// The epoch of a term of a shard, whether it has a replica here or not.
    pub(crate) fn epoch_of(&self, shard: ShardId, term: Term) -> LeaderEpoch {
        match self.shards().get(shard.0 as usize) {
            Some(shard) if shard.group().is_some() => shard.epoch(term),
            _ => match self.shards.get() {
                Some(shards) if shards.map.is_home(shard) => epoch(shards.founded, term),
                _ => epoch(self.rule.borrow().region_epoch, term),
            },
        }
    }

    /// Number of this region.
    pub(crate) fn number(&self) -> RegionNumber {
        if let Some(mirror) = self.mirror.get() {
            return mirror.own;
        }
        let controller = self.control.controller();
        match (controller.is_geo(), &self.settings.geo) {
            (false, Some(geo)) => geo.number,
            _ => controller.region_number(),
        }
    }

    /// The other regions, once the founding is known.
    pub(crate) fn mirror(&self) -> Option<&Mirror> {
        self.mirror.get()
    }

    /// Tells every shard that all regions have what the controller has decided about ownership. The others are this region's
    /// own, whoever owns the cluster.
    pub(crate) fn apply_rule(&self) {
        let own = self.number();
        let rule = {
            let controller = self.control.controller();
            let founded = controller.founding().map(|founding| founding.region_epoch);
            Rule::of(controller.standing(), own, founded.unwrap_or_default())
        };
        if self.rule.send_replace(rule) != rule {
            self.shared_shards()
                .iter()
                .for_each(|shard| shard.writing().set_rule(rule));
        }
    }

    /// Whether this node is, or was, a member of the controller's group.
    pub(crate) fn is_initialized(&self) -> bool {
        self.replica_state(ShardId::CONTROLLER) != ReplicaState::Absent
    }

    /// The other nodes, by the facts; while there are none, by what the log here will make them, if it is committed.
    pub(crate) fn nodes(&self) -> BTreeMap<NodeId, Known> {
        let controller = self.control.controller();
        match controller.founding() {
            Some(_) => others(&controller, self.node()),
            None => self.logged_nodes.clone(),
        }
    }

    /// Where a node is reached, by the facts or because it is this one.
    pub(crate) fn address_of(&self, node: NodeId) -> Option<HostPort> {
        if node == self.node() {
            return Some(self.address());
        }
        let known = self.nodes().remove(&node).map(|known| known.address);
        known.or_else(|| Some(self.introduced.lock().get(&node)?.info.address.clone()))
    }

    /// The group, if this node leads it and may speak for it.
    pub(crate) fn led_group(&self, shard: ShardId) -> Option<Group> {
        let group = self.pacing.group(shard)?;
        let leadership = *group.leadership().borrow();
        let Leadership::Leading { term } = leadership else {
            return None;
        };
        (self.pacing.view().led.get(&shard) == Some(&term)).then_some(group)
    }

    /// What this node has of a shard.
    pub(crate) fn replica_state(&self, shard: ShardId) -> ReplicaState {
        if let Some(shard) = self.shards().get(shard.0 as usize)
            && matches!(&*shard.replica(), Replica::Damaged(_))
        {
            return ReplicaState::Damaged;
        }
        let log = self.journal.log(shard);
        match log.last.or(log.purged) {
            None => ReplicaState::Absent,
            Some(_) => ReplicaState::Present,
        }
    }

    /// A replica's node says that it lost something.
    pub(crate) fn note_damaged(&self, shard: ShardId, node: NodeId) {
        self.damaged.lock().note(Instant::now(), shard, node);
    }
}

/// All nodes but `me`, with their addresses.
pub(crate) fn others(controller: &Controller, me: NodeId) -> BTreeMap<NodeId, Known> {
    let others = controller.nodes().filter_map(|node| {
        let registration = &node.registration;
        let address = registration.peer.as_ref()?;
        let known = Known {
            incarnation: Some(registration.incarnation),
            address: HostPort::new(address.host.clone(), address.port),
        };
        (registration.node != me).then_some((registration.node, known))
    });
    others.collect()
}
