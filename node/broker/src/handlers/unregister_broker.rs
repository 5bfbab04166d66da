//! UnregisterBroker: takes a node out of the region for good.

use meridian_controller::{Command, Outcome};
use meridian_types::NodeId;
use meridian_wire::{ErrorCode, UnregisterBrokerRequest, UnregisterBrokerResponse};

use crate::context::Caller;
use crate::errors;
use crate::topic_creation::{Refusal, control_refusal, unexpected};

pub(crate) async fn handle(caller: &Caller, request: &UnregisterBrokerRequest) -> UnregisterBrokerResponse {
    let (error, error_message) = match remove(caller, request.broker_id).await {
        Ok(()) => (ErrorCode::None, None),
        Err((error, message)) => (error, Some(message.into())),
    };
    UnregisterBrokerResponse {
        error_code: caller.code(error),
        error_message,
        ..Default::default()
    }
}

/// A node that is alive must have been drained. One that is not heard is lost to whoever asks for this: it goes as it
/// is, unless it holds the only replica of something.
async fn remove(caller: &Caller, broker_id: i32) -> Result<(), Refusal> {
    let region = &caller.context.region;
    let node = NodeId(broker_id.cast_unsigned());
    if region.controller().node(node).is_none() {
        return Err((
            ErrorCode::BrokerIdNotRegistered,
            format!("there is no broker {broker_id}"),
        ));
    }
    let force = !region.alive_nodes().contains(&node);
    match region.control(Command::RemoveNode { node, force }).await {
        Ok(Outcome::NodeRemoved(Ok(()))) => {
            tracing::info!(%node, force, peer = %caller.peer.address, "node removed from the region");
            Ok(())
        }
        Ok(Outcome::NodeRemoved(Err(error))) => Err((errors::of_remove_node(&error), error.to_string())),
        Ok(other) => Err(unexpected(&other)),
        Err(error) => Err(control_refusal(&error)),
    }
}
