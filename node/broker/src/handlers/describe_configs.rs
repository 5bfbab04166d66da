//! DescribeConfigs.

use std::collections::HashSet;

use meridian_controller::{ConfigResource, ConfigSource, Controller, DescribedConfig, DescribedSynonym};
use meridian_types::NodeId;
use meridian_wire::describe_configs::{
    DescribeConfigsResource, DescribeConfigsResourceResult, DescribeConfigsResult, DescribeConfigsSynonym,
};
use meridian_wire::{DescribeConfigsRequest, DescribeConfigsResponse, Str};

use crate::budget::ByteLease;
use crate::configs::Configs;
use crate::context::Caller;
use crate::handlers::config_resource;

/// Memory of one resource with its configs and their documentation in an answer.
const RESOURCE_BYTES: usize = 16 << 10;

pub(crate) async fn handle(
    caller: &Caller,
    request: DescribeConfigsRequest,
    lease: &mut Option<ByteLease>,
) -> DescribeConfigsResponse {
    let (with_synonyms, with_documentation) = (request.include_synonyms, request.include_documentation);
    // A resource that is named more than once is told once: repetition must not multiply the answer.
    let mut seen = HashSet::new();
    let mut resources = request.resources;
    resources.retain(|resource| seen.insert((resource.resource_type, resource.resource_name.clone())));
    *lease = caller.reserve(resources.len() * RESOURCE_BYTES).await;
    let started_with = caller.context.configs();
    let region = &caller.context.region;
    let controller = region.controller();
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
                // No keys at all means every key, as in Kafka.
                let wanted = resource.configuration_keys.unwrap_or_default();
                let is_wanted = |config: &DescribedConfig| {
                    wanted.is_empty() || wanted.iter().any(|key| **key == *config.name)
                };
                let is_topic = matches!(found, ConfigResource::Topic(_));
                let mut configs = configs(&controller, &started_with, region.node_id(), found);
                if is_topic && region.has_bucket() {
                    configs.iter_mut().for_each(show_tiered);
                }
                let configs = configs.into_iter().filter(is_wanted);
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
        results: resources.into_iter().map(describe).collect(),
        ..Default::default()
    }
}

fn configs(
    controller: &Controller,
    started_with: &Configs,
    this_node: NodeId,
    resource: ConfigResource,
) -> Vec<DescribedConfig> {
    match resource {
        ConfigResource::Topic(id) => controller
            .topic_by_id(id)
            .map(|topic| controller.describe_topic(topic))
            .unwrap_or_default(),
        ConfigResource::Cluster => controller.describe_cluster_configs(),
        ConfigResource::Node(node) => {
            let mut configs = controller.describe_broker(node);
            if node == this_node {
                configs.iter_mut().for_each(|config| started_with.show_in(config));
            }
            configs
        }
    }
}

/// A region with a bucket brings every topic there, whatever its default says.
fn show_tiered(config: &mut DescribedConfig) {
    if config.name == "remote.storage.enable" && config.source == ConfigSource::Default {
        config.value = Some("true".to_owned());
        config.source = ConfigSource::StaticBroker;
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
