//! The clock, the thread and the timers of a relay.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};
use tokio::io::unix::AsyncFd;
use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;
use tokio::task::AbortHandle;

use crate::conditions::Conditions;
#[cfg(feature = "tunnel")]
use crate::link::Direction;
use crate::link::{Lane, Link, Parcel};
use crate::measure;
use crate::route::Route;
use crate::tcp;
use crate::udp;

/// Parcels that are handed on before others get a turn.
const BATCH: usize = 256;

/// Ports that are tried until one is free for UDP and TCP.
const PORTS_TRIED_MAX: usize = 64;

/// Time since the relay began.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock(Instant);

impl Clock {
    #[expect(clippy::disallowed_methods, reason = "the one clock of the relay")]
    fn start() -> Self {
        Self(Instant::now())
    }

    pub(crate) fn now(self) -> Duration {
        self.0.elapsed()
    }
}

/// Drives links and ports on a thread of its own, so that load on other threads does not become delay. Dropping it
/// ends them all.
#[derive(Debug)]
pub struct Relay {
    runtime: Handle,
    clock: Clock,
    _stop: oneshot::Sender<()>,
}

/// An address from which everything is carried to a target and back. Dropping it closes it and its connections.
#[derive(Debug)]
pub struct Port {
    address: SocketAddr,
    target: SocketAddr,
    tasks: [AbortHandle; 2],
}

impl Relay {
    /// Starts the thread.
    pub fn start() -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let (stop, stopped) = oneshot::channel::<()>();
        std::thread::Builder::new()
            .name("wan-relay".to_owned())
            .spawn(move || {
                // It ends when the sender is dropped, which is an error here.
                let _ = runtime.block_on(stopped);
            })?;
        Ok(Self {
            runtime: handle,
            clock: Clock::start(),
            _stop: stop,
        })
    }

    /// A link with the same conditions in both directions; [`Link::set`] makes them differ. The dice of the two
    /// directions differ too.
    pub fn link(&self, seed: u64, conditions: Conditions) -> Link {
        Link::new(self.clock, seed, conditions, &self.runtime)
    }

    /// Carries datagrams and connections that come to `listen` over `link` to `target`, and answers back. Port 0 takes a
    /// free one.
    pub fn open(&self, listen: SocketAddr, target: SocketAddr, link: &Link) -> io::Result<Port> {
        self.open_routed(listen, target, vec![Route::all(link)])
    }

    /// As [`Relay::open`], over the first of `routes` that fits who sends; what fits none is dropped or refused.
    pub fn open_routed(
        &self,
        listen: SocketAddr,
        target: SocketAddr,
        routes: Vec<Route>,
    ) -> io::Result<Port> {
        let (datagrams, connections) = bind(listen)?;
        let address = datagrams.local_addr()?;
        let routes: Arc<[Route]> = routes.into();
        let _in_runtime = self.runtime.enter();
        let datagrams = udp::adopt(datagrams)?;
        let connections = tcp::adopt(connections)?;
        let tasks = [
            self.runtime
                .spawn(udp::serve(datagrams, target, routes.clone()))
                .abort_handle(),
            self.runtime
                .spawn(tcp::serve(connections, target, routes))
                .abort_handle(),
        ];
        Ok(Port {
            address,
            target,
            tasks,
        })
    }

    /// Makes two network interfaces of these names, which need root, and carries every packet that the kernel sends to one
    /// of them over `link` to the other. They have no addresses yet, and one of them belongs into a network namespace of its own.
    ///
    /// Errors: no permission; a name is taken.
    #[cfg(feature = "tunnel")]
    pub fn tunnel(&self, names: [&str; 2], link: &Link) -> io::Result<crate::Tunnel> {
        let _in_runtime = self.runtime.enter();
        let [first, second] = [
            crate::tunnel::Interface::create(names[0])?,
            crate::tunnel::Interface::create(names[1])?,
        ];
        let carry = |from: &Arc<_>, to: &Arc<_>, direction| {
            let carrying = crate::tunnel::carry(Arc::clone(from), Arc::clone(to), link.clone(), direction);
            self.runtime.spawn(carrying).abort_handle()
        };
        Ok(crate::Tunnel::new([
            carry(&first, &second, Direction::Forward),
            carry(&second, &first, Direction::Backward),
        ]))
    }

    /// How long a datagram really takes over `link`, there and back: the median of several. Blocks until it is known.
    ///
    /// Errors: [`io::ErrorKind::TimedOut`] when none comes back; the link is cut, for instance.
    pub fn measure(&self, link: &Link) -> io::Result<Duration> {
        measure::round_trip(self, link)
    }
}

impl Port {
    /// Where it listens, for UDP and TCP.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where everything goes.
    pub fn target(&self) -> SocketAddr {
        self.target
    }
}

impl Drop for Port {
    fn drop(&mut self) {
        self.tasks.iter().for_each(AbortHandle::abort);
    }
}

/// The same port for UDP and TCP.
fn bind(listen: SocketAddr) -> io::Result<(std::net::UdpSocket, std::net::TcpListener)> {
    let mut tries = 0;
    loop {
        let connections = std::net::TcpListener::bind(listen)?;
        match std::net::UdpSocket::bind(connections.local_addr()?) {
            Ok(datagrams) => return Ok((datagrams, connections)),
            // The port that TCP was given may be taken for UDP.
            Err(error) if listen.port() == 0 && tries < PORTS_TRIED_MAX => {
                tries += 1;
                drop(error);
            }
            Err(error) => return Err(error),
        }
    }
}

/// Hands on what is due in one direction, until it is aborted.
pub(crate) async fn pump(lane: Arc<Lane>, clock: Clock) {
    let mut timer = Timer::new();
    let mut due = Vec::with_capacity(BATCH);
    loop {
        let next = lane.take(clock.now(), BATCH, &mut due);
        let is_full = due.len() >= BATCH;
        let mut refused = 0;
        for parcel in due.drain(..) {
            match parcel {
                Parcel::Datagram { socket, to, bytes } => {
                    refused += u64::from(udp::send(&socket, to, &bytes).await.is_err());
                }
                #[cfg(feature = "tunnel")]
                Parcel::Packet { to, bytes } => refused += u64::from(to.send(&bytes).is_err()),
                // Whoever read it has gone; so has its connection.
                Parcel::Piece { to, piece } => drop(to.send(piece)),
            }
        }
        if refused > 0 {
            lane.refused(refused);
        }
        if is_full {
            tokio::task::yield_now().await;
            continue;
        }
        match next {
            None => lane.woken().await,
            Some(at) => {
                let wait = at.saturating_sub(clock.now());
                if wait > Duration::ZERO {
                    tokio::select! {
                        () = lane.woken() => {}
                        () = timer.sleep(wait) => {}
                    }
                } else {
                    tokio::task::yield_now().await;
                }
            }
        }
    }
}

/// A timer finer than the runtime's, which counts whole milliseconds: a round trip of one millisecond would become three.
struct Timer(Option<AsyncFd<OwnedFd>>);

impl Timer {
    /// Without descriptors for one, the runtime's timer must do.
    #[expect(
        deprecated,
        reason = "its successor is unsafe, for descriptors that others may close; this one is owned"
    )]
    fn new() -> Self {
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        let descriptor = timerfd_create(TimerfdClockId::Monotonic, flags).map_err(io::Error::from);
        Self(descriptor.and_then(AsyncFd::new).ok())
    }

    async fn sleep(&mut self, wait: Duration) {
        if let Some(descriptor) = &self.0
            && sleep_on(descriptor, wait).await.is_ok()
        {
            return;
        }
        tokio::time::sleep(wait).await;
    }
}

async fn sleep_on(descriptor: &AsyncFd<OwnedFd>, wait: Duration) -> io::Result<()> {
    let zero = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // A day is as good as any longer time: whoever waits looks again.
    let wait = wait.min(Duration::from_secs(86_400));
    let spec = Itimerspec {
        it_interval: zero,
        it_value: Timespec::try_from(wait).unwrap_or(zero),
    };
    timerfd_settime(descriptor.get_ref(), TimerfdTimerFlags::empty(), &spec)?;
    loop {
        let mut ready = descriptor.readable().await?;
        let read = ready.try_io(|descriptor| {
            let mut expirations = [0_u8; 8];
            rustix::io::read(descriptor.get_ref(), &mut expirations).map_err(io::Error::from)
        });
        // Otherwise it was ready for an earlier time.
        if let Ok(read) = read {
            return read.map(drop);
        }
    }
}
