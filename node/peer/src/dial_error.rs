//! Why a connection to a node could not be opened.

use std::io;

use thiserror::Error;

use crate::call::CallError;

/// Why a connection to a node could not be opened. Texts are for people.
#[derive(Debug, Error)]
pub enum DialError {
    /// The host answered that nobody listens there: the process is gone, or not started yet. Try again later.
    #[error("nobody listens there")]
    Refused,
    /// The host cannot be reached, or its name is not known. Try again later.
    #[error("it cannot be reached: {0}")]
    Unreachable(io::Error),
    /// No connection and greeting within the time for it. Try again later.
    #[error("it did not answer the greeting in time")]
    Timeout,
    /// The connection closed during the handshake. Try again later.
    #[error("the connection closed during the handshake: {0}")]
    Broken(io::Error),
    /// TLS could not be agreed upon: one side does not use it, or a certificate does not fit. Correct the settings.
    #[error("TLS: {0}")]
    Tls(String),
    /// What listens there does not speak this protocol. Correct the address.
    #[error("no node of this kind listens there: {0}")]
    Protocol(String),
    /// It listens, but is not whom we look for. Correct the address, or wait for the region's facts to change.
    #[error("{0}")]
    Stranger(String),
    /// The other side turned us away, and why: another region, a node id in use, no common version.
    #[error("it turned this node away: {0}")]
    Rejected(String),
}

/// Why [`crate::Peers::call_address`] has no answer.
#[derive(Debug, Error)]
pub enum AddressError {
    /// No connection; the call was certainly not sent.
    #[error(transparent)]
    Dial(#[from] DialError),
    /// The call failed.
    #[error(transparent)]
    Call(#[from] CallError),
}
