//! openraft's own tests of a store.

use std::sync::Arc;

use bytes::Bytes;
use meridian_journal::{FaultyDisk, Journal, Payload};
use meridian_types::{LogPosition, ShardId};
use openraft::testing::log::{StoreBuilder, Suite};
use tokio::sync::watch;

use super::single::open_journal;
use crate::config::Types;
use crate::log_store::LogStore;
use crate::machine::{Applier, Checkpoints};
use crate::{ApplyError, CheckpointStore, Machine, Reply};

/// Makes empty stores for openraft's own suite.
struct Builder;

struct Guard {
    journal: Journal,
    writer: Option<std::thread::JoinHandle<()>>,
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.journal.shutdown();
        if let Some(writer) = self.writer.take() {
            writer.join().expect("the writer ends well");
        }
    }
}

impl StoreBuilder<Types, LogStore, Applier, Guard> for Builder {
    async fn build(&self) -> Result<(Guard, LogStore, Applier), openraft::StorageError<Types>> {
        let (journal, writer) = open_journal(FaultyDisk::seeded(1).mount());
        let store = CheckpointStore::new(FaultyDisk::seeded(2).mount(), ShardId(0));
        let checkpoints = Checkpoints::new(store, journal.clone(), ShardId(0));
        let (applied, _) = watch::channel(LogPosition::default());
        let applier = Applier::recover(Arc::new(Anything), checkpoints, applied).expect("an applier");
        let log = LogStore::new(journal.clone(), ShardId(0));
        Ok((
            Guard {
                journal,
                writer: Some(writer),
            },
            log,
            applier,
        ))
    }
}

/// The suite writes blanks and memberships only.
struct Anything;

impl Machine for Anything {
    fn apply(&self, _: LogPosition, _: &Payload) -> Result<Reply, ApplyError> {
        Ok(Reply::new(()))
    }

    fn applied(&self, _: LogPosition) {}

    fn encode(&self) -> Vec<Bytes> {
        Vec::new()
    }

    fn restore(&self, _: &[u8]) -> Result<(), String> {
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_store_passes_openrafts_own_suite() {
    Suite::test_all(Builder).await.expect("the suite passes");
}
