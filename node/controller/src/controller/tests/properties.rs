//! Random histories.

use meridian_types::{NodeId, ShardId, TimestampMs};
use proptest::prelude::*;

use crate::configs::{ConfigOp, ConfigResource};
use crate::testing::{NOW, apply, change, founded, id, new_topic, registration, remove, set};
use crate::{Command, Controller};

fn command() -> impl Strategy<Value = Command> {
    let name = prop_oneof![Just("a"), Just("b.c"), Just("b_c"), Just("d"), Just("")];
    let config = prop_oneof![
        Just(("retention.ms", "5")),
        Just(("retention.ms", "x")),
        Just(("cleanup.policy", "compact,delete")),
        Just(("nope", "1")),
    ];
    let cluster = prop_oneof![
        Just(("log.retention.hours", "1")),
        Just(("num.partitions", "7")),
        Just(("node.id", "1"))
    ];
    let op = |name: &str, value: &str, delete: bool| match delete {
        true => ConfigOp::Delete { name: name.into() },
        false => set(name, value),
    };
    prop_oneof![
        4 => (0..6_u128, name, 0..4_u32, prop::option::of(config.clone())).prop_map(|(n, name, partitions, config)| {
            let configs: Vec<_> = config.into_iter().collect();
            Command::CreateTopics { topics: vec![new_topic(n, name, partitions, &configs)], now: NOW }
        }),
        2 => (0..6_u128, 0..8_i64).prop_map(|(n, day)| {
            Command::DeleteTopics { topics: vec![id(n)], now: TimestampMs(NOW.0 + day * 86_400_000) }
        }),
        1 => (0..6_u128, 0..9_u32).prop_map(|(n, total)| Command::CreatePartitions { topics: vec![(id(n), total)] }),
        2 => (0..6_u128, config, any::<bool>()).prop_map(move |(n, (name, value), delete)| Command::AlterConfigs {
            changes: vec![change(ConfigResource::Topic(id(n)), vec![op(name, value, delete)])],
        }),
        1 => (cluster, any::<bool>()).prop_map(move |((name, value), delete)| Command::AlterConfigs {
            changes: vec![change(ConfigResource::Cluster, vec![op(name, value, delete)])],
        }),
        1 => (0..3_u32, 0..2_u128).prop_map(|(n, i)| Command::RegisterNode { node: registration(n, i), now: NOW }),
        1 => (0..3_u32, any::<bool>()).prop_map(|(n, force)| remove(n, force)),
        1 => (0..3_u32, any::<bool>()).prop_map(|(n, draining)| Command::DrainNode { node: NodeId(n), draining }),
        2 => (0..18_u32, prop::collection::vec(0..3_u32, 0..4), 0..40_u64).prop_map(|(n, replicas, expected)| {
            let shard = if n == 17 { ShardId::CONTROLLER } else { ShardId(n) };
            Command::SetPlacement { shard, replicas: replicas.into_iter().map(NodeId).collect(), expected }
        }),
        1 => (0..3_u32, any::<bool>()).prop_map(move |(n, delete)| Command::AlterConfigs {
            changes: vec![change(ConfigResource::Node(NodeId(n)), vec![op("fetch.max.bytes", "2048", delete)])],
        }),
        1 => (0..5_u32).prop_map(|count| Command::AllocateProducerIds { count }),
    ]
}

proptest! {
    #[test]
    fn a_node_from_a_snapshot_stays_equal_to_one_that_replayed_everything(
        commands in prop::collection::vec(command(), 1..60),
        cut in any::<prop::sample::Index>(),
    ) {
        let cut = cut.index(commands.len());
        let mut replayed = founded();
        let mut restored = None;
        for (n, command) in commands.iter().enumerate() {
            if n == cut {
                let bytes = replayed.encode_snapshot().concat();
                let back = Controller::decode_snapshot(&bytes).unwrap();
                prop_assert_eq!(back.encode_snapshot().concat(), bytes);
                restored = Some(back);
            }
            let outcome = apply(&mut replayed, command);
            if let Some(restored) = &mut restored {
                prop_assert_eq!(apply(restored, command), outcome);
            }
        }
        prop_assert_eq!(restored.map(|restored| restored.digest()), Some(replayed.digest()));
    }
}
