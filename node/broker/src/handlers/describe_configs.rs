//! DescribeConfigs.

use meridian_controller::{ConfigResource, Controller, DescribedConfig, DescribedSynonym};
use meridian_wire::describe_configs::{
    DescribeConfigsResource, DescribeConfigsResourceResult, DescribeConfigsResult, DescribeConfigsSynonym,
};
use meridian_wire::{DescribeConfigsRequest, DescribeConfigsResponse, Str};

use crate::context::Caller;
use crate::handlers::config_resource;

pub(crate) fn handle(caller: &Caller, request: DescribeConfigsRequest) -> DescribeConfigsResponse {
    let (with_synonyms, with_documentation) = (request.include_synonyms, request.include_documentation);
    let controller = caller.context.region.controller();
    let describe = |resource: DescribeConfigsResource| {
        let found = config_resource::find(&controller, resource.resource_type, &resource.resource_name);
        let mut result = DescribeConfigsResult {
            error_message: None,
            resource_type: resource.resource_type,
            resource_name: resource.resource_name,
            ..Default::default()
        };
        match found {
            Ok(found) => {
                let wanted = resource.configuration_keys;
                let is_wanted = |config: &DescribedConfig| {
                    wanted
                        .as_ref()
                        .is_none_or(|keys| keys.iter().any(|key| **key == *config.name))
                };
                let configs = configs(&controller, found).into_iter().filter(is_wanted);
                result.configs = configs
                    .map(|config| told(config, with_synonyms, with_documentation))
                    .collect();
            }
            Err((error, message)) => {
                result.error_code = caller.code(error);
                result.error_message = Some(message.into());
            }
        }
        result
    };
    DescribeConfigsResponse {
        results: request.resources.into_iter().map(describe).collect(),
        ..Default::default()
    }
}

fn configs(controller: &Controller, resource: ConfigResource) -> Vec<DescribedConfig> {
    match resource {
        ConfigResource::Topic(id) => controller
            .topic_by_id(id)
            .map(|topic| controller.describe_topic(topic))
            .unwrap_or_default(),
        ConfigResource::Cluster => controller.describe_cluster_configs(),
        ConfigResource::Node(node) => controller.describe_broker(node),
    }
}

fn told(
    config: DescribedConfig,
    with_synonyms: bool,
    with_documentation: bool,
) -> DescribeConfigsResourceResult {
    let synonyms = if with_synonyms {
        config.synonyms
    } else {
        Vec::new()
    };
    DescribeConfigsResourceResult {
        name: config.name.into(),
        value: config.value.map(Str::from),
        read_only: config.is_read_only,
        config_source: config.source.number(),
        is_sensitive: config.is_sensitive,
        synonyms: synonyms.into_iter().map(synonym).collect(),
        config_type: config.kind.number(),
        documentation: with_documentation.then(|| config.documentation.into()),
    }
}

fn synonym(synonym: DescribedSynonym) -> DescribeConfigsSynonym {
    DescribeConfigsSynonym {
        name: synonym.name.into(),
        value: synonym.value.map(Str::from),
        source: synonym.source.number(),
    }
}
