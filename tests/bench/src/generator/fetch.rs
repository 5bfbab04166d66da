//! `generate consume`: a few connections read a topic again and again. Every batch is held against its CRC and its offset.

use std::io::{self, Write};
use std::thread;
use std::time::{Duration, Instant};

use meridian_compat::raw::{Body, RawClient, Reader, api, batches};

use super::connection::{Responses, connect};
use super::outcome::{Outcome, latencies};
use super::prepared::{correlation, micros};

/// Options of `generate consume`.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// HOST:PORT of the server.
    #[arg(long)]
    pub bootstrap: String,
    /// Topic to read from its beginning; starts again at its end.
    #[arg(long)]
    pub topic: String,
    /// Its partitions, spread over the connections.
    #[arg(long)]
    pub partitions: u32,
    /// Consumers, each with one connection and one fetch under way.
    #[arg(long, default_value_t = 4)]
    pub connections: u32,
    /// Bytes of a record.
    #[arg(long, default_value_t = 1024)]
    pub record_bytes: u64,
    /// Bytes of one partition in one response (`max.partition.fetch.bytes`).
    #[arg(long, default_value_t = 1 << 20)]
    pub partition_bytes_max: i32,
    /// Seconds before the window.
    #[arg(long, default_value_t = 1.0)]
    pub warm_s: f64,
    /// Seconds of the window.
    #[arg(long, default_value_t = 10.0)]
    pub seconds: f64,
}

/// Consumes until the window ends. Errors: the first of any connection, bad data among them.
pub fn run(options: &Options) -> io::Result<Outcome> {
    let start = Instant::now() + Duration::from_secs_f64(options.warm_s);
    let end = start + Duration::from_secs_f64(options.seconds);
    let threads: Vec<_> = (0..options.connections.min(options.partitions))
        .map(|index| {
            let options = options.clone();
            thread::Builder::new()
                .name(format!("consumer-{index}"))
                .spawn(move || consume(&options, index, start, end))
        })
        .collect::<io::Result<_>>()?;
    let mut total = Outcome {
        window_s: options.seconds,
        ..Outcome::default()
    };
    let mut all = latencies();
    for thread in threads {
        let (bytes, window_bytes, latencies) = thread.join().expect("consumers do not panic")?;
        total.bytes += bytes;
        total.window_bytes += window_bytes;
        all.add(&latencies).expect("all histograms have the same bounds");
    }
    if total.window_bytes == 0 {
        return Err(io::Error::other("nothing was read: is the topic empty?"));
    }
    Ok(total.with_latencies(&all))
}

/// A partition and where to read on.
struct Position {
    partition: i32,
    offset: i64,
}

fn consume(
    options: &Options,
    index: u32,
    start: Instant,
    end: Instant,
) -> io::Result<(u64, u64, hdrhistogram::Histogram<u64>)> {
    let mut stream = connect(&options.bootstrap)?;
    let mut responses = Responses::new(stream.try_clone()?, 256 << 10);
    let mut positions: Vec<Position> = (index..options.partitions)
        .step_by(options.connections as usize)
        .map(|partition| Position {
            partition: i32::try_from(partition).expect("partitions are far below 2^31"),
            offset: 0,
        })
        .collect();
    let (mut bytes, mut window_bytes, mut latencies) = (0, 0, latencies());
    for request in 0.. {
        let sent = Instant::now();
        if sent >= end {
            break;
        }
        let body = body(options, &positions);
        stream.write_all(&RawClient::frame(api::FETCH, 4, correlation(request), &body))?;
        let response = responses.next(correlation(request))?;
        let records = absorb(response, &mut positions)?;
        let now = Instant::now();
        bytes += records * options.record_bytes;
        if now >= start && now < end {
            window_bytes += records * options.record_bytes;
            latencies.saturating_record(micros(now - sent));
        }
    }
    Ok((bytes, window_bytes, latencies))
}

/// A Fetch v4 request for all positions.
fn body(options: &Options, positions: &[Position]) -> Vec<u8> {
    let bytes_max = 50 << 20;
    let count = i32::try_from(positions.len()).expect("partitions are far below 2^31");
    let mut body = Body::default()
        .i32(-1)
        .i32(500)
        .i32(1)
        .i32(bytes_max)
        .i8(0)
        .i32(1)
        .string(&options.topic)
        .i32(count);
    for position in positions {
        body = body
            .i32(position.partition)
            .i64(position.offset)
            .i32(options.partition_bytes_max);
    }
    body.0
}

/// Moves the positions past what a response holds; gives the number of records.
fn absorb(response: &[u8], positions: &mut [Position]) -> io::Result<u64> {
    let mut reader = Reader(response);
    // Throttle time, one topic and its name.
    reader.take(8)?;
    reader.string()?;
    let mut records = 0;
    for _ in 0..reader.i32()? {
        let (partition, error, high_watermark) = (reader.i32()?, reader.i16()?, reader.i64()?);
        reader.i64()?;
        let aborted = usize::try_from(reader.i32()?).unwrap_or(0);
        reader.take(aborted * 16)?;
        let length = usize::try_from(reader.i32()?).unwrap_or(0);
        let data = reader.take(length)?;
        let position = positions
            .iter_mut()
            .find(|position| position.partition == partition)
            .ok_or_else(|| io::Error::other(format!("partition {partition} was not asked for")))?;
        if error != 0 {
            return Err(io::Error::other(format!(
                "fetch of partition {partition}: error {error}"
            )));
        }
        for batch in batches(data) {
            let end_offset = batch.base_offset + i64::from(batch.record_count);
            if !batch.crc_holds || batch.base_offset > position.offset {
                return Err(io::Error::other(format!(
                    "partition {partition}: wanted offset {}, got {batch:?}",
                    position.offset
                )));
            }
            if end_offset > position.offset {
                records += (end_offset - position.offset) as u64;
                position.offset = end_offset;
            }
        }
        if position.offset >= high_watermark {
            position.offset = 0;
        }
    }
    Ok(records)
}
