//! All facts as bytes, and back. Format: `docs/formats/snapshot.md`.

use std::sync::Arc;

use bytes::{Buf, Bytes};
use meridian_lineage::{Staging, Standing};
use meridian_types::{LogPosition, NodeId, RaftIndex, ShardId, Term, TimestampMs};
use thiserror::Error;

use crate::codec::{Fault, get_bytes, get_str, get_topic, put_bytes, put_count, put_i64, put_u32, put_u64};
use crate::command::fields::{
    REGISTRATION_BYTES_MIN, get_configs, get_flag, get_founding, get_geo_region, get_nodes,
    get_region_number, get_registration, many, optional, put_configs, put_flag, put_founding, put_geo_region,
    put_nodes, put_region_number, put_registration,
};
use crate::controller::Controller;
use crate::geo::Geo;
use crate::node::Node;
use crate::placement::Placement;
use crate::topic::{DeletedTopic, Topic};

/// The newest version that [`Controller::encode_snapshot`] writes: in a region that is one of several, while it takes a
/// checkpoint of its owner in; without one as version 4. Nodes of older versions never see either. Others are written as version 3 once an id is retired, and before it as version 2, byte for
/// byte as older nodes write them.
pub const SNAPSHOT_VERSION: u8 = 5;

/// The version without a checkpoint on its way in.
const VERSION_GEO: u8 = 4;
/// The version without regions.
const VERSION_RETIRED: u8 = 3;
/// The version without regions and retired ids.
const VERSION_PLACED: u8 = 2;

const MAGIC: [u8; 4] = *b"MDCS";

/// Bytes that are not a snapshot this version can read. Take another snapshot, or replay the log.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum SnapshotError {
    /// The bytes do not start like a snapshot.
    #[error("not a snapshot of a controller: it does not start with \"MDCS\"")]
    Magic,
    /// Written by a newer version of Meridian. Run that version on this node.
    #[error(
        "controller snapshot has format version {version}; this version of Meridian reads up to {SNAPSHOT_VERSION}"
    )]
    Version {
        /// The version found.
        version: u8,
    },
    /// The checksum does not match: the snapshot was damaged at rest or on its way.
    #[error("controller snapshot is corrupt: its checksum is wrong")]
    Checksum,
    /// The bytes end too early.
    #[error("controller snapshot is cut short")]
    Truncated,
    /// What it says cannot be.
    #[error("controller snapshot is malformed: {what}")]
    Malformed {
        /// What is wrong.
        what: String,
    },
}

impl From<Fault> for SnapshotError {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Short => Self::Truncated,
            Fault::Invalid(what) => Self::Malformed { what: what.into() },
        }
    }
}

impl Controller {
    /// All facts, as parts to be joined. Equal facts give equal bytes.
    pub fn encode_snapshot(&self) -> Vec<Bytes> {
        let mut body = Vec::with_capacity(64 * (self.topic_count() + 4));
        put_u64(&mut body, self.applied.term.0);
        put_u64(&mut body, self.applied.index.0);
        put_flag(&mut body, self.founding.is_some());
        if let Some(founding) = &self.founding {
            put_founding(&mut body, founding);
        }
        put_u64(&mut body, self.producer_ids_dealt);
        put_configs(&mut body, &self.cluster_configs);
        put_count(&mut body, self.node_configs.len());
        for (node, configs) in &self.node_configs {
            put_u32(&mut body, node.0);
            put_configs(&mut body, configs);
        }
        put_count(&mut body, self.nodes.len());
        for node in self.nodes() {
            put_registration(&mut body, &node.registration);
            put_u64(&mut body, node.epoch);
            put_i64(&mut body, node.registered_at.0);
            put_flag(&mut body, node.draining);
        }
        body.extend_from_slice(&self.feature_level.to_le_bytes());
        put_count(&mut body, self.placements.len());
        for (shard, placement) in self.placements() {
            put_u32(&mut body, shard.0);
            put_u64(&mut body, placement.epoch);
            put_nodes(&mut body, &placement.founders);
            put_nodes(&mut body, &placement.replicas);
        }
        put_count(&mut body, self.topic_count());
        for topic in self.topics() {
            body.extend_from_slice(topic.id.0.as_bytes());
            put_u32(&mut body, topic.partitions);
            put_i64(&mut body, topic.created_at.0);
            put_bytes(&mut body, topic.name.as_bytes());
            put_configs(&mut body, &topic.configs);
        }
        put_count(&mut body, self.topics.deleted.len());
        for (id, topic) in self.deleted_topics() {
            body.extend_from_slice(id.0.as_bytes());
            put_i64(&mut body, topic.deleted_at.0);
            put_bytes(&mut body, topic.name.as_bytes());
        }
        let version = match (&self.geo, self.retired.is_empty()) {
            (Some(_), _) if self.staged.is_some() => SNAPSHOT_VERSION,
            (Some(_), _) => VERSION_GEO,
            (None, false) => VERSION_RETIRED,
            (None, true) => VERSION_PLACED,
        };
        if version >= VERSION_RETIRED {
            let retired: Vec<_> = self.retired.iter().copied().collect();
            put_nodes(&mut body, &retired);
        }
        if let Some(geo) = &self.geo {
            put_region_number(&mut body, geo.number);
            put_count(&mut body, geo.regions.len());
            geo.regions
                .values()
                .for_each(|region| put_geo_region(&mut body, region));
            put_flag(&mut body, geo.deadline.is_some());
            if let Some(deadline) = geo.deadline {
                put_i64(&mut body, deadline.0);
            }
            self.standing.encode(&mut body);
            if let Some(staging) = &self.staged {
                put_u64(&mut body, staging.checkpoint());
                put_u64(&mut body, staging.total_bytes());
                put_bytes(&mut body, staging.body());
            }
        }
        let mut head = MAGIC.to_vec();
        head.push(version);
        put_u32(&mut head, crc_fast::crc32_iscsi(&body));
        vec![head.into(), body.into()]
    }

    /// Reads a snapshot. Trusts nothing; what it returns satisfies [`Controller::check`].
    pub fn decode_snapshot(bytes: &[u8]) -> Result<Self, SnapshotError> {
        let mut from = bytes.strip_prefix(&MAGIC).ok_or(SnapshotError::Magic)?;
        let version = from.try_get_u8().map_err(Fault::from)?;
        if !(1..=SNAPSHOT_VERSION).contains(&version) {
            return Err(SnapshotError::Version { version });
        }
        if from.try_get_u32_le().map_err(Fault::from)? != crc_fast::crc32_iscsi(from) {
            return Err(SnapshotError::Checksum);
        }
        let controller = get_controller(version, &mut from)?;
        let malformed = |what: String| SnapshotError::Malformed { what };
        if !from.is_empty() {
            return Err(malformed("bytes are left behind its end".into()));
        }
        controller.check().map_err(malformed)?;
        Ok(controller)
    }

    /// CRC-64 of the snapshot: equal for equal histories, on every node (invariant 4).
    pub fn digest(&self) -> u64 {
        let mut digest = crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc64Nvme);
        self.encode_snapshot().iter().for_each(|part| digest.update(part));
        digest.finalize()
    }
}

/// Version 1 knew regions of one node: it holds every shard, and nothing is said of it beyond the address.
fn get_controller(version: u8, from: &mut &[u8]) -> Result<Controller, Fault> {
    let mut controller = Controller::new();
    controller.applied = LogPosition {
        term: Term(from.try_get_u64_le()?),
        index: RaftIndex(from.try_get_u64_le()?),
    };
    controller.founding = optional(from, get_founding)?;
    controller.producer_ids_dealt = from.try_get_u64_le()?;
    controller.cluster_configs = get_configs(from)?;
    for (node, configs) in many(from, 8, |from| {
        Ok((NodeId(from.try_get_u32_le()?), get_configs(from)?))
    })? {
        controller.node_configs.insert(node, configs);
    }
    // Topics share the settings that follow from the cluster's configs.
    controller.resolve_settings();
    for node in many(from, REGISTRATION_BYTES_MIN + 16, |from| get_node(version, from))? {
        controller.nodes.insert(node.registration.node, node);
    }
    if version == 1 {
        controller.place_everything_on_the_first_node();
    } else {
        controller.feature_level = from.try_get_u16_le()?;
        let placements = many(from, 20, get_placement)?;
        controller.placements.extend(placements);
    }
    for mut topic in many(from, 36, |from| get_topic_row(from, &controller))? {
        topic.settings = controller.settings_for(&topic.configs);
        if controller.topic(&topic.name).is_some() || controller.topic_by_id(topic.id).is_some() {
            return Err(Fault::Invalid("a topic comes twice"));
        }
        controller.topics.put(Arc::new(topic));
    }
    let deleted = many(from, 28, |from| {
        let id = get_topic(from)?;
        let deleted_at = TimestampMs(from.try_get_i64_le()?);
        Ok((
            id,
            DeletedTopic {
                name: get_str(from)?.into(),
                deleted_at,
            },
        ))
    })?;
    controller.topics.deleted.extend(deleted);
    if version >= VERSION_RETIRED {
        controller.retired.extend(get_nodes(from)?);
    }
    if version >= VERSION_GEO {
        let mut geo = Geo::new(get_region_number(from)?);
        for region in many(from, 2 + 4 + 4, get_geo_region)? {
            geo.regions.insert(region.number, region);
        }
        geo.deadline = optional(from, |from| Ok(TimestampMs(from.try_get_i64_le()?)))?;
        controller.geo = Some(geo);
        controller.standing = Standing::decode(from)?;
    }
    if version >= SNAPSHOT_VERSION {
        let (checkpoint, total_bytes) = (from.try_get_u64_le()?, from.try_get_u64_le()?);
        let body = get_bytes(from)?.to_vec();
        let staging = Staging::restore(checkpoint, total_bytes, body)?;
        controller.staged = Some(Box::new(staging));
    }
    Ok(controller)
}

fn get_node(version: u8, from: &mut &[u8]) -> Result<Node, Fault> {
    Ok(Node {
        registration: get_registration(version, from)?,
        epoch: from.try_get_u64_le()?,
        registered_at: TimestampMs(from.try_get_i64_le()?),
        draining: version > 1 && get_flag(from)?,
    })
}

fn get_placement(from: &mut &[u8]) -> Result<(ShardId, Placement), Fault> {
    let shard = ShardId(from.try_get_u32_le()?);
    let epoch = from.try_get_u64_le()?;
    let founders = get_nodes(from)?;
    let replicas = get_nodes(from)?;
    Ok((
        shard,
        Placement {
            founders,
            replicas,
            epoch,
        },
    ))
}

fn get_topic_row(from: &mut &[u8], controller: &Controller) -> Result<Topic, Fault> {
    Ok(Topic {
        id: get_topic(from)?,
        partitions: from.try_get_u32_le()?,
        created_at: TimestampMs(from.try_get_i64_le()?),
        name: get_str(from)?.into(),
        configs: get_configs(from)?,
        settings: controller.topic_defaults().clone(),
    })
}

#[cfg(test)]
mod tests;
