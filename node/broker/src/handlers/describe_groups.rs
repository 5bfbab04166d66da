//! DescribeGroups.

use meridian_wire::describe_groups::{DescribedGroup, DescribedGroupMember};
use meridian_wire::{DescribeGroupsRequest, DescribeGroupsResponse, Str};

use crate::context::Caller;
use crate::coordinator::{GroupError, GroupState, MemberDescription};
use crate::handlers::{group_code, once_each};

/// First version that says GROUP_ID_NOT_FOUND; before, an unknown group is a dead one.
const NOT_FOUND_FROM: i16 = 6;

pub(crate) fn handle(caller: &Caller, request: DescribeGroupsRequest) -> DescribeGroupsResponse {
    let groups = once_each(request.groups)
        .map(|group| describe(caller, group))
        .collect();
    DescribeGroupsResponse {
        groups,
        ..Default::default()
    }
}

fn describe(caller: &Caller, group_id: Str) -> DescribedGroup {
    let groups = &caller.context.groups;
    let has_offsets = groups.has_offsets(&group_id);
    match groups
        .coordinator()
        .query(|core| core.describe(&group_id, has_offsets))
    {
        Ok(group) => DescribedGroup {
            group_id,
            group_state: group.state.to_string().into(),
            protocol_type: group.protocol_type.into(),
            protocol_data: group.protocol_name.into(),
            members: group.members.into_iter().map(member).collect(),
            ..Default::default()
        },
        Err(GroupError::GroupNotFound) if caller.version < NOT_FOUND_FROM => DescribedGroup {
            group_id,
            group_state: GroupState::Dead.to_string().into(),
            ..Default::default()
        },
        Err(error) => DescribedGroup {
            error_code: group_code(caller, error),
            error_message: (caller.version >= NOT_FOUND_FROM).then(|| error.to_string().into()),
            group_id,
            group_state: match error {
                GroupError::GroupNotFound => GroupState::Dead.to_string().into(),
                _ => Str::EMPTY,
            },
            ..Default::default()
        },
    }
}

fn member(member: MemberDescription) -> DescribedGroupMember {
    DescribedGroupMember {
        member_id: member.member_id.into(),
        group_instance_id: member.instance_id.map(Str::from),
        client_id: member.client_id.into(),
        client_host: member.client_host.into(),
        member_metadata: member.metadata,
        member_assignment: member.assignment,
    }
}
