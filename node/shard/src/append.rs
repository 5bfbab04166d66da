//! From a batch to its place in the log: the queue of a shard, and the task that sequences it.
//!
//! The task gathers what arrived while the last proposals were in flight into one command (natural
//! batching, no timer), so load makes commands larger, not more.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use meridian_journal::JournalError;
use meridian_raft::{Group, Leadership};
use meridian_state::{AppendGroup, Command, ProduceRejection, Sequencer, Staged};
use meridian_types::{LeaderEpoch, Offset, Partition, RegionEpoch, Term};
use meridian_wire::batch::BatchHeader;
use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::errors::AppendError;
use crate::machine::ShardMachine;
use crate::pacing::Pacing;
use crate::region::Appended;
use crate::room;
use crate::round::{Answer, Place, Round, UNDECIDED_MAX, answer, fail_all, finish, front};
use crate::settings::{Clock, ShardSettings};
use crate::shard::epoch;
use crate::strangers::Strangers;

/// What a command adds to a batch at most: its own head, and the group's.
const COMMAND_BYTES_PER_BATCH: usize = 64;

/// Where a batch went.
pub(crate) type AppendResult = Result<Appended, AppendError>;

/// The answer to an append, once the batch is committed and applied here. Dropping it does not
/// take the batch back.
pub struct Append(pub(crate) Waiting);

pub(crate) enum Waiting {
    Refused(Option<AppendError>),
    Queued(oneshot::Receiver<AppendResult>),
}

impl Append {
    pub(crate) fn refused(error: AppendError) -> Self {
        Self(Waiting::Refused(Some(error)))
    }
}

impl Future for Append {
    type Output = AppendResult;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<AppendResult> {
        match &mut self.0 {
            Waiting::Refused(error) => Poll::Ready(Err(error.take().expect("polled once after ready"))),
            Waiting::Queued(answer) => Pin::new(answer).poll(context).map(|answer| {
                answer.unwrap_or_else(|_| {
                    if mutant!(DenyUnknown) {
                        return Err(AppendError::NotLeader { leader: None });
                    }
                    Err(AppendError::Unknown {
                        reason: "the shard stopped".to_owned(),
                    })
                })
            }),
        }
    }
}

/// A batch on its way, with who waits for it.
pub(crate) struct Item {
    partition: Partition,
    batch: BytesMut,
    header: BatchHeader,
    answer: oneshot::Sender<AppendResult>,
}

/// Batches that wait for the sequencer. Bounded by bytes; a batch beyond the bound is refused.
pub(crate) struct AppendQueue {
    waiting: Mutex<WaitingItems>,
    arrived: Notify,
    bytes_max: usize,
}

#[derive(Default)]
struct WaitingItems {
    items: VecDeque<Item>,
    bytes: usize,
}

impl AppendQueue {
    pub(crate) fn new(bytes_max: usize) -> Self {
        Self {
            waiting: Mutex::default(),
            arrived: Notify::new(),
            bytes_max,
        }
    }

    /// Queues in call order. The queue takes one batch over its bound when it is empty, so that a
    /// batch of any permitted size can pass.
    pub(crate) fn push(&self, partition: Partition, batch: BytesMut, header: BatchHeader) -> Append {
        let (answer, receiver) = oneshot::channel();
        let mut waiting = self.waiting.lock();
        let bytes = waiting.bytes + batch.len();
        if bytes > self.bytes_max && !waiting.items.is_empty() {
            return Append::refused(AppendError::Busy {
                bytes: waiting.bytes,
                bytes_max: self.bytes_max,
            });
        }
        waiting.bytes = bytes;
        waiting.items.push_back(Item {
            partition,
            batch,
            header,
            answer,
        });
        drop(waiting);
        self.arrived.notify_one();
        Append(Waiting::Queued(receiver))
    }

    fn is_empty(&self) -> bool {
        self.waiting.lock().items.is_empty()
    }

    /// Takes items in order, up to `bytes_max` of batches and at least one.
    fn take(&self, bytes_max: usize) -> Vec<Item> {
        let mut waiting = self.waiting.lock();
        let mut taken = Vec::new();
        let mut bytes = 0;
        while let Some(item) = waiting.items.front() {
            if !taken.is_empty() && bytes + item.batch.len() > bytes_max {
                break;
            }
            bytes += item.batch.len();
            taken.extend(waiting.items.pop_front());
        }
        waiting.bytes -= bytes;
        taken
    }

    pub(crate) fn refuse_all(&self, error: &AppendError) {
        let waiting = std::mem::take(&mut *self.waiting.lock());
        for item in waiting.items {
            // A client that left does not wait for its answer.
            let _ = item.answer.send(Err(error.clone()));
        }
    }

    pub(crate) fn bytes(&self) -> usize {
        self.waiting.lock().bytes
    }
}

/// The task that sequences one shard's appends.
pub(crate) struct Appender {
    pub(crate) group: Group,
    /// The term under which this node may speak for the shard, as the pacemaker sees it.
    pub(crate) led: watch::Receiver<Option<Term>>,
    /// The replica is gone.
    pub(crate) stop: CancellationToken,
    pub(crate) machine: Arc<ShardMachine>,
    pub(crate) queue: Arc<AppendQueue>,
    pub(crate) settings: ShardSettings,
    /// The region epoch under which the shard takes writes here, while it does.
    pub(crate) writes: watch::Receiver<Option<RegionEpoch>>,
    pub(crate) clock: Clock,
    pub(crate) pacing: Pacing,
}

impl Appender {
    /// Runs until the shard's group ends or the replica goes.
    pub(crate) async fn run(mut self) {
        let stop = self.stop.clone();
        tokio::select! {
            () = stop.cancelled() => {}
            () = self.follow() => {}
        }
        let reason = "the shard has stopped on this node; its log tells why".to_owned();
        self.refuse(&AppendError::Storage { reason }, &stop).await;
    }

    /// Who appends after the group's end learns it at once, instead of waiting for his timeout.
    async fn refuse(&self, error: &AppendError, stop: &CancellationToken) {
        loop {
            self.queue.refuse_all(error);
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.queue.arrived.notified() => {}
            }
        }
    }

    async fn follow(&mut self) {
        let mut leadership = self.group.leadership();
        // One term is sequenced once under one region epoch: the state alone does not tell what may still be in flight in
        // it. What was in flight when the region epoch turned is refused.
        let mut sequenced = None;
        loop {
            let now = *leadership.borrow_and_update();
            let led = *self.led.borrow_and_update();
            let open = *self.writes.borrow_and_update();
            if let Leadership::Leading { term } = now
                && let Some(region_epoch) = open
                && sequenced != Some((term, region_epoch))
                && led == Some(term)
            {
                self.lead(term, region_epoch, &mut leadership).await;
                sequenced = Some((term, region_epoch));
                continue;
            }
            let leader = match now {
                Leadership::Following { leader, .. } => Some(leader),
                _ => None,
            };
            self.queue.refuse_all(&AppendError::NotLeader { leader });
            tokio::select! {
                changed = leadership.changed() => if changed.is_err() {
                    return;
                },
                changed = self.led.changed() => if changed.is_err() {
                    return;
                },
                changed = self.writes.changed() => if changed.is_err() {
                    return;
                },
                () = self.queue.arrived.notified() => {}
            }
        }
    }

    /// Sequences under one term and one region epoch, until either is over or the fate of a proposal is unknown.
    async fn lead(
        &mut self,
        term: Term,
        region_epoch: RegionEpoch,
        leadership: &mut watch::Receiver<Leadership>,
    ) {
        let epoch = epoch(region_epoch, term);
        let mut sequencer = Sequencer::new(epoch);
        let mut strangers = Strangers::default();
        let mut rounds: VecDeque<Round> = VecDeque::new();
        let mut bytes_in_flight = 0;
        // While it does not hear its quorum, the leader goes on by itself; but it takes nothing more, and who waits
        // does not wait for ever.
        let mut aside: Option<Instant> = None;
        loop {
            let room = rounds.len() < self.settings.proposals_in_flight_max
                && bytes_in_flight < self.settings.bytes_in_flight_max;
            let is_aside = aside.is_some();
            let give_up = aside.map(|since| since + UNDECIDED_MAX);
            let waits = rounds.iter().any(|round| !round.answers.is_empty());
            tokio::select! {
                biased;
                outcome = front(&mut rounds), if !rounds.is_empty() => {
                    let round = rounds.pop_front().expect("its front was polled");
                    bytes_in_flight -= round.bytes;
                    match outcome {
                        Ok(results) => {
                            sequencer.applied(&round.groups, &results);
                            answer(round, &results, epoch, &self.machine);
                        }
                        Err(error @ AppendError::NotLeader { .. }) => {
                            // Certainly not in the log. What was staged behind it in the same partitions
                            // will be rejected; the sequencer waits for that.
                            sequencer.abandoned(&round.groups);
                            fail_all([round], &error);
                        }
                        Err(error) => {
                            fail_all([round], &error);
                            tokio::spawn(finish(rounds, epoch, Arc::clone(&self.machine)));
                            return;
                        }
                    }
                }
                changed = leadership.changed() => {
                    let still = changed.is_ok() && *leadership.borrow_and_update() == Leadership::Leading { term };
                    if !still {
                        // Proposals in flight may yet commit; answer them as they end.
                        tokio::spawn(finish(rounds, epoch, Arc::clone(&self.machine)));
                        return;
                    }
                }
                changed = self.writes.changed() => {
                    if changed.is_err() || *self.writes.borrow_and_update() != Some(region_epoch) {
                        tokio::spawn(finish(rounds, epoch, Arc::clone(&self.machine)));
                        return;
                    }
                }
                changed = self.led.changed() => {
                    if changed.is_err() {
                        tokio::spawn(finish(rounds, epoch, Arc::clone(&self.machine)));
                        return;
                    }
                    aside = match *self.led.borrow_and_update() == Some(term) {
                        true => None,
                        false => aside.or_else(|| Some(Instant::now())),
                    };
                    self.queue.arrived.notify_one();
                }
                () = self.queue.arrived.notified(), if is_aside => {
                    self.queue.refuse_all(&AppendError::NotLeader { leader: None });
                }
                () = tokio::time::sleep_until(give_up.unwrap_or_else(Instant::now)), if is_aside && waits => {
                    let reason = "the shard's leader has lost its quorum".to_owned();
                    let error = AppendError::Unknown { reason };
                    let answers = rounds.iter_mut().flat_map(|round| round.answers.drain(..));
                    answers.for_each(|answer| answer.fail(&error));
                }
                () = self.queue.arrived.notified(), if room && !is_aside => {
                    // Half of what the journal takes: a command adds something to each batch.
                    let bytes_max = self.group.command_bytes_max() / 2;
                    let items = self.queue.take(bytes_max.min(self.settings.command_bytes_max));
                    if !self.queue.is_empty() {
                        self.queue.arrived.notify_one();
                    }
                    if items.is_empty() {
                        continue;
                    }
                    self.pacing.note_activity(self.group.shard());
                    match self.stage(term, items, &mut sequencer, &mut strangers).await {
                        Ok(Some(round)) => {
                            bytes_in_flight += round.bytes;
                            rounds.push_back(round);
                        }
                        Ok(None) => {}
                        Err(reason) => {
                            tracing::warn!(%reason, "the shard's group takes no proposals");
                            tokio::spawn(finish(rounds, epoch, Arc::clone(&self.machine)));
                            return;
                        }
                    }
                }
            }
        }
    }

    /// Stamps the items and proposes them as one command.
    async fn stage(
        &self,
        term: Term,
        items: Vec<Item>,
        sequencer: &mut Sequencer,
        strangers: &mut Strangers,
    ) -> Result<Option<Round>, AppendError> {
        // Raft takes a refused append for a broken disk, so ask before it is staged.
        let bytes = items
            .iter()
            .map(|item| item.batch.len() + COMMAND_BYTES_PER_BATCH)
            .sum();
        if let Err(refusal) = room::admit_records(&self.group, &self.pacing.view(), bytes) {
            let error = match refusal {
                JournalError::Busy {
                    queued_bytes,
                    queue_bytes_max,
                } => AppendError::Busy {
                    bytes: queued_bytes,
                    bytes_max: queue_bytes_max,
                },
                other => AppendError::Storage {
                    reason: other.to_string(),
                },
            };
            for item in items {
                let _ = item.answer.send(Err(error.clone()));
            }
            return Ok(None);
        }
        let mut round = Round::default();
        {
            let state = self.machine.state();
            for mut item in items {
                let is_early = sequencer.is_early(&state, item.partition, &item.header);
                if let Some(producer) = item.header.producer_id.filter(|_| is_early)
                    && !strangers.may_begin(Instant::now(), item.partition, producer)
                {
                    let _ = item
                        .answer
                        .send(Err(AppendError::Rejected(ProduceRejection::Unsettled)));
                    continue;
                }
                let place = match sequencer.stage(&state, item.partition, &mut item.batch, &item.header) {
                    Ok(Staged::Append { base_offset }) => {
                        round.bytes += item.batch.len();
                        push_batch(&mut round.groups, item.partition, item.batch.freeze());
                        Place::Command {
                            group: round.groups.len() - 1,
                            base_offset,
                        }
                    }
                    Ok(Staged::Duplicate { .. }) => Place::Before {
                        partition: item.partition,
                        header: item.header,
                    },
                    Err(
                        rejection @ (ProduceRejection::OutOfOrderSequence(_)
                        | ProduceRejection::InvalidProducerEpoch(_)),
                    ) => Place::Nowhere(rejection),
                    Err(rejection) => {
                        let _ = item.answer.send(Err(AppendError::Rejected(rejection)));
                        continue;
                    }
                };
                round.answers.push(Answer {
                    to: item.answer,
                    place,
                });
            }
        }
        // An empty command is a barrier.
        if round.groups.is_empty() && !round.must_confirm() {
            return Ok((!round.answers.is_empty()).then_some(round));
        }
        let command = Command::Append {
            now: (self.clock)(),
            groups: round.groups.clone(),
        };
        match self.group.propose(term, command.encode()).await {
            Ok(pending) => {
                round.pending = Some(pending);
                if mutant!(AcknowledgeBeforeCommit) {
                    acknowledge_unseen(&mut round, sequencer.epoch());
                }
                Ok(Some(round))
            }
            Err(error) => {
                let error = AppendError::from(error);
                fail_all([round], &error);
                Err(error)
            }
        }
    }
}

/// The defect of acknowledging what is only proposed.
fn acknowledge_unseen(round: &mut Round, leader_epoch: LeaderEpoch) {
    for Answer { to, place } in round
        .answers
        .extract_if(.., |answer| matches!(answer.place, Place::Command { .. }))
    {
        if let Place::Command { base_offset, .. } = place {
            let _ = to.send(Ok(Appended {
                base_offset,
                log_start_offset: Offset(0),
                leader_epoch,
                duplicate: false,
            }));
        }
    }
}

/// Adds a batch to the last group when it continues it, so that a run of batches for one partition
/// is one span of the log.
fn push_batch(groups: &mut Vec<AppendGroup>, partition: Partition, batch: Bytes) {
    match groups.last_mut() {
        Some(last) if last.partition == partition => last.batches.push(batch),
        _ => groups.push(AppendGroup {
            partition,
            batches: vec![batch],
        }),
    }
}
