//! ListGroups: the groups that this node coordinates.

use meridian_wire::list_groups::ListedGroup;
use meridian_wire::{ListGroupsRequest, ListGroupsResponse};

use crate::context::Caller;
use crate::coordinator::{self, ListFilter};
use crate::handlers::group_code;

pub(crate) fn handle(caller: &Caller, request: ListGroupsRequest) -> ListGroupsResponse {
    let filter = ListFilter {
        states: request.states_filter.into_iter().map(String::from).collect(),
        types: request.types_filter.into_iter().map(String::from).collect(),
    };
    let groups = &caller.context.groups;
    let with_offsets = groups.names_with_offsets();
    match groups
        .coordinator()
        .query(|core| core.list(&filter, with_offsets.iter().map(String::as_str)))
    {
        Ok(listed) => ListGroupsResponse {
            groups: listed.into_iter().map(group).collect(),
            ..Default::default()
        },
        Err(error) => ListGroupsResponse {
            error_code: group_code(caller, error),
            ..Default::default()
        },
    }
}

fn group(group: coordinator::ListedGroup) -> ListedGroup {
    ListedGroup {
        group_id: group.group_id.into(),
        protocol_type: group.protocol_type.into(),
        group_state: group.state.to_string().into(),
        group_type: "classic".into(),
    }
}
