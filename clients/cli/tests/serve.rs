//! Every noun against `meridian serve` in a process of its own: tables, JSON schemas, and exit statuses.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on says where it stopped"
)]

use std::io::Write;
use std::process::{Command, Stdio};

use serde_json::Value;

use self::support::Node;

mod support;

struct Ran {
    status: i32,
    stdout: String,
    stderr: String,
}

impl Node {
    fn run_with(&self, arguments: &[&str], input: &[u8]) -> Ran {
        let mut process = Command::new(env!("CARGO_BIN_EXE_meridian"))
            .args(arguments)
            .env("MERIDIAN_SERVER", &self.server)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        process.stdin.take().unwrap().write_all(input).unwrap();
        let output = process.wait_with_output().unwrap();
        Ran {
            status: output.status.code().unwrap(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }

    /// Runs a command that must succeed; gives what it prints.
    fn run(&self, arguments: &[&str]) -> String {
        let ran = self.run_with(arguments, b"");
        assert_eq!(ran.status, 0, "{arguments:?}: {}", ran.stderr);
        ran.stdout
    }

    /// Runs a command that must succeed with JSON of this schema; gives the document.
    fn json(&self, schema: &str, arguments: &[&str]) -> Value {
        let arguments: Vec<&str> = arguments.iter().copied().chain(["--output", "json"]).collect();
        let document: Value = serde_json::from_str(&self.run(&arguments)).unwrap();
        assert_eq!(
            document["schema"],
            format!("meridian.{schema}/1"),
            "{arguments:?}"
        );
        document
    }
}

#[test]
fn a_region_is_looked_at_balanced_and_drained() {
    let node = Node::start();
    let id = node.json("cluster.status", &["cluster", "status"])["brokers"][0]["id"].to_string();
    let text = node.run(&["cluster", "status", "--shards"]);
    assert!(
        text.contains("SHARD") && text.contains("each where it should be"),
        "{text}"
    );

    let balanced = node.json("cluster.balance", &["cluster", "balance"]);
    assert_eq!(
        (&balanced["is_done"], &balanced["moves"]),
        (&true.into(), &Value::Array(Vec::new()))
    );
    let draining = node.json("cluster.drain", &["cluster", "drain", &id, "--no-wait"]);
    assert_eq!(
        (&draining["is_draining"], &draining["is_done"]),
        (&true.into(), &false.into())
    );
    let state = || node.json("cluster.status", &["cluster", "status"])["brokers"][0]["state"].clone();
    // Nobody can take its 16 shards and the controller's.
    assert_eq!(state(), "up, draining, 17 stuck");
    node.run(&["cluster", "drain", &id, "--undo"]);
    assert_eq!(state(), "up");

    // The only node cannot go, and one that is not there cannot either.
    let refused = node.run_with(&["cluster", "remove", &id, "--yes"], b"");
    assert_eq!(refused.status, 1, "{}", refused.stdout);
    assert!(refused.stderr.contains("only replica"), "{}", refused.stderr);
    let unknown = node.run_with(&["cluster", "remove", "77", "--yes"], b"");
    assert!(
        unknown.status == 1 && unknown.stderr.contains("cluster status"),
        "{}",
        unknown.stderr
    );
    let unasked = node.run_with(&["cluster", "remove", &id], b"");
    assert_eq!(unasked.status, 2, "{}", unasked.stderr);
}

#[test]
fn a_session_from_the_first_topic_to_the_last() {
    let node = Node::start();

    let created = node.json(
        "topic.create",
        &["topic", "create", "orders", "-p", "3", "-c", "retention.ms=60000"],
    );
    assert_eq!(created["topics"][0]["partitions"], 3);
    let again = node.run_with(&["topic", "create", "orders"], b"");
    assert_eq!(again.status, 1);
    assert!(again.stderr.contains("TOPIC_ALREADY_EXISTS") && again.stderr.contains("--if-not-exists"));
    node.run(&["topic", "create", "orders", "--if-not-exists"]);
    let list = node.json("topic.list", &["topic", "list", "--records"]);
    assert_eq!(
        (&list["topics"][0]["name"], &list["topics"][0]["records"]),
        (&"orders".into(), &0.into())
    );
    let described = node.json("topic.describe", &["topic", "describe", "orders"]);
    assert_eq!(described["partitions"].as_array().unwrap().len(), 3);
    assert_eq!(described["configs"][0]["name"], "retention.ms");
    let altered = node.json(
        "topic.alter",
        &[
            "topic",
            "alter",
            "orders",
            "--partitions",
            "4",
            "--reset",
            "retention.ms",
        ],
    );
    assert_eq!(altered["partitions"], 4);

    let lines = b"a=1\nb=2\nc=\nplain\n";
    let produce = [
        "produce",
        "orders",
        "--key-separator",
        "=",
        "--null-values",
        "-H",
        "from=test",
        "-p",
        "0",
    ];
    let ran = node.run_with(&produce, lines);
    assert_eq!((ran.status, ran.stdout.as_str()), (0, ""), "{}", ran.stderr);
    let text = node.run(&["consume", "orders", "--format", "%p %o %k=%s %S %h\\n"]);
    assert_eq!(
        text,
        "0 0 a=1 1 from=test\n0 1 b=2 1 from=test\n0 2 c= -1 from=test\n0 3 =plain 5 from=test\n"
    );
    let json = node.run(&["consume", "orders", "--from", "2", "-p", "0", "--output", "json"]);
    let records: Vec<Value> = json
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(records.len(), 2);
    assert_eq!(records[0]["schema"], "meridian.consume.record/1");
    assert_eq!(
        (&records[0]["key"], &records[0]["value"]),
        (&"c".into(), &Value::Null)
    );
    let copied = node.run_with(
        &["produce", "orders", "--format", "json", "--output", "json"],
        json.as_bytes(),
    );
    let copied: Value = serde_json::from_str(&copied.stdout).unwrap();
    assert_eq!(
        (&copied["schema"], &copied["records"]),
        (&"meridian.produce/1".into(), &2.into())
    );
    assert_eq!(
        node.run(&["consume", "orders", "-p", "0", "--from", "-1", "-n", "1"])
            .lines()
            .count(),
        1
    );
    let outside = node.run_with(&["consume", "orders", "-p", "0", "--from", "99999"], b"");
    assert!(
        outside.status == 1 && outside.stderr.contains("not in the log"),
        "{}",
        outside.stderr
    );

    let dry = node.json(
        "group.reset",
        &["group", "reset", "readers", "--topic", "orders", "--to-latest"],
    );
    assert_eq!(dry["is_done"], false);
    node.json(
        "group.reset",
        &[
            "group",
            "reset",
            "readers",
            "--topic",
            "orders",
            "--to-earliest",
            "--yes",
        ],
    );
    let behind = node.json("group.describe", &["group", "describe", "readers"]);
    assert_eq!(
        (&behind["state"], &behind["lag"]),
        (&"Empty".into(), &6.into()),
        "{behind}"
    );
    assert_eq!(
        node.json("group.list", &["group", "list"])["groups"][0]["group"],
        "readers"
    );
    node.json("group.delete", &["group", "delete", "readers", "--yes"]);
    let gone = node.run_with(&["group", "describe", "readers"], b"");
    assert!(
        gone.status == 1 && gone.stderr.contains("GROUP_ID_NOT_FOUND"),
        "{}",
        gone.stderr
    );

    let status = node.json("cluster.status", &["cluster", "status"]);
    assert_eq!((&status["topics"], &status["partitions"]), (&1.into(), &4.into()));
    assert_eq!(status["brokers"][0]["is_up"], true);
    let region = &status["region"];
    assert_eq!(region["shards"][0]["shard"], "controller");
    assert_eq!(
        (
            region["shards_unsettled"].as_u64(),
            region["shards"].as_array().map(Vec::len)
        ),
        (Some(0), Some(17)),
        "{region}"
    );

    let trimmed = node.json(
        "topic.trim",
        &[
            "topic",
            "trim",
            "orders",
            "--before",
            "2",
            "--partition",
            "0",
            "--yes",
        ],
    );
    assert_eq!(trimmed["partitions"][0]["log_start_offset"], 2);
    let data = node.data.path().to_str().unwrap();
    let journal = node.json("journal.inspect", &["journal", "inspect", "--data", data]);
    assert!(
        journal["frames"].as_u64().unwrap() > 0 && journal["problems"] == 0,
        "{journal}"
    );
    assert!(
        node.run(&["journal", "inspect", "--data", data, "--frames"])
            .lines()
            .count()
            > 3
    );

    node.json("topic.delete", &["topic", "delete", "orders", "--yes"]);
    let gone = node.run_with(&["topic", "describe", "orders"], b"");
    assert!(
        gone.status == 1 && gone.stderr.contains("meridian topic list"),
        "{}",
        gone.stderr
    );
}

#[test]
fn a_token_of_what_was_written_is_read_behind() {
    let node = Node::start();
    node.run(&["topic", "create", "orders", "-p", "1"]);
    node.run(&["topic", "create", "other", "-p", "1"]);
    let written = node.run_with(&["produce", "orders", "--token"], b"one\ntwo\n");
    assert_eq!(written.status, 0, "{}", written.stderr);
    let token = written.stdout.trim();
    assert!(
        token.starts_with("1.") && token.ends_with(".1"),
        "of the last record: {token}"
    );
    let read = ["consume", "orders", "--rack", "nowhere", "--after", token];
    assert_eq!(node.run(&read), "one\ntwo\n");

    // What the token speaks of is never written.
    let beyond = format!("{}.9", token.strip_suffix(".1").expect("of the second record"));
    let waited = node.run_with(
        &[
            "consume",
            "orders",
            "--follow",
            "--timeout",
            "5s",
            "--after",
            &beyond,
        ],
        b"",
    );
    assert_eq!(
        (waited.status, waited.stdout.as_str()),
        (1, ""),
        "{}",
        waited.stderr
    );
    assert!(
        waited.stderr.contains("offset 9, which the token speaks of") && waited.stderr.contains("ends at 2"),
        "{}",
        waited.stderr
    );
    let of_another = node.run_with(&["consume", "other", "--after", token], b"");
    assert_eq!(of_another.status, 2, "{}", of_another.stderr);
    let wrong = node.run_with(&["consume", "orders", "--after", "41"], b"");
    assert!(
        wrong.status == 2 && wrong.stderr.contains("is no token"),
        "{}",
        wrong.stderr
    );
}

#[test]
fn the_benchmarks_write_read_and_verify() {
    let node = Node::start();
    let short = ["--duration", "500ms", "--warmup", "0s"];
    let with =
        |arguments: &[&'static str]| -> Vec<&str> { arguments.iter().chain(&short).copied().collect() };
    let prepared = with(&[
        "bench",
        "produce",
        "--prepared",
        "--producers",
        "2",
        "--partitions",
        "4",
    ]);
    let prepared = node.json("bench.produce", &prepared);
    assert!(
        prepared["records"].as_u64().unwrap() > 0 && prepared["failed_records"] == 0,
        "{prepared}"
    );
    assert!(
        prepared["latency_ms"]["p999"].as_f64().unwrap() > 0.0 && prepared["client_cpu_s"].as_f64().is_some()
    );
    let several = with(&[
        "bench",
        "produce",
        "--prepared",
        "--partitions",
        "4",
        "--batches-per-request",
        "3",
        "--rate",
        "20000",
        "--batch-bytes",
        "4KiB",
    ]);
    assert_eq!(node.json("bench.produce", &several)["failed_records"], 0);
    let verified = with(&[
        "bench",
        "produce",
        "--topic",
        "checked",
        "--partitions",
        "2",
        "--producers",
        "2",
        "--verify",
        "--size",
        "100",
        "--compression",
        "lz4",
    ]);
    let verified = node.json("bench.produce", &verified);
    assert_eq!(verified["verified"]["lost"], 0);
    assert_eq!(verified["verified"]["acknowledged"], verified["verified"]["read"]);
    let read = node.json(
        "bench.consume",
        &["bench", "consume", "--topic", "checked", "--verify"],
    );
    assert_eq!(read["records"], verified["verified"]["read"]);
    // Prepared batches come again and again, and a check says so.
    let repeated = node.run_with(&["bench", "consume", "--verify"], b"");
    assert_eq!(repeated.status, 3, "{}", repeated.stderr);
    let through = with(&[
        "bench",
        "end-to-end",
        "--topic",
        "through",
        "--partitions",
        "2",
        "--rate",
        "200",
    ]);
    let through = node.json("bench.end-to-end", &through);
    assert_eq!(
        (&through["records"], &through["verified"]["lost"]),
        (&100.into(), &0.into()),
        "{through}"
    );
}
