//! A byte stream in both directions.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Where bytes of the other side arrive.
pub type ReadHalf = Box<dyn AsyncRead + Send + Unpin>;

/// Where bytes to the other side go.
pub type WriteHalf = Box<dyn AsyncWrite + Send + Unpin>;

/// Takes the socket, whose halves were dropped just before, into the runtime that this is called in.
pub type Rehome = Box<dyn FnOnce() -> io::Result<(ReadHalf, WriteHalf)> + Send>;

/// An open connection. It closes when both halves are dropped.
///
/// Reads and writes as one stream too, for handshakes (TLS) that need both directions at once.
pub struct Connection {
    /// Bytes from the other side.
    pub reader: ReadHalf,
    /// Bytes to the other side.
    pub writer: WriteHalf,
    /// The other side's address, for logs.
    pub peer: SocketAddr,
    rehome: Option<Rehome>,
}

impl Connection {
    /// A connection that any runtime may drive.
    pub fn new(reader: ReadHalf, writer: WriteHalf, peer: SocketAddr) -> Self {
        Self {
            reader,
            writer,
            peer,
            rehome: None,
        }
    }

    /// Says how this connection moves to another runtime. Each move needs a new way.
    #[must_use]
    pub fn with_rehome(mut self, rehome: Rehome) -> Self {
        self.rehome = Some(rehome);
        self
    }

    /// Lets the runtime that this is called in wait for this connection's bytes.
    ///
    /// A socket is watched by the runtime that opened or accepted it, so a busy runtime delays it even
    /// when its bytes are wanted in another. May be called once, before anything is left half read or half
    /// written by a wrapper; later calls change nothing.
    /// Errors: the system could not hand the socket over; the connection is lost.
    pub fn rehome(&mut self) -> io::Result<()> {
        let Some(rehome) = self.rehome.take() else {
            return Ok(());
        };
        self.reader = Box::new(tokio::io::empty());
        self.writer = Box::new(tokio::io::sink());
        (self.reader, self.writer) = rehome()?;
        Ok(())
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection")
            .field("peer", &self.peer)
            .finish_non_exhaustive()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.reader).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.writer).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.writer).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.writer).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.writer).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.writer.is_write_vectored()
    }
}
