//! Two places, joined in both directions.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::net::UdpSocket;
use tokio::sync::{Notify, OwnedSemaphorePermit, mpsc, watch};
use tokio::task::AbortHandle;

use crate::conditions::Conditions;
use crate::counters::Counters;
use crate::driver::{self, Clock};
use crate::pipe::{Kind, Pipe};

/// One of the two directions of a link. Which is which, whoever makes the link decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the first place to the second.
    Forward,
    /// From the second place to the first.
    Backward,
}

/// Two places, joined in both directions. Clones are the same link; it ends with the last of them and of its ports.
#[derive(Clone, Debug)]
pub struct Link(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    forward: Arc<Lane>,
    backward: Arc<Lane>,
    clock: Clock,
    /// Counts how often connections were to end.
    resets: watch::Sender<u64>,
    pumps: [AbortHandle; 2],
}

/// One direction, and who hands on what is due.
#[derive(Debug)]
pub(crate) struct Lane {
    pipe: Mutex<Pipe<Parcel>>,
    /// Something may be due earlier than it looked before.
    wake: Notify,
}

/// Something under way, and where it goes.
#[derive(Clone, Debug)]
pub(crate) enum Parcel {
    /// A datagram: to an address, or to where the socket is connected.
    Datagram {
        socket: Arc<UdpSocket>,
        to: Option<std::net::SocketAddr>,
        bytes: Bytes,
    },
    /// A packet of the network layer, out of one interface into another.
    #[cfg(feature = "tunnel")]
    Packet {
        to: Arc<crate::tunnel::Interface>,
        bytes: Bytes,
    },
    /// A piece of a connection's bytes; an empty one is their end. The credit goes back when it is written.
    Piece {
        to: mpsc::UnboundedSender<Piece>,
        piece: Piece,
    },
}

/// A piece of a connection's bytes.
#[derive(Clone, Debug)]
pub(crate) struct Piece {
    pub(crate) bytes: Bytes,
    pub(crate) _credit: Option<Arc<OwnedSemaphorePermit>>,
}

impl Direction {
    /// The other one.
    #[must_use]
    pub fn opposite(self) -> Self {
        match self {
            Self::Forward => Self::Backward,
            Self::Backward => Self::Forward,
        }
    }
}

impl Link {
    pub(crate) fn new(
        clock: Clock,
        seed: u64,
        conditions: Conditions,
        spawn: &tokio::runtime::Handle,
    ) -> Self {
        let lane = |seed| {
            Arc::new(Lane {
                pipe: Mutex::new(Pipe::new(seed, conditions)),
                wake: Notify::new(),
            })
        };
        let (forward, backward) = (lane(seed), lane(!seed));
        let pump = |lane: &Arc<Lane>| spawn.spawn(driver::pump(lane.clone(), clock)).abort_handle();
        Self(Arc::new(Inner {
            pumps: [pump(&forward), pump(&backward)],
            forward,
            backward,
            clock,
            resets: watch::Sender::new(0),
        }))
    }

    /// The conditions of one direction.
    pub fn conditions(&self, direction: Direction) -> Conditions {
        *self.lane(direction).pipe.lock().conditions()
    }

    /// Other conditions in one direction, from now on ([`Pipe::set`]).
    pub fn set(&self, direction: Direction, conditions: Conditions) {
        self.change(direction, |old| *old = conditions);
    }

    /// Changes some of the conditions of one direction.
    pub fn change(&self, direction: Direction, change: impl FnOnce(&mut Conditions)) {
        let lane = self.lane(direction);
        let mut pipe = lane.pipe.lock();
        let mut conditions = *pipe.conditions();
        change(&mut conditions);
        pipe.set(self.0.clock.now(), conditions);
        drop(pipe);
        lane.wake.notify_one();
    }

    /// Nothing passes in either direction. Connections stall.
    pub fn cut(&self) {
        self.cut_one_way(Direction::Forward);
        self.cut_one_way(Direction::Backward);
    }

    /// Nothing passes in this direction.
    pub fn cut_one_way(&self, direction: Direction) {
        self.change(direction, |conditions| conditions.is_cut = true);
    }

    /// Everything passes again, in both directions.
    pub fn heal(&self) {
        for direction in [Direction::Forward, Direction::Backward] {
            self.change(direction, |conditions| conditions.is_cut = false);
        }
    }

    /// Whether nothing passes in this direction.
    pub fn is_cut(&self, direction: Direction) -> bool {
        self.conditions(direction).is_cut
    }

    /// Ends every connection over this link with a reset on both sides.
    pub fn reset_connections(&self) {
        self.0.resets.send_modify(|resets| *resets += 1);
    }

    /// What has become of what passed in one direction.
    pub fn counters(&self, direction: Direction) -> Counters {
        *self.lane(direction).pipe.lock().counters()
    }

    /// How long it takes there and back, without jitter and queues, if the conditions are kept.
    pub fn round_trip(&self) -> Duration {
        self.conditions(Direction::Forward).delay + self.conditions(Direction::Backward).delay
    }

    pub(crate) fn resets(&self) -> watch::Receiver<u64> {
        self.0.resets.subscribe()
    }

    pub(crate) fn put(&self, direction: Direction, kind: Kind, bytes: usize, parcel: Parcel) {
        self.lane(direction).put(self.0.clock.now(), kind, bytes, parcel);
    }

    fn lane(&self, direction: Direction) -> &Lane {
        match direction {
            Direction::Forward => &self.0.forward,
            Direction::Backward => &self.0.backward,
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.pumps.iter().for_each(AbortHandle::abort);
    }
}

impl Lane {
    fn put(&self, now: Duration, kind: Kind, bytes: usize, parcel: Parcel) {
        let mut pipe = self.pipe.lock();
        let before = pipe.poll_timeout();
        pipe.handle_packet(now, kind, bytes, parcel);
        let after = pipe.poll_timeout();
        drop(pipe);
        // The pump sleeps until `before`; only an earlier time is news.
        if after.is_some_and(|after| before.is_none_or(|before| after < before)) {
            self.wake.notify_one();
        }
    }

    /// Moves what is due to `due`, at most `parcels_max`, and tells when more may be.
    pub(crate) fn take(&self, now: Duration, parcels_max: usize, due: &mut Vec<Parcel>) -> Option<Duration> {
        let mut pipe = self.pipe.lock();
        while due.len() < parcels_max
            && let Some(parcel) = pipe.poll_packet(now)
        {
            due.push(parcel);
        }
        pipe.poll_timeout()
    }

    pub(crate) fn refused(&self, packets: u64) {
        self.pipe.lock().handle_refused(packets);
    }

    /// Waits until something may be due earlier than it looked before.
    pub(crate) async fn woken(&self) {
        self.wake.notified().await;
    }
}
