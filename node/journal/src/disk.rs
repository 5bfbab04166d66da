//! The seam to the disk, and the real one.

use std::fs::{File, OpenOptions};
use std::io::{self, IoSlice};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use rustix::fs::{FallocateFlags, FlockOperation, OFlags};

/// A file of the directory.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FileEntry {
    /// Its name in the directory.
    pub name: String,
    /// Its length in bytes.
    pub bytes: u64,
}

/// One flat directory of files, at the level of what a journal does. All calls block.
///
/// What must hold: after `sync_data` the file's bytes survive a power cut; after `sync_dir` all names do.
/// Before that, any 512-byte piece written and any change of names may or may not survive.
pub trait Disk: Send + Sync {
    /// All files, in any order.
    fn list(&self) -> io::Result<Vec<FileEntry>>;
    /// Makes a file of `bytes` zeros whose space is reserved: later writes inside it cannot fail for
    /// lack of space. Fails when the name exists, or with `StorageFull`, leaving nothing behind.
    fn create(&self, name: &str, bytes: u64) -> io::Result<Arc<dyn DiskFile>>;
    /// Opens a file for reading and writing.
    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>>;
    /// Gives a file another name, replacing what had it. Open handles stay good.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    /// Removes a name. Open handles stay good.
    fn remove(&self, name: &str) -> io::Result<()>;
    /// Makes names durable.
    fn sync_dir(&self) -> io::Result<()>;
    /// Bytes that new files may take.
    fn free_bytes(&self) -> io::Result<u64>;
}

/// An open file of fixed length. One handle at a time writes to a file.
pub trait DiskFile: Send + Sync {
    /// Its length in bytes.
    fn bytes(&self) -> io::Result<u64>;
    /// Writes all parts one after another from `at` on.
    ///
    /// Whole blocks of 4096 bytes may be written. What precedes the parts in the first block stays as it is, also
    /// across a power cut, because it is written over with the same bytes; what follows them in the last block
    /// **may become zeros**. On error any piece may have been written.
    fn write_at(&self, at: u64, parts: &mut [IoSlice<'_>]) -> io::Result<()>;
    /// Fills `buffer` from `at` on; `UnexpectedEof` when the file ends before.
    fn read_at(&self, at: u64, buffer: &mut [u8]) -> io::Result<()>;
    /// Makes all written bytes durable. After an error nothing may be assumed and nothing retried.
    fn sync_data(&self) -> io::Result<()>;
}

/// A directory of the file system, held by this process alone through a lock file.
#[derive(Debug)]
pub struct RealDisk {
    path: PathBuf,
    directory: File,
    /// Absent when opened for looking.
    _lock: Option<File>,
    staging: Arc<Mutex<Staging>>,
}

const LOCK_NAME: &str = "lock";

impl RealDisk {
    /// Opens the directory, making it first if need be, and locks it.
    ///
    /// Errors: `ResourceBusy` when another process has it.
    pub fn open(path: impl AsRef<Path>) -> io::Result<Self> {
        let path = path.as_ref().to_path_buf();
        std::fs::create_dir_all(&path)?;
        if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            // The new directory's own name must survive a power cut too.
            File::open(parent)?.sync_all()?;
        }
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(path.join(LOCK_NAME))?;
        rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive).map_err(|error| match error {
            rustix::io::Errno::WOULDBLOCK => io::Error::new(
                io::ErrorKind::ResourceBusy,
                format!(
                    "{} is in use by another process: stop it or choose another directory",
                    path.display()
                ),
            ),
            other => other.into(),
        })?;
        Ok(Self {
            directory: File::open(&path)?,
            path,
            _lock: Some(lock),
            staging: Arc::default(),
        })
    }

    /// Opens an existing directory without locking it: for looking, also while a node runs.
    pub fn open_unlocked(path: impl AsRef<Path>) -> io::Result<Self> {
        let path = path.as_ref().to_path_buf();
        Ok(Self {
            directory: File::open(&path)?,
            path,
            _lock: None,
            staging: Arc::default(),
        })
    }

    fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    fn writable(&self, buffered: File, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let bytes = buffered.metadata()?.len();
        let flags = i32::try_from(OFlags::DIRECT.bits()).unwrap_or(0);
        let direct = OpenOptions::new().write(true).custom_flags(flags).open(path);
        Ok(Arc::new(RealFile {
            buffered,
            direct: direct.ok().map(|file| Direct {
                file,
                bytes: bytes - bytes % BLOCK_BYTES as u64,
                tail: Mutex::default(),
                staging: self.staging.clone(),
            }),
        }))
    }
}

impl Disk for RealDisk {
    fn list(&self) -> io::Result<Vec<FileEntry>> {
        let mut files = Vec::new();
        for entry in std::fs::read_dir(&self.path)? {
            let entry = entry?;
            let metadata = match entry.metadata() {
                Ok(metadata) => metadata,
                // Somebody else has removed it or given it another name meanwhile.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            let name = entry
                .file_name()
                .into_string()
                .ok()
                .filter(|name| name != LOCK_NAME);
            if let (true, Some(name)) = (metadata.is_file(), name) {
                files.push(FileEntry {
                    name,
                    bytes: metadata.len(),
                });
            }
        }
        Ok(files)
    }

    fn create(&self, name: &str, bytes: u64) -> io::Result<Arc<dyn DiskFile>> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .open(self.file(name))?;
        reserve(&file, bytes).inspect_err(|_| {
            // Half a file would hold the space that is missing; failing to remove it is for the next open.
            let _ = std::fs::remove_file(self.file(name));
        })?;
        self.writable(file, &self.file(name))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let path = self.file(name);
        if self._lock.is_none() {
            let buffered = File::open(&path)?;
            return Ok(Arc::new(RealFile {
                buffered,
                direct: None,
            }));
        }
        let file = OpenOptions::new().read(true).write(true).open(&path)?;
        self.writable(file, &path)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        std::fs::rename(self.file(from), self.file(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        std::fs::remove_file(self.file(name))
    }

    fn sync_dir(&self) -> io::Result<()> {
        self.directory.sync_all()
    }

    fn free_bytes(&self) -> io::Result<u64> {
        let stat = rustix::fs::fstatvfs(&self.directory)?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }
}

/// Reserves space by `fallocate`, or by writing zeros where the file system does not know it.
fn reserve(file: &File, bytes: u64) -> io::Result<()> {
    match rustix::fs::fallocate(file, FallocateFlags::empty(), 0, bytes) {
        Ok(()) => {}
        Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => {
            let zeros = vec![0; 1 << 20];
            let mut at = 0;
            while at < bytes {
                let len = (bytes - at).min(zeros.len() as u64);
                file.write_all_at(&zeros[..usize::try_from(len).expect("at most 1 MiB")], at)?;
                at += len;
            }
        }
        Err(error) => return Err(error.into()),
    }
    // The length must survive a power cut before anything inside is called durable.
    file.sync_all()
}

/// Alignment of place, length and memory of a direct write; every device takes it.
pub(crate) const BLOCK_BYTES: usize = 4096;
/// The most parts that one system call takes on Linux.
const IOV_MAX: usize = 1024;
/// Bytes of one direct write at most.
const STAGING_BYTES: usize = 1 << 20;

/// A file that is written past the page cache (O_DIRECT) in whole blocks, and read through it.
///
/// A round then costs one copy in user space, one write and one flush: fresh pages of the cache are what made
/// buffered writing expensive (half of all CPU time at 300 MB/s).
struct RealFile {
    buffered: File,
    /// Absent where the file system cannot do it.
    direct: Option<Direct>,
}

struct Direct {
    file: File,
    /// Whole blocks only: the file must not grow.
    bytes: u64,
    /// The block in which the last write ended: the next write goes on in it without reading it.
    tail: Mutex<Option<Tail>>,
    staging: Arc<Mutex<Staging>>,
}

struct Tail {
    at: u64,
    block: Box<[u8]>,
}

/// Memory aligned as the device wants it, for all files of a disk.
#[derive(Default)]
struct Staging(Vec<u8>);

impl Staging {
    fn aligned(&mut self) -> &mut [u8] {
        self.0.resize(STAGING_BYTES + BLOCK_BYTES, 0);
        let from = self.0.as_ptr().align_offset(BLOCK_BYTES);
        &mut self.0[from..from + STAGING_BYTES]
    }
}

impl std::fmt::Debug for Staging {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Staging").field(&self.0.len()).finish()
    }
}

impl RealFile {
    fn write_buffered(&self, mut at: u64, mut parts: &mut [IoSlice<'_>]) -> io::Result<()> {
        while !parts.is_empty() {
            let count = parts.len().min(IOV_MAX);
            let written = match rustix::io::pwritev(&self.buffered, &parts[..count], at) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => written,
                Err(rustix::io::Errno::INTR) => continue,
                Err(error) => return Err(error.into()),
            };
            at += written as u64;
            IoSlice::advance_slices(&mut parts, written);
        }
        Ok(())
    }

    /// Writes whole blocks: the first with what is in it before `at`, the last filled up with zeros.
    fn write_direct(&self, direct: &Direct, at: u64, parts: &[IoSlice<'_>], bytes: usize) -> io::Result<()> {
        let into_block = usize::try_from(at % BLOCK_BYTES as u64).expect("less than a block");
        let mut place = at - into_block as u64;
        let mut tail = direct.tail.lock();
        // Whatever is written over is known no longer, also if the write fails.
        let known = tail.take_if(|tail| (place..at + bytes as u64).contains(&tail.at));
        if let ([part], 0) = (parts, into_block)
            && part.as_ptr().addr().is_multiple_of(BLOCK_BYTES)
            && bytes.is_multiple_of(BLOCK_BYTES)
        {
            return direct.file.write_all_at(part, at);
        }
        let mut staging = direct.staging.lock();
        let staging = staging.aligned();
        if into_block > 0 {
            let before = &mut staging[..into_block];
            match known.filter(|tail| tail.at == place) {
                Some(tail) => before.copy_from_slice(&tail.block[..into_block]),
                None => self.buffered.read_exact_at(before, place)?,
            }
        }
        let mut source = Source { parts, inside: 0 };
        let (mut filled, mut left) = (into_block, bytes);
        while left > 0 {
            let end = (filled + left).min(STAGING_BYTES);
            source.copy(&mut staging[filled..end]);
            left -= end - filled;
            let padded = end.next_multiple_of(BLOCK_BYTES);
            staging[end..padded].fill(0);
            direct.file.write_all_at(&staging[..padded], place)?;
            place += padded as u64;
            if end < padded {
                *tail = Some(Tail {
                    at: place - BLOCK_BYTES as u64,
                    block: staging[padded - BLOCK_BYTES..padded].into(),
                });
            }
            filled = 0;
        }
        Ok(())
    }
}

/// Reads from parts as if they were one.
struct Source<'a, 'b> {
    parts: &'a [IoSlice<'b>],
    /// Bytes of the first part that are gone.
    inside: usize,
}

impl Source<'_, '_> {
    /// Fills `to`; the parts must hold that much.
    fn copy(&mut self, mut to: &mut [u8]) {
        while !to.is_empty() {
            let part = &self.parts[0][self.inside..];
            let count = part.len().min(to.len());
            let (now, later) = to.split_at_mut(count);
            now.copy_from_slice(&part[..count]);
            to = later;
            self.inside += count;
            if self.inside == self.parts[0].len() {
                self.parts = &self.parts[1..];
                self.inside = 0;
            }
        }
    }
}

impl DiskFile for RealFile {
    fn bytes(&self) -> io::Result<u64> {
        Ok(self.buffered.metadata()?.len())
    }

    fn write_at(&self, at: u64, parts: &mut [IoSlice<'_>]) -> io::Result<()> {
        let bytes = parts.iter().map(|part| part.len()).sum::<usize>();
        let Some(direct) = &self.direct else {
            return self.write_buffered(at, parts);
        };
        if (at + bytes as u64).next_multiple_of(BLOCK_BYTES as u64) <= direct.bytes {
            self.write_direct(direct, at, parts, bytes)
        } else {
            *direct.tail.lock() = None;
            self.write_buffered(at, parts)
        }
    }

    fn read_at(&self, at: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.buffered.read_exact_at(buffer, at)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.buffered.sync_data()
    }
}
