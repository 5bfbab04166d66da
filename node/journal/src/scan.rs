//! Reads the frames of one file and tells a torn tail from corruption.

use std::io;
use std::sync::Arc;

use bytes::Bytes;

use crate::disk::DiskFile;
use crate::file::JournalFile;
use crate::frame::{ALIGN_BYTES, Crc, FrameKind, HEADER_BYTES, Header, MAGIC, u64_at};

/// What the scan came upon, in the order of the file.
#[derive(Debug)]
pub(crate) enum Scanned {
    /// A frame with a good header. `payload` is there for small kinds (all but entries and footers) whose
    /// checksum holds.
    Frame {
        at: u64,
        header: Header,
        payload_ok: bool,
        payload: Option<Bytes>,
    },
    /// A frame that cannot be used, but whose header can be told: one bit of it is flipped.
    Lost { at: u64, header: Header },
    /// Bytes between good frames that are none.
    Gap { at: u64, end: u64 },
}

/// How a scan ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ScanEnd {
    /// End of the last good frame: where to append.
    pub(crate) end: u64,
    /// Everything before this place was synced when some later frame was written.
    pub(crate) proven: u64,
    /// Generation of the last good frame.
    pub(crate) generation: u32,
    /// Highest generation of any frame in the file, cut off or not.
    pub(crate) generation_max: u32,
    /// There was something after `end` that began like a frame and was cut off as a torn write.
    pub(crate) torn: bool,
}

/// What is known about a file before it is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Knowledge {
    /// A newer file exists, so all of this one was synced: whatever is bad is corruption.
    AllSynced,
    /// The newest file: its tail may be torn.
    Newest,
}

/// Scans `file` from the beginning. `each` gets every frame and gap, and returns whether to go on.
pub(crate) fn scan(
    file: &JournalFile,
    knowledge: Knowledge,
    each: &mut dyn FnMut(Scanned) -> bool,
) -> io::Result<ScanEnd> {
    let mut window = Window::new(file.disk_file.clone(), file.bytes);
    let mut ahead = None;
    let mut end = scan_frames(file, knowledge, each, &mut window, &mut ahead)?;
    let ahead_max = ahead
        .iter()
        .flat_map(|ahead: &Ahead| &ahead.0)
        .map(|found| found.generation)
        .max();
    end.generation_max = ahead_max.unwrap_or(0).max(end.generation);
    Ok(end)
}

fn scan_frames(
    file: &JournalFile,
    knowledge: Knowledge,
    each: &mut dyn FnMut(Scanned) -> bool,
    window: &mut Window,
    ahead: &mut Option<Ahead>,
) -> io::Result<ScanEnd> {
    let mut end = ScanEnd::default();
    let mut at = 0;
    loop {
        let header = window
            .header(at, file.salt)?
            .filter(|header| header.generation >= end.generation);
        let whole = header.filter(|header| header.kind != FrameKind::Trailer);
        if let Some(header) = whole {
            let payload_ok = window.payload_holds(at, &header)?;
            if payload_ok
                || knowledge == Knowledge::AllSynced
                || ahead_of(ahead, window, file, at)?.proves(at, end.generation)
            {
                end.generation = header.generation;
                end.proven = end.proven.max(u64::from(header.synced_to));
                if header.kind == FrameKind::Footer && payload_ok {
                    // Without its trailer a file is not sealed: the footer may be written over.
                    return Ok(end);
                }
                let small = header.kind != FrameKind::Entry && header.kind != FrameKind::Footer;
                let payload = if payload_ok && small {
                    Some(window.payload(at, &header)?)
                } else {
                    None
                };
                let go_on = each(Scanned::Frame {
                    at,
                    header,
                    payload_ok,
                    payload,
                });
                at += header.frame_bytes();
                end.end = at;
                if !go_on {
                    return Ok(end);
                }
                continue;
            }
            end.torn = true;
            return Ok(end);
        }
        // Not a frame: the end of the log, a torn write, or damage.
        let begun = window.begins(at, file.salt)?;
        let ahead = ahead_of(ahead, window, file, at)?;
        let proven = knowledge == Knowledge::AllSynced || ahead.proves(at, end.generation);
        let lost = window
            .flipped_header(at, file.salt)?
            .filter(|header| proven && header.generation >= end.generation)
            .filter(|header| header.kind != FrameKind::Trailer && header.kind != FrameKind::Footer);
        if let Some(header) = lost {
            if !each(Scanned::Lost { at, header }) {
                return Ok(end);
            }
            at += header.frame_bytes();
            continue;
        }
        match ahead.next(at, end.generation) {
            Some(next) if proven => {
                if !each(Scanned::Gap { at, end: next }) {
                    return Ok(end);
                }
                at = next;
            }
            None if knowledge == Knowledge::AllSynced => {
                // The footer must be here. What was before it is for the next checkpoint to say.
                if at < file.bytes {
                    each(Scanned::Gap { at, end: file.bytes });
                }
                return Ok(end);
            }
            _ => {
                end.torn = begun || ahead.next(at, end.generation).is_some();
                return Ok(end);
            }
        }
    }
}

/// Frames found by searching from a bad place to the end of the file.
struct Ahead(Vec<Found>);

struct Found {
    at: u64,
    synced_to: u32,
    generation: u32,
}

impl Ahead {
    /// Whether a frame after `at` was written when everything up to beyond `at` was synced. Frames of an
    /// earlier generation are left over from before a tail was cut off; they prove nothing.
    fn proves(&self, at: u64, generation: u32) -> bool {
        !mutant!(TruncateAtDamage)
            && self
                .after(at, generation)
                .any(|found| u64::from(found.synced_to) > at)
    }

    fn next(&self, at: u64, generation: u32) -> Option<u64> {
        self.after(at, generation).next().map(|found| found.at)
    }

    fn after(&self, at: u64, generation: u32) -> impl Iterator<Item = &Found> {
        let from = self.0.partition_point(|found| found.at <= at);
        self.0[from..]
            .iter()
            .filter(move |found| found.generation >= generation)
    }
}

/// Searches once per file, at the first bad place; later bad places lie further on.
fn ahead_of<'a>(
    ahead: &'a mut Option<Ahead>,
    window: &mut Window,
    file: &JournalFile,
    from: u64,
) -> io::Result<&'a mut Ahead> {
    if ahead.is_none() {
        let mut found = Vec::new();
        let mut at = from + ALIGN_BYTES;
        while let Some(place) = window.find_magic(at)? {
            at = place + ALIGN_BYTES;
            let Some(header) = window
                .header(place, file.salt)?
                .filter(|header| header.kind != FrameKind::Trailer)
            else {
                continue;
            };
            found.push(Found {
                at: place,
                synced_to: header.synced_to,
                generation: header.generation,
            });
            // What lies inside a whole frame is data, whatever it looks like.
            if window.payload_holds(place, &header)? {
                at = place + header.frame_bytes();
            }
        }
        *ahead = Some(Ahead(found));
    }
    Ok(ahead.as_mut().expect("just made"))
}

/// A moving view of a file.
pub(crate) struct Window {
    file: Arc<dyn DiskFile>,
    bytes: u64,
    start: u64,
    buffer: Vec<u8>,
}

const WINDOW_BYTES: u64 = 1 << 20;
static ZEROS: [u8; 4096] = [0; 4096];

impl Window {
    pub(crate) fn new(file: Arc<dyn DiskFile>, bytes: u64) -> Self {
        Self {
            file,
            bytes,
            start: 0,
            buffer: Vec::new(),
        }
    }

    /// At least `len` bytes (at most `WINDOW_BYTES`) from `at`, or all up to the end of the file.
    fn view(&mut self, at: u64, len: u64) -> io::Result<&[u8]> {
        let wanted = len.min(self.bytes.saturating_sub(at));
        let end = self.start + self.buffer.len() as u64;
        if at < self.start || at + wanted > end {
            let fill = WINDOW_BYTES.max(wanted).min(self.bytes.saturating_sub(at));
            self.buffer
                .resize(usize::try_from(fill).expect("a window fits memory"), 0);
            self.start = at;
            if let Err(error) = self.file.read_at(at, &mut self.buffer) {
                self.buffer.clear();
                return Err(error);
            }
        }
        Ok(&self.buffer[usize::try_from(at - self.start).expect("inside the window")..])
    }

    /// The header at `at`, if one of this file whose payload ends inside the file is there.
    pub(crate) fn header(&mut self, at: u64, salt: u64) -> io::Result<Option<Header>> {
        let bytes = self.bytes;
        Ok(Header::decode(self.view(at, HEADER_BYTES)?, salt)
            .filter(|header| at + header.frame_bytes() <= bytes))
    }

    /// The header at `at` as it was before one bit of it flipped. It cannot be taken for another: valid headers
    /// differ in six bits or more, which is the distance of CRC32C at this length.
    fn flipped_header(&mut self, at: u64, salt: u64) -> io::Result<Option<Header>> {
        let bytes = self.bytes;
        let Some(mut header) = self.view(at, HEADER_BYTES)?.first_chunk().copied() else {
            return Ok(None);
        };
        Ok(Header::decode_flipped(&mut header, salt).filter(|header| at + header.frame_bytes() <= bytes))
    }

    fn payload_holds(&mut self, at: u64, header: &Header) -> io::Result<bool> {
        let mut crc = Crc::new();
        let mut at = at + HEADER_BYTES;
        let end = at + u64::from(header.payload_len);
        while at < end {
            let view = self.view(at, 1)?;
            let len = (view.len() as u64).min(end - at);
            crc.update(&view[..usize::try_from(len).expect("inside the window")]);
            at += len;
        }
        Ok(crc.finish() == header.payload_crc)
    }

    /// The payload of a frame whose header lies inside the file.
    pub(crate) fn payload(&mut self, at: u64, header: &Header) -> io::Result<Bytes> {
        let mut payload = vec![0; header.payload_len as usize];
        self.file.read_at(at + HEADER_BYTES, &mut payload)?;
        Ok(payload.into())
    }

    /// Whether a frame of this file was begun at `at`; leftovers of an earlier life of the file are none.
    fn begins(&mut self, at: u64, salt: u64) -> io::Result<bool> {
        let view = self.view(at, HEADER_BYTES)?;
        Ok(view.len() >= 16 && view[..4] == MAGIC && u64_at(view, 8) == salt)
    }

    /// The next aligned place from `at` on that begins like a frame.
    fn find_magic(&mut self, mut at: u64) -> io::Result<Option<u64>> {
        while at + HEADER_BYTES <= self.bytes {
            let view = self.view(at, HEADER_BYTES)?;
            let step = usize::try_from(ALIGN_BYTES).expect("small");
            let mut offset = 0;
            while offset + step <= view.len() {
                // Most of an unused tail is zeros: pass over them quickly.
                if offset.is_multiple_of(ZEROS.len()) && view[offset..].starts_with(&ZEROS) {
                    offset += ZEROS.len();
                } else if view[offset..offset + MAGIC.len()] == MAGIC {
                    return Ok(Some(at + offset as u64));
                } else {
                    offset += step;
                }
            }
            at += offset as u64;
        }
        Ok(None)
    }
}
