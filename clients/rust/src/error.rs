//! Why a request got no answer.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use meridian_wire::{ApiKey, DecodeError, EncodeError, ErrorCode, Versions};
use thiserror::Error;

use crate::endpoint::Endpoint;

/// A request that got no answer: where, in which phase, and whether the server may have executed it.
#[derive(Clone, Debug, Error)]
pub struct RequestError {
    /// The server that was asked.
    pub endpoint: Endpoint,
    /// How far it got.
    pub phase: Phase,
    /// Whether the request was on its way when it failed. If not, the server has certainly not executed it.
    pub may_have_executed: bool,
    /// What went wrong.
    pub cause: RequestCause,
}

/// How far a request got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Looking the host name up.
    Resolve,
    /// Opening the TCP connection.
    Connect,
    /// Asking which APIs and versions the server speaks.
    Negotiate,
    /// Asking the question itself.
    Request(ApiKey),
}

/// What went wrong.
#[derive(Clone, Debug, Error)]
pub enum RequestCause {
    /// The operating system says so. Try again, or check address and network.
    #[error("{0}")]
    Io(Arc<std::io::Error>),
    /// Nothing came in time. Try again, with more time if the server is loaded.
    #[error("no answer within {0:?}")]
    Timeout(Duration),
    /// The server closed the connection. Try again; if it repeats, the server's log says why.
    #[error("the server closed the connection")]
    Closed,
    /// The connection was closed by this client. Ask on a new one.
    #[error("the connection was closed by this client")]
    ClosedHere,
    /// What came is no Kafka protocol: a TLS port asked in plain text, or another kind of server.
    #[error("the answer cannot be read: {0}")]
    Decode(DecodeError),
    /// Answers came in another order than the requests, or without one: a fault of the server.
    #[error("the server answered request {got} where {expected} was due")]
    CorrelationId {
        /// The oldest request without an answer.
        expected: i32,
        /// The one that was answered.
        got: i32,
    },
    /// What was asked does not fit into the protocol. Ask differently.
    #[error("the request cannot be written: {0}")]
    Encode(EncodeError),
    /// The server does not serve it, or only in versions that this client does not speak.
    #[error("the server does not serve {api} in a common version (server: {server}, client: {client})")]
    Unsupported {
        /// What was asked.
        api: ApiKey,
        /// What the server says, [`Versions::NONE`] if it does not know the API.
        server: Versions,
        /// What this client speaks.
        client: Versions,
    },
    /// The server refused to negotiate.
    #[error("the server refused: {0}")]
    Refused(ErrorCode),
    /// The broker is not in the cluster's metadata. Refresh it.
    #[error("broker {0} is not in the cluster's metadata")]
    UnknownBroker(meridian_types::NodeId),
}

impl From<std::io::Error> for RequestCause {
    fn from(error: std::io::Error) -> Self {
        match error.kind() {
            std::io::ErrorKind::UnexpectedEof => Self::Closed,
            _ => Self::Io(Arc::new(error)),
        }
    }
}

impl RequestError {
    /// Whether it is worth asking again, here or elsewhere, without changing the question.
    pub fn is_retriable(&self) -> bool {
        match &self.cause {
            RequestCause::Io(_)
            | RequestCause::Timeout(_)
            | RequestCause::Closed
            | RequestCause::ClosedHere
            | RequestCause::UnknownBroker(_)
            | RequestCause::CorrelationId { .. } => true,
            RequestCause::Decode(_)
            | RequestCause::Encode(_)
            | RequestCause::Unsupported { .. }
            | RequestCause::Refused(_) => false,
        }
    }
}

impl fmt::Display for RequestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let endpoint = &self.endpoint;
        match self.phase {
            Phase::Resolve => write!(f, "cannot look up the host of {endpoint}"),
            Phase::Connect => write!(f, "cannot connect to {endpoint}"),
            Phase::Negotiate => write!(
                f,
                "{endpoint} accepts connections but does not negotiate as a Kafka server"
            ),
            Phase::Request(api) => write!(f, "{api} at {endpoint} failed"),
        }?;
        write!(f, ": {}", self.cause)?;
        if self.may_have_executed && matches!(self.phase, Phase::Request(_)) {
            write!(f, " (the server may have executed it)")?;
        }
        Ok(())
    }
}

/// The error of a response's code. A code newer than this client counts as `UnknownServerError`.
pub(crate) fn check(code: i16) -> Result<(), ErrorCode> {
    match ErrorCode::from_code(code).unwrap_or(ErrorCode::UnknownServerError) {
        ErrorCode::None => Ok(()),
        error => Err(error),
    }
}

/// What a server's refusal of one thing says: its code, and its reason if it gave one.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub struct Refusal {
    /// Kafka's code.
    pub code: ErrorCode,
    /// The server's own words.
    pub message: Option<String>,
}

impl Refusal {
    /// Reads a response's code and message.
    pub(crate) fn check(code: i16, message: Option<&str>) -> Result<(), Self> {
        check(code).map_err(|code| Self {
            code,
            message: message.map(str::to_owned),
        })
    }
}

impl From<ErrorCode> for Refusal {
    fn from(code: ErrorCode) -> Self {
        Self { code, message: None }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.message {
            Some(message) => write!(f, "{message} [{}]", self.code.name()),
            None => write!(f, "{}", self.code.name()),
        }
    }
}
