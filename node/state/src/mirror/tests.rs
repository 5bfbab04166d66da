use meridian_lineage::{ContentReader, FenceRejected, NotOwner, Progress, Relation, Role};
use meridian_types::{LeaderEpoch, RaftIndex, RegionEpoch, TimestampMs};
use proptest::prelude::*;

use super::*;
use crate::sequencer::{ProduceRejection, Sequencer};
use crate::state::{Outcome, Rejected};
use crate::testing::{BatchSpec, group, partition};

mod world;

use world::*;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn a_mirror_fed_in_any_way_ends_equal_and_goes_on_when_promoted(seed: u64) {
        let dice = &mut Dice(seed);
        let (mut owner, mut mirror) = begun();
        for epoch in 0..4 {
            let count = 5 + dice.roll(40);
            write(dice, &mut owner, epoch, count);
            feed(dice, &owner, &mut mirror);
            let (ours, theirs) = (hot_bytes(&owner), hot_bytes(&mirror));
            prop_assert_eq!(view(&owner), view(&mirror));
            for (partition, batches) in &ours {
                // One may have less in its log than the other: the bucket holds it.
                let both = batches.iter().filter_map(|(offset, bytes)| Some((bytes, theirs[partition].get(offset)?)));
                for (ours, theirs) in both {
                    prop_assert_eq!(ours, theirs);
                }
            }
            // The owner is fenced, the mirror takes over, and the roles are changed.
            let fence = Command::Fence { region_epoch: RegionEpoch(epoch) };
            prop_assert_eq!(owner.apply(&fence), Outcome::Fenced(Ok(())));
            let late = content(dice, &owner, epoch);
            let before = view(&owner);
            let refused = match owner.apply(&late) {
                Outcome::NotOwner(_) => true,
                Outcome::Append(results) => results.iter().all(|r| matches!(r, Err(Rejected::NotOwner(_)))),
                _ => false,
            };
            prop_assert!(refused, "{} after a fence", late.name());
            prop_assert_eq!(view(&owner), before);
            let next = mirror.region;
            mirror.begin(epoch + 1, next);
            owner.begin(epoch + 1, next);
            std::mem::swap(&mut owner, &mut mirror);
        }
        // A region that joins late goes through the whole lineage.
        let mut late = Replica::new(RegionNumber(2));
        let first = owner.content(0)[0].region_epoch.0;
        late.begin(first, WEST);
        feed(dice, &owner, &mut late);
        prop_assert_eq!(&view(&late).partitions, &view(&owner).partitions);
        prop_assert_eq!(late.state.standing().digest(), owner.state.standing().digest());
    }
}

/// Adds one record; what became of it.
fn add(replica: &mut Replica, offset: u64, epoch: u32) -> Result<(), Rejected> {
    match replica.apply(&append(offset, epoch)) {
        Outcome::Append(mut results) => results.remove(0).map(|_| ()),
        other => panic!("an append is answered as such, not by {other:?}"),
    }
}

fn append(offset: u64, epoch: u32) -> Command {
    Command::Append {
        now: TimestampMs(9),
        groups: vec![group(
            partition(1, 0),
            [BatchSpec::records(1).stamped(offset, epoch)],
        )],
    }
}

#[test]
fn before_an_epoch_has_begun_nothing_is_counted_and_everything_is_taken() {
    let mut alone = Replica::new(WEST);
    assert_eq!(add(&mut alone, 0, 5), Ok(()));
    assert_eq!(alone.state.standing(), &meridian_lineage::Standing::default());
    assert_eq!(
        alone.apply(&Command::Fence {
            region_epoch: RegionEpoch(0)
        }),
        Outcome::Fenced(Err(FenceRejected::NotCounted))
    );
    let run = ContentRun {
        region_epoch: RegionEpoch(0),
        first_sequence: 0,
        commands: vec![],
        digest: ContentDigest::EMPTY,
    };
    let not_mirror = MirrorRejected::NotMirror {
        role: Role::Owner,
        region_epoch: RegionEpoch(0),
    };
    assert_eq!(alone.run(run), Err(not_mirror));
    assert_eq!(
        alone.state.encode_snapshot()[0][4],
        1,
        "the format is that of a region alone"
    );
}

#[test]
fn what_was_never_counted_is_one_command_that_no_mirror_can_follow_from_the_start() {
    let mut old = Replica::new(WEST);
    add(&mut old, 0, 5).unwrap();
    let as_mirror = BeginEpoch {
        region_epoch: RegionEpoch(0),
        owner: EAST,
        is_owner: false,
        expected_sequence: 0,
    };
    assert_eq!(
        old.apply(&Command::BeginEpoch(as_mirror)),
        Outcome::Begun(Err(BeginRejected::History))
    );
    old.begin(0, WEST);
    let standing = old.state.standing();
    assert_eq!(standing.sequence(), 1);
    assert_eq!(standing.index().at_or_before(0), None);
    assert_eq!(
        standing
            .index()
            .oldest_from(RaftIndex(1))
            .map(|point| point.progress.sequence),
        Some(1)
    );
    let mut other = Replica::new(WEST);
    add(&mut other, 0, 6).unwrap();
    other.begin(0, WEST);
    assert_ne!(
        other.state.standing().digest(),
        standing.digest(),
        "it stands for what was there"
    );
}

#[test]
fn epochs_begin_once_in_order_and_where_they_were_meant_to() {
    let (mut west, mut east) = begun();
    add(&mut west, 0, 1).unwrap();
    let begin = |region_epoch, expected_sequence| {
        Command::BeginEpoch(BeginEpoch {
            region_epoch: RegionEpoch(region_epoch),
            owner: WEST,
            is_owner: true,
            expected_sequence,
        })
    };
    let present = RegionEpoch(0);
    let asked = RegionEpoch(0);
    assert_eq!(
        west.apply(&begin(0, 1)),
        Outcome::Begun(Err(BeginRejected::Epoch { asked, present }))
    );
    assert_eq!(
        west.apply(&begin(1, 0)),
        Outcome::Begun(Err(BeginRejected::Sequence {
            expected: 0,
            present: 1
        }))
    );
    assert_eq!(
        west.apply(&begin(2048, 1)),
        Outcome::Begun(Err(BeginRejected::Range {
            asked: RegionEpoch(2048)
        }))
    );
    assert_eq!(
        west.apply(&Command::Fence {
            region_epoch: RegionEpoch(1)
        }),
        Outcome::Fenced(Err(FenceRejected::Epoch {
            asked: RegionEpoch(1),
            present
        }))
    );
    assert_eq!(
        east.apply(&Command::Fence {
            region_epoch: present
        }),
        Outcome::Fenced(Err(FenceRejected::Mirror))
    );
    // Rolled back: the owner was fenced, and keeps the shard under the next epoch.
    for _ in 0..2 {
        assert_eq!(
            west.apply(&Command::Fence {
                region_epoch: present
            }),
            Outcome::Fenced(Ok(())),
            "once more changes nothing"
        );
    }
    assert!(matches!(add(&mut west, 1, 1), Err(Rejected::NotOwner(_))));
    west.begin(1, WEST);
    assert_eq!(
        add(&mut west, 1, 1),
        Err(Rejected::RegionEpoch {
            stamped: RegionEpoch(0),
            present: RegionEpoch(1)
        })
    );
    assert_eq!(add(&mut west, 1, 1 << 20 | 1), Ok(()));
}

#[test]
fn a_frame_of_an_older_epoch_changes_nothing() {
    let (mut west, mut east) = begun();
    add(&mut west, 0, 1).unwrap();
    let content = west.content(0);
    east.begin(1, RegionNumber(2));
    let before = view(&east);
    assert_eq!(
        east.run(content[0].clone()),
        Err(MirrorRejected::OldEpoch {
            sent: RegionEpoch(0),
            present: RegionEpoch(1)
        })
    );
    assert_eq!(view(&east), before);
    // Nor does it reach one that has been promoted.
    east.begin(2, EAST);
    assert!(matches!(
        east.run(content[0].clone()),
        Err(MirrorRejected::NotMirror {
            role: Role::Owner,
            ..
        })
    ));
    let relation = |follower: &Replica, source: &Replica| {
        let (ours, theirs) = (follower.state.standing(), source.state.standing());
        ours.lineage()
            .relation(ours.sequence(), theirs.lineage(), theirs.sequence())
    };
    assert_eq!(relation(&east, &west), Relation::Behind);
    add(&mut east, 0, 2 << 20 | 1).unwrap();
    assert_eq!(relation(&west, &east), Relation::Diverged { fork: 0 });
}

#[test]
fn a_mirror_stages_nothing_and_an_owner_only_under_the_epoch_in_force() {
    let (mut west, east) = begun();
    let stage = |state: &State, epoch: u32| {
        let spec = BatchSpec::records(1);
        let mut batch = spec.unstamped();
        Sequencer::new(LeaderEpoch(epoch)).stage(state, partition(1, 0), &mut batch, &spec.header())
    };
    assert!(stage(&west.state, 1).is_ok());
    let not_owner = NotOwner {
        owner: WEST,
        region_epoch: RegionEpoch(0),
        role: Role::Mirror,
    };
    assert_eq!(stage(&east.state, 1), Err(ProduceRejection::NotOwner(not_owner)));
    west.apply(&Command::Fence {
        region_epoch: RegionEpoch(0),
    });
    assert!(matches!(
        stage(&west.state, 1),
        Err(ProduceRejection::NotOwner(_))
    ));
    west.begin(1, WEST);
    assert_eq!(
        stage(&west.state, 1),
        Err(ProduceRejection::RegionEpoch {
            stamps: RegionEpoch(0),
            present: RegionEpoch(1)
        })
    );
    assert!(stage(&west.state, 1 << 20 | 1).is_ok());
}

#[test]
fn a_run_of_nothing_announces_an_epoch_and_is_held_against_the_digest() {
    let (mut west, mut east) = begun();
    add(&mut west, 0, 1).unwrap();
    let content = west.content(0);
    east.run(content[0].clone()).unwrap();
    west.begin(1, WEST);
    let mut reader = ContentReader::new(Progress::default(), WEST);
    let announced: Vec<_> = west.log[1..]
        .iter()
        .filter_map(|entry| reader.read::<Command>(entry).unwrap())
        .collect();
    assert_eq!(announced.len(), 2);
    let empty = announced[1].clone();
    assert_eq!(
        (empty.region_epoch, empty.first_sequence, empty.commands.len()),
        (RegionEpoch(1), 1, 0)
    );
    east.begin(1, WEST);
    assert_eq!(east.run(empty.clone()).unwrap().commands, 0);
    let other = ContentRun {
        digest: ContentDigest(1),
        ..empty
    };
    assert!(matches!(
        east.run(other),
        Err(MirrorRejected::DigestDiffers { at: 1, .. })
    ));
    assert_eq!(east.state.standing().diverged_at(), Some(1));
}
