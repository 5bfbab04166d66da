//! DescribeMirror, SwitchOver, AlterRegion, ThrottleLink: the mirror between regions. Meridian's own.

use std::time::Duration;

use meridian_controller::{Command, GeoRegion, HostPort, Outcome};
use meridian_shard::{MirrorLinkStatus, MirrorRegionStatus, MirrorShardStatus, SwitchOverError};
use meridian_types::RegionNumber;
use meridian_wire::describe_mirror as wire;
use meridian_wire::{
    AlterRegionRequest, AlterRegionResponse, DescribeMirrorRequest, DescribeMirrorResponse, ErrorCode, Str,
    SwitchOverRequest, SwitchOverResponse, ThrottleLinkRequest, ThrottleLinkResponse,
};

use crate::context::Caller;
use crate::topic_creation::{Refusal, check_owner, control_refusal, unexpected};

pub(crate) fn describe(caller: &Caller, request: &DescribeMirrorRequest) -> DescribeMirrorResponse {
    let region = &caller.context.region;
    let status = region.mirror_status();
    let name = {
        let controller = region.controller();
        let founding = controller.founding();
        founding
            .map(|founding| founding.region.clone())
            .unwrap_or_default()
    };
    let partitions = match request.include_partitions {
        true => region.partition_digests(),
        false => Vec::new(),
    };
    DescribeMirrorResponse {
        node_id: region.node_id().0.cast_signed(),
        cluster_id: region.cluster_id().into(),
        region_number: status.number.0.into(),
        region: name.into(),
        region_epoch: status.region_epoch.0.cast_signed(),
        owner: status.owner.0.into(),
        draining_to: status.draining.map_or(-1, |(to, _)| to.0.into()),
        drain_deadline_ms: status.draining.map_or(-1, |(_, deadline)| deadline.0),
        regions: status.regions.iter().map(region_row).collect(),
        links: status.links.iter().map(link_row).collect(),
        shards: status.shards.iter().map(shard_row).collect(),
        partitions: partitions
            .into_iter()
            .map(|it| wire::MirrorPartition {
                topic: it.topic.into(),
                topic_id: it.partition.topic.0,
                partition: it.partition.index.cast_signed(),
                end_offset: signed(it.end_offset.0),
                digest: it.digest.cast_signed(),
            })
            .collect(),
        ..Default::default()
    }
}

fn region_row(region: &MirrorRegionStatus) -> wire::MirrorRegion {
    let nodes = region.nodes.iter().map(|node| wire::MirrorNode {
        node_id: node.id.0.cast_signed(),
        host: node.host.clone().into(),
        port: node.port.into(),
        rack: node.rack.clone().map(Str::from),
    });
    wire::MirrorRegion {
        number: region.number.0.into(),
        name: region.name.clone().into(),
        addresses: region.addresses.iter().map(|it| it.clone().into()).collect(),
        is_registered: region.is_registered,
        heard_ms: region.heard.map_or(-1, millis),
        region_epoch: region.believes.map_or(-1, |(epoch, _)| epoch.0.cast_signed()),
        owner: region.believes.map_or(-1, |(_, owner)| owner.0.into()),
        nodes: nodes.collect(),
    }
}

fn link_row(link: &MirrorLinkStatus) -> wire::MirrorLink {
    wire::MirrorLink {
        region: link.region.0.into(),
        address: link.address.clone().into(),
        transport: link.transport.unwrap_or_default().into(),
        state: link.state.clone().into(),
        rtt_us: link
            .rtt
            .map_or(-1, |rtt| i64::try_from(rtt.as_micros()).unwrap_or(i64::MAX)),
        sent_bytes: signed(link.sent_bytes),
        received_bytes: signed(link.received_bytes),
        sent_packets: signed(link.sent_packets),
        lost_packets: signed(link.lost_packets),
        frame_bytes: signed(link.frame_bytes),
        compressed_bytes: signed(link.compressed_bytes),
        bytes_per_second_max: signed(link.bytes_per_second_max.unwrap_or(0)),
        lag_sequences: link.lag_sequences.map_or(-1, signed),
        lag_bytes: link.lag_bytes.map_or(-1, signed),
        staleness_ms: link.staleness.map_or(-1, millis),
    }
}

fn shard_row(shard: &MirrorShardStatus) -> wire::MirrorShard {
    wire::MirrorShard {
        shard: shard.shard.0.cast_signed(),
        role: shard.role.to_string().into(),
        region_epoch: shard.region_epoch.0.cast_signed(),
        sequence: signed(shard.sequence),
        digest: shard.digest.cast_signed(),
        follows: shard.follows.map_or(-1, |region| region.0.into()),
        source_sequence: shard.source_sequence.map_or(-1, signed),
        staleness_ms: shard.staleness.map_or(-1, millis),
        lag_bytes: shard.lag_bytes.map_or(-1, signed),
        refusal: shard.refusal.clone().map(Str::from),
        diverged_at: shard.diverged_at.map_or(-1, signed),
        acks: shard
            .acks
            .iter()
            .map(|(region, sequence)| wire::MirrorAck {
                region: region.0.into(),
                sequence: signed(*sequence),
            })
            .collect(),
    }
}

fn signed(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

fn millis(time: Duration) -> i64 {
    i64::try_from(time.as_millis()).unwrap_or(i64::MAX)
}

pub(crate) async fn switch_over(caller: &Caller, request: &SwitchOverRequest) -> SwitchOverResponse {
    let (error, error_message, region_epoch) = match begin_switchover(caller, request).await {
        Ok(region_epoch) => (ErrorCode::None, None, region_epoch),
        Err((error, message)) => (error, Some(message.into()), -1),
    };
    SwitchOverResponse {
        error_code: caller.code(error),
        error_message,
        region_epoch,
    }
}

async fn begin_switchover(caller: &Caller, request: &SwitchOverRequest) -> Result<i32, Refusal> {
    let region = &caller.context.region;
    let to = named(caller, &request.to)?;
    let timeout = Duration::from_millis(u64::try_from(request.timeout_ms).unwrap_or(0));
    if timeout.is_zero() {
        let message = format!("timeout_ms is {}, expected at least 1", request.timeout_ms);
        return Err((ErrorCode::InvalidRequest, message));
    }
    {
        let controller = region.controller();
        if controller.is_owned_elsewhere() {
            // The one who asks looks for the owner's controller, and goes there.
            check_owner(&controller)?;
        }
    }
    tracing::warn!(%to, ?timeout, peer = %caller.peer.address, "a switchover is asked for");
    match region.switch_over(to, timeout).await {
        Ok(epoch) => Ok(epoch.0.cast_signed()),
        Err(SwitchOverError::Refused(reason)) => Err((ErrorCode::InvalidRequest, reason)),
        Err(SwitchOverError::Control(error)) => Err(control_refusal(&error)),
    }
}

/// A region by its name or number.
fn named(caller: &Caller, name: &str) -> Result<RegionNumber, Refusal> {
    let number = name.parse().ok().map(RegionNumber);
    let regions = caller.context.region.mirror_status().regions;
    let found = regions
        .iter()
        .find(|it| it.name == name || Some(it.number) == number);
    found.map(|region| region.number).ok_or_else(|| {
        let known: Vec<_> = regions
            .iter()
            .map(|it| format!("{} ({})", it.name, it.number))
            .collect();
        let message = format!("there is no region {name:?}; known are {}", known.join(", "));
        (ErrorCode::InvalidRequest, message)
    })
}

pub(crate) async fn alter_region(caller: &Caller, request: &AlterRegionRequest) -> AlterRegionResponse {
    let (error, error_message) = match set_or_remove(caller, request).await {
        Ok(()) => (ErrorCode::None, None),
        Err((error, message)) => (error, Some(message.into())),
    };
    AlterRegionResponse {
        error_code: caller.code(error),
        error_message,
    }
}

async fn set_or_remove(caller: &Caller, request: &AlterRegionRequest) -> Result<(), Refusal> {
    let invalid = |message: String| (ErrorCode::InvalidRequest, message);
    let number = u16::try_from(request.number).ok().map(RegionNumber);
    let number = number
        .filter(|number| *number <= RegionNumber::MAX)
        .ok_or_else(|| {
            invalid(format!(
                "region number {} is not one of 0 to {}",
                request.number,
                RegionNumber::MAX
            ))
        })?;
    let command = match &request.name {
        None => Command::RemoveRegion { number },
        Some(name) => {
            let geo = request.addresses.iter().map(|text| {
                host_and_port(text)
                    .ok_or_else(|| invalid(format!("{text:?} is no address, expected HOST:PORT")))
            });
            Command::SetRegion(GeoRegion {
                number,
                name: name.to_string(),
                geo: geo.collect::<Result<_, Refusal>>()?,
            })
        }
    };
    match caller.context.region.control(command).await {
        Ok(Outcome::RegionSet(result) | Outcome::RegionRemoved(result)) => {
            result.map_err(|error| invalid(error.to_string()))?;
            tracing::info!(%number, peer = %caller.peer.address, "a region was changed");
            Ok(())
        }
        Ok(Outcome::NotOwner(error)) => Err((ErrorCode::NotController, error.to_string())),
        Ok(other) => Err(unexpected(&other)),
        Err(error) => Err(control_refusal(&error)),
    }
}

/// An IPv6 host stands in brackets.
fn host_and_port(text: &str) -> Option<HostPort> {
    let (host, port) = text.rsplit_once(':')?;
    let host = host.trim_start_matches('[').trim_end_matches(']');
    Some(HostPort {
        host: (!host.is_empty()).then(|| host.to_owned())?,
        port: port.parse().ok()?,
    })
}

pub(crate) fn throttle_link(caller: &Caller, request: &ThrottleLinkRequest) -> ThrottleLinkResponse {
    let (error, error_message) = match throttle(caller, request) {
        Ok(()) => (ErrorCode::None, None),
        Err((error, message)) => (error, Some(message.into())),
    };
    ThrottleLinkResponse {
        error_code: caller.code(error),
        error_message,
    }
}

fn throttle(caller: &Caller, request: &ThrottleLinkRequest) -> Result<(), Refusal> {
    let number = named(caller, &request.region)?;
    let bytes = u64::try_from(request.bytes_per_second_max).map_err(|_| {
        let message = format!("{} bytes per second cannot be kept", request.bytes_per_second_max);
        (ErrorCode::InvalidRequest, message)
    })?;
    let limit = Some(bytes).filter(|bytes| *bytes > 0);
    let region = &caller.context.region;
    let is_kept = match request.is_received {
        true => region.throttle_intake(number, limit),
        false => region.throttle_link(number, limit),
    };
    if !is_kept {
        let message = "this node has no part in the mirror: it was started without geo.listen".to_owned();
        return Err((ErrorCode::InvalidRequest, message));
    }
    let is_received = request.is_received;
    tracing::info!(%number, bytes, is_received, peer = %caller.peer.address, "a link is throttled");
    Ok(())
}
