//! A node's hold on all others.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use meridian_net::{HostPort, Net};
use meridian_types::{NodeId, ShardId};
use tokio::sync::{oneshot, watch};
use tokio::time::{Instant, timeout};

use crate::call::{Answer, Call, CallError};
use crate::calls_under_way::CallsUnderWay;
use crate::dial_error::AddressError;
use crate::frame_reader::FrameReader;
use crate::frame_writer::FrameWriter;
use crate::greeting::dial;
use crate::hello::REGION_BYTES_MAX;
use crate::identity::{PeerAddress, PeerIdentity};
use crate::lane::Lane;
use crate::link::{LaneState, hear_answers};
use crate::link_state::LinkState;
use crate::outbox::{Outbox, Phase};
use crate::progress::{Progress, TICKS};
use crate::serve;
use crate::service::Service;
use crate::settings::PeerSettings;
use crate::shared::Shared;
use crate::stats::{Counters, PeerStats};

/// A node's hold on all others. Clones share everything.
#[derive(Clone)]
pub struct Peers {
    shared: Arc<Shared>,
}

impl Peers {
    /// Must be called in the runtime that is to run the bulk lane. Opens nothing yet.
    ///
    /// Panics when the region's name is longer than 255 bytes, which the reader of settings refuses.
    pub fn new(settings: PeerSettings, net: Arc<dyn Net>) -> Self {
        assert!(
            settings.region.len() <= REGION_BYTES_MAX,
            "a region's name has at most {REGION_BYTES_MAX} bytes"
        );
        Self {
            shared: Arc::new(Shared::new(settings, net)),
        }
    }

    /// Listens for other nodes, whose calls and notices go to `service`. Returns the bound address, with its real port.
    ///
    /// Errors: the address cannot be bound.
    pub async fn listen(&self, at: SocketAddr, service: Arc<dyn Service>) -> io::Result<SocketAddr> {
        let shared = self.shared.clone();
        let runtime = shared.runtime(Lane::Urgent).clone();
        // A listener is watched by the runtime that it is bound in.
        let bound = runtime.spawn(async move {
            let acceptor = shared.net.bind(at).await?;
            let address = acceptor.local_addr()?;
            let tasks = shared.tasks.clone();
            tasks.spawn(serve::accept(shared, acceptor, service));
            Ok(address)
        });
        bound.await.unwrap_or_else(|error| Err(io::Error::other(error)))
    }

    /// Says where a node is reached, and keeps connections to it open from now on; `None` ends them. A changed
    /// address or incarnation reconnects; the same again changes nothing. This node's own id is ignored.
    pub fn set_address(&self, node: NodeId, address: Option<PeerAddress>) {
        self.shared.set_address(node, address);
    }

    /// Asks a node. Queued at once, so calls to the same node and lane arrive in the order of these calls.
    ///
    /// While there is no connection and the last attempt to open one failed, fails at once with
    /// [`CallError::NotConnected`]. During a first attempt it waits for its outcome: after the address was set,
    /// after a connection broke that had lasted, and when the node has just shown itself.
    pub fn call(&self, to: NodeId, lane: Lane, kind: u16, shard: ShardId, body: Vec<Bytes>) -> Call {
        let deadline = Instant::now() + self.shared.settings.call_timeout;
        match self.queue(to, lane, kind, shard, body) {
            Ok(answer) => Call::new(answer, deadline),
            Err(error) => Call::failed(error),
        }
    }

    fn queue(
        &self,
        to: NodeId,
        lane: Lane,
        kind: u16,
        shard: ShardId,
        body: Vec<Bytes>,
    ) -> Result<oneshot::Receiver<Answer>, CallError> {
        let node = self.shared.node(to).ok_or(CallError::UnknownNode)?;
        self.check_size(lane, &body)?;
        node.links[lane.index()].outbox.push_call(kind, shard, body)
    }

    fn check_size(&self, lane: Lane, body: &[Bytes]) -> Result<(), CallError> {
        let bytes_max = self.shared.settings.frame_max(lane);
        let bytes = body.iter().map(Bytes::len).sum();
        if bytes > bytes_max {
            return Err(CallError::TooLarge { bytes, bytes_max });
        }
        Ok(())
    }

    /// Tells a node, without an answer. Dropped when there is no connection, or no room in the queue, or it is
    /// too large for a frame; and possibly when the connection breaks.
    pub fn notify(&self, to: NodeId, lane: Lane, kind: u16, shard: ShardId, body: Vec<Bytes>) {
        let Some(node) = self.shared.node(to) else {
            return;
        };
        let link = &node.links[lane.index()];
        if self.check_size(lane, &body).is_err() || !link.outbox.push_notice(kind, shard, body) {
            link.counters.notice_dropped();
        }
    }

    /// Asks whoever listens at an address, over a connection of its own, within the settings' times for a dial
    /// and a call. For seeds, whose node ids are not known yet. It may be this node itself: look at the
    /// identity. The service sees the shard [`ShardId::CONTROLLER`].
    pub async fn call_address(
        &self,
        address: &HostPort,
        kind: u16,
        body: Vec<Bytes>,
    ) -> Result<(PeerIdentity, Bytes), AddressError> {
        let settings = &self.shared.settings;
        self.check_size(Lane::Bulk, &body)?;
        let (stream, identity) = dial(settings, &*self.shared.net, address, Lane::Bulk).await?;
        let (reader, writer) = stream.split();
        let (progress, calls, counters) =
            (Progress::default(), CallsUnderWay::default(), Counters::default());
        let mut reader = FrameReader::new(reader, settings.frame_max(Lane::Bulk), &progress, &counters);
        let mut writer = FrameWriter::new(writer, &calls, &counters);
        let outbox = Outbox::new(Phase::Open, settings.queue_bytes_max);
        let mut answer = outbox.push_call(kind, ShardId::CONTROLLER, body)?;
        let answered = async {
            tokio::select! {
                biased;
                answer = &mut answer => return answer.unwrap_or(Err(CallError::Closed)),
                _ = hear_answers(&mut reader, &calls) => {}
                _ = writer.run(&outbox, settings.silence_max / TICKS) => {}
            }
            // The answer may have been the last thing to come.
            answer.try_recv().unwrap_or(Err(CallError::Closed))
        };
        let answer = timeout(settings.call_timeout, answered)
            .await
            .unwrap_or(Err(CallError::Timeout))?;
        Ok((identity, answer))
    }

    /// How things stand with a node. [`LinkState::Down`] when its address is not set.
    pub fn link(&self, node: NodeId) -> LinkState {
        match self.shared.node(node) {
            Some(node) => together(node.links.each_ref().map(|link| link.state())),
            None => LinkState::Down,
        }
    }

    /// Changes whenever the state of any link does. The number means nothing.
    pub fn links(&self) -> watch::Receiver<u64> {
        self.shared.changes.subscribe()
    }

    /// Counters, by node and lane.
    pub fn stats(&self) -> Vec<PeerStats> {
        let nodes = self.shared.nodes.read();
        let mut stats: Vec<PeerStats> = nodes
            .iter()
            .flat_map(|(node, entry)| entry.links.iter().map(|link| (*node, link)))
            .map(|(node, link)| link.counters.stats(node, link.lane, link.outbox.bytes()))
            .collect();
        stats.sort_by_key(|stats| (stats.node, stats.lane));
        stats
    }

    /// Ends every connection and stops listening; calls under way fail. Needed: connections and a service
    /// keep one another alive.
    pub fn shutdown(&self) {
        self.shared.stop.cancel();
        self.shared.tasks.close();
    }

    /// Waits, after [`Peers::shutdown`], until connections and listeners are gone and their ports free.
    pub async fn stopped(&self) {
        self.shared.tasks.wait().await;
    }
}

impl fmt::Debug for Peers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Peers")
            .field("settings", &self.shared.settings)
            .finish_non_exhaustive()
    }
}

/// Both lanes as one.
fn together(lanes: [LaneState; 2]) -> LinkState {
    match lanes {
        [LaneState::Open { since: one }, LaneState::Open { since: other }] => LinkState::Connected {
            since: one.max(other),
        },
        lanes if lanes.contains(&LaneState::Refused) => LinkState::Refused,
        _ => LinkState::Down,
    }
}
