//! DrainNode: has the shards of a node moved to others, or takes that back. Meridian's own.

use meridian_controller::{Command, Outcome};
use meridian_types::NodeId;
use meridian_wire::{DrainNodeRequest, DrainNodeResponse, ErrorCode};

use crate::context::Caller;
use crate::topic_creation::{Refusal, control_refusal, unexpected};

pub(crate) async fn handle(caller: &Caller, request: &DrainNodeRequest) -> DrainNodeResponse {
    let (error, error_message) = match drain(caller, request).await {
        Ok(()) => (ErrorCode::None, None),
        Err((error, message)) => (error, Some(message.into())),
    };
    DrainNodeResponse {
        error_code: caller.code(error),
        error_message,
    }
}

async fn drain(caller: &Caller, request: &DrainNodeRequest) -> Result<(), Refusal> {
    let node = NodeId(request.node_id.cast_unsigned());
    let command = Command::DrainNode {
        node,
        draining: !request.undo,
    };
    match caller.context.region.control(command).await {
        Ok(Outcome::NodeDrained(Ok(()))) => {
            tracing::info!(%node, undo = request.undo, peer = %caller.peer.address, "node draining");
            Ok(())
        }
        Ok(Outcome::NodeDrained(Err(error))) => Err((ErrorCode::BrokerIdNotRegistered, error.to_string())),
        Ok(other) => Err(unexpected(&other)),
        Err(error) => Err(control_refusal(&error)),
    }
}
