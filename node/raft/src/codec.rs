//! Bytes of Raft's own records: votes, memberships, and the kind byte before each command.
//!
//! Drawn in `docs/formats/raft.md`. Integers are little endian.

use std::collections::{BTreeMap, BTreeSet};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use meridian_journal::{self as journal, Payload};
use thiserror::Error;

use crate::ENTRY_PREFIX_BYTES;
use crate::config::{Entry, EntryPayload, Membership, Proposal, Vote, log_id, node_id, position};

const BLANK: u8 = 0;
const COMMAND: u8 = 1;
const MEMBERSHIP: u8 = 2;

/// A record that this version cannot read: written by a newer one, or damaged in a way that its
/// checksum did not show. The shard stops; nothing is guessed.
#[derive(Debug, Error)]
#[error("unreadable Raft {what}: {reason}")]
pub(crate) struct CodecError {
    what: &'static str,
    reason: String,
}

impl From<CodecError> for std::io::Error {
    fn from(error: CodecError) -> Self {
        Self::new(std::io::ErrorKind::InvalidData, error)
    }
}

pub(crate) fn unreadable(what: &'static str, reason: impl Into<String>) -> CodecError {
    CodecError {
        what,
        reason: reason.into(),
    }
}

pub(crate) fn encode_entry(entry: Entry) -> journal::Entry {
    let position = position(&entry.log_id);
    let payload = match entry.payload {
        EntryPayload::Blank => Payload::from(Bytes::from_static(&[BLANK])),
        EntryPayload::Normal(Proposal(command)) => {
            let mut parts = Vec::with_capacity(command.parts().len() + 1);
            parts.push(Bytes::from_static(&[COMMAND]));
            parts.extend(command.parts().iter().cloned());
            Payload::from(parts)
        }
        EntryPayload::Membership(membership) => {
            let mut bytes = BytesMut::new();
            bytes.put_u8(MEMBERSHIP);
            put_membership(&mut bytes, &membership);
            Payload::from(bytes.freeze())
        }
    };
    journal::Entry { position, payload }
}

pub(crate) fn decode_entry(entry: &journal::Entry) -> Result<Entry, CodecError> {
    let payload = &entry.payload;
    let kind = payload.parts().iter().find_map(|part| part.first().copied());
    let body = |from: u32| {
        let length = u32::try_from(payload.len())
            .unwrap_or(u32::MAX)
            .saturating_sub(from);
        Payload::from(payload.slice(from, length))
    };
    let payload = match kind {
        Some(BLANK) => EntryPayload::Blank,
        Some(COMMAND) => EntryPayload::Normal(Proposal(body(ENTRY_PREFIX_BYTES))),
        Some(MEMBERSHIP) => {
            EntryPayload::Membership(get_membership(&mut body(ENTRY_PREFIX_BYTES).to_bytes())?)
        }
        Some(kind) => return Err(unreadable("entry", format!("kind {kind} at {}", entry.position))),
        None => {
            return Err(unreadable(
                "entry",
                format!("empty payload at {}", entry.position),
            ));
        }
    };
    Ok(Entry {
        log_id: log_id(entry.position),
        payload,
    })
}

/// Bytes of a vote.
pub(crate) const VOTE_BYTES: usize = 13;

pub(crate) fn encode_vote(vote: &Vote) -> Bytes {
    let mut bytes = BytesMut::with_capacity(VOTE_BYTES);
    put_vote(&mut bytes, vote);
    bytes.freeze()
}

pub(crate) fn put_vote(bytes: &mut BytesMut, vote: &Vote) {
    bytes.put_u64_le(vote.leader_id.term);
    bytes.put_u32_le(node_id(vote.leader_id.voted_for).0);
    bytes.put_u8(u8::from(vote.committed));
}

pub(crate) fn decode_vote(mut bytes: Bytes) -> Result<Vote, CodecError> {
    if bytes.len() != VOTE_BYTES {
        let reason = format!("{} bytes instead of {VOTE_BYTES}", bytes.len());
        return Err(unreadable("vote", reason));
    }
    let (term, node) = (bytes.get_u64_le(), u64::from(bytes.get_u32_le()));
    Ok(if bytes.get_u8() == 0 {
        Vote::new(term, node)
    } else {
        Vote::new_committed(term, node)
    })
}

pub(crate) fn put_membership(bytes: &mut BytesMut, membership: &Membership) {
    put_count(bytes, membership.get_joint_config().len());
    for config in membership.get_joint_config() {
        put_count(bytes, config.len());
        for node in config {
            bytes.put_u32_le(node_id(*node).0);
        }
    }
    put_count(bytes, membership.nodes().count());
    for (node, ()) in membership.nodes() {
        bytes.put_u32_le(node_id(*node).0);
    }
}

pub(crate) fn get_membership(bytes: &mut Bytes) -> Result<Membership, CodecError> {
    // A config is at least its own two-byte count.
    let configs = get_count(bytes, 2)?;
    let configs = (0..configs)
        .map(|_| get_nodes(bytes))
        .collect::<Result<Vec<_>, _>>()?;
    let nodes = get_nodes(bytes)?.into_iter().map(|node| (node, ()));
    Membership::new(configs, nodes.collect::<BTreeMap<_, _>>())
        .map_err(|error| unreadable("membership", error.to_string()))
}

fn get_nodes(bytes: &mut Bytes) -> Result<BTreeSet<u64>, CodecError> {
    let count = get_count(bytes, 4)?;
    Ok((0..count).map(|_| u64::from(bytes.get_u32_le())).collect())
}

fn put_count(bytes: &mut BytesMut, count: usize) {
    bytes.put_u16_le(u16::try_from(count).expect("a group has a handful of members"));
}

/// Reads a count of items of at least `item_bytes` each, checked against what is left.
fn get_count(bytes: &mut Bytes, item_bytes: usize) -> Result<usize, CodecError> {
    if bytes.remaining() < 2 {
        return Err(unreadable("membership", "ends early"));
    }
    let count = usize::from(bytes.get_u16_le());
    if count * item_bytes > bytes.remaining() {
        return Err(unreadable(
            "membership",
            format!("{count} items in {} bytes", bytes.remaining()),
        ));
    }
    Ok(count)
}

#[cfg(test)]
mod tests {
    use meridian_types::{LogPosition, RaftIndex, Term};

    use super::*;

    fn at(index: u64) -> LogPosition {
        LogPosition {
            term: Term(3),
            index: RaftIndex(index),
        }
    }

    #[test]
    fn entries_of_every_kind_survive_the_journal() {
        let membership = Membership::new_with_defaults(
            vec![BTreeSet::from([1, 2, 3]), BTreeSet::from([2, 3, 4])],
            [1, 2, 3, 4],
        );
        let command = Payload::from(vec![Bytes::from_static(b"head"), Bytes::from_static(b"batch")]);
        for payload in [
            EntryPayload::Blank,
            EntryPayload::Normal(Proposal(command)),
            EntryPayload::Membership(membership),
        ] {
            let want = format!("{payload:?}");
            let stored = encode_entry(Entry {
                log_id: log_id(at(9)),
                payload,
            });
            // Read back from disk an entry is one piece.
            let whole = journal::Entry {
                position: stored.position,
                payload: Payload::from(stored.payload.to_bytes()),
            };
            for stored in [stored, whole] {
                let entry = decode_entry(&stored).expect("readable");
                assert_eq!(position(&entry.log_id), at(9));
                assert_eq!(format!("{:?}", entry.payload), want);
            }
        }
    }

    /// Every record, by the name of its fixture.
    fn records() -> Vec<(&'static str, Bytes)> {
        let membership = Membership::new_with_defaults(
            vec![BTreeSet::from([1, 2, 3]), BTreeSet::from([2, 3, 4])],
            [1, 2, 3, 4, 7],
        );
        let entry = |payload| {
            let log_id = log_id(at(9));
            encode_entry(Entry { log_id, payload }).payload.to_bytes()
        };
        let command = Payload::from(vec![Bytes::from_static(b"head"), Bytes::from_static(b"batch")]);
        vec![
            ("blank", entry(EntryPayload::Blank)),
            ("command", entry(EntryPayload::Normal(Proposal(command)))),
            ("membership", entry(EntryPayload::Membership(membership))),
            ("vote", encode_vote(&Vote::new(7, 2))),
            ("vote-committed", encode_vote(&Vote::new_committed(8, 3))),
        ]
    }

    #[test]
    fn the_stored_records_of_version_1_are_written_and_read() {
        let fixtures = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/records-v1");
        for (name, record) in records() {
            let stored = fixtures.join(name).with_extension("bin");
            if std::env::var_os("BLESS").is_some() {
                std::fs::create_dir_all(&fixtures).expect("made");
                std::fs::write(&stored, &record).expect("written");
            }
            let content =
                std::fs::read(&stored).expect("the fixture is there; BLESS=1 makes it for a new version");
            assert_eq!(record, content, "{name}");
            let content = Bytes::from(content);
            let is_read = match name {
                "vote" | "vote-committed" => decode_vote(content).is_ok(),
                _ => decode_entry(&journal::Entry {
                    position: at(9),
                    payload: Payload::from(content),
                })
                .is_ok(),
            };
            assert!(is_read, "{name}");
        }
    }

    #[test]
    fn votes_survive_and_damage_is_an_error() {
        for vote in [Vote::new(7, 2), Vote::new_committed(8, 3)] {
            assert_eq!(decode_vote(encode_vote(&vote)).expect("readable"), vote);
        }
        assert!(decode_vote(Bytes::from_static(b"short")).is_err());
    }

    #[test]
    fn garbage_is_an_error_and_never_a_panic() {
        for length in 0..64u8 {
            for fill in [0u8, 1, 2, 3, 0x7f, 0xff] {
                let mut bytes = vec![fill; usize::from(length)];
                if let Some(first) = bytes.first_mut() {
                    *first = 2;
                }
                let entry = journal::Entry {
                    position: at(1),
                    payload: Payload::from(Bytes::from(bytes)),
                };
                let _ = decode_entry(&entry);
            }
        }
    }
}
