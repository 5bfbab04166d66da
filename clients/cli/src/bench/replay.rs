//! `meridian bench replay`: how fast one processor turns frames of a bundle into Arrow.

use std::time::Duration;

use bytes::Bytes;
use clap::Args;
use meridian_tiered_storage::bundle::{BundleError, BundleLimits, BundleWriter, Footer, Frame, unframe};
use meridian_tiered_storage::replay::RowBuilder;
use meridian_types::{LeaderEpoch, Offset, Partition, TimestampMs, TopicId, Uuid};
use meridian_wire::batch::{BatchBuilder, Compression, batches};
use serde_json::{Value, json};

use super::content::text;
use super::driver::cpu_time;
use crate::context::Context;
use crate::error::CliError;
use crate::output::{Rows, bytes_text};
use crate::parse::{parse_bytes, parse_compression, parse_duration};

/// A record batch of Arrow is made of so many bytes.
const ROWS_BYTES: usize = 16 << 20;

/// Measure how fast one processor turns history into Arrow; needs no server
#[derive(Debug, Args)]
#[command(after_help = "\
Builds bundles in memory, and turns them into Arrow record batches on one processor, again and again: checksums of \
frames, unpacking, records, columns. Counts bytes of records without compression, by processor time. Values are lines of JSON \
with random numbers.")]
pub(crate) struct ReplayArgs {
    /// Bytes of each record's value
    #[arg(long, default_value = "1024", value_parser = parse_bytes, value_name = "BYTES")]
    size: u64,
    /// Records of a batch
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    batch_records: u32,
    /// Compression of the batches; all that are named here
    #[arg(long, value_delimiter = ',', default_value = "none,lz4,zstd", value_parser = parse_compression)]
    compression: Vec<Compression>,
    /// Bytes of records without compression that are held in memory
    #[arg(long, default_value = "64MiB", value_parser = parse_bytes, value_name = "BYTES")]
    data: u64,
    /// Processor time of each measurement
    #[arg(long, default_value = "3s", value_parser = parse_duration, value_name = "TIME")]
    duration: Duration,
}

/// A bundle in memory.
struct Packed {
    frames: Vec<(Frame, Bytes)>,
    stored_bytes: u64,
}

struct Measured {
    compression: Compression,
    record_bytes: u64,
    stored_bytes: u64,
    records: u64,
    time: Duration,
    rounds: u64,
}

impl Measured {
    fn bytes_per_second(&self) -> f64 {
        (self.record_bytes * self.rounds) as f64 / self.time.as_secs_f64().max(1e-9)
    }
}

impl ReplayArgs {
    pub(crate) fn run(self, context: &Context) -> Result<(), CliError> {
        if !(1..=16 << 20).contains(&self.size) || self.size * u64::from(self.batch_records) > 64 << 20 {
            return Err(CliError::usage(
                "--size and --batch-records make batches that are too large: expected at most 64 MiB together",
            ));
        }
        let mut all = Vec::new();
        for compression in &self.compression {
            all.push(self.measure(*compression)?);
        }
        let results: Vec<Value> = all.iter().map(json_of).collect();
        let fields = json!({
            "value_bytes": self.size,
            "batch_records": self.batch_records,
            "results": results,
        });
        context.output.document("bench.replay", fields, || {
            let mut rows = Rows::new(&["COMPRESSION", "GB/S", "RECORDS/S", "RECORDS OF", "STORED AS"]);
            for measured in &all {
                rows.push([
                    measured.compression.to_string(),
                    format!("{:.2}", measured.bytes_per_second() / 1e9),
                    format!(
                        "{:.0}",
                        (measured.records * measured.rounds) as f64 / measured.time.as_secs_f64().max(1e-9)
                    ),
                    bytes_text(measured.record_bytes),
                    bytes_text(measured.stored_bytes),
                ]);
            }
            format!(
                "to Arrow, by one processor, {} records of {} B a batch\n\n{}",
                self.batch_records,
                self.size,
                rows.render()
            )
        })
    }

    fn measure(&self, compression: Compression) -> Result<Measured, CliError> {
        let packed = self.pack(compression)?;
        let mut rows = RowBuilder::new(["bench"]);
        let (mut record_bytes, mut records) = decode(&packed, &mut rows)?;
        let began = cpu_time();
        let mut rounds = 0;
        while cpu_time() - began < self.duration {
            (record_bytes, records) = decode(&packed, &mut rows)?;
            rounds += 1;
        }
        Ok(Measured {
            compression,
            record_bytes,
            stored_bytes: packed.stored_bytes,
            records,
            time: cpu_time() - began,
            rounds,
        })
    }

    fn pack(&self, compression: Compression) -> Result<Packed, CliError> {
        let failed =
            |error: &dyn std::fmt::Display| CliError::failed(format!("cannot make a bundle: {error}"));
        let partition = Partition {
            topic: TopicId(Uuid::from_u128(1)),
            index: 0,
        };
        let mut writer = BundleWriter::new(BundleLimits::default());
        let size = usize::try_from(self.size).unwrap_or(usize::MAX);
        let mut written_bytes = 0;
        let mut base = 0;
        while written_bytes < self.data {
            let mut builder = BatchBuilder::new(compression).stored_at(Offset(base), LeaderEpoch(0));
            for number in base..base + u64::from(self.batch_records) {
                let value = text(number, size);
                let key = number.to_be_bytes();
                let timestamp = TimestampMs(number.cast_signed());
                builder
                    .push(timestamp, Some(&key), Some(&value), &[])
                    .map_err(|error| failed(&error))?;
                written_bytes += value.len() as u64;
            }
            base += u64::from(self.batch_records);
            let batch = builder.build().map_err(|error| failed(&error))?;
            writer.push(partition, &[batch]).map_err(|error| failed(&error))?;
        }
        let bundle = writer.finish().ok_or_else(|| failed(&"it is empty"))?;
        let whole: Bytes = bundle.parts.concat().into();
        let footer = usize::try_from(bundle.footer_at).unwrap_or(usize::MAX);
        let footer =
            Footer::decode(&whole[footer..], bundle.footer_place()).map_err(|error| failed(&error))?;
        let frames = footer
            .frames()
            .iter()
            .map(|frame| {
                let range = frame.range();
                (*frame, whole.slice(range.start as usize..range.end as usize))
            })
            .collect();
        Ok(Packed {
            frames,
            stored_bytes: bundle.footer_at,
        })
    }
}

/// Turns every frame into rows; returns bytes of records without compression, and records.
fn decode(packed: &Packed, rows: &mut RowBuilder) -> Result<(u64, u64), CliError> {
    let everything = Offset(0)..Offset(u64::MAX);
    let (mut bytes, mut records) = (0, 0);
    let mut flush = |rows: &mut RowBuilder| records += rows.finish().num_rows() as u64;
    for (frame, stored) in &packed.frames {
        let row = unframe(frame, stored).map_err(|error: BundleError| CliError::check(error.to_string()))?;
        for batch in batches(&row) {
            let batch = batch.map_err(|error| CliError::check(error.to_string()))?;
            let more = rows
                .push(0, 0, &batch.bytes, &everything)
                .map_err(|error| CliError::check(error.to_string()))?;
            bytes += more as u64;
        }
        if rows.bytes() >= ROWS_BYTES {
            flush(rows);
        }
    }
    flush(rows);
    Ok((bytes, records))
}

fn json_of(measured: &Measured) -> Value {
    json!({
        "compression": measured.compression.name(),
        "bytes_per_second": measured.bytes_per_second(),
        "record_bytes": measured.record_bytes,
        "stored_bytes": measured.stored_bytes,
        "records": measured.records,
        "rounds": measured.rounds,
        "cpu_seconds": measured.time.as_secs_f64(),
    })
}
