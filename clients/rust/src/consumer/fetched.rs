//! Batches that were fetched, and the records in them.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use meridian_types::{Offset, ProducerId};
use meridian_wire::batch::{self, Batches, ControlRecord, EndTxn, Record, verify_crc};

use super::{ConsumeError, Key, Shared};

/// Whole batches of one partition, in order, not opened yet.
#[derive(Debug)]
pub struct Fetched {
    pub(super) key: Key,
    /// Of the assignment that it was fetched for.
    pub(super) version: u64,
    /// What was asked for; the first batch may begin before it.
    pub(super) from: Offset,
    pub(super) next: Offset,
    pub(super) high_watermark: Offset,
    pub(super) batches: Bytes,
    /// Transactions that were aborted: producer, and the first offset of each.
    pub(super) aborted: Vec<(ProducerId, Offset)>,
    pub(super) room: Room,
}

/// Bytes of the consumer's buffer, given back on drop.
#[derive(Debug)]
pub(super) struct Room {
    pub(super) shared: Arc<Shared>,
    pub(super) bytes: usize,
}

impl Drop for Room {
    fn drop(&mut self) {
        let before = self
            .shared
            .buffered_bytes
            .fetch_sub(self.bytes, Ordering::Relaxed);
        let limit = self.shared.settings.buffer_bytes;
        if before >= limit && before - self.bytes < limit {
            self.shared.wake.notify_one();
        }
    }
}

impl Fetched {
    /// The topic.
    pub fn topic(&self) -> &str {
        &self.key.0
    }

    /// The partition.
    pub fn partition(&self) -> u32 {
        self.key.1
    }

    /// Where reading goes on behind these batches: the offset to commit when they are done with.
    pub fn next_offset(&self) -> Offset {
        self.next
    }

    /// The end of what could be read when they were fetched.
    pub fn high_watermark(&self) -> Offset {
        self.high_watermark
    }

    /// The first offset that was asked for.
    pub fn from(&self) -> Offset {
        self.from
    }

    /// The batches as they came. The first may begin before [`Self::from`].
    pub fn batches(&self) -> Batches {
        batch::batches(&self.batches)
    }

    /// Their size in bytes, as they came.
    pub fn bytes(&self) -> usize {
        self.batches.len()
    }

    /// Opens the batches. Leaves out what lies before the position, control records, and with
    /// [`super::ConsumerSettings::read_committed`] records of aborted transactions. An error is the last item.
    pub fn records(&self) -> FetchedRecords<'_> {
        FetchedRecords {
            fetched: self,
            batches: self.batches(),
            open: None,
            aborted: self.aborted.iter().copied().collect(),
            aborting: Vec::new(),
            has_failed: false,
        }
    }

    pub(super) fn key(&self) -> &Key {
        &self.key
    }

    pub(super) fn version(&self) -> u64 {
        self.version
    }
}

/// See [`Fetched::records`].
#[derive(Debug)]
pub struct FetchedRecords<'a> {
    fetched: &'a Fetched,
    batches: Batches,
    open: Option<batch::Records>,
    /// By first offset; those whose first offset is passed move to `aborting`.
    aborted: VecDeque<(ProducerId, Offset)>,
    /// Producers inside of an aborted transaction.
    aborting: Vec<ProducerId>,
    has_failed: bool,
}

impl FetchedRecords<'_> {
    /// Opens the next batch that has records for the reader. `None` at the end.
    fn open_next(&mut self) -> Option<Result<(), ConsumeError>> {
        let settings = &self.fetched.room.shared.settings;
        loop {
            let found = match self.batches.next()? {
                Ok(found) => found,
                Err(error) => return Some(Err(self.batch_error(error))),
            };
            let header = found.header;
            if header.next_offset() <= self.fetched.from {
                continue;
            }
            if settings.verify_crc
                && let Err(error) = verify_crc(&found.bytes)
            {
                return Some(Err(self.batch_error(error)));
            }
            while let Some((producer, _)) = self
                .aborted
                .pop_front_if(|(_, first)| *first <= header.last_offset())
            {
                self.aborting.push(producer);
            }
            if header.is_control {
                let ended = header.producer_id.filter(|_| is_abort(&found.bytes));
                self.aborting.retain(|producer| Some(*producer) != ended);
                continue;
            }
            let is_aborted = header.is_transactional
                && header
                    .producer_id
                    .is_some_and(|producer| self.aborting.contains(&producer));
            if is_aborted {
                continue;
            }
            return match batch::records(&found.bytes, settings.decompressed_bytes_max) {
                Ok(records) => {
                    self.open = Some(records);
                    Some(Ok(()))
                }
                Err(error) => Some(Err(ConsumeError::Records {
                    topic: self.fetched.topic().to_owned(),
                    partition: self.fetched.partition(),
                    offset: header.base_offset,
                    error,
                })),
            };
        }
    }

    fn batch_error(&self, error: batch::BatchError) -> ConsumeError {
        ConsumeError::Batch {
            topic: self.fetched.topic().to_owned(),
            partition: self.fetched.partition(),
            offset: self.fetched.from,
            error,
        }
    }
}

fn is_abort(batch: &Bytes) -> bool {
    let Ok(mut records) = batch::records(batch, 1 << 16) else {
        return false;
    };
    let Some(Ok(record)) = records.next() else {
        return false;
    };
    matches!(
        ControlRecord::parse(&record),
        Some(ControlRecord::EndTxn {
            outcome: EndTxn::Abort,
            ..
        })
    )
}

impl Iterator for FetchedRecords<'_> {
    type Item = Result<Record, ConsumeError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.has_failed {
            return None;
        }
        loop {
            if let Some(open) = &mut self.open {
                match open.next() {
                    Some(Ok(record)) if record.offset < self.fetched.from => continue,
                    Some(Ok(record)) => return Some(Ok(record)),
                    Some(Err(error)) => {
                        self.has_failed = true;
                        return Some(Err(ConsumeError::Records {
                            topic: self.fetched.topic().to_owned(),
                            partition: self.fetched.partition(),
                            offset: open.header().base_offset,
                            error,
                        }));
                    }
                    None => self.open = None,
                }
            }
            match self.open_next()? {
                Ok(()) => {}
                Err(error) => {
                    self.has_failed = true;
                    return Some(Err(error));
                }
            }
        }
    }
}
