//! `meridian replay`: history straight from the bucket, and its newest part from brokers.

use std::path::PathBuf;
use std::sync::Arc;

use clap::{Args, ValueEnum};
use meridian_client::Endpoint;
use meridian_tiered_storage::replay::{
    Bound, Catalog, Format, Plan, PlanError, ReplayError, Selection, Source, TailError,
};
use meridian_types::Offset;

use self::brokers::Brokers;
use crate::bucket::{BucketArgs, open_reader};
use crate::context::Context;
use crate::error::CliError;
use crate::parse::{parse_bytes, parse_time};

mod brokers;
mod driver;
mod files;
mod produce;

/// Export history from the bucket, and on to the present from brokers, or write it to a topic
#[derive(Debug, Args)]
#[command(after_help = "\
Files go to DIR/TOPIC/PARTITION/FIRST-OFFSET.FORMAT; their columns are described in docs/formats/replay.md. DIR also \
gets replay-state.json: the same command with --resume goes on after an interruption, without repeating a file.
The bucket alone ends some seconds before the present, and no broker is asked. With --brokers it goes on to the high
watermark that each partition has when the command begins.

Examples:
  meridian replay --bucket s3://history/prod --topic orders --out orders
  meridian replay --bucket s3://history/prod --topic orders --from 2026-01-01 --until 2026-02-01 --format arrow --out jan
  meridian replay --bucket s3://history/prod --topic orders --format jsonl --out - | jq .value
  meridian replay --bucket s3://history/prod --topic orders --brokers broker-1:9092 --out everything
  meridian replay --bucket s3://history/prod --topic orders --into orders-again --server other:9092")]
pub(crate) struct ReplayArgs {
    #[command(flatten)]
    bucket: BucketArgs,
    /// A topic; may be given several times; all of them if not given
    #[arg(long = "topic", short, value_name = "TOPIC")]
    topics: Vec<String>,
    /// Partitions to read, such as 0,2,5; all of them if not given
    #[arg(long = "partition", short, value_delimiter = ',', value_name = "N")]
    partitions: Vec<u32>,
    /// Where to begin: an offset, or a time such as 2026-11-21T09:30:00Z; the first record that is there if not given
    #[arg(long, value_name = "X", value_parser = parse_bound)]
    from: Option<Bound>,
    /// Where to end, in the same words; does not belong to what is read
    #[arg(long, value_name = "Y", value_parser = parse_bound)]
    until: Option<Bound>,
    /// Brokers of the bucket's cluster, for what is not in the bucket yet: HOST:PORT,HOST:PORT
    #[arg(long, value_name = "HOST:PORT")]
    brokers: Option<String>,
    /// Form of the output
    #[arg(long, value_enum, default_value_t = FormatArg::Parquet)]
    format: FormatArg,
    /// Directory of the output; - for standard output (arrow and jsonl only)
    #[arg(
        long,
        short,
        value_name = "DIR",
        required_unless_present = "into",
        conflicts_with = "into"
    )]
    out: Option<PathBuf>,
    /// Write the records to this topic of --server instead, with their keys, headers, timestamps and partitions
    #[arg(long, value_name = "TOPIC")]
    into: Option<String>,
    /// Let the key choose the partition of the topic that is written to
    #[arg(long, requires = "into")]
    repartition: bool,
    /// Compression of the batches that are written: none, gzip, snappy, lz4 or zstd
    #[arg(long, short = 'z', default_value = "lz4", value_parser = crate::parse::parse_compression, requires = "into")]
    compression: meridian_wire::batch::Compression,
    /// File that remembers how far --into has come, so that --resume goes on there
    #[arg(long, value_name = "FILE", requires = "into")]
    state: Option<PathBuf>,
    /// Go on with what was interrupted
    #[arg(long)]
    resume: bool,
    /// A file is finished at so many bytes of records without compression
    #[arg(long, default_value = "256MiB", value_parser = parse_bytes, value_name = "BYTES")]
    file_bytes: u64,
    /// Partitions that are worked on at the same time; one for each processor if not given
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=256))]
    parallel: Option<u16>,
    /// Memory for what is read
    #[arg(long, default_value = "256MiB", value_parser = parse_bytes, value_name = "BYTES")]
    memory: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum FormatArg {
    /// Parquet with zstd
    Parquet,
    /// Arrow IPC files; a stream on standard output
    Arrow,
    /// A JSON object per line
    Jsonl,
}

impl From<FormatArg> for Format {
    fn from(format: FormatArg) -> Self {
        match format {
            FormatArg::Parquet => Self::Parquet,
            FormatArg::Arrow => Self::Arrow,
            FormatArg::Jsonl => Self::JsonLines,
        }
    }
}

/// Least memory that a replay works with.
const MEMORY_BYTES_MIN: u64 = 8 << 20;

fn parse_bound(text: &str) -> Result<Bound, String> {
    if let Ok(offset) = text.parse() {
        return Ok(Bound::Offset(Offset(offset)));
    }
    parse_time(text.strip_prefix('@').unwrap_or(text))
        .map(Bound::Time)
        .map_err(|_| "expected an offset, or a time such as 2026-11-21T09:30:00Z".to_owned())
}

impl ReplayArgs {
    pub(crate) async fn run(self, context: &Context) -> Result<(), CliError> {
        if self.memory < MEMORY_BYTES_MIN {
            return Err(CliError::usage(format!(
                "--memory {} is too little: expected 8MiB or more",
                self.memory
            )));
        }
        let store = self.bucket.open()?;
        let catalog = self.bucket.catalog(&store).await?;
        warn_of_damaged(&catalog);
        let selection = Selection {
            topics: self.topics.clone(),
            partitions: self.partitions.clone(),
            from: self.from.unwrap_or_default(),
            until: self.until.unwrap_or_default(),
        };
        // Half of it for what is there, half for what is on its way.
        let memory_bytes = usize::try_from(self.memory / 2).unwrap_or(usize::MAX);
        let mut source = Source::from(open_reader(store, memory_bytes).await?);
        if let Some(servers) = &self.brokers {
            let servers = Endpoint::parse_list(servers)
                .map_err(|error| CliError::usage(format!("--brokers: {error}")))?;
            let cluster = context.connect_to(servers).await?;
            source.tail = Some(Arc::new(Brokers::new(cluster, context.timeout())));
        }
        let plan = Plan::new(&source, &catalog, &selection).await?;
        match (&self.into, &self.out) {
            (Some(topic), _) => self.produce(context, &source, &plan, topic).await,
            (None, Some(out)) if out.as_os_str() == "-" => self.stream(&source, &plan).await,
            (None, Some(out)) => self.files(context, &source, plan, out).await,
            (None, None) => Err(CliError::usage("neither --out nor --into is given")),
        }
    }

    fn parallel(&self) -> usize {
        self.parallel.map_or_else(
            || std::thread::available_parallelism().map_or(2, std::num::NonZero::get),
            usize::from,
        )
    }
}

/// Says what retention deleted before it was read.
fn warn_of_deleted(offsets: u64) {
    if offsets > 0 {
        eprintln!("warning: {offsets} offsets were deleted by retention before they could be read");
    }
}

fn warn_of_damaged(catalog: &Catalog) {
    for (key, reason) in catalog.damaged() {
        eprintln!("warning: {key} cannot be read, an older one is used: {reason}");
    }
}

impl From<PlanError> for CliError {
    fn from(error: PlanError) -> Self {
        match &error {
            PlanError::NoTopic { .. } => Self::failed(error.to_string())
                .advise("list the topics with `meridian tier list` or `topic list`"),
            PlanError::OtherCluster { .. } => {
                Self::usage(error.to_string()).advise("name brokers of the bucket's cluster by --brokers")
            }
            PlanError::Tail(source) => of_brokers(error.to_string(), source),
            PlanError::NoPartition { .. } | PlanError::OtherRegion { .. } => Self::usage(error.to_string()),
            PlanError::TopicName { .. } => Self::check(error.to_string()),
            PlanError::Read { source, .. } => of_read(error.to_string(), source.is_retriable()),
        }
    }
}

impl From<ReplayError> for CliError {
    fn from(error: ReplayError) -> Self {
        match error {
            ReplayError::Output(error) => error.into(),
            ReplayError::Read { ref source, .. } => of_read(error.to_string(), source.is_retriable()),
            ReplayError::Tail { ref source, .. } => of_brokers(error.to_string(), source),
            ReplayError::Records { .. } => Self::check(error.to_string()),
            other => Self::failed(other.to_string()).advise("go on with --resume once the cause is gone"),
        }
    }
}

/// What cannot be read is away, or damaged.
fn of_read(message: String, is_retriable: bool) -> CliError {
    if is_retriable {
        CliError::failed(message).advise("go on with --resume once the bucket can be read again")
    } else {
        CliError::check(message).advise("`meridian tier verify` says what else is damaged")
    }
}

fn of_brokers(message: String, error: &TailError) -> CliError {
    let result = CliError::failed(message);
    if error.is_retriable() {
        result.advise("go on with --resume once the brokers answer again")
    } else {
        result.advise("without --brokers, what is in the bucket is read")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use meridian_types::TimestampMs;

    #[test]
    fn bounds_are_offsets_or_times() {
        assert_eq!(parse_bound("17"), Ok(Bound::Offset(Offset(17))));
        assert_eq!(
            parse_bound("1970-01-02"),
            Ok(Bound::Time(TimestampMs(86_400_000)))
        );
        assert_eq!(parse_bound("@17"), Ok(Bound::Time(TimestampMs(17))));
        assert!(parse_bound("-5").is_err() && parse_bound("latest").is_err());
    }
}
