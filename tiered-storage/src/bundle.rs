//! The format of the objects that hold batches. Pure; drawn in `docs/formats/bundle.md`.
//!
//! A bundle holds runs of several partitions' batches: frames of about 1 MiB, cut between batches and compressed
//! unless the batches are, one partition after the other; then a footer, the directory of the frames; then a trailer
//! that tells where the footer begins. Un-framed, the batches are bit by bit what the producers sent.

use bytes::Bytes;
use meridian_types::{Offset, Partition, TimestampMs};
use meridian_wire::batch::CompressionError;
use thiserror::Error;

use crate::manifest::{NewExtent, NewObject, ObjectName};

mod footer;
mod frame;
#[cfg(test)]
mod tests;
mod writer;

pub use footer::{Footer, FooterPartition, FooterPlace};
pub use frame::{check_frame, unframe};
pub(crate) use frame::{check_stored, windows};
pub use writer::{BundleLimits, BundleWriter, PushError};

/// The version that [`BundleWriter`] writes.
pub const BUNDLE_VERSION: u8 = 1;

/// Bytes in front of the first frame.
pub const HEAD_BYTES: u64 = 8;

/// Bytes behind the footer.
pub const TRAILER_BYTES: u64 = 16;

/// No frame is longer, stored or not: a batch of 100 MiB, and room.
pub const FRAME_BYTES_MAX: u32 = 256 << 20;

pub(crate) const MAGIC: [u8; 4] = *b"MTBN";

/// The first bytes of every bundle.
pub(crate) const HEAD: [u8; HEAD_BYTES as usize] =
    [MAGIC[0], MAGIC[1], MAGIC[2], MAGIC[3], BUNDLE_VERSION, 0, 0, 0];

/// How a frame is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Codec {
    /// As it is: its batches are compressed already, or do not compress.
    Raw = 0,
    /// As one zstd frame.
    Zstd = 1,
}

impl Codec {
    pub(crate) fn from_code(code: u8) -> Option<Self> {
        [Self::Raw, Self::Zstd]
            .into_iter()
            .find(|codec| *codec as u8 == code)
    }
}

/// One frame of a bundle, as its footer describes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Where it begins in the object.
    pub at: u64,
    /// Its bytes in the object.
    pub stored_len: u32,
    /// Bytes of its batches.
    pub raw_len: u32,
    /// How it is stored.
    pub codec: Codec,
    /// CRC32C of its bytes in the object.
    pub crc: u32,
    /// Its first offset: where the frame before ends. After compaction possibly one without a record.
    pub base_offset: Offset,
    /// The offset behind its last batch.
    pub end_offset: Offset,
    /// Greatest timestamp of its batches.
    pub max_timestamp: TimestampMs,
    /// Records in its batches.
    pub records: u64,
}

impl Frame {
    /// Its place in the object.
    pub fn range(&self) -> std::ops::Range<u64> {
        self.at..self.at + u64::from(self.stored_len)
    }
}

/// A bundle, ready to be uploaded.
#[derive(Clone, Debug)]
pub struct Bundle {
    /// The object, as parts to be joined; they share memory with the batches where frames are stored raw.
    pub parts: Vec<Bytes>,
    /// Length of the object.
    pub bytes: u64,
    /// Where its footer begins.
    pub footer_at: u64,
    /// CRC32C of the footer, from `footer_at` to the trailer.
    pub footer_crc: u32,
    /// What it holds, by partition.
    pub extents: Vec<(Partition, NewExtent)>,
}

impl Bundle {
    /// What the manifest is told of it.
    pub fn object(&self, name: ObjectName) -> NewObject {
        NewObject {
            name,
            bytes: self.bytes,
            footer_at: self.footer_at,
            footer_crc: self.footer_crc,
        }
    }

    /// Where its footer lies.
    pub fn footer_place(&self) -> FooterPlace {
        FooterPlace {
            footer_at: self.footer_at,
            footer_crc: self.footer_crc,
        }
    }
}

/// Bytes of the bucket that are not what was written: damage, or another object. Serve nothing of it; the rest of the
/// bundle may be whole.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum BundleError {
    /// The bytes end too early.
    #[error("bundle is cut short: {have_bytes} bytes of {need_bytes}")]
    Truncated {
        /// Bytes needed.
        need_bytes: u64,
        /// Bytes there are.
        have_bytes: u64,
    },
    /// Not a bundle.
    #[error("not a bundle: it lacks the mark \"MTBN\"")]
    Magic,
    /// Written by a newer version of Meridian. Use that version.
    #[error("bundle has format version {version}; this version of Meridian reads up to {BUNDLE_VERSION}")]
    Version {
        /// The version found.
        version: u8,
    },
    /// A checksum does not match.
    #[error("bundle is corrupt: the {part} at byte {at} has CRC32C {computed:#010x}, not {expected:#010x}")]
    Checksum {
        /// What is damaged.
        part: &'static str,
        /// Where it begins in the object.
        at: u64,
        /// The checksum it should have.
        expected: u32,
        /// The one it has.
        computed: u32,
    },
    /// A frame does not decompress.
    #[error("bundle is corrupt: the frame at byte {at}: {error}")]
    Compression {
        /// Where the frame begins in the object.
        at: u64,
        /// What the codec found.
        error: CompressionError,
    },
    /// What it says cannot be.
    #[error("bundle is malformed: {what}")]
    Malformed {
        /// What is wrong.
        what: String,
    },
}

pub(crate) fn malformed(what: impl Into<String>) -> BundleError {
    BundleError::Malformed { what: what.into() }
}

/// Checks a whole bundle in memory: every byte, every batch. Returns its directory.
pub fn check_bundle(bytes: &Bytes) -> Result<Footer, BundleError> {
    if bytes.len() < HEAD.len() {
        return Err(BundleError::Truncated {
            need_bytes: HEAD_BYTES,
            have_bytes: bytes.len() as u64,
        });
    }
    check_head(bytes)?;
    let place = FooterPlace::of_object(bytes)?;
    let footer_at =
        usize::try_from(place.footer_at).map_err(|_| malformed("the footer lies beyond the object"))?;
    let footer = Footer::decode(&bytes[footer_at..], place)?;
    for frame in footer.frames() {
        let range = frame.range();
        let raw = unframe(frame, &bytes.slice(range.start as usize..range.end as usize))?;
        check_frame(frame, &raw)?;
    }
    Ok(footer)
}

/// Checks the first [`HEAD_BYTES`] of an object.
pub fn check_head(bytes: &[u8]) -> Result<(), BundleError> {
    let Some(head) = bytes.first_chunk::<{ HEAD_BYTES as usize }>() else {
        return Err(BundleError::Truncated {
            need_bytes: HEAD_BYTES,
            have_bytes: bytes.len() as u64,
        });
    };
    if head[..4] != MAGIC {
        return Err(BundleError::Magic);
    }
    if head[4] != BUNDLE_VERSION {
        return Err(BundleError::Version { version: head[4] });
    }
    if *head != HEAD {
        return Err(malformed("the reserved bytes of its head are not zero"));
    }
    Ok(())
}
