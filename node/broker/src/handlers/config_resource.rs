//! What AlterConfigs, IncrementalAlterConfigs and DescribeConfigs have in common: whose configs are meant.

use std::collections::BTreeMap;

use meridian_controller::{Command, ConfigChange, ConfigOp, ConfigResource, Controller, Outcome};
use meridian_types::NodeId;
use meridian_wire::{ErrorCode, Str};

use crate::context::Caller;
use crate::errors;
use crate::topic_creation::{Refusal, check_owner, control_refusal, unexpected};

/// Numbers of the types of resources.
pub(super) mod resource_type {
    pub(in crate::handlers) const TOPIC: i8 = 2;
    pub(in crate::handlers) const BROKER: i8 = 4;
    pub(in crate::handlers) const BROKER_LOGGER: i8 = 8;
    pub(in crate::handlers) const CLIENT_METRICS: i8 = 16;
    pub(in crate::handlers) const GROUP: i8 = 32;
}

/// Finds a resource; a broker without a name is the whole cluster.
pub(super) fn find(controller: &Controller, kind: i8, name: &str) -> Result<ConfigResource, Refusal> {
    match kind {
        resource_type::TOPIC => match controller.topic(name) {
            Some(topic) => Ok(ConfigResource::Topic(topic.id)),
            None => Err((
                ErrorCode::UnknownTopicOrPartition,
                format!("there is no topic {name}"),
            )),
        },
        resource_type::BROKER if name.is_empty() => Ok(ConfigResource::Cluster),
        resource_type::BROKER => {
            let node = name
                .parse()
                .ok()
                .map(NodeId)
                .filter(|node| controller.node(*node).is_some());
            let unknown = || (ErrorCode::InvalidRequest, format!("there is no broker {name}"));
            node.map(ConfigResource::Node).ok_or_else(unknown)
        }
        resource_type::BROKER_LOGGER => Err((
            ErrorCode::InvalidRequest,
            "log levels are set where the node is configured".to_owned(),
        )),
        resource_type::CLIENT_METRICS | resource_type::GROUP => Err((
            ErrorCode::InvalidRequest,
            format!("resources of type {kind} have no configs here"),
        )),
        _ => Err((
            ErrorCode::InvalidRequest,
            format!("resources of type {kind} are not known"),
        )),
    }
}

/// One resource of a request to alter configs.
pub(super) struct Alteration {
    pub(super) kind: i8,
    pub(super) name: String,
    pub(super) ops: Result<Vec<ConfigOp>, Refusal>,
}

/// Alters, or only checks, each resource for itself; the outcomes are in order.
pub(super) async fn alter(
    caller: &Caller,
    alterations: Vec<Alteration>,
    replace_all: bool,
    validate_only: bool,
) -> Vec<Result<(), Refusal>> {
    let mut checked: Vec<Result<ConfigChange, Refusal>> = Vec::with_capacity(alterations.len());
    {
        let mut times_named: BTreeMap<(i8, String), usize> = BTreeMap::new();
        for alteration in &alterations {
            *times_named
                .entry((alteration.kind, alteration.name.clone()))
                .or_default() += 1;
        }
        let controller = caller.context.region.controller();
        for Alteration { kind, name, ops } in alterations {
            let change = find(&controller, kind, &name)
                .and_then(|resource| {
                    // A node's configs are its own region's matter.
                    if !is_of_node(&resource) && !controller.is_owned_elsewhere() {
                        check_owner(&controller)?;
                    }
                    Ok(ConfigChange {
                        resource,
                        replace_all,
                        ops: ops?,
                    })
                })
                .and_then(|change| match times_named[&(kind, name)] {
                    1 => Ok(change),
                    _ => Err((
                        ErrorCode::InvalidRequest,
                        "the request names this resource twice".to_owned(),
                    )),
                })
                .and_then(|change| match controller.check_alter_configs(&change) {
                    Ok(()) => Ok(change),
                    Err(error) => Err((errors::of_config(&error), error.to_string())),
                });
            checked.push(change);
        }
    }
    let changes: Vec<ConfigChange> = checked.iter().filter_map(|change| change.clone().ok()).collect();
    let outcomes = if validate_only || changes.is_empty() {
        Ok(vec![Ok(()); changes.len()])
    } else {
        propose(caller, changes).await
    };
    let mut outcomes = outcomes.map(Vec::into_iter);
    checked
        .into_iter()
        .map(|change| {
            change.and_then(|_| match &mut outcomes {
                Ok(outcomes) => outcomes.next().unwrap_or(Ok(())),
                Err(refusal) => Err(refusal.clone()),
            })
        })
        .collect()
}

/// What is said of one resource.
pub(super) struct Answered {
    pub(super) error_code: i16,
    pub(super) error_message: Option<Str>,
    pub(super) resource_type: i8,
    pub(super) resource_name: Str,
}

/// Answers each resource with its outcome, in order.
pub(super) fn answers(
    caller: &Caller,
    resources: impl IntoIterator<Item = (i8, Str)>,
    outcomes: Vec<Result<(), Refusal>>,
) -> impl Iterator<Item = Answered> {
    let answer = |((resource_type, resource_name), outcome): (_, Result<(), Refusal>)| {
        let (error, error_message) = match outcome {
            Ok(()) => (ErrorCode::None, None),
            Err((error, message)) => (error, Some(message.into())),
        };
        Answered {
            error_code: caller.code(error),
            error_message,
            resource_type,
            resource_name,
        }
    };
    resources.into_iter().zip(outcomes).map(answer)
}

fn is_of_node(resource: &ConfigResource) -> bool {
    matches!(resource, ConfigResource::Node(_))
}

/// In a mirror, the configs that all regions have are changed at the owner: clients bring them to any broker.
async fn propose(caller: &Caller, changes: Vec<ConfigChange>) -> Result<Vec<Result<(), Refusal>>, Refusal> {
    let region = &caller.context.region;
    if !region.controller().is_owned_elsewhere() {
        return propose_here(caller, changes).await;
    }
    let is_own: Vec<bool> = changes.iter().map(|it| is_of_node(&it.resource)).collect();
    let (own, shared): (Vec<_>, Vec<_>) = changes.into_iter().partition(|it| is_of_node(&it.resource));
    let at_owner = match shared.is_empty() {
        true => Vec::new(),
        false => region
            .alter_configs_at_owner(shared)
            .await
            .map_err(|error| control_refusal(&error))?,
    };
    let here = match own.is_empty() {
        true => Vec::new(),
        false => propose_here(caller, own).await?,
    };
    let refused = |message| (ErrorCode::InvalidConfig, message);
    let mut at_owner = at_owner.into_iter().map(|outcome| outcome.map_err(refused));
    let mut here = here.into_iter();
    let outcomes = is_own.into_iter().map(|is_own| match is_own {
        true => here.next().unwrap_or(Ok(())),
        false => at_owner.next().unwrap_or(Ok(())),
    });
    Ok(outcomes.collect())
}

async fn propose_here(
    caller: &Caller,
    changes: Vec<ConfigChange>,
) -> Result<Vec<Result<(), Refusal>>, Refusal> {
    let described: Vec<String> = changes
        .iter()
        .map(|change| format!("{:?}", change.resource))
        .collect();
    match caller
        .context
        .region
        .control(Command::AlterConfigs { changes })
        .await
    {
        Ok(Outcome::ConfigsAltered(results)) => {
            tracing::info!(resources = ?described, peer = %caller.peer.address, "configs altered");
            let outcome = |result: Result<(), meridian_controller::ConfigError>| {
                result.map_err(|error| (errors::of_config(&error), error.to_string()))
            };
            Ok(results.into_iter().map(outcome).collect())
        }
        Ok(other) => Err(unexpected(&other)),
        Err(error) => Err(control_refusal(&error)),
    }
}
