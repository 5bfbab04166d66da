//! What nodes of a region say to one another beside Raft. Format: `docs/formats/region-messages.md`.
//!
//! Numbers are little-endian. What comes in is never trusted: every count is bounded by the bytes that are
//! left, and bytes behind the last field are an error.

use bytes::{Buf, Bytes};
use meridian_peer::HostPort;
use meridian_types::{LogPosition, NodeId, RaftIndex, ShardId, Term, Uuid};
use thiserror::Error;

/// The version of every message here.
pub(crate) const VERSION: u8 = 1;

/// Message kinds. Raft's are 0x01xx.
pub(crate) mod kind {
    /// One-way, ten times a second: [`crate::pacemaker::Beat`].
    pub(crate) const BEAT: u16 = 0x0200;
    /// To a seed, by address: who are you, and is your region founded?
    pub(crate) const JOIN_INFO: u16 = 0x0201;
    /// To any node, by address: make me a learner of the controller.
    pub(crate) const JOIN: u16 = 0x0202;
    /// To the controller's leader: propose this command.
    pub(crate) const CONTROL: u16 = 0x0203;
    /// To a node that has, or may have, a replica: how does it stand?
    pub(crate) const REPLICA: u16 = 0x0204;
    /// To any node, without a body: which shards do you lead, and who votes there?
    pub(crate) const LED: u16 = 0x0205;
    /// To any node, without a body: where do other regions reach you, and how do the logs stand that you lead?
    pub(crate) const MIRROR: u16 = 0x0206;
    /// To any node, by address, without a body: which bucket do you use?
    pub(crate) const BUCKET: u16 = 0x0207;
    /// One-way, without a body, to a shard's leader: the log needs an entry before a replica can give up what it keeps.
    pub(crate) const NUDGE: u16 = 0x0208;
}

/// Bytes that are not the message that was expected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub(crate) enum MessageError {
    #[error("the message has format version {found}, this version of Meridian reads {VERSION}")]
    Version { found: u8 },
    #[error("the message is cut short")]
    Short,
    #[error("the message is malformed: {0}")]
    Malformed(&'static str),
}

impl From<bytes::TryGetError> for MessageError {
    fn from(_: bytes::TryGetError) -> Self {
        Self::Short
    }
}

pub(crate) type Decoded<T> = Result<T, MessageError>;

/// What an empty or founded node says of itself: the question and the answer of [`kind::JOIN_INFO`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct JoinInfo {
    /// The name of the region that it belongs to, or wants to.
    pub(crate) region: String,
    /// Where it is reached.
    pub(crate) address: HostPort,
    /// Whether its region is founded.
    pub(crate) is_founded: bool,
    /// The seeds it was started with, in order.
    pub(crate) seeds: Vec<HostPort>,
    /// Its rack or zone.
    pub(crate) rack: Option<String>,
    /// The newest feature level that it understands.
    pub(crate) version_max: u16,
}

impl JoinInfo {
    pub(crate) fn encode(&self) -> Bytes {
        let mut out = vec![VERSION];
        put_str(&mut out, &self.region);
        put_address(&mut out, &self.address);
        out.push(self.is_founded.into());
        put_count(&mut out, self.seeds.len());
        for seed in &self.seeds {
            put_address(&mut out, seed);
        }
        out.push(self.rack.is_some().into());
        self.rack.iter().for_each(|rack| put_str(&mut out, rack));
        out.extend_from_slice(&self.version_max.to_le_bytes());
        out.into()
    }

    pub(crate) fn decode(body: &[u8]) -> Decoded<Self> {
        whole(body, |from| {
            Ok(Self {
                region: get_str(from)?,
                address: get_address(from)?,
                is_founded: get_bool(from)?,
                seeds: get_many(from, 4, get_address)?,
                rack: get_bool(from)?.then(|| get_str(from)).transpose()?,
                version_max: from.try_get_u16_le()?,
            })
        })
    }
}

/// The answer to [`kind::JOIN`], whose question is a [`JoinInfo`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum JoinAnswer {
    /// The node is registered: the controller's log is on its way. These are the region's nodes.
    Welcome { nodes: Vec<Introduced> },
    /// Ask this node, or ask again in a moment.
    Elsewhere { leader: Option<HostPort> },
    /// Final. The text says why and what to do.
    Refused { reason: String },
}

/// A node of the region, as told to a new one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Introduced {
    pub(crate) node: NodeId,
    pub(crate) incarnation: Uuid,
    pub(crate) address: HostPort,
}

impl JoinAnswer {
    pub(crate) fn encode(&self) -> Bytes {
        let mut out = vec![VERSION];
        match self {
            Self::Welcome { nodes } => {
                out.push(0);
                put_count(&mut out, nodes.len());
                for known in nodes {
                    out.extend_from_slice(&known.node.0.to_le_bytes());
                    out.extend_from_slice(known.incarnation.as_bytes());
                    put_address(&mut out, &known.address);
                }
            }
            Self::Elsewhere { leader } => {
                out.push(1);
                out.push(leader.is_some().into());
                leader.iter().for_each(|leader| put_address(&mut out, leader));
            }
            Self::Refused { reason } => {
                out.push(2);
                put_str(&mut out, reason);
            }
        }
        out.into()
    }

    pub(crate) fn decode(body: &[u8]) -> Decoded<Self> {
        whole(body, |from| {
            Ok(match from.try_get_u8()? {
                0 => Self::Welcome {
                    nodes: get_many(from, 24, |from| {
                        Ok(Introduced {
                            node: get_node(from)?,
                            incarnation: Uuid::from_u128(from.try_get_u128()?),
                            address: get_address(from)?,
                        })
                    })?,
                },
                1 => Self::Elsewhere {
                    leader: get_bool(from)?.then(|| get_address(from)).transpose()?,
                },
                2 => Self::Refused {
                    reason: get_str(from)?,
                },
                _ => return Err(MessageError::Malformed("an answer of unknown kind")),
            })
        })
    }
}

/// The answer to [`kind::CONTROL`], whose question is an encoded command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ControlAnswer {
    /// Committed and applied there; its outcome is found here once this entry is applied.
    Committed { at: LogPosition },
    /// Certainly not done. Ask this node, or ask again in a moment.
    NotLeader { leader: Option<NodeId> },
    /// It may or may not be done.
    Unknown { reason: String },
}

impl ControlAnswer {
    pub(crate) fn encode(&self) -> Bytes {
        let mut out = vec![VERSION];
        match self {
            Self::Committed { at } => {
                out.push(0);
                put_position(&mut out, *at);
            }
            Self::NotLeader { leader } => {
                out.push(1);
                out.push(leader.is_some().into());
                leader
                    .iter()
                    .for_each(|leader| out.extend_from_slice(&leader.0.to_le_bytes()));
            }
            Self::Unknown { reason } => {
                out.push(2);
                put_str(&mut out, reason);
            }
        }
        out.into()
    }

    pub(crate) fn decode(body: &[u8]) -> Decoded<Self> {
        whole(body, |from| {
            Ok(match from.try_get_u8()? {
                0 => Self::Committed {
                    at: get_position(from)?,
                },
                1 => Self::NotLeader {
                    leader: get_bool(from)?.then(|| get_node(from)).transpose()?,
                },
                2 => Self::Unknown {
                    reason: get_str(from)?,
                },
                _ => return Err(MessageError::Malformed("an answer of unknown kind")),
            })
        })
    }
}

/// How a node's replica of a shard stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ReplicaState {
    /// The node has nothing of the shard.
    Absent,
    /// Its group has a log, or a vote.
    Present,
    /// It lost something, and neither votes nor acknowledges until the leader has removed it.
    Damaged,
}

/// The question of [`kind::REPLICA`]: how the asker's own replica stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ReplicaQuestion {
    pub(crate) mine: ReplicaState,
}

impl ReplicaQuestion {
    pub(crate) fn encode(self) -> Bytes {
        Bytes::copy_from_slice(&[VERSION, put_state(self.mine)])
    }

    pub(crate) fn decode(body: &[u8]) -> Decoded<Self> {
        whole(body, |from| {
            Ok(Self {
                mine: get_state(from)?,
            })
        })
    }
}

/// The answer to [`kind::REPLICA`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ReplicaAnswer {
    /// How the replica stands there.
    pub(crate) theirs: ReplicaState,
    /// What its leader says; `None` from anyone else.
    pub(crate) members: Option<LeaderSays>,
}

/// The membership of a shard, from its leader.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LeaderSays {
    /// The entry that set it, committed.
    pub(crate) at: LogPosition,
    /// Whoever votes or learns under it.
    pub(crate) members: Vec<NodeId>,
}

impl ReplicaAnswer {
    pub(crate) fn encode(&self) -> Bytes {
        let mut out = vec![VERSION, put_state(self.theirs), self.members.is_some().into()];
        if let Some(LeaderSays { at, members }) = &self.members {
            put_position(&mut out, *at);
            put_count(&mut out, members.len());
            members
                .iter()
                .for_each(|node| out.extend_from_slice(&node.0.to_le_bytes()));
        }
        out.into()
    }

    pub(crate) fn decode(body: &[u8]) -> Decoded<Self> {
        whole(body, |from| {
            Ok(Self {
                theirs: get_state(from)?,
                members: get_bool(from)?
                    .then(|| {
                        Ok::<_, MessageError>(LeaderSays {
                            at: get_position(from)?,
                            members: get_many(from, 4, get_node)?,
                        })
                    })
                    .transpose()?,
            })
        })
    }
}

/// A shard that the answering node leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LedShard {
    pub(crate) shard: ShardId,
    /// No change of voters is under way.
    pub(crate) is_settled: bool,
    /// Who votes; of a change under way, who votes after it.
    pub(crate) voters: Vec<NodeId>,
}

/// The answer to [`kind::LED`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LedAnswer {
    pub(crate) shards: Vec<LedShard>,
}

impl LedAnswer {
    pub(crate) fn encode(&self) -> Bytes {
        let mut out = vec![VERSION];
        put_count(&mut out, self.shards.len());
        for led in &self.shards {
            out.extend_from_slice(&led.shard.0.to_le_bytes());
            out.push(led.is_settled.into());
            put_count(&mut out, led.voters.len());
            led.voters
                .iter()
                .for_each(|node| out.extend_from_slice(&node.0.to_le_bytes()));
        }
        out.into()
    }

    pub(crate) fn decode(body: &[u8]) -> Decoded<Self> {
        whole(body, |from| {
            let shards = get_many(from, 9, |from| {
                Ok(LedShard {
                    shard: ShardId(from.try_get_u32_le()?),
                    is_settled: get_bool(from)?,
                    voters: get_many(from, 4, get_node)?,
                })
            })?;
            Ok(Self { shards })
        })
    }
}

fn put_state(state: ReplicaState) -> u8 {
    match state {
        ReplicaState::Absent => 0,
        ReplicaState::Present => 1,
        ReplicaState::Damaged => 2,
    }
}

fn get_state(from: &mut &[u8]) -> Decoded<ReplicaState> {
    match from.try_get_u8()? {
        0 => Ok(ReplicaState::Absent),
        1 => Ok(ReplicaState::Present),
        2 => Ok(ReplicaState::Damaged),
        _ => Err(MessageError::Malformed("a replica in an unknown state")),
    }
}

pub(crate) fn whole<T>(mut body: &[u8], get: impl FnOnce(&mut &[u8]) -> Decoded<T>) -> Decoded<T> {
    let from = &mut body;
    let version = from.try_get_u8()?;
    if version != VERSION {
        return Err(MessageError::Version { found: version });
    }
    let message = get(from)?;
    if from.is_empty() {
        Ok(message)
    } else {
        Err(MessageError::Malformed("bytes are left behind its last field"))
    }
}

pub(crate) fn put_count(out: &mut Vec<u8>, count: usize) {
    let count = u32::try_from(count).expect("a region has few of anything");
    out.extend_from_slice(&count.to_le_bytes());
}

/// As many things as the count in front says, each of at least `least_bytes`.
pub(crate) fn get_many<T>(
    from: &mut &[u8],
    least_bytes: usize,
    one: impl Fn(&mut &[u8]) -> Decoded<T>,
) -> Decoded<Vec<T>> {
    let count = from.try_get_u32_le()? as usize;
    if count > from.len() / least_bytes {
        return Err(MessageError::Short);
    }
    (0..count).map(|_| one(from)).collect()
}

/// Texts are cut to what their length can say; only reasons are ever so long.
pub(crate) fn put_str(out: &mut Vec<u8>, text: &str) {
    let text = &text[..text.floor_char_boundary(usize::from(u16::MAX))];
    let bytes = u16::try_from(text.len()).expect("just cut");
    out.extend_from_slice(&bytes.to_le_bytes());
    out.extend_from_slice(text.as_bytes());
}

pub(crate) fn get_str(from: &mut &[u8]) -> Decoded<String> {
    let bytes = usize::from(from.try_get_u16_le()?);
    let (text, rest) = from.split_at_checked(bytes).ok_or(MessageError::Short)?;
    *from = rest;
    let text = std::str::from_utf8(text).map_err(|_| MessageError::Malformed("a text is not UTF-8"))?;
    Ok(text.to_owned())
}

pub(crate) fn get_bool(from: &mut &[u8]) -> Decoded<bool> {
    match from.try_get_u8()? {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(MessageError::Malformed("a flag is neither 0 nor 1")),
    }
}

pub(crate) fn put_address(out: &mut Vec<u8>, address: &HostPort) {
    put_str(out, &address.host);
    out.extend_from_slice(&address.port.to_le_bytes());
}

pub(crate) fn get_address(from: &mut &[u8]) -> Decoded<HostPort> {
    Ok(HostPort {
        host: get_str(from)?,
        port: from.try_get_u16_le()?,
    })
}

pub(crate) fn get_node(from: &mut &[u8]) -> Decoded<NodeId> {
    Ok(NodeId(from.try_get_u32_le()?))
}

fn put_position(out: &mut Vec<u8>, at: LogPosition) {
    out.extend_from_slice(&at.term.0.to_le_bytes());
    out.extend_from_slice(&at.index.0.to_le_bytes());
}

fn get_position(from: &mut &[u8]) -> Decoded<LogPosition> {
    Ok(LogPosition {
        term: Term(from.try_get_u64_le()?),
        index: RaftIndex(from.try_get_u64_le()?),
    })
}

#[cfg(test)]
mod fixtures;
#[cfg(test)]
mod tests {
    use super::*;

    fn address(port: u16) -> HostPort {
        HostPort {
            host: "node.example".to_owned(),
            port,
        }
    }

    fn at() -> LogPosition {
        LogPosition {
            term: Term(3),
            index: RaftIndex(77),
        }
    }

    /// Every message is read back as it was, and every shorter or longer form of it is refused.
    fn check<T: PartialEq + std::fmt::Debug>(
        messages: &[T],
        encode: impl Fn(&T) -> Bytes,
        decode: impl Fn(&[u8]) -> Decoded<T>,
    ) {
        for message in messages {
            let bytes = encode(message);
            assert_eq!(decode(&bytes).as_ref(), Ok(message));
            for end in 0..bytes.len() {
                assert!(decode(&bytes[..end]).is_err(), "{message:?} cut at {end}");
            }
            let longer = [&bytes[..], &[0]].concat();
            assert!(decode(&longer).is_err());
        }
    }

    #[test]
    fn messages_are_read_back_as_they_were_and_never_cut_or_longer() {
        let info = JoinInfo {
            region: "eu".to_owned(),
            address: address(1),
            is_founded: true,
            seeds: vec![address(1), address(2)],
            rack: Some("a".to_owned()),
            version_max: 2,
        };
        check(&[info], JoinInfo::encode, JoinInfo::decode);
        let joins = [
            JoinAnswer::Welcome {
                nodes: vec![Introduced {
                    node: NodeId(8),
                    incarnation: Uuid::from_u128(77),
                    address: address(4),
                }],
            },
            JoinAnswer::Elsewhere { leader: None },
            JoinAnswer::Elsewhere {
                leader: Some(address(3)),
            },
            JoinAnswer::Refused {
                reason: "no".to_owned(),
            },
        ];
        check(&joins, JoinAnswer::encode, JoinAnswer::decode);
        let controls = [
            ControlAnswer::Committed { at: at() },
            ControlAnswer::NotLeader { leader: None },
            ControlAnswer::NotLeader {
                leader: Some(NodeId(4)),
            },
            ControlAnswer::Unknown {
                reason: "gone".to_owned(),
            },
        ];
        check(&controls, ControlAnswer::encode, ControlAnswer::decode);
        let questions = [ReplicaState::Absent, ReplicaState::Present, ReplicaState::Damaged]
            .map(|mine| ReplicaQuestion { mine });
        check(&questions, |question| question.encode(), ReplicaQuestion::decode);
        let answers = [
            ReplicaAnswer {
                theirs: ReplicaState::Absent,
                members: None,
            },
            ReplicaAnswer {
                theirs: ReplicaState::Present,
                members: Some(LeaderSays {
                    at: at(),
                    members: vec![NodeId(1), NodeId(2)],
                }),
            },
        ];
        check(&answers, ReplicaAnswer::encode, ReplicaAnswer::decode);
        let led = LedAnswer {
            shards: vec![LedShard {
                shard: ShardId::CONTROLLER,
                is_settled: true,
                voters: vec![NodeId(1), NodeId(2)],
            }],
        };
        check(&[led], LedAnswer::encode, LedAnswer::decode);
    }

    #[test]
    fn a_count_beyond_the_message_allocates_nothing() {
        let mut answer = ReplicaAnswer {
            theirs: ReplicaState::Present,
            members: Some(LeaderSays {
                at: at(),
                members: Vec::new(),
            }),
        }
        .encode()
        .to_vec();
        let count = answer.len() - 4;
        answer[count..].copy_from_slice(&u32::MAX.to_le_bytes());
        assert_eq!(ReplicaAnswer::decode(&answer), Err(MessageError::Short));
    }
}
