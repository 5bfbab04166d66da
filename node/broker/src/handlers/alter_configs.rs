//! AlterConfigs: all configs of a resource at once; what is not named goes back to its default.

use meridian_controller::ConfigOp;
use meridian_wire::alter_configs::{AlterConfigsResource, AlterConfigsResourceResponse};
use meridian_wire::{AlterConfigsRequest, AlterConfigsResponse, ErrorCode};

use crate::context::Caller;
use crate::handlers::config_resource::{self, Alteration};

pub(crate) async fn handle(caller: &Caller, request: AlterConfigsRequest) -> AlterConfigsResponse {
    let alterations = request.resources.iter().map(alteration).collect();
    let outcomes = config_resource::alter(caller, alterations, true, request.validate_only).await;
    let resources = request
        .resources
        .into_iter()
        .map(|it| (it.resource_type, it.resource_name));
    let responses =
        config_resource::answers(caller, resources, outcomes).map(|it| AlterConfigsResourceResponse {
            error_code: it.error_code,
            error_message: it.error_message,
            resource_type: it.resource_type,
            resource_name: it.resource_name,
        });
    AlterConfigsResponse {
        responses: responses.collect(),
        ..Default::default()
    }
}

fn alteration(resource: &AlterConfigsResource) -> Alteration {
    let op = |config: &meridian_wire::alter_configs::AlterableConfig| match &config.value {
        Some(value) => Ok(ConfigOp::Set {
            name: config.name.to_string(),
            value: value.to_string(),
        }),
        None => Err((
            ErrorCode::InvalidConfig,
            format!("config '{}' has no value", config.name),
        )),
    };
    Alteration {
        kind: resource.resource_type,
        name: resource.resource_name.to_string(),
        ops: resource.configs.iter().map(op).collect(),
    }
}
