//! What a frame carries: a list of buffers that become contiguous on disk.

use std::fmt;

use bytes::{Bytes, BytesMut};
use meridian_types::LogPosition;

/// Bytes of one entry, kept as the buffers they came in. Written and checksummed as if contiguous.
#[derive(Clone, Default)]
pub struct Payload {
    parts: Vec<Bytes>,
    len: usize,
    retained: usize,
}

/// One entry of a shard's log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its term and index.
    pub position: LogPosition,
    /// Its bytes, opaque to the journal.
    pub payload: Payload,
}

impl Payload {
    /// A payload whose parts keep `retained` bytes of memory alive: more than their length where they
    /// are small slices of large buffers. The tail cache counts this figure against its budget.
    pub fn retaining(parts: Vec<Bytes>, retained: usize) -> Self {
        let mut payload = Self::from(parts);
        payload.retained = payload.retained.max(retained);
        payload
    }

    /// Length in bytes, all parts together.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are no bytes at all.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The parts in order; none is empty.
    pub fn parts(&self) -> &[Bytes] {
        &self.parts
    }

    /// The bytes `at..at + len` without copying, clipped to what is there.
    pub fn slice(&self, at: u32, len: u32) -> Vec<Bytes> {
        let mut skip = at as usize;
        let mut left = (len as usize).min(self.len.saturating_sub(skip));
        let mut slices = Vec::new();
        for part in &self.parts {
            if left == 0 {
                break;
            }
            if skip >= part.len() {
                skip -= part.len();
                continue;
            }
            let take = left.min(part.len() - skip);
            slices.push(part.slice(skip..skip + take));
            left -= take;
            skip = 0;
        }
        slices
    }

    /// All bytes in one buffer; copies only when there are several parts.
    pub fn to_bytes(&self) -> Bytes {
        match self.parts.as_slice() {
            [] => Bytes::new(),
            [only] => only.clone(),
            parts => {
                let mut all = BytesMut::with_capacity(self.len);
                parts.iter().for_each(|part| all.extend_from_slice(part));
                all.freeze()
            }
        }
    }

    /// Memory this payload keeps alive, in bytes, with its own bookkeeping.
    pub(crate) fn cost(&self) -> usize {
        self.retained.max(self.len) + self.parts.len() * size_of::<Bytes>() + 96
    }
}

impl From<Bytes> for Payload {
    fn from(bytes: Bytes) -> Self {
        Self::from(vec![bytes])
    }
}

impl From<Vec<Bytes>> for Payload {
    fn from(mut parts: Vec<Bytes>) -> Self {
        parts.retain(|part| !part.is_empty());
        let len = parts.iter().map(Bytes::len).sum();
        Self {
            parts,
            len,
            retained: len,
        }
    }
}

/// Equal when the bytes are, however they are cut into parts.
impl PartialEq for Payload {
    fn eq(&self, other: &Self) -> bool {
        self.len == other.len
            && self
                .parts
                .iter()
                .flat_map(|part| part.iter())
                .eq(other.parts.iter().flat_map(|part| part.iter()))
    }
}

impl Eq for Payload {}

impl fmt::Debug for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Payload({} bytes in {} parts)", self.len, self.parts.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn payload() -> Payload {
        Payload::from(vec![
            Bytes::from_static(b"abc"),
            Bytes::new(),
            Bytes::from_static(b"defg"),
        ])
    }

    #[test]
    fn slices_cross_parts_and_clip_at_the_end() {
        assert_eq!(
            payload().slice(1, 4),
            vec![Bytes::from_static(b"bc"), Bytes::from_static(b"de")]
        );
        assert_eq!(payload().slice(3, 100), vec![Bytes::from_static(b"defg")]);
        assert!(payload().slice(7, 1).is_empty());
        assert!(payload().slice(u32::MAX, u32::MAX).is_empty());
    }

    #[test]
    fn equality_ignores_how_bytes_are_cut() {
        assert_eq!(payload(), Payload::from(Bytes::from_static(b"abcdefg")));
        assert_eq!(payload().to_bytes(), Bytes::from_static(b"abcdefg"));
    }

    #[test]
    fn a_slice_of_a_large_buffer_is_charged_for_the_buffer() {
        let large = Bytes::from(vec![0; 1 << 20]);
        let payload = Payload::retaining(vec![large.slice(0..10)], large.len());
        assert!(payload.cost() > 1 << 20);
    }
}
