//! What regions say to one another. Layout: `docs/formats/geo-frame.md`.

use std::ops::RangeInclusive;

use bytes::{Buf, BufMut, Bytes};
use meridian_types::{RegionEpoch, ShardId, TimestampMs};

use crate::compression::Codec;
use crate::head::{CARD_BYTES_MAX, FrameError, FrameType, HEAD_BYTES, Head, check, seal};
use crate::hello::Hello;
use crate::questions::QUESTION_BYTES_MAX;
use crate::refusal::Refusal;
use crate::source::{Cursor, Watermark};

mod fields;
#[cfg(test)]
mod tests;

use fields::{
    REASON_BYTES_MAX, entries, follow, get, get_u32, get_u64, greeting, put_greeting, put_refusal,
    put_subscription, put_text, refusal, reject, subscription, text,
};

/// Versions of frames that this program speaks.
pub(crate) const VERSIONS: RangeInclusive<u16> = 1..=1;
/// Region epochs are at most 2047.
const LINEAGE_MAX: usize = 2048;
/// Watermarks in one frame: so many fit a datagram of the smallest packet.
pub(crate) const WATERMARKS_MAX: usize = 40;

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Intent {
    /// A new link.
    Link,
    /// One more connection of a link that exists.
    Lane,
    /// Only to hear who is there.
    Question,
}

/// The greeting: the first frame of both sides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Greeting {
    /// Versions of frames that the sender speaks. In an answer: the one chosen.
    pub versions: RangeInclusive<u16>,
    /// What for.
    pub intent: Intent,
    /// Names the link; random.
    pub session: u128,
    /// Who.
    pub hello: Hello,
}

/// Why a connection was not let in, or ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reject {
    /// See the text.
    Other,
    /// No version of frames is common.
    Version,
    /// Another logical cluster.
    Cluster,
    /// The region number belongs to another region.
    DuplicateRegion,
    /// Another number of shards.
    Shards,
    /// The certificate does not name the node or its region.
    Certificate,
    /// A lane without its link.
    Session,
    /// There are too many links.
    TooMany,
    /// The other region does not want this one.
    NotAdmitted,
    /// A frame broke a rule.
    Protocol,
}

/// One asking for one shard over one link; a later asking has a higher number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Subscription {
    /// The shard.
    pub shard: ShardId,
    /// Which asking.
    pub number: u32,
}

/// Asks for a shard's content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Follow {
    /// Which asking.
    pub subscription: Subscription,
    /// Share of the link beside other shards; 0 counts as 1.
    pub weight: u8,
    /// Most bytes of frames that may be under way or unapplied.
    pub window_bytes: u32,
    /// From where.
    pub cursor: Cursor,
}

/// Tells that a mirror has applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Applied {
    /// Of which asking.
    pub subscription: Subscription,
    /// Everything below is applied on a quorum.
    pub sequence: u64,
}

/// A promise, and for which asking.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WatermarkOf {
    /// Of which asking.
    pub subscription: Subscription,
    /// The promise.
    pub watermark: Watermark,
}

/// Commands on their way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EntriesFrame {
    /// For which asking.
    pub subscription: Subscription,
    /// Counts the frames of the asking from 0.
    pub number: u64,
    /// The epoch under which the owner took them.
    pub region_epoch: RegionEpoch,
    /// Place of the first command.
    pub first_sequence: u64,
    /// The owner's digest after the last command.
    pub digest: u64,
    /// How many commands.
    pub count: u32,
    /// How the body is compressed.
    pub codec: Codec,
    /// Bytes of the body when it is not.
    pub raw_bytes: u32,
    /// The commands.
    pub body: Bytes,
}

/// A frame.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(
    missing_docs,
    reason = "the types of the fields say it; the page of the format says more"
)]
pub enum Frame {
    Hello(Greeting),
    Rejected {
        reject: Reject,
        reason: String,
    },
    Card(Bytes),
    Follow(Follow),
    Following(Subscription),
    Unfollow(Subscription),
    Entries(EntriesFrame),
    Applied(Applied),
    Watermarks(Vec<WatermarkOf>),
    Refused {
        subscription: Subscription,
        refusal: Refusal,
    },
    /// Bytes per second that the other side may send over this link.
    Throttle(Option<u64>),
    Ping(u64),
    Pong(u64),
    /// A question about a shard, numbered by who asks.
    Question {
        number: u64,
        shard: ShardId,
        body: Bytes,
    },
    /// The answer to the question of that number.
    Answer {
        number: u64,
        answer: Result<Bytes, Refusal>,
    },
}

impl EntriesFrame {
    /// The sequence after the last command.
    pub fn end_sequence(&self) -> u64 {
        self.first_sequence.saturating_add(u64::from(self.count))
    }

    /// Bytes of the whole frame.
    pub fn wire_bytes(&self) -> usize {
        HEAD_BYTES + ENTRIES_FIELDS_BYTES + self.body.len()
    }

    /// Head and fields, and the body, which is not copied.
    pub fn encode(&self) -> [Bytes; 2] {
        let mut fields = Vec::with_capacity(HEAD_BYTES + ENTRIES_FIELDS_BYTES);
        fields.put_bytes(0, HEAD_BYTES);
        put_subscription(&mut fields, self.subscription);
        fields.put_u64_le(self.number);
        fields.put_u32_le(self.region_epoch.0);
        fields.put_u64_le(self.first_sequence);
        fields.put_u64_le(self.digest);
        fields.put_u32_le(self.count);
        fields.put_u8(self.codec as u8);
        fields.put_bytes(0, 3);
        fields.put_u32_le(self.raw_bytes);
        let head = seal(FrameType::Entries, &[&fields[HEAD_BYTES..], &self.body]);
        fields[..HEAD_BYTES].copy_from_slice(&head);
        [Bytes::from(fields), self.body.clone()]
    }
}

const ENTRIES_FIELDS_BYTES: usize = 48;

/// The frame of an answer: head and fields, and the body, which is not copied.
pub(crate) fn encode_answer(number: u64, answer: &Result<Bytes, Refusal>) -> [Bytes; 2] {
    let mut fields = vec![0; HEAD_BYTES];
    fields.put_u64_le(number);
    let body = match answer {
        Ok(body) => {
            fields.put_u8(0);
            body.clone()
        }
        Err(refusal) => {
            fields.put_u8(1);
            put_refusal(&mut fields, refusal);
            Bytes::new()
        }
    };
    let head = seal(FrameType::Answer, &[&fields[HEAD_BYTES..], &body]);
    fields[..HEAD_BYTES].copy_from_slice(&head);
    [Bytes::from(fields), body]
}

impl Frame {
    /// The whole frame in one piece.
    pub fn encode(&self) -> Bytes {
        let mut fields = Vec::new();
        let frame = match self {
            Self::Entries(entries) => {
                let [head, body] = entries.encode();
                return [head, body].concat().into();
            }
            Self::Hello(greeting) => {
                put_greeting(&mut fields, greeting);
                FrameType::Hello
            }
            Self::Rejected { reject, reason } => {
                fields.put_u8(*reject as u8);
                put_text(&mut fields, reason, REASON_BYTES_MAX);
                FrameType::Rejected
            }
            Self::Card(card) => {
                fields.put_slice(&card[..card.len().min(CARD_BYTES_MAX)]);
                FrameType::Card
            }
            Self::Follow(follow) => {
                put_subscription(&mut fields, follow.subscription);
                fields.put_u8(follow.weight);
                fields.put_u32_le(follow.window_bytes);
                fields.put_u64_le(follow.cursor.sequence);
                fields.put_u64_le(follow.cursor.digest);
                let lineage = &follow.cursor.lineage;
                // What lies furthest back is what two histories share; the newest tell them apart.
                let lineage = &lineage[lineage.len().saturating_sub(LINEAGE_MAX)..];
                fields.put_u16_le(u16::try_from(lineage.len()).expect("bounded"));
                for (epoch, begin) in lineage {
                    fields.put_u32_le(epoch.0);
                    fields.put_u64_le(*begin);
                }
                FrameType::Follow
            }
            Self::Following(subscription) => {
                put_subscription(&mut fields, *subscription);
                FrameType::Following
            }
            Self::Unfollow(subscription) => {
                put_subscription(&mut fields, *subscription);
                FrameType::Unfollow
            }
            Self::Applied(applied) => {
                put_subscription(&mut fields, applied.subscription);
                fields.put_u64_le(applied.sequence);
                FrameType::Applied
            }
            Self::Watermarks(watermarks) => {
                let watermarks = &watermarks[..watermarks.len().min(WATERMARKS_MAX)];
                fields.put_u8(u8::try_from(watermarks.len()).expect("bounded"));
                for of in watermarks {
                    put_subscription(&mut fields, of.subscription);
                    fields.put_u64_le(of.watermark.sequence);
                    fields.put_i64_le(of.watermark.closed_at.0);
                }
                FrameType::Watermarks
            }
            Self::Refused {
                subscription,
                refusal,
            } => {
                put_subscription(&mut fields, *subscription);
                put_refusal(&mut fields, refusal);
                FrameType::Refused
            }
            Self::Throttle(rate) => {
                fields.put_u64_le(rate.unwrap_or(0));
                FrameType::Throttle
            }
            Self::Ping(nonce) => {
                fields.put_u64_le(*nonce);
                FrameType::Ping
            }
            Self::Pong(nonce) => {
                fields.put_u64_le(*nonce);
                FrameType::Pong
            }
            Self::Question { number, shard, body } => {
                fields.put_u64_le(*number);
                fields.put_u32_le(shard.0);
                fields.put_slice(&body[..body.len().min(QUESTION_BYTES_MAX)]);
                FrameType::Question
            }
            Self::Answer { number, answer } => {
                let [head, body] = encode_answer(*number, answer);
                return [head, body].concat().into();
            }
        };
        [&seal(frame, &[&fields])[..], &fields].concat().into()
    }

    /// Reads one whole frame, and nothing after it. The body of entries is not copied.
    pub fn decode(mut bytes: Bytes) -> Result<Self, FrameError> {
        let Some(head_bytes) = bytes.first_chunk::<HEAD_BYTES>().copied() else {
            return Err(FrameError::Length {
                announced: HEAD_BYTES,
                found: bytes.len(),
            });
        };
        let head = Head::decode(&head_bytes)?;
        bytes.advance(HEAD_BYTES);
        if bytes.len() != head.bytes {
            return Err(FrameError::Length {
                announced: head.bytes,
                found: bytes.len(),
            });
        }
        check(&head_bytes, &bytes)?;
        let frame = Self::fields(head.frame, &mut bytes)?;
        // A later greeting may say more.
        if bytes.has_remaining() && head.frame != FrameType::Hello {
            return Err(FrameError::TooLong);
        }
        Ok(frame)
    }

    fn fields(frame: FrameType, b: &mut Bytes) -> Result<Self, FrameError> {
        Ok(match frame {
            FrameType::Hello => Self::Hello(greeting(b)?),
            FrameType::Rejected => Self::Rejected {
                reject: reject(get(b, "reject", |b| b.try_get_u8().ok())?),
                reason: text(b, "reason", REASON_BYTES_MAX)?,
            },
            FrameType::Card => Self::Card(b.split_to(b.len())),
            FrameType::Follow => Self::Follow(follow(b)?),
            FrameType::Following => Self::Following(subscription(b)?),
            FrameType::Unfollow => Self::Unfollow(subscription(b)?),
            FrameType::Entries => Self::Entries(entries(b)?),
            FrameType::Applied => Self::Applied(Applied {
                subscription: subscription(b)?,
                sequence: get_u64(b, "sequence")?,
            }),
            FrameType::Watermarks => {
                let count = usize::from(get(b, "count", |b| b.try_get_u8().ok())?);
                if count > WATERMARKS_MAX {
                    return Err(FrameError::Field("count"));
                }
                let watermarks = (0..count).map(|_| {
                    Ok(WatermarkOf {
                        subscription: subscription(b)?,
                        watermark: Watermark {
                            sequence: get_u64(b, "sequence")?,
                            closed_at: TimestampMs(get(b, "closed at", |b| b.try_get_i64_le().ok())?),
                        },
                    })
                });
                Self::Watermarks(watermarks.collect::<Result<_, FrameError>>()?)
            }
            FrameType::Refused => Self::Refused {
                subscription: subscription(b)?,
                refusal: refusal(b)?,
            },
            FrameType::Throttle => {
                let rate = get_u64(b, "rate")?;
                Self::Throttle((rate > 0).then_some(rate))
            }
            FrameType::Ping => Self::Ping(get_u64(b, "nonce")?),
            FrameType::Pong => Self::Pong(get_u64(b, "nonce")?),
            FrameType::Question => Self::Question {
                number: get_u64(b, "number")?,
                shard: ShardId(get_u32(b, "shard")?),
                body: match b.len() {
                    0..=QUESTION_BYTES_MAX => b.split_to(b.len()),
                    _ => return Err(FrameError::Field("question")),
                },
            },
            FrameType::Answer => Self::Answer {
                number: get_u64(b, "number")?,
                answer: match get(b, "answer", |b| b.try_get_u8().ok())? {
                    0 => Ok(b.split_to(b.len())),
                    1 => Err(refusal(b)?),
                    _ => return Err(FrameError::Field("answer")),
                },
            },
        })
    }

    /// The byte that names its type.
    pub(crate) fn type_byte(&self) -> u8 {
        let frame = match self {
            Self::Hello(_) => FrameType::Hello,
            Self::Rejected { .. } => FrameType::Rejected,
            Self::Card(_) => FrameType::Card,
            Self::Follow(_) => FrameType::Follow,
            Self::Following(_) => FrameType::Following,
            Self::Unfollow(_) => FrameType::Unfollow,
            Self::Entries(_) => FrameType::Entries,
            Self::Applied(_) => FrameType::Applied,
            Self::Watermarks(_) => FrameType::Watermarks,
            Self::Refused { .. } => FrameType::Refused,
            Self::Throttle(_) => FrameType::Throttle,
            Self::Ping(_) => FrameType::Ping,
            Self::Pong(_) => FrameType::Pong,
            Self::Question { .. } => FrameType::Question,
            Self::Answer { .. } => FrameType::Answer,
        };
        frame as u8
    }
}
