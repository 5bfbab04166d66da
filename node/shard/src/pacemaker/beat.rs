//! What nodes tell each other ten times a second: `docs/formats/beat.md`.

use bytes::{Buf, Bytes, TryGetError};
use meridian_types::{NodeId, RaftIndex, ShardId, Term, Uuid};
use thiserror::Error;

const VERSION: u8 = 1;
/// Bytes of one shard in a beat.
const SHARD_BYTES: usize = 21;
/// Data shards that a region has at most, as the controller founds it: their ids are below.
const DATA_SHARDS_MAX: u32 = 4096;
/// Bytes of the address in a beat: the longest host name (RFC 1035) and a port fit.
const ADDRESS_BYTES_MAX: usize = 300;

const ROLE_BITS: u8 = 0b011;
const LEADER_SEEN: u8 = 0b100;

/// A node's sign of life, and how it sees the shards that it hosts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Beat {
    /// Who beats.
    pub(crate) node: NodeId,
    /// The sender's data directory.
    pub(crate) incarnation: Uuid,
    /// The sender's process: another one means that it has restarted.
    pub(crate) start_id: u64,
    /// Rises by one with each beat of a process, from 1.
    pub(crate) sequence: u64,
    /// Whether the sender means to stay.
    pub(crate) phase: NodePhase,
    /// Where the sender is reached now, `HOST:PORT`.
    pub(crate) address: String,
    /// The shards whose groups run there, by rising id.
    pub(crate) shards: Vec<HostedShard>,
}

/// Whether a node means to stay, and can lead. In the order in which nodes should lead.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum NodePhase {
    /// It does.
    #[default]
    Running,
    /// Its replicas are being moved elsewhere.
    Draining,
    /// Its disk takes no more records: another node should lead.
    Full,
    /// It ends in a moment.
    Stopping,
}

/// How the sender of a beat sees one shard that it hosts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct HostedShard {
    /// The shard.
    pub(crate) shard: ShardId,
    /// What the sender's Raft group does.
    pub(crate) role: ShardRole,
    /// Whether the sender sees a live node that claims to lead the shard, or leads it itself. A voter that
    /// does not is ready for an election.
    pub(crate) leader_seen: bool,
    /// The term in which it has that role.
    pub(crate) term: Term,
    /// The last entry that it has applied.
    pub(crate) applied: RaftIndex,
}

/// What a Raft group does on a node, as its beat tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ShardRole {
    /// It leads, and claims the shard.
    Leads,
    /// It follows the leader of `term`.
    Follows,
    /// It knows no leader; or leads, but has stepped aside or is handing over.
    Seeks,
}

/// Why bytes are not a beat.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub(crate) enum BeatError {
    /// Sent by a newer version of Meridian that should have known ours: drop it.
    #[error("the beat has format version {found}, this version reads {VERSION}")]
    Version {
        /// The version in the bytes.
        found: u8,
    },
    /// The bytes end too soon: drop it.
    #[error("the beat is cut short")]
    Short,
    /// A field cannot be so: drop it.
    #[error("the beat is malformed: {0}")]
    Malformed(&'static str),
}

impl From<TryGetError> for BeatError {
    fn from(_: TryGetError) -> Self {
        Self::Short
    }
}

impl Beat {
    /// How the sender sees `shard`; `None` where it does not host it.
    pub(crate) fn shard(&self, shard: ShardId) -> Option<&HostedShard> {
        let at = self.shards.binary_search_by_key(&shard, |hosted| hosted.shard);
        at.ok().map(|at| &self.shards[at])
    }

    /// The bytes of the message.
    pub(crate) fn encode(&self) -> Bytes {
        let mut out = Vec::with_capacity(42 + self.address.len() + self.shards.len() * SHARD_BYTES);
        out.push(VERSION);
        out.push(match self.phase {
            NodePhase::Running => 0,
            NodePhase::Draining => 1,
            NodePhase::Stopping => 2,
            NodePhase::Full => 3,
        });
        out.extend_from_slice(&self.node.0.to_le_bytes());
        out.extend_from_slice(self.incarnation.as_bytes());
        out.extend_from_slice(&self.start_id.to_le_bytes());
        out.extend_from_slice(&self.sequence.to_le_bytes());
        put_count(&mut out, self.address.len());
        out.extend_from_slice(self.address.as_bytes());
        put_count(&mut out, self.shards.len());
        for hosted in &self.shards {
            hosted.put(&mut out);
        }
        out.into()
    }

    /// Reads a message.
    ///
    /// Errors: [`BeatError`]; nothing is allocated beyond what the bytes themselves hold.
    pub(crate) fn decode(mut body: &[u8]) -> Result<Self, BeatError> {
        let from = &mut body;
        let version = from.try_get_u8()?;
        if version != VERSION {
            return Err(BeatError::Version { found: version });
        }
        let phase = match from.try_get_u8()? {
            0 => NodePhase::Running,
            1 => NodePhase::Draining,
            2 => NodePhase::Stopping,
            3 => NodePhase::Full,
            _ => return Err(BeatError::Malformed("an unknown phase")),
        };
        let node = NodeId(from.try_get_u32_le()?);
        let beat = Self {
            phase,
            node,
            incarnation: Uuid::from_u128(from.try_get_u128()?),
            start_id: from.try_get_u64_le()?,
            sequence: from.try_get_u64_le()?,
            address: get_address(from)?,
            shards: get_shards(from)?,
        };
        if from.is_empty() {
            Ok(beat)
        } else {
            Err(BeatError::Malformed("bytes are left behind its last field"))
        }
    }
}

impl HostedShard {
    /// All but how far it is: what others should hear of at once when it changes. A candidate's term is
    /// nobody's business.
    pub(super) fn gist(&self) -> (ShardId, ShardRole, bool, Option<Term>) {
        let term = (self.role != ShardRole::Seeks).then_some(self.term);
        (self.shard, self.role, self.leader_seen, term)
    }

    fn put(&self, out: &mut Vec<u8>) {
        let role = match self.role {
            ShardRole::Leads => 0,
            ShardRole::Follows => 1,
            ShardRole::Seeks => 2,
        };
        let seen = if self.leader_seen { LEADER_SEEN } else { 0 };
        out.extend_from_slice(&self.shard.0.to_le_bytes());
        out.push(role | seen);
        out.extend_from_slice(&self.term.0.to_le_bytes());
        out.extend_from_slice(&self.applied.0.to_le_bytes());
    }

    fn get(from: &mut &[u8]) -> Result<Self, BeatError> {
        let shard = ShardId(from.try_get_u32_le()?);
        if shard.0 >= DATA_SHARDS_MAX && shard != ShardId::CONTROLLER {
            return Err(BeatError::Malformed("a shard that no region has"));
        }
        let flags = from.try_get_u8()?;
        if flags & !(ROLE_BITS | LEADER_SEEN) != 0 {
            return Err(BeatError::Malformed("a shard with unknown flags"));
        }
        Ok(Self {
            shard,
            role: match flags & ROLE_BITS {
                0 => ShardRole::Leads,
                1 => ShardRole::Follows,
                2 => ShardRole::Seeks,
                _ => return Err(BeatError::Malformed("a shard with an unknown role")),
            },
            leader_seen: flags & LEADER_SEEN != 0,
            term: Term(from.try_get_u64_le()?),
            applied: RaftIndex(from.try_get_u64_le()?),
        })
    }
}

fn put_count(out: &mut Vec<u8>, count: usize) {
    let count = u16::try_from(count).expect("addresses and shards are bounded when they are told");
    out.extend_from_slice(&count.to_le_bytes());
}

fn get_address(from: &mut &[u8]) -> Result<String, BeatError> {
    let bytes = usize::from(from.try_get_u16_le()?);
    if bytes > ADDRESS_BYTES_MAX {
        return Err(BeatError::Malformed("the address is too long"));
    }
    let (text, rest) = from.split_at_checked(bytes).ok_or(BeatError::Short)?;
    *from = rest;
    let text = std::str::from_utf8(text).map_err(|_| BeatError::Malformed("the address is not UTF-8"))?;
    Ok(text.to_owned())
}

fn get_shards(from: &mut &[u8]) -> Result<Vec<HostedShard>, BeatError> {
    let count = usize::from(from.try_get_u16_le()?);
    if count * SHARD_BYTES > from.len() {
        return Err(BeatError::Short);
    }
    let shards = (0..count)
        .map(|_| HostedShard::get(from))
        .collect::<Result<Vec<_>, _>>()?;
    if shards.is_sorted_by(|before, after| before.shard < after.shard) {
        Ok(shards)
    } else {
        Err(BeatError::Malformed("the shards are not in order"))
    }
}

#[cfg(test)]
mod tests;
