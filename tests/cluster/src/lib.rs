//! Several nodes as real processes act as one Kafka cluster, under load from real clients, while faults hit them: nothing
//! acknowledged is lost, duplicated or reordered. The checker is [`meridian_checker`].
//!
//! - [`Cluster`]: the nodes, each with its own data directory and, as root, its own network namespace and its own disk.
//! - [`Fault`]: what can happen to them, drawn from a seed.
//! - [`Prober`]: one writer per partition that knows to the millisecond when it was served.
//! - [`Watcher`]: a reader per node that notices when a replica goes back.
//! - [`rounds`], [`failover`], [`clients`], [`followers`], [`maintain`], [`upgrade`], [`tier_faults`], [`tier_outage`],
//!   [`tier_kills`], [`restore`], [`replay`], [`scale`]: the programs.
#![expect(
    clippy::disallowed_methods,
    reason = "a test harness drives real processes, networks, disks and clocks"
)]

use std::sync::{Mutex, MutexGuard, PoisonError};

pub mod bulk;
pub mod clients;
pub mod cluster;
pub mod failover;
pub mod fault;
mod faulty_store;
pub mod followers;
pub mod inject;
pub mod lag;
pub mod maintain;
pub mod network;
pub mod places;
pub mod prober;
pub mod region;
pub mod replay;
pub mod restore;
pub mod rounds;
pub mod scale;
pub mod session;
pub mod system;
pub mod task;
pub mod tier_faults;
pub mod tier_kills;
pub mod tier_outage;
pub mod upgrade;
pub mod view;
pub mod wan;
pub mod watcher;

pub use cluster::Cluster;
pub use fault::{Fault, Kind};
pub use network::{End, Network};
pub use places::Places;
pub use prober::Prober;
pub use session::Session;
pub use system::{ClusterOptions, NodeOptions, RegionOptions, System};
pub use wan::Wan;
pub use watcher::Watcher;

/// For tests of one program: several clusters at once would wait for one another on a small machine.
pub fn one_cluster_at_a_time() -> MutexGuard<'static, ()> {
    static CLUSTER: Mutex<()> = Mutex::new(());
    CLUSTER.lock().unwrap_or_else(PoisonError::into_inner)
}
