//! Opens a connection from either side: TLS, then one greeting each way.

use std::io;
use std::time::Duration;

use meridian_net::{Connection, HostPort, Net};
use thiserror::Error;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;
use tokio_rustls::TlsStream;

use crate::FRAME_VERSIONS;
use crate::dial_error::DialError;
use crate::hello::{GREETING_BYTES_MAX, GreetingError, Hello, PREFIX_BYTES, Reply, rest_bytes};
use crate::identity::PeerIdentity;
use crate::lane::Lane;
use crate::settings::PeerSettings;
use crate::stream::{Duplex, Stream};
use crate::tls::{PeerTls, server_name, trouble};

/// How long a side that was turned away gets to read why.
const FAREWELL: Duration = Duration::from_millis(500);

/// Connects to whoever listens at an address.
pub(crate) async fn dial(
    settings: &PeerSettings,
    net: &dyn Net,
    at: &HostPort,
    lane: Lane,
) -> Result<(Stream, PeerIdentity), DialError> {
    let attempt = async {
        let connection = net
            .connect(&at.host, at.port)
            .await
            .map_err(|error| match error.kind() {
                io::ErrorKind::ConnectionRefused => DialError::Refused,
                _ => DialError::Unreachable(error),
            })?;
        let mut stream = match &settings.tls {
            None => Stream::Plain(connection),
            Some(tls) => secure(tls, at, connection).await?,
        };
        let identity = introduce(settings, lane, stream.io()).await?;
        stream
            .check_node(&settings.region, identity.node)
            .map_err(DialError::Tls)?;
        Ok((stream, identity))
    };
    timeout(settings.dial_timeout, attempt)
        .await
        .unwrap_or(Err(DialError::Timeout))
}

async fn secure(tls: &PeerTls, at: &HostPort, connection: Connection) -> Result<Stream, DialError> {
    let name = server_name(&at.host).map_err(DialError::Tls)?;
    let stream = tls.connector.connect(name, connection).await.map_err(broken)?;
    Ok(Stream::Tls(Box::new(TlsStream::from(stream))))
}

async fn introduce(
    settings: &PeerSettings,
    lane: Lane,
    stream: &mut dyn Duplex,
) -> Result<PeerIdentity, DialError> {
    let hello = Hello {
        versions: FRAME_VERSIONS,
        lane,
        node: settings.node,
        incarnation: settings.incarnation,
        region: settings.region.clone(),
    };
    stream.write_all(&hello.encode()).await.map_err(broken)?;
    stream.flush().await.map_err(broken)?;
    let (prefix, rest) = read_greeting(stream).await.map_err(|error| match error {
        GreetError::Io(error) => broken(error),
        GreetError::Greeting(GreetingError::Tls) => DialError::Tls(format!(
            "the other side wants TLS, this node does not use it: {SET_TLS}"
        )),
        GreetError::Greeting(other) => DialError::Protocol(other.to_string()),
    })?;
    match Reply::decode(&prefix, &rest).map_err(|error| DialError::Protocol(error.to_string()))? {
        Reply::Rejected { reason } => Err(DialError::Rejected(reason)),
        Reply::Welcome { version, .. } if !FRAME_VERSIONS.contains(&version) => {
            Err(DialError::Protocol(format!(
                "it chose frame version {version}, this node offered {} to {}",
                FRAME_VERSIONS.start(),
                FRAME_VERSIONS.end()
            )))
        }
        Reply::Welcome {
            version,
            node,
            incarnation,
        } => Ok(PeerIdentity {
            node,
            incarnation,
            version,
        }),
    }
}

const SET_TLS: &str = "set peer.tls_cert, peer.tls_key and peer.tls_ca";

/// A failure after the connection was there; TLS speaks through errors of I/O.
fn broken(error: io::Error) -> DialError {
    match trouble(&error) {
        Some(text) => DialError::Tls(text),
        None => DialError::Broken(error),
    }
}

/// Why an arriving connection was not let in.
#[derive(Debug, Error)]
pub(crate) enum GreetError {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("{0}")]
    Greeting(#[from] GreetingError),
}

/// The accepting side's TLS.
pub(crate) async fn secure_accepted(tls: Option<&PeerTls>, connection: Connection) -> Result<Stream, String> {
    let Some(tls) = tls else {
        return Ok(Stream::Plain(connection));
    };
    match tls.acceptor.accept(connection).into_fallible().await {
        Ok(stream) => Ok(Stream::Tls(Box::new(TlsStream::from(stream)))),
        Err((error, mut connection)) => {
            let _ = timeout(FAREWELL, linger(&mut connection)).await;
            Err(trouble(&error).unwrap_or_else(|| error.to_string()))
        }
    }
}

/// Reads what the dialling side says first. When that is no greeting, says so before giving up.
pub(crate) async fn hear(stream: &mut dyn Duplex) -> Result<Hello, GreetError> {
    let heard = match read_greeting(stream).await {
        Ok((prefix, rest)) => Hello::decode(&prefix, &rest).map_err(GreetError::from),
        Err(error) => Err(error),
    };
    if let Err(GreetError::Greeting(error)) = &heard {
        turn_away(stream, error.to_string()).await;
    }
    heard
}

/// Says why the connection ends here, and waits a little for the other side to read it.
pub(crate) async fn turn_away(stream: &mut dyn Duplex, reason: String) {
    let farewell = async {
        stream.write_all(&Reply::Rejected { reason }.encode()).await?;
        stream.flush().await?;
        linger(stream).await
    };
    // The other side may be gone, or no node at all; nothing depends on it.
    let _ = timeout(FAREWELL, farewell).await;
}

/// Ends our side, and reads a little more: closing a socket with bytes unread resets it, and what was said last
/// would be lost on the way.
async fn linger(stream: &mut dyn Duplex) -> io::Result<()> {
    stream.shutdown().await?;
    let mut left = GREETING_BYTES_MAX;
    let mut bytes = [0; 256];
    while left > 0 {
        match stream.read(&mut bytes).await? {
            0 => break,
            read => left = left.saturating_sub(read),
        }
    }
    Ok(())
}

/// Lets the dialling side in.
pub(crate) async fn welcome(
    settings: &PeerSettings,
    version: u16,
    stream: &mut dyn Duplex,
) -> io::Result<()> {
    let reply = Reply::Welcome {
        version,
        node: settings.node,
        incarnation: settings.incarnation,
    };
    stream.write_all(&reply.encode()).await?;
    stream.flush().await
}

/// Reads one greeting and nothing beyond it.
async fn read_greeting(stream: &mut dyn Duplex) -> Result<([u8; PREFIX_BYTES], Vec<u8>), GreetError> {
    let mut prefix = [0; PREFIX_BYTES];
    let mut filled = 0;
    // Not in one go: an alert of TLS is shorter than a greeting, and tells why there is none.
    while filled < PREFIX_BYTES {
        match stream.read(&mut prefix[filled..]).await? {
            0 => {
                if filled > 0 {
                    rest_bytes(&prefix)?;
                }
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
            }
            read => filled += read,
        }
    }
    let mut rest = vec![0; rest_bytes(&prefix)?];
    stream.read_exact(&mut rest).await?;
    Ok((prefix, rest))
}
