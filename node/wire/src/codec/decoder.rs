use bytes::{Buf, Bytes, BytesMut};
use meridian_types::Uuid;

use super::{DecodeError, DecodeErrorKind, Str, varint};

/// Most memory that the arrays of one frame may take, however large the frame.
const DECODED_BYTES_MAX: usize = 256 << 20;
/// Memory that arrays may take per byte of the frame. Real requests need 1 to 5; an array of empty
/// names would need 20 and more.
const DECODED_BYTES_PER_FRAME_BYTE: usize = 8;
/// Memory that arrays may take in any frame, so that small ones need no ratio.
const DECODED_BYTES_FREE: usize = 1 << 20;
/// Most memory that an array takes before its first element has been read.
const PREALLOCATED_BYTES_MAX: usize = 64 << 10;

/// Reads one frame, front to back. Owns it: strings, bytes and records are cut out of it, not copied.
///
/// Nothing is allocated from a length before the length has been held against the rest of the frame.
#[derive(Debug)]
pub struct Decoder {
    frame: BytesMut,
    /// What arrays may still take in memory.
    memory_left: usize,
}

impl Decoder {
    /// Reads `frame`, without its length prefix.
    pub fn new(frame: BytesMut) -> Self {
        let memory_left = frame
            .len()
            .saturating_mul(DECODED_BYTES_PER_FRAME_BYTE)
            .saturating_add(DECODED_BYTES_FREE)
            .min(DECODED_BYTES_MAX);
        Self { frame, memory_left }
    }

    /// Bytes not read yet.
    pub fn remaining(&self) -> usize {
        self.frame.len()
    }

    /// Ends the frame. Errors: `TrailingBytes` if it was not read to its end.
    pub fn finish(self) -> Result<(), DecodeError> {
        match self.frame.len() {
            0 => Ok(()),
            left => Err(DecodeErrorKind::TrailingBytes { left }.into()),
        }
    }

    /// A byte that is not 0 is true, as in Kafka.
    pub fn bool(&mut self) -> Result<bool, DecodeError> {
        Ok(self.i8()? != 0)
    }

    /// One byte.
    pub fn i8(&mut self) -> Result<i8, DecodeError> {
        self.frame.try_get_i8().map_err(|error| truncated(&error))
    }

    /// Two bytes, big endian, like all numbers here.
    pub fn i16(&mut self) -> Result<i16, DecodeError> {
        self.frame.try_get_i16().map_err(|error| truncated(&error))
    }

    /// Two bytes.
    pub fn u16(&mut self) -> Result<u16, DecodeError> {
        self.frame.try_get_u16().map_err(|error| truncated(&error))
    }

    /// Four bytes.
    pub fn i32(&mut self) -> Result<i32, DecodeError> {
        self.frame.try_get_i32().map_err(|error| truncated(&error))
    }

    /// Eight bytes.
    pub fn i64(&mut self) -> Result<i64, DecodeError> {
        self.frame.try_get_i64().map_err(|error| truncated(&error))
    }

    /// Eight bytes, IEEE 754.
    pub fn f64(&mut self) -> Result<f64, DecodeError> {
        self.frame.try_get_f64().map_err(|error| truncated(&error))
    }

    /// Sixteen bytes.
    pub fn uuid(&mut self) -> Result<Uuid, DecodeError> {
        self.frame
            .try_get_u128()
            .map(Uuid::from_u128)
            .map_err(|error| truncated(&error))
    }

    /// An unsigned variable-length number of at most 32 bits.
    pub fn unsigned_varint(&mut self) -> Result<u32, DecodeError> {
        varint::read_unsigned(&mut self.frame)
    }

    /// A string or null: length in two bytes, or variable in flexible versions, 32767 at most in both.
    pub fn str(&mut self, flexible: bool) -> Result<Option<Str>, DecodeError> {
        let length = if flexible {
            self.compact_length()?
        } else {
            length(i32::from(self.i16()?))?
        };
        let Some(bytes) = length else { return Ok(None) };
        if bytes > i16::MAX as usize {
            return Err(DecodeErrorKind::StringTooLong { bytes }.into());
        }
        Str::try_from(self.take(bytes)?.freeze()).map(Some)
    }

    /// Bytes or null: length in four bytes, or variable in flexible versions.
    /// They stay a mutable part of the frame; other parts are not touched through them.
    pub fn bytes_mut(&mut self, flexible: bool) -> Result<Option<BytesMut>, DecodeError> {
        let length = self.array_length(flexible)?;
        length.map(|length| self.take(length)).transpose()
    }

    /// Bytes or null.
    pub fn bytes(&mut self, flexible: bool) -> Result<Option<Bytes>, DecodeError> {
        Ok(self.bytes_mut(flexible)?.map(BytesMut::freeze))
    }

    /// Count of an array, or null. Not checked against the frame: pass it to [`Decoder::array`].
    pub(crate) fn array_length(&mut self, flexible: bool) -> Result<Option<usize>, DecodeError> {
        if flexible {
            self.compact_length()
        } else {
            length(self.i32()?)
        }
    }

    /// An empty vector for `count` elements, each taking at least `element_bytes_min` of the frame.
    pub(crate) fn array<T>(&mut self, count: usize, element_bytes_min: usize) -> Result<Vec<T>, DecodeError> {
        // An element that takes no bytes would make the count free of charge.
        let element_bytes_min = element_bytes_min.max(1);
        if count.saturating_mul(element_bytes_min) > self.remaining() {
            let left = self.remaining();
            return Err(DecodeErrorKind::ArrayTooLong {
                count,
                element_bytes_min,
                left,
            }
            .into());
        }
        let element_bytes = size_of::<T>().max(1);
        let bytes = count.saturating_mul(element_bytes);
        let left = self.memory_left;
        self.memory_left =
            left.checked_sub(bytes)
                .ok_or(DecodeErrorKind::MemoryLimit { count, bytes, left })?;
        Ok(Vec::with_capacity(
            count.min(PREALLOCATED_BYTES_MAX / element_bytes),
        ))
    }

    /// The tagged fields at the end of a struct of a flexible version. `field` reads the tag it is given and
    /// says true, or says false without reading, and the field is skipped.
    pub(crate) fn tagged_fields(
        &mut self,
        mut field: impl FnMut(&mut Self, u32) -> Result<bool, DecodeError>,
    ) -> Result<(), DecodeError> {
        // Each takes two bytes or more, so a false count ends with the frame.
        for _ in 0..self.unsigned_varint()? {
            let tag = self.unsigned_varint()?;
            let size = self.unsigned_varint()? as usize;
            let left = self.remaining();
            if size > left {
                return Err(DecodeErrorKind::Truncated { needed: size, left }.into());
            }
            if field(self, tag)? {
                let taken = left - self.remaining();
                if taken != size {
                    return Err(DecodeErrorKind::TaggedFieldSize { tag, size, taken }.into());
                }
            } else {
                self.frame.advance(size);
            }
        }
        Ok(())
    }

    /// Flexible versions write the length plus one, and 0 for null.
    fn compact_length(&mut self) -> Result<Option<usize>, DecodeError> {
        Ok((self.unsigned_varint()? as usize).checked_sub(1))
    }

    fn take(&mut self, length: usize) -> Result<BytesMut, DecodeError> {
        let left = self.remaining();
        if length > left {
            return Err(DecodeErrorKind::Truncated { needed: length, left }.into());
        }
        Ok(self.frame.split_to(length))
    }
}

fn length(length: i32) -> Result<Option<usize>, DecodeError> {
    match length {
        -1 => Ok(None),
        _ => match usize::try_from(length) {
            Ok(length) => Ok(Some(length)),
            Err(_) => Err(DecodeErrorKind::NegativeLength(length).into()),
        },
    }
}

fn truncated(error: &bytes::TryGetError) -> DecodeError {
    DecodeErrorKind::Truncated {
        needed: error.requested,
        left: error.available,
    }
    .into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_cut_out_of_the_frame_and_patched_in_place() {
        let mut frame = BytesMut::from(&[0, 2, b'h', b'i', 0, 0, 0, 3, 1, 2, 3, 9][..]);
        frame.reserve(100);
        let address = frame.as_ptr() as usize;
        let mut d = Decoder::new(frame);
        let text = d.str(false).expect("a string").expect("not null");
        let mut records = d.bytes_mut(false).expect("bytes").expect("not null");
        assert_eq!(text.bytes().as_ptr() as usize, address + 2);
        assert_eq!(records.as_ptr() as usize, address + 8);
        records[0] = 7;
        let records = records.freeze();
        assert_eq!((text.as_str(), &records[..]), ("hi", &[7, 2, 3][..]));
        assert_eq!(records.as_ptr() as usize, address + 8);
        assert_eq!(d.i8(), Ok(9));
        assert_eq!(d.finish(), Ok(()));
    }

    #[test]
    fn lengths_are_held_against_the_frame() {
        let read = |bytes: &[u8]| Decoder::new(bytes.into());
        let truncated = |needed, left| Some(DecodeErrorKind::Truncated { needed, left }.into());
        assert_eq!(read(&[0x7f, 0xff, 1]).str(false).err(), truncated(0x7fff, 1));
        assert_eq!(
            read(&[0x7f, 0xff, 0xff, 0xff]).bytes(false).err(),
            truncated(0x7fff_ffff, 0)
        );
        assert_eq!(
            read(&[0xff, 0xff, 0xff, 0xff, 0x0f]).bytes(true).err(),
            truncated(0xffff_fffe, 0)
        );
        assert_eq!(read(&[0, 0]).i32().err(), truncated(4, 2));
        assert_eq!(
            read(&[0xff, 0xfe]).str(false),
            Err(DecodeErrorKind::NegativeLength(-2).into())
        );
        assert_eq!(read(&[0xff, 0xff]).str(false), Ok(None));
        assert_eq!(
            read(&[0x81, 0x80, 0x02]).str(true),
            Err(DecodeErrorKind::StringTooLong { bytes: 32768 }.into())
        );
    }

    #[test]
    fn tagged_fields_end_with_the_frame() {
        let mut d = Decoder::new([0xff, 0xff, 0xff, 0xff, 0x0f, 1, 0][..].into());
        let error = d
            .tagged_fields(|_, _| Ok(false))
            .expect_err("four thousand million are claimed");
        assert_eq!(error.kind, DecodeErrorKind::Truncated { needed: 1, left: 0 });
    }
}
