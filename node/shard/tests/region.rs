//! A region of one node, in process, over a real journal.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use meridian_controller::Command as ControlCommand;
use meridian_journal::{Disk, FaultyDisk, Journal, JournalSettings};
use meridian_net::testing::MemoryNet;
use meridian_shard::{
    AppendError, OffsetSpec, PeerSettings, ReadError, ReadFrom, Region, RegionParts, RegionSettings,
    ShardSettings,
};
use meridian_state::ProduceRejection;
use meridian_types::{NodeId, Offset, Partition, ProducerId, TimestampMs, TopicId, Uuid};
use meridian_wire::batch::{BatchBuilder, BatchHeader, Compression};
use tokio::sync::Notify;

use self::disk::open_disk;

#[path = "support/disk.rs"]
mod disk;
mod support;

/// How long anything may take before a test fails.
const PATIENCE: Duration = Duration::from_secs(60);

struct Node {
    region: Region,
    writer: std::thread::JoinHandle<()>,
    now: Arc<AtomicI64>,
}

impl Node {
    async fn start(directory: &Path) -> Self {
        Self::with(directory, ShardSettings::default()).await
    }

    async fn with(directory: &Path, shard: ShardSettings) -> Self {
        let disk = Arc::new(open_disk(&directory.join("journal")).await);
        Self::on(disk, directory, 2 << 20, shard).await
    }

    async fn on(disk: Arc<dyn Disk>, directory: &Path, bytes_max: u64, shard: ShardSettings) -> Self {
        let journal = JournalSettings {
            file_bytes: 1 << 20,
            bytes_max,
            cache_bytes: 256 << 10,
            ..JournalSettings::new(7)
        };
        let (journal, writer) = Journal::open(disk, journal).expect("a journal");
        let writer = std::thread::Builder::new()
            .spawn(move || writer.run())
            .expect("a thread");
        let checkpoints = open_disk(&directory.join("checkpoints")).await;
        let checkpoints: Arc<dyn Disk> = Arc::new(checkpoints);
        let now = Arc::new(AtomicI64::new(1_000_000));
        let clock = Arc::clone(&now);
        let random = AtomicU64::new(now.load(Ordering::Relaxed) as u64);
        let settings = RegionSettings {
            shards: 4,
            maintenance_interval: Duration::from_millis(50),
            journal_bytes_max: bytes_max,
            start_timeout: PATIENCE,
            shard,
            ..RegionSettings::new(PeerSettings::new(NodeId(1), Uuid::from_u128(1), "test"))
        };
        let parts = RegionParts {
            journal,
            checkpoints,
            net: Arc::new(MemoryNet::new().host("alone")),
            clock: Arc::new(move || TimestampMs(clock.load(Ordering::Relaxed))),
            random: Arc::new(move || u128::from(random.fetch_add(1, Ordering::Relaxed)) << 64 | 0xabcd),
        };
        let region = Region::start(settings, parts).await.expect("the region starts");
        Self { region, writer, now }
    }

    async fn topic(&self, name: &str, configs: &[(&str, &str)]) -> TopicId {
        support::create_topic(&self.region, name, configs).await
    }

    fn append(&self, partition: Partition, batch: &Bytes) -> meridian_shard::Append {
        let header = BatchHeader::parse(batch).expect("a batch");
        self.region.append(partition, BytesMut::from(&batch[..]), header)
    }

    fn log_start(&self, partition: Partition) -> Offset {
        let positions = self.region.positions(partition, ReadFrom::Leader);
        positions.expect("led here").log_start_offset
    }

    async fn read(&self, partition: Partition, from: u64, bytes_max: usize) -> Vec<Bytes> {
        let read = self
            .region
            .read(partition, Offset(from), bytes_max, ReadFrom::Leader)
            .await
            .expect("readable");
        let mut batches = Vec::new();
        for piece in read.records {
            let mut rest = piece;
            while !rest.is_empty() {
                let size = BatchHeader::parse(&rest).expect("a batch").size();
                batches.push(rest.split_to(size));
            }
        }
        batches
    }

    async fn stop(self) {
        self.region.shutdown().await;
        self.writer.join().expect("the writer ends well");
    }
}

fn batch(values: &[&str], timestamp: i64) -> Bytes {
    let mut builder = BatchBuilder::new(Compression::None);
    for value in values {
        builder
            .push(TimestampMs(timestamp), None, Some(value.as_bytes()), &[])
            .expect("it fits");
    }
    builder.build().expect("a batch")
}

fn idempotent(producer: u64, epoch: i16, sequence: i32, count: usize) -> Bytes {
    let mut builder =
        BatchBuilder::new(Compression::None).with_producer(ProducerId(producer), epoch, sequence);
    for _ in 0..count {
        builder
            .push(TimestampMs(5), None, Some(b"x"), &[])
            .expect("it fits");
    }
    builder.build().expect("a batch")
}

fn offsets(batches: &[Bytes]) -> Vec<(u64, u64)> {
    batches
        .iter()
        .map(|batch| {
            let header = BatchHeader::parse(batch).expect("a batch");
            (header.base_offset.0, header.last_offset().0)
        })
        .collect()
}

#[tokio::test]
async fn what_was_appended_is_read_at_its_offsets_also_after_a_restart() {
    let directory = tempfile::tempdir().expect("a directory");
    let node = Node::start(directory.path()).await;
    let topic = node.topic("orders", &[]).await;
    let partition = Partition { topic, index: 3 };
    for (expected, count) in [(0, 2), (2, 1), (3, 3)] {
        let values = vec!["value"; count];
        let appended = node
            .append(partition, &batch(&values, 10))
            .await
            .expect("appended");
        assert_eq!(appended.base_offset, Offset(expected));
    }
    assert_eq!(
        offsets(&node.read(partition, 0, 1 << 20).await),
        [(0, 1), (2, 2), (3, 5)]
    );
    assert_eq!(
        offsets(&node.read(partition, 4, 1 << 20).await),
        [(3, 5)],
        "whole batches, from the one that holds it"
    );
    assert_eq!(
        offsets(&node.read(partition, 0, 1).await),
        [(0, 1)],
        "the first batch stays whole"
    );
    assert!(node.read(partition, 6, 100).await.is_empty());
    let beyond = node
        .region
        .read(partition, Offset(7), 100, ReadFrom::Leader)
        .await
        .expect_err("out of range");
    assert!(matches!(beyond, ReadError::OffsetOutOfRange { .. }), "{beyond}");
    let epoch = node
        .region
        .positions(partition, ReadFrom::Leader)
        .expect("led here")
        .leader_epoch;
    node.stop().await;

    let node = Node::start(directory.path()).await;
    let positions = node
        .region
        .positions(partition, ReadFrom::Leader)
        .expect("led here");
    assert_eq!(positions.high_watermark, Offset(6));
    assert!(positions.leader_epoch > epoch);
    assert_eq!(
        offsets(&node.read(partition, 0, 1 << 20).await),
        [(0, 1), (2, 2), (3, 5)]
    );
    assert_eq!(
        node.append(partition, &batch(&["v"], 1))
            .await
            .expect("appended")
            .base_offset,
        Offset(6)
    );
    assert_eq!(
        node.region
            .end_offset_for_epoch(partition, epoch, ReadFrom::Leader)
            .expect("led here"),
        Some((epoch, Offset(6))),
        "the old epoch ends where the new one began"
    );
    node.stop().await;
}

#[tokio::test]
async fn appends_of_one_caller_keep_their_order() {
    let directory = tempfile::tempdir().expect("a directory");
    let node = Node::start(directory.path()).await;
    let partition = Partition {
        topic: node.topic("ordered", &[]).await,
        index: 0,
    };
    let one = batch(&["v"], 1);
    let appends: Vec<_> = (0..300).map(|_| node.append(partition, &one)).collect();
    for (expected, append) in (0..).zip(appends) {
        assert_eq!(append.await.expect("appended").base_offset, Offset(expected));
    }
    node.stop().await;
}

#[tokio::test]
async fn a_retry_is_answered_with_its_first_offset_also_after_a_restart() {
    let directory = tempfile::tempdir().expect("a directory");
    let node = Node::start(directory.path()).await;
    let partition = Partition {
        topic: node.topic("once", &[]).await,
        index: 0,
    };
    let (first, second) = (idempotent(9, 0, 0, 3), idempotent(9, 0, 3, 2));
    // The retry is queued while the first copy is in flight.
    let (a, b, retry) = (
        node.append(partition, &first),
        node.append(partition, &second),
        node.append(partition, &first),
    );
    assert_eq!(a.await.expect("appended").base_offset, Offset(0));
    assert_eq!(b.await.expect("appended").base_offset, Offset(3));
    let retry = retry.await.expect("a duplicate is a success");
    assert_eq!((retry.base_offset, retry.duplicate), (Offset(0), true));
    let gap = node
        .append(partition, &idempotent(9, 0, 7, 1))
        .await
        .expect_err("a gap");
    assert!(
        matches!(
            gap,
            AppendError::Rejected(ProduceRejection::OutOfOrderSequence(_))
        ),
        "{gap}"
    );
    node.stop().await;

    let node = Node::start(directory.path()).await;
    let retry = node
        .append(partition, &second)
        .await
        .expect("a duplicate is a success");
    assert_eq!((retry.base_offset, retry.duplicate), (Offset(3), true));
    assert_eq!(
        node.append(partition, &idempotent(9, 0, 5, 1))
            .await
            .expect("appended")
            .base_offset,
        Offset(5)
    );
    node.stop().await;
}

#[tokio::test]
async fn a_waiting_reader_is_woken_by_an_append() {
    let directory = tempfile::tempdir().expect("a directory");
    let node = Node::start(directory.path()).await;
    let partition = Partition {
        topic: node.topic("tail", &[]).await,
        index: 0,
    };
    let waiter = Arc::new(Notify::new());
    node.region.watch(partition, Offset(0), ReadFrom::Leader, &waiter);
    assert!(futures::poll!(std::pin::pin!(waiter.notified())).is_pending());
    node.append(partition, &batch(&["v"], 1)).await.expect("appended");
    tokio::time::timeout(PATIENCE, waiter.notified())
        .await
        .expect("woken");
    // Who comes late is woken at once.
    node.region.watch(partition, Offset(0), ReadFrom::Leader, &waiter);
    tokio::time::timeout(PATIENCE, waiter.notified())
        .await
        .expect("woken");
    node.stop().await;
}

#[tokio::test]
async fn offsets_are_found_by_time() {
    let directory = tempfile::tempdir().expect("a directory");
    let node = Node::start(directory.path()).await;
    let partition = Partition {
        topic: node.topic("timed", &[]).await,
        index: 0,
    };
    for timestamp in [100, 200, 300] {
        node.append(partition, &batch(&["a", "b"], timestamp))
            .await
            .expect("appended");
    }
    let at = |time| {
        node.region
            .offset_for(partition, OffsetSpec::AtOrAfter(TimestampMs(time)))
    };
    let found = at(150).await.expect("led here").expect("a later record");
    assert_eq!(
        (found.offset, found.timestamp),
        (Offset(2), Some(TimestampMs(200)))
    );
    assert!(at(301).await.expect("led here").is_none());
    let newest = node
        .region
        .offset_for(partition, OffsetSpec::MaxTimestamp)
        .await
        .expect("led here");
    assert_eq!(newest.expect("a record").timestamp, Some(TimestampMs(300)));
    node.stop().await;
}

#[tokio::test]
async fn old_records_go_by_retention_and_their_files_with_them() {
    let directory = tempfile::tempdir().expect("a directory");
    let shard = ShardSettings {
        checkpoint_entries: 20,
        ..ShardSettings::default()
    };
    let node = Node::with(directory.path(), shard).await;
    let short = node.topic("short", &[("retention.bytes", "100000")]).await;
    let partition = Partition {
        topic: short,
        index: 0,
    };
    let value = "v".repeat(20_000);
    let one = batch(&[&value], 1_000_000);
    // In portions, so that checkpoints come between: the log is purged through one that names no record kept.
    for portion in 1..=4 {
        for _ in 0..50 {
            node.append(partition, &one).await.expect("appended");
        }
        let waited = async {
            while node.log_start(partition) < Offset(portion * 50 - 10) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(PATIENCE, waited)
            .await
            .expect("retention works");
    }
    let waited = async {
        loop {
            // 200 records of 20 kB are four files of 1 MiB; all but the last must go.
            if node.region.usage().journal.oldest_file > 1 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
            // Entries that make checkpoints go on.
            node.append(
                Partition {
                    topic: short,
                    index: 4,
                },
                &batch(&["tick"], 1_000_000),
            )
            .await
            .expect("appended");
        }
    };
    let waited = tokio::time::timeout(PATIENCE, waited).await;
    let journal = node.region.usage().journal;
    assert!(waited.is_ok(), "the oldest file stays: {journal:?}");
    let low = node.log_start(partition);
    let gone = node
        .region
        .read(partition, Offset(low.0 - 1), 100, ReadFrom::Leader)
        .await
        .expect_err("gone");
    assert!(matches!(gone, ReadError::OffsetOutOfRange { .. }));
    assert!(!node.read(partition, low.0, 1 << 20).await.is_empty());
    node.stop().await;
    let node = Node::start(directory.path()).await;
    assert!(node.log_start(partition) >= low);
    assert!(!node.read(partition, low.0.max(195), 1 << 20).await.is_empty());
    node.stop().await;
}

#[tokio::test]
async fn on_a_full_disk_old_records_make_room_although_the_journal_is_within_its_budget() {
    let directory = tempfile::tempdir().expect("a directory");
    let disk = FaultyDisk::seeded(5);
    disk.set_capacity(4 << 20);
    // No checkpoint is due by itself, and the journal is far from its budget.
    let node = Node::on(disk.mount(), directory.path(), 1 << 30, ShardSettings::default()).await;
    let partition = Partition {
        topic: node.topic("short", &[("retention.bytes", "100000")]).await,
        index: 0,
    };
    let one = batch(&["v".repeat(20_000).as_str()], 1_000_000);
    let mut was_full = false;
    let filled = async {
        // Twice what the disk holds, not so fast that it is full before anybody looks.
        for _ in 0..400 {
            tokio::time::sleep(Duration::from_millis(3)).await;
            while let Err(refused) = node.append(partition, &one).await {
                was_full = true;
                assert!(matches!(refused, AppendError::Storage { .. }), "{refused}");
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
    };
    let filled = tokio::time::timeout(PATIENCE * 2, filled).await;
    let journal = node.region.usage().journal;
    assert!(filled.is_ok(), "it stays full: {journal:?}");
    assert!(was_full || journal.files_retired > 0);
    node.stop().await;
}

#[tokio::test]
async fn a_deleted_topic_leaves_nothing_behind() {
    let directory = tempfile::tempdir().expect("a directory");
    let node = Node::start(directory.path()).await;
    let topic = node.topic("gone", &[]).await;
    let partition = Partition { topic, index: 0 };
    node.append(partition, &batch(&["v"], 1)).await.expect("appended");
    let command = ControlCommand::DeleteTopics {
        topics: vec![topic],
        now: node.region.now(),
    };
    node.region.control(command).await.expect("deleted");
    let waited = async {
        while node.region.size_bytes(partition) > 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, waited).await.expect("dropped");
    let late = node
        .append(partition, &batch(&["v"], 1))
        .await
        .expect_err("dropped");
    assert!(
        matches!(late, AppendError::Rejected(ProduceRejection::TopicDropped)),
        "{late}"
    );
    node.now.fetch_add(1, Ordering::Relaxed);
    node.stop().await;
}

#[tokio::test]
async fn cold_records_are_read_from_the_files() {
    let directory = tempfile::tempdir().expect("a directory");
    let node = Node::start(directory.path()).await;
    let partition = Partition {
        topic: node.topic("cold", &[]).await,
        index: 0,
    };
    let value = "c".repeat(50_000);
    for _ in 0..60 {
        node.append(partition, &batch(&[&value], 1))
            .await
            .expect("appended");
    }
    // The cache holds 256 KiB; the first of 3 MB is long out of it.
    let read = node.read(partition, 0, 10 << 20).await;
    assert_eq!(offsets(&read), (0..60).map(|n| (n, n)).collect::<Vec<_>>());
    node.stop().await;
}

#[tokio::test]
async fn delete_records_moves_the_log_start() {
    let directory = tempfile::tempdir().expect("a directory");
    let node = Node::start(directory.path()).await;
    let partition = Partition {
        topic: node.topic("trim", &[]).await,
        index: 0,
    };
    node.append(partition, &batch(&["a", "b", "c"], 1))
        .await
        .expect("appended");
    node.append(partition, &batch(&["d"], 1)).await.expect("appended");
    assert_eq!(
        node.region
            .delete_records(partition, Some(Offset(2)))
            .await
            .expect("moved"),
        Offset(2)
    );
    assert!(
        node.region
            .delete_records(partition, Some(Offset(9)))
            .await
            .is_err()
    );
    assert_eq!(
        offsets(&node.read(partition, 2, 1 << 20).await),
        [(0, 2), (3, 3)],
        "the batch that holds it stays whole"
    );
    assert_eq!(
        node.region.delete_records(partition, None).await.expect("moved"),
        Offset(4)
    );
    node.stop().await;
}
