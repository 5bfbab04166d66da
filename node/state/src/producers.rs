//! Idempotent producers: which batches a partition has seen (KIP-98).

use meridian_types::{Offset, ProducerId, TimestampMs};
use meridian_wire::batch::BatchHeader;
use thiserror::Error;

/// Batches remembered per producer: as many as a client may have in flight.
pub const BATCHES_REMEMBERED: usize = 5;

/// A producer that is silent for this long is forgotten; Kafka's `producer.id.expiration.ms`.
pub const PRODUCER_EXPIRY_MS: i64 = 24 * 60 * 60 * 1000;

/// One remembered batch of a producer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProducedBatch {
    /// Sequence of its first record.
    pub first_sequence: i32,
    /// Sequence of its last record; smaller than the first where sequences wrap.
    pub last_sequence: i32,
    /// Offset of its first record.
    pub base_offset: Offset,
    /// The batch's greatest timestamp: what its producer was told under `LogAppendTime`.
    pub max_timestamp: TimestampMs,
}

/// What one partition knows about one producer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Producer {
    /// The producer.
    pub id: ProducerId,
    /// Its newest epoch.
    pub epoch: i16,
    /// When it last appended, by the leader's clock.
    pub last_append_at: TimestampMs,
    count: u8,
    batches: [ProducedBatch; BATCHES_REMEMBERED],
}

/// A batch that the partition already holds. Answer it as if it had just been appended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Duplicate {
    /// Offset its first record got.
    pub base_offset: Offset,
    /// Offset its last record got.
    pub last_offset: Offset,
    /// The batch's greatest timestamp.
    pub max_timestamp: TimestampMs,
}

/// Why a batch does not fit what the partition knows about its producer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum SequenceError {
    /// Kafka's 45: batches of this producer are missing between.
    #[error("producer {producer} epoch {epoch} sent sequence {sequence} where {expected} was expected")]
    OutOfOrder {
        /// The producer.
        producer: ProducerId,
        /// Its epoch.
        epoch: i16,
        /// The sequence it sent.
        sequence: i32,
        /// The sequence that continues the partition.
        expected: i32,
    },
    /// Kafka's 47: another instance took over under a newer epoch.
    #[error("producer {producer} sent epoch {epoch}, older than its epoch {newest} here")]
    StaleEpoch {
        /// The producer.
        producer: ProducerId,
        /// The epoch it sent.
        epoch: i16,
        /// The newest epoch seen here.
        newest: i16,
    },
}

/// The sequence after `last`: after 2147483647 comes 0.
fn next_sequence(last: i32) -> i32 {
    last.checked_add(1).unwrap_or(0)
}

impl Producer {
    /// What is known after a batch is appended at `base_offset`, from what was known before.
    ///
    /// An unknown producer starts at any sequence: what was known may have expired.
    pub(crate) fn after(
        before: Option<&Self>,
        id: ProducerId,
        header: &BatchHeader,
        base_offset: Offset,
        now: TimestampMs,
    ) -> Result<Self, SequenceError> {
        let mut producer = match before {
            Some(before) => {
                before.check_sequence(header)?;
                before.clone()
            }
            None => Self::restore(id, header.producer_epoch, now, &[]),
        };
        producer.record(header, base_offset, now);
        Ok(producer)
    }

    /// A producer as a snapshot gives it back; `batches` are at most [`BATCHES_REMEMBERED`], oldest first.
    pub(crate) fn restore(
        id: ProducerId,
        epoch: i16,
        last_append_at: TimestampMs,
        batches: &[ProducedBatch],
    ) -> Self {
        let mut remembered = [ProducedBatch::default(); BATCHES_REMEMBERED];
        remembered[..batches.len()].copy_from_slice(batches);
        Self {
            id,
            epoch,
            last_append_at,
            count: batches.len() as u8,
            batches: remembered,
        }
    }

    /// The remembered batches, oldest first.
    pub fn batches(&self) -> &[ProducedBatch] {
        &self.batches[..self.count.into()]
    }

    /// The batch if it is one of the remembered ones.
    pub(crate) fn duplicate(&self, header: &BatchHeader) -> Option<Duplicate> {
        if header.producer_epoch != self.epoch {
            return None;
        }
        let last_sequence = header.last_sequence();
        let same = |batch: &&ProducedBatch| {
            batch.first_sequence == header.base_sequence && batch.last_sequence == last_sequence
        };
        self.batches().iter().find(same).map(|batch| Duplicate {
            base_offset: batch.base_offset,
            last_offset: batch.base_offset.plus(header.last_offset_delta.into()),
            max_timestamp: batch.max_timestamp,
        })
    }

    /// The sequence with which a batch of a producer epoch goes on.
    fn expected(&self, epoch: i16) -> i32 {
        match self.batches().last() {
            Some(last) if epoch == self.epoch => next_sequence(last.last_sequence),
            _ => 0,
        }
    }

    /// Whether a batch begins after the sequence with which it should: batches before it are missing.
    pub(crate) fn misses_before(&self, header: &BatchHeader) -> bool {
        let ahead = header
            .base_sequence
            .wrapping_sub(self.expected(header.producer_epoch))
            & i32::MAX;
        // Sequences wrap: what is more than half of them ahead is behind.
        header.producer_epoch >= self.epoch && (1..=i32::MAX / 2).contains(&ahead)
    }

    /// Whether a batch that is no duplicate may follow.
    fn check_sequence(&self, header: &BatchHeader) -> Result<(), SequenceError> {
        if header.producer_epoch < self.epoch {
            return Err(SequenceError::StaleEpoch {
                producer: self.id,
                epoch: header.producer_epoch,
                newest: self.epoch,
            });
        }
        let expected = self.expected(header.producer_epoch);
        if header.base_sequence == expected {
            return Ok(());
        }
        Err(SequenceError::OutOfOrder {
            producer: self.id,
            epoch: header.producer_epoch,
            sequence: header.base_sequence,
            expected,
        })
    }

    /// Remembers a batch that was appended at `base_offset`.
    fn record(&mut self, header: &BatchHeader, base_offset: Offset, now: TimestampMs) {
        if header.producer_epoch != self.epoch {
            self.epoch = header.producer_epoch;
            self.count = 0;
        }
        if usize::from(self.count) == BATCHES_REMEMBERED {
            self.batches.rotate_left(1);
        } else {
            self.count += 1;
        }
        self.batches[usize::from(self.count) - 1] = ProducedBatch {
            first_sequence: header.base_sequence,
            last_sequence: header.last_sequence(),
            base_offset,
            max_timestamp: header.max_timestamp,
        };
        self.last_append_at = self.last_append_at.max(now);
    }
}

/// The producers of one partition, by id.
///
/// A sorted list: most partitions have a handful, and new ids are greater than old ones.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Producers {
    entries: Vec<Producer>,
}

impl Producers {
    pub(crate) fn from_entries(entries: Vec<Producer>) -> Self {
        Self { entries }
    }

    pub(crate) fn entries(&self) -> &[Producer] {
        &self.entries
    }

    pub(crate) fn get(&self, id: ProducerId) -> Option<&Producer> {
        let at = self
            .entries
            .binary_search_by_key(&id, |producer| producer.id)
            .ok()?;
        Some(&self.entries[at])
    }

    /// Puts a producer in, over what stands there.
    pub(crate) fn put(&mut self, producer: Producer) {
        match self.entries.binary_search_by_key(&producer.id, |entry| entry.id) {
            Ok(at) => self.entries[at] = producer,
            Err(at) => {
                if self.entries.is_empty() {
                    // Most partitions have one producer; growth by doubling would start at four.
                    self.entries.reserve_exact(1);
                }
                self.entries.insert(at, producer);
            }
        }
    }

    /// Puts several in, over what stands there.
    pub(crate) fn put_all(&mut self, producers: Self) {
        producers
            .entries
            .into_iter()
            .for_each(|producer| self.put(producer));
    }

    /// Forgets producers that last appended before `before`.
    pub(crate) fn expire(&mut self, before: TimestampMs) {
        self.entries.retain(|producer| producer.last_append_at >= before);
    }

    pub(crate) fn check(&self, high_watermark: Offset) -> Result<(), String> {
        if !self.entries.windows(2).all(|pair| pair[0].id < pair[1].id) {
            return Err("producers are not in order".into());
        }
        for producer in &self.entries {
            let batches = producer.batches();
            let follows = |pair: &[ProducedBatch]| {
                pair[1].first_sequence == next_sequence(pair[0].last_sequence)
                    && pair[0].base_offset < pair[1].base_offset
            };
            if !batches.windows(2).all(follows) {
                return Err(format!(
                    "batches of producer {} do not follow one another",
                    producer.id
                ));
            }
            if batches
                .last()
                .is_some_and(|last| last.base_offset >= high_watermark)
            {
                return Err(format!(
                    "producer {} has a batch beyond {high_watermark}",
                    producer.id
                ));
            }
        }
        Ok(())
    }
}
