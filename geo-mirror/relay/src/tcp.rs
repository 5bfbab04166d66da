//! Connections.

mod network;

pub(crate) use network::{adopt, serve};
