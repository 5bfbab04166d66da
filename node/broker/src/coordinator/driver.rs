//! Runs the coordinator under tokio: requests become futures, saves become tasks, timers one task.

use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use meridian_types::{LeaderEpoch, ShardId, TimestampMs};
use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::core::{Action, Coordinator, LoadProblem};
use super::error::{GroupError, StoreError};
use super::request::{
    CommitRequest, HeartbeatRequest, JoinRefused, JoinRequest, JoinResult, LeaveRequest, LeftMember, Reply,
    SyncRequest, Synced, Token,
};

/// A future that owns all it needs.
pub type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send + 'static>>;

/// Where groups are kept: commands of the shard that a group belongs to.
///
/// The calls for one group come one after the other. What a call has begun must not take effect
/// after this node has lost the shard and led it again: propose under the leadership of `epoch` only.
pub trait GroupStore: Send + Sync + 'static {
    /// Puts the body in place of the group's last one. Done when a quorum has it.
    fn save(&self, group: &str, epoch: LeaderEpoch, body: Bytes) -> BoxFuture<Result<(), StoreError>>;

    /// Removes the group's body and all of its committed offsets. Done when a quorum has it.
    fn delete(&self, group: &str, epoch: LeaderEpoch) -> BoxFuture<Result<(), StoreError>>;
}

/// The coordinator of this node's groups. Clones are one and the same. Needs a tokio runtime.
#[derive(Clone)]
pub struct GroupCoordinator {
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    store: Arc<dyn GroupStore>,
    /// Wakes the timer task when a deadline comes before the one it sleeps for.
    sooner: Notify,
    clock: Clock,
    stop: CancellationToken,
}

struct State {
    core: Coordinator,
    waiting: HashMap<Token, oneshot::Sender<Reply>>,
    next_token: u64,
    /// When the timer task wakes by itself.
    wakes_at: Option<TimestampMs>,
}

/// Milliseconds since the Unix epoch, by a clock that never steps back.
#[derive(Clone, Copy)]
struct Clock {
    started: Instant,
    started_at: TimestampMs,
}

impl Clock {
    fn now(self) -> TimestampMs {
        let elapsed_ms = i64::try_from(self.started.elapsed().as_millis()).unwrap_or(i64::MAX);
        TimestampMs(self.started_at.0.saturating_add(elapsed_ms))
    }

    fn instant(self, at: TimestampMs) -> Instant {
        let after_ms = u64::try_from(at.0.saturating_sub(self.started_at.0)).unwrap_or(0);
        self.started + Duration::from_millis(after_ms)
    }
}

impl GroupCoordinator {
    /// Starts the timer task, which ends with `stop`. `unix_time` is the time now.
    pub fn start(
        core: Coordinator,
        store: Arc<dyn GroupStore>,
        unix_time: TimestampMs,
        stop: CancellationToken,
    ) -> Self {
        let state = State {
            core,
            waiting: HashMap::new(),
            next_token: 0,
            wakes_at: None,
        };
        let shared = Arc::new(Shared {
            state: Mutex::new(state),
            store,
            sooner: Notify::new(),
            clock: Clock {
                started: Instant::now(),
                started_at: unix_time,
            },
            stop,
        });
        tokio::spawn(shared.clone().fire_timers());
        Self { shared }
    }

    /// JoinGroup. Waits for the join barrier: seconds to minutes.
    pub async fn join(&self, request: JoinRequest) -> JoinResult {
        let member_id = request.member_id.clone();
        match self
            .ask(|core, now, token| core.handle_join(now, request, token))
            .await
        {
            Some(Reply::Join(result)) => result,
            _ => Err(JoinRefused {
                error: GroupError::NotAvailable,
                member_id,
            }),
        }
    }

    /// SyncGroup. Waits for the leader's assignment and until that is saved.
    pub async fn sync(&self, request: SyncRequest) -> Result<Synced, GroupError> {
        match self
            .ask(|core, now, token| core.handle_sync(now, request, token))
            .await
        {
            Some(Reply::Sync(result)) => result,
            _ => Err(GroupError::NotAvailable),
        }
    }

    /// Heartbeat.
    pub fn heartbeat(&self, request: &HeartbeatRequest) -> Result<(), GroupError> {
        self.shared.with(|core, now| core.handle_heartbeat(now, request))
    }

    /// LeaveGroup. Waits until an empty group is saved.
    pub async fn leave(&self, request: LeaveRequest) -> Result<Vec<LeftMember>, GroupError> {
        match self
            .ask(|core, now, token| core.handle_leave(now, request, token))
            .await
        {
            Some(Reply::Leave(result)) => result,
            _ => Err(GroupError::NotAvailable),
        }
    }

    /// Deletes a group without members. Waits until that is saved.
    pub async fn delete(&self, group_id: &str, has_offsets: bool) -> Result<(), GroupError> {
        match self
            .ask(|core, now, token| core.handle_delete(now, group_id, has_offsets, token))
            .await
        {
            Some(Reply::Delete(result)) => result,
            _ => Err(GroupError::NotAvailable),
        }
    }

    /// Whether offsets may be committed: propose them under the leadership that this answers, and no other.
    pub fn validate_commit(&self, request: &CommitRequest) -> Result<LeaderEpoch, GroupError> {
        self.shared.with(|core, now| core.validate_commit(now, request))
    }

    /// See [`Coordinator::begin_load`].
    pub fn begin_load(&self, shard: ShardId) {
        self.shared.with(|core, _| core.begin_load(shard));
    }

    /// See [`Coordinator::load`].
    pub fn load(
        &self,
        shard: ShardId,
        epoch: LeaderEpoch,
        groups: impl IntoIterator<Item = (String, Bytes)>,
    ) -> Vec<LoadProblem> {
        self.shared.with(|core, now| core.load(now, shard, epoch, groups))
    }

    /// See [`Coordinator::unload`].
    pub fn unload(&self, shard: ShardId) {
        self.shared.with(|core, _| core.unload(shard));
    }

    /// Asks the core a question, such as [`Coordinator::describe`] or [`Coordinator::list`].
    pub fn query<R>(&self, question: impl FnOnce(&Coordinator) -> R) -> R {
        question(&self.shared.state.lock().core)
    }

    /// `None` when the coordinator stops before the answer.
    async fn ask(&self, call: impl FnOnce(&mut Coordinator, TimestampMs, Token)) -> Option<Reply> {
        let (sender, receiver) = oneshot::channel();
        self.shared.with_state(|state, now| {
            let token = Token(state.next_token);
            state.next_token += 1;
            state.waiting.insert(token, sender);
            call(&mut state.core, now, token);
        });
        tokio::select! {
            reply = receiver => reply.ok(),
            () = self.shared.stop.cancelled() => None,
        }
    }
}

impl Shared {
    fn with<R>(self: &Arc<Self>, call: impl FnOnce(&mut Coordinator, TimestampMs) -> R) -> R {
        self.with_state(|state, now| call(&mut state.core, now))
    }

    /// Calls the core and carries out what it answers.
    fn with_state<R>(self: &Arc<Self>, call: impl FnOnce(&mut State, TimestampMs) -> R) -> R {
        let mut actions = Vec::new();
        let result = {
            let mut state = self.state.lock();
            let result = call(&mut state, self.clock.now());
            while let Some((token, reply)) = state.core.poll_reply() {
                if let Some(sender) = state.waiting.remove(&token) {
                    // The client may have gone meanwhile; then nobody wants the answer.
                    let _ = sender.send(reply);
                }
            }
            while let Some(action) = state.core.poll_action() {
                actions.push(action);
            }
            let next = state.core.poll_timeout();
            if next.is_some_and(|next| state.wakes_at.is_none_or(|wakes_at| next < wakes_at)) {
                self.sooner.notify_one();
            }
            result
        };
        for action in actions {
            tokio::spawn(self.clone().carry_out(action));
        }
        result
    }

    async fn carry_out(self: Arc<Self>, action: Action) {
        let (save, group, work) = match action {
            Action::Save {
                save,
                group,
                epoch,
                body,
            } => (save, group.clone(), self.store.save(&group, epoch, body)),
            Action::Delete { save, group, epoch } => (save, group.clone(), self.store.delete(&group, epoch)),
        };
        let result = work.await;
        self.with(|core, now| core.saved(now, &group, save, result));
    }

    async fn fire_timers(self: Arc<Self>) {
        while !self.stop.is_cancelled() {
            self.with(|core, now| core.handle_timeout(now));
            let next = {
                let mut state = self.state.lock();
                state.wakes_at = state.core.poll_timeout();
                state.wakes_at
            };
            let due = async {
                match next {
                    Some(at) => tokio::time::sleep_until(self.clock.instant(at)).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = due => {}
                () = self.sooner.notified() => {}
                () = self.stop.cancelled() => {}
            }
        }
    }
}
