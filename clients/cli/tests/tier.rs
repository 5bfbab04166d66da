//! `meridian tier` and `meridian replay` over a bucket in a directory, without any server; and into one.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on says where it stopped"
)]

use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::process::Command;

use meridian_tiered_storage::bundle::BundleLimits;
use meridian_tiered_storage::sample::SampleBucket;
use meridian_tiered_storage::store::{Store, StoreSettings};
use meridian_types::{Partition, TimestampMs};
use meridian_wire::batch::Compression;
use serde_json::Value;

use self::support::Node;
use self::support::place::{Place, stderr};

mod support;

/// Records in each of the two partitions of `orders`.
const RECORDS: u64 = 600;

struct Bucket {
    place: Place,
    /// A bundle of `orders`, partition 0.
    bundle: PathBuf,
}

impl Deref for Bucket {
    type Target = Place;

    fn deref(&self) -> &Place {
        &self.place
    }
}

impl Bucket {
    fn new() -> Self {
        let place = Place::new();
        let path = place.bucket();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let key = runtime.block_on(async {
            let store = Store::open(&StoreSettings::new(path.to_str().unwrap())).unwrap();
            let limits = BundleLimits {
                frame_bytes: 16 << 10,
                ..BundleLimits::default()
            };
            let mut bucket = SampleBucket::new(store, "Wm1xkq0mQ_SLhS7cWf1Tuw", 4, limits);
            let orders = bucket.topic("orders", 2);
            bucket.topic("empty", 1);
            for round in 0..3 {
                for batch in 0..8 {
                    let time = TimestampMs((round * 8 + batch) * 1000);
                    bucket.append(orders, 0, 25, 100, time, Compression::Lz4);
                    bucket.append(orders, 1, 25, 100, time, Compression::None);
                }
                bucket.tier().await;
            }
            bucket.publish().await;
            let partition = Partition {
                topic: orders,
                index: 0,
            };
            let (shard, manifest) = bucket.manifest(partition);
            let extent = manifest.extents(partition)[0];
            manifest
                .object(extent.object)
                .unwrap()
                .name
                .key(bucket.cluster(), shard)
        });
        Self {
            bundle: path.join(key),
            place,
        }
    }
}

#[test]
fn a_whole_bucket_is_verified_listed_described_and_priced() {
    let bucket = Bucket::new();
    let verified = bucket.json("tier.verify", &["tier", "verify"]);
    assert_eq!(
        (&verified["is_whole"], &verified["records"]),
        (&true.into(), &(2 * RECORDS).into())
    );
    assert!(bucket.ok(&["tier", "verify", "--quick"]).contains("all whole"));

    let listed = bucket.json("tier.list", &["tier", "list"]);
    assert_eq!(listed["topics"][0]["topic"], "orders");
    assert_eq!(listed["topics"][0]["records"], 2 * RECORDS);
    let partitions = bucket.json("tier.list", &["tier", "list", "--partitions"]);
    assert_eq!(partitions["partitions"][1]["end_offset"], RECORDS);
    assert!(bucket.ok(&["tier", "list", "-p"]).contains("orders"));

    let described = bucket.json("tier.describe", &["tier", "describe", "orders", "-p", "1"]);
    let extents = described["partitions"][0]["extents"].as_array().unwrap();
    assert_eq!((extents.len(), &extents[2]["end_offset"]), (3, &RECORDS.into()));
    assert!(bucket.ok(&["tier", "describe", "orders"]).contains(".bundle"));

    let cost = bucket.json("tier.cost", &["tier", "cost", "--price-thousand-puts", "1000"]);
    assert_eq!(cost["kinds"]["bundle"]["objects"], 6);
    assert_eq!(
        cost["puts_of_day"],
        6 + 4 + 1,
        "bundles, copies of two manifests and states, topics"
    );
    assert!(cost["requests_day"].as_f64().unwrap() >= 11.0);
    assert!(bucket.ok(&["tier", "cost"]).contains("a month"));
}

#[test]
fn damage_is_status_3_and_named() {
    let bucket = Bucket::new();
    let mut bytes = std::fs::read(&bucket.bundle).unwrap();
    bytes[100] ^= 1;
    std::fs::write(&bucket.bundle, bytes).unwrap();
    let output = bucket.run(&["tier", "verify"]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(3), "{text}");
    assert!(
        text.contains("PROBLEM content: topic 'orders' partition 0"),
        "{text}"
    );
    let output = bucket.run(&["replay", "--topic", "orders", "--out", "damaged"]);
    assert_eq!(output.status.code(), Some(3), "{}", stderr(&output));
    assert!(
        stderr(&output).contains("topic 'orders', partition 0, offset 0"),
        "{}",
        stderr(&output)
    );

    std::fs::remove_file(&bucket.bundle).unwrap();
    let output = bucket.run(&["tier", "verify", "--quick", "--output", "json"]);
    assert_eq!(output.status.code(), Some(3));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        (&report["is_whole"], &report["problems"][0]["kind"]),
        (&false.into(), &"missing".into())
    );
}

#[test]
fn what_is_wrong_with_a_bucket_is_said() {
    let bucket = Bucket::new();
    let failed = |arguments: &[&str], status, expected: &str| {
        let output = bucket.run(arguments);
        assert_eq!(
            output.status.code(),
            Some(status),
            "{arguments:?}: {}",
            stderr(&output)
        );
        assert!(
            stderr(&output).contains(expected),
            "{arguments:?}: {}",
            stderr(&output)
        );
    };
    failed(
        &["tier", "list", "--bucket", "nothing-here"],
        1,
        "is not a directory",
    );
    failed(&["tier", "list", "--bucket", "ftp://a/b"], 2, "expected s3://");
    failed(&["tier", "list", "--cluster", "x"], 1, "no cluster 'x'");
    failed(&["tier", "describe", "order"], 1, "there is 'orders'");
    failed(&["replay", "--topic", "orders"], 2, "--out");
    failed(
        &["replay", "-t", "orders", "--partition", "2", "--out", "o"],
        2,
        "numbered from 0",
    );
    failed(
        &["replay", "-t", "orders", "--from", "soon", "--out", "o"],
        2,
        "expected an offset, or a time",
    );
    failed(
        &["replay", "-t", "orders", "--out", "-"],
        2,
        "choose --format arrow or jsonl",
    );
    assert!(!bucket.path("nothing-here").exists());
    std::fs::create_dir(bucket.path("other")).unwrap();
    failed(&["tier", "list", "--bucket", "other"], 1, "no region has written");
}

#[test]
fn history_goes_to_files_once_and_resumes() {
    let bucket = Bucket::new();
    let arguments = [
        "replay",
        "-t",
        "orders",
        "--format",
        "jsonl",
        "--file-bytes",
        "20KiB",
        "--out",
        "o",
    ];
    let replayed = bucket.json("replay", &arguments);
    assert_eq!(
        (&replayed["is_done"], &replayed["records"]),
        (&true.into(), &(2 * RECORDS).into())
    );
    let files = replayed["files"].as_array().unwrap();
    assert!(files.len() > 4);
    assert_eq!(files[0]["path"], "orders/0/00000000000000000000.jsonl");
    let again = bucket.run(&arguments);
    assert_eq!(again.status.code(), Some(1));
    assert!(stderr(&again).contains("--resume"), "{}", stderr(&again));
    let resumed: Vec<&str> = arguments.iter().copied().chain(["--resume"]).collect();
    let resumed = bucket.json("replay", &resumed);
    assert_eq!(
        (&resumed["records_now"], &resumed["files"]),
        (&0.into(), &replayed["files"])
    );

    let lines = bucket.ok(&[
        "replay", "-t", "orders", "-p", "1", "--from", "590", "--format", "jsonl", "--out", "-",
    ]);
    let offsets: Vec<u64> = lines
        .lines()
        .map(|line| {
            serde_json::from_str::<Value>(line).unwrap()["offset"]
                .as_u64()
                .unwrap()
        })
        .collect();
    assert_eq!(offsets, (590..RECORDS).collect::<Vec<_>>());
}

#[test]
fn history_is_written_to_a_topic_with_keys_headers_and_times_and_resumes() {
    let bucket = Bucket::new();
    let node = Node::start();
    let at = ["--server", node.server.as_str()];
    let run = |arguments: &[&str]| {
        let arguments: Vec<&str> = arguments.iter().copied().chain(at).collect();
        bucket.run(&arguments)
    };
    // The records are of 1970, which retention by time takes away within seconds.
    let keep = ["--config", "retention.ms=-1"];
    let create = ["topic", "create", "again", "--partitions", "2"];
    let created = run(&[&create[..], &keep].concat());
    assert!(created.status.success(), "{}", stderr(&created));
    let replay = [
        "replay",
        "-t",
        "orders",
        "--into",
        "again",
        "--state",
        "state.json",
        "--output",
        "json",
    ];
    let replayed = run(&replay);
    assert!(replayed.status.success(), "{}", stderr(&replayed));
    let resumed: Vec<&str> = replay.iter().copied().chain(["--resume"]).collect();
    let resumed = run(&resumed);
    assert!(resumed.status.success(), "{}", stderr(&resumed));
    let resumed: Value = serde_json::from_slice(&resumed.stdout).unwrap();
    assert_eq!(
        (&resumed["is_done"], &resumed["records_now"]),
        (&true.into(), &0.into())
    );

    let consumed = run(&["consume", "again", "--output", "json"]);
    assert!(consumed.status.success(), "{}", stderr(&consumed));
    let mut read: Vec<Value> = String::from_utf8(consumed.stdout)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let lines = bucket.ok(&["replay", "-t", "orders", "--format", "jsonl", "--out", "-"]);
    let mut expected: Vec<Value> = lines
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let place = |record: &Value| (record["partition"].as_u64(), record["offset"].as_u64());
    read.sort_by_key(place);
    expected.sort_by_key(place);
    assert_eq!(read.len(), expected.len());
    for (read, expected) in read.iter().zip(&expected) {
        for field in ["partition", "offset", "timestamp_ms", "key", "value", "headers"] {
            assert_eq!(read[field], expected[field], "{field} of {expected}");
        }
    }
    let narrow = run(&["topic", "create", "narrow", "--partitions", "1"]);
    assert!(narrow.status.success());
    let refused = run(&["replay", "-t", "orders", "--into", "narrow"]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(stderr(&refused).contains("--repartition"), "{}", stderr(&refused));
}

#[test]
fn a_terabyte_is_not_needed_to_measure_replay() {
    let bucket = Bucket::new();
    let arguments = [
        "bench",
        "replay",
        "--duration",
        "10ms",
        "--data",
        "1MiB",
        "--compression",
        "lz4,zstd",
    ];
    let measured = bucket.json("bench.replay", &arguments);
    let results = measured["results"].as_array().unwrap();
    assert_eq!(results.len(), 2);
    for result in results {
        assert!(result["bytes_per_second"].as_f64().unwrap() > 0.0);
        assert_eq!(result["records"], 1024);
    }
}

/// The Python of tests/compat/setup.sh that has pyarrow, DuckDB and Polars; else why there is none.
fn python() -> Result<PathBuf, String> {
    let target = Path::new(env!("CARGO_BIN_EXE_meridian"))
        .ancestors()
        .nth(2)
        .unwrap();
    let clients = target.join("clients");
    let python = clients.join("columns/bin/python");
    if clients.join("columns.stamp").exists() {
        return Ok(python);
    }
    Err(std::fs::read_to_string(clients.join("columns.missing"))
        .unwrap_or_else(|_| "not set up: run tests/compat/setup.sh columns".to_owned()))
}

#[test]
fn pyarrow_duckdb_and_polars_read_what_was_replayed() {
    let python = match python() {
        Ok(python) => python,
        Err(reason) => {
            eprintln!("SKIPPED: {}", reason.trim());
            return;
        }
    };
    let bucket = Bucket::new();
    bucket.ok(&[
        "replay",
        "-t",
        "orders",
        "--file-bytes",
        "20KiB",
        "--out",
        "orders",
    ]);
    let stream = bucket.path("stream.arrow");
    let written = bucket
        .command(&["replay", "-t", "orders", "--format", "arrow", "--out", "-"])
        .stdout(std::fs::File::create(&stream).unwrap())
        .status()
        .unwrap();
    assert!(written.success());
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../python/replay.py");
    let output = Command::new(python)
        .arg(script)
        .arg(bucket.path("orders"))
        .arg("-")
        .stdin(std::fs::File::open(&stream).unwrap())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    let text = String::from_utf8(output.stdout).unwrap();
    let reports: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let libraries: Vec<&str> = reports
        .iter()
        .map(|report| report["library"].as_str().unwrap())
        .collect();
    assert_eq!(libraries, ["pyarrow", "duckdb", "polars", "stream"]);
    let tombstones = (0..RECORDS).filter(|number| number % 7 == 6).count() as u64 * 2;
    for report in &reports {
        assert_eq!(report["records"], 2 * RECORDS, "{report}");
        assert_eq!(report["tombstones"], tombstones, "{report}");
        assert_eq!(report["with_header"], 2 * RECORDS, "{report}");
        assert_eq!(
            report["offsets"]["1"],
            serde_json::json!([0, RECORDS - 1]),
            "{report}"
        );
        assert_eq!(
            report["value_bytes"],
            (2 * RECORDS - tombstones) * 100,
            "{report}"
        );
    }
}
