//! Several batches in a row, as fetch responses and logs hold them.

use bytes::{Buf, Bytes};

use super::error::BatchError;
use super::header::BatchHeader;

/// One whole batch out of a row of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    /// Its header.
    pub header: BatchHeader,
    /// The whole batch, header included; shares memory with what it was cut from.
    pub bytes: Bytes,
}

/// Iterates over the whole batches of `bytes`, without copying and without checking CRCs.
///
/// A fetch response may end inside a batch: the iteration ends before it, and [`Batches::rest`] tells how much is
/// left. A batch that cannot be read is an error, and the last item.
pub fn batches(bytes: &Bytes) -> Batches {
    Batches {
        rest: bytes.clone(),
        failed: false,
    }
}

/// See [`batches`].
#[derive(Clone, Debug)]
pub struct Batches {
    rest: Bytes,
    failed: bool,
}

impl Batches {
    /// What is not yet read: at the end, the truncated last batch, if any.
    pub fn rest(&self) -> &Bytes {
        &self.rest
    }
}

impl Iterator for Batches {
    type Item = Result<Batch, BatchError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        match BatchHeader::parse(&self.rest) {
            Ok(header) if header.size() > self.rest.remaining() => None,
            Ok(header) => Some(Ok(Batch {
                header,
                bytes: self.rest.split_to(header.size()),
            })),
            Err(BatchError::Truncated { .. }) => None,
            Err(error) => {
                self.failed = true;
                Some(Err(error))
            }
        }
    }
}
