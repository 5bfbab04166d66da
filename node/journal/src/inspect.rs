//! Looks at a journal's files without changing them: for `journal inspect` and `journal verify`.

use std::collections::BTreeMap;
use std::sync::Arc;

use meridian_types::{LogPosition, ShardId};

use crate::checkpoint::Checkpoint;
use crate::directory::{DirectoryWriter, Listed};
use crate::disk::Disk;
use crate::error::{Damage, OpenError};
use crate::file::{ID_NAME, JournalFile, name_of, number_of};
pub use crate::frame::FrameKind;
use crate::frame::Header;
use crate::recovery::{failed, id_of_files, listed, read_footer, read_id};
use crate::replay::Replay;
use crate::scan::{Knowledge, Scanned, scan};
use crate::shard_log::ShardLog;

/// Something found, in the order of files and positions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finding {
    /// A file begins.
    File {
        /// Its number.
        number: u64,
        /// Its name in the directory.
        name: String,
        /// Its length in bytes.
        bytes: u64,
        /// It ends in a good footer.
        sealed: bool,
    },
    /// A frame.
    Frame(FrameInfo),
    /// Something that must not be.
    Problem(Problem),
}

/// A frame's header, and whether its payload holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameInfo {
    /// Number of the file.
    pub file: u64,
    /// Where the frame begins in it, in bytes.
    pub at: u64,
    /// What it says.
    pub kind: FrameKind,
    /// Whose it is; `None` for frames of the node.
    pub shard: Option<ShardId>,
    /// Number of the frame among its shard's, from 1.
    pub sequence: u64,
    /// Term and index, for the kinds that have one.
    pub position: LogPosition,
    /// Bytes of the payload.
    pub payload_bytes: u32,
    /// Which opening of the journal wrote it.
    pub generation: u32,
    /// Bytes of this file known to be synced when it was written.
    pub synced_to: u32,
    /// The payload matches its checksum.
    pub payload_ok: bool,
}

/// A defect. None of these comes from a crash or a power cut alone, but `TornTail`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// Expected after a crash: the last write did not finish. It was never acknowledged.
    #[error("file {file:016x} at {at}: a torn write at the end, never acknowledged")]
    TornTail {
        /// Number of the file.
        file: u64,
        /// Where it begins.
        at: u64,
    },
    /// The header holds, the payload does not.
    #[error("file {file:016x} at {at}: the payload does not match its checksum")]
    Payload {
        /// Number of the file.
        file: u64,
        /// The frame.
        at: u64,
    },
    /// Bytes that were synced are no frames.
    #[error("file {file:016x}: {at}..{end} is unreadable")]
    Unreadable {
        /// Number of the file.
        file: u64,
        /// First byte.
        at: u64,
        /// First byte after it.
        end: u64,
    },
    /// A file with a successor must end in a footer. Its frames are read one by one instead.
    #[error("file {file:016x}: the footer is missing or damaged")]
    Footer {
        /// Number of the file.
        file: u64,
    },
    /// A number between two files is not there.
    #[error("file {file:016x} is missing")]
    MissingFile {
        /// Its number.
        file: u64,
    },
}

impl Problem {
    /// Whether a crash explains it, so that nothing acknowledged is concerned.
    pub fn is_harmless(&self) -> bool {
        matches!(self, Self::TornTail { .. })
    }
}

/// What there was in all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Files.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Frames.
    pub frames: u64,
    /// Problems, harmless ones not counted.
    pub problems: u64,
    /// Every shard's log as opening would recover it, with its damage.
    pub shards: BTreeMap<ShardId, ShardLog>,
    /// Damage of every shard whatever.
    pub damaged: Option<Damage>,
}

/// How far a walk has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Bytes looked at.
    pub done_bytes: u64,
    /// Bytes there are.
    pub total_bytes: u64,
}

/// Walks all files and frames and checks every payload. Never writes. Works beside a running node too, where the
/// end may be in motion.
pub fn walk(
    disk: &dyn Disk,
    each: &mut dyn FnMut(Finding),
    progress: &mut dyn FnMut(Progress),
) -> Result<Summary, OpenError> {
    let entries = disk.list().map_err(failed("cannot list the directory"))?;
    let mut numbers: Vec<u64> = entries
        .iter()
        .filter_map(|entry| number_of(&entry.name))
        .collect();
    numbers.sort_unstable();
    let id = match read_id(disk, entries.iter().any(|entry| entry.name == ID_NAME))? {
        Some(id) => id,
        None if numbers.is_empty() => return Ok(Summary::default()),
        None => id_of_files(disk, &numbers)?,
    };
    let total_bytes = entries
        .iter()
        .filter(|entry| number_of(&entry.name).is_some())
        .map(|entry| entry.bytes)
        .sum();
    let mut walk = Walk {
        each,
        progress,
        summary: Summary::default(),
        replay: Replay::default(),
        total_bytes,
    };
    let mut previous = None;
    for number in &numbers {
        let failed = failed(&format!("cannot read file {number:016x}"));
        let file = Arc::new(JournalFile::open(disk, id, *number).map_err(&failed)?);
        for missing in previous.map_or(0..0, |previous| previous + 1..*number).take(1000) {
            walk.problem(Problem::MissingFile { file: missing });
        }
        walk.replay.begin_file(*number, previous);
        previous = Some(*number);
        walk.file(&file, Some(number) == numbers.last())
            .map_err(&failed)?;
    }
    let mut summary = walk.summary;
    summary.damaged = walk.replay.finish();
    summary.shards = walk
        .replay
        .logs
        .iter()
        .map(|(shard, log)| (*shard, log.log()))
        .collect();
    Ok(summary)
}

struct Walk<'a> {
    each: &'a mut dyn FnMut(Finding),
    progress: &'a mut dyn FnMut(Progress),
    summary: Summary,
    replay: Replay,
    total_bytes: u64,
}

/// Between two reports of progress.
const PROGRESS_BYTES: u64 = 16 << 20;

impl Walk<'_> {
    fn file(&mut self, file: &JournalFile, newest: bool) -> std::io::Result<()> {
        let footer = read_footer(file)?;
        (self.each)(Finding::File {
            number: file.number,
            name: name_of(file.number),
            bytes: file.bytes,
            sealed: footer.is_some(),
        });
        let before = self.summary.bytes;
        let mut reported = 0;
        let mut directory = DirectoryWriter::default();
        let knowledge = if newest {
            Knowledge::Newest
        } else {
            Knowledge::AllSynced
        };
        let end = scan(file, knowledge, &mut |scanned| {
            match scanned {
                Scanned::Frame {
                    at,
                    header,
                    payload_ok,
                    payload,
                } => {
                    let frame = listed(at, &header, payload_ok);
                    directory.push(&frame);
                    self.frame(file.number, &frame, &header, payload);
                    if at - reported >= PROGRESS_BYTES {
                        reported = at;
                        (self.progress)(Progress {
                            done_bytes: before + at,
                            total_bytes: self.total_bytes,
                        });
                    }
                }
                Scanned::Lost { at, header } => {
                    let end = at + header.frame_bytes();
                    let file = file.number;
                    self.problem(Problem::Unreadable { file, at, end });
                    self.replay.lost(file, at, &header);
                }
                Scanned::Gap { at, end } => {
                    let file = file.number;
                    self.problem(Problem::Unreadable { file, at, end });
                    self.replay.gap(file, at);
                }
            }
            true
        })?;
        if end.torn {
            self.problem(Problem::TornTail {
                file: file.number,
                at: end.end,
            });
        }
        match footer {
            // What the footer lists must be what is there; damage found before sealing is listed in both.
            Some(footer) if footer.directory == directory.finish() => {
                self.replay.checkpoint(file.number, footer.at, footer.checkpoint);
            }
            None if newest => {}
            _ => self.problem(Problem::Footer { file: file.number }),
        }
        self.summary.files += 1;
        self.summary.bytes += file.bytes;
        (self.progress)(Progress {
            done_bytes: self.summary.bytes,
            total_bytes: self.total_bytes,
        });
        Ok(())
    }

    fn frame(&mut self, file: u64, frame: &Listed, header: &Header, payload: Option<bytes::Bytes>) {
        self.summary.frames += 1;
        (self.each)(Finding::Frame(FrameInfo {
            file,
            at: frame.at,
            kind: frame.kind,
            shard: frame.kind.of_shard().then_some(frame.shard),
            sequence: frame.sequence,
            position: frame.position,
            payload_bytes: frame.payload_len,
            generation: header.generation,
            synced_to: header.synced_to,
            payload_ok: !frame.damaged,
        }));
        if frame.damaged {
            self.problem(Problem::Payload { file, at: frame.at });
        }
        if frame.kind.of_shard() {
            self.replay.frame(file, frame, payload);
        } else if let Some(checkpoint) = payload.as_deref().and_then(Checkpoint::decode) {
            self.replay.checkpoint(file, frame.at, checkpoint);
        }
    }

    fn problem(&mut self, problem: Problem) {
        if !problem.is_harmless() {
            self.summary.problems += 1;
        }
        (self.each)(Finding::Problem(problem));
    }
}
