//! What a network gives: connect and listen.

use std::io;
use std::net::SocketAddr;

use futures::future::BoxFuture;

use crate::connection::Connection;

/// A network as one node sees it.
pub trait Net: Send + Sync + 'static {
    /// Opens a connection to a host, named or by its address in digits.
    ///
    /// Has no deadline of its own: the caller sets one. Dropping the future gives the attempt up.
    /// Errors: [`io::ErrorKind::ConnectionRefused`] only when the host answered that nobody listens there,
    /// which tells that the process is gone; any other kind when the host could not be reached.
    fn connect<'a>(&'a self, host: &'a str, port: u16) -> BoxFuture<'a, io::Result<Connection>>;

    /// Listens at an address of this node; port 0 takes a free one.
    ///
    /// Errors: [`io::ErrorKind::AddrInUse`] when somebody listens there already.
    fn bind(&self, at: SocketAddr) -> BoxFuture<'_, io::Result<Box<dyn Acceptor>>>;
}

/// A place where others connect. Dropping it stops listening; connections accepted before live on.
pub trait Acceptor: Send {
    /// The address bound, with its real port.
    fn local_addr(&self) -> io::Result<SocketAddr>;

    /// The next connection, in the order in which they came. Safe to cancel.
    ///
    /// Errors are about one connection or about resources: wait a little, then go on accepting.
    fn accept(&mut self) -> BoxFuture<'_, io::Result<Connection>>;
}
