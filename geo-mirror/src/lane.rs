//! One connection, greeted or about to be: frames in and out, each with a deadline.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rustls::pki_types::CertificateDer;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

use crate::budget::{Budget, Held};
use crate::frame::Frame;
use crate::head::{FrameError, HEAD_BYTES, Head};
use crate::status::Transport;

/// Read at once; a frame's memory grows with what has come.
const STEP_BYTES: usize = 64 << 10;

pub(crate) type FrameReader = Box<dyn AsyncRead + Send + Unpin>;
pub(crate) type FrameWriter = Box<dyn AsyncWrite + Send + Unpin>;

/// Frames that keep their order travel over `reader` and `writer`. With QUIC, entries have streams of their own.
pub(crate) struct Lane {
    pub(crate) transport: Transport,
    pub(crate) peer: SocketAddr,
    pub(crate) reader: FrameReader,
    pub(crate) writer: FrameWriter,
    pub(crate) quic: Option<quinn::Connection>,
    pub(crate) certificate: Option<CertificateDer<'static>>,
    pub(crate) is_authenticated: bool,
}

/// Why a connection cannot be used any more.
#[derive(Debug, Error)]
pub(crate) enum LaneError {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("{0}")]
    Frame(#[from] FrameError),
    #[error("nothing came for {0:?}")]
    Silent(Duration),
    #[error("the other side does not read")]
    Stuck,
    #[error("more was sent than was asked for")]
    Full,
    #[error("the connection is closed: {0}")]
    Closed(String),
}

impl LaneError {
    /// Whether the other side broke a rule.
    pub(crate) fn is_breach(&self) -> bool {
        matches!(self, Self::Frame(_) | Self::Full)
    }
}

/// Reads one frame. What it announces is only believed as far as it comes.
pub(crate) async fn read_frame(
    reader: &mut (impl AsyncRead + Unpin + ?Sized),
    idle: Duration,
    budget: &Arc<Budget>,
) -> Result<(Frame, Held), LaneError> {
    let mut held = budget.nothing();
    let mut bytes = Vec::with_capacity(HEAD_BYTES);
    read_to(reader, &mut bytes, HEAD_BYTES, idle, &mut held).await?;
    let head = Head::decode(bytes.first_chunk().expect("a head was read"))?;
    let total = HEAD_BYTES + head.bytes;
    bytes.reserve_exact(head.bytes.min(STEP_BYTES));
    read_to(reader, &mut bytes, total, idle, &mut held).await?;
    Ok((Frame::decode(bytes.into())?, held))
}

async fn read_to(
    reader: &mut (impl AsyncRead + Unpin + ?Sized),
    bytes: &mut Vec<u8>,
    total: usize,
    idle: Duration,
    held: &mut Held,
) -> Result<(), LaneError> {
    while bytes.len() < total {
        let wanted = (total - bytes.len()).min(STEP_BYTES) as u64;
        let read = timeout(idle, (&mut *reader).take(wanted).read_buf(bytes))
            .await
            .map_err(|_| LaneError::Silent(idle))??;
        if read == 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        if !held.grow(read) {
            return Err(LaneError::Full);
        }
    }
    Ok(())
}

/// Writes the parts of a frame. Each step forward has the deadline, not the whole.
pub(crate) async fn write_frame(
    writer: &mut (impl AsyncWrite + Unpin + ?Sized),
    parts: &[Bytes],
    idle: Duration,
) -> Result<(), LaneError> {
    for part in parts {
        let mut rest = &part[..];
        while !rest.is_empty() {
            let written = timeout(idle, writer.write(rest))
                .await
                .map_err(|_| LaneError::Stuck)??;
            if written == 0 {
                return Err(io::Error::from(io::ErrorKind::WriteZero).into());
            }
            rest = &rest[written..];
        }
    }
    timeout(idle, writer.flush())
        .await
        .map_err(|_| LaneError::Stuck)??;
    Ok(())
}
