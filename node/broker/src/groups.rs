//! Consumer groups of this node: the coordinator, wired to the shards that keep the groups.

mod driver;
mod expiry;

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use meridian_shard::{ControlError, Region};
use meridian_state::{Command, CommittedOffset};
use meridian_types::{LeaderEpoch, Partition, ShardId, TimestampMs};
use meridian_wire::ErrorCode;

use crate::coordinator::{BoxFuture, GroupCoordinator, GroupStore, StoreError};
use crate::errors;

pub(crate) use driver::start;

/// The coordinator and the committed offsets of the groups whose shards this node leads.
pub(crate) struct Groups {
    coordinator: GroupCoordinator,
    region: Region,
}

impl Groups {
    pub(crate) fn new(coordinator: GroupCoordinator, region: Region) -> Self {
        Self { coordinator, region }
    }

    /// Members, generations and assignments.
    pub(crate) fn coordinator(&self) -> &GroupCoordinator {
        &self.coordinator
    }

    /// Whether a group has committed offsets; false where its shard is not led here.
    pub(crate) fn has_offsets(&self, group: &str) -> bool {
        let Ok(state) = self.region.state(self.region.group_shard(group)) else {
            return false;
        };
        state.group(group).is_some_and(|group| !group.offsets.is_empty())
    }

    /// Groups with committed offsets, of all shards led here.
    pub(crate) fn names_with_offsets(&self) -> Vec<String> {
        let mut names = Vec::new();
        for shard in (0..self.region.shards()).map(ShardId) {
            if let Ok(state) = self.region.state(shard) {
                let with_offsets = state.groups().filter(|(_, group)| !group.offsets.is_empty());
                names.extend(with_offsets.map(|(name, _)| name.to_owned()));
            }
        }
        names
    }

    /// All that a group has committed; nothing for one that is not known.
    pub(crate) fn committed(&self, group: &str) -> Result<BTreeMap<Partition, CommittedOffset>, ErrorCode> {
        let state = self
            .region
            .state(self.region.group_shard(group))
            .map_err(|error| errors::of_group_read(&error))?;
        Ok(state
            .group(group)
            .map(|group| group.offsets.clone())
            .unwrap_or_default())
    }

    /// Commits offsets that were accepted under the leadership of `epoch`.
    pub(crate) async fn commit(
        &self,
        group: String,
        epoch: LeaderEpoch,
        offsets: Vec<(Partition, CommittedOffset)>,
        now: TimestampMs,
    ) -> Result<(), ErrorCode> {
        let shard = self.region.group_shard(&group);
        self.propose(shard, epoch, Command::CommitOffsets { group, now, offsets })
            .await
    }

    /// Forgets offsets, as was decided under the leadership of `epoch`.
    pub(crate) async fn delete_offsets(
        &self,
        group: String,
        epoch: LeaderEpoch,
        partitions: Vec<Partition>,
    ) -> Result<(), ErrorCode> {
        let shard = self.region.group_shard(&group);
        self.propose(shard, epoch, Command::DeleteOffsets { group, partitions })
            .await
    }

    async fn propose(&self, shard: ShardId, epoch: LeaderEpoch, command: Command) -> Result<(), ErrorCode> {
        match self.region.propose_at(shard, epoch, command).await {
            Ok(_) => Ok(()),
            Err(error) => Err(errors::of_group_write(&error)),
        }
    }
}

/// Keeps groups in the shards that they belong to.
pub(crate) struct ShardStore {
    pub(crate) region: Region,
}

impl GroupStore for ShardStore {
    fn save(&self, group: &str, epoch: LeaderEpoch, body: Bytes) -> BoxFuture<Result<(), StoreError>> {
        let now = self.region.now();
        self.write(
            group,
            epoch,
            Command::SaveGroup {
                group: group.to_owned(),
                body,
                now,
            },
        )
    }

    fn delete(&self, group: &str, epoch: LeaderEpoch) -> BoxFuture<Result<(), StoreError>> {
        self.write(
            group,
            epoch,
            Command::DeleteGroups {
                groups: vec![group.to_owned()],
            },
        )
    }
}

impl ShardStore {
    fn write(&self, group: &str, epoch: LeaderEpoch, command: Command) -> BoxFuture<Result<(), StoreError>> {
        let region = self.region.clone();
        let shard = region.group_shard(group);
        Box::pin(async move {
            match region.propose_at(shard, epoch, command).await {
                Ok(_) => Ok(()),
                Err(ControlError::NotLeader { .. }) => Err(StoreError::NotLeader),
                Err(
                    ControlError::Unknown { .. }
                    | ControlError::Refused { .. }
                    | ControlError::Storage { .. },
                ) => Err(StoreError::Unavailable),
            }
        })
    }
}

/// For the coordinator at its start.
pub(crate) fn store(region: Region) -> Arc<dyn GroupStore> {
    Arc::new(ShardStore { region })
}
