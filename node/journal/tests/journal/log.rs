//! One shard's log as its users see it: order, durability, reads from memory and from disk.

use crate::common::{Node, ONE, TWO, at, entry, payload, settings};
use meridian_journal::{
    Durability, FaultyDisk, Journal, JournalError, JournalSettings, ReadError, RoundOutcome,
};
use meridian_types::RaftIndex;

#[test]
fn the_cache_keeps_its_budget_and_misses_are_read_from_disk() {
    let mut node = Node::open(
        &FaultyDisk::seeded(12),
        JournalSettings {
            cache_bytes: 20_000,
            ..settings()
        },
    );
    node.append(ONE, 1, 1..=100, 1000);
    let usage = node.journal.usage();
    assert!(
        usage.cache_bytes <= 20_000 && usage.cache_bytes > 10_000,
        "{}",
        usage.cache_bytes
    );
    assert_eq!(node.journal.read_cached(ONE, RaftIndex(1), 0, 10), None);
    assert_eq!(usage.disk_reads, 0);
    let recent = node.journal.read_cached(ONE, RaftIndex(100), 10, 20).unwrap();
    assert_eq!(recent.concat(), payload(ONE, 100, 1000)[10..30]);
    assert_eq!(node.read(ONE, 100, 1000), Ok(payload(ONE, 100, 1000)));
    assert_eq!(node.journal.usage().disk_reads, 0, "the tail is read from memory");

    let all = node
        .journal
        .entries(ONE, RaftIndex(1)..RaftIndex(101), usize::MAX)
        .unwrap();
    assert_eq!(
        all,
        (1..=100)
            .map(|index| entry(ONE, 1, index, 1000))
            .collect::<Vec<_>>()
    );
    let reads = node.journal.usage().disk_reads;
    assert!(reads > 0 && reads < 10, "near frames are read together: {reads}");
    let some = node
        .journal
        .entries(ONE, RaftIndex(50)..RaftIndex(101), 2500)
        .unwrap();
    assert_eq!(some.len(), 2);
    let one = node
        .journal
        .entries(ONE, RaftIndex(50)..RaftIndex(101), 1)
        .unwrap();
    assert_eq!(one, [entry(ONE, 1, 50, 1000)], "at least one");
    assert!(
        node.journal
            .entries(ONE, RaftIndex(50)..RaftIndex(50), 1)
            .unwrap()
            .is_empty()
    );
    assert!(
        node.journal
            .entries(ONE, RaftIndex(101)..RaftIndex(102), 1)
            .is_err()
    );

    node.journal
        .truncate_after(ONE, Some(RaftIndex(0)), node.told.done("truncate"));
    assert_eq!(
        node.journal.usage().cache_bytes,
        0,
        "truncated entries leave the cache at once"
    );
}

#[test]
fn parts_of_long_payloads_are_read_without_the_rest() {
    let mut node = Node::open(
        &FaultyDisk::seeded(13),
        JournalSettings {
            file_bytes: 1 << 20,
            ..settings()
        },
    );
    let len = 300_000;
    node.append(ONE, 1, 1..=1, len);
    let expected = payload(ONE, 1, len);
    for (at, part) in [
        (0, 10),
        (0, 65_536),
        (70_000, 1),
        (150_000, 150_000),
        (299_999, 1),
        (300_000, 0),
        (5, 0),
    ] {
        let read = node.journal.read(ONE, RaftIndex(1), at, part).unwrap().concat();
        assert_eq!(read, expected[at as usize..(at + part) as usize], "{at} {part}");
    }
    let beyond = node.journal.read(ONE, RaftIndex(1), 299_999, 2);
    assert!(
        matches!(beyond, Err(meridian_journal::ReadError::OutOfBounds { .. })),
        "{beyond:?}"
    );
    assert!(node.journal.read(ONE, RaftIndex(1), u32::MAX, u32::MAX).is_err());
}

#[test]
fn wrong_calls_are_refused_and_change_nothing() {
    let mut node = Node::open(
        &FaultyDisk::seeded(14),
        JournalSettings {
            queue_bytes_max: 10_000,
            ..settings()
        },
    );
    node.append(ONE, 1, 5..=9, 10);
    let too_large = node.journal.payload_bytes_max() + 1;
    node.journal
        .append(ONE, vec![entry(ONE, 1, 11, 10)], node.told.done("gap"));
    node.journal
        .append(ONE, vec![entry(ONE, 1, 9, 10)], node.told.done("again"));
    node.journal
        .append(ONE, vec![entry(ONE, 1, 10, too_large)], node.told.done("large"));
    node.journal
        .save_vote(ONE, vec![0; 5000].into(), node.told.done("vote"));
    for index in 10..=13 {
        node.journal
            .append(ONE, vec![entry(ONE, 1, index, 4000)], node.told.done("busy"));
    }
    let told = node.told.take();
    assert!(matches!(
        told[0].1,
        Err(JournalError::OutOfOrder {
            expected: RaftIndex(10),
            given: RaftIndex(11)
        })
    ));
    assert!(matches!(told[1].1, Err(JournalError::OutOfOrder { .. })));
    assert!(matches!(told[2].1, Err(JournalError::TooLarge { .. })));
    assert!(matches!(told[3].1, Err(JournalError::TooLarge { .. })));
    assert!(matches!(told[4].1, Err(JournalError::Busy { .. })), "{told:?}");
    assert!(matches!(
        node.journal.admit(5000, 1),
        Err(JournalError::Busy { .. })
    ));
    node.round();
    assert_eq!(node.journal.log(ONE).last, Some(at(1, 11)));
    node.append(ONE, 1, 12..=12, 4000);
}

#[test]
fn an_empty_append_is_done_after_what_came_before() {
    let mut node = Node::open(&FaultyDisk::seeded(15), settings());
    node.journal
        .append(ONE, vec![entry(ONE, 1, 1, 10)], node.told.done("entry"));
    node.journal.append(ONE, vec![], node.told.done("nothing"));
    assert_eq!(node.told.take(), []);
    node.round();
    assert_eq!(
        node.told.take(),
        [("entry".to_string(), Ok(())), ("nothing".to_string(), Ok(()))]
    );
}

#[test]
fn durable_follows_the_log_through_truncation() {
    let mut node = Node::open(&FaultyDisk::seeded(16), settings());
    node.append(ONE, 1, 1..=5, 10);
    assert_eq!(node.journal.durable(ONE), Some(RaftIndex(5)));
    node.journal
        .truncate_after(ONE, Some(RaftIndex(2)), node.told.done("truncate"));
    assert_eq!(node.journal.durable(ONE), Some(RaftIndex(2)), "at once");
    node.journal.append(
        ONE,
        (3..=4).map(|index| entry(ONE, 2, index, 20)).collect(),
        node.told.done("append"),
    );
    assert_eq!(node.journal.durable(ONE), Some(RaftIndex(2)));
    assert_eq!(node.journal.log(ONE).last, Some(at(2, 4)));
    node.round();
    assert_eq!(node.journal.durable(ONE), Some(RaftIndex(4)));
    assert_eq!(node.read(ONE, 3, 20), Ok(payload(ONE, 3, 20)));

    // Replaced while the old entry was on its way to disk, one operation a round.
    let one_by_one = JournalSettings {
        round_bytes_max: 1,
        ..settings()
    };
    let mut node = Node::open(&node.shutdown(), one_by_one);
    node.journal
        .append(ONE, vec![entry(ONE, 2, 5, 10)], node.told.done("5 of term 2"));
    node.journal
        .truncate_after(ONE, Some(RaftIndex(4)), node.told.done("truncate"));
    node.journal
        .append(ONE, vec![entry(TWO, 3, 5, 30)], node.told.done("5 of term 3"));
    for (round, durable) in [(1, 4), (2, 4), (3, 5)] {
        node.round();
        assert_eq!(node.told.take().len(), 1);
        assert_eq!(
            node.journal.durable(ONE),
            Some(RaftIndex(durable)),
            "round {round}"
        );
        assert_eq!(node.read(ONE, 5, 30), Ok(payload(TWO, 5, 30)), "round {round}");
    }
}

#[test]
fn a_log_begins_after_a_purge_beyond_its_end_and_forgets_what_it_had() {
    let mut node = Node::open(&FaultyDisk::seeded(17), settings());
    node.append(ONE, 1, 1..=5, 10);
    let missing = |node: &Node| {
        for index in 1..=5 {
            let read = node.read(ONE, index, 10);
            assert!(
                matches!(read, Err(ReadError::Missing { .. })),
                "{index}: {read:?}"
            );
            assert_eq!(node.journal.term_of(ONE, RaftIndex(index)), None);
        }
    };
    node.purge(ONE, at(3, 100));
    let log = node.journal.log(ONE);
    assert_eq!((log.first, log.last, log.purged), (None, None, Some(at(3, 100))));
    missing(&node);
    node.append(ONE, 3, 101..=102, 10);
    node.journal.truncate_after(ONE, None, node.told.done("truncate"));
    node.round();
    node.append(ONE, 4, 101..=103, 10);
    for node in [node.disk.clone()].map(|disk| Node::open(&disk, settings())) {
        let log = node.journal.log(ONE);
        assert_eq!(
            (log.first, log.last, log.purged),
            (Some(at(4, 101)), Some(at(4, 103)), Some(at(3, 100)))
        );
        assert_eq!(log.damaged, None);
        assert_eq!(
            node.journal.term_of(ONE, RaftIndex(100)).map(|term| term.0),
            Some(3)
        );
        missing(&node);
    }
}

#[test]
fn a_purge_forgets_what_it_may_not_be_the_end_of() {
    let mut node = Node::open(&FaultyDisk::seeded(19), settings());
    node.append(ONE, 1, 1..=6, 10);
    node.purge(ONE, at(1, 3));
    let readable = |node: &Node, indexes: &[u64]| {
        let found: Vec<_> = (1..=6)
            .filter(|index| node.read(ONE, *index, 10).is_ok())
            .collect();
        assert_eq!(found, indexes);
    };
    readable(&node, &[1, 2, 3, 4, 5, 6]);
    // Another entry lies where this one is said to have been.
    node.purge(ONE, at(2, 5));
    readable(&node, &[6]);
    assert_eq!(node.journal.log(ONE).last, Some(at(1, 6)));
    let node = Node::open(&node.disk.clone(), settings());
    readable(&node, &[6]);
    assert_eq!(node.journal.log(ONE).damaged, None);
}

#[test]
fn without_fsync_callbacks_do_not_wait_and_durable_follows_behind() {
    let settings = JournalSettings {
        durability: Durability::Memory,
        ..settings()
    };
    let mut node = Node::open(&FaultyDisk::seeded(18), settings.clone());
    node.journal
        .append(ONE, vec![entry(ONE, 1, 1, 10)], node.told.done("entry"));
    assert!(matches!(node.round(), RoundOutcome::Wrote { .. }));
    assert_eq!(node.told.take(), [("entry".to_string(), Ok(()))]);
    node.round();
    assert_eq!(node.journal.durable(ONE), Some(RaftIndex(1)), "the keeper synced");
    node.append(ONE, 1, 2..=200, 1000);
    for _ in 0..3 {
        node.round();
    }
    assert_eq!(node.journal.durable(ONE), Some(RaftIndex(200)));
    let node = Node::open(&node.shutdown(), settings);
    assert_eq!(node.journal.log(ONE).last, Some(at(1, 200)));
}

#[test]
fn settings_out_of_bounds_are_refused_by_name() {
    for file_bytes in [0, 4096, (64 << 10) + 1, 4 << 30] {
        let settings = JournalSettings {
            file_bytes,
            ..settings()
        };
        let error = Journal::open(FaultyDisk::seeded(1).mount(), settings)
            .map(|_| ())
            .unwrap_err();
        assert!(error.to_string().contains("file_bytes must be"), "{error}");
    }
}
