//! A checkpoint on its way in, piece by piece, to the disk.

use std::io::IoSlice;
use std::sync::Arc;

use bytes::Bytes;
use meridian_journal::DiskFile;

use crate::checkpoint::{CheckpointStore, Stored};
use crate::rpc::Chunk;

/// The transfer under way, if there is one. A new one takes its place.
#[derive(Default)]
pub(crate) struct Incoming {
    transfer: Option<Transfer>,
}

struct Transfer {
    /// Its term and number, as the leader named it.
    id: (u64, u64),
    file: Arc<dyn DiskFile>,
    file_bytes: u64,
    /// Bytes that are there.
    received: u64,
}

impl Incoming {
    /// Puts a piece where it belongs. Returns the checkpoint with the last one, checked. Blocks.
    ///
    /// Errors, for the leader to read: the transfer must begin anew.
    pub(crate) fn take(&mut self, store: &CheckpointStore, chunk: &Chunk) -> Result<Option<Stored>, String> {
        let taken = self.put(store, chunk);
        if !matches!(taken, Ok(None)) {
            self.transfer = None;
        }
        taken
    }

    fn put(&mut self, store: &CheckpointStore, chunk: &Chunk) -> Result<Option<Stored>, String> {
        let id = (chunk.vote.leader_id.term, chunk.transfer);
        if chunk.at == 0 {
            self.transfer = Some(Transfer {
                id,
                file: store
                    .receive(chunk.file_bytes)
                    .map_err(|error| error.to_string())?,
                file_bytes: chunk.file_bytes,
                received: 0,
            });
        }
        let expected = (id, chunk.file_bytes, chunk.at);
        let transfer = self
            .transfer
            .as_mut()
            .filter(|transfer| (transfer.id, transfer.file_bytes, transfer.received) == expected)
            .ok_or_else(|| {
                format!(
                    "byte {} of transfer {} does not continue anything",
                    chunk.at, chunk.transfer
                )
            })?;
        transfer.write(&chunk.bytes)?;
        if transfer.received < transfer.file_bytes {
            return Ok(None);
        }
        let checked = store
            .received(&transfer.file)
            .map_err(|error| error.to_string())?;
        checked
            .map(Some)
            .map_err(|reason| format!("the checkpoint that arrived is damaged: {reason}"))
    }
}

impl Transfer {
    fn write(&mut self, bytes: &Bytes) -> Result<(), String> {
        self.file
            .write_at(self.received, &mut [IoSlice::new(bytes)])
            .map_err(|error| format!("cannot write the checkpoint: {error}"))?;
        self.received += bytes.len() as u64;
        Ok(())
    }
}
