//! What a node is told of the other regions.

use std::net::SocketAddr;
use std::sync::Arc;

use meridian_geo_mirror::{GeoTls, Network, Settings};
use meridian_tiered_storage::store::Store;
use meridian_types::RegionNumber;

/// A node's part in the mirror between regions. All nodes of a region have one, or none has.
#[derive(Clone, Debug)]
pub struct GeoSettings {
    /// Number of the region, unique in the cluster; fixed at its founding.
    pub number: RegionNumber,
    /// Where this node listens for other regions; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Where the others are told to reach it, as HOST:PORT; the listening address unless it is given.
    pub advertise: Option<String>,
    /// Nodes of other regions, as HOST:PORT. A region that is founded with some mirrors the one that answers there.
    pub seeds: Vec<String>,
    /// Buckets of other regions that this node can read. Objects of a checkpoint come from there where they are, and over the
    /// link where they are not.
    pub buckets: Vec<Store>,
    /// What this node sends to each other region per second at most; `None` for no limit.
    pub send_bytes_per_second_max: Option<u64>,
    /// How links behave.
    pub transport: Settings,
    /// Who this node is to other regions, and whom it trusts.
    pub tls: GeoTls,
    /// How other regions are reached.
    pub network: Arc<dyn Network>,
}
