use bytes::Bytes;
use meridian_lineage::{BeginEpoch, Role};
use meridian_types::{RegionEpoch, RegionNumber, ShardId, TimestampMs};

use super::*;
use crate::command::{Command, CommittedOffset};
use crate::state::Outcome;
use crate::testing::{BatchSpec, at, bundle, group, partition};

const PART_BYTES: usize = 200;

struct Replica(State, Vec<Bytes>);

impl Replica {
    fn new() -> Self {
        Self(State::new(ShardId(3)), Vec::new())
    }

    fn apply(&mut self, command: &Command) -> Outcome {
        let entry: Bytes = command.encode().concat().into();
        let command = Command::decode(std::slice::from_ref(&entry)).unwrap();
        self.1.push(entry);
        let outcome = self.0.apply(at(self.1.len() as u64), &command);
        self.0.check().unwrap();
        // As after a restart, wherever it is.
        self.0 = State::decode_snapshot(&self.0.encode_snapshot().concat()).unwrap();
        outcome
    }

    /// Of a region: its role from the first command on.
    fn begin(&mut self, is_owner: bool) {
        let begin = BeginEpoch {
            region_epoch: RegionEpoch(0),
            owner: RegionNumber(0),
            is_owner,
            expected_sequence: 0,
        };
        assert_eq!(self.apply(&Command::BeginEpoch(begin)), Outcome::Begun(Ok(())));
    }

    fn append(&mut self, to: Partition) {
        let end = self.0.partition(to).map_or(0, |state| state.high_watermark().0);
        let spec = BatchSpec {
            producer: Some((7, 0, i32::try_from(end).unwrap())),
            ..BatchSpec::records(2)
        };
        let groups = vec![group(to, [spec.stamped(end, 1)])];
        let now = TimestampMs(9);
        match self.apply(&Command::Append { now, groups }) {
            Outcome::Append(results) => assert!(results[0].is_ok(), "{results:?}"),
            other => panic!("{other:?}"),
        }
    }

    fn stage(&mut self, body: &[u8]) -> u64 {
        let checkpoint = body.len() as u64 ^ 77;
        for (number, bytes) in body.chunks(PART_BYTES).enumerate() {
            let part = StagePart {
                checkpoint,
                total_bytes: body.len() as u64,
                at: (number * PART_BYTES) as u64,
                bytes: Bytes::copy_from_slice(bytes),
            };
            assert_eq!(self.apply(&Command::Stage(part)), Outcome::Staged(Ok(())));
        }
        checkpoint
    }

    fn fill(&mut self, checkpoint: u64, to: Partition, offsets: std::ops::Range<u64>) -> Outcome {
        let batch = BatchSpec::records(2).stamped(offsets.start, 1);
        let group = FillGroup {
            partition: to,
            base_offset: Offset(offsets.start),
            end_offset: Offset(offsets.end),
            max_timestamp: TimestampMs(1000),
            bytes: batch,
        };
        self.apply(&Command::Fill {
            checkpoint,
            groups: vec![group],
        })
    }

    fn install(&mut self, checkpoint: u64, has_objects: bool, starts: &[(Partition, Offset)]) -> Outcome {
        self.apply(&Command::Install(Install {
            checkpoint,
            has_objects,
            starts: starts.to_vec(),
            now: TimestampMs(50),
        }))
    }

    fn missing(&self, owner: &State, of: Partition, has_objects: bool) -> Option<Offset> {
        let tiered = has_objects.then(|| owner.manifest().end(of)).flatten();
        self.0.missing_from(of, owner.partition(of).unwrap(), tiered)
    }
}

/// An owner with four batches of two records in one partition, two of which are in the bucket and no longer hot.
fn owner() -> Replica {
    let mut owner = Replica::new();
    owner.begin(true);
    let to = partition(1, 0);
    owner.append(to);
    owner.append(to);
    let command = bundle(&owner.0, owner.0.applied().index, 1);
    assert_eq!(owner.apply(&command), Outcome::Tier(Ok(())));
    owner.apply(&Command::SetLocalStart {
        starts: vec![(to, Offset(4))],
    });
    owner.append(to);
    owner.append(to);
    let committed = CommittedOffset {
        offset: Offset(3),
        leader_epoch: None,
        metadata: String::new(),
        committed_at: TimestampMs(3),
    };
    owner.apply(&Command::CommitOffsets {
        group: "g".into(),
        now: TimestampMs(3),
        offsets: vec![(to, committed)],
    });
    owner
}

fn assert_equal(mirror: &State, owner: &State) {
    let to = partition(1, 0);
    let (ours, theirs) = (mirror.partition(to).unwrap(), owner.partition(to).unwrap());
    assert_eq!(ours.digest(), theirs.digest());
    assert_eq!(ours.high_watermark(), theirs.high_watermark());
    assert_eq!(ours.producers(), theirs.producers());
    assert_eq!(mirror.group("g"), owner.group("g"));
    assert_eq!(mirror.standing().sequence(), owner.standing().sequence());
    assert_eq!(mirror.standing().digest(), owner.standing().digest());
    assert_eq!(mirror.standing().lineage(), owner.standing().lineage());
    assert_eq!(mirror.standing().role(), Role::Mirror);
}

#[test]
fn a_new_mirror_with_the_objects_needs_only_what_was_hot() {
    let (owner, to) = (owner(), partition(1, 0));
    let mut mirror = Replica::new();
    let checkpoint = mirror.stage(&owner.0.encode_snapshot().concat());
    assert_eq!(mirror.0.staged().map(|(name, _)| name), Some(checkpoint));
    assert_eq!(mirror.missing(&owner.0, to, true), Some(Offset(4)));
    let early = mirror.install(checkpoint, true, &[]);
    assert!(
        matches!(early, Outcome::Installed(Err(InstallRejected::Unusable { .. }))),
        "{early:?}"
    );
    assert_eq!(mirror.fill(checkpoint, to, 4..6), Outcome::Filled(Ok(())));
    let gap = mirror.fill(checkpoint, to, 8..10);
    assert!(
        matches!(gap, Outcome::Filled(Err(FillRejected::OutOfStep { .. }))),
        "{gap:?}"
    );
    // What came for the checkpoint is kept in the log.
    assert_eq!(
        mirror.0.oldest_index_needed(),
        Some(RaftIndex(mirror.1.len() as u64 - 1))
    );
    assert_eq!(mirror.missing(&owner.0, to, true), Some(Offset(6)));
    assert_eq!(mirror.fill(checkpoint, to, 6..8), Outcome::Filled(Ok(())));
    assert_eq!(mirror.missing(&owner.0, to, true), None);
    let installed = mirror.install(checkpoint, true, &[]);
    assert!(matches!(installed, Outcome::Installed(Ok(_))), "{installed:?}");
    assert_equal(&mirror.0, &owner.0);
    assert!(!mirror.0.is_staging());
    let state = mirror.0.partition(to).unwrap();
    assert_eq!(state.local_start_offset(), Offset(4));
    let names: Vec<_> = mirror.0.manifest().names().collect();
    assert_eq!(names, owner.0.manifest().names().collect::<Vec<_>>());
    // The bytes lie where the state says.
    for chunk in state.chunks() {
        let entry = &mirror.1[chunk.index.0 as usize - 1];
        let batch = &entry[chunk.at as usize..(chunk.at + chunk.bytes) as usize];
        assert_eq!(*batch, *BatchSpec::records(2).stamped(chunk.base_offset.0, 1));
    }
}

#[test]
fn without_a_bucket_everything_comes_as_batches() {
    let (owner, to) = (owner(), partition(1, 0));
    let mut mirror = Replica::new();
    let checkpoint = mirror.stage(&owner.0.encode_snapshot().concat());
    assert_eq!(mirror.missing(&owner.0, to, false), Some(Offset(0)));
    // Compaction took what lay between: the batches are those of 2 and 6.
    assert_eq!(mirror.fill(checkpoint, to, 0..6), Outcome::Filled(Ok(())));
    assert_eq!(mirror.fill(checkpoint, to, 6..8), Outcome::Filled(Ok(())));
    let installed = mirror.install(checkpoint, false, &[]);
    assert!(matches!(installed, Outcome::Installed(Ok(_))), "{installed:?}");
    assert_equal(&mirror.0, &owner.0);
    assert!(mirror.0.manifest().is_empty());
}

#[test]
fn a_mirror_that_was_cut_off_keeps_what_it_has_and_needs_what_follows() {
    let (owner, to) = (owner(), partition(1, 0));
    let mut mirror = Replica::new();
    mirror.begin(true);
    mirror.append(to);
    mirror.append(to);
    // The same log, as a mirror's.
    let mut body = mirror.0.clone();
    body.standing = Standing::mirror_of(&body.standing, body.applied.index);
    mirror.0 = body;
    let checkpoint = mirror.stage(&owner.0.encode_snapshot().concat());
    assert_eq!(mirror.missing(&owner.0, to, false), Some(Offset(4)));
    assert_eq!(mirror.fill(checkpoint, to, 4..6), Outcome::Filled(Ok(())));
    assert_eq!(mirror.fill(checkpoint, to, 6..8), Outcome::Filled(Ok(())));
    let installed = mirror.install(checkpoint, false, &[]);
    assert!(matches!(installed, Outcome::Installed(Ok(_))), "{installed:?}");
    assert_equal(&mirror.0, &owner.0);
    assert_eq!(mirror.0.partition(to).unwrap().local_start_offset(), Offset(0));
    let again = mirror.stage(&owner.0.encode_snapshot().concat());
    let stale = mirror.install(again, false, &[]);
    assert!(
        matches!(stale, Outcome::Installed(Err(InstallRejected::Stale { .. }))),
        "{stale:?}"
    );
}

#[test]
fn records_that_the_owner_deleted_meanwhile_are_not_waited_for() {
    let (owner, to) = (owner(), partition(1, 0));
    let mut mirror = Replica::new();
    let checkpoint = mirror.stage(&owner.0.encode_snapshot().concat());
    assert_eq!(mirror.fill(checkpoint, to, 6..8), Outcome::Filled(Ok(())));
    let installed = mirror.install(checkpoint, true, &[(to, Offset(6))]);
    assert!(matches!(installed, Outcome::Installed(Ok(_))), "{installed:?}");
    let state = mirror.0.partition(to).unwrap();
    assert_eq!(
        (state.log_start_offset(), state.local_start_offset()),
        (Offset(6), Offset(6))
    );
    assert!(mirror.0.extents(to).is_empty());
}

#[test]
fn an_owner_takes_no_checkpoint_and_nobody_takes_one_that_is_none() {
    let mut alone = Replica::new();
    alone.begin(true);
    let part = StagePart {
        checkpoint: 1,
        total_bytes: 3,
        at: 0,
        bytes: Bytes::from_static(b"abc"),
    };
    let refused = alone.apply(&Command::Stage(part));
    assert_eq!(
        refused,
        Outcome::Staged(Err(StageRejected::NotMirror { role: Role::Owner }))
    );
    let mut mirror = Replica::new();
    let checkpoint = mirror.stage(b"no snapshot");
    let refused = mirror.install(checkpoint, true, &[]);
    assert!(
        matches!(refused, Outcome::Installed(Err(InstallRejected::Unusable { .. }))),
        "{refused:?}"
    );
    let mut uncounted = Replica::new();
    uncounted.append(partition(1, 0));
    let refused = {
        let body = owner().0.encode_snapshot().concat();
        let checkpoint = uncounted.stage(&body);
        uncounted.install(checkpoint, true, &[])
    };
    assert_eq!(refused, Outcome::Installed(Err(InstallRejected::History)));
}
