//! A disk in memory that loses, tears, refuses and rots as told, from a seed.
//!
//! Model: a write puts whole blocks of 4096 bytes, or just its bytes, as it pleases: what precedes them in the first
//! block is written again, what follows them in the last one becomes zeros. A power cut keeps, of what was written
//! since the last sync, any part at 512-byte grain: a later piece may survive where an earlier one did not. Names keep a prefix of their changes since the last
//! `sync_dir`. After a failed sync the written bytes stay visible, but no later sync makes them durable.

use std::collections::BTreeMap;
use std::io::{self, IoSlice};
use std::sync::Arc;

use parking_lot::Mutex;

use crate::disk::{BLOCK_BYTES, Disk, DiskFile, FileEntry};
use crate::frame::mix;

/// What goes wrong with one call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The call fails with an I/O error and does nothing. A failed sync loses what it was to make durable.
    Error,
    /// A write stops half way with an I/O error; other calls fail as with `Error`.
    Short,
    /// A write finds no space and does nothing; other calls fail as with `Error`.
    NoSpace,
    /// Power goes during the call: it may have taken effect in part; every later call fails until the disk is
    /// mounted again.
    PowerCut,
}

/// A call that changes the disk, as told to the hook before it happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskCall {
    /// `Disk::create`.
    Create,
    /// `Disk::rename` or `Disk::remove`.
    Name,
    /// `Disk::sync_dir`.
    SyncDir,
    /// `DiskFile::write_at`, with its bytes.
    Write(usize),
    /// `DiskFile::sync_data`.
    Sync,
}

/// The hook for delays.
pub(crate) type DiskHook = Arc<dyn Fn(DiskCall) + Send + Sync>;

/// The platter: what outlives processes and power cuts. Clones are the same disk.
#[derive(Clone)]
pub struct FaultyDisk {
    state: Arc<Mutex<State>>,
}

struct State {
    random: u64,
    mounts: u64,
    capacity_bytes: u64,
    calls: u64,
    faults: BTreeMap<u64, Fault>,
    next_file: u64,
    files: BTreeMap<u64, Contents>,
    names: BTreeMap<String, u64>,
    durable_names: BTreeMap<String, u64>,
    name_changes: Vec<NameChange>,
    hook: Option<DiskHook>,
}

#[derive(Clone)]
enum NameChange {
    Create(String, u64),
    Rename(String, String),
    Remove(String),
}

struct Contents {
    /// What reads see.
    seen: Vec<u8>,
    /// What survives a power cut for certain.
    durable: Vec<u8>,
    /// Writes since the last sync.
    unsynced: Vec<(usize, Vec<u8>)>,
    /// Open handles: they keep a file without a name.
    handles: usize,
}

const SECTOR_BYTES: usize = 512;

impl FaultyDisk {
    /// An empty disk whose every choice follows from `seed`.
    pub fn seeded(seed: u64) -> Self {
        let state = State {
            random: seed,
            mounts: 0,
            capacity_bytes: u64::MAX,
            calls: 0,
            faults: BTreeMap::new(),
            next_file: 0,
            files: BTreeMap::new(),
            names: BTreeMap::new(),
            durable_names: BTreeMap::new(),
            name_changes: Vec::new(),
            hook: None,
        };
        Self {
            state: Arc::new(Mutex::new(state)),
        }
    }

    /// The directory for one process. Mounting again cuts off whoever had it: their calls fail.
    pub fn mount(&self) -> Arc<dyn Disk> {
        let mut state = self.state.lock();
        state.mounts += 1;
        state.faults.clear();
        Arc::new(Mount {
            state: self.state.clone(),
            mount: state.mounts,
        })
    }

    /// Another disk with what this one shows, all of it durable: an image, or an old state to come back to.
    pub fn image(&self) -> Self {
        let image = Self::seeded(0);
        let state = self.state.lock();
        let mut copy = image.state.lock();
        copy.random = state.random;
        copy.capacity_bytes = state.capacity_bytes;
        copy.next_file = state.next_file;
        copy.names.clone_from(&state.names);
        copy.durable_names.clone_from(&state.names);
        for file in state.names.values() {
            let seen = state.files[file].seen.clone();
            let durable = seen.clone();
            copy.files.insert(
                *file,
                Contents {
                    seen,
                    durable,
                    unsynced: Vec::new(),
                    handles: 0,
                },
            );
        }
        drop(copy);
        image
    }

    /// Ends the process that has the disk mounted; everything written stays visible.
    pub fn kill(&self) {
        self.state.lock().mounts += 1;
    }

    /// Cuts the power: unsynced data and names survive in part.
    pub fn power_cut(&self) {
        self.state.lock().power_cut();
    }

    /// Plans a fault for the `nth` changing call from now, counting from 0.
    pub fn plan(&self, nth: u64, fault: Fault) {
        let mut state = self.state.lock();
        let at = state.calls + nth;
        state.faults.insert(at, fault);
    }

    /// Changing calls so far.
    pub fn calls(&self) -> u64 {
        self.state.lock().calls
    }

    /// Limits the bytes of all files together. Files that exist stay.
    pub fn set_capacity(&self, bytes: u64) {
        self.state.lock().capacity_bytes = bytes;
    }

    /// Rots bits of a file: `byte` is combined with the one at `at` by exclusive or, for good.
    pub fn rot(&self, name: &str, at: u64, byte: u8) {
        let mut state = self.state.lock();
        let Some(contents) = state
            .names
            .get(name)
            .copied()
            .and_then(|file| state.files.get_mut(&file))
        else {
            return;
        };
        let at = usize::try_from(at).expect("files fit memory");
        contents.seen[at] ^= byte;
        contents.durable[at] ^= byte;
    }

    /// Called before every changing call, for delays in a simulation.
    pub fn set_hook(&self, hook: Option<Arc<dyn Fn(DiskCall) + Send + Sync>>) {
        self.state.lock().hook = hook;
    }
}

impl State {
    fn random(&mut self, below: u64) -> u64 {
        self.random = self.random.wrapping_add(1);
        mix(self.random) % below
    }

    fn power_cut(&mut self) {
        self.mounts += 1;
        let kept = self.random(self.name_changes.len() as u64 + 1);
        for change in self
            .name_changes
            .drain(..)
            .take(usize::try_from(kept).expect("at most its length"))
        {
            change.apply(&mut self.durable_names);
        }
        self.names = self.durable_names.clone();
        let numbers: Vec<u64> = self.files.keys().copied().collect();
        for number in numbers {
            if !self.names.values().any(|named| *named == number) {
                self.files.remove(&number);
                continue;
            }
            let style = self.random(4);
            let seed = self.random(u64::MAX);
            let contents = self.files.get_mut(&number).expect("just listed");
            contents.settle(style, seed);
            contents.seen = contents.durable.clone();
        }
    }

    /// Drops files that no name, durable or not, and no handle keeps.
    fn reclaim(&mut self) {
        let (names, durable_names, changes) = (&self.names, &self.durable_names, &self.name_changes);
        let named = |file: &u64| {
            names
                .values()
                .chain(durable_names.values())
                .any(|named| named == file)
                || changes
                    .iter()
                    .any(|change| matches!(change, NameChange::Create(_, created) if created == file))
        };
        self.files
            .retain(|file, contents| contents.handles > 0 || named(file));
    }

    fn used_bytes(&self) -> u64 {
        self.files
            .values()
            .map(|contents| contents.seen.len() as u64)
            .sum()
    }
}

impl NameChange {
    fn apply(self, names: &mut BTreeMap<String, u64>) {
        match self {
            Self::Create(name, file) => {
                names.insert(name, file);
            }
            Self::Rename(from, to) => {
                if let Some(file) = names.remove(&from) {
                    names.insert(to, file);
                }
            }
            Self::Remove(name) => {
                names.remove(&name);
            }
        }
    }
}

impl Contents {
    /// What a write of whole blocks puts, and where.
    fn blocks(&self, at: usize, bytes: &[u8]) -> (usize, Vec<u8>) {
        let (from, end) = (at - at % BLOCK_BYTES, at + bytes.len());
        let padded = end.next_multiple_of(BLOCK_BYTES).min(self.seen.len());
        let mut blocks = self.seen[from..at].to_vec();
        blocks.extend_from_slice(bytes);
        blocks.resize(padded - from, 0);
        (from, blocks)
    }

    /// Lets a part of the unsynced writes reach the platter: none, all, or for each sector the first so many
    /// of the writes that touched it.
    fn settle(&mut self, style: u64, seed: u64) {
        let unsynced = std::mem::take(&mut self.unsynced);
        for (nth, (at, bytes)) in unsynced.iter().enumerate() {
            let mut from = 0;
            while from < bytes.len() {
                let place = at + from;
                let len = (SECTOR_BYTES - place % SECTOR_BYTES).min(bytes.len() - from);
                let sector = (place / SECTOR_BYTES) as u64;
                let kept = match style {
                    0 => 0,
                    1 => unsynced.len() as u64,
                    _ => mix(seed ^ mix(sector)) % (unsynced.len() as u64 + 1),
                };
                if (nth as u64) < kept {
                    self.durable[place..place + len].copy_from_slice(&bytes[from..from + len]);
                }
                from += len;
            }
        }
    }
}

struct Mount {
    state: Arc<Mutex<State>>,
    mount: u64,
}

struct MountedFile {
    mount: Mount,
    file: u64,
}

impl Mount {
    /// The state, if this mount still holds.
    fn look<T>(&self, look: impl FnOnce(&mut State) -> io::Result<T>) -> io::Result<T> {
        let mut state = self.state.lock();
        if state.mounts != self.mount {
            return Err(io::Error::other("the disk is gone"));
        }
        look(&mut state)
    }

    /// Counts a changing call and lets the planned fault, if any, have its way.
    fn change<T>(
        &self,
        call: DiskCall,
        change: impl FnOnce(&mut State, Option<Fault>) -> io::Result<T>,
    ) -> io::Result<T> {
        let hook = self.state.lock().hook.clone();
        if let Some(hook) = hook {
            hook(call);
        }
        self.look(|state| {
            let fault = state.faults.remove(&state.calls);
            state.calls += 1;
            match fault {
                Some(Fault::PowerCut) => {
                    // Before or after: both must be survived.
                    let effect = if state.random(2) == 0 {
                        None
                    } else {
                        Some(change(state, None))
                    };
                    drop(effect);
                    state.power_cut();
                    Err(io::Error::other("the power went"))
                }
                fault => change(state, fault),
            }
        })
    }
}

fn injected() -> io::Error {
    io::Error::other("injected I/O error")
}

impl Disk for Mount {
    fn list(&self) -> io::Result<Vec<FileEntry>> {
        self.look(|state| {
            let entry = |(name, file): (&String, &u64)| FileEntry {
                name: name.clone(),
                bytes: state.files[file].seen.len() as u64,
            };
            Ok(state.names.iter().map(entry).collect())
        })
    }

    fn create(&self, name: &str, bytes: u64) -> io::Result<Arc<dyn DiskFile>> {
        self.change(DiskCall::Create, |state, fault| {
            if state.names.contains_key(name) {
                return Err(io::ErrorKind::AlreadyExists.into());
            }
            if fault.is_some() {
                return Err(injected());
            }
            if state.used_bytes().saturating_add(bytes) > state.capacity_bytes {
                return Err(io::ErrorKind::StorageFull.into());
            }
            let file = state.next_file;
            state.next_file += 1;
            let zeros = vec![0; usize::try_from(bytes).expect("files fit memory")];
            state.files.insert(
                file,
                Contents {
                    seen: zeros.clone(),
                    durable: zeros,
                    unsynced: Vec::new(),
                    handles: 0,
                },
            );
            let change = NameChange::Create(name.to_string(), file);
            change.clone().apply(&mut state.names);
            state.name_changes.push(change);
            Ok(file)
        })
        .map(|file| self.handle(file))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        self.look(|state| {
            state
                .names
                .get(name)
                .copied()
                .ok_or(io::ErrorKind::NotFound.into())
        })
        .map(|file| self.handle(file))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.change(DiskCall::Name, |state, fault| {
            if !state.names.contains_key(from) {
                return Err(io::ErrorKind::NotFound.into());
            }
            if fault.is_some() {
                return Err(injected());
            }
            let change = NameChange::Rename(from.to_string(), to.to_string());
            change.clone().apply(&mut state.names);
            state.name_changes.push(change);
            Ok(())
        })
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.change(DiskCall::Name, |state, fault| {
            if !state.names.contains_key(name) {
                return Err(io::ErrorKind::NotFound.into());
            }
            if fault.is_some() {
                return Err(injected());
            }
            state.names.remove(name);
            // Space comes back when the removal is durable: until then a power cut may bring the file back.
            state.name_changes.push(NameChange::Remove(name.to_string()));
            Ok(())
        })
    }

    fn sync_dir(&self) -> io::Result<()> {
        self.change(DiskCall::SyncDir, |state, fault| {
            if fault.is_some() {
                return Err(injected());
            }
            state.durable_names = state.names.clone();
            state.name_changes.clear();
            state.reclaim();
            Ok(())
        })
    }

    fn free_bytes(&self) -> io::Result<u64> {
        self.look(|state| Ok(state.capacity_bytes.saturating_sub(state.used_bytes())))
    }
}

impl Mount {
    fn handle(&self, file: u64) -> Arc<dyn DiskFile> {
        if let Some(contents) = self.state.lock().files.get_mut(&file) {
            contents.handles += 1;
        }
        Arc::new(MountedFile {
            mount: Self {
                state: self.state.clone(),
                mount: self.mount,
            },
            file,
        })
    }
}

impl Drop for MountedFile {
    fn drop(&mut self) {
        let mut state = self.mount.state.lock();
        if let Some(contents) = state.files.get_mut(&self.file) {
            contents.handles -= 1;
            state.reclaim();
        }
    }
}

impl MountedFile {
    fn contents<'a>(&self, state: &'a mut State) -> io::Result<&'a mut Contents> {
        state
            .files
            .get_mut(&self.file)
            .ok_or_else(|| io::Error::other("the file is gone"))
    }
}

impl DiskFile for MountedFile {
    fn bytes(&self) -> io::Result<u64> {
        self.mount
            .look(|state| Ok(self.contents(state)?.seen.len() as u64))
    }

    fn write_at(&self, at: u64, parts: &mut [IoSlice<'_>]) -> io::Result<()> {
        let mut bytes: Vec<u8> = parts.iter().flat_map(|part| part.iter().copied()).collect();
        self.mount.change(DiskCall::Write(bytes.len()), |state, fault| {
            match fault {
                None | Some(Fault::Short) => {}
                Some(Fault::NoSpace) => return Err(io::ErrorKind::StorageFull.into()),
                Some(_) => return Err(injected()),
            }
            let blocks = state.random(4) > 0;
            let contents = self.contents(state)?;
            let mut at = usize::try_from(at).expect("files fit memory");
            if at
                .checked_add(bytes.len())
                .is_none_or(|end| end > contents.seen.len())
            {
                return Err(io::Error::other("a write beyond the reserved space"));
            }
            if blocks {
                (at, bytes) = contents.blocks(at, &bytes);
            }
            if fault.is_some() {
                bytes.truncate(bytes.len() / 2);
            }
            contents.seen[at..at + bytes.len()].copy_from_slice(&bytes);
            contents.unsynced.push((at, bytes));
            if fault.is_some() { Err(injected()) } else { Ok(()) }
        })
    }

    fn read_at(&self, at: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.mount.look(|state| {
            let contents = self.contents(state)?;
            let from = usize::try_from(at).unwrap_or(usize::MAX);
            let place = contents.seen.get(from..from.saturating_add(buffer.len()));
            buffer.copy_from_slice(place.ok_or(io::ErrorKind::UnexpectedEof)?);
            Ok(())
        })
    }

    fn sync_data(&self) -> io::Result<()> {
        self.mount.change(DiskCall::Sync, |state, fault| {
            let (style, seed) = (state.random(4), state.random(u64::MAX));
            let contents = self.contents(state)?;
            if fault.is_some() {
                contents.settle(style, seed);
                return Err(injected());
            }
            contents.settle(1, 0);
            Ok(())
        })
    }
}
