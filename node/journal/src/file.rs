//! A journal file that is open, and the names of files.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use parking_lot::RwLock;

use crate::disk::{Disk, DiskFile};
use crate::frame::salt_of;

/// The file prepared ahead, with no place in the journal yet.
pub(crate) const SPARE_NAME: &str = "spare.journal";
/// Holds the journal's id.
pub(crate) const ID_NAME: &str = "journal.id";
/// Where a new id is written before it gets its name.
pub(crate) const ID_DRAFT_NAME: &str = "journal.id.draft";

/// Name of the file with this number.
pub(crate) fn name_of(number: u64) -> String {
    format!("{number:016x}.journal")
}

/// The number in a file's name.
pub(crate) fn number_of(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(".journal")?;
    (digits.len() == 16)
        .then(|| u64::from_str_radix(digits, 16).ok())?
        .filter(|number| name_of(*number) == name)
}

/// An open file of the journal.
pub(crate) struct JournalFile {
    pub(crate) number: u64,
    pub(crate) salt: u64,
    /// Its length in bytes.
    pub(crate) bytes: u64,
    pub(crate) disk_file: Arc<dyn DiskFile>,
}

impl JournalFile {
    pub(crate) fn open(disk: &dyn Disk, journal_id: u64, number: u64) -> io::Result<Self> {
        let disk_file = disk.open(&name_of(number))?;
        Ok(Self {
            number,
            salt: salt_of(journal_id, number),
            bytes: disk_file.bytes()?,
            disk_file,
        })
    }
}

/// All files that hold frames, by number. A reader keeps its `Arc` while it reads.
#[derive(Default)]
pub(crate) struct FileTable(RwLock<BTreeMap<u64, Arc<JournalFile>>>);

impl FileTable {
    pub(crate) fn get(&self, number: u64) -> Option<Arc<JournalFile>> {
        self.0.read().get(&number).cloned()
    }

    pub(crate) fn insert(&self, file: Arc<JournalFile>) {
        self.0.write().insert(file.number, file);
    }

    pub(crate) fn remove(&self, number: u64) -> Option<Arc<JournalFile>> {
        self.0.write().remove(&number)
    }

    pub(crate) fn oldest(&self) -> Option<u64> {
        self.0.read().keys().next().copied()
    }

    pub(crate) fn newest(&self) -> Option<u64> {
        self.0.read().keys().next_back().copied()
    }

    pub(crate) fn len(&self) -> usize {
        self.0.read().len()
    }

    pub(crate) fn disk_bytes(&self) -> u64 {
        self.0.read().values().map(|file| file.bytes).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_we_would_give_have_a_number() {
        assert_eq!(number_of(&name_of(0x1f)), Some(0x1f));
        for other in [
            "000000000000001F.journal",
            "1.journal",
            SPARE_NAME,
            "+00000000000000f.journal",
            "x",
        ] {
            assert_eq!(number_of(other), None, "{other}");
        }
    }
}
