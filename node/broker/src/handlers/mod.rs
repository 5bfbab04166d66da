//! One file per API. Each turns a decoded request into its response; errors travel inside the response.

pub(crate) mod alter_configs;
pub(crate) mod api_versions;
pub(crate) mod balance_region;
mod config_resource;
pub(crate) mod create_partitions;
pub(crate) mod create_topics;
pub(crate) mod delete_groups;
pub(crate) mod delete_records;
pub(crate) mod delete_topics;
pub(crate) mod describe_cluster;
pub(crate) mod describe_configs;
pub(crate) mod describe_groups;
pub(crate) mod describe_log_dirs;
pub(crate) mod describe_producers;
pub(crate) mod describe_region;
pub(crate) mod describe_topic_partitions;
pub(crate) mod drain_node;
pub(crate) mod fetch;
pub(crate) mod find_coordinator;
pub(crate) mod heartbeat;
pub(crate) mod incremental_alter_configs;
pub(crate) mod init_producer_id;
pub(crate) mod join_group;
pub(crate) mod leave_group;
pub(crate) mod list_config_resources;
pub(crate) mod list_groups;
pub(crate) mod list_offsets;
pub(crate) mod metadata;
pub(crate) mod mirror;
pub(crate) mod offset_commit;
pub(crate) mod offset_delete;
pub(crate) mod offset_fetch;
pub(crate) mod offset_for_leader_epoch;
pub(crate) mod produce;
pub(crate) mod sync_group;
pub(crate) mod unregister_broker;

use std::collections::HashSet;

use meridian_wire::Str;

use crate::context::Caller;
use crate::coordinator::GroupError;
use crate::errors;

/// The number of a group's error on its way to the client; counted.
fn group_code(caller: &Caller, error: GroupError) -> i16 {
    caller.code(errors::of_group(error))
}

/// Names without their repetitions, which must not multiply an answer.
fn once_each(names: Vec<Str>) -> impl Iterator<Item = Str> {
    let mut seen = HashSet::new();
    names.into_iter().filter(move |name| seen.insert(name.clone()))
}

/// Waits for a group's answer, but not beyond the end of the broker: members rejoin elsewhere.
async fn unless_draining<T>(caller: &Caller, answer: impl Future<Output = T>, stopped: T) -> T {
    tokio::select! {
        biased;
        answer = answer => answer,
        () = caller.context.draining.cancelled() => stopped,
    }
}
