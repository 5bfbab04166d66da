//! Which nodes hold which shard.

use std::collections::{BTreeMap, VecDeque};

use meridian_types::{NodeId, ShardId};

use crate::node::Node;

/// The nodes that should hold `shard`, `copies` of them or as many as there are, the preferred leader first.
///
/// A function of the registered nodes alone. Neighbours on the ring come from different racks as long as the
/// racks last, and the ring starts one node further for every shard, so leaders spread evenly.
pub fn replicas_of(shard: ShardId, nodes: &BTreeMap<NodeId, Node>, copies: usize) -> Vec<NodeId> {
    let ring = ring(nodes);
    if ring.is_empty() {
        return Vec::new();
    }
    let first = if shard == ShardId::CONTROLLER {
        0
    } else {
        shard.0 as usize % ring.len()
    };
    ring.iter()
        .cycle()
        .skip(first)
        .take(copies.min(ring.len()))
        .copied()
        .collect()
}

/// All nodes, one of each rack in turn.
fn ring(nodes: &BTreeMap<NodeId, Node>) -> Vec<NodeId> {
    let mut racks: BTreeMap<Option<&str>, VecDeque<NodeId>> = BTreeMap::new();
    for (id, node) in nodes {
        racks
            .entry(node.registration.rack.as_deref())
            .or_default()
            .push_back(*id);
    }
    let mut ring = Vec::with_capacity(nodes.len());
    while ring.len() < nodes.len() {
        ring.extend(racks.values_mut().filter_map(VecDeque::pop_front));
    }
    ring
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use meridian_types::{TimestampMs, Uuid};

    use super::*;
    use crate::node::NodeRegistration;

    fn nodes(racks: &[&str]) -> BTreeMap<NodeId, Node> {
        let node = |(n, rack): (usize, &&str)| {
            let node = NodeId(n as u32 + 1);
            let registration = NodeRegistration {
                node,
                incarnation: Uuid::from_u128(n as u128),
                host: "localhost".into(),
                port: 9092,
                rack: (!rack.is_empty()).then(|| (*rack).to_owned()),
            };
            (
                node,
                Node {
                    registration,
                    epoch: 1,
                    registered_at: TimestampMs(0),
                },
            )
        };
        racks.iter().enumerate().map(node).collect()
    }

    #[test]
    fn every_shard_has_as_many_copies_as_there_are_nodes_up_to_three() {
        assert_eq!(replicas_of(ShardId(0), &nodes(&[]), 3), []);
        assert_eq!(replicas_of(ShardId(7), &nodes(&[""]), 3), [NodeId(1)]);
        assert_eq!(
            replicas_of(ShardId(1), &nodes(&["", ""]), 3),
            [NodeId(2), NodeId(1)]
        );
        assert_eq!(
            replicas_of(ShardId(4), &nodes(&[""; 5]), 3),
            [NodeId(5), NodeId(1), NodeId(2)]
        );
    }

    #[test]
    fn copies_lie_in_different_racks_and_leaders_spread() {
        let nodes = nodes(&["a", "a", "b", "b", "c", "c"]);
        let mut leaders = BTreeMap::new();
        for shard in 0..12 {
            let replicas = replicas_of(ShardId(shard), &nodes, 3);
            let racks: BTreeSet<_> = replicas.iter().map(|id| &nodes[id].registration.rack).collect();
            assert_eq!(racks.len(), 3, "shard {shard} on {replicas:?}");
            *leaders.entry(replicas[0]).or_insert(0) += 1;
        }
        assert!(leaders.len() == 6 && leaders.values().all(|led| *led == 2));
    }
}
