//! What all of a node's connections share.

use std::collections::HashMap;
use std::sync::Arc;

use meridian_net::Net;
use meridian_types::{NodeId, Uuid};
use parking_lot::{Mutex, RwLock};
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::FRAME_VERSIONS;
use crate::hello::{Hello, common_version};
use crate::identity::{PeerAddress, PeerIdentity};
use crate::lane::Lane;
use crate::link::Link;
use crate::outbox::Phase;
use crate::settings::PeerSettings;
use crate::stats::Counters;

/// Connections of others at a time.
const INBOUND_MAX: usize = 1024;
/// Warnings about arriving connections come no closer together.
const WARNING_INTERVAL: Duration = Duration::from_secs(1);

pub(crate) struct Shared {
    pub(crate) settings: PeerSettings,
    pub(crate) net: Arc<dyn Net>,
    pub(crate) main: Handle,
    pub(crate) nodes: RwLock<HashMap<NodeId, Arc<Node>>>,
    pub(crate) changes: watch::Sender<u64>,
    pub(crate) stop: CancellationToken,
    pub(crate) tasks: TaskTracker,
    inbound: Mutex<Inbound>,
    warned: Mutex<Option<Instant>>,
}

/// A node whose address is known.
pub(crate) struct Node {
    pub(crate) address: PeerAddress,
    /// By the lane's index.
    pub(crate) links: [Arc<Link>; 2],
    stop: CancellationToken,
}

/// Connections that others opened.
#[derive(Default)]
struct Inbound {
    last: u64,
    open: HashMap<u64, Arrived>,
}

struct Arrived {
    from: PeerIdentity,
    lane: Lane,
    counters: Arc<Counters>,
    stop: CancellationToken,
}

impl Shared {
    pub(crate) fn new(settings: PeerSettings, net: Arc<dyn Net>) -> Self {
        Self {
            settings,
            net,
            main: Handle::current(),
            nodes: RwLock::default(),
            changes: watch::channel(0).0,
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
            inbound: Mutex::default(),
            warned: Mutex::new(None),
        }
    }

    /// The runtime of a lane.
    pub(crate) fn runtime(&self, lane: Lane) -> &Handle {
        match (lane, &self.settings.urgent) {
            (Lane::Urgent, Some(urgent)) => urgent,
            _ => &self.main,
        }
    }

    pub(crate) fn changed(&self) {
        self.changes.send_modify(|count| *count = count.wrapping_add(1));
    }

    pub(crate) fn node(&self, node: NodeId) -> Option<Arc<Node>> {
        self.nodes.read().get(&node).cloned()
    }

    pub(crate) fn set_address(self: &Arc<Self>, node: NodeId, address: Option<PeerAddress>) {
        let arrived = Lane::ALL.map(|lane| self.arrived_counters(node, lane));
        let mut nodes = self.nodes.write();
        let old = nodes.get(&node).cloned();
        if node == self.settings.node || old.as_ref().map(|old| &old.address) == address.as_ref() {
            return;
        }
        match &address {
            None => drop(nodes.remove(&node)),
            Some(address) => {
                let links = Lane::ALL.map(|lane| {
                    let counters = match &old {
                        Some(old) => old.links[lane.index()].counters.clone(),
                        None => arrived[lane.index()].clone(),
                    };
                    Arc::new(Link::new(lane, self.settings.queue_bytes_max, counters))
                });
                let entry = Node {
                    address: address.clone(),
                    links,
                    stop: self.stop.child_token(),
                };
                self.start(node, &entry);
                nodes.insert(node, Arc::new(entry));
            }
        }
        drop(nodes);
        if let Some(old) = old {
            old.end();
        }
        if let Some(incarnation) = address.and_then(|address| address.incarnation) {
            self.end_inbound(|from| from.node == node && from.incarnation != incarnation);
        }
        self.changed();
    }

    fn start(self: &Arc<Self>, node: NodeId, entry: &Node) {
        for link in entry.links.clone() {
            let (shared, address, stop) = (self.clone(), entry.address.clone(), entry.stop.clone());
            let runtime = self.runtime(link.lane);
            self.tasks.spawn_on(
                async move {
                    stop.run_until_cancelled(link.run(&shared, node, &address)).await;
                    link.ended(&shared);
                },
                runtime,
            );
        }
    }

    /// Whether to let a node in, and at which version. Errors: why not, for its operator.
    pub(crate) fn judge(&self, hello: &Hello) -> Result<PeerIdentity, String> {
        let Some(version) = common_version(&FRAME_VERSIONS, &hello.versions) else {
            return Err(format!(
                "it speaks frame versions {} to {}, node {} speaks {} to {}: upgrade the older of the two",
                hello.versions.start(),
                hello.versions.end(),
                self.settings.node,
                FRAME_VERSIONS.start(),
                FRAME_VERSIONS.end()
            ));
        };
        if hello.region != self.settings.region {
            return Err(format!(
                "it belongs to region `{}`, node {} to region `{}`: correct its seeds or its region",
                hello.region.escape_debug(),
                self.settings.node,
                self.settings.region
            ));
        }
        let expected = self.expected_incarnation(hello.node);
        if let Some(expected) = expected.filter(|expected| *expected != hello.incarnation) {
            return Err(format!(
                "node {} is known with incarnation {expected}, this one has {}: it lost its data, or another node \
                 uses its id. Give this node an id that no node had before, and remove the old node from the region if it is lost",
                hello.node, hello.incarnation
            ));
        }
        Ok(PeerIdentity {
            node: hello.node,
            incarnation: hello.incarnation,
            version,
        })
    }

    fn expected_incarnation(&self, node: NodeId) -> Option<Uuid> {
        if node == self.settings.node {
            return Some(self.settings.incarnation);
        }
        self.node(node).and_then(|node| node.address.incarnation)
    }

    /// Takes an arrived connection into the books. Errors: why not.
    pub(crate) fn admit(self: &Arc<Self>, hello: &Hello) -> Result<Admission, String> {
        let mut inbound = self.inbound.lock();
        // Under the lock, so that an incarnation that is being ruled out is either refused here, or found and ended.
        let identity = self.judge(hello)?;
        if inbound.open.len() >= INBOUND_MAX {
            return Err(format!(
                "{INBOUND_MAX} connections are open already at node {}",
                self.settings.node
            ));
        }
        inbound.last += 1;
        let number = inbound.last;
        let counters = match self.node(identity.node) {
            Some(node) => node.links[hello.lane.index()].counters.clone(),
            None => Arc::default(),
        };
        let arrived = Arrived {
            from: identity.clone(),
            lane: hello.lane,
            counters: counters.clone(),
            stop: self.stop.child_token(),
        };
        let stop = arrived.stop.clone();
        inbound.open.insert(number, arrived);
        Ok(Admission {
            shared: self.clone(),
            number,
            identity,
            counters,
            stop,
        })
    }

    fn end_inbound(&self, chosen: impl Fn(&PeerIdentity) -> bool) {
        for arrived in self.inbound.lock().open.values() {
            if chosen(&arrived.from) {
                arrived.stop.cancel();
            }
        }
    }

    /// Counters of a connection that came before its node's address was known, else new ones.
    fn arrived_counters(&self, node: NodeId, lane: Lane) -> Arc<Counters> {
        let inbound = self.inbound.lock();
        let mut open = inbound.open.values();
        open.find(|arrived| arrived.from.node == node && arrived.lane == lane)
            .map(|arrived| arrived.counters.clone())
            .unwrap_or_default()
    }

    /// A node has shown itself: its links dial at once.
    pub(crate) fn wake(&self, node: NodeId) {
        if let Some(node) = self.node(node) {
            for link in &node.links {
                link.wake();
            }
        }
    }

    /// Whether a warning may be logged now; arriving connections must not fill the log.
    pub(crate) fn may_warn(&self) -> bool {
        let now = Instant::now();
        let mut warned = self.warned.lock();
        let may = warned.is_none_or(|last| now - last >= WARNING_INTERVAL);
        if may {
            *warned = Some(now);
        }
        may
    }
}

impl Node {
    fn end(&self) {
        for link in &self.links {
            link.outbox.fail(Phase::Closed);
        }
        self.stop.cancel();
    }
}

/// An arrived connection's place in the books, until dropped.
pub(crate) struct Admission {
    shared: Arc<Shared>,
    number: u64,
    pub(crate) identity: PeerIdentity,
    pub(crate) counters: Arc<Counters>,
    pub(crate) stop: CancellationToken,
}

impl Drop for Admission {
    fn drop(&mut self) {
        self.shared.inbound.lock().open.remove(&self.number);
    }
}
