//! A TCP relay that loses responses: the broker has applied a request, and the client never learns it.
//!
//! That is the moment idempotence exists for. Clients find the relay again after each cut, because the relay
//! puts its own port in place of the broker's wherever the broker tells its address.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

const PRODUCE: i16 = 0;
/// The APIs whose responses carry broker addresses: Metadata, FindCoordinator, DescribeCluster.
const ADDRESS_APIS: [i16; 3] = [3, 10, 60];
/// A frame larger than this is not from a client under test.
const FRAME_BYTES_MAX: usize = 256 << 20;

/// What the relay does to Produce.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Nothing.
    None,
    /// Every `every`th response to Produce is thrown away, after the broker has sent it, and the connection is cut.
    LoseProduceResponse {
        /// Counts from 1 over all connections.
        every: u64,
    },
}

/// A running relay; dropping it ends its threads' listeners and connections.
pub struct Relay {
    shared: Arc<Shared>,
}

struct Shared {
    /// Each broker, as it advertises itself, and the relay's own port for it.
    brokers: Vec<(SocketAddr, u16)>,
    fault: Fault,
    produce_responses: AtomicU64,
    cuts: AtomicU64,
    stopped: AtomicBool,
}

impl Relay {
    /// Listens on a free loopback port for each of `brokers`, which are on loopback too, and relays to it. The addresses
    /// are those that the brokers advertise.
    ///
    /// Errors: no port, or no thread.
    ///
    /// # Panics
    /// Without brokers.
    pub fn start(brokers: &[SocketAddr], fault: Fault) -> io::Result<Self> {
        assert!(!brokers.is_empty(), "a relay needs a broker behind it");
        let listeners = brokers
            .iter()
            .map(|_| TcpListener::bind("127.0.0.1:0"))
            .collect::<io::Result<Vec<_>>>()?;
        let ports = listeners
            .iter()
            .map(|listener| Ok(listener.local_addr()?.port()))
            .collect::<io::Result<Vec<_>>>()?;
        let shared = Arc::new(Shared {
            brokers: brokers.iter().copied().zip(ports).collect(),
            fault,
            produce_responses: AtomicU64::new(0),
            cuts: AtomicU64::new(0),
            stopped: AtomicBool::new(false),
        });
        for (listener, broker) in listeners.into_iter().zip(brokers.to_vec()) {
            let accepting = Arc::clone(&shared);
            thread::Builder::new().name("relay".into()).spawn(move || {
                for client in listener.incoming() {
                    if accepting.stopped.load(Ordering::Relaxed) {
                        return;
                    }
                    let Ok(client) = client else { continue };
                    // A broker that is away for a moment is the client's to retry.
                    drop(relay(&accepting, broker, client));
                }
            })?;
        }
        Ok(Self { shared })
    }

    /// Where clients connect: in front of the first broker.
    pub fn address(&self) -> SocketAddr {
        let (_, port) = self.shared.brokers[0];
        SocketAddr::from(([127, 0, 0, 1], port))
    }

    /// How many responses were lost so far.
    pub fn cuts(&self) -> u64 {
        self.shared.cuts.load(Ordering::Relaxed)
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.shared.stopped.store(true, Ordering::Relaxed);
        // Wakes the accepting threads, which then see the flag.
        for (_, port) in &self.shared.brokers {
            drop(TcpStream::connect(SocketAddr::from(([127, 0, 0, 1], *port))));
        }
    }
}

/// The API key of each request that waits for its response, by correlation id.
type Pending = Arc<Mutex<HashMap<i32, i16>>>;

fn relay(shared: &Arc<Shared>, broker: SocketAddr, client: TcpStream) -> io::Result<()> {
    let server = TcpStream::connect_timeout(&broker, Duration::from_secs(5))?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let pending = Pending::default();

    let (mut from, mut to) = (client.try_clone()?, server.try_clone()?);
    let requests = Arc::clone(&pending);
    thread::Builder::new().name("relay-up".into()).spawn(move || {
        drop(forward_requests(&mut from, &mut to, &requests));
        drop(to.shutdown(Shutdown::Both));
        drop(from.shutdown(Shutdown::Both));
    })?;

    let (mut from, mut to) = (server, client);
    let shared = Arc::clone(shared);
    thread::Builder::new().name("relay-down".into()).spawn(move || {
        drop(forward_responses(&shared, &mut from, &mut to, &pending));
        drop(to.shutdown(Shutdown::Both));
        drop(from.shutdown(Shutdown::Both));
    })?;
    Ok(())
}

fn forward_requests(from: &mut TcpStream, to: &mut TcpStream, pending: &Pending) -> io::Result<()> {
    loop {
        let frame = read_frame(from)?;
        if frame.len() >= 12 {
            let api_key = i16::from_be_bytes([frame[4], frame[5]]);
            let correlation = i32::from_be_bytes([frame[8], frame[9], frame[10], frame[11]]);
            lock(pending).insert(correlation, api_key);
        }
        to.write_all(&frame)?;
    }
}

fn forward_responses(
    shared: &Shared,
    from: &mut TcpStream,
    to: &mut TcpStream,
    pending: &Pending,
) -> io::Result<()> {
    loop {
        let mut frame = read_frame(from)?;
        let api_key = if frame.len() >= 8 {
            let correlation = i32::from_be_bytes([frame[4], frame[5], frame[6], frame[7]]);
            lock(pending).remove(&correlation)
        } else {
            None
        };
        match api_key {
            Some(PRODUCE) if shared.loses_this_response() => return Ok(()),
            Some(key) if ADDRESS_APIS.contains(&key) => {
                readdress(&mut frame, &shared.brokers);
            }
            _ => {}
        }
        to.write_all(&frame)?;
    }
}

impl Shared {
    fn loses_this_response(&self) -> bool {
        let count = 1 + self.produce_responses.fetch_add(1, Ordering::Relaxed);
        match self.fault {
            Fault::LoseProduceResponse { every } if count.is_multiple_of(every) => {
                self.cuts.fetch_add(1, Ordering::Relaxed);
                true
            }
            _ => false,
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex
        .lock()
        .expect("no thread of the relay panics while it holds this lock")
}

/// Reads one frame, its four length bytes included.
fn read_frame(from: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut size = [0; 4];
    from.read_exact(&mut size)?;
    let length = usize::try_from(i32::from_be_bytes(size)).unwrap_or(usize::MAX);
    if length > FRAME_BYTES_MAX {
        return Err(io::Error::other(format!("a frame of {length} bytes")));
    }
    let mut frame = vec![0; 4 + length];
    frame[..4].copy_from_slice(&size);
    from.read_exact(&mut frame[4..])?;
    Ok(frame)
}

/// Puts the relay's port in place of each broker's after each mention of its host: host and port are neighbours in every
/// response that carries addresses, as a string and an int32.
fn readdress(frame: &mut [u8], brokers: &[(SocketAddr, u16)]) {
    let mentions: Vec<(Vec<u8>, [u8; 4])> = brokers
        .iter()
        .map(|(broker, port)| {
            let mut mention = broker.ip().to_string().into_bytes();
            mention.extend(u32::from(broker.port()).to_be_bytes());
            (mention, u32::from(*port).to_be_bytes())
        })
        .collect();
    let mut at = 0;
    while at < frame.len() {
        match mentions
            .iter()
            .find(|(mention, _)| frame[at..].starts_with(mention))
        {
            Some((mention, port)) => {
                at += mention.len();
                frame[at - 4..at].copy_from_slice(port);
            }
            None => at += 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Answers each request with its correlation id and the broker's address.
    fn echo_broker() -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                while let Ok(request) = read_frame(&mut stream) {
                    let mut body = request[8..12].to_vec();
                    body.extend(b"\x00\x09127.0.0.1");
                    body.extend(u32::from(address.port()).to_be_bytes());
                    let mut frame = u32::try_from(body.len()).unwrap().to_be_bytes().to_vec();
                    frame.extend(body);
                    stream.write_all(&frame).unwrap();
                }
            }
        });
        address
    }

    fn ask(stream: &mut TcpStream, api_key: i16, correlation: i32) -> io::Result<Vec<u8>> {
        let mut frame = vec![0, 0, 0, 8];
        frame.extend(api_key.to_be_bytes());
        frame.extend([0, 0]);
        frame.extend(correlation.to_be_bytes());
        stream.write_all(&frame)?;
        read_frame(stream)
    }

    #[test]
    fn a_metadata_response_names_the_relay_and_other_responses_pass_untouched() {
        let broker = echo_broker();
        let relay = Relay::start(&[broker], Fault::None).unwrap();
        let mut stream = TcpStream::connect(relay.address()).unwrap();
        let port = |frame: &[u8]| u16::from_be_bytes([frame[frame.len() - 2], frame[frame.len() - 1]]);
        assert_eq!(port(&ask(&mut stream, 3, 1).unwrap()), relay.address().port());
        assert_eq!(port(&ask(&mut stream, 1, 2).unwrap()), broker.port());
    }

    #[test]
    fn every_second_produce_response_is_lost_with_its_connection() {
        let relay = Relay::start(&[echo_broker()], Fault::LoseProduceResponse { every: 2 }).unwrap();
        let mut stream = TcpStream::connect(relay.address()).unwrap();
        ask(&mut stream, PRODUCE, 1).unwrap();
        assert_eq!(relay.cuts(), 0);
        ask(&mut stream, PRODUCE, 2).unwrap_err();
        assert_eq!(relay.cuts(), 1);
        let mut stream = TcpStream::connect(relay.address()).unwrap();
        ask(&mut stream, PRODUCE, 3).unwrap();
    }
    #[test]
    fn each_broker_is_told_as_the_listener_in_front_of_it() {
        let brokers = [echo_broker(), echo_broker()];
        let relay = Relay::start(&brokers, Fault::None).unwrap();
        for (broker, port) in &relay.shared.brokers {
            let mut stream = TcpStream::connect(("127.0.0.1", *port)).unwrap();
            let frame = ask(&mut stream, 3, 1).unwrap();
            let told = u16::from_be_bytes([frame[frame.len() - 2], frame[frame.len() - 1]]);
            assert_eq!(told, *port, "in front of {broker}");
        }
    }
}
