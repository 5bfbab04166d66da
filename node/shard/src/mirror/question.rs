//! What a mirror's leader asks the owner's that installs a checkpoint, and the answers. Layout:
//! `docs/formats/geo-frame.md`, "Questions".

use bytes::{Buf, BufMut, Bytes, BytesMut, TryGetError};
use meridian_tiered_storage::manifest::ObjectName;
use meridian_types::{Offset, Partition, Term, TimestampMs, TopicId, Uuid};

use crate::message::{MessageError, get_bool, get_many, get_str, put_count, put_str};

/// A question about one log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Question {
    /// A part of a checkpoint of its state: `None` asks for the beginning of a fresh one.
    Checkpoint { part: Option<(u64, u64)> },
    /// A part of an object of its manifest.
    Object { name: ObjectName, at: u64 },
    /// Batches of a partition from `from` on, up to `end`.
    Batches {
        partition: Partition,
        from: Offset,
        end: Offset,
    },
    /// To be done by the owner: a change of configs, or new topics, as the controller's command.
    Alter { command: Bytes },
}

/// A part of a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct CheckpointPart {
    pub(super) checkpoint: u64,
    pub(super) total_bytes: u64,
    pub(super) at: u64,
    pub(super) bytes: Bytes,
}

/// What is there of batches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum BatchesPart {
    /// Whole batches; the next one begins at `next`.
    Batches {
        next: Offset,
        max_timestamp: TimestampMs,
        bytes: Bytes,
    },
    /// What lies before `start` was deleted meanwhile.
    Deleted { start: Offset },
}

/// What became of each change, and the controller's sequence behind them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Altered {
    pub(super) sequence: u64,
    /// Why not, where it was refused.
    pub(super) outcomes: Vec<Result<(), String>>,
}

/// Bytes that are no question, or no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(super) struct Malformed(&'static str);

impl From<TryGetError> for Malformed {
    fn from(_: TryGetError) -> Self {
        Self("it ends too early")
    }
}

impl Question {
    pub(super) fn encode(&self) -> Bytes {
        let mut out = BytesMut::new();
        match self {
            Self::Checkpoint { part } => {
                out.put_u8(1);
                out.put_u8(part.is_some().into());
                let (checkpoint, at) = part.unwrap_or_default();
                out.put_u64_le(checkpoint);
                out.put_u64_le(at);
            }
            Self::Object { name, at } => {
                out.put_u8(2);
                out.put_u64_le(name.term.0);
                out.put_slice(name.id.as_bytes());
                out.put_u64_le(*at);
            }
            Self::Batches { partition, from, end } => {
                out.put_u8(3);
                out.put_slice(partition.topic.0.as_bytes());
                out.put_u32_le(partition.index);
                out.put_u64_le(from.0);
                out.put_u64_le(end.0);
            }
            Self::Alter { command } => {
                out.put_u8(4);
                out.put_slice(command);
            }
        }
        out.freeze()
    }

    pub(super) fn decode(mut from: &[u8]) -> Result<Self, Malformed> {
        let from = &mut from;
        let question = match from.try_get_u8()? {
            1 => {
                let goes_on = match from.try_get_u8()? {
                    0 => false,
                    1 => true,
                    _ => return Err(Malformed("a flag is neither 0 nor 1")),
                };
                let part = (from.try_get_u64_le()?, from.try_get_u64_le()?);
                Self::Checkpoint {
                    part: goes_on.then_some(part),
                }
            }
            2 => Self::Object {
                name: ObjectName {
                    term: Term(from.try_get_u64_le()?),
                    id: uuid(from)?,
                },
                at: from.try_get_u64_le()?,
            },
            3 => Self::Batches {
                partition: Partition {
                    topic: TopicId(uuid(from)?),
                    index: from.try_get_u32_le()?,
                },
                from: Offset(from.try_get_u64_le()?),
                end: Offset(from.try_get_u64_le()?),
            },
            4 => Self::Alter {
                command: Bytes::copy_from_slice(std::mem::take(from)),
            },
            _ => return Err(Malformed("it asks for something that this version does not know")),
        };
        match from.is_empty() {
            true => Ok(question),
            false => Err(Malformed("it goes on behind its end")),
        }
    }
}

fn uuid(from: &mut &[u8]) -> Result<Uuid, Malformed> {
    // UUIDs are written in the order of their text.
    Ok(Uuid::from_u128(from.try_get_u128()?))
}

impl CheckpointPart {
    pub(super) fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(24 + self.bytes.len());
        out.put_u64_le(self.checkpoint);
        out.put_u64_le(self.total_bytes);
        out.put_u64_le(self.at);
        out.put_slice(&self.bytes);
        out.freeze()
    }

    pub(super) fn decode(mut from: Bytes) -> Result<Self, Malformed> {
        Ok(Self {
            checkpoint: from.try_get_u64_le()?,
            total_bytes: from.try_get_u64_le()?,
            at: from.try_get_u64_le()?,
            bytes: from,
        })
    }
}

impl BatchesPart {
    pub(super) fn encode(&self) -> Bytes {
        let mut out = BytesMut::new();
        match self {
            Self::Batches {
                next,
                max_timestamp,
                bytes,
            } => {
                out.put_u8(0);
                out.put_u64_le(next.0);
                out.put_i64_le(max_timestamp.0);
                out.put_slice(bytes);
            }
            Self::Deleted { start } => {
                out.put_u8(1);
                out.put_u64_le(start.0);
            }
        }
        out.freeze()
    }

    pub(super) fn decode(mut from: Bytes) -> Result<Self, Malformed> {
        match from.try_get_u8()? {
            0 => Ok(Self::Batches {
                next: Offset(from.try_get_u64_le()?),
                max_timestamp: TimestampMs(from.try_get_i64_le()?),
                bytes: from,
            }),
            1 => Ok(Self::Deleted {
                start: Offset(from.try_get_u64_le()?),
            }),
            _ => Err(Malformed("it is of a kind that this version does not know")),
        }
    }
}

impl Altered {
    pub(super) fn encode(&self) -> Bytes {
        let mut out: Vec<u8> = Vec::new();
        out.put_u64_le(self.sequence);
        put_count(&mut out, self.outcomes.len());
        for outcome in &self.outcomes {
            put_str(&mut out, outcome.as_ref().err().map_or("", String::as_str));
            out.put_u8(outcome.is_ok().into());
        }
        out.into()
    }

    pub(super) fn decode(from: &[u8]) -> Result<Self, MessageError> {
        let from = &mut &*from;
        let sequence = from.try_get_u64_le()?;
        let outcomes = get_many(from, 3, |from| {
            let refused = get_str(from)?;
            Ok(match get_bool(from)? {
                true => Ok(()),
                false => Err(refused),
            })
        })?;
        Ok(Self { sequence, outcomes })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn questions() -> Vec<Question> {
        let name = ObjectName {
            term: Term(7),
            id: Uuid::from_u128(0x0102),
        };
        let partition = Partition {
            topic: TopicId(Uuid::from_u128(9)),
            index: 3,
        };
        let (from, end) = (Offset(5), Offset(50));
        vec![
            Question::Checkpoint { part: None },
            Question::Checkpoint { part: Some((1, 2)) },
            Question::Object { name, at: 1 << 20 },
            Question::Batches { partition, from, end },
            Question::Alter {
                command: Bytes::from_static(b"command"),
            },
        ]
    }

    #[test]
    fn questions_are_read_as_they_were_written_and_nothing_else_is() {
        for question in questions() {
            let bytes = question.encode();
            assert_eq!(Question::decode(&bytes), Ok(question.clone()));
            if matches!(question, Question::Alter { .. }) {
                // It goes to the end.
                continue;
            }
            for end in 0..bytes.len() {
                assert!(
                    Question::decode(&bytes[..end]).is_err(),
                    "{question:?} up to {end}"
                );
            }
            assert!(Question::decode(&[&bytes[..], &[0]].concat()).is_err());
        }
        assert!(Question::decode(&[9, 0, 0]).is_err());
    }

    #[test]
    fn answers_are_read_as_they_were_written_and_nothing_else_is() {
        let part = CheckpointPart {
            checkpoint: 3,
            total_bytes: 100,
            at: 20,
            bytes: Bytes::from_static(b"state"),
        };
        assert_eq!(CheckpointPart::decode(part.encode()), Ok(part.clone()));
        assert!(CheckpointPart::decode(part.encode().slice(..23)).is_err());
        let batches = BatchesPart::Batches {
            next: Offset(9),
            max_timestamp: TimestampMs(-1),
            bytes: Bytes::from_static(b"batches"),
        };
        for answer in [batches, BatchesPart::Deleted { start: Offset(4) }] {
            let bytes = answer.encode();
            assert_eq!(BatchesPart::decode(bytes.clone()), Ok(answer));
            assert!(BatchesPart::decode(bytes.slice(..8)).is_err());
        }
        assert!(BatchesPart::decode(Bytes::from_static(&[2; 20])).is_err());
        let altered = Altered {
            sequence: 9,
            outcomes: vec![Ok(()), Err("no such config".to_owned())],
        };
        let bytes = altered.encode();
        assert_eq!(Altered::decode(&bytes), Ok(altered));
        assert!(Altered::decode(&bytes[..bytes.len() - 1]).is_err());
    }
}
