//! The bytes of a saved group: `docs/formats/group.md`.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use meridian_types::TimestampMs;

use super::group::{Group, Phase};
use super::member::Member;
use super::request::{Client, Protocol};

const VERSION: u8 = 1;
/// Stands for the length of a string that is absent.
const ABSENT: u32 = u32::MAX;

/// Why saved bytes are not a group. The bytes passed the checksums of the log, so this is a newer
/// version's group or a defect: keep the bytes and report it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Written by a newer version of Meridian: run that version, or a newer one.
    #[error("saved group has format version {found}, this version reads {VERSION}; run a newer Meridian")]
    Version {
        /// The version in the bytes.
        found: u8,
    },
    /// The bytes end too soon.
    #[error("saved group ends inside its {field}")]
    Truncated {
        /// What was being read.
        field: &'static str,
    },
    /// The bytes go on after the group's end.
    #[error("saved group is followed by {bytes} unexpected bytes")]
    Trailing {
        /// How many.
        bytes: usize,
    },
    /// A field's content contradicts the format or another field.
    #[error("saved group has an invalid {field}")]
    Invalid {
        /// Which.
        field: &'static str,
    },
}

/// A group as it is saved: its last complete generation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SavedGroup {
    pub(super) generation: i32,
    pub(super) phase_since: TimestampMs,
    pub(super) protocol_type: Option<String>,
    pub(super) protocol_name: Option<String>,
    pub(super) leader: Option<String>,
    pub(super) members: Vec<SavedMember>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SavedMember {
    pub(super) id: String,
    pub(super) instance_id: Option<String>,
    pub(super) client: Client,
    pub(super) session_timeout_ms: i32,
    pub(super) rebalance_timeout_ms: i32,
    pub(super) protocols: Vec<Protocol>,
    pub(super) assignment: Bytes,
}

impl SavedGroup {
    /// The generation that is complete, or is as soon as this is saved. A group between generations
    /// has no members that outlive a restart.
    pub(super) fn of(group: &Group) -> Self {
        let assignment = |member: &Member| match &group.phase {
            Phase::CompletingRebalance {
                assignments: Some(assignments),
            } => Some(assignments.get(&*member.id).cloned().unwrap_or_default()),
            Phase::Stable => Some(member.assignment.clone()),
            _ => None,
        };
        let saved = |member: &Member| {
            Some(SavedMember {
                assignment: assignment(member)?,
                id: member.id.to_string(),
                instance_id: member.instance_id.clone(),
                client: member.client.clone(),
                session_timeout_ms: member.session_timeout_ms,
                rebalance_timeout_ms: member.rebalance_timeout_ms,
                protocols: member.protocols.clone(),
            })
        };
        let members: Vec<SavedMember> = group.members().filter_map(saved).collect();
        let complete = !members.is_empty();
        Self {
            generation: group.generation,
            phase_since: group.phase_since,
            protocol_type: group.protocol_type.clone(),
            protocol_name: group.protocol_name.clone().filter(|_| complete),
            leader: group.leader.as_deref().filter(|_| complete).map(str::to_owned),
            members,
        }
    }

    /// The group as it was; its members have their sessions before them.
    pub(super) fn into_group(self, id: Arc<str>, now: TimestampMs) -> Group {
        let mut group = Group::new(id, now);
        group.generation = self.generation;
        group.protocol_type = self.protocol_type;
        group.protocol_name = self.protocol_name;
        let protocol_type = group.protocol_type.clone().unwrap_or_default();
        for member in self.members {
            let member = Member {
                id: Arc::from(member.id),
                instance_id: member.instance_id,
                client: member.client,
                session_timeout_ms: member.session_timeout_ms,
                rebalance_timeout_ms: member.rebalance_timeout_ms,
                protocols: member.protocols,
                assignment: member.assignment,
                is_new: false,
                join: None,
                sync: None,
            };
            group.add(&protocol_type, member);
        }
        if let Some(leader) = self.leader {
            group.leader = Some(Arc::from(leader));
        }
        let phase = if group.len() == 0 {
            Phase::Empty
        } else {
            Phase::Stable
        };
        group.set_phase(self.phase_since, phase);
        group.learn_subscribed_topics();
        group
    }

    pub(super) fn encode(&self) -> Bytes {
        let mut out = BytesMut::new();
        out.put_u8(VERSION);
        out.put_i32(self.generation);
        out.put_i64(self.phase_since.0);
        put_text(&mut out, self.protocol_type.as_deref());
        put_text(&mut out, self.protocol_name.as_deref());
        put_text(&mut out, self.leader.as_deref());
        put_count(&mut out, self.members.len());
        for member in &self.members {
            put_text(&mut out, Some(&member.id));
            put_text(&mut out, member.instance_id.as_deref());
            put_text(&mut out, Some(&member.client.id));
            put_text(&mut out, Some(&member.client.host));
            out.put_i32(member.session_timeout_ms);
            out.put_i32(member.rebalance_timeout_ms);
            put_count(&mut out, member.protocols.len());
            for protocol in &member.protocols {
                put_text(&mut out, Some(&protocol.name));
                put_bytes(&mut out, &protocol.metadata);
            }
            put_bytes(&mut out, &member.assignment);
        }
        out.freeze()
    }

    pub(super) fn decode(mut body: Bytes) -> Result<Self, DecodeError> {
        let input = &mut body;
        let version = input.try_get_u8().map_err(|_| truncated("version"))?;
        if version != VERSION {
            return Err(DecodeError::Version { found: version });
        }
        let group = Self {
            generation: get_i32(input, "generation")?,
            phase_since: TimestampMs(input.try_get_i64().map_err(|_| truncated("time"))?),
            protocol_type: get_text(input, "protocol type")?,
            protocol_name: get_text(input, "protocol name")?,
            leader: get_text(input, "leader")?,
            members: get_list(input, "members", get_member)?,
        };
        if input.has_remaining() {
            return Err(DecodeError::Trailing {
                bytes: input.remaining(),
            });
        }
        group.check()?;
        Ok(group)
    }

    /// What the coordinator relies on.
    fn check(&self) -> Result<(), DecodeError> {
        let sound = |sound: bool, field| {
            if sound {
                Ok(())
            } else {
                Err(DecodeError::Invalid { field })
            }
        };
        sound(self.generation >= 0, "generation")?;
        if self.members.is_empty() {
            return Ok(());
        }
        let ids: BTreeSet<&str> = self.members.iter().map(|m| m.id.as_str()).collect();
        sound(ids.len() == self.members.len() && !ids.contains(""), "member id")?;
        let instances: Vec<&str> = self
            .members
            .iter()
            .filter_map(|m| m.instance_id.as_deref())
            .collect();
        sound(
            instances.iter().collect::<BTreeSet<_>>().len() == instances.len(),
            "instance id",
        )?;
        sound(
            self.leader.as_deref().is_some_and(|leader| ids.contains(leader)),
            "leader",
        )?;
        sound(self.protocol_type.is_some(), "protocol type")?;
        let supported = |name: &str| {
            self.members
                .iter()
                .all(|m| m.protocols.iter().any(|p| p.name == name))
        };
        sound(
            self.protocol_name.as_deref().is_some_and(supported),
            "protocol name",
        )?;
        sound(
            self.members.iter().all(|m| m.session_timeout_ms > 0),
            "session timeout",
        )?;
        sound(
            self.members.iter().all(|m| m.rebalance_timeout_ms >= 0),
            "rebalance timeout",
        )
    }
}

fn get_member(input: &mut Bytes) -> Result<SavedMember, DecodeError> {
    Ok(SavedMember {
        id: get_present_text(input, "member id")?,
        instance_id: get_text(input, "instance id")?,
        client: Client {
            id: get_present_text(input, "client id")?,
            host: get_present_text(input, "client host")?,
        },
        session_timeout_ms: get_i32(input, "session timeout")?,
        rebalance_timeout_ms: get_i32(input, "rebalance timeout")?,
        protocols: get_list(input, "protocols", |input| {
            Ok(Protocol {
                name: get_present_text(input, "protocol name")?,
                metadata: get_bytes(input, "metadata")?,
            })
        })?,
        assignment: get_bytes(input, "assignment")?,
    })
}

fn put_count(out: &mut BytesMut, count: usize) {
    out.put_u32(u32::try_from(count).expect("a group is limited to group_bytes_max"));
}

fn put_bytes(out: &mut BytesMut, bytes: &[u8]) {
    put_count(out, bytes.len());
    out.put_slice(bytes);
}

fn put_text(out: &mut BytesMut, text: Option<&str>) {
    match text {
        Some(text) => put_bytes(out, text.as_bytes()),
        None => out.put_u32(ABSENT),
    }
}

fn truncated(field: &'static str) -> DecodeError {
    DecodeError::Truncated { field }
}

fn get_i32(input: &mut Bytes, field: &'static str) -> Result<i32, DecodeError> {
    input.try_get_i32().map_err(|_| truncated(field))
}

fn get_u32(input: &mut Bytes, field: &'static str) -> Result<u32, DecodeError> {
    input.try_get_u32().map_err(|_| truncated(field))
}

fn get_exactly(input: &mut Bytes, length: u32, field: &'static str) -> Result<Bytes, DecodeError> {
    let length = usize::try_from(length).map_err(|_| truncated(field))?;
    if length > input.remaining() {
        return Err(truncated(field));
    }
    // Copied, so that a small metadata does not keep the whole body in memory.
    let bytes = Bytes::copy_from_slice(&input[..length]);
    input.advance(length);
    Ok(bytes)
}

fn get_bytes(input: &mut Bytes, field: &'static str) -> Result<Bytes, DecodeError> {
    let length = get_u32(input, field)?;
    get_exactly(input, length, field)
}

fn get_text(input: &mut Bytes, field: &'static str) -> Result<Option<String>, DecodeError> {
    let length = get_u32(input, field)?;
    if length == ABSENT {
        return Ok(None);
    }
    let bytes = get_exactly(input, length, field)?;
    String::from_utf8(bytes.into())
        .map(Some)
        .map_err(|_| DecodeError::Invalid { field })
}

fn get_present_text(input: &mut Bytes, field: &'static str) -> Result<String, DecodeError> {
    get_text(input, field)?.ok_or(DecodeError::Invalid { field })
}

/// Grows with what is read, not with what is announced.
fn get_list<T>(
    input: &mut Bytes,
    field: &'static str,
    get: impl Fn(&mut Bytes) -> Result<T, DecodeError>,
) -> Result<Vec<T>, DecodeError> {
    let count = get_u32(input, field)?;
    let mut list = Vec::new();
    for _ in 0..count {
        list.push(get(input)?);
    }
    Ok(list)
}
