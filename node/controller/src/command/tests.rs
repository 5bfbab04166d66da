use meridian_types::Uuid;
use proptest::prelude::*;

use super::*;
use crate::testing::{NOW, assert_fixture, founding, id, joined, new_topic, registration, set};

fn samples() -> Vec<Command> {
    let op = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let (append, subtract) = (op("cleanup.policy", "compact"), op("cleanup.policy", "delete"));
    vec![
        Command::Found { founding: founding() },
        Command::CreateTopics {
            topics: vec![
                new_topic(
                    1,
                    "orders",
                    100_000,
                    &[("retention.ms", "-1"), ("cleanup.policy", "compact")],
                ),
                new_topic(2, "payments", 1, &[]),
            ],
            now: NOW,
        },
        Command::DeleteTopics {
            topics: vec![id(1), id(2)],
            now: NOW,
        },
        Command::CreatePartitions {
            topics: vec![(id(1), 12), (id(2), u32::MAX)],
        },
        Command::AlterConfigs {
            changes: vec![
                ConfigChange {
                    resource: ConfigResource::Topic(id(1)),
                    replace_all: true,
                    ops: vec![set("retention.ms", "5")],
                },
                ConfigChange {
                    resource: ConfigResource::Cluster,
                    replace_all: false,
                    ops: vec![
                        ConfigOp::Delete {
                            name: "num.partitions".into(),
                        },
                        ConfigOp::Append {
                            name: append.0,
                            value: append.1,
                        },
                        ConfigOp::Subtract {
                            name: subtract.0,
                            value: subtract.1,
                        },
                    ],
                },
                ConfigChange {
                    resource: ConfigResource::Node(NodeId(7)),
                    replace_all: false,
                    ops: vec![set("fetch.max.bytes", "2048")],
                },
            ],
        },
        Command::RegisterNode {
            node: registration(2, 99),
            now: NOW,
        },
        Command::RemoveNode { node: NodeId(2) },
        Command::AllocateProducerIds { count: 1000 },
    ]
}

#[test]
fn every_kind_returns_however_it_is_cut() {
    for command in samples() {
        let whole = joined(&command.encode());
        assert_eq!(
            Command::decode(std::slice::from_ref(&whole)).as_ref(),
            Ok(&command)
        );
        for cut in 0..=whole.len() {
            let parts = [whole.slice(..cut), whole.slice(cut..)];
            assert_eq!(Command::decode(&parts).as_ref(), Ok(&command), "cut at {cut}");
        }
    }
}

#[test]
fn version_one_reads_and_writes_its_stored_files() {
    for command in samples() {
        assert_fixture(
            &format!("command-v1-{}.bin", command.name()),
            &joined(&command.encode()),
        );
    }
}

#[test]
fn newer_versions_and_unknown_kinds_are_named() {
    let decode = |bytes: &'static [u8]| Command::decode(&[Bytes::from_static(bytes)]);
    assert_eq!(decode(&[]), Err(CommandError::Truncated));
    assert_eq!(decode(&[1]), Err(CommandError::Truncated));
    assert_eq!(decode(&[9, 1]), Err(CommandError::Version { version: 9 }));
    assert_eq!(decode(&[1, 99]), Err(CommandError::Kind { kind: 99 }));
}

#[test]
fn every_shortened_command_is_an_error() {
    for command in samples() {
        let whole = joined(&command.encode());
        for length in 0..whole.len() {
            assert!(
                Command::decode(&[whole.slice(..length)]).is_err(),
                "{} cut to {length}",
                command.name()
            );
        }
        let longer: Bytes = [&whole[..], &[0]].concat().into();
        assert!(matches!(
            Command::decode(&[longer]),
            Err(CommandError::Malformed { .. })
        ));
    }
}

proptest! {
    #[test]
    fn damaged_commands_never_panic(
        sample in 0..8_usize,
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
    ) {
        let mut bytes = joined(&samples()[sample].encode()).to_vec();
        for (at, byte) in damage {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        let bytes = Bytes::from(bytes);
        if let Ok(command) = Command::decode(std::slice::from_ref(&bytes)) {
            prop_assert_eq!(joined(&command.encode()), bytes);
        }
    }

    #[test]
    fn any_registration_returns(node: u32, incarnation: u128, host: String, port: u16, rack: Option<String>) {
        let incarnation = Uuid::from_u128(incarnation);
        let node = NodeRegistration { node: NodeId(node), incarnation, host, port, rack };
        let command = Command::RegisterNode { node, now: NOW };
        prop_assert_eq!(Command::decode(&command.encode()), Ok(command));
    }
}
