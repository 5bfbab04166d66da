//! CreatePartitions.

use std::collections::BTreeMap;
use std::time::Duration;

use meridian_controller::{Command, Outcome};
use meridian_types::{NodeId, TopicId};
use meridian_wire::create_partitions::{CreatePartitionsTopic, CreatePartitionsTopicResult};
use meridian_wire::{CreatePartitionsRequest, CreatePartitionsResponse, ErrorCode, Str};
use tokio::time::timeout;

use crate::context::Caller;
use crate::errors;
use crate::topic_creation::{Refusal, check_owner, control_refusal, unexpected};

/// A topic and how many partitions it is to have, or why not.
type Checked = Result<(TopicId, u32), Refusal>;

pub(crate) async fn handle(caller: &Caller, request: CreatePartitionsRequest) -> CreatePartitionsResponse {
    let mut times_named: BTreeMap<String, usize> = BTreeMap::new();
    for topic in &request.topics {
        *times_named.entry(topic.name.to_string()).or_default() += 1;
    }
    let mut checked: Vec<(Str, Checked)> = Vec::with_capacity(request.topics.len());
    for topic in request.topics {
        let wanted = match times_named.get(&*topic.name) {
            Some(1) => check(caller, &topic),
            _ => Err((
                ErrorCode::InvalidRequest,
                "the request names this topic more than once".to_owned(),
            )),
        };
        checked.push((topic.name, wanted));
    }
    let wanted: Vec<(TopicId, u32)> = checked
        .iter()
        .filter_map(|(_, wanted)| wanted.clone().ok())
        .collect();
    let outcomes = if request.validate_only || wanted.is_empty() {
        Ok(vec![Ok(()); wanted.len()])
    } else {
        let wait = Duration::from_millis(request.timeout_ms.max(0).unsigned_abs().into());
        timeout(wait, create(caller, wanted)).await.unwrap_or_else(|_| {
            let message = "the partitions may be created later: the controller did not answer in time";
            Err((ErrorCode::RequestTimedOut, message.to_owned()))
        })
    };
    let mut outcomes = outcomes.map(Vec::into_iter);
    let results = checked.into_iter().map(|(name, wanted)| {
        let outcome = wanted.and_then(|_| match &mut outcomes {
            Ok(outcomes) => outcomes.next().unwrap_or(Ok(())),
            Err(refusal) => Err(refusal.clone()),
        });
        let (error, error_message) = match outcome {
            Ok(()) => (ErrorCode::None, None),
            Err((error, message)) => (error, Some(message.into())),
        };
        CreatePartitionsTopicResult {
            name,
            error_code: caller.code(error),
            error_message,
        }
    });
    CreatePartitionsResponse {
        results: results.collect(),
        ..Default::default()
    }
}

fn check(caller: &Caller, asked: &CreatePartitionsTopic) -> Checked {
    let controller = caller.context.region.controller();
    check_owner(&controller)?;
    let topic = controller.topic(&asked.name).ok_or_else(|| {
        (
            ErrorCode::UnknownTopicOrPartition,
            format!("there is no topic {}", asked.name),
        )
    })?;
    let total = u32::try_from(asked.count).map_err(|_| {
        (
            ErrorCode::InvalidPartitions,
            format!("number of partitions is {}; it must be positive", asked.count),
        )
    })?;
    controller
        .check_create_partitions(topic.id, total)
        .map_err(|error| (errors::of_create_partitions(&error), error.to_string()))?;
    // An assignment must fit the request; where partitions lie is decided by their shards.
    if let Some(assignments) = &asked.assignments {
        let invalid = |message: String| Err((ErrorCode::InvalidReplicaAssignment, message));
        let added = (total - topic.partitions) as usize;
        if assignments.len() != added {
            return invalid(format!(
                "{added} partitions are added, {} are assigned",
                assignments.len()
            ));
        }
        for id in assignments.iter().flat_map(|assignment| &assignment.broker_ids) {
            if !u32::try_from(*id).is_ok_and(|id| controller.node(NodeId(id)).is_some()) {
                return invalid(format!(
                    "a partition is assigned to broker {id}, which is not registered"
                ));
            }
        }
    }
    Ok((topic.id, total))
}

async fn create(caller: &Caller, topics: Vec<(TopicId, u32)>) -> Result<Vec<Result<(), Refusal>>, Refusal> {
    match caller
        .context
        .region
        .control(Command::CreatePartitions { topics })
        .await
    {
        Ok(Outcome::PartitionsCreated(results)) => Ok(results
            .into_iter()
            .map(|result| match result {
                Ok(topic) => {
                    tracing::info!(
                        topic = &*topic.name,
                        partitions = topic.partitions,
                        "partitions added"
                    );
                    Ok(())
                }
                Err(error) => Err((errors::of_create_partitions(&error), error.to_string())),
            })
            .collect()),
        Ok(other) => Err(unexpected(&other)),
        Err(error) => Err(control_refusal(&error)),
    }
}
