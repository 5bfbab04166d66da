use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use meridian_journal::{Disk, JournalSettings, RealDisk};
use openraft::testing::log::{StoreBuilder, Suite};
use parking_lot::Mutex;

use super::*;
use crate::ApplyError;

/// A machine that sums numbers: small, and any lost or doubled command shows.
#[derive(Default)]
struct Sum {
    total: Mutex<u64>,
    applied: AtomicU64,
}

impl Machine for Sum {
    fn apply(&self, at: LogPosition, command: &Payload) -> Result<Reply, ApplyError> {
        let bytes = command.to_bytes();
        let number: [u8; 8] = bytes[..].try_into().map_err(|_| ApplyError {
            at,
            reason: "not a number".to_owned(),
        })?;
        let mut total = self.total.lock();
        *total += u64::from_le_bytes(number);
        self.applied.fetch_add(1, Ordering::Relaxed);
        Ok(Reply::new(*total))
    }

    fn applied(&self, _: LogPosition) {}

    fn encode(&self) -> Vec<Bytes> {
        vec![Bytes::copy_from_slice(&self.total.lock().to_le_bytes())]
    }

    fn restore(&self, state: &[u8]) -> Result<(), String> {
        *self.total.lock() = u64::from_le_bytes(state.try_into().map_err(|_| "not a number".to_owned())?);
        Ok(())
    }
}

struct Node {
    group: Group,
    machine: Arc<Sum>,
    journal: Journal,
    writer: std::thread::JoinHandle<()>,
}

fn open_journal(directory: &Path) -> (Journal, std::thread::JoinHandle<()>) {
    let disk = Arc::new(RealDisk::open(directory.join("journal")).expect("a disk"));
    let settings = JournalSettings {
        file_bytes: 1 << 20,
        ..JournalSettings::new(1)
    };
    let (journal, writer) = Journal::open(disk, settings).expect("a journal");
    let thread = std::thread::Builder::new()
        .spawn(move || writer.run())
        .expect("a thread");
    (journal, thread)
}

impl Node {
    async fn start(directory: &Path) -> Self {
        let (journal, writer) = open_journal(directory);
        let checkpoints: Arc<dyn Disk> =
            Arc::new(RealDisk::open(directory.join("checkpoints")).expect("a disk"));
        let machine = Arc::new(Sum::default());
        let settings = GroupSettings {
            shard: ShardId(5),
            node: NodeId(1),
            founders: BTreeSet::from([NodeId(1)]),
            heartbeat_interval: Duration::from_millis(1000),
            election_timeout: Duration::from_millis(3000),
        };
        let store = CheckpointStore::new(checkpoints, ShardId(5));
        let group = Group::start(settings, journal.clone(), store, machine.clone())
            .await
            .expect("a group");
        Self {
            group,
            machine,
            journal,
            writer,
        }
    }

    async fn term(&self) -> Term {
        let mut leadership = self.group.leadership();
        let leads = leadership.wait_for(|now| matches!(now, Leadership::Leading { .. }));
        let now = tokio::time::timeout(Duration::from_secs(10), leads)
            .await
            .expect("in time");
        let Leadership::Leading { term } = *now.expect("the group runs") else {
            unreachable!("waited for it")
        };
        term
    }

    async fn add(&self, term: Term, number: u64) -> Result<u64, ProposeError> {
        let command = vec![Bytes::copy_from_slice(&number.to_le_bytes())];
        let (_, reply) = self.group.propose(term, command).await?.await?;
        Ok(reply.into::<u64>().expect("a sum"))
    }

    async fn stop(self) {
        self.group.shutdown().await;
        self.journal.shutdown();
        self.writer.join().expect("the writer ends well");
    }
}

#[tokio::test]
async fn a_group_of_one_leads_at_once_and_remembers_over_restarts() {
    let directory = tempfile::tempdir().expect("a directory");
    let node = Node::start(directory.path()).await;
    let first = node.term().await;
    assert_eq!(node.add(first, 2).await.expect("applied"), 2);
    assert_eq!(node.add(first, 3).await.expect("applied"), 5);
    node.stop().await;

    let node = Node::start(directory.path()).await;
    let second = node.term().await;
    assert!(second > first, "a restarted leader wins a new term");
    assert_eq!(*node.machine.total.lock(), 5);
    assert_eq!(node.add(second, 4).await.expect("applied"), 9);
    node.stop().await;
}

#[tokio::test]
async fn a_restart_replays_only_what_follows_the_checkpoint() {
    let directory = tempfile::tempdir().expect("a directory");
    let node = Node::start(directory.path()).await;
    let term = node.term().await;
    for number in 0..50 {
        node.add(term, number).await.expect("applied");
    }
    let position = node.group.checkpoint().await.expect("saved");
    node.group.purge(position.index).await.expect("purged");
    for _ in 0..3 {
        node.add(term, 1).await.expect("applied");
    }
    node.stop().await;

    let node = Node::start(directory.path()).await;
    node.term().await;
    assert_eq!(*node.machine.total.lock(), (0..50).sum::<u64>() + 3);
    assert_eq!(node.machine.applied.load(Ordering::Relaxed), 3);
    node.stop().await;
}

#[tokio::test]
async fn a_command_stamped_under_another_term_is_refused() {
    let directory = tempfile::tempdir().expect("a directory");
    let node = Node::start(directory.path()).await;
    let term = node.term().await;
    let error = node.add(Term(term.0 + 1), 1).await.expect_err("refused");
    assert!(matches!(error, ProposeError::NotLeader { .. }), "{error}");
    assert_eq!(node.add(term, 7).await.expect("applied"), 7);
    node.stop().await;
}

#[tokio::test]
async fn proposals_are_applied_in_call_order() {
    let directory = tempfile::tempdir().expect("a directory");
    let node = Node::start(directory.path()).await;
    let term = node.term().await;
    let mut pending = Vec::new();
    for number in 1..=500u64 {
        let command = vec![Bytes::copy_from_slice(&number.to_le_bytes())];
        pending.push(node.group.propose(term, command).await.expect("queued"));
    }
    let mut before = 0;
    for (number, pending) in (1..=500u64).zip(pending) {
        let (_, reply) = pending.await.expect("applied");
        let total = reply.into::<u64>().expect("a sum");
        assert_eq!(total, before + number);
        before = total;
    }
    node.stop().await;
}

/// Makes empty stores for openraft's own suite.
struct Builder;

struct Guard {
    _directory: tempfile::TempDir,
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
        let directory = tempfile::tempdir().expect("a directory");
        let (journal, writer) = open_journal(directory.path());
        let checkpoints: Arc<dyn Disk> =
            Arc::new(RealDisk::open(directory.path().join("checkpoints")).expect("a disk"));
        let store = Arc::new(CheckpointStore::new(checkpoints, ShardId(0)));
        let (applied, _) = watch::channel(LogPosition::default());
        let applier = Applier::recover(Arc::new(Anything), store, applied).expect("an applier");
        let log = LogStore::new(journal.clone(), ShardId(0));
        Ok((
            Guard {
                _directory: directory,
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
