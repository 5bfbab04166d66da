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
use meridian_raft::{Group, Leadership, Pending};
use meridian_state::{AppendGroup, Command, Outcome, Rejected, Sequencer, Staged};
use meridian_types::{LeaderEpoch, Offset, Partition, RegionEpoch, Term};
use meridian_wire::batch::BatchHeader;
use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot, watch};

use crate::errors::AppendError;
use crate::machine::ShardMachine;
use crate::region::Appended;
use crate::start::{Clock, ShardSettings};

/// What a command adds to a batch at most: its own head, and the group's.
const COMMAND_BYTES_PER_BATCH: usize = 64;

/// How often a stopped shard's task looks whether anybody can still append.
const STOPPED_INTERVAL: std::time::Duration = std::time::Duration::from_secs(1);

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

/// How the sequencing of one term ended.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    /// Another term began, or none.
    Lost,
    /// This term cannot be sequenced any further; only another one can.
    Void,
}

/// One proposal in flight, oldest first. Without `pending` it only waits for those before it: all
/// its batches were duplicates of something in flight.
#[derive(Default)]
struct Round {
    pending: Option<Pending>,
    groups: Vec<AppendGroup>,
    answers: Vec<Answer>,
    bytes: usize,
}

struct Answer {
    to: oneshot::Sender<AppendResult>,
    place: Place,
}

/// Where the answer of a batch comes from.
enum Place {
    /// From the command of its round: the group, and the offset that the batch was stamped with.
    Command { group: usize, base_offset: Offset },
    /// From the state: it was sent before.
    Before {
        partition: Partition,
        header: BatchHeader,
    },
}

/// The task that sequences one shard's appends.
pub(crate) struct Appender {
    pub(crate) group: Group,
    pub(crate) machine: Arc<ShardMachine>,
    pub(crate) queue: Arc<AppendQueue>,
    pub(crate) settings: ShardSettings,
    pub(crate) region_epoch: watch::Receiver<RegionEpoch>,
    pub(crate) clock: Clock,
}

impl Appender {
    /// Runs until the shard's group ends.
    pub(crate) async fn run(mut self) {
        let mut leadership = self.group.leadership();
        // A term in which a proposal's fate is unknown: the state alone no longer tells the next offset.
        let mut void = None;
        loop {
            let now = *leadership.borrow_and_update();
            if let Leadership::Leading { term } = now
                && void != Some(term)
            {
                if self.lead(term, &mut leadership).await == End::Void {
                    void = Some(term);
                }
            } else {
                let leader = match now {
                    Leadership::Following { leader } => Some(leader),
                    _ => None,
                };
                self.queue.refuse_all(&AppendError::NotLeader { leader });
                tokio::select! {
                    changed = leadership.changed() => if changed.is_err() {
                        let queue = Arc::clone(&self.queue);
                        drop(self);
                        return refuse(queue).await;
                    },
                    () = self.queue.arrived.notified() => {}
                }
            }
        }
    }

    /// Sequences under one term, until it is over.
    async fn lead(&mut self, term: Term, leadership: &mut watch::Receiver<Leadership>) -> End {
        let region_epoch = *self.region_epoch.borrow();
        let elections = u32::try_from(term.0).unwrap_or(u32::MAX);
        let epoch = LeaderEpoch::new(region_epoch, elections);
        let mut sequencer = Sequencer::new(epoch);
        let mut rounds: VecDeque<Round> = VecDeque::new();
        let mut bytes_in_flight = 0;
        loop {
            let room = rounds.len() < self.settings.proposals_in_flight_max
                && bytes_in_flight < self.settings.bytes_in_flight_max;
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
                            return End::Void;
                        }
                    }
                }
                changed = leadership.changed() => {
                    let still = changed.is_ok() && *leadership.borrow_and_update() == Leadership::Leading { term };
                    if !still {
                        // Proposals in flight may yet commit; answer them as they end.
                        tokio::spawn(finish(rounds, epoch, Arc::clone(&self.machine)));
                        return End::Lost;
                    }
                }
                () = self.queue.arrived.notified(), if room => {
                    let items = self.queue.take(self.settings.command_bytes_max);
                    if !self.queue.is_empty() {
                        self.queue.arrived.notify_one();
                    }
                    if items.is_empty() {
                        continue;
                    }
                    match self.stage(term, items, &mut sequencer).await {
                        Ok(Some(round)) => {
                            bytes_in_flight += round.bytes;
                            rounds.push_back(round);
                        }
                        Ok(None) => {}
                        Err(reason) => {
                            tracing::warn!(%reason, "the shard's group takes no proposals");
                            tokio::spawn(finish(rounds, epoch, Arc::clone(&self.machine)));
                            return End::Void;
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
    ) -> Result<Option<Round>, AppendError> {
        // Raft takes a refused append for a broken disk, so ask before it is staged.
        let bytes = items
            .iter()
            .map(|item| item.batch.len() + COMMAND_BYTES_PER_BATCH)
            .sum();
        if let Err(refusal) = self.group.journal().admit(bytes, 1) {
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
        if round.groups.is_empty() {
            return Ok((!round.answers.is_empty()).then_some(round));
        }
        let command = Command::Append {
            now: (self.clock)(),
            groups: round.groups.clone(),
        };
        match self.group.propose(term, command.encode()).await {
            Ok(pending) => {
                round.pending = Some(pending);
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

/// After the group's end: who appends learns it at once, instead of waiting for his timeout. Ends with the
/// shard.
async fn refuse(queue: Arc<AppendQueue>) {
    let reason = "the shard has stopped on this node; its log tells why".to_owned();
    let error = AppendError::Storage { reason };
    while Arc::strong_count(&queue) > 1 {
        queue.refuse_all(&error);
        // The count is looked at again now and then.
        let _ = tokio::time::timeout(STOPPED_INTERVAL, queue.arrived.notified()).await;
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

type GroupResults = Vec<Result<meridian_state::Appended, Rejected>>;

/// Waits for the oldest round.
async fn front(rounds: &mut VecDeque<Round>) -> Result<GroupResults, AppendError> {
    let Some(pending) = rounds.front_mut().and_then(|round| round.pending.as_mut()) else {
        return Ok(Vec::new());
    };
    let (_, reply) = pending.await?;
    match reply.into::<Outcome>() {
        Some(Outcome::Append(results)) => Ok(results),
        other => Err(AppendError::Unknown {
            reason: format!("an append was answered by {other:?}"),
        }),
    }
}

fn answer(round: Round, results: &GroupResults, epoch: LeaderEpoch, machine: &ShardMachine) {
    let appended = |base_offset, log_start_offset, duplicate| Appended {
        base_offset,
        log_start_offset,
        leader_epoch: epoch,
        duplicate,
    };
    for Answer { to, place } in round.answers {
        let result = match place {
            Place::Command { group, base_offset } => match &results[group] {
                Ok(group) => Ok(appended(base_offset, group.log_start, false)),
                Err(rejected) => Err(AppendError::Unknown {
                    reason: rejected.to_string(),
                }),
            },
            Place::Before { partition, header } => {
                let state = machine.state();
                let held = state.partition(partition);
                match held.and_then(|held| held.duplicate(&header).map(|first| (held, first))) {
                    Some((held, first)) => Ok(appended(first.base_offset, held.log_start_offset(), true)),
                    None => Err(AppendError::Unknown {
                        reason: "its first copy was not appended".to_owned(),
                    }),
                }
            }
        };
        // A client that left does not wait for its answer.
        let _ = to.send(result);
    }
}

fn fail_all(rounds: impl IntoIterator<Item = Round>, error: &AppendError) {
    for answer in rounds.into_iter().flat_map(|round| round.answers) {
        let _ = answer.to.send(Err(error.clone()));
    }
}

/// Answers what was in flight when the leadership ended.
async fn finish(mut rounds: VecDeque<Round>, epoch: LeaderEpoch, machine: Arc<ShardMachine>) {
    while !rounds.is_empty() {
        let outcome = front(&mut rounds).await;
        let Some(round) = rounds.pop_front() else { return };
        match outcome {
            Ok(results) => answer(round, &results, epoch, &machine),
            Err(error) => fail_all(std::iter::once(round), &error),
        }
    }
}
