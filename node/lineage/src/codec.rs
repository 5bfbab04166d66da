//! Small pieces of the forms in commands and snapshots: integers are little endian, counts come first.

use bytes::{Buf, TryGetError};
use meridian_types::{RegionEpoch, RegionNumber};

/// What a reader met that is not in the format. The reader's caller adds where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
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

pub(crate) fn put_u16(out: &mut Vec<u8>, value: u16) {
    out.extend_from_slice(&value.to_le_bytes());
}

pub(crate) fn put_u32(out: &mut Vec<u8>, value: u32) {
    out.extend_from_slice(&value.to_le_bytes());
}

pub(crate) fn put_u64(out: &mut Vec<u8>, value: u64) {
    out.extend_from_slice(&value.to_le_bytes());
}

/// A count or length: everything here is bounded by the frame limit, far below `u32::MAX`.
pub(crate) fn put_count(out: &mut Vec<u8>, count: usize) {
    put_u32(
        out,
        u32::try_from(count).expect("counts and lengths are bounded by the frame limit"),
    );
}

/// A count of things that take at least `least_bytes` each, so that it can be trusted for an allocation.
pub(crate) fn get_count(from: &mut &[u8], least_bytes: usize) -> Result<usize, Fault> {
    let count = from.try_get_u32_le()? as usize;
    match count.checked_mul(least_bytes) {
        Some(need) if need <= from.len() => Ok(count),
        _ => Err(Fault::Short),
    }
}

pub(crate) fn get_flag(from: &mut &[u8]) -> Result<bool, Fault> {
    match from.try_get_u8()? {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(Fault::Invalid("a flag is neither 0 nor 1")),
    }
}

pub(crate) fn get_epoch(from: &mut &[u8]) -> Result<RegionEpoch, Fault> {
    let epoch = RegionEpoch(from.try_get_u32_le()?);
    match epoch <= RegionEpoch::MAX {
        true => Ok(epoch),
        false => Err(Fault::Invalid("a region epoch is beyond 2047")),
    }
}

pub(crate) fn get_region(from: &mut &[u8]) -> Result<RegionNumber, Fault> {
    let region = RegionNumber(from.try_get_u16_le()?);
    match region <= RegionNumber::MAX {
        true => Ok(region),
        false => Err(Fault::Invalid("a region number is beyond 999")),
    }
}
