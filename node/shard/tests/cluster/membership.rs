//! Nodes that come and go.

use std::collections::BTreeSet;
use std::time::Duration;

use meridian_controller::{Command, Outcome};
use meridian_shard::{ControlError, ReadFrom};
use meridian_types::{NodeId, Partition, ShardId};

use crate::harness::{Cluster, SHARDS};

/// The voters of a shard as its leader counts them; none while a change is under way.
pub(crate) fn voters(cluster: &Cluster, shard: ShardId) -> BTreeSet<NodeId> {
    let Some(leader) = cluster.leader_of(shard) else {
        return BTreeSet::new();
    };
    let status = cluster.region(leader).status();
    let found = status.shards.into_iter().find(|told| told.shard == shard);
    let replica = found.and_then(|told| told.replica);
    let members = replica
        .filter(|replica| !replica.is_moving)
        .map(|replica| replica.members);
    let voters = members
        .unwrap_or_default()
        .into_iter()
        .filter(|member| member.is_voter);
    voters.map(|member| member.node).collect()
}

pub(crate) fn all_shards() -> impl Iterator<Item = ShardId> {
    (0..SHARDS).map(ShardId).chain([ShardId::CONTROLLER])
}

/// Removes a node by way of node 2. The leader of the controller may see later than others that nothing stands against it.
fn until_removed(cluster: &Cluster, remove: &Command) {
    cluster.until("the node is removed", |cluster| {
        match cluster.wait(cluster.region(2).control(remove.clone())) {
            Ok(Outcome::NodeRemoved(removed)) => removed.is_ok(),
            Err(ControlError::Refused { .. } | ControlError::NotLeader { .. }) => false,
            other => panic!("{other:?}"),
        }
    });
}

#[test]
fn a_region_of_one_grows_to_three_and_outlives_its_first_node() {
    let mut cluster = Cluster::founded(1);
    cluster.until_led();
    let topic = cluster.create_topic(1, "grown");
    let partitions: Vec<_> = (0..8).map(|index| Partition { topic, index }).collect();
    for partition in &partitions {
        cluster.append(*partition, "alone");
    }
    cluster.start(&[2, 3], &[1]).expect("they are let in");
    let three: BTreeSet<_> = (1..=3).map(NodeId).collect();
    let took = cluster.until("every shard has three voters", |cluster| {
        all_shards().all(|shard| voters(cluster, shard) == three)
    });
    println!("three copies of everything after {took:?}");
    cluster.until_equal();
    cluster.kill(1);
    cluster.until_led();
    for partition in &partitions {
        assert_eq!(cluster.append(*partition, "without the first").0, 1);
    }
    let values = cluster.values(2, partitions[5], ReadFrom::Any);
    assert_eq!(values.first(), Some(&(0, "alone".to_owned())));
}

#[test]
fn a_drained_node_gives_everything_away_and_can_be_removed() {
    let mut cluster = Cluster::founded(3);
    cluster.until_led();
    let topic = cluster.create_topic(1, "moved");
    let partitions: Vec<_> = (0..8).map(|index| Partition { topic, index }).collect();
    for partition in &partitions {
        cluster.append(*partition, "v");
    }
    cluster.start(&[4], &[1, 2]).expect("it is let in");
    let remove = |node| Command::RemoveNode {
        node: NodeId(node),
        force: false,
    };
    let early = cluster.wait(cluster.region(4).control(remove(1)));
    let is_refused = match &early {
        Err(ControlError::Refused { .. }) => true,
        Ok(Outcome::NodeRemoved(removed)) => removed.is_err(),
        _ => false,
    };
    assert!(is_refused, "{early:?}");

    let drain = Command::DrainNode {
        node: NodeId(1),
        draining: true,
    };
    let drained = cluster
        .wait(cluster.region(4).control(drain))
        .expect("it is decided");
    assert_eq!(drained, Outcome::NodeDrained(Ok(())));
    let rest: BTreeSet<_> = [2, 3, 4].map(NodeId).into();
    let took = cluster.until("node 1 votes nowhere", |cluster| {
        all_shards().all(|shard| voters(cluster, shard) == rest)
    });
    println!("drained after {took:?}");
    cluster.until("nothing is left on node 1", |cluster| {
        cluster.region(1).usage().shards.is_empty()
    });
    for partition in &partitions {
        assert_eq!(cluster.append(*partition, "w").0, 1);
    }
    until_removed(&cluster, &remove(1));
    cluster.stop(1);
    cluster.until_led();
    cluster.until_equal();
}

#[test]
fn a_lost_node_is_removed_by_force_and_its_id_is_never_given_again() {
    let mut cluster = Cluster::founded(3);
    cluster.until_led();
    let topic = cluster.create_topic(1, "kept");
    let partition = Partition { topic, index: 2 };
    cluster.append(partition, "v");
    cluster.start(&[4], &[1]).expect("it is let in");
    let remove = Command::RemoveNode {
        node: NodeId(3),
        force: true,
    };
    let early = cluster.wait(cluster.region(1).control(remove.clone()));
    assert!(
        matches!(early, Err(ControlError::Refused { .. })),
        "it is alive: {early:?}"
    );
    cluster.kill(3);
    cluster.wipe(3);
    cluster.until("node 3 is missed", |cluster| {
        let mut nodes = cluster.nodes.values();
        nodes.all(|node| !node.region.alive_nodes().contains(&NodeId(3)))
    });
    cluster.until_led();
    until_removed(&cluster, &remove);
    let rest: BTreeSet<_> = [1, 2, 4].map(NodeId).into();
    cluster.until("there are three copies again", |cluster| {
        all_shards().all(|shard| voters(cluster, shard) == rest)
    });
    let mut again = cluster.settings(3, &[1, 2]);
    again.start_timeout = Duration::from_secs(2);
    let refused = cluster
        .start_with(vec![again])
        .expect_err("the id was another node's");
    assert!(refused.to_string().contains("no node had before"), "{refused}");
    cluster.start(&[5], &[1, 2]).expect("it is let in");
    cluster.append(partition, "w");
    cluster.until_led();
    cluster.until_equal();
    assert_eq!(cluster.region(5).controller().nodes().len(), 4);
}
