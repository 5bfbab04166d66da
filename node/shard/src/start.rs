//! A node's way into its region.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures::future::BoxFuture;
use meridian_controller::{Command, HostPort as FactHostPort, NodeRegistration, Outcome, RegisterNodeError};
use meridian_journal::{Disk, Journal, JournalError};
use meridian_net::Net;
use meridian_peer::{HostPort, Peers};
use meridian_raft::{CheckpointStore, Group, Leadership, Machine, StartError};
use meridian_types::{RegionEpoch, ShardId, ShardMap};
use parking_lot::Mutex;
use thiserror::Error;
use tokio::sync::{Notify, OnceCell, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::control::ControlMachine;
use crate::driver;
use crate::enter::{self, JOIN_STEP, PROGRESS_INTERVAL};
use crate::errors::ControlError;
use crate::hosting::{self, Damaged};
use crate::mirror::{self, Mirror};
use crate::pacemaker::{PacemakerSettings, Timing};
use crate::pacing::Pacing;
use crate::region::{Inner, Region, Shards};
use crate::same_bucket;
use crate::service::RegionService;
use crate::settings::{Clock, Random, RegionSettings};
use crate::shard::Shard;
use crate::tier::Tier;
use crate::writing::{Rule, Writing};

/// How long a node that is one of several waits for the leaders of its shards before it serves the others.
const LEADERS_TIMEOUT: Duration = Duration::from_secs(5);

/// Pause while it looks for them.
const LEADERS_STEP: Duration = Duration::from_millis(5);

/// How long a node waits until the other regions are heard, before it takes clients. Those that are there answer within two
/// round trips.
const REGIONS_TIMEOUT: Duration = Duration::from_secs(2);

/// Why a node cannot take its part in the region.
#[derive(Debug, Error)]
pub enum RegionStartError {
    /// A setting is wrong. The text says which, and what is expected.
    #[error("{0}")]
    Settings(String),
    /// The listener for other nodes cannot be opened.
    #[error("cannot listen on {at} for other nodes: {source}")]
    Listen {
        /// The address.
        at: std::net::SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
    /// The controller's group does not start: nothing works without it.
    #[error("the controller does not start: {0}")]
    Controller(#[from] StartError),
    /// Other regions cannot be spoken to. The text says why.
    #[error("{0}")]
    Geo(String),
    /// The region could not be founded or joined. The text says what to do.
    #[error("the region cannot be joined: {0}")]
    Join(String),
    /// No leader in time, in a region of one node.
    #[error("no leader of {what} after {waited:?}")]
    NoLeader {
        /// Which groups.
        what: String,
        /// How long it was waited.
        waited: Duration,
    },
}

/// Why a node was not registered.
#[derive(Debug, Error)]
pub enum RegisterError {
    /// The controller's group did not take it. Retry.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// The region refuses this node. The text says why.
    #[error(transparent)]
    Refused(#[from] RegisterNodeError),
    /// The controller answered something else: a defect.
    #[error("the registration was answered by {0}")]
    Answer(String),
}

/// What a node brings into its region.
pub struct RegionParts {
    /// Its log.
    pub journal: Journal,
    /// Where its checkpoints are kept.
    pub checkpoints: Arc<dyn Disk>,
    /// Its network.
    pub net: Arc<dyn Net>,
    /// Its wall clock.
    pub clock: Clock,
    /// Its randomness.
    pub random: Random,
}

impl Region {
    /// Recovers what this node holds, finds its region or founds it, and waits until it knows the region's
    /// facts. A shard that cannot start does not stop the others.
    ///
    /// Waits without end for nodes that are not up yet, and logs for which.
    pub fn start(
        settings: RegionSettings,
        parts: RegionParts,
    ) -> BoxFuture<'static, Result<Self, RegionStartError>> {
        // Boxed, so that this crate compiles what it awaits, and not each that awaits it (docs/HACKING.md, "Compile time").
        Box::pin(async move {
            let inner = assemble(settings, parts).await?;
            let region = Self {
                inner: Arc::clone(&inner),
            };
            if let Err(error) = region.join().await {
                region.shutdown().await;
                return Err(error);
            }
            let tasks = &inner.tasks;
            tasks.spawn(driver::maintain(Arc::clone(&inner)));
            tasks.spawn(hosting::run(Arc::clone(&inner)));
            tasks.spawn(crate::changes::run(Arc::clone(&inner)));
            if let Some(tier) = inner.tier() {
                tasks.spawn(crate::tier::driver::run(Arc::clone(&inner), tier));
            }
            tasks.spawn(crate::planner::run(Arc::clone(&inner)));
            Ok(region)
        })
    }

    async fn join(&self) -> Result<(), RegionStartError> {
        let inner = &self.inner;
        let founding = enter::find_region(inner).await?;
        wait_for_controller(inner).await?;
        let is_same = same_bucket::check_members(inner).await;
        is_same.map_err(RegionStartError::Join)?;
        let bytes = inner.settings.shard.queue_bytes_max;
        let tier = inner
            .settings
            .bucket
            .clone()
            .map(|bucket| Tier::new(bucket, founding.cluster_id.clone()));
        let founded = founding.region_epoch;
        let shard = |id| {
            let writing = Writing::new(Arc::clone(&inner.writing_changed));
            writing.set_rule(Rule::uncounted(founded));
            Shard::new(id, inner.journal.clone(), bytes, writing, tier.clone())
        };
        let map = inner.control.controller().shard_map();
        let map = map.unwrap_or(ShardMap::shared(founding.shards));
        let _ = inner.shards.set(Shards {
            all: map.all().map(shard).collect(),
            map,
            elsewhere: shard(ShardId::ELSEWHERE),
            founded,
        });
        let _ = inner.mirror.set(Mirror::new(inner.number()));
        inner.apply_rule();
        inner.tasks.spawn(driver::follow_view(Arc::clone(inner)));
        if inner.control.controller().is_geo() {
            // Shards take writes only once they have begun to count.
            inner.tasks.spawn(mirror::driver::run(Arc::clone(inner)));
        }
        hosting::round(inner).await;
        wait_for_shards(inner).await?;
        mirror::start(inner).await?;
        wait_for_regions(inner).await;
        Ok(())
    }

    /// Tells the region where clients reach this node, once it takes them.
    pub async fn register(&self, kafka: FactHostPort) -> Result<(), RegisterError> {
        let inner = &self.inner;
        let own = enter::registration(inner.node(), inner.settings.peer.incarnation, &inner.join_info());
        let command = Command::RegisterNode {
            node: NodeRegistration {
                kafka: Some(kafka),
                ..own
            },
            now: self.now(),
        };
        let started = Instant::now();
        loop {
            match self.control(command.clone()).await {
                Ok(Outcome::NodeRegistered(Ok(_))) => return Ok(()),
                Ok(Outcome::NodeRegistered(Err(refused))) => return Err(refused.into()),
                Ok(other) => return Err(RegisterError::Answer(format!("{other:?}"))),
                // Registering twice is the same as once.
                Err(error) if started.elapsed() >= inner.settings.start_timeout => return Err(error.into()),
                Err(error) => {
                    tracing::info!(%error, "not registered yet");
                    tokio::time::sleep(JOIN_STEP).await;
                }
            }
        }
    }
}

/// Starts the controller's group and the ways to the other nodes.
async fn assemble(settings: RegionSettings, parts: RegionParts) -> Result<Arc<Inner>, RegionStartError> {
    let RegionParts {
        journal,
        checkpoints,
        net,
        clock,
        random,
    } = parts;
    let peers = Peers::new(settings.peer.clone(), net);
    let control = Arc::new(ControlMachine::default());
    let start_group = || start_control(&settings, &journal, &checkpoints, &control, &peers);
    let control_group = match start_group().await {
        // Without seeds nobody else is known who has what is lost.
        Err(StartError::Recovery { reason, .. }) if !settings.seeds.is_empty() => {
            tracing::error!(
                reason,
                "the facts of the region are damaged here; they are fetched anew"
            );
            enter::wait_until_dismissed(&settings, &peers).await;
            let erased = hosting::erase(&journal, &checkpoints, ShardId::CONTROLLER).await;
            erased.map_err(|reason| {
                RegionStartError::Controller(StartError::Recovery {
                    shard: ShardId::CONTROLLER,
                    reason,
                })
            })?;
            start_group().await?
        }
        started => started?,
    };
    let logged_nodes = enter::logged_nodes(&journal, &control, settings.peer.node).await;
    let stop = CancellationToken::new();
    let pacemaker = PacemakerSettings {
        node: settings.peer.node,
        incarnation: settings.peer.incarnation,
        start_id: random() as u64,
        address: String::new(),
        seed: random() as u64,
        timing: Timing {
            heartbeat_interval: settings.heartbeat_interval,
            ..Timing::default()
        },
    };
    let urgent = settings.peer.urgent.clone();
    let runtime = urgent.unwrap_or_else(tokio::runtime::Handle::current);
    let has_room = {
        let (journal, bytes) = (journal.clone(), settings.shard.command_bytes_max);
        Box::new(move || !matches!(journal.admit_records(bytes, 1), Err(JournalError::Full { .. })))
    };
    let pacing = Pacing::start(pacemaker, peers.clone(), has_room, &runtime, stop.clone());
    let inner = Arc::new(Inner {
        settings,
        journal,
        checkpoints,
        peers,
        pacing,
        control,
        control_group,
        address: OnceLock::new(),
        logged_nodes,
        bucket_id: OnceCell::new(),
        introduced: Mutex::default(),
        shards: OnceLock::new(),
        rule: watch::channel(Rule::uncounted(RegionEpoch(0))).0,
        writing_changed: Arc::default(),
        mirror: OnceLock::new(),
        leadership: watch::channel(Vec::new().into()).0,
        damaged: Mutex::new(Damaged::default()),
        clock,
        random,
        maintain: Notify::new(),
        tasks: TaskTracker::new(),
        stop,
    });
    let service = Arc::new(RegionService(Arc::clone(&inner)));
    let at = inner.settings.peer_listen;
    let bound = match inner.peers.listen(at, service).await {
        Ok(bound) => bound,
        Err(source) => {
            inner.stop.cancel();
            inner.peers.shutdown();
            inner.control_group.shutdown().await;
            return Err(RegionStartError::Listen { at, source });
        }
    };
    let advertised = inner.settings.peer_advertise.clone();
    if advertised.is_none() && bound.ip().is_unspecified() {
        tracing::warn!(%bound, "other nodes cannot be told where this one is: set peer.advertise");
    }
    let address = advertised.unwrap_or_else(|| HostPort::new(bound.ip().to_string(), bound.port()));
    inner.pacing.set_address(&address);
    let _ = inner.address.set(address);
    inner.pacing.set_nodes(&inner.nodes());
    let replicas = inner
        .control
        .controller()
        .replicas_of(ShardId::CONTROLLER)
        .to_vec();
    inner.pacing.add(inner.control_group.clone(), replicas);
    Ok(inner)
}

async fn start_control(
    settings: &RegionSettings,
    journal: &Journal,
    checkpoints: &Arc<dyn Disk>,
    machine: &Arc<ControlMachine>,
    peers: &Peers,
) -> Result<Group, StartError> {
    hosting::check_undamaged(journal, ShardId::CONTROLLER)?;
    Group::start(
        hosting::group_settings(settings, ShardId::CONTROLLER),
        journal.clone(),
        CheckpointStore::new(Arc::clone(checkpoints), ShardId::CONTROLLER),
        Arc::clone(machine) as Arc<dyn Machine>,
        Some(peers.clone()),
    )
    .await
}

/// Waits until the controller has a leader; without end when it depends on other nodes.
async fn wait_for_controller(inner: &Inner) -> Result<(), RegionStartError> {
    let started = Instant::now();
    let mut leadership = inner.control_group.leadership();
    loop {
        let led = leadership.wait_for(|now| *now != Leadership::Unknown);
        match tokio::time::timeout(PROGRESS_INTERVAL, led).await {
            Ok(Ok(_)) => return Ok(()),
            Ok(Err(_)) => {
                return Err(RegionStartError::Join(
                    "the controller's group has stopped; the log tells why".to_owned(),
                ));
            }
            Err(_) => {}
        }
        let is_alone = inner.control_group.members().borrow().voters.len() <= 1;
        if is_alone && started.elapsed() >= inner.settings.start_timeout {
            return Err(RegionStartError::NoLeader {
                what: "the controller".to_owned(),
                waited: started.elapsed(),
            });
        }
        enter::introduce(inner, &enter::ask_seeds(inner).await);
        let alive = inner.pacing.view().alive.clone();
        tracing::info!(waited = ?started.elapsed(), ?alive, "waiting for a leader of the controller");
        inner.settings.tell(format!(
            "waiting for a leader of the controller; nodes {alive:?} are heard"
        ));
    }
}

/// Waits until the shards here have leaders; in a region of several nodes only for a while.
async fn wait_for_shards(inner: &Inner) -> Result<(), RegionStartError> {
    let started = Instant::now();
    inner.settings.tell("waiting for the leaders of the shards");
    for shard in inner.shards() {
        let Some(group) = shard.group() else { continue };
        let is_alone = inner.control.controller().nodes().len() <= 1;
        let timeout = match is_alone {
            true => inner.settings.start_timeout,
            false => LEADERS_TIMEOUT,
        };
        // Where this region owns, whoever leads here also takes writes.
        let is_ready = || match shard.leadership() {
            Leadership::Unknown => false,
            Leadership::Leading { .. } => shard.writing().is_open() || !inner.rule.borrow().is_ours,
            Leadership::Following { .. } => true,
        };
        while !is_ready() {
            if started.elapsed() < timeout && group.stopped().is_none() {
                tokio::time::sleep(LEADERS_STEP).await;
            } else if is_alone {
                return Err(RegionStartError::NoLeader {
                    what: format!("shard {}", shard.id()),
                    waited: started.elapsed(),
                });
            } else {
                tracing::warn!(shard = %shard.id(), "the shard has no leader yet");
                break;
            }
        }
    }
    driver::publish(inner);
    Ok(())
}

/// Waits a moment for the cards of the cluster's other regions: the first metadata that a client gets here should name their
/// brokers, the owner's above all.
async fn wait_for_regions(inner: &Inner) {
    let Some(mirror) = inner.mirror() else { return };
    let own = inner.number();
    let numbers = inner
        .control
        .controller()
        .regions()
        .map(|it| it.number)
        .collect::<Vec<_>>();
    let is_heard = || {
        let remote = mirror.remote();
        numbers
            .iter()
            .all(|number| *number == own || remote.region(*number).is_some())
    };
    let started = Instant::now();
    while !is_heard() && started.elapsed() < REGIONS_TIMEOUT && !inner.stop.is_cancelled() {
        tokio::time::sleep(LEADERS_STEP).await;
    }
}
