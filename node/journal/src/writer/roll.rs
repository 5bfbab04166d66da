//! From one file to the next: checkpoints, footers, and the order of syncs that recovery relies on.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use meridian_types::{LogPosition, RaftIndex, ShardId};

use super::space::until_space;
use super::{LayError, Writer};
use crate::active::{ActiveFile, Stamp};
use crate::checkpoint::Checkpoint;
use crate::file::{JournalFile, SPARE_NAME, name_of};
use crate::frame::{FrameKind, Header, crc32c, salt_of};
use crate::payload::Payload;
use crate::recovery::encode_footer;
use crate::settings::Durability;

/// Why the writer is still in the same file.
pub(super) enum RollError {
    Full,
    Io(io::Error),
}

impl Writer {
    /// Writes what this opening of the journal begins with. Without room for it, the next file will have it.
    pub(super) fn open_checkpoint(&mut self) -> io::Result<()> {
        match self.checkpoint_in_place() {
            Err(LayError::NoRoom) => match self.roll() {
                Ok(()) => Ok(()),
                Err(RollError::Full) if self.newest > 0 => Ok(()),
                Err(RollError::Full) => Err(io::Error::new(
                    io::ErrorKind::StorageFull,
                    self.shared
                        .queue
                        .full()
                        .map_or_else(String::new, |reason| reason.to_string()),
                )),
                Err(RollError::Io(error)) => Err(error),
            },
            Err(LayError::Io(error)) => Err(error),
            // Nobody waits yet: who starts the journal is told at once.
            Ok(()) => self.write_once().and_then(|()| self.sync()),
        }
    }

    /// Lays out a frame that belongs to no shard. The caller saw to it that it fits.
    pub(super) fn lay_node(&mut self, kind: FrameKind, payload: Bytes, index: u64) -> u64 {
        let bytes = payload.clone();
        self.lay_frame(&Payload::from(payload), |stamp, generation| {
            node_header(kind, stamp, generation, &bytes, index)
        })
    }

    /// Seals the file and goes on in the next. On `Full` nothing has changed.
    pub(super) fn roll(&mut self) -> Result<(), RollError> {
        let number = self.newest + 1;
        // Whatever keeps a file from being made, no data is at stake: it may heal.
        let prepared = self.shared.take_next().map_err(|_| RollError::Full)?;
        if u32::try_from(number).is_err() {
            return Err(RollError::Io(io::Error::other(
                "the journal has used up its file numbers",
            )));
        }
        self.seal().map_err(RollError::Io)?;
        let into = || {
            until_space(&self.shared.queue, || {
                self.shared.disk.rename(SPARE_NAME, &name_of(number))
            })?;
            self.shared.disk.sync_dir()
        };
        into().map_err(RollError::Io)?;
        self.shared.next_taken();
        let file = Arc::new(JournalFile {
            number,
            salt: salt_of(self.shared.journal_id, number),
            bytes: prepared.bytes,
            disk_file: prepared.disk_file,
        });
        self.newest = number;
        self.active = Some(ActiveFile::new(file.clone(), prepared.zeroed_to));
        let begin = match self.checkpoint_in_place() {
            Ok(()) => self.write().and_then(|()| self.sync()),
            Err(LayError::Io(error)) => Err(error),
            Err(LayError::NoRoom) => Err(io::Error::other(
                "the checkpoint of all shards does not fit into a file: raise journal.file_bytes",
            )),
        };
        begin.map_err(RollError::Io)?;
        // Only now may older files go: what they say about votes and purges is durable here.
        self.shared.files.insert(file);
        self.shared.poke_keeper();
        Ok(())
    }

    pub(super) fn checkpoint_in_place(&mut self) -> Result<(), LayError> {
        if !self.fits(self.checkpoint_bytes_max, false) {
            return Err(LayError::NoRoom);
        }
        let payload = self.encode_checkpoint();
        self.lay_node(FrameKind::Checkpoint, payload.into(), 0);
        Ok(())
    }

    fn encode_checkpoint(&mut self) -> Vec<u8> {
        for (shard, mark) in &mut self.marks {
            if let Some(state) = self.shared.known_shard(*shard) {
                mark.released = state.lock().released;
            }
        }
        Checkpoint::encode(self.shared.journal_id, self.newest, &self.marks)
    }

    /// Ends the active file with its footer, durably. Whatever durability is set: a file with a successor is
    /// synced, recovery relies on it.
    fn seal(&mut self) -> io::Result<()> {
        let Some(active) = &self.active else { return Ok(()) };
        let directory = active.directory();
        let footer = encode_footer(&self.encode_checkpoint(), &directory);
        let at = self.lay_node(FrameKind::Footer, footer.into(), 0);
        self.write()?;
        if let Some(active) = &mut self.active {
            let stamp = active.stamp();
            let trailer = node_header(FrameKind::Trailer, stamp, self.generation, &[], at);
            until_space(&self.shared.queue, || active.write_trailer(&trailer))?;
        }
        let memory = self.shared.settings.durability == Durability::Memory;
        if memory {
            self.shared.begin_sync();
        }
        self.sync()?;
        if memory {
            self.shared.end_sync();
        }
        Ok(())
    }
}

fn node_header(kind: FrameKind, stamp: Stamp, generation: u32, payload: &[u8], index: u64) -> Header {
    Header {
        salt: stamp.salt,
        generation,
        kind,
        flags: 0,
        shard: ShardId(0),
        payload_len: u32::try_from(payload.len()).expect("bounded by the file"),
        payload_crc: crc32c(payload),
        synced_to: stamp.synced_to,
        sequence: 0,
        position: LogPosition {
            index: RaftIndex(index),
            ..LogPosition::default()
        },
    }
}
