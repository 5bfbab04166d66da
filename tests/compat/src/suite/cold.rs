//! Clients whose records are in the bucket alone.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::CODECS;
use crate::console::{Console, Tool};
use crate::kcat;
use crate::program::Program;
use crate::random::Random;
use crate::raw::{RawClient, plain_batch};
use crate::site::Site;
use crate::workspace::{self, skips};

/// Names of offsets (KIP-405, KIP-1005).
const EARLIEST: i64 = -2;
const EARLIEST_LOCAL: i64 = -4;
const LATEST_TIERED: i64 = -5;

/// A record of the topic that pushes the others out of the journals.
const FILLER_BYTES: usize = 512 << 10;

/// After so much filler, and so long, everything else must be out of the journals. A slow machine is given time, not more filler.
const FILLER_BYTES_MAX: usize = 128 << 20;
const FILLER_TIMEOUT: Duration = Duration::from_secs(240);

/// Settings of a node that keeps little and tiers soon.
pub fn local_settings() -> Vec<String> {
    [
        "journal.file_bytes=2097152",
        "journal.bytes_max=6291456",
        "journal.cache_bytes=1048576",
        "shard.checkpoint_entries=20",
        "shard.checkpoint_bytes=1048576",
        "shard.maintenance_interval_ms=200",
        "tier.round_bytes=262144",
        "tier.round_interval_ms=300",
        "tier.bundle_bytes=4194304",
        "tier.copy_interval_ms=1000",
        "tier.cache_memory_bytes=4194304",
    ]
    .map(str::to_owned)
    .into()
}

/// Programs write with every codec, everything goes from the local disks, and all of them, with kcat, read what they
/// read before, from offset 0; offsets by name and by time are those of the records.
///
/// # Panics
/// When something does not hold.
pub fn every_client_reads_what_only_the_bucket_has(site: &Site, programs: &[Program]) {
    let programs: Vec<Program> = programs
        .iter()
        .copied()
        .filter(|program| !skips(program.missing()))
        .collect();
    let Some((first, others)) = programs.split_first() else {
        println!("SKIPPED: no client is set up");
        return;
    };
    let bootstrap = site.bootstrap();
    let prefix = site.prefix("cold");
    let mut topics = Vec::new();
    for program in &programs {
        let own = format!("{prefix}-{}", program.name());
        site.run(*program, &["write", &bootstrap, &own]);
        topics.extend(CODECS.map(|codec| format!("{own}-{codec}")));
    }
    let mut arguments = vec!["dump", bootstrap.as_str()];
    arguments.extend(topics.iter().map(String::as_str));
    let want = site.run(*first, &arguments).lines;
    assert!(
        want.len() >= 20 * topics.len(),
        "{} records of {} topics",
        want.len(),
        topics.len()
    );
    let records = by_topic(&want);

    let began = Instant::now();
    let filled = fill_until_cold(site, &records);
    println!(
        "{} topics are out of the journals after {:.1} s and {} MB of filler",
        topics.len(),
        began.elapsed().as_secs_f64(),
        filled / 1_000_000
    );

    for program in std::iter::once(first).chain(others) {
        let got = site.run(*program, &arguments).lines;
        assert_same(program.name(), &got, &want);
    }
    if !skips(workspace::missing("kcat")) {
        let got: Vec<String> = topics
            .iter()
            .flat_map(|topic| {
                kcat::dump(site.directory(), &bootstrap, topic).unwrap_or_else(|message| panic!("{message}"))
            })
            .collect();
        assert_same("kcat", &got, &want);
    }
    for (topic, records) in &records {
        offsets_by_name_and_time(site, topic, records);
    }
    if programs.contains(&Program::Java) {
        the_tool_of_kafka_names_offsets(site, &topics[0], &records[&topics[0]]);
    }
}

/// Timestamps of the records of each topic, by offset from 0.
fn by_topic(lines: &[String]) -> BTreeMap<String, Vec<i64>> {
    let mut topics: BTreeMap<String, Vec<i64>> = BTreeMap::new();
    for line in lines {
        let fields: Vec<&str> = line.split(' ').collect();
        let [_, topic, offset, timestamp, ..] = fields[..] else {
            panic!("not the line of a record: {line}");
        };
        let timestamps = topics.entry(topic.to_owned()).or_default();
        assert_eq!(offset, timestamps.len().to_string(), "{line}");
        timestamps.push(timestamp.parse().expect("a timestamp is a number"));
    }
    topics
}

fn assert_same(reader: &str, got: &[String], want: &[String]) {
    for (got, want) in got.iter().zip(want) {
        assert_eq!(got, want, "{reader} reads something else from the bucket");
    }
    assert_eq!(
        got.len(),
        want.len(),
        "records that {reader} read from the bucket"
    );
}

/// Writes filler until no journal has any record of the topics; gives its bytes.
fn fill_until_cold(site: &Site, topics: &BTreeMap<String, Vec<i64>>) -> usize {
    let filler = format!("{}-filler", site.prefix("cold"));
    site.create_topic(&filler);
    let mut random = Random::seeded(1);
    let mut content = Vec::with_capacity(FILLER_BYTES);
    while content.len() < FILLER_BYTES {
        content.extend(random.next_u64().to_be_bytes());
    }
    let batch = plain_batch(&[&content]);
    let mut client = site.connect_to_leader(&filler, 0);
    let mut filled = 0;
    let began = Instant::now();
    let mut left: Vec<(&String, i64)> = topics
        .iter()
        .map(|(topic, records)| (topic, records.len() as i64))
        .collect();
    while let Some((topic, end)) = left.last() {
        if leader(site, topic)
            .list_offset(topic, 0, EARLIEST_LOCAL)
            .expect("it answers")
            .2
            == *end
        {
            left.pop();
            continue;
        }
        assert!(
            filled < FILLER_BYTES_MAX && began.elapsed() < FILLER_TIMEOUT,
            "{} topics are still in the journals after {filled} bytes of filler and {:?}: {left:?}",
            left.len(),
            began.elapsed()
        );
        match client.produce(&filler, 0, &batch) {
            Ok((0, _)) => filled += FILLER_BYTES,
            // Another leads now, or the disk is behind.
            Ok(_) | Err(_) => client = site.connect_to_leader(&filler, 0),
        }
        let is_much = filled > FILLER_BYTES_MAX / 2;
        std::thread::sleep(Duration::from_millis(if is_much { 1500 } else { 100 }));
    }
    filled
}

fn leader(site: &Site, topic: &str) -> RawClient {
    site.connect_to_leader(topic, 0)
}

fn offsets_by_name_and_time(site: &Site, topic: &str, timestamps: &[i64]) {
    let mut client = leader(site, topic);
    let mut offset = |timestamp: i64| {
        let (error, found, offset) = client
            .list_offset(topic, 0, timestamp)
            .expect("the server takes ListOffsets");
        assert_eq!(error, 0, "offset for {timestamp} in {topic}");
        (found, offset)
    };
    let end = timestamps.len() as i64;
    assert_eq!(offset(EARLIEST).1, 0, "{topic} is whole");
    assert_eq!(offset(EARLIEST_LOCAL).1, end, "nothing of {topic} is local");
    assert_eq!(
        offset(LATEST_TIERED).1,
        end - 1,
        "all of {topic} is in the bucket"
    );
    for at in [0, 1, timestamps.len() / 2, timestamps.len() - 1] {
        let time = timestamps[at];
        let want = timestamps.iter().position(|other| *other >= time);
        let want = want.map(|first| (timestamps[first], first as i64));
        assert_eq!(
            Some(offset(time)),
            want,
            "the first record of {topic} from {time} on"
        );
    }
    let newest = timestamps.iter().max().expect("it has records");
    assert_eq!(offset(newest + 1), (-1, -1), "no record of {topic} is newer");
}

/// `kafka-get-offsets`: by name, and by time.
fn the_tool_of_kafka_names_offsets(site: &Site, topic: &str, timestamps: &[i64]) {
    let console = Console::new(site.directory(), &site.bootstrap());
    let end = timestamps.len();
    let of = |time: &str, offset: usize| {
        console
            .run(Tool::GetOffsets, &["--topic", topic, "--time", time])
            .must_have(&[&format!("{topic}:0:{offset}")]);
    };
    of("earliest-local", end);
    of("latest-tiered", end - 1);
}
