//! A region of one node, in process, over a real journal.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use meridian_controller::{Command as ControlCommand, NewTopic, Outcome as ControlOutcome};
use meridian_journal::{Disk, Journal, JournalSettings, RealDisk};
use meridian_shard::{AppendError, OffsetSpec, ReadError, Region, RegionSettings, ShardSettings};
use meridian_state::ProduceRejection;
use meridian_types::{NodeId, Offset, Partition, ProducerId, TimestampMs, TopicId};
use meridian_wire::batch::{BatchBuilder, BatchHeader, Compression};
use tokio::sync::Notify;

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
        let disk = Arc::new(RealDisk::open(directory.join("journal")).expect("a disk"));
        let journal = JournalSettings {
            file_bytes: 1 << 20,
            bytes_max: 2 << 20,
            cache_bytes: 256 << 10,
            ..JournalSettings::new(7)
        };
        let (journal, writer) = Journal::open(disk, journal).expect("a journal");
        let writer = std::thread::Builder::new()
            .spawn(move || writer.run())
            .expect("a thread");
        let checkpoints: Arc<dyn Disk> =
            Arc::new(RealDisk::open(directory.join("checkpoints")).expect("a disk"));
        let now = Arc::new(AtomicI64::new(1_000_000));
        let clock = Arc::clone(&now);
        let random = AtomicU64::new(now.load(Ordering::Relaxed) as u64);
        let settings = RegionSettings {
            node: NodeId(1),
            region: "test".to_owned(),
            shards: 4,
            cluster_id: None,
            heartbeat_interval: Duration::from_millis(1000),
            election_timeout: Duration::from_millis(3000),
            maintenance_interval: Duration::from_millis(50),
            journal_bytes_max: 2 << 20,
            start_timeout: Duration::from_secs(20),
            shard,
        };
        let region = Region::start(
            settings,
            journal,
            checkpoints,
            Arc::new(move || TimestampMs(clock.load(Ordering::Relaxed))),
            Arc::new(move || u128::from(random.fetch_add(1, Ordering::Relaxed)) << 64 | 0xabcd),
        )
        .await
        .expect("the region starts");
        Self { region, writer, now }
    }

    async fn topic(&self, name: &str, configs: &[(&str, &str)]) -> TopicId {
        let id = self.region.new_topic_id();
        let configs: BTreeMap<_, _> = configs
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect();
        let topic = NewTopic {
            name: name.into(),
            id,
            partitions: 8,
            configs,
        };
        let command = ControlCommand::CreateTopics {
            topics: vec![topic],
            now: self.region.now(),
        };
        let outcome = self.region.control(command).await.expect("created");
        let ControlOutcome::TopicsCreated(results) = outcome else {
            panic!("{outcome:?}")
        };
        results.into_iter().for_each(|result| {
            result.expect("a good topic");
        });
        id
    }

    fn append(&self, partition: Partition, batch: &Bytes) -> meridian_shard::Append {
        let header = BatchHeader::parse(batch).expect("a batch");
        self.region.append(partition, BytesMut::from(&batch[..]), header)
    }

    async fn read(&self, partition: Partition, from: u64, bytes_max: usize) -> Vec<Bytes> {
        let read = self
            .region
            .read(partition, Offset(from), bytes_max)
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
        .read(partition, Offset(7), 100)
        .await
        .expect_err("out of range");
    assert!(matches!(beyond, ReadError::OffsetOutOfRange { .. }), "{beyond}");
    let epoch = node.region.positions(partition).expect("led here").leader_epoch;
    node.stop().await;

    let node = Node::start(directory.path()).await;
    let positions = node.region.positions(partition).expect("led here");
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
            .end_offset_for_epoch(partition, epoch)
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
    node.region.watch(partition, Offset(0), &waiter);
    assert!(futures::poll!(std::pin::pin!(waiter.notified())).is_pending());
    node.append(partition, &batch(&["v"], 1)).await.expect("appended");
    tokio::time::timeout(Duration::from_secs(5), waiter.notified())
        .await
        .expect("woken");
    // Who comes late is woken at once.
    node.region.watch(partition, Offset(0), &waiter);
    tokio::time::timeout(Duration::from_secs(5), waiter.notified())
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
    for _ in 0..200 {
        node.append(partition, &one).await.expect("appended");
    }
    let waited = async {
        loop {
            let start = node
                .region
                .positions(partition)
                .expect("led here")
                .log_start_offset;
            // 200 records of 20 kB are four files of 1 MiB; all but the last must go.
            if start >= Offset(190) && node.region.usage().journal.oldest_file > 1 {
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
    tokio::time::timeout(Duration::from_secs(20), waited)
        .await
        .expect("retention works");
    let low = node
        .region
        .positions(partition)
        .expect("led here")
        .log_start_offset;
    let gone = node
        .region
        .read(partition, Offset(low.0 - 1), 100)
        .await
        .expect_err("gone");
    assert!(matches!(gone, ReadError::OffsetOutOfRange { .. }));
    assert!(!node.read(partition, low.0, 1 << 20).await.is_empty());
    node.stop().await;
    let node = Node::start(directory.path()).await;
    assert!(
        node.region
            .positions(partition)
            .expect("led here")
            .log_start_offset
            >= low
    );
    assert!(!node.read(partition, low.0.max(195), 1 << 20).await.is_empty());
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
    tokio::time::timeout(Duration::from_secs(10), waited)
        .await
        .expect("dropped");
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
