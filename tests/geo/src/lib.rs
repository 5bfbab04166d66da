//! Several regions of several nodes, as real processes, far from one another: one cluster to real clients of every region,
//! in which nothing acknowledged is lost, duplicated or reordered while ownership moves.
//!
//! - [`Regions`]: the nodes, and a WAN between their regions that can be cut.
//! - [`Clients`]: producers and consumers of three client libraries, in every region, and probes of every partition.
//! - [`equality`]: whether every node of every region holds the same bytes at the same offsets.
//! - [`check`], [`switchovers`], [`kills`], [`catch_up`], [`staleness`]: the programs.
#![expect(
    clippy::disallowed_methods,
    reason = "a test harness drives real processes, networks and clocks"
)]

pub mod catch_up;
pub mod check;
pub mod clients;
pub mod equality;
pub mod kills;
pub mod regions;
pub mod staleness;
pub mod switchover;
pub mod switchovers;

pub use clients::Clients;
pub use regions::{Regions, RegionsOptions};
