//! What the tests of this folder share.

#![allow(dead_code, reason = "each test program uses some of it")]

use bytes::Bytes;
use meridian_tiered_storage::bundle::{Bundle, BundleLimits, BundleWriter};
use meridian_types::{LeaderEpoch, Offset, Partition, TimestampMs, TopicId, Uuid};
use meridian_wire::batch::{BatchBuilder, Compression};

pub(crate) mod azurite;

pub(crate) fn partition(index: u32) -> Partition {
    Partition {
        topic: TopicId(Uuid::from_u128(11)),
        index,
    }
}

/// `count` records at `base`, with keys out of `keys` many.
pub(crate) fn batch(base: u64, count: u64, keys: u64, bytes: usize) -> Bytes {
    let mut builder = BatchBuilder::new(Compression::None).stored_at(Offset(base), LeaderEpoch(1));
    for n in base..base + count {
        let key = format!("key {}", n.wrapping_mul(0x9e37_79b9_7f4a_7c15) % keys.max(1));
        let value: Vec<u8> = (0..bytes as u64)
            .map(|at| (n.wrapping_mul(31).wrapping_add(at * at) >> 2) as u8)
            .collect();
        builder
            .push(
                TimestampMs(1_000 + n as i64),
                Some(key.as_bytes()),
                Some(&value),
                &[],
            )
            .unwrap();
    }
    builder.build().unwrap()
}

/// Some megabytes of two partitions, in several windows and frames.
pub(crate) fn large_bundle() -> Bundle {
    let mut writer = BundleWriter::new(BundleLimits::default());
    for index in 0..2 {
        for n in 0..120 {
            writer
                .push(partition(index), &[batch(n * 10, 10, 1_000, 12_000)])
                .unwrap();
        }
    }
    writer.finish().unwrap()
}
