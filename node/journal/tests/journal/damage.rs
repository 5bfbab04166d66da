//! Corruption is told from torn writes, named exactly, and never makes anything else unreadable.

use crate::common::{Node, ONE, TWO, at, files, look, payload, settings};
use meridian_journal::inspect::{FrameInfo, FrameKind, Problem};
use meridian_journal::{DamageReason, FaultyDisk, Journal, OpenError, ReadError};
use meridian_types::{RaftIndex, ShardId};

const LEN: usize = 1000;
/// A shard that never wrote.
const THREE: ShardId = ShardId(3);

/// Shards ONE and TWO with entries 1..=`last` each, taking turns, and a vote each at the beginning.
fn filled(last: u64) -> Node {
    let mut node = Node::open(&FaultyDisk::seeded(1), settings());
    node.vote(ONE, b"vote of one");
    node.vote(TWO, b"vote of two");
    for index in 1..=last {
        node.append(ONE, 1, index..=index, LEN);
        node.append(TWO, 1, index..=index, LEN);
    }
    node
}

fn frame_of(disk: &FaultyDisk, shard: ShardId, index: u64) -> FrameInfo {
    let (frames, _, _) = look(&*disk.mount());
    let is_it = |frame: &&FrameInfo| {
        frame.kind == FrameKind::Entry && frame.shard == Some(shard) && frame.position.index.0 == index
    };
    *frames.iter().find(is_it).unwrap()
}

fn name_of(disk: &FaultyDisk, file: u64) -> String {
    files(&*disk.mount())[&file].0.clone()
}

fn rot(disk: &FaultyDisk, file: u64, at: u64) {
    disk.rot(&name_of(disk, file), at, 0x10);
}

/// Entries 1..=last but `except` read as they were written.
fn assert_readable(node: &Node, shard: ShardId, last: u64, except: &[u64]) {
    for index in (1..=last).filter(|index| !except.contains(index)) {
        assert_eq!(
            node.read(shard, index, LEN),
            Ok(payload(shard, index, LEN)),
            "{shard} {index}"
        );
    }
}

#[test]
fn a_bad_frame_at_the_very_end_is_cut_off_as_a_torn_write() {
    let node = filled(10);
    let disk = node.disk;
    // No marker was written: the last entry is not proven synced.
    disk.kill();
    let last = frame_of(&disk, TWO, 10);
    rot(&disk, last.file, last.at + 100);
    let (_, problems, summary) = look(&*disk.mount());
    assert_eq!(
        problems,
        [Problem::TornTail {
            file: last.file,
            at: last.at
        }]
    );
    assert_eq!(summary.problems, 0, "harmless");
    let node = Node::open(&disk, settings());
    assert_eq!(
        (node.journal.log(ONE).damaged, node.journal.log(TWO).damaged),
        (None, None)
    );
    assert_eq!(node.journal.log(TWO).last, Some(at(1, 9)));
    assert_readable(&node, ONE, 10, &[]);
    assert_readable(&node, TWO, 9, &[]);
}

#[test]
fn once_idle_the_last_round_is_proven_and_its_damage_is_not_taken_for_a_torn_write() {
    let mut node = filled(10);
    node.round();
    let disk = node.disk.clone();
    disk.kill();
    let last = frame_of(&disk, TWO, 10);
    rot(&disk, last.file, last.at + 100);
    let node = Node::open(&disk, settings());
    assert_eq!(node.journal.log(TWO).last, Some(at(1, 10)));
    assert_eq!(
        node.journal.log(TWO).damaged.unwrap().reason,
        DamageReason::Payload
    );
}

#[test]
fn an_idle_writer_marks_once_and_then_rests() {
    let mut node = filled(1);
    let calls = node.disk.calls();
    node.round();
    assert_eq!(node.disk.calls(), calls + 1, "one small write, no sync");
    node.round();
    node.round();
    assert_eq!(node.disk.calls(), calls + 1);
}

#[test]
fn what_survived_beyond_a_cut_off_tail_never_comes_back() {
    // How long the checkpoint of the next opening will be.
    let prepare = || {
        let mut node = Node::open(&FaultyDisk::seeded(1), settings());
        node.append(ONE, 1, 1..=1, LEN);
        node
    };
    let disk = prepare().disk;
    disk.kill();
    drop(Node::open(&disk, settings()));
    let checkpoint = look(&*disk.mount()).0.pop().unwrap();
    assert_eq!(
        (checkpoint.kind, checkpoint.generation),
        (FrameKind::Checkpoint, 2)
    );

    // An entry of that length is torn, the one behind it survives: right where frames of the next opening follow.
    let mut node = prepare();
    for (index, len) in [(2, checkpoint.payload_bytes as usize), (3, LEN)] {
        node.journal.append(
            ONE,
            vec![crate::common::entry(ONE, 1, index, len)],
            node.told.done("entry"),
        );
    }
    node.round();
    let disk = node.disk;
    disk.kill();
    let (torn, survivor) = (frame_of(&disk, ONE, 2), frame_of(&disk, ONE, 3));
    rot(&disk, torn.file, torn.at + 64);
    let mut bytes = vec![0; LEN + 64];
    let name = name_of(&disk, torn.file);
    disk.mount()
        .open(&name)
        .unwrap()
        .read_at(survivor.at, &mut bytes)
        .unwrap();
    drop(Node::open(&disk, settings()));
    disk.kill();
    // The opening wrote zeros there; a power cut may have kept its checkpoint and lost the zeros.
    disk.mount()
        .open(&name)
        .unwrap()
        .write_at(survivor.at, &mut [std::io::IoSlice::new(&bytes)])
        .unwrap();
    let node = Node::open(&disk, settings());
    assert_eq!(node.journal.log(ONE).last, Some(at(1, 1)));
    assert_eq!(node.journal.log(ONE).damaged, None);
}

#[test]
fn a_damaged_payload_costs_one_entry() {
    let disk = filled(20).shutdown();
    let frame = frame_of(&disk, ONE, 7);
    rot(&disk, frame.file, frame.at + 64 + 500);
    let node = Node::open(&disk, settings());
    let damage = node.journal.log(ONE).damaged.unwrap();
    assert_eq!(
        (damage.file, damage.position, damage.reason),
        (frame.file, frame.at, DamageReason::Payload)
    );
    assert_eq!(node.journal.log(TWO).damaged, None);
    assert_eq!(
        node.journal.log(ONE).last,
        Some(at(1, 20)),
        "nothing is truncated"
    );
    assert!(
        matches!(node.read(ONE, 7, LEN), Err(ReadError::Corrupt { position, .. }) if position == frame.at)
    );
    assert_readable(&node, ONE, 20, &[7]);
    assert_readable(&node, TWO, 20, &[]);
    let entries = node
        .journal
        .entries(ONE, RaftIndex(5)..RaftIndex(21), usize::MAX)
        .unwrap();
    assert_eq!(entries.len(), 2, "up to the damaged one");
    assert!(
        node.journal
            .entries(ONE, RaftIndex(7)..RaftIndex(21), usize::MAX)
            .is_err()
    );
}

#[test]
fn a_damaged_header_is_charged_to_the_shard_that_lost_the_frame() {
    let disk = filled(20).shutdown();
    let frame = frame_of(&disk, ONE, 7);
    rot(&disk, frame.file, frame.at + 30);
    let (_, problems, _) = look(&*disk.mount());
    let end = frame.at + 64 + LEN as u64;
    assert_eq!(
        problems,
        [Problem::Unreadable {
            file: frame.file,
            at: frame.at,
            end
        }]
    );
    let node = Node::open(&disk, settings());
    assert_eq!(
        node.journal.log(ONE).damaged.unwrap().reason,
        DamageReason::LostFrames
    );
    assert_eq!(node.journal.log(TWO).damaged, None);
    assert_eq!(node.journal.log(ONE).last, Some(at(1, 20)));
    assert!(matches!(node.read(ONE, 7, LEN), Err(ReadError::Missing { .. })));
    assert_readable(&node, ONE, 20, &[7]);
    assert_readable(&node, TWO, 20, &[]);
}

#[test]
fn damage_in_a_sealed_file_is_found_when_it_is_read() {
    let disk = filled(80).shutdown();
    let frame = frame_of(&disk, TWO, 3);
    assert!(
        files(&*disk.mount())[&frame.file].2,
        "the file must be sealed for this test"
    );
    rot(&disk, frame.file, frame.at + 64);
    let node = Node::open(&disk, settings());
    assert_eq!(node.journal.log(TWO).damaged, None, "opening reads footers only");
    assert!(matches!(node.read(TWO, 3, LEN), Err(ReadError::Corrupt { .. })));
    assert_eq!(
        node.journal.log(TWO).damaged.unwrap().reason,
        DamageReason::Payload
    );
    assert_readable(&node, TWO, 80, &[3]);
    let (_, problems, summary) = look(&*disk.mount());
    assert!(
        problems.contains(&Problem::Payload {
            file: frame.file,
            at: frame.at
        }),
        "{problems:?}"
    );
    assert_eq!(summary.shards[&TWO].damaged.unwrap().position, frame.at);
    assert_eq!(summary.shards[&ONE].damaged, None);
}

#[test]
fn a_damaged_footer_costs_nothing_but_time() {
    let disk = filled(80).shutdown();
    let sealed = files(&*disk.mount())
        .into_iter()
        .find(|(_, file)| file.2)
        .unwrap()
        .0;
    let footer = look(&*disk.mount())
        .0
        .into_iter()
        .rfind(|frame| frame.file == sealed)
        .unwrap();
    let end = footer.at + 64 + u64::from(footer.payload_bytes).next_multiple_of(8);
    for place in [end + 10, (64 << 10) - 20] {
        rot(&disk, sealed, place);
        assert!(look(&*disk.mount()).1.contains(&Problem::Footer { file: sealed }));
        let node = Node::open(&disk, settings());
        for shard in [ONE, TWO] {
            assert_eq!(node.journal.log(shard).damaged, None);
            assert_eq!(node.journal.log(shard).last, Some(at(1, 80)));
            assert_readable(&node, shard, 80, &[]);
        }
    }
    // A damaged header in a file without its footer is still charged to its shard alone.
    let frame = frame_of(&disk, ONE, 5);
    assert_eq!(frame.file, sealed);
    rot(&disk, sealed, frame.at);
    let node = Node::open(&disk, settings());
    assert_eq!(
        node.journal.log(ONE).damaged.unwrap().reason,
        DamageReason::LostFrames
    );
    assert_eq!(node.journal.log(TWO).damaged, None);
    assert_readable(&node, TWO, 80, &[]);
    assert_readable(&node, ONE, 80, &[5]);
}

#[test]
fn a_damaged_checkpoint_is_made_good_by_the_file_before() {
    let disk = filled(80).shutdown();
    let newest = *files(&*disk.mount()).last_key_value().unwrap().0;
    assert!(newest > 1);
    rot(&disk, newest, 3);
    let node = Node::open(&disk, settings());
    for (shard, vote) in [(ONE, &b"vote of one"[..]), (TWO, b"vote of two")] {
        assert_eq!(node.journal.log(shard).damaged, None);
        assert_eq!(node.journal.log(shard).vote.as_deref(), Some(vote));
        assert_readable(&node, shard, 80, &[]);
    }
}

#[test]
fn when_no_checkpoint_is_left_no_shard_may_trust_its_vote() {
    let disk = filled(80).shutdown();
    let mount = disk.mount();
    let all = files(&*mount);
    let newest = *all.last_key_value().unwrap().0;
    for (number, (name, ..)) in &all {
        if *number != newest {
            mount.remove(name).unwrap();
        }
    }
    mount.sync_dir().unwrap();
    rot(&disk, newest, 3);
    let node = Node::open(&disk, settings());
    for shard in [ONE, TWO, ShardId(77)] {
        assert_eq!(
            node.journal.log(shard).damaged.unwrap().reason,
            DamageReason::LostState,
            "{shard}"
        );
    }
}

#[test]
fn a_missing_file_is_noticed() {
    let disk = filled(150).shutdown();
    let mount = disk.mount();
    let all = files(&*mount);
    assert!(all.len() >= 4);
    mount.remove(&all[&2].0).unwrap();
    mount.sync_dir().unwrap();
    assert!(look(&*mount).1.contains(&Problem::MissingFile { file: 2 }));
    let node = Node::open(&disk, settings());
    for shard in [ONE, TWO] {
        assert_eq!(
            node.journal.log(shard).damaged.unwrap().reason,
            DamageReason::LostEntries
        );
        assert_eq!(node.journal.log(shard).last, Some(at(1, 150)));
        assert_eq!(node.read(shard, 1, LEN), Ok(payload(shard, 1, LEN)));
        assert_eq!(node.read(shard, 150, LEN), Ok(payload(shard, 150, LEN)));
    }
}

#[test]
fn a_missing_oldest_file_is_noticed_only_if_it_was_needed() {
    let prepare = || {
        let mut node = filled(80);
        let last_of_first = look(&*node.disk.mount()).0;
        let last = |shard| {
            let of = last_of_first
                .iter()
                .filter(|frame| frame.file == 1 && frame.shard == Some(shard));
            of.map(|frame| frame.position.index.0).max().unwrap()
        };
        let (one, two) = (last(ONE), last(TWO));
        drop(node.journal);
        node = Node::open(&node.disk, settings());
        (node, one, two)
    };
    for needed in [false, true] {
        let (mut node, one, two) = prepare();
        node.purge(ONE, at(1, one));
        if !needed {
            node.purge(TWO, at(1, two));
        }
        let disk = node.shutdown();
        let mount = disk.mount();
        mount.remove(&files(&*mount)[&1].0).unwrap();
        mount.sync_dir().unwrap();
        let node = Node::open(&disk, settings());
        assert_eq!(node.journal.log(ONE).damaged, None);
        assert_eq!(
            node.journal.log(TWO).damaged.map(|damage| damage.reason),
            needed.then_some(DamageReason::LostEntries)
        );
    }
}

/// Entries of ONE, then of TWO: no frame of ONE lies behind its last one.
fn one_then_two() -> (FaultyDisk, FrameInfo) {
    let mut node = Node::open(&FaultyDisk::seeded(1), settings());
    node.append(ONE, 1, 1..=5, LEN);
    node.append(TWO, 1, 1..=5, LEN);
    node.round();
    let disk = node.disk;
    disk.kill();
    let last = frame_of(&disk, ONE, 5);
    (disk, last)
}

#[test]
fn a_shards_last_frame_is_missed_though_no_later_one_tells_its_sequence() {
    let (disk, last) = one_then_two();
    rot(&disk, last.file, last.at + 41);
    for _ in 0..2 {
        let node = Node::open(&disk, settings());
        let damage = node.journal.log(ONE).damaged.unwrap();
        assert_eq!(
            (damage.position, damage.reason),
            (last.at, DamageReason::LostFrames)
        );
        assert_eq!(node.journal.log(TWO).damaged, None);
        assert_eq!(
            node.journal.log(THREE).damaged,
            None,
            "the header names the shard"
        );
        assert_readable(&node, ONE, 4, &[]);
        assert_readable(&node, TWO, 5, &[]);
        disk.kill();
    }
    let (_, _, summary) = look(&*disk.mount());
    assert_eq!(summary.shards[&ONE].damaged.unwrap().position, last.at);
}

#[test]
fn bytes_that_name_no_shard_are_charged_to_every_shard_that_cannot_deny_it() {
    let (disk, last) = one_then_two();
    for byte in 0..64 {
        rot(&disk, last.file, last.at + byte);
    }
    let node = Node::open(&disk, settings());
    for shard in [ONE, THREE] {
        let damage = node.journal.log(shard).damaged.unwrap();
        assert_eq!(
            (damage.position, damage.reason),
            (last.at, DamageReason::LostFrames)
        );
    }
    assert_eq!(
        node.journal.log(TWO).damaged,
        None,
        "its next frame has the next sequence"
    );
    disk.kill();
    let node = Node::open(&disk, settings());
    assert!(
        node.journal.log(ONE).damaged.is_some(),
        "kept in the opening's checkpoint"
    );
}

#[test]
fn damage_stays_known_until_the_shard_is_reset() {
    let disk = filled(20).shutdown();
    let frame = frame_of(&disk, ONE, 7);
    rot(&disk, frame.file, frame.at);
    let damage = Node::open(&disk, settings()).journal.log(ONE).damaged.unwrap();
    // The damaged file goes, the damage does not.
    let mut node = Node::open(&disk, settings());
    node.append(TWO, 1, 21..=120, LEN);
    let disk = node.shutdown();
    let mount = disk.mount();
    mount.remove(&files(&*mount)[&1].0).unwrap();
    mount.sync_dir().unwrap();
    let mut node = Node::open(&disk, settings());
    assert_eq!(node.journal.log(ONE).damaged, Some(damage));
    node.journal.reset(ONE, node.told.done("reset"));
    node.round();
    assert_eq!(node.journal.log(ONE), meridian_journal::ShardLog::default());
    node.append(ONE, 3, 500..=501, LEN);
    let node = Node::open(&node.shutdown(), settings());
    assert_eq!(node.journal.log(ONE).damaged, None);
    assert_eq!(node.journal.log(ONE).first, Some(at(3, 500)));
    assert_eq!(node.read(ONE, 501, LEN), Ok(payload(ONE, 501, LEN)));
}

#[test]
fn frames_inside_a_payload_are_never_taken_for_frames() {
    // A payload that is itself a piece of another journal's file, whole frames and all.
    let other = filled(3).shutdown();
    let mount = other.mount();
    let file = mount.open(&files(&*mount)[&1].0).unwrap();
    let mut bytes = vec![0; 4096];
    file.read_at(0, &mut bytes).unwrap();

    let mut node = Node::open(
        &FaultyDisk::seeded(2),
        meridian_journal::JournalSettings {
            seed: 77,
            ..settings()
        },
    );
    node.append(ONE, 1, 1..=1, 100);
    let position = at(1, 2);
    let entry = meridian_journal::Entry {
        position,
        payload: bytes::Bytes::from(bytes).into(),
    };
    node.journal.append(ONE, vec![entry], node.told.done("frames"));
    node.append(ONE, 1, 3..=3, 100);
    let disk = node.shutdown();
    let frame = frame_of(&disk, ONE, 2);
    rot(&disk, frame.file, frame.at);
    let node = Node::open(&disk, settings());
    assert_eq!(
        node.journal.shards(),
        [ONE],
        "shard TWO was only inside the payload"
    );
    assert_eq!(node.journal.log(ONE).vote, None);
    assert_eq!(node.journal.log(ONE).last, Some(at(1, 3)));
}

#[test]
fn the_id_is_recovered_from_the_files_and_foreign_files_are_refused() {
    let disk = filled(5).shutdown();
    disk.rot("journal.id", 9, 1);
    let node = Node::open(&disk, settings());
    assert_readable(&node, ONE, 5, &[]);
    let disk = node.shutdown();
    let mount = disk.mount();
    mount.remove("journal.id").unwrap();
    mount.sync_dir().unwrap();
    rot(&disk, 1, 70);
    let error = Journal::open(disk.mount(), settings()).map(|_| ()).unwrap_err();
    assert!(matches!(error, OpenError::Foreign(_)), "{error}");
}

#[test]
fn no_flipped_byte_anywhere_goes_unnoticed_or_costs_another_shard_its_log() {
    let whole_disk = filled(75).shutdown();
    let disk = whole_disk.image();
    let all = files(&*disk.mount());
    assert!(all.len() >= 3);
    let (frames, ..) = look(&*disk.mount());
    let mut noticed = 0;
    for step in 0..1500_u64 {
        // Half anywhere, half in headers, where it hurts most.
        let random = step.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 13;
        let (file, place) = if step % 2 == 0 {
            let frame = &frames[usize::try_from(random).unwrap() % frames.len()];
            (frame.file, frame.at + random % 64)
        } else {
            (
                *all.keys()
                    .nth(usize::try_from(random).unwrap() % all.len())
                    .unwrap(),
                (random >> 8) % (64 << 10),
            )
        };
        let name = &all[&file].0;
        let disk = whole_disk.image();
        disk.rot(name, place, 0x20);
        let node = Node::open(&disk, settings());
        let damaged = [ONE, TWO].map(|shard| {
            let log = node.journal.log(shard);
            let mut damaged = log.damaged.is_some();
            for index in 1..=75 {
                match node.read(shard, index, LEN) {
                    Ok(bytes) => assert_eq!(bytes, payload(shard, index, LEN), "byte {place} of {name}"),
                    Err(_) => damaged = true,
                }
            }
            let whole =
                log.last == Some(at(1, 75)) && log.vote.is_some_and(|vote| vote.starts_with(b"vote of"));
            assert!(
                damaged || whole,
                "byte {place} of {name} lost something of {shard} unnoticed"
            );
            damaged
        });
        assert_ne!(damaged, [true, true], "byte {place} of {name} cost both shards");
        noticed += usize::from(damaged != [false, false]);
    }
    assert!(noticed > 500, "most flips hit something: {noticed}");
}
