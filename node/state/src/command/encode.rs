//! From a command to bytes.

use bytes::Bytes;
use meridian_types::{Offset, Partition};

use super::{
    AppendGroup, Command, CommittedOffset, FillGroup, append_header_bytes, fill_header_bytes, kind, tier,
};
use crate::codec::{put_bytes, put_count, put_i64, put_partition, put_u32, put_u64};

impl Command {
    /// The encoded command as parts: one header, then each batch as it is, uncopied.
    ///
    /// Joined in order they are one contiguous encoding; an append's batches follow its header in group
    /// order without gaps, which is what [`crate::Chunk::at`] counts on.
    pub fn encode(&self) -> Vec<Bytes> {
        if let Self::Append { now, groups } = self {
            return encode_append(now.0, groups);
        }
        if let Self::Mirrored(run) = self {
            return run.encode(Self::VERSION, kind::MIRRORED);
        }
        if let Self::Fill { checkpoint, groups } = self {
            return encode_fill(*checkpoint, groups);
        }
        let mut out = vec![Self::VERSION, self.kind()];
        match self {
            Self::Append { .. } | Self::Mirrored(_) | Self::Fill { .. } => {
                unreachable!("they have several parts and returned above")
            }
            Self::CommitOffsets { group, now, offsets } => {
                put_i64(&mut out, now.0);
                put_bytes(&mut out, group.as_bytes());
                put_count(&mut out, offsets.len());
                for (partition, committed) in offsets {
                    put_partition(&mut out, *partition);
                    put_committed(&mut out, committed);
                }
            }
            Self::SaveGroup { group, body, now } => {
                put_i64(&mut out, now.0);
                put_bytes(&mut out, group.as_bytes());
                put_bytes(&mut out, body);
            }
            Self::DeleteGroups { groups } => {
                put_count(&mut out, groups.len());
                for group in groups {
                    put_bytes(&mut out, group.as_bytes());
                }
            }
            Self::DeleteOffsets { group, partitions } => {
                put_bytes(&mut out, group.as_bytes());
                put_count(&mut out, partitions.len());
                for partition in partitions {
                    put_partition(&mut out, *partition);
                }
            }
            Self::ExpireOffsets { now, expired } => {
                put_i64(&mut out, now.0);
                put_count(&mut out, expired.len());
                for group in expired {
                    put_bytes(&mut out, group.group.as_bytes());
                    put_count(&mut out, group.offsets.len());
                    for (partition, committed_at) in &group.offsets {
                        put_partition(&mut out, *partition);
                        put_i64(&mut out, committed_at.0);
                    }
                }
            }
            Self::SetLogStart { starts } => put_starts(&mut out, starts),
            Self::DropTopic { topic, now } => {
                put_i64(&mut out, now.0);
                out.extend_from_slice(topic.0.as_bytes());
            }
            Self::ExpireProducers { now } => put_i64(&mut out, now.0),
            Self::Tiered {
                sequence,
                through,
                object,
                extents,
                now,
            } => {
                put_i64(&mut out, now.0);
                put_u64(&mut out, *sequence);
                put_u64(&mut out, through.0);
                tier::put_object(&mut out, object);
                put_count(&mut out, extents.len());
                for (partition, extent) in extents {
                    put_partition(&mut out, *partition);
                    tier::put_extent(&mut out, extent);
                }
            }
            Self::Replaced {
                sequence,
                object,
                replaced,
                now,
            } => {
                put_i64(&mut out, now.0);
                put_u64(&mut out, *sequence);
                tier::put_object(&mut out, object);
                put_count(&mut out, replaced.len());
                for replacement in replaced {
                    tier::put_replacement(&mut out, replacement);
                }
            }
            Self::TierDeleted { objects } => {
                put_count(&mut out, objects.len());
                for object in objects {
                    put_u64(&mut out, object.0);
                }
            }
            Self::SetLocalStart { starts } => put_starts(&mut out, starts),
            Self::BeginEpoch(begin) => {
                put_u32(&mut out, begin.region_epoch.0);
                put_u32(&mut out, begin.owner.0.into());
                out.push(begin.is_owner.into());
                put_u64(&mut out, begin.expected_sequence);
            }
            Self::Fence { region_epoch } => put_u32(&mut out, region_epoch.0),
            Self::Stage(part) => part.encode(&mut out),
            Self::Install(install) => {
                put_i64(&mut out, install.now.0);
                put_u64(&mut out, install.checkpoint);
                out.push(install.has_objects.into());
                put_starts(&mut out, &install.starts);
            }
        }
        vec![out.into()]
    }

    fn kind(&self) -> u8 {
        match self {
            Self::Append { .. } => kind::APPEND,
            Self::CommitOffsets { .. } => kind::COMMIT_OFFSETS,
            Self::SaveGroup { .. } => kind::SAVE_GROUP,
            Self::DeleteGroups { .. } => kind::DELETE_GROUPS,
            Self::DeleteOffsets { .. } => kind::DELETE_OFFSETS,
            Self::ExpireOffsets { .. } => kind::EXPIRE_OFFSETS,
            Self::SetLogStart { .. } => kind::SET_LOG_START,
            Self::DropTopic { .. } => kind::DROP_TOPIC,
            Self::ExpireProducers { .. } => kind::EXPIRE_PRODUCERS,
            Self::Tiered { .. } => kind::TIERED,
            Self::Replaced { .. } => kind::REPLACED,
            Self::TierDeleted { .. } => kind::TIER_DELETED,
            Self::SetLocalStart { .. } => kind::SET_LOCAL_START,
            Self::Mirrored(_) => kind::MIRRORED,
            Self::BeginEpoch(_) => kind::BEGIN_EPOCH,
            Self::Fence { .. } => kind::FENCE,
            Self::Stage(_) => kind::STAGE,
            Self::Fill { .. } => kind::FILL,
            Self::Install(_) => kind::INSTALL,
        }
    }
}

fn encode_append(now: i64, groups: &[AppendGroup]) -> Vec<Bytes> {
    let header_bytes = append_header_bytes(groups);
    let mut header = Vec::with_capacity(header_bytes);
    header.extend_from_slice(&[Command::VERSION, kind::APPEND]);
    put_i64(&mut header, now);
    put_count(&mut header, groups.len());
    for group in groups {
        put_partition(&mut header, group.partition);
        put_count(&mut header, group.batches.len());
        for batch in &group.batches {
            put_count(&mut header, batch.len());
        }
    }
    debug_assert_eq!(header.len(), header_bytes);
    let batches = groups.iter().flat_map(|group| group.batches.iter().cloned());
    std::iter::once(header.into()).chain(batches).collect()
}

fn encode_fill(checkpoint: u64, groups: &[FillGroup]) -> Vec<Bytes> {
    let header_bytes = fill_header_bytes(groups);
    let mut header = Vec::with_capacity(header_bytes);
    header.extend_from_slice(&[Command::VERSION, kind::FILL]);
    put_u64(&mut header, checkpoint);
    put_count(&mut header, groups.len());
    for group in groups {
        put_partition(&mut header, group.partition);
        put_u64(&mut header, group.base_offset.0);
        put_u64(&mut header, group.end_offset.0);
        put_i64(&mut header, group.max_timestamp.0);
        put_count(&mut header, group.bytes.len());
    }
    debug_assert_eq!(header.len(), header_bytes);
    let batches = groups.iter().map(|group| group.bytes.clone());
    std::iter::once(header.into()).chain(batches).collect()
}

fn put_starts(out: &mut Vec<u8>, starts: &[(Partition, Offset)]) {
    put_count(out, starts.len());
    for (partition, offset) in starts {
        put_partition(out, *partition);
        put_u64(out, offset.0);
    }
}

/// Also the form in snapshots.
pub(crate) fn put_committed(out: &mut Vec<u8>, committed: &CommittedOffset) {
    put_u64(out, committed.offset.0);
    put_i64(out, committed.leader_epoch.map_or(-1, |epoch| epoch.0.into()));
    put_i64(out, committed.committed_at.0);
    put_bytes(out, committed.metadata.as_bytes());
}
