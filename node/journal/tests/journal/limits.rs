//! Full disks, failed writes, budgets of disk and memory, speed of opening.

use std::io;
use std::sync::Arc;

use crate::common::{Node, ONE, TWO, at, entry, files, look, payload, settings};
use meridian_journal::{
    Disk, Durability, Fault, FaultyDisk, Journal, JournalError, JournalSettings, OpenError, RealDisk,
    RoundOutcome,
};
use meridian_types::{RaftIndex, ShardId};

const FILE: u64 = 64 << 10;

fn is_full(result: &Result<(), JournalError>) -> bool {
    matches!(result, Err(JournalError::Full { .. }))
}

/// Appends to ONE until it is refused; gives the last index accepted. Everything accepted is done.
fn fill(node: &mut Node, from: u64) -> u64 {
    for index in from..10_000 {
        node.journal
            .append(ONE, vec![entry(ONE, 1, index, 3000)], node.told.done("fill"));
        node.round();
        for (_, result) in node.told.take() {
            if is_full(&result) {
                return index - 1;
            }
            result.unwrap();
        }
    }
    panic!("the disk never fills");
}

#[test]
fn a_full_disk_refuses_entries_keeps_votes_and_reads_and_heals() {
    let disk = FaultyDisk::seeded(3);
    disk.set_capacity(2 * FILE + 1000);
    let mut node = Node::open(&disk, settings());
    let last = fill(&mut node, 1);
    assert!(last > 30, "both files are used: {last}");
    assert!(node.journal.usage().full.is_some());
    assert!(is_full(&node.journal.admit(3000, 1)));
    assert_eq!(
        node.journal.log(ONE).last,
        Some(at(1, last)),
        "what was refused changed nothing"
    );

    for _ in 0..20 {
        node.vote(ONE, b"a vote in the reserve");
        node.purge(ONE, at(1, 5));
    }
    assert!(node.told.take().iter().all(|(_, result)| result.is_ok()));
    assert_eq!(node.read(ONE, 1, 3000), Ok(payload(ONE, 1, 3000)));

    // A restart on the full disk serves the same, refuses the same.
    drop(node);
    disk.kill();
    let mut node = Node::open(&disk, settings());
    assert_eq!(node.journal.log(ONE).last, Some(at(1, last)));
    // Until this opening has found the disk full, one entry may be accepted that then waits for space.
    let last = fill(&mut node, last + 1).min(last + 1);
    assert_eq!(fill(&mut node, last + 1), last);

    disk.set_capacity(5 * FILE);
    for _ in 0..5 {
        node.round();
    }
    assert_eq!(node.journal.usage().full, None);
    assert!(node.journal.admit(3000, 1).is_ok());
    let more = fill(&mut node, last + 1);
    assert!(more > last + 15);
    let node = Node::open(&node.shutdown(), settings());
    assert_eq!(node.journal.log(ONE).last, Some(at(1, more)));
    for index in 1..=more {
        assert_eq!(node.read(ONE, index, 3000), Ok(payload(ONE, index, 3000)));
    }
}

#[test]
fn releasing_old_records_heals_a_full_disk() {
    let disk = FaultyDisk::seeded(4);
    disk.set_capacity(2 * FILE + 1000);
    let mut node = Node::open(&disk, settings());
    let last = fill(&mut node, 1);
    node.purge(ONE, at(1, last));
    assert_eq!(fill(&mut node, last + 1), last, "purged is not released");
    node.journal.release(ONE, RaftIndex(last));
    for _ in 0..5 {
        node.round();
    }
    let more = fill(&mut node, last + 1);
    assert!(more > last + 10, "the oldest file is used again");
    assert!(node.read(ONE, 1, 3000).is_err(), "and what it held is gone");
}

#[test]
fn records_leave_room_in_the_last_file_and_on_the_disk_for_what_makes_room() {
    let disk = FaultyDisk::seeded(8);
    // Room for three files, were nothing left to others.
    disk.set_capacity(3 * FILE);
    let left = JournalSettings {
        left_free_bytes: FILE / 2,
        ..settings()
    };
    let mut node = Node::open(&disk, left);
    let mut last = 0;
    while node.journal.admit_records(3000, 1).is_ok() {
        last += 1;
        node.journal
            .append(ONE, vec![entry(ONE, 1, last, 3000)], node.told.done("record"));
        node.round();
        node.told
            .take()
            .into_iter()
            .for_each(|(_, result)| result.unwrap());
        assert!(last < 100, "the disk never fills");
    }
    assert!(is_full(&node.journal.admit_records(3000, 1)));
    assert!(last > 15, "both files are used: {last}");
    let usage = node.journal.usage();
    assert!(usage.free_bytes >= Some(FILE / 2), "{usage:?}");
    assert!(
        usage
            .full
            .is_some_and(|reason| reason.contains("for checkpoints"))
    );
    let more = fill(&mut node, last + 1) - last;
    assert!(
        more * 3000 > FILE / 4 - 2 * 3000,
        "only {more} entries found room that records had left"
    );
    node.purge(ONE, at(1, last));
    node.journal.release(ONE, RaftIndex(last));
    for _ in 0..5 {
        node.round();
    }
    assert!(node.journal.admit_records(3000, 1).is_ok(), "and room was made");
}

#[test]
fn room_of_a_full_disk_is_promised_to_one_at_a_time() {
    let disk = FaultyDisk::seeded(9);
    disk.set_capacity(2 * FILE + 1000);
    let mut node = Node::open(&disk, settings());
    while node.journal.usage().full.is_none() {
        let last = node.journal.log(ONE).last.map_or(0, |last| last.index.0);
        node.journal
            .append(ONE, vec![entry(ONE, 1, last + 1, 3000)], node.told.done("record"));
        node.round();
    }
    let most = (1..).take_while(|bytes| node.journal.admit(bytes * 100, 1).is_ok());
    let most = most.count() * 100;
    assert!(most > 3000, "{most} bytes");
    let reserved = node.journal.reserve(most - 2000, 1).expect("there is room");
    assert!(is_full(&node.journal.admit(3000, 1)));
    assert!(is_full(&node.journal.admit_records(0, 1)) && node.journal.reserve(3000, 1).is_err());
    assert!(node.journal.admit(1000, 1).is_ok(), "what is left");
    let promised = node.journal.admit_promised(most, 1);
    assert!(promised.is_ok(), "a promise does not stand against itself");
    drop(reserved);
    assert!(node.journal.admit(most, 1).is_ok());
}

#[test]
fn entries_accepted_before_the_disk_was_known_to_be_full_wait_and_are_not_lost() {
    let disk = FaultyDisk::seeded(5);
    disk.set_capacity(FILE + 1000);
    let mut node = Node::open(&disk, settings());
    // No round between: the queue holds more than the file.
    for index in 1..=40 {
        node.journal.append(
            ONE,
            vec![entry(ONE, 1, index, 3000)],
            node.told.done(format!("{index}")),
        );
    }
    node.journal.save_vote(TWO, "vote".into(), node.told.done("vote"));
    assert!(matches!(node.round(), RoundOutcome::Wrote { .. }));
    assert_eq!(node.round(), RoundOutcome::Stalled);
    let told = node.told.take();
    let (vote, appended) = told.split_last().unwrap();
    assert_eq!(vote.0, "vote", "another shard's vote passes");
    assert!(appended.len() >= 10 && appended.len() < 40, "{}", appended.len());
    assert!(is_full(&node.journal.admit(3000, 1)));
    assert_eq!(node.journal.durable(ONE), Some(RaftIndex(appended.len() as u64)));
    assert_eq!(
        node.read(ONE, 40, 3000),
        Ok(payload(ONE, 40, 3000)),
        "from memory"
    );

    // A purge may pass the entries that wait: it is what makes space.
    node.purge(ONE, at(1, 2));
    assert_eq!(node.told.take(), [("purge".to_string(), Ok(()))]);

    disk.set_capacity(10 * FILE);
    node.round();
    let rest: Vec<String> = node
        .told
        .take()
        .into_iter()
        .map(|(name, result)| result.map(|()| name).unwrap())
        .collect();
    let expected: Vec<String> = (appended.len() + 1..=40).map(|index| index.to_string()).collect();
    assert_eq!(rest, expected);
    let node = Node::open(&node.shutdown(), settings());
    assert_eq!(node.journal.log(ONE).last, Some(at(1, 40)));
    assert_eq!(node.journal.log(ONE).purged, Some(at(1, 2)));
}

#[test]
fn stalled_entries_are_told_when_the_journal_stops() {
    let disk = FaultyDisk::seeded(5);
    disk.set_capacity(FILE + 1000);
    let node = Node::open(&disk, settings());
    for index in 1..=40 {
        node.journal.append(
            ONE,
            vec![entry(ONE, 1, index, 3000)],
            node.told.done(format!("{index}")),
        );
    }
    let told = node.told.clone();
    node.shutdown();
    let told = told.take();
    assert_eq!(told.len(), 40);
    assert_eq!(told[39].1, Err(JournalError::Stopped));
}

#[test]
fn a_first_start_without_space_says_so() {
    let disk = FaultyDisk::seeded(6);
    disk.set_capacity(1000);
    let error = Journal::open(disk.mount(), settings()).map(|_| ()).unwrap_err();
    assert!(
        matches!(&error, OpenError::Io { source, .. } if source.kind() == io::ErrorKind::StorageFull),
        "{error}"
    );
}

#[test]
fn a_failed_sync_poisons_everything_that_waits_and_nothing_is_tried_again() {
    for fault in [Fault::Error, Fault::Short] {
        for call in 0..2 {
            let mut node = Node::open(&FaultyDisk::seeded(7), settings());
            node.append(ONE, 1, 1..=3, 100);
            // Call 0 is the write (the file is zeroed ahead already), call 1 its sync.
            node.disk.plan(call, fault);
            for name in ["a", "b", "c"] {
                node.journal.save_vote(TWO, "x".into(), node.told.done(name));
            }
            assert_eq!(node.round(), RoundOutcome::Poisoned);
            node.journal
                .append(ONE, vec![entry(ONE, 1, 4, 10)], node.told.done("later"));
            let told = node.told.take();
            assert_eq!(
                told.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(),
                ["a", "b", "c", "later"]
            );
            assert!(
                told.iter()
                    .all(|(_, result)| matches!(result, Err(JournalError::Poisoned { .. })))
            );
            let calls = node.disk.calls();
            assert_eq!(node.round(), RoundOutcome::Poisoned);
            assert_eq!(node.disk.calls(), calls, "no write, no second sync");
            assert!(node.journal.usage().poisoned.unwrap().contains("injected"));
            assert_eq!(node.read(ONE, 3, 100), Ok(payload(ONE, 3, 100)), "reads go on");
            assert_eq!(node.journal.log(ONE).last, Some(at(1, 3)));
        }
    }
}

#[test]
fn a_write_that_finds_no_space_is_repeated_and_the_journal_counts_as_full_meanwhile() {
    let mut node = Node::open(&FaultyDisk::seeded(7), settings());
    node.append(ONE, 1, 1..=3, 100);
    // The space was reserved; what is missing is the file system's own.
    for call in 0..3 {
        node.disk.plan(call, Fault::NoSpace);
    }
    let seen = Arc::new(parking_lot::Mutex::new(Vec::new()));
    let (journal, looks) = (node.journal.clone(), Arc::clone(&seen));
    let look = move |_| {
        let full = journal.usage().full;
        looks.lock().push((full, is_full(&journal.admit(10, 1))));
    };
    node.disk.set_hook(Some(Arc::new(look)));
    node.journal
        .append(ONE, vec![entry(ONE, 1, 4, 100)], node.told.done("entry"));
    node.journal.save_vote(TWO, "x".into(), node.told.done("vote"));
    assert_eq!(node.round(), RoundOutcome::Wrote { operations: 2 });
    node.disk.set_hook(None);
    assert!(node.told.take().iter().all(|(_, result)| result.is_ok()));
    let seen = std::mem::take(&mut *seen.lock());
    // The first try, and three more with the disk full; then the sync.
    let full: Vec<bool> = seen.iter().map(|(_, is_full)| *is_full).collect();
    assert_eq!(full[..5], [false, true, true, true, false], "{seen:?}");
    assert!(
        seen[1]
            .0
            .as_ref()
            .is_some_and(|reason| reason.contains("no space")),
        "{seen:?}"
    );
    assert_eq!(
        (node.journal.usage().full, node.journal.usage().poisoned),
        (None, None)
    );
    let node = Node::open(&node.shutdown(), settings());
    assert_eq!(node.journal.log(ONE).last, Some(at(1, 4)));
    assert_eq!(node.read(ONE, 4, 100), Ok(payload(ONE, 4, 100)));
}

#[test]
fn a_failure_beside_the_log_poisons_nothing() {
    // Making and zeroing the next file fails; the one in use is sound.
    // Call 0 writes the first marker.
    for call in 1..4 {
        let mut node = Node::open(&FaultyDisk::seeded(8), settings());
        node.disk.plan(call, Fault::Error);
        for _ in 0..6 {
            node.round();
        }
        node.append(ONE, 1, 1..=100, 1000);
        assert_eq!(node.journal.usage().poisoned, None);
    }
}

#[test]
fn files_go_oldest_first_when_over_budget_and_released_by_every_shard() {
    let budget = JournalSettings {
        bytes_max: 4 * FILE,
        ..settings()
    };
    let mut node = Node::open(&FaultyDisk::seeded(9), budget.clone());
    node.append(TWO, 1, 1..=1, 100);
    node.append(ONE, 1, 1..=300, 1000);
    let usage = node.journal.usage();
    assert!(
        usage.disk_bytes > 4 * FILE && usage.oldest_file == 1,
        "pinned: {usage:?}"
    );
    assert_eq!(usage.oldest_file_pinned_by, [ONE, TWO]);

    node.journal.release(TWO, RaftIndex(1));
    node.journal.release(ONE, RaftIndex(300));
    for _ in 0..10 {
        node.round();
    }
    assert_eq!(
        node.journal.usage().oldest_file,
        1,
        "released, but Raft still needs it"
    );
    node.purge(ONE, at(1, 300));
    for _ in 0..10 {
        node.round();
    }
    let usage = node.journal.usage();
    assert_eq!((usage.oldest_file, usage.oldest_file_pinned_by), (1, vec![TWO]));
    assert_eq!(usage.oldest_file_by_shard, [(TWO, 1)]);
    assert_eq!(
        node.read(ONE, 1, 1000),
        Ok(payload(ONE, 1, 1000)),
        "purged and released, but its file is here"
    );

    node.purge(TWO, at(1, 1));
    for _ in 0..10 {
        node.round();
    }
    let usage = node.journal.usage();
    assert!(usage.disk_bytes <= 4 * FILE, "{usage:?}");
    assert!(usage.files_retired >= 2 && usage.oldest_file > 1);
    assert!(node.read(ONE, 1, 1000).is_err());
    assert_eq!(
        node.read(ONE, 300, 1000),
        Ok(payload(ONE, 300, 1000)),
        "released, and space does not ask for it"
    );

    // Votes and purges of deleted files live on in checkpoints.
    node.append(ONE, 1, 301..=310, 1000);
    let node = Node::open(&node.shutdown(), budget);
    assert_eq!(node.journal.log(TWO).purged, Some(at(1, 1)));
    assert_eq!(node.journal.log(ONE).first, Some(at(1, 301)));
    assert_eq!(
        (node.journal.log(ONE).damaged, node.journal.log(TWO).damaged),
        (None, None)
    );
}

#[test]
fn what_raft_still_needs_stays_though_it_is_released() {
    let budget = JournalSettings {
        bytes_max: 3 * FILE,
        ..settings()
    };
    let mut node = Node::open(&FaultyDisk::seeded(21), budget);
    node.append(ONE, 1, 1..=300, 1000);
    node.journal.release(ONE, RaftIndex(300));
    node.purge(ONE, at(1, 2));
    for _ in 0..10 {
        node.round();
    }
    assert_eq!(node.journal.usage().oldest_file, 1);
    node.purge(ONE, at(1, 290));
    for _ in 0..10 {
        node.round();
    }
    assert!(node.journal.usage().oldest_file > 1);
    assert_eq!(node.read(ONE, 291, 1000), Ok(payload(ONE, 291, 1000)));
}

#[test]
fn a_used_file_serves_again_and_shows_nothing_of_its_earlier_life() {
    let budget = JournalSettings {
        bytes_max: 3 * FILE,
        ..settings()
    };
    let mut node = Node::open(&FaultyDisk::seeded(10), budget.clone());
    for index in 1..=400 {
        node.append(ONE, 1, index..=index, 1000);
        node.purge(ONE, at(1, index));
        node.journal.release(ONE, RaftIndex(index));
    }
    let usage = node.journal.usage();
    assert!(usage.files_retired > 4, "{usage:?}");
    assert!(usage.disk_bytes <= 3 * FILE);
    let disk = node.disk.clone();
    disk.kill();
    let (frames, problems, summary) = look(&*disk.mount());
    assert_eq!(problems, []);
    let newest = *files(&*disk.mount()).last_key_value().unwrap().0;
    assert!(
        frames
            .iter()
            .filter(|frame| frame.file == newest)
            .all(|frame| frame.position.index.0 == 0 || frame.position.index.0 > 300)
    );
    assert_eq!(summary.shards[&ONE].purged, Some(at(1, 400)));
    let node = Node::open(&disk, budget);
    assert_eq!(node.journal.log(ONE).last, None);
    assert_eq!(node.journal.log(ONE).damaged, None);
}

#[test]
fn a_reader_of_a_file_that_goes_reads_on() {
    // The disk keeps a removed file for who has it open; what matters is that it is not used again meanwhile.
    let budget = JournalSettings {
        bytes_max: 3 * FILE,
        ..settings()
    };
    let mut node = Node::open(&FaultyDisk::seeded(11), budget);
    for index in 1..=300 {
        node.append(ONE, 1, index..=index, 1000);
        node.purge(ONE, at(1, index));
        node.journal.release(ONE, RaftIndex(index));
        let oldest_kept = (1..=index)
            .find(|index| node.read(ONE, *index, 1000).is_ok())
            .unwrap();
        for index in oldest_kept..=index {
            assert_eq!(node.read(ONE, index, 1000), Ok(payload(ONE, index, 1000)));
        }
    }
}

#[test]
fn a_first_start_of_a_server_takes_one_file_and_no_time() {
    let directory = tempfile::tempdir().unwrap();
    let disk = Arc::new(RealDisk::open(directory.path()).unwrap());
    let settings = JournalSettings::new(1);
    let (journal, mut writer) = Journal::open(disk.clone(), settings.clone()).unwrap();
    journal.append(
        ShardId(0),
        vec![entry(ShardId(0), 1, 1, 100)],
        Box::new(|result| result.unwrap()),
    );
    let journal_files = disk
        .list()
        .unwrap()
        .into_iter()
        .filter(|file| file.bytes >= settings.file_bytes)
        .count();
    assert_eq!(journal_files, 1);
    assert!(matches!(writer.run_round(), RoundOutcome::Wrote { .. }));
    assert_eq!(journal.durable(ShardId(0)), Some(RaftIndex(1)));
    assert!(journal.usage().written_bytes < 4096);
}

#[test]
fn whichever_call_fails_first_what_is_acknowledged_after_a_restart_survives_a_power_cut() {
    // Each call several times: what a power cut keeps is by chance.
    for step in 0.. {
        let call = step / 6;
        let mut node = Node::open(&FaultyDisk::seeded(step), settings());
        node.disk.plan(call, Fault::Error);
        let all_calls = node.disk.calls() + call;
        for index in 1..=60 {
            node.journal.append(
                ONE,
                vec![entry(ONE, 1, index, 3000)],
                node.told.done(index.to_string()),
            );
            node.round();
        }
        let failed = node.disk.calls() > all_calls;
        let acknowledged = node
            .told
            .take()
            .iter()
            .filter(|(_, result)| result.is_ok())
            .count() as u64;
        let disk = node.disk.clone();
        disk.kill();
        drop(node);
        let mut node = Node::open(&disk, settings());
        let last = node.journal.log(ONE).last.map_or(0, |last| last.index.0);
        assert!(last >= acknowledged, "call {call}");
        node.append(ONE, 1, last + 1..=last + 3, 3000);
        disk.power_cut();
        let node = Node::open(&disk, settings());
        assert_eq!(node.journal.log(ONE).last, Some(at(1, last + 3)), "call {call}");
        assert_eq!(node.journal.log(ONE).damaged, None, "call {call}");
        for index in 1..=last + 3 {
            assert_eq!(
                node.read(ONE, index, 3000),
                Ok(payload(ONE, index, 3000)),
                "call {call}"
            );
        }
        if !failed {
            assert!(call > 150, "the work must make many calls: {call}");
            return;
        }
    }
}

#[test]
fn files_stay_until_the_reset_that_empties_them_is_durable() {
    let held = |seed, fails: bool| {
        let disk = FaultyDisk::seeded(seed);
        let behind = JournalSettings {
            durability: Durability::Memory,
            bytes_max: 2 * FILE,
            ..settings()
        };
        let mut node = Node::open(&disk, behind.clone());
        node.append(ONE, 1, 1..=40, 5000);
        let retired = node.journal.usage().files_retired;
        node.journal.reset(ONE, node.told.done("reset"));
        if fails {
            // The round's write, then the sync behind it, which fails; the keeper goes on.
            disk.plan(1, Fault::Error);
        }
        node.round();
        node.round();
        let went = node.journal.usage().files_retired - retired;
        disk.power_cut();
        let node = Node::open(&disk, behind);
        let log = node.journal.log(ONE);
        assert_eq!(log.damaged, None, "seed {seed}");
        assert!(log.last.is_none() || log.last == Some(at(1, 40)), "seed {seed}");
        went == 0
    };
    assert!((0..10).all(|seed| held(seed, true)));
    assert!(!held(0, false), "and then they go");
}
