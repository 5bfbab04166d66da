use bytes::{Bytes, BytesMut};

/// Record batches on their way to a consumer: byte ranges of the log, in order, never copied.
///
/// The encoder writes each range as a segment of its own. What is decoded is one range.
/// Two are equal when their bytes are, however they are cut.
#[derive(Clone, Debug, Default)]
pub struct Records {
    segments: Vec<Bytes>,
    bytes: usize,
}

impl Records {
    /// No records. Written as zero bytes, never as null: librdkafka breaks on null (KAFKA-18646).
    pub const EMPTY: Self = Self {
        segments: Vec::new(),
        bytes: 0,
    };

    /// Appends a range of the log.
    pub fn push(&mut self, segment: Bytes) {
        if !segment.is_empty() {
            self.bytes += segment.len();
            self.segments.push(segment);
        }
    }

    /// The ranges, none of them empty.
    pub fn segments(&self) -> &[Bytes] {
        &self.segments
    }

    /// Length of all ranges together.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// All ranges in one piece: without a copy if they are one already.
    pub fn into_bytes(mut self) -> Bytes {
        match self.segments.len() {
            0 => Bytes::new(),
            1 => self.segments.remove(0),
            _ => {
                let mut whole = BytesMut::with_capacity(self.bytes);
                self.segments
                    .iter()
                    .for_each(|segment| whole.extend_from_slice(segment));
                whole.freeze()
            }
        }
    }
}

impl PartialEq for Records {
    fn eq(&self, other: &Self) -> bool {
        let bytes = |records: &Self| records.segments.clone().into_iter().flatten();
        self.bytes == other.bytes && bytes(self).eq(bytes(other))
    }
}

impl From<Bytes> for Records {
    fn from(bytes: Bytes) -> Self {
        let mut records = Self::EMPTY;
        records.push(bytes);
        records
    }
}

impl FromIterator<Bytes> for Records {
    fn from_iter<I: IntoIterator<Item = Bytes>>(segments: I) -> Self {
        let mut records = Self::EMPTY;
        segments.into_iter().for_each(|segment| records.push(segment));
        records
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_equal_however_they_are_cut() {
        let log = Bytes::from_static(b"abcdef");
        let cut: Records = [log.slice(..2), Bytes::new(), log.slice(2..)]
            .into_iter()
            .collect();
        assert_eq!(cut.segments().len(), 2);
        assert_eq!(cut, Records::from(log.clone()));
        assert_ne!(cut, Records::from(log.slice(..5)));
        assert_eq!(cut.into_bytes(), log);
    }
}
