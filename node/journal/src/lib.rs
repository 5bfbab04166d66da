//! The node's journal: the only crate that touches files of the log.
