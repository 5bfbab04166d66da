//! The driver, under tokio's paused clock, with a store that can be held up.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use meridian_types::{LeaderEpoch, ShardId, TimestampMs, shard_of_name};
use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::super::{
    BoxFuture, Client, CommitKind, CommitRequest, Coordinator, GroupCoordinator, GroupError, GroupSettings,
    GroupState, GroupStore, HeartbeatRequest, JoinRequest, Joined, LeaveRequest, LeavingMember, Protocol,
    StoreError, SyncRequest,
};

const SHARDS: u32 = 4;
const GROUP: &str = "orders";
const EPOCH: LeaderEpoch = LeaderEpoch(3);
const UNIX_TIME: TimestampMs = TimestampMs(1_700_000_000_000);

/// Keeps groups in memory; a save or deletion needs a permit.
#[derive(Clone)]
struct Store {
    groups: Arc<Mutex<BTreeMap<String, Bytes>>>,
    permits: Arc<Semaphore>,
}

impl Store {
    fn with_permits(permits: usize) -> Self {
        Self {
            groups: Arc::default(),
            permits: Arc::new(Semaphore::new(permits)),
        }
    }

    fn groups(&self) -> BTreeMap<String, Bytes> {
        self.groups.lock().clone()
    }

    fn when_permitted(
        &self,
        change: impl FnOnce(&mut BTreeMap<String, Bytes>) + Send + 'static,
    ) -> BoxFuture<Result<(), StoreError>> {
        let store = self.clone();
        Box::pin(async move {
            let permit = store.permits.acquire().await.map_err(|_| StoreError::NotLeader)?;
            permit.forget();
            change(&mut store.groups.lock());
            Ok(())
        })
    }
}

impl GroupStore for Store {
    fn save(&self, group: &str, _: LeaderEpoch, body: Bytes) -> BoxFuture<Result<(), StoreError>> {
        let group = group.to_owned();
        self.when_permitted(move |groups| {
            groups.insert(group, body);
        })
    }

    fn delete(&self, group: &str, _: LeaderEpoch) -> BoxFuture<Result<(), StoreError>> {
        let group = group.to_owned();
        self.when_permitted(move |groups| {
            groups.remove(&group);
        })
    }
}

struct Node {
    coordinator: GroupCoordinator,
    store: Store,
    stop: CancellationToken,
}

fn start(store: Store) -> Node {
    let mut next = 0;
    let ids = move || {
        next += 1;
        next.to_string()
    };
    let core = Coordinator::new(GroupSettings::default(), SHARDS, Box::new(ids));
    let stop = CancellationToken::new();
    let coordinator = GroupCoordinator::start(core, Arc::new(store.clone()), UNIX_TIME, stop.clone());
    assert!(coordinator.load(shard(), EPOCH, store.groups()).is_empty());
    Node {
        coordinator,
        store,
        stop,
    }
}

fn shard() -> ShardId {
    shard_of_name(GROUP, SHARDS)
}

fn join(member_id: &str) -> JoinRequest {
    JoinRequest {
        api_version: 3,
        group_id: GROUP.to_owned(),
        member_id: member_id.to_owned(),
        instance_id: None,
        client: Client {
            id: "app".to_owned(),
            host: "/127.0.0.1".to_owned(),
        },
        session_timeout_ms: 10_000,
        rebalance_timeout_ms: 30_000,
        protocol_type: "consumer".to_owned(),
        protocols: vec![Protocol {
            name: "range".to_owned(),
            metadata: Bytes::new(),
        }],
        reason: None,
    }
}

fn sync(joined: &Joined) -> SyncRequest {
    SyncRequest {
        group_id: GROUP.to_owned(),
        member_id: joined.member_id.clone(),
        instance_id: None,
        generation: joined.generation,
        protocol_type: None,
        protocol_name: None,
        assignments: joined
            .members
            .iter()
            .map(|m| (m.member_id.clone(), m.member_id.clone().into()))
            .collect(),
    }
}

fn heartbeat(joined: &Joined) -> HeartbeatRequest {
    HeartbeatRequest {
        group_id: GROUP.to_owned(),
        member_id: joined.member_id.clone(),
        instance_id: None,
        generation: joined.generation,
    }
}

fn leave(joined: &Joined) -> LeaveRequest {
    let leaving = LeavingMember {
        member_id: joined.member_id.clone(),
        instance_id: None,
        reason: None,
    };
    LeaveRequest {
        group_id: GROUP.to_owned(),
        members: vec![leaving],
    }
}

fn state(node: &Node) -> Result<GroupState, GroupError> {
    node.coordinator
        .query(|core| core.describe(GROUP, false))
        .map(|group| group.state)
}

#[tokio::test(start_paused = true)]
async fn two_members_join_sync_and_are_missed_when_silent() {
    let node = start(Store::with_permits(1_000));
    let (first, second) = tokio::join!(node.coordinator.join(join("")), node.coordinator.join(join("")));
    let (first, second) = (first.expect("joined"), second.expect("joined"));
    assert_eq!((first.generation, second.generation), (1, 1));
    let (a, b) = tokio::join!(
        node.coordinator.sync(sync(&first)),
        node.coordinator.sync(sync(&second))
    );
    assert_eq!(a.expect("synced").assignment, first.member_id.as_bytes());
    assert_eq!(b.expect("synced").assignment, second.member_id.as_bytes());
    assert_eq!(node.coordinator.heartbeat(&heartbeat(&first)), Ok(()));

    sleep(Duration::from_secs(9)).await;
    assert_eq!(node.coordinator.heartbeat(&heartbeat(&first)), Ok(()));
    sleep(Duration::from_secs(2)).await;
    assert_eq!(
        node.coordinator.heartbeat(&heartbeat(&second)),
        Err(GroupError::UnknownMember)
    );
    assert_eq!(
        node.coordinator.heartbeat(&heartbeat(&first)),
        Err(GroupError::RebalanceInProgress)
    );
    let alone = node
        .coordinator
        .join(join(&first.member_id))
        .await
        .expect("joined");
    assert_eq!((alone.generation, alone.members.len()), (2, 1));
}

#[tokio::test(start_paused = true)]
async fn assignments_wait_for_the_store_and_survive_a_restart() {
    let node = start(Store::with_permits(0));
    let joined = node.coordinator.join(join("")).await.expect("joined");
    let mut synced = Box::pin(node.coordinator.sync(sync(&joined)));
    assert!(
        timeout(Duration::from_secs(1), &mut synced).await.is_err(),
        "nothing is saved yet"
    );
    node.store.permits.add_permits(1);
    assert_eq!(
        synced.await.expect("synced").assignment,
        joined.member_id.as_bytes()
    );
    node.stop.cancel();

    let node = start(node.store.clone());
    assert_eq!(node.coordinator.heartbeat(&heartbeat(&joined)), Ok(()));
    let request = CommitRequest {
        group_id: GROUP.to_owned(),
        member_id: joined.member_id.clone(),
        instance_id: None,
        generation: joined.generation,
        kind: CommitKind::Plain,
    };
    assert_eq!(node.coordinator.validate_commit(&request), Ok(EPOCH));
    assert_eq!(state(&node), Ok(GroupState::Stable));
    // Its session runs in the new coordinator too.
    node.store.permits.add_permits(1);
    sleep(Duration::from_secs(11)).await;
    assert_eq!(state(&node), Ok(GroupState::Empty));
}

#[tokio::test(start_paused = true)]
async fn losing_the_shard_sends_everyone_away() {
    let node = start(Store::with_permits(1_000));
    let waiting = tokio::spawn({
        let coordinator = node.coordinator.clone();
        async move { coordinator.join(join("")).await }
    });
    sleep(Duration::from_secs(1)).await;
    node.coordinator.unload(shard());
    let refused = waiting
        .await
        .expect("no panic")
        .expect_err("the coordinator moved");
    assert_eq!(refused.error, GroupError::NotCoordinator);
    node.coordinator.begin_load(shard());
    let refused = node.coordinator.join(join("")).await.expect_err("still loading");
    assert_eq!(refused.error, GroupError::LoadInProgress);
}

#[tokio::test(start_paused = true)]
async fn a_left_group_can_be_deleted() {
    let node = start(Store::with_permits(1_000));
    let joined = node.coordinator.join(join("")).await.expect("joined");
    assert_eq!(
        node.coordinator.delete(GROUP, true).await,
        Err(GroupError::NonEmptyGroup)
    );
    let left = node.coordinator.leave(leave(&joined)).await.expect("left");
    assert_eq!(left[0].result, Ok(()));
    assert_eq!(node.store.groups().len(), 1);
    assert_eq!(node.coordinator.delete(GROUP, true).await, Ok(()));
    assert!(node.store.groups().is_empty());
    assert_eq!(state(&node), Err(GroupError::GroupNotFound));
}

#[tokio::test(start_paused = true)]
async fn stopping_answers_those_who_wait() {
    let node = start(Store::with_permits(0));
    let joined = node.coordinator.join(join("")).await.expect("joined");
    let synced = tokio::spawn({
        let coordinator = node.coordinator.clone();
        async move { coordinator.sync(sync(&joined)).await }
    });
    sleep(Duration::from_secs(1)).await;
    node.stop.cancel();
    assert_eq!(synced.await.expect("no panic"), Err(GroupError::NotAvailable));
}
