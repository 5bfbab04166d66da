//! `meridian replay --into` a real Apache Kafka: what a bucket and a node hold arrives there as it was, and unchanged clients
//! read there what they read here.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use meridian_compat::kafka::KafkaOptions;
use meridian_compat::process::{output_within, wait_for};
use meridian_compat::workspace::{self, skips};
use meridian_compat::{Program, Server, ServerOptions, Site, kcat, program};
use serde_json::{Value, json};

/// Of the topic with partitions.
const PARTITIONS: u32 = 3;

/// Records of each, of which the first are in the bucket before the others come.
const RECORDS: u64 = 400;
const EARLY: u64 = 300;

const CODECS: [&str; 5] = ["none", "gzip", "snappy", "lz4", "zstd"];

/// `meridian ARGUMENTS`, which must end well; gives what it prints.
#[track_caller]
fn meridian(arguments: &[&str]) -> String {
    static DIRECTORY: OnceLock<PathBuf> = OnceLock::new();
    let directory = DIRECTORY.get_or_init(|| workspace::run_directory("replay-commands"));
    let mut command = Command::new(workspace::meridian_binary().expect("it is built"));
    command
        .args(arguments)
        .env_remove("MERIDIAN_SERVER")
        .env_remove("MERIDIAN_BUCKET");
    let report = program::run("meridian", command, directory, None, Duration::from_secs(300));
    report
        .unwrap_or_else(|message| panic!("{message}"))
        .lines
        .join("\n")
}

/// Keys that are there, empty and null; values that are, empty and tombstones; headers that are many, twice the same, null, and no
/// text; times of the past that do not rise.
fn record(partition: u32, number: u64) -> Value {
    let mut record = json!({
        "partition": partition,
        "timestamp_ms": 1_700_000_000_000_u64 + number * 1000 - (number % 7) * 20_000,
        "key": format!("key-{}", number % 50),
        "value": format!("{partition}/{number} {}", "v".repeat((number % 90) as usize)),
        "headers": [{ "key": "n", "value": number.to_string() }],
    });
    match number % 6 {
        1 => record["key"] = Value::Null,
        2 => record["value"] = Value::Null,
        3 => record["key"] = "".into(),
        4 => record["value"] = "".into(),
        5 => {
            let headers = [
                json!({ "key": "twice", "value": "1" }),
                json!({ "key": "twice", "value": null }),
                json!({ "key": "bytes", "value_base64": "/+7+" }),
                json!({ "key": "empty", "value": "" }),
            ];
            record["headers"] = headers.as_slice().into();
        }
        _ => record["headers"] = Value::Array(Vec::new()),
    }
    record
}

/// Creates `parts`.
fn create(server: &str) {
    let partitions = PARTITIONS.to_string();
    let forever = ["--config", "retention.ms=-1", "--server", server];
    let create = ["topic", "create", "parts", "--partitions", &partitions];
    meridian(&[&create[..], &forever].concat());
}

fn produce(server: &str, directory: &Path, numbers: std::ops::Range<u64>) {
    let mut lines = String::new();
    for number in numbers {
        for partition in 0..PARTITIONS {
            lines += &format!("{}\n", record(partition, number));
        }
    }
    let file = directory.join("records.jsonl");
    std::fs::write(&file, lines).expect("the run directory takes files");
    let file = file.to_str().expect("its path is UTF-8");
    let arguments = ["produce", "parts", "--format", "json", "--keep-partitions", file];
    meridian(&[&arguments[..], &["--server", server]].concat());
}

/// Every record of `parts` but for its topic, in order.
fn records(server: &str, topic: &str) -> Vec<Value> {
    let arguments = ["consume", topic, "--output", "json", "--server", server];
    let lines = meridian(&arguments);
    let mut records: Vec<Value> = lines.lines().map(record_of).collect();
    records.sort_by_key(|record| (record["partition"].as_u64(), record["offset"].as_u64()));
    records
}

fn record_of(line: &str) -> Value {
    let mut record: Value = serde_json::from_str(line).expect("a line is JSON");
    let fields = record.as_object_mut().expect("it is an object");
    fields.remove("topic");
    record
}

#[track_caller]
fn assert_same<T: PartialEq + std::fmt::Debug>(who: &str, got: &[T], want: &[T]) {
    for (got, want) in got.iter().zip(want) {
        assert_eq!(got, want, "{who} reads something else from Kafka");
    }
    assert_eq!(got.len(), want.len(), "records that {who} reads from Kafka");
}

/// A node that brings everything into its bucket at once.
fn node(name: &str, bucket: &Path) -> Server {
    let bucket = bucket.to_str().expect("its path is UTF-8");
    let options = ServerOptions::meridian()
        .args(&["--bucket", bucket])
        .args(&["--set", "tier.round_interval_ms=200"])
        .args(&["--set", "tier.copy_interval_ms=100"]);
    Server::start(name, options)
}

/// Waits until the bucket has so many records of `parts`.
fn wait_for_bucket(bucket: &str, count: u64) {
    wait_for(Duration::from_secs(180), || {
        let mut list = Command::new(workspace::meridian_binary().ok()?);
        list.args(["tier", "list", "--output", "json", "--bucket", bucket]);
        let output = output_within(&mut list, Duration::from_secs(30)).ok()?;
        let listed: Value = serde_json::from_slice(&output.stdout).ok()?;
        let topics = listed["topics"].as_array()?;
        let parts = topics.iter().find(|topic| topic["topic"] == "parts")?;
        (parts["records"].as_u64()? >= count).then_some(())
    })
    .expect("the bucket gets what is written");
}

/// One test with both claims, because each Kafka takes longer to start than they take to show.
#[test]
fn apache_kafka_gets_every_record_as_it_was_and_in_a_narrower_topic_only_when_told() {
    let needed = [Program::Java, Program::Franz]
        .into_iter()
        .find_map(Program::missing);
    if skips(needed) {
        return;
    }
    let directory = workspace::run_directory("replay-into-kafka");
    let path = directory.join("bucket");
    std::fs::create_dir_all(&path).expect("the run directory takes directories");
    let bucket = path.to_str().expect("its path is UTF-8");
    let source = node("replay-source", &path);
    let kafka = Server::start("replay-kafka", ServerOptions::kafka(KafkaOptions::default()));
    let (ours, theirs) = (Site::of(&source), Site::of(&kafka));
    let (from, to) = (ours.bootstrap(), theirs.bootstrap());

    // What clients write, with every codec.
    let mut topics = Vec::new();
    for program in [Program::Franz, Program::Confluent] {
        if skips(program.missing()) {
            continue;
        }
        ours.run(program, &["write", &from, program.name()]);
        topics.extend(CODECS.map(|codec| format!("{}-{codec}", program.name())));
    }
    // And one with partitions, whose end is not in the bucket when it is replayed.
    create(&from);
    produce(&from, &directory, 0..EARLY);
    wait_for_bucket(bucket, EARLY * u64::from(PARTITIONS));
    produce(&from, &directory, EARLY..RECORDS);

    let configs = [("max.message.bytes", "2097152"), ("retention.ms", "-1")];
    let with_partitions = topics
        .iter()
        .map(|topic| (topic.as_str(), 1))
        .chain([("parts", PARTITIONS)]);
    for (topic, partitions) in with_partitions {
        let partitions = i32::try_from(partitions).expect("few");
        let created = theirs.connect().create_topic(topic, partitions, &configs);
        assert_eq!(created.expect("Kafka takes CreateTopics"), 0, "creating {topic}");
        theirs.connect_to_leader(topic, partitions - 1);
        let replay = ["replay", "--topic", topic, "--into", topic, "--server", &to];
        let newest = ["--bucket", bucket, "--brokers", &from, "--output", "json"];
        let told: Value = serde_json::from_str(&meridian(&[&replay[..], &newest].concat())).expect("JSON");
        assert_eq!(told["is_done"], true, "{told}");
    }

    let mut dump = vec!["dump", from.as_str()];
    dump.extend(topics.iter().map(String::as_str));
    let want = ours.run(Program::Franz, &dump).lines;
    assert!(want.len() >= 20 * topics.len(), "{} records", want.len());
    dump[1] = &to;
    for program in Program::ALL {
        if !skips(program.missing()) {
            assert_same(program.name(), &theirs.run(program, &dump).lines, &want);
        }
    }

    let want = records(&from, "parts");
    assert_eq!(want.len() as u64, RECORDS * u64::from(PARTITIONS));
    assert_same("meridian", &records(&to, "parts"), &want);
    if !skips(workspace::missing("kcat")) {
        for partition in 0..PARTITIONS {
            let dump = |bootstrap: &str| {
                kcat::dump_partition(&directory, bootstrap, "parts", partition)
                    .unwrap_or_else(|message| panic!("{message}"))
            };
            let want = dump(&from);
            assert_eq!(want.len() as u64, RECORDS, "partition {partition}");
            assert_same("kcat", &dump(&to), &want);
        }
    }
    println!(
        "{} topics of clients and one of {PARTITIONS} partitions with {RECORDS} records each",
        topics.len()
    );
    assert_repartitioned_only_when_told(bucket, &from, &theirs);
}

/// A topic of three partitions, all in the bucket by now, goes into one of a single partition.
fn assert_repartitioned_only_when_told(bucket: &str, from: &str, theirs: &Site) {
    wait_for_bucket(bucket, RECORDS * u64::from(PARTITIONS));
    theirs.create_topic("narrow");
    theirs.connect_to_leader("narrow", 0);
    let to = theirs.bootstrap();
    let replay = [
        "replay", "--topic", "parts", "--bucket", bucket, "--into", "narrow", "--server", &to,
    ];
    let mut refused = Command::new(workspace::meridian_binary().expect("it is built"));
    refused.args(replay);
    let output = output_within(&mut refused, Duration::from_secs(180)).expect("it ends");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.code() == Some(1) && said.contains("--repartition"),
        "{said}"
    );
    assert_eq!(records(&to, "narrow"), Vec::<Value>::new(), "nothing was written");
    meridian(&[&replay[..], &["--repartition"]].concat());
    let content = |records: Vec<Value>| {
        let fields = ["timestamp_ms", "key", "value", "headers"];
        let of = |record: &Value| fields.map(|field| record[field].to_string());
        let mut all: Vec<_> = records.iter().map(of).collect();
        all.sort();
        all
    };
    assert_eq!(content(records(&to, "narrow")), content(records(from, "parts")));
}
