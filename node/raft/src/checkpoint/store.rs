//! The checkpoint files of one shard.

use std::collections::BTreeSet;
use std::io::{self, IoSlice};
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use meridian_journal::{Disk, DiskFile};
use meridian_types::{LogPosition, NodeId, RaftIndex, ShardId};
use parking_lot::Mutex;
use thiserror::Error;

use super::ladder;
use super::{Head, Stored, frame};
use crate::codec;
use crate::config::Membership;

const SUFFIX: &str = ".checkpoint";
/// Further ending of a checkpoint that proved damaged.
const DAMAGED: &str = ".damaged";

/// Why checkpoints cannot be read or written.
#[derive(Debug, Error)]
pub enum CheckpointError {
    /// The disk failed. A read may be retried; what a failed write left behind is written over by the next.
    #[error("checkpoint {name}: {source}")]
    Io {
        /// The file.
        name: String,
        /// What the system said.
        source: io::Error,
    },
    /// The log does not begin at its first entry, and no readable checkpoint holds what came before. Restore this node
    /// from its peers or the bucket.
    #[error("no readable checkpoint of shard {shard}: {reason}")]
    Damaged {
        /// The shard.
        shard: ShardId,
        /// What is wrong.
        reason: String,
    },
}

/// The checkpoints of one shard on this node's disk. All calls block.
pub struct CheckpointStore {
    disk: Arc<dyn Disk>,
    shard: ShardId,
    /// Held while names change.
    changing: Mutex<()>,
}

impl CheckpointStore {
    /// The checkpoints of `shard` in the directory of `disk`, which other shards may share.
    pub fn new(disk: Arc<dyn Disk>, shard: ShardId) -> Self {
        Self {
            disk,
            shard,
            changing: Mutex::new(()),
        }
    }

    /// Removes every checkpoint of the shard, for a replica that is no longer kept on this node.
    pub fn clear(&self) -> Result<(), CheckpointError> {
        let _changing = self.changing.lock();
        let prefix = format!("{}-", self.shard);
        for file in self.disk.list().map_err(|source| self.failed("(list)", source))? {
            if file.name.starts_with(&prefix) {
                self.remove(&file.name)?;
            }
        }
        self.disk
            .sync_dir()
            .map_err(|source| self.failed("(sync)", source))
    }

    /// Makes the checkpoint that a group begins with whose log is lost: `state` as of `at`, and these voters. Its log
    /// begins behind it. For a directory without checkpoints of the shard.
    pub fn begin(
        &self,
        at: LogPosition,
        voters: &BTreeSet<NodeId>,
        state: &[Bytes],
    ) -> Result<(), CheckpointError> {
        let voters: BTreeSet<u64> = voters.iter().map(|node| node.0.into()).collect();
        let mut membership = BytesMut::new();
        codec::put_membership(
            &mut membership,
            &Membership::new_with_defaults(vec![voters.clone()], voters),
        );
        let head = Head {
            position: at,
            membership_position: Some(at),
            membership: membership.freeze(),
        };
        self.save(&head, state, None)
    }

    /// For the group's start: the newest readable checkpoint that a log which begins after `purged` continues, with
    /// its state; `None` when the log alone makes the state. Damaged ones are set aside, and what a crash left of
    /// an unfinished one is removed.
    pub(crate) fn load(&self, purged: Option<RaftIndex>) -> Result<Option<(Stored, Bytes)>, CheckpointError> {
        let _changing = self.changing.lock();
        self.remove_if_there(&self.unfinished())?;
        self.remove_if_there(&self.incoming())?;
        let mut newest_problem = None;
        for (index, name) in self.names()?.into_iter().rev() {
            if Some(index) < purged {
                break;
            }
            let reason = match self.read(&name)? {
                Ok(loaded) if loaded.0.head.position.index == index => return Ok(Some(loaded)),
                Ok(_) => "it holds another position than its name".to_owned(),
                Err(reason) => reason,
            };
            tracing::error!(shard = %self.shard, name, reason, "a checkpoint is damaged, trying the one before");
            self.rename(&name, &format!("{name}{DAMAGED}"))?;
            newest_problem.get_or_insert(format!("{name}: {reason}"));
        }
        let Some(purged) = purged else {
            return Ok(None);
        };
        let problem = newest_problem.unwrap_or_else(|| "there is none".to_owned());
        Err(CheckpointError::Damaged {
            shard: self.shard,
            reason: format!("{problem}; the log begins after {purged}"),
        })
    }

    /// Indexes of the checkpoints, oldest first.
    pub(crate) fn kept(&self) -> Result<Vec<RaftIndex>, CheckpointError> {
        Ok(self.names()?.into_iter().map(|(index, _)| index).collect())
    }

    /// The newest checkpoint whose head can be read.
    pub(crate) fn newest(&self) -> Result<Option<Stored>, CheckpointError> {
        self.first_usable(self.names()?.into_iter().rev())
    }

    /// What a replica that begins empty is given: the oldest that a log which begins after `purged` continues.
    pub(crate) fn base(&self, purged: Option<RaftIndex>) -> Result<Option<Stored>, CheckpointError> {
        let names = self.names()?.into_iter();
        self.first_usable(names.filter(|(index, _)| Some(*index) >= purged))
    }

    /// Makes a checkpoint durable, then removes those that need not be kept for a log which begins after `purged`.
    pub(crate) fn save(
        &self,
        head: &Head,
        state: &[Bytes],
        purged: Option<RaftIndex>,
    ) -> Result<(), CheckpointError> {
        let _changing = self.changing.lock();
        let name = self.name(head.position.index);
        let unfinished = self.unfinished();
        let (start, end) = frame(self.shard, head, state);
        let state_bytes: usize = state.iter().map(Bytes::len).sum();
        let bytes = start.len() + head.membership.len() + state_bytes + end.len();
        let file = self.create(&unfinished, bytes as u64)?;
        let mut parts = vec![IoSlice::new(&start), IoSlice::new(&head.membership)];
        parts.extend(state.iter().map(|piece| IoSlice::new(piece)));
        parts.push(IoSlice::new(&end));
        let written = file.write_at(0, &mut parts).and_then(|()| file.sync_data());
        written.map_err(|source| self.failed(&name, source))?;
        self.rename(&unfinished, &name)?;
        self.prune(purged)
    }

    /// An empty file of `bytes` for a checkpoint that another replica sends.
    pub(crate) fn receive(&self, bytes: u64) -> Result<Arc<dyn DiskFile>, CheckpointError> {
        self.create(&self.incoming(), bytes)
    }

    /// The checkpoint that was received, synced and checked; the inner error says what is wrong with it.
    pub(crate) fn received(
        &self,
        file: &Arc<dyn DiskFile>,
    ) -> Result<Result<Stored, String>, CheckpointError> {
        let name = self.incoming();
        let checked = file
            .sync_data()
            .and_then(|()| Stored::open(self.shard, name.clone(), Arc::clone(file)))
            .and_then(|opened| match opened {
                Ok(stored) => Ok(stored.verify()?.map(|()| stored)),
                Err(reason) => Ok(Err(reason)),
            });
        checked.map_err(|source| self.failed(&name, source))
    }

    /// Makes an installed checkpoint one of the kept: a received one by its name, any other by a copy.
    pub(crate) fn adopt(
        &self,
        stored: &Stored,
        state: &Bytes,
        purged: Option<RaftIndex>,
    ) -> Result<(), CheckpointError> {
        if stored.name != self.incoming() {
            return self.save(&stored.head, std::slice::from_ref(state), purged);
        }
        let _changing = self.changing.lock();
        self.rename(&stored.name, &self.name(stored.head.position.index))?;
        self.prune(purged)
    }

    /// Takes a damaged checkpoint out of use; its bytes stay beside, under another ending.
    pub(crate) fn set_aside(&self, stored: &Stored) -> Result<(), CheckpointError> {
        let _changing = self.changing.lock();
        self.rename(&stored.name, &format!("{}{DAMAGED}", stored.name))
    }

    fn name(&self, index: RaftIndex) -> String {
        format!("{}-{index:020}{SUFFIX}", self.shard)
    }

    fn unfinished(&self) -> String {
        format!("{}-unfinished", self.shard)
    }

    fn incoming(&self) -> String {
        format!("{}-incoming", self.shard)
    }

    /// Names of this shard's checkpoints, oldest first.
    fn names(&self) -> Result<Vec<(RaftIndex, String)>, CheckpointError> {
        let files = self.disk.list().map_err(|source| self.failed("(list)", source))?;
        let prefix = format!("{}-", self.shard);
        let mut names: Vec<_> = files
            .into_iter()
            .filter_map(|file| {
                let index = file
                    .name
                    .strip_prefix(&prefix)?
                    .strip_suffix(SUFFIX)?
                    .parse()
                    .ok()?;
                Some((RaftIndex(index), file.name))
            })
            .collect();
        names.sort();
        Ok(names)
    }

    fn first_usable(
        &self,
        names: impl Iterator<Item = (RaftIndex, String)>,
    ) -> Result<Option<Stored>, CheckpointError> {
        for (_, name) in names {
            match self.open(&name) {
                Ok(Ok(stored)) => return Ok(Some(stored)),
                Ok(Err(reason)) => {
                    tracing::error!(shard = %self.shard, name, reason, "a checkpoint cannot be read");
                }
                // Removed since it was listed.
                Err(CheckpointError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    fn open(&self, name: &str) -> Result<Result<Stored, String>, CheckpointError> {
        let opened = self
            .disk
            .open(name)
            .and_then(|file| Stored::open(self.shard, name.to_owned(), file));
        opened.map_err(|source| self.failed(name, source))
    }

    fn read(&self, name: &str) -> Result<Result<(Stored, Bytes), String>, CheckpointError> {
        let stored = match self.open(name)? {
            Ok(stored) => stored,
            Err(reason) => return Ok(Err(reason)),
        };
        let state = stored.state().map_err(|source| self.failed(name, source))?;
        Ok(state.map(|state| (stored, state)))
    }

    /// A full disk or an abandoned transfer may have left a file of this name behind.
    fn create(&self, name: &str, bytes: u64) -> Result<Arc<dyn DiskFile>, CheckpointError> {
        self.remove_if_there(name)?;
        self.disk
            .create(name, bytes)
            .map_err(|source| self.failed(name, source))
    }

    fn rename(&self, from: &str, to: &str) -> Result<(), CheckpointError> {
        self.disk
            .rename(from, to)
            .and_then(|()| self.disk.sync_dir())
            .map_err(|source| self.failed(to, source))
    }

    fn remove_if_there(&self, name: &str) -> Result<(), CheckpointError> {
        let files = self.disk.list().map_err(|source| self.failed(name, source))?;
        match files.iter().any(|file| file.name == name) {
            true => self.remove(name),
            false => Ok(()),
        }
    }

    fn remove(&self, name: &str) -> Result<(), CheckpointError> {
        self.disk.remove(name).map_err(|source| self.failed(name, source))
    }

    fn prune(&self, purged: Option<RaftIndex>) -> Result<(), CheckpointError> {
        for index in ladder::surplus(&self.kept()?, purged) {
            self.remove(&self.name(index))?;
        }
        Ok(())
    }

    fn failed(&self, name: &str, source: io::Error) -> CheckpointError {
        let name = match name.strip_prefix('(') {
            Some(_) => format!("of shard {} {name}", self.shard),
            None => name.to_owned(),
        };
        CheckpointError::Io { name, source }
    }
}

/// Makes a checkpoint durable on a thread that may block.
pub(crate) async fn save(
    store: Arc<CheckpointStore>,
    head: Head,
    state: Vec<Bytes>,
    purged: Option<RaftIndex>,
) -> io::Result<()> {
    crate::blocking::blocking(move || store.save(&head, &state, purged))
        .await
        .map_err(io::Error::other)?
        .map_err(io::Error::other)
}
