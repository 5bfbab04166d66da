//! A mirror as tests are told of it.

use std::collections::BTreeMap;

use meridian_client::admin::{MirrorDescription, MirrorPartition, MirrorShard};
use meridian_types::{NodeId, Offset, RegionEpoch, ShardId, Uuid};

/// A log in a region.
pub(super) fn shard(shard: u32, region: u16) -> MirrorShard {
    MirrorShard {
        shard: ShardId(shard),
        region,
        node: NodeId(region.into()),
        role: "mirror".to_owned(),
        region_epoch: RegionEpoch(0),
        sequence: 1,
        digest: 1,
        follows: None,
        source_sequence: None,
        staleness: None,
        lag_bytes: None,
        refusal: None,
        diverged_at: None,
        acks: BTreeMap::new(),
    }
}

/// A partition of the one topic, as a region holds it.
pub(super) fn partition(region: u16, partition: u32, end: u64, digest: u64) -> MirrorPartition {
    MirrorPartition {
        region,
        topic: "orders".to_owned(),
        topic_id: Uuid::from_u128(1),
        partition,
        end_offset: Offset(end),
        digest,
    }
}

/// What the nodes tell together; region 0 owns.
pub(super) fn mirror(shards: Vec<MirrorShard>, partitions: Vec<MirrorPartition>) -> MirrorDescription {
    MirrorDescription {
        cluster_id: "c".to_owned(),
        region_epoch: RegionEpoch(0),
        owner: 0,
        draining_to: None,
        regions: Vec::new(),
        links: Vec::new(),
        shards,
        partitions,
    }
}
