use std::sync::Arc;

use bytes::Bytes;
use meridian_journal::{Disk, FaultyDisk, JournalSettings};
use meridian_types::Term;
use openraft::storage::RaftLogReader;

use super::*;
use crate::config::{EntryPayload, Proposal};

const SHARD: ShardId = ShardId(3);

/// A log of entries 1 to 20, of which nothing is in memory.
fn log_of_twenty(disk: Arc<dyn Disk>) -> LogStore {
    let settings = JournalSettings {
        file_bytes: 1 << 20,
        cache_bytes: 0,
        ..JournalSettings::new(1)
    };
    let (journal, mut writer) = Journal::open(disk, settings).expect("a journal");
    let entries = (1..=20).map(|index| {
        let payload = Payload::from(Bytes::from(format!("<{index}>").repeat(300)));
        codec::encode_entry(Entry {
            log_id: log_id(LogPosition {
                term: Term(1),
                index: RaftIndex(index),
            }),
            payload: EntryPayload::Normal(Proposal(payload)),
        })
    });
    journal.append(
        SHARD,
        entries.collect(),
        Box::new(|result| result.expect("appended")),
    );
    writer.run_round();
    LogStore::new(journal, SHARD)
}

/// Rots a byte of the first place that holds `pattern`.
fn rot(disk: &FaultyDisk, mounted: &dyn Disk, pattern: &[u8]) {
    for file in mounted.list().expect("a directory") {
        let mut bytes = vec![0; usize::try_from(file.bytes).expect("a small file")];
        let opened = mounted.open(&file.name).expect("a file");
        opened.read_at(0, &mut bytes).expect("its bytes");
        if let Some(at) = bytes.windows(pattern.len()).position(|bytes| bytes == pattern) {
            return disk.rot(&file.name, at as u64, 0x10);
        }
    }
    panic!("{pattern:?} is nowhere");
}

#[tokio::test]
async fn a_range_with_a_damaged_entry_is_an_error_and_never_a_shorter_range() {
    let disk = FaultyDisk::seeded(1);
    let mounted = disk.mount();
    let mut log = log_of_twenty(Arc::clone(&mounted));
    assert_eq!(log.try_get_log_entries(1..21).await.expect("all").len(), 20);
    assert_eq!(log.try_get_log_entries(15..99).await.expect("the end").len(), 6);
    rot(&disk, &*mounted, b"<7><7>");
    // openraft takes a short answer to what it wants to apply for the whole.
    let read = log.try_get_log_entries(1..21).await;
    assert!(read.is_err(), "{} entries", read.map_or(0, |read| read.len()));
    let indexes = |read: Vec<Entry>| read.iter().map(|entry| entry.log_id.index).collect::<Vec<_>>();
    let before = log
        .limited_get_log_entries(1, 21)
        .await
        .expect("what comes before");
    assert_eq!(indexes(before), [1, 2, 3, 4, 5, 6]);
    assert!(log.limited_get_log_entries(7, 21).await.is_err());
}
