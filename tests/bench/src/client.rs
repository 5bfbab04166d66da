//! The clients, each a process of its own, and how their reports are read.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use meridian_compat::console::Tool;
use meridian_compat::{kafka, program, workspace};

use crate::generator::outcome::Outcome;

/// No client runs longer.
const TIMEOUT: Duration = Duration::from_secs(600);

/// Our generator: this very program, with `generate` and `arguments`.
///
/// Errors: it failed; its output is in the message.
pub fn generator(directory: &Path, arguments: &[String]) -> Result<Outcome, String> {
    let exe = std::env::current_exe().map_err(|e| format!("cannot tell where this program is: {e}"))?;
    let mut command = Command::new(exe);
    command.arg("generate").args(arguments);
    json(directory, "generator", command)
}

/// `meridian bench` with `arguments`, which works against any Kafka-protocol server. Errors: as [`generator`], and when
/// the server refused records.
pub fn meridian_bench(directory: &Path, bootstrap: &str, arguments: &[String]) -> Result<Outcome, String> {
    let mut command = Command::new(workspace::meridian_binary()?);
    command
        .args(["--server", bootstrap, "--output", "json", "bench"])
        .args(arguments);
    let report = program::run("meridian-bench", command, directory, None, TIMEOUT)?;
    parse_meridian_bench(&report.lines.join("\n"))
}

/// The JSON document of `meridian bench`.
fn parse_meridian_bench(text: &str) -> Result<Outcome, String> {
    let found: serde_json::Value =
        serde_json::from_str(text).map_err(|e| format!("meridian bench printed '{text}': {e}"))?;
    if found["failed_records"].as_u64() != Some(0) {
        return Err(format!("the server refused records: {}", found["first_failure"]));
    }
    let (Some(bytes), Some(seconds)) = (found["value_bytes"].as_u64(), found["elapsed_s"].as_f64()) else {
        return Err(format!("meridian bench printed '{text}'"));
    };
    if bytes == 0 {
        return Err("nothing went through".to_owned());
    }
    let latency = &found["latency_ms"];
    Ok(Outcome {
        bytes,
        window_bytes: bytes,
        window_s: seconds,
        p50_ms: latency["p50"].as_f64(),
        p99_ms: latency["p99"].as_f64(),
        p999_ms: latency["p999"].as_f64(),
    })
}

/// librdkafka: the program in `rdkafka/produce.c`. Errors: as [`generator`].
pub fn rdkafka(program: &Path, directory: &Path, arguments: &[String]) -> Result<Outcome, String> {
    let mut command = Command::new(program);
    command.args(arguments);
    json(directory, "rdkafka", command)
}

fn json(directory: &Path, name: &str, command: Command) -> Result<Outcome, String> {
    let report = program::run(name, command, directory, None, TIMEOUT)?;
    let line = report.lines.last().map_or("", String::as_str);
    serde_json::from_str(line).map_err(|e| format!("{name} printed '{line}': {e}"))
}

/// Builds `rdkafka/produce.c` against the librdkafka inside the confluent-kafka wheel of `tests/compat/setup.sh`.
///
/// Errors: what is missing, and how to get it.
pub fn build_rdkafka() -> Result<PathBuf, String> {
    if let Some(reason) = workspace::missing("python") {
        return Err(reason);
    }
    let library = find_librdkafka().ok_or("the confluent-kafka wheel holds no librdkafka")?;
    let program = workspace::target().join("rdkafka-produce");
    let folder = library
        .parent()
        .expect("a library lies in a folder")
        .display()
        .to_string();
    let output = Command::new("cc")
        .args(["-O2", "-o"])
        .arg(&program)
        .arg(workspace::root().join("tests/bench/rdkafka/produce.c"))
        .arg(&library)
        .arg(format!("-Wl,-rpath,{folder}"))
        .output()
        .map_err(|e| format!("cannot run cc: {e}"))?;
    if output.status.success() {
        Ok(program)
    } else {
        Err(format!("cc failed: {}", String::from_utf8_lossy(&output.stderr)))
    }
}

fn find_librdkafka() -> Option<PathBuf> {
    let libraries = workspace::clients().join("python/lib");
    let entries = |path: &Path| std::fs::read_dir(path).into_iter().flatten().flatten();
    entries(&libraries)
        .flat_map(|python| {
            let wheel = python.path().join("site-packages/confluent_kafka.libs");
            entries(&wheel).map(|entry| entry.path()).collect::<Vec<_>>()
        })
        .find(|path| {
            path.file_name()
                .and_then(|name| name.to_str())
                .is_some_and(|name| name.starts_with("librdkafka-"))
        })
}

/// A JVM for a client that is measured.
fn client_jvm() -> Vec<String> {
    ["-Xmx768m", "-Xms768m", "-XX:+UseG1GC"]
        .map(str::to_owned)
        .to_vec()
}

/// What Java's producer is to do.
#[derive(Clone, Debug)]
pub struct JavaProduce<'a> {
    /// `HOST:PORT`.
    pub bootstrap: &'a str,
    /// An existing topic.
    pub topic: &'a str,
    /// Records before those that count, to warm the client's JVM.
    pub warm_records: u64,
    /// Records that count.
    pub records: u64,
    /// Bytes of a record.
    pub record_bytes: u64,
    /// Records per second; `None`: as fast as it goes.
    pub rate: Option<u64>,
    /// `linger.ms`.
    pub linger_ms: u32,
}

/// Java's `ProducerPerformance`, acks=all, 64 KiB batches. Errors: as [`generator`].
pub fn java_produce(directory: &Path, work: &JavaProduce<'_>) -> Result<Outcome, String> {
    let mut command = kafka::java(Tool::ProducerPerformance.class(), &client_jvm());
    let all = work.warm_records + work.records;
    command
        .args(["--topic", work.topic])
        .args(["--num-records", &all.to_string()])
        .args(["--warmup-records", &work.warm_records.to_string()])
        .args(["--record-size", &work.record_bytes.to_string()])
        .args([
            "--throughput",
            &work.rate.map_or("-1".to_owned(), |rate| rate.to_string()),
        ])
        .args(["--bootstrap-server", work.bootstrap])
        .args(["--command-property", "acks=all", "batch.size=65536"])
        .arg(format!("linger.ms={}", work.linger_ms));
    let report = program::run("java-produce", command, directory, None, TIMEOUT)?;
    let line = report
        .lines
        .iter()
        .rfind(|line| line.contains("99.9th"))
        .ok_or_else(|| format!("ProducerPerformance printed no summary: {:?}", report.lines))?;
    parse_produced(line, work).ok_or_else(|| format!("ProducerPerformance printed '{line}'"))
}

/// `N records sent, R records/sec (M MB/sec), A ms avg latency, X ms max latency, P ms 50th, P ms 95th, P ms 99th, P ms 99.9th.`
fn parse_produced(line: &str, work: &JavaProduce<'_>) -> Option<Outcome> {
    let number_before = |mark: &str| {
        let head = &line[..line.find(mark)?];
        head.trim_end()
            .rsplit([' ', '(', ','])
            .next()?
            .parse::<f64>()
            .ok()
    };
    let records_per_s = number_before("records/sec")?;
    let window_bytes = work.records * work.record_bytes;
    Some(Outcome {
        bytes: (work.warm_records + work.records) * work.record_bytes,
        window_bytes,
        window_s: work.records as f64 / records_per_s,
        p50_ms: number_before("ms 50th"),
        p99_ms: number_before("ms 99th"),
        p999_ms: number_before("ms 99.9th"),
    })
}

/// Java's `ConsumerPerformance` over `records` records. The time until the group has its partitions does not count.
///
/// Errors: as [`generator`].
pub fn java_consume(
    directory: &Path,
    bootstrap: &str,
    topic: &str,
    records: u64,
    record_bytes: u64,
) -> Result<Outcome, String> {
    let mut command = kafka::java(Tool::ConsumerPerformance.class(), &client_jvm());
    command
        .args(["--bootstrap-server", bootstrap, "--topic", topic])
        .args(["--num-records", &records.to_string(), "--timeout", "60000"]);
    let report = program::run("java-consume", command, directory, None, TIMEOUT)?;
    let line = report.lines.last().map_or("", String::as_str);
    // start.time, end.time, MB, MB/s, records, records/s, rebalance ms, fetch ms, fetch MB/s, fetch records/s
    let fields: Vec<f64> = line.split(", ").filter_map(|field| field.parse().ok()).collect();
    // The two times are dates and do not parse.
    let (Some(read), Some(fetch_ms)) = (fields.get(2), fields.get(5)) else {
        return Err(format!("ConsumerPerformance printed '{line}'"));
    };
    if *read < records as f64 {
        return Err(format!("ConsumerPerformance read {read} of {records} records"));
    }
    let bytes = *read as u64 * record_bytes;
    Ok(Outcome {
        bytes,
        window_bytes: bytes,
        window_s: fetch_ms / 1000.0,
        ..Outcome::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refused_records_make_a_run_of_meridian_bench_fail() {
        let text = |failed: u32| {
            format!(
                r#"{{"failed_records": {failed}, "first_failure": null, "value_bytes": 3000000, "elapsed_s": 2.0,
                    "latency_ms": {{"p50": 1.5, "p99": 2.5, "p999": 3.5}}}}"#
            )
        };
        let outcome = parse_meridian_bench(&text(0)).unwrap();
        assert_eq!(outcome.mb_per_s(), 1.5);
        assert_eq!(outcome.p99_ms, Some(2.5));
        assert!(parse_meridian_bench(&text(1)).is_err());
    }

    #[test]
    fn the_summary_of_producer_performance_is_read() {
        let work = JavaProduce {
            bootstrap: "",
            topic: "",
            warm_records: 10,
            records: 200_000,
            record_bytes: 1000,
            rate: None,
            linger_ms: 5,
        };
        let line = "200000 records sent, 100000.0 records/sec (95.37 MB/sec), 1.20 ms avg latency, 60.00 ms max latency, \
                    1 ms 50th, 4 ms 95th, 40 ms 99th, 60 ms 99.9th.";
        let outcome = parse_produced(line, &work).unwrap();
        assert_eq!(outcome.window_s, 2.0);
        assert_eq!(outcome.mb_per_s(), 100.0);
        assert_eq!(
            (outcome.p50_ms, outcome.p99_ms, outcome.p999_ms),
            (Some(1.0), Some(40.0), Some(60.0))
        );
    }
}
