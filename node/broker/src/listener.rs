//! Accepts connections and keeps their number within its limits.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rustix::net::sockopt::set_socket_linger;
use thiserror::Error;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio_util::task::TaskTracker;

use crate::connection;
use crate::context::Context;
use crate::settings::{HostPort, ListenerSettings};

/// After the system refused a connection (mostly: out of file descriptors), wait so long before the next try.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(100);

/// Why a broker does not start.
#[derive(Debug, Error)]
pub enum ListenError {
    /// The address is taken, not ours, or not permitted. Choose another one.
    #[error("cannot listen on {address} for Kafka clients: {source}")]
    Bind {
        /// The address asked for.
        address: SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
    /// Two brokers share a registry.
    #[error("cannot register the broker's metrics: {0}")]
    Metrics(#[from] prometheus::Error),
}

/// Connections that may wait to be accepted. In a burst beyond it clients lose seconds to a repeated SYN; the
/// system cuts it down to its own limit (`net.core.somaxconn`, 4096 on Linux).
const BACKLOG: u32 = 4096;

/// A bound socket that is not served yet.
#[derive(Debug)]
pub(crate) struct BoundListener {
    pub(crate) local_address: SocketAddr,
    pub(crate) name: Arc<str>,
    pub(crate) advertised: Option<HostPort>,
    socket: TcpListener,
}

/// What a connection knows of the listener it came through.
#[derive(Clone, Debug)]
pub(crate) struct ListenerInfo {
    pub(crate) name: Arc<str>,
    pub(crate) local_address: SocketAddr,
    pub(crate) advertised: Option<HostPort>,
}

impl BoundListener {
    pub(crate) async fn bind(settings: ListenerSettings) -> Result<Self, ListenError> {
        let address = settings.bind;
        let bind = async {
            let socket = if address.is_ipv4() {
                TcpSocket::new_v4()?
            } else {
                TcpSocket::new_v6()?
            };
            // As the standard library does: a restart must not wait for old connections to fade.
            socket.set_reuseaddr(true)?;
            socket.bind(address)?;
            let socket = socket.listen(BACKLOG)?;
            let local_address = socket.local_addr()?;
            Ok((socket, local_address))
        };
        let (socket, local_address) = bind
            .await
            .map_err(|source| ListenError::Bind { address, source })?;
        Ok(Self {
            local_address,
            name: settings.name.into(),
            advertised: settings.advertised,
            socket,
        })
    }

    /// Accepts until the broker drains; each connection runs in `connections`.
    pub(crate) async fn serve(
        self,
        context: Arc<Context>,
        connections: TaskTracker,
        counts: ConnectionCounts,
    ) {
        let info = Arc::new(ListenerInfo {
            name: self.name,
            local_address: self.local_address,
            advertised: self.advertised,
        });
        loop {
            let accepted = tokio::select! {
                biased;
                () = context.draining.cancelled() => return,
                accepted = self.socket.accept() => accepted,
            };
            let (stream, peer) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    context.warn_limited(|suppressed| {
                        tracing::warn!(listener = &*info.name, %error, suppressed, "cannot accept a connection");
                    });
                    tokio::time::sleep(ACCEPT_BACKOFF).await;
                    continue;
                }
            };
            let configs = context.configs();
            reset_on_close(&stream, true);
            match counts.admit(peer.ip(), configs.connections_max, configs.connections_per_ip_max) {
                Ok(admission) => {
                    // A response must not wait for the acknowledgement of the one before.
                    let _ = stream.set_nodelay(true);
                    connections.spawn(connection::run(
                        context.clone(),
                        info.clone(),
                        stream,
                        peer,
                        admission,
                    ));
                }
                Err(limit) => {
                    context
                        .metrics
                        .connections_rejected
                        .with_label_values(&[limit])
                        .inc();
                    context.warn_limited(|suppressed| {
                        tracing::warn!(%peer, limit, suppressed, "connection closed: too many connections");
                    });
                }
            }
        }
    }
}

/// Whether a connection that ends here, also by the death of this process, is reset instead of closed.
///
/// That is right until its first response: a stream that ends before its first byte is taken for a missing SASL handshake by
/// franz-go, which gives its records up. A reset everybody tries again.
pub(crate) fn reset_on_close(stream: &TcpStream, is_reset: bool) {
    // A socket that takes no options is closed the ordinary way.
    let _ = set_socket_linger(stream, is_reset.then_some(Duration::ZERO));
}

/// Connections open now, over all listeners.
#[derive(Clone, Debug, Default)]
pub(crate) struct ConnectionCounts {
    open: Arc<Mutex<Open>>,
}

#[derive(Debug, Default)]
struct Open {
    total: usize,
    by_ip: HashMap<IpAddr, usize>,
}

/// The place of one connection in the counts; dropping it gives the place back.
#[derive(Debug)]
pub(crate) struct Admission {
    ip: IpAddr,
    open: Arc<Mutex<Open>>,
}

impl ConnectionCounts {
    /// Counts one more connection. Errors: the limit that does not allow it.
    pub(crate) fn admit(
        &self,
        ip: IpAddr,
        total_max: usize,
        per_ip_max: usize,
    ) -> Result<Admission, &'static str> {
        let mut open = self.open.lock();
        if open.total >= total_max {
            return Err("total");
        }
        let of_ip = open.by_ip.get(&ip).copied().unwrap_or(0);
        if of_ip >= per_ip_max {
            return Err("per_ip");
        }
        open.total += 1;
        open.by_ip.insert(ip, of_ip + 1);
        Ok(Admission {
            ip,
            open: self.open.clone(),
        })
    }
}

impl Drop for Admission {
    fn drop(&mut self) {
        let mut open = self.open.lock();
        open.total -= 1;
        if let Some(of_ip) = open.by_ip.get_mut(&self.ip) {
            *of_ip -= 1;
            if *of_ip == 0 {
                open.by_ip.remove(&self.ip);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_are_counted_in_total_and_per_address() {
        let counts = ConnectionCounts::default();
        let admit = |ip| counts.admit(ip, 3, 2);
        let [a, b] = [IpAddr::from([127, 0, 0, 1]), IpAddr::from([127, 0, 0, 2])];
        let first = admit(a).unwrap();
        let _second = admit(a).unwrap();
        assert_eq!(admit(a).unwrap_err(), "per_ip");
        let _third = admit(b).unwrap();
        assert_eq!(admit(b).unwrap_err(), "total");
        drop(first);
        assert!(admit(a).is_ok());
        assert_eq!(counts.open.lock().total, 2);
    }
}
