//! Writes responses, several at a time, without copying their records.

use std::collections::VecDeque;
use std::io::IoSlice;
use std::time::Duration;

use bytes::{Buf, Bytes};
use thiserror::Error;
use tokio::io::AsyncWriteExt;
use tokio::net::tcp::OwnedWriteHalf;
use tokio::time::{Instant, timeout};

use crate::budget::{ByteBudget, ByteLease};
use crate::listener::reset_on_close;
use crate::settings::Limits;

/// Segments handed to the kernel in one call.
const SEGMENTS_PER_WRITE: usize = 256;
/// Above this it does not pay to wait for one more response.
const COALESCED_BYTES_MAX: usize = 1 << 20;

/// Collects responses and writes them with as few system calls as their segments allow.
pub(crate) struct ResponseWriter {
    socket: OwnedWriteHalf,
    /// Whether the peer was sent anything.
    has_answered: bool,
    segments: VecDeque<Bytes>,
    bytes: usize,
    /// Memory of what is collected; given back as it is written.
    lease: Option<ByteLease>,
    budget: ByteBudget,
    stall_timeout: Duration,
    write_timeout: Duration,
    bytes_per_second_min: usize,
}

/// One encoded response with the memory it holds.
pub(crate) struct EncodedResponse {
    pub(crate) segments: Vec<Bytes>,
    pub(crate) lease: Option<ByteLease>,
}

/// Why a response did not reach its peer. The connection is to be closed.
#[derive(Debug, Error)]
pub(crate) enum WriteError {
    /// The socket failed, mostly because the peer is gone.
    #[error("writing failed: {0}")]
    Io(#[from] std::io::Error),
    /// The peer does not read.
    #[error("the peer did not take its responses in time, {bytes_left} bytes were left")]
    TooSlow { bytes_left: usize },
}

impl ResponseWriter {
    pub(crate) fn new(socket: OwnedWriteHalf, limits: &Limits, budget: ByteBudget) -> Self {
        Self {
            socket,
            has_answered: false,
            segments: VecDeque::new(),
            bytes: 0,
            lease: None,
            budget,
            stall_timeout: limits.write_stall_timeout.min(limits.write_timeout),
            write_timeout: limits.write_timeout,
            bytes_per_second_min: limits.write_bytes_per_second_min.max(1),
        }
    }

    /// Adds a response behind those collected.
    pub(crate) fn push(&mut self, response: EncodedResponse) {
        match (&mut self.lease, response.lease) {
            (Some(held), Some(lease)) => held.merge(lease),
            (held @ None, lease) => *held = lease,
            (Some(_), None) => {}
        }
        for segment in response.segments {
            self.bytes += segment.len();
            self.segments.push_back(segment);
        }
    }

    /// Whether there is nothing to write.
    pub(crate) fn is_empty(&self) -> bool {
        self.segments.is_empty()
    }

    /// Whether enough is collected to write it now.
    pub(crate) fn is_full(&self) -> bool {
        self.bytes >= COALESCED_BYTES_MAX || self.segments.len() >= SEGMENTS_PER_WRITE
    }

    /// Writes all that is collected.
    pub(crate) async fn flush(&mut self) -> Result<(), WriteError> {
        if self.segments.is_empty() {
            return Ok(());
        }
        if !self.has_answered {
            self.has_answered = true;
            reset_on_close(self.socket.as_ref(), false);
        }
        let slowest = Duration::from_secs_f64(self.bytes as f64 / self.bytes_per_second_min as f64);
        let deadline = Instant::now() + self.write_timeout + slowest;
        let mut last_progress = Instant::now();
        while !self.segments.is_empty() {
            let written = {
                let slices: Vec<IoSlice<'_>> = self
                    .segments
                    .iter()
                    .take(SEGMENTS_PER_WRITE)
                    .map(|segment| IoSlice::new(segment))
                    .collect();
                timeout(self.stall_timeout, self.socket.write_vectored(&slices)).await
            };
            let now = Instant::now();
            match written {
                Ok(written) => {
                    self.advance(written?);
                    last_progress = now;
                }
                // While memory is short, who holds some of it gets less patience.
                Err(_) if self.lease.is_some() && self.budget.is_pressed() => {
                    return Err(self.too_slow());
                }
                Err(_) if now - last_progress >= self.write_timeout => return Err(self.too_slow()),
                Err(_) => {}
            }
            if now > deadline && self.bytes > 0 {
                return Err(self.too_slow());
            }
        }
        self.lease = None;
        Ok(())
    }

    /// Tells the peer that nothing more comes. One that was sent nothing finds its connection reset.
    pub(crate) async fn close(mut self) {
        if self.has_answered {
            // The peer may be gone already, which is as good as closed.
            let _ = self.socket.shutdown().await;
        } else {
            // To drop it would tell the peer.
            self.socket.forget();
        }
    }

    fn too_slow(&self) -> WriteError {
        WriteError::TooSlow {
            bytes_left: self.bytes,
        }
    }

    fn advance(&mut self, mut written: usize) {
        self.bytes -= written;
        if let Some(lease) = &mut self.lease {
            lease.shrink_to(self.bytes);
        }
        while let Some(first) = self.segments.front_mut() {
            if first.len() > written {
                first.advance(written);
                return;
            }
            written -= first.len();
            self.segments.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;
    use tokio::net::{TcpListener, TcpStream};

    use super::*;
    use crate::budget::ByteBudget;

    async fn writer(limits: &Limits, budget: ByteBudget) -> (TcpStream, ResponseWriter) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (_, write) = listener.accept().await.unwrap().0.into_split();
        (client, ResponseWriter::new(write, limits, budget))
    }

    #[tokio::test]
    async fn segments_arrive_in_order_and_memory_comes_back() {
        let budget = ByteBudget::new(10 << 20);
        let (mut client, mut writer) = writer(&Limits::default(), budget.clone()).await;
        let mut expected = Vec::new();
        for number in 0..700_u32 {
            let segment = Bytes::from(vec![number as u8; (number as usize * 37) % 9000]);
            expected.extend_from_slice(&segment);
            let lease = budget.take(segment.len()).await;
            writer.push(EncodedResponse {
                segments: vec![segment],
                lease: Some(lease),
            });
        }
        let length = expected.len();
        let reading = tokio::spawn(async move {
            let mut got = vec![0; length];
            client.read_exact(&mut got).await.unwrap();
            got
        });
        assert!(writer.is_full());
        writer.flush().await.unwrap();
        assert!(writer.is_empty());
        assert_eq!(budget.bytes_in_use(), 0);
        assert!(reading.await.unwrap() == expected);
    }

    #[tokio::test]
    async fn a_peer_that_never_reads_is_cut_off() {
        let limits = Limits {
            write_timeout: Duration::from_millis(50),
            ..Limits::default()
        };
        let (_client, mut writer) = writer(&limits, ByteBudget::new(100)).await;
        let segments = vec![Bytes::from(vec![0; 64 << 20])];
        writer.push(EncodedResponse {
            segments,
            lease: None,
        });
        assert!(matches!(writer.flush().await, Err(WriteError::TooSlow { .. })));
    }

    #[tokio::test]
    async fn a_stuck_peer_goes_early_when_memory_is_short() {
        let limits = Limits {
            write_stall_timeout: Duration::from_millis(20),
            ..Limits::default()
        };
        let budget = ByteBudget::new(100);
        let (_client, mut writer) = writer(&limits, budget.clone()).await;
        let segments = vec![Bytes::from(vec![0; 64 << 20])];
        writer.push(EncodedResponse {
            segments,
            lease: Some(budget.take(100).await),
        });
        let stuck = tokio::spawn(async move { writer.flush().await });
        let waited = timeout(Duration::from_secs(5), budget.take(1)).await;
        assert!(waited.is_ok());
        assert!(matches!(stuck.await.unwrap(), Err(WriteError::TooSlow { .. })));
    }
}
