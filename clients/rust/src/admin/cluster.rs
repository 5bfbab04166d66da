//! Brokers and what they hold.

use meridian_types::NodeId;
use meridian_wire::DescribeLogDirsRequest;

use super::{Admin, AdminError, refused};
use crate::cluster::Lane;
use crate::error::Refusal;
use crate::metadata::Broker;

/// The cluster in short.
#[derive(Clone, Debug)]
pub struct ClusterDescription {
    /// Its id, if the server tells it.
    pub cluster_id: Option<String>,
    /// The broker that administrative requests go to.
    pub controller: Option<NodeId>,
    /// Every broker, by id.
    pub brokers: Vec<Broker>,
    /// How many topics there are, the server's own among them.
    pub topics: usize,
    /// How many partitions they have.
    pub partitions: usize,
    /// How many of those have no leader.
    pub partitions_without_leader: usize,
    /// How many of those have fewer replicas in sync than they have.
    pub partitions_under_replicated: usize,
}

/// A directory that a broker keeps logs in.
#[derive(Clone, Debug)]
pub struct LogDir {
    /// Its path on the broker.
    pub path: String,
    /// Size of its file system, if the broker tells it.
    pub total_bytes: Option<u64>,
    /// What of it is free.
    pub usable_bytes: Option<u64>,
    /// What lies in it.
    pub partitions: Vec<LogDirPartition>,
}

/// One partition's replica in a directory.
#[derive(Clone, Debug)]
pub struct LogDirPartition {
    /// The topic.
    pub topic: String,
    /// The partition.
    pub partition: u32,
    /// Its bytes there.
    pub size_bytes: u64,
}

impl Admin {
    /// Brokers, controller, and counts of topics and partitions.
    pub async fn describe_cluster(&self) -> Result<ClusterDescription, AdminError> {
        let update = self.cluster.refresh(None).await?;
        let metadata = update.metadata;
        let partitions = || metadata.topics.values().flat_map(|topic| &topic.partitions);
        Ok(ClusterDescription {
            topics: metadata.topics.len(),
            partitions: partitions().count(),
            partitions_without_leader: partitions().filter(|it| it.leader.is_none()).count(),
            partitions_under_replicated: partitions()
                .filter(|it| it.in_sync_replicas.len() < it.replicas.len())
                .count(),
            cluster_id: metadata.cluster_id,
            controller: metadata.controller,
            brokers: metadata.brokers.into_values().collect(),
        })
    }

    /// The log directories of a broker, with every partition in them.
    pub async fn describe_log_dirs(&self, broker: NodeId) -> Result<Vec<LogDir>, AdminError> {
        let request = DescribeLogDirsRequest { topics: None };
        let response = self.cluster.send_to(Lane::SHARED, broker, &request).await?;
        refused(
            format!("log directories of broker {broker}"),
            Refusal::check(response.error_code, None),
        )?;
        let bytes = |bytes: i64| u64::try_from(bytes).ok();
        response
            .results
            .iter()
            .map(|dir| {
                refused(
                    format!("log directory '{}' of broker {broker}", dir.log_dir),
                    Refusal::check(dir.error_code, None),
                )?;
                Ok(LogDir {
                    path: dir.log_dir.as_str().to_owned(),
                    total_bytes: bytes(dir.total_bytes),
                    usable_bytes: bytes(dir.usable_bytes),
                    partitions: dir
                        .topics
                        .iter()
                        .flat_map(|topic| {
                            topic.partitions.iter().map(|partition| LogDirPartition {
                                topic: topic.name.as_str().to_owned(),
                                partition: partition.partition_index as u32,
                                size_bytes: bytes(partition.partition_size).unwrap_or(0),
                            })
                        })
                        .collect(),
                })
            })
            .collect()
    }
}
