//! The bytes of a saved group.

use std::fs;
use std::path::PathBuf;

use bytes::Bytes;
use meridian_types::TimestampMs;
use proptest::prelude::*;

use super::super::request::{Client, Protocol};
use super::super::saved::{DecodeError, SavedGroup, SavedMember};

fn two_members() -> SavedGroup {
    let member = |id: &str, instance: Option<&str>, assignment: &'static [u8]| SavedMember {
        id: id.to_owned(),
        instance_id: instance.map(str::to_owned),
        client: Client {
            id: "app".to_owned(),
            host: "/10.0.0.1".to_owned(),
        },
        session_timeout_ms: 45_000,
        rebalance_timeout_ms: 300_000,
        protocols: vec![
            Protocol {
                name: "range".to_owned(),
                metadata: Bytes::from_static(b"\x00\x01meta"),
            },
            Protocol {
                name: "sticky".to_owned(),
                metadata: Bytes::new(),
            },
        ],
        assignment: Bytes::from_static(assignment),
    };
    SavedGroup {
        generation: 7,
        phase_since: TimestampMs(1_700_000_000_123),
        protocol_type: Some("consumer".to_owned()),
        protocol_name: Some("range".to_owned()),
        leader: Some("app-1".to_owned()),
        members: vec![member("app-1", None, b"p0"), member("rack-2", Some("rack"), b"")],
    }
}

fn emptied() -> SavedGroup {
    SavedGroup {
        generation: 8,
        protocol_name: None,
        leader: None,
        members: Vec::new(),
        ..two_members()
    }
}

fn fixture(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("fixtures")
        .join(name)
}

/// Bytes once written must be readable for ever: for a change add a version and a file. `BLESS=1`
/// writes files that are missing, never over one that is there.
#[test]
fn stored_groups_of_version_1_are_read_as_they_were_written() {
    for (name, group) in [
        ("group-v1-stable.bin", two_members()),
        ("group-v1-empty.bin", emptied()),
    ] {
        if std::env::var_os("BLESS").is_some() && !fixture(name).exists() {
            fs::write(fixture(name), group.encode()).expect("the fixture can be written");
        }
        let stored = Bytes::from(fs::read(fixture(name)).expect("the fixture can be read"));
        assert_eq!(SavedGroup::decode(stored.clone()), Ok(group.clone()), "{name}");
        assert_eq!(group.encode(), stored, "{name}");
    }
}

#[test]
fn every_cut_is_named() {
    let body = two_members().encode();
    for end in 0..body.len() {
        let result = SavedGroup::decode(body.slice(..end));
        assert!(
            matches!(result, Err(DecodeError::Truncated { .. })),
            "cut at {end}: {result:?}"
        );
    }
    let longer = [&body[..], b"!"].concat();
    assert_eq!(
        SavedGroup::decode(longer.into()),
        Err(DecodeError::Trailing { bytes: 1 })
    );
}

#[test]
fn a_newer_version_is_refused_by_name() {
    let mut body = two_members().encode().to_vec();
    body[0] = 9;
    assert_eq!(
        SavedGroup::decode(body.into()),
        Err(DecodeError::Version { found: 9 })
    );
}

#[test]
fn groups_that_contradict_themselves_are_refused() {
    let refused = |change: fn(&mut SavedGroup)| {
        let mut group = two_members();
        change(&mut group);
        match SavedGroup::decode(group.encode()) {
            Err(DecodeError::Invalid { field }) => field,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(refused(|g| g.leader = Some("nobody".to_owned())), "leader");
    assert_eq!(refused(|g| g.leader = None), "leader");
    assert_eq!(
        refused(|g| g.protocol_name = Some("other".to_owned())),
        "protocol name"
    );
    assert_eq!(refused(|g| g.protocol_type = None), "protocol type");
    assert_eq!(refused(|g| g.members[1].id = "app-1".to_owned()), "member id");
    assert_eq!(
        refused(|g| g.members[0].instance_id = Some("rack".to_owned())),
        "instance id"
    );
    assert_eq!(
        refused(|g| g.members[0].session_timeout_ms = 0),
        "session timeout"
    );
    assert_eq!(
        refused(|g| g.members[0].rebalance_timeout_ms = -1),
        "rebalance timeout"
    );
    assert_eq!(refused(|g| g.generation = -1), "generation");
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_bytes_make_decoding_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = SavedGroup::decode(bytes.into());
    }

    #[test]
    fn damaged_bytes_are_refused_or_read_but_never_panic(at in 0usize..1000, with in any::<u8>()) {
        let mut body = two_members().encode().to_vec();
        let at = at % body.len();
        body[at] = with;
        if let Ok(group) = SavedGroup::decode(body.clone().into()) {
            prop_assert_eq!(group.encode(), Bytes::from(body));
        }
    }
}
