//! From bytes to a command. Trusts nothing.

use bytes::{Buf, Bytes};
use meridian_types::{LeaderEpoch, Offset, TimestampMs};
use thiserror::Error;

use super::{
    AppendGroup, BATCH_LENGTH_BYTES, Command, CommittedOffset, ExpiredOffsets, GROUP_FIXED_BYTES, kind,
};
use crate::codec::{Fault, PARTITION_BYTES, get_bytes, get_count, get_partition, get_str, get_topic};

/// Bytes that are not a command this version can read. The replica must stop: it cannot skip the entry.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum CommandError {
    /// Written by a newer version of Meridian. Run that version on this node.
    #[error("command has format version {version}; this version of Meridian reads up to {max}", max = Command::VERSION)]
    Version {
        /// The version found.
        version: u8,
    },
    /// Written by a newer version of Meridian. Run that version on this node.
    #[error("command has kind {kind}, which this version of Meridian does not know")]
    Kind {
        /// The kind found.
        kind: u8,
    },
    /// The bytes end inside the command: it was damaged before its checksum was made.
    #[error("command is cut short")]
    Truncated,
    /// A field cannot be what it is: it was damaged before its checksum was made.
    #[error("command is malformed: {what}")]
    Malformed {
        /// What is wrong.
        what: &'static str,
    },
}

impl From<Fault> for CommandError {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Short => Self::Truncated,
            Fault::Invalid(what) => Self::Malformed { what },
        }
    }
}

impl From<bytes::TryGetError> for CommandError {
    fn from(_: bytes::TryGetError) -> Self {
        Self::Truncated
    }
}

impl Command {
    /// Reads a command back from its parts: as encoded, as one contiguous piece, or cut anywhere.
    ///
    /// Batches are slices of the parts, uncopied unless one lies across a cut.
    /// Errors: [`CommandError`] for anything [`Command::encode`] would not have written.
    pub fn decode(parts: &[Bytes]) -> Result<Self, CommandError> {
        let first = parts
            .iter()
            .position(|part| !part.is_empty())
            .ok_or(CommandError::Truncated)?;
        let parts = &parts[first..];
        let version = parts[0][0];
        if version != Self::VERSION {
            return Err(CommandError::Version { version });
        }
        let kind = parts
            .iter()
            .flat_map(|part| part.iter())
            .nth(1)
            .copied()
            .ok_or(CommandError::Truncated)?;
        if kind == kind::APPEND {
            return decode_append(parts);
        }
        let whole = Parts { parts, at: 0 }.take(total_bytes(parts))?;
        decode_small(kind, &whole)
    }
}

fn decode_append(parts: &[Bytes]) -> Result<Command, CommandError> {
    // The header is the first part as encoded, or the start of one contiguous piece. Only when it was cut
    // does it have to be joined.
    match append_header(&parts[0]) {
        Err(CommandError::Truncated) if parts.len() > 1 => {
            let whole = Parts { parts, at: 0 }.take(total_bytes(parts))?;
            take_batches(append_header(&whole)?, &[whole])
        }
        header => take_batches(header?, parts),
    }
}

/// An append without its batches.
struct AppendHeader {
    now: TimestampMs,
    groups: Vec<(meridian_types::Partition, Vec<u32>)>,
    header_bytes: usize,
}

fn append_header(bytes: &[u8]) -> Result<AppendHeader, CommandError> {
    let mut from = bytes.get(2..).ok_or(CommandError::Truncated)?;
    let now = TimestampMs(from.try_get_i64_le()?);
    let count = get_count(&mut from, GROUP_FIXED_BYTES)?;
    let mut groups = Vec::with_capacity(count);
    for _ in 0..count {
        let partition = get_partition(&mut from)?;
        let batches = get_count(&mut from, BATCH_LENGTH_BYTES)?;
        let mut lengths = Vec::with_capacity(batches);
        for _ in 0..batches {
            lengths.push(from.try_get_u32_le()?);
        }
        groups.push((partition, lengths));
    }
    Ok(AppendHeader {
        now,
        groups,
        header_bytes: bytes.len() - from.len(),
    })
}

fn take_batches(header: AppendHeader, parts: &[Bytes]) -> Result<Command, CommandError> {
    let mut rest = Parts { parts, at: 0 };
    rest.take(header.header_bytes)?;
    let mut groups = Vec::with_capacity(header.groups.len());
    for (partition, lengths) in header.groups {
        let batches = lengths
            .iter()
            .map(|length| rest.take(*length as usize))
            .collect::<Result<_, _>>()?;
        groups.push(AppendGroup { partition, batches });
    }
    rest.end()?;
    Ok(Command::Append {
        now: header.now,
        groups,
    })
}

fn decode_small(kind: u8, whole: &Bytes) -> Result<Command, CommandError> {
    let mut bytes = &whole[2..];
    let from = &mut bytes;
    let command = match kind {
        kind::COMMIT_OFFSETS => {
            let now = TimestampMs(from.try_get_i64_le()?);
            let group = get_str(from)?;
            let count = get_count(from, PARTITION_BYTES + COMMITTED_BYTES_MIN)?;
            let mut offsets = Vec::with_capacity(count);
            for _ in 0..count {
                offsets.push((get_partition(from)?, get_committed(from)?));
            }
            Command::CommitOffsets { group, now, offsets }
        }
        kind::SAVE_GROUP => {
            let now = TimestampMs(from.try_get_i64_le()?);
            let group = get_str(from)?;
            let body = whole.slice_ref(get_bytes(from)?);
            Command::SaveGroup { group, body, now }
        }
        kind::DELETE_GROUPS => {
            let count = get_count(from, 4)?;
            let groups = (0..count).map(|_| get_str(from)).collect::<Result<_, _>>()?;
            Command::DeleteGroups { groups }
        }
        kind::DELETE_OFFSETS => {
            let group = get_str(from)?;
            let count = get_count(from, PARTITION_BYTES)?;
            let partitions = (0..count)
                .map(|_| get_partition(from))
                .collect::<Result<_, _>>()?;
            Command::DeleteOffsets { group, partitions }
        }
        kind::EXPIRE_OFFSETS => {
            let now = TimestampMs(from.try_get_i64_le()?);
            let count = get_count(from, 8)?;
            let mut expired = Vec::with_capacity(count);
            for _ in 0..count {
                let group = get_str(from)?;
                let count = get_count(from, PARTITION_BYTES + 8)?;
                let mut offsets = Vec::with_capacity(count);
                for _ in 0..count {
                    offsets.push((get_partition(from)?, TimestampMs(from.try_get_i64_le()?)));
                }
                expired.push(ExpiredOffsets { group, offsets });
            }
            Command::ExpireOffsets { now, expired }
        }
        kind::SET_LOG_START => {
            let count = get_count(from, PARTITION_BYTES + 8)?;
            let mut starts = Vec::with_capacity(count);
            for _ in 0..count {
                starts.push((get_partition(from)?, Offset(from.try_get_u64_le()?)));
            }
            Command::SetLogStart { starts }
        }
        kind::DROP_TOPIC => {
            let now = TimestampMs(from.try_get_i64_le()?);
            Command::DropTopic {
                topic: get_topic(from)?,
                now,
            }
        }
        kind::EXPIRE_PRODUCERS => Command::ExpireProducers {
            now: TimestampMs(from.try_get_i64_le()?),
        },
        kind => return Err(CommandError::Kind { kind }),
    };
    if !from.is_empty() {
        return Err(CommandError::Malformed {
            what: "bytes are left behind its last field",
        });
    }
    Ok(command)
}

/// Offset, leader epoch, time and the length of the metadata.
pub(crate) const COMMITTED_BYTES_MIN: usize = 8 + 8 + 8 + 4;

/// Also the form in snapshots.
pub(crate) fn get_committed(from: &mut &[u8]) -> Result<CommittedOffset, Fault> {
    let offset = Offset(from.try_get_u64_le()?);
    let leader_epoch = match from.try_get_i64_le()? {
        -1 => None,
        epoch => {
            Some(LeaderEpoch(u32::try_from(epoch).map_err(|_| {
                Fault::Invalid("leader epoch of a commit is out of range")
            })?))
        }
    };
    let committed_at = TimestampMs(from.try_get_i64_le()?);
    Ok(CommittedOffset {
        offset,
        leader_epoch,
        metadata: get_str(from)?,
        committed_at,
    })
}

fn total_bytes(parts: &[Bytes]) -> usize {
    parts.iter().map(Bytes::len).sum()
}

/// Walks over parts as if they were one piece.
struct Parts<'a> {
    parts: &'a [Bytes],
    /// Bytes of the first part that are taken.
    at: usize,
}

impl Parts<'_> {
    /// The next `count` bytes: a slice of the part they lie in, a copy if they lie in several.
    fn take(&mut self, count: usize) -> Result<Bytes, CommandError> {
        self.skip_taken();
        let Some(part) = self.parts.first() else {
            return if count == 0 {
                Ok(Bytes::new())
            } else {
                Err(CommandError::Truncated)
            };
        };
        if count <= part.len() - self.at {
            let bytes = part.slice(self.at..self.at + count);
            self.at += count;
            return Ok(bytes);
        }
        if total_bytes(self.parts) - self.at < count {
            return Err(CommandError::Truncated);
        }
        let mut joined = Vec::with_capacity(count);
        while joined.len() < count {
            self.skip_taken();
            let part = &self.parts[0];
            let piece = (count - joined.len()).min(part.len() - self.at);
            joined.extend_from_slice(&part[self.at..self.at + piece]);
            self.at += piece;
        }
        Ok(joined.into())
    }

    fn skip_taken(&mut self) {
        while self.parts.first().is_some_and(|part| self.at == part.len()) {
            self.parts = &self.parts[1..];
            self.at = 0;
        }
    }

    fn end(&mut self) -> Result<(), CommandError> {
        self.skip_taken();
        if self.parts.is_empty() {
            Ok(())
        } else {
            Err(CommandError::Malformed {
                what: "bytes are left behind its last batch",
            })
        }
    }
}
