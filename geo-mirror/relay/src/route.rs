//! Which link a packet takes, by where it comes from.

use std::net::{IpAddr, SocketAddr};

use crate::link::{Direction, Link};

/// A link that what comes to a port takes, by the address that it comes from.
#[derive(Clone, Debug)]
pub struct Route {
    /// Who takes it; `None`: everybody whom no route before this one names.
    pub from: Option<IpAddr>,
    /// The link.
    pub link: Link,
    /// The direction of the link that leads to the target; answers come in the other.
    pub toward: Direction,
}

impl Route {
    /// Everybody takes `link` forward.
    pub fn all(link: &Link) -> Self {
        Self {
            from: None,
            link: link.clone(),
            toward: Direction::Forward,
        }
    }

    /// The first of `routes` that `from` may take.
    pub(crate) fn find(routes: &[Self], from: SocketAddr) -> Option<&Self> {
        // An IPv6 socket sees IPv4 addresses in its own form.
        let ip = from.ip().to_canonical();
        routes
            .iter()
            .find(|route| route.from.is_none_or(|named| named == ip))
    }
}
