//! One shard on this node: Raft group, state and hot index meet here.
