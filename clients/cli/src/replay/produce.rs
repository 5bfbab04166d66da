//! `meridian replay --into`: writes history to a topic of any Kafka cluster.

use std::ops::Range;
use std::path::Path;
use std::time::Duration;

use futures::stream::{FuturesUnordered, StreamExt};
use meridian_client::{Delivery, NewRecord, Producer, ProducerSettings};
use meridian_tiered_storage::replay::{
    DECOMPRESSED_BYTES_MAX, PartitionPlan, PartitionReader, Plan, ReplayError, ReplayState, Rest, Source,
};
use meridian_types::Offset;
use meridian_wire::batch::{BatchHeader, Record, records};
use parking_lot::Mutex;
use serde_json::json;
use tokio::time::Instant;

use super::driver::now;
use super::{ReplayArgs, warn_of_deleted};
use crate::context::Context;
use crate::error::CliError;
use crate::output::{bytes_text, count};

/// How much of a partition is read at once.
const CHUNK_BYTES: usize = 1 << 20;

/// How often the state is saved.
const SAVE_INTERVAL: Duration = Duration::from_secs(1);

/// What the partitions share.
struct Job<'a> {
    args: &'a ReplayArgs,
    producer: Producer,
    topic: &'a str,
    source: &'a Source,
    path: Option<&'a Path>,
    standing: Mutex<Standing>,
    bar: indicatif::ProgressBar,
}

struct Standing {
    state: ReplayState,
    saved_at: Instant,
    records: u64,
    bytes: u64,
    offsets: u64,
    deleted_offsets: u64,
}

/// A chunk on its way.
struct Sent {
    offsets: Range<Offset>,
    bytes: u64,
    deliveries: Vec<Delivery>,
}

impl ReplayArgs {
    pub(super) async fn produce(
        &self,
        context: &Context,
        source: &Source,
        plan: &Plan,
        topic: &str,
    ) -> Result<(), CliError> {
        let output = format!("topic {topic}");
        let (state, rest) = self.producing_state(plan, &output)?;
        let plan = rest.plan;
        let cluster = context.connect().await?;
        let partitions = cluster.topic(topic).await?.partitions.len();
        if let Some(wrong) = plan
            .partitions
            .iter()
            .find(|it| !self.repartition && it.partition.index as usize >= partitions)
        {
            return Err(CliError::failed(format!(
                "topic '{topic}' has {partitions} partitions, and records of partition {} are to be written",
                wrong.partition.index
            ))
            .advise(
                "add partitions with `meridian topic alter`, or let the keys choose with --repartition",
            ));
        }
        let settings = ProducerSettings {
            compression: self.compression,
            batch_bytes: 256 << 10,
            linger: Duration::from_millis(20),
            request_bytes_max: 16 << 20,
            delivery_timeout: context.timeout().max(Duration::from_secs(60)),
            ..ProducerSettings::default()
        };
        let producer = Producer::start(&cluster, settings)
            .await
            .map_err(|error| CliError::failed(error.to_string()))?;
        let job = Job {
            args: self,
            producer,
            topic,
            source,
            path: self.state.as_deref(),
            standing: Mutex::new(Standing {
                state,
                saved_at: now(),
                records: 0,
                bytes: 0,
                offsets: 0,
                deleted_offsets: rest.deleted_offsets,
            }),
            bar: context.output.progress(Some(plan.offsets()), "offsets"),
        };
        let result = job.run(&plan).await;
        job.bar.finish_and_clear();
        let standing = job.standing.into_inner();
        if let Some(path) = &self.state {
            standing.state.save(path)?;
        }
        result?;
        warn_of_deleted(standing.deleted_offsets);
        let fields = json!({
            "cluster": standing.state.cluster,
            "topic": topic,
            "is_done": standing.state.is_done(),
            "records_now": standing.records,
            "batch_bytes_now": standing.bytes,
            "deleted_offsets_now": standing.deleted_offsets,
        });
        context.output.document("replay", fields, || {
            format!(
                "{} written to topic '{topic}', {} of batches",
                count(standing.records as usize, "record"),
                bytes_text(standing.bytes)
            )
        })
    }

    fn producing_state(&self, plan: &Plan, output: &str) -> Result<(ReplayState, Rest), CliError> {
        let Some(path) = &self.state else {
            if self.resume {
                return Err(CliError::usage("--resume needs the file that --state names"));
            }
            return Ok((ReplayState::new(plan, output), plan.clone().into()));
        };
        let stored = ReplayState::load(path)
            .map_err(|error| CliError::failed(format!("{}: {error}", path.display())))?;
        match stored {
            None if self.resume => Err(CliError::failed(format!("{} is not there", path.display()))
                .advise("leave --resume out to begin")),
            None => Ok((ReplayState::new(plan, output), plan.clone().into())),
            Some(_) if !self.resume => Err(CliError::failed(format!("{} is there already", path.display()))
                .advise("go on with it by --resume, or name another file")),
            Some(state) if state.output != output => Err(CliError::usage(format!(
                "{} belongs to a replay into '{}'",
                path.display(),
                state.output
            ))),
            Some(mut state) => {
                let rest = state.rest_of(plan).map_err(|error| {
                    CliError::failed(format!("{} cannot be resumed: {error}", path.display()))
                })?;
                Ok((state, rest))
            }
        }
    }
}

impl Job<'_> {
    async fn run(&self, plan: &Plan) -> Result<(), CliError> {
        let mut waiting = plan.partitions.iter();
        let mut running = FuturesUnordered::new();
        loop {
            while running.len() < self.args.parallel() {
                let Some(partition) = waiting.next() else { break };
                running.push(self.partition(partition));
            }
            match running.next().await {
                None => return Ok(()),
                Some(done) => done?,
            }
        }
    }

    async fn partition(&self, plan: &PartitionPlan) -> Result<(), CliError> {
        let mut reader = PartitionReader::new(self.source.clone(), plan.clone(), CHUNK_BYTES);
        // What was sent, while the next is read and sent.
        let mut sent: Option<Sent> = None;
        while let Some(chunk) = reader.next().await? {
            let mut deliveries = Vec::new();
            for batch in &chunk.batches {
                let failed = |source| ReplayError::Records {
                    topic: plan.topic.to_string(),
                    partition: plan.partition.index,
                    offset: BatchHeader::parse(batch)
                        .map_or(chunk.offsets.start, |header| header.base_offset),
                    source,
                };
                let all = records(batch, DECOMPRESSED_BYTES_MAX).map_err(failed)?;
                if all.header().is_control {
                    continue;
                }
                for record in all {
                    let record = record.map_err(failed)?;
                    if chunk.offsets.contains(&record.offset) {
                        deliveries.push(self.send(plan, &record).await?);
                    }
                }
            }
            let now = Sent {
                offsets: chunk.offsets,
                bytes: chunk.bytes,
                deliveries,
            };
            if let Some(before) = sent.replace(now) {
                self.acknowledge(plan, before).await?;
            }
        }
        if let Some(last) = sent {
            self.acknowledge(plan, last).await?;
        }
        let mut standing = self.standing.lock();
        // Where compaction or retention left nothing at the end.
        standing.state.advance(plan, plan.offsets.end, None);
        standing.deleted_offsets += reader.deleted_offsets();
        Ok(())
    }

    async fn send(&self, plan: &PartitionPlan, record: &Record) -> Result<Delivery, CliError> {
        let headers: Vec<_> = record.headers.iter().collect();
        let headers: Vec<(&[u8], Option<&[u8]>)> = headers
            .iter()
            .map(|header| (&header.key[..], header.value.as_deref()))
            .collect();
        let new = NewRecord {
            topic: self.topic,
            partition: (!self.args.repartition).then_some(plan.partition.index),
            timestamp: Some(record.timestamp),
            key: record.key.as_deref(),
            value: record.value.as_deref(),
            headers: &headers,
        };
        self.producer.send(&new).await.map_err(|error| {
            CliError::failed(format!(
                "topic '{}', partition {}, offset {}: {error}",
                plan.topic, plan.partition.index, record.offset
            ))
        })
    }

    /// Waits until all of a chunk is written; from then on a resumed replay does not repeat it.
    async fn acknowledge(&self, plan: &PartitionPlan, sent: Sent) -> Result<(), CliError> {
        for delivery in &sent.deliveries {
            delivery.wait().await.map_err(|error| {
                CliError::failed(error.to_string()).advise("--resume goes on, if --state was given")
            })?;
        }
        let mut standing = self.standing.lock();
        standing.state.advance(plan, sent.offsets.end, None);
        standing.records += sent.deliveries.len() as u64;
        standing.bytes += sent.bytes;
        standing.offsets += sent.offsets.end.0 - sent.offsets.start.0;
        self.bar.set_position(standing.offsets);
        if let Some(path) = self.path
            && standing.saved_at.elapsed() >= SAVE_INTERVAL
        {
            standing.state.save(path)?;
            standing.saved_at = now();
        }
        Ok(())
    }
}
