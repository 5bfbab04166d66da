//! Two network interfaces, joined by a link.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::unix::AsyncFd;
use tokio::task::AbortHandle;
use tun_rs::{DeviceBuilder, SyncDevice};

use crate::link::{Direction, Link, Parcel};
use crate::pipe::Kind;

/// The largest packet there is.
const PACKET_BYTES_MAX: usize = 64 << 10;

/// Packets that are read before others get a turn.
const BATCH: usize = 64;

/// Pause after an error: the interface is not up yet, or gone.
const PAUSE: Duration = Duration::from_millis(10);

/// Two network interfaces, joined by a link. Dropping it removes them.
#[derive(Debug)]
pub struct Tunnel([AbortHandle; 2]);

/// One of the two.
pub(crate) struct Interface(AsyncFd<SyncDevice>);

impl Tunnel {
    pub(crate) fn new(tasks: [AbortHandle; 2]) -> Self {
        Self(tasks)
    }
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        self.0.iter().for_each(AbortHandle::abort);
    }
}

impl fmt::Debug for Interface {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Interface").finish()
    }
}

impl Interface {
    #[expect(
        deprecated,
        reason = "its successor is unsafe, for descriptors that others may close; this one is owned"
    )]
    pub(crate) fn create(name: &str) -> io::Result<Arc<Self>> {
        let device = DeviceBuilder::new().name(name).build_sync()?;
        device.set_nonblocking(true)?;
        AsyncFd::new(device).map(|device| Arc::new(Self(device)))
    }

    /// Hands a packet to the kernel, as if it had come in there.
    pub(crate) fn send(&self, packet: &[u8]) -> io::Result<usize> {
        self.0.get_ref().send(packet)
    }
}

/// Carries what the kernel sends to one interface, until it is aborted.
pub(crate) async fn carry(from: Arc<Interface>, to: Arc<Interface>, link: Link, direction: Direction) {
    let mut buffer = vec![0; PACKET_BYTES_MAX];
    loop {
        let Ok(mut ready) = from.0.readable().await else {
            return;
        };
        for _ in 0..BATCH {
            match from.0.get_ref().recv(&mut buffer) {
                Ok(length) => {
                    let parcel = Parcel::Packet {
                        to: Arc::clone(&to),
                        bytes: Bytes::copy_from_slice(&buffer[..length]),
                    };
                    link.put(direction, Kind::Datagram, length, parcel);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    ready.clear_ready();
                    break;
                }
                Err(_) => {
                    tokio::time::sleep(PAUSE).await;
                    break;
                }
            }
        }
        tokio::task::yield_now().await;
    }
}
