//! The cluster as clients are told of it: nodes, leaders and replicas.
//!
//! Kafka's words over Raft's facts (`docs/decisions/0011-kafka-words.md`): the replicas of a partition are the nodes
//! that its shard is placed on; in sync are those of them that are heard; a node that is not heard is no broker.
//!
//! All regions of a deployment are one cluster (`docs/decisions/0014-mirror.md`): leaders are those of the region that owns
//! it, the replicas of the others come behind its own, and every broker is named wherever a client asks. Topics that stay in one
//! region have leaders and replicas there only, whoever owns the cluster.

use std::collections::{BTreeMap, BTreeSet};

use meridian_controller::Controller;
use meridian_shard::{Region, RemoteRegions};
use meridian_types::{LeaderEpoch, NodeId, Partition, RegionEpoch, RegionNumber, ShardId, ShardMap};
use meridian_wire::{ErrorCode, Str};

use crate::context::Caller;
use crate::settings::HostPort;

/// A node as clients are told of it.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) id: NodeId,
    pub(crate) endpoint: HostPort,
    pub(crate) rack: Option<String>,
    /// Whether it is heard.
    pub(crate) is_alive: bool,
}

/// The cluster's id, as founded.
pub(crate) fn cluster_id(caller: &Caller) -> Str {
    caller.context.region.cluster_id().into()
}

/// The node that clients take for the controller: its leader, or this node while there is none, since every node takes
/// what is meant for the controller. Where another region owns the cluster: the leader there, or -1 while it is not known.
pub(crate) fn controller_id(caller: &Caller) -> i32 {
    let region = &caller.context.region;
    if is_owned_elsewhere(region) {
        let leader = region.remote().controller();
        let leader = leader.filter(|leader| node(caller, *leader).is_some());
        return leader.map_or(-1, |leader| leader.0.cast_signed());
    }
    let leader = region
        .controller_node()
        .filter(|leader| node(caller, *leader).is_some());
    leader.unwrap_or(region.node_id()).0.cast_signed()
}

/// A node that clients can reach now.
pub(crate) fn node(caller: &Caller, id: NodeId) -> Option<Node> {
    nodes(caller).into_iter().find(|node| node.id == id)
}

/// The nodes that clients can reach now.
pub(crate) fn nodes(caller: &Caller) -> Vec<Node> {
    let mut nodes = registered_nodes(caller);
    nodes.retain(|node| node.is_alive);
    nodes
}

/// Every node that takes clients, heard or not. Of other regions: those that their region hears.
pub(crate) fn registered_nodes(caller: &Caller) -> Vec<Node> {
    let region = &caller.context.region;
    let mut nodes = own_nodes(caller);
    let remote = region.remote();
    nodes.extend(remote.nodes().map(|node| Node {
        id: node.id,
        endpoint: HostPort {
            host: node.host.clone(),
            port: node.port,
        },
        rack: node.rack.clone().or_else(|| region_rack(&remote, node.id)),
        is_alive: true,
    }));
    // Every broker of every region answers alike.
    nodes.sort_unstable_by_key(|node| node.id);
    nodes
}

/// The rack of a node in another region that was told none: its region's name. Consumers that name the region as theirs
/// read there.
fn region_rack(remote: &RemoteRegions, node: NodeId) -> Option<String> {
    let region = remote.region(RegionNumber::of(node)?)?;
    Some(region.name.clone())
}

/// The same for a node of this region, if it is one of several.
fn own_rack(controller: &Controller) -> Option<String> {
    let founding = controller.founding().filter(|_| controller.is_geo())?;
    Some(founding.region.clone())
}

fn own_nodes(caller: &Caller) -> Vec<Node> {
    let region = &caller.context.region;
    let alive = region.alive_nodes();
    let controller = region.controller();
    let own_rack = own_rack(&controller);
    let told = |node: &meridian_controller::Node| {
        let registration = &node.registration;
        let address = registration.kafka.as_ref()?;
        let registered = HostPort {
            host: address.host.clone(),
            port: address.port,
        };
        Some(Node {
            id: registration.node,
            endpoint: caller.endpoint(registration.node, registered),
            rack: registration.rack.clone().or_else(|| own_rack.clone()),
            is_alive: alive.contains(&registration.node),
        })
    };
    controller.nodes().filter_map(told).collect()
}

/// Whether another region owns the cluster. The controller knows, also while nothing has been heard of that region.
fn is_owned_elsewhere(region: &Region) -> bool {
    region.controller().is_owned_elsewhere()
}

/// The node that clients take for the leader of a shard, with its epoch: that of the region which owns the cluster.
/// `None` while nobody leads, or nothing is known of it.
pub(crate) fn leader_of(region: &Region, shard: ShardId) -> Option<(NodeId, LeaderEpoch)> {
    let (is_elsewhere, present) = {
        let controller = region.controller();
        (
            controller.is_owned_elsewhere(),
            controller.ownership().region_epoch,
        )
    };
    let leader = match is_elsewhere {
        true => region.remote().leader_of(shard),
        false => region.leader_and_epoch_of(shard),
    };
    leader.filter(|leader| is_in_force(leader, present))
}

/// Whether a leader leads under the region epoch that the controller is in. During a switchover the new owner's leaders
/// are known before their shards have begun that epoch: what they would be told with is an epoch of their own region that no
/// client may see (invariant 5).
fn is_in_force((_, epoch): &(NodeId, LeaderEpoch), present: RegionEpoch) -> bool {
    epoch.region() >= present
}

/// The leader of a partition's shard with its epoch, for clients that came to the wrong node (KIP-951).
pub(crate) fn leader_hint(region: &Region, partition: Partition) -> Option<(NodeId, LeaderEpoch)> {
    let shard = region.shard_of(partition);
    let leader = match partition.topic.home() {
        None => leader_of(region, shard),
        Some(home) if home == region.number() => region.leader_and_epoch_of(shard),
        Some(_) => region.remote().staying(partition, region.shards())?.0,
    };
    let (leader, epoch) = leader?;
    // This node may just have lost or won it: to point at itself would send the client in circles.
    (leader != region.node_id()).then_some((leader, epoch))
}

/// How many of a shard's replicas are heard, and how many there should be.
pub(crate) fn live_replicas(region: &Region, shard: ShardId) -> (usize, usize) {
    let alive = region.alive_nodes();
    let controller = region.controller();
    let replicas = controller.replicas_of(shard);
    let live = replicas.iter().filter(|node| alive.contains(node));
    (live.count(), replicas.len())
}

/// Leaders and replicas of all shards, taken once for a whole answer.
pub(crate) struct ClusterView {
    pub(crate) nodes: Vec<Node>,
    /// Of topics that every region has.
    shared: Vec<ShardView>,
    /// Of topics that stay in one region: how partitions are dealt to its shards, and those of them that are its own.
    staying: BTreeMap<RegionNumber, (ShardMap, Vec<ShardView>)>,
    /// Of a topic that stays in a region of which nothing is known.
    unknown: ShardView,
}

/// Who holds the partitions of one shard.
pub(crate) struct ShardView {
    /// Never one without the other: a client that is told a leader without an epoch forgets the epochs it has seen,
    /// and follows a node that was cut off back into the past.
    leader: Option<(NodeId, LeaderEpoch)>,
    /// Node ids, the preferred leader first.
    pub(crate) replicas: Vec<i32>,
    /// Those of the replicas that are heard.
    pub(crate) in_sync: Vec<i32>,
    /// Those that are not.
    pub(crate) offline: Vec<i32>,
}

impl ClusterView {
    pub(crate) fn new(caller: &Caller) -> Self {
        let region = &caller.context.region;
        let nodes = nodes(caller);
        let remote = region.remote();
        let mut alive = region.alive_nodes();
        alive.extend(remote.nodes().map(|node| node.id));
        let controller = region.controller();
        let is_elsewhere = controller.is_owned_elsewhere();
        let present = controller.ownership().region_epoch;
        // A leader that is not among the brokers would send clients in circles.
        let is_broker = |(leader, _): &(NodeId, LeaderEpoch)| nodes.iter().any(|node| node.id == *leader);
        let shared = |shard: ShardId| {
            let leader = match is_elsewhere {
                true => remote.leader_of(shard),
                false => region.leader_and_epoch_of(shard),
            };
            let leader = leader
                .filter(|leader| is_in_force(leader, present))
                .filter(is_broker);
            let replicas = all_replicas(
                is_elsewhere,
                controller.replicas_of(shard),
                remote.replicas_of(shard),
            );
            ShardView::new(leader, &replicas, &alive)
        };
        let map = region.shard_map();
        let own = map.home().map(|shard| {
            let leader = region.leader_and_epoch_of(shard).filter(is_broker);
            ShardView::new(leader, controller.replicas_of(shard), &alive)
        });
        let mut staying = BTreeMap::from([(map.region(), (map, own.collect()))]);
        for other in remote.present() {
            let Some(map) = other.shard_map(map.shared_count()) else {
                continue;
            };
            let shards = map.home().map(|shard| {
                let (leader, replicas) = other.shard(shard);
                ShardView::new(leader.filter(is_broker), &replicas, &alive)
            });
            staying.insert(other.number, (map, shards.collect()));
        }
        let unknown = ShardView::new(None, &[], &alive);
        let shared = ShardMap::shared(map.shared_count()).all().map(shared).collect();
        drop(controller);
        Self {
            nodes,
            shared,
            staying,
            unknown,
        }
    }

    /// The shard of a partition.
    pub(crate) fn of(&self, partition: Partition) -> &ShardView {
        let count = u32::try_from(self.shared.len()).expect("a region has few shards");
        let found = match partition.topic.home() {
            None => self.shared.get(ShardMap::shared(count).of(partition).0 as usize),
            Some(home) => self.staying.get(&home).and_then(|(map, shards)| {
                let place = map.of(partition).0.checked_sub(map.shared_count())?;
                shards.get(place as usize)
            }),
        };
        found.unwrap_or(&self.unknown)
    }
}

/// The replicas of a shard in all regions, the owner's first, as the first of them should lead.
fn all_replicas(is_elsewhere: bool, own: &[NodeId], mut others: Vec<NodeId>) -> Vec<NodeId> {
    if is_elsewhere {
        others.extend_from_slice(own);
        return others;
    }
    own.iter().copied().chain(others).collect()
}

impl ShardView {
    fn new(leader: Option<(NodeId, LeaderEpoch)>, placement: &[NodeId], alive: &BTreeSet<NodeId>) -> Self {
        let leading = leader.map(|(node, _)| node);
        let mut nodes = placement.to_vec();
        // While a shard moves its leader may be on the way out.
        nodes.extend(leading.filter(|leader| !placement.contains(leader)));
        let (in_sync, offline): (Vec<NodeId>, Vec<NodeId>) = nodes
            .iter()
            .partition(|node| alive.contains(node) || leading == Some(**node));
        let ids = |nodes: Vec<NodeId>| nodes.into_iter().map(|node| node.0.cast_signed()).collect();
        Self {
            leader,
            replicas: ids(nodes),
            in_sync: ids(in_sync),
            offline: ids(offline),
        }
    }

    /// -1 while there is none.
    pub(crate) fn leader_id(&self) -> i32 {
        self.leader.map_or(-1, |(node, _)| node.0.cast_signed())
    }

    /// -1 while there is none.
    pub(crate) fn leader_epoch(&self) -> i32 {
        self.leader.map_or(-1, |(_, epoch)| epoch.0.cast_signed())
    }

    /// What clients are told of the partition.
    pub(crate) fn error(&self) -> ErrorCode {
        if self.leader.is_some() {
            ErrorCode::None
        } else {
            ErrorCode::LeaderNotAvailable
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view(leader: Option<u32>, placement: &[u32], alive: &[u32]) -> ShardView {
        let nodes = |ids: &[u32]| ids.iter().copied().map(NodeId).collect::<Vec<_>>();
        let alive = nodes(alive).into_iter().collect();
        let leader = leader.map(|id| (NodeId(id), LeaderEpoch(7)));
        ShardView::new(leader, &nodes(placement), &alive)
    }

    #[test]
    fn replicas_that_are_not_heard_are_offline_and_out_of_sync() {
        let view = view(Some(2), &[1, 2, 3], &[2, 3]);
        assert_eq!((view.leader_id(), view.leader_epoch()), (2, 7));
        assert_eq!(view.replicas, [1, 2, 3]);
        assert_eq!((view.in_sync, view.offline), (vec![2, 3], vec![1]));
    }

    #[test]
    fn a_leader_that_is_on_the_way_out_is_still_told_as_a_replica() {
        let view = view(Some(4), &[1, 2, 3], &[1, 2, 3, 4]);
        assert_eq!(view.replicas, [1, 2, 3, 4]);
        assert_eq!(view.in_sync, [1, 2, 3, 4]);
    }

    #[test]
    fn replicas_of_all_regions_are_named_and_the_owners_come_first() {
        let (own, others) = ([100_001, 100_002].map(NodeId), vec![NodeId(1), NodeId(2)]);
        let ids = |nodes: Vec<NodeId>| nodes.iter().map(|node| node.0).collect::<Vec<_>>();
        assert_eq!(
            ids(all_replicas(true, &own, others.clone())),
            [1, 2, 100_001, 100_002]
        );
        assert_eq!(ids(all_replicas(false, &own, others)), [100_001, 100_002, 1, 2]);
        let view = view(Some(2), &[1, 2, 100_001], &[2, 100_001]);
        assert_eq!(
            (view.leader_id(), view.in_sync, view.offline),
            (2, vec![2, 100_001], vec![1])
        );
        assert_eq!(
            ids(all_replicas(false, &own, Vec::new())),
            [100_001, 100_002],
            "as ever"
        );
    }

    #[test]
    fn a_leader_is_named_once_its_shard_is_in_the_epoch_of_the_controller() {
        let leader = |region, term| (NodeId(1), LeaderEpoch::new(RegionEpoch(region), term));
        assert!(is_in_force(&leader(0, 5), RegionEpoch(0)));
        assert!(!is_in_force(&leader(0, 5), RegionEpoch(1)));
        assert!(
            is_in_force(&leader(2, 1), RegionEpoch(1)),
            "the shard is ahead of the controller here"
        );
    }

    #[test]
    fn without_a_leader_there_is_no_epoch_and_the_error_says_so() {
        let view = view(None, &[1, 2, 3], &[1]);
        assert_eq!((view.leader_id(), view.leader_epoch()), (-1, -1));
        assert_eq!(view.error(), ErrorCode::LeaderNotAvailable);
        assert_eq!((view.in_sync, view.offline), (vec![1], vec![2, 3]));
    }
}
