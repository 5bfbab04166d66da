//! How an empty node finds its region: the decision, without the network.

use std::collections::{BTreeMap, BTreeSet};

use meridian_peer::HostPort;
use meridian_types::{NodeId, Uuid};

use crate::message::JoinInfo;

/// Who answered at a seed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SeedAnswer {
    pub(crate) node: NodeId,
    pub(crate) incarnation: Uuid,
    pub(crate) info: JoinInfo,
}

/// Why nobody answered at a seed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Silent {
    /// It cannot be reached: not up yet, perhaps.
    Away,
    /// It does not talk to this node. The text says why.
    Refuses(String),
}

/// A seed, and who answered there.
pub(crate) type Asked = (HostPort, Result<SeedAnswer, Silent>);

/// What an empty node does next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum JoinStep {
    /// Found the region with these nodes and this one.
    Found { others: Vec<SeedAnswer> },
    /// The region exists: ask these nodes to be let in.
    Join { at: Vec<HostPort> },
    /// Nothing is wrong: ask again in a moment.
    Wait { reason: String },
    /// It cannot go on like this. Ask again for a while, in case the other side is corrected.
    Stuck { reason: String },
}

/// Decides by what the seeds answered.
///
/// All empty seeds see the same answers in the end, so that exactly one of them, the one of the lowest node
/// id, founds the region.
pub(crate) fn next_step(me: (NodeId, Uuid), mine: &JoinInfo, answers: &[Asked]) -> JoinStep {
    let (node, incarnation) = me;
    if answers.is_empty() {
        return JoinStep::Found { others: Vec::new() };
    }
    let answered = || {
        answers
            .iter()
            .filter_map(|(seed, answer)| Some((seed, answer.as_ref().ok()?)))
    };
    let mut nodes: BTreeMap<NodeId, (Uuid, &HostPort)> =
        BTreeMap::from([(node, (incarnation, &mine.address))]);
    for (seed, answer) in answered() {
        if answer.info.region != mine.region {
            let reason = format!(
                "seed {seed} is of region '{}', this node wants region '{}': correct region.name or region.seeds",
                answer.info.region, mine.region
            );
            return JoinStep::Stuck { reason };
        }
        let (present, _) = *nodes.entry(answer.node).or_insert((answer.incarnation, seed));
        if present != answer.incarnation {
            let reason = format!(
                "node id {} is used twice, also by the node at seed {seed}: give every node its own node.id",
                answer.node
            );
            return JoinStep::Stuck { reason };
        }
    }
    let founded: Vec<_> = answered()
        .filter(|(_, answer)| answer.info.is_founded && answer.node != node)
        .map(|(seed, _)| seed.clone())
        .collect();
    if !founded.is_empty() {
        return JoinStep::Join { at: founded };
    }
    let refusal = answers.iter().find_map(|(seed, answer)| match answer {
        Err(Silent::Refuses(reason)) => Some(format!("seed {seed} does not take this node: {reason}")),
        _ => None,
    });
    if let Some(reason) = refusal {
        return JoinStep::Stuck { reason };
    }
    let missing: Vec<_> = answers
        .iter()
        .filter(|(_, answer)| answer.is_err())
        .map(|(seed, _)| seed.to_string())
        .collect();
    if !missing.is_empty() {
        let reason = format!("no answer yet from {}", missing.join(", "));
        return JoinStep::Wait { reason };
    }
    let set = |seeds: &[HostPort]| seeds.iter().cloned().collect::<BTreeSet<_>>();
    if let Some((seed, answer)) = answered().find(|(_, answer)| set(&answer.info.seeds) != set(&mine.seeds)) {
        let theirs: Vec<_> = answer.info.seeds.iter().map(ToString::to_string).collect();
        let reason = format!(
            "no region is founded yet, and the node at seed {seed} was started with the seeds [{}]: the first nodes of a region all need the same region.seeds",
            theirs.join(", ")
        );
        return JoinStep::Stuck { reason };
    }
    if !answered().any(|(_, answer)| answer.node == node) {
        let reason = "the seeds have not founded their region yet, and this node is none of them".to_owned();
        return JoinStep::Wait { reason };
    }
    // Two seeds may be names of one node.
    let others: BTreeMap<_, _> = answered()
        .filter(|(_, answer)| answer.node != node)
        .map(|(_, answer)| (answer.node, answer))
        .collect();
    match others.first_key_value() {
        Some((lowest, _)) if *lowest < node => JoinStep::Wait {
            reason: format!("node {lowest} founds the region"),
        },
        _ => JoinStep::Found {
            others: others.into_values().cloned().collect(),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(port: u16) -> HostPort {
        HostPort {
            host: "h".to_owned(),
            port,
        }
    }

    fn info(port: u16, seeds: &[u16], is_founded: bool) -> JoinInfo {
        JoinInfo {
            region: "eu".to_owned(),
            address: address(port),
            is_founded,
            seeds: seeds.iter().copied().map(address).collect(),
            rack: None,
            version_max: 2,
        }
    }

    fn answer(id: u32, seeds: &[u16], is_founded: bool) -> Asked {
        let port = u16::try_from(id).expect("small");
        let answer = SeedAnswer {
            node: NodeId(id),
            incarnation: Uuid::from_u128(id.into()),
            info: info(port, seeds, is_founded),
        };
        (address(port), Ok(answer))
    }

    fn away(port: u16) -> Asked {
        (address(port), Err(Silent::Away))
    }

    fn step(id: u32, answers: &[Asked]) -> JoinStep {
        let seeds: Vec<_> = answers.iter().map(|(seed, _)| seed.port).collect();
        let me = (NodeId(id), Uuid::from_u128(id.into()));
        next_step(
            me,
            &info(u16::try_from(id).expect("small"), &seeds, false),
            answers,
        )
    }

    #[test]
    fn a_node_without_seeds_founds_a_region_of_its_own() {
        assert_eq!(step(7, &[]), JoinStep::Found { others: Vec::new() });
    }

    #[test]
    fn exactly_the_lowest_of_the_empty_seeds_founds() {
        let seeds = [1, 2, 3];
        let answers = [
            answer(3, &seeds, false),
            answer(1, &seeds, false),
            answer(2, &seeds, false),
        ];
        let JoinStep::Found { others } = step(1, &answers) else {
            panic!("the lowest founds")
        };
        assert_eq!(
            others.iter().map(|other| other.node.0).collect::<Vec<_>>(),
            [2, 3]
        );
        for id in [2, 3] {
            assert!(matches!(step(id, &answers), JoinStep::Wait { .. }));
        }
        assert!(
            matches!(step(9, &answers), JoinStep::Wait { .. }),
            "a node that is no seed never founds"
        );
    }

    #[test]
    fn a_seed_that_is_not_up_yet_is_waited_for() {
        let seeds = [1, 2];
        let answers = [answer(1, &seeds, false), away(2)];
        let JoinStep::Wait { reason } = step(1, &answers) else {
            panic!("it waits")
        };
        assert!(reason.contains("h:2"), "{reason}");
    }

    #[test]
    fn a_founded_region_is_joined_even_when_some_seeds_are_silent() {
        let answers = [answer(1, &[1, 2], true), away(2)];
        for id in [2, 9] {
            assert_eq!(step(id, &answers), JoinStep::Join { at: vec![address(1)] });
        }
    }

    #[test]
    fn contradictions_are_named() {
        let seeds = [1, 2];
        let mut other_region = answer(2, &seeds, false);
        other_region.1.as_mut().expect("an answer").info.region = "us".to_owned();
        let mut same_id = answer(1, &seeds, false);
        same_id.1.as_mut().expect("an answer").incarnation = Uuid::from_u128(99);
        for (wrong, expected) in [
            (other_region, "region 'us'"),
            (same_id, "used twice"),
            (answer(2, &[2, 5], false), "h:5"),
            (
                (address(2), Err(Silent::Refuses("not yours".to_owned()))),
                "not yours",
            ),
        ] {
            let JoinStep::Stuck { reason } = step(1, &[answer(1, &seeds, false), wrong]) else {
                panic!("{expected}")
            };
            assert!(reason.contains(expected), "{reason}");
        }
    }
}
