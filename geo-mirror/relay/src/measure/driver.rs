//! Sends datagrams over a link and waits for them to come back.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use crate::driver::Relay;
use crate::link::Link;

/// Of so many the median is taken.
const SAMPLES: usize = 5;

/// How much longer than it should one may take.
const PATIENCE: Duration = Duration::from_secs(1);

/// The median of several round trips of a datagram over `link`.
#[expect(clippy::disallowed_methods, reason = "it measures real time")]
pub(crate) fn round_trip(relay: &Relay, link: &Link) -> io::Result<Duration> {
    let loopback = SocketAddr::from(([127, 0, 0, 1], 0));
    let (near, far) = (UdpSocket::bind(loopback)?, UdpSocket::bind(loopback)?);
    let port = relay.open(loopback, far.local_addr()?, link)?;
    near.connect(port.address())?;
    let patience = link.round_trip() + PATIENCE;
    near.set_read_timeout(Some(patience))?;
    far.set_read_timeout(Some(patience))?;
    let mut samples = Vec::new();
    let mut buffer = [0_u8; 16];
    let mut failure = io::Error::from(io::ErrorKind::TimedOut);
    for number in 0..SAMPLES as u64 {
        let begun = Instant::now();
        near.send(&number.to_be_bytes())?;
        let there = far
            .recv_from(&mut buffer)
            .and_then(|(length, from)| far.send_to(&buffer[..length], from));
        match there.and_then(|_| near.recv(&mut buffer)) {
            // One that was given up may still come.
            Ok(length) if buffer[..length] == number.to_be_bytes() => samples.push(begun.elapsed()),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                // Two that got lost tell enough.
                if number > 0 && samples.is_empty() {
                    break;
                }
            }
            Err(error) => failure = error,
        }
    }
    samples.sort_unstable();
    samples.get(samples.len() / 2).copied().ok_or(failure)
}
