//! Cuts a connection's byte stream into request frames.

use std::io::ErrorKind;
use std::ops::Range;

use bytes::BytesMut;
use thiserror::Error;
use tokio::io::AsyncReadExt;
use tokio::net::tcp::OwnedReadHalf;
use tokio::time::{Instant, timeout, timeout_at};

use crate::budget::{ByteBudget, FrameBudget, FrameLease};
use crate::settings::Limits;

/// Bytes of the length in front of each frame.
const PREFIX_BYTES: usize = 4;
/// Read ahead in one go, so that small pipelined requests do not cost two system calls each. Larger ones read the
/// rest straight into their own memory. A connection keeps this buffer from its first request on.
const READ_AHEAD_BYTES: usize = 4 << 10;

/// Reads frames, each into memory of exactly its own size: a batch cut out of a frame keeps that frame
/// alive and nothing else.
pub(crate) struct FrameReader {
    socket: OwnedReadHalf,
    ahead: Ahead,
    limits: Limits,
    node: FrameBudget,
    connection: ByteBudget,
}

/// What has been read beyond the last frame.
#[derive(Default)]
struct Ahead {
    /// Empty until it is needed.
    buffer: Vec<u8>,
    filled: Range<usize>,
}

impl Ahead {
    fn len(&self) -> usize {
        self.filled.len()
    }

    /// Room behind what is there, never empty while less than a whole buffer is there.
    fn room(&mut self) -> &mut [u8] {
        if self.buffer.is_empty() {
            self.buffer = vec![0; READ_AHEAD_BYTES];
        }
        if self.filled.start > 0 {
            self.buffer.copy_within(self.filled.clone(), 0);
            self.filled = 0..self.filled.len();
        }
        &mut self.buffer[self.filled.end..]
    }

    fn fill(&mut self, bytes: usize) {
        self.filled.end += bytes;
    }

    /// Takes the first `bytes`, which must be there.
    fn take(&mut self, bytes: usize) -> &[u8] {
        let taken = self.filled.start..self.filled.start + bytes;
        self.filled.start = taken.end;
        &self.buffer[taken]
    }
}

/// One request as it came, without its length prefix.
pub(crate) struct Frame {
    pub(crate) bytes: BytesMut,
    pub(crate) lease: FrameLease,
}

/// Why no more frames can be read. The connection is to be closed.
#[derive(Debug, Error)]
pub(crate) enum FrameError {
    /// The socket failed.
    #[error("reading failed: {0}")]
    Io(#[from] std::io::Error),
    /// The stream ended inside a frame.
    #[error("the peer closed the connection inside a request of {announced_bytes} bytes")]
    CutShort { announced_bytes: usize },
    /// No protocol we speak; a browser's "GET " reads as 1195725856.
    #[error(
        "a request announces {announced} bytes, expected 8 to {bytes_max}: the peer does not speak the Kafka \
         protocol, or its request is larger than the frame limit"
    )]
    Length { announced: i32, bytes_max: usize },
    /// A frame took longer than its time.
    #[error("a request of {announced_bytes} bytes was not complete in time")]
    TooSlow { announced_bytes: usize },
}

impl FrameReader {
    pub(crate) fn new(socket: OwnedReadHalf, limits: Limits, node: FrameBudget) -> Self {
        let connection = ByteBudget::new(limits.connection_bytes_in_flight_max);
        Self {
            socket,
            ahead: Ahead::default(),
            limits,
            node,
            connection,
        }
    }

    /// Waits until a next frame has begun to arrive; false when the peer has closed the connection.
    /// Safe to cancel.
    pub(crate) async fn begun(&mut self) -> Result<bool, FrameError> {
        if self.ahead.len() > 0 {
            return Ok(true);
        }
        loop {
            self.socket.readable().await?;
            match self.socket.try_read(self.ahead.room()) {
                Ok(read) => {
                    self.ahead.fill(read);
                    return Ok(read > 0);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Reads the frame that has begun. Waits for memory before it takes any, which leaves the peer's bytes in
    /// the socket.
    pub(crate) async fn frame(&mut self) -> Result<Frame, FrameError> {
        let deadline = Instant::now() + self.limits.frame_timeout;
        self.read_ahead(PREFIX_BYTES, 0, deadline).await?;
        let length = self.length()?;
        let connection = self.connection.take(length).await;
        let pool = self.node.pool(length).clone();
        if length > FrameBudget::ORDINARY_BYTES_MAX {
            // It gets memory only when its peer has shown that it sends more than a length.
            self.read_ahead(READ_AHEAD_BYTES / 2, length, deadline).await?;
        }
        let node = pool.take(length).await;
        // The peer's time does not run while it waits for our memory.
        let deadline = Instant::now() + self.limits.frame_timeout;
        let bytes = self.body(length, deadline, &pool).await?;
        Ok(Frame {
            bytes,
            lease: FrameLease {
                _connection: connection,
                _node: node,
            },
        })
    }

    fn length(&mut self) -> Result<usize, FrameError> {
        let prefix = self.ahead.take(PREFIX_BYTES);
        let announced = i32::from_be_bytes(prefix.try_into().expect("taken with the prefix's length"));
        let bytes_max = self.limits.frame_bytes_max;
        // A request header has 8 bytes or more.
        usize::try_from(announced)
            .ok()
            .filter(|length| (8..=bytes_max).contains(length))
            .ok_or(FrameError::Length { announced, bytes_max })
    }

    /// Reads on until `bytes` are there, which must fit the buffer.
    async fn read_ahead(
        &mut self,
        bytes: usize,
        announced_bytes: usize,
        deadline: Instant,
    ) -> Result<(), FrameError> {
        while self.ahead.len() < bytes {
            let read = timeout_at(deadline, self.socket.read(self.ahead.room())).await;
            match read.map_err(|_| FrameError::TooSlow { announced_bytes })?? {
                0 => return Err(FrameError::CutShort { announced_bytes }),
                read => self.ahead.fill(read),
            }
        }
        Ok(())
    }

    async fn body(
        &mut self,
        length: usize,
        deadline: Instant,
        pool: &ByteBudget,
    ) -> Result<BytesMut, FrameError> {
        let mut body = BytesMut::with_capacity(length);
        let here = self.ahead.len().min(length);
        body.extend_from_slice(self.ahead.take(here));
        while body.len() < length {
            let rest = (length - body.len()) as u64;
            // `take` keeps the read from running into the next frame.
            let mut limited = (&mut self.socket).take(rest);
            let read = timeout(self.limits.frame_stall_timeout, limited.read_buf(&mut body)).await;
            match read {
                Ok(read) => {
                    if read? == 0 {
                        return Err(FrameError::CutShort {
                            announced_bytes: length,
                        });
                    }
                }
                Err(_) if pool.is_pressed() => {
                    return Err(FrameError::TooSlow {
                        announced_bytes: length,
                    });
                }
                Err(_) => {}
            }
            if Instant::now() >= deadline && body.len() < length {
                return Err(FrameError::TooSlow {
                    announced_bytes: length,
                });
            }
        }
        Ok(body)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::AsyncWriteExt;
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    async fn reader(limits: Limits) -> (TcpStream, FrameReader) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (read, write) = listener.accept().await.unwrap().0.into_split();
        write.forget();
        let node = FrameBudget::new(limits.node_bytes_in_flight_max);
        (client, FrameReader::new(read, limits, node))
    }

    fn framed(body: &[u8]) -> Vec<u8> {
        let mut bytes = (body.len() as i32).to_be_bytes().to_vec();
        bytes.extend_from_slice(body);
        bytes
    }

    #[tokio::test]
    async fn frames_come_out_as_they_went_in_however_they_are_cut() {
        let (mut client, mut reader) = reader(Limits::default()).await;
        let bodies = [vec![1; 8], vec![2; 100_000], vec![3; 9], vec![4; 3 << 20]];
        let sent: Vec<u8> = bodies.iter().flat_map(|body| framed(body)).collect();
        let sender = tokio::spawn(async move {
            for piece in sent.chunks(70_001) {
                client.write_all(piece).await.unwrap();
            }
        });
        for body in bodies {
            assert!(reader.begun().await.unwrap());
            let frame = reader.frame().await.unwrap();
            assert_eq!(frame.bytes, body);
            assert_eq!(frame.bytes.capacity(), body.len());
        }
        sender.await.unwrap();
        assert!(!reader.begun().await.unwrap());
    }

    #[tokio::test]
    async fn lengths_that_no_request_has_are_refused_before_memory_is_taken() {
        for length in [-1, 0, 7, i32::MAX, i32::from_be_bytes(*b"GET ")] {
            let (mut client, mut reader) = reader(Limits::default()).await;
            client.write_all(&length.to_be_bytes()).await.unwrap();
            assert!(reader.begun().await.unwrap());
            let error = reader.frame().await.err().unwrap();
            assert!(matches!(error, FrameError::Length { announced, .. } if announced == length));
        }
    }

    #[tokio::test]
    async fn a_frame_that_does_not_finish_in_time_is_given_up() {
        let limits = Limits {
            frame_timeout: Duration::from_millis(40),
            frame_stall_timeout: Duration::from_millis(10),
            ..Limits::default()
        };
        let (mut client, mut reader) = reader(limits).await;
        client.write_all(&framed(&[0; 100])[..50]).await.unwrap();
        assert!(reader.begun().await.unwrap());
        assert!(matches!(
            reader.frame().await,
            Err(FrameError::TooSlow { announced_bytes: 100 })
        ));
    }

    #[tokio::test]
    async fn a_stalled_frame_gives_way_when_memory_is_short() {
        let limits = Limits {
            node_bytes_in_flight_max: 400,
            frame_stall_timeout: Duration::from_millis(20),
            ..Limits::default()
        };
        let (mut client, mut reader) = reader(limits).await;
        let pool = reader.node.pool(150).clone();
        client.write_all(&framed(&[0; 150])[..50]).await.unwrap();
        assert!(reader.begun().await.unwrap());
        let stalled = tokio::spawn(async move { reader.frame().await.err() });
        tokio::time::sleep(Duration::from_millis(5)).await;
        let waited = pool.take(150).await;
        assert_eq!(waited.bytes(), 150);
        assert!(matches!(stalled.await.unwrap(), Some(FrameError::TooSlow { .. })));
    }

    #[tokio::test]
    async fn a_connection_above_its_bytes_in_flight_is_not_read() {
        let limits = Limits {
            connection_bytes_in_flight_max: 100,
            ..Limits::default()
        };
        let (mut client, mut reader) = reader(limits).await;
        client.write_all(&framed(&[1; 80])).await.unwrap();
        client.write_all(&framed(&[2; 80])).await.unwrap();
        assert!(reader.begun().await.unwrap());
        let first = reader.frame().await.unwrap();
        assert!(reader.begun().await.unwrap());
        assert!(
            timeout(Duration::from_millis(20), reader.connection.take(80))
                .await
                .is_err()
        );
        drop(first);
        assert_eq!(reader.frame().await.unwrap().bytes, vec![2; 80]);
    }
}
