//! Cuts a connection's bytes into frames.

use std::io;

use bytes::{BufMut, Bytes, BytesMut};
use meridian_net::ReadHalf;
use tokio::io::{AsyncReadExt, BufReader};

use crate::frame::{Check, FrameError, HEAD_BYTES, Head};
use crate::progress::Progress;
use crate::stats::Counters;

/// Read ahead in one go, so that small frames do not cost two system calls each. The rest of a larger body goes
/// straight into its own memory.
const READ_AHEAD_BYTES: usize = 16 << 10;

/// Reads frames, each body into memory of exactly its own size: what keeps a slice of a body keeps that body
/// and nothing else.
pub(crate) struct FrameReader<'a> {
    reader: BufReader<ReadHalf>,
    frame_bytes_max: usize,
    progress: &'a Progress,
    counters: &'a Counters,
}

impl<'a> FrameReader<'a> {
    pub(crate) fn new(
        reader: ReadHalf,
        frame_bytes_max: usize,
        progress: &'a Progress,
        counters: &'a Counters,
    ) -> Self {
        Self {
            reader: BufReader::with_capacity(READ_AHEAD_BYTES, reader),
            frame_bytes_max,
            progress,
            counters,
        }
    }

    /// The next frame's head. Its body must be read next.
    pub(crate) async fn head(&mut self) -> Result<(Head, Check), FrameError> {
        let mut bytes = [0; HEAD_BYTES];
        let mut filled = 0;
        while filled < HEAD_BYTES {
            match self.reader.read(&mut bytes[filled..]).await? {
                0 if filled == 0 => return Err(FrameError::Ended),
                0 => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
                read => filled += read,
            }
        }
        self.progress.heard();
        Head::decode(&bytes, self.frame_bytes_max)
    }

    /// The body that belongs to `head`, whose length [`FrameReader::head`] has held against the limit.
    pub(crate) async fn body(&mut self, head: Head, mut check: Check) -> Result<Bytes, FrameError> {
        let bytes = head.body_bytes as usize;
        // Never written before the bytes are there, so an announcement alone takes no memory.
        let mut body = BytesMut::with_capacity(bytes);
        while body.len() < bytes {
            let had = body.len();
            let mut room = (&mut body).limit(bytes - had);
            if self.reader.read_buf(&mut room).await? == 0 {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
            }
            self.progress.heard();
            check.update(&body[had..]);
        }
        check.finish()?;
        self.counters.received(bytes + HEAD_BYTES);
        Ok(body.freeze())
    }
}
