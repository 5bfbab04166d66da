//! One entry of the controller's Raft log.

use bytes::{Buf, Bytes};
use meridian_lineage::{ContentRun, RunHead, StagePart};
use meridian_types::{NodeId, RegionNumber, ShardId, TimestampMs, TopicId};
use thiserror::Error;

use crate::codec::{Fault, get_str, get_topic, put_bytes, put_count, put_i64, put_u32, put_u64};
use crate::configs::{self, ConfigChange, Configs};
use crate::controller::{Founding, HOME_SHARDS_MAX, SHARDS_MAX};
use crate::geo::{GeoFounding, GeoRegion, Ownership};
use crate::node::{HOME_LEVEL, NodeRegistration};
use crate::plan;
use crate::settings::broker::BrokerSettings;
use crate::topic::NewTopic;

pub(crate) mod fields;

use fields::*;

/// What a node proposes and every node applies. Format: `docs/formats/command.md`.
///
/// A node that meets a kind it does not know runs an older version than the one that proposed it: it must
/// stop rather than skip the entry, or nodes would differ (invariant 4).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Makes the region. The first command; later ones are refused. [`Command::found`] makes one.
    Found {
        /// What is decided for good.
        founding: Founding,
        /// The first nodes. Without any, whichever node registers first gets every shard.
        nodes: Vec<NodeRegistration>,
        /// Replicas of every shard and of the controller on those nodes, the preferred leader first. They
        /// are the groups' founders. The proposer decides, so that a better way to spread shards never
        /// changes what an old entry means (invariant 4).
        placements: Vec<(ShardId, Vec<NodeId>)>,
        /// Configs of the cluster to start with; `default.replication.factor` is the copies wanted.
        configs: Configs,
        /// What it is among the regions of its logical cluster; `None` for a region that is to have no others.
        geo: Option<GeoFounding>,
    },
    /// Creates topics.
    CreateTopics {
        /// The topics.
        topics: Vec<NewTopic>,
        /// The proposer's clock.
        now: TimestampMs,
    },
    /// Deletes topics.
    DeleteTopics {
        /// The topics' ids.
        topics: Vec<TopicId>,
        /// The proposer's clock.
        now: TimestampMs,
    },
    /// Gives topics more partitions.
    CreatePartitions {
        /// The topics' ids, and how many partitions each is to have in all.
        topics: Vec<(TopicId, u32)>,
    },
    /// Changes configs of topics, of the cluster or of nodes.
    AlterConfigs {
        /// One change per resource.
        changes: Vec<ConfigChange>,
    },
    /// Makes a node known, or its new address.
    RegisterNode {
        /// What the node says of itself.
        node: NodeRegistration,
        /// The proposer's clock.
        now: TimestampMs,
    },
    /// Forgets a node. Its id may then be used for another data directory.
    RemoveNode {
        /// The node.
        node: NodeId,
        /// Whether it goes although replicas are placed on it, which are then placed nowhere: for a node
        /// that is lost for good. The proposer must have seen that it is ([`crate::plan::check_remove`]).
        force: bool,
    },
    /// Starts or ends the draining of a node.
    DrainNode {
        /// The node.
        node: NodeId,
        /// Whether its replicas are to move to other nodes.
        draining: bool,
    },
    /// Says which nodes should hold a shard.
    SetPlacement {
        /// The shard, or [`ShardId::CONTROLLER`].
        shard: ShardId,
        /// The nodes that should vote, the preferred leader first.
        replicas: Vec<NodeId>,
        /// Epoch of the placement that the proposer knew: a second opinion in between wins.
        expected: u64,
    },
    /// Deals a block of producer ids, never dealt before.
    AllocateProducerIds {
        /// How many.
        count: u32,
    },
    /// Content that the region which owns the cluster has added. From feature level 4 on, as all that follows.
    Mirrored(ContentRun),
    /// Makes a region of the logical cluster known, or what it is called and where it is reached now.
    SetRegion(GeoRegion),
    /// Forgets a region of the logical cluster.
    RemoveRegion {
        /// The region.
        number: RegionNumber,
    },
    /// Moves the ownership, a step at a time: it is drained for another region, and that one gets it, or the old owner
    /// keeps it under the next epoch.
    SetOwnership(Ownership),
    /// A part of a checkpoint of the owner's controller, for a mirror that the owner's log no longer reaches back to.
    Stage(StagePart),
    /// The staged checkpoint takes the place of the content that is here. What is the region's own stays.
    Install {
        /// The checkpoint.
        checkpoint: u64,
    },
}

/// Bytes that are not a command this version can read. The node must stop: it cannot skip the entry.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum CommandError {
    /// Written by a newer version of Meridian. Run that version on this node.
    #[error("controller command has format version {version}; this version of Meridian reads up to {max}", max = Command::VERSION)]
    Version {
        /// The version found.
        version: u8,
    },
    /// Written by a newer version of Meridian. Run that version on this node.
    #[error("controller command has kind {kind}, which this version of Meridian does not know")]
    Kind {
        /// The kind found.
        kind: u8,
    },
    /// The bytes end inside the command: it was damaged before its checksum was made.
    #[error("controller command is cut short")]
    Truncated,
    /// A field cannot be what it is: it was damaged before its checksum was made.
    #[error("controller command is malformed: {what}")]
    Malformed {
        /// What is wrong.
        what: &'static str,
    },
}

impl From<Fault> for CommandError {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Short => Self::Truncated,
            Fault::Invalid(what) => Self::Malformed { what },
        }
    }
}

/// Kinds by number. Never reuse one. 16 to 23 are for placement and membership; 24 to 31 for regions, links and
/// owners.
mod kind {
    pub(super) const FOUND: u8 = 1;
    pub(super) const CREATE_TOPICS: u8 = 2;
    pub(super) const DELETE_TOPICS: u8 = 3;
    pub(super) const CREATE_PARTITIONS: u8 = 4;
    pub(super) const ALTER_CONFIGS: u8 = 5;
    pub(super) const REGISTER_NODE: u8 = 6;
    pub(super) const REMOVE_NODE: u8 = 7;
    pub(super) const ALLOCATE_PRODUCER_IDS: u8 = 8;
    pub(super) const DRAIN_NODE: u8 = 16;
    pub(super) const SET_PLACEMENT: u8 = 17;
    pub(super) const MIRRORED: u8 = 24;
    pub(super) const SET_REGION: u8 = 25;
    pub(super) const REMOVE_REGION: u8 = 26;
    pub(super) const SET_OWNERSHIP: u8 = 27;
    pub(super) const STAGE: u8 = 28;
    pub(super) const INSTALL: u8 = 29;
}

/// The format of all commands but one; every node at feature level 2 reads it.
const VERSION: u8 = 2;
/// The format of the founding of a region that is one of several.
const VERSION_GEO: u8 = 3;

impl Command {
    /// Makes the region, with its shards spread over its first nodes.
    ///
    /// `nodes` may come in any order and be empty. `configs` are configs of the cluster;
    /// `default.replication.factor` among them says how many copies each shard gets, if there are as many
    /// nodes. What is not possible is refused when the command is applied.
    pub fn found(founding: Founding, nodes: Vec<NodeRegistration>, configs: Configs) -> Self {
        let canonical = configs::canonical_cluster_configs(&configs).unwrap_or_default();
        let settings = BrokerSettings::resolve(&Configs::new(), &canonical);
        let copies = usize::from(settings.default_replication_factor);
        let placements = plan::initial(founding.shards.min(SHARDS_MAX), &nodes, copies);
        Self::Found {
            founding,
            nodes,
            placements,
            configs,
            geo: None,
        }
    }

    /// The same for a region that is one of several of a logical cluster. Its shards get `copies` replicas, if there
    /// are as many nodes.
    ///
    /// It has no configs of the cluster, since every region must have the same: the owner sets them afterwards.
    pub fn found_geo(
        founding: Founding,
        geo: GeoFounding,
        nodes: Vec<NodeRegistration>,
        copies: usize,
    ) -> Self {
        let shared = founding.shards.min(SHARDS_MAX);
        let home = match nodes.iter().all(|node| node.version_max >= HOME_LEVEL) {
            true => shared.min(HOME_SHARDS_MAX),
            false => 0,
        };
        let placements = plan::initial(shared + home, &nodes, copies);
        Self::Found {
            founding,
            nodes,
            placements,
            configs: Configs::new(),
            geo: Some(geo),
        }
    }

    /// The newest format version that [`Command::encode`] writes.
    pub const VERSION: u8 = VERSION_GEO;

    /// The oldest format that has room for the command.
    fn version(&self) -> u8 {
        match self {
            Self::Found { geo: Some(_), .. } => VERSION_GEO,
            _ => VERSION,
        }
    }

    /// The command's kind, for logs and metrics.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Found { .. } => "found",
            Self::CreateTopics { .. } => "create_topics",
            Self::DeleteTopics { .. } => "delete_topics",
            Self::CreatePartitions { .. } => "create_partitions",
            Self::AlterConfigs { .. } => "alter_configs",
            Self::RegisterNode { .. } => "register_node",
            Self::RemoveNode { .. } => "remove_node",
            Self::AllocateProducerIds { .. } => "allocate_producer_ids",
            Self::DrainNode { .. } => "drain_node",
            Self::SetPlacement { .. } => "set_placement",
            Self::Mirrored(_) => "mirrored",
            Self::SetRegion(_) => "set_region",
            Self::RemoveRegion { .. } => "remove_region",
            Self::SetOwnership(_) => "set_ownership",
            Self::Stage(_) => "stage",
            Self::Install { .. } => "install",
        }
    }

    /// The encoded command: one part, but for a run, whose commands follow uncopied.
    pub fn encode(&self) -> Vec<Bytes> {
        if let Self::Mirrored(run) = self {
            return run.encode(VERSION, kind::MIRRORED);
        }
        let mut bytes = vec![self.version()];
        let out = &mut bytes;
        match self {
            Self::Found {
                founding,
                nodes,
                placements,
                configs,
                geo,
            } => {
                out.push(kind::FOUND);
                put_founding(out, founding);
                put_count(out, nodes.len());
                nodes.iter().for_each(|node| put_registration(out, node));
                put_count(out, placements.len());
                for (shard, replicas) in placements {
                    put_u32(out, shard.0);
                    put_nodes(out, replicas);
                }
                put_configs(out, configs);
                if let Some(geo) = geo {
                    put_region_number(out, geo.number);
                    put_region_number(out, geo.owner);
                }
            }
            Self::CreateTopics { topics, now } => {
                out.push(kind::CREATE_TOPICS);
                put_i64(out, now.0);
                put_count(out, topics.len());
                for topic in topics {
                    out.extend_from_slice(topic.id.0.as_bytes());
                    put_u32(out, topic.partitions);
                    put_bytes(out, topic.name.as_bytes());
                    put_configs(out, &topic.configs);
                }
            }
            Self::DeleteTopics { topics, now } => {
                out.push(kind::DELETE_TOPICS);
                put_i64(out, now.0);
                put_count(out, topics.len());
                topics
                    .iter()
                    .for_each(|topic| out.extend_from_slice(topic.0.as_bytes()));
            }
            Self::CreatePartitions { topics } => {
                out.push(kind::CREATE_PARTITIONS);
                put_count(out, topics.len());
                for (topic, total) in topics {
                    out.extend_from_slice(topic.0.as_bytes());
                    put_u32(out, *total);
                }
            }
            Self::AlterConfigs { changes } => {
                out.push(kind::ALTER_CONFIGS);
                put_count(out, changes.len());
                changes.iter().for_each(|change| put_change(out, change));
            }
            Self::RegisterNode { node, now } => {
                out.push(kind::REGISTER_NODE);
                put_i64(out, now.0);
                put_registration(out, node);
            }
            Self::RemoveNode { node, force } => {
                out.push(kind::REMOVE_NODE);
                put_u32(out, node.0);
                put_flag(out, *force);
            }
            Self::DrainNode { node, draining } => {
                out.push(kind::DRAIN_NODE);
                put_u32(out, node.0);
                put_flag(out, *draining);
            }
            Self::SetPlacement {
                shard,
                replicas,
                expected,
            } => {
                out.push(kind::SET_PLACEMENT);
                put_u32(out, shard.0);
                put_u64(out, *expected);
                put_nodes(out, replicas);
            }
            Self::AllocateProducerIds { count } => {
                out.push(kind::ALLOCATE_PRODUCER_IDS);
                put_u32(out, *count);
            }
            Self::Mirrored(_) => unreachable!("a run has several parts and returned above"),
            Self::SetRegion(region) => {
                out.push(kind::SET_REGION);
                put_geo_region(out, region);
            }
            Self::RemoveRegion { number } => {
                out.push(kind::REMOVE_REGION);
                put_region_number(out, *number);
            }
            Self::SetOwnership(ownership) => {
                out.push(kind::SET_OWNERSHIP);
                put_ownership(out, ownership);
            }
            Self::Stage(part) => {
                out.push(kind::STAGE);
                part.encode(out);
            }
            Self::Install { checkpoint } => {
                out.push(kind::INSTALL);
                put_u64(out, *checkpoint);
            }
        }
        vec![bytes.into()]
    }

    /// Reads a command back from its parts, however it was cut.
    ///
    /// Errors: [`CommandError`] for anything [`Command::encode`] would not have written.
    pub fn decode(parts: &[Bytes]) -> Result<Self, CommandError> {
        match parts {
            [whole] => decode(whole),
            parts => decode(&parts.concat().into()),
        }
    }
}

fn decode(whole: &Bytes) -> Result<Command, CommandError> {
    let from = &mut &whole[..];
    let version = from.try_get_u8().map_err(Fault::from)?;
    if !(1..=Command::VERSION).contains(&version) {
        return Err(CommandError::Version { version });
    }
    let kind = from.try_get_u8().map_err(Fault::from)?;
    if kind == kind::MIRRORED && version == VERSION {
        return decode_mirrored(whole);
    }
    let command = body(version, kind, from)?.ok_or(CommandError::Kind { kind })?;
    if !from.is_empty() {
        return Err(CommandError::Malformed {
            what: "bytes are left behind its last field",
        });
    }
    Ok(command)
}

fn decode_mirrored(whole: &Bytes) -> Result<Command, CommandError> {
    let (head, mut at) = RunHead::decode(whole).map_err(Fault::from)?;
    let run = head.with_commands(|length| {
        let end = at.checked_add(length).filter(|end| *end <= whole.len());
        let command = whole.slice(at..end.ok_or(CommandError::Truncated)?);
        at += length;
        check_is_content(&command)?;
        Ok::<_, CommandError>(command)
    })?;
    if at < whole.len() {
        return Err(CommandError::Malformed {
            what: "bytes are left behind its last command",
        });
    }
    Ok(Command::Mirrored(run))
}

/// A command that this version does not know stops the node, as one of its own would: to refuse the run would make nodes
/// of two versions differ. What is wrong beyond its kind is the matter of `apply`, which refuses the run.
fn check_is_content(command: &[u8]) -> Result<(), CommandError> {
    let [version, kind, ..] = command else {
        return Ok(());
    };
    match (*version, *kind) {
        (version, _) if version > Command::VERSION => Err(CommandError::Version { version }),
        (
            _,
            kind::FOUND..=kind::ALLOCATE_PRODUCER_IDS
            | kind::DRAIN_NODE..=kind::SET_PLACEMENT
            | kind::MIRRORED..=kind::INSTALL,
        ) => Ok(()),
        (_, kind) => Err(CommandError::Kind { kind }),
    }
}

/// Version 1 knew regions of one node: whatever it has no field for takes its default.
fn body(version: u8, kind: u8, from: &mut &[u8]) -> Result<Option<Command>, Fault> {
    Ok(Some(match kind {
        kind::FOUND if version == 1 => Command::Found {
            founding: get_founding(from)?,
            nodes: Vec::new(),
            placements: Vec::new(),
            configs: Configs::new(),
            geo: None,
        },
        kind::FOUND => Command::Found {
            founding: get_founding(from)?,
            nodes: many(from, REGISTRATION_BYTES_MIN, |from| {
                get_registration(version, from)
            })?,
            placements: many(from, 8, |from| {
                Ok((ShardId(from.try_get_u32_le()?), get_nodes(from)?))
            })?,
            configs: get_configs(from)?,
            geo: match version {
                VERSION_GEO => Some(GeoFounding {
                    number: get_region_number(from)?,
                    owner: get_region_number(from)?,
                }),
                _ => None,
            },
        },
        // Nothing else has a form of its own in version 3.
        _ if version > VERSION => return Err(Fault::Invalid("only a founding has version 3")),
        kind::CREATE_TOPICS => {
            let now = TimestampMs(from.try_get_i64_le()?);
            let topics = many(from, 16 + 4 + 4 + 4, |from| {
                let id = get_topic(from)?;
                let partitions = from.try_get_u32_le()?;
                Ok(NewTopic {
                    name: get_str(from)?,
                    id,
                    partitions,
                    configs: get_configs(from)?,
                })
            })?;
            Command::CreateTopics { topics, now }
        }
        kind::DELETE_TOPICS => {
            let now = TimestampMs(from.try_get_i64_le()?);
            Command::DeleteTopics {
                topics: many(from, 16, get_topic)?,
                now,
            }
        }
        kind::CREATE_PARTITIONS => Command::CreatePartitions {
            topics: many(from, 16 + 4, |from| {
                Ok((get_topic(from)?, from.try_get_u32_le()?))
            })?,
        },
        kind::ALTER_CONFIGS => Command::AlterConfigs {
            changes: many(from, 1 + 1 + 4, get_change)?,
        },
        kind::REGISTER_NODE => {
            let now = TimestampMs(from.try_get_i64_le()?);
            Command::RegisterNode {
                node: get_registration(version, from)?,
                now,
            }
        }
        kind::REMOVE_NODE => Command::RemoveNode {
            node: NodeId(from.try_get_u32_le()?),
            force: version > 1 && get_flag(from)?,
        },
        kind::DRAIN_NODE if version > 1 => Command::DrainNode {
            node: NodeId(from.try_get_u32_le()?),
            draining: get_flag(from)?,
        },
        kind::SET_PLACEMENT if version > 1 => {
            let shard = ShardId(from.try_get_u32_le()?);
            let expected = from.try_get_u64_le()?;
            Command::SetPlacement {
                shard,
                replicas: get_nodes(from)?,
                expected,
            }
        }
        kind::ALLOCATE_PRODUCER_IDS => Command::AllocateProducerIds {
            count: from.try_get_u32_le()?,
        },
        kind::SET_REGION if version > 1 => Command::SetRegion(get_geo_region(from)?),
        kind::REMOVE_REGION if version > 1 => Command::RemoveRegion {
            number: get_region_number(from)?,
        },
        kind::SET_OWNERSHIP if version > 1 => Command::SetOwnership(get_ownership(from)?),
        kind::STAGE if version > 1 => Command::Stage(StagePart::decode(from)?),
        kind::INSTALL if version > 1 => Command::Install {
            checkpoint: from.try_get_u64_le()?,
        },
        _ => return Ok(None),
    }))
}

#[cfg(test)]
mod tests;
