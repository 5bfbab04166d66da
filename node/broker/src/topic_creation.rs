//! Making topics, for CreateTopics and for clients that ask for one that is not there.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use meridian_controller::{
    Command, Controller, CreateTopicError, HOME_CONFIG, NewTopic, NotOwner, Outcome, Topic,
};
use meridian_shard::{ControlError, Region};
use meridian_types::RegionNumber;
use meridian_wire::ErrorCode;
use tokio::time::timeout;

use crate::catalog;
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

/// A topic to be created, with the region that its records are to stay in, if they are: where that was asked for
/// (`geo.home`), or in this one if the name is excluded from the mirror (`geo.topics.exclude`).
pub(crate) fn new_topic(
    region: &Region,
    controller: &Controller,
    name: String,
    partitions: u32,
    mut configs: BTreeMap<String, String>,
) -> Result<NewTopic, Refusal> {
    let own = controller.founding().filter(|_| controller.is_geo());
    let asked = configs.get(HOME_CONFIG).map(|home| home.trim().to_owned());
    let is_excluded = || controller.broker_settings(region.node_id()).excludes(&name);
    let home = match (asked, own) {
        (Some(home), _) if !home.is_empty() => Some(home),
        (None, Some(own)) if is_excluded() => Some(own.region.clone()),
        _ => None,
    };
    let home = home.map(|home| {
        let number = home_number(region, controller, &home)?;
        configs.insert(HOME_CONFIG.to_owned(), home);
        Ok::<_, Refusal>(number)
    });
    Ok(NewTopic {
        id: region.new_topic_id(home.transpose()?),
        name,
        partitions,
        configs,
    })
}

/// The number of a region that is to keep a topic, if it can.
fn home_number(region: &Region, controller: &Controller, home: &str) -> Result<RegionNumber, Refusal> {
    let refused = |message: String| (ErrorCode::InvalidConfig, message);
    let found = controller.regions().find(|it| it.name == home);
    let number = found.map(|it| it.number).ok_or_else(|| {
        let known: Vec<_> = controller.regions().map(|it| it.name.as_str()).collect();
        let known = match known.is_empty() {
            true => "this region has no others beside it".to_owned(),
            false => format!("known are {}", known.join(", ")),
        };
        refused(format!("geo.home is {home:?}: there is no such region; {known}"))
    })?;
    let map = match number == region.number() {
        true => Some(region.shard_map()),
        false => region
            .remote()
            .region(number)
            .and_then(|it| it.shard_map(region.shards())),
    };
    match map {
        Some(map) if map.home_count() > 0 => Ok(number),
        Some(_) => Err(refused(format!(
            "geo.home is {home:?}: that region was founded by a version of Meridian without topics that stay in one region"
        ))),
        None => Err(refused(format!(
            "geo.home is {home:?}: nothing was heard of that region yet; see 'meridian link status', then ask again"
        ))),
    }
}

/// Creates what a client asked for by using it, with the defaults. Whether it worked shows in the metadata.
pub(crate) async fn create_on_demand(caller: &Caller, names: BTreeSet<String>) {
    let region = &caller.context.region;
    let partitions = caller.context.configs().num_partitions;
    let names = names.into_iter().filter(|name| catalog::is_valid_name(name));
    let topics: Vec<NewTopic> = {
        let controller = region.controller();
        let new = |name| new_topic(region, &controller, name, partitions, BTreeMap::new());
        let (topics, refused): (Vec<_>, Vec<_>) =
            names.take(ON_DEMAND_TOPICS_MAX).map(new).partition(Result::is_ok);
        for (_, message) in refused.into_iter().filter_map(Result::err) {
            caller.context.warn_limited(|suppressed| {
                tracing::warn!(message, suppressed, "a topic was not created on demand");
            });
        }
        topics.into_iter().flatten().collect()
    };
    if region.controller().is_owned_elsewhere() {
        // A client may never ask another broker than this one.
        return create_at_owner(caller, topics).await;
    }
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

async fn create_at_owner(caller: &Caller, topics: Vec<NewTopic>) {
    let names: Vec<String> = topics.iter().map(|topic| topic.name.clone()).collect();
    let region = &caller.context.region;
    let created = timeout(ON_DEMAND_TIMEOUT, region.create_topics_at_owner(topics)).await;
    let refused = match created {
        Ok(Ok(outcomes)) => {
            let refused = names.iter().zip(outcomes);
            refused
                .filter_map(|(name, outcome)| Some(format!("{name}: {}", outcome.err()?)))
                .collect()
        }
        Ok(Err(error)) => vec![format!("{}: {error}", names.join(", "))],
        Err(_) => vec![format!("{}: the owner does not answer", names.join(", "))],
    };
    for message in refused {
        caller.context.warn_limited(|suppressed| {
            tracing::warn!(
                message,
                suppressed,
                "a topic was not created on demand at the owner"
            );
        });
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

/// What the client is told when the controller did something else: that another region owns the cluster, or, which would be
/// a fault of ours, an answer to another question.
pub(crate) fn unexpected(outcome: &Outcome) -> Refusal {
    match outcome {
        Outcome::NotOwner(not_owner) => elsewhere(not_owner),
        outcome => (
            ErrorCode::UnknownServerError,
            format!("the controller answered {outcome:?}"),
        ),
    }
}

/// Refuses where another region owns the cluster, before anything is held against facts that may be behind the owner's:
/// the client looks for the controller, and goes there.
pub(crate) fn check_owner(controller: &Controller) -> Result<(), Refusal> {
    controller
        .standing()
        .check_owner()
        .map_err(|not_owner| elsewhere(&not_owner))
}

fn elsewhere(not_owner: &NotOwner) -> Refusal {
    let message = format!("{not_owner}; ask a broker of that region, or retry in a moment");
    (ErrorCode::NotController, message)
}

#[cfg(test)]
mod tests {
    use meridian_types::RegionEpoch;

    use super::*;

    #[test]
    fn changes_go_to_the_region_that_owns_the_cluster() {
        let outcome = Outcome::NotOwner(NotOwner {
            owner: meridian_types::RegionNumber(2),
            region_epoch: RegionEpoch(5),
            role: meridian_controller::Role::Mirror,
        });
        let (error, message) = unexpected(&outcome);
        assert_eq!(error, ErrorCode::NotController);
        assert!(message.starts_with("region 2 owns this log in region epoch 5; here it is mirror"));
        assert_eq!(unexpected(&Outcome::NotFounded).0, ErrorCode::UnknownServerError);
        assert_eq!(
            check_owner(&Controller::new()),
            Ok(()),
            "a region alone owns itself"
        );
    }
}
