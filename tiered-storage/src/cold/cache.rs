//! Where frames stay: in memory, and if wanted on a local disk behind it. Both are foyer's.

use std::io::{Read, Write};
use std::path::PathBuf;

use bytes::Bytes;
use foyer::{
    BlockEngineConfig, Cache, CacheBuilder, Code, DeviceBuilder, FsDeviceBuilder, HybridCache,
    HybridCacheBuilder, HybridCachePolicy,
};
use meridian_types::Uuid;
use thiserror::Error;

/// Frames are spread over so many parts of the memory, each with its own lock.
const MEMORY_SHARDS: usize = 8;

/// The local disk is used in files of this size; a frame must fit one.
const DISK_BLOCK_BYTES: usize = 16 << 20;

/// Least disk that makes sense: some blocks to write to while others are emptied.
const DISK_BYTES_MIN: u64 = 8 * DISK_BLOCK_BYTES as u64;

/// Largest frame that is read back from the disk.
const FRAME_BYTES_MAX: u64 = 1 << 30;

/// How much of what was read from the bucket stays.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CacheSettings {
    /// Memory for frames.
    pub memory_bytes: usize,
    /// Local disk behind the memory.
    pub disk: Option<DiskCache>,
    /// Bytes that may be on their way from the store at a time, packed and unpacked ones counted.
    pub in_flight_bytes_max: usize,
}

/// A local disk that holds frames which were read from the bucket. Its contents survive a restart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskCache {
    /// A directory of its own; made if it is not there.
    pub directory: PathBuf,
    /// How much of the disk it takes: at least 128 MiB.
    pub bytes: u64,
}

impl Default for CacheSettings {
    /// 64 MiB of memory, no disk, 64 MiB on their way.
    fn default() -> Self {
        Self {
            memory_bytes: 64 << 20,
            disk: None,
            in_flight_bytes_max: 64 << 20,
        }
    }
}

/// The cache cannot be opened. Correct the settings.
#[derive(Debug, Error)]
pub enum OpenCacheError {
    /// Too little disk.
    #[error("the disk cache has {bytes} bytes; it needs at least {min}", min = DISK_BYTES_MIN)]
    TooSmall {
        /// What the settings say.
        bytes: u64,
    },
    /// The directory cannot be used.
    #[error("the disk cache in {} cannot be opened: {message}", directory.display())]
    Disk {
        /// The directory.
        directory: PathBuf,
        /// What is wrong with it.
        message: String,
    },
}

/// A frame of a bundle: keys of bundles are unique for ever, so what was read under one stays true.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct FrameKey {
    pub(super) object: Uuid,
    pub(super) frame: u32,
}

/// The batches of a frame, one behind the other, unpacked.
#[derive(Clone, Debug)]
pub(super) struct Batches(Bytes);

pub(super) enum FrameCache {
    Memory(Cache<FrameKey, Batches>),
    Hybrid(HybridCache<FrameKey, Batches>),
}

impl FrameCache {
    pub(super) async fn open(settings: &CacheSettings) -> Result<Self, OpenCacheError> {
        let weigh = |_: &FrameKey, batches: &Batches| batches.0.len() + size_of::<(FrameKey, Batches)>();
        let Some(disk) = &settings.disk else {
            let cache = CacheBuilder::new(settings.memory_bytes)
                .with_shards(MEMORY_SHARDS)
                .with_weighter(weigh)
                .build();
            return Ok(Self::Memory(cache));
        };
        if disk.bytes < DISK_BYTES_MIN {
            return Err(OpenCacheError::TooSmall { bytes: disk.bytes });
        }
        let failed = |error: foyer::Error| OpenCacheError::Disk {
            directory: disk.directory.clone(),
            message: error.to_string(),
        };
        let capacity = usize::try_from(disk.bytes).unwrap_or(usize::MAX);
        let device = FsDeviceBuilder::new(&disk.directory)
            .with_capacity(capacity)
            .build()
            .map_err(failed)?;
        let cache = HybridCacheBuilder::new()
            .with_name("meridian-cold")
            // What is evicted from memory is on the disk already, so that eviction never waits for it.
            .with_policy(HybridCachePolicy::WriteOnInsertion)
            .with_flush_on_close(false)
            .memory(settings.memory_bytes)
            .with_shards(MEMORY_SHARDS)
            .with_weighter(weigh)
            .storage()
            .with_engine_config(BlockEngineConfig::new(device).with_block_size(DISK_BLOCK_BYTES))
            .build()
            .await
            .map_err(failed)?;
        Ok(Self::Hybrid(cache))
    }

    /// A frame that is in memory.
    pub(super) fn in_memory(&self, key: &FrameKey) -> Option<Bytes> {
        match self {
            Self::Memory(cache) => cache.get(key).map(|entry| entry.value().0.clone()),
            Self::Hybrid(cache) => cache.memory().get(key).map(|entry| entry.value().0.clone()),
        }
    }

    /// A frame that is on the disk. A disk that fails is a cache without the frame.
    pub(super) async fn on_disk(&self, key: &FrameKey) -> Option<Bytes> {
        match self {
            Self::Memory(_) => None,
            Self::Hybrid(cache) => match cache.get(key).await {
                Ok(entry) => entry.map(|entry| entry.value().0.clone()),
                Err(error) => {
                    tracing::warn!(%error, "the disk cache cannot be read");
                    None
                }
            },
        }
    }

    pub(super) fn insert(&self, key: FrameKey, batches: Bytes) {
        match self {
            Self::Memory(cache) => drop(cache.insert(key, Batches(batches))),
            Self::Hybrid(cache) => drop(cache.insert(key, Batches(batches))),
        }
    }

    /// Waits until what was inserted is on the disk, and closes it.
    pub(super) async fn close(&self) {
        if let Self::Hybrid(cache) = self
            && let Err(error) = cache.close().await
        {
            tracing::warn!(%error, "the disk cache did not close");
        }
    }
}

impl Code for FrameKey {
    fn encode(&self, writer: &mut impl Write) -> foyer::Result<()> {
        writer
            .write_all(self.object.as_bytes())
            .and_then(|()| writer.write_all(&self.frame.to_le_bytes()))
            .map_err(foyer::Error::io_error)
    }

    fn decode(reader: &mut impl Read) -> foyer::Result<Self> {
        let (mut object, mut frame) = ([0; 16], [0; 4]);
        reader
            .read_exact(&mut object)
            .and_then(|()| reader.read_exact(&mut frame))
            .map_err(foyer::Error::io_error)?;
        Ok(Self {
            object: Uuid::from_bytes(object),
            frame: u32::from_le_bytes(frame),
        })
    }

    fn estimated_size(&self) -> usize {
        20
    }
}

impl Code for Batches {
    fn encode(&self, writer: &mut impl Write) -> foyer::Result<()> {
        writer
            .write_all(&(self.0.len() as u64).to_le_bytes())
            .and_then(|()| writer.write_all(&self.0))
            .map_err(foyer::Error::io_error)
    }

    fn decode(reader: &mut impl Read) -> foyer::Result<Self> {
        let mut length = [0; 8];
        reader.read_exact(&mut length).map_err(foyer::Error::io_error)?;
        let length = u64::from_le_bytes(length);
        let too_long =
            || std::io::Error::new(std::io::ErrorKind::InvalidData, "a frame of impossible length");
        if length > FRAME_BYTES_MAX {
            return Err(foyer::Error::io_error(too_long()));
        }
        // Grows as bytes come, whatever the length says.
        let mut bytes = Vec::new();
        let read = reader
            .take(length)
            .read_to_end(&mut bytes)
            .map_err(foyer::Error::io_error)?;
        if read as u64 != length {
            return Err(foyer::Error::io_error(std::io::ErrorKind::UnexpectedEof.into()));
        }
        Ok(Self(bytes.into()))
    }

    fn estimated_size(&self) -> usize {
        8 + self.0.len()
    }
}
