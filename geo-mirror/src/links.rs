//! The links that this node opens: to one node of every other region, and to where the shards that it follows are led.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use meridian_types::{RegionNumber, ShardId};
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot, watch};

use crate::counters::Counters;
use crate::dial::Dialler;
use crate::mirror_session::LinkTask;
use crate::network::Network;
use crate::questions::{AskError, QUESTIONS_MAX, Question};
use crate::settings::Settings;
use crate::sink::Sink;
use crate::source::Source;
use crate::status::LinkStatus;
use crate::tls::GeoTls;

/// Another region, and where its nodes listen for this one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerRegion {
    /// Its number. A node that answers with another one is turned away.
    pub number: RegionNumber,
    /// Its name, if known.
    pub name: Option<String>,
    /// `HOST:PORT` each; one of them at a time is linked to, the next when it does not answer.
    pub addresses: Vec<String>,
}

/// All links that this node opens. Dropping it ends them.
///
/// There is one link per address, whatever is followed over it. Links to the same region exchange cards both ways.
pub struct Links {
    shared: Arc<LinksShared>,
}

pub(crate) struct LinksShared {
    pub(crate) dialler: Dialler,
    pub(crate) source: Arc<dyn Source>,
    pub(crate) sink: Arc<dyn Sink>,
    pub(crate) counters: Arc<Counters>,
    runtime: Handle,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    peers: BTreeMap<RegionNumber, Peer>,
    limits: BTreeMap<RegionNumber, u64>,
    follows: BTreeMap<ShardId, Wanted>,
    links: BTreeMap<(RegionNumber, String), Running>,
    /// Counts calls of `follow`.
    calls: u64,
    is_stopped: bool,
}

struct Peer {
    region: PeerRegion,
    /// Which address is linked to; counts on, modulo their number.
    turn: usize,
}

struct Wanted {
    region: RegionNumber,
    address: String,
    follow: WantedFollow,
}

struct Running {
    wanted: watch::Sender<WantedLink>,
    questions: mpsc::Sender<Question>,
    status: Arc<Mutex<LinkStatus>>,
}

/// A shard that is to be followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct WantedFollow {
    pub(crate) weight: u8,
    /// Another call resumes what is parked.
    pub(crate) call: u64,
}

/// What a link is to do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct WantedLink {
    pub(crate) follows: BTreeMap<ShardId, WantedFollow>,
    pub(crate) limit_bytes_per_second: Option<u64>,
}

impl Links {
    /// Knows no region yet. Runs in the runtime that this is called in.
    pub fn start(
        settings: Settings,
        tls: GeoTls,
        network: Arc<dyn Network>,
        source: Arc<dyn Source>,
        sink: Arc<dyn Sink>,
        counters: Arc<Counters>,
    ) -> Self {
        tls.watch(settings.tls_reload_interval, counters.clone());
        Self {
            shared: Arc::new(LinksShared {
                dialler: Dialler::new(settings, tls, network),
                source,
                sink,
                counters,
                runtime: Handle::current(),
                state: Mutex::default(),
            }),
        }
    }

    /// Says which other regions there are. Links to regions that are gone end, with everything followed over them.
    pub fn set_peers(&self, peers: Vec<PeerRegion>) {
        let mut state = self.shared.state.lock();
        let mut before = std::mem::take(&mut state.peers);
        for region in peers {
            let turn = before.remove(&region.number).map_or(0, |peer| peer.turn);
            state.peers.insert(region.number, Peer { region, turn });
        }
        let known: Vec<_> = state.peers.keys().copied().collect();
        state.follows.retain(|_, wanted| known.contains(&wanted.region));
        self.shared.clone().reconcile(&mut state);
    }

    /// Follows a shard at a node of a region. A shard is followed in one place: an earlier call no longer counts. What was
    /// refused for good is asked for again.
    ///
    /// `weight`: share of the link beside other shards, 1 to 255. The region must be one of [`Links::set_peers`].
    pub fn follow(&self, shard: ShardId, region: RegionNumber, address: &str, weight: u8) {
        let mut state = self.shared.state.lock();
        state.calls += 1;
        let call = state.calls;
        let wanted = Wanted {
            region,
            address: address.to_owned(),
            follow: WantedFollow { weight, call },
        };
        state.follows.insert(shard, wanted);
        self.shared.clone().reconcile(&mut state);
    }

    /// Follows a shard no more. What the sink was given is not taken back.
    pub fn unfollow(&self, shard: ShardId) {
        let mut state = self.shared.state.lock();
        if state.follows.remove(&shard).is_some() {
            self.shared.clone().reconcile(&mut state);
        }
    }

    /// Asks where a shard is followed. A break of the link ends it; what takes long is for the caller to give up.
    pub async fn ask(&self, shard: ShardId, question: Bytes) -> Result<Bytes, AskError> {
        let questions = {
            let state = self.shared.state.lock();
            let followed = state.follows.get(&shard);
            let link = followed.and_then(|at| state.links.get(&(at.region, at.address.clone())));
            link.ok_or(AskError::Unlinked)?.questions.clone()
        };
        ask(questions, shard, question).await
    }

    /// Asks any node of a region that is linked to.
    pub async fn ask_region(
        &self,
        region: RegionNumber,
        shard: ShardId,
        question: Bytes,
    ) -> Result<Bytes, AskError> {
        let questions = {
            let state = self.shared.state.lock();
            let mut links = state.links.iter().filter(|((number, _), _)| *number == region);
            let link = links.find(|(_, link)| link.status.lock().transport.is_some());
            link.ok_or(AskError::Unlinked)?.1.questions.clone()
        };
        ask(questions, shard, question).await
    }

    /// Limits what each node of a region may send to this one over one link, at once and until changed.
    pub fn throttle(&self, region: RegionNumber, bytes_per_second: Option<u64>) {
        let mut state = self.shared.state.lock();
        match bytes_per_second {
            Some(rate) => state.limits.insert(region, rate),
            None => state.limits.remove(&region),
        };
        self.shared.clone().reconcile(&mut state);
    }

    /// Time for a packet there and back, of every link that has a connection.
    pub fn round_trips(&self) -> Vec<(RegionNumber, Duration)> {
        let state = self.shared.state.lock();
        let rtt = |(at, link): (&(RegionNumber, String), &Running)| {
            Some((at.0, link.status.lock().transport.as_ref()?.rtt?))
        };
        state.links.iter().filter_map(rtt).collect()
    }

    /// The links, by region and address.
    pub fn status(&self) -> Vec<LinkStatus> {
        let state = self.shared.state.lock();
        state
            .links
            .values()
            .map(|link| link.status.lock().clone())
            .collect()
    }
}

async fn ask(questions: mpsc::Sender<Question>, shard: ShardId, body: Bytes) -> Result<Bytes, AskError> {
    let (sender, answer) = oneshot::channel();
    let question = Question {
        shard,
        body,
        answer: sender,
    };
    questions.send(question).await.map_err(|_| AskError::Unlinked)?;
    answer.await.unwrap_or(Err(AskError::Unlinked))
}

impl Drop for Links {
    fn drop(&mut self) {
        let mut state = self.shared.state.lock();
        state.is_stopped = true;
        state.links.clear();
    }
}

impl LinksShared {
    /// A link to `address` does not come up: if it is there only to be linked to some node of the region, another node
    /// is next.
    pub(crate) fn rotate(self: Arc<Self>, region: RegionNumber, address: &str) {
        let mut state = self.state.lock();
        let Some(peer) = state.peers.get_mut(&region) else {
            return;
        };
        if peer.address() == Some(address) {
            peer.turn = peer.turn.wrapping_add(1);
            self.clone().reconcile(&mut state);
        }
    }

    /// Starts and ends links until they are what is wanted.
    fn reconcile(self: Arc<Self>, state: &mut State) {
        if state.is_stopped {
            return;
        }
        let mut wanted: BTreeMap<(RegionNumber, String), WantedLink> = BTreeMap::new();
        for (number, peer) in &state.peers {
            if let Some(address) = peer.address() {
                wanted.entry((*number, address.to_owned())).or_default();
            }
        }
        for (shard, follow) in &state.follows {
            let link = wanted.entry((follow.region, follow.address.clone())).or_default();
            link.follows.insert(*shard, follow.follow);
        }
        for ((region, _), link) in &mut wanted {
            link.limit_bytes_per_second = state.limits.get(region).copied();
        }
        // A link ends when nobody wants anything of it any more.
        state.links.retain(|at, _| wanted.contains_key(at));
        for (at, link) in wanted {
            if let Some(running) = state.links.get(&at) {
                running.wanted.send_if_modified(|now| {
                    let is_new = *now != link;
                    *now = link;
                    is_new
                });
                continue;
            }
            let (sender, receiver) = watch::channel(link);
            let (questions, asked) = mpsc::channel(QUESTIONS_MAX);
            let status = Arc::new(Mutex::new(LinkStatus {
                region: at.0,
                name: None,
                node: None,
                region_epoch: None,
                address: at.1.clone(),
                transport: None,
                trouble: None,
                shards: Vec::new(),
                limit_bytes_per_second: None,
            }));
            let task = LinkTask {
                shared: self.clone(),
                region: at.0,
                address: at.1.clone(),
                wanted: receiver,
                status: status.clone(),
                questions: asked,
            };
            self.runtime.spawn(task.run());
            let running = Running {
                wanted: sender,
                questions,
                status,
            };
            state.links.insert(at, running);
        }
    }
}

impl Peer {
    fn address(&self) -> Option<&str> {
        let addresses = &self.region.addresses;
        let at = self.turn.checked_rem(addresses.len())?;
        addresses.get(at).map(String::as_str)
    }
}
