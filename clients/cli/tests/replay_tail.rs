//! `meridian replay --brokers`: history out of the bucket, and its newest part out of a node that runs.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on says where it stopped"
)]
#![allow(
    clippy::disallowed_methods,
    reason = "a test of real processes waits in real time"
)]

use std::collections::BTreeMap;
use std::ops::Deref;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use self::support::Node;
use self::support::place::{Place, stderr};

mod support;

/// Records of each partition that make rounds come, and those that are too few to.
const MANY: u64 = 700;
const FEW: u64 = 60;

/// For so long the bucket does not grow when no round is under way any more.
const CALM: Duration = Duration::from_secs(2);

struct Region {
    node: Node,
    place: Place,
}

impl Deref for Region {
    type Target = Place;

    fn deref(&self) -> &Place {
        &self.place
    }
}

impl Region {
    /// A node whose rounds come by bytes alone, and a topic of two partitions.
    fn new() -> Self {
        let mut place = Place::new();
        let bucket = place.bucket();
        std::fs::create_dir(&bucket).unwrap();
        let node = Node::start_with(&[
            "--bucket",
            bucket.to_str().unwrap(),
            "--set",
            "tier.round_bytes=256KiB",
            "--set",
            "tier.round_interval_ms=3600000",
            "--set",
            "tier.copy_interval_ms=100",
        ]);
        place.speak_to(&node.server);
        let region = Self { node, place };
        region.ok(&[
            "topic",
            "create",
            "orders",
            "--partitions",
            "2",
            "--config",
            "retention.ms=-1",
        ]);
        region
    }

    /// Writes records `numbers` to each partition, with keys, headers and times.
    fn produce(&self, numbers: std::ops::Range<u64>) {
        let mut lines = String::new();
        for number in numbers {
            for partition in 0..2 {
                let record = json!({
                    "partition": partition,
                    "timestamp_ms": 1_795_000_000_000_u64 + number,
                    "key": format!("key-{number}"),
                    "value": format!("{number} {}", "v".repeat(1000)),
                    "headers": [{ "key": "number", "value": number.to_string() }],
                });
                lines.push_str(&format!("{record}\n"));
            }
        }
        let file = self.path("lines");
        std::fs::write(&file, lines).unwrap();
        self.ok(&[
            "produce",
            "orders",
            "--format",
            "json",
            "--keep-partitions",
            file.to_str().unwrap(),
        ]);
    }

    /// Waits until the bucket has records of both partitions from `offset` on; gives where it ends in each.
    fn wait_for_bucket(&self, offset: u64) -> [u64; 2] {
        let began = Instant::now();
        loop {
            let output = self.run(&["tier", "list", "--partitions", "--output", "json"]);
            let listed: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
            let end = |index: usize| listed["partitions"][index]["end_offset"].as_u64();
            if let (Some(first), Some(second)) = (end(0), end(1))
                && first.min(second) > offset
            {
                return [first, second];
            }
            assert!(
                began.elapsed() < Duration::from_secs(120),
                "the bucket stays behind: {listed}"
            );
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Writes as few records to each partition, from `first` on, as the bucket does not get. Gives the number of the next
    /// record, and where the bucket ends in each partition.
    fn produce_behind_bucket(&self, first: u64) -> (u64, [u64; 2]) {
        let mut next = first;
        loop {
            self.produce(next..next + FEW);
            next += FEW;
            let mut ends = self.wait_for_bucket(0);
            loop {
                std::thread::sleep(CALM);
                let later = self.wait_for_bucket(0);
                if later == ends {
                    break;
                }
                ends = later;
            }
            // What waited before may have made a round together with them; it takes all there is.
            if ends.iter().all(|end| *end < next) {
                return (next, ends);
            }
            assert!(
                next < first + 10 * FEW,
                "every record comes into the bucket: {ends:?}"
            );
        }
    }

    /// Every record as the node gives it.
    fn consumed(&self, topic: &str) -> Vec<Value> {
        sorted(&self.ok(&["consume", topic, "--output", "json"]))
    }
}

/// The lines, by partition and offset; without the name of the topic and the schema.
fn sorted(lines: &str) -> Vec<Value> {
    let mut records: Vec<Value> = lines
        .lines()
        .map(|line| {
            let mut record: Value = serde_json::from_str(line).unwrap();
            let fields = record.as_object_mut().unwrap();
            fields.remove("schema");
            fields.remove("topic");
            fields.remove("leader_epoch");
            record
        })
        .collect();
    records.sort_by_key(|record| (record["partition"].as_u64(), record["offset"].as_u64()));
    records
}

fn offsets(records: &[Value]) -> BTreeMap<u64, Vec<u64>> {
    let mut offsets: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
    for record in records {
        offsets
            .entry(record["partition"].as_u64().unwrap())
            .or_default()
            .push(record["offset"].as_u64().unwrap());
    }
    offsets
}

#[test]
fn the_newest_part_comes_from_brokers_without_gap_or_repetition() {
    let region = Region::new();
    region.produce(0..MANY);
    let (until, ends) = region.produce_behind_bucket(MANY);
    let everything = region.consumed("orders");
    assert_eq!(everything.len() as u64, 2 * until);

    let replay = ["replay", "-t", "orders", "--format", "jsonl", "--out", "-"];
    let bucket_alone = sorted(&region.ok(&replay));
    assert_eq!(bucket_alone.len() as u64, ends[0] + ends[1]);
    assert!(bucket_alone.len() < everything.len(), "{ends:?}");
    let brokers = ["--brokers", region.node.server.as_str()];
    let replayed = sorted(&region.ok(&[&replay[..], &brokers].concat()));
    assert!(replayed == everything, "{:?}", offsets(&replayed));

    // Cut to the record, by offset and by time.
    let cut = ["--partition", "1", "--from", "17", "--until", "1970-01-02"];
    assert_eq!(region.ok(&[&replay[..], &brokers, &cut].concat()), "");
    let until = format!("@{}", 1_795_000_000_000_u64 + MANY + 5);
    let cut = ["--partition", "1", "--from", "690", "--until", until.as_str()];
    let found = sorted(&region.ok(&[&replay[..], &brokers, &cut].concat()));
    assert_eq!(offsets(&found), [(1, (690..MANY + 5).collect())].into());

    // Files of columns, and a topic.
    for format in ["parquet", "arrow"] {
        let files = ["replay", "-t", "orders", "--format", format, "--out", format];
        let done = region.json("replay", &[&files[..], &brokers].concat());
        assert_eq!(
            (&done["is_done"], &done["records"], &done["deleted_offsets_now"]),
            (&true.into(), &everything.len().into(), &0.into())
        );
    }
    region.ok(&[
        "topic",
        "create",
        "again",
        "--partitions",
        "2",
        "--config",
        "retention.ms=-1",
    ]);
    region.ok(&[&["replay", "-t", "orders", "--into", "again"][..], &brokers].concat());
    assert!(region.consumed("again") == everything);

    let other = Node::start();
    let refused = region.run(&[&replay[..], &["--brokers", other.server.as_str()]].concat());
    assert_eq!(refused.status.code(), Some(2), "{}", stderr(&refused));
    assert!(stderr(&refused).contains("of cluster"), "{}", stderr(&refused));
    let nobody = region.run(&[&replay[..], &["--brokers", "127.0.0.1:1", "--timeout", "1s"]].concat());
    assert_eq!(nobody.status.code(), Some(1), "{}", stderr(&nobody));
}

#[test]
fn what_is_interrupted_goes_on_where_the_seam_has_moved() {
    let region = Region::new();
    region.produce(0..MANY);
    let (until, _) = region.produce_behind_bucket(MANY);
    let everything = region.consumed("orders");

    // Something stands where the directory of partition 1 must be.
    let replay = [
        "replay",
        "-t",
        "orders",
        "--format",
        "jsonl",
        "--file-bytes",
        "64KiB",
        "--parallel",
        "1",
        "--out",
        "files",
    ];
    let brokers = ["--brokers", region.node.server.as_str()];
    std::fs::create_dir_all(region.path("files/orders")).unwrap();
    std::fs::write(region.path("files/orders/1"), "in the way").unwrap();
    let interrupted = region.run(&[&replay[..], &brokers].concat());
    assert_eq!(interrupted.status.code(), Some(1), "{}", stderr(&interrupted));
    assert!(
        stderr(&interrupted).contains("--resume"),
        "{}",
        stderr(&interrupted)
    );
    std::fs::remove_file(region.path("files/orders/1")).unwrap();

    // Without brokers the end cannot be reached, and that is said.
    let resume = [&replay[..], &["--resume"]].concat();
    let alone = region.run(&resume);
    assert_eq!(alone.status.code(), Some(1));
    assert!(stderr(&alone).contains("brokers"), "{}", stderr(&alone));

    // More comes, which makes the rounds come; and what partition 1 began with is deleted.
    region.produce(until..until + MANY);
    region.wait_for_bucket(until);
    region.ok(&[
        "topic",
        "trim",
        "orders",
        "--partition",
        "1",
        "--before",
        "33",
        "--yes",
    ]);
    let done = region.json("replay", &[&resume[..], &brokers].concat());
    assert_eq!(
        (&done["is_done"], &done["deleted_offsets_now"]),
        (&true.into(), &33.into())
    );
    let mut lines = String::new();
    for file in done["files"].as_array().unwrap() {
        let path = region.path("files").join(file["path"].as_str().unwrap());
        lines.push_str(&std::fs::read_to_string(path).unwrap());
    }
    let expected: Vec<Value> = everything
        .into_iter()
        .filter(|record| record["partition"] == 0 || record["offset"].as_u64() >= Some(33))
        .collect();
    let found = sorted(&lines);
    assert!(found == expected, "{:?}", offsets(&found));
}
