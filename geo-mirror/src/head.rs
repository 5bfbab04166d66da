//! What stands before every frame. Layout: `docs/formats/geo-frame.md`.

use crc_fast::{CrcAlgorithm, Digest};
use thiserror::Error;

/// Bytes before the fields of each frame.
pub const HEAD_BYTES: usize = 12;
/// Largest frame of entries, head and fields not counted: one command may be that large.
pub const ENTRIES_BYTES_MAX: usize = 128 << 20;
/// The version of the layout of all frames but the greeting, which has its own.
pub(crate) const VERSION: u8 = 1;
/// Largest card.
pub(crate) const CARD_BYTES_MAX: usize = 1 << 20;
/// Room for what stands before the body of a frame of entries.
pub(crate) const FIELDS_BYTES_MAX: usize = 256;
const CONTROL_BYTES_MAX: usize = 64 << 10;
const GREETING_BYTES_MAX: usize = 1 << 10;

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FrameType {
    Hello = 1,
    Rejected = 2,
    Card = 3,
    Follow = 4,
    Following = 5,
    Unfollow = 6,
    Entries = 7,
    Applied = 8,
    Watermarks = 9,
    Refused = 10,
    Throttle = 11,
    Ping = 12,
    Pong = 13,
    Question = 14,
    Answer = 15,
}

impl FrameType {
    fn from_byte(byte: u8) -> Option<Self> {
        Some(match byte {
            1 => Self::Hello,
            2 => Self::Rejected,
            3 => Self::Card,
            4 => Self::Follow,
            5 => Self::Following,
            6 => Self::Unfollow,
            7 => Self::Entries,
            8 => Self::Applied,
            9 => Self::Watermarks,
            10 => Self::Refused,
            11 => Self::Throttle,
            12 => Self::Ping,
            13 => Self::Pong,
            14 => Self::Question,
            15 => Self::Answer,
            _ => return None,
        })
    }

    /// Most bytes that may follow the head.
    pub(crate) fn bytes_max(self) -> usize {
        match self {
            Self::Hello | Self::Rejected => GREETING_BYTES_MAX,
            Self::Card => CARD_BYTES_MAX,
            Self::Entries | Self::Answer => ENTRIES_BYTES_MAX + FIELDS_BYTES_MAX,
            _ => CONTROL_BYTES_MAX,
        }
    }
}

/// The bytes are no frame. The connection that they came over is to be closed.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum FrameError {
    /// A later program, or no program of ours.
    #[error("a frame of unknown type {0}")]
    UnknownType(u8),
    /// A later program.
    #[error("a frame of version {0}, expected {VERSION}")]
    Version(u8),
    /// More than any frame of this type has.
    #[error("a frame announces {announced} bytes, expected at most {bytes_max}")]
    TooLarge {
        /// What its head says.
        announced: usize,
        /// What is taken.
        bytes_max: usize,
    },
    /// It ends before its head says.
    #[error("a frame of {found} bytes, expected {announced}")]
    Length {
        /// What its head says.
        announced: usize,
        /// What came.
        found: usize,
    },
    /// It was damaged on the way.
    #[error("a frame has a wrong checksum")]
    Checksum,
    /// A field is missing, or cannot be.
    #[error("a frame's field `{0}` is missing or not valid")]
    Field(&'static str),
    /// There is more than its fields.
    #[error("a frame goes on after its last field")]
    TooLong,
    /// The first frame does not begin as ours do.
    #[error("the greeting does not begin with `MRDNGEO1`")]
    Magic,
    /// It has no place here.
    #[error("a frame of type {0} has no place here")]
    Misplaced(u8),
}

/// The head of a frame, whose fields have not been looked at.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Head {
    pub(crate) frame: FrameType,
    pub(crate) bytes: usize,
}

impl Head {
    /// Reads a head. What it announces is within the bounds of its type.
    pub(crate) fn decode(head: &[u8; HEAD_BYTES]) -> Result<Self, FrameError> {
        let frame = FrameType::from_byte(head[8]).ok_or(FrameError::UnknownType(head[8]))?;
        let bytes = u32::from_le_bytes([head[4], head[5], head[6], head[7]]) as usize;
        // A greeting says itself which versions it speaks.
        let is_greeting = matches!(frame, FrameType::Hello | FrameType::Rejected);
        if head[9] != VERSION && !is_greeting {
            return Err(FrameError::Version(head[9]));
        }
        if bytes > frame.bytes_max() {
            return Err(FrameError::TooLarge {
                announced: bytes,
                bytes_max: frame.bytes_max(),
            });
        }
        Ok(Self { frame, bytes })
    }
}

/// The head of a frame whose fields are `parts`, one after another.
pub(crate) fn seal(frame: FrameType, parts: &[&[u8]]) -> [u8; HEAD_BYTES] {
    let bytes: usize = parts.iter().map(|part| part.len()).sum();
    debug_assert!(bytes <= frame.bytes_max(), "{frame:?} of {bytes} bytes");
    let mut head = [0; HEAD_BYTES];
    head[4..8].copy_from_slice(&u32::try_from(bytes).expect("frames are bounded").to_le_bytes());
    head[8] = frame as u8;
    head[9] = VERSION;
    let mut digest = digest(&head);
    for part in parts {
        digest.update(part);
    }
    head[..4].copy_from_slice(&checksum(&digest).to_le_bytes());
    head
}

/// Whether what follows a head is what was sent.
pub(crate) fn check(head: &[u8; HEAD_BYTES], rest: &[u8]) -> Result<(), FrameError> {
    let mut digest = digest(head);
    digest.update(rest);
    if checksum(&digest).to_le_bytes() == head[..4] {
        Ok(())
    } else {
        Err(FrameError::Checksum)
    }
}

fn digest(head: &[u8; HEAD_BYTES]) -> Digest {
    let mut digest = Digest::new(CrcAlgorithm::Crc32Iscsi);
    digest.update(&head[4..]);
    digest
}

fn checksum(digest: &Digest) -> u32 {
    u32::try_from(digest.finalize()).expect("CRC32C has 32 bits")
}
