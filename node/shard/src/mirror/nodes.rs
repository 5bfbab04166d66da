//! What the nodes of a region tell one another of the mirror: where each is reached by other regions, and how the logs
//! stand that it leads.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::{Buf, Bytes};
use meridian_lineage::Role;
use meridian_peer::Lane;
use meridian_types::{NodeId, RegionEpoch, RegionNumber, ShardId};

use super::card::{get_epoch, get_flagged, get_region, put_flagged};
use super::stream::Stream;
use crate::message::{Decoded, MessageError, VERSION, get_many, get_str, kind, put_count, put_str, whole};
use crate::region::Inner;

/// A region follows a log while the link over which it does was heard within this time. Links say something every second.
const FOLLOWED_WITHIN: Duration = Duration::from_secs(2);

/// How long a node may take to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);

/// Whose acknowledgements [`kind::MIRROR`] asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Acknowledged {
    /// What any region has ever said.
    ByAny,
    /// Only of regions that follow the log now, over a link that was heard a moment ago.
    ByFollowers,
}

impl Acknowledged {
    fn encode(self) -> Vec<Bytes> {
        match self {
            Self::ByAny => Vec::new(),
            Self::ByFollowers => vec![Bytes::from_static(&[1])],
        }
    }

    pub(crate) fn decode(question: &[u8]) -> Decoded<Self> {
        match question {
            [] => Ok(Self::ByAny),
            [1] => Ok(Self::ByFollowers),
            _ => Err(MessageError::Malformed("acknowledgements of unknown regions")),
        }
    }
}

/// The answer to [`kind::MIRROR`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct MirrorAnswer {
    /// Where other regions reach the node, as HOST:PORT; nothing where it has no part in the mirror.
    pub(crate) geo: Option<String>,
    pub(crate) led: Vec<LedLog>,
}

/// A log that the node leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LedLog {
    pub(crate) shard: ShardId,
    pub(crate) role: Role,
    pub(crate) region_epoch: RegionEpoch,
    pub(crate) sequence: u64,
    /// Its digest differs from its source's.
    pub(crate) is_diverged: bool,
    pub(crate) acks: Vec<(RegionNumber, u64)>,
}

impl MirrorAnswer {
    pub(crate) fn encode(&self) -> Bytes {
        let mut out = vec![VERSION];
        put_flagged(&mut out, self.geo.as_ref(), |out, geo| put_str(out, geo));
        put_count(&mut out, self.led.len());
        for led in &self.led {
            out.extend_from_slice(&led.shard.0.to_le_bytes());
            out.push(match led.role {
                Role::Owner => 1,
                Role::Fenced => 2,
                Role::Mirror => 3,
            });
            out.extend_from_slice(&led.region_epoch.0.to_le_bytes());
            out.extend_from_slice(&led.sequence.to_le_bytes());
            out.push(led.is_diverged.into());
            put_count(&mut out, led.acks.len());
            for (region, sequence) in &led.acks {
                out.extend_from_slice(&region.0.to_le_bytes());
                out.extend_from_slice(&sequence.to_le_bytes());
            }
        }
        out.into()
    }

    pub(crate) fn decode(body: &[u8]) -> Decoded<Self> {
        whole(body, |from| {
            Ok(Self {
                geo: get_flagged(from, get_str)?,
                led: get_many(from, 4 + 1 + 4 + 8 + 1 + 4, get_led)?,
            })
        })
    }
}

fn get_led(from: &mut &[u8]) -> Decoded<LedLog> {
    Ok(LedLog {
        shard: ShardId(from.try_get_u32_le()?),
        role: match from.try_get_u8()? {
            1 => Role::Owner,
            2 => Role::Fenced,
            3 => Role::Mirror,
            _ => return Err(MessageError::Malformed("a log in an unknown role")),
        },
        region_epoch: get_epoch(from)?,
        sequence: from.try_get_u64_le()?,
        is_diverged: crate::message::get_bool(from)?,
        acks: get_many(from, 2 + 8, |from| {
            Ok((get_region(from)?, from.try_get_u64_le()?))
        })?,
    })
}

/// What this node answers.
pub(crate) fn answer(inner: &Inner, acknowledged: Acknowledged) -> MirrorAnswer {
    let Some(mirror) = inner.mirror() else {
        return MirrorAnswer::default();
    };
    let followers = match acknowledged {
        Acknowledged::ByAny => None,
        Acknowledged::ByFollowers => Some(followers(mirror)),
    };
    let acks = |shard: ShardId| {
        let mut acks = mirror.acks.of(shard);
        if let Some(followers) = &followers {
            acks.retain(|(region, _)| followers.contains(&(shard, *region)));
        }
        acks
    };
    let led = Stream::all(inner).filter_map(|stream| {
        stream.led()?;
        let stand = stream.stand();
        stand.is_counted.then(|| LedLog {
            shard: stream.id(),
            role: stand.progress.role,
            region_epoch: stand.progress.region_epoch,
            sequence: stand.progress.sequence,
            is_diverged: mirror.follows.diverged_at(stream.id(), &stand).is_some(),
            acks: acks(stream.id()),
        })
    });
    MirrorAnswer {
        geo: mirror.address(),
        led: led.collect(),
    }
}

/// The logs that other regions follow here now.
fn followers(mirror: &super::Mirror) -> BTreeSet<(ShardId, RegionNumber)> {
    let sessions = mirror
        .listener()
        .map(|listener| listener.status())
        .unwrap_or_default();
    let heard = sessions
        .iter()
        .filter(|session| session.heard_at.elapsed() < FOLLOWED_WITHIN);
    heard
        .flat_map(|session| session.shards.iter().map(|feed| (feed.shard, session.region)))
        .collect()
}

/// Asks every node of the region that is heard.
pub(super) async fn ask(inner: &Inner, acknowledged: Acknowledged) -> BTreeMap<NodeId, MirrorAnswer> {
    let here = inner.node();
    let others = inner
        .pacing
        .view()
        .alive
        .iter()
        .copied()
        .filter(|node| *node != here)
        .collect::<Vec<_>>();
    let asking = others.into_iter().map(|node| async move {
        let call = inner.peers.call(
            node,
            Lane::Urgent,
            kind::MIRROR,
            ShardId::CONTROLLER,
            acknowledged.encode(),
        );
        let answer = call.with_timeout(ANSWER_TIMEOUT).await.ok()?;
        match MirrorAnswer::decode(&answer) {
            Ok(answer) => Some((node, answer)),
            Err(error) => {
                tracing::warn!(%node, %error, "an unreadable answer about the mirror");
                None
            }
        }
    });
    let answers = futures::future::join_all(asking).await;
    answers
        .into_iter()
        .flatten()
        .chain([(here, answer(inner, acknowledged))])
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer() -> MirrorAnswer {
        MirrorAnswer {
            geo: Some("node.example:9290".to_owned()),
            led: vec![
                LedLog {
                    shard: ShardId::CONTROLLER,
                    role: Role::Fenced,
                    region_epoch: RegionEpoch(3),
                    sequence: 1 << 40,
                    is_diverged: false,
                    acks: vec![(RegionNumber(1), 77), (RegionNumber(999), 0)],
                },
                LedLog {
                    shard: ShardId(2),
                    role: Role::Mirror,
                    region_epoch: RegionEpoch(2047),
                    sequence: 0,
                    is_diverged: true,
                    acks: Vec::new(),
                },
            ],
        }
    }

    #[test]
    fn a_question_says_whose_acknowledgements_count() {
        for acknowledged in [Acknowledged::ByAny, Acknowledged::ByFollowers] {
            assert_eq!(
                Acknowledged::decode(&acknowledged.encode().concat()),
                Ok(acknowledged)
            );
        }
        assert!(Acknowledged::decode(&[0]).is_err());
        assert!(Acknowledged::decode(&[1, 1]).is_err());
    }

    #[test]
    fn an_answer_is_read_back_as_it_was_and_never_cut_or_longer() {
        for answer in [answer(), MirrorAnswer::default()] {
            let bytes = answer.encode();
            assert_eq!(MirrorAnswer::decode(&bytes), Ok(answer));
            for end in 0..bytes.len() {
                assert!(MirrorAnswer::decode(&bytes[..end]).is_err(), "cut at {end}");
            }
            assert!(MirrorAnswer::decode(&[&bytes[..], &[0]].concat()).is_err());
        }
    }

    #[test]
    fn the_stored_answer_of_version_1_is_written_and_read() {
        let path = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/fixtures/region-v1/mirror-answer.bin"
        );
        if std::env::var_os("BLESS").is_some() {
            std::fs::write(path, answer().encode()).expect("written");
        }
        let bytes = std::fs::read(path).expect("the fixture is there; BLESS=1 makes it for a new version");
        assert_eq!(bytes, answer().encode(), "bump the version instead");
        assert_eq!(MirrorAnswer::decode(&bytes), Ok(answer()));
    }
}
