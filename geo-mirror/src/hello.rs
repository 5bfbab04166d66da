//! Who is on the other side.

use meridian_types::{NodeId, RegionEpoch, RegionNumber};

/// A node of a region, as it names itself when two regions meet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// Id of the logical cluster. Regions of different clusters refuse one another. At most 255 bytes.
    pub cluster_id: String,
    /// Name of the region. At most 255 bytes.
    pub region: String,
    /// Number of the region, unique in the cluster.
    pub number: RegionNumber,
    /// The node, as Kafka clients know it.
    pub node: NodeId,
    /// Data shards of the region; equal in all regions of a cluster.
    pub shards: u32,
    /// The epoch that the region believes in.
    pub region_epoch: RegionEpoch,
    /// Which formats the region writes.
    pub feature_level: u16,
}
