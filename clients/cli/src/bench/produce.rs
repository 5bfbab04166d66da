//! `meridian bench produce`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use indicatif::ProgressBar;
use meridian_client::driver::now_ms;
use meridian_client::{Acks, Cluster, NewRecord, Producer, ProducerSettings};
use meridian_wire::batch::Compression;
use serde_json::json;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use super::content::{Content, Mark};
use super::driver::{cpu_time, now};
use super::prepare::{BatchPlan, prepare_batch};
use super::prepared;
use super::report::{Measured, Totals};
use super::target::{RecordArgs, TargetArgs};
use super::verify;
use crate::context::Context;
use crate::error::CliError;
use crate::parse::parse_duration;

/// Bytes of different batches of a prepared load.
const PREPARED_BYTES: u64 = 16 << 20;

#[derive(Clone, Debug, Args)]
pub(crate) struct ProduceArgs {
    #[command(flatten)]
    target: TargetArgs,
    #[command(flatten)]
    records: RecordArgs,
    /// How many producers, each with its own connections
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    producers: u32,
    /// How long to measure
    #[arg(long, default_value = "10s", value_parser = parse_duration, value_name = "TIME")]
    duration: Duration,
    /// How long to run before measuring begins
    #[arg(long, default_value = "1s", value_parser = parse_duration, value_name = "TIME")]
    warmup: Duration,
    /// Records per second of all producers together; as many as go through if not given
    #[arg(long, value_name = "N")]
    rate: Option<f64>,
    /// Requests on their way, per producer and broker
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    in_flight: u32,
    /// How long a batch that is not full waits
    #[arg(long, default_value = "5ms", value_parser = parse_duration, value_name = "TIME")]
    linger: Duration,
    /// Send batches that were built beforehand: the least this process can cost
    #[arg(long)]
    prepared: bool,
    /// Batches for different partitions in one prepared request
    #[arg(long, default_value_t = 1, requires = "prepared", value_parser = clap::value_parser!(u32).range(1..))]
    batches_per_request: u32,
    /// Do not let the server recognise repeated batches
    #[arg(long)]
    no_idempotence: bool,
    /// Read everything back and check that each acknowledged record is there once, whole and in order
    #[arg(long, conflicts_with = "prepared")]
    verify: bool,
}

/// A run, laid out.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) topic: String,
    pub(super) partitions: u32,
    pub(super) producers: u32,
    pub(super) rate: Option<f64>,
    pub(super) in_flight: usize,
    pub(super) batches_per_request: usize,
    pub(super) acks: Acks,
    pub(super) value_bytes: usize,
    pub(super) batch_bytes: usize,
    pub(super) compression: Compression,
    pub(super) linger: Duration,
    pub(super) is_idempotent: bool,
    pub(super) run: u64,
    pub(super) start: Instant,
    pub(super) measured_from: Instant,
    pub(super) end: Instant,
    pub(super) progress: ProgressBar,
}

impl ProduceArgs {
    /// Whether it sends what was built beforehand.
    pub(crate) fn is_prepared(&self) -> bool {
        self.prepared
    }

    pub(crate) async fn run(self, context: &Context) -> Result<(), CliError> {
        self.records.check()?;
        if self.rate.is_some_and(|rate| !rate.is_finite() || rate <= 0.0) {
            return Err(CliError::usage(
                "--rate must be a number of records per second above 0",
            ));
        }
        let cluster = self.target.prepare(context).await?;
        let run = now_ms().0.cast_unsigned();
        let before = if self.verify {
            Some(verify::ends(&cluster, &self.target.topic, self.target.partitions).await?)
        } else {
            None
        };
        let content = Arc::new(Content::new(self.records.value_bytes()));
        let batches = self.prepare_batches(run, &content)?;
        let progress = context.output.progress(None, "records");
        let plan = Arc::new(self.plan(run, now(), progress.clone()));
        let cpu = Arc::clone(&plan);
        // Processor time counts from the end of the warm-up too.
        let cpu_before = tokio::spawn(async move {
            sleep_until(cpu.measured_from).await;
            cpu_time()
        });
        let (totals, acknowledged) = if self.prepared {
            (prepared::run(&cluster, &plan, &batches).await?, BTreeMap::new())
        } else {
            run_producers(context, &plan, &content).await?
        };
        let finished = now();
        let elapsed = finished
            .min(plan.end)
            .saturating_duration_since(plan.measured_from);
        let measured = Measured {
            totals,
            elapsed,
            cpu: cpu_time().saturating_sub(cpu_before.await.unwrap_or_default()),
        };
        progress.finish_and_clear();
        let verdict = match before {
            Some(before) => Some(verify::read_back(&cluster, &plan, &before, &acknowledged, context).await?),
            None => None,
        };
        let mut fields = measured.json();
        let about = json!({
            "server": context.server().to_string(),
            "topic": plan.topic,
            "is_prepared": self.prepared,
            "producers": plan.producers,
            "partitions": plan.partitions,
            "record_bytes": plan.value_bytes,
            "max_batch_bytes": plan.batch_bytes,
            "compression": plan.compression.name(),
            "acks": plan.acks.code(),
            "in_flight": plan.in_flight,
            "rate": plan.rate,
            "run": plan.run,
            "verified": verdict.as_ref().map(verify::ReadBack::json),
        });
        if let (Some(fields), Some(about)) = (fields.as_object_mut(), about.as_object()) {
            fields.extend(about.clone());
        }
        context.output.document("bench.produce", fields, || {
            let mut text = measured.text();
            if let Some(verdict) = &verdict {
                text = format!("{text}\n{}", verdict.text());
            }
            text
        })?;
        if let Some(verdict) = &verdict {
            verdict.check()?;
        }
        match measured.totals.failed_records {
            0 => Ok(()),
            failed => Err(CliError::failed(format!(
                "{failed} records were not acknowledged; the first: {}",
                measured
                    .totals
                    .first_failure
                    .as_deref()
                    .unwrap_or("no reason given")
            ))),
        }
    }

    fn plan(&self, run: u64, start: Instant, progress: ProgressBar) -> Plan {
        let measured_from = start + self.warmup;
        Plan {
            topic: self.target.topic.clone(),
            partitions: self.target.partitions,
            producers: self.producers,
            rate: self.rate,
            in_flight: self.in_flight as usize,
            batches_per_request: self.batches_per_request as usize,
            acks: self.records.acks,
            value_bytes: self.records.value_bytes(),
            batch_bytes: usize::try_from(self.records.batch_bytes).unwrap_or(usize::MAX),
            compression: self.records.compression,
            linger: self.linger,
            is_idempotent: !self.no_idempotence && self.records.acks == Acks::All && self.in_flight <= 5,
            run,
            start,
            measured_from,
            end: measured_from + self.duration,
            progress,
        }
    }

    fn prepare_batches(
        &self,
        run: u64,
        content: &Content,
    ) -> Result<Vec<super::prepare::PreparedBatch>, CliError> {
        if !self.prepared {
            return Ok(Vec::new());
        }
        let plan = BatchPlan {
            batch_bytes: usize::try_from(self.records.batch_bytes).unwrap_or(usize::MAX),
            compression: self.records.compression,
            run,
            now: now_ms(),
        };
        let count = (PREPARED_BYTES / self.records.batch_bytes.max(1)).clamp(8, 128);
        (0..u32::try_from(count).unwrap_or(8))
            .map(|number| {
                prepare_batch(&plan, content, number)
                    .map_err(|error| CliError::failed(format!("cannot build a batch: {error}")))
            })
            .collect()
    }
}

/// Runs producers of the client library. Gives how many records of each producer were acknowledged: all of its
/// first ones, or an error stands in the totals.
async fn run_producers(
    context: &Context,
    plan: &Arc<Plan>,
    content: &Arc<Content>,
) -> Result<(Totals, BTreeMap<u32, u64>), CliError> {
    let mut tasks = Vec::new();
    for number in 0..plan.producers {
        // Connections of its own, as separate clients have them.
        let cluster = Cluster::connect(context.cluster_settings()).await?;
        let settings = ProducerSettings {
            acks: plan.acks,
            is_idempotent: plan.is_idempotent,
            compression: plan.compression,
            batch_bytes: plan.batch_bytes,
            linger: plan.linger,
            in_flight_max: plan.in_flight,
            request_bytes_max: plan.batch_bytes.max(plan.value_bytes + 1024).max(1 << 20),
            buffer_bytes: (32 << 20).max(4 * plan.batch_bytes.max(plan.value_bytes + 1024)),
            ..ProducerSettings::default()
        };
        let producer = Producer::start(&cluster, settings)
            .await
            .map_err(|error| CliError::failed(error.to_string()))?;
        tasks.push(tokio::spawn(produce(
            producer,
            Arc::clone(plan),
            Arc::clone(content),
            number,
        )));
    }
    let mut totals = Totals::default();
    let mut sent = BTreeMap::new();
    for (number, task) in (0..).zip(tasks) {
        let (of_one, count) = task.await.map_err(|error| {
            CliError::failed(format!("a producer of the benchmark ended badly: {error}"))
        })??;
        totals.merge(of_one);
        sent.insert(number, count);
    }
    Ok((totals, sent))
}

/// One producer: sends at its times, while another task waits for the acknowledgements.
async fn produce(
    producer: Producer,
    plan: Arc<Plan>,
    content: Arc<Content>,
    number: u32,
) -> Result<(Totals, u64), CliError> {
    let (deliveries, mut delivered) = mpsc::channel::<(Instant, meridian_client::Delivery)>(65_536);
    let counted = Arc::clone(&plan);
    let counting = tokio::spawn(async move {
        let mut totals = Totals::default();
        while let Some((since, delivery)) = delivered.recv().await {
            match delivery.wait().await {
                Ok(_) if since >= counted.measured_from => {
                    totals.records += 1;
                    totals.value_bytes += counted.value_bytes as u64;
                    totals.latencies.record(now().saturating_duration_since(since), 1);
                    if totals.records.is_multiple_of(1024) {
                        counted.progress.inc(1024);
                    }
                }
                Ok(_) => {}
                Err(error) => {
                    totals.failed_records += 1;
                    totals.first_failure.get_or_insert_with(|| error.to_string());
                }
            }
        }
        totals
    });
    let interval = plan
        .rate
        .map(|rate| Duration::from_secs_f64(f64::from(plan.producers) / rate));
    let mut value = Vec::new();
    let mut sequence = 0;
    loop {
        let due = interval.map(|interval| plan.start + interval.mul_f64(sequence as f64));
        if let Some(due) = due {
            if due >= plan.end {
                break;
            }
            // Sleeping for every record would cost more than sending it: sleep when ahead by a tick.
            if due > now() {
                sleep_until(due).await;
            }
        }
        let sent_at = now();
        if sent_at >= plan.end {
            break;
        }
        let mark = Mark {
            run: plan.run,
            producer: number,
            sequence,
        };
        content.write(&mut value, mark);
        let record = NewRecord {
            partition: None,
            ..NewRecord::new(&plan.topic, &value)
        };
        let delivery = producer
            .send(&record)
            .await
            .map_err(|error| CliError::failed(error.to_string()))?;
        sequence += 1;
        if deliveries.send((due.unwrap_or(sent_at), delivery)).await.is_err() {
            break;
        }
    }
    drop(deliveries);
    producer.flush().await;
    let totals = counting
        .await
        .map_err(|error| CliError::failed(format!("counting ended badly: {error}")))?;
    Ok((totals, sequence))
}
