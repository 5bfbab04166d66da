//! The file being written: frames laid out, written, synced.

use std::io::{self, IoSlice};
use std::sync::Arc;

use crate::directory::DirectoryWriter;
use crate::disk::BLOCK_BYTES;
use crate::file::JournalFile;
use crate::frame::{ALIGN_BYTES, HEADER_BYTES, Header, frame_bytes};
use crate::payload::Payload;
use crate::recovery::{Resumed, listed};

/// The file that frames are added to, and how far it has come.
pub(crate) struct ActiveFile {
    pub(crate) file: Arc<JournalFile>,
    /// End of the frames laid out so far; those not written yet are in `frames`.
    end: u64,
    written: u64,
    synced: u64,
    /// A frame that is laid out proves synced what is before this place.
    proven: u64,
    /// Blocks up to here were written once before.
    zeroed_to: u64,
    directory: DirectoryWriter,
    frames: Vec<Frame>,
}

struct Frame {
    header: [u8; HEADER_BYTES as usize],
    payload: Payload,
}

/// What the file puts into every header.
#[derive(Clone, Copy)]
pub(crate) struct Stamp {
    pub(crate) salt: u64,
    pub(crate) synced_to: u32,
}

impl ActiveFile {
    /// A file with no frames yet.
    pub(crate) fn new(file: Arc<JournalFile>, zeroed_to: u64) -> Self {
        let (directory, frames) = (DirectoryWriter::default(), Vec::new());
        Self {
            file,
            end: 0,
            written: 0,
            synced: 0,
            proven: 0,
            zeroed_to,
            directory,
            frames,
        }
    }

    /// A file that recovery found unsealed, synced up to its end.
    pub(crate) fn resumed(resumed: Resumed) -> Self {
        let (end, directory) = (resumed.end, resumed.directory);
        Self {
            end,
            written: end,
            synced: end,
            directory,
            ..Self::new(resumed.file, end)
        }
    }

    /// End of what is written.
    pub(crate) fn written(&self) -> u64 {
        self.written
    }

    /// Whether a sync is proven by no frame yet.
    pub(crate) fn is_unproven(&self) -> bool {
        self.synced > self.proven
    }

    /// Somebody else synced the file up to here.
    pub(crate) fn synced_behind(&mut self, to: u64) {
        self.synced = self.synced.max(to);
    }

    pub(crate) fn stamp(&self) -> Stamp {
        Stamp {
            salt: self.file.salt,
            synced_to: u32::try_from(self.synced).expect("files are at most 2 GiB"),
        }
    }

    /// Bytes left for frames before the footer, if it were written now with a checkpoint of this length.
    pub(crate) fn room(&self, checkpoint_bytes: u64) -> Option<u64> {
        let footer = frame_bytes(4 + checkpoint_bytes + self.directory.len());
        self.file.bytes.checked_sub(self.end + footer + HEADER_BYTES)
    }

    /// Adds a frame after the last; gives its position. The caller saw to it that there is room.
    pub(crate) fn lay(&mut self, payload: &Payload, header: impl FnOnce(Stamp) -> Header) -> u64 {
        let header = header(self.stamp());
        let at = self.end;
        self.directory.push(&listed(at, &header, true));
        self.end += header.frame_bytes();
        self.proven = self.proven.max(self.synced);
        self.frames.push(Frame {
            header: header.encode(),
            payload: payload.clone(),
        });
        at
    }

    /// The directory of all frames laid out.
    pub(crate) fn directory(&self) -> Vec<u8> {
        self.directory.finish()
    }

    /// Writes the frames laid out, in one call, with zeros ahead of them where the file is fresh. Gives the
    /// bytes of frames written.
    pub(crate) fn write(&mut self) -> io::Result<u64> {
        if self.frames.is_empty() {
            return Ok(0);
        }
        self.zero_ahead()?;
        const PADDING: [u8; ALIGN_BYTES as usize] = [0; ALIGN_BYTES as usize];
        let mut slices = Vec::with_capacity(self.frames.len() * 3);
        for frame in &self.frames {
            slices.push(IoSlice::new(&frame.header));
            slices.extend(frame.payload.parts().iter().map(|part| IoSlice::new(part)));
            let padding = frame.payload.len().next_multiple_of(PADDING.len()) - frame.payload.len();
            if padding > 0 {
                slices.push(IoSlice::new(&PADDING[..padding]));
            }
        }
        self.file.disk_file.write_at(self.written, &mut slices)?;
        self.frames.clear();
        let bytes = self.end - self.written;
        self.written = self.end;
        Ok(bytes)
    }

    /// Writes the last header of a file, at its very end.
    pub(crate) fn write_trailer(&mut self, trailer: &Header) -> io::Result<()> {
        self.file.disk_file.write_at(
            self.file.bytes - HEADER_BYTES,
            &mut [IoSlice::new(&trailer.encode())],
        )
    }

    /// Makes everything written durable.
    pub(crate) fn sync(&mut self) -> io::Result<()> {
        self.file.disk_file.sync_data()?;
        self.synced = self.written;
        Ok(())
    }

    /// Writes zeros behind the frames about to be written, so that the rounds to come write over blocks the
    /// file system has already noted as written.
    fn zero_ahead(&mut self) -> io::Result<()> {
        if self.end < self.zeroed_to || self.zeroed_to >= self.file.bytes {
            return Ok(());
        }
        // The block in which the frames end is written with them.
        let mut at = self.end.next_multiple_of(BLOCK_BYTES as u64);
        let until = (at + ZERO_AHEAD_BYTES).min(self.file.bytes);
        while at < until {
            let mut slices = Vec::new();
            let mut to = at;
            while to < until && slices.len() < 16 {
                let len = usize::try_from((until - to).min(ZEROS.len() as u64)).expect("64 KiB at most");
                slices.push(IoSlice::new(&ZEROS[..len]));
                to += len as u64;
            }
            self.file.disk_file.write_at(at, &mut slices)?;
            at = to;
        }
        self.zeroed_to = until;
        Ok(())
    }
}

/// Zeros written at a time ahead of the frames in a file that was not prepared.
const ZERO_AHEAD_BYTES: u64 = 1 << 20;
static ZEROS: [u8; 64 << 10] = [0; 64 << 10];
