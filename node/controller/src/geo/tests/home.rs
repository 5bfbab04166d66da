//! Topics that stay in one region.

use meridian_types::{Partition, ShardId, Term, TopicId};

use super::*;
use crate::configs::ConfigError;
use crate::node::HOME_LEVEL;
use crate::topic::{CreateTopicError, NewTopic};

/// A region whose first nodes understand topics that stay in it.
fn with_home_shards(number: RegionNumber) -> Replica {
    let founding = Founding {
        region: format!("region-{number}"),
        region_epoch: RegionEpoch(0),
        ..founding()
    };
    let node = NodeRegistration {
        version_max: HOME_LEVEL,
        ..registration(number.node_ids().start + 1, 1)
    };
    let geo = GeoFounding { number, owner: WEST };
    let found = Command::found_geo(founding, geo, vec![node], 1);
    let mut replica = Replica {
        controller: Controller::new(),
        log: Vec::new(),
    };
    assert_eq!(replica.apply(&found), Outcome::Founded(Ok(())));
    replica
}

#[test]
fn a_region_of_several_is_founded_with_shards_of_its_own_once_all_its_nodes_understand_them() {
    let map = |replica: &Replica| replica.controller.shard_map().unwrap();
    let east = with_home_shards(EAST);
    assert_eq!(
        (
            map(&east).region(),
            map(&east).shared_count(),
            map(&east).home_count()
        ),
        (EAST, 16, 4)
    );
    assert_eq!(
        map(&Replica::new(EAST)).home_count(),
        0,
        "their nodes are of an older version"
    );
    let mut with_gap = found(EAST, WEST);
    let Command::Found { placements, .. } = &mut with_gap else {
        unreachable!()
    };
    placements.insert(16, (ShardId(17), vec![NodeId(100_001)]));
    let first = LogPosition {
        term: Term(1),
        index: RaftIndex(1),
    };
    let refused = Controller::new().apply(first, &with_gap);
    assert!(matches!(refused, Outcome::Founded(Err(_))), "{refused:?}");
}

#[test]
fn a_topic_stays_in_a_region_that_there_is_and_that_its_id_names() {
    let mut west = with_home_shards(WEST);
    for (number, name) in [(0, "region-0"), (1, "region-1")] {
        let set = Command::SetRegion(region(number, name));
        assert_eq!(west.apply(&set), Outcome::RegionSet(Ok(())));
    }
    let mut made = 0;
    let mut create = |home: Option<u16>, named: Option<&str>| {
        made += 1;
        let topic = NewTopic {
            id: TopicId::random(made, home.map(RegionNumber)),
            configs: named
                .map(|name| ("geo.home".to_owned(), name.to_owned()))
                .into_iter()
                .collect(),
            ..new_topic(made, &format!("t{made}"), 1, &[])
        };
        let command = Command::CreateTopics {
            topics: vec![topic],
            now: NOW,
        };
        match west.apply(&command) {
            Outcome::TopicsCreated(mut results) => results.remove(0).map(|topic| topic.id),
            other => panic!("{other:?}"),
        }
    };
    for (home, named) in [
        (Some(1), None),
        (None, Some("region-1")),
        (Some(0), Some("region-1")),
        (Some(2), Some("region-2")),
    ] {
        let refused = create(home, named);
        assert!(
            matches!(refused, Err(CreateTopicError::Home { .. })),
            "{home:?} {named:?}"
        );
    }
    let everywhere = create(None, Some("")).unwrap();
    let there = create(Some(1), Some("region-1")).unwrap();
    let shard = |topic| west.controller.shard_of(Partition { topic, index: 0 });
    assert_eq!(shard(there), Some(ShardId::ELSEWHERE));
    assert!(shard(everywhere) < Some(ShardId(16)));
    // A change of everything else leaves the home; itself it cannot be changed.
    let alter = |ops: Vec<ConfigOp>, replace_all| ConfigChange {
        resource: ConfigResource::Topic(there),
        replace_all,
        ops,
    };
    let set = |name: &str, value: &str| ConfigOp::Set {
        name: name.into(),
        value: value.into(),
    };
    let replaced = alter(vec![set("retention.ms", "5")], true);
    west.apply(&Command::AlterConfigs {
        changes: vec![replaced],
    });
    let topic = west.controller.topic_by_id(there).unwrap();
    assert_eq!(
        topic.configs.get("geo.home").map(String::as_str),
        Some("region-1")
    );
    for ops in [
        vec![set("geo.home", "region-0")],
        vec![ConfigOp::Delete {
            name: "geo.home".into(),
        }],
    ] {
        let refused = west.controller.check_alter_configs(&alter(ops, false));
        assert!(
            matches!(refused, Err(ConfigError::Conflict { .. })),
            "{refused:?}"
        );
    }
    assert!(matches!(
        west.controller.check_remove_region(EAST),
        Err(RegionError::Home { topics: 1, .. })
    ));
}
