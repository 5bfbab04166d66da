//! The machine of these tests.

use std::sync::atomic::{AtomicU64, Ordering};

use bytes::{BufMut, Bytes, BytesMut};
use meridian_journal::{Journal, Payload};
use meridian_types::LogPosition;
use parking_lot::Mutex;

use super::cluster::SHARD;
use crate::{ApplyError, Machine, Reply};

/// Sums numbers: small, and any lost or doubled command shows.
pub(super) struct Sum {
    journal: Journal,
    total: Mutex<u64>,
    /// Where the log began when the last state was taken over.
    pub(super) begun_at: Mutex<Option<LogPosition>>,
    /// Commands applied by this machine itself, not taken over with a state.
    pub(super) applied: AtomicU64,
    /// Bytes that follow the total in its state, to make it large.
    ballast_bytes: usize,
}

impl Sum {
    pub(super) fn new(journal: Journal, ballast_bytes: usize) -> Self {
        Self {
            journal,
            total: Mutex::default(),
            begun_at: Mutex::default(),
            applied: AtomicU64::default(),
            ballast_bytes,
        }
    }

    pub(super) fn total(&self) -> u64 {
        *self.total.lock()
    }
}

pub(super) fn command(number: u64) -> Vec<Bytes> {
    vec![Bytes::copy_from_slice(&number.to_le_bytes())]
}

/// As [`command`], and so many bytes more.
pub(super) fn long_command(number: u64, bytes: usize) -> Vec<Bytes> {
    let mut command = command(number);
    command.push(vec![0; bytes].into());
    command
}

impl Machine for Sum {
    fn apply(&self, at: LogPosition, command: &Payload) -> Result<Reply, ApplyError> {
        let bytes = command.to_bytes();
        let number = bytes.first_chunk().ok_or_else(|| ApplyError {
            at,
            reason: "not a number".to_owned(),
        })?;
        let mut total = self.total.lock();
        *total += u64::from_le_bytes(*number);
        self.applied.fetch_add(1, Ordering::Relaxed);
        Ok(Reply::new(*total))
    }

    fn applied(&self, _: LogPosition) {}

    fn encode(&self) -> Vec<Bytes> {
        let total = self.total();
        let mut start = BytesMut::new();
        start.put_u64_le(total);
        vec![
            start.freeze(),
            vec![total.to_le_bytes()[0]; self.ballast_bytes].into(),
        ]
    }

    fn restore(&self, state: &[u8]) -> Result<(), String> {
        let (total, ballast) = state.split_first_chunk().ok_or("not a number")?;
        let expected = vec![total[0]; self.ballast_bytes];
        if ballast != expected {
            return Err("another ballast".to_owned());
        }
        *self.total.lock() = u64::from_le_bytes(*total);
        *self.begun_at.lock() = self.journal.log(SHARD).purged;
        Ok(())
    }
}
