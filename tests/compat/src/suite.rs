//! What unchanged clients must find, on one server as on several nodes. The functions panic where something does not hold:
//! they are tests that more than one program runs.

mod cold;
mod tools;

use std::time::Duration;

use crate::kcat;
use crate::process::wait_for;
use crate::program::Program;
use crate::raw::{RawClient, batches, plain_batch};
use crate::relay::{Fault, Relay};
use crate::site::Site;
use crate::workspace::{self, skips};

pub use cold::{every_client_reads_what_only_the_bucket_has, local_settings};
pub use tools::{the_console_tools_find_every_node, the_console_tools_work_as_on_kafka};

const CODECS: [&str; 5] = ["none", "gzip", "snappy", "lz4", "zstd"];

/// Records that each writer of the suite writes into a topic.
const RECORDS: usize = 24;

/// How long another node may take until it knows a new topic.
const KNOWN: Duration = Duration::from_secs(30);

/// Answers that make a client look at the metadata again: UNKNOWN_TOPIC_OR_PARTITION, LEADER_NOT_AVAILABLE,
/// NOT_LEADER_OR_FOLLOWER.
const LOOK_AGAIN: [i16; 3] = [3, 5, 6];

/// How many checks each client program makes at least.
fn checks_min(program: Program) -> usize {
    match program {
        Program::Confluent => 23,
        Program::KafkaPython => 25,
        Program::Java => 28,
        Program::Franz => 27,
    }
}

/// The checks of a client program, with responses lost on the way.
///
/// # Panics
/// When one fails.
pub fn a_client_passes_all_its_checks(site: &Site, program: Program) {
    if skips(program.missing()) {
        return;
    }
    let relay =
        Relay::start(&site.nodes, Fault::LoseProduceResponse { every: 7 }).expect("loopback has free ports");
    let arguments = [
        "check",
        &site.bootstrap(),
        &site.prefix(program.name()),
        &relay.address().to_string(),
    ];
    let report = site.run(program, &arguments);
    let passed = report.passed();
    println!("{} checks hold: {}", passed.len(), passed.join(", "));
    if !site.only.is_empty() {
        return;
    }
    let wanted = checks_min(program);
    assert!(
        passed.len() >= wanted,
        "only {} of {wanted} checks were made",
        passed.len()
    );
    assert!(
        relay.cuts() >= 3,
        "the relay lost only {} responses: the retries are not proved",
        relay.cuts()
    );
}

/// Writes records with kcat: keys and values as text, a null value, a header, one value of 1 MiB.
fn kcat_writes(site: &Site, topic: &str, codec: &str) -> Vec<String> {
    let lines: Vec<(String, String)> = (0..RECORDS)
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
    let input = site.directory().join(format!("{topic}.in"));
    std::fs::write(&input, text).expect("the run directory takes files");
    let arguments = [
        "-P",
        "-b",
        &site.bootstrap(),
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
    kcat::kcat(site.directory(), &format!("write-{topic}"), &arguments)
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

/// What lies on the server is what the producer sent: the right codec, and CRCs that hold.
fn stored_with_codec(site: &Site, topic: &str, codec: &str) {
    let wanted = CODECS.iter().position(|c| *c == codec).expect("known") as i16;
    let mut client = site.connect_to_leader(topic, 0);
    let mut offset = 0;
    let mut headers = Vec::new();
    while offset < RECORDS as i64 {
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

/// kcat as producer, consumer and for questions.
///
/// # Panics
/// When something does not hold.
pub fn kcat_reads_with_every_codec_what_it_wrote(site: &Site) {
    if skips(workspace::missing("kcat")) {
        return;
    }
    let bootstrap = site.bootstrap();
    for codec in CODECS {
        let topic = format!("{}-{codec}", site.prefix("kcat"));
        site.create_topic(&topic);
        let want = kcat_writes(site, &topic, codec);
        let got =
            kcat::dump(site.directory(), &bootstrap, &topic).unwrap_or_else(|message| panic!("{message}"));
        assert_eq!(got.len(), want.len(), "records of {topic}");
        for (i, (got, want)) in got.iter().zip(&want).enumerate() {
            assert!(
                got.starts_with(&format!("record {topic} {i} ")) && got.ends_with(want),
                "record {i} of {topic} is {got}, expected {want}"
            );
        }
        stored_with_codec(site, &topic, codec);
    }
    let query = |time: &str| {
        let topic = format!("{}-none:0:{time}", site.prefix("kcat"));
        let arguments = ["-Q", "-b", &bootstrap, "-t", &topic];
        kcat::kcat(site.directory(), "query", &arguments).unwrap_or_else(|message| panic!("{message}"))
    };
    query("-1").must_have(&["[0]", &format!("offset {RECORDS}")]);
    query("0").must_have(&["[0]", "offset 0"]);
    let metadata = kcat::kcat(site.directory(), "list", &["-L", "-J", "-b", &bootstrap])
        .unwrap_or_else(|message| panic!("{message}"));
    metadata.must_have(&["\"brokers\""]);
    for node in &site.nodes {
        metadata.must_have(&[&node.to_string()]);
    }
}

/// Every client writes with every codec, and all of them read all of it.
///
/// # Panics
/// When two read differently, or not everything.
pub fn every_client_reads_what_every_other_client_wrote(site: &Site) {
    let programs: Vec<Program> = Program::ALL
        .into_iter()
        .filter(|program| !skips(program.missing()))
        .collect();
    let has_kcat = !skips(workspace::missing("kcat"));
    let bootstrap = site.bootstrap();
    let prefix = site.prefix("cross");
    let mut topics = Vec::new();
    for program in &programs {
        let own = format!("{prefix}-{}", program.name());
        site.run(*program, &["write", &bootstrap, &own]);
        topics.extend(CODECS.map(|codec| (format!("{own}-{codec}"), codec)));
    }
    if has_kcat {
        for codec in CODECS {
            let topic = format!("{prefix}-kcat-{codec}");
            site.create_topic(&topic);
            kcat_writes(site, &topic, codec);
            topics.push((topic, codec));
        }
    }
    for (topic, codec) in &topics {
        stored_with_codec(site, topic, codec);
    }
    let names: Vec<&str> = topics.iter().map(|(topic, _)| topic.as_str()).collect();
    let mut arguments = vec!["dump", bootstrap.as_str()];
    arguments.extend(&names);
    let mut dumps: Vec<(&str, Vec<String>)> = programs
        .iter()
        .map(|program| (program.name(), site.run(*program, &arguments).lines))
        .collect();
    if has_kcat {
        let lines = names
            .iter()
            .flat_map(|topic| {
                kcat::dump(site.directory(), &bootstrap, topic).unwrap_or_else(|message| panic!("{message}"))
            })
            .collect();
        dumps.push(("kcat", lines));
    }
    let Some(((first, want), others)) = dumps.split_first() else {
        println!("SKIPPED: no client is set up");
        return;
    };
    assert_eq!(want.len(), RECORDS * names.len(), "records that {first} read");
    for (name, lines) in others {
        for (got, want) in lines.iter().zip(want) {
            assert_eq!(got, want, "{name} (left) and {first} (right) read differently");
        }
        assert_eq!(lines.len(), want.len(), "records that {name} read");
    }
    println!(
        "{} readers agree on {} records of {} topics",
        dumps.len(),
        RECORDS * names.len(),
        names.len()
    );
}

/// A topic takes records as soon as its creation is answered: at once where the same node leads, and after an answer that
/// makes a client look again where another one does.
///
/// # Panics
/// When it does not.
pub fn a_new_topic_takes_records_at_once(site: &Site) {
    if site.is_kafka {
        println!("SKIPPED: Kafka answers CreateTopics before its brokers know the topic");
        return;
    }
    let mut creator = site.connect();
    let mut looked_again = 0;
    for n in 0..50 {
        let topic = format!("{}-{n}", site.prefix("new"));
        let error = creator
            .create_topic(&topic, 3, &[])
            .expect("the server takes CreateTopics");
        assert_eq!(error, 0, "creating {topic}");
        // The node that has answered knows the topic, and who leads it.
        let metadata = creator.metadata(&topic).expect("the server takes Metadata");
        assert!(metadata.has_leaders(3), "{topic} is created and has {metadata:?}");
        for found in &metadata.partitions {
            let leader = metadata.address(found.leader).expect("leaders are brokers");
            let leader = leader.parse().expect("nodes are reached at IP:PORT");
            let mut client = RawClient::connect(leader).expect("the leader accepts connections");
            let batch = plain_batch(&[b"first"]);
            let answer = wait_for(KNOWN, || {
                let (error, offset) = client
                    .produce(&topic, found.partition, &batch)
                    .expect("the server takes Produce");
                let is_soon = site.nodes.len() > 1 && LOOK_AGAIN.contains(&error);
                looked_again += u32::from(is_soon);
                (!is_soon).then_some((error, offset))
            });
            assert_eq!(answer, Some((0, 0)), "{topic}-{}", found.partition);
        }
    }
    println!("150 partitions took a record; {looked_again} times a node did not know the topic yet");
}
