//! The greeting that opens a connection. Layout: `docs/formats/peer.md`.
//!
//! What is here keeps its place in every later version: a node must be able to tell any other that they do not
//! fit together.

use std::ops::RangeInclusive;

use bytes::{Buf, BufMut};
use meridian_types::{NodeId, Uuid};
use thiserror::Error;

use crate::lane::Lane;

/// First bytes of either side.
pub(crate) const MAGIC: [u8; 8] = *b"MRDNPEER";
/// Magic and length.
pub(crate) const PREFIX_BYTES: usize = 10;
/// Largest greeting, everything included.
pub(crate) const GREETING_BYTES_MAX: usize = 1 << 10;
/// Longest name of a region.
pub(crate) const REGION_BYTES_MAX: usize = 255;
/// Longest reason of a rejection.
const REASON_BYTES_MAX: usize = 512;
const CHECKSUM_BYTES: usize = 4;

/// What the dialling side says first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Hello {
    pub(crate) versions: RangeInclusive<u16>,
    pub(crate) lane: Lane,
    pub(crate) node: NodeId,
    pub(crate) incarnation: Uuid,
    pub(crate) region: String,
}

/// What the accepting side answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Reply {
    Welcome {
        version: u16,
        node: NodeId,
        incarnation: Uuid,
    },
    Rejected {
        reason: String,
    },
}

/// The bytes are no greeting.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub(crate) enum GreetingError {
    #[error(
        "the other side speaks TLS, this node does not: set peer.tls_cert, peer.tls_key and peer.tls_ca here too"
    )]
    Tls,
    #[error("the first bytes are {}, expected `MRDNPEER`", .0.escape_ascii())]
    Magic([u8; 8]),
    #[error("a greeting of {0} bytes, expected at most {GREETING_BYTES_MAX}")]
    Length(usize),
    #[error("the greeting has a wrong checksum")]
    Checksum,
    #[error("the greeting's field `{0}` is missing or not valid")]
    Field(&'static str),
}

/// Looks at the first bytes. Returns how many follow.
pub(crate) fn rest_bytes(prefix: &[u8; PREFIX_BYTES]) -> Result<usize, GreetingError> {
    let (magic, mut length) = prefix.split_at(MAGIC.len());
    if magic != MAGIC {
        // A record of TLS: handshake or alert, and the major version.
        if matches!(magic, [0x15 | 0x16, 0x03, ..]) {
            return Err(GreetingError::Tls);
        }
        return Err(GreetingError::Magic(magic.try_into().expect("eight bytes")));
    }
    let rest = usize::from(length.get_u16_le());
    if PREFIX_BYTES + rest > GREETING_BYTES_MAX || rest < CHECKSUM_BYTES {
        return Err(GreetingError::Length(PREFIX_BYTES + rest));
    }
    Ok(rest)
}

impl Hello {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut fields = Vec::new();
        fields.put_u16_le(*self.versions.start());
        fields.put_u16_le(*self.versions.end());
        fields.put_u8(match self.lane {
            Lane::Bulk => 0,
            Lane::Urgent => 1,
        });
        fields.put_u32_le(self.node.0);
        fields.put_slice(self.incarnation.as_bytes());
        put_text(&mut fields, &self.region, REGION_BYTES_MAX);
        sealed(&fields)
    }

    /// Reads what followed the prefix. Fields of later versions may follow those known here.
    pub(crate) fn decode(prefix: &[u8; PREFIX_BYTES], rest: &[u8]) -> Result<Self, GreetingError> {
        let mut fields = opened(prefix, rest)?;
        let first = get(&mut fields, "versions", |b| b.try_get_u16_le().ok())?;
        let last = get(&mut fields, "versions", |b| b.try_get_u16_le().ok())?;
        let lane = match get(&mut fields, "lane", |b| b.try_get_u8().ok())? {
            0 => Lane::Bulk,
            1 => Lane::Urgent,
            _ => return Err(GreetingError::Field("lane")),
        };
        Ok(Self {
            versions: first..=last,
            lane,
            node: NodeId(get(&mut fields, "node", |b| b.try_get_u32_le().ok())?),
            incarnation: get(&mut fields, "incarnation", get_uuid)?,
            region: get(&mut fields, "region", get_text)?,
        })
    }
}

impl Reply {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut fields = Vec::new();
        match self {
            Self::Welcome {
                version,
                node,
                incarnation,
            } => {
                fields.put_u8(0);
                fields.put_u16_le(*version);
                fields.put_u32_le(node.0);
                fields.put_slice(incarnation.as_bytes());
            }
            Self::Rejected { reason } => {
                fields.put_u8(1);
                put_text(&mut fields, reason, REASON_BYTES_MAX);
            }
        }
        sealed(&fields)
    }

    pub(crate) fn decode(prefix: &[u8; PREFIX_BYTES], rest: &[u8]) -> Result<Self, GreetingError> {
        let mut fields = opened(prefix, rest)?;
        match get(&mut fields, "outcome", |b| b.try_get_u8().ok())? {
            0 => Ok(Self::Welcome {
                version: get(&mut fields, "version", |b| b.try_get_u16_le().ok())?,
                node: NodeId(get(&mut fields, "node", |b| b.try_get_u32_le().ok())?),
                incarnation: get(&mut fields, "incarnation", get_uuid)?,
            }),
            1 => Ok(Self::Rejected {
                reason: get(&mut fields, "reason", get_text)?,
            }),
            _ => Err(GreetingError::Field("outcome")),
        }
    }
}

/// The highest version that both sides speak.
pub(crate) fn common_version(ours: &RangeInclusive<u16>, theirs: &RangeInclusive<u16>) -> Option<u16> {
    let highest = *ours.end().min(theirs.end());
    let lowest = *ours.start().max(theirs.start());
    (lowest <= highest).then_some(highest)
}

fn sealed(fields: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(PREFIX_BYTES + fields.len() + CHECKSUM_BYTES);
    bytes.put_slice(&MAGIC);
    let rest = u16::try_from(fields.len() + CHECKSUM_BYTES).expect("texts are bounded");
    bytes.put_u16_le(rest);
    bytes.put_slice(fields);
    bytes.put_u32_le(crc_fast::crc32_iscsi(&bytes));
    bytes
}

/// The fields, if the checksum is right.
fn opened<'a>(prefix: &[u8; PREFIX_BYTES], rest: &'a [u8]) -> Result<&'a [u8], GreetingError> {
    let (fields, mut checksum) = rest
        .split_at_checked(rest.len().saturating_sub(CHECKSUM_BYTES))
        .ok_or(GreetingError::Checksum)?;
    let mut covered = prefix.to_vec();
    covered.extend(fields);
    if checksum.try_get_u32_le() != Ok(crc_fast::crc32_iscsi(&covered)) {
        return Err(GreetingError::Checksum);
    }
    Ok(fields)
}

fn get<'a, T>(
    fields: &mut &'a [u8],
    name: &'static str,
    read: impl Fn(&mut &'a [u8]) -> Option<T>,
) -> Result<T, GreetingError> {
    read(fields).ok_or(GreetingError::Field(name))
}

fn get_uuid(fields: &mut &[u8]) -> Option<Uuid> {
    fields
        .split_off(..16)
        .and_then(|bytes| Uuid::from_slice(bytes).ok())
}

fn get_text(fields: &mut &[u8]) -> Option<String> {
    let length = usize::from(fields.try_get_u16_le().ok()?);
    let text = fields.split_off(..length)?;
    Some(std::str::from_utf8(text).ok()?.to_owned())
}

fn put_text(fields: &mut Vec<u8>, text: &str, bytes_max: usize) {
    let text = &text[..text.floor_char_boundary(bytes_max)];
    fields.put_u16_le(u16::try_from(text.len()).expect("texts are bounded"));
    fields.put_slice(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn hello() -> Hello {
        Hello {
            versions: 1..=3,
            lane: Lane::Urgent,
            node: NodeId(7),
            incarnation: Uuid::from_u128(0x77),
            region: "west".to_owned(),
        }
    }

    fn split(bytes: &[u8]) -> (&[u8; PREFIX_BYTES], &[u8]) {
        bytes.split_first_chunk().expect("a prefix")
    }

    #[test]
    fn a_hello_reads_back() {
        let bytes = hello().encode();
        assert_eq!(bytes, include_bytes!("../fixtures/hello-v1.bin"));
        let (prefix, rest) = split(&bytes);
        assert_eq!(rest_bytes(prefix), Ok(rest.len()));
        assert_eq!(Hello::decode(prefix, rest), Ok(hello()));
    }

    #[test]
    fn a_reply_reads_back() {
        let welcome = Reply::Welcome {
            version: 2,
            node: NodeId(3),
            incarnation: Uuid::from_u128(5),
        };
        let rejected = Reply::Rejected {
            reason: "no".to_owned(),
        };
        let stored: [(Reply, &[u8]); 2] = [
            (welcome, include_bytes!("../fixtures/welcome-v1.bin")),
            (rejected, include_bytes!("../fixtures/rejected-v1.bin")),
        ];
        for (reply, stored) in stored {
            let bytes = reply.encode();
            assert_eq!(bytes, stored);
            let (prefix, rest) = split(&bytes);
            assert_eq!(Reply::decode(prefix, rest), Ok(reply));
        }
    }

    #[test]
    fn a_greeting_never_outgrows_its_limit() {
        let reply = Reply::Rejected {
            reason: "ä".repeat(5000),
        };
        assert!(reply.encode().len() <= GREETING_BYTES_MAX);
        let hello = Hello {
            region: "ä".repeat(5000),
            ..hello()
        };
        assert!(hello.encode().len() <= GREETING_BYTES_MAX);
    }

    #[test]
    fn fields_of_later_versions_are_passed_over() {
        let bytes = hello().encode();
        let mut fields = bytes[PREFIX_BYTES..bytes.len() - CHECKSUM_BYTES].to_vec();
        fields.extend(b"from the future");
        let later = sealed(&fields);
        let (prefix, rest) = split(&later);
        assert_eq!(Hello::decode(prefix, rest), Ok(hello()));
    }

    #[test]
    fn a_peer_with_tls_is_recognized() {
        assert_eq!(
            rest_bytes(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03"),
            Err(GreetingError::Tls)
        );
        let other = rest_bytes(b"GET / HTTP").expect_err("no greeting");
        assert!(other.to_string().contains("GET / HT"), "{other}");
    }

    #[test]
    fn the_highest_common_version_is_taken() {
        assert_eq!(common_version(&(1..=3), &(2..=5)), Some(3));
        assert_eq!(common_version(&(4..=6), &(2..=5)), Some(5));
        assert_eq!(common_version(&(1..=1), &(2..=5)), None);
    }

    proptest! {
        #[test]
        fn no_greeting_panics(prefix: [u8; PREFIX_BYTES], rest: Vec<u8>, seal: bool) {
            let bytes = if seal { sealed(&rest[..rest.len().min(900)]) } else { [&prefix[..], &rest].concat() };
            let (prefix, rest) = split(&bytes);
            if let Ok(bytes) = rest_bytes(prefix) {
                prop_assert!(PREFIX_BYTES + bytes <= GREETING_BYTES_MAX);
            }
            let _ = Hello::decode(prefix, rest);
            let _ = Reply::decode(prefix, rest);
        }
    }
}
