//! From bytes to a command. Trusts nothing.

use bytes::{Buf, Bytes};
use meridian_lineage::{BeginEpoch, RunHead, StagePart};
use meridian_tiered_storage::manifest::ObjectId;
use meridian_types::{LeaderEpoch, Offset, Partition, RaftIndex, RegionEpoch, RegionNumber, TimestampMs};
use thiserror::Error;

use super::{
    AppendGroup, BATCH_LENGTH_BYTES, Command, CommittedOffset, ExpiredOffsets, FILL_GROUP_BYTES, FillGroup,
    GROUP_FIXED_BYTES, Install, kind, tier,
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
        match kind {
            kind::APPEND => return decode_append(parts),
            kind::MIRRORED => return decode_mirrored(parts),
            kind::FILL => return decode_fill(parts),
            _ => {}
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
    groups: Vec<(Partition, Vec<u32>)>,
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

fn decode_mirrored(parts: &[Bytes]) -> Result<Command, CommandError> {
    // As with an append, the head is joined only when it was cut.
    match RunHead::decode(&parts[0]).map_err(Fault::from) {
        Err(Fault::Short) if parts.len() > 1 => {
            let whole = Parts { parts, at: 0 }.take(total_bytes(parts))?;
            let (head, head_bytes) = RunHead::decode(&whole).map_err(Fault::from)?;
            take_run(head, head_bytes, &[whole])
        }
        decoded => {
            let (head, head_bytes) = decoded?;
            take_run(head, head_bytes, parts)
        }
    }
}

fn decode_fill(parts: &[Bytes]) -> Result<Command, CommandError> {
    match fill_header(&parts[0]) {
        Err(CommandError::Truncated) if parts.len() > 1 => {
            let whole = Parts { parts, at: 0 }.take(total_bytes(parts))?;
            take_fill(fill_header(&whole)?, &[whole])
        }
        header => take_fill(header?, parts),
    }
}

/// A filling without its batches, their lengths, and how long the header is.
type FillHeader = (u64, Vec<(FillGroup, usize)>, usize);

fn fill_header(bytes: &[u8]) -> Result<FillHeader, CommandError> {
    let mut from = bytes.get(2..).ok_or(CommandError::Truncated)?;
    let checkpoint = from.try_get_u64_le()?;
    let count = get_count(&mut from, FILL_GROUP_BYTES)?;
    let mut groups = Vec::with_capacity(count);
    for _ in 0..count {
        let group = FillGroup {
            partition: get_partition(&mut from)?,
            base_offset: Offset(from.try_get_u64_le()?),
            end_offset: Offset(from.try_get_u64_le()?),
            max_timestamp: TimestampMs(from.try_get_i64_le()?),
            bytes: Bytes::new(),
        };
        groups.push((group, from.try_get_u32_le()? as usize));
    }
    Ok((checkpoint, groups, bytes.len() - from.len()))
}

fn take_fill(header: FillHeader, parts: &[Bytes]) -> Result<Command, CommandError> {
    let (checkpoint, groups, header_bytes) = header;
    let mut rest = Parts { parts, at: 0 };
    rest.take(header_bytes)?;
    let groups = groups.into_iter().map(|(group, length)| {
        let bytes = rest.take(length)?;
        Ok::<_, CommandError>(FillGroup { bytes, ..group })
    });
    let groups = groups.collect::<Result<_, _>>()?;
    rest.end()?;
    Ok(Command::Fill { checkpoint, groups })
}

fn take_run(head: RunHead, head_bytes: usize, parts: &[Bytes]) -> Result<Command, CommandError> {
    let mut rest = Parts { parts, at: 0 };
    rest.take(head_bytes)?;
    let run = head.with_commands(|length| {
        let command = rest.take(length)?;
        check_is_content(&command)?;
        Ok::<_, CommandError>(command)
    })?;
    rest.end()?;
    Ok(Command::Mirrored(run))
}

/// A command that this version does not know stops the replica, as one of its own would: to refuse the run would make
/// replicas of two versions differ. What is wrong beyond its kind is the matter of `apply`, which refuses the run.
fn check_is_content(command: &[u8]) -> Result<(), CommandError> {
    let [version, kind, ..] = command else {
        return Ok(());
    };
    match (*version, *kind) {
        (version, _) if version > Command::VERSION => Err(CommandError::Version { version }),
        (_, kind) if is_known(kind) => Ok(()),
        (_, kind) => Err(CommandError::Kind { kind }),
    }
}

fn is_known(kind: u8) -> bool {
    matches!(
        kind,
        kind::APPEND..=kind::EXPIRE_PRODUCERS
            | kind::TIERED..=kind::SET_LOCAL_START
            | kind::MIRRORED..=kind::INSTALL
    )
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
        kind::SET_LOG_START => Command::SetLogStart {
            starts: get_starts(from)?,
        },
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
        kind::TIERED => {
            let now = TimestampMs(from.try_get_i64_le()?);
            let sequence = from.try_get_u64_le()?;
            let through = RaftIndex(from.try_get_u64_le()?);
            let object = tier::get_object(from)?;
            let count = get_count(from, PARTITION_BYTES + tier::EXTENT_BYTES)?;
            let mut extents = Vec::with_capacity(count);
            for _ in 0..count {
                extents.push((get_partition(from)?, tier::get_extent(from)?));
            }
            Command::Tiered {
                sequence,
                through,
                object,
                extents,
                now,
            }
        }
        kind::REPLACED => {
            let now = TimestampMs(from.try_get_i64_le()?);
            let sequence = from.try_get_u64_le()?;
            let object = tier::get_object(from)?;
            let count = get_count(from, tier::REPLACEMENT_BYTES_MIN)?;
            let replaced = (0..count)
                .map(|_| tier::get_replacement(from))
                .collect::<Result<_, _>>()?;
            Command::Replaced {
                sequence,
                object,
                replaced,
                now,
            }
        }
        kind::TIER_DELETED => {
            let count = get_count(from, 8)?;
            let mut objects = Vec::with_capacity(count);
            for _ in 0..count {
                objects.push(ObjectId(from.try_get_u64_le()?));
            }
            Command::TierDeleted { objects }
        }
        kind::SET_LOCAL_START => Command::SetLocalStart {
            starts: get_starts(from)?,
        },
        kind::BEGIN_EPOCH => Command::BeginEpoch(BeginEpoch {
            region_epoch: RegionEpoch(from.try_get_u32_le()?),
            owner: get_region(from)?,
            is_owner: get_flag(from)?,
            expected_sequence: from.try_get_u64_le()?,
        }),
        kind::FENCE => Command::Fence {
            region_epoch: RegionEpoch(from.try_get_u32_le()?),
        },
        kind::STAGE => Command::Stage(StagePart::decode(from).map_err(Fault::from)?),
        kind::INSTALL => {
            let now = TimestampMs(from.try_get_i64_le()?);
            let checkpoint = from.try_get_u64_le()?;
            let has_objects = get_flag(from)?;
            Command::Install(Install {
                checkpoint,
                has_objects,
                starts: get_starts(from)?,
                now,
            })
        }
        kind => return Err(CommandError::Kind { kind }),
    };
    if !from.is_empty() {
        return Err(CommandError::Malformed {
            what: "bytes are left behind its last field",
        });
    }
    Ok(command)
}

fn get_flag(from: &mut &[u8]) -> Result<bool, CommandError> {
    match from.try_get_u8()? {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(CommandError::Malformed {
            what: "a flag is neither 0 nor 1",
        }),
    }
}

fn get_starts(from: &mut &[u8]) -> Result<Vec<(Partition, Offset)>, CommandError> {
    let count = get_count(from, PARTITION_BYTES + 8)?;
    let mut starts = Vec::with_capacity(count);
    for _ in 0..count {
        starts.push((get_partition(from)?, Offset(from.try_get_u64_le()?)));
    }
    Ok(starts)
}

fn get_region(from: &mut &[u8]) -> Result<RegionNumber, CommandError> {
    let number = u16::try_from(from.try_get_u32_le()?).map(RegionNumber);
    number
        .ok()
        .filter(|number| *number <= RegionNumber::MAX)
        .ok_or(CommandError::Malformed {
            what: "a region number is beyond 999",
        })
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
