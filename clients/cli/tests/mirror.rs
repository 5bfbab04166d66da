//! Two regions as processes: produce at the owner, read next door, move ownership, and go on with the same client.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on says where it stopped"
)]
#![allow(
    clippy::disallowed_methods,
    reason = "a test of real processes waits in real time"
)]

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(120);

/// A node that is a region.
struct Region {
    process: Child,
    kafka: String,
    geo: String,
    admin: String,
    _data: tempfile::TempDir,
}

impl Region {
    fn start(number: u16, name: &str, seeds: &[&str]) -> Self {
        let data = tempfile::tempdir().unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_meridian"));
        command
            .args([
                "serve",
                "--output",
                "json",
                "--kafka",
                "127.0.0.1:0",
                "--admin",
                "127.0.0.1:0",
            ])
            .args([
                "--geo",
                "127.0.0.1:0",
                "--region",
                name,
                "--region-number",
                &number.to_string(),
            ])
            .args(["--set", "journal.file_bytes=8MiB", "--set", "region.shards=4"])
            .args(["--set", &format!("geo.seeds={}", seeds.join(","))])
            .arg("--data")
            .arg(data.path())
            .env("MERIDIAN_LOG__FILTER", "warn")
            .stdout(Stdio::piped());
        let mut process = command.spawn().unwrap();
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let ready: Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
        let text = |key: &str| ready[key].as_str().unwrap().to_owned();
        assert_eq!(ready["node"], u64::from(number) * 100_000 + 1);
        Self {
            process,
            kafka: text("kafka"),
            geo: text("geo"),
            admin: text("admin"),
            _data: data,
        }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_meridian"));
        command
            .args(arguments)
            .args(["--server", &self.kafka, "--timeout", "60s"]);
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    fn json(&self, arguments: &[&str]) -> Value {
        let output = self.run(&[arguments, &["--output", "json"]].concat());
        assert!(
            output.status.success(),
            "{arguments:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// Creates a topic with these words of `topic create`.
    fn create(&self, words: &[&str]) {
        let created = self.run(&[&["topic", "create"], words].concat());
        assert!(
            created.status.success(),
            "{}",
            String::from_utf8_lossy(&created.stderr)
        );
    }

    /// A producer that writes what it is given, line by line.
    fn producer(&self, topic: &str) -> (Child, ChildStdin) {
        let mut producer = self
            .command(&["produce", topic])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let stdin = producer.stdin.take().unwrap();
        (producer, stdin)
    }

    /// The values that a consumer finds which names `rack` as its own. Errors: what it said instead; a mirror learns of a
    /// topic later than its owner.
    fn read(&self, topic: &str, rack: &str) -> Result<Vec<String>, String> {
        let output = self.run(&["consume", topic, "--rack", rack]);
        if !output.status.success() {
            return Err(String::from_utf8_lossy(&output.stderr).into_owned());
        }
        let mut values: Vec<String> = String::from_utf8(output.stdout)
            .unwrap()
            .lines()
            .map(str::to_owned)
            .collect();
        values.sort();
        Ok(values)
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // It may have ended by itself, which another assertion tells.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let started = Instant::now();
    while !is_so() {
        assert!(started.elapsed() < PATIENCE, "{what} is not so");
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// Writes to a producer that lives through the switchover.
fn write(stdin: &mut ChildStdin, range: std::ops::Range<u32>) {
    for number in range {
        writeln!(stdin, "{number:06}").unwrap();
    }
    stdin.flush().unwrap();
}

fn numbers(range: std::ops::Range<u32>) -> Vec<String> {
    range.map(|number| format!("{number:06}")).collect()
}

#[test]
fn a_client_goes_on_through_a_switchover_and_consumers_read_next_door() {
    let east = Region::start(0, "east", &[]);
    let west = Region::start(1, "west", &[&east.geo]);
    east.create(&["orders", "--partitions", "4"]);
    let (mut producer, mut stdin) = east.producer("orders");
    write(&mut stdin, 0..2000);
    // Asked at the mirror, which names its own broker among the replicas.
    until("the mirror holds all", || {
        west.read("orders", "west") == Ok(numbers(0..2000))
    });
    let status = west.json(&["mirror", "status"]);
    assert_eq!(
        (&status["owner"], &status["region_epoch"]),
        (&0.into(), &0.into())
    );
    until("the owner has registered both", || {
        let listed = east.json(&["region", "list"]);
        let regions = listed["regions"].as_array().unwrap();
        regions.len() == 2 && regions.iter().all(|region| region["is_registered"] == true)
    });
    until("the mirror is linked by QUIC", || {
        let links = west.json(&["link", "list"]);
        let mut links = links["links"].as_array().unwrap().iter();
        links.any(|link| link["transport"] == "quic")
    });
    until("both regions prove equal", || {
        let proof = east.json(&["mirror", "verify"]);
        proof["is_equal"] == true && proof["partitions_equal"].as_u64() >= Some(1)
    });

    // Brokers of all regions are one cluster to clients, but a region's shards are its own.
    for (region, node) in [(&east, 1), (&west, 100_001)] {
        let status = region.json(&["cluster", "status"]);
        let shards = status["region"]["shards"].as_array().unwrap();
        assert!(
            !shards.is_empty() && shards.iter().all(|shard| shard["leader"] == node),
            "{status}"
        );
    }

    let moved = east.json(&["failover", "switchover", "--to", "west"]);
    assert_eq!((&moved["owner"], &moved["region_epoch"]), (&1.into(), &1.into()));
    write(&mut stdin, 2000..4000);
    drop(stdin);
    let written = producer.wait().unwrap();
    assert!(written.success(), "the producer was never told of another server");
    until("the old owner holds all", || {
        east.read("orders", "east") == Ok(numbers(0..4000))
    });
    assert_eq!(west.read("orders", "west"), Ok(numbers(0..4000)));
    // Once more is no error.
    let again = west.json(&["failover", "switchover", "--to", "west"]);
    assert_eq!(again["owner"], 1);
    let status = east.json(&["mirror", "status"]);
    assert_eq!(status["owner_name"], "west");
    until("the metrics show a mirror that lacks nothing", || {
        let metrics = http_get(&east.admin, "/metrics");
        [
            "meridian_mirror_owner 0",
            "meridian_mirror_lag_sequences{shard=\"0\"} 0",
        ]
        .iter()
        .all(|line| metrics.contains(line))
    });
}

#[test]
fn a_topic_that_stays_in_a_region_is_served_from_there_and_compared_with_nothing() {
    let east = Region::start(0, "east", &[]);
    let west = Region::start(1, "west", &[&east.geo]);
    until("the regions know each other", || {
        let listed = east.json(&["region", "list"]);
        listed["regions"].as_array().is_some_and(|regions| {
            regions.len() == 2 && regions.iter().all(|region| region["is_registered"] == true)
        })
    });
    east.create(&["audit", "--partitions", "2", "--config", "geo.home=west"]);
    // A client that knows the other region's brokers only goes where the topic is.
    let (mut producer, mut stdin) = east.producer("audit");
    write(&mut stdin, 0..500);
    drop(stdin);
    assert!(producer.wait().unwrap().success());
    for region in [&east, &west] {
        until("all is read", || {
            region.read("audit", "east") == Ok(numbers(0..500))
        });
    }
    let status = east.json(&["topic", "describe", "audit"]);
    assert!(
        status.to_string().contains("100001") && !status.to_string().contains("\"leader\":1,"),
        "{status}"
    );
    until("the rest proves equal", || {
        let proof = east.json(&["mirror", "verify"]);
        proof["is_equal"] == true && !proof.to_string().contains("audit")
    });
}

#[test]
fn a_stock_client_that_knows_only_a_mirror_gets_the_topic_that_it_writes_to() {
    if Command::new("kcat").arg("-V").output().is_err() {
        println!("not run: kcat is not installed");
        return;
    }
    let east = Region::start(0, "east", &[]);
    let west = Region::start(1, "west", &[&east.geo]);
    let mut kcat = Command::new("kcat")
        .args(["-P", "-b", &west.kafka, "-t", "fresh"])
        .args(["-X", "message.timeout.ms=90000"])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = kcat.stdin.take().unwrap();
    write(&mut stdin, 0..100);
    drop(stdin);
    assert!(kcat.wait().unwrap().success());
    for (region, rack) in [(&east, "east"), (&west, "west")] {
        until("the records are there", || {
            region.read("fresh", rack) == Ok(numbers(0..100))
        });
    }
}

/// One request without a client library.
fn http_get(server: &str, path: &str) -> String {
    use std::io::Read;
    let mut stream = std::net::TcpStream::connect(server).unwrap();
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: {server}\r\nConnection: close\r\n\r\n"
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}
