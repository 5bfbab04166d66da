//! Consumer groups: several consumers share the partitions of topics, and remember how far they came.
//!
//! A driver keeps the membership: it joins, beats, and rejoins when the group changes. What concerns the reader comes
//! through [`GroupConsumer::next`], in order: partitions that come, partitions that go, and records. What
//! was given out counts as done when `next` is called again.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use meridian_types::Offset;
use meridian_wire::messages::offset_commit::{OffsetCommitRequestPartition, OffsetCommitRequestTopic};
use meridian_wire::{ErrorCode, OffsetCommitRequest};
use parking_lot::Mutex;
use thiserror::Error;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep, sleep_until};

use crate::admin::{AdminError, partition_id};
use crate::cluster::{Cluster, CoordinatorError, Lane, TopicError};
use crate::consumer::{ConsumeError, Consumer, ConsumerSettings, Fetched, OutOfRange};
use crate::error::{Refusal, RequestError, check};

pub mod assignor;
mod driver;
pub mod protocol;

pub use self::assignor::Assignor;
use self::protocol::TopicPartition;

/// How a member works.
#[derive(Clone, Debug)]
pub struct GroupSettings {
    /// The group.
    pub group: String,
    /// The topics to read.
    pub topics: Vec<String>,
    /// How partitions may be given out; the group takes one that all its members know. Either all of them are
    /// cooperative or none is.
    pub assignors: Vec<Assignor>,
    /// An id that stays the same over restarts: the member then keeps its partitions while it is away for less than
    /// the session timeout (KIP-345).
    pub instance_id: Option<String>,
    /// Where to begin in a partition for which the group has stored nothing.
    pub start: OutOfRange,
    /// How long the coordinator waits for a sign of life.
    pub session_timeout: Duration,
    /// How often there is one.
    pub heartbeat_interval: Duration,
    /// How long members get to let go of partitions and to join again.
    pub rebalance_timeout: Duration,
    /// How often what is done is stored; `None` leaves that to [`GroupConsumer::commit`].
    pub commit_interval: Option<Duration>,
    /// How records are read.
    pub consumer: ConsumerSettings,
}

impl GroupSettings {
    /// The defaults, for a member of `group` that reads `topics`.
    pub fn new(group: impl Into<String>, topics: Vec<String>) -> Self {
        Self {
            group: group.into(),
            topics,
            assignors: vec![Assignor::CooperativeSticky],
            instance_id: None,
            start: OutOfRange::Latest,
            session_timeout: Duration::from_secs(45),
            heartbeat_interval: Duration::from_secs(3),
            rebalance_timeout: Duration::from_secs(60),
            commit_interval: Some(Duration::from_secs(5)),
            consumer: ConsumerSettings::default(),
        }
    }
}

/// What happens to a member.
#[derive(Debug)]
pub enum GroupEvent {
    /// These partitions are read from now on.
    Assigned(Vec<TopicPartition>),
    /// These partitions go to others. Finish with them, and commit if you do that yourself: the next call of `next`
    /// lets go of them.
    Revoking(Vec<TopicPartition>),
    /// These partitions went to others already, because this member was silent for too long. Commits for them are refused.
    Lost(Vec<TopicPartition>),
    /// Records.
    Records(Fetched),
}

/// Why a member cannot go on.
#[derive(Clone, Debug, Error)]
pub enum GroupError {
    /// The coordinator refuses for good.
    #[error("group '{group}': {refusal}")]
    Refused {
        /// The group.
        group: String,
        /// What the coordinator says.
        refusal: Refusal,
    },
    /// The coordinator cannot be asked, and it does not look as if that would pass.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// The coordinator cannot be found.
    #[error(transparent)]
    Coordinator(#[from] CoordinatorError),
    /// A topic cannot be found.
    #[error(transparent)]
    Topic(#[from] TopicError),
    /// Stored offsets or positions cannot be read.
    #[error(transparent)]
    Position(#[from] AdminError),
    /// A partition cannot be read. It is no longer read; others are.
    #[error(transparent)]
    Consume(#[from] ConsumeError),
    /// What another member sent, or what we would send, does not fit the protocol.
    #[error("group '{group}': {reason}")]
    Protocol {
        /// The group.
        group: String,
        /// What is wrong.
        reason: String,
    },
    /// The assignors are of both kinds, or there is none.
    #[error("give at least one assignor, and either only cooperative ones or none")]
    Assignors,
    /// The driver has ended: the runtime is going down.
    #[error("the member has ended")]
    Closed,
}

/// Why offsets were not stored.
#[derive(Clone, Debug, Error)]
pub enum CommitError {
    /// The member is no longer part of the group as it is now: its partitions may be with others. Go on with `next`.
    #[error("the group has changed: {0}")]
    Rebalanced(ErrorCode),
    /// The coordinator refuses one of them.
    #[error("topic '{topic}', partition {partition}: {refusal}")]
    Refused {
        /// The topic.
        topic: String,
        /// The partition.
        partition: u32,
        /// What the coordinator says.
        refusal: Refusal,
    },
    /// No answer; they may be stored.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// The coordinator cannot be found.
    #[error(transparent)]
    Coordinator(#[from] CoordinatorError),
}

/// A member of a consumer group.
#[derive(Debug)]
pub struct GroupConsumer {
    shared: Arc<Shared>,
    consumer: Consumer,
    events: mpsc::Receiver<DriverEvent>,
    stop: Option<oneshot::Sender<()>>,
    driver: Option<tokio::task::JoinHandle<()>>,
    /// How far what was given out has come, by partition; counts as done with the next call.
    given_out: BTreeMap<TopicPartition, Offset>,
    done: BTreeMap<TopicPartition, Offset>,
    committed: BTreeMap<TopicPartition, Offset>,
    commit_at: Option<Instant>,
    /// To be read from now on, once their positions are found.
    beginning: Option<Vec<(String, u32, crate::consumer::StartAt)>>,
    /// To be told when `next` is called: the partitions named last are let go of.
    letting_go: Option<(Vec<TopicPartition>, oneshot::Sender<()>)>,
}

/// What the member and its driver share.
#[derive(Debug)]
struct Shared {
    cluster: Cluster,
    settings: GroupSettings,
    /// Commits do not wait behind a join.
    commit_lane: Lane,
    identity: Mutex<MemberIdentity>,
}

/// Who we are to the coordinator.
#[derive(Clone, Debug, PartialEq, Eq)]
struct MemberIdentity {
    member_id: String,
    generation: i32,
}

/// What the driver tells the member. The queue is short: the driver waits for the reader.
#[derive(Debug)]
enum DriverEvent {
    /// With the offsets where reading begins.
    Assigned(Vec<(String, u32, crate::consumer::StartAt)>),
    Revoking(Vec<TopicPartition>, oneshot::Sender<()>),
    Lost(Vec<TopicPartition>),
    Failed(GroupError),
}

impl GroupConsumer {
    /// Begins to join. Topics must exist.
    pub async fn join(cluster: &Cluster, settings: GroupSettings) -> Result<Self, GroupError> {
        let cooperative = settings
            .assignors
            .iter()
            .filter(|assignor| assignor.is_cooperative())
            .count();
        if settings.assignors.is_empty() || (cooperative != 0 && cooperative != settings.assignors.len()) {
            return Err(GroupError::Assignors);
        }
        for topic in &settings.topics {
            cluster.topic(topic).await?;
        }
        let consumer = ConsumerSettings {
            on_out_of_range: settings.start,
            ..settings.consumer.clone()
        };
        let shared = Arc::new(Shared {
            cluster: cluster.clone(),
            commit_lane: cluster.lane(),
            identity: Mutex::new(MemberIdentity {
                member_id: String::new(),
                generation: -1,
            }),
            settings,
        });
        let (events, received) = mpsc::channel(4);
        let (stop, stopped) = oneshot::channel();
        let driver = tokio::spawn(driver::run(Arc::clone(&shared), events, stopped));
        Ok(Self {
            consumer: Consumer::start(cluster, consumer),
            events: received,
            stop: Some(stop),
            driver: Some(driver),
            given_out: BTreeMap::new(),
            done: BTreeMap::new(),
            committed: BTreeMap::new(),
            commit_at: shared
                .settings
                .commit_interval
                .map(|interval| Instant::now() + interval),
            beginning: None,
            letting_go: None,
            shared,
        })
    }

    /// Waits for what happens next. Call it again and again: a member that does not is held for dead when it
    /// should let go of partitions.
    ///
    /// Cancel safe. Errors: [`GroupError::Consume`] concerns one partition, the others go on; after any other
    /// error the member is out of the group.
    pub async fn next(&mut self) -> Result<GroupEvent, GroupError> {
        self.done.append(&mut self.given_out);
        if self.letting_go.is_some() && self.shared.settings.commit_interval.is_some() {
            self.commit_quietly().await;
        }
        if let Some((partitions, let_go)) = self.letting_go.take() {
            self.forget(&partitions);
            // The driver may have given up waiting; it says so by `Lost`.
            let _ = let_go.send(());
        }
        loop {
            if let Some(partitions) = &self.beginning {
                self.consumer.assign(partitions).await?;
                let named = self.beginning.take().unwrap_or_default();
                let named = named.into_iter().map(|(topic, index, _)| (topic, index));
                return Ok(GroupEvent::Assigned(named.collect()));
            }
            let commit_at = self.commit_at;
            tokio::select! {
                // What concerns the membership goes before records.
                biased;
                event = self.events.recv() => match event.ok_or(GroupError::Closed)? {
                    DriverEvent::Assigned(partitions) => self.beginning = Some(partitions),
                    DriverEvent::Revoking(partitions, let_go) => {
                        // Nothing more of them is given out, but what was can still be committed.
                        self.consumer.unassign(&partitions);
                        self.letting_go = Some((partitions.clone(), let_go));
                        return Ok(GroupEvent::Revoking(partitions));
                    }
                    DriverEvent::Lost(partitions) => {
                        self.consumer.unassign(&partitions);
                        self.forget(&partitions);
                        self.letting_go = None;
                        self.beginning = None;
                        return Ok(GroupEvent::Lost(partitions));
                    }
                    DriverEvent::Failed(error) => return Err(error),
                },
                () = sleep_until(commit_at.unwrap_or_else(Instant::now)), if commit_at.is_some() => {
                    self.commit_quietly().await;
                    self.commit_at = self.shared.settings.commit_interval.map(|interval| Instant::now() + interval);
                }
                fetched = self.consumer.next() => {
                    let fetched = fetched?;
                    let key = (fetched.topic().to_owned(), fetched.partition());
                    self.given_out.insert(key, fetched.next_offset());
                    return Ok(GroupEvent::Records(fetched));
                }
            }
        }
    }

    /// Stores how far everything is done that was given out before the last call of [`Self::next`], and what that
    /// call has given out: all that this member has seen.
    pub async fn commit(&mut self) -> Result<(), CommitError> {
        let mut done = self.done.clone();
        done.extend(self.given_out.clone());
        self.commit_offsets(&done).await?;
        self.committed.extend(done);
        Ok(())
    }

    /// Stores these offsets: for each partition where reading is to go on.
    pub async fn commit_offsets(
        &self,
        offsets: &BTreeMap<TopicPartition, Offset>,
    ) -> Result<(), CommitError> {
        if offsets.is_empty() {
            return Ok(());
        }
        commit(&self.shared, offsets).await
    }

    /// The partitions that are read now.
    pub fn assignment(&self) -> Vec<TopicPartition> {
        self.consumer.assignment()
    }

    /// Stores what is done, if that is done at an interval, and leaves the group, so that others need not wait for the
    /// session to end. A static member stays part of the group.
    pub async fn leave(mut self) {
        self.done.append(&mut self.given_out);
        if self.shared.settings.commit_interval.is_some() {
            self.commit_quietly().await;
        }
        // The driver waits for room in its queue; nobody will make any.
        self.events.close();
        self.letting_go = None;
        drop(self.stop.take());
        if let Some(driver) = self.driver.take() {
            // It ends by itself; that it panicked is not for the caller to handle.
            drop(driver.await);
        }
        self.shared.cluster.close_lane(self.shared.commit_lane);
    }

    /// Commits what is done and not stored yet. A failure is logged: the next commit stores the same and more.
    async fn commit_quietly(&mut self) {
        let new: BTreeMap<_, _> = self
            .done
            .iter()
            .filter(|(partition, offset)| self.committed.get(*partition) != Some(*offset))
            .map(|(partition, offset)| (partition.clone(), *offset))
            .collect();
        if new.is_empty() {
            return;
        }
        match commit(&self.shared, &new).await {
            Ok(()) => self.committed.extend(new),
            Err(error) => {
                tracing::warn!(group = self.shared.settings.group, %error, "offsets were not stored");
            }
        }
    }

    fn forget(&mut self, partitions: &[TopicPartition]) {
        for partition in partitions {
            self.given_out.remove(partition);
            self.done.remove(partition);
            self.committed.remove(partition);
        }
    }
}

/// Stores offsets; tries again while the coordinator moves.
async fn commit(shared: &Shared, offsets: &BTreeMap<TopicPartition, Offset>) -> Result<(), CommitError> {
    let identity = shared.identity.lock().clone();
    let mut topics: BTreeMap<&String, Vec<OffsetCommitRequestPartition>> = BTreeMap::new();
    for ((topic, index), offset) in offsets {
        topics
            .entry(topic)
            .or_default()
            .push(OffsetCommitRequestPartition {
                partition_index: partition_id(*index),
                committed_offset: i64::try_from(offset.0).unwrap_or(i64::MAX),
                committed_leader_epoch: -1,
                committed_metadata: Some("".into()),
            });
    }
    let request = OffsetCommitRequest {
        group_id: (&shared.settings.group).into(),
        generation_id_or_member_epoch: identity.generation,
        member_id: identity.member_id.into(),
        group_instance_id: shared.settings.instance_id.as_ref().map(Into::into),
        topics: topics
            .into_iter()
            .map(|(name, partitions)| OffsetCommitRequestTopic {
                name: name.into(),
                partitions,
                ..OffsetCommitRequestTopic::default()
            })
            .collect(),
        ..OffsetCommitRequest::default()
    };
    let mut backoff = shared.cluster.backoff();
    let deadline = Instant::now() + shared.settings.session_timeout;
    loop {
        let endpoint = shared.cluster.coordinator(&shared.settings.group).await?;
        let sent = match shared.cluster.connection_to(shared.commit_lane, &endpoint).await {
            Ok(connection) => {
                connection
                    .send(&request, shared.cluster.settings().request_timeout)
                    .await
            }
            Err(error) => Err(error),
        };
        let failure = match sent {
            Ok(response) => {
                let refused = response.topics.iter().find_map(|topic| {
                    let partition = topic.partitions.iter().find(|it| it.error_code != 0)?;
                    Some((topic.name.as_str(), partition))
                });
                let Some((topic, partition)) = refused else {
                    return Ok(());
                };
                let code = check(partition.error_code)
                    .err()
                    .unwrap_or(ErrorCode::UnknownServerError);
                match code {
                    ErrorCode::IllegalGeneration
                    | ErrorCode::UnknownMemberId
                    | ErrorCode::RebalanceInProgress
                    | ErrorCode::FencedInstanceId => return Err(CommitError::Rebalanced(code)),
                    _ => {}
                }
                let error = CommitError::Refused {
                    topic: topic.to_owned(),
                    partition: u32::try_from(partition.partition_index).unwrap_or(u32::MAX),
                    refusal: code.into(),
                };
                if !code.is_retriable() {
                    return Err(error);
                }
                error
            }
            Err(error) if error.is_retriable() => error.into(),
            Err(error) => return Err(error.into()),
        };
        let wait = backoff.next_wait();
        if Instant::now() + wait >= deadline {
            return Err(failure);
        }
        sleep(wait).await;
    }
}
