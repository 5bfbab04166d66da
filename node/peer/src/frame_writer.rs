//! Writes messages as frames, without copying their bodies.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::time::Duration;

use bytes::{Buf, Bytes};
use meridian_net::WriteHalf;
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

use crate::calls_under_way::CallsUnderWay;
use crate::frame::{FrameType, HEAD_BYTES, Head};
use crate::outbox::{Content, Outbox, Outgoing};
use crate::stats::Counters;

/// Slices handed to the system in one write.
const SLICES_MAX: usize = 64;

/// Writes what comes out of an outbox.
pub(crate) struct FrameWriter<'a> {
    writer: WriteHalf,
    calls: &'a CallsUnderWay,
    counters: &'a Counters,
}

impl<'a> FrameWriter<'a> {
    pub(crate) fn new(writer: WriteHalf, calls: &'a CallsUnderWay, counters: &'a Counters) -> Self {
        Self {
            writer,
            calls,
            counters,
        }
    }

    /// Writes until the connection fails; when there is nothing to write for `alive`, says so.
    pub(crate) async fn run(&mut self, outbox: &Outbox, alive: Duration) -> io::Error {
        let mut batch = Vec::new();
        loop {
            if timeout(alive, outbox.take(&mut batch)).await.is_err() {
                batch.push(Outgoing::alive());
            }
            if let Err(error) = self.write(&mut batch).await {
                return error;
            }
        }
    }

    /// Writes a batch and empties it; calls that nobody waits for any more are left out. Its bytes go back to the
    /// queue's bound when all of it is written.
    pub(crate) async fn write(&mut self, batch: &mut Vec<Outgoing>) -> io::Result<()> {
        let mut slices = VecDeque::with_capacity(batch.len() * 3);
        let mut leases = Vec::with_capacity(batch.len());
        let (mut bytes, mut frames) = (0, 0);
        for message in batch.drain(..) {
            leases.push(message.lease);
            let body_bytes = message.body.iter().map(Bytes::len).sum::<usize>();
            let (frame, request) = match message.content {
                Content::Call(sender) if sender.is_closed() => continue,
                Content::Call(sender) => (FrameType::Call, self.calls.insert(sender)),
                Content::Answer { request } => (FrameType::Answer, request),
                Content::Refusal { request } => (FrameType::Refusal, request),
                Content::Notice => (FrameType::Notice, 0),
                Content::Alive => (FrameType::Alive, 0),
            };
            let head = Head {
                frame,
                request,
                kind: message.kind,
                shard: message.shard,
                body_bytes: u32::try_from(body_bytes).expect("bodies were held against the limit of frames"),
            };
            slices.push_back(Bytes::copy_from_slice(&head.encode(&message.body)));
            slices.extend(message.body.into_iter().filter(|part| !part.is_empty()));
            bytes += body_bytes + HEAD_BYTES;
            frames += 1;
        }
        while !slices.is_empty() {
            let written = std::future::poll_fn(|cx| {
                let mut views = [IoSlice::new(&[]); SLICES_MAX];
                let count = slices.len().min(SLICES_MAX);
                for (view, slice) in views.iter_mut().zip(&slices) {
                    *view = IoSlice::new(slice);
                }
                Pin::new(&mut self.writer).poll_write_vectored(cx, &views[..count])
            })
            .await?;
            if written == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            advance(&mut slices, written);
        }
        self.writer.flush().await?;
        self.counters.sent(frames, bytes);
        Ok(())
    }
}

/// Drops the first `written` bytes.
fn advance(slices: &mut VecDeque<Bytes>, mut written: usize) {
    while let Some(first) = slices.front_mut() {
        if written < first.len() {
            first.advance(written);
            return;
        }
        written -= first.len();
        slices.pop_front();
    }
}
