//! The mirror between regions: every shard's content, and the controller's, is the same in all of them, in one order.
//!
//! The owner's logs are read from where another region stands ([`reader`]), carried by `meridian-geo-mirror`, and proposed
//! to that region's own groups ([`apply`]). Who owns is decided in the controller's log alone, which travels like every
//! other; each shard's leader brings its log in line ([`ownership`]). Why it is so: `docs/decisions/0014-mirror.md`.
//!
//! | module | what it decides or does |
//! |---|---|
//! | [`stream`] | one log whose content is mirrored, of a shard or of the controller |
//! | [`reader`], [`source`] | the owner's side: content from a place in the sequence on |
//! | [`apply`], [`pieces`], [`sink`] | the mirror's side: proposals in order, epochs that begin |
//! | [`checkpoints`], [`install`], [`question`] | the owner's state, objects and batches, where its log does not reach back far enough |
//! | [`follows`], [`acks`] | whom this node follows, and who has told how far it is |
//! | [`alter`] | changes that clients bring to any broker, of configs and of topics made on demand, on their way to the owner |
//! | [`held`] | produce that waits for other regions |
//! | [`weights`] | how logs share a link, by the topics that they hold |
//! | [`card`], [`cards`], [`remote`] | what regions tell one another of themselves |
//! | [`nodes`] | the same inside a region |
//! | [`ownership`], [`switchover`] | roles of logs; the planned move of ownership |
//! | [`seeds`] | where a new region learns what it is to mirror |
//! | [`copy_age`] | how old the copies are that consumers may read |
//! | [`driver`], [`status`] | the tasks of a node; what the operator is told |

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use meridian_geo_mirror::{Counters, GeoListener, Links, StartError};
use meridian_types::{NodeId, RegionNumber};
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

mod acks;
mod alter;
mod apply;
mod card;
mod cards;
mod checkpoints;
mod copy_age;
pub(crate) mod driver;
mod follows;
mod held;
mod install;
pub(crate) mod nodes;
mod ownership;
mod pieces;
mod question;
mod reader;
mod remote;
pub(crate) mod seeds;
mod settings;
mod sink;
mod source;
mod status;
mod stream;
mod switchover;
mod weights;

pub use copy_age::CopyAge;
pub use held::HeldByTooFew;
pub use remote::{Hosts, RemoteNode, RemoteRegion, RemoteRegions, RemoteShard};
pub use settings::GeoSettings;
pub use status::{MirrorLinkStatus, MirrorRegionStatus, MirrorShardStatus, MirrorStatus, PartitionDigest};
pub use switchover::SwitchOverError;

use acks::Acks;
use apply::{Applier, Room};
use checkpoints::Checkpoints;
use follows::Follows;
use install::Installs;
use nodes::MirrorAnswer;
use sink::GeoSink;
use source::GeoSource;

use crate::region::Inner;
use crate::start::RegionStartError;

/// A region that told something of itself within this time is there.
const HEARD_WITHIN: Duration = Duration::from_secs(5);

/// How long the listener waits for its address to come free.
const ADDRESS_TIMEOUT: Duration = Duration::from_secs(10);
const ADDRESS_STEP: Duration = Duration::from_millis(50);

/// What this node holds for the mirror.
pub(crate) struct Mirror {
    /// Number of this region.
    pub(crate) own: RegionNumber,
    /// How far other regions hold the logs led here.
    acks: Acks,
    /// Whom the logs led here follow.
    follows: Follows,
    /// Checkpoints that other regions are fetching here.
    checkpoints: Checkpoints,
    /// Logs that take a checkpoint in.
    installs: Installs,
    /// Logs that lack room for content.
    room: Room,
    /// The other regions.
    remote: ArcSwap<RemoteRegions>,
    /// What the nodes of this region told last.
    answers: Mutex<BTreeMap<NodeId, MirrorAnswer>>,
    /// The seeds that have answered: region, its name, address.
    seeds: Mutex<Vec<(RegionNumber, String, String)>>,
    /// This region's card.
    card: watch::Sender<Bytes>,
    /// Something has changed that the driver looks at.
    wake: Notify,
    /// Where other regions reach this node, and the links to them; nothing where it has no part in the mirror.
    address: Mutex<Option<String>>,
    links: Mutex<Option<Arc<Links>>>,
    listener: Mutex<Option<Arc<GeoListener>>>,
    counters: Arc<Counters>,
}

impl Mirror {
    pub(crate) fn new(own: RegionNumber) -> Self {
        Self {
            own,
            acks: Acks::default(),
            follows: Follows::default(),
            checkpoints: Checkpoints::default(),
            installs: Installs::default(),
            room: Room::default(),
            remote: ArcSwap::from_pointee(RemoteRegions::new(own)),
            answers: Mutex::default(),
            seeds: Mutex::default(),
            card: watch::channel(Bytes::new()).0,
            wake: Notify::new(),
            address: Mutex::default(),
            links: Mutex::default(),
            listener: Mutex::default(),
            counters: Arc::default(),
        }
    }

    /// The other regions, as they told last.
    pub(crate) fn remote(&self) -> Arc<RemoteRegions> {
        self.remote.load_full()
    }

    fn address(&self) -> Option<String> {
        self.address.lock().clone()
    }

    /// The links, where this node has a part in the mirror.
    fn links(&self) -> Option<Arc<Links>> {
        self.links.lock().clone()
    }

    fn listener(&self) -> Option<Arc<GeoListener>> {
        self.listener.lock().clone()
    }
}

/// Listens for other regions, and opens the links to them.
pub(crate) async fn start(inner: &Arc<Inner>) -> Result<(), RegionStartError> {
    let (Some(mirror), Some(geo)) = (inner.mirror(), inner.settings.geo.as_ref()) else {
        return Ok(());
    };
    let card = cards::compose(inner, &BTreeMap::new()).encode();
    mirror.card.send_replace(card);
    let source = Arc::new(GeoSource {
        inner: Arc::downgrade(inner),
        card: mirror.card.subscribe(),
        last_hello: source::hello(inner),
    });
    let sink = Arc::new(GeoSink {
        inner: Arc::downgrade(inner),
        applier: Applier::new(Arc::downgrade(inner)),
    });
    let started = Instant::now();
    let listener = loop {
        let listening = GeoListener::start(
            geo.transport.clone(),
            geo.tls.clone(),
            Arc::clone(&geo.network),
            geo.listen,
            source.clone(),
            sink.clone(),
            Arc::clone(&mirror.counters),
        );
        match listening.await {
            Ok(listener) => break listener,
            // Who listened here before may not have let go yet.
            Err(StartError::Bind { source, .. })
                if source.kind() == ErrorKind::AddrInUse && started.elapsed() < ADDRESS_TIMEOUT =>
            {
                tokio::time::sleep(ADDRESS_STEP).await;
            }
            Err(error) => return Err(RegionStartError::Geo(error.to_string())),
        }
    };
    let bound = listener.local_addr();
    *mirror.address.lock() = Some(told_address(geo, bound));
    *mirror.listener.lock() = Some(Arc::new(listener));
    let counters = Arc::clone(&mirror.counters);
    let links = Links::start(
        geo.transport.clone(),
        geo.tls.clone(),
        Arc::clone(&geo.network),
        source,
        sink,
        counters,
    );
    *mirror.links.lock() = Some(Arc::new(links));
    tracing::info!(%bound, region = %geo.number, "listening for other regions");
    Ok(())
}

/// Ends what speaks with other regions.
pub(crate) fn stop(inner: &Inner) {
    if let Some(mirror) = inner.mirror() {
        *mirror.links.lock() = None;
        *mirror.listener.lock() = None;
    }
}

fn told_address(geo: &GeoSettings, bound: SocketAddr) -> String {
    if geo.advertise.is_none() && bound.ip().is_unspecified() {
        tracing::warn!(%bound, "other regions cannot be told where this node is: set geo.advertise");
    }
    geo.advertise.clone().unwrap_or_else(|| bound.to_string())
}
