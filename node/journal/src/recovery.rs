//! Opening: finds the files, rebuilds every shard's log, and finds the place to go on from.

use std::collections::BTreeMap;
use std::io::{self, IoSlice};
use std::sync::Arc;

use meridian_types::ShardId;

use crate::checkpoint::{Checkpoint, ShardMark};
use crate::directory::{DirectoryWriter, Listed, read_directory};
use crate::disk::{BLOCK_BYTES, Disk};
use crate::error::{Damage, OpenError};
use crate::file::{FileTable, ID_DRAFT_NAME, ID_NAME, JournalFile, SPARE_NAME, number_of};
use crate::frame::{FrameKind, HEADER_BYTES, Header, crc32c, mix, salt_of, u32_at, u64_at};
use crate::replay::Replay;
use crate::scan::{Knowledge, Scanned, Window, scan};
use crate::settings::JournalSettings;
use crate::shard_log::ShardState;

/// What opening found.
pub(crate) struct Recovered {
    pub(crate) journal_id: u64,
    pub(crate) files: FileTable,
    pub(crate) marks: BTreeMap<ShardId, ShardMark>,
    pub(crate) logs: BTreeMap<ShardId, ShardState>,
    /// Concerns every shard, also those not in `logs`.
    pub(crate) damaged: Option<Damage>,
    /// The file to go on in; `None` when there is none or the newest is sealed.
    pub(crate) active: Option<Resumed>,
    /// Number of the newest file, 0 when there is none.
    pub(crate) newest: u64,
    /// Higher than that of any frame there is.
    pub(crate) generation: u32,
}

/// An unsealed file and its good part.
pub(crate) struct Resumed {
    pub(crate) file: Arc<JournalFile>,
    pub(crate) end: u64,
    pub(crate) directory: DirectoryWriter,
}

pub(crate) fn recover(disk: &dyn Disk, settings: &JournalSettings) -> Result<Recovered, OpenError> {
    let listed = disk.list().map_err(failed("cannot list the directory"))?;
    let mut numbers: Vec<u64> = listed.iter().filter_map(|entry| number_of(&entry.name)).collect();
    numbers.sort_unstable();
    // A name may be seen that is not durable yet, if the process before ended over it.
    disk.sync_dir().map_err(failed("cannot sync the directory"))?;
    let has = |name: &str| listed.iter().find(|entry| entry.name == name);
    if let Some(spare) = has(SPARE_NAME).filter(|spare| spare.bytes != settings.file_bytes) {
        disk.remove(&spare.name)
            .map_err(failed("cannot remove the spare file"))?;
    }
    if has(ID_DRAFT_NAME).is_some() {
        disk.remove(ID_DRAFT_NAME)
            .map_err(failed("cannot remove the draft of journal.id"))?;
    }
    let journal_id = match read_id(disk, has(ID_NAME).is_some())? {
        Some(id) => id,
        None if numbers.is_empty() => write_id(disk, mix(settings.seed))?,
        None => write_id(disk, id_of_files(disk, &numbers)?)?,
    };

    let files = FileTable::default();
    let mut replay = Replay::default();
    let mut active = None;
    let mut generation = 0;
    let mut previous = None;
    for number in &numbers {
        if *number == 0 || *number > u64::from(u32::MAX) {
            return Err(OpenError::Foreign(format!(
                "file number {number:016x} is out of bounds"
            )));
        }
        let what = format!("cannot read file {number:016x}");
        let file = Arc::new(JournalFile::open(disk, journal_id, *number).map_err(failed(&what))?);
        files.insert(file.clone());
        let newest = Some(number) == numbers.last();
        replay.begin_file(*number, previous);
        previous = Some(*number);
        let end = recover_file(&file, newest, &mut replay).map_err(failed(&what))?;
        generation = generation.max(end.generation);
        active = end.resumed;
    }
    if let Some(resumed) = &active {
        generation = generation.max(resumed.generation_max);
        rewrite(&resumed.resumed.file, resumed.proven, resumed.resumed.end)
            .map_err(failed("cannot make the tail durable again"))?;
    }
    let damaged = replay.finish();
    Ok(Recovered {
        journal_id,
        files,
        marks: replay.marks,
        logs: replay.logs,
        damaged,
        active: active.map(|unproven| unproven.resumed),
        newest: numbers.last().copied().unwrap_or(0),
        generation: generation + 1,
    })
}

struct Unproven {
    resumed: Resumed,
    proven: u64,
    generation_max: u32,
}

struct FileEnd {
    generation: u32,
    resumed: Option<Unproven>,
}

fn recover_file(file: &Arc<JournalFile>, newest: bool, replay: &mut Replay) -> io::Result<FileEnd> {
    // A footer whose sync no successor proves may have outlived the frames it lists.
    if let Some(footer) = if newest { None } else { read_footer(file)? } {
        if let Some(checkpoint) = read_first_checkpoint(file)? {
            replay.checkpoint(file.number, 0, checkpoint);
        }
        let read = read_directory(&footer.directory, file.bytes, |frame| {
            if frame.kind.of_shard() {
                replay.frame(file.number, frame, None);
            }
        });
        debug_assert!(read.is_some(), "read_footer checked it");
        replay.checkpoint(file.number, footer.at, footer.checkpoint);
        return Ok(FileEnd {
            generation: footer.generation,
            resumed: None,
        });
    }
    let knowledge = if newest {
        Knowledge::Newest
    } else {
        Knowledge::AllSynced
    };
    let mut directory = DirectoryWriter::default();
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
                if header.kind.of_shard() {
                    replay.frame(file.number, &frame, payload);
                } else if let Some(checkpoint) = payload.as_deref().and_then(Checkpoint::decode) {
                    replay.checkpoint(file.number, at, checkpoint);
                }
            }
            Scanned::Lost { at, header } => {
                let shard = header.kind.of_shard().then_some(header.shard.0);
                tracing::error!(
                    file = file.number,
                    at,
                    shard,
                    "journal: the header of a frame is damaged"
                );
                replay.lost(file.number, at, &header);
            }
            Scanned::Gap { at, end } => {
                tracing::error!(
                    file = file.number,
                    at,
                    end,
                    "journal: unreadable bytes where frames must be"
                );
                replay.gap(file.number, at);
            }
        }
        true
    })?;
    if end.torn {
        tracing::info!(file = file.number, at = end.end, "journal: cut off a torn write");
    }
    if !newest {
        tracing::error!(
            file = file.number,
            "journal: the footer of a sealed file is unreadable, its frames were read one by one"
        );
    }
    let resumed = newest.then(|| Unproven {
        resumed: Resumed {
            file: file.clone(),
            end: end.end,
            directory,
        },
        proven: end.proven.min(end.end),
        generation_max: end.generation_max,
    });
    Ok(FileEnd {
        generation: end.generation_max,
        resumed,
    })
}

pub(crate) fn listed(at: u64, header: &Header, payload_ok: bool) -> Listed {
    Listed {
        at,
        kind: header.kind,
        flags: header.flags,
        shard: header.shard,
        sequence: header.sequence,
        position: header.position,
        payload_len: header.payload_len,
        damaged: !payload_ok,
    }
}

/// A sealed file's footer, checked.
pub(crate) struct Footer {
    pub(crate) at: u64,
    pub(crate) generation: u32,
    pub(crate) checkpoint: Checkpoint,
    pub(crate) directory: Vec<u8>,
}

/// `None` when the file is not sealed or its footer is damaged.
pub(crate) fn read_footer(file: &JournalFile) -> io::Result<Option<Footer>> {
    let mut window = Window::new(file.disk_file.clone(), file.bytes);
    let Some(trailer_at) = file.bytes.checked_sub(HEADER_BYTES) else {
        return Ok(None);
    };
    let Some(trailer) = window
        .header(trailer_at, file.salt)?
        .filter(|trailer| trailer.kind == FrameKind::Trailer)
    else {
        return Ok(None);
    };
    let at = trailer.position.index.0;
    if at > trailer_at {
        return Ok(None);
    }
    let Some(header) = window
        .header(at, file.salt)?
        .filter(|header| header.kind == FrameKind::Footer)
    else {
        return Ok(None);
    };
    let payload = window.payload(at, &header)?;
    if crc32c(&payload) != header.payload_crc {
        return Ok(None);
    }
    let footer = decode_footer(&payload).map(|(checkpoint, directory)| Footer {
        at,
        generation: header.generation,
        checkpoint,
        directory: directory.to_vec(),
    });
    Ok(footer.filter(|footer| read_directory(&footer.directory, file.bytes, |_| {}).is_some()))
}

/// Payload of a footer: length of the checkpoint, the checkpoint, the directory.
pub(crate) fn encode_footer(checkpoint: &[u8], directory: &[u8]) -> Vec<u8> {
    let mut payload = Vec::with_capacity(4 + checkpoint.len() + directory.len());
    payload.extend_from_slice(
        &u32::try_from(checkpoint.len())
            .expect("bounded by the file")
            .to_le_bytes(),
    );
    payload.extend_from_slice(checkpoint);
    payload.extend_from_slice(directory);
    payload
}

fn decode_footer(payload: &[u8]) -> Option<(Checkpoint, &[u8])> {
    let (len, rest) = payload.split_at_checked(4)?;
    let (checkpoint, directory) = rest.split_at_checked(u32_at(len, 0) as usize)?;
    Some((Checkpoint::decode(checkpoint)?, directory))
}

fn read_first_checkpoint(file: &JournalFile) -> io::Result<Option<Checkpoint>> {
    let mut window = Window::new(file.disk_file.clone(), file.bytes);
    let Some(header) = window
        .header(0, file.salt)?
        .filter(|header| header.kind == FrameKind::Checkpoint)
    else {
        return Ok(None);
    };
    let payload = window.payload(0, &header)?;
    Ok(Some(&payload)
        .filter(|payload| crc32c(payload) == header.payload_crc)
        .and_then(|payload| Checkpoint::decode(payload)))
}

/// Writes what no later frame proves synced once more. After a failed sync the kernel may hold pages as
/// clean that never reached the disk; the process that ended over it left them in the page cache.
fn rewrite(file: &JournalFile, from: u64, end: u64) -> io::Result<()> {
    // In whole blocks: what follows a write in its last block may become zeros, and so must not be wanted any more.
    let mut at = from - from % BLOCK_BYTES as u64;
    let mut chunk = vec![0; 256 * BLOCK_BYTES];
    while at < end {
        let len = usize::try_from((end - at).min(chunk.len() as u64)).expect("at most 1 MiB");
        file.disk_file.read_at(at, &mut chunk[..len])?;
        file.disk_file.write_at(at, &mut [IoSlice::new(&chunk[..len])])?;
        at += len as u64;
    }
    file.disk_file.sync_data()
}

const ID_MAGIC: &[u8; 8] = b"MJID\x01\0\0\0";
const ID_BYTES: usize = 20;

/// `None` when the file is missing or damaged.
pub(crate) fn read_id(disk: &dyn Disk, exists: bool) -> Result<Option<u64>, OpenError> {
    if !exists {
        return Ok(None);
    }
    let failed = failed("cannot read journal.id");
    let file = disk.open(ID_NAME).map_err(&failed)?;
    if file.bytes().map_err(&failed)? < ID_BYTES as u64 {
        return Ok(None);
    }
    let mut bytes = [0; ID_BYTES];
    file.read_at(0, &mut bytes).map_err(&failed)?;
    if bytes[..4] == ID_MAGIC[..4] && bytes[..8] != ID_MAGIC[..] && u32_at(&bytes, 16) == crc32c(&bytes[..16])
    {
        return Err(OpenError::Foreign(format!(
            "format version {} is newer than this program",
            u32_at(&bytes, 4)
        )));
    }
    Ok((bytes[..8] == ID_MAGIC[..] && u32_at(&bytes, 16) == crc32c(&bytes[..16])).then(|| u64_at(&bytes, 8)))
}

fn write_id(disk: &dyn Disk, id: u64) -> Result<u64, OpenError> {
    let mut bytes = [0; ID_BYTES];
    bytes[..8].copy_from_slice(ID_MAGIC);
    bytes[8..16].copy_from_slice(&id.to_le_bytes());
    let crc = crc32c(&bytes[..16]);
    bytes[16..].copy_from_slice(&crc.to_le_bytes());
    let write = || {
        let file = disk.create(ID_DRAFT_NAME, ID_BYTES as u64)?;
        file.write_at(0, &mut [IoSlice::new(&bytes)])?;
        file.sync_data()?;
        disk.rename(ID_DRAFT_NAME, ID_NAME)?;
        disk.sync_dir()
    };
    write().map_err(failed("cannot write journal.id"))?;
    Ok(id)
}

/// The id that a file's first checkpoint states, where its frame agrees.
pub(crate) fn id_of_files(disk: &dyn Disk, numbers: &[u64]) -> Result<u64, OpenError> {
    for number in numbers {
        let failed = failed("cannot read the id of a file");
        let file = JournalFile::open(disk, 0, *number).map_err(&failed)?;
        let mut window = Window::new(file.disk_file.clone(), file.bytes);
        let mut bytes = [0; HEADER_BYTES as usize];
        if file.bytes < HEADER_BYTES || file.disk_file.read_at(0, &mut bytes).is_err() {
            continue;
        }
        let Some(header) = Header::decode_any(&bytes).filter(|header| header.frame_bytes() <= file.bytes)
        else {
            continue;
        };
        let payload = window.payload(0, &header).map_err(&failed)?;
        match Checkpoint::decode(&payload).filter(|_| crc32c(&payload) == header.payload_crc) {
            Some(checkpoint) if salt_of(checkpoint.journal_id, *number) == header.salt => {
                return Ok(checkpoint.journal_id);
            }
            _ => {}
        }
    }
    Err(OpenError::Foreign(
        "journal.id is missing and no file says which journal it belongs to".into(),
    ))
}

pub(crate) fn failed(what: &str) -> impl Fn(io::Error) -> OpenError + use<> {
    let what = what.to_string();
    move |source| OpenError::Io {
        what: what.clone(),
        source,
    }
}
