//! The fields of frames.

use bytes::{Buf, BufMut, Bytes};
use meridian_types::{NodeId, RegionEpoch, RegionNumber, ShardId};

use super::{EntriesFrame, Follow, Greeting, Intent, LINEAGE_MAX, Reject, Subscription};
use crate::compression::Codec;
use crate::head::{ENTRIES_BYTES_MAX, FrameError};
use crate::hello::Hello;
use crate::refusal::Refusal;
use crate::source::Cursor;

const MAGIC: &[u8; 8] = b"MRDNGEO1";
const NAME_BYTES_MAX: usize = 255;
pub(super) const REASON_BYTES_MAX: usize = 512;

pub(super) fn put_greeting(to: &mut Vec<u8>, greeting: &Greeting) {
    to.put_slice(MAGIC);
    to.put_u16_le(*greeting.versions.start());
    to.put_u16_le(*greeting.versions.end());
    to.put_u8(greeting.intent as u8);
    to.put_u128_le(greeting.session);
    let hello = &greeting.hello;
    to.put_u32_le(hello.node.0);
    to.put_u16_le(hello.number.0);
    to.put_u32_le(hello.shards);
    to.put_u32_le(hello.region_epoch.0);
    to.put_u16_le(hello.feature_level);
    put_text(to, &hello.cluster_id, NAME_BYTES_MAX);
    put_text(to, &hello.region, NAME_BYTES_MAX);
}

pub(super) fn greeting(b: &mut Bytes) -> Result<Greeting, FrameError> {
    if !b.starts_with(MAGIC) {
        return Err(FrameError::Magic);
    }
    b.advance(MAGIC.len());
    let first = get(b, "versions", |b| b.try_get_u16_le().ok())?;
    let last = get(b, "versions", |b| b.try_get_u16_le().ok())?;
    let intent = match get(b, "intent", |b| b.try_get_u8().ok())? {
        0 => Intent::Link,
        1 => Intent::Lane,
        2 => Intent::Question,
        _ => return Err(FrameError::Field("intent")),
    };
    let session = get(b, "session", |b| b.try_get_u128_le().ok())?;
    let node = NodeId(get_u32(b, "node")?);
    let number = RegionNumber(get(b, "region number", |b| b.try_get_u16_le().ok())?);
    let shards = get_u32(b, "shards")?;
    let region_epoch = RegionEpoch(get_u32(b, "region epoch")?);
    let feature_level = get(b, "feature level", |b| b.try_get_u16_le().ok())?;
    Ok(Greeting {
        versions: first..=last,
        intent,
        session,
        hello: Hello {
            cluster_id: text(b, "cluster id", NAME_BYTES_MAX)?,
            region: text(b, "region", NAME_BYTES_MAX)?,
            number,
            node,
            shards,
            region_epoch,
            feature_level,
        },
    })
}

pub(super) fn reject(code: u8) -> Reject {
    [
        Reject::Other,
        Reject::Version,
        Reject::Cluster,
        Reject::DuplicateRegion,
        Reject::Shards,
        Reject::Certificate,
        Reject::Session,
        Reject::TooMany,
        Reject::NotAdmitted,
        Reject::Protocol,
    ]
    .get(usize::from(code))
    .copied()
    // A later program knows more reasons; the text says which.
    .unwrap_or(Reject::Other)
}

pub(super) fn put_subscription(to: &mut Vec<u8>, subscription: Subscription) {
    to.put_u32_le(subscription.shard.0);
    to.put_u32_le(subscription.number);
}

pub(super) fn subscription(b: &mut Bytes) -> Result<Subscription, FrameError> {
    Ok(Subscription {
        shard: ShardId(get_u32(b, "shard")?),
        number: get_u32(b, "subscription")?,
    })
}

pub(super) fn follow(b: &mut Bytes) -> Result<Follow, FrameError> {
    let subscription = subscription(b)?;
    let weight = get(b, "weight", |b| b.try_get_u8().ok())?;
    let window_bytes = get_u32(b, "window")?;
    let sequence = get_u64(b, "sequence")?;
    let digest = get_u64(b, "digest")?;
    let count = usize::from(get(b, "lineage", |b| b.try_get_u16_le().ok())?);
    if count > LINEAGE_MAX || b.remaining() != count * 12 {
        return Err(FrameError::Field("lineage"));
    }
    let mut lineage: Vec<(RegionEpoch, u64)> = Vec::with_capacity(count);
    for _ in 0..count {
        let next = (RegionEpoch(get_u32(b, "lineage")?), get_u64(b, "lineage")?);
        if lineage
            .last()
            .is_some_and(|last| last.0 >= next.0 || last.1 > next.1)
        {
            return Err(FrameError::Field("lineage"));
        }
        lineage.push(next);
    }
    Ok(Follow {
        subscription,
        weight,
        window_bytes,
        cursor: Cursor {
            sequence,
            digest,
            lineage,
        },
    })
}

pub(super) fn entries(b: &mut Bytes) -> Result<EntriesFrame, FrameError> {
    let subscription = subscription(b)?;
    let number = get_u64(b, "number")?;
    let region_epoch = RegionEpoch(get_u32(b, "region epoch")?);
    let first_sequence = get_u64(b, "first sequence")?;
    let digest = get_u64(b, "digest")?;
    let count = get_u32(b, "count")?;
    let codec =
        Codec::from_byte(get(b, "codec", |b| b.try_get_u8().ok())?).ok_or(FrameError::Field("codec"))?;
    if get(b, "reserved", |b| b.try_get_uint_le(3).ok())? != 0 {
        return Err(FrameError::Field("reserved"));
    }
    let raw_bytes = get_u32(b, "raw bytes")?;
    // Each command has its length before it; none at all is said too.
    let is_counted = u64::from(count) * 4 <= u64::from(raw_bytes) && (count > 0 || raw_bytes == 0);
    if !is_counted || first_sequence.checked_add(count.into()).is_none() {
        return Err(FrameError::Field("count"));
    }
    if raw_bytes as usize > ENTRIES_BYTES_MAX {
        return Err(FrameError::TooLarge {
            announced: raw_bytes as usize,
            bytes_max: ENTRIES_BYTES_MAX,
        });
    }
    Ok(EntriesFrame {
        subscription,
        number,
        region_epoch,
        first_sequence,
        digest,
        count,
        codec,
        raw_bytes,
        body: b.split_to(b.len()),
    })
}

pub(super) fn put_refusal(to: &mut Vec<u8>, refusal: &Refusal) {
    match refusal {
        Refusal::NotHosted => to.put_u8(1),
        Refusal::NotLeader { leader } => {
            to.put_u8(2);
            to.put_u8(u8::from(leader.is_some()));
            to.put_u32_le(leader.unwrap_or_default().0);
        }
        Refusal::NotOwner { owner, region_epoch } => {
            to.put_u8(3);
            to.put_u16_le(owner.0);
            to.put_u32_le(region_epoch.0);
        }
        Refusal::Purged { oldest } => {
            to.put_u8(4);
            to.put_u64_le(*oldest);
        }
        Refusal::Diverged { fork } => {
            to.put_u8(5);
            to.put_u64_le(*fork);
        }
        Refusal::DigestDiffers { at } => {
            to.put_u8(6);
            to.put_u64_le(*at);
        }
        Refusal::Unknown { reason } => {
            to.put_u8(7);
            put_text(to, reason, REASON_BYTES_MAX);
        }
    }
}

pub(super) fn refusal(b: &mut Bytes) -> Result<Refusal, FrameError> {
    Ok(match get(b, "refusal", |b| b.try_get_u8().ok())? {
        1 => Refusal::NotHosted,
        2 => {
            let is_known = get(b, "leader", |b| b.try_get_u8().ok())?;
            let leader = NodeId(get_u32(b, "leader")?);
            Refusal::NotLeader {
                leader: (is_known != 0).then_some(leader),
            }
        }
        3 => Refusal::NotOwner {
            owner: RegionNumber(get(b, "owner", |b| b.try_get_u16_le().ok())?),
            region_epoch: RegionEpoch(get_u32(b, "region epoch")?),
        },
        4 => Refusal::Purged {
            oldest: get_u64(b, "oldest")?,
        },
        5 => Refusal::Diverged {
            fork: get_u64(b, "fork")?,
        },
        6 => Refusal::DigestDiffers {
            at: get_u64(b, "at")?,
        },
        7 => Refusal::Unknown {
            reason: text(b, "reason", REASON_BYTES_MAX)?,
        },
        _ => return Err(FrameError::Field("refusal")),
    })
}

pub(super) fn get<T>(
    b: &mut Bytes,
    field: &'static str,
    read: impl FnOnce(&mut Bytes) -> Option<T>,
) -> Result<T, FrameError> {
    read(b).ok_or(FrameError::Field(field))
}

pub(super) fn get_u32(b: &mut Bytes, field: &'static str) -> Result<u32, FrameError> {
    get(b, field, |b| b.try_get_u32_le().ok())
}

pub(super) fn get_u64(b: &mut Bytes, field: &'static str) -> Result<u64, FrameError> {
    get(b, field, |b| b.try_get_u64_le().ok())
}

/// Cut at a character when it is too long: a reason for people.
pub(super) fn put_text(to: &mut Vec<u8>, text: &str, bytes_max: usize) {
    let text = &text[..text.floor_char_boundary(bytes_max)];
    to.put_u16_le(u16::try_from(text.len()).expect("bounded"));
    to.put_slice(text.as_bytes());
}

pub(super) fn text(b: &mut Bytes, field: &'static str, bytes_max: usize) -> Result<String, FrameError> {
    let bytes = usize::from(get(b, field, |b| b.try_get_u16_le().ok())?);
    if bytes > bytes_max || bytes > b.remaining() {
        return Err(FrameError::Field(field));
    }
    String::from_utf8(b.split_to(bytes).to_vec()).map_err(|_| FrameError::Field(field))
}
