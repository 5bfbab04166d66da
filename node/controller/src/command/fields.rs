//! Forms that commands and snapshots share.

use bytes::Buf;
use meridian_types::{NodeId, RegionEpoch, RegionNumber, TimestampMs};

use crate::codec::{Fault, get_count, get_str, get_topic, get_uuid, put_bytes, put_count, put_i64, put_u32};
use crate::configs::{ConfigChange, ConfigOp, ConfigResource, Configs};
use crate::controller::Founding;
use crate::geo::{GeoRegion, Ownership, OwnershipState};
use crate::node::{HostPort, NodeRegistration};

/// The shortest registration of any version.
pub(crate) const REGISTRATION_BYTES_MIN: usize = 25;

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

pub(crate) fn put_flag(out: &mut Vec<u8>, flag: bool) {
    out.push(flag.into());
}

pub(crate) fn get_flag(from: &mut &[u8]) -> Result<bool, Fault> {
    match from.try_get_u8()? {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(Fault::Invalid("a flag is neither 0 nor 1")),
    }
}

pub(crate) fn put_nodes(out: &mut Vec<u8>, nodes: &[NodeId]) {
    put_count(out, nodes.len());
    nodes.iter().for_each(|node| put_u32(out, node.0));
}

pub(crate) fn get_nodes(from: &mut &[u8]) -> Result<Vec<NodeId>, Fault> {
    many(from, 4, |from| Ok(NodeId(from.try_get_u32_le()?)))
}

pub(crate) fn put_registration(out: &mut Vec<u8>, node: &NodeRegistration) {
    put_u32(out, node.node.0);
    out.extend_from_slice(node.incarnation.as_bytes());
    put_maybe_address(out, node.kafka.as_ref());
    put_maybe_address(out, node.peer.as_ref());
    out.extend_from_slice(&node.version_max.to_le_bytes());
    put_maybe_text(out, node.rack.as_deref());
}

pub(crate) fn put_maybe_text(out: &mut Vec<u8>, text: Option<&str>) {
    put_flag(out, text.is_some());
    if let Some(text) = text {
        put_bytes(out, text.as_bytes());
    }
}

pub(crate) fn put_maybe_address(out: &mut Vec<u8>, address: Option<&HostPort>) {
    put_flag(out, address.is_some());
    if let Some(address) = address {
        put_address(out, address);
    }
}

fn put_address(out: &mut Vec<u8>, HostPort { host, port }: &HostPort) {
    out.extend_from_slice(&port.to_le_bytes());
    put_bytes(out, host.as_bytes());
}

pub(crate) fn put_region_number(out: &mut Vec<u8>, number: RegionNumber) {
    out.extend_from_slice(&number.0.to_le_bytes());
}

pub(crate) fn get_region_number(from: &mut &[u8]) -> Result<RegionNumber, Fault> {
    let number = RegionNumber(from.try_get_u16_le()?);
    match number <= RegionNumber::MAX {
        true => Ok(number),
        false => Err(Fault::Invalid("a region number is beyond 999")),
    }
}

pub(crate) fn put_geo_region(out: &mut Vec<u8>, region: &GeoRegion) {
    put_region_number(out, region.number);
    put_bytes(out, region.name.as_bytes());
    put_count(out, region.geo.len());
    region.geo.iter().for_each(|address| put_address(out, address));
}

pub(crate) fn get_geo_region(from: &mut &[u8]) -> Result<GeoRegion, Fault> {
    Ok(GeoRegion {
        number: get_region_number(from)?,
        name: get_str(from)?,
        geo: many(from, 2 + 4, get_address)?,
    })
}

mod ownership_state {
    pub(super) const HELD: u8 = 1;
    pub(super) const DRAINING: u8 = 2;
}

pub(crate) fn put_ownership(out: &mut Vec<u8>, ownership: &Ownership) {
    put_u32(out, ownership.region_epoch.0);
    put_region_number(out, ownership.owner);
    match ownership.state {
        OwnershipState::Held => out.push(ownership_state::HELD),
        OwnershipState::Draining { to, deadline } => {
            out.push(ownership_state::DRAINING);
            put_region_number(out, to);
            put_i64(out, deadline.0);
        }
    }
}

pub(crate) fn get_ownership(from: &mut &[u8]) -> Result<Ownership, Fault> {
    Ok(Ownership {
        region_epoch: RegionEpoch(from.try_get_u32_le()?),
        owner: get_region_number(from)?,
        state: match from.try_get_u8()? {
            ownership_state::HELD => OwnershipState::Held,
            ownership_state::DRAINING => OwnershipState::Draining {
                to: get_region_number(from)?,
                deadline: TimestampMs(from.try_get_i64_le()?),
            },
            _ => return Err(Fault::Invalid("an ownership is neither held nor draining")),
        },
    })
}

pub(crate) fn get_registration(version: u8, from: &mut &[u8]) -> Result<NodeRegistration, Fault> {
    let node = NodeId(from.try_get_u32_le()?);
    let incarnation = get_uuid(from)?;
    let (kafka, peer, version_max) = match version {
        1 => (Some(get_address(from)?), None, 1),
        _ => (
            optional(from, get_address)?,
            optional(from, get_address)?,
            from.try_get_u16_le()?,
        ),
    };
    Ok(NodeRegistration {
        node,
        incarnation,
        kafka,
        peer,
        version_max,
        rack: optional(from, get_str)?,
    })
}

pub(crate) fn get_address(from: &mut &[u8]) -> Result<HostPort, Fault> {
    let port = from.try_get_u16_le()?;
    let host = get_str(from)?;
    Ok(HostPort { host, port })
}

/// What stands behind a flag that says whether it is there.
pub(crate) fn optional<T>(
    from: &mut &[u8],
    one: impl Fn(&mut &[u8]) -> Result<T, Fault>,
) -> Result<Option<T>, Fault> {
    get_flag(from)?.then(|| one(from)).transpose()
}

pub(crate) fn put_change(out: &mut Vec<u8>, change: &ConfigChange) {
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
    put_flag(out, change.replace_all);
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

pub(crate) fn get_change(from: &mut &[u8]) -> Result<ConfigChange, Fault> {
    let resource = match from.try_get_u8()? {
        resource::TOPIC => ConfigResource::Topic(get_topic(from)?),
        resource::CLUSTER => ConfigResource::Cluster,
        resource::NODE => ConfigResource::Node(NodeId(from.try_get_u32_le()?)),
        _ => return Err(Fault::Invalid("unknown kind of config resource")),
    };
    let replace_all = get_flag(from)?;
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
