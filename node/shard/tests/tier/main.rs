//! A region of one node with a bucket, in process, over a real journal.

mod compaction;
mod deletion;
#[path = "../support/disk.rs"]
mod disk;
mod harness;
mod merge;
mod restore;
mod rounds;
#[path = "../support/mod.rs"]
mod support;
