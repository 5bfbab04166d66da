//! Fetch sessions (KIP-227): what a consumer fetches, remembered between its requests.
//!
//! A consumer of a thousand partitions names them once; later requests name changes only, and responses carry
//! only partitions with news. The cache is bounded in sessions and in partitions. A pure core: time and randomness
//! come in as arguments.

mod cache;
mod session;

pub(crate) use cache::{Begin, BeginKind, FetchSessions, PartitionAnswer, SessionLimits, SessionRequest};
pub(crate) use session::{Reported, SessionPartition, TopicKey};

#[cfg(test)]
mod tests;
