//! Facts for this crate's tests.

use bytes::Bytes;
use meridian_types::{LogPosition, NodeId, RaftIndex, RegionEpoch, Term, TimestampMs, TopicId, Uuid};

use crate::configs::Configs;
use crate::configs::{ConfigChange, ConfigOp, ConfigResource};
use crate::{Command, Controller, Founding, HostPort, NewTopic, NodeRegistration, Outcome};

pub(crate) const NOW: TimestampMs = TimestampMs(1_700_000_000_000);

pub(crate) fn founding() -> Founding {
    Founding {
        cluster_id: "4L6g3nShT-eMCtK--X86sw".into(),
        region: "west".into(),
        shards: 16,
        region_epoch: RegionEpoch(3),
        founded_at: NOW,
    }
}

/// Founds without nodes.
pub(crate) fn found(founding: Founding) -> Command {
    Command::found(founding, Vec::new(), Configs::new())
}

pub(crate) fn founded() -> Controller {
    let mut controller = Controller::new();
    assert_eq!(
        apply(&mut controller, &found(founding())),
        Outcome::Founded(Ok(()))
    );
    controller
}

/// Applies at the next index and holds the invariants.
pub(crate) fn apply(controller: &mut Controller, command: &Command) -> Outcome {
    let index = RaftIndex(controller.applied.index.0 + 1);
    let outcome = controller.apply(LogPosition { term: Term(2), index }, command);
    controller.check().unwrap();
    outcome
}

pub(crate) fn id(n: u128) -> TopicId {
    TopicId(Uuid::from_u128(n))
}

pub(crate) fn new_topic(n: u128, name: &str, partitions: u32, configs: &[(&str, &str)]) -> NewTopic {
    let configs = configs
        .iter()
        .map(|(name, value)| ((*name).into(), (*value).into()))
        .collect();
    NewTopic {
        name: name.into(),
        id: id(n),
        partitions,
        configs,
    }
}

pub(crate) fn create(controller: &mut Controller, topic: NewTopic) -> Result<(), crate::CreateTopicError> {
    let expected = controller
        .check_create_topics(std::slice::from_ref(&topic))
        .remove(0);
    let Outcome::TopicsCreated(mut results) = apply(
        controller,
        &Command::CreateTopics {
            topics: vec![topic],
            now: NOW,
        },
    ) else {
        panic!("creates answer as such")
    };
    let result = results.remove(0).map(|_| ());
    assert_eq!(result, expected, "the check before says the same as the command");
    result
}

pub(crate) fn set(name: &str, value: &str) -> ConfigOp {
    ConfigOp::Set {
        name: name.into(),
        value: value.into(),
    }
}

pub(crate) fn change(resource: ConfigResource, ops: Vec<ConfigOp>) -> ConfigChange {
    ConfigChange {
        resource,
        replace_all: false,
        ops,
    }
}

pub(crate) fn alter(controller: &mut Controller, change: ConfigChange) -> Result<(), crate::ConfigError> {
    let expected = controller.check_alter_configs(&change);
    let Outcome::ConfigsAltered(mut results) = apply(
        controller,
        &Command::AlterConfigs {
            changes: vec![change],
        },
    ) else {
        panic!("alters answer as such")
    };
    assert_eq!(
        results[0], expected,
        "the check before says the same as the command"
    );
    results.remove(0)
}

pub(crate) fn registration(node: u32, incarnation: u128) -> NodeRegistration {
    NodeRegistration {
        node: NodeId(node),
        incarnation: Uuid::from_u128(incarnation),
        kafka: Some(address("node.example", 9092)),
        peer: Some(address("10.0.0.7", 9190)),
        version_max: 2,
        rack: node.is_multiple_of(2).then(|| "a".into()),
    }
}

pub(crate) fn remove(node: u32, force: bool) -> Command {
    let node = NodeId(node);
    Command::RemoveNode { node, force }
}

pub(crate) fn address(host: &str, port: u16) -> HostPort {
    HostPort {
        host: host.into(),
        port,
    }
}

pub(crate) fn joined(parts: &[Bytes]) -> Bytes {
    parts.concat().into()
}

/// A file that a version of Meridian stored.
pub(crate) fn fixture(name: &str) -> Bytes {
    let path = format!("{}/fixtures/{name}", env!("CARGO_MANIFEST_DIR"));
    std::fs::read(&path)
        .unwrap_or_else(|error| panic!("{path}: {error}"))
        .into()
}

/// A stored file of the present format version. With `BLESS=1` in the environment it is written anew, for a
/// review of the diff.
pub(crate) fn assert_fixture(name: &str, bytes: &[u8]) {
    let path = format!("{}/fixtures/{name}", env!("CARGO_MANIFEST_DIR"));
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(&path, bytes).unwrap();
    }
    assert!(
        fixture(name) == bytes,
        "{name}: the format differs from what this version stored; bump the version instead"
    );
}
