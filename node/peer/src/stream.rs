//! A connection, under TLS or not.

use std::io;

use meridian_net::{Connection, ReadHalf, WriteHalf};
use meridian_types::NodeId;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsStream;

use crate::named_node;

/// A connection, under TLS or not.
pub(crate) enum Stream {
    Plain(Connection),
    Tls(Box<TlsStream<Connection>>),
}

/// Both directions at once, for the handshake.
pub(crate) trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

impl Stream {
    pub(crate) fn io(&mut self) -> &mut dyn Duplex {
        match self {
            Self::Plain(connection) => connection,
            Self::Tls(stream) => stream,
        }
    }

    /// Whether the other side may speak for a node: without TLS anybody may.
    pub(crate) fn check_node(&self, region: &str, node: NodeId) -> Result<(), String> {
        let Self::Tls(stream) = self else { return Ok(()) };
        let certificate = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
        let certificate = certificate.ok_or("the other side presented no certificate")?;
        named_node::check(certificate, region, node)
    }

    /// Moves the socket to the runtime that this is called in.
    pub(crate) fn rehome(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(connection) => connection.rehome(),
            Self::Tls(stream) => stream.get_mut().0.rehome(),
        }
    }

    pub(crate) fn split(self) -> (ReadHalf, WriteHalf) {
        match self {
            Self::Plain(connection) => (connection.reader, connection.writer),
            Self::Tls(stream) => {
                let (reader, writer) = tokio::io::split(*stream);
                (Box::new(reader), Box::new(writer))
            }
        }
    }
}
