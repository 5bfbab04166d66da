//! Makes a fault happen, waits, and takes it back.

use std::thread::sleep;
use std::time::Duration;

use crate::cluster::Cluster;
use crate::fault::{Fault, Shape, Target};
use crate::network::End;

/// Makes the fault happen for its time. What it broke is whole again afterwards; nodes it ended are launched, not ready.
///
/// `leader`: the node that [`Target::Leader`] means. Errors: the fault could not be made, or a node does not end.
pub fn inject(cluster: &mut Cluster, fault: &Fault, leader: usize) -> Result<(), String> {
    let nodes = cluster.len();
    let place = |target: &Target| match target {
        Target::Leader => leader,
        Target::After(count) => (leader + count) % nodes,
    };
    match fault {
        Fault::Kill { nodes, down_ms } => {
            let hit: Vec<usize> = nodes.iter().map(place).collect();
            hit.iter().for_each(|node| cluster.kill(*node));
            hold(*down_ms);
            hit.iter().try_for_each(|node| cluster.launch(*node))
        }
        Fault::Stop { node, for_ms } => {
            cluster.pause(place(node))?;
            hold(*for_ms);
            cluster.resume(place(node))
        }
        Fault::Partition { shape, for_ms } => partition(cluster, *shape, place, *for_ms),
        Fault::Power { nodes, down_ms } => {
            let hit: Vec<usize> = nodes.iter().map(place).collect();
            cluster.cut_power(&hit)?;
            hold(*down_ms);
            hit.iter().try_for_each(|node| cluster.launch(*node))
        }
        Fault::Disk { node, for_ms } => {
            let hit = place(node);
            cluster.fill_disk(hit)?;
            hold(*for_ms);
            cluster.free_disk(hit)?;
            // A node may end when its disk is full; it must come back on a good one.
            if !cluster.is_alive(hit) {
                cluster.kill(hit);
                cluster.launch(hit)?;
            }
            Ok(())
        }
        Fault::Roll => (0..nodes).try_for_each(|node| {
            cluster.stop(node)?;
            cluster.launch(node)?;
            cluster.wait_ready(node)
        }),
    }
}

fn hold(ms: u64) {
    sleep(Duration::from_millis(ms));
}

fn partition(
    cluster: &mut Cluster,
    shape: Shape,
    place: impl Fn(&Target) -> usize,
    for_ms: u64,
) -> Result<(), String> {
    if let Shape::Flapping { node, times } = shape {
        let cuts = cuts(Shape::Isolated { node }, cluster.len(), &place);
        for _ in 0..times {
            cut(cluster, &cuts)?;
            hold(for_ms / u64::from(2 * times));
            cluster.heal()?;
            hold(for_ms / u64::from(2 * times));
        }
        return Ok(());
    }
    cut(cluster, &cuts(shape, cluster.len(), &place))?;
    hold(for_ms);
    cluster.heal()
}

fn cut(cluster: &mut Cluster, cuts: &[(End, End)]) -> Result<(), String> {
    cuts.iter().try_for_each(|(from, to)| cluster.cut(*from, *to))
}

/// Who no longer reaches whom.
fn cuts(shape: Shape, nodes: usize, place: &impl Fn(&Target) -> usize) -> Vec<(End, End)> {
    let sent = |node: usize| -> Vec<(End, End)> {
        let others = (0..nodes).filter(|other| *other != node);
        others.map(|other| (End::Node(node), End::Node(other))).collect()
    };
    let reversed = |pairs: Vec<(End, End)>| pairs.into_iter().map(|(from, to)| (to, from));
    match shape {
        Shape::Isolated { node } | Shape::Flapping { node, .. } => {
            let node = place(&node);
            sent(node).into_iter().chain(reversed(sent(node))).collect()
        }
        Shape::Unplugged { node } => {
            let node = place(&node);
            let mut pairs = sent(node);
            pairs.push((End::Node(node), End::Clients));
            pairs.clone().into_iter().chain(reversed(pairs)).collect()
        }
        Shape::Mute { node } => sent(place(&node)),
        Shape::Deaf { node } => reversed(sent(place(&node))).collect(),
        Shape::Bridge { node } => {
            let (one, other) = (place(&node), (place(&node) + 1) % nodes);
            vec![
                (End::Node(one), End::Node(other)),
                (End::Node(other), End::Node(one)),
            ]
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drawn(shape: Shape) -> Vec<String> {
        let show = |end: End| match end {
            End::Node(node) => node.to_string(),
            End::Clients => "c".to_owned(),
        };
        let place = |target: &Target| match target {
            Target::Leader => 0,
            Target::After(count) => *count,
        };
        let mut lines: Vec<String> = cuts(shape, 3, &place)
            .into_iter()
            .map(|(from, to)| format!("{}>{}", show(from), show(to)))
            .collect();
        lines.sort();
        lines
    }

    #[test]
    fn each_shape_cuts_what_it_says() {
        let node = Target::Leader;
        assert_eq!(drawn(Shape::Isolated { node }), ["0>1", "0>2", "1>0", "2>0"]);
        assert_eq!(
            drawn(Shape::Unplugged { node }),
            ["0>1", "0>2", "0>c", "1>0", "2>0", "c>0"]
        );
        assert_eq!(drawn(Shape::Mute { node }), ["0>1", "0>2"]);
        assert_eq!(drawn(Shape::Deaf { node }), ["1>0", "2>0"]);
        assert_eq!(drawn(Shape::Bridge { node }), ["0>1", "1>0"]);
        let node = Target::After(2);
        assert_eq!(drawn(Shape::Bridge { node }), ["0>2", "2>0"]);
    }
}
