//! On a disk that counts what is read and acts in the middle of a read.

use std::io::{self, IoSlice};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

use crate::common::{Node, ONE, at, entry, payload, settings};
use meridian_journal::{Disk, DiskFile, FaultyDisk, FileEntry, Journal, JournalSettings};
use meridian_types::RaftIndex;

const FILE: u64 = 64 << 10;

/// Counts what is read, and does something in the middle of the next read.
struct Counted<T: ?Sized>(Arc<T>, Arc<Watch>);

#[derive(Default)]
struct Watch {
    read_bytes: AtomicU64,
    in_next_read: Mutex<Option<Box<dyn FnOnce() + Send>>>,
}

impl Disk for Counted<dyn Disk> {
    fn list(&self) -> io::Result<Vec<FileEntry>> {
        self.0.list()
    }
    fn create(&self, name: &str, bytes: u64) -> io::Result<Arc<dyn DiskFile>> {
        Ok(Arc::new(Counted(self.0.create(name, bytes)?, self.1.clone())))
    }
    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        Ok(Arc::new(Counted(self.0.open(name)?, self.1.clone())))
    }
    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.0.rename(from, to)
    }
    fn remove(&self, name: &str) -> io::Result<()> {
        self.0.remove(name)
    }
    fn sync_dir(&self) -> io::Result<()> {
        self.0.sync_dir()
    }
    fn free_bytes(&self) -> io::Result<u64> {
        self.0.free_bytes()
    }
}

impl DiskFile for Counted<dyn DiskFile> {
    fn bytes(&self) -> io::Result<u64> {
        self.0.bytes()
    }
    fn write_at(&self, at: u64, parts: &mut [IoSlice<'_>]) -> io::Result<()> {
        self.0.write_at(at, parts)
    }
    fn read_at(&self, at: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.1.read_bytes.fetch_add(buffer.len() as u64, Relaxed);
        let interrupt = self.1.in_next_read.lock().unwrap().take();
        if let Some(interrupt) = interrupt {
            interrupt();
        }
        self.0.read_at(at, buffer)
    }
    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }
}

#[test]
fn opening_reads_footers_and_one_file_not_the_data() {
    let large = JournalSettings {
        file_bytes: 4 << 20,
        ..settings()
    };
    let mut node = Node::open(&FaultyDisk::seeded(19), large.clone());
    let mut index = 0;
    while node.journal.usage().files < 12 {
        index += 1;
        node.append(ONE, 1, index..=index, 50_000);
    }
    let disk = node.shutdown();
    let read = Arc::new(Watch::default());
    let (journal, _writer) = Journal::open(Arc::new(Counted(disk.mount(), read.clone())), large).unwrap();
    assert_eq!(journal.log(ONE).last, Some(at(1, index)));
    let read = read.read_bytes.load(Relaxed);
    // Each sealed file: its first window and the end; the last one whole.
    assert!(
        read < (4 << 20) + 12 * (4 << 20) / 2 + (2 << 20),
        "{read} bytes read of {}",
        12 * (4 << 20)
    );
}

#[test]
fn a_file_is_not_used_again_under_a_reader() {
    let budget = JournalSettings {
        bytes_max: 3 * FILE,
        ..settings()
    };
    let watch = Arc::new(Watch::default());
    let disk = FaultyDisk::seeded(20);
    let (journal, mut writer) =
        Journal::open(Arc::new(Counted(disk.mount(), watch.clone())), budget).unwrap();
    let append = move |journal: &Journal, writer: &mut meridian_journal::Writer, index: u64| {
        journal.append(
            ONE,
            vec![entry(ONE, 1, index, 1000)],
            Box::new(|result| result.unwrap()),
        );
        writer.run_round();
    };
    for index in 1..=20 {
        append(&journal, &mut writer, index);
    }
    // While entry 1 is being read, everything is let go and enough is written to use every file twice.
    let inner = journal.clone();
    *watch.in_next_read.lock().unwrap() = Some(Box::new(move || {
        for index in 21..=300 {
            append(&inner, &mut writer, index);
            // The last one is refused: the writer ends with this read.
            inner.purge(ONE, at(1, index), Box::new(|_| {}));
            inner.release(ONE, RaftIndex(index));
        }
        assert!(inner.usage().files_retired > 3);
    }));
    assert_eq!(
        journal.read(ONE, RaftIndex(1), 0, 1000).unwrap().concat(),
        payload(ONE, 1, 1000)
    );
    assert!(journal.usage().files_retired > 3, "it happened in the middle");
    assert!(matches!(
        journal.read(ONE, RaftIndex(1), 0, 1000),
        Err(meridian_journal::ReadError::Missing { .. })
    ));
}
