//! TLS over TCP, where UDP does not pass.

use std::net::SocketAddr;

use tokio_rustls::TlsStream;

use crate::lane::Lane;
use crate::network::ByteStream;
use crate::status::Transport;

/// A connection after the handshake of TLS.
pub(crate) fn lane(stream: TlsStream<Box<dyn ByteStream>>, peer: SocketAddr, is_authenticated: bool) -> Lane {
    let certificate = stream
        .get_ref()
        .1
        .peer_certificates()
        .and_then(|chain| chain.first())
        .map(|certificate| certificate.clone().into_owned());
    let (reader, writer) = tokio::io::split(stream);
    Lane {
        transport: Transport::Tcp,
        peer,
        reader: Box::new(reader),
        writer: Box::new(writer),
        certificate,
        is_authenticated,
        quic: None,
    }
}
