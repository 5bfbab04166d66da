//! Making topics, for CreateTopics and for clients that ask for one that is not there.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use meridian_controller::{Command, CreateTopicError, NewTopic, Outcome, Topic};
use meridian_shard::ControlError;
use meridian_wire::ErrorCode;
use tokio::time::timeout;

use crate::context::Caller;
use crate::errors;

/// A metadata request does not wait longer for its topics; they are there when the client asks again.
const ON_DEMAND_TIMEOUT: Duration = Duration::from_secs(5);
/// Topics that one metadata request may create.
const ON_DEMAND_TOPICS_MAX: usize = 1000;

/// What a client is told about a topic that was not created.
pub(crate) type Refusal = (ErrorCode, String);

/// Creates topics, each with its own outcome, in order.
pub(crate) async fn create(caller: &Caller, topics: Vec<NewTopic>) -> Vec<Result<Arc<Topic>, Refusal>> {
    if topics.is_empty() {
        return Vec::new();
    }
    let count = topics.len();
    let region = &caller.context.region;
    let outcome = region
        .control(Command::CreateTopics {
            topics,
            now: region.now(),
        })
        .await;
    match outcome {
        Ok(Outcome::TopicsCreated(results)) => results
            .into_iter()
            .map(|result| result.map_err(|error| refusal(&error)))
            .collect(),
        Ok(other) => vec![Err(unexpected(&other)); count],
        Err(error) => vec![Err(control_refusal(&error)); count],
    }
}

/// Creates what a client asked for by using it, with the defaults. Whether it worked shows in the metadata.
pub(crate) async fn create_on_demand(caller: &Caller, names: BTreeSet<String>) {
    let region = &caller.context.region;
    let partitions = caller.context.configs().num_partitions;
    let new_topic = |name: String| NewTopic {
        name,
        id: region.new_topic_id(),
        partitions,
        configs: BTreeMap::new(),
    };
    let topics = names
        .into_iter()
        .take(ON_DEMAND_TOPICS_MAX)
        .map(new_topic)
        .collect();
    let Ok(results) = timeout(ON_DEMAND_TIMEOUT, create(caller, topics)).await else {
        return;
    };
    for result in results {
        match result {
            Ok(topic) => {
                tracing::info!(topic = &*topic.name, partitions, peer = %caller.peer.address, "topic created on demand");
            }
            // Somebody else was faster, which is as good.
            Err((ErrorCode::TopicAlreadyExists | ErrorCode::InvalidTopicException, _)) => {}
            Err((_, message)) => caller.context.warn_limited(|suppressed| {
                tracing::warn!(message, suppressed, "a topic was not created on demand");
            }),
        }
    }
}

/// What the client of a refused topic is told.
pub(crate) fn refusal(error: &CreateTopicError) -> Refusal {
    let message = error.to_string();
    (errors::of_create_topic(error), message)
}

/// What the client is told when the controller has not answered.
pub(crate) fn control_refusal(error: &ControlError) -> Refusal {
    (errors::of_control(error), error.to_string())
}

/// A fault of ours: the controller answered another question.
pub(crate) fn unexpected(outcome: &Outcome) -> Refusal {
    (
        ErrorCode::UnknownServerError,
        format!("the controller answered {outcome:?}"),
    )
}
