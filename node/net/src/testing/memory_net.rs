//! A network in memory, whose links can be cut.
//!
//! Time does not pass in it: bytes arrive when they are sent. A cut link keeps what is sent into it, as TCP would
//! by sending again, and delivers it when healed.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, Waker};

use futures::FutureExt;
use futures::future::{BoxFuture, poll_fn};
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{Notify, mpsc};

use crate::connection::Connection;
use crate::net::{Acceptor, Net};

/// Bytes that a connection holds in one direction before its writer waits, as a socket's buffers do.
const PIPE_BYTES: usize = 256 << 10;

/// Free ports are dealt from here.
const FIRST_PORT: u16 = 20_000;

/// Connections that wait to be accepted.
const BACKLOG: usize = 1024;

/// The network. Clones share everything.
#[derive(Clone, Default)]
pub struct MemoryNet {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    /// Wakes those who wait for a link to heal before they can connect.
    healed: Notify,
}

#[derive(Default)]
struct State {
    hosts: BTreeMap<String, IpAddr>,
    listeners: BTreeMap<SocketAddr, mpsc::Sender<Connection>>,
    /// Directions in which nothing travels.
    cut: BTreeSet<(IpAddr, IpAddr)>,
    pipes: Vec<Weak<Pipe>>,
    next_port: u16,
}

impl MemoryNet {
    /// A network without hosts.
    pub fn new() -> Self {
        Self::default()
    }

    /// The network as the host of this name sees it. The first host has the address 10.0.0.1, the next
    /// 10.0.0.2; others connect by name or address.
    pub fn host(&self, name: &str) -> MemoryHost {
        let mut state = self.shared.state.lock();
        let next =
            Ipv4Addr::new(10, 0, 0, 0).to_bits() + u32::try_from(state.hosts.len()).unwrap_or(u32::MAX) + 1;
        let ip = *state
            .hosts
            .entry(name.to_owned())
            .or_insert(IpAddr::V4(Ipv4Addr::from_bits(next)));
        MemoryHost {
            ip,
            shared: self.shared.clone(),
        }
    }

    /// Cuts two hosts off from each other, in both directions.
    pub fn cut(&self, a: &str, b: &str) {
        self.cut_one_way(a, b);
        self.cut_one_way(b, a);
    }

    /// Nothing that `from` sends reaches `to` any more; the other way stays open, for connections that are.
    /// Neither can connect to the other.
    pub fn cut_one_way(&self, from: &str, to: &str) {
        let pair = (self.host(from).ip, self.host(to).ip);
        self.shared.state.lock().cut.insert(pair);
    }

    /// Cuts a host off from every host there is now.
    pub fn isolate(&self, name: &str) {
        let others: Vec<String> = self.shared.state.lock().hosts.keys().cloned().collect();
        for other in others.iter().filter(|other| *other != name) {
            self.cut(name, other);
        }
    }

    /// Joins two hosts again: what was sent meanwhile arrives.
    pub fn heal(&self, a: &str, b: &str) {
        let (a, b) = (self.host(a).ip, self.host(b).ip);
        self.heal_where(|pair| *pair == (a, b) || *pair == (b, a));
    }

    /// Joins all hosts again.
    pub fn heal_all(&self) {
        self.heal_where(|_| true);
    }

    /// Breaks all connections between two hosts, at both ends, with what is under way in them.
    pub fn sever(&self, a: &str, b: &str) {
        let (a, b) = (self.host(a).ip, self.host(b).ip);
        for pipe in self.shared.pipes() {
            if (pipe.from, pipe.to) == (a, b) || (pipe.from, pipe.to) == (b, a) {
                pipe.reset();
            }
        }
    }

    fn heal_where(&self, chosen: impl Fn(&(IpAddr, IpAddr)) -> bool) {
        self.shared.state.lock().cut.retain(|pair| !chosen(pair));
        for pipe in self.shared.pipes() {
            pipe.wake();
        }
        self.shared.healed.notify_waiters();
    }
}

impl Shared {
    fn pipes(&self) -> Vec<Arc<Pipe>> {
        let mut state = self.state.lock();
        state.pipes.retain(|pipe| pipe.strong_count() > 0);
        state.pipes.iter().filter_map(Weak::upgrade).collect()
    }

    fn is_cut(&self, from: IpAddr, to: IpAddr) -> bool {
        self.state.lock().cut.contains(&(from, to))
    }

    fn pipe(self: &Arc<Self>, from: IpAddr, to: IpAddr) -> Arc<Pipe> {
        let pipe = Arc::new(Pipe {
            from,
            to,
            net: Arc::downgrade(self),
            state: Mutex::default(),
        });
        self.state.lock().pipes.push(Arc::downgrade(&pipe));
        pipe
    }
}

/// One host of a [`MemoryNet`].
#[derive(Clone)]
pub struct MemoryHost {
    ip: IpAddr,
    shared: Arc<Shared>,
}

impl MemoryHost {
    /// The host's address.
    pub fn ip(&self) -> IpAddr {
        self.ip
    }

    async fn dial(&self, host: &str, port: u16) -> io::Result<Connection> {
        loop {
            // Registered before the look at the cuts, so that a healing between the two is not missed.
            let mut healed = std::pin::pin!(self.shared.healed.notified());
            healed.as_mut().enable();
            if let Some(outcome) = self.try_dial(host, port)? {
                return Ok(outcome);
            }
            healed.await;
        }
    }

    /// `None` while a cut lies between the two.
    fn try_dial(&self, host: &str, port: u16) -> io::Result<Option<Connection>> {
        let state = self.shared.state.lock();
        let ip = match (host.parse::<IpAddr>(), state.hosts.get(host)) {
            (Ok(ip), _) if ip.is_loopback() => self.ip,
            (Ok(ip), _) => ip,
            (Err(_), Some(ip)) => *ip,
            (Err(_), None) => return Err(io::Error::new(io::ErrorKind::NotFound, format!("no host {host}"))),
        };
        if state.cut.contains(&(self.ip, ip)) || state.cut.contains(&(ip, self.ip)) {
            return Ok(None);
        }
        let listener = state.listeners.get(&SocketAddr::new(ip, port)).cloned();
        drop(state);
        let refused = || io::Error::from(io::ErrorKind::ConnectionRefused);
        let listener = listener.ok_or_else(refused)?;
        let (there, back) = (self.shared.pipe(self.ip, ip), self.shared.pipe(ip, self.ip));
        let theirs = connection(there.clone(), back.clone(), SocketAddr::new(self.ip, 1));
        let ours = connection(back, there, SocketAddr::new(ip, port));
        match listener.try_send(theirs) {
            Ok(()) => Ok(Some(ours)),
            Err(mpsc::error::TrySendError::Closed(_)) => Err(refused()),
            Err(mpsc::error::TrySendError::Full(_)) => Err(io::Error::from(io::ErrorKind::TimedOut)),
        }
    }
}

impl Net for MemoryHost {
    fn connect<'a>(&'a self, host: &'a str, port: u16) -> BoxFuture<'a, io::Result<Connection>> {
        self.dial(host, port).boxed()
    }

    fn bind(&self, at: SocketAddr) -> BoxFuture<'_, io::Result<Box<dyn Acceptor>>> {
        async move {
            let ip = at.ip();
            if !(ip.is_unspecified() || ip.is_loopback() || ip == self.ip) {
                return Err(io::Error::from(io::ErrorKind::AddrNotAvailable));
            }
            let mut state = self.shared.state.lock();
            let port = if at.port() == 0 {
                state.next_port += 1;
                FIRST_PORT
                    .checked_add(state.next_port)
                    .ok_or(io::ErrorKind::AddrInUse)?
            } else {
                at.port()
            };
            let at = SocketAddr::new(self.ip, port);
            if state
                .listeners
                .get(&at)
                .is_some_and(|listener| !listener.is_closed())
            {
                return Err(io::Error::from(io::ErrorKind::AddrInUse));
            }
            let (sender, arriving) = mpsc::channel(BACKLOG);
            state.listeners.insert(at, sender);
            Ok(Box::new(MemoryAcceptor { at, arriving }) as Box<dyn Acceptor>)
        }
        .boxed()
    }
}

struct MemoryAcceptor {
    at: SocketAddr,
    arriving: mpsc::Receiver<Connection>,
}

impl Acceptor for MemoryAcceptor {
    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.at)
    }

    fn accept(&mut self) -> BoxFuture<'_, io::Result<Connection>> {
        poll_fn(|cx| self.arriving.poll_recv(cx))
            .map(|arrived| arrived.ok_or_else(|| io::Error::from(io::ErrorKind::NotConnected)))
            .boxed()
    }
}

fn connection(reads: Arc<Pipe>, writes: Arc<Pipe>, peer: SocketAddr) -> Connection {
    Connection::new(Box::new(PipeReader(reads)), Box::new(PipeWriter(writes)), peer)
}

/// One direction of a connection.
struct Pipe {
    from: IpAddr,
    to: IpAddr,
    net: Weak<Shared>,
    state: Mutex<PipeState>,
}

#[derive(Default)]
struct PipeState {
    bytes: VecDeque<u8>,
    /// No more will be written.
    ended: bool,
    /// Nobody will read it any more.
    unread: bool,
    /// Broken in the middle.
    reset: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

impl PipeState {
    fn wake(&mut self) {
        for waker in [self.reader.take(), self.writer.take()].into_iter().flatten() {
            waker.wake();
        }
    }
}

impl Pipe {
    fn wake(&self) {
        self.state.lock().wake();
    }

    fn reset(&self) {
        let mut state = self.state.lock();
        state.reset = true;
        state.bytes.clear();
        state.wake();
    }

    fn is_cut(&self) -> bool {
        self.net
            .upgrade()
            .is_some_and(|net| net.is_cut(self.from, self.to))
    }

    /// Whether the reader's side can tell the writer anything.
    fn is_deaf(&self) -> bool {
        self.net
            .upgrade()
            .is_some_and(|net| net.is_cut(self.to, self.from))
    }
}

struct PipeReader(Arc<Pipe>);

struct PipeWriter(Arc<Pipe>);

impl AsyncRead for PipeReader {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut state = self.0.state.lock();
        if state.reset {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        // The waker is there before the look at the cut, so that a healing between the two is not missed.
        state.reader = Some(cx.waker().clone());
        if self.0.is_cut() || state.bytes.is_empty() && !state.ended {
            return Poll::Pending;
        }
        let (front, _) = state.bytes.as_slices();
        let taken = front.len().min(buffer.remaining());
        buffer.put_slice(&front[..taken]);
        state.bytes.drain(..taken);
        if let Some(writer) = state.writer.take() {
            writer.wake();
        }
        Poll::Ready(Ok(()))
    }
}

impl Drop for PipeReader {
    fn drop(&mut self) {
        let mut state = self.0.state.lock();
        state.unread = true;
        state.wake();
    }
}

impl AsyncWrite for PipeWriter {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let mut state = self.0.state.lock();
        if state.reset {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        state.writer = Some(cx.waker().clone());
        if state.unread && !self.0.is_deaf() && !self.0.is_cut() {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let room = PIPE_BYTES - state.bytes.len();
        if room == 0 {
            return Poll::Pending;
        }
        let taken = room.min(bytes.len());
        state.bytes.extend(&bytes[..taken]);
        if let Some(reader) = state.reader.take() {
            reader.wake();
        }
        Poll::Ready(Ok(taken))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut state = self.0.state.lock();
        state.ended = true;
        state.wake();
        Poll::Ready(Ok(()))
    }
}

impl Drop for PipeWriter {
    fn drop(&mut self) {
        let mut state = self.0.state.lock();
        state.ended = true;
        state.wake();
    }
}
