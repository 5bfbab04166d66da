//! The attackers.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use meridian_compat::raw::{Body, RawClient, api, fetch_body, plain_batch, produce_body};

use crate::siege::TARGET_TOPIC;

/// How long a server may think about a frame before it answers or closes.
const PATIENCE: Duration = Duration::from_secs(10);

/// What came back for a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reaction {
    /// A response frame.
    Answered,
    /// The connection was closed.
    Closed,
    /// Neither, within the time a client waits.
    Silent,
}

/// How often each reaction came.
#[derive(Clone, Copy, Debug, Default)]
pub struct Reactions {
    /// Response frames.
    pub answered: u32,
    /// Closed connections.
    pub closed: u32,
    /// Silence.
    pub silent: u32,
}

/// Sends frames one after the other, on a new connection whenever the server has closed the last.
pub struct Sender {
    address: SocketAddr,
    stream: Option<TcpStream>,
    /// What came back so far.
    pub reactions: Reactions,
}

impl Sender {
    /// Will connect to `address`.
    pub fn new(address: SocketAddr) -> Self {
        Self {
            address,
            stream: None,
            reactions: Reactions::default(),
        }
    }

    /// Sends bytes and waits for what comes back. `ends`: nothing more comes from us, as if the client had died.
    ///
    /// # Panics
    /// When the server does not accept a connection.
    pub fn send(&mut self, bytes: &[u8], ends: bool) -> Reaction {
        let mut stream = self.stream.take().unwrap_or_else(|| connect(self.address));
        let reaction = react(&mut stream, bytes, ends);
        match reaction {
            Reaction::Answered => {
                self.reactions.answered += 1;
                self.stream = Some(stream);
            }
            Reaction::Closed => self.reactions.closed += 1,
            Reaction::Silent => self.reactions.silent += 1,
        }
        reaction
    }
}

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect_timeout(&address, PATIENCE)
        .unwrap_or_else(|e| panic!("the server does not accept a connection: {e}"));
    stream
        .set_read_timeout(Some(PATIENCE))
        .and_then(|()| stream.set_write_timeout(Some(PATIENCE)))
        .expect("a socket takes timeouts");
    stream
}

fn react(stream: &mut TcpStream, bytes: &[u8], ends: bool) -> Reaction {
    // A server that has seen enough closes while we still write: that is its answer.
    let sent = stream.write_all(bytes);
    if ends {
        drop(stream.shutdown(std::net::Shutdown::Write));
    }
    let answer = sent.and_then(|()| read_frame(stream));
    match answer {
        Ok(()) => Reaction::Answered,
        Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => Reaction::Silent,
        Err(_) => Reaction::Closed,
    }
}

fn read_frame(stream: &mut TcpStream) -> io::Result<()> {
    let mut size = [0; 4];
    stream.read_exact(&mut size)?;
    let size = u64::from(u32::from_be_bytes(size));
    let read = io::copy(&mut stream.take(size), &mut io::sink())?;
    if read < size {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(())
}

/// xorshift64: repeatable noise.
pub struct Noise(pub u64);

impl Noise {
    /// The next number.
    pub fn next_u64(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// A number below `end`.
    pub fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next_u64() % end as u64).expect("below a usize")
    }

    /// `length` bytes.
    pub fn bytes(&mut self, length: usize) -> Vec<u8> {
        (0..length).map(|_| self.next_u64() as u8).collect()
    }
}

/// The APIs and versions that the server serves.
pub fn served(address: SocketAddr) -> Vec<(i16, i16)> {
    let versions = RawClient::connect(address)
        .and_then(|mut client| client.api_versions())
        .expect("ApiVersions is served");
    versions
        .into_iter()
        .flat_map(|(key, low, high)| (low..=high).map(move |version| (key, version)))
        .collect()
}

/// Frame lengths that no frame has: negative, zero, beyond every limit.
pub fn impossible_lengths(address: SocketAddr) -> Reactions {
    let mut sender = Sender::new(address);
    for length in [-1, i32::MIN, 0, 1, 3, i32::MAX, 1 << 30, (100 << 20) + 1] {
        let mut frame = length.to_be_bytes().to_vec();
        frame.extend([0; 64]);
        sender.send(&frame, true);
    }
    sender.reactions
}

/// For every API and version: requests cut off anywhere, in a frame that is complete.
pub fn cut_off_requests(address: SocketAddr) -> Reactions {
    let mut sender = Sender::new(address);
    let mut noise = Noise(0x5eed);
    for (key, version) in served(address) {
        for length in [0, 1, 2, 3, 5, 8, 13, 21, 34] {
            let frame = RawClient::frame(key, version, 7, &noise.bytes(length));
            if expects_no_answer(key, &frame) {
                continue;
            }
            sender.send(&frame, false);
        }
    }
    // Shorter than a request header.
    for length in 0..12_i32 {
        let mut frame = length.to_be_bytes().to_vec();
        frame.extend(noise.bytes(usize::try_from(length).expect("small")));
        sender.send(&frame, true);
    }
    sender.reactions
}

/// Produce with acks=0 has no response.
fn expects_no_answer(key: i16, _frame: &[u8]) -> bool {
    key == api::PRODUCE
}

/// For every API and version: a length of two billion at every place where an array, a string or bytes may begin.
pub fn huge_lengths(address: SocketAddr) -> Reactions {
    let mut sender = Sender::new(address);
    for (key, version) in served(address) {
        if key == api::PRODUCE {
            continue;
        }
        for zeros in 0..24 {
            // int32 lengths of the old versions; unsigned varints of the flexible ones.
            for huge in [[0x7f, 0xff, 0xff, 0xff, 0xff], [0xff, 0xff, 0xff, 0xff, 0x07]] {
                let mut body = vec![0; zeros];
                body.extend(huge);
                sender.send(&RawClient::frame(key, version, 7, &body), true);
            }
        }
    }
    // Produce, by hand: acks 1, so that there is an answer.
    for version in 3..=8 {
        for at in 0..4 {
            let huge = |n: i32| if n == at { i32::MAX } else { 1 };
            let body = Body::default()
                .i16(-1)
                .i16(1)
                .i32(1000)
                .i32(huge(0))
                .string(TARGET_TOPIC)
                .i32(huge(1))
                .i32(0)
                .i32(huge(2))
                .raw(&batch_with_huge_count(at == 3));
            sender.send(&RawClient::frame(api::PRODUCE, version, 7, &body.0), true);
        }
    }
    sender.reactions
}

/// A batch that claims two billion records, its CRC in order.
fn batch_with_huge_count(huge: bool) -> Vec<u8> {
    if huge {
        meridian_compat::raw::batch(0, i32::MAX, &[2, 0, 0, 0])
    } else {
        plain_batch(&[b"x"])
    }
}

/// Frames of noise, of which some begin like a request.
pub fn random_frames(address: SocketAddr, count: u32) -> Reactions {
    let mut sender = Sender::new(address);
    let mut noise = Noise(0xbad5eed);
    let apis = served(address);
    for n in 0..count {
        let length = noise.below(if n % 50 == 0 { 100_000 } else { 300 });
        let body = noise.bytes(length);
        let frame = if n % 3 == 0 {
            Body::default().bytes(&body).0
        } else {
            let (key, version) = apis[noise.below(apis.len())];
            if key == api::PRODUCE {
                continue;
            }
            RawClient::frame(key, version, 7, &body)
        };
        sender.send(&frame, true);
    }
    sender.reactions
}

/// Produces batches of noise, and batches in which one byte is wrong. Gives the error codes that were answered.
pub fn bad_batches(address: SocketAddr, count: u32) -> Vec<i16> {
    let mut client = RawClient::connect(address).expect("the server accepts connections");
    let mut noise = Noise(0xc0ffee);
    let sound = plain_batch(&[b"one", b"two", b"three"]);
    let mut codes = Vec::new();
    for n in 0..count {
        let batch = match n % 3 {
            0 => {
                let length = noise.below(500);
                noise.bytes(length)
            }
            1 => {
                // Behind the offset and the leader epoch, which are the server's to set.
                let mut batch = sound.clone();
                let at = 16 + noise.below(batch.len() - 16);
                batch[at] ^= 1 << noise.below(8);
                batch
            }
            _ => sound[..noise.below(sound.len())].to_vec(),
        };
        match client.produce(TARGET_TOPIC, 0, &batch) {
            Ok((code, _)) => codes.push(code),
            Err(_) => {
                client = RawClient::connect(address).expect("the server accepts connections");
            }
        }
    }
    codes
}

/// Opens `count` connections that say nothing. They stay until the result is dropped.
pub fn idle_connections(address: SocketAddr, count: usize) -> io::Result<Vec<TcpStream>> {
    (0..count)
        .map(|_| TcpStream::connect_timeout(&address, PATIENCE))
        .collect()
}

/// Opens `count` connections that announce a frame of `frame_bytes` and send only its beginning.
pub fn half_open_frames(address: SocketAddr, count: usize, frame_bytes: i32) -> io::Result<Vec<TcpStream>> {
    (0..count)
        .map(|n| {
            let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
            let frame = RawClient::frame(api::METADATA, 0, 1, &[0; 1000]);
            let mut bytes = frame_bytes.to_be_bytes().to_vec();
            bytes.extend(&frame[4..4 + n % 1000]);
            // The server may refuse such a length at once.
            drop(stream.write_all(&bytes));
            Ok(stream)
        })
        .collect()
}

/// Writes `mib` MiB to the target topic, in batches of just under 1 MiB.
///
/// # Panics
/// When the server refuses them.
pub fn fill_target(address: SocketAddr, mib: u32) {
    let mut client = RawClient::connect(address).expect("the server accepts connections");
    let mut noise = Noise(0xf111);
    let value = noise.bytes((1 << 20) - 4096);
    for _ in 0..mib {
        let (error, _) = client
            .produce(TARGET_TOPIC, 0, &plain_batch(&[&value]))
            .expect("Produce is served");
        assert_eq!(error, 0, "filling the topic");
    }
}

/// `count` connections, each of which asks for 50 MiB `requests` times and reads nothing. They stay until the result is
/// dropped.
pub fn readers_that_never_read(
    address: SocketAddr,
    count: usize,
    requests: u32,
) -> io::Result<Vec<RawClient>> {
    (0..count)
        .map(|_| {
            let mut client = RawClient::connect(address)?;
            client
                .stream
                .set_write_timeout(Some(Duration::from_millis(500)))?;
            for _ in 0..requests {
                let body = fetch_body(TARGET_TOPIC, 0, 0, 50 << 20, 100);
                // A server that no longer reads from a client that does not read is right.
                if client.send(api::FETCH, 4, &body).is_err() {
                    break;
                }
            }
            Ok(client)
        })
        .collect()
}

/// One connection that sends requests without ever reading: as many as the server takes, `bytes_max` at most.
/// Gives the bytes it took.
pub fn requests_without_reading(address: SocketAddr, bytes_max: usize) -> io::Result<usize> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_write_timeout(Some(Duration::from_secs(2)))?;
    let value = vec![0; 64 << 10];
    let body = produce_body(TARGET_TOPIC, 0, 1, &plain_batch(&[&value]));
    let frame = RawClient::frame(api::PRODUCE, 3, 1, &body);
    let metadata = RawClient::frame(api::METADATA, 0, 1, &[0, 0, 0, 0]);
    let mut sent = 0;
    while sent < bytes_max {
        if stream
            .write_all(&frame)
            .and_then(|()| stream.write_all(&metadata))
            .is_err()
        {
            break;
        }
        sent += frame.len() + metadata.len();
    }
    Ok(sent)
}
