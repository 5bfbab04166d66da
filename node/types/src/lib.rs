//! Ids and positions, nothing else.
//!
//! Every number that names a place or a thing has its own type, so that an index of Raft cannot be
//! taken for an offset of Kafka. Names follow `docs/GLOSSARY.md`. Behaviour belongs elsewhere.

use std::fmt;
use std::ops::Range;

mod shard_map;

pub use shard_map::{ShardMap, shard_of_name};
pub use uuid::Uuid;

macro_rules! number {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }
    };
}

number! {
    /// Position of a record in a partition, from 0. Unique only with its [`LeaderEpoch`]:
    /// a quarantined tail gives its offsets up.
    Offset(u64)
}

number! {
    /// Kafka's leader epoch: `region_epoch << 20 | elections`. Never falls along a log, and no two
    /// regions mint the same one (invariant 5).
    LeaderEpoch(u32)
}

number! {
    /// Rises by one with every promotion of a failover group. At most 2047, so that a
    /// [`LeaderEpoch`] stays positive in Kafka's signed 32 bits.
    RegionEpoch(u32)
}

number! {
    /// Number of a region in its logical cluster, at most 999; decided when the region is founded. Node ids and
    /// producer ids of a region follow from it, so that no two regions give the same one.
    RegionNumber(u16)
}

number! {
    /// Raft's term of one shard.
    Term(u64)
}

number! {
    /// Raft's index of an entry in one shard's log, from 1. Not an offset: blank and membership
    /// entries take an index too.
    RaftIndex(u64)
}

number! {
    /// One Raft group of the region: those of its [`ShardMap`] hold partitions, [`ShardId::CONTROLLER`] holds the
    /// region's facts.
    ShardId(u32)
}

number! {
    /// A node of the whole deployment; the broker id that Kafka clients see.
    NodeId(u32)
}

number! {
    /// Id of an idempotent producer, dealt in blocks by the controller.
    ProducerId(u64)
}

number! {
    /// Milliseconds since the Unix epoch, as Kafka counts record time. May be negative in data.
    TimestampMs(i64)
}

number! {
    /// Id of a topic for its whole life; a topic made again under the same name gets a new one.
    TopicId(Uuid)
}

impl Offset {
    /// The position `count` records further on.
    pub fn plus(self, count: u64) -> Self {
        Self(self.0 + count)
    }
}

impl ShardId {
    /// The shard of the controller, outside the range of data shards.
    pub const CONTROLLER: Self = Self(u32::MAX);

    /// The shard of partitions that stay in another region: nothing of it is in this one.
    pub const ELSEWHERE: Self = Self(u32::MAX - 1);
}

impl RegionEpoch {
    /// The last one.
    pub const MAX: Self = Self((1 << (31 - LeaderEpoch::ELECTION_BITS)) - 1);

    /// The epoch after this one; `None` after the last.
    pub fn next(self) -> Option<Self> {
        (self < Self::MAX).then_some(Self(self.0 + 1))
    }
}

impl RegionNumber {
    /// The last one.
    pub const MAX: Self = Self(999);

    /// Node ids of one region.
    pub const NODE_IDS: u32 = 100_000;

    /// Bits of a producer id that count inside one region.
    pub const PRODUCER_ID_BITS: u32 = 48;

    /// The ids of the region's nodes. Those of region 0 are what they were before regions had numbers.
    pub fn node_ids(self) -> Range<u32> {
        let first = u32::from(self.0) * Self::NODE_IDS;
        first..first + Self::NODE_IDS
    }

    /// The node that is number `local` in the region; `None` beyond its range.
    pub fn node(self, local: u32) -> Option<NodeId> {
        (local < Self::NODE_IDS).then(|| NodeId(self.node_ids().start + local))
    }

    /// The region in whose range a node id lies.
    pub fn of(node: NodeId) -> Option<Self> {
        let number = u16::try_from(node.0 / Self::NODE_IDS).ok()?;
        (number <= Self::MAX.0).then_some(Self(number))
    }

    /// The first producer id that the region deals.
    pub fn first_producer_id(self) -> ProducerId {
        ProducerId(u64::from(self.0) << Self::PRODUCER_ID_BITS)
    }
}

impl RaftIndex {
    /// The index after this one.
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl LeaderEpoch {
    /// Bits that count elections inside one region epoch.
    pub const ELECTION_BITS: u32 = 20;

    /// The epoch of the `elections`-th election under `region`.
    pub fn new(region: RegionEpoch, elections: u32) -> Self {
        assert!(elections < 1 << Self::ELECTION_BITS, "elections fit their bits");
        assert!(region <= RegionEpoch::MAX, "region epoch fits its bits");
        Self(region.0 << Self::ELECTION_BITS | elections)
    }

    /// The region epoch it was minted under.
    pub fn region(self) -> RegionEpoch {
        RegionEpoch(self.0 >> Self::ELECTION_BITS)
    }
}

impl TopicId {
    /// Kafka's "no topic id".
    pub const NIL: Self = Self(Uuid::nil());

    /// The id of a new topic, of 128 random bits. With a `home` its records stay in that region, which the id tells: it
    /// is of version 8 then (RFC 9562), with the region's number in the 12 bits behind the version; of version 4
    /// otherwise.
    pub fn random(random: u128, home: Option<RegionNumber>) -> Self {
        const VERSION_AND_REGION: u128 = 0xffff << 64;
        let id = uuid_v4(random);
        Self(home.map_or(id, |region| {
            let rest = id.as_u128() & !VERSION_AND_REGION;
            Uuid::from_u128(rest | 0x8 << 76 | u128::from(region.0) << 64)
        }))
    }

    /// The region that the topic's records stay in; `None` for a topic that every region has.
    pub fn home(self) -> Option<RegionNumber> {
        let bits = self.0.as_u128();
        let number = RegionNumber((bits >> 64 & 0xfff) as u16);
        (bits >> 76 & 0xf == 0x8 && number <= RegionNumber::MAX).then_some(number)
    }
}

/// A UUID of version 4, of 128 random bits.
pub fn uuid_v4(random: u128) -> Uuid {
    let version = 0x4 << 76;
    let variant = 0x2 << 62;
    Uuid::from_u128(random & !(0xf << 76) & !(0x3 << 62) | version | variant)
}

/// One partition of one topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Partition {
    /// The topic.
    pub topic: TopicId,
    /// Its index in the topic, from 0.
    pub index: u32,
}

impl fmt::Display for Partition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.topic, self.index)
    }
}

/// Place of an entry in a shard's Raft log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LogPosition {
    /// Term of the leader that proposed it.
    pub term: Term,
    /// Its index.
    pub index: RaftIndex,
}

impl fmt::Display for LogPosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.index, self.term)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_of_topics_are_uuids_of_version_4_or_8() {
        for random in [0, u128::MAX, 0x1234_5678_9abc_def0_1234_5678_9abc_def0] {
            for (home, version) in [(None, 4), (Some(RegionNumber(7)), 8)] {
                let id = TopicId::random(random, home).0;
                assert_eq!(id.get_version_num(), version);
                assert_eq!(id.get_variant(), uuid::Variant::RFC4122);
            }
        }
    }

    #[test]
    fn leader_epoch_carries_its_region() {
        let epoch = LeaderEpoch::new(RegionEpoch(3), 5);
        assert_eq!(epoch.region(), RegionEpoch(3));
        assert!(epoch > LeaderEpoch::new(RegionEpoch(2), 1000));
    }

    #[test]
    fn regions_share_no_node_id_and_no_producer_id() {
        assert_eq!(RegionNumber(1).node(2), Some(NodeId(100_002)));
        assert_eq!(RegionNumber(1).node(100_000), None);
        assert_eq!(RegionNumber::MAX.node(99_999), Some(NodeId(99_999_999)));
        for number in [0, 1, 7, 999].map(RegionNumber) {
            for node in [number.node_ids().start, number.node_ids().end - 1] {
                assert_eq!(RegionNumber::of(NodeId(node)), Some(number));
            }
            assert!(i64::try_from(number.first_producer_id().0).is_ok());
        }
        assert_eq!(RegionNumber::of(NodeId(i32::MAX.unsigned_abs())), None);
    }

    #[test]
    fn region_epochs_end_where_a_leader_epoch_has_no_more_bits() {
        assert_eq!(RegionEpoch::MAX, RegionEpoch(2047));
        assert_eq!(RegionEpoch(2046).next(), Some(RegionEpoch::MAX));
        assert_eq!(RegionEpoch::MAX.next(), None);
        assert!(LeaderEpoch::new(RegionEpoch::MAX, 1).0 <= i32::MAX.unsigned_abs());
    }
}
