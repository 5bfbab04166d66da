//! A region whose nodes are lost begins again from its bucket.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use meridian_controller::Command as ControlCommand;
use meridian_journal::{Disk, RealDisk};
use meridian_shard::restore::{RestoreError, RestorePlan, RestoreReport, RestoreRequest, look};
use meridian_shard::{BucketStanding, OffsetSpec, PeerSettings, ReadFrom, RegionSettings};
use meridian_state::{Command, CommittedOffset};
use meridian_tiered_storage::store::Store;
use meridian_tiered_storage::{StateFile, StateKey};
use meridian_types::{
    LeaderEpoch, NodeId, Offset, Partition, ProducerId, RegionEpoch, ShardId, TimestampMs, TopicId, Uuid,
};
use meridian_wire::batch::{BatchBuilder, BatchHeader, Compression};

use crate::harness::{FOREVER, Node, Place, SHARDS, tier_settings};

const PRODUCER: ProducerId = ProducerId(42);

/// Ten records of an idempotent producer.
fn produced(sequence: i32) -> Bytes {
    let mut builder = BatchBuilder::new(Compression::None).with_producer(PRODUCER, 0, sequence);
    for n in 0..10 {
        let value = format!("record {}", sequence + n);
        builder
            .push(TimestampMs(1_000_000), None, Some(value.as_bytes()), &[])
            .expect("it fits");
    }
    builder.build().expect("a batch")
}

struct Sent {
    base_offset: u64,
    is_duplicate: bool,
    leader_epoch: LeaderEpoch,
}

async fn send(node: &Node, partition: Partition, sequence: i32) -> Sent {
    let batch = produced(sequence);
    let header = BatchHeader::parse(&batch).expect("a batch");
    let appended = node
        .region
        .append(partition, BytesMut::from(&batch[..]), header)
        .await
        .expect("appended");
    Sent {
        base_offset: appended.base_offset.0,
        is_duplicate: appended.duplicate,
        leader_epoch: appended.leader_epoch,
    }
}

async fn commit(node: &Node, group: &str, offsets: &[(Partition, u64)]) {
    let committed = |offset| CommittedOffset {
        offset: Offset(offset),
        leader_epoch: None,
        metadata: "here".into(),
        committed_at: TimestampMs(1_000_000),
    };
    let offsets = offsets
        .iter()
        .map(|(partition, offset)| (*partition, committed(*offset)));
    let command = Command::CommitOffsets {
        group: group.to_owned(),
        now: TimestampMs(1_000_000),
        offsets: offsets.collect(),
    };
    let shard = node.region.group_shard(group);
    node.region.propose(shard, command).await.expect("committed");
}

fn committed(node: &Node, group: &str, partition: Partition) -> Option<u64> {
    let state = node.region.applied_state(node.region.group_shard(group));
    Some(state.group(group)?.offsets.get(&partition)?.offset.0)
}

/// Waits until the bucket has a copy of every state as it is now, and the facts too.
async fn copied(node: &Node, place: &Place) {
    let newest = |shard: ShardId| {
        let prefix = StateFile::prefix("cluster", shard);
        let keys = place.keys(".state");
        let names = keys
            .iter()
            .filter_map(|key| StateFile::parse_key(key.strip_prefix(&prefix)?));
        names.map(|key: StateKey| key.position.index).max()
    };
    node.until("the states are copied", |node| {
        let controller = node.region.controller().applied().index;
        let is_copied = |shard| {
            let index = node.region.applied_state(shard).applied().index;
            index.0 == 0 || newest(shard) == Some(index)
        };
        newest(ShardId::CONTROLLER) == Some(controller) && (0..SHARDS).map(ShardId).all(is_copied)
    })
    .await;
}

fn request() -> RestoreRequest {
    RestoreRequest {
        cluster: None,
        node: None,
        incarnation: Uuid::from_u128(99),
        now: TimestampMs(2_000_000),
        take_over: true,
    }
}

async fn plan(store: &Store, request: &RestoreRequest) -> Result<RestorePlan, RestoreError> {
    look(store, request, &|_| {}).await
}

async fn restore(place: &Place, request: &RestoreRequest, directory: &Path) -> RestoreReport {
    let store = place.store();
    let planned = plan(&store, request).await.expect("it can be restored");
    assert!(planned.claim(&store).await.expect("claimed"), "nobody writes");
    let disk: Arc<dyn Disk> = Arc::new(RealDisk::open(directory.join("checkpoints")).expect("a disk"));
    planned.write(&disk).expect("written");
    planned.report().clone()
}

/// Node 2, which begins with what was restored.
async fn successor(directory: &Path, place: &Place) -> Node {
    Node::with(directory, place, |settings| {
        settings.peer = PeerSettings::new(NodeId(2), Uuid::from_u128(99), "test");
    })
    .await
}

fn without_rounds(settings: &mut RegionSettings) {
    let bucket = settings.bucket.as_mut().expect("it has one");
    bucket.settings.round_interval = Duration::from_secs(3600);
    bucket.settings.round_bytes = u64::MAX;
}

/// A partition in another shard than the group's.
fn elsewhere(node: &Node, topic: TopicId, group: &str) -> Partition {
    (0..SHARDS)
        .map(|index| Partition { topic, index })
        .find(|partition| node.region.shard_of(*partition) != node.region.group_shard(group))
        .expect("consecutive partitions visit every shard")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_region_begins_again_where_its_bucket_ends() {
    let directory = tempfile::tempdir().expect("a directory");
    let place = Place::new(directory.path());
    let (old, new) = (directory.path().join("old"), directory.path().join("new"));
    std::fs::create_dir_all(&old).expect("made");
    std::fs::create_dir_all(&new).expect("made");

    let node = Node::start(&old, &place).await;
    let topic = node.topic("orders", FOREVER).await;
    let gone = node.topic("gone", &[]).await;
    let (p, q) = (elsewhere(&node, topic, "readers"), Partition { topic, index: 7 });
    for sequence in (0..200).step_by(10) {
        send(&node, p, sequence).await;
        send(&node, q, sequence).await;
    }
    send(
        &node,
        Partition {
            topic: gone,
            index: 1,
        },
        0,
    )
    .await;
    commit(&node, "readers", &[(p, 150), (q, 30)]).await;
    node.region
        .control(ControlCommand::DeleteTopics {
            topics: vec![gone],
            now: TimestampMs(1_000_000),
        })
        .await
        .expect("deleted");
    node.until("the topic is dropped", |node| {
        (0..SHARDS).any(|shard| node.region.applied_state(ShardId(shard)).is_dropped(gone))
    })
    .await;
    node.until("everything is in the bucket", Node::is_tiered).await;
    let then = node.read_all(p, Offset(0)).await;
    node.stop().await;

    // What follows does not reach the bucket, but the states that know of it do.
    let node = Node::with(&old, &place, without_rounds).await;
    let old_epoch = send(&node, p, 200).await.leader_epoch;
    send(&node, p, 210).await;
    commit(&node, "readers", &[(p, 220)]).await;
    copied(&node, &place).await;
    node.stop().await;

    // The bucket is asked for nothing before it is clear that it may be taken.
    let cautious = RestoreRequest {
        take_over: false,
        now: TimestampMs(i64::MAX / 2),
        ..request()
    };
    let store = place.store();
    assert!(plan(&store, &cautious).await.is_ok(), "long silent");
    let modified = std::fs::metadata(place.directory.join("cluster/OWNER")).expect("it is owned");
    let modified = modified
        .modified()
        .expect("a time")
        .duration_since(std::time::UNIX_EPOCH);
    let heard = RestoreRequest {
        now: TimestampMs(modified.expect("after 1970").as_millis() as i64 + 60_000),
        ..cautious
    };
    let error = plan(&store, &heard).await.map(|_| ()).expect_err("it may live");
    assert!(matches!(error, RestoreError::MayLive { .. }), "{error}");

    let report = restore(&place, &request(), &new).await;
    assert_eq!((report.records(), report.lost_records()), (400, 20));
    assert_eq!((report.node, report.region_epoch), (NodeId(2), RegionEpoch(1)));
    assert_eq!(report.topics, 1);
    let clamped: u64 = report.shards.iter().map(|shard| shard.clamped_offsets).sum();
    assert_eq!(clamped, 1);
    assert_eq!(report.newest_timestamp(), Some(TimestampMs(1_000_000)));
    assert!(report.warnings.is_empty(), "{:?}", report.warnings);

    let node = successor(&new, &place).await;
    assert_eq!(node.read_all(p, Offset(0)).await, then);
    assert_eq!(node.find(p, OffsetSpec::Latest).await, Some((200, None)));
    assert_eq!(committed(&node, "readers", p), Some(200));
    assert_eq!(committed(&node, "readers", q), Some(30));
    assert!(node.region.controller().topic("gone").is_none());
    let kept = node
        .region
        .controller()
        .topic("orders")
        .expect("kept")
        .configs
        .clone();
    assert_eq!(kept.get("retention.ms").map(String::as_str), Some("-1"));

    // What the bucket has is a duplicate, what is lost is not.
    let again = send(&node, p, 190).await;
    assert!(again.is_duplicate && again.base_offset == 190);
    let lost = send(&node, p, 200).await;
    assert!(!lost.is_duplicate && lost.base_offset == 200);
    assert!(lost.leader_epoch > old_epoch);
    assert_eq!(lost.leader_epoch.region(), RegionEpoch(1));
    let end = node
        .region
        .end_offset_for_epoch(p, old_epoch, ReadFrom::Leader)
        .expect("led here");
    assert_eq!(
        end.map(|(_, end)| end),
        Some(Offset(200)),
        "readers of what is lost go back (KIP-320)"
    );

    // It goes on in its bucket, and is restored again.
    node.until("everything is in the bucket", Node::is_tiered).await;
    copied(&node, &place).await;
    node.stop().await;
    let third = directory.path().join("third");
    std::fs::create_dir_all(&third).expect("made");
    let later = RestoreRequest {
        now: TimestampMs(3_000_000),
        ..request()
    };
    let report = restore(&place, &later, &third).await;
    assert_eq!((report.records(), report.lost_records()), (410, 0));
    assert_eq!((report.node, report.region_epoch), (NodeId(3), RegionEpoch(2)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_region_that_lost_its_bucket_notices_and_writes_nothing_there_any_more() {
    let directory = tempfile::tempdir().expect("a directory");
    let place = Place::new(directory.path());
    let node = Node::start(directory.path(), &place).await;
    let topic = node.topic("orders", FOREVER).await;
    let p = Partition { topic, index: 0 };
    send(&node, p, 0).await;
    node.until("everything is in the bucket", Node::is_tiered).await;
    copied(&node, &place).await;

    let new = directory.path().join("new");
    std::fs::create_dir_all(&new).expect("made");
    restore(&place, &request(), &new).await;
    let standing = |node: &Node| node.region.tier_usage().expect("it has a bucket").standing;
    // Whatever it does next, it looks first.
    let sending = async {
        for sequence in (10..).step_by(10) {
            send(&node, p, sequence).await;
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::select! {
        () = sending => {}
        () = node.until("the loss is noticed", |node| standing(node) == BucketStanding::Lost) => {}
    }
    // What was on its way when the loss was noticed may still arrive.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let through = node
        .region
        .applied_state(node.region.shard_of(p))
        .manifest()
        .through();
    let states = place.keys(".state");
    for sequence in (0..100).step_by(10) {
        send(&node, Partition { topic, index: 3 }, sequence).await;
    }
    tokio::time::sleep(10 * tier_settings().copy_interval).await;
    assert_eq!(place.keys(".state"), states);
    assert_eq!(
        node.region
            .applied_state(node.region.shard_of(p))
            .manifest()
            .through(),
        through
    );
    node.stop().await;

    // Started again it finds it out before it does anything.
    let node = Node::start(directory.path(), &place).await;
    node.until("it knows", |node| standing(node) == BucketStanding::Lost)
        .await;
    assert_eq!(place.keys(".state"), states);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_one_of_two_restores_gets_the_bucket_and_an_interrupted_one_goes_on() {
    let directory = tempfile::tempdir().expect("a directory");
    let place = Place::new(directory.path());
    let node = Node::start(directory.path(), &place).await;
    let topic = node.topic("orders", FOREVER).await;
    send(&node, Partition { topic, index: 0 }, 0).await;
    node.until("everything is in the bucket", Node::is_tiered).await;
    copied(&node, &place).await;
    node.stop().await;

    let store = place.store();
    let first = plan(&store, &request()).await.expect("it can");
    let other = RestoreRequest {
        now: TimestampMs(2_000_001),
        ..request()
    };
    let second = plan(&store, &other).await.expect("it can");
    assert!(first.claim(&store).await.expect("claimed"));
    let error = second.claim(&store).await.map(|_| ()).expect_err("one has it");
    assert!(matches!(error, RestoreError::TakenOver { .. }), "{error}");

    // The first goes on as who it was, without being asked again.
    let again = RestoreRequest {
        take_over: false,
        ..request()
    };
    let resumed = plan(&store, &again).await.expect("its own");
    assert!(resumed.claim(&store).await.expect("it has it already"));
    assert_eq!(resumed.report().region_epoch, RegionEpoch(1));
    assert_eq!(place.keys("OWNER-1").len() + place.keys("OWNER-2").len(), 1);

    // An object that is gone is named before anything is taken.
    let bundle = place.keys(".bundle").pop().expect("one");
    std::fs::remove_file(place.directory.join(&bundle)).expect("removed");
    let error = plan(&store, &request())
        .await
        .map(|_| ())
        .expect_err("it is gone")
        .to_string();
    assert!(error.contains(&bundle), "{error}");
}
