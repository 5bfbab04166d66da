//! The stand-alone copy of a shard's manifest in the bucket: what replay, verify and restore begin with. Pure.
//!
//! Drawn in `docs/formats/manifest-file.md`. Written by the shard's leader beside each copy of its state; the committed
//! manifest in the shard's own state stays the truth, and this is that manifest as of one index.

use meridian_types::{Offset, Partition, RaftIndex, ShardId, Term, TimestampMs, TopicId, Uuid};
use thiserror::Error;

use crate::codec::crc32c;
use crate::manifest::{Manifest, ManifestError};

const MAGIC: &[u8; 8] = b"MRDNMAN1";

/// Bytes in front of the log starts: magic, shard, term, index, written at, number of log starts.
const HEAD_BYTES: usize = 8 + 4 + 8 + 8 + 8 + 4;

/// A log start: topic, partition, offset.
const LOG_START_BYTES: usize = 16 + 4 + 8;

/// A shard's manifest as of one place of its log.
#[derive(Clone, Debug, PartialEq)]
pub struct ManifestFile {
    /// The shard.
    pub shard: ShardId,
    /// Term of the leader that wrote it.
    pub term: Term,
    /// Last entry of the shard's log that it knows.
    pub index: RaftIndex,
    /// When it was written, by its writer's clock.
    pub written_at: TimestampMs,
    /// Where the log of each partition that has extents starts, by partition. Records below are deleted, though their
    /// extent may still be there: extents go whole.
    pub log_starts: Vec<(Partition, Offset)>,
    /// The manifest.
    pub manifest: Manifest,
}

/// A manifest file cannot be read: another object was taken for one, or it is damaged. Take an older one.
#[derive(Debug, Error)]
pub enum ManifestFileError {
    /// Not a manifest file of a version known here.
    #[error(
        "it does not begin with {:?}: it is no manifest file, or one of a newer version",
        String::from_utf8_lossy(MAGIC)
    )]
    Magic,
    /// It ends early, or is longer than its fields.
    #[error("it has {have_bytes} bytes where its fields take {need_bytes}")]
    Length {
        /// Bytes that its fields take, as far as they can be read.
        need_bytes: u64,
        /// Bytes that are there.
        have_bytes: u64,
    },
    /// It is damaged.
    #[error("its CRC32C is {stored:#010x}, its bytes give {computed:#010x}")]
    Crc {
        /// The checksum at its end.
        stored: u32,
        /// What the bytes give.
        computed: u32,
    },
    /// The manifest in it cannot be read.
    #[error("its manifest cannot be read: {0}")]
    Manifest(#[from] ManifestError),
}

impl ManifestFile {
    /// Key of a new file: `<cluster>/<shard>/manifest/<index, 20 digits>-<id>.manifest`, below the bucket's prefix. The
    /// newest sorts last.
    pub fn key(cluster: &str, shard: ShardId, index: u64, id: Uuid) -> String {
        format!("{}{index:020}-{id}.manifest", Self::prefix(cluster, shard))
    }

    /// What the keys of all manifest files of a shard begin with.
    pub fn prefix(cluster: &str, shard: ShardId) -> String {
        format!("{cluster}/{shard}/manifest/")
    }

    /// Where the log of `partition` starts; 0 when it is not named.
    pub fn log_start(&self, partition: Partition) -> Offset {
        self.log_starts
            .binary_search_by_key(&partition, |(partition, _)| *partition)
            .map_or(Offset(0), |found| self.log_starts[found].1)
    }

    /// The file's bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut manifest = Vec::new();
        self.manifest.encode(&mut manifest);
        let mut out =
            Vec::with_capacity(HEAD_BYTES + self.log_starts.len() * LOG_START_BYTES + 8 + manifest.len() + 4);
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&self.shard.0.to_le_bytes());
        out.extend_from_slice(&self.term.0.to_le_bytes());
        out.extend_from_slice(&self.index.0.to_le_bytes());
        out.extend_from_slice(&self.written_at.0.to_le_bytes());
        out.extend_from_slice(&(self.log_starts.len() as u32).to_le_bytes());
        for (partition, offset) in &self.log_starts {
            out.extend_from_slice(partition.topic.0.as_bytes());
            out.extend_from_slice(&partition.index.to_le_bytes());
            out.extend_from_slice(&offset.0.to_le_bytes());
        }
        out.extend_from_slice(&(manifest.len() as u64).to_le_bytes());
        out.extend_from_slice(&manifest);
        let crc = crc32c(&out);
        out.extend_from_slice(&crc.to_le_bytes());
        out
    }

    /// Reads a file.
    pub fn decode(bytes: &[u8]) -> Result<Self, ManifestFileError> {
        let mut rest = Fields { bytes, at: 0 };
        if rest.take(MAGIC.len())? != MAGIC {
            return Err(ManifestFileError::Magic);
        }
        let shard = ShardId(rest.u32()?);
        let term = Term(rest.u64()?);
        let index = RaftIndex(rest.u64()?);
        let written_at = TimestampMs(rest.u64()? as i64);
        let count = rest.u32()? as usize;
        // What is announced must be there before memory is taken for it.
        let mut starts = Fields {
            bytes: rest.take(count.saturating_mul(LOG_START_BYTES))?,
            at: 0,
        };
        let mut log_starts = Vec::with_capacity(count);
        for _ in 0..count {
            let topic = TopicId(Uuid::from_bytes(starts.array()?));
            let index = starts.u32()?;
            log_starts.push((Partition { topic, index }, Offset(starts.u64()?)));
        }
        let length = rest.u64()?;
        let manifest = rest.take(usize::try_from(length).unwrap_or(usize::MAX))?;
        let computed = crc32c(&bytes[..rest.at]);
        let stored = rest.u32()?;
        if rest.at != bytes.len() {
            return Err(rest.length(rest.at as u64));
        }
        if stored != computed {
            return Err(ManifestFileError::Crc { stored, computed });
        }
        log_starts.sort_unstable_by_key(|(partition, _)| *partition);
        Ok(Self {
            shard,
            term,
            index,
            written_at,
            log_starts,
            manifest: Manifest::decode(manifest)?,
        })
    }
}

/// Little-endian fields in a row.
struct Fields<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Fields<'a> {
    fn take(&mut self, len: usize) -> Result<&'a [u8], ManifestFileError> {
        let end = self.at.saturating_add(len);
        let taken = self
            .bytes
            .get(self.at..end)
            .ok_or_else(|| self.length(end as u64))?;
        self.at = end;
        Ok(taken)
    }

    fn array<const LEN: usize>(&mut self) -> Result<[u8; LEN], ManifestFileError> {
        let taken = self.take(LEN)?;
        Ok(std::array::from_fn(|at| taken[at]))
    }

    fn u32(&mut self) -> Result<u32, ManifestFileError> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, ManifestFileError> {
        self.array().map(u64::from_le_bytes)
    }

    fn length(&self, need_bytes: u64) -> ManifestFileError {
        ManifestFileError::Length {
            need_bytes,
            have_bytes: self.bytes.len() as u64,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture;
    use crate::manifest::{NewExtent, NewObject, ObjectName};

    fn file() -> ManifestFile {
        let partition = |index| Partition {
            topic: TopicId(Uuid::from_u128(7)),
            index,
        };
        let name = ObjectName {
            term: Term(5),
            id: Uuid::from_u128(11),
        };
        let object = NewObject {
            name,
            bytes: 1000,
            footer_at: 900,
            footer_crc: 1,
        };
        let extent = |frame| NewExtent {
            base_offset: Offset(10),
            end_offset: Offset(40),
            frame,
            raw_bytes: 700,
            stored_bytes: 400,
            max_timestamp: TimestampMs(1_700_000_000_000),
            records: 30,
        };
        let mut manifest = Manifest::default();
        manifest
            .add_bundle(
                0,
                RaftIndex(990),
                object,
                &[(partition(0), extent(0)), (partition(4), extent(1))],
                |_| Some(Offset(10)),
                TimestampMs(0),
            )
            .unwrap();
        ManifestFile {
            shard: ShardId(3),
            term: Term(5),
            index: RaftIndex(1000),
            written_at: TimestampMs(1_700_000_000_000),
            log_starts: vec![(partition(0), Offset(17)), (partition(4), Offset(10))],
            manifest,
        }
    }

    #[test]
    fn version_1_is_what_was_stored() {
        fixture::assert("manifest-file-v1.bin", &file().encode());
    }

    #[test]
    fn a_file_comes_back() {
        let file = file();
        let bytes = file.encode();
        let read = ManifestFile::decode(&bytes).unwrap();
        assert_eq!(read, file);
        assert_eq!(read.log_start(file.log_starts[0].0), Offset(17));
        let other = Partition {
            topic: TopicId(Uuid::from_u128(8)),
            index: 0,
        };
        assert_eq!(read.log_start(other), Offset(0));
    }

    #[test]
    fn every_damage_is_noticed() {
        let bytes = file().encode();
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 0x40;
            assert!(ManifestFile::decode(&damaged).is_err(), "byte {at}");
            assert!(ManifestFile::decode(&bytes[..at]).is_err(), "cut at {at}");
        }
        let longer = [bytes.as_slice(), b"x"].concat();
        assert!(matches!(
            ManifestFile::decode(&longer),
            Err(ManifestFileError::Length { .. })
        ));
    }

    #[test]
    fn keys_sort_by_index() {
        let id = Uuid::from_u128(9);
        let key = |index| ManifestFile::key("c", ShardId(3), index, id);
        assert!(key(9) < key(10));
        assert_eq!(
            key(10),
            format!("c/3/manifest/00000000000000000010-{id}.manifest")
        );
        assert!(key(10).starts_with(&ManifestFile::prefix("c", ShardId(3))));
    }
}
