//! DescribeRegion: nodes and shards as this node knows them. Meridian's own.

use meridian_controller::Founding;
use meridian_controller::plan::{self, Progress};
use meridian_shard::{BucketStanding, MemberStatus, NodeStatus, ReplicaStatus, ShardStatus, TierUsage};
use meridian_types::{NodeId, RaftIndex};
use meridian_wire::describe_region::{RegionNode, RegionReplica, RegionShard};
use meridian_wire::{DescribeRegionResponse, Str};

use crate::context::Caller;
use crate::settings::HostPort;

pub(crate) async fn handle(caller: &Caller) -> DescribeRegionResponse {
    let region = &caller.context.region;
    let sight = region.sight().await;
    let progress = plan::progress(&region.controller(), &sight, &region.plan_settings());
    let status = region.status();
    let nodes = status
        .nodes
        .iter()
        .map(|it| node(caller, it, &progress))
        .collect();
    let bucket = region.tier_usage();
    let failure = bucket.as_ref().and_then(|usage| usage.last_failure.clone());
    let controller = region.controller();
    let told = |name: fn(&Founding) -> &String| {
        let name = controller.founding().map(name).cloned();
        Str::from(name.unwrap_or_default())
    };
    DescribeRegionResponse {
        node_id: id(status.node),
        cluster_id: told(|founding| &founding.cluster_id),
        region: told(|founding| &founding.region),
        copies: count(controller.copies_wanted()),
        feature_level: controller.feature_level().into(),
        nodes,
        shards: status
            .shards
            .iter()
            .map(|it| shard(it, bucket.as_ref()))
            .collect(),
        bucket_standing: bucket.as_ref().map_or(-1, |usage| standing(usage.standing)),
        bucket_error_at_ms: failure.as_ref().map_or(-1, |failure| failure.at.0),
        bucket_error: failure.map(|failure| failure.reason.into()),
        disk_full: region.disk_full().map(Str::from),
        ..Default::default()
    }
}

fn node(caller: &Caller, status: &NodeStatus, progress: &Progress) -> RegionNode {
    let registration = &status.node.registration;
    let mut told = RegionNode {
        node_id: id(registration.node),
        rack: registration.rack.clone().map(Str::from),
        version_max: registration.version_max.into(),
        is_alive: status.is_alive,
        is_draining: status.node.draining,
        ..Default::default()
    };
    let moving = progress.nodes.iter().find(|it| it.node == registration.node);
    if let Some(moving) = moving {
        (told.arriving, told.leaving, told.stuck) =
            (count(moving.arriving), count(moving.leaving), count(moving.stuck));
    }
    if let Some(kafka) = &registration.kafka {
        let known = HostPort {
            host: kafka.host.clone(),
            port: kafka.port,
        };
        let reached = caller.endpoint(registration.node, known);
        (told.host, told.port) = (reached.host.into(), reached.port.into());
    }
    if let Some(peer) = &status.address {
        (told.peer_host, told.peer_port) = (peer.host.clone().into(), peer.port.into());
    }
    told
}

fn standing(standing: BucketStanding) -> i8 {
    match standing {
        BucketStanding::Unknown => 0,
        BucketStanding::Ours => 1,
        BucketStanding::Refused => 2,
        BucketStanding::Lost => 3,
    }
}

fn shard(status: &ShardStatus, bucket: Option<&TierUsage>) -> RegionShard {
    let mut told = RegionShard {
        shard: status.shard.0.cast_signed(),
        leader_id: status.leader.map_or(-1, id),
        leader_epoch: status.leader_epoch.map_or(-1, |epoch| epoch.0.cast_signed()),
        placement: status.placement.iter().copied().map(id).collect(),
        stopped: status.stopped.as_deref().map(|reason| reason.to_owned().into()),
        ..Default::default()
    };
    let waiting = bucket.and_then(|usage| usage.shards.iter().find(|it| it.shard == status.shard));
    if let Some(waiting) = waiting {
        told.waiting_bytes = i64::try_from(waiting.waiting_bytes).unwrap_or(i64::MAX);
        told.waiting_ms = i64::try_from(waiting.waiting_for.as_millis()).unwrap_or(i64::MAX);
    }
    if let Some(replica) = &status.replica {
        let ReplicaStatus {
            committed,
            partitions,
            members,
            ..
        } = replica;
        told.is_held = true;
        told.committed_index = index(*committed);
        told.partitions = count(*partitions);
        told.replicas = members.iter().map(member).collect();
    }
    told
}

fn member(status: &MemberStatus) -> RegionReplica {
    RegionReplica {
        node_id: id(status.node),
        is_voter: status.is_voter,
        matched_index: status.matched.map_or(-1, index),
    }
}

fn id(node: NodeId) -> i32 {
    node.0.cast_signed()
}

fn count(count: usize) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX)
}

/// An index as the protocol has it.
fn index(index: RaftIndex) -> i64 {
    i64::try_from(index.0).unwrap_or(i64::MAX)
}
