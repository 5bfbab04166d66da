//! Two regions in one process, over real sockets of loopback.

mod authority;
mod harness;
mod hostile;
mod hostile_source;
mod questions;
mod refusals;
mod security;
mod transfer;
mod transport;
