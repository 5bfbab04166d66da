//! A journal written by version 1 of the format stays readable.
//!
//! `BLESS=1` writes a fixture that is not there yet; an existing one is never changed: a new format gets a new
//! directory beside it.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::common::{Node, ONE, TWO, at, entry, payload, settings};
use meridian_journal::inspect::{Finding, walk};
use meridian_journal::{FaultyDisk, Journal, RealDisk};
use meridian_types::{RaftIndex, ShardId};

const RESET: ShardId = ShardId(3);

fn fixture() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/v1")
}

/// Everything the format has: all kinds of frames, two generations, a sealed file.
fn write() -> FaultyDisk {
    let mut node = Node::open(&FaultyDisk::seeded(1), settings());
    node.vote(ONE, b"first vote");
    node.append(ONE, 1, 1..=20, 1500);
    node.append(TWO, 1, 1..=3, 100);
    node.append(RESET, 1, 1..=3, 10);
    node.journal.reset(RESET, node.told.done("reset"));
    node.journal
        .truncate_after(TWO, Some(RaftIndex(2)), node.told.done("truncate"));
    node.append(TWO, 2, 3..=4, 0);
    node.purge(ONE, at(1, 10));
    node.journal.release(ONE, RaftIndex(8));
    let mut node = Node::open(&node.shutdown(), settings());
    node.vote(ONE, b"second vote");
    node.append(ONE, 3, 21..=40, 1500);
    node.append(RESET, 5, 70..=71, 7);
    node.round();
    node.disk.kill();
    node.disk
}

/// One line for every frame.
fn transcript(disk: &dyn meridian_journal::Disk) -> String {
    let mut lines = String::new();
    let mut each = |finding| match finding {
        Finding::File {
            name, bytes, sealed, ..
        } => writeln!(lines, "{name} {bytes} sealed={sealed}").unwrap(),
        Finding::Frame(frame) => {
            let shard = frame.shard.map_or("-".to_string(), |shard| shard.to_string());
            writeln!(
                lines,
                "  {} {:?} shard {shard} sequence {} at {} bytes {} generation {} synced_to {}",
                frame.at,
                frame.kind,
                frame.sequence,
                frame.position,
                frame.payload_bytes,
                frame.generation,
                frame.synced_to,
            )
            .unwrap();
        }
        Finding::Problem(problem) => writeln!(lines, "  PROBLEM {problem}").unwrap(),
    };
    walk(disk, &mut each, &mut |_| {}).unwrap();
    lines
}

fn bless() {
    let disk = write();
    let mount = disk.mount();
    std::fs::create_dir_all(fixture()).unwrap();
    for file in mount
        .list()
        .unwrap()
        .into_iter()
        .filter(|file| file.name != "spare.journal")
    {
        let mut bytes = vec![0; usize::try_from(file.bytes).unwrap()];
        mount.open(&file.name).unwrap().read_at(0, &mut bytes).unwrap();
        std::fs::write(fixture().join(file.name), bytes).unwrap();
    }
    std::fs::write(fixture().join("frames.txt"), transcript(&*mount)).unwrap();
}

#[test]
fn a_journal_of_version_1_is_read_as_it_was_written() {
    if std::env::var_os("BLESS").is_some() && !fixture().exists() {
        bless();
    }
    let directory = tempfile::tempdir().unwrap();
    for file in std::fs::read_dir(fixture()).unwrap() {
        let file = file.unwrap();
        if file.file_name() != "frames.txt" {
            std::fs::copy(file.path(), directory.path().join(file.file_name())).unwrap();
        }
    }
    let frames = std::fs::read_to_string(fixture().join("frames.txt")).unwrap();
    assert_eq!(
        transcript(&RealDisk::open_unlocked(directory.path()).unwrap()),
        frames
    );

    let disk = Arc::new(RealDisk::open(directory.path()).unwrap());
    let (journal, mut writer) = Journal::open(disk, settings()).unwrap();
    assert_eq!(journal.shards(), [ONE, TWO, RESET]);
    let one = journal.log(ONE);
    assert_eq!(
        (one.first, one.last, one.purged),
        (Some(at(1, 11)), Some(at(3, 40)), Some(at(1, 10)))
    );
    assert_eq!(
        (one.vote.as_deref(), one.damaged),
        (Some(&b"second vote"[..]), None)
    );
    for index in 1..=40 {
        let read = journal.read(ONE, RaftIndex(index), 0, 1500).unwrap().concat();
        assert_eq!(read, payload(ONE, index, 1500), "entry {index}");
    }
    let two = journal
        .entries(TWO, RaftIndex(1)..RaftIndex(9), usize::MAX)
        .unwrap();
    assert_eq!(
        two,
        [
            entry(TWO, 1, 1, 100),
            entry(TWO, 1, 2, 100),
            entry(TWO, 2, 3, 0),
            entry(TWO, 2, 4, 0)
        ]
    );
    let reset = journal.log(RESET);
    assert_eq!(
        (reset.first, reset.last, reset.vote),
        (Some(at(5, 70)), Some(at(5, 71)), None)
    );

    // And it goes on from there.
    journal.append(
        TWO,
        vec![entry(TWO, 2, 5, 10)],
        Box::new(|result| result.unwrap()),
    );
    writer.run_round();
    assert_eq!(journal.durable(TWO), Some(RaftIndex(5)));
}

#[test]
fn this_version_writes_version_1() {
    assert_eq!(
        transcript(&*write().mount()),
        std::fs::read_to_string(fixture().join("frames.txt")).unwrap()
    );
}
