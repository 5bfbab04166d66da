//! What this node knows of the mirror, for the operator and for metrics.

use std::collections::BTreeMap;
use std::time::Duration;

use meridian_controller::OwnershipState;
use meridian_geo_mirror::{FollowState, LinkStatus, SessionStatus, Transport, TransportStatus};
use meridian_lineage::Role;
use meridian_types::{NodeId, Offset, Partition, RegionEpoch, RegionNumber, ShardId, TimestampMs, TopicId};
use tokio::time::Instant;

use super::cards;
use super::remote::{RemoteNode, RemoteRegions};
use super::stream::Stream;
use crate::region::{Inner, Region};

/// What this node knows of the mirror.
#[derive(Clone, Debug)]
pub struct MirrorStatus {
    /// Number of the node's region.
    pub number: RegionNumber,
    /// Whether the region is one of several, so that the rest says something.
    pub is_geo: bool,
    /// The region epoch in force, as the region's controller has it.
    pub region_epoch: RegionEpoch,
    /// Who owns under it.
    pub owner: RegionNumber,
    /// The region that ownership is being moved to, and by when that must be done.
    pub draining: Option<(RegionNumber, TimestampMs)>,
    /// Every region that is registered or heard, its own first.
    pub regions: Vec<MirrorRegionStatus>,
    /// The node's links, those that it opened first.
    pub links: Vec<MirrorLinkStatus>,
    /// The logs that the node leads.
    pub shards: Vec<MirrorShardStatus>,
}

/// A region of the cluster.
#[derive(Clone, Debug)]
pub struct MirrorRegionStatus {
    /// Its number.
    pub number: RegionNumber,
    /// Its name.
    pub name: String,
    /// Where its nodes are reached by other regions.
    pub addresses: Vec<String>,
    /// Whether the owner has registered it.
    pub is_registered: bool,
    /// How long ago it was heard; `None`: never.
    pub heard: Option<Duration>,
    /// What it believes in: region epoch and owner.
    pub believes: Option<(RegionEpoch, RegionNumber)>,
    /// Its brokers, as clients reach them.
    pub nodes: Vec<RemoteNode>,
}

/// A link between this node and one of another region.
#[derive(Clone, Debug)]
pub struct MirrorLinkStatus {
    /// The other region.
    pub region: RegionNumber,
    /// The node there, where it is known.
    pub node: Option<NodeId>,
    /// Whether this node opened it, and takes content by it; else it gives.
    pub is_ours: bool,
    /// Where the other side is.
    pub address: String,
    /// `quic` or `tcp`; `None` while there is no connection.
    pub transport: Option<&'static str>,
    /// What it does, for people.
    pub state: String,
    /// Time for a packet there and back.
    pub rtt: Option<Duration>,
    /// Bytes sent.
    pub sent_bytes: u64,
    /// Bytes received.
    pub received_bytes: u64,
    /// Packets sent; not known of TCP.
    pub sent_packets: u64,
    /// Packets of those that were lost.
    pub lost_packets: u64,
    /// Bytes of commands given.
    pub frame_bytes: u64,
    /// Bytes of the frames that carried them.
    pub compressed_bytes: u64,
    /// Processor time of compressing.
    pub compression_time: Duration,
    /// What the link carries per second at most.
    pub bytes_per_second_max: Option<u64>,
    /// Content commands that the logs lack together which this node takes in over the link, or that the other side lacks of
    /// those it takes. `None` where one is not known, or there is no log.
    pub lag_sequences: Option<u64>,
    /// About how many bytes these have; not known on the side that gives.
    pub lag_bytes: Option<u64>,
    /// The greatest staleness of the logs that this node takes in over the link.
    pub staleness: Option<Duration>,
}

/// A log that this node leads.
#[derive(Clone, Debug)]
pub struct MirrorShardStatus {
    /// The shard, or the controller's.
    pub shard: ShardId,
    /// What this region may do with it.
    pub role: Role,
    /// Its region epoch.
    pub region_epoch: RegionEpoch,
    /// Content commands so far.
    pub sequence: u64,
    /// Digest of them.
    pub digest: u64,
    /// The region that it follows.
    pub follows: Option<RegionNumber>,
    /// What the source had when it was last heard.
    pub source_sequence: Option<u64>,
    /// Bytes that it lacks, about.
    pub lag_bytes: Option<u64>,
    /// How long ago it was complete, as far as is known.
    pub staleness: Option<Duration>,
    /// Why the source gives nothing, or why nothing of it is taken here.
    pub refusal: Option<String>,
    /// Where its content was found to differ from the source's.
    pub diverged_at: Option<u64>,
    /// How far other regions have said that they hold it.
    pub acks: Vec<(RegionNumber, u64)>,
}

/// A partition of a shard that this node leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionDigest {
    /// The partition.
    pub partition: Partition,
    /// The topic's name.
    pub topic: String,
    /// Its end.
    pub end_offset: Offset,
    /// Digest over base offset and checksum of every batch that it ever held.
    pub digest: u64,
}

impl Region {
    /// The other regions of the cluster, as they told last.
    pub fn remote(&self) -> std::sync::Arc<RemoteRegions> {
        match self.inner.mirror() {
            Some(mirror) => mirror.remote(),
            None => std::sync::Arc::new(RemoteRegions::new(self.inner.number())),
        }
    }

    /// Where other regions reach this node; `None` where it has no part in the mirror.
    pub fn geo_address(&self) -> Option<String> {
        self.inner.mirror()?.address()
    }

    /// What this node knows of the mirror.
    pub fn mirror_status(&self) -> MirrorStatus {
        let inner = &self.inner;
        let (is_geo, ownership) = {
            let controller = self.controller();
            (controller.is_geo(), controller.ownership())
        };
        let draining = match ownership.state {
            OwnershipState::Held => None,
            OwnershipState::Draining { to, deadline } => Some((to, deadline)),
        };
        MirrorStatus {
            number: inner.number(),
            is_geo,
            region_epoch: ownership.region_epoch,
            owner: ownership.owner,
            draining,
            regions: regions(inner),
            links: links(inner),
            shards: shards(inner),
        }
    }

    /// Every partition of the shards that this node leads and that all regions have, with its digest.
    pub fn partition_digests(&self) -> Vec<PartitionDigest> {
        let inner = &self.inner;
        let mut digests = Vec::new();
        for shard in inner.shared_shards().iter().filter(|shard| shard.led().is_some()) {
            let held: Vec<(Partition, Offset, u64)> = {
                let state = shard.applied_state();
                let held = state.partitions();
                held.map(|(partition, held)| (partition, held.high_watermark(), held.digest()))
                    .collect()
            };
            let controller = self.controller();
            let name = |topic: TopicId| controller.topic_by_id(topic).map(|topic| topic.name.to_string());
            digests.extend(held.into_iter().filter_map(|(partition, end_offset, digest)| {
                Some(PartitionDigest {
                    partition,
                    topic: name(partition.topic)?,
                    end_offset,
                    digest,
                })
            }));
        }
        digests
    }

    /// Bounds what this node sends to another region, in bytes per second; `None` takes the bound away. `false` where this
    /// node has no part in the mirror.
    pub fn throttle_link(&self, region: RegionNumber, bytes_per_second_max: Option<u64>) -> bool {
        let Some(listener) = self.inner.mirror().and_then(super::Mirror::listener) else {
            return false;
        };
        listener.throttle(region, bytes_per_second_max);
        true
    }

    /// Bounds what may come from another region over each link that this node opened, in bytes per second; `None` takes the
    /// bound away. The other side keeps it. `false` where this node has no part in the mirror.
    pub fn throttle_intake(&self, region: RegionNumber, bytes_per_second_max: Option<u64>) -> bool {
        let Some(links) = self.inner.mirror().and_then(super::Mirror::links) else {
            return false;
        };
        links.throttle(region, bytes_per_second_max);
        true
    }

    /// What links have done since the start.
    pub fn mirror_counters(&self) -> Option<std::sync::Arc<meridian_geo_mirror::Counters>> {
        Some(std::sync::Arc::clone(&self.inner.mirror()?.counters))
    }
}

fn regions(inner: &Inner) -> Vec<MirrorRegionStatus> {
    let Some(mirror) = inner.mirror() else {
        return Vec::new();
    };
    let own = cards::compose(inner, &mirror.answers.lock());
    let remote = mirror.remote().with(own, Instant::now());
    let controller = inner.control.controller();
    let mut known: BTreeMap<RegionNumber, MirrorRegionStatus> = BTreeMap::new();
    for region in controller.regions() {
        let status = MirrorRegionStatus {
            number: region.number,
            name: region.name.clone(),
            addresses: region.geo.iter().map(cards::text).collect(),
            is_registered: true,
            heard: None,
            believes: None,
            nodes: Vec::new(),
        };
        known.insert(region.number, status);
    }
    for region in remote.regions() {
        let is_own = region.number == inner.number();
        let status = known.entry(region.number).or_insert_with(|| MirrorRegionStatus {
            number: region.number,
            name: region.name.clone(),
            addresses: Vec::new(),
            is_registered: false,
            heard: None,
            believes: None,
            nodes: Vec::new(),
        });
        for address in region.geo.values() {
            if !status.addresses.contains(address) {
                status.addresses.push(address.clone());
            }
        }
        status.heard = Some(if is_own {
            Duration::ZERO
        } else {
            region.heard.elapsed()
        });
        status.believes = Some((region.region_epoch, region.owner));
        status.nodes.clone_from(&region.nodes);
    }
    let mut regions: Vec<_> = known.into_values().collect();
    regions.sort_by_key(|region| (region.number != inner.number(), region.number));
    regions
}

fn shards(inner: &Inner) -> Vec<MirrorShardStatus> {
    let Some(mirror) = inner.mirror() else {
        return Vec::new();
    };
    let links = mirror.links().map(|links| links.status()).unwrap_or_default();
    let lag_bytes = |shard: ShardId| {
        let mut followed = links.iter().flat_map(|link| &link.shards);
        followed
            .find(|it| it.shard == shard && it.state == FollowState::Following)?
            .lag_bytes
    };
    let status = |stream: Stream<'_>| {
        stream.led()?;
        let stand = stream.stand();
        if !stand.is_counted && !super::ownership::may_follow(inner, &stand) {
            return None;
        }
        let role = match stand.is_counted {
            true => stand.progress.role,
            // It has not begun, and will begin as a mirror.
            false => Role::Mirror,
        };
        let sequence = stand.progress.sequence;
        let follow = mirror.follows.of(stream.id(), sequence);
        let age = mirror.follows.age(Instant::now(), stream.id(), sequence);
        Some(MirrorShardStatus {
            shard: stream.id(),
            role,
            region_epoch: stand.progress.region_epoch,
            sequence,
            digest: stand.progress.digest.0,
            follows: follow.as_ref().map(|it| it.at.region),
            source_sequence: follow.as_ref().and_then(|it| it.source_sequence),
            lag_bytes: lag_bytes(stream.id()),
            staleness: age,
            refusal: follow.and_then(|follow| match follow.refusal {
                Some(refusal) => Some(match mirror.installs.trouble(stream.id()) {
                    Some(trouble) => format!("{refusal}; no checkpoint is installed yet: {trouble}"),
                    None => refusal.to_string(),
                }),
                None => mirror
                    .room
                    .missing(stream.id())
                    .filter(|_| follow.source_sequence > Some(sequence)),
            }),
            diverged_at: mirror.follows.diverged_at(stream.id(), &stand),
            acks: mirror.acks.of(stream.id()),
        })
    };
    Stream::all(inner).filter_map(status).collect()
}

fn links(inner: &Inner) -> Vec<MirrorLinkStatus> {
    let Some(mirror) = inner.mirror() else {
        return Vec::new();
    };
    let ours = mirror.links().map(|links| links.status()).unwrap_or_default();
    let listener = mirror.listener();
    let theirs = listener
        .as_ref()
        .map(|listener| listener.status())
        .unwrap_or_default();
    let own_limit = |region| listener.as_ref()?.limit(region);
    let theirs = theirs
        .iter()
        .map(|session| of_session(session, own_limit(session.region)));
    ours.into_iter().map(of_link).chain(theirs).collect()
}

fn transport_name(transport: &TransportStatus) -> &'static str {
    match transport.transport {
        Transport::Quic => "quic",
        Transport::Tcp => "tcp",
    }
}

fn of_link(link: LinkStatus) -> MirrorLinkStatus {
    let followed = link
        .shards
        .iter()
        .filter(|it| it.state == FollowState::Following)
        .count();
    let state = match (&link.transport, &link.trouble) {
        (Some(_), None) => format!("takes {followed} logs"),
        (Some(_), Some(trouble)) => format!("takes {followed} logs; {trouble}"),
        (None, Some(trouble)) => trouble.clone(),
        (None, None) => "connecting".to_owned(),
    };
    let transport = link.transport.as_ref();
    let staleness: Option<Vec<Duration>> = link.shards.iter().map(|it| it.lag).collect();
    MirrorLinkStatus {
        region: link.region,
        node: link.node,
        is_ours: true,
        address: link.address,
        transport: transport.map(transport_name),
        state,
        rtt: transport.and_then(|it| it.rtt),
        sent_bytes: transport.map_or(0, |it| it.bytes_sent),
        received_bytes: transport.map_or(0, |it| it.bytes_received),
        sent_packets: transport.map_or(0, |it| it.packets_sent),
        lost_packets: transport.map_or(0, |it| it.packets_lost),
        frame_bytes: 0,
        compressed_bytes: 0,
        compression_time: Duration::ZERO,
        bytes_per_second_max: link.limit_bytes_per_second,
        lag_sequences: total(link.shards.iter().map(|it| it.lag_sequences)),
        lag_bytes: total(link.shards.iter().map(|it| it.lag_bytes)),
        staleness: staleness.and_then(|all| all.into_iter().max()),
    }
}

/// `own_limit`: on all that this node sends to the region.
fn of_session(session: &SessionStatus, own_limit: Option<u64>) -> MirrorLinkStatus {
    let transport = &session.transport;
    let limits = [session.limit_bytes_per_second, own_limit];
    MirrorLinkStatus {
        region: session.region,
        node: Some(session.node),
        is_ours: false,
        address: transport.peer.to_string(),
        transport: Some(transport_name(transport)),
        state: format!("gives {} logs", session.shards.len()),
        rtt: transport.rtt,
        sent_bytes: transport.bytes_sent,
        received_bytes: transport.bytes_received,
        sent_packets: transport.packets_sent,
        lost_packets: transport.packets_lost,
        frame_bytes: session.raw_bytes_sent,
        compressed_bytes: session.wire_bytes_sent,
        compression_time: session.compression_time,
        bytes_per_second_max: limits.into_iter().flatten().min(),
        lag_sequences: total(session.shards.iter().map(|it| it.lag_sequences)),
        lag_bytes: None,
        staleness: None,
    }
}

/// The sum, where all are known and there are any.
fn total(parts: impl Iterator<Item = Option<u64>>) -> Option<u64> {
    let known: Vec<u64> = parts.collect::<Option<_>>()?;
    (!known.is_empty()).then(|| known.iter().sum())
}
