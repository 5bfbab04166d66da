//! `meridian bench consume`.

use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use meridian_client::{Cluster, Consumer, ConsumerSettings, StartAt};
use serde_json::json;
use tokio::time::{Instant, sleep_until, timeout_at};

use super::content::Verifier;
use super::driver::{cpu_time, now};
use super::report::{Measured, Totals};
use super::verify;
use crate::context::Context;
use crate::error::CliError;
use crate::parse::{parse_bytes, parse_duration};

#[derive(Clone, Debug, Args)]
pub(crate) struct ConsumeArgs {
    /// The topic
    #[arg(long, default_value = "meridian-bench")]
    topic: String,
    /// How many consumers, each with its own connections; each reads everything
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    consumers: u32,
    /// How many partitions to read; all of them if not given
    #[arg(long)]
    partitions: Option<u32>,
    /// How long to measure at most; the end of the logs ends it earlier
    #[arg(long, default_value = "10s", value_parser = parse_duration, value_name = "TIME")]
    duration: Duration,
    /// How long to run before measuring begins
    #[arg(long, default_value = "0s", value_parser = parse_duration, value_name = "TIME")]
    warmup: Duration,
    /// At the end begin at the start again, until the time is up
    #[arg(long)]
    again: bool,
    /// Most bytes of one answer
    #[arg(long, default_value = "50MiB", value_parser = parse_bytes, value_name = "BYTES")]
    fetch_bytes: u64,
    /// Most bytes of one partition in an answer
    #[arg(long, default_value = "1MiB", value_parser = parse_bytes, value_name = "BYTES")]
    partition_bytes: u64,
    /// Open every record and check that each is whole, comes once and in order
    #[arg(long, conflicts_with = "again")]
    verify: bool,
}

impl ConsumeArgs {
    pub(crate) async fn run(self, context: &Context) -> Result<(), CliError> {
        let settings = context.cluster_settings();
        let cluster = Cluster::connect(settings.clone()).await?;
        let there = cluster.topic(&self.topic).await?.partitions.len();
        let partitions = self
            .partitions
            .unwrap_or(u32::try_from(there).unwrap_or(u32::MAX));
        if partitions as usize > there {
            return Err(CliError::usage(format!(
                "topic '{}' has {there} partitions, and {partitions} are to be read",
                self.topic
            )));
        }
        let ends = verify::ends(&cluster, &self.topic, partitions).await?;
        let progress = context.output.progress(None, "records");
        let start = now();
        let measured_from = start + self.warmup;
        let end = measured_from + self.duration;
        let cpu_before = tokio::spawn(async move {
            sleep_until(measured_from).await;
            cpu_time()
        });
        let shared = Arc::new(self.clone());
        let mut tasks = Vec::new();
        for _ in 0..self.consumers {
            let cluster = Cluster::connect(settings.clone()).await?;
            let reading = read(
                Arc::clone(&shared),
                cluster,
                ends.clone(),
                measured_from,
                end,
                progress.clone(),
            );
            tasks.push(tokio::spawn(reading));
        }
        let mut totals = Totals::default();
        let mut verdict = super::content::Verdict::default();
        let mut missing = 0;
        for task in tasks {
            let (of_one, verifier) = task.await.map_err(|error| {
                CliError::failed(format!("a consumer of the benchmark ended badly: {error}"))
            })??;
            totals.merge(of_one);
            if let Some(verifier) = verifier {
                let found = verifier.verdict();
                verdict.records += found.records;
                verdict.corrupt += found.corrupt;
                verdict.foreign += found.foreign;
                verdict.duplicates += found.duplicates;
                verdict.reordered += found.reordered;
                missing += verifier.gaps();
            }
        }
        let measured = Measured {
            totals,
            elapsed: now().min(end).saturating_duration_since(measured_from),
            cpu: cpu_time().saturating_sub(cpu_before.await.unwrap_or_default()),
        };
        progress.finish_and_clear();
        let mut fields = measured.json();
        let about = json!({
            "server": context.server().to_string(),
            "topic": self.topic,
            "consumers": self.consumers,
            "partitions": partitions,
            "verified": self.verify.then(|| json!({
                "read": verdict.records,
                "gaps": missing,
                "duplicates": verdict.duplicates,
                "reordered": verdict.reordered,
                "corrupt": verdict.corrupt,
                "foreign": verdict.foreign,
            })),
        });
        if let (Some(fields), Some(about)) = (fields.as_object_mut(), about.as_object()) {
            fields.extend(about.clone());
        }
        context.output.document("bench.consume", fields, || {
            let mut text = measured.text();
            if self.verify {
                text = format!(
                    "{text}\nverified {}: {missing} missing, {} duplicates, {} reordered, {} corrupt, {} of other runs",
                    verdict.records, verdict.duplicates, verdict.reordered, verdict.corrupt, verdict.foreign
                );
            }
            text
        })?;
        if missing + verdict.duplicates + verdict.reordered + verdict.corrupt > 0 {
            return Err(CliError::check(
                "the topic does not hold each record once, whole and in order",
            ));
        }
        Ok(())
    }
}

/// One consumer, from the logs' starts to their ends as they were, or until the time is up.
async fn read(
    args: Arc<ConsumeArgs>,
    cluster: Cluster,
    ends: std::collections::BTreeMap<u32, meridian_types::Offset>,
    measured_from: Instant,
    end: Instant,
    progress: indicatif::ProgressBar,
) -> Result<(Totals, Option<Verifier>), CliError> {
    let int = |bytes: u64| u32::try_from(bytes).unwrap_or(u32::MAX);
    let settings = ConsumerSettings {
        bytes_max: int(args.fetch_bytes),
        partition_bytes_max: int(args.partition_bytes),
        ..ConsumerSettings::default()
    };
    let settings = match args.again {
        // Nothing more comes at the ends: a fetch that waits there holds up the beginning of the next pass.
        true => ConsumerSettings {
            wait_max: Duration::ZERO,
            ..settings
        },
        false => settings,
    };
    let mut totals = Totals::default();
    let mut verifier = args.verify.then(|| Verifier::new(None));
    let mut consumer = Consumer::start(&cluster, settings);
    let assignment = |indexes: &mut dyn Iterator<Item = &u32>| -> Vec<_> {
        indexes
            .map(|index| (args.topic.clone(), *index, StartAt::Earliest))
            .collect()
    };
    let mut left: std::collections::BTreeMap<_, _> = ends
        .iter()
        .filter(|(_, end)| end.0 > 0)
        .map(|(index, end)| (*index, *end))
        .collect();
    consumer.assign(&assignment(&mut left.keys())).await?;
    while !left.is_empty() {
        let Ok(fetched) = timeout_at(end, consumer.next()).await else {
            break;
        };
        let fetched = fetched?;
        let mut records = 0_u64;
        let mut value_bytes = 0_u64;
        if let Some(verifier) = &mut verifier {
            for record in fetched.records() {
                let record = record?;
                let value = record.value.as_deref().unwrap_or_default();
                verifier.take(fetched.partition(), value);
                records += 1;
                value_bytes += value.len() as u64;
            }
        } else {
            // Headers tell how many records there are; opening them would measure this process.
            for batch in fetched.batches() {
                let batch = batch.map_err(|error| CliError::failed(error.to_string()))?;
                records += u64::from(batch.header.record_count);
            }
            value_bytes = fetched.bytes() as u64;
        }
        if now() >= measured_from {
            totals.records += records;
            totals.value_bytes += value_bytes;
            totals.batch_bytes += fetched.bytes() as u64;
            totals.requests += 1;
        }
        progress.inc(records);
        let index = fetched.partition();
        if left.get(&index).is_some_and(|end| *end <= fetched.next_offset()) {
            if args.again {
                consumer.assign(&assignment(&mut std::iter::once(&index))).await?;
            } else {
                left.remove(&index);
            }
        }
    }
    Ok((totals, verifier))
}
