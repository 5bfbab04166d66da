//! DescribeCluster: the brokers of the region.

use meridian_wire::describe_cluster::DescribeClusterBroker;
use meridian_wire::{DescribeClusterRequest, DescribeClusterResponse, ErrorCode, Str};

use crate::cluster_view;
use crate::context::Caller;

/// Clients ask brokers; controllers have no listener of their own here.
const ENDPOINT_TYPE_BROKERS: i8 = 1;
const ENDPOINT_TYPE_CONTROLLERS: i8 = 2;

pub(crate) fn handle(caller: &Caller, request: &DescribeClusterRequest) -> DescribeClusterResponse {
    let refuse = |error, message: &str| DescribeClusterResponse {
        error_code: caller.code(error),
        error_message: Some(message.to_owned().into()),
        endpoint_type: request.endpoint_type,
        ..Default::default()
    };
    match request.endpoint_type {
        ENDPOINT_TYPE_BROKERS => {}
        ENDPOINT_TYPE_CONTROLLERS => {
            return refuse(
                ErrorCode::MismatchedEndpointType,
                "this endpoint is a broker, not a controller",
            );
        }
        _ => {
            return refuse(
                ErrorCode::UnsupportedEndpointType,
                "the endpoint type must be 1, brokers",
            );
        }
    }
    let brokers = cluster_view::registered_nodes(caller)
        .into_iter()
        .filter(|node| node.is_alive || request.include_fenced_brokers)
        .map(|node| DescribeClusterBroker {
            broker_id: node.id.0.cast_signed(),
            host: node.endpoint.host.into(),
            port: node.endpoint.port.into(),
            rack: node.rack.map(Str::from),
            is_fenced: !node.is_alive,
        });
    DescribeClusterResponse {
        cluster_id: cluster_view::cluster_id(caller),
        controller_id: cluster_view::controller_id(caller),
        brokers: brokers.collect(),
        endpoint_type: ENDPOINT_TYPE_BROKERS,
        ..Default::default()
    }
}
