//! FindCoordinator: the node that leads a group's shard.

use meridian_wire::find_coordinator::Coordinator;
use meridian_wire::{ErrorCode, FindCoordinatorRequest, FindCoordinatorResponse, Str};

use crate::cluster_view;
use crate::context::Caller;

/// First version that asks for several keys at once.
const BATCH_FROM: i16 = 4;

/// What a key names.
mod key_type {
    pub(super) const GROUP: i8 = 0;
    pub(super) const TRANSACTION: i8 = 1;
}

pub(crate) fn handle(caller: &Caller, request: FindCoordinatorRequest) -> FindCoordinatorResponse {
    if caller.version >= BATCH_FROM {
        let coordinators = request
            .coordinator_keys
            .into_iter()
            .map(|key| coordinator(caller, key, request.key_type))
            .collect();
        return FindCoordinatorResponse {
            coordinators,
            ..Default::default()
        };
    }
    let found = coordinator(caller, request.key, request.key_type);
    FindCoordinatorResponse {
        error_code: found.error_code,
        error_message: found.error_message,
        node_id: found.node_id,
        host: found.host,
        port: found.port,
        ..Default::default()
    }
}

fn coordinator(caller: &Caller, key: Str, key_type: i8) -> Coordinator {
    match find(caller, &key, key_type) {
        Ok(node) => Coordinator {
            key,
            node_id: node.id.0.cast_signed(),
            host: node.endpoint.host.into(),
            port: node.endpoint.port.into(),
            error_message: None,
            ..Default::default()
        },
        Err((error, message)) => Coordinator {
            key,
            node_id: -1,
            port: -1,
            error_code: caller.code(error),
            error_message: Some(message.into()),
            ..Default::default()
        },
    }
}

fn find(caller: &Caller, key: &str, key_type: i8) -> Result<cluster_view::Node, (ErrorCode, &'static str)> {
    match key_type {
        key_type::GROUP => {}
        // Final for the client: with a retriable error it would ask for a minute before it says so.
        key_type::TRANSACTION => {
            return Err((
                ErrorCode::UnsupportedVersion,
                "this broker does not serve transactions",
            ));
        }
        _ => return Err((ErrorCode::InvalidRequest, "this type of coordinator is not known")),
    }
    let region = &caller.context.region;
    cluster_view::leader_of(region, region.group_shard(key))
        .and_then(|(leader, _)| cluster_view::node(caller, leader))
        .ok_or((
            ErrorCode::CoordinatorNotAvailable,
            "the group's shard has no leader at present",
        ))
}
