//! One entry of the controller's Raft log.

use bytes::{Buf, Bytes};
use meridian_types::{NodeId, RegionEpoch, TimestampMs, TopicId};
use thiserror::Error;

use crate::codec::{Fault, get_count, get_str, get_topic, get_uuid, put_bytes, put_count, put_i64, put_u32};
use crate::configs::{ConfigChange, ConfigOp, ConfigResource, Configs};
use crate::controller::Founding;
use crate::node::NodeRegistration;
use crate::topic::NewTopic;

/// What a node proposes and every node applies. Format: `docs/formats/command.md`.
///
/// A node that meets a kind it does not know runs an older version than the one that proposed it: it must
/// stop rather than skip the entry, or nodes would differ (invariant 4).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Makes the region. The first command; later ones are refused.
    Found {
        /// What is decided for good.
        founding: Founding,
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
    },
    /// Deals a block of producer ids, never dealt before.
    AllocateProducerIds {
        /// How many.
        count: u32,
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

/// Kinds by number. Never reuse one. Reserved for what comes later: 16 to 23 placement and membership, 24 to
/// 31 regions, links and owners.
mod kind {
    pub(super) const FOUND: u8 = 1;
    pub(super) const CREATE_TOPICS: u8 = 2;
    pub(super) const DELETE_TOPICS: u8 = 3;
    pub(super) const CREATE_PARTITIONS: u8 = 4;
    pub(super) const ALTER_CONFIGS: u8 = 5;
    pub(super) const REGISTER_NODE: u8 = 6;
    pub(super) const REMOVE_NODE: u8 = 7;
    pub(super) const ALLOCATE_PRODUCER_IDS: u8 = 8;
}

mod resource {
    pub(super) const TOPIC: u8 = 1;
    pub(super) const CLUSTER: u8 = 2;
    pub(super) const NODE: u8 = 3;
}

mod op {
    pub(super) const SET: u8 = 1;
    pub(super) const DELETE: u8 = 2;
    pub(super) const APPEND: u8 = 3;
    pub(super) const SUBTRACT: u8 = 4;
}

impl Command {
    /// The version that [`Command::encode`] writes.
    pub const VERSION: u8 = 1;

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
        }
    }

    /// The encoded command: one part.
    pub fn encode(&self) -> Vec<Bytes> {
        let mut bytes = vec![Self::VERSION];
        let out = &mut bytes;
        match self {
            Self::Found { founding } => {
                out.push(kind::FOUND);
                put_founding(out, founding);
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
            Self::RemoveNode { node } => {
                out.push(kind::REMOVE_NODE);
                put_u32(out, node.0);
            }
            Self::AllocateProducerIds { count } => {
                out.push(kind::ALLOCATE_PRODUCER_IDS);
                put_u32(out, *count);
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
            parts => decode(&parts.concat()),
        }
    }
}

fn decode(bytes: &[u8]) -> Result<Command, CommandError> {
    let from = &mut &*bytes;
    let version = from.try_get_u8().map_err(Fault::from)?;
    if version != Command::VERSION {
        return Err(CommandError::Version { version });
    }
    let kind = from.try_get_u8().map_err(Fault::from)?;
    let command = body(kind, from)?.ok_or(CommandError::Kind { kind })?;
    if !from.is_empty() {
        return Err(CommandError::Malformed {
            what: "bytes are left behind its last field",
        });
    }
    Ok(command)
}

fn body(kind: u8, from: &mut &[u8]) -> Result<Option<Command>, Fault> {
    Ok(Some(match kind {
        kind::FOUND => Command::Found {
            founding: get_founding(from)?,
        },
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
                node: get_registration(from)?,
                now,
            }
        }
        kind::REMOVE_NODE => Command::RemoveNode {
            node: NodeId(from.try_get_u32_le()?),
        },
        kind::ALLOCATE_PRODUCER_IDS => Command::AllocateProducerIds {
            count: from.try_get_u32_le()?,
        },
        _ => return Ok(None),
    }))
}

/// As many things as the count in front says, each of at least `least_bytes`.
pub(crate) fn many<T>(
    from: &mut &[u8],
    least_bytes: usize,
    one: impl Fn(&mut &[u8]) -> Result<T, Fault>,
) -> Result<Vec<T>, Fault> {
    let count = get_count(from, least_bytes)?;
    let mut things = Vec::with_capacity(count);
    for _ in 0..count {
        things.push(one(from)?);
    }
    Ok(things)
}

// The forms below stand in snapshots too.

pub(crate) fn put_founding(out: &mut Vec<u8>, founding: &Founding) {
    put_bytes(out, founding.cluster_id.as_bytes());
    put_bytes(out, founding.region.as_bytes());
    put_u32(out, founding.shards);
    put_u32(out, founding.region_epoch.0);
    put_i64(out, founding.founded_at.0);
}

pub(crate) fn get_founding(from: &mut &[u8]) -> Result<Founding, Fault> {
    Ok(Founding {
        cluster_id: get_str(from)?,
        region: get_str(from)?,
        shards: from.try_get_u32_le()?,
        region_epoch: RegionEpoch(from.try_get_u32_le()?),
        founded_at: TimestampMs(from.try_get_i64_le()?),
    })
}

pub(crate) fn put_configs(out: &mut Vec<u8>, configs: &Configs) {
    put_count(out, configs.len());
    for (name, value) in configs {
        put_bytes(out, name.as_bytes());
        put_bytes(out, value.as_bytes());
    }
}

/// Refuses names out of order, so that equal configs have one encoding only.
pub(crate) fn get_configs(from: &mut &[u8]) -> Result<Configs, Fault> {
    let mut configs = Configs::new();
    for _ in 0..get_count(from, 8)? {
        let name = get_str(from)?;
        if configs.last_key_value().is_some_and(|(last, _)| *last >= name) {
            return Err(Fault::Invalid("configs are not in the order of their names"));
        }
        configs.insert(name, get_str(from)?);
    }
    Ok(configs)
}

pub(crate) fn put_registration(out: &mut Vec<u8>, node: &NodeRegistration) {
    put_u32(out, node.node.0);
    out.extend_from_slice(node.incarnation.as_bytes());
    out.extend_from_slice(&node.port.to_le_bytes());
    put_bytes(out, node.host.as_bytes());
    match &node.rack {
        None => out.push(0),
        Some(rack) => {
            out.push(1);
            put_bytes(out, rack.as_bytes());
        }
    }
}

pub(crate) fn get_registration(from: &mut &[u8]) -> Result<NodeRegistration, Fault> {
    Ok(NodeRegistration {
        node: NodeId(from.try_get_u32_le()?),
        incarnation: get_uuid(from)?,
        port: from.try_get_u16_le()?,
        host: get_str(from)?,
        rack: match from.try_get_u8()? {
            0 => None,
            1 => Some(get_str(from)?),
            _ => return Err(Fault::Invalid("the flag before a rack is neither 0 nor 1")),
        },
    })
}

fn put_change(out: &mut Vec<u8>, change: &ConfigChange) {
    match change.resource {
        ConfigResource::Topic(topic) => {
            out.push(resource::TOPIC);
            out.extend_from_slice(topic.0.as_bytes());
        }
        ConfigResource::Cluster => out.push(resource::CLUSTER),
        ConfigResource::Node(node) => {
            out.push(resource::NODE);
            put_u32(out, node.0);
        }
    }
    out.push(change.replace_all.into());
    put_count(out, change.ops.len());
    for operation in &change.ops {
        let (tag, name, value) = match operation {
            ConfigOp::Set { name, value } => (op::SET, name, Some(value)),
            ConfigOp::Delete { name } => (op::DELETE, name, None),
            ConfigOp::Append { name, value } => (op::APPEND, name, Some(value)),
            ConfigOp::Subtract { name, value } => (op::SUBTRACT, name, Some(value)),
        };
        out.push(tag);
        put_bytes(out, name.as_bytes());
        if let Some(value) = value {
            put_bytes(out, value.as_bytes());
        }
    }
}

fn get_change(from: &mut &[u8]) -> Result<ConfigChange, Fault> {
    let resource = match from.try_get_u8()? {
        resource::TOPIC => ConfigResource::Topic(get_topic(from)?),
        resource::CLUSTER => ConfigResource::Cluster,
        resource::NODE => ConfigResource::Node(NodeId(from.try_get_u32_le()?)),
        _ => return Err(Fault::Invalid("unknown kind of config resource")),
    };
    let replace_all = match from.try_get_u8()? {
        0 => false,
        1 => true,
        _ => return Err(Fault::Invalid("the flag of a config change is neither 0 nor 1")),
    };
    let ops = many(from, 5, |from| {
        let tag = from.try_get_u8()?;
        let name = get_str(from)?;
        Ok(match tag {
            op::SET => ConfigOp::Set {
                name,
                value: get_str(from)?,
            },
            op::DELETE => ConfigOp::Delete { name },
            op::APPEND => ConfigOp::Append {
                name,
                value: get_str(from)?,
            },
            op::SUBTRACT => ConfigOp::Subtract {
                name,
                value: get_str(from)?,
            },
            _ => return Err(Fault::Invalid("unknown config operation")),
        })
    })?;
    Ok(ConfigChange {
        resource,
        replace_all,
        ops,
    })
}

#[cfg(test)]
mod tests;
