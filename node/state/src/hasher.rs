//! A fast, fixed hash for maps whose keys the region makes itself.

use std::hash::{BuildHasherDefault, Hasher};

/// A map with [`IdHasher`].
pub(crate) type IdMap<K, V> = std::collections::HashMap<K, V, BuildHasherDefault<IdHasher>>;

/// Multiply-and-rotate over whole words.
///
/// Topic ids come from the region's own random source, so nobody outside can aim collisions at it; the
/// standard hasher's keys would be a source of randomness, which a pure core does not have.
#[derive(Default)]
pub(crate) struct IdHasher(u64);

impl IdHasher {
    fn mix(&mut self, word: u64) {
        self.0 = (self.0.rotate_left(23) ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}

impl Hasher for IdHasher {
    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.mix(u64::from_le_bytes(word));
        }
    }

    fn write_u32(&mut self, value: u32) {
        self.mix(value.into());
    }

    fn write_u64(&mut self, value: u64) {
        self.mix(value);
    }

    fn write_usize(&mut self, value: usize) {
        self.mix(value as u64);
    }

    fn finish(&self) -> u64 {
        // A multiplication moves entropy upward only; the map takes its bucket from the low bits.
        self.0 ^ self.0 >> 32
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::hash::{BuildHasher, BuildHasherDefault};

    use meridian_types::{Partition, TopicId, Uuid};

    use super::IdHasher;

    #[test]
    fn partitions_of_one_topic_spread_over_buckets() {
        let build = BuildHasherDefault::<IdHasher>::default();
        let topic = TopicId(Uuid::from_u128(0x1234_5678));
        let low: BTreeSet<u64> = (0..4096)
            .map(|index| build.hash_one(Partition { topic, index }) & 0xfff)
            .collect();
        assert!(
            low.len() > 2300,
            "random keys fill 63 % of as many buckets, these fill {}",
            low.len()
        );
    }
}
