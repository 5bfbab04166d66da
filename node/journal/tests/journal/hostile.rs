//! Whatever is in a directory, opening and inspecting it ends in a journal or an error: no panic, no allocation
//! beyond the files' own size.

use std::io::IoSlice;

use crate::common::{Node, ONE, files, settings};
use meridian_journal::inspect::walk;
use meridian_journal::{FaultyDisk, Journal};
use meridian_types::RaftIndex;
use proptest::prelude::*;

const FILE: usize = 64 << 10;

/// A good journal of three files.
fn good() -> FaultyDisk {
    let mut node = Node::open(&FaultyDisk::seeded(1), settings());
    node.vote(ONE, b"vote");
    node.append(ONE, 1, 1..=130, 1000);
    node.shutdown()
}

fn survives(disk: &FaultyDisk) {
    let _ = walk(&*disk.image().mount(), &mut |_| {}, &mut |_| {});
    let Ok((journal, mut writer)) = Journal::open(disk.mount(), settings()) else {
        return;
    };
    for index in 0..140 {
        let _ = journal.read(ONE, RaftIndex(index), 0, 1000);
    }
    let _ = journal.entries(ONE, RaftIndex(0)..RaftIndex(u64::MAX), usize::MAX);
    for _ in 0..3 {
        writer.run_round();
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_over_a_good_journal(
        changes in prop::collection::vec((0..3_usize, 0..FILE, prop::collection::vec(any::<u8>(), 1..300)), 1..8),
    ) {
        let disk = good();
        let mount = disk.mount();
        let names: Vec<String> = files(&*mount).into_values().map(|(name, ..)| name).collect();
        for (file, at, bytes) in changes {
            let at = at.min(FILE - bytes.len());
            mount.open(&names[file]).unwrap().write_at(at as u64, &mut [IoSlice::new(&bytes)]).unwrap();
        }
        survives(&disk);
    }

    #[test]
    fn pieces_of_a_journal_put_elsewhere_in_it(
        moves in prop::collection::vec((0..3_usize, 0..FILE / 8, 0..3_usize, 0..FILE / 8, 1..3000_usize), 1..6),
    ) {
        let disk = good();
        let mount = disk.mount();
        let names: Vec<String> = files(&*mount).into_values().map(|(name, ..)| name).collect();
        for (from, source, to, target, len) in moves {
            let (source, target) = ((source * 8).min(FILE - len), (target * 8).min(FILE - len));
            let mut bytes = vec![0; len];
            mount.open(&names[from]).unwrap().read_at(source as u64, &mut bytes).unwrap();
            mount.open(&names[to]).unwrap().write_at(target as u64, &mut [IoSlice::new(&bytes)]).unwrap();
        }
        survives(&disk);
    }

    #[test]
    fn files_of_any_bytes_and_lengths(bytes in prop::collection::vec(any::<u8>(), 0..5000), number in 0..4_u64) {
        let disk = FaultyDisk::seeded(1);
        let mount = disk.mount();
        for name in ["journal.id".to_string(), "spare.journal".into(), format!("{number:016x}.journal")] {
            let file = mount.create(&name, bytes.len() as u64).unwrap();
            file.write_at(0, &mut [IoSlice::new(&bytes)]).unwrap();
        }
        survives(&disk);
    }
}
