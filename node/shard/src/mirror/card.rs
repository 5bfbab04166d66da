//! A region's card: what it tells all others about itself, on every change. Format: `docs/formats/region-card.md`.

use bytes::{Buf, Bytes};
use meridian_types::{LeaderEpoch, NodeId, RegionEpoch, RegionNumber, ShardId};

use crate::message::{
    Decoded, MessageError, VERSION, get_bool, get_many, get_node, get_str, put_count, put_str, whole,
};

/// What a region tells of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Card {
    pub(crate) number: RegionNumber,
    pub(crate) name: String,
    /// The region epoch that it believes in, and who owns under it.
    pub(crate) region_epoch: RegionEpoch,
    pub(crate) owner: RegionNumber,
    /// The node that leads its controller.
    pub(crate) controller: Option<NodeId>,
    /// Its nodes that are heard.
    pub(crate) nodes: Vec<CardNode>,
    /// Its data shards, by number: those that all regions have, then those of topics that stay in it.
    pub(crate) shards: Vec<CardShard>,
    /// Logs of it that are not what their source has.
    pub(crate) diverged: Vec<ShardId>,
}

/// A node of the region.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CardNode {
    pub(crate) id: NodeId,
    /// Where clients reach it; nothing while it takes none.
    pub(crate) kafka: Option<(String, u16)>,
    pub(crate) rack: Option<String>,
    /// Where other regions reach it, as HOST:PORT.
    pub(crate) geo: Option<String>,
}

/// A shard in the region.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CardShard {
    pub(crate) leader: Option<(NodeId, LeaderEpoch)>,
    /// The nodes that hold it and are heard.
    pub(crate) replicas: Vec<NodeId>,
}

impl Card {
    pub(crate) fn encode(&self) -> Bytes {
        let mut out = vec![VERSION];
        out.extend_from_slice(&self.number.0.to_le_bytes());
        put_str(&mut out, &self.name);
        out.extend_from_slice(&self.region_epoch.0.to_le_bytes());
        out.extend_from_slice(&self.owner.0.to_le_bytes());
        put_flagged(&mut out, self.controller.as_ref(), |out, node| {
            out.extend_from_slice(&node.0.to_le_bytes());
        });
        put_count(&mut out, self.nodes.len());
        for node in &self.nodes {
            out.extend_from_slice(&node.id.0.to_le_bytes());
            put_flagged(&mut out, node.kafka.as_ref(), |out, (host, port)| {
                put_str(out, host);
                out.extend_from_slice(&port.to_le_bytes());
            });
            put_flagged(&mut out, node.rack.as_ref(), |out, rack| put_str(out, rack));
            put_flagged(&mut out, node.geo.as_ref(), |out, geo| put_str(out, geo));
        }
        put_count(&mut out, self.shards.len());
        for shard in &self.shards {
            put_flagged(&mut out, shard.leader.as_ref(), |out, (node, epoch)| {
                out.extend_from_slice(&node.0.to_le_bytes());
                out.extend_from_slice(&epoch.0.to_le_bytes());
            });
            put_count(&mut out, shard.replicas.len());
            for node in &shard.replicas {
                out.extend_from_slice(&node.0.to_le_bytes());
            }
        }
        put_count(&mut out, self.diverged.len());
        for shard in &self.diverged {
            out.extend_from_slice(&shard.0.to_le_bytes());
        }
        out.into()
    }

    pub(crate) fn decode(body: &[u8]) -> Decoded<Self> {
        whole(body, |from| {
            Ok(Self {
                number: get_region(from)?,
                name: get_str(from)?,
                region_epoch: get_epoch(from)?,
                owner: get_region(from)?,
                controller: get_flagged(from, get_node)?,
                nodes: get_many(from, 4 + 3, get_card_node)?,
                shards: get_many(from, 1 + 4, get_card_shard)?,
                diverged: get_many(from, 4, |from| Ok(ShardId(from.try_get_u32_le()?)))?,
            })
        })
    }
}

fn get_card_node(from: &mut &[u8]) -> Decoded<CardNode> {
    Ok(CardNode {
        id: get_node(from)?,
        kafka: get_flagged(from, |from| Ok((get_str(from)?, from.try_get_u16_le()?)))?,
        rack: get_flagged(from, get_str)?,
        geo: get_flagged(from, get_str)?,
    })
}

fn get_card_shard(from: &mut &[u8]) -> Decoded<CardShard> {
    Ok(CardShard {
        leader: get_flagged(from, |from| {
            Ok((get_node(from)?, LeaderEpoch(from.try_get_u32_le()?)))
        })?,
        replicas: get_many(from, 4, get_node)?,
    })
}

pub(super) fn put_flagged<T>(out: &mut Vec<u8>, value: Option<&T>, put: impl FnOnce(&mut Vec<u8>, &T)) {
    out.push(value.is_some().into());
    if let Some(value) = value {
        put(out, value);
    }
}

pub(super) fn get_flagged<T>(
    from: &mut &[u8],
    get: impl FnOnce(&mut &[u8]) -> Decoded<T>,
) -> Decoded<Option<T>> {
    get_bool(from)?.then(|| get(from)).transpose()
}

pub(super) fn get_region(from: &mut &[u8]) -> Decoded<RegionNumber> {
    let number = RegionNumber(from.try_get_u16_le()?);
    match number <= RegionNumber::MAX {
        true => Ok(number),
        false => Err(MessageError::Malformed("a region number is beyond 999")),
    }
}

pub(super) fn get_epoch(from: &mut &[u8]) -> Decoded<RegionEpoch> {
    let epoch = RegionEpoch(from.try_get_u32_le()?);
    match epoch <= RegionEpoch::MAX {
        true => Ok(epoch),
        false => Err(MessageError::Malformed("a region epoch is beyond 2047")),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::mirror) fn card(number: u16, owner: u16, region_epoch: u32) -> Card {
        let first = u32::from(number) * 100_000;
        let node = |id| CardNode {
            id: NodeId(first + id),
            kafka: (id == 1).then(|| ("node.example".to_owned(), 9092)),
            rack: Some(format!("region-{number}")),
            geo: Some(format!("node.example:{}", 9290 + id)),
        };
        Card {
            number: RegionNumber(number),
            name: format!("region-{number}"),
            region_epoch: RegionEpoch(region_epoch),
            owner: RegionNumber(owner),
            controller: Some(NodeId(first + 1)),
            nodes: vec![node(1), node(2)],
            shards: vec![
                CardShard {
                    leader: Some((NodeId(first + 1), LeaderEpoch::new(RegionEpoch(region_epoch), 4))),
                    replicas: vec![NodeId(first + 1), NodeId(first + 2)],
                },
                CardShard {
                    leader: None,
                    replicas: Vec::new(),
                },
            ],
            diverged: vec![ShardId(1)],
        }
    }

    #[test]
    fn a_card_is_read_back_as_it_was_and_never_cut_or_longer() {
        let card = card(1, 0, 3);
        let bytes = card.encode();
        assert_eq!(Card::decode(&bytes), Ok(card));
        for end in 0..bytes.len() {
            assert!(Card::decode(&bytes[..end]).is_err(), "cut at {end}");
        }
        assert!(Card::decode(&[&bytes[..], &[0]].concat()).is_err());
    }

    #[test]
    fn numbers_that_cannot_be_are_refused() {
        for wrong in [
            Card {
                number: RegionNumber(1000),
                ..card(1, 0, 3)
            },
            Card {
                region_epoch: RegionEpoch(2048),
                ..card(1, 0, 3)
            },
        ] {
            assert!(matches!(
                Card::decode(&wrong.encode()),
                Err(MessageError::Malformed(_))
            ));
        }
        // Eight bytes from the end stands the last count.
        let mut bytes = card(1, 0, 3).encode().to_vec();
        let count = bytes.len() - 8;
        bytes[count..count + 4].copy_from_slice(&u32::MAX.to_le_bytes());
        assert_eq!(Card::decode(&bytes), Err(MessageError::Short));
    }

    #[test]
    fn the_stored_card_of_version_1_is_written_and_read() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/region-v1/card.bin");
        let card = card(2, 1, 5);
        if std::env::var_os("BLESS").is_some() {
            std::fs::write(path, card.encode()).expect("written");
        }
        let bytes = std::fs::read(path).expect("the fixture is there; BLESS=1 makes it for a new version");
        assert_eq!(bytes, card.encode(), "bump the version instead");
        assert_eq!(Card::decode(&bytes), Ok(card));
    }
}
