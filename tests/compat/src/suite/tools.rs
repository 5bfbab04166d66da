//! The console tools of Apache Kafka 4.3, with what a user does with them.

use crate::console::{Console, Tool};
use crate::program::Report;
use crate::site::Site;
use crate::workspace::{self, skips};

/// Records that the console producer writes.
const CONSOLE_RECORDS: u64 = 3;

/// Records that the measuring producer writes.
const MEASURED_RECORDS: u64 = 20_000;

/// Topics, groups, settings, offsets and records through the tools of Kafka.
///
/// # Panics
/// When a tool fails, or prints something else than on Kafka.
pub fn the_console_tools_work_as_on_kafka(site: &Site) {
    if skips(workspace::missing("java")) {
        return;
    }
    let console = Console::new(site.directory(), &site.bootstrap());
    let topic = site.prefix("tools");
    let topic = topic.as_str();
    create_and_describe(site, &console, topic);
    console
        .try_run(Tool::Topics, &["--create", "--topic", topic], "")
        .expect_err("creating a topic twice must fail");
    console.run(Tool::Topics, &["--list"]).must_have(&[topic]);
    console
        .run(Tool::BrokerApiVersions, &[])
        .must_have(&["Produce(0): 0 to "]);
    write_and_consume(&console, topic);
    groups(&console, topic);
    settings(&console, topic);
    measure(site, &console, topic);
    offsets_and_files(site, &console, topic, CONSOLE_RECORDS + MEASURED_RECORDS);
    console.run(Tool::Topics, &["--alter", "--topic", topic, "--partitions", "5"]);
    console
        .run(Tool::Topics, &["--describe", "--topic", topic])
        .must_have(&["PartitionCount: 5"]);
    console.run(Tool::Topics, &["--delete", "--topic", topic]);
    assert!(
        !console.run(Tool::Topics, &["--list"]).has_line(&[topic]),
        "the deleted topic is still listed"
    );
}

/// What the tools do in another way where there are several nodes: replicas, coordinators, offsets and deletions at leaders,
/// files on every node.
///
/// # Panics
/// As [`the_console_tools_work_as_on_kafka`].
pub fn the_console_tools_find_every_node(site: &Site) {
    if skips(workspace::missing("java")) {
        return;
    }
    let console = Console::new(site.directory(), &site.bootstrap());
    let topic = site.prefix("tools");
    create_and_describe(site, &console, &topic);
    write_and_consume(&console, &topic);
    offsets_and_files(site, &console, &topic, CONSOLE_RECORDS);
}

fn create_and_describe(site: &Site, console: &Console, topic: &str) {
    console
        .run(
            Tool::Topics,
            &[
                "--create",
                "--topic",
                topic,
                "--partitions",
                "3",
                "--config",
                "retention.ms=86400000",
            ],
        )
        .must_have(&["Created topic", topic]);
    let described = console.run(Tool::Topics, &["--describe", "--topic", topic]);
    described.must_have(&[
        "PartitionCount: 3",
        &format!("ReplicationFactor: {}", site.replicas),
        "retention.ms=86400000",
    ]);
    for partition in 0..3 {
        let wanted = usize::from(site.replicas);
        for field in ["Replicas: ", "Isr: "] {
            let nodes = nodes_of(&described, partition, field);
            assert_eq!(nodes.len(), wanted, "{field}of partition {partition}: {nodes:?}");
        }
        let leader = nodes_of(&described, partition, "Leader: ");
        let replicas = nodes_of(&described, partition, "Replicas: ");
        assert!(
            leader.len() == 1 && replicas.contains(&leader[0]),
            "partition {partition} is led by {leader:?} and lies on {replicas:?}"
        );
    }
}

/// The node ids behind a word in the line of a partition, as `kafka-topics --describe` prints it.
fn nodes_of(described: &Report, partition: u32, field: &str) -> Vec<String> {
    let own = format!("Partition: {partition}\t");
    let line = described.lines.iter().find(|line| line.contains(&own));
    let line = line.unwrap_or_else(|| panic!("no line for partition {partition}: {:?}", described.lines));
    let rest = line.split(field).nth(1);
    let rest = rest.unwrap_or_else(|| panic!("no '{field}' in '{line}'"));
    let ids = rest.split(char::is_whitespace).next().unwrap_or_default();
    ids.split(',').map(str::to_owned).collect()
}

fn write_and_consume(console: &Console, topic: &str) {
    let group = format!("{topic}-group");
    let keyed = [
        "--topic",
        topic,
        "--reader-property",
        "parse.key=true",
        "--reader-property",
        "key.separator=:",
    ];
    console.run_with_input(Tool::ConsoleProducer, &keyed, "k1:v1\nk2:v2\nk3:v3\n");
    let consumed = console.run(
        Tool::ConsoleConsumer,
        &[
            "--topic",
            topic,
            "--from-beginning",
            "--max-messages",
            "3",
            "--timeout-ms",
            "60000",
            "--group",
            &group,
            "--formatter-property",
            "print.key=true",
        ],
    );
    for line in ["k1\tv1", "k2\tv2", "k3\tv3"] {
        consumed.must_have(&[line]);
    }
    let lag = console.run(Tool::ConsumerGroups, &["--describe", "--group", &group]);
    for partition in ["0", "1", "2"] {
        lag.must_have(&[&group, topic, partition, " 0 "]);
    }
}

fn groups(console: &Console, topic: &str) {
    let group = format!("{topic}-group");
    let groups = |words: &[&str]| console.run(Tool::ConsumerGroups, words);
    groups(&["--list"]).must_have(&[&group]);
    groups(&["--describe", "--group", &group, "--state"]).must_have(&[&group, "Empty"]);
    groups(&[
        "--reset-offsets",
        "--to-earliest",
        "--topic",
        topic,
        "--group",
        &group,
        "--execute",
    ])
    .must_have(&[&group, topic, " 0"]);
    groups(&["--delete", "--group", &group]).must_have(&["successful"]);
}

fn settings(console: &Console, topic: &str) {
    let entity = ["--entity-type", "topics", "--entity-name", topic];
    let configs = |words: &[&str]| console.run(Tool::Configs, &[words, &entity].concat());
    configs(&["--alter", "--add-config", "retention.ms=777000"]).must_have(&["Completed updating"]);
    configs(&["--describe"]).must_have(&["retention.ms=777000"]);
    configs(&["--alter", "--delete-config", "retention.ms"]).must_have(&["Completed updating"]);
    assert!(
        !configs(&["--describe"]).has_line(&["retention.ms=777000"]),
        "the deleted setting is still there"
    );
}

fn measure(site: &Site, console: &Console, topic: &str) {
    let connect = format!("bootstrap.servers={}", site.bootstrap());
    let records = MEASURED_RECORDS.to_string();
    console
        .run(
            Tool::ProducerPerformance,
            &[
                "--topic",
                topic,
                "--num-records",
                &records,
                "--record-size",
                "100",
                "--throughput",
                "-1",
                "--command-property",
                &connect,
                "compression.type=lz4",
            ],
        )
        .must_have(&[&format!("{records} records sent"), "99th"]);
    console
        .run(
            Tool::ConsumerPerformance,
            &["--topic", topic, "--num-records", &records, "--timeout", "60000"],
        )
        .must_have(&[", 2000"]);
}

fn offsets_and_files(site: &Site, console: &Console, topic: &str, records: u64) {
    let offsets = console.run(Tool::GetOffsets, &["--topic", topic]);
    let total: u64 = (0..3)
        .map(|partition| {
            let start = format!("{topic}:{partition}:");
            let line = offsets.lines.iter().find_map(|l| l.strip_prefix(&start));
            line.and_then(|offset| offset.parse::<u64>().ok())
                .unwrap_or_else(|| panic!("no offset of partition {partition}: {:?}", offsets.lines))
        })
        .sum();
    assert_eq!(total, records, "the sum of the end offsets");

    let file = site.directory().join("delete-records.json");
    let json = format!(r#"{{"version":1,"partitions":[{{"topic":"{topic}","partition":0,"offset":1}}]}}"#);
    std::fs::write(&file, json).expect("the run directory takes files");
    let file = file.to_str().expect("the path is UTF-8");
    console
        .run(Tool::DeleteRecords, &["--offset-json-file", file])
        .must_have(&[topic, "low_watermark: 1"]);
    console
        .run(Tool::GetOffsets, &["--topic", topic, "--time", "earliest"])
        .must_have(&[&format!("{topic}:0:1")]);
    let held = console.run(Tool::LogDirs, &["--describe", "--topic-list", topic]);
    held.must_have(&[&format!("{topic}-0"), "\"size\":"]);
    let copies: usize = held
        .lines
        .iter()
        .map(|line| line.matches(&format!("\"{topic}-0\"")).count())
        .sum();
    assert_eq!(
        copies,
        usize::from(site.replicas),
        "copies of {topic}-0: {:?}",
        held.lines
    );
}
