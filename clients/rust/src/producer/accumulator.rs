//! Collects records into batches, for all partitions. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use meridian_types::TimestampMs;
use meridian_wire::batch::{BatchBuilder, Compression};
use tokio::time::Instant;

use super::delivery::{Delivery, Outcome};
use super::identity::Identity;
use super::partition_queue::{Answer, Batch, Limits, PartitionQueue, Verdict};
use super::partitioner::StickyPartitioner;
use super::{NewRecord, ProducerSettings, SendError};
use crate::metadata::TopicMetadata;

/// A partition, as the producer knows it.
pub(super) type Key = (Arc<str>, u32);

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Accumulator {
    limits: Limits,
    compression: Compression,
    compression_level: Option<i32>,
    identity: Option<Identity>,
    needs_identity: bool,
    topics: BTreeMap<Arc<str>, Topic>,
    /// Partitions with batches that wait, so that idle ones cost nothing.
    busy: BTreeSet<Key>,
    is_closed: bool,
    seed: u64,
}

#[derive(Debug)]
struct Topic {
    sticky: StickyPartitioner,
    partitions: BTreeMap<u32, PartitionQueue>,
}

impl Accumulator {
    pub(super) fn new(settings: &ProducerSettings, identity: Option<Identity>, seed: u64) -> Self {
        Self {
            limits: Limits {
                batch_bytes: settings.batch_bytes.min(settings.request_bytes_max),
                linger: settings.linger,
                in_flight_max: settings.in_flight_max.max(1),
                delivery_timeout: settings.delivery_timeout,
            },
            compression: settings.compression,
            compression_level: settings.compression_level,
            identity,
            needs_identity: false,
            topics: BTreeMap::new(),
            busy: BTreeSet::new(),
            is_closed: false,
            seed,
        }
    }

    /// The partition for a record without key.
    pub(super) fn sticky_partition(&mut self, topic: &TopicMetadata, size: usize) -> u32 {
        let batch_bytes = self.limits.batch_bytes;
        let of_topic = self.topic(&topic.name);
        of_topic
            .sticky
            .next(topic.partitions.len(), batch_bytes, size, |partition| {
                topic.partitions[partition as usize].leader.is_some()
            })
    }

    /// Takes a record in. `true`: the driver should look.
    pub(super) fn push(
        &mut self,
        now: Instant,
        timestamp: TimestampMs,
        partition: u32,
        record: &NewRecord<'_>,
        size: usize,
    ) -> Result<(Delivery, bool), SendError> {
        if self.is_closed {
            return Err(SendError::Closed);
        }
        let (limits, compression, level) = (self.limits, self.compression, self.compression_level);
        let new_builder = || {
            let builder = BatchBuilder::new(compression).with_capacity(limits.batch_bytes);
            match level {
                Some(level) => builder.with_level(level),
                None => builder,
            }
        };
        let queue = self.topic(record.topic).partitions.entry(partition).or_default();
        let was_idle = queue.is_idle();
        let (outcome, index, is_news) = queue.push(
            now,
            &limits,
            new_builder,
            timestamp,
            record.key,
            record.value,
            record.headers,
            size,
        )?;
        if was_idle {
            self.busy.insert((self.name(record.topic), partition));
        }
        Ok((Delivery::new(outcome, partition, index, timestamp), is_news))
    }

    /// Partitions whose oldest batch may be sent, and when the next one may that has to wait.
    pub(super) fn ready(&self, now: Instant) -> (Vec<Key>, Option<Instant>) {
        if self.needs_identity {
            return (Vec::new(), None);
        }
        let mut ready = Vec::new();
        let mut next: Option<Instant> = None;
        for key in &self.busy {
            let Some(queue) = self.queue(key) else {
                continue;
            };
            match queue.ready_at(&self.limits) {
                Some(at) if at <= now => ready.push(key.clone()),
                Some(at) => next = Some(next.map_or(at, |next| next.min(at))),
                None => {}
            }
        }
        (ready, next)
    }

    /// Takes the oldest batch of a partition for sending.
    pub(super) fn take(&mut self, key: &Key) -> Option<Batch> {
        let identity = self.identity;
        let batch = self.queue_mut(key)?.take(identity);
        self.note_idle(key);
        batch
    }

    /// Takes in what the server said; gives the batch back if that was the end of it.
    pub(super) fn answer(
        &mut self,
        key: &Key,
        batch: Batch,
        answer: Answer,
        retry_at: Instant,
    ) -> Option<Result<Batch, Batch>> {
        let queue = self.queue_mut(key)?;
        let (verdict, needs_identity) = queue.answer(batch, answer, retry_at);
        self.needs_identity |= needs_identity;
        match verdict {
            Verdict::Written(batch) => Some(Ok(batch)),
            Verdict::Failed(batch) => Some(Err(batch)),
            Verdict::Queued => {
                self.busy.insert(key.clone());
                None
            }
        }
    }

    /// Takes out what has waited too long; gives the time to look again.
    pub(super) fn expire(&mut self, now: Instant) -> (Vec<(Key, Batch)>, Option<Instant>) {
        let mut expired = Vec::new();
        let mut next: Option<Instant> = None;
        let limits = self.limits;
        for key in self.busy.clone() {
            let Some(queue) = self.queue_mut(&key) else {
                continue;
            };
            if queue.expires_at(&limits).is_some_and(|at| at <= now) {
                let (batches, needs_identity) = queue.expire(now, &limits);
                expired.extend(batches.into_iter().map(|batch| (key.clone(), batch)));
                self.needs_identity |= needs_identity;
            }
            if let Some(at) = self.queue(&key).and_then(|queue| queue.expires_at(&limits)) {
                next = Some(next.map_or(at, |next| next.min(at)));
            }
            self.note_idle(&key);
        }
        (expired, next)
    }

    /// Puts off a partition that has no leader.
    pub(super) fn block(&mut self, key: &Key, until: Instant) {
        if let Some(queue) = self.queue_mut(key) {
            queue.block(until);
        }
    }

    /// Seals every batch; gives those that are not answered.
    pub(super) fn flush(&mut self) -> Vec<Arc<Outcome>> {
        self.topics
            .values_mut()
            .flat_map(|topic| topic.partitions.values_mut())
            .flat_map(PartitionQueue::flush)
            .collect()
    }

    /// Takes no more records; what is there is sent without waiting.
    pub(super) fn close(&mut self) {
        self.is_closed = true;
        drop(self.flush());
    }

    /// Whether it is closed and all is answered.
    pub(super) fn is_done(&self) -> bool {
        let mut queues = self.topics.values().flat_map(|topic| topic.partitions.values());
        self.is_closed && queues.all(PartitionQueue::is_empty)
    }

    /// Whether nothing can be sent before a new identity is there.
    pub(super) fn needs_identity(&self) -> bool {
        self.needs_identity
    }

    /// Goes on under a new identity.
    pub(super) fn set_identity(&mut self, identity: Identity) {
        self.identity = Some(identity);
        self.needs_identity = false;
    }

    fn topic(&mut self, name: &str) -> &mut Topic {
        if !self.topics.contains_key(name) {
            self.seed = crate::backoff::split_mix(self.seed);
            let topic = Topic {
                sticky: StickyPartitioner::new(self.seed),
                partitions: BTreeMap::new(),
            };
            self.topics.insert(name.into(), topic);
        }
        self.topics.get_mut(name).expect("it was inserted")
    }

    fn name(&self, name: &str) -> Arc<str> {
        self.topics
            .get_key_value(name)
            .map_or_else(|| name.into(), |(name, _)| Arc::clone(name))
    }

    fn queue(&self, key: &Key) -> Option<&PartitionQueue> {
        self.topics.get(&key.0)?.partitions.get(&key.1)
    }

    fn queue_mut(&mut self, key: &Key) -> Option<&mut PartitionQueue> {
        self.topics.get_mut(&key.0)?.partitions.get_mut(&key.1)
    }

    fn note_idle(&mut self, key: &Key) {
        if self.queue(key).is_none_or(PartitionQueue::is_idle) {
            self.busy.remove(key);
        }
    }
}
