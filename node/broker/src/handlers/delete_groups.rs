//! DeleteGroups.

use meridian_wire::delete_groups::DeletableGroupResult;
use meridian_wire::{DeleteGroupsRequest, DeleteGroupsResponse};

use crate::context::Caller;
use crate::handlers::group_code;

pub(crate) async fn handle(caller: &Caller, request: DeleteGroupsRequest) -> DeleteGroupsResponse {
    let groups = &caller.context.groups;
    let mut results = Vec::with_capacity(request.groups_names.len());
    for group_id in request.groups_names {
        let has_offsets = groups.has_offsets(&group_id);
        let error_code = match groups.coordinator().delete(&group_id, has_offsets).await {
            Ok(()) => 0,
            Err(error) => group_code(caller, error),
        };
        results.push(DeletableGroupResult { group_id, error_code });
    }
    DeleteGroupsResponse {
        results,
        ..Default::default()
    }
}
