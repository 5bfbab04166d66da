//! Unchanged Kafka clients against a real process. Set up by `tests/compat/setup.sh`.
//!
//! Against Meridian by default; `MERIDIAN_TEST_SERVER=kafka` proves the tests themselves on a real Apache Kafka 4.3,
//! `MERIDIAN_TEST_BOOTSTRAP=HOST:PORT` takes a server that runs. A client that is not set up is skipped with its
//! reason, or fails the test when `MERIDIAN_TEST_REQUIRE_CLIENTS` is set.

use std::env;
use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use meridian_compat::console::{Console, Tool};
use meridian_compat::raw::{RawClient, batches, plain_batch};
use meridian_compat::{Fault, Program, Relay, Server, ServerOptions, kcat, workspace};

const CODECS: [&str; 5] = ["none", "gzip", "snappy", "lz4", "zstd"];
const CHECK_TIMEOUT: Duration = Duration::from_secs(300);

/// Two JVMs at once are more than a small machine takes.
fn one_jvm_at_a_time() -> MutexGuard<'static, ()> {
    static JVM: Mutex<()> = Mutex::new(());
    JVM.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether to skip; prints why.
fn skips(missing: Option<String>) -> bool {
    let Some(reason) = missing else { return false };
    assert!(
        env::var_os("MERIDIAN_TEST_REQUIRE_CLIENTS").is_none(),
        "all clients are required, and one is missing: {reason}"
    );
    println!("SKIPPED: {reason}");
    true
}

fn address(server: &Server) -> SocketAddr {
    server
        .bootstrap()
        .parse()
        .expect("the bootstrap address is IP:PORT")
}

/// Topics of this run, on a server that may have seen others.
fn prefix(name: &str) -> String {
    format!("{name}-{}", std::process::id())
}

fn passes_all_its_checks(program: Program, checks_min: usize) {
    if skips(program.missing()) {
        return;
    }
    let name = format!("clients-{}", program.name());
    let server = Server::start(&name, ServerOptions::from_environment());
    let relay = Relay::start(address(&server), Fault::LoseProduceResponse { every: 7 })
        .expect("loopback has a free port");
    let relay_address = relay.address().to_string();
    let arguments = [
        "check",
        server.bootstrap(),
        &prefix(program.name()),
        &relay_address,
    ];
    let report = program
        .run(server.directory(), &arguments, CHECK_TIMEOUT)
        .unwrap_or_else(|message| panic!("{message}"));
    let passed = report.passed();
    println!("{} checks hold: {}", passed.len(), passed.join(", "));
    assert!(
        passed.len() >= checks_min,
        "only {} of {checks_min} checks were made",
        passed.len()
    );
    assert!(
        relay.cuts() >= 3,
        "the relay lost only {} responses: the retries are not proved",
        relay.cuts()
    );
}

#[test]
fn librdkafka_through_confluent_kafka_passes_all_its_checks() {
    passes_all_its_checks(Program::Confluent, 23);
}

#[test]
fn kafka_python_passes_all_its_checks() {
    passes_all_its_checks(Program::KafkaPython, 25);
}

#[test]
fn the_java_client_passes_all_its_checks() {
    let _jvm = one_jvm_at_a_time();
    passes_all_its_checks(Program::Java, 28);
}

#[test]
fn franz_go_passes_all_its_checks() {
    passes_all_its_checks(Program::Franz, 27);
}

/// Writes 24 records with kcat: keys and values as text, a null value, a header, one value of 1 MiB.
fn kcat_writes(server: &Server, topic: &str, codec: &str) -> Vec<String> {
    let lines: Vec<(String, String)> = (0..24)
        .map(|i| {
            let value = match i {
                4 => String::new(),
                21 => "large ".repeat((1 << 20) / 6),
                _ => format!("value {i}"),
            };
            (format!("key-{i}"), value)
        })
        .collect();
    let text: String = lines.iter().map(|(k, v)| format!("{k}:{v}\n")).collect();
    let input = server.directory().join(format!("{topic}.in"));
    std::fs::write(&input, text).expect("the run directory takes files");
    let arguments = [
        "-P",
        "-b",
        server.bootstrap(),
        "-t",
        topic,
        "-p",
        "0",
        "-K:",
        "-Z",
        "-z",
        codec,
        "-H",
        "a=1",
        "-H",
        "a=2",
        "-X",
        "message.max.bytes=2000000",
        "-l",
        input.to_str().expect("the path is UTF-8"),
    ];
    kcat::kcat(server.directory(), &format!("write-{topic}"), &arguments)
        .unwrap_or_else(|message| panic!("{message}"));
    // Without the timestamp, which is kcat's clock.
    lines
        .iter()
        .map(|(key, value)| {
            let value = match value.as_str() {
                "" => "null".to_owned(),
                text => kcat::digest(text.as_bytes()),
            };
            let header = |v: &str| format!("a={}", kcat::digest(v.as_bytes()));
            format!(
                "{} {value} {},{}",
                kcat::digest(key.as_bytes()),
                header("1"),
                header("2")
            )
        })
        .collect()
}

fn create_topic(server: &Server, topic: &str) {
    let error = RawClient::connect(address(server))
        .and_then(|mut client| {
            let configs = [("max.message.bytes", "2097152"), ("retention.ms", "-1")];
            client.create_topic(topic, 1, &configs)
        })
        .expect("the server takes CreateTopics");
    assert_eq!(error, 0, "creating {topic}");
}

/// What lies on the server is what the producer sent: the right codec, and CRCs that hold.
fn stored_with_codec(server: &Server, topic: &str, codec: &str) {
    let wanted = CODECS.iter().position(|c| *c == codec).expect("known") as i16;
    let mut client = RawClient::connect(address(server)).expect("the server accepts connections");
    let mut offset = 0;
    let mut headers = Vec::new();
    while offset < 24 {
        let (error, _, records) = client
            .fetch(topic, 0, offset, 4 << 20)
            .expect("the server takes Fetch");
        assert_eq!(error, 0, "fetching {topic}");
        let more = batches(&records);
        let last = more.last().expect("a fetch below the end gives a batch");
        offset = last.base_offset + i64::from(last.record_count);
        headers.extend(more);
    }
    assert!(headers.iter().all(|h| h.crc_holds), "{topic}: {headers:?}");
    // A client may leave a batch uncompressed that does not shrink.
    assert!(
        headers.iter().any(|h| h.codec() == wanted)
            && headers.iter().all(|h| h.codec() == wanted || h.codec() == 0),
        "{topic} is stored with other codecs: {headers:?}"
    );
}

#[test]
fn kcat_reads_with_every_codec_what_it_wrote() {
    if skips(workspace::missing("kcat")) {
        return;
    }
    let server = Server::start("clients-kcat", ServerOptions::from_environment());
    for codec in CODECS {
        let topic = format!("{}-{codec}", prefix("kcat"));
        create_topic(&server, &topic);
        let want = kcat_writes(&server, &topic, codec);
        let got = kcat::dump(server.directory(), server.bootstrap(), &topic)
            .unwrap_or_else(|message| panic!("{message}"));
        assert_eq!(got.len(), want.len(), "records of {topic}");
        for (i, (got, want)) in got.iter().zip(&want).enumerate() {
            assert!(
                got.starts_with(&format!("record {topic} {i} ")) && got.ends_with(want),
                "record {i} of {topic} is {got}, expected {want}"
            );
        }
        stored_with_codec(&server, &topic, codec);
    }
    let query = |time: &str| {
        let topic = format!("{}-none:0:{time}", prefix("kcat"));
        let arguments = ["-Q", "-b", server.bootstrap(), "-t", &topic];
        kcat::kcat(server.directory(), "query", &arguments).unwrap_or_else(|message| panic!("{message}"))
    };
    query("-1").must_have(&["[0]", "offset 24"]);
    query("0").must_have(&["[0]", "offset 0"]);
    let metadata = kcat::kcat(
        server.directory(),
        "list",
        &["-L", "-J", "-b", server.bootstrap()],
    )
    .unwrap_or_else(|message| panic!("{message}"));
    metadata.must_have(&["\"brokers\"", server.bootstrap()]);
}

#[test]
fn every_client_reads_what_every_other_client_wrote() {
    let _jvm = one_jvm_at_a_time();
    let programs: Vec<Program> = Program::ALL
        .into_iter()
        .filter(|program| !skips(program.missing()))
        .collect();
    let has_kcat = !skips(workspace::missing("kcat"));
    let server = Server::start("clients-cross", ServerOptions::from_environment());
    let (directory, bootstrap) = (server.directory(), server.bootstrap());
    let prefix = prefix("cross");
    let mut topics = Vec::new();
    for program in &programs {
        let own = format!("{prefix}-{}", program.name());
        program
            .run(directory, &["write", bootstrap, &own], CHECK_TIMEOUT)
            .unwrap_or_else(|message| panic!("{message}"));
        topics.extend(CODECS.map(|codec| (format!("{own}-{codec}"), codec)));
    }
    if has_kcat {
        for codec in CODECS {
            let topic = format!("{prefix}-kcat-{codec}");
            create_topic(&server, &topic);
            kcat_writes(&server, &topic, codec);
            topics.push((topic, codec));
        }
    }
    for (topic, codec) in &topics {
        stored_with_codec(&server, topic, codec);
    }
    let names: Vec<&str> = topics.iter().map(|(topic, _)| topic.as_str()).collect();
    let mut arguments = vec!["dump", bootstrap];
    arguments.extend(&names);
    let mut dumps: Vec<(&str, Vec<String>)> = programs
        .iter()
        .map(|program| {
            let report = program
                .run(directory, &arguments, CHECK_TIMEOUT)
                .unwrap_or_else(|message| panic!("{message}"));
            (program.name(), report.lines)
        })
        .collect();
    if has_kcat {
        let lines = names
            .iter()
            .flat_map(|topic| {
                kcat::dump(directory, bootstrap, topic).unwrap_or_else(|message| panic!("{message}"))
            })
            .collect();
        dumps.push(("kcat", lines));
    }
    let Some(((first, want), others)) = dumps.split_first() else {
        println!("SKIPPED: no client is set up");
        return;
    };
    assert_eq!(want.len(), 24 * names.len(), "records that {first} read");
    for (name, lines) in others {
        for (got, want) in lines.iter().zip(want) {
            assert_eq!(got, want, "{name} (left) and {first} (right) read differently");
        }
        assert_eq!(lines.len(), want.len(), "records that {name} read");
    }
    println!(
        "{} readers agree on {} records of {} topics",
        dumps.len(),
        24 * names.len(),
        names.len()
    );
}

#[test]
fn a_new_topic_takes_records_at_once() {
    let server = Server::start("clients-new-topic", ServerOptions::from_environment());
    if server.is_kafka() {
        println!("SKIPPED: Kafka answers CreateTopics before its brokers know the topic");
        return;
    }
    let mut client = RawClient::connect(address(&server)).expect("the server accepts connections");
    for n in 0..50 {
        let topic = format!("{}-{n}", prefix("new"));
        let error = client
            .create_topic(&topic, 3, &[])
            .expect("the server takes CreateTopics");
        assert_eq!(error, 0, "creating {topic}");
        for partition in 0..3 {
            let answer = client.produce(&topic, partition, &plain_batch(&[b"first"]));
            assert_eq!(
                answer.expect("the server takes Produce"),
                (0, 0),
                "{topic}-{partition}"
            );
        }
    }
}

#[test]
fn the_console_tools_of_kafka_work_as_on_kafka() {
    let _jvm = one_jvm_at_a_time();
    if skips(workspace::missing("java")) {
        return;
    }
    let server = Server::start("clients-console", ServerOptions::from_environment());
    let console = Console::new(server.directory(), server.bootstrap());
    let topic = prefix("tools");
    let group = format!("{topic}-group");
    let topic = topic.as_str();

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
    console
        .try_run(Tool::Topics, &["--create", "--topic", topic], "")
        .expect_err("creating a topic twice must fail");
    console.run(Tool::Topics, &["--list"]).must_have(&[topic]);
    let described = console.run(Tool::Topics, &["--describe", "--topic", topic]);
    described.must_have(&[
        "PartitionCount: 3",
        "ReplicationFactor: 1",
        "retention.ms=86400000",
    ]);
    described.must_have(&["Partition: 2", "Leader: ", "Isr: "]);

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
            "20000",
            "--group",
            &group,
            "--formatter-property",
            "print.key=true",
        ],
    );
    for line in ["k1\tv1", "k2\tv2", "k3\tv3"] {
        consumed.must_have(&[line]);
    }

    console
        .run(Tool::ConsumerGroups, &["--list"])
        .must_have(&[&group]);
    let lag = console.run(Tool::ConsumerGroups, &["--describe", "--group", &group]);
    for partition in ["0", "1", "2"] {
        lag.must_have(&[&group, topic, partition, " 0 "]);
    }
    console
        .run(
            Tool::ConsumerGroups,
            &["--describe", "--group", &group, "--state"],
        )
        .must_have(&[&group, "Empty"]);
    console
        .run(
            Tool::ConsumerGroups,
            &[
                "--reset-offsets",
                "--to-earliest",
                "--topic",
                topic,
                "--group",
                &group,
                "--execute",
            ],
        )
        .must_have(&[&group, topic, " 0"]);
    console
        .run(Tool::ConsumerGroups, &["--delete", "--group", &group])
        .must_have(&["successful"]);

    let entity = ["--entity-type", "topics", "--entity-name", topic];
    let configs = |words: &[&str]| console.run(Tool::Configs, &[words, &entity].concat());
    configs(&["--alter", "--add-config", "retention.ms=777000"]).must_have(&["Completed updating"]);
    configs(&["--describe"]).must_have(&["retention.ms=777000"]);
    configs(&["--alter", "--delete-config", "retention.ms"]).must_have(&["Completed updating"]);
    assert!(
        !configs(&["--describe"]).has_line(&["retention.ms=777000"]),
        "the deleted setting is still there"
    );

    let connect = format!("bootstrap.servers={}", server.bootstrap());
    console
        .run(
            Tool::ProducerPerformance,
            &[
                "--topic",
                topic,
                "--num-records",
                "20000",
                "--record-size",
                "100",
                "--throughput",
                "-1",
                "--command-property",
                &connect,
                "compression.type=lz4",
            ],
        )
        .must_have(&["20000 records sent", "99th"]);
    console
        .run(
            Tool::ConsumerPerformance,
            &["--topic", topic, "--num-records", "20000", "--timeout", "20000"],
        )
        .must_have(&[", 2000"]);
    let offsets = console.run(Tool::GetOffsets, &["--topic", topic]);
    let total: u64 = (0..3)
        .map(|partition| {
            let start = format!("{topic}:{partition}:");
            let line = offsets.lines.iter().find_map(|l| l.strip_prefix(&start));
            line.and_then(|offset| offset.parse::<u64>().ok())
                .unwrap_or_else(|| panic!("no offset of partition {partition}: {:?}", offsets.lines))
        })
        .sum();
    assert_eq!(total, 20_003, "the sum of the end offsets");

    let file = server.directory().join("delete-records.json");
    let json = format!(r#"{{"version":1,"partitions":[{{"topic":"{topic}","partition":0,"offset":1}}]}}"#);
    std::fs::write(&file, json).expect("the run directory takes files");
    let file = file.to_str().expect("the path is UTF-8");
    console
        .run(Tool::DeleteRecords, &["--offset-json-file", file])
        .must_have(&[topic, "low_watermark: 1"]);
    console
        .run(Tool::GetOffsets, &["--topic", topic, "--time", "earliest"])
        .must_have(&[&format!("{topic}:0:1")]);
    console
        .run(Tool::LogDirs, &["--describe", "--topic-list", topic])
        .must_have(&[&format!("{topic}-0"), "\"size\":"]);
    console
        .run(Tool::BrokerApiVersions, &[])
        .must_have(&["Produce(0): 0 to "]);
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
