//! Small pieces shared by commands and snapshots: integers are little endian, lengths come first.

use bytes::{Buf, TryGetError};
use meridian_types::{TopicId, Uuid};

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

pub(crate) fn get_uuid(from: &mut &[u8]) -> Result<Uuid, Fault> {
    let mut id = [0; 16];
    from.try_copy_to_slice(&mut id)?;
    Ok(Uuid::from_bytes(id))
}

pub(crate) fn get_topic(from: &mut &[u8]) -> Result<TopicId, Fault> {
    Ok(TopicId(get_uuid(from)?))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn count_beyond_the_bytes_left_is_refused() {
        let bytes = [0xff, 0xff, 0xff, 0xff, 1, 2, 3];
        assert_eq!(get_count(&mut &bytes[..], 1), Err(Fault::Short));
        assert_eq!(get_bytes(&mut &bytes[..]), Err(Fault::Short));
    }
}
