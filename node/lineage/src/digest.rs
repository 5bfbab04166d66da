//! The running digest over a log's content.

/// A digest over every content command so far, in their order. Equal digests at equal sequences prove equal content.
///
/// Each step is a bijection of what came before and of the word added, so one changed word always shows; several
/// meet by chance, one time in 2^64. It guards against faults, not against somebody who wants to deceive: that is
/// what the link's TLS is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ContentDigest(pub u64);

impl ContentDigest {
    /// Before the first content command.
    pub const EMPTY: Self = Self(0xcbf2_9ce4_8422_2325);

    /// With one more word.
    #[must_use]
    pub fn mix(self, word: u64) -> Self {
        let mixed = (self.0.rotate_left(23) ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        Self(mixed ^ mixed >> 32)
    }

    /// With a byte string, its length included.
    #[must_use]
    pub fn mix_bytes(self, bytes: &[u8]) -> Self {
        let digest = self.mix(bytes.len() as u64);
        bytes.chunks(8).fold(digest, |digest, chunk| {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            digest.mix(u64::from_le_bytes(word))
        })
    }
}

impl Default for ContentDigest {
    fn default() -> Self {
        Self::EMPTY
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_single_bit_and_every_order_shows() {
        let words = [0_u64, 1, u64::MAX, 0x0123_4567_89ab_cdef];
        let digest = |words: &[u64]| words.iter().fold(ContentDigest::EMPTY, |d, word| d.mix(*word)).0;
        let mut seen = BTreeSet::from([digest(&words)]);
        for at in 0..words.len() {
            for bit in 0..64 {
                let mut other = words;
                other[at] ^= 1 << bit;
                assert!(seen.insert(digest(&other)), "word {at} bit {bit}");
            }
        }
        assert!(seen.insert(digest(&[1, 0, u64::MAX, words[3]])));
        assert!(seen.insert(digest(&words[..3])));
    }

    #[test]
    fn bytes_are_held_with_their_length() {
        let of = |bytes: &[u8]| ContentDigest::EMPTY.mix_bytes(bytes);
        assert_ne!(of(b"ab\0"), of(b"ab"));
        assert_ne!(of(b""), ContentDigest::EMPTY);
        assert_ne!(of(b"").mix_bytes(b"a"), of(b"a").mix_bytes(b""));
        assert_eq!(of(b"123456789"), of(b"123456789"));
    }
}
