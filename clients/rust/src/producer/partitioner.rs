//! Which partition a record goes to. Pure.

use crate::backoff::split_mix;

/// Kafka's Murmur2, so that a key goes where the Java client sends it.
pub fn murmur2(data: &[u8]) -> u32 {
    const SEED: u32 = 0x9747_b28c;
    const M: u32 = 0x5bd1_e995;
    let mut hash = SEED ^ data.len() as u32;
    let mut chunks = data.chunks_exact(4);
    for chunk in &mut chunks {
        let mut k = u32::from_le_bytes(chunk.try_into().expect("chunks of four bytes"));
        k = k.wrapping_mul(M);
        k ^= k >> 24;
        k = k.wrapping_mul(M);
        hash = hash.wrapping_mul(M) ^ k;
    }
    let rest = chunks.remainder();
    if !rest.is_empty() {
        for (index, byte) in rest.iter().enumerate() {
            hash ^= u32::from(*byte) << (8 * index);
        }
        hash = hash.wrapping_mul(M);
    }
    hash ^= hash >> 13;
    hash = hash.wrapping_mul(M);
    hash ^ (hash >> 15)
}

/// The partition of a key, as the Java client chooses it. `count` is not 0: a topic has partitions.
pub(super) fn partition_of_key(key: &[u8], count: usize) -> u32 {
    let count = u32::try_from(count.max(1)).unwrap_or(u32::MAX);
    (murmur2(key) & 0x7fff_ffff) % count
}

/// Keeps records without key on one partition until a batch is full, so that batches are large (KIP-480, KIP-794).
#[derive(Clone, Debug, Default)]
pub(super) struct StickyPartitioner {
    current: Option<u32>,
    bytes: usize,
    seed: u64,
}

impl StickyPartitioner {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            seed,
            ..Self::default()
        }
    }

    /// The partition for a record of `size` bytes. Partitions for which `is_available` is false are left out,
    /// unless none is available.
    pub(super) fn next(
        &mut self,
        count: usize,
        batch_bytes: usize,
        size: usize,
        is_available: impl Fn(u32) -> bool,
    ) -> u32 {
        let count = u32::try_from(count.max(1)).unwrap_or(u32::MAX);
        let is_full = self.bytes + size > batch_bytes;
        if let Some(current) = self.current.filter(|current| *current < count && !is_full) {
            self.bytes += size;
            return current;
        }
        self.seed = split_mix(self.seed);
        let start = (self.seed % u64::from(count)) as u32;
        let chosen = (0..count)
            .map(|step| ((u64::from(start) + u64::from(step)) % u64::from(count)) as u32)
            .filter(|partition| count == 1 || Some(*partition) != self.current)
            .find(|partition| is_available(*partition))
            .unwrap_or(start);
        self.current = Some(chosen);
        self.bytes = size;
        chosen
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_hash_as_in_the_java_client() {
        // From Kafka's UtilsTest.testMurmur2.
        for (key, hash) in [
            ("21", -973_932_308),
            ("foobar", -790_332_482),
            ("a-little-bit-long-string", -985_981_536),
            ("a-little-bit-longer-string", -1_486_304_829),
            ("lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58_897_971),
            ("abc", 479_470_107),
        ] {
            assert_eq!(murmur2(key.as_bytes()).cast_signed(), hash, "{key}");
        }
    }

    #[test]
    fn records_without_key_stay_until_the_batch_is_full_and_reach_every_partition() {
        let mut sticky = StickyPartitioner::new(3);
        let mut seen = [0; 4];
        let mut previous = None;
        for _ in 0..200 {
            let first = sticky.next(4, 100, 50, |_| true);
            assert_eq!(sticky.next(4, 100, 50, |_| true), first, "the batch has room");
            assert_ne!(Some(first), previous, "a full batch ends the stay");
            previous = Some(first);
            seen[first as usize] += 1;
        }
        assert!(seen.iter().all(|count| *count > 20), "{seen:?}");
    }

    #[test]
    fn a_partition_without_leader_is_left_out_unless_all_are() {
        let mut sticky = StickyPartitioner::new(1);
        for _ in 0..50 {
            assert_ne!(sticky.next(3, 0, 1, |partition| partition != 1), 1);
        }
        assert!(sticky.next(3, 0, 1, |_| false) < 3);
    }
}
