//! Real sockets over a relay.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test that cannot go on says where it stopped, and it measures real time"
)]

use std::collections::BTreeSet;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::num::NonZeroU64;
use std::time::{Duration, Instant};

use meridian_wan_relay::{Conditions, Direction, Loss, Probability, Relay, Route};

const LOOPBACK: ([u8; 4], u16) = ([127, 0, 0, 1], 0);

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// Longest wait for what must come.
const PATIENCE: Duration = Duration::from_secs(30);

/// A socket that gives up after a while.
fn socket() -> UdpSocket {
    let socket = UdpSocket::bind(SocketAddr::from(LOOPBACK)).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

fn receive(socket: &UdpSocket) -> Option<(Vec<u8>, SocketAddr)> {
    let mut buffer = vec![0; 70_000];
    match socket.recv_from(&mut buffer) {
        Ok((length, from)) => Some((buffer[..length].to_vec(), from)),
        Err(error) if error.kind() == ErrorKind::WouldBlock => None,
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn a_round_trip_takes_both_delays_and_little_more() {
    let relay = Relay::start().unwrap();
    let link = relay.link(1, Conditions::delayed(ms(15)));
    link.set(Direction::Backward, Conditions::delayed(ms(25)));
    assert_eq!(link.round_trip(), ms(40));
    // A busy machine wakes threads late, never early; it is not busy all the time.
    let mut all = Vec::new();
    while all.len() < 20 && all.iter().all(|measured| *measured >= ms(80)) {
        let measured = relay.measure(&link).unwrap();
        assert!(measured >= ms(40), "{measured:?}");
        all.push(measured);
    }
    assert!(all.iter().any(|measured| *measured < ms(80)), "{all:?}");
    println!("40 ms asked, {all:?} measured");
}

#[test]
fn a_datagram_of_any_size_comes_whole_and_its_answer_finds_back() {
    let relay = Relay::start().unwrap();
    let link = relay.link(1, Conditions::default());
    let target = socket();
    let port = relay
        .open(LOOPBACK.into(), target.local_addr().unwrap(), &link)
        .unwrap();
    let senders = [socket(), socket()];
    for (number, size) in [1_usize, 1_452, 9_000, 65_000].into_iter().enumerate() {
        let sender = &senders[number % 2];
        let sent = vec![number as u8; size];
        sender.send_to(&sent, port.address()).unwrap();
        let (arrived, from) = receive(&target).unwrap();
        assert_eq!(arrived, sent);
        target.send_to(&arrived, from).unwrap();
        assert_eq!(receive(sender).unwrap(), (sent, port.address()));
    }
    assert_eq!(link.counters(Direction::Forward).delivered_packets, 4);
    assert_eq!(link.counters(Direction::Backward).delivered_packets, 4);
}

#[test]
fn a_cut_in_one_direction_holds_until_it_is_healed() {
    let relay = Relay::start().unwrap();
    let link = relay.link(1, Conditions::default());
    let (near, far) = (socket(), socket());
    let port = relay
        .open(LOOPBACK.into(), far.local_addr().unwrap(), &link)
        .unwrap();
    near.send_to(b"hello", port.address()).unwrap();
    let (_, from) = receive(&far).unwrap();

    link.cut_one_way(Direction::Backward);
    near.set_read_timeout(Some(ms(100))).unwrap();
    far.send_to(b"lost", from).unwrap();
    assert_eq!(receive(&near), None);
    near.send_to(b"arrives", port.address()).unwrap();
    assert_eq!(receive(&far).unwrap().0, b"arrives");
    assert_eq!(relay.measure(&link).unwrap_err().kind(), ErrorKind::TimedOut);

    link.heal();
    near.set_read_timeout(Some(PATIENCE)).unwrap();
    far.send_to(b"again", from).unwrap();
    assert_eq!(receive(&near).unwrap().0, b"again");
    assert!(link.counters(Direction::Backward).cut_packets >= 1);
}

#[test]
fn who_sends_decides_which_link_is_taken() {
    let relay = Relay::start().unwrap();
    let (near, far) = (
        relay.link(1, Conditions::default()),
        relay.link(2, Conditions::delayed(ms(60))),
    );
    let target = socket();
    let routes = vec![
        Route {
            from: Some([127, 0, 0, 2].into()),
            link: far.clone(),
            toward: Direction::Backward,
        },
        Route::all(&near),
    ];
    let port = relay
        .open_routed(LOOPBACK.into(), target.local_addr().unwrap(), routes)
        .unwrap();
    let begun = Instant::now();
    let distant = UdpSocket::bind("127.0.0.2:0").unwrap();
    distant.send_to(b"far", port.address()).unwrap();
    socket().send_to(b"near", port.address()).unwrap();
    // In either order: this thread may stand still between the two.
    let mut arrived = BTreeSet::new();
    for _ in 0..2 {
        let (bytes, _) = receive(&target).unwrap();
        assert!(bytes == b"near" || begun.elapsed() >= ms(60));
        arrived.insert(bytes);
    }
    assert_eq!(arrived, BTreeSet::from([b"far".to_vec(), b"near".to_vec()]));
    assert_eq!(near.counters(Direction::Forward).delivered_packets, 1);
    assert_eq!(far.counters(Direction::Backward).delivered_packets, 1);
    assert_eq!(far.counters(Direction::Forward).received_packets, 0);
}

#[test]
fn loss_takes_its_share_of_a_burst() {
    let relay = Relay::start().unwrap();
    let link = relay.link(
        5,
        Conditions {
            loss: Loss {
                share: Probability::new(0.2).unwrap(),
                burst_packets: 1,
            },
            ..Conditions::default()
        },
    );
    let (near, far) = (socket(), socket());
    let port = relay
        .open(LOOPBACK.into(), far.local_addr().unwrap(), &link)
        .unwrap();
    let begun = Instant::now();
    let mut arrived = 0;
    let mut counters = link.counters(Direction::Forward);
    for number in 1..=500_u64 {
        near.send_to(&number.to_be_bytes(), port.address()).unwrap();
        if number % 50 != 0 {
            continue;
        }
        // What a socket keeps is bounded: what has become of these is known before more are sent.
        while counters.delivered_packets + counters.lost_packets < number {
            assert!(begun.elapsed() < PATIENCE, "{counters:?}");
            std::thread::sleep(ms(1));
            counters = link.counters(Direction::Forward);
        }
        while arrived < counters.delivered_packets {
            receive(&far).unwrap();
            arrived += 1;
        }
    }
    assert_eq!(counters.received_packets, 500);
    far.set_read_timeout(Some(ms(100))).unwrap();
    assert_eq!(receive(&far), None);
    assert!((60..=140).contains(&counters.lost_packets), "{counters:?}");
}

/// A connection over the port, and its other end.
fn connect(port: SocketAddr, listener: &TcpListener) -> (TcpStream, TcpStream) {
    let near = TcpStream::connect(port).unwrap();
    let (far, _) = listener.accept().unwrap();
    for stream in [&near, &far] {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
    }
    (near, far)
}

#[test]
fn a_connection_carries_every_byte_late_and_its_end() {
    let relay = Relay::start().unwrap();
    let link = relay.link(1, Conditions::delayed(ms(10)));
    let listener = TcpListener::bind(SocketAddr::from(LOOPBACK)).unwrap();
    let port = relay
        .open(LOOPBACK.into(), listener.local_addr().unwrap(), &link)
        .unwrap();
    let begun = Instant::now();
    let (mut near, mut far) = connect(port.address(), &listener);
    assert!(begun.elapsed() >= ms(20), "to connect takes a round trip");
    let begun = Instant::now();
    near.write_all(b"ping").unwrap();
    let mut four = [0; 4];
    far.read_exact(&mut four).unwrap();
    far.write_all(&four).unwrap();
    near.read_exact(&mut four).unwrap();
    assert!(begun.elapsed() >= ms(20), "{:?}", begun.elapsed());

    let sent: Vec<u8> = (0..3_000_000_u32).map(|n| (n ^ (n >> 8)) as u8).collect();
    let writer = {
        let sent = sent.clone();
        std::thread::Builder::new()
            .spawn(move || {
                near.write_all(&sent).unwrap();
                near.shutdown(std::net::Shutdown::Write).unwrap();
                near
            })
            .unwrap()
    };
    let mut arrived = Vec::new();
    far.read_to_end(&mut arrived).unwrap();
    assert!(arrived == sent, "{} of {} bytes", arrived.len(), sent.len());
    // The other direction is still open.
    let mut near = writer.join().unwrap();
    far.write_all(b"done").unwrap();
    near.read_exact(&mut four).unwrap();
    assert_eq!(&four, b"done");
}

#[test]
fn a_cut_stalls_a_connection_and_a_reset_ends_it() {
    let relay = Relay::start().unwrap();
    let link = relay.link(1, Conditions::default());
    let listener = TcpListener::bind(SocketAddr::from(LOOPBACK)).unwrap();
    let port = relay
        .open(LOOPBACK.into(), listener.local_addr().unwrap(), &link)
        .unwrap();
    let (mut near, mut far) = connect(port.address(), &listener);
    link.cut();
    near.write_all(b"late").unwrap();
    far.set_read_timeout(Some(ms(150))).unwrap();
    let mut four = [0; 4];
    assert_eq!(far.read(&mut four).unwrap_err().kind(), ErrorKind::WouldBlock);
    link.heal();
    far.set_read_timeout(Some(PATIENCE)).unwrap();
    far.read_exact(&mut four).unwrap();
    assert_eq!(&four, b"late");

    link.reset_connections();
    for stream in [&mut near, &mut far] {
        assert_eq!(
            stream.read(&mut four).unwrap_err().kind(),
            ErrorKind::ConnectionReset
        );
    }
}

#[test]
fn a_bottleneck_holds_for_a_connection_too() {
    let relay = Relay::start().unwrap();
    let link = relay.link(
        1,
        Conditions {
            rate_bytes_per_second: NonZeroU64::new(1_000_000),
            ..Conditions::default()
        },
    );
    let listener = TcpListener::bind(SocketAddr::from(LOOPBACK)).unwrap();
    let port = relay
        .open(LOOPBACK.into(), listener.local_addr().unwrap(), &link)
        .unwrap();
    let (mut near, mut far) = connect(port.address(), &listener);
    let begun = Instant::now();
    near.write_all(&vec![7; 300_000]).unwrap();
    far.read_exact(&mut vec![0; 300_000]).unwrap();
    let took = begun.elapsed();
    assert!(took >= ms(295) && took < PATIENCE, "{took:?}");
}

#[test]
fn a_closed_port_is_free_again() {
    let relay = Relay::start().unwrap();
    let link = relay.link(1, Conditions::default());
    let target = socket();
    let port = relay
        .open(LOOPBACK.into(), target.local_addr().unwrap(), &link)
        .unwrap();
    let address = port.address();
    drop(port);
    let begun = Instant::now();
    while let Err(error) = relay.open(address, target.local_addr().unwrap(), &link) {
        assert!(begun.elapsed() < PATIENCE, "{error}");
        std::thread::sleep(ms(10));
    }
}
