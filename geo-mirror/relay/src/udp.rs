//! Datagrams.

mod network;

pub(crate) use network::{adopt, send, serve};
