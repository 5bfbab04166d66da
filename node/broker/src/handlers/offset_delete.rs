//! OffsetDelete: forgets single positions of a group.

use meridian_types::Partition;
use meridian_wire::offset_delete::{
    OffsetDeleteRequestTopic, OffsetDeleteResponsePartition, OffsetDeleteResponseTopic,
};
use meridian_wire::{ErrorCode, OffsetDeleteRequest, OffsetDeleteResponse};

use crate::catalog;
use crate::context::Caller;
use crate::coordinator::GroupError;
use crate::errors;
use crate::handlers::group_code;

pub(crate) async fn handle(caller: &Caller, request: OffsetDeleteRequest) -> OffsetDeleteResponse {
    let groups = &caller.context.groups;
    let group = String::from(request.group_id);
    let has_offsets = groups.has_offsets(&group);
    let names: Vec<String> = request
        .topics
        .iter()
        .map(|topic| topic.name.to_string())
        .collect();
    let checks = groups.coordinator().query(|core| {
        let checks = core.validate_delete_offsets(&group, has_offsets, &names)?;
        Ok((core.leadership_of(&group)?, checks))
    });
    let (epoch, checks): (_, Vec<Result<(), GroupError>>) = match checks {
        Ok(checks) => checks,
        Err(error) => {
            return OffsetDeleteResponse {
                error_code: group_code(caller, error),
                ..Default::default()
            };
        }
    };
    let outcomes: Vec<Vec<(i32, Result<Partition, ErrorCode>)>> = {
        let controller = caller.context.region.controller();
        let of_topic = |(topic, check): (&OffsetDeleteRequestTopic, Result<(), GroupError>)| {
            let of_partition = |index: i32| {
                check
                    .map_err(errors::of_group)
                    .and_then(|()| catalog::partition_by_name(&controller, &topic.name, index))
            };
            topic
                .partitions
                .iter()
                .map(|p| (p.partition_index, of_partition(p.partition_index)))
                .collect()
        };
        request.topics.iter().zip(checks).map(of_topic).collect()
    };
    let partitions: Vec<Partition> = outcomes
        .iter()
        .flatten()
        .filter_map(|(_, outcome)| outcome.ok())
        .collect();
    if !partitions.is_empty()
        && let Err(error) = groups.delete_offsets(group, epoch, partitions).await
    {
        return OffsetDeleteResponse {
            error_code: caller.code(error),
            ..Default::default()
        };
    }
    let topics =
        request
            .topics
            .into_iter()
            .zip(outcomes)
            .map(|(topic, outcomes)| OffsetDeleteResponseTopic {
                name: topic.name,
                partitions: outcomes
                    .into_iter()
                    .map(|(partition_index, outcome)| OffsetDeleteResponsePartition {
                        partition_index,
                        error_code: caller.code(outcome.err().unwrap_or(ErrorCode::None)),
                    })
                    .collect(),
            });
    OffsetDeleteResponse {
        topics: topics.collect(),
        ..Default::default()
    }
}
