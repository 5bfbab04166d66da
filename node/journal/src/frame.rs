//! The frame: a 64-byte header and a payload padded to 8 bytes. Drawn in `docs/formats/journal.md`.

use meridian_types::{LogPosition, RaftIndex, ShardId, Term};

/// Bytes of a frame's header.
pub(crate) const HEADER_BYTES: u64 = 64;
/// Frames begin at multiples of this.
pub(crate) const ALIGN_BYTES: u64 = 8;
/// First four bytes of every frame: the name and version of the format.
pub(crate) const MAGIC: [u8; 4] = *b"MJL1";
/// Flag of a truncation: nothing is left above the purged entries.
pub(crate) const FLAG_EMPTY: u8 = 1;

/// No term or index is higher: arithmetic on them cannot overflow.
pub(crate) const POSITION_MAX: u64 = u64::MAX / 2;

/// What a frame says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum FrameKind {
    /// An entry of a shard's log.
    Entry = 1,
    /// The vote of a shard, opaque.
    Vote = 2,
    /// Entries above `position` no longer belong to the shard's log.
    Truncate = 3,
    /// Raft no longer needs entries up to `position`.
    Purge = 4,
    /// The shard's log, vote and damage are forgotten.
    Reset = 5,
    /// State of all shards at this place.
    Checkpoint = 6,
    /// Nothing, but its `synced_to` proves what was synced.
    Marker = 7,
    /// State of all shards and the directory of the file; no frame but the trailer follows.
    Footer = 8,
    /// In the last 64 bytes of a sealed file: `index` is the position of the footer.
    Trailer = 9,
}

impl FrameKind {
    pub(crate) fn from_code(code: u8) -> Option<Self> {
        use FrameKind::*;
        [
            Entry, Vote, Truncate, Purge, Reset, Checkpoint, Marker, Footer, Trailer,
        ]
        .into_iter()
        .find(|kind| *kind as u8 == code)
    }

    /// Whether it belongs to a shard and carries the shard's sequence number.
    pub(crate) fn of_shard(self) -> bool {
        (self as u8) <= Self::Reset as u8
    }
}

/// A frame's header, decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) salt: u64,
    pub(crate) generation: u32,
    pub(crate) kind: FrameKind,
    pub(crate) flags: u8,
    pub(crate) shard: ShardId,
    pub(crate) payload_len: u32,
    pub(crate) payload_crc: u32,
    pub(crate) synced_to: u32,
    pub(crate) sequence: u64,
    pub(crate) position: LogPosition,
}

impl Header {
    pub(crate) fn encode(&self) -> [u8; HEADER_BYTES as usize] {
        let mut bytes = [0; HEADER_BYTES as usize];
        bytes[0..4].copy_from_slice(&MAGIC);
        bytes[8..16].copy_from_slice(&self.salt.to_le_bytes());
        bytes[16..20].copy_from_slice(&self.generation.to_le_bytes());
        bytes[20] = self.kind as u8;
        bytes[21] = self.flags;
        bytes[24..28].copy_from_slice(&self.shard.0.to_le_bytes());
        bytes[28..32].copy_from_slice(&self.payload_len.to_le_bytes());
        bytes[32..36].copy_from_slice(&self.payload_crc.to_le_bytes());
        bytes[36..40].copy_from_slice(&self.synced_to.to_le_bytes());
        bytes[40..48].copy_from_slice(&self.sequence.to_le_bytes());
        bytes[48..56].copy_from_slice(&self.position.term.0.to_le_bytes());
        bytes[56..64].copy_from_slice(&self.position.index.0.to_le_bytes());
        let crc = crc32c(&bytes[8..]);
        bytes[4..8].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// `None` unless these are the 64 bytes of a whole header of the file with this `salt`.
    pub(crate) fn decode(bytes: &[u8], salt: u64) -> Option<Self> {
        Self::decode_any(bytes).filter(|header| header.salt == salt)
    }

    /// Like `decode`, of any file.
    pub(crate) fn decode_any(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; HEADER_BYTES as usize] = bytes.get(..HEADER_BYTES as usize)?.try_into().ok()?;
        if bytes[0..4] != MAGIC || u32_at(bytes, 4) != crc32c(&bytes[8..]) {
            return None;
        }
        if u64_at(bytes, 40).max(u64_at(bytes, 48)).max(u64_at(bytes, 56)) > POSITION_MAX {
            return None;
        }
        Some(Self {
            salt: u64_at(bytes, 8),
            generation: u32_at(bytes, 16),
            kind: FrameKind::from_code(bytes[20])?,
            flags: bytes[21],
            shard: ShardId(u32_at(bytes, 24)),
            payload_len: u32_at(bytes, 28),
            payload_crc: u32_at(bytes, 32),
            synced_to: u32_at(bytes, 36),
            sequence: u64_at(bytes, 40),
            position: LogPosition {
                term: Term(u64_at(bytes, 48)),
                index: RaftIndex(u64_at(bytes, 56)),
            },
        })
    }

    /// The header that these 64 bytes were before one of their bits flipped.
    pub(crate) fn decode_flipped(bytes: &mut [u8; HEADER_BYTES as usize], salt: u64) -> Option<Self> {
        (0..bytes.len() * 8).find_map(|bit| {
            let flip = 1 << (bit % 8);
            bytes[bit / 8] ^= flip;
            let header = Self::decode(bytes, salt);
            bytes[bit / 8] ^= flip;
            header
        })
    }

    /// Bytes of the whole frame, padding included.
    pub(crate) fn frame_bytes(&self) -> u64 {
        frame_bytes(u64::from(self.payload_len))
    }
}

/// Bytes of a frame with such a payload, padding included.
pub(crate) fn frame_bytes(payload_len: u64) -> u64 {
    HEADER_BYTES + payload_len.next_multiple_of(ALIGN_BYTES)
}

pub(crate) fn crc32c(bytes: &[u8]) -> u32 {
    crc_fast::crc32_iscsi(bytes)
}

/// CRC32C of parts as if they were one buffer.
pub(crate) fn crc32c_parts<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> u32 {
    let mut parts = parts.into_iter();
    let Some(first) = parts.next() else {
        return crc32c(&[]);
    };
    let Some(second) = parts.next() else {
        return crc32c(first);
    };
    let mut digest = Crc::new();
    digest.update(first);
    digest.update(second);
    parts.for_each(|part| digest.update(part));
    digest.finish()
}

/// A CRC32C taken piece by piece.
pub(crate) struct Crc(crc_fast::Digest);

impl Crc {
    pub(crate) fn new() -> Self {
        Self(crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc32Iscsi))
    }

    pub(crate) fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    pub(crate) fn finish(&self) -> u32 {
        u32::try_from(self.0.finalize()).expect("a CRC32C has 32 bits")
    }
}

/// The salt of a file: differs between files and journals, so that a frame left over from the file's
/// earlier life, or made up inside a record, is never taken for one of this file.
pub(crate) fn salt_of(journal_id: u64, file: u64) -> u64 {
    mix(journal_id ^ mix(file))
}

/// SplitMix64's finalizer.
pub(crate) fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> Header {
        Header {
            salt: salt_of(7, 3),
            generation: 2,
            kind: FrameKind::Entry,
            flags: 0,
            shard: ShardId(5),
            payload_len: 13,
            payload_crc: 99,
            synced_to: 4096,
            sequence: 17,
            position: LogPosition {
                term: Term(4),
                index: RaftIndex(12),
            },
        }
    }

    #[test]
    fn header_survives_encoding() {
        assert_eq!(Header::decode(&header().encode(), salt_of(7, 3)), Some(header()));
        assert_eq!(header().frame_bytes(), 80);
    }

    #[test]
    fn no_flipped_bit_and_no_other_file_passes_for_a_header() {
        let bytes = header().encode();
        for bit in 0..bytes.len() * 8 {
            let mut bad = bytes;
            bad[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Header::decode(&bad, salt_of(7, 3)), None, "bit {bit}");
            assert_eq!(
                Header::decode_flipped(&mut bad, salt_of(7, 3)),
                Some(header()),
                "bit {bit}"
            );
            assert_eq!(Header::decode_flipped(&mut bad, salt_of(7, 4)), None, "bit {bit}");
            bad[(bit / 8 + 1) % 64] ^= 4;
            assert_eq!(
                Header::decode_flipped(&mut bad, salt_of(7, 3)),
                None,
                "bit {bit} and another"
            );
        }
        assert_eq!(Header::decode(&bytes, salt_of(7, 4)), None);
        assert_eq!(Header::decode(&bytes[..63], salt_of(7, 3)), None);
    }

    #[test]
    fn crc_of_parts_is_crc_of_the_whole() {
        let whole = b"123456789";
        assert_eq!(crc32c(whole), 0xe306_9283);
        for parts in [
            vec![&whole[..]],
            vec![&whole[..4], &whole[4..]],
            vec![&whole[..1], &whole[1..5], &whole[5..]],
        ] {
            assert_eq!(crc32c_parts(parts), 0xe306_9283);
        }
    }
}
