//! The mirror between the regions of a Meridian cluster: what only its own APIs tell and do.

use std::collections::BTreeMap;
use std::time::Duration;

use meridian_types::{NodeId, Offset, RegionEpoch, ShardId, Uuid};
use meridian_wire::messages::describe_mirror as wire;
use meridian_wire::{
    AlterRegionRequest, ApiKey, DescribeMirrorRequest, DescribeMirrorResponse, ErrorCode, SwitchOverRequest,
    ThrottleLinkRequest,
};
use tokio::time::Instant;

use super::{Admin, AdminError, refused};
use crate::cluster::Lane;
use crate::endpoint::Endpoint;
use crate::error::Refusal;
use crate::metadata::node;

/// All regions, put together from what their nodes say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MirrorDescription {
    /// Id of the cluster.
    pub cluster_id: String,
    /// The newest region epoch that a node knows.
    pub region_epoch: RegionEpoch,
    /// Number of the region that owns under it.
    pub owner: u16,
    /// The region that ownership is being moved to, if it is.
    pub draining_to: Option<u16>,
    /// Every region that is registered or heard, by number.
    pub regions: Vec<MirrorRegion>,
    /// The links of every node that answered.
    pub links: Vec<MirrorLink>,
    /// Every shard of every region, as its leader there tells.
    pub shards: Vec<MirrorShard>,
    /// Partitions as the leaders of their shards tell, where they were asked for.
    pub partitions: Vec<MirrorPartition>,
}

/// A region.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MirrorRegion {
    /// Its number.
    pub number: u16,
    /// Its name.
    pub name: String,
    /// Where its nodes are reached by other regions.
    pub addresses: Vec<String>,
    /// Whether the owner knows it.
    pub is_registered: bool,
    /// Whether one of its nodes answered.
    pub has_answered: bool,
    /// How long ago others heard it, the shortest time; `None`: never.
    pub heard: Option<Duration>,
    /// The epoch that it believes in.
    pub region_epoch: Option<RegionEpoch>,
    /// The owner that it believes in.
    pub owner: Option<u16>,
    /// Its brokers.
    pub nodes: Vec<(NodeId, Endpoint)>,
}

/// A node's link to another region.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MirrorLink {
    /// The node.
    pub node: NodeId,
    /// Number of the other region, where it is known.
    pub region: Option<u16>,
    /// Where the other end is.
    pub address: String,
    /// `quic`, `tcp`, or `None` while there is no connection.
    pub transport: Option<String>,
    /// What the link does, for people.
    pub state: String,
    /// Time for a packet there and back.
    pub rtt: Option<Duration>,
    /// Bytes sent.
    pub sent_bytes: u64,
    /// Bytes received.
    pub received_bytes: u64,
    /// Packets sent.
    pub sent_packets: u64,
    /// Packets of those that were lost.
    pub lost_packets: u64,
    /// Bytes of frames before compression.
    pub frame_bytes: u64,
    /// The same after it.
    pub compressed_bytes: u64,
    /// Carries no more content per second, if it is bounded.
    pub bytes_per_second_max: Option<u64>,
    /// Content commands that the logs lack together which the node takes in over the link, or that the other side lacks.
    pub lag_sequences: Option<u64>,
    /// About how many bytes these have; not known on the side that gives.
    pub lag_bytes: Option<u64>,
    /// The greatest staleness of the logs that the node takes in over the link.
    pub staleness: Option<Duration>,
}

/// A direction of a link, as a node sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkDirection {
    /// What the node sends.
    Sent,
    /// What comes to it.
    Received,
}

/// A shard of one region.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MirrorShard {
    /// The shard; [`ShardId::CONTROLLER`] for the controller's.
    pub shard: ShardId,
    /// The region.
    pub region: u16,
    /// The node that leads it there.
    pub node: NodeId,
    /// `owner`, `fenced` or `mirror`.
    pub role: String,
    /// Its region epoch.
    pub region_epoch: RegionEpoch,
    /// Content commands it has applied.
    pub sequence: u64,
    /// Digest of them.
    pub digest: u64,
    /// The region that it follows.
    pub follows: Option<u16>,
    /// Content commands of the source, when it was last heard.
    pub source_sequence: Option<u64>,
    /// It holds everything that the source had so long ago.
    pub staleness: Option<Duration>,
    /// About how many bytes it lacks of what the source has.
    pub lag_bytes: Option<u64>,
    /// Why the source gives nothing.
    pub refusal: Option<String>,
    /// Where its content differed from the source's.
    pub diverged_at: Option<u64>,
    /// How far other regions have said that they hold it.
    pub acks: BTreeMap<u16, u64>,
}

/// A partition in one region.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MirrorPartition {
    /// The region.
    pub region: u16,
    /// The topic's name.
    pub topic: String,
    /// The topic's id.
    pub topic_id: Uuid,
    /// Its number.
    pub partition: u32,
    /// Its end offset.
    pub end_offset: Offset,
    /// Digest of every batch that it ever held.
    pub digest: u64,
}

impl MirrorDescription {
    /// A region, by its name or number.
    pub fn region(&self, name: &str) -> Option<&MirrorRegion> {
        let number = name.parse().ok();
        let is_it = |region: &&MirrorRegion| region.name == name || Some(region.number) == number;
        self.regions.iter().find(is_it)
    }

    /// A region's name, or its number where it has none that is known.
    pub fn name_of(&self, number: u16) -> String {
        let region = self.regions.iter().find(|region| region.number == number);
        match region {
            Some(region) if !region.name.is_empty() => region.name.clone(),
            _ => number.to_string(),
        }
    }

    /// Reads the answers of several nodes. `None` if there are none.
    fn merge(answers: &[DescribeMirrorResponse]) -> Option<Self> {
        let newest = answers.iter().max_by_key(|answer| answer.region_epoch)?;
        let mut regions: BTreeMap<u16, MirrorRegion> = BTreeMap::new();
        let mut shards: BTreeMap<(ShardId, u16), MirrorShard> = BTreeMap::new();
        let mut links = Vec::new();
        let mut partitions = Vec::new();
        for answer in answers {
            let here = number(answer.region_number)?;
            let told = node(answer.node_id)?;
            for region in answer.regions.iter().filter_map(read_region) {
                match regions.get_mut(&region.number) {
                    Some(known) => known.add(region),
                    None => {
                        regions.insert(region.number, region);
                    }
                }
            }
            if let Some(own) = regions.get_mut(&here) {
                own.has_answered = true;
                own.region_epoch = Some(RegionEpoch(answer.region_epoch.max(0).cast_unsigned()));
                own.owner = number(answer.owner);
            }
            links.extend(answer.links.iter().map(|link| read_link(told, link)));
            for row in &answer.shards {
                let shard = read_shard(told, here, row);
                let key = (shard.shard, here);
                let is_better = shards.get(&key).is_none_or(|known| {
                    (known.region_epoch, known.sequence) < (shard.region_epoch, shard.sequence)
                });
                if is_better {
                    shards.insert(key, shard);
                }
            }
            partitions.extend(answer.partitions.iter().map(|row| MirrorPartition {
                region: here,
                topic: row.topic.as_str().to_owned(),
                topic_id: row.topic_id,
                partition: row.partition.max(0).cast_unsigned(),
                end_offset: Offset(row.end_offset.max(0).cast_unsigned()),
                digest: row.digest.cast_unsigned(),
            }));
        }
        let mut shards: Vec<MirrorShard> = shards.into_values().collect();
        shards.sort_by_key(|it| (it.shard != ShardId::CONTROLLER, it.shard, it.region));
        Some(Self {
            cluster_id: newest.cluster_id.as_str().to_owned(),
            region_epoch: RegionEpoch(newest.region_epoch.max(0).cast_unsigned()),
            owner: number(newest.owner)?,
            draining_to: number(newest.draining_to),
            regions: regions.into_values().collect(),
            links,
            shards,
            partitions,
        })
    }
}

impl MirrorRegion {
    /// Adds what another node says of the same region.
    fn add(&mut self, other: Self) {
        self.is_registered |= other.is_registered;
        self.heard = match (self.heard, other.heard) {
            (Some(one), Some(two)) => Some(one.min(two)),
            (one, two) => one.or(two),
        };
        if self.name.is_empty() {
            self.name = other.name;
        }
        for address in other.addresses {
            if !self.addresses.contains(&address) {
                self.addresses.push(address);
            }
        }
        for broker in other.nodes {
            if self.nodes.iter().all(|known| known.0 != broker.0) {
                self.nodes.push(broker);
            }
        }
        if other.region_epoch > self.region_epoch {
            self.region_epoch = other.region_epoch;
            self.owner = other.owner;
        }
    }
}

/// Number of a region; `None` for none.
fn number(number: i32) -> Option<u16> {
    u16::try_from(number).ok()
}

/// A count that is never negative.
fn whole(count: i64) -> u64 {
    count.max(0).cast_unsigned()
}

fn known(count: i64) -> Option<u64> {
    u64::try_from(count).ok()
}

fn read_region(row: &wire::MirrorRegion) -> Option<MirrorRegion> {
    let brokers = row.nodes.iter().filter_map(|broker| {
        let port = u16::try_from(broker.port).ok().filter(|port| *port > 0)?;
        Some((node(broker.node_id)?, Endpoint::new(broker.host.as_str(), port)))
    });
    Some(MirrorRegion {
        number: number(row.number)?,
        name: row.name.as_str().to_owned(),
        addresses: row.addresses.iter().map(|it| it.as_str().to_owned()).collect(),
        is_registered: row.is_registered,
        has_answered: false,
        heard: known(row.heard_ms).map(Duration::from_millis),
        region_epoch: u32::try_from(row.region_epoch).ok().map(RegionEpoch),
        owner: number(row.owner),
        nodes: brokers.collect(),
    })
}

fn read_link(told: NodeId, row: &wire::MirrorLink) -> MirrorLink {
    MirrorLink {
        node: told,
        region: number(row.region),
        address: row.address.as_str().to_owned(),
        transport: (!row.transport.is_empty()).then(|| row.transport.as_str().to_owned()),
        state: row.state.as_str().to_owned(),
        rtt: known(row.rtt_us).map(Duration::from_micros),
        sent_bytes: whole(row.sent_bytes),
        received_bytes: whole(row.received_bytes),
        sent_packets: whole(row.sent_packets),
        lost_packets: whole(row.lost_packets),
        frame_bytes: whole(row.frame_bytes),
        compressed_bytes: whole(row.compressed_bytes),
        bytes_per_second_max: known(row.bytes_per_second_max).filter(|bytes| *bytes > 0),
        lag_sequences: known(row.lag_sequences),
        lag_bytes: known(row.lag_bytes),
        staleness: known(row.staleness_ms).map(Duration::from_millis),
    }
}

fn read_shard(told: NodeId, region: u16, row: &wire::MirrorShard) -> MirrorShard {
    MirrorShard {
        shard: ShardId(row.shard.cast_unsigned()),
        region,
        node: told,
        role: row.role.as_str().to_owned(),
        region_epoch: RegionEpoch(row.region_epoch.max(0).cast_unsigned()),
        sequence: whole(row.sequence),
        digest: row.digest.cast_unsigned(),
        follows: number(row.follows),
        source_sequence: known(row.source_sequence),
        staleness: known(row.staleness_ms).map(Duration::from_millis),
        lag_bytes: known(row.lag_bytes),
        refusal: row.refusal.as_ref().map(|reason| reason.as_str().to_owned()),
        diverged_at: known(row.diverged_at),
        acks: row
            .acks
            .iter()
            .filter_map(|ack| Some((number(ack.region)?, whole(ack.sequence))))
            .collect(),
    }
}

impl Admin {
    /// All regions, with their links and shards; with `include_partitions` also the digest of every partition in each.
    /// Asks every node of every region, and needs the answer of one.
    ///
    /// Errors: `Unsupported` of a server that is not a Meridian, or one without the mirror.
    pub async fn describe_mirror(&self, include_partitions: bool) -> Result<MirrorDescription, AdminError> {
        let request = DescribeMirrorRequest { include_partitions };
        let answers = self.ask_nodes(&request).await?;
        let answers: Vec<_> = answers.into_iter().map(|(_, answer)| answer).collect();
        for answer in &answers {
            let refusal = Refusal::check(answer.error_code, answer.error_message.as_deref());
            refused(format!("node {}", answer.node_id), refusal)?;
        }
        MirrorDescription::merge(&answers).ok_or_else(|| AdminError::Unanswered {
            api: ApiKey::DescribeMirror,
            what: "the mirror".to_owned(),
        })
    }

    /// Begins to move ownership to another region. Returns when the draining is decided, with the region epoch that it
    /// ends: [`Self::describe_mirror`] shows what becomes of it. Looks for the owner's controller as long as an operation may
    /// take.
    pub async fn switch_over(&self, to: &str, timeout: Duration) -> Result<RegionEpoch, AdminError> {
        let request = SwitchOverRequest {
            to: to.to_owned().into(),
            timeout_ms: i32::try_from(timeout.as_millis()).unwrap_or(i32::MAX),
        };
        let mut backoff = self.cluster.backoff();
        let deadline = Instant::now() + self.cluster.settings().operation_timeout;
        let response = loop {
            let response = self.cluster.send_controller(&request).await?;
            let refusal = Refusal::check(response.error_code, response.error_message.as_deref());
            let wait = backoff.next_wait();
            match refusal {
                // Nothing was begun: whoever was asked is not, or not yet, the controller of the owner.
                Err(refusal)
                    if refusal.code == ErrorCode::NotController && Instant::now() + wait < deadline =>
                {
                    tokio::time::sleep(wait).await;
                    self.cluster.refresh(Some(&[])).await?;
                }
                refusal => {
                    refused(format!("switchover to {to}"), refusal)?;
                    break response;
                }
            }
        };
        Ok(RegionEpoch(response.region_epoch.max(0).cast_unsigned()))
    }

    /// Registers another region of the cluster.
    pub async fn add_region(&self, number: u16, name: &str, addresses: &[String]) -> Result<(), AdminError> {
        let request = AlterRegionRequest {
            number: number.into(),
            name: Some(name.to_owned().into()),
            addresses: addresses.iter().map(|it| it.clone().into()).collect(),
        };
        self.alter_region(request).await
    }

    /// Forgets another region of the cluster. One that still runs is heard, and registered, again.
    pub async fn remove_region(&self, number: u16) -> Result<(), AdminError> {
        let request = AlterRegionRequest {
            number: number.into(),
            name: None,
            addresses: Vec::new(),
        };
        self.alter_region(request).await
    }

    async fn alter_region(&self, request: AlterRegionRequest) -> Result<(), AdminError> {
        let response = self.cluster.send_controller(&request).await?;
        let refusal = Refusal::check(response.error_code, response.error_message.as_deref());
        refused(format!("region {}", request.number), refusal)
    }

    /// Bounds what each of the given nodes sends to another region, or what may come from there over each of its links, in
    /// bytes per second; `None` takes the bound away. The two are kept apart.
    pub async fn throttle_link(
        &self,
        nodes: &[NodeId],
        region: &str,
        direction: LinkDirection,
        bytes_per_second_max: Option<u64>,
    ) -> Result<(), AdminError> {
        let request = ThrottleLinkRequest {
            region: region.to_owned().into(),
            is_received: direction == LinkDirection::Received,
            bytes_per_second_max: i64::try_from(bytes_per_second_max.unwrap_or(0)).unwrap_or(i64::MAX),
        };
        for broker in nodes {
            let response = self.cluster.send_to(Lane::SHARED, *broker, &request).await?;
            let refusal = Refusal::check(response.error_code, response.error_message.as_deref());
            refused(format!("node {broker}"), refusal)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(node_id: i32, region_number: i32, region_epoch: i32, owner: i32) -> DescribeMirrorResponse {
        let region = |number: i32, heard_ms| wire::MirrorRegion {
            number,
            name: format!("region-{number}").into(),
            heard_ms,
            ..Default::default()
        };
        let shard = |sequence| wire::MirrorShard {
            shard: 0,
            role: "mirror".into(),
            region_epoch,
            sequence,
            ..Default::default()
        };
        DescribeMirrorResponse {
            node_id,
            region_number,
            region_epoch,
            owner,
            regions: vec![region(0, if region_number == 0 { 0 } else { 40 }), region(1, 30)],
            shards: vec![shard(i64::from(node_id))],
            ..Default::default()
        }
    }

    #[test]
    fn the_newest_region_epoch_says_who_owns() {
        let answers = [
            answer(1, 0, 3, 0),
            answer(100_001, 1, 4, 1),
            answer(100_002, 1, 3, 0),
        ];
        let mirror = MirrorDescription::merge(&answers).expect("there are answers");
        assert_eq!((mirror.region_epoch, mirror.owner), (RegionEpoch(4), 1));
        assert_eq!(mirror.regions.len(), 2);
        assert!(mirror.regions.iter().all(|region| region.has_answered));
        assert_eq!(mirror.regions[0].heard, Some(Duration::ZERO));
        assert_eq!(mirror.region("region-1"), mirror.region("1"));
        // Two nodes of region 1 said that they lead shard 0: the one of the newer epoch does.
        let led: Vec<_> = mirror.shards.iter().map(|it| (it.region, it.node.0)).collect();
        assert_eq!(led, [(0, 1), (1, 100_001)]);
    }

    #[test]
    fn without_an_answer_there_is_nothing_to_describe() {
        assert_eq!(MirrorDescription::merge(&[]), None);
    }
}
