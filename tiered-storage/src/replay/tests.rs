//! Replay of a bucket in memory.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use meridian_types::{Offset, Partition, RegionNumber, TimestampMs, TopicId};
use meridian_wire::batch::{Compression, records};
use object_store::memory::InMemory;
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::*;
use crate::bundle::BundleLimits;
use crate::cold::{CacheSettings, ColdReader};
use crate::sample::{SampleBucket, sample_value};
use crate::store::{Store, StoreLimits};
use crate::testing::{Faults, FaultyStore};
use crate::topics_file::NamedTopic;

/// Records of a batch, and batches of each of three rounds.
const COUNT: u64 = 25;
const BATCHES: u64 = 8;
const VALUE_BYTES: usize = 120;

struct World {
    store: Store,
    faults: Faults,
    bucket: SampleBucket,
    orders: TopicId,
}

/// Two topics; `orders` has two partitions of 600 records each.
async fn world() -> World {
    let (objects, faults) = FaultyStore::new(Arc::new(InMemory::new()));
    let limits = StoreLimits {
        attempts_max: 1,
        ..StoreLimits::default()
    };
    let store = Store::with_limits(objects, "history", limits);
    let limits = BundleLimits {
        frame_bytes: 8 << 10,
        ..BundleLimits::default()
    };
    let mut bucket = SampleBucket::new(store.clone(), "c", 4, limits);
    let orders = bucket.topic("orders", 2);
    let other = bucket.topic("other", 1);
    for round in 0..3 {
        for batch in 0..BATCHES {
            let time = TimestampMs(((round * BATCHES + batch) * 1000) as i64);
            for (index, codec) in [(0, Compression::Lz4), (1, Compression::None)] {
                bucket.append(orders, index, COUNT, VALUE_BYTES, time, codec);
            }
            bucket.append(other, 0, 3, 10, time, Compression::Zstd);
        }
        bucket.tier().await;
    }
    bucket.publish().await;
    World {
        store,
        faults,
        bucket,
        orders,
    }
}

impl World {
    async fn plan(&self, selection: &Selection) -> (Source, Plan) {
        self.plan_with(selection, &CacheSettings::default()).await
    }

    async fn plan_with(&self, selection: &Selection, settings: &CacheSettings) -> (Source, Plan) {
        let source = Source::from(ColdReader::open(self.store.clone(), settings).await.unwrap());
        let catalog = Catalog::open(&self.store, None).await.unwrap();
        let plan = Plan::new(&source, &catalog, selection).await.unwrap();
        (source, plan)
    }
}

fn orders() -> Selection {
    Selection {
        topics: vec!["orders".to_owned()],
        ..Selection::default()
    }
}

fn settings(directory: &Path) -> ExportSettings {
    ExportSettings {
        file_bytes: 20 << 10,
        chunk_bytes: 4 << 10,
        ..ExportSettings::new(directory)
    }
}

/// Exports; returns the state and what was said of the progress.
async fn export_all(
    reader: &Source,
    plan: &Plan,
    format: Format,
    directory: &Path,
) -> (ReplayState, Summary) {
    let mut state = ReplayState::new(plan, format.name());
    let summary = export(reader, plan, format, &mut state, &settings(directory), &|_| {})
        .await
        .unwrap();
    (state, summary)
}

/// What a line of JSON should be.
fn line(partition: u32, offset: u64) -> Value {
    let batch = offset / COUNT;
    let value = sample_value(offset, VALUE_BYTES).map(|value| String::from_utf8(value).unwrap());
    json!({
        "topic": "orders",
        "partition": partition,
        "offset": offset,
        "timestamp_ms": batch * 1000 + offset % COUNT,
        "key": format!("key-{offset}"),
        "value": value,
        "headers": [
            { "key": "number", "value": offset.to_string() },
            { "key": "empty", "value": null },
        ],
    })
}

fn lines_of(directory: &Path, state: &ReplayState, partition: u32) -> Vec<Value> {
    let partition = state
        .partitions
        .iter()
        .find(|(it, _)| it.index == partition)
        .unwrap()
        .1;
    partition
        .files
        .iter()
        .flat_map(|file| {
            let text = std::fs::read_to_string(directory.join(&file.path)).unwrap();
            assert_eq!(text.len() as u64, file.bytes);
            let lines: Vec<Value> = text
                .lines()
                .map(|line| serde_json::from_str(line).unwrap())
                .collect();
            assert_eq!(lines.len() as u64, file.records);
            lines
        })
        .collect()
}

#[tokio::test]
async fn every_record_becomes_a_line_once_and_in_order() {
    let world = world().await;
    let directory = tempfile::tempdir().unwrap();
    let (reader, plan) = world.plan(&orders()).await;
    let (state, summary) = export_all(&reader, &plan, Format::JsonLines, directory.path()).await;
    for partition in 0..2 {
        let expected: Vec<Value> = (0..600).map(|offset| line(partition, offset)).collect();
        assert_eq!(lines_of(directory.path(), &state, partition), expected);
    }
    assert_eq!(
        (summary.records, summary.files),
        (1200, state.files().count() as u64)
    );
    assert!(summary.files >= 8, "files are cut at 20 KiB: {}", summary.files);
    assert!(state.is_done());
    let stored = ReplayState::load(&directory.path().join(ReplayState::FILE_NAME)).unwrap();
    assert_eq!(stored, Some(state));
}

#[tokio::test]
async fn an_interrupted_export_goes_on_without_repeating_or_losing_a_record() {
    let world = world().await;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join(ReplayState::FILE_NAME);
    // Little enough that not everything is read ahead at once.
    let tight = CacheSettings {
        memory_bytes: 64 << 10,
        in_flight_bytes_max: 16 << 10,
        disk: None,
    };
    let mut runs = 0;
    loop {
        runs += 1;
        let (reader, plan) = world.plan_with(&orders(), &tight).await;
        let mut state = ReplayState::load(&path)
            .unwrap()
            .unwrap_or_else(|| ReplayState::new(&plan, "jsonl"));
        let rest = state.rest_of(&plan).unwrap().plan;
        // The store goes away a little later each time.
        let left = AtomicU32::new(4 * runs);
        let result = export(
            &reader,
            &rest,
            Format::JsonLines,
            &mut state,
            &settings(directory.path()),
            &|_| {
                if left.fetch_sub(1, Ordering::Relaxed) == 1 {
                    world.faults.outage(true);
                }
            },
        )
        .await;
        world.faults.outage(false);
        match result {
            Ok(_) => break,
            Err(ReplayError::Read { source, .. }) => assert!(source.is_retriable()),
            Err(error) => panic!("{error}"),
        }
        assert!(runs < 100);
    }
    assert!(runs > 2, "it was interrupted {runs} times");
    let state = ReplayState::load(&path).unwrap().unwrap();
    for partition in 0..2 {
        let expected: Vec<Value> = (0..600).map(|offset| line(partition, offset)).collect();
        assert_eq!(lines_of(directory.path(), &state, partition), expected);
    }
    let mut names = Vec::new();
    for partition in ["orders/0", "orders/1"] {
        for entry in std::fs::read_dir(directory.path().join(partition)).unwrap() {
            names.push(entry.unwrap().file_name().into_string().unwrap());
        }
    }
    assert!(names.iter().all(|name| name.ends_with(".jsonl")), "{names:?}");
    assert_eq!(names.len(), state.files().count());
}

#[tokio::test]
async fn ranges_of_offsets_and_times_are_cut_to_the_record() {
    let world = world().await;
    let ranges = async |from, until| -> Vec<(u32, std::ops::Range<u64>)> {
        let selection = Selection {
            from,
            until,
            ..orders()
        };
        let (_, plan) = world.plan(&selection).await;
        plan.partitions
            .iter()
            .map(|it| (it.partition.index, it.offsets.start.0..it.offsets.end.0))
            .collect()
    };
    let time = |ms| Bound::Time(TimestampMs(ms));
    let offset = |offset| Bound::Offset(Offset(offset));
    assert_eq!(ranges(Bound::Open, Bound::Open).await, [(0, 0..600), (1, 0..600)]);
    assert_eq!(ranges(offset(10), offset(40)).await, [(0, 10..40), (1, 10..40)]);
    assert_eq!(
        ranges(time(3_010), time(5_000)).await,
        [(0, 3 * COUNT + 10..5 * COUNT), (1, 3 * COUNT + 10..5 * COUNT)]
    );
    assert_eq!(ranges(time(23_999), time(50_000)).await, []);
    assert_eq!(
        ranges(offset(599), time(50_000)).await,
        [(0, 599..600), (1, 599..600)]
    );
    assert_eq!(ranges(offset(600), Bound::Open).await, []);

    let directory = tempfile::tempdir().unwrap();
    let selection = Selection {
        partitions: vec![1],
        from: time(3_010),
        until: offset(101),
        ..orders()
    };
    let (reader, plan) = world.plan(&selection).await;
    let (state, _) = export_all(&reader, &plan, Format::JsonLines, directory.path()).await;
    let expected: Vec<Value> = (85..101).map(|offset| line(1, offset)).collect();
    assert_eq!(lines_of(directory.path(), &state, 1), expected);
}

#[tokio::test]
async fn deleted_records_are_not_replayed_though_their_extent_is_there() {
    let mut world = world().await;
    let partition = Partition {
        topic: world.orders,
        index: 0,
    };
    world.bucket.trim(partition, Offset(203));
    world.bucket.publish().await;
    let (_, plan) = world.plan(&orders()).await;
    assert_eq!(plan.partitions[0].offsets, Offset(203)..Offset(600));
    assert_eq!(plan.partitions[0].runs[0].extent.base_offset, Offset(200));
}

#[tokio::test]
async fn batches_of_a_partition_are_read_as_they_were_written() {
    let world = world().await;
    let selection = Selection {
        partitions: vec![0],
        from: Bound::Offset(Offset(7)),
        ..orders()
    };
    let (reader, plan) = world.plan(&selection).await;
    let mut reader = PartitionReader::new(reader, plan.partitions[0].clone(), 3000);
    let (mut next, mut offsets) = (Offset(7), Vec::new());
    while let Some(chunk) = reader.next().await.unwrap() {
        assert_eq!(chunk.offsets.start, next);
        next = chunk.offsets.end;
        for batch in &chunk.batches {
            for record in records(batch, 1 << 20).unwrap() {
                let offset = record.unwrap().offset;
                if chunk.offsets.contains(&offset) {
                    offsets.push(offset.0);
                }
            }
        }
    }
    assert_eq!(offsets, (7..600).collect::<Vec<_>>());
}

#[tokio::test]
async fn what_cannot_be_planned_is_told_with_what_is_there() {
    let world = world().await;
    let reader = ColdReader::open(world.store.clone(), &CacheSettings::default())
        .await
        .unwrap()
        .into();
    let catalog = Catalog::open(&world.store, Some("c")).await.unwrap();
    let error = async |selection: Selection| {
        Plan::new(&reader, &catalog, &selection)
            .await
            .unwrap_err()
            .to_string()
    };
    let named = |name: &str| Selection {
        topics: vec![name.to_owned()],
        ..Selection::default()
    };
    assert!(error(named("Orders")).await.contains("there is 'orders'"));
    assert!(error(named("xyz")).await.ends_with("knows no topic 'xyz'"));
    let partition = Selection {
        partitions: vec![2],
        ..orders()
    };
    assert!(error(partition).await.contains("it has 2, numbered from 0"));

    // A topic of another region is known by name; its records never were here.
    let mut with_guest = Catalog::open(&world.store, Some("c")).await.unwrap();
    with_guest.topics.file.topics.push(NamedTopic {
        id: TopicId::random(5, Some(RegionNumber(7))),
        name: "guest".to_owned(),
        partitions: 1,
        configs: BTreeMap::new(),
    });
    let refused = Plan::new(&reader, &with_guest, &named("guest"))
        .await
        .unwrap_err();
    assert!(refused.to_string().contains("stays in region 7"), "{refused}");
    let all = Plan::new(&reader, &with_guest, &Selection::default())
        .await
        .unwrap();
    assert!(all.partitions.iter().all(|it| &*it.topic != "guest") && !all.partitions.is_empty());

    let stray = vec![bytes::Bytes::from_static(b"x")];
    world.store.put("probe/1/object", stray).await.unwrap();
    assert_eq!(Catalog::open(&world.store, None).await.unwrap().cluster, "c");
    let wrong = Catalog::open(&world.store, Some("d"))
        .await
        .unwrap_err()
        .to_string();
    assert!(
        wrong.contains("no cluster 'd'") && wrong.contains("it holds c"),
        "{wrong}"
    );
    let empty = Store::over(Arc::new(InMemory::new()), "");
    assert!(matches!(
        Catalog::open(&empty, None).await,
        Err(CatalogError::Empty)
    ));
}

#[tokio::test]
async fn a_state_of_another_replay_is_refused() {
    let world = world().await;
    let (_, plan) = world.plan(&orders()).await;
    let mut state = ReplayState::new(&plan, "jsonl");
    assert_eq!(ReplayState::decode(&state.encode()).unwrap(), state);
    let selection = Selection {
        partitions: vec![1],
        ..orders()
    };
    let (_, other) = world.plan(&selection).await;
    let error = state.rest_of(&other).unwrap_err().to_string();
    assert!(error.contains("partition 0"), "{error}");
    state.cluster = "d".to_owned();
    assert!(
        state
            .rest_of(&plan)
            .unwrap_err()
            .to_string()
            .contains("cluster 'd'")
    );
    assert!(ReplayState::decode(b"{\"schema\":\"something\"}").is_err());
}

/// A stream that the test can look into.
#[derive(Clone, Default)]
struct Shared(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Shared {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn a_stream_has_all_partitions_one_after_the_other() {
    let world = world().await;
    let (reader, plan) = world.plan(&Selection::default()).await;
    let out = Shared::default();
    let summary = export_to(&reader, &plan, Format::JsonLines, 4 << 10, out.clone(), &|_| {})
        .await
        .unwrap();
    let text = String::from_utf8(out.0.lock().clone()).unwrap();
    let lines: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(lines.len(), 1200 + 72);
    assert_eq!(summary.records, 1272);
    assert_eq!(lines[600], line(1, 0));
    assert_eq!(lines[1200]["topic"], "other");
}

#[cfg(feature = "arrow")]
mod columns {
    use arrow_array::cast::AsArray;
    use arrow_array::types::{Int8Type, Int32Type, Int64Type, TimestampMillisecondType};
    use arrow_array::{Array, RecordBatch};

    use super::*;

    /// Compares every column of every row.
    fn check(batches: &[RecordBatch], partition: u32, mut offset: u64) -> u64 {
        for batch in batches {
            assert_eq!(batch.schema().fields(), schema().fields());
            let topics = batch.column(0).as_dictionary::<Int32Type>();
            let names = topics.values().as_string::<i32>();
            let numbers = |column: usize| batch.column(column).as_primitive::<Int64Type>();
            let keys = batch.column(6).as_binary::<i32>();
            let values = batch.column(7).as_binary::<i32>();
            let headers = batch.column(8).as_list::<i32>();
            for row in 0..batch.num_rows() {
                assert_eq!(names.value(topics.keys().value(row) as usize), "orders");
                assert_eq!(
                    batch.column(1).as_primitive::<Int32Type>().value(row),
                    partition as i32
                );
                assert_eq!(numbers(2).value(row), offset as i64);
                let time = batch
                    .column(3)
                    .as_primitive::<TimestampMillisecondType>()
                    .value(row);
                assert_eq!(time as u64, offset / COUNT * 1000 + offset % COUNT);
                assert_eq!(batch.column(4).as_primitive::<Int8Type>().value(row), 0);
                assert_eq!(batch.column(5).as_primitive::<Int32Type>().value(row), 1);
                assert_eq!(keys.value(row), format!("key-{offset}").as_bytes());
                let value = sample_value(offset, VALUE_BYTES);
                assert_eq!((!values.is_null(row)).then(|| values.value(row).to_vec()), value);
                let of_record = headers.value(row);
                let of_record = of_record.as_struct();
                let names = of_record.column(0).as_string::<i32>();
                let texts = of_record.column(1).as_binary::<i32>();
                assert_eq!(
                    (of_record.len(), names.value(0), names.value(1)),
                    (2, "number", "empty")
                );
                assert_eq!(texts.value(0), offset.to_string().as_bytes());
                assert!(texts.is_null(1));
                assert!(numbers(9).is_null(row));
                offset += 1;
            }
        }
        offset
    }

    #[tokio::test]
    async fn arrow_files_hold_every_field_of_every_record() {
        let world = world().await;
        let directory = tempfile::tempdir().unwrap();
        let (reader, plan) = world.plan(&orders()).await;
        let (state, _) = export_all(&reader, &plan, Format::Arrow, directory.path()).await;
        for (partition, state) in &state.partitions {
            let mut offset = 0;
            for file in &state.files {
                let file = std::fs::File::open(directory.path().join(&file.path)).unwrap();
                let reader = arrow_ipc::reader::FileReader::try_new(file, None).unwrap();
                let batches: Vec<_> = reader.collect::<Result<_, _>>().unwrap();
                offset = check(&batches, partition.index, offset);
            }
            assert_eq!(offset, 600);
        }
    }

    #[tokio::test]
    async fn an_arrow_stream_holds_every_field_of_every_record() {
        let world = world().await;
        let selection = Selection {
            partitions: vec![1],
            ..orders()
        };
        let (reader, plan) = world.plan(&selection).await;
        let out = Shared::default();
        export_to(&reader, &plan, Format::Arrow, 4 << 10, out.clone(), &|_| {})
            .await
            .unwrap();
        let bytes = out.0.lock().clone();
        let reader = arrow_ipc::reader::StreamReader::try_new(&bytes[..], None).unwrap();
        let batches: Vec<_> = reader.collect::<Result<_, _>>().unwrap();
        assert_eq!(check(&batches, 1, 0), 600);
    }

    #[cfg(feature = "parquet")]
    #[tokio::test]
    async fn parquet_files_hold_every_field_of_every_record() {
        use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
        let world = world().await;
        let directory = tempfile::tempdir().unwrap();
        let (reader, plan) = world.plan(&orders()).await;
        let (state, _) = export_all(&reader, &plan, Format::Parquet, directory.path()).await;
        for (partition, state) in &state.partitions {
            let mut offset = 0;
            for file in &state.files {
                let file = std::fs::File::open(directory.path().join(&file.path)).unwrap();
                let reader = ParquetRecordBatchReaderBuilder::try_new(file)
                    .unwrap()
                    .build()
                    .unwrap();
                let batches: Vec<_> = reader.collect::<Result<_, _>>().unwrap();
                offset = check(&batches, partition.index, offset);
            }
            assert_eq!(offset, 600);
        }
    }

    #[test]
    fn a_header_key_that_is_no_text_and_a_missing_time_do_no_harm() {
        use meridian_wire::batch::BatchBuilder;
        let mut builder = BatchBuilder::new(Compression::None);
        let headers: [(&[u8], Option<&[u8]>); 1] = [(&[0xff, b'a'], Some(&[0]))];
        builder.push(TimestampMs(-1), None, None, &headers).unwrap();
        let batch = builder.build().unwrap();
        let mut rows = RowBuilder::new(["t"]);
        rows.push(0, 3, &batch, &(Offset(0)..Offset(1))).unwrap();
        let batch = rows.finish();
        assert!(batch.column(3).is_null(0) && batch.column(5).is_null(0) && batch.column(6).is_null(0));
        let header = batch.column(8).as_list::<i32>().value(0);
        assert_eq!(
            header.as_struct().column(0).as_string::<i32>().value(0),
            "\u{fffd}a"
        );
        assert_eq!(rows.finish().num_rows(), 0);
    }
}
