//! A group of one, on a real disk.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use meridian_journal::{Disk, FaultyDisk, Journal, JournalSettings, RealDisk};
use meridian_types::{LogPosition, NodeId, RaftIndex, ShardId, Term};

use super::machine::{Sum, command};
use crate::{CheckpointStore, Group, GroupSettings, Leadership, NetworkSettings, ProposeError};

struct Node {
    group: Group,
    machine: Arc<Sum>,
    journal: Journal,
    writer: std::thread::JoinHandle<()>,
}

pub(super) fn open_journal(disk: Arc<dyn Disk>) -> (Journal, std::thread::JoinHandle<()>) {
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
        let checkpoints = Arc::new(RealDisk::open(directory.join("checkpoints")).expect("a disk"));
        Self::start_with(directory, checkpoints).await
    }

    async fn start_with(directory: &Path, checkpoints: Arc<dyn Disk>) -> Self {
        let disk = RealDisk::open(directory.join("journal")).expect("a disk");
        let (journal, writer) = open_journal(Arc::new(disk));
        let machine = Arc::new(Sum::new(journal.clone(), 0));
        let settings = GroupSettings {
            shard: ShardId(5),
            node: NodeId(1),
            founders: BTreeSet::from([NodeId(1)]),
            heartbeat_interval: Duration::from_millis(1000),
            election_timeout: Duration::from_millis(3000),
            network: NetworkSettings::default(),
        };
        let store = CheckpointStore::new(checkpoints, ShardId(5));
        let group = Group::start(settings, journal.clone(), store, machine.clone(), None)
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
        let now = tokio::time::timeout(Duration::from_secs(60), leads)
            .await
            .expect("in time");
        let Leadership::Leading { term } = *now.expect("the group runs") else {
            unreachable!("waited for it")
        };
        term
    }

    async fn add(&self, term: Term, number: u64) -> Result<u64, ProposeError> {
        let (_, reply) = self.group.propose(term, command(number)).await?.await?;
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
    let leadership = node.group.leadership();
    node.stop().await;
    assert_eq!(
        *leadership.borrow(),
        Leadership::Unknown,
        "a stopped group leads nothing"
    );

    let node = Node::start(directory.path()).await;
    let second = node.term().await;
    assert!(second > first, "a restarted leader wins a new term");
    assert_eq!(node.machine.total(), 5);
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
    node.add(term, 0).await.expect("applied");
    node.group.checkpoint().await.expect("saved");
    assert_eq!(
        node.group.release(None).await.expect("released"),
        position.index,
        "the checkpoint before the newest"
    );
    for _ in 0..3 {
        node.add(term, 1).await.expect("applied");
    }
    node.stop().await;

    let node = Node::start(directory.path()).await;
    node.term().await;
    assert_eq!(node.machine.total(), (0..50).sum::<u64>() + 3);
    assert_eq!(node.machine.applied.load(Ordering::Relaxed), 3);
    node.stop().await;
}

#[tokio::test]
async fn a_group_begins_behind_a_checkpoint_when_its_log_is_lost() {
    let directory = tempfile::tempdir().expect("a directory");
    let at = LogPosition {
        term: Term(0),
        index: RaftIndex(5000),
    };
    {
        let disk = RealDisk::open(directory.path().join("checkpoints")).expect("a disk");
        let store = CheckpointStore::new(Arc::new(disk), ShardId(5));
        let voters = BTreeSet::from([NodeId(1)]);
        store.begin(at, &voters, &command(40)).expect("written");
    }
    let mut before = Term(0);
    for start in 1..=3 {
        let node = Node::start(directory.path()).await;
        let term = node.term().await;
        assert!(term > before, "{term} after {before}");
        before = term;
        assert_eq!(node.add(term, 1).await.expect("applied"), 40 + start);
        assert!(node.group.applied().borrow().index > at.index);
        assert_eq!(node.group.members().borrow().voters, BTreeSet::from([NodeId(1)]));
        node.stop().await;
    }
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
        pending.push(node.group.propose(term, command(number)).await.expect("queued"));
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

#[tokio::test]
async fn a_checkpoint_that_cannot_be_written_does_not_end_the_group() {
    let directory = tempfile::tempdir().expect("a directory");
    let disk = FaultyDisk::seeded(1);
    let node = Node::start_with(directory.path(), disk.mount()).await;
    let term = node.term().await;
    assert_eq!(node.add(term, 2).await.expect("applied"), 2);
    disk.set_capacity(10);
    let error = node.group.checkpoint().await.expect_err("no room");
    assert!(matches!(error, ProposeError::Unknown { .. }), "{error}");
    assert_eq!(node.add(term, 3).await.expect("applied"), 5);
    assert_eq!(node.group.stopped(), None);

    disk.set_capacity(u64::MAX);
    let position = node.group.checkpoint().await.expect("saved");
    assert_eq!(position, *node.group.applied().borrow());
    node.stop().await;
    let node = Node::start_with(directory.path(), disk.mount()).await;
    assert_eq!(node.machine.total(), 5);
    node.stop().await;
}

#[tokio::test]
async fn a_group_starts_from_the_checkpoint_before_a_damaged_one() {
    let directory = tempfile::tempdir().expect("a directory");
    let disk = FaultyDisk::seeded(1);
    let node = Node::start_with(directory.path(), disk.mount()).await;
    let term = node.term().await;
    let mut newest = None;
    for number in 0..10 {
        node.add(term, number).await.expect("applied");
        newest = Some(node.group.checkpoint().await.expect("saved").index);
    }
    node.group.release(None).await.expect("released");
    node.stop().await;
    let newest = newest.expect("saved");
    disk.rot(&format!("5-{newest:020}.checkpoint"), 60, 1);
    let node = Node::start_with(directory.path(), disk.mount()).await;
    let term = node.term().await;
    assert_eq!(node.add(term, 0).await.expect("applied"), (0..10).sum::<u64>());
    node.stop().await;
}

#[tokio::test]
async fn the_log_is_purged_as_far_as_nobody_needs_it() {
    let directory = tempfile::tempdir().expect("a directory");
    let node = Node::start(directory.path()).await;
    let term = node.term().await;
    let mut steps = Vec::new();
    for number in 0..5 {
        node.add(term, number).await.expect("applied");
        steps.push(node.group.checkpoint().await.expect("saved").index);
    }
    let purged = || node.journal.log(ShardId(5)).purged.map(|purged| purged.index);
    assert_eq!(node.group.release(Some(steps[0])).await.expect("released").0, 0);
    assert_eq!(purged(), None);
    assert_eq!(
        node.group.release(Some(steps[3])).await.expect("released"),
        steps[2]
    );
    while purged().is_none() {
        tokio::task::yield_now().await;
    }
    assert_eq!(purged(), Some(steps[2]));
    assert_eq!(
        node.group.release(Some(steps[1])).await.expect("released"),
        steps[2],
        "what is gone stays gone"
    );
    node.stop().await;
    let node = Node::start(directory.path()).await;
    assert_eq!(
        node.group.release(None).await.expect("released"),
        steps[3],
        "after a restart too the newest is kept from it"
    );
    node.stop().await;
}
