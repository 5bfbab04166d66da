//! Regions of several nodes, in one process, over real journals and a network in memory.

mod budget;
mod failover;
mod failpoints;
mod founding;
mod harness;
mod membership;
mod repair;
#[path = "../support/mod.rs"]
mod support;
mod tier;
