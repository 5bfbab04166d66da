//! Consumer groups.

pub mod protocol;
