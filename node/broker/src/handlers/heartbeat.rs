//! Heartbeat.

use meridian_wire::{HeartbeatRequest, HeartbeatResponse};

use crate::context::Caller;
use crate::coordinator;
use crate::handlers::group_code;

pub(crate) fn handle(caller: &Caller, request: HeartbeatRequest) -> HeartbeatResponse {
    let request = coordinator::HeartbeatRequest {
        group_id: request.group_id.into(),
        member_id: request.member_id.into(),
        instance_id: request.group_instance_id.map(String::from),
        generation: request.generation_id,
    };
    let error_code = match caller.context.groups.coordinator().heartbeat(&request) {
        Ok(()) => 0,
        Err(error) => group_code(caller, error),
    };
    HeartbeatResponse {
        error_code,
        ..Default::default()
    }
}
