//! Opens sockets: the only place of this crate that does. TLS will wrap the stream here.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;

use crate::endpoint::Endpoint;
use crate::error::{Phase, RequestCause, RequestError};

/// A connected byte stream: TCP, or whatever is laid over it.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// Resolves `endpoint` and connects to the first of its addresses that answers, within `limit` in all.
pub(crate) async fn connect(endpoint: &Endpoint, limit: Duration) -> Result<Box<dyn Stream>, RequestError> {
    Ok(Box::new(connect_tcp(endpoint, limit).await?))
}

/// As [`connect`], with the bare TCP stream: for load generators that write frames of their own.
pub async fn connect_tcp(endpoint: &Endpoint, limit: Duration) -> Result<TcpStream, RequestError> {
    let failed = |phase, cause| RequestError {
        endpoint: endpoint.clone(),
        phase,
        may_have_executed: false,
        cause,
    };
    let addresses: Vec<SocketAddr> =
        match timeout(limit, lookup_host((endpoint.host.as_str(), endpoint.port))).await {
            Ok(Ok(addresses)) => addresses.collect(),
            Ok(Err(error)) => return Err(failed(Phase::Resolve, error.into())),
            Err(_) => return Err(failed(Phase::Resolve, RequestCause::Timeout(limit))),
        };
    let mut last = RequestCause::Io(std::sync::Arc::new(std::io::Error::other(
        "the name has no addresses",
    )));
    // Every address gets its share of the time, so that a dead first one does not use it up.
    let share = limit / u32::try_from(addresses.len().max(1)).unwrap_or(u32::MAX);
    for address in addresses {
        match timeout(share, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => {
                stream
                    .set_nodelay(true)
                    .map_err(|error| failed(Phase::Connect, error.into()))?;
                return Ok(stream);
            }
            Ok(Err(error)) => last = error.into(),
            Err(_) => last = RequestCause::Timeout(share),
        }
    }
    Err(failed(Phase::Connect, last))
}
