use meridian_types::{NodeId, RaftIndex, ShardId, Term, Uuid};

use super::*;

fn hosted(shard: u32, role: ShardRole, leader_seen: bool) -> HostedShard {
    HostedShard {
        shard: ShardId(shard),
        role,
        leader_seen,
        term: Term(u64::from(shard) + 3),
        applied: RaftIndex(1 << 40),
    }
}

fn example() -> Beat {
    Beat {
        node: NodeId(7),
        incarnation: Uuid::from_u128(0x0102_0304_0506_0708_090a_0b0c_0d0e_0f10),
        start_id: 0x1122_3344_5566_7788,
        sequence: 12_345,
        phase: NodePhase::Draining,
        address: "node-7.example:9190".into(),
        shards: vec![
            hosted(0, ShardRole::Leads, true),
            hosted(3, ShardRole::Follows, true),
            hosted(4, ShardRole::Follows, false),
            hosted(u32::MAX, ShardRole::Seeks, false),
        ],
    }
}

#[test]
fn a_beat_survives_its_encoding() {
    for phase in [
        NodePhase::Running,
        NodePhase::Full,
        NodePhase::Draining,
        NodePhase::Stopping,
    ] {
        let beat = Beat { phase, ..example() };
        assert_eq!(Beat::decode(&beat.encode()), Ok(beat));
    }
    let bare = Beat {
        address: String::new(),
        shards: Vec::new(),
        ..example()
    };
    assert_eq!(Beat::decode(&bare.encode()), Ok(bare));
}

#[test]
fn version_1_is_read_as_it_was_stored() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/beat-v1.bin");
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(path, example().encode()).unwrap();
    }
    let stored = std::fs::read(path).unwrap_or_else(|error| panic!("{path}: {error}"));
    assert_eq!(Beat::decode(&stored), Ok(example()));
    assert!(
        stored == example().encode(),
        "the format differs from what version 1 stored; bump the version instead"
    );
}

#[test]
fn every_beat_that_is_cut_short_is_refused() {
    let whole = example().encode();
    for end in 0..whole.len() {
        assert_eq!(Beat::decode(&whole[..end]), Err(BeatError::Short), "{end} bytes");
    }
}

#[test]
fn what_cannot_be_is_refused_by_name() {
    let bytes = example().encode();
    let changed = |at: usize, to: u8| {
        let mut bytes = bytes.to_vec();
        bytes[at] = to;
        Beat::decode(&bytes).unwrap_err().to_string()
    };
    let shards_at = 40 + "node-7.example:9190".len() + 2;
    assert_eq!(
        changed(0, 2),
        "the beat has format version 2, this version reads 1"
    );
    assert_eq!(changed(1, 4), "the beat is malformed: an unknown phase");
    assert_eq!(
        changed(40, 0xff),
        "the beat is malformed: the address is not UTF-8"
    );
    assert_eq!(changed(39, 2), "the beat is malformed: the address is too long");
    assert_eq!(
        changed(shards_at, 9),
        "the beat is malformed: the shards are not in order"
    );
    assert_eq!(
        changed(shards_at + 1, 0x10),
        "the beat is malformed: a shard that no region has"
    );
    assert_eq!(
        changed(shards_at + 4, 0b011),
        "the beat is malformed: a shard with an unknown role"
    );
    assert_eq!(
        changed(shards_at + 4, 0b1000),
        "the beat is malformed: a shard with unknown flags"
    );
    let longer = [&bytes[..], &[0]].concat();
    assert_eq!(
        Beat::decode(&longer).unwrap_err().to_string(),
        "the beat is malformed: bytes are left behind its last field"
    );
}

#[test]
fn a_count_of_shards_is_not_believed_beyond_the_bytes_that_are_there() {
    let mut bytes = Beat {
        address: String::new(),
        shards: Vec::new(),
        ..example()
    }
    .encode()
    .to_vec();
    let count_at = bytes.len() - 2;
    bytes[count_at..].copy_from_slice(&[0xff, 0xff]);
    assert_eq!(Beat::decode(&bytes), Err(BeatError::Short));
}

#[test]
fn random_bytes_never_panic() {
    let mut random = super::super::random::Jitter::seeded(11);
    let whole = example().encode();
    for _ in 0..20_000 {
        let mut bytes = whole.to_vec();
        for _ in 0..=random.bits() % 4 {
            let at = random.bits() as usize % bytes.len();
            bytes[at] = random.bits() as u8;
        }
        if let Ok(beat) = Beat::decode(&bytes) {
            assert_eq!(beat.encode(), bytes, "what is read is what was written");
        }
    }
}
