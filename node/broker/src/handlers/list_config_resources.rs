//! ListConfigResources: what has configs (KIP-1142).

use meridian_wire::list_config_resources::ConfigResource;
use meridian_wire::{ErrorCode, ListConfigResourcesRequest, ListConfigResourcesResponse};

use crate::context::Caller;
use crate::handlers::config_resource::resource_type;

/// Every type that this API knows, in Kafka's order.
const TYPES: [i8; 5] = [
    resource_type::TOPIC,
    resource_type::BROKER,
    resource_type::BROKER_LOGGER,
    resource_type::CLIENT_METRICS,
    resource_type::GROUP,
];

pub(crate) fn handle(caller: &Caller, request: &ListConfigResourcesRequest) -> ListConfigResourcesResponse {
    // Version 0 asks for client metrics only.
    let wanted: Vec<i8> = match (caller.version, request.resource_types.is_empty()) {
        (0, _) => vec![resource_type::CLIENT_METRICS],
        (_, true) => TYPES.to_vec(),
        (_, false) => request.resource_types.clone(),
    };
    if wanted.iter().any(|kind| !TYPES.contains(kind)) {
        let error_code = caller.code(ErrorCode::UnsupportedVersion);
        return ListConfigResourcesResponse {
            error_code,
            ..Default::default()
        };
    }
    let controller = caller.context.region.controller();
    let mut config_resources = Vec::new();
    for resource_type in TYPES.into_iter().filter(|kind| wanted.contains(kind)) {
        let resource = |name: String| ConfigResource {
            resource_name: name.into(),
            resource_type,
        };
        match resource_type {
            resource_type::TOPIC => {
                config_resources.extend(controller.topics().map(|topic| resource(topic.name.to_string())));
            }
            resource_type::BROKER | resource_type::BROKER_LOGGER => {
                let nodes = controller
                    .nodes()
                    .map(|node| resource(node.registration.node.to_string()));
                config_resources.extend(nodes);
            }
            // Neither client metrics nor groups have configs here.
            _ => {}
        }
    }
    ListConfigResourcesResponse {
        config_resources,
        ..Default::default()
    }
}
