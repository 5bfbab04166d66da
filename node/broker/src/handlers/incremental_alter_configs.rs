//! IncrementalAlterConfigs: single configs of a resource (KIP-339).

use meridian_controller::ConfigOp;
use meridian_wire::incremental_alter_configs::{
    AlterConfigsResource, AlterConfigsResourceResponse, AlterableConfig,
};
use meridian_wire::{ErrorCode, IncrementalAlterConfigsRequest, IncrementalAlterConfigsResponse};

use crate::context::Caller;
use crate::handlers::config_resource::{self, Alteration};
use crate::topic_creation::Refusal;

pub(crate) async fn handle(
    caller: &Caller,
    request: IncrementalAlterConfigsRequest,
) -> IncrementalAlterConfigsResponse {
    let alterations = request.resources.iter().map(alteration).collect();
    let outcomes = config_resource::alter(caller, alterations, false, request.validate_only).await;
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
    IncrementalAlterConfigsResponse {
        responses: responses.collect(),
        ..Default::default()
    }
}

fn alteration(resource: &AlterConfigsResource) -> Alteration {
    Alteration {
        kind: resource.resource_type,
        name: resource.resource_name.to_string(),
        ops: resource.configs.iter().map(op).collect(),
    }
}

fn op(config: &AlterableConfig) -> Result<ConfigOp, Refusal> {
    let name = config.name.to_string();
    let value = || match &config.value {
        Some(value) => Ok(value.to_string()),
        None => Err((
            ErrorCode::InvalidConfig,
            format!("config '{}' has no value", config.name),
        )),
    };
    Ok(match config.config_operation {
        0 => ConfigOp::Set {
            value: value()?,
            name,
        },
        1 => ConfigOp::Delete { name },
        2 => ConfigOp::Append {
            value: value()?,
            name,
        },
        3 => ConfigOp::Subtract {
            value: value()?,
            name,
        },
        other => {
            let message = format!(
                "config '{name}': operation {other} is not known; 0 sets, 1 deletes, 2 appends, 3 subtracts"
            );
            return Err((ErrorCode::InvalidRequest, message));
        }
    })
}
