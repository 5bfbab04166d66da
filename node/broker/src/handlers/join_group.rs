//! JoinGroup.

use bytes::Bytes;
use meridian_wire::join_group::{JoinGroupRequestProtocol, JoinGroupResponseMember};
use meridian_wire::{JoinGroupRequest, JoinGroupResponse, Str};

use crate::context::Caller;
use crate::coordinator::{Client, GroupError, JoinMember, JoinRefused, JoinRequest, JoinResult, Protocol};
use crate::handlers::{group_code, unless_draining};

/// First version whose protocol name may be null.
const NULL_PROTOCOL_FROM: i16 = 7;

pub(crate) async fn handle(caller: &Caller, request: JoinGroupRequest) -> JoinGroupResponse {
    let request = JoinRequest {
        api_version: caller.version,
        group_id: request.group_id.into(),
        member_id: request.member_id.into(),
        instance_id: request.group_instance_id.map(String::from),
        client: Client {
            id: caller
                .client_id
                .as_ref()
                .map_or_else(String::new, |id| id.to_string()),
            host: format!("/{}", caller.peer.address.ip()),
        },
        session_timeout_ms: request.session_timeout_ms,
        rebalance_timeout_ms: match caller.version {
            0 => request.session_timeout_ms,
            _ => request.rebalance_timeout_ms,
        },
        protocol_type: request.protocol_type.into(),
        protocols: request.protocols.into_iter().map(protocol).collect(),
        reason: request.reason.map(String::from),
    };
    let stopped = Err(JoinRefused {
        error: GroupError::NotAvailable,
        member_id: request.member_id.clone(),
    });
    let joining = caller.context.groups.coordinator().join(request);
    let result = unless_draining(caller, joining, stopped).await;
    respond(caller, result)
}

fn protocol(protocol: JoinGroupRequestProtocol) -> Protocol {
    // A copy, because the group outlives the frame that this is a part of.
    Protocol {
        name: protocol.name.into(),
        metadata: Bytes::copy_from_slice(&protocol.metadata),
    }
}

fn respond(caller: &Caller, result: JoinResult) -> JoinGroupResponse {
    let no_protocol = (caller.version < NULL_PROTOCOL_FROM).then_some(Str::EMPTY);
    match result {
        Ok(joined) => JoinGroupResponse {
            generation_id: joined.generation,
            protocol_type: joined.protocol_type.map(Str::from),
            protocol_name: joined.protocol_name.map(Str::from).or(no_protocol),
            leader: joined.leader.into(),
            // Versions before 9 cannot say it, and their leaders were not told to skip.
            skip_assignment: joined.skip_assignment && caller.version >= 9,
            member_id: joined.member_id.into(),
            members: joined.members.into_iter().map(member).collect(),
            ..Default::default()
        },
        Err(refused) => JoinGroupResponse {
            error_code: group_code(caller, refused.error),
            protocol_name: no_protocol,
            member_id: refused.member_id.into(),
            ..Default::default()
        },
    }
}

fn member(member: JoinMember) -> JoinGroupResponseMember {
    JoinGroupResponseMember {
        member_id: member.member_id.into(),
        group_instance_id: member.instance_id.map(Str::from),
        metadata: member.metadata,
    }
}
