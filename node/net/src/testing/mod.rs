//! For tests of this crate and of those above: feature `testing`.

mod conformance;
mod memory_net;

pub use conformance::conformance;
pub use memory_net::{MemoryHost, MemoryNet};
