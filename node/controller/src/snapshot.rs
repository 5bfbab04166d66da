//! All facts as bytes, and back. Format: `docs/formats/snapshot.md`.

use std::sync::Arc;

use bytes::{Buf, Bytes};
use meridian_types::{LogPosition, NodeId, RaftIndex, Term, TimestampMs};
use thiserror::Error;

use crate::codec::{Fault, get_str, get_topic, put_bytes, put_count, put_i64, put_u32, put_u64};
use crate::command::{
    get_configs, get_founding, get_registration, many, put_configs, put_founding, put_registration,
};
use crate::controller::Controller;
use crate::node::Node;
use crate::topic::{DeletedTopic, Topic};

/// The version that [`Controller::encode_snapshot`] writes.
pub const SNAPSHOT_VERSION: u8 = 1;

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
        body.push(self.founding.is_some().into());
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
        let mut head = MAGIC.to_vec();
        head.push(SNAPSHOT_VERSION);
        put_u32(&mut head, crc_fast::crc32_iscsi(&body));
        vec![head.into(), body.into()]
    }

    /// Reads a snapshot. Trusts nothing; what it returns satisfies [`Controller::check`].
    pub fn decode_snapshot(bytes: &[u8]) -> Result<Self, SnapshotError> {
        let mut from = bytes.strip_prefix(&MAGIC).ok_or(SnapshotError::Magic)?;
        let version = from.try_get_u8().map_err(Fault::from)?;
        if version != SNAPSHOT_VERSION {
            return Err(SnapshotError::Version { version });
        }
        if from.try_get_u32_le().map_err(Fault::from)? != crc_fast::crc32_iscsi(from) {
            return Err(SnapshotError::Checksum);
        }
        let controller = get_controller(&mut from)?;
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

fn get_controller(from: &mut &[u8]) -> Result<Controller, Fault> {
    let mut controller = Controller::new();
    controller.applied = LogPosition {
        term: Term(from.try_get_u64_le()?),
        index: RaftIndex(from.try_get_u64_le()?),
    };
    controller.founding = match from.try_get_u8()? {
        0 => None,
        1 => Some(get_founding(from)?),
        _ => return Err(Fault::Invalid("the flag before the founding is neither 0 nor 1")),
    };
    controller.producer_ids_dealt = from.try_get_u64_le()?;
    controller.cluster_configs = get_configs(from)?;
    for (node, configs) in many(from, 8, |from| {
        Ok((NodeId(from.try_get_u32_le()?), get_configs(from)?))
    })? {
        controller.node_configs.insert(node, configs);
    }
    // Topics share the settings that follow from the cluster's configs.
    controller.resolve_settings();
    for node in many(from, 43, get_node)? {
        controller.nodes.insert(node.registration.node, node);
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
    Ok(controller)
}

fn get_node(from: &mut &[u8]) -> Result<Node, Fault> {
    Ok(Node {
        registration: get_registration(from)?,
        epoch: from.try_get_u64_le()?,
        registered_at: TimestampMs(from.try_get_i64_le()?),
    })
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
