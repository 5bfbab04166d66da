//! SyncGroup.

use bytes::Bytes;
use meridian_wire::sync_group::SyncGroupRequestAssignment;
use meridian_wire::{ErrorCode, Str, SyncGroupRequest, SyncGroupResponse};

use crate::context::Caller;
use crate::coordinator::{GroupError, SyncRequest};
use crate::handlers::{group_code, unless_draining};

/// First version that must name the protocol.
const PROTOCOL_FROM: i16 = 5;

pub(crate) async fn handle(caller: &Caller, request: SyncGroupRequest) -> SyncGroupResponse {
    if caller.version >= PROTOCOL_FROM && (request.protocol_type.is_none() || request.protocol_name.is_none())
    {
        let error_code = caller.code(ErrorCode::InconsistentGroupProtocol);
        return SyncGroupResponse {
            error_code,
            ..Default::default()
        };
    }
    let request = SyncRequest {
        group_id: request.group_id.into(),
        member_id: request.member_id.into(),
        instance_id: request.group_instance_id.map(String::from),
        generation: request.generation_id,
        protocol_type: request.protocol_type.map(String::from),
        protocol_name: request.protocol_name.map(String::from),
        assignments: request.assignments.into_iter().map(assignment).collect(),
    };
    let syncing = caller.context.groups.coordinator().sync(request);
    match unless_draining(caller, syncing, Err(GroupError::NotAvailable)).await {
        Ok(synced) => SyncGroupResponse {
            protocol_type: synced.protocol_type.map(Str::from),
            protocol_name: synced.protocol_name.map(Str::from),
            assignment: synced.assignment,
            ..Default::default()
        },
        Err(error) => SyncGroupResponse {
            error_code: group_code(caller, error),
            ..Default::default()
        },
    }
}

fn assignment(assignment: SyncGroupRequestAssignment) -> (String, Bytes) {
    // A copy, because the group outlives the frame that this is a part of.
    (
        assignment.member_id.into(),
        Bytes::copy_from_slice(&assignment.assignment),
    )
}
