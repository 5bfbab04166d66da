//! Keeps a membership: joins, beats, and joins again when the group changes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use meridian_wire::messages::join_group::JoinGroupRequestProtocol;
use meridian_wire::messages::leave_group::MemberIdentity as LeavingMember;
use meridian_wire::messages::sync_group::SyncGroupRequestAssignment;
use meridian_wire::{
    ApiKey, EncodeError, ErrorCode, HeartbeatRequest, JoinGroupRequest, JoinGroupResponse, LeaveGroupRequest,
    Request, SyncGroupRequest,
};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep, timeout};

use super::assignor::{Assignor, Member};
use super::protocol::{Assignment, Subscription, TopicPartition};
use super::{DriverEvent, GroupError, MemberIdentity, Shared};
use crate::admin::{fetch_offsets, millis};
use crate::cluster::{CoordinatorError, Lane};
use crate::consumer::{OutOfRange, StartAt};
use crate::error::check;

/// How often the leader looks whether topics have got more partitions.
const TOPICS_INTERVAL: Duration = Duration::from_secs(60);

/// Why the membership is interrupted.
enum Stop {
    /// The member leaves.
    Leaving,
    /// It cannot go on.
    Failed(GroupError),
}

impl<E: Into<GroupError>> From<E> for Stop {
    fn from(error: E) -> Self {
        Self::Failed(error.into())
    }
}

/// What a round of joining came to.
enum Joined {
    /// A member, with these partitions.
    Member { partitions: BTreeSet<TopicPartition> },
    /// The group has changed meanwhile: join again.
    Again,
    /// The coordinator no longer knows us: what we have is with others.
    Forgotten,
}

/// Why heartbeats end.
enum Changed {
    /// Others come or go, or there are more partitions: join again.
    Rebalance,
    /// The coordinator no longer knows us.
    Forgotten,
}

/// Runs until `stop`, or until it cannot go on.
pub(super) async fn run(
    shared: Arc<Shared>,
    events: mpsc::Sender<DriverEvent>,
    mut stop: oneshot::Receiver<()>,
) {
    let mut membership = Membership {
        lane: shared.cluster.lane(),
        shared: Arc::clone(&shared),
        events,
        owned: BTreeSet::new(),
        topics: BTreeMap::new(),
        is_leader: false,
    };
    let stopped = tokio::select! {
        stopped = membership.keep() => stopped,
        // An error means that the member was dropped.
        _ = &mut stop => Stop::Leaving,
    };
    match stopped {
        Stop::Leaving => membership.leave().await,
        Stop::Failed(error) => {
            // Nobody listens if the member is gone.
            drop(membership.events.send(DriverEvent::Failed(error)).await);
        }
    }
    shared.cluster.close_lane(membership.lane);
}

struct Membership {
    shared: Arc<Shared>,
    lane: Lane,
    events: mpsc::Sender<DriverEvent>,
    owned: BTreeSet<TopicPartition>,
    /// Numbers of partitions, as of the last assignment.
    topics: BTreeMap<String, u32>,
    is_leader: bool,
}

impl Membership {
    async fn keep(&mut self) -> Stop {
        loop {
            if let Err(stop) = self.round().await {
                return stop;
            }
        }
    }

    /// Joins, takes what is given, and stays until the group changes.
    async fn round(&mut self) -> Result<(), Stop> {
        let is_cooperative = self.settings().assignors[0].is_cooperative();
        if !is_cooperative {
            let all = self.owned.clone();
            self.revoke(all).await?;
        }
        let partitions = match self.join().await? {
            Joined::Member { partitions } => partitions,
            Joined::Again => return Ok(()),
            Joined::Forgotten => return self.forget().await,
        };
        let gone: BTreeSet<_> = self.owned.difference(&partitions).cloned().collect();
        let new: BTreeSet<_> = partitions.difference(&self.owned).cloned().collect();
        let must_rejoin = !gone.is_empty();
        self.revoke(gone).await?;
        self.assign(new).await?;
        if must_rejoin {
            // Others wait for what we have let go of.
            return Ok(());
        }
        match self.stay().await? {
            Changed::Rebalance => Ok(()),
            Changed::Forgotten => self.forget().await,
        }
    }

    /// JoinGroup and SyncGroup.
    async fn join(&mut self) -> Result<Joined, Stop> {
        let settings = self.settings().clone();
        let identity = self.identity();
        let protocols = self
            .protocols(&identity)
            .map_err(|error| self.broken(&error.to_string()))?;
        let request = JoinGroupRequest {
            group_id: (&settings.group).into(),
            session_timeout_ms: millis(settings.session_timeout),
            rebalance_timeout_ms: millis(settings.rebalance_timeout),
            member_id: identity.member_id.clone().into(),
            group_instance_id: settings.instance_id.as_ref().map(Into::into),
            protocol_type: "consumer".into(),
            protocols,
            reason: None,
        };
        let limit = settings.rebalance_timeout + self.shared.cluster.settings().request_timeout;
        let response = self.ask(&request, limit).await?;
        match check(response.error_code) {
            Ok(()) => {}
            Err(ErrorCode::MemberIdRequired) => {
                self.shared.identity.lock().member_id = response.member_id.into();
                return Ok(Joined::Again);
            }
            Err(code) => return self.refused(code).await,
        }
        *self.shared.identity.lock() = MemberIdentity {
            member_id: response.member_id.as_str().to_owned(),
            generation: response.generation_id,
        };
        self.is_leader = response.leader == response.member_id;
        let assignments = if self.is_leader && !response.skip_assignment {
            self.give_out(&response).await?
        } else {
            Vec::new()
        };
        let request = SyncGroupRequest {
            group_id: (&settings.group).into(),
            generation_id: response.generation_id,
            member_id: response.member_id.clone(),
            group_instance_id: settings.instance_id.as_ref().map(Into::into),
            protocol_type: Some("consumer".into()),
            protocol_name: response.protocol_name.clone(),
            assignments,
        };
        let synced = self.ask(&request, limit).await?;
        if let Err(code) = check(synced.error_code) {
            return self.refused(code).await;
        }
        let assignment =
            Assignment::decode(&synced.assignment).map_err(|error| self.broken(&error.to_string()))?;
        Ok(Joined::Member {
            partitions: assignment.partitions.into_iter().collect(),
        })
    }

    /// What a refusal of JoinGroup or SyncGroup means.
    async fn refused(&self, code: ErrorCode) -> Result<Joined, Stop> {
        match code {
            ErrorCode::RebalanceInProgress => Ok(Joined::Again),
            ErrorCode::UnknownMemberId | ErrorCode::IllegalGeneration => Ok(Joined::Forgotten),
            code if is_passing(code) => {
                sleep(self.shared.cluster.settings().retry_wait_max / 4).await;
                Ok(Joined::Again)
            }
            code => Err(GroupError::Refused {
                group: self.settings().group.clone(),
                refusal: code.into(),
            }
            .into()),
        }
    }

    /// As the leader, decides who reads what.
    async fn give_out(
        &mut self,
        response: &JoinGroupResponse,
    ) -> Result<Vec<SyncGroupRequestAssignment>, Stop> {
        let name = response.protocol_name.as_deref().unwrap_or_default();
        let assignor = Assignor::from_name(name)
            .ok_or_else(|| self.broken(&format!("the coordinator chose '{name}', which was not offered")))?;
        let members: Vec<Member> = response
            .members
            .iter()
            .map(|member| {
                Ok(Member {
                    id: member.member_id.as_str().to_owned(),
                    instance_id: member.group_instance_id.as_ref().map(|id| id.as_str().to_owned()),
                    subscription: Subscription::decode(&member.metadata)?,
                })
            })
            .collect::<Result<_, meridian_wire::DecodeError>>()
            .map_err(|error| self.broken(&format!("a member's subscription cannot be read: {error}")))?;
        let wanted: BTreeSet<&str> = members
            .iter()
            .flat_map(|member| &member.subscription.topics)
            .map(String::as_str)
            .collect();
        self.topics = self.count_partitions(&wanted).await?;
        assignor
            .assign(&members, &self.topics)
            .into_iter()
            .map(|(member_id, partitions)| {
                let assignment = Assignment { partitions }
                    .encode()
                    .map_err(|error| self.broken(&error.to_string()))?;
                Ok(SyncGroupRequestAssignment {
                    member_id: member_id.into(),
                    assignment,
                })
            })
            .collect()
    }

    async fn count_partitions(&self, topics: &BTreeSet<&str>) -> Result<BTreeMap<String, u32>, Stop> {
        let names: Vec<&str> = topics.iter().copied().collect();
        let update = self.shared.cluster.refresh(Some(&names)).await?;
        Ok(update
            .metadata
            .topics
            .iter()
            .map(|(name, topic)| {
                (
                    name.clone(),
                    u32::try_from(topic.partitions.len()).unwrap_or(u32::MAX),
                )
            })
            .collect())
    }

    /// Beats until the group changes.
    async fn stay(&mut self) -> Result<Changed, Stop> {
        let period = self.settings().heartbeat_interval;
        let mut beats = interval_at(Instant::now() + period, period);
        beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut look_at = Instant::now() + TOPICS_INTERVAL;
        loop {
            beats.tick().await;
            if let Some(changed) = self.beat().await? {
                return Ok(changed);
            }
            if self.is_leader && Instant::now() >= look_at {
                look_at = Instant::now() + TOPICS_INTERVAL;
                let wanted: BTreeSet<&str> = self.topics.keys().map(String::as_str).collect();
                if self.count_partitions(&wanted).await? != self.topics {
                    return Ok(Changed::Rebalance);
                }
            }
        }
    }

    async fn beat(&self) -> Result<Option<Changed>, Stop> {
        let identity = self.identity();
        let request = HeartbeatRequest {
            group_id: (&self.settings().group).into(),
            generation_id: identity.generation,
            member_id: identity.member_id.into(),
            group_instance_id: self.settings().instance_id.as_ref().map(Into::into),
        };
        let response = self
            .ask(&request, self.shared.cluster.settings().request_timeout)
            .await?;
        match check(response.error_code) {
            Ok(()) => Ok(None),
            Err(ErrorCode::RebalanceInProgress) => Ok(Some(Changed::Rebalance)),
            Err(ErrorCode::UnknownMemberId | ErrorCode::IllegalGeneration) => Ok(Some(Changed::Forgotten)),
            Err(code) if is_passing(code) => Ok(None),
            Err(code) => Err(GroupError::Refused {
                group: self.settings().group.clone(),
                refusal: code.into(),
            }
            .into()),
        }
    }

    /// Has the reader let go of partitions, while heartbeats go on. A reader that takes longer than the rebalance
    /// timeout loses them.
    async fn revoke(&mut self, partitions: BTreeSet<TopicPartition>) -> Result<(), Stop> {
        if partitions.is_empty() {
            return Ok(());
        }
        let named: Vec<_> = partitions.iter().cloned().collect();
        let (let_go, mut answered) = oneshot::channel();
        self.tell(DriverEvent::Revoking(named.clone(), let_go)).await?;
        let period = self.settings().heartbeat_interval;
        let deadline = Instant::now() + self.settings().rebalance_timeout;
        loop {
            match timeout(
                period.min(deadline.saturating_duration_since(Instant::now())),
                &mut answered,
            )
            .await
            {
                // An error means that the member was dropped; `stop` says the same.
                Ok(_) => break,
                Err(_) if Instant::now() >= deadline => {
                    self.tell(DriverEvent::Lost(named)).await?;
                    break;
                }
                Err(_) => {
                    // That the group rebalances is known; that we are forgotten shows when joining.
                    self.beat().await?;
                }
            }
        }
        self.owned.retain(|partition| !partitions.contains(partition));
        Ok(())
    }

    /// Lets the reader begin with new partitions, where the group has stopped.
    async fn assign(&mut self, partitions: BTreeSet<TopicPartition>) -> Result<(), Stop> {
        let settings = self.settings();
        let stored = if partitions.is_empty() {
            BTreeMap::new()
        } else {
            fetch_offsets(&self.shared.cluster, &settings.group, self.shared.commit_lane).await?
        };
        let start = match settings.start {
            OutOfRange::Earliest => StartAt::Earliest,
            OutOfRange::Latest | OutOfRange::Fail => StartAt::Latest,
        };
        let positions = partitions
            .iter()
            .map(|key| {
                let at = stored
                    .get(key)
                    .map_or(start, |stored| StartAt::Offset(stored.offset));
                (key.0.clone(), key.1, at)
            })
            .collect();
        // That nothing comes is worth telling only to one who has nothing.
        let is_news = !partitions.is_empty() || self.owned.is_empty();
        self.owned.extend(partitions);
        if !is_news {
            return Ok(());
        }
        self.tell(DriverEvent::Assigned(positions)).await
    }

    /// The coordinator has forgotten us: begin again as somebody new.
    async fn forget(&mut self) -> Result<(), Stop> {
        *self.shared.identity.lock() = MemberIdentity {
            member_id: String::new(),
            generation: -1,
        };
        let lost: Vec<_> = std::mem::take(&mut self.owned).into_iter().collect();
        if lost.is_empty() {
            return Ok(());
        }
        self.tell(DriverEvent::Lost(lost)).await
    }

    /// Tells the coordinator that we go. A static member stays.
    async fn leave(&self) {
        let identity = self.identity();
        if identity.member_id.is_empty() || self.settings().instance_id.is_some() {
            return;
        }
        let Ok(endpoint) = self.shared.cluster.coordinator(&self.settings().group).await else {
            return;
        };
        // A lane of its own: a join may be under way on the other.
        let Ok(connection) = self
            .shared
            .cluster
            .connection_to(self.shared.commit_lane, &endpoint)
            .await
        else {
            return;
        };
        let is_list = connection
            .versions()
            .common(ApiKey::LeaveGroup)
            .is_some_and(|version| version >= 3);
        let group_id = (&self.settings().group).into();
        let request = if is_list {
            LeaveGroupRequest {
                group_id,
                members: vec![LeavingMember {
                    member_id: identity.member_id.into(),
                    ..LeavingMember::default()
                }],
                ..LeaveGroupRequest::default()
            }
        } else {
            LeaveGroupRequest {
                group_id,
                member_id: identity.member_id.into(),
                ..LeaveGroupRequest::default()
            }
        };
        // If it does not arrive, the session timeout says the same later.
        if let Err(error) = connection.send(&request, Duration::from_secs(5)).await {
            tracing::debug!(%error, "leaving the group was not answered");
        }
    }

    /// Asks the coordinator; tries again while it cannot be reached, for as long as the session lasts.
    async fn ask<R: Request>(&self, request: &R, limit: Duration) -> Result<R::Response, Stop> {
        let mut backoff = self.shared.cluster.backoff();
        let deadline = Instant::now() + self.settings().session_timeout.max(limit);
        loop {
            let sent: Result<R::Response, GroupError> = async {
                let endpoint = self.shared.cluster.coordinator(&self.settings().group).await?;
                let connection = self.shared.cluster.connection_to(self.lane, &endpoint).await?;
                Ok(connection.send(request, limit).await?)
            }
            .await;
            match sent {
                Ok(response) => return Ok(response),
                Err(error) => {
                    let wait = backoff.next_wait();
                    if !may_pass(&error) || Instant::now() + wait >= deadline {
                        return Err(error.into());
                    }
                    sleep(wait).await;
                }
            }
        }
    }

    fn protocols(&self, identity: &MemberIdentity) -> Result<Vec<JoinGroupRequestProtocol>, EncodeError> {
        let owned: Vec<_> = self.owned.iter().cloned().collect();
        self.settings()
            .assignors
            .iter()
            .map(|assignor| {
                let subscription = Subscription {
                    topics: self.settings().topics.clone(),
                    owned: owned.clone(),
                    generation: Some(identity.generation).filter(|generation| *generation >= 0),
                    rack: self.settings().consumer.rack.clone(),
                    user_data: assignor.user_data(&owned, identity.generation),
                };
                Ok(JoinGroupRequestProtocol {
                    name: assignor.name().into(),
                    metadata: subscription.encode()?,
                })
            })
            .collect()
    }

    async fn tell(&self, event: DriverEvent) -> Result<(), Stop> {
        self.events.send(event).await.map_err(|_| Stop::Leaving)
    }

    fn settings(&self) -> &super::GroupSettings {
        &self.shared.settings
    }

    fn identity(&self) -> MemberIdentity {
        self.shared.identity.lock().clone()
    }

    fn broken(&self, reason: &str) -> Stop {
        Stop::Failed(GroupError::Protocol {
            group: self.settings().group.clone(),
            reason: reason.to_owned(),
        })
    }
}

fn may_pass(error: &GroupError) -> bool {
    match error {
        GroupError::Request(error) | GroupError::Coordinator(CoordinatorError::Request(error)) => {
            error.is_retriable()
        }
        GroupError::Coordinator(CoordinatorError::Refused { refusal, .. }) => refusal.code.is_retriable(),
        _ => false,
    }
}

/// Refusals of a coordinator that moves or starts.
fn is_passing(code: ErrorCode) -> bool {
    matches!(
        code,
        ErrorCode::NotCoordinator | ErrorCode::CoordinatorNotAvailable | ErrorCode::CoordinatorLoadInProgress
    )
}
