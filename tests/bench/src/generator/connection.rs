//! One connection: whole frames out, responses in, through a buffer.

use std::io::{self, BufReader, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

use meridian_compat::raw::{RawClient, Reader, api};
use meridian_types::TimestampMs;
use meridian_wire::batch::{BatchBuilder, Compression};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

/// A server that says nothing for so long is given up.
const TIMEOUT: Duration = Duration::from_secs(60);
/// A response longer than this is taken for nonsense.
const RESPONSE_BYTES_MAX: usize = 256 << 20;
/// Where the correlation id lies in a request frame: after length, API key and version.
const CORRELATION_AT: usize = 8;

/// Connects to `HOST:PORT`. Errors: those of the socket.
pub fn connect(bootstrap: &str) -> io::Result<TcpStream> {
    let address = bootstrap
        .to_socket_addrs()?
        .next()
        .ok_or_else(|| io::Error::other(format!("'{bootstrap}' has no address")))?;
    let stream = TcpStream::connect_timeout(&address, TIMEOUT)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    Ok(stream)
}

/// Reads responses in order.
pub struct Responses {
    stream: BufReader<TcpStream>,
    frame: Vec<u8>,
}

impl Responses {
    /// On a connection of its own or a clone of one. `buffer_bytes` of what the server sends are read at once.
    pub fn new(stream: TcpStream, buffer_bytes: usize) -> Self {
        Self {
            stream: BufReader::with_capacity(buffer_bytes, stream),
            frame: Vec::new(),
        }
    }

    /// The body of the next response. Errors: those of the socket; another response than the one to `correlation`.
    pub fn next(&mut self, correlation: i32) -> io::Result<&[u8]> {
        let mut size = [0; 4];
        self.stream.read_exact(&mut size)?;
        let size = usize::try_from(i32::from_be_bytes(size)).unwrap_or(usize::MAX);
        if size > RESPONSE_BYTES_MAX {
            return Err(io::Error::other("a response of an impossible length"));
        }
        if self.frame.len() < size {
            self.frame.resize(size, 0);
        }
        let frame = &mut self.frame[..size];
        self.stream.read_exact(frame)?;
        let got = Reader(frame).i32()?;
        if got == correlation {
            Ok(&frame[4..])
        } else {
            Err(io::Error::other(format!(
                "the response to request {got}, expected {correlation}"
            )))
        }
    }
}

/// Produce requests made beforehand, sent in turn: partition and correlation id are set in place before each sending.
pub struct Prepared {
    requests: Vec<Request>,
    next: usize,
}

/// More than a compressor sees at once.
const PREPARED_BYTES: usize = 2 << 20;

struct Request {
    frame: Vec<u8>,
    partition_at: usize,
}

impl Prepared {
    /// Requests for one partition of `topic`, acks=all, each with one batch of `record_count` records of `record_bytes`, its
    /// CRC made. A third of each record is random, so that it compresses as events do, and no two are alike.
    pub fn new(topic: &str, record_count: u32, record_bytes: usize, seed: u64) -> Self {
        let mut random = SmallRng::seed_from_u64(seed);
        let batch_bytes = (record_count as usize * record_bytes).max(1);
        let requests = (0..PREPARED_BYTES.div_ceil(batch_bytes))
            .map(|_| Request::new(topic, record_count, record_bytes, &mut random))
            .collect();
        Self { requests, next: 0 }
    }

    /// Sends the next. Errors: those of the socket.
    pub fn send(&mut self, stream: &mut TcpStream, correlation: i32, partition: i32) -> io::Result<()> {
        let next = self.next;
        self.next = (next + 1) % self.requests.len();
        self.requests[next].send(stream, correlation, partition)
    }
}

impl Request {
    fn new(topic: &str, record_count: u32, record_bytes: usize, random: &mut SmallRng) -> Self {
        let mut builder = BatchBuilder::new(Compression::None);
        // Not 1970: retention by time would delete the segments under the run.
        let now = TimestampMs(now_ms());
        let mut value: Vec<u8> = b"an order was shipped; "
            .iter()
            .copied()
            .cycle()
            .take(record_bytes)
            .collect();
        for _ in 0..record_count {
            random.fill_bytes(&mut value[..record_bytes / 3]);
            builder
                .push(now, None, Some(&value), &[])
                .expect("a batch of a benchmark is far below 2 GiB");
        }
        let batch = builder
            .build()
            .expect("a batch of a benchmark is far below 2 GiB");
        let body = meridian_compat::raw::produce_body(topic, 0, -1, &batch);
        let frame = RawClient::frame(api::PRODUCE, 3, 0, &body);
        // The partition stands in front of the batch and its length.
        let partition_at = frame.len() - batch.len() - 8;
        Self { frame, partition_at }
    }

    fn send(&mut self, stream: &mut TcpStream, correlation: i32, partition: i32) -> io::Result<()> {
        self.frame[CORRELATION_AT..CORRELATION_AT + 4].copy_from_slice(&correlation.to_be_bytes());
        self.frame[self.partition_at..self.partition_at + 4].copy_from_slice(&partition.to_be_bytes());
        stream.write_all(&self.frame)
    }
}

/// Whether the response to a [`Prepared`] request (Produce v3) says that it was appended. Errors: it was not.
pub fn check_produced(response: &[u8]) -> io::Result<()> {
    let mut reader = Reader(response);
    reader.take(4)?;
    reader.string()?;
    reader.take(8)?;
    match (reader.i16()?, reader.i64()?) {
        (0, offset) if offset >= 0 => Ok(()),
        (error, offset) => Err(io::Error::other(format!(
            "produce was answered with error {error}, base offset {offset}"
        ))),
    }
}

fn now_ms() -> i64 {
    let since = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .expect("the clock is past 1970");
    i64::try_from(since.as_millis()).expect("a date of this age")
}

#[cfg(test)]
mod tests {
    use meridian_compat::raw::batches;

    use super::*;

    #[test]
    fn a_prepared_request_holds_one_batch_with_a_true_crc_behind_the_partition() {
        let prepared = Prepared::new("t", 3, 1024, 1);
        assert_ne!(prepared.requests[0].frame, prepared.requests[1].frame);
        let prepared = &prepared.requests[0];
        let batch = &prepared.frame[prepared.partition_at + 8..];
        let headers = batches(batch);
        assert_eq!(headers.len(), 1);
        assert!(headers[0].crc_holds);
        assert_eq!(headers[0].record_count, 3);
        let length = i32::from_be_bytes(prepared.frame[..4].try_into().unwrap());
        assert_eq!(length as usize + 4, prepared.frame.len());
    }

    #[test]
    fn a_refused_batch_is_an_error() {
        let mut response = meridian_compat::raw::Body::default()
            .i32(1)
            .string("t")
            .i32(1)
            .i32(0)
            .i16(0)
            .i64(7);
        assert!(check_produced(&response.0).is_ok());
        let error_at = response.0.len() - 10;
        response.0[error_at + 1] = 6;
        assert!(check_produced(&response.0).is_err());
    }
}
