//! Rounds of megabytes.

use meridian_journal::{FaultyDisk, JournalSettings};

use crate::common::{Node, ONE, at, entry, payload, settings};

fn large() -> JournalSettings {
    JournalSettings {
        file_bytes: 16 << 20,
        ..settings()
    }
}

/// One round of entries of 100,003 bytes each.
fn round(node: &mut Node, indexes: std::ops::RangeInclusive<u64>) {
    let entries = indexes.map(|index| entry(ONE, 1, index, 100_003)).collect();
    node.journal.append(ONE, entries, node.told.done("append"));
    node.round();
    assert!(node.told.take().iter().all(|(_, result)| result.is_ok()));
}

#[test]
fn a_large_round_that_nothing_proves_yet_is_whole_after_every_crash() {
    for seed in 0..8 {
        let disk = FaultyDisk::seeded(seed);
        let mut node = Node::open(&disk, large());
        node.append(ONE, 1, 1..=1, 1000 + 100 * usize::try_from(seed).unwrap());
        round(&mut node, 2..=40);
        // Opening writes the round again, in several pieces.
        for crash in 0..3 {
            if crash == 1 {
                disk.power_cut();
            } else {
                disk.kill();
            }
            node = Node::open(&disk, large());
            assert_eq!(node.journal.log(ONE).last, Some(at(1, 40)), "seed {seed}");
            assert_eq!(node.journal.log(ONE).damaged, None);
            for index in 2..=40 {
                assert_eq!(
                    node.read(ONE, index, 100_003).unwrap(),
                    payload(ONE, index, 100_003)
                );
            }
        }
    }
}
