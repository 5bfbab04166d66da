//! The shard's state machine: partitions, producers, group offsets. Pure.
