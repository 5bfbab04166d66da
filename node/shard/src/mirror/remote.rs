//! The other regions of the cluster, as their cards tell.

use std::collections::BTreeMap;
use std::time::Duration;

use meridian_types::{LeaderEpoch, NodeId, Partition, RegionEpoch, RegionNumber, ShardId, ShardMap};
use tokio::time::Instant;

use super::card::{Card, CardNode, CardShard};

/// A region that has told nothing for so long is held for away: its brokers are not named to clients any more. One that
/// owns is: clients must not take the mirror for the owner.
const AWAY_AFTER: Duration = Duration::from_secs(30);

/// The other regions, of one moment.
#[derive(Clone, Debug)]
pub struct RemoteRegions {
    regions: BTreeMap<RegionNumber, RemoteRegion>,
    own: RegionNumber,
    owner: RegionNumber,
    /// The region epoch under which it owns.
    region_epoch: RegionEpoch,
    /// The regions that have nearly everything of a shard, of those that this node leads.
    in_step: BTreeMap<ShardId, Vec<RegionNumber>>,
}

/// Another region.
#[derive(Clone, Debug)]
pub struct RemoteRegion {
    /// Its number.
    pub number: RegionNumber,
    /// Its name.
    pub name: String,
    /// The region epoch that it believes in.
    pub region_epoch: RegionEpoch,
    /// Who owns under it, as it believes.
    pub owner: RegionNumber,
    /// The node that leads its controller.
    pub controller: Option<NodeId>,
    /// Its brokers.
    pub nodes: Vec<RemoteNode>,
    /// Its data shards, by number: those that all regions have, then those of topics that stay in it.
    pub shards: Vec<RemoteShard>,
    /// Logs of it that are not what their source has: it must not be promoted.
    pub diverged: Vec<ShardId>,
    /// When it told that last.
    pub(crate) heard: Instant,
    /// Where its nodes are reached by other regions.
    pub(crate) geo: BTreeMap<NodeId, String>,
}

/// A broker of another region.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoteNode {
    /// Its id.
    pub id: NodeId,
    /// Where clients reach it.
    pub host: String,
    /// The port there.
    pub port: u16,
    /// Its rack.
    pub rack: Option<String>,
}

/// A shard in another region.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoteShard {
    /// Its leader there, with the epoch.
    pub leader: Option<(NodeId, LeaderEpoch)>,
    /// The nodes there that hold it.
    pub replicas: Vec<NodeId>,
}

/// The leader of a shard with its epoch, and the brokers that hold it.
pub type Hosts = (Option<(NodeId, LeaderEpoch)>, Vec<NodeId>);

impl RemoteRegions {
    /// Before anything is heard: the region is alone.
    pub(crate) fn new(own: RegionNumber) -> Self {
        Self {
            regions: BTreeMap::new(),
            own,
            owner: own,
            region_epoch: RegionEpoch(0),
            in_step: BTreeMap::new(),
        }
    }

    /// The region that owns, where that is another one. `None` where this region owns, or the owner was never heard.
    pub fn owner(&self) -> Option<&RemoteRegion> {
        match self.owner == self.own {
            true => None,
            false => self.regions.get(&self.owner),
        }
    }

    /// Whether another region owns, heard or not: then nobody may take this one for the owner.
    pub fn is_owner_elsewhere(&self) -> bool {
        self.owner != self.own
    }

    /// Number of the region that owns.
    pub fn owner_number(&self) -> RegionNumber {
        self.owner
    }

    /// Every other region that was ever heard.
    pub fn regions(&self) -> impl Iterator<Item = &RemoteRegion> {
        self.regions.values()
    }

    /// One of them.
    pub fn region(&self, number: RegionNumber) -> Option<&RemoteRegion> {
        self.regions.get(&number)
    }

    /// Every broker of other regions that clients may be told of.
    pub fn nodes(&self) -> impl Iterator<Item = &RemoteNode> {
        self.present().flat_map(|region| &region.nodes)
    }

    /// The leader of a shard at the owner, where that is another region.
    pub fn leader_of(&self, shard: ShardId) -> Option<(NodeId, LeaderEpoch)> {
        self.ruling()?.shards.get(shard.0 as usize)?.leader
    }

    /// The node that leads the controller at the owner, where that is another region.
    pub fn controller(&self) -> Option<NodeId> {
        self.ruling()?.controller
    }

    /// The owner, once it says itself that it owns: what it told before that is of an epoch before.
    fn ruling(&self) -> Option<&RemoteRegion> {
        let owner = self.owner()?;
        (owner.owner == owner.number && owner.region_epoch >= self.region_epoch).then_some(owner)
    }

    /// The brokers of other regions that hold nearly everything of a shard which this node leads: a consumer may read
    /// from them (KIP-392).
    pub fn in_step(&self, shard: ShardId) -> Vec<NodeId> {
        let regions = self.in_step.get(&shard).map_or(&[][..], Vec::as_slice);
        let present = self.present().filter(|region| regions.contains(&region.number));
        present.flat_map(|region| region.brokers_of(shard)).collect()
    }

    /// The leader and the brokers of a partition whose topic stays in another region, where `shared` shards are those that all
    /// regions have; nothing while that region is away.
    pub fn staying(&self, partition: Partition, shared: u32) -> Option<Hosts> {
        let home = partition.topic.home()?;
        let region = self.present().find(|region| region.number == home)?;
        Some(region.shard(region.shard_map(shared)?.of(partition)))
    }

    /// The brokers of other regions that hold a shard, the owner's first.
    pub fn replicas_of(&self, shard: ShardId) -> Vec<NodeId> {
        let owner = self
            .owner()
            .map(|region| region.brokers_of(shard))
            .unwrap_or_default();
        let others = self.present().filter(|region| region.number != self.owner);
        let others = others.flat_map(|region| region.brokers_of(shard));
        owner.into_iter().chain(others).collect()
    }

    /// The regions whose brokers clients may be told of.
    pub fn present(&self) -> impl Iterator<Item = &RemoteRegion> {
        let now = Instant::now();
        self.regions.values().filter(move |region| {
            region.number == self.owner || now.duration_since(region.heard) < AWAY_AFTER
        })
    }

    /// With a card that has come.
    pub(crate) fn with(&self, card: Card, heard: Instant) -> Self {
        let mut next = self.clone();
        next.regions.insert(card.number, RemoteRegion::of(card, heard));
        next
    }

    /// With another owner, or one under another epoch.
    pub(crate) fn with_owner(&self, owner: RegionNumber, region_epoch: RegionEpoch) -> Self {
        Self {
            owner,
            region_epoch,
            ..self.clone()
        }
    }

    /// Who owns, and since when, as it was told last.
    pub(crate) fn believed(&self) -> (RegionNumber, RegionEpoch) {
        (self.owner, self.region_epoch)
    }

    /// With the regions that have nearly everything of the shards that this node leads; `None` where these are those
    /// that are known.
    pub(crate) fn with_in_step(&self, in_step: BTreeMap<ShardId, Vec<RegionNumber>>) -> Option<Self> {
        (self.in_step != in_step).then(|| Self {
            in_step,
            ..self.clone()
        })
    }

    /// The newest region epoch that a region tells of, with who owns under it.
    pub(crate) fn newest(&self) -> Option<(RegionEpoch, RegionNumber)> {
        let told = self
            .regions
            .values()
            .map(|region| (region.region_epoch, region.owner));
        told.max_by_key(|(epoch, _)| *epoch)
    }
}

impl RemoteRegion {
    fn of(card: Card, heard: Instant) -> Self {
        let broker = |node: &CardNode| {
            let (host, port) = node.kafka.clone()?;
            Some(RemoteNode {
                id: node.id,
                host,
                port,
                rack: node.rack.clone(),
            })
        };
        let geo = card
            .nodes
            .iter()
            .filter_map(|node| Some((node.id, node.geo.clone()?)));
        let shard = |shard: &CardShard| RemoteShard {
            leader: shard.leader,
            replicas: shard.replicas.clone(),
        };
        Self {
            number: card.number,
            name: card.name,
            region_epoch: card.region_epoch,
            owner: card.owner,
            controller: card.controller,
            nodes: card.nodes.iter().filter_map(broker).collect(),
            shards: card.shards.iter().map(shard).collect(),
            diverged: card.diverged.clone(),
            heard,
            geo: geo.collect(),
        }
    }

    /// How partitions are dealt to its shards, of which `shared` are those that all regions have.
    pub fn shard_map(&self, shared: u32) -> Option<ShardMap> {
        ShardMap::new(self.number, shared, u32::try_from(self.shards.len()).ok()?)
    }

    /// A shard's leader there, and its brokers that hold it.
    pub fn shard(&self, shard: ShardId) -> Hosts {
        let leader = self.shards.get(shard.0 as usize).and_then(|shard| shard.leader);
        (leader, self.brokers_of(shard))
    }

    /// Its brokers that hold a shard.
    fn brokers_of(&self, shard: ShardId) -> Vec<NodeId> {
        let replicas = self.shards.get(shard.0 as usize).map(|it| it.replicas.as_slice());
        let is_broker = |node: &NodeId| self.nodes.iter().any(|it| it.id == *node);
        let replicas = replicas.unwrap_or_default().iter().copied();
        replicas.filter(is_broker).collect()
    }

    /// Where the leader of a log is reached by other regions.
    pub(crate) fn leader_address(&self, shard: ShardId) -> Option<&String> {
        let leader = match shard {
            ShardId::CONTROLLER => self.controller?,
            shard => self.shards.get(shard.0 as usize)?.leader?.0,
        };
        self.geo.get(&leader)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mirror::card::tests::card;

    fn remote(cards: &[(u16, u16, u32)], own: u16) -> RemoteRegions {
        let none = RemoteRegions::new(RegionNumber(own));
        let cards = cards
            .iter()
            .map(|(number, owner, epoch)| card(*number, *owner, *epoch));
        cards.fold(none, |remote, card| remote.with(card, Instant::now()))
    }

    #[test]
    fn a_mirror_names_the_owners_leaders_and_everybodys_replicas() {
        let remote = remote(&[(0, 0, 3), (2, 0, 3)], 1).with_owner(RegionNumber(0), RegionEpoch(3));
        let (leader, epoch) = remote.leader_of(ShardId(0)).expect("the owner tells");
        assert_eq!((leader, epoch), (NodeId(1), LeaderEpoch::new(RegionEpoch(3), 4)));
        assert_eq!(remote.leader_of(ShardId(1)), None);
        assert_eq!(remote.controller(), Some(NodeId(1)));
        // The second node of each takes no clients.
        assert_eq!(remote.replicas_of(ShardId(0)), [NodeId(1), NodeId(200_001)]);
        assert_eq!(remote.nodes().count(), 2);
        let owner = remote.owner().expect("it is heard");
        assert_eq!(
            owner.leader_address(ShardId(0)).map(String::as_str),
            Some("node.example:9291")
        );
    }

    #[test]
    fn where_this_region_owns_no_other_one_leads() {
        let remote = remote(&[(0, 1, 4)], 1);
        assert!(remote.owner().is_none() && remote.leader_of(ShardId(0)).is_none());
        assert_eq!(remote.newest(), Some((RegionEpoch(4), RegionNumber(1))));
    }

    #[test]
    fn leaders_of_an_epoch_before_are_not_named() {
        let remote = remote(&[(0, 1, 3)], 1);
        let next = remote.with_owner(RegionNumber(0), RegionEpoch(4));
        assert!(next.owner().is_some() && next.is_owner_elsewhere());
        assert_eq!((next.leader_of(ShardId(0)), next.controller()), (None, None));
        let told = next.with(card(0, 0, 4), Instant::now());
        assert_eq!(told.leader_of(ShardId(0)).map(|(node, _)| node), Some(NodeId(1)));
    }

    #[test]
    fn a_consumer_is_pointed_to_brokers_of_regions_that_are_in_step() {
        let remote = remote(&[(1, 0, 0), (2, 0, 0)], 0);
        assert!(remote.in_step(ShardId(0)).is_empty());
        let in_step = BTreeMap::from([(ShardId(0), vec![RegionNumber(2)])]);
        let remote = remote.with_in_step(in_step.clone()).expect("it is new");
        assert_eq!(remote.in_step(ShardId(0)), [NodeId(200_001)]);
        assert!(remote.with_in_step(in_step).is_none());
    }

    #[test]
    fn brokers_of_a_region_that_is_silent_are_named_no_more_unless_it_owns() {
        let mut remote = remote(&[(0, 0, 3), (2, 0, 3)], 1).with_owner(RegionNumber(0), RegionEpoch(3));
        let Some(long_ago) = Instant::now().checked_sub(AWAY_AFTER) else {
            return;
        };
        remote
            .regions
            .values_mut()
            .for_each(|region| region.heard = long_ago);
        assert_eq!(remote.replicas_of(ShardId(0)), [NodeId(1)]);
        assert_eq!(
            remote.nodes().map(|node| node.id).collect::<Vec<_>>(),
            [NodeId(1)]
        );
    }
}
