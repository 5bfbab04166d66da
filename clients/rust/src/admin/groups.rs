//! Consumer groups from outside.

use std::collections::BTreeMap;

use meridian_types::Offset;
use meridian_wire::messages::offset_commit::{OffsetCommitRequestPartition, OffsetCommitRequestTopic};
use meridian_wire::messages::offset_delete::{OffsetDeleteRequestPartition, OffsetDeleteRequestTopic};
use meridian_wire::messages::offset_fetch::OffsetFetchRequestGroup;
use meridian_wire::{
    ApiKey, DeleteGroupsRequest, DescribeGroupsRequest, ErrorCode, ListGroupsRequest, OffsetCommitRequest,
    OffsetDeleteRequest, OffsetFetchRequest, OffsetFetchResponse, Request,
};

use super::{Admin, AdminError, partition_id, refused};
use crate::cluster::{Cluster, Lane};
use crate::connection::Connection;
use crate::error::{Refusal, check};
use crate::group::protocol::{Assignment, Subscription};

/// A group in a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupListing {
    /// Its id.
    pub id: String,
    /// What it is used for: `consumer` for consumers, empty for none.
    pub protocol_type: String,
    /// Its state, from servers that tell it.
    pub state: Option<String>,
}

/// A group and its members.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupDescription {
    /// Its id.
    pub id: String,
    /// `Empty`, `PreparingRebalance`, `CompletingRebalance`, `Stable` or `Dead`.
    pub state: String,
    /// What it is used for.
    pub protocol_type: String,
    /// The assignor that was chosen.
    pub assignor: String,
    /// Who is in it.
    pub members: Vec<GroupMember>,
}

/// A member of a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupMember {
    /// The id that the coordinator gave it.
    pub id: String,
    /// The id it gave itself, if it is a static member.
    pub instance_id: Option<String>,
    /// The name of its client.
    pub client_id: String,
    /// Where it connects from.
    pub client_host: String,
    /// The topics it wants, if it is a consumer.
    pub topics: Vec<String>,
    /// The partitions it has, if it is a consumer.
    pub partitions: Vec<(String, u32)>,
}

/// An offset that a group has stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommittedOffset {
    /// Where the group will go on reading.
    pub offset: Offset,
    /// What the consumer noted beside it.
    pub metadata: String,
}

impl Admin {
    /// Every group of the cluster, by id.
    pub async fn list_groups(&self) -> Result<Vec<GroupListing>, AdminError> {
        let brokers: Vec<_> = {
            self.cluster.refresh(Some(&[])).await?;
            self.cluster.metadata().brokers.keys().copied().collect()
        };
        let mut groups = BTreeMap::new();
        for broker in brokers {
            let response = self
                .cluster
                .send_to(Lane::SHARED, broker, &ListGroupsRequest::default())
                .await?;
            refused(
                format!("the groups of broker {broker}"),
                Refusal::check(response.error_code, None),
            )?;
            for group in response.groups {
                let id = group.group_id.as_str().to_owned();
                groups.insert(
                    id.clone(),
                    GroupListing {
                        id,
                        protocol_type: group.protocol_type.as_str().to_owned(),
                        state: Some(group.group_state.as_str().to_owned()).filter(|state| !state.is_empty()),
                    },
                );
            }
        }
        Ok(groups.into_values().collect())
    }

    /// One group. A group that does not exist is an error, `GROUP_ID_NOT_FOUND`.
    pub async fn describe_group(&self, group: &str) -> Result<GroupDescription, AdminError> {
        let request = DescribeGroupsRequest {
            groups: vec![group.to_owned().into()],
            ..DescribeGroupsRequest::default()
        };
        let response = send_coordinator(
            &self.cluster,
            group,
            Lane::SHARED,
            |_| request.clone(),
            |response| response.groups.first().map_or(0, |group| group.error_code),
        )
        .await?;
        let what = format!("group '{group}'");
        let Some(described) = response.groups.into_iter().next() else {
            return Err(AdminError::Unanswered {
                api: ApiKey::DescribeGroups,
                what,
            });
        };
        let message = described.error_message.as_deref();
        refused(what.clone(), Refusal::check(described.error_code, message))?;
        if described.group_state == "Dead" {
            // Servers before DescribeGroups 6 answer like this for a group that is not there.
            return Err(AdminError::Refused {
                what,
                refusal: ErrorCode::GroupIdNotFound.into(),
            });
        }
        let is_consumer = described.protocol_type == "consumer";
        Ok(GroupDescription {
            id: group.to_owned(),
            state: described.group_state.into(),
            protocol_type: described.protocol_type.into(),
            assignor: described.protocol_data.into(),
            members: described
                .members
                .into_iter()
                .map(|member| {
                    let subscription = Subscription::decode(&member.member_metadata).unwrap_or_default();
                    let assignment = Assignment::decode(&member.member_assignment).unwrap_or_default();
                    GroupMember {
                        id: member.member_id.into(),
                        instance_id: member.group_instance_id.map(Into::into),
                        client_id: member.client_id.into(),
                        client_host: member.client_host.into(),
                        topics: if is_consumer {
                            subscription.topics
                        } else {
                            Vec::new()
                        },
                        partitions: if is_consumer {
                            assignment.partitions
                        } else {
                            Vec::new()
                        },
                    }
                })
                .collect(),
        })
    }

    /// Deletes a group that has no members, with its offsets.
    pub async fn delete_group(&self, group: &str) -> Result<(), AdminError> {
        let request = DeleteGroupsRequest {
            groups_names: vec![group.to_owned().into()],
        };
        let response = send_coordinator(
            &self.cluster,
            group,
            Lane::SHARED,
            |_| request.clone(),
            |response| response.results.first().map_or(0, |result| result.error_code),
        )
        .await?;
        let what = format!("group '{group}'");
        match response.results.first() {
            Some(result) => refused(what, Refusal::check(result.error_code, None)),
            None => Err(AdminError::Unanswered {
                api: ApiKey::DeleteGroups,
                what,
            }),
        }
    }

    /// Every offset that a group has stored.
    pub async fn group_offsets(
        &self,
        group: &str,
    ) -> Result<BTreeMap<(String, u32), CommittedOffset>, AdminError> {
        fetch_offsets(&self.cluster, group, Lane::SHARED).await
    }

    /// Stores offsets for a group that has no members.
    pub async fn alter_group_offsets(
        &self,
        group: &str,
        offsets: &BTreeMap<(String, u32), Offset>,
    ) -> Result<(), AdminError> {
        let mut topics: BTreeMap<&String, Vec<OffsetCommitRequestPartition>> = BTreeMap::new();
        for ((topic, index), offset) in offsets {
            topics
                .entry(topic)
                .or_default()
                .push(OffsetCommitRequestPartition {
                    partition_index: partition_id(*index),
                    committed_offset: i64::try_from(offset.0).unwrap_or(i64::MAX),
                    committed_leader_epoch: -1,
                    committed_metadata: Some("".into()),
                });
        }
        let request = OffsetCommitRequest {
            group_id: group.to_owned().into(),
            topics: topics
                .into_iter()
                .map(|(name, partitions)| OffsetCommitRequestTopic {
                    name: name.into(),
                    partitions,
                    ..OffsetCommitRequestTopic::default()
                })
                .collect(),
            ..OffsetCommitRequest::default()
        };
        let response = send_coordinator(
            &self.cluster,
            group,
            Lane::SHARED,
            |_| request.clone(),
            |response| {
                let codes = response.topics.iter().flat_map(|topic| &topic.partitions);
                codes.map(|it| it.error_code).find(|code| *code != 0).unwrap_or(0)
            },
        )
        .await?;
        for topic in &response.topics {
            for partition in &topic.partitions {
                let what = format!(
                    "offset of group '{group}' for partition {} of topic '{}'",
                    partition.partition_index, topic.name
                );
                refused(what, Refusal::check(partition.error_code, None))?;
            }
        }
        Ok(())
    }

    /// Forgets a group's offsets for partitions that it does not read.
    pub async fn delete_group_offsets(
        &self,
        group: &str,
        partitions: &[(String, u32)],
    ) -> Result<(), AdminError> {
        let mut topics: BTreeMap<&String, Vec<OffsetDeleteRequestPartition>> = BTreeMap::new();
        for (topic, index) in partitions {
            topics
                .entry(topic)
                .or_default()
                .push(OffsetDeleteRequestPartition {
                    partition_index: partition_id(*index),
                });
        }
        let request = OffsetDeleteRequest {
            group_id: group.to_owned().into(),
            topics: topics
                .into_iter()
                .map(|(name, partitions)| OffsetDeleteRequestTopic {
                    name: name.into(),
                    partitions,
                })
                .collect(),
        };
        let response = send_coordinator(
            &self.cluster,
            group,
            Lane::SHARED,
            |_| request.clone(),
            |response| response.error_code,
        )
        .await?;
        refused(
            format!("group '{group}'"),
            Refusal::check(response.error_code, None),
        )?;
        for topic in &response.topics {
            for partition in &topic.partitions {
                let what = format!(
                    "offset of group '{group}' for partition {} of topic '{}'",
                    partition.partition_index, topic.name
                );
                refused(what, Refusal::check(partition.error_code, None))?;
            }
        }
        Ok(())
    }
}

/// See [`Admin::group_offsets`].
pub(crate) async fn fetch_offsets(
    cluster: &Cluster,
    group: &str,
    lane: Lane,
) -> Result<BTreeMap<(String, u32), CommittedOffset>, AdminError> {
    let question = |connection: &Connection| {
        let version = connection.versions().common(ApiKey::OffsetFetch);
        // From version 8 on a request names several groups.
        if version.is_some_and(|version| version >= 8) {
            OffsetFetchRequest {
                groups: vec![OffsetFetchRequestGroup {
                    group_id: group.to_owned().into(),
                    topics: None,
                    ..OffsetFetchRequestGroup::default()
                }],
                require_stable: true,
                ..OffsetFetchRequest::default()
            }
        } else {
            OffsetFetchRequest {
                group_id: group.to_owned().into(),
                topics: None,
                require_stable: version == Some(7),
                ..OffsetFetchRequest::default()
            }
        }
    };
    let code = |response: &OffsetFetchResponse| {
        let group = response.groups.first();
        group.map_or(response.error_code, |group| group.error_code)
    };
    let response = send_coordinator(cluster, group, lane, question, code).await?;
    let what = format!("offsets of group '{group}'");
    let mut offsets = BTreeMap::new();
    let mut insert = |topic: &str, index: i32, code: i16, offset: i64, metadata: Option<&str>| {
        let what = format!("offset of group '{group}' for partition {index} of topic '{topic}'");
        refused(what, Refusal::check(code, None))?;
        if let (Ok(index), Ok(offset)) = (u32::try_from(index), u64::try_from(offset)) {
            offsets.insert(
                (topic.to_owned(), index),
                CommittedOffset {
                    offset: Offset(offset),
                    metadata: metadata.unwrap_or_default().to_owned(),
                },
            );
        }
        Ok::<(), AdminError>(())
    };
    match response.groups.first() {
        Some(group) => {
            refused(what, Refusal::check(group.error_code, None))?;
            for topic in &group.topics {
                for it in &topic.partitions {
                    let metadata = it.metadata.as_deref();
                    insert(
                        &topic.name,
                        it.partition_index,
                        it.error_code,
                        it.committed_offset,
                        metadata,
                    )?;
                }
            }
        }
        None => {
            refused(what, Refusal::check(response.error_code, None))?;
            for topic in &response.topics {
                for it in &topic.partitions {
                    let metadata = it.metadata.as_deref();
                    insert(
                        &topic.name,
                        it.partition_index,
                        it.error_code,
                        it.committed_offset,
                        metadata,
                    )?;
                }
            }
        }
    }
    Ok(offsets)
}

/// Asks a group's coordinator, and again where it moves or loads. For requests that may be sent twice.
async fn send_coordinator<R: Request>(
    cluster: &Cluster,
    group: &str,
    lane: Lane,
    question: impl Fn(&Connection) -> R,
    code: impl Fn(&R::Response) -> i16,
) -> Result<R::Response, AdminError> {
    let mut backoff = cluster.backoff();
    let deadline = tokio::time::Instant::now() + cluster.settings().operation_timeout;
    loop {
        let endpoint = cluster.coordinator(group).await?;
        let result = match cluster.connection_to(lane, &endpoint).await {
            Ok(connection) => {
                let limit = cluster.settings().request_timeout;
                connection.send(&question(&connection), limit).await
            }
            Err(error) => Err(error),
        };
        let is_passing = match &result {
            Ok(response) => check(code(response)).is_err_and(|code| {
                matches!(
                    code,
                    ErrorCode::NotCoordinator
                        | ErrorCode::CoordinatorLoadInProgress
                        | ErrorCode::CoordinatorNotAvailable
                )
            }),
            Err(error) => error.is_retriable(),
        };
        let wait = backoff.next_wait();
        if !is_passing || tokio::time::Instant::now() + wait >= deadline {
            return Ok(result?);
        }
        tokio::time::sleep(wait).await;
    }
}
