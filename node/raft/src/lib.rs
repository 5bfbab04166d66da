//! Consensus for one shard: the only crate that names openraft.
