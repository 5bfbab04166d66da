//! What a region's node needs at its start.

use std::sync::Arc;
use std::time::Duration;

use meridian_controller::{Command, Founding, Outcome, RegisterNodeError};
use meridian_journal::{Disk, Journal};
use meridian_raft::{CheckpointStore, Group, Leadership, StartError};
use meridian_types::{NodeId, RegionEpoch, ShardId, TimestampMs};
use thiserror::Error;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use crate::control::ControlMachine;
use crate::driver;
use crate::errors::ControlError;
use crate::region::{Inner, LeadershipView, Region, control, uuid_v4};
use crate::shard::{Shard, Shared, group_settings};

/// The node's wall clock. Only stamps and ages use it; nothing is ordered by it.
pub type Clock = Arc<dyn Fn() -> TimestampMs + Send + Sync>;

/// The node's source of randomness for ids: 128 fresh bits a call.
pub type Random = Arc<dyn Fn() -> u128 + Send + Sync>;

/// Settings of one node of a region.
#[derive(Clone, Debug)]
pub struct RegionSettings {
    /// This node; its number never changes.
    pub node: NodeId,
    /// The region's name, fixed at its founding.
    pub region: String,
    /// Data shards of the region, a power of two, fixed at its founding.
    pub shards: u32,
    /// Kafka's cluster id, fixed at the founding; made up when absent.
    pub cluster_id: Option<String>,
    /// Leaders beat this often.
    pub heartbeat_interval: Duration,
    /// Followers wait at least this long without a beat.
    pub election_timeout: Duration,
    /// Pause between rounds of retention, checkpoints and releases.
    pub maintenance_interval: Duration,
    /// Bytes of journal files to aim at: over it, shards that keep old files make checkpoints early.
    pub journal_bytes_max: u64,
    /// How long the start waits for leaders of all shards.
    pub start_timeout: Duration,
    /// Settings of each shard.
    pub shard: ShardSettings,
}

/// Limits of one shard on this node.
#[derive(Clone, Debug)]
pub struct ShardSettings {
    /// Bytes of batches that may wait for the sequencer; beyond it an append is refused as busy.
    pub queue_bytes_max: usize,
    /// Bytes of batches in one command (soft: a larger batch goes alone).
    pub command_bytes_max: usize,
    /// Proposals in flight.
    pub proposals_in_flight_max: usize,
    /// Bytes of proposals in flight (soft by one command).
    pub bytes_in_flight_max: usize,
    /// Entries applied since the last checkpoint that call for the next.
    pub checkpoint_entries: u64,
    /// Bytes of entries applied since the last checkpoint that call for the next: a restart reads them again.
    pub checkpoint_bytes: u64,
}

impl Default for ShardSettings {
    fn default() -> Self {
        Self {
            queue_bytes_max: 64 << 20,
            command_bytes_max: 4 << 20,
            proposals_in_flight_max: 4,
            bytes_in_flight_max: 16 << 20,
            checkpoint_entries: 20_000,
            checkpoint_bytes: 64 << 20,
        }
    }
}

/// Why a node cannot take its part in the region.
#[derive(Debug, Error)]
pub enum RegionStartError {
    /// A setting is wrong. The text says which, and what is expected.
    #[error("{0}")]
    Settings(String),
    /// The controller's group does not start: nothing works without it.
    #[error("the controller does not start: {0}")]
    Controller(#[from] StartError),
    /// The region could not be founded, or this node not registered.
    #[error("the region cannot be joined: {0}")]
    Join(#[from] ControlError),
    /// No leader in time.
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

impl Region {
    /// Recovers the controller and every data shard of this node, founds the region if it is new, and
    /// waits until the shards have leaders. A shard that cannot start does not stop the others.
    pub async fn start(
        settings: RegionSettings,
        journal: Journal,
        checkpoints: Arc<dyn Disk>,
        clock: Clock,
        random: Random,
    ) -> Result<Self, RegionStartError> {
        let machine = Arc::new(ControlMachine::default());
        let store = CheckpointStore::new(Arc::clone(&checkpoints), ShardId::CONTROLLER);
        let group = group_settings(&settings, ShardId::CONTROLLER);
        let control_group = Group::start(group, journal.clone(), store, machine.clone()).await?;
        wait_for_leader(&control_group, "the controller", settings.start_timeout).await?;
        let founding = found(&settings, &control_group, &machine, &clock, &random).await?;

        let (_, region_epoch) = watch::channel(founding.region_epoch);
        let shared = Shared {
            journal: journal.clone(),
            checkpoints,
            clock: Arc::clone(&clock),
            region_epoch,
        };
        let starting = (0..founding.shards).map(|id| Shard::start(ShardId(id), &settings, shared.clone()));
        let shards = futures::future::join_all(starting).await;
        for shard in &shards {
            if let Ok(group) = shard.group() {
                wait_for_leader(group, &format!("shard {}", shard.id()), settings.start_timeout).await?;
            }
        }

        let view: LeadershipView = shards.iter().map(Shard::leading).collect();
        let (view, leadership) = watch::channel(view);
        let inner = Arc::new(Inner {
            settings,
            journal,
            shards,
            control: machine,
            control_group,
            leadership,
            clock,
            random,
            maintain: Notify::new(),
            stop: CancellationToken::new(),
        });
        tokio::spawn(driver::maintain(Arc::clone(&inner)));
        tokio::spawn(driver::watch_leadership(Arc::clone(&inner), view));
        Ok(Self { inner })
    }

    /// Tells the region where clients reach this node.
    pub async fn register(&self, node: meridian_controller::NodeRegistration) -> Result<(), RegisterError> {
        let command = Command::RegisterNode {
            node,
            now: self.now(),
        };
        match self.control(command).await? {
            Outcome::NodeRegistered(Ok(_)) => Ok(()),
            Outcome::NodeRegistered(Err(refused)) => Err(refused.into()),
            other => Err(RegisterError::Answer(format!("{other:?}"))),
        }
    }
}

async fn wait_for_leader(group: &Group, what: &str, timeout: Duration) -> Result<(), RegionStartError> {
    let mut leadership = group.leadership();
    let led = leadership.wait_for(|now| *now != Leadership::Unknown);
    match tokio::time::timeout(timeout, led).await {
        Ok(Ok(_)) => Ok(()),
        _ => Err(RegionStartError::NoLeader {
            what: what.to_owned(),
            waited: timeout,
        }),
    }
}

/// Founds the region, unless it was founded before.
async fn found(
    settings: &RegionSettings,
    group: &Group,
    machine: &ControlMachine,
    clock: &Clock,
    random: &Random,
) -> Result<Founding, RegionStartError> {
    let present = machine.controller().founding().cloned();
    let founding = match present {
        Some(founding) => founding,
        None => {
            let founding = Founding {
                cluster_id: settings
                    .cluster_id
                    .clone()
                    .unwrap_or_else(|| cluster_id(random())),
                region: settings.region.clone(),
                shards: settings.shards,
                region_epoch: RegionEpoch(0),
                founded_at: clock(),
            };
            match control(
                group,
                &Command::Found {
                    founding: founding.clone(),
                },
            )
            .await?
            {
                Outcome::Founded(Ok(())) => founding,
                Outcome::Founded(Err(refused)) => {
                    return Err(RegionStartError::Settings(refused.to_string()));
                }
                other => {
                    return Err(RegionStartError::Settings(format!(
                        "the founding was answered by {other:?}"
                    )));
                }
            }
        }
    };
    if founding.shards != settings.shards || founding.region != settings.region {
        tracing::warn!(
            region = founding.region,
            shards = founding.shards,
            "the region was founded with other settings; its own are in force"
        );
    }
    Ok(founding)
}

/// A cluster id in Kafka's form: a UUID in 22 letters of URL-safe base64.
fn cluster_id(random: u128) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let bits = uuid_v4(random).as_u128();
    // 21 letters carry 6 bits each, the last one 2.
    (0..22)
        .map(|place| {
            let shifted = if place < 21 {
                bits >> (122 - 6 * place)
            } else {
                bits << 4
            };
            char::from(LETTERS[(shifted & 63) as usize])
        })
        .collect()
}
