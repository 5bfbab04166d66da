//! The messages as version 1 stored them: later versions read these bytes.

use super::*;

fn address(port: u16) -> HostPort {
    HostPort {
        host: "node.example".to_owned(),
        port,
    }
}

/// Holds a message against its file, both ways.
fn stored<T: PartialEq + std::fmt::Debug>(
    name: &str,
    message: &T,
    encoded: &Bytes,
    decode: impl Fn(&[u8]) -> Decoded<T>,
) {
    let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/region-v1");
    let path = format!("{directory}/{name}.bin");
    if std::env::var_os("BLESS").is_some() {
        std::fs::create_dir_all(directory).expect("made");
        std::fs::write(&path, encoded).expect("written");
    }
    let bytes = std::fs::read(&path).expect("the fixture is there; BLESS=1 makes it for a new version");
    assert_eq!(decode(&bytes).as_ref(), Ok(message), "{name}");
    assert!(
        bytes == *encoded,
        "{name} differs from what version 1 stored; bump the version instead"
    );
}

#[test]
fn join_messages_of_version_1_are_written_and_read() {
    let info = JoinInfo {
        region: "eu".to_owned(),
        address: address(9190),
        is_founded: true,
        seeds: vec![address(9191), address(9192)],
        rack: Some("a".to_owned()),
        version_max: 2,
    };
    stored("join-info", &info, &info.encode(), JoinInfo::decode);
    let answers = [
        (
            "join-welcome",
            JoinAnswer::Welcome {
                nodes: vec![Introduced {
                    node: NodeId(8),
                    incarnation: Uuid::from_u128(77),
                    address: address(9193),
                }],
            },
        ),
        (
            "join-elsewhere",
            JoinAnswer::Elsewhere {
                leader: Some(address(9194)),
            },
        ),
        (
            "join-refused",
            JoinAnswer::Refused {
                reason: "the id is taken".to_owned(),
            },
        ),
    ];
    for (name, answer) in answers {
        stored(name, &answer, &answer.encode(), JoinAnswer::decode);
    }
}

#[test]
fn control_answers_of_version_1_are_written_and_read() {
    let at = LogPosition {
        term: Term(3),
        index: RaftIndex(77),
    };
    let answers = [
        ("control-committed", ControlAnswer::Committed { at }),
        (
            "control-not-leader",
            ControlAnswer::NotLeader {
                leader: Some(NodeId(4)),
            },
        ),
        (
            "control-unknown",
            ControlAnswer::Unknown {
                reason: "the leader is gone".to_owned(),
            },
        ),
    ];
    for (name, answer) in answers {
        stored(name, &answer, &answer.encode(), ControlAnswer::decode);
    }
}

#[test]
fn replica_and_led_messages_of_version_1_are_written_and_read() {
    let question = ReplicaQuestion {
        mine: ReplicaState::Damaged,
    };
    stored(
        "replica-question",
        &question,
        &question.encode(),
        ReplicaQuestion::decode,
    );
    let answer = ReplicaAnswer {
        theirs: ReplicaState::Present,
        members: Some(LeaderSays {
            at: LogPosition {
                term: Term(3),
                index: RaftIndex(77),
            },
            members: vec![NodeId(1), NodeId(2)],
        }),
    };
    stored("replica-answer", &answer, &answer.encode(), ReplicaAnswer::decode);
    let led = LedAnswer {
        shards: vec![LedShard {
            shard: ShardId::CONTROLLER,
            is_settled: true,
            voters: vec![NodeId(1), NodeId(2)],
        }],
    };
    stored("led-answer", &led, &led.encode(), LedAnswer::decode);
}
