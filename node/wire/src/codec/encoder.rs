use bytes::{BufMut, Bytes, BytesMut};
use meridian_types::Uuid;

use super::{EncodeError, Records, Str, varint};

/// From this length on, bytes become a segment of their own instead of being copied.
const SEGMENT_BYTES_MIN: usize = 1024;
/// Bytes of the length prefix of a frame.
const PREFIX_BYTES: usize = 4;

/// Writes one message as a list of segments for a vectored write: small values are collected, large bytes
/// and records are passed on as they are.
#[derive(Debug, Default)]
pub struct Encoder {
    /// What has been collected since the last large segment.
    scratch: BytesMut,
    /// The first collected segment: kept writable, because the length prefix goes there. Its place is
    /// `segments[0]`.
    head: Option<BytesMut>,
    segments: Vec<Bytes>,
    /// Bytes in `head` and `segments`.
    flushed_bytes: usize,
    framed: bool,
}

impl Encoder {
    /// Writes a message without a length prefix.
    pub fn new() -> Self {
        Self::default()
    }

    /// Writes a message behind its length prefix of four bytes.
    pub fn framed() -> Self {
        let mut scratch = BytesMut::with_capacity(256);
        scratch.put_bytes(0, PREFIX_BYTES);
        Self {
            scratch,
            framed: true,
            ..Self::default()
        }
    }

    /// Bytes written so far, with the prefix if there is one.
    pub fn bytes(&self) -> usize {
        self.flushed_bytes + self.scratch.len()
    }

    /// The segments, in order, with the length prefix filled in.
    /// Errors: `TooLong` if a framed message is longer than its prefix can say.
    pub fn finish(mut self) -> Result<Vec<Bytes>, EncodeError> {
        let bytes = self.bytes();
        self.flush();
        if let Some(mut head) = self.head {
            if self.framed {
                let length = checked_length(bytes - PREFIX_BYTES)?;
                head[..PREFIX_BYTES].copy_from_slice(&length.to_be_bytes());
            }
            self.segments[0] = head.freeze();
        }
        Ok(self.segments)
    }

    /// The whole message in one piece. Copies if there is more than one segment.
    pub fn finish_in_one(self) -> Result<Bytes, EncodeError> {
        Ok(self.finish()?.into_iter().collect::<Records>().into_bytes())
    }

    /// One byte, 0 or 1.
    pub fn bool(&mut self, value: bool) {
        self.scratch.put_u8(u8::from(value));
    }

    /// One byte.
    pub fn i8(&mut self, value: i8) {
        self.scratch.put_i8(value);
    }

    /// Two bytes, big endian, like all numbers here.
    pub fn i16(&mut self, value: i16) {
        self.scratch.put_i16(value);
    }

    /// Two bytes.
    pub fn u16(&mut self, value: u16) {
        self.scratch.put_u16(value);
    }

    /// Four bytes.
    pub fn i32(&mut self, value: i32) {
        self.scratch.put_i32(value);
    }

    /// Eight bytes.
    pub fn i64(&mut self, value: i64) {
        self.scratch.put_i64(value);
    }

    /// Eight bytes, IEEE 754.
    pub fn f64(&mut self, value: f64) {
        self.scratch.put_f64(value);
    }

    /// Sixteen bytes.
    pub fn uuid(&mut self, value: Uuid) {
        self.scratch.put_slice(value.as_bytes());
    }

    /// An unsigned variable-length number.
    pub fn unsigned_varint(&mut self, value: u32) {
        varint::write_unsigned(&mut self.scratch, value);
    }

    /// A string or null. Errors: `TooLong` above 32767 bytes, in every version, as in Kafka.
    pub fn str(&mut self, text: Option<&Str>, flexible: bool) -> Result<(), EncodeError> {
        const BYTES_MAX: usize = i16::MAX as usize;
        let length = text.map(|text| text.bytes().len());
        match length {
            Some(bytes) if bytes > BYTES_MAX => {
                return Err(EncodeError::TooLong {
                    bytes,
                    bytes_max: BYTES_MAX,
                });
            }
            _ if flexible => self.compact_length(length)?,
            _ => self.i16(length.map_or(-1, |length| length as i16)),
        }
        if let Some(text) = text {
            self.segment(text.bytes());
        }
        Ok(())
    }

    /// Bytes or null, without a copy if they are long.
    pub fn bytes_field(&mut self, bytes: Option<&Bytes>, flexible: bool) -> Result<(), EncodeError> {
        self.array_length(bytes.map(Bytes::len), flexible)?;
        if let Some(bytes) = bytes {
            self.segment(bytes);
        }
        Ok(())
    }

    /// Bytes or null, copied.
    pub fn slice_field(&mut self, bytes: Option<&[u8]>, flexible: bool) -> Result<(), EncodeError> {
        self.array_length(bytes.map(<[u8]>::len), flexible)?;
        self.scratch.put_slice(bytes.unwrap_or_default());
        Ok(())
    }

    /// Records, without a copy.
    pub fn records(&mut self, records: &Records, flexible: bool) -> Result<(), EncodeError> {
        self.array_length(Some(records.bytes()), flexible)?;
        records
            .segments()
            .iter()
            .for_each(|segment| self.segment(segment));
        Ok(())
    }

    /// Count of an array, or null; the length of bytes is written alike.
    pub(crate) fn array_length(&mut self, length: Option<usize>, flexible: bool) -> Result<(), EncodeError> {
        if flexible {
            return self.compact_length(length);
        }
        let length = length.map(checked_length).transpose()?;
        self.i32(length.unwrap_or(-1));
        Ok(())
    }

    /// The tagged fields that end a struct of a flexible version, in the order of their tags.
    pub(crate) fn tagged_fields(&mut self, fields: Vec<(u32, Self)>) -> Result<(), EncodeError> {
        self.unsigned_varint(fields.len() as u32);
        for (tag, content) in fields {
            self.unsigned_varint(tag);
            self.unsigned_varint(checked_length(content.bytes())?.cast_unsigned());
            content.finish()?.iter().for_each(|segment| self.segment(segment));
        }
        Ok(())
    }

    fn compact_length(&mut self, length: Option<usize>) -> Result<(), EncodeError> {
        let length = length.map(checked_length).transpose()?;
        self.unsigned_varint(length.map_or(0, |length| length.cast_unsigned() + 1));
        Ok(())
    }

    fn segment(&mut self, bytes: &Bytes) {
        if bytes.len() < SEGMENT_BYTES_MIN {
            self.scratch.put_slice(bytes);
        } else {
            self.flush();
            self.flushed_bytes += bytes.len();
            self.segments.push(bytes.clone());
        }
    }

    fn flush(&mut self) {
        if self.scratch.is_empty() {
            return;
        }
        let collected = self.scratch.split();
        self.flushed_bytes += collected.len();
        if self.segments.is_empty() {
            self.head = Some(collected);
            self.segments.push(Bytes::new());
        } else {
            self.segments.push(collected.freeze());
        }
    }
}

/// Lengths are signed in 32 bits, in flexible versions too.
fn checked_length(bytes: usize) -> Result<i32, EncodeError> {
    i32::try_from(bytes).map_err(|_| EncodeError::TooLong {
        bytes,
        bytes_max: i32::MAX as usize,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_bytes_become_segments_without_a_copy() {
        let log = Bytes::from(vec![5; 3 * SEGMENT_BYTES_MIN]);
        let records: Records = [log.slice(..2048), log.slice(2048..)].into_iter().collect();
        let mut e = Encoder::framed();
        e.i32(42);
        e.records(&records, true).expect("short");
        e.i16(-1);
        assert_eq!(e.bytes(), 4 + 4 + 2 + log.len() + 2);
        let segments = e.finish().expect("short");
        assert_eq!(segments.len(), 4);
        assert_eq!(segments[0][..8], [0, 0, 12, 8, 0, 0, 0, 42]);
        assert_eq!(segments[1].as_ptr(), log.as_ptr());
        assert_eq!(segments[2].as_ptr(), log[2048..].as_ptr());
        assert_eq!(segments[3][..], [0xff, 0xff]);
    }

    #[test]
    fn a_small_message_is_one_segment() {
        let mut e = Encoder::framed();
        e.str(Some(&"abc".into()), false).expect("short");
        assert_eq!(
            e.finish().expect("short"),
            [&[0, 0, 0, 5, 0, 3, b'a', b'b', b'c'][..]]
        );
        assert!(Encoder::new().finish().expect("empty").is_empty());
    }

    #[test]
    fn a_message_that_starts_with_a_long_value_keeps_its_order() {
        let long = Bytes::from(vec![7; 2000]);
        let mut e = Encoder::new();
        e.segment(&long);
        e.i8(1);
        e.segment(&long);
        let whole = e.finish_in_one().expect("short");
        assert_eq!(whole.len(), 4001);
        assert_eq!(whole[2000], 1);
    }

    #[test]
    fn a_string_above_32767_bytes_is_refused_in_every_version() {
        let text = Str::from("x".repeat(32_768));
        let too_long = Err(EncodeError::TooLong {
            bytes: 32_768,
            bytes_max: 32_767,
        });
        assert_eq!(Encoder::new().str(Some(&text), false), too_long);
        assert_eq!(Encoder::new().str(Some(&text), true), too_long);
    }

    #[test]
    fn empty_records_are_zero_bytes_and_never_null() {
        let mut e = Encoder::new();
        e.records(&Records::EMPTY, false).expect("empty");
        e.records(&Records::EMPTY, true).expect("empty");
        assert_eq!(e.finish_in_one().expect("empty")[..], [0, 0, 0, 0, 1]);
    }
}
