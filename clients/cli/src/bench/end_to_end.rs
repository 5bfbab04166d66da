//! `meridian bench end-to-end`: how long it takes from the time a record is due to the time a consumer has it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use meridian_client::driver::now_ms;
use meridian_client::{Cluster, Consumer, ConsumerSettings, NewRecord, Producer, ProducerSettings, StartAt};
use serde_json::json;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout_at};

use super::content::{Content, Mark, Verdict, Verifier};
use super::driver::{cpu_time, now};
use super::report::{Measured, Totals};
use super::target::{RecordArgs, TargetArgs};
use super::verify;
use crate::context::Context;
use crate::error::CliError;
use crate::parse::parse_duration;

/// How long the last records may take to come.
const TAIL_MAX: Duration = Duration::from_secs(30);

#[derive(Clone, Debug, Args)]
pub(crate) struct EndToEndArgs {
    #[command(flatten)]
    target: TargetArgs,
    #[command(flatten)]
    records: RecordArgs,
    /// Records per second
    #[arg(long, default_value_t = 1000.0, value_name = "N")]
    rate: f64,
    /// How long to measure
    #[arg(long, default_value = "10s", value_parser = parse_duration, value_name = "TIME")]
    duration: Duration,
    /// How long to run before measuring begins
    #[arg(long, default_value = "1s", value_parser = parse_duration, value_name = "TIME")]
    warmup: Duration,
    /// How long a batch that is not full waits
    #[arg(long, default_value = "0ms", value_parser = parse_duration, value_name = "TIME")]
    linger: Duration,
}

/// When each record is due: the same arithmetic for the producer and the consumer, so no time need travel.
#[derive(Clone, Copy, Debug)]
struct Schedule {
    start: Instant,
    measured_from: Instant,
    end: Instant,
    interval: Duration,
}

impl Schedule {
    fn due(&self, sequence: u64) -> Instant {
        self.start + self.interval.mul_f64(sequence as f64)
    }
}

impl EndToEndArgs {
    pub(crate) async fn run(self, context: &Context) -> Result<(), CliError> {
        self.records.check()?;
        if !self.rate.is_finite() || self.rate <= 0.0 {
            return Err(CliError::usage(
                "--rate must be a number of records per second above 0",
            ));
        }
        let cluster = self.target.prepare(context).await?;
        let before = verify::ends(&cluster, &self.target.topic, self.target.partitions).await?;
        let reading = Cluster::connect(context.cluster_settings()).await?;
        let consumer = Consumer::start(&reading, ConsumerSettings::default());
        let assignment: Vec<_> = before
            .iter()
            .map(|(index, end)| (self.target.topic.clone(), *index, StartAt::Offset(*end)))
            .collect();
        consumer.assign(&assignment).await?;
        let bytes = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX);
        let settings = ProducerSettings {
            acks: self.records.acks,
            is_idempotent: self.records.acks == meridian_client::Acks::All,
            compression: self.records.compression,
            linger: self.linger,
            batch_bytes: bytes(self.records.batch_bytes),
            request_bytes_max: bytes(self.records.size + 1024).max(1 << 20),
            ..ProducerSettings::default()
        };
        let producer = Producer::start(&cluster, settings)
            .await
            .map_err(|error| CliError::failed(error.to_string()))?;
        let run = now_ms().0.cast_unsigned();
        let content = Content::new(self.records.value_bytes());
        let start = now();
        let measured_from = start + self.warmup;
        let schedule = Schedule {
            start,
            measured_from,
            end: measured_from + self.duration,
            interval: Duration::from_secs_f64(1.0 / self.rate),
        };
        let cpu_before = tokio::spawn(async move {
            sleep_until(measured_from).await;
            cpu_time()
        });
        let progress = context.output.progress(None, "records");
        let (sent, sent_watch) = watch::channel(None);
        let read = tokio::spawn(read(
            consumer,
            schedule,
            run,
            self.records.value_bytes(),
            sent_watch,
            progress.clone(),
        ));
        let args = Arc::new(self);
        let count = produce(&producer, &args, &content, schedule, run).await?;
        // A receiver that is gone has failed, and says so below.
        let _ = sent.send(Some(count));
        let (totals, verifier) = read
            .await
            .map_err(|error| CliError::failed(format!("the consumer ended badly: {error}")))??;
        progress.finish_and_clear();
        let measured = Measured {
            totals,
            elapsed: args.duration,
            cpu: cpu_time().saturating_sub(cpu_before.await.unwrap_or_default()),
        };
        let lost = verifier.missing(0, count);
        let Verdict {
            duplicates,
            reordered,
            corrupt,
            ..
        } = verifier.verdict();
        let mut fields = measured.json();
        let about = json!({
            "server": context.server().to_string(),
            "topic": args.target.topic,
            "partitions": args.target.partitions,
            "record_bytes": args.records.size,
            "rate": args.rate,
            "verified": BTreeMap::from([
                ("acknowledged", count), ("lost", lost), ("duplicates", duplicates),
                ("reordered", reordered), ("corrupt", corrupt),
            ]),
        });
        if let (Some(fields), Some(about)) = (fields.as_object_mut(), about.as_object()) {
            fields.extend(about.clone());
        }
        let verdict =
            format!("{lost} lost, {duplicates} duplicates, {reordered} reordered, {corrupt} corrupt");
        context.output.document("bench.end-to-end", fields, || {
            format!("{}\n{verdict}", measured.text())
        })?;
        if lost + duplicates + reordered + corrupt > 0 {
            return Err(CliError::check(format!(
                "not every record came once, whole and in order: {verdict}"
            )));
        }
        Ok(())
    }
}

/// Sends every record when it is due; gives how many were acknowledged.
async fn produce(
    producer: &Producer,
    args: &EndToEndArgs,
    content: &Content,
    schedule: Schedule,
    run: u64,
) -> Result<u64, CliError> {
    let mut value = Vec::new();
    let mut deliveries = std::collections::VecDeque::new();
    let failed = |error: meridian_client::ProduceError| CliError::failed(error.to_string());
    let mut sequence = 0;
    loop {
        let due = schedule.due(sequence);
        if due >= schedule.end {
            break;
        }
        sleep_until(due).await;
        let mark = Mark {
            run,
            producer: 0,
            sequence,
        };
        content.write(&mut value, mark);
        let partition = Some((sequence % u64::from(args.target.partitions)) as u32);
        let record = NewRecord {
            partition,
            ..NewRecord::new(&args.target.topic, &value)
        };
        let delivery = producer
            .send(&record)
            .await
            .map_err(|error| CliError::failed(error.to_string()))?;
        deliveries.push_back(delivery);
        sequence += 1;
        if deliveries.len() > 100_000 {
            deliveries
                .pop_front()
                .expect("there are many")
                .wait()
                .await
                .map_err(failed)?;
        }
    }
    producer.flush().await;
    for delivery in deliveries {
        delivery.wait().await.map_err(failed)?;
    }
    Ok(sequence)
}

/// Reads until everything that was sent has come, or nothing comes any more.
async fn read(
    mut consumer: Consumer,
    schedule: Schedule,
    run: u64,
    value_bytes: usize,
    mut sent: watch::Receiver<Option<u64>>,
    progress: indicatif::ProgressBar,
) -> Result<(Totals, Verifier), CliError> {
    let mut totals = Totals::default();
    let mut verifier = Verifier::new(Some(run));
    let limit = schedule.end + TAIL_MAX;
    loop {
        let count = *sent.borrow();
        if count.is_some_and(|count| verifier.missing(0, count) == 0) {
            break;
        }
        let fetched = tokio::select! {
            fetched = timeout_at(limit, consumer.next()) => match fetched {
                Ok(fetched) => fetched?,
                Err(_) => break,
            },
            changed = sent.changed(), if count.is_none() => {
                if changed.is_err() {
                    break;
                }
                continue;
            }
        };
        let arrived = now();
        totals.requests += 1;
        for record in fetched.records() {
            let record = record?;
            let value = record.value.as_deref().unwrap_or_default();
            let Some(mark) = verifier.take(fetched.partition(), value) else {
                continue;
            };
            let due = schedule.due(mark.sequence);
            if due >= schedule.measured_from {
                totals.records += 1;
                totals.value_bytes += value_bytes as u64;
                totals.latencies.record(arrived.saturating_duration_since(due), 1);
            }
            progress.inc(1);
        }
    }
    Ok((totals, verifier))
}
