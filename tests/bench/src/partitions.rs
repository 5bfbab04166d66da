//! `bench partitions`: very many partitions on one node.

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use meridian_compat::raw::{RawClient, batches, plain_batch};
use meridian_compat::{Server, ServerOptions};

use crate::{machine, report};

/// Options of `bench partitions`.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Topics to create.
    #[arg(long, default_value_t = 100)]
    pub topics: u32,
    /// Partitions of each.
    #[arg(long, default_value_t = 1000)]
    pub partitions: u32,
    /// Partitions that are written to and read back, spread over all.
    #[arg(long, default_value_t = 2000)]
    pub sample: u32,
    /// Name of the report: docs/benchmarks/DATE-NAME.md.
    #[arg(long, default_value = "partitions")]
    pub name: String,
    /// Print the report, but do not store it.
    #[arg(long)]
    pub no_store: bool,
}

/// Creation of 100,000 partitions, at most.
const CREATE_AIM: Duration = Duration::from_secs(60);
/// Resident memory with them, at most.
const RESIDENT_AIM_BYTES: u64 = 2 << 30;
/// From the start after a kill until it takes requests again, at most.
const RESTART_AIM: Duration = Duration::from_secs(10);

/// Creates, samples, kills, restarts; prints a table. Errors: a step failed, or a sampled record is not there.
pub fn run(options: &Options) -> Result<(), String> {
    let start = Instant::now();
    let mut server = Server::try_start("bench-partitions", ServerOptions::meridian())?;
    let first_start = start.elapsed();
    let pid = |server: &Server| server.pid().expect("it runs and is ours");
    let empty = machine::resident_bytes(pid(&server)).0;

    let start = Instant::now();
    let count = i32::try_from(options.partitions).map_err(|_| "too many partitions".to_owned())?;
    let mut client = connect(&server)?;
    // The records of the sample are of 1970.
    let keep_all = [("retention.ms", "-1")];
    for topic in 0..options.topics {
        let error = client
            .create_topic(&name(topic), count, &keep_all)
            .map_err(failed("create"))?;
        if error != 0 {
            return Err(format!(
                "creating {} was answered with error {error}",
                name(topic)
            ));
        }
    }
    let created = start.elapsed();
    let resident = machine::resident_bytes(pid(&server)).0;

    let start = Instant::now();
    for index in 0..options.sample {
        let (topic, partition) = place(options, index);
        let batch = plain_batch(&[value(index).as_bytes()]);
        let (error, offset) = client
            .produce(&topic, partition, &batch)
            .map_err(failed("produce"))?;
        if (error, offset) != (0, 0) {
            return Err(format!(
                "produce to {topic}-{partition}: error {error}, offset {offset}"
            ));
        }
    }
    let written = start.elapsed();
    let read = read_sample(&server, options)?;
    let resident_sampled = machine::resident_bytes(pid(&server)).0;

    server.kill();
    let start = Instant::now();
    server.try_start_again()?;
    let ready = start.elapsed();
    read_sample(&server, options)?;
    let readable = start.elapsed();
    let (resident_again, resident_most) = machine::resident_bytes(pid(&server));
    server.stop(Duration::from_secs(60))?;
    let start = Instant::now();
    server.try_start_again()?;
    let ready_after_stop = start.elapsed();
    server.stop(Duration::from_secs(60))?;

    let verdict = |met: bool| if met { "met" } else { "missed" };
    let mib = |bytes: u64| format!("{} MiB", bytes >> 20);
    let rows = [
        ("first start, empty", seconds(first_start), String::new()),
        ("resident, empty", mib(empty), String::new()),
        (
            "all created",
            seconds(created),
            format!("60 s: {}", verdict(created <= CREATE_AIM)),
        ),
        (
            "resident with all",
            mib(resident),
            format!("2 GiB: {}", verdict(resident <= RESIDENT_AIM_BYTES)),
        ),
        ("sample written, one by one", seconds(written), String::new()),
        ("sample read, one by one", seconds(read), String::new()),
        ("resident with the sample", mib(resident_sampled), String::new()),
        (
            "ready after kill -9",
            seconds(ready),
            format!("10 s: {}", verdict(ready <= RESTART_AIM)),
        ),
        (
            "whole sample read after kill -9, one by one",
            seconds(readable),
            String::new(),
        ),
        (
            "resident after restart",
            mib(resident_again),
            format!("2 GiB: {}", verdict(resident_again <= RESIDENT_AIM_BYTES)),
        ),
        (
            "most resident while restarting",
            mib(resident_most),
            String::new(),
        ),
        (
            "ready after a graceful stop",
            seconds(ready_after_stop),
            String::new(),
        ),
    ];
    let mut text = format!(
        "# {} partitions on one node, {}\n\n{} topics; a sample of {} partitions was written to, read, and read again \
         after `kill -9`. Commit `{}`. {}. Load average {}.\n\n| | found | aim |\n|---|---|---|\n",
        options.topics * options.partitions,
        machine::date(),
        options.topics,
        options.sample,
        machine::commit(),
        machine::description(),
        machine::load_average(),
    );
    for (what, found, aim) in rows {
        text.push_str(&format!("| {what} | {found} | {aim} |\n"));
    }
    println!("{text}");
    if options.no_store {
        return Ok(());
    }
    let path = report::path(&machine::date(), &options.name);
    std::fs::write(&path, text).map_err(|e| format!("cannot write {}: {e}", path.display()))
}

fn connect(server: &Server) -> Result<RawClient, String> {
    let address: SocketAddr = server.bootstrap().parse().map_err(|e| format!("{e}"))?;
    RawClient::connect(address).map_err(failed("connect"))
}

fn failed(what: &'static str) -> impl Fn(io::Error) -> String {
    move |e| format!("{what}: {e}")
}

fn name(topic: u32) -> String {
    format!("many-{topic}")
}

fn value(index: u32) -> String {
    format!("record {index} of the sample")
}

/// Where the `index`th record of the sample lies: all topics, partitions spread over the whole range.
fn place(options: &Options, index: u32) -> (String, i32) {
    let topic = index % options.topics;
    let per_topic = options.sample.div_ceil(options.topics).max(1);
    let partition = (index / options.topics) * options.partitions / per_topic;
    (
        name(topic),
        i32::try_from(partition).expect("partitions were checked"),
    )
}

/// Reads every record of the sample and holds it against what was written.
fn read_sample(server: &Server, options: &Options) -> Result<Duration, String> {
    let start = Instant::now();
    let mut client = connect(server)?;
    for index in 0..options.sample {
        let (topic, partition) = place(options, index);
        let (error, _, records) = client
            .fetch(&topic, partition, 0, 1 << 20)
            .map_err(failed("fetch"))?;
        let wanted = value(index);
        let holds = batches(&records).first().is_some_and(|batch| batch.crc_holds)
            && records
                .windows(wanted.len())
                .any(|window| window == wanted.as_bytes());
        if error != 0 || !holds {
            return Err(format!(
                "{topic}-{partition}: error {error}, {} bytes",
                records.len()
            ));
        }
    }
    Ok(start.elapsed())
}

fn seconds(duration: Duration) -> String {
    format!("{:.2} s", duration.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn the_sample_touches_as_many_partitions_as_it_has_records() {
        let options = Options {
            topics: 100,
            partitions: 1000,
            sample: 2000,
            name: String::new(),
            no_store: true,
        };
        let places: BTreeSet<_> = (0..options.sample).map(|index| place(&options, index)).collect();
        assert_eq!(places.len(), 2000);
        assert!(places.iter().all(|(_, partition)| *partition < 1000));
        assert!(places.iter().any(|(_, partition)| *partition > 900));
    }
}
