//! Small pieces shared by the formats of this crate: varints, ids, bounded counts.

use bytes::{Buf, TryGetError};
use meridian_types::{Partition, TopicId, Uuid};

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

pub(crate) fn crc32c(bytes: &[u8]) -> u32 {
    crc_fast::crc32_iscsi(bytes)
}

/// CRC32C of parts as if they were one buffer.
pub(crate) fn crc32c_parts<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> u32 {
    let mut digest = crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc32Iscsi);
    for part in parts {
        digest.update(part);
    }
    u32::try_from(digest.finalize()).expect("a CRC32C has 32 bits")
}

pub(crate) fn put_u32(out: &mut Vec<u8>, value: u32) {
    out.extend_from_slice(&value.to_le_bytes());
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

pub(crate) fn put_count(out: &mut Vec<u8>, count: usize) {
    put_varint(out, count as u64);
}

pub(crate) fn get_uuid(from: &mut &[u8]) -> Result<Uuid, Fault> {
    let mut id = [0; 16];
    from.try_copy_to_slice(&mut id)?;
    Ok(Uuid::from_bytes(id))
}

pub(crate) fn get_partition(from: &mut &[u8]) -> Result<Partition, Fault> {
    Ok(Partition {
        topic: TopicId(get_uuid(from)?),
        index: from.try_get_u32_le()?,
    })
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
            // Equal contents must be equal bytes.
            return if byte == 0 && shift > 0 {
                Err(Fault::Invalid("number is written longer than it is"))
            } else {
                Ok(value)
            };
        }
    }
    Err(Fault::Invalid("number is longer than 64 bits"))
}

pub(crate) fn get_signed_varint(from: &mut &[u8]) -> Result<i64, Fault> {
    let raw = get_varint(from)?;
    Ok((raw >> 1) as i64 ^ -((raw & 1) as i64))
}

pub(crate) fn get_u32_varint(from: &mut &[u8]) -> Result<u32, Fault> {
    u32::try_from(get_varint(from)?).map_err(|_| Fault::Invalid("number is longer than 32 bits"))
}

/// A count of things that take at least `least_bytes` each, so that it can be trusted for an allocation.
pub(crate) fn get_count(from: &mut &[u8], least_bytes: usize) -> Result<usize, Fault> {
    let count = usize::try_from(get_varint(from)?).map_err(|_| Fault::Short)?;
    match count.checked_mul(least_bytes) {
        Some(need) if need <= from.len() => Ok(count),
        _ => Err(Fault::Short),
    }
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
    fn overlong_and_padded_varints_are_refused() {
        assert!(matches!(get_varint(&mut &[0xff; 11][..]), Err(Fault::Invalid(_))));
        assert!(matches!(get_varint(&mut &[0x81, 0][..]), Err(Fault::Invalid(_))));
        assert_eq!(get_varint(&mut &[0x80; 3][..]), Err(Fault::Short));
        assert_eq!(get_varint(&mut &[0][..]), Ok(0));
    }

    #[test]
    fn count_beyond_the_bytes_left_is_refused() {
        assert_eq!(get_count(&mut &[200, 1, 0, 0][..], 1), Err(Fault::Short));
        assert_eq!(get_count(&mut &[3, 0, 0, 0][..], 1), Ok(3));
    }

    #[test]
    fn crc_of_parts_is_crc_of_the_whole() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
        assert_eq!(crc32c_parts([&b"1234"[..], b"", b"56789"]), 0xe306_9283);
        assert_eq!(crc32c_parts([]), crc32c(b""));
    }
}
