//! Small pieces shared by commands and snapshots: integers are little endian, lengths come first.

use bytes::{Buf, TryGetError};
use meridian_types::{Partition, TopicId, Uuid};

/// Bytes of a [`Partition`] as written by [`put_partition`].
pub(crate) const PARTITION_BYTES: usize = 20;

/// What a reader met that is not in the format. The reader's caller adds where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The bytes end too early.
    Short,
    /// A length, count or number is not possible here.
    Invalid(&'static str),
}

impl From<TryGetError> for Fault {
    fn from(_: TryGetError) -> Self {
        Self::Short
    }
}

impl From<meridian_lineage::Fault> for Fault {
    fn from(fault: meridian_lineage::Fault) -> Self {
        match fault {
            meridian_lineage::Fault::Short => Self::Short,
            meridian_lineage::Fault::Invalid(what) => Self::Invalid(what),
        }
    }
}

pub(crate) fn put_u32(out: &mut Vec<u8>, value: u32) {
    out.extend_from_slice(&value.to_le_bytes());
}

pub(crate) fn put_u64(out: &mut Vec<u8>, value: u64) {
    out.extend_from_slice(&value.to_le_bytes());
}

pub(crate) fn put_i64(out: &mut Vec<u8>, value: i64) {
    out.extend_from_slice(&value.to_le_bytes());
}

/// A byte string of at most `u32::MAX` bytes, length first.
pub(crate) fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_count(out, bytes.len());
    out.extend_from_slice(bytes);
}

/// A count or length: everything here is bounded by the frame limit, far below `u32::MAX`.
pub(crate) fn put_count(out: &mut Vec<u8>, count: usize) {
    put_u32(
        out,
        u32::try_from(count).expect("counts and lengths are bounded by the frame limit"),
    );
}

pub(crate) fn put_partition(out: &mut Vec<u8>, partition: Partition) {
    out.extend_from_slice(partition.topic.0.as_bytes());
    put_u32(out, partition.index);
}

/// LEB128.
pub(crate) fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Zigzag, then LEB128.
pub(crate) fn put_signed_varint(out: &mut Vec<u8>, value: i64) {
    put_varint(out, (value << 1 ^ value >> 63) as u64);
}

pub(crate) fn get_topic(from: &mut &[u8]) -> Result<TopicId, Fault> {
    let mut id = [0; 16];
    from.try_copy_to_slice(&mut id)?;
    Ok(TopicId(Uuid::from_bytes(id)))
}

pub(crate) fn get_partition(from: &mut &[u8]) -> Result<Partition, Fault> {
    Ok(Partition {
        topic: get_topic(from)?,
        index: from.try_get_u32_le()?,
    })
}

/// A count of things that take at least `least_bytes` each, so that it can be trusted for an allocation.
pub(crate) fn get_count(from: &mut &[u8], least_bytes: usize) -> Result<usize, Fault> {
    let count = from.try_get_u32_le()? as usize;
    bounded(count, least_bytes, from.len())
}

/// Holds `count` things of at least `least_bytes` each against the `left_bytes` there are.
pub(crate) fn bounded(count: usize, least_bytes: usize, left_bytes: usize) -> Result<usize, Fault> {
    match count.checked_mul(least_bytes) {
        Some(need) if need <= left_bytes => Ok(count),
        _ => Err(Fault::Short),
    }
}

pub(crate) fn get_bytes<'a>(from: &mut &'a [u8]) -> Result<&'a [u8], Fault> {
    let length = get_count(from, 1)?;
    let (bytes, rest) = from.split_at_checked(length).ok_or(Fault::Short)?;
    *from = rest;
    Ok(bytes)
}

pub(crate) fn get_str(from: &mut &[u8]) -> Result<String, Fault> {
    let text = std::str::from_utf8(get_bytes(from)?).map_err(|_| Fault::Invalid("text is not UTF-8"))?;
    Ok(text.to_owned())
}

pub(crate) fn get_varint(from: &mut &[u8]) -> Result<u64, Fault> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let byte = from.try_get_u8()?;
        let bits = u64::from(byte & 0x7f);
        if shift == 63 && bits > 1 {
            break;
        }
        value |= bits << shift;
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err(Fault::Invalid("number is longer than 64 bits"))
}

pub(crate) fn get_signed_varint(from: &mut &[u8]) -> Result<i64, Fault> {
    let raw = get_varint(from)?;
    Ok((raw >> 1) as i64 ^ -((raw & 1) as i64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn varints_of_every_width_return() {
        for bits in 0..64 {
            for value in [(1_u64 << bits) - 1, 1 << bits, u64::MAX] {
                let mut out = Vec::new();
                put_varint(&mut out, value);
                assert_eq!(get_varint(&mut &out[..]), Ok(value));
            }
        }
        for value in [0, -1, 1, i64::MIN, i64::MAX, -300, 300] {
            let mut out = Vec::new();
            put_signed_varint(&mut out, value);
            assert_eq!(get_signed_varint(&mut &out[..]), Ok(value));
        }
    }

    #[test]
    fn overlong_varint_is_refused() {
        assert_eq!(
            get_varint(&mut &[0xff; 11][..]),
            Err(Fault::Invalid("number is longer than 64 bits"))
        );
        assert_eq!(get_varint(&mut &[0x80; 3][..]), Err(Fault::Short));
    }

    #[test]
    fn count_beyond_the_bytes_left_is_refused() {
        let bytes = [0xff, 0xff, 0xff, 0xff, 1, 2, 3];
        assert_eq!(get_count(&mut &bytes[..], 1), Err(Fault::Short));
        assert_eq!(get_bytes(&mut &bytes[..]), Err(Fault::Short));
    }
}
