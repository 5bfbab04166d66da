//! How many datagrams a second the relay carries on this machine, and how long it really holds them:
//! `cargo run --release -p meridian-wan-relay --example packets -- 40 1452`

#![allow(clippy::disallowed_methods, reason = "it measures real time")]

use std::error::Error;
use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use meridian_wan_relay::{Conditions, Direction, Relay};

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let delay_ms: u64 = arguments.next().as_deref().unwrap_or("40").parse()?;
    let bytes: usize = arguments.next().as_deref().unwrap_or("1452").parse()?;
    let loopback = SocketAddr::from(([127, 0, 0, 1], 0));

    let relay = Relay::start()?;
    let link = relay.link(1, Conditions::delayed(Duration::from_millis(delay_ms)));
    let idle = relay.measure(&link)?;
    println!("round trip: {} ms asked, {idle:?} measured", 2 * delay_ms);

    let (near, far) = (UdpSocket::bind(loopback)?, UdpSocket::bind(loopback)?);
    let port = relay.open(loopback, far.local_addr()?, &link)?;
    near.connect(port.address())?;
    far.set_read_timeout(Some(Duration::from_millis(500)))?;
    let datagram = vec![7; bytes];
    let begun = Instant::now();
    let sending = std::thread::Builder::new().spawn(move || {
        let mut sent = 0_u64;
        while begun.elapsed() < Duration::from_secs(5) {
            sent += u64::from(near.send(&datagram).is_ok());
        }
        sent
    })?;
    let mut buffer = vec![0; 64 << 10];
    let mut arrived = 0_u64;
    while far.recv(&mut buffer).is_ok() {
        arrived += 1;
    }
    let sent = sending.join().map_err(|_| "the sender panicked")?;
    let counters = link.counters(Direction::Forward);
    println!(
        "{} datagrams/s of {bytes} bytes: sent {sent}, relay received {} and handed on {}, arrived {arrived}",
        arrived / 5,
        counters.received_packets,
        counters.delivered_packets,
    );
    println!(
        "held {:?} on average, {:?} at most",
        counters.held_mean().unwrap_or_default(),
        counters.held_max
    );
    Ok(())
}
