//! Stored examples of every frame, and bytes that are none.

use bytes::Bytes;
use meridian_types::{NodeId, RegionEpoch, RegionNumber, ShardId, TimestampMs};
use proptest::prelude::*;

use super::*;
use crate::head::FrameError;

fn subscription() -> Subscription {
    Subscription {
        shard: ShardId(7),
        number: 3,
    }
}

fn samples() -> Vec<(&'static str, Frame)> {
    let refused = |refusal| Frame::Refused {
        subscription: subscription(),
        refusal,
    };
    vec![
        (
            "hello",
            Frame::Hello(Greeting {
                versions: 1..=2,
                intent: Intent::Lane,
                session: 0x0102_0304_0506_0708_090a_0b0c_0d0e_0f10,
                hello: Hello {
                    cluster_id: "c1".to_owned(),
                    region: "west".to_owned(),
                    number: RegionNumber(1),
                    node: NodeId(100_002),
                    shards: 16,
                    region_epoch: RegionEpoch(5),
                    feature_level: 4,
                },
            }),
        ),
        (
            "rejected",
            Frame::Rejected {
                reject: Reject::Cluster,
                reason: "another cluster".to_owned(),
            },
        ),
        (
            "question",
            Frame::Question {
                number: 5,
                shard: ShardId(7),
                body: Bytes::from_static(b"what?"),
            },
        ),
        (
            "answer",
            Frame::Answer {
                number: 5,
                answer: Ok(Bytes::from_static(b"that")),
            },
        ),
        (
            "answer-refused",
            Frame::Answer {
                number: 6,
                answer: Err(Refusal::NotHosted),
            },
        ),
        ("card", Frame::Card(Bytes::from_static(b"a card"))),
        (
            "follow",
            Frame::Follow(Follow {
                subscription: subscription(),
                weight: 2,
                window_bytes: 1 << 25,
                cursor: Cursor {
                    sequence: 1000,
                    digest: 0xfeed,
                    lineage: vec![(RegionEpoch(0), 0), (RegionEpoch(2), 700)],
                },
            }),
        ),
        ("following", Frame::Following(subscription())),
        ("unfollow", Frame::Unfollow(subscription())),
        (
            "entries",
            Frame::Entries(EntriesFrame {
                subscription: subscription(),
                number: 9,
                region_epoch: RegionEpoch(2),
                first_sequence: 1000,
                digest: 0xbeef,
                count: 2,
                codec: Codec::None,
                raw_bytes: 13,
                body: Bytes::from_static(b"\x03\0\0\0abc\x02\0\0\0de"),
            }),
        ),
        (
            "entries-none",
            Frame::Entries(EntriesFrame {
                subscription: subscription(),
                number: 10,
                region_epoch: RegionEpoch(3),
                first_sequence: 1002,
                digest: 0xbeef,
                count: 0,
                codec: Codec::None,
                raw_bytes: 0,
                body: Bytes::new(),
            }),
        ),
        (
            "applied",
            Frame::Applied(Applied {
                subscription: subscription(),
                sequence: 1002,
            }),
        ),
        (
            "watermarks",
            Frame::Watermarks(vec![WatermarkOf {
                subscription: subscription(),
                watermark: Watermark {
                    sequence: 1002,
                    closed_at: TimestampMs(1_700_000_000_000),
                },
            }]),
        ),
        ("refused-not-hosted", refused(Refusal::NotHosted)),
        (
            "refused-not-leader",
            refused(Refusal::NotLeader {
                leader: Some(NodeId(2)),
            }),
        ),
        ("refused-no-leader", refused(Refusal::NotLeader { leader: None })),
        (
            "refused-not-owner",
            refused(Refusal::NotOwner {
                owner: RegionNumber(2),
                region_epoch: RegionEpoch(6),
            }),
        ),
        ("refused-purged", refused(Refusal::Purged { oldest: 500 })),
        ("refused-diverged", refused(Refusal::Diverged { fork: 400 })),
        ("refused-digest", refused(Refusal::DigestDiffers { at: 300 })),
        (
            "refused-unknown",
            refused(Refusal::Unknown {
                reason: "no".to_owned(),
            }),
        ),
        ("throttle", Frame::Throttle(Some(1_000_000))),
        ("throttle-none", Frame::Throttle(None)),
        ("ping", Frame::Ping(77)),
        ("pong", Frame::Pong(77)),
    ]
}

#[test]
fn the_stored_frames_of_version_1_are_written_and_read() {
    for (name, frame) in samples() {
        let path = format!("{}/fixtures/{name}-v1.bin", env!("CARGO_MANIFEST_DIR"));
        let written = frame.encode();
        if std::env::var_os("BLESS").is_some() {
            std::fs::write(&path, &written).expect("written");
        }
        let stored = std::fs::read(&path).expect("the fixture is there; BLESS=1 makes it for a new version");
        assert_eq!(written, stored, "{name}");
        assert_eq!(Frame::decode(stored.into()), Ok(frame), "{name}");
    }
}

#[test]
fn any_flipped_bit_is_found() {
    for (name, frame) in samples() {
        let good = frame.encode();
        for bit in 0..good.len() * 8 {
            let mut bad = good.to_vec();
            bad[bit / 8] ^= 1 << (bit % 8);
            let read = Frame::decode(bad.into());
            // The version of a greeting's frame does not count, but its checksum does.
            assert!(read.is_err(), "{name}, bit {bit}: {read:?}");
        }
    }
}

#[test]
fn frames_cut_off_or_too_long_are_refused() {
    for (name, frame) in samples() {
        let good = frame.encode();
        for end in 0..good.len() {
            assert!(Frame::decode(good.slice(..end)).is_err(), "{name} up to {end}");
        }
        let long = [&good[..], &[0]].concat();
        assert!(Frame::decode(long.into()).is_err(), "{name}");
    }
}

#[test]
fn huge_lengths_are_refused_from_the_head_alone() {
    for kind in 0..=255_u8 {
        let mut head = [0; HEAD_BYTES];
        head[4..8].copy_from_slice(&u32::MAX.to_le_bytes());
        head[8] = kind;
        head[9] = 1;
        let decoded = Head::decode(&head);
        assert!(
            matches!(
                decoded,
                Err(FrameError::TooLarge { .. } | FrameError::UnknownType(_))
            ),
            "{kind}"
        );
    }
}

#[test]
fn long_reasons_and_names_are_cut_at_a_character() {
    let frame = Frame::Rejected {
        reject: Reject::Other,
        reason: "ä".repeat(600),
    };
    let Ok(Frame::Rejected { reason, .. }) = Frame::decode(frame.encode()) else {
        panic!("it is read");
    };
    assert_eq!(reason, "ä".repeat(256));
}

/// Fields that a right checksum stands before: what a hostile node would send.
fn sealed(kind: u8, fields: &[u8]) -> Bytes {
    let mut head = [0; HEAD_BYTES];
    head[4..8].copy_from_slice(&u32::try_from(fields.len()).expect("short").to_le_bytes());
    head[8] = kind;
    head[9] = 1;
    let mut digest = crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc32Iscsi);
    digest.update(&head[4..]);
    digest.update(fields);
    let checksum = u32::try_from(digest.finalize()).expect("32 bits");
    head[..4].copy_from_slice(&checksum.to_le_bytes());
    [&head[..], fields].concat().into()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = Frame::decode(bytes.into());
    }

    #[test]
    fn no_fields_under_a_right_checksum_panic_and_what_is_read_is_written_alike(
        kind in 0_u8..16,
        fields in prop::collection::vec(prop_oneof![Just(0_u8), Just(1), any::<u8>()], 0..150),
    ) {
        let bytes = sealed(kind, &fields);
        if let Ok(frame) = Frame::decode(bytes) {
            prop_assert_eq!(Frame::decode(frame.encode()), Ok(frame));
        }
    }

    #[test]
    fn changed_samples_do_not_panic(
        which in 0_usize..25,
        at in 0_usize..80,
        value in any::<u8>(),
    ) {
        let (_, frame) = samples().swap_remove(which);
        let good = frame.encode();
        let mut fields = good[HEAD_BYTES..].to_vec();
        if let Some(byte) = fields.get_mut(at) {
            *byte = value;
        }
        if let Ok(frame) = Frame::decode(sealed(good[8], &fields)) {
            prop_assert_eq!(Frame::decode(frame.encode()), Ok(frame));
        }
    }
}
