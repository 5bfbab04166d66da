//! Short questions over HTTP on this machine: metrics of nodes, and the control port of a demo.

use std::collections::BTreeSet;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// What an answer may have at most.
const ANSWER_BYTES_MAX: u64 = 8 << 20;

/// Asks for `path`, or sends `body` there as JSON. Gives the status and the body of the answer.
pub(super) async fn ask(
    server: SocketAddr,
    path: &str,
    body: Option<&str>,
    limit: Duration,
) -> io::Result<(u16, String)> {
    timeout(limit, exchange(server, path, body))
        .await
        .unwrap_or_else(|_| {
            Err(io::Error::new(
                io::ErrorKind::TimedOut,
                format!("no answer within {limit:?}"),
            ))
        })
}

/// HTTP/1.0: the answer ends with the connection.
async fn exchange(server: SocketAddr, path: &str, body: Option<&str>) -> io::Result<(u16, String)> {
    let mut stream = TcpStream::connect(server).await?;
    let request = match body {
        None => format!("GET {path} HTTP/1.0\r\nHost: {server}\r\n\r\n"),
        Some(body) => format!(
            "POST {path} HTTP/1.0\r\nHost: {server}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        ),
    };
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.take(ANSWER_BYTES_MAX).read_to_end(&mut answer).await?;
    let answer = String::from_utf8(answer).map_err(io::Error::other)?;
    read(&answer).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "the answer is not HTTP"))
}

/// The status and the body.
fn read(answer: &str) -> Option<(u16, String)> {
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let mut words = head.strip_prefix("HTTP/1.")?.split_ascii_whitespace();
    words.next()?;
    Some((words.next()?.parse().ok()?, body.to_owned()))
}

/// Ports that are looked through for free ones: below those that systems give to outgoing connections (32768 and up on
/// Linux), of which one would be taken sooner or later before the node is there that is to listen on it.
const PORTS: std::ops::Range<u16> = 15_000..32_000;

/// Gives ports of this machine that are free now, for TCP and UDP, none of them twice.
#[derive(Debug)]
pub(super) struct FreePorts {
    next: u16,
    given: BTreeSet<u16>,
}

impl FreePorts {
    /// Begins anywhere, so that demos that start at the same time seldom look at the same ports.
    pub(super) fn new() -> Self {
        Self {
            next: rand::random_range(PORTS),
            given: BTreeSet::new(),
        }
    }

    /// Another one.
    pub(super) fn take(&mut self) -> io::Result<u16> {
        for _ in PORTS {
            let port = self.next;
            self.next = if port + 1 == PORTS.end {
                PORTS.start
            } else {
                port + 1
            };
            if self.claim(port) {
                return Ok(port);
            }
        }
        Err(io::Error::new(
            io::ErrorKind::AddrInUse,
            format!("none of {} to {} is free", PORTS.start, PORTS.end - 1),
        ))
    }

    /// This one, if it is free.
    pub(super) fn claim(&mut self, port: u16) -> bool {
        let any = (Ipv4Addr::UNSPECIFIED, port);
        !self.given.contains(&port)
            && std::net::TcpListener::bind(any).is_ok()
            && std::net::UdpSocket::bind(any).is_ok()
            && self.given.insert(port)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_its_status_and_its_body() {
        let answer = "HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nhi";
        assert_eq!(read(answer), Some((200, "hi".to_owned())));
        for wrong in ["", "hello", "HTTP/1.1 x\r\n\r\n", "SSH-2.0\r\n\r\n"] {
            assert_eq!(read(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn free_ports_are_different() {
        let mut ports = FreePorts::new();
        let different: BTreeSet<u16> = (0..20).map(|_| ports.take().expect("a port")).collect();
        assert_eq!(different.len(), 20);
        assert!(different.iter().all(|port| !ports.claim(*port)));
    }

    #[test]
    fn a_port_that_somebody_listens_on_is_not_given() {
        let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a listener");
        let port = taken.local_addr().expect("its address").port();
        assert!(!FreePorts::new().claim(port));
    }
}
