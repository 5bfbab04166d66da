//! LeaveGroup.

use meridian_wire::leave_group::{MemberIdentity, MemberResponse};
use meridian_wire::{LeaveGroupRequest, LeaveGroupResponse, Str};

use crate::context::Caller;
use crate::coordinator::{LeaveRequest, LeavingMember, LeftMember};
use crate::handlers::group_code;

/// First version for several members at once.
const BATCH_FROM: i16 = 3;

pub(crate) async fn handle(caller: &Caller, request: LeaveGroupRequest) -> LeaveGroupResponse {
    let members = if caller.version >= BATCH_FROM {
        request.members.into_iter().map(leaving).collect()
    } else {
        vec![LeavingMember {
            member_id: request.member_id.into(),
            instance_id: None,
            reason: None,
        }]
    };
    let request = LeaveRequest {
        group_id: request.group_id.into(),
        members,
    };
    match caller.context.groups.coordinator().leave(request).await {
        Ok(left) if caller.version >= BATCH_FROM => {
            let members = left.into_iter().map(|member| outcome(caller, member)).collect();
            LeaveGroupResponse {
                members,
                ..Default::default()
            }
        }
        // With one member its outcome is that of the request.
        Ok(left) => {
            let error = left.into_iter().find_map(|member| member.result.err());
            LeaveGroupResponse {
                error_code: error.map_or(0, |error| group_code(caller, error)),
                ..Default::default()
            }
        }
        Err(error) => LeaveGroupResponse {
            error_code: group_code(caller, error),
            ..Default::default()
        },
    }
}

fn leaving(member: MemberIdentity) -> LeavingMember {
    LeavingMember {
        member_id: member.member_id.into(),
        instance_id: member.group_instance_id.map(String::from),
        reason: member.reason.map(String::from),
    }
}

fn outcome(caller: &Caller, member: LeftMember) -> MemberResponse {
    MemberResponse {
        member_id: member.member_id.into(),
        group_instance_id: member.instance_id.map(Str::from),
        error_code: member.result.err().map_or(0, |error| group_code(caller, error)),
    }
}
