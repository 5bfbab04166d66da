//! Two regions of one cluster, each of one node in this process, over loopback.

mod checkpoint;
mod epochs;
mod harness;
mod small_journal;
mod switchover;
mod transfer;

#[path = "../support/mod.rs"]
mod support;
