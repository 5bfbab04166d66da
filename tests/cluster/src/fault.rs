//! What happens to the nodes: drawn from a seed, so that a run can be done again.

use std::fmt;
use std::ops::Range;

use meridian_compat::Random;

/// A kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// kill -9.
    Kill,
    /// SIGSTOP, later SIGCONT.
    Stop,
    /// Packets between nodes are lost.
    Partition,
    /// What was not synced is gone.
    Power,
    /// A disk has no space left.
    Disk,
    /// SIGTERM and start again, one node after the other.
    Roll,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Kill,
        Self::Stop,
        Self::Partition,
        Self::Power,
        Self::Disk,
        Self::Roll,
    ];
}

/// Whom a fault hits. Leaders move, so that who it is shows only then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// The leader of partition 0.
    Leader,
    /// The node after it, that many places on.
    After(usize),
}

/// How the network fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// One node hears no other, and none hears it; clients reach all.
    Isolated {
        /// The node.
        node: Target,
    },
    /// One node is cut off from everybody, the clients too.
    Unplugged {
        /// The node.
        node: Target,
    },
    /// What one node sends, the others do not get; it still hears them.
    Mute {
        /// The node.
        node: Target,
    },
    /// What the others send, one node does not get; they still hear it.
    Deaf {
        /// The node.
        node: Target,
    },
    /// Two nodes do not hear each other; every other node hears both.
    Bridge {
        /// One of them; the other is the node after it.
        node: Target,
    },
    /// As isolated, on and off.
    Flapping {
        /// The node.
        node: Target,
        /// How often.
        times: u32,
    },
}

/// One fault.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// kill -9, and start again.
    Kill {
        /// Together.
        nodes: Vec<Target>,
        /// Until they start again, milliseconds.
        down_ms: u64,
    },
    /// SIGSTOP, later SIGCONT.
    Stop {
        /// The node.
        node: Target,
        /// Milliseconds.
        for_ms: u64,
    },
    /// The network fails.
    Partition {
        /// How.
        shape: Shape,
        /// Milliseconds.
        for_ms: u64,
    },
    /// What was not synced is gone, and the nodes start again.
    Power {
        /// Together.
        nodes: Vec<Target>,
        /// Until they start again, milliseconds.
        down_ms: u64,
    },
    /// A disk fills up, and has space again.
    Disk {
        /// The node.
        node: Target,
        /// Milliseconds.
        for_ms: u64,
    },
    /// Every node is stopped with SIGTERM and started again, one after the other.
    Roll,
}

impl Fault {
    /// Draws a fault of one of `kinds` for a cluster of `nodes`, which holds for `hold_ms`.
    ///
    /// # Panics
    /// When there are no kinds, or no nodes.
    pub fn draw(random: &mut Random, kinds: &[Kind], nodes: usize, hold_ms: &Range<u64>) -> Self {
        let kind = kinds[random.within(0..kinds.len() as u64) as usize];
        let ms = random.within(hold_ms.clone());
        match kind {
            Kind::Kill => Self::Kill {
                nodes: draw_group(random, nodes),
                down_ms: ms,
            },
            Kind::Stop => Self::Stop {
                node: draw_target(random, nodes),
                for_ms: ms,
            },
            Kind::Partition => Self::Partition {
                shape: Shape::draw(random, nodes),
                for_ms: ms,
            },
            Kind::Power => Self::Power {
                nodes: draw_group(random, nodes),
                down_ms: ms,
            },
            Kind::Disk => Self::Disk {
                node: draw_target(random, nodes),
                for_ms: ms,
            },
            Kind::Roll => Self::Roll,
        }
    }

    /// Its kind.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Kill { .. } => Kind::Kill,
            Self::Stop { .. } => Kind::Stop,
            Self::Partition { .. } => Kind::Partition,
            Self::Power { .. } => Kind::Power,
            Self::Disk { .. } => Kind::Disk,
            Self::Roll => Kind::Roll,
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kill { nodes, down_ms } => write!(f, "kill {nodes:?} for {down_ms} ms"),
            Self::Stop { node, for_ms } => write!(f, "stop {node:?} for {for_ms} ms"),
            Self::Partition { shape, for_ms } => write!(f, "partition {shape:?} for {for_ms} ms"),
            Self::Power { nodes, down_ms } => write!(f, "power cut of {nodes:?} for {down_ms} ms"),
            Self::Disk { node, for_ms } => write!(f, "disk of {node:?} full for {for_ms} ms"),
            Self::Roll => write!(f, "rolling restart"),
        }
    }
}

impl Shape {
    fn draw(random: &mut Random, nodes: usize) -> Self {
        let node = draw_target(random, nodes);
        match random.within(0..6) {
            0 => Self::Isolated { node },
            1 => Self::Unplugged { node },
            2 => Self::Mute { node },
            3 => Self::Deaf { node },
            4 => Self::Bridge { node },
            _ => Self::Flapping {
                node,
                times: random.within(2..6) as u32,
            },
        }
    }
}

/// The leader half of the time.
fn draw_target(random: &mut Random, nodes: usize) -> Target {
    if nodes == 1 || random.within(0..2) == 0 {
        Target::Leader
    } else {
        Target::After(random.within(1..nodes as u64) as usize)
    }
}

/// One node mostly; now and then two, or all of them.
fn draw_group(random: &mut Random, nodes: usize) -> Vec<Target> {
    let count = match random.within(0..10) {
        0..7 => 1,
        7 => 2.min(nodes),
        _ => nodes,
    };
    if count == 1 {
        return vec![draw_target(random, nodes)];
    }
    let others = (1..count).map(Target::After);
    [Target::Leader].into_iter().chain(others).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drawn(seed: u64, count: usize) -> Vec<Fault> {
        let mut random = Random::seeded(seed);
        let draw = |_| Fault::draw(&mut random, &Kind::ALL, 3, &(100..900));
        (0..count).map(draw).collect()
    }

    #[test]
    fn the_same_seed_draws_the_same_faults() {
        assert_eq!(drawn(7, 50), drawn(7, 50));
        assert_ne!(drawn(7, 50), drawn(8, 50));
    }

    #[test]
    fn every_kind_and_shape_is_drawn() {
        let faults = drawn(1, 600);
        for kind in Kind::ALL {
            let count = faults.iter().filter(|fault| fault.kind() == kind).count();
            assert!(count > 50, "{kind:?}: {count}");
        }
        let shapes: Vec<String> = faults.iter().map(ToString::to_string).collect();
        for word in ["Isolated", "Unplugged", "Mute", "Deaf", "Bridge", "Flapping"] {
            assert!(shapes.iter().any(|text| text.contains(word)), "{word}");
        }
        let all = |fault: &Fault| matches!(fault, Fault::Power { nodes, .. } if nodes.len() == 3);
        assert!(faults.iter().any(all));
    }
}
