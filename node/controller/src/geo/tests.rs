use meridian_lineage::{ContentReader, NotOwner, Role};
use meridian_types::{ProducerId, RaftIndex, ShardId};
use proptest::prelude::*;

use super::*;
use crate::configs::{ConfigChange, ConfigOp};
use crate::controller::Founding;
use crate::outcome::{Outcome, ProducerIds};
use crate::testing::{NOW, address, change, founded, founding, id, new_topic, registration, set};

mod home;

const WEST: RegionNumber = RegionNumber(0);
const EAST: RegionNumber = RegionNumber(1);

/// The controller of a region, with its log.
struct Replica {
    controller: Controller,
    log: Vec<Bytes>,
}

impl Replica {
    fn new(region: RegionNumber) -> Self {
        let mut replica = Self {
            controller: Controller::new(),
            log: Vec::new(),
        };
        let outcome = replica.apply(&found(region, WEST));
        assert_eq!(outcome, Outcome::Founded(Ok(())));
        replica
    }

    fn apply(&mut self, command: &Command) -> Outcome {
        let entry: Bytes = command.encode().concat().into();
        let command = Command::decode(std::slice::from_ref(&entry)).unwrap();
        self.log.push(entry);
        let index = RaftIndex(self.log.len() as u64);
        let term = meridian_types::Term(2);
        let outcome = self.controller.apply(LogPosition { term, index }, &command);
        self.controller.check().unwrap();
        outcome
    }

    fn restart(&mut self) {
        self.controller = Controller::decode_snapshot(&self.controller.encode_snapshot().concat()).unwrap();
    }

    /// One run for each content command of the log.
    fn content(&self) -> Vec<ContentRun> {
        let standing = self.controller.standing();
        let point = standing.index().at_or_before(0).unwrap();
        let mut reader = ContentReader::new(point.progress, self.controller.region_number());
        let mut content = Vec::new();
        for entry in &self.log[point.index.0 as usize - 1..] {
            let mut before = *reader.progress();
            let Some(run) = reader.read::<Command>(entry).unwrap() else {
                continue;
            };
            for (first_sequence, bytes) in (before.sequence..).zip(run.commands) {
                before.digest = Command::read(&bytes).unwrap().fold(before.digest);
                content.push(ContentRun {
                    first_sequence,
                    commands: vec![bytes],
                    digest: before.digest,
                    region_epoch: run.region_epoch,
                });
            }
        }
        assert_eq!(reader.progress(), standing.progress());
        content
    }

    /// Takes what the owner has, in runs of up to `pace` commands.
    fn follow(&mut self, owner: &Self, pace: usize) {
        let content = owner.content();
        let known = self.controller.standing().sequence() as usize;
        for epoch in content[known..].chunk_by(|a, b| a.region_epoch == b.region_epoch) {
            for runs in epoch.chunks(pace) {
                let run = ContentRun {
                    commands: runs.iter().flat_map(|run| run.commands.clone()).collect(),
                    digest: runs[runs.len() - 1].digest,
                    ..runs[0].clone()
                };
                let end = run.end_sequence().unwrap();
                assert_eq!(self.apply(&Command::Mirrored(run)), Outcome::Mirrored(Ok(end)));
            }
        }
    }
}

fn found(number: RegionNumber, owner: RegionNumber) -> Command {
    let founding = Founding {
        region: format!("region-{number}"),
        region_epoch: RegionEpoch(0),
        ..founding()
    };
    let first = number.node_ids().start;
    let nodes = vec![node(first + 1), node(first + 2)];
    Command::found_geo(founding, GeoFounding { number, owner }, nodes, 2)
}

fn node(node: u32) -> NodeRegistration {
    NodeRegistration {
        version_max: GEO_LEVEL,
        ..registration(node, node.into())
    }
}

fn region(number: u16, name: &str) -> GeoRegion {
    GeoRegion {
        number: RegionNumber(number),
        name: name.into(),
        geo: vec![address("geo.example", 9290)],
    }
}

fn create(n: u128, name: &str) -> Command {
    Command::CreateTopics {
        topics: vec![new_topic(n, name, 3, &[])],
        now: NOW,
    }
}

fn draining(epoch: u32, to: RegionNumber) -> Command {
    Command::SetOwnership(Ownership {
        region_epoch: RegionEpoch(epoch),
        owner: WEST,
        state: OwnershipState::Draining { to, deadline: NOW },
    })
}

fn held(epoch: u32, owner: RegionNumber) -> Command {
    Command::SetOwnership(Ownership {
        region_epoch: RegionEpoch(epoch),
        owner,
        state: OwnershipState::Held,
    })
}

/// What all regions are to agree on.
fn shared(replica: &Replica) -> impl PartialEq + std::fmt::Debug + use<> {
    let controller = &replica.controller;
    let topics: Vec<_> = controller.topics().cloned().collect();
    let deleted: Vec<_> = controller
        .deleted_topics()
        .map(|(id, topic)| (id, topic.clone()))
        .collect();
    let regions: Vec<_> = controller.regions().cloned().collect();
    let configs = controller.cluster_configs.clone();
    let standing = controller.standing();
    let came = (standing.sequence(), standing.digest(), standing.lineage().clone());
    (topics, deleted, regions, configs, controller.ownership(), came)
}

#[test]
fn a_region_without_a_number_is_as_it_was() {
    let controller = founded();
    assert!(!controller.is_geo() && controller.is_owner());
    assert!(!controller.standing().is_counted());
    assert_eq!(controller.ownership().state, OwnershipState::Held);
    let mut controller = controller;
    let mut refused = |command: &Command| crate::testing::apply(&mut controller, command);
    assert_eq!(
        refused(&Command::SetRegion(region(1, "east"))),
        Outcome::RegionSet(Err(RegionError::NotGeo))
    );
    assert_eq!(
        refused(&Command::RemoveRegion { number: EAST }),
        Outcome::RegionRemoved(Err(RegionError::NotGeo))
    );
    assert_eq!(
        refused(&draining(3, EAST)),
        Outcome::OwnershipSet(Err(TurnRejected::NotCounted))
    );
    let run = ContentRun {
        region_epoch: RegionEpoch(0),
        first_sequence: 0,
        commands: vec![],
        digest: ContentDigest::EMPTY,
    };
    assert!(matches!(
        refused(&Command::Mirrored(run)),
        Outcome::Mirrored(Err(MirrorRejected::NotMirror {
            role: Role::Owner,
            ..
        }))
    ));
}

#[test]
fn a_region_of_several_gives_ids_that_no_other_region_gives() {
    let mut east = Replica::new(EAST);
    assert_eq!(east.controller.region_number(), EAST);
    assert_eq!(east.controller.feature_level(), GEO_LEVEL);
    let foreign = east.apply(&Command::RegisterNode {
        node: node(7),
        now: NOW,
    });
    let Outcome::NodeRegistered(Err(error)) = foreign else {
        panic!("a node of another region is refused")
    };
    assert_eq!(
        error.to_string(),
        "node id 7 is not one of region 1, whose ids are 100000 to 199999"
    );
    let own = east.apply(&Command::RegisterNode {
        node: node(100_007),
        now: NOW,
    });
    assert!(matches!(own, Outcome::NodeRegistered(Ok(_))));
    let dealt = |replica: &mut Replica| replica.apply(&Command::AllocateProducerIds { count: 10 });
    let block = |first| {
        Outcome::ProducerIds(Ok(ProducerIds {
            first: ProducerId(first),
            count: 10,
        }))
    };
    assert_eq!(dealt(&mut east), block(1 << 48));
    assert_eq!(dealt(&mut east), block((1 << 48) + 10));
    assert_eq!(dealt(&mut Replica::new(WEST)), block(0));
}

#[test]
fn what_cannot_be_one_of_several_is_not_founded() {
    let refused = |command: Command| {
        let mut controller = Controller::new();
        match crate::testing::apply(&mut controller, &command) {
            Outcome::Founded(Err(error)) => error.to_string(),
            other => panic!("it was answered by {other:?}"),
        }
    };
    let with = |change: &dyn Fn(&mut Vec<NodeRegistration>, &mut Configs, &mut GeoFounding)| {
        let mut command = found(EAST, WEST);
        if let Command::Found {
            nodes,
            configs,
            geo: Some(geo),
            ..
        } = &mut command
        {
            change(nodes, configs, geo);
        }
        refused(command)
    };
    assert_eq!(
        with(&|nodes, _, _| nodes[0].version_max = 3),
        "node 100001 understands feature level 3, but the region is at 4; run a newer version of Meridian on it"
    );
    assert_eq!(
        with(&|_, _, geo| geo.number = RegionNumber(2)),
        "node id 100001 is not one of region 2, whose ids are 200000 to 299999"
    );
    assert_eq!(
        with(&|_, configs, _| drop(configs.insert("num.partitions".into(), "3".into()))),
        "the region cannot be one of several: all regions have the same configs of the cluster; the owner sets them later"
    );
}

#[test]
fn a_mirror_takes_its_own_matters_and_no_content() {
    let mut east = Replica::new(EAST);
    let not_owner = Outcome::NotOwner(NotOwner {
        owner: WEST,
        region_epoch: RegionEpoch(0),
        role: Role::Mirror,
    });
    let cluster = change(ConfigResource::Cluster, vec![set("num.partitions", "3")]);
    let own_node = change(
        ConfigResource::Node(NodeId(100_001)),
        vec![set("max.connections", "9")],
    );
    for content in [
        create(1, "t"),
        Command::DeleteTopics {
            topics: vec![id(1)],
            now: NOW,
        },
        Command::CreatePartitions {
            topics: vec![(id(1), 9)],
        },
        Command::AlterConfigs {
            changes: vec![cluster.clone()],
        },
        Command::AlterConfigs {
            changes: vec![own_node.clone(), cluster],
        },
        Command::SetRegion(region(1, "east")),
        Command::RemoveRegion { number: EAST },
        draining(0, EAST),
        held(1, EAST),
    ] {
        let before = shared(&east);
        assert_eq!(east.apply(&content), not_owner, "{}", content.name());
        assert!(shared(&east) == before, "{}", content.name());
    }
    let own = east.apply(&Command::AlterConfigs {
        changes: vec![own_node],
    });
    assert_eq!(own, Outcome::ConfigsAltered(vec![Ok(())]));
    let placed = east.apply(&Command::SetPlacement {
        shard: ShardId(3),
        replicas: vec![NodeId(100_002)],
        expected: 1,
    });
    assert!(matches!(placed, Outcome::PlacementSet(Ok(_))));
    assert_eq!(
        east.controller.standing().sequence(),
        0,
        "its own matters are not counted"
    );
}

#[test]
fn configs_of_nodes_stay_in_their_region_even_beside_others() {
    let (mut west, mut east) = (Replica::new(WEST), Replica::new(EAST));
    let both = vec![
        change(ConfigResource::Node(NodeId(1)), vec![set("max.connections", "9")]),
        change(
            ConfigResource::Node(NodeId(100_001)),
            vec![set("max.connections", "9")],
        ),
        change(ConfigResource::Cluster, vec![set("num.partitions", "3")]),
    ];
    west.apply(&Command::AlterConfigs { changes: both });
    east.follow(&west, 1);
    assert!(shared(&west) == shared(&east));
    assert_eq!(west.controller.broker_settings(NodeId(1)).connections_max, 9);
    assert_ne!(
        east.controller.broker_settings(NodeId(100_001)).connections_max,
        9
    );
}

#[test]
fn regions_are_named_once_and_the_owner_is_not_removed() {
    let mut west = Replica::new(WEST);
    let set = |west: &mut Replica, region: GeoRegion| {
        let expected = west.controller.check_set_region(&region);
        let outcome = west.apply(&Command::SetRegion(region));
        assert_eq!(outcome, Outcome::RegionSet(expected.clone()));
        expected.map_err(|error| error.to_string())
    };
    for (number, name) in [(0, "west"), (1, "east"), (2, "south")] {
        assert_eq!(set(&mut west, region(number, name)), Ok(()));
    }
    assert_eq!(
        set(&mut west, region(1, "east-1")),
        Ok(()),
        "a region may change its name"
    );
    let error = |result: Result<(), String>| result.expect_err("it is refused");
    assert_eq!(
        error(set(&mut west, region(2, "east-1"))),
        "region 1 is called 'east-1' already"
    );
    assert!(error(set(&mut west, region(3, "no rth"))).starts_with("region name \"no rth\" must be"));
    let nowhere = GeoRegion {
        geo: vec![],
        ..region(3, "north")
    };
    assert!(error(set(&mut west, nowhere)).starts_with("region 3 needs 1 to 64 addresses"));
    let names: Vec<_> = west
        .controller
        .regions()
        .map(|region| region.name.clone())
        .collect();
    assert_eq!(names, ["west", "east-1", "south"]);
    let remove = |west: &mut Replica, number| {
        let expected = west.controller.check_remove_region(number);
        let outcome = west.apply(&Command::RemoveRegion { number });
        assert_eq!(outcome, Outcome::RegionRemoved(expected.clone()));
        expected
    };
    assert_eq!(remove(&mut west, WEST), Err(RegionError::Owner { number: WEST }));
    let nobody = RegionNumber(9);
    assert_eq!(
        remove(&mut west, nobody),
        Err(RegionError::NotFound { number: nobody })
    );
    assert_eq!(remove(&mut west, EAST), Ok(()));
    assert_eq!(west.controller.region(EAST), None);
}

#[test]
fn a_switchover_is_decided_in_the_owners_log_and_arrives_with_the_content() {
    let (mut west, mut east) = (Replica::new(WEST), Replica::new(EAST));
    west.apply(&Command::SetRegion(region(1, "east")));
    west.apply(&create(1, "before"));
    let to_nobody = Ownership {
        region_epoch: RegionEpoch(0),
        owner: WEST,
        state: OwnershipState::Draining {
            to: RegionNumber(7),
            deadline: NOW,
        },
    };
    assert_eq!(
        west.controller.check_set_ownership(&to_nobody),
        Err(TurnRejected::Region {
            region: RegionNumber(7)
        })
    );
    assert_eq!(west.apply(&draining(0, EAST)), Outcome::OwnershipSet(Ok(())));
    assert!(!west.controller.is_owner());
    assert_eq!(
        west.controller.ownership().state,
        OwnershipState::Draining {
            to: EAST,
            deadline: NOW
        }
    );
    west.restart();
    let late = west.apply(&create(2, "late"));
    assert!(matches!(
        late,
        Outcome::NotOwner(NotOwner {
            role: Role::Fenced,
            ..
        })
    ));
    east.follow(&west, 2);
    assert_eq!(east.controller.ownership(), west.controller.ownership());
    assert!(
        !east.controller.is_owner(),
        "the mirror waits for the old owner's word"
    );

    assert_eq!(west.apply(&held(1, EAST)), Outcome::OwnershipSet(Ok(())));
    assert_eq!(west.controller.standing().role(), Role::Mirror);
    east.follow(&west, 9);
    assert!(shared(&east) == shared(&west));
    assert!(east.controller.is_owner());
    assert!(matches!(east.apply(&create(2, "late")), Outcome::TopicsCreated(results) if results[0].is_ok()));
    west.follow(&east, 9);
    assert!(shared(&east) == shared(&west));
    assert!(west.controller.topic("late").is_some());

    // One that is not done in time goes back to the owner, which goes on under the next epoch.
    east.apply(&Command::SetOwnership(Ownership {
        region_epoch: RegionEpoch(1),
        owner: EAST,
        state: OwnershipState::Draining {
            to: WEST,
            deadline: NOW,
        },
    }));
    assert_eq!(east.apply(&held(2, EAST)), Outcome::OwnershipSet(Ok(())));
    assert!(east.controller.is_owner());
    east.apply(&create(3, "after"));
    west.follow(&east, 1);
    assert!(shared(&east) == shared(&west));
    assert_eq!(west.controller.standing().role(), Role::Mirror);
    assert_eq!(west.controller.ownership().region_epoch, RegionEpoch(2));
}

fn content_or_own(kind: u8, n: u8) -> Command {
    let name = format!("t{}", n % 5);
    let topic = id(1 + u128::from(n % 5));
    match kind % 10 {
        0 | 1 => create(1 + u128::from(n % 5), &name),
        2 => Command::DeleteTopics {
            topics: vec![topic, id(77)],
            now: NOW,
        },
        3 => Command::CreatePartitions {
            topics: vec![(topic, u32::from(n % 9))],
        },
        4 => Command::AlterConfigs {
            changes: vec![
                change(
                    ConfigResource::Topic(topic),
                    vec![set("retention.ms", &n.to_string())],
                ),
                change(ConfigResource::Node(NodeId(1)), vec![set("max.connections", "7")]),
            ],
        },
        5 => Command::AlterConfigs {
            changes: vec![ConfigChange {
                resource: ConfigResource::Cluster,
                replace_all: false,
                ops: match n % 2 {
                    0 => vec![set("log.retention.hours", "9")],
                    _ => vec![ConfigOp::Delete {
                        name: "log.retention.hours".into(),
                    }],
                },
            }],
        },
        6 => Command::SetRegion(region(u16::from(n % 4), &format!("r{}", n % 3))),
        7 => Command::RemoveRegion {
            number: RegionNumber(u16::from(n % 4)),
        },
        8 => Command::AllocateProducerIds { count: 5 },
        _ => Command::DrainNode {
            node: NodeId(1),
            draining: n.is_multiple_of(2),
        },
    }
}

proptest! {
    #[test]
    fn a_mirror_knows_what_the_owner_knows(
        commands in prop::collection::vec((any::<u8>(), any::<u8>()), 1..60),
        pace in 1..9_usize,
        spoilt in any::<prop::sample::Index>(),
        bit in 0..64,
    ) {
        let (mut west, mut east) = (Replica::new(WEST), Replica::new(EAST));
        for (n, (kind, value)) in commands.iter().enumerate() {
            west.apply(&content_or_own(*kind, *value));
            east.apply(&Command::AllocateProducerIds { count: 1 });
            if n % 7 == 3 {
                west.restart();
            }
            if n % 11 == 5 {
                east.follow(&west, pace);
                east.restart();
            }
        }
        east.follow(&west, pace);
        prop_assert!(shared(&west) == shared(&east));
        // Nothing of it twice, nothing beyond it, nothing spoilt.
        let content = west.content();
        let before = east.controller.digest();
        let applied = east.controller.applied();
        if !content.is_empty() {
            let old = content[spoilt.index(content.len())].clone();
            let end = east.controller.standing().sequence();
            prop_assert_eq!(east.apply(&Command::Mirrored(old)), Outcome::Mirrored(Ok(end)));
        }
        west.apply(&create(50, "new"));
        let next = west.content().pop().unwrap();
        let gap = ContentRun { first_sequence: next.first_sequence + 1, ..next.clone() };
        let is_gap = matches!(east.apply(&Command::Mirrored(gap)), Outcome::Mirrored(Err(MirrorRejected::Gap { .. })));
        prop_assert!(is_gap);
        let epoch = ContentRun { region_epoch: RegionEpoch(1), ..next.clone() };
        let is_new = matches!(east.apply(&Command::Mirrored(epoch)), Outcome::Mirrored(Err(MirrorRejected::NewEpoch { .. })));
        prop_assert!(is_new);
        east.controller.applied = applied;
        prop_assert_eq!(east.controller.digest(), before);
        let mut bad = next;
        bad.digest.0 ^= 1_u64 << bit;
        let is_different =
            matches!(east.apply(&Command::Mirrored(bad)), Outcome::Mirrored(Err(MirrorRejected::DigestDiffers { .. })));
        prop_assert!(is_different);
        prop_assert!(east.controller.topic("new").is_none());
        prop_assert!(east.controller.standing().diverged_at().is_some());
        east.follow(&west, pace);
        prop_assert!(shared(&west) == shared(&east));
    }
}
