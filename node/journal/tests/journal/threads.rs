//! The journal on a real directory, with its threads.

use std::sync::Arc;
use std::sync::mpsc;
use std::time::Duration;

use bytes::Bytes;
use meridian_journal::{Entry, Journal, JournalError, JournalSettings, Payload, RealDisk};
use meridian_types::{LogPosition, RaftIndex, ShardId, Term};

fn entry(term: u64, index: u64, bytes: impl Into<Bytes>) -> Entry {
    let position = LogPosition {
        term: Term(term),
        index: RaftIndex(index),
    };
    Entry {
        position,
        payload: Payload::from(bytes.into()),
    }
}

fn settings() -> JournalSettings {
    JournalSettings {
        file_bytes: 1 << 20,
        cache_bytes: 64 << 10,
        ..JournalSettings::new(1)
    }
}

fn with_journal(path: &std::path::Path, work: impl FnOnce(&Journal)) {
    let disk = Arc::new(RealDisk::open(path).unwrap());
    let (journal, writer) = Journal::open(disk, settings()).unwrap();
    let thread = std::thread::Builder::new().spawn(move || writer.run()).unwrap();
    work(&journal);
    journal.shutdown();
    thread.join().unwrap();
}

fn wait(call: impl FnOnce(meridian_journal::Done)) -> Result<(), JournalError> {
    let (tx, rx) = mpsc::channel();
    call(Box::new(move |result| tx.send(result).unwrap()));
    rx.recv().unwrap()
}

#[test]
fn what_was_acknowledged_is_there_after_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let shard = ShardId(3);
    let payload = |index: u64| Bytes::from(vec![u8::try_from(index % 251).unwrap(); 10_000]);
    with_journal(directory.path(), |journal| {
        for index in 1..=500 {
            wait(|done| journal.append(shard, vec![entry(1, index, payload(index))], done)).unwrap();
        }
        wait(|done| journal.save_vote(shard, Bytes::from_static(b"vote 1"), done)).unwrap();
        wait(|done| journal.truncate_after(shard, Some(RaftIndex(490)), done)).unwrap();
        wait(|done| journal.append(shard, vec![entry(2, 491, "new")], done)).unwrap();
        wait(|done| {
            journal.purge(
                shard,
                LogPosition {
                    term: Term(1),
                    index: RaftIndex(10),
                },
                done,
            );
        })
        .unwrap();
        assert!(journal.usage().files >= 5, "rolled: {:?}", journal.usage());
    });
    with_journal(directory.path(), |journal| {
        let log = journal.log(shard);
        assert_eq!(log.first, Some(entry(1, 11, "").position));
        assert_eq!(log.last, Some(entry(2, 491, "").position));
        assert_eq!(log.vote, Some(Bytes::from_static(b"vote 1")));
        assert_eq!(log.damaged, None);
        assert_eq!(log.durable, Some(RaftIndex(491)));
        for index in 1..=490 {
            assert_eq!(
                journal.read(shard, RaftIndex(index), 0, 10_000).unwrap().concat(),
                payload(index)
            );
        }
        let entries = journal
            .entries(shard, RaftIndex(489)..RaftIndex(600), usize::MAX)
            .unwrap();
        assert_eq!(
            entries,
            [
                entry(1, 489, payload(489)),
                entry(1, 490, payload(490)),
                entry(2, 491, "new")
            ]
        );
    });
}

/// Eight threads append, purge and release as fast as they can while files of 256 KiB roll and are used again
/// under them; readers hold every byte against what was written.
#[test]
fn many_threads_roll_and_reuse_files_under_readers() {
    let directory = tempfile::tempdir().unwrap();
    let small = JournalSettings {
        file_bytes: 256 << 10,
        bytes_max: 2 << 20,
        cache_bytes: 100_000,
        ..JournalSettings::new(3)
    };
    let payload = |shard: u32, index: u64| {
        let len = usize::try_from(1 + (index * 7919 + u64::from(shard)) % 6000).unwrap();
        Bytes::from(vec![u8::try_from((index + u64::from(shard)) % 251).unwrap(); len])
    };
    let last = 1500;
    {
        let disk = Arc::new(RealDisk::open(directory.path()).unwrap());
        let (journal, writer) = Journal::open(disk, small.clone()).unwrap();
        let thread = std::thread::Builder::new().spawn(move || writer.run()).unwrap();
        std::thread::scope(|scope| {
            for shard in 0..8 {
                let journal = journal.clone();
                scope.spawn(move || {
                    for index in 1..=last {
                        let told = wait(|done| {
                            journal.append(
                                ShardId(shard),
                                vec![entry(1, index, payload(shard, index))],
                                done,
                            );
                        });
                        told.unwrap();
                        let back = RaftIndex(index - (index * 31) % index.min(60));
                        let len = payload(shard, back.0).len();
                        let read = journal
                            .read(ShardId(shard), back, 0, u32::try_from(len).unwrap())
                            .unwrap();
                        assert_eq!(
                            read.concat(),
                            payload(shard, back.0),
                            "shard {shard} entry {back}"
                        );
                        if index % 50 == 0 && index > 100 {
                            let through = LogPosition {
                                term: Term(1),
                                index: RaftIndex(index - 70),
                            };
                            journal.purge(ShardId(shard), through, Box::new(|result| result.unwrap()));
                            journal.release(ShardId(shard), through.index);
                        }
                    }
                });
            }
        });
        // Files retire in the background, on a busy machine a moment later.
        let (_open, never) = mpsc::channel::<()>();
        for _ in 0..3000 {
            if journal.usage().files_retired > 10 {
                break;
            }
            let _ = never.recv_timeout(Duration::from_millis(20));
        }
        let usage = journal.usage();
        assert!(usage.files_retired > 10, "{usage:?}");
        journal.shutdown();
        thread.join().unwrap();
    }
    let disk = Arc::new(RealDisk::open(directory.path()).unwrap());
    let (journal, _writer) = Journal::open(disk, small).unwrap();
    for shard in 0..8 {
        let log = journal.log(ShardId(shard));
        assert_eq!(
            (log.damaged, log.last.map(|last| last.index)),
            (None, Some(RaftIndex(last)))
        );
        for index in log.first.unwrap().index.0..=last {
            let len = payload(shard, index).len();
            let read = journal
                .read(ShardId(shard), RaftIndex(index), 0, u32::try_from(len).unwrap())
                .unwrap();
            assert_eq!(
                read.concat(),
                payload(shard, index),
                "shard {shard} entry {index}"
            );
        }
    }
}
