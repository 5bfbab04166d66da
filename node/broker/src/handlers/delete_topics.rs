//! DeleteTopics, by name or by id.

use std::collections::BTreeMap;
use std::time::Duration;

use meridian_controller::{Command, Outcome};
use meridian_types::{TopicId, Uuid};
use meridian_wire::delete_topics::{DeletableTopicResult, DeleteTopicState};
use meridian_wire::{DeleteTopicsRequest, DeleteTopicsResponse, ErrorCode, Str};
use tokio::time::timeout;

use crate::context::Caller;
use crate::topic_creation::{Refusal, check_owner, control_refusal, unexpected};

/// First version that names topics by id.
const TOPIC_IDS_FROM: i16 = 6;

/// A topic as it was named, and what was found.
struct Asked {
    name: Option<Str>,
    id: Uuid,
    found: Result<TopicId, Refusal>,
}

pub(crate) async fn handle(caller: &Caller, request: DeleteTopicsRequest) -> DeleteTopicsResponse {
    let named: Vec<DeleteTopicState> = if caller.version >= TOPIC_IDS_FROM {
        request.topics
    } else {
        request
            .topic_names
            .into_iter()
            .map(|name| DeleteTopicState {
                name: Some(name),
                topic_id: Uuid::nil(),
            })
            .collect()
    };
    let asked = find(caller, named);
    let ids: Vec<TopicId> = asked
        .iter()
        .filter_map(|topic| topic.found.clone().ok())
        .collect();
    let wait = Duration::from_millis(request.timeout_ms.max(0).unsigned_abs().into());
    let deleted = timeout(wait, delete(caller, ids)).await.unwrap_or_else(|_| {
        let message = "the topics may be deleted later: the controller did not answer in time";
        Err((ErrorCode::RequestTimedOut, message.to_owned()))
    });
    let mut deleted = deleted.map(Vec::into_iter);
    let responses = asked.into_iter().map(|topic| {
        let outcome = topic.found.and_then(|id| match &mut deleted {
            Ok(outcomes) => outcomes.next().unwrap_or(Ok(())).map(|()| id),
            Err(refusal) => Err(refusal.clone()),
        });
        let (topic_id, error, message) = match outcome {
            Ok(id) => (id.0, ErrorCode::None, None),
            Err((error, message)) => (topic.id, error, Some(message.into())),
        };
        // Versions before 6 know names only, and were asked by name.
        let name = topic
            .name
            .or((caller.version < TOPIC_IDS_FROM).then_some(Str::EMPTY));
        DeletableTopicResult {
            name,
            topic_id,
            error_code: caller.code(error),
            error_message: message,
        }
    });
    DeleteTopicsResponse {
        responses: responses.collect(),
        ..Default::default()
    }
}

fn find(caller: &Caller, named: Vec<DeleteTopicState>) -> Vec<Asked> {
    let region = &caller.context.region;
    let is_enabled = caller.context.configs().delete_topics;
    let controller = region.controller();
    let mut asked = Vec::with_capacity(named.len());
    let mut times_found: BTreeMap<TopicId, usize> = BTreeMap::new();
    for DeleteTopicState { name, topic_id } in named {
        let found = match (&name, topic_id != Uuid::nil()) {
            _ if !is_enabled => Err((
                ErrorCode::TopicDeletionDisabled,
                "delete.topic.enable is false".to_owned(),
            )),
            (Some(_), true) => Err((
                ErrorCode::InvalidRequest,
                "a topic is named by its name or by its id, not by both".to_owned(),
            )),
            (Some(name), false) => controller.topic(name).ok_or_else(|| {
                (
                    ErrorCode::UnknownTopicOrPartition,
                    format!("there is no topic {name}"),
                )
            }),
            (None, _) => controller.topic_by_id(TopicId(topic_id)).ok_or_else(|| {
                (
                    ErrorCode::UnknownTopicId,
                    format!("there is no topic with id {topic_id}"),
                )
            }),
        };
        let found = check_owner(&controller).and(found);
        let name = name.or_else(|| found.as_ref().ok().map(|topic| topic.name.to_string().into()));
        let found = found.map(|topic| topic.id);
        if let Ok(id) = &found {
            *times_found.entry(*id).or_default() += 1;
        }
        asked.push(Asked {
            name,
            id: topic_id,
            found,
        });
    }
    for topic in &mut asked {
        if topic.found.as_ref().is_ok_and(|id| times_found[id] > 1) {
            let message = "the request names this topic more than once";
            topic.found = Err((ErrorCode::InvalidRequest, message.to_owned()));
        }
    }
    asked
}

async fn delete(caller: &Caller, topics: Vec<TopicId>) -> Result<Vec<Result<(), Refusal>>, Refusal> {
    if topics.is_empty() {
        return Ok(Vec::new());
    }
    let region = &caller.context.region;
    match region.control(Command::DeleteTopics { topics, now: region.now() }).await {
        Ok(Outcome::TopicsDeleted(results)) => Ok(results
            .into_iter()
            .map(|result| match result {
                Ok(topic) => {
                    tracing::info!(topic = &*topic.name, id = %topic.id, peer = %caller.peer.address, "topic deleted");
                    Ok(())
                }
                Err(error) => Err((ErrorCode::UnknownTopicOrPartition, error.to_string())),
            })
            .collect()),
        Ok(other) => Err(unexpected(&other)),
        Err(error) => Err(control_refusal(&error)),
    }
}
