//! The node's journal: the only crate that touches files of the log.
//!
//! All shards of a node share one append-only journal of preallocated files. One thread writes: each
//! round takes everything that waits, for every shard, and makes it durable with one gathered write
//! and one `fdatasync`. Recent entries stay in memory under one byte budget; older ones are read from
//! the file. The format is drawn in `docs/formats/journal.md`.
//!
//! ```no_run
//! use std::sync::Arc;
//! use meridian_journal::{Entry, Journal, JournalSettings, Payload, RealDisk};
//! use meridian_types::{LogPosition, RaftIndex, ShardId, Term};
//!
//! let disk = Arc::new(RealDisk::open("data/journal")?);
//! let (journal, writer) = Journal::open(disk, JournalSettings::new(42))?;
//! let thread = std::thread::Builder::new().name("journal".into()).spawn(move || writer.run())?;
//! let entry = Entry {
//!     position: LogPosition { term: Term(1), index: RaftIndex(1) },
//!     payload: Payload::from(bytes::Bytes::from_static(b"hello")),
//! };
//! journal.append(ShardId(0), vec![entry], Box::new(|result| println!("durable: {result:?}")));
//! journal.shutdown();
//! thread.join().expect("the writer thread does not panic");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

#![forbid(unsafe_code)]

/// Whether a deliberate defect acts, see `tests/mutants`. Only the simulation can switch one on.
#[cfg(feature = "mutants")]
macro_rules! mutant {
    ($name:ident) => {
        meridian_mutants::is_on(meridian_mutants::Mutant::$name)
    };
}
#[cfg(not(feature = "mutants"))]
macro_rules! mutant {
    ($name:ident) => {
        false
    };
}

mod active;
mod checkpoint;
mod directory;
mod disk;
mod driver;
mod error;
mod faulty_disk;
mod file;
mod frame;
pub mod inspect;
mod journal;
mod keeper;
mod payload;
mod queue;
mod read;
mod recovery;
mod replay;
mod scan;
mod settings;
mod shard_log;
mod usage;
mod writer;

pub use disk::{Disk, DiskFile, FileEntry, RealDisk};
pub use error::{Damage, DamageReason, JournalError, OpenError, ReadError};
pub use faulty_disk::{DiskCall, Fault, FaultyDisk};
pub use journal::{Done, Journal, Reservation};
pub use payload::{Entry, Payload};
pub use settings::{Durability, JournalSettings};
pub use shard_log::ShardLog;
pub use usage::Usage;
pub use writer::{RoundOutcome, Writer};
