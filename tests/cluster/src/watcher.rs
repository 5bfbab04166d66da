//! One reader per node that reads every partition from that node alone, leader or not: what a replica shows must never go
//! back while its process lives, and must be what the others show.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use meridian_compat::raw::{BatchHeader, RawClient, ReplicaAnswer, batches};
use parking_lot::Mutex;

use crate::cluster::Cluster;
use crate::system::id;
use crate::view::PATIENCE;

/// Between two looks at all partitions.
const PAUSE: Duration = Duration::from_millis(20);

/// Bytes of one answer.
const BYTES_MAX: i32 = 1 << 20;

/// Answers of a replica that cannot serve just now: UNKNOWN_TOPIC_OR_PARTITION (it has not heard of the topic yet),
/// LEADER_NOT_AVAILABLE, NOT_LEADER_OR_FOLLOWER, KAFKA_STORAGE_ERROR, UNKNOWN_LEADER_EPOCH, OFFSET_NOT_AVAILABLE.
/// OFFSET_OUT_OF_RANGE is not among them: a consumer that hears it begins again somewhere else.
pub const LATER: [i16; 6] = [3, 5, 6, 56, 75, 78];

/// Readers that run.
pub struct Watcher {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

struct Shared {
    topic: String,
    stopping: AtomicBool,
    /// Of each node: rises when its process has ended.
    lives: Arc<[AtomicU64]>,
    seen: Mutex<Seen>,
}

/// What the replicas have shown.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// Of each node: answers with a high watermark, and bytes of records.
    pub answers: Vec<(u64, u64)>,
    /// Every batch by partition and base offset, and the node that showed it first.
    batches: BTreeMap<(i32, i64), (BatchHeader, usize)>,
    /// What must not be.
    pub findings: Vec<String>,
}

impl Seen {
    fn found(&mut self, finding: String) {
        // One defect shows in every answer after it.
        if self.findings.len() < 50 {
            self.findings.push(finding);
        }
    }
}

/// A partition as one node has shown it.
#[derive(Clone, Copy, Debug, Default)]
struct Position {
    /// The next offset to read. It outlives the node's process, as a consumer's does.
    next: i64,
    /// The highest high watermark, and in which of the node's lives it was shown.
    high_watermark: (i64, u64),
}

impl Watcher {
    /// Starts a reader at each node, of all partitions of a topic.
    pub fn start(cluster: &Cluster, topic: &str, partitions: u32) -> Self {
        let nodes = cluster.kafka_addresses();
        let shared = Arc::new(Shared {
            topic: topic.to_owned(),
            stopping: AtomicBool::new(false),
            lives: cluster.lives(),
            seen: Mutex::new(Seen {
                answers: vec![(0, 0); nodes.len()],
                ..Seen::default()
            }),
        });
        let start = |(node, address): (usize, &SocketAddr)| {
            let (shared, address) = (Arc::clone(&shared), *address);
            let run = move || watch(&shared, node, address, partitions);
            let thread = thread::Builder::new().name(format!("watch-{}", id(node)));
            thread.spawn(run).expect("a thread for each node")
        };
        Self {
            threads: nodes.iter().enumerate().map(start).collect(),
            shared,
        }
    }

    /// Stops, and gives what was seen.
    pub fn finish(self) -> Seen {
        self.shared.stopping.store(true, Ordering::Relaxed);
        for thread in self.threads {
            drop(thread.join());
        }
        self.shared.seen.lock().clone()
    }
}

fn watch(shared: &Shared, node: usize, address: SocketAddr, partitions: u32) {
    let mut positions = vec![Position::default(); partitions as usize];
    let mut client: Option<RawClient> = None;
    while !shared.stopping.load(Ordering::Relaxed) {
        thread::sleep(PAUSE);
        let life = shared.lives[node].load(Ordering::SeqCst);
        for (partition, position) in (0..).zip(&mut positions) {
            let connected = client.take();
            let connected = connected.or_else(|| RawClient::connect_within(address, PATIENCE).ok());
            let Some(mut connected) = connected else { break };
            let told = connected.fetch_from_any(&shared.topic, partition, position.next, BYTES_MAX);
            let Ok(answer) = told else { break };
            client = Some(connected);
            if shared.lives[node].load(Ordering::SeqCst) != life {
                // It was sent by a process that has ended since.
                client = None;
                break;
            }
            note(&mut shared.seen.lock(), node, life, partition, position, &answer);
        }
    }
}

/// Holds an answer against what was shown before, and moves on.
fn note(
    seen: &mut Seen,
    node: usize,
    life: u64,
    partition: i32,
    position: &mut Position,
    answer: &ReplicaAnswer,
) {
    let at = format!(
        "node {}, partition {partition}, offset {}",
        id(node),
        position.next
    );
    if answer.error != 0 {
        if !LATER.contains(&answer.error) {
            seen.found(format!("{at}: error {}", answer.error));
        }
        return;
    }
    let (highest, shown_in) = position.high_watermark;
    if shown_in == life && answer.high_watermark < highest {
        seen.found(format!(
            "{at}: the high watermark went back from {highest} to {}",
            answer.high_watermark
        ));
    }
    position.high_watermark = (answer.high_watermark, life);
    seen.answers[node].0 += 1;
    seen.answers[node].1 += answer.records.len() as u64;
    for batch in batches(&answer.records) {
        let end = batch.base_offset + i64::from(batch.record_count);
        if end <= position.next {
            // The batch that holds the wanted offset comes whole.
            continue;
        }
        if batch.base_offset > position.next {
            seen.found(format!("{at}: the next batch begins at {}", batch.base_offset));
        }
        if end > answer.high_watermark || !batch.crc_holds {
            seen.found(format!(
                "{at}, high watermark {}: {batch:?}",
                answer.high_watermark
            ));
        }
        let key = (partition, batch.base_offset);
        let (first, shower) = *seen.batches.entry(key).or_insert((batch, node));
        if first != batch {
            seen.found(format!(
                "{at}: {batch:?}, but node {} showed {first:?}",
                id(shower)
            ));
        }
        position.next = end;
    }
}

#[cfg(test)]
mod tests {
    use meridian_compat::raw::plain_batch;

    use super::*;

    fn answer(high_watermark: i64, records: &[u8]) -> ReplicaAnswer {
        ReplicaAnswer {
            high_watermark,
            records: records.to_vec(),
            ..ReplicaAnswer::default()
        }
    }

    fn seen() -> Seen {
        Seen {
            answers: vec![(0, 0); 2],
            ..Seen::default()
        }
    }

    #[test]
    fn a_high_watermark_may_go_back_only_with_its_process() {
        let (mut seen, mut position) = (seen(), Position::default());
        note(&mut seen, 0, 0, 0, &mut position, &answer(9, b""));
        note(&mut seen, 0, 1, 0, &mut position, &answer(5, b""));
        assert_eq!(seen.findings, Vec::<String>::new());
        note(&mut seen, 0, 1, 0, &mut position, &answer(4, b""));
        assert!(seen.findings[0].contains("from 5 to 4"), "{:?}", seen.findings);
    }

    #[test]
    fn what_is_not_committed_or_is_another_batch_elsewhere_is_found() {
        let (mut seen, mut position) = (seen(), Position::default());
        let batch = plain_batch(&[b"a", b"b"]);
        note(&mut seen, 0, 0, 0, &mut position, &answer(2, &batch));
        assert_eq!((position.next, seen.findings.len()), (2, 0));
        let mut other = Position::default();
        note(&mut seen, 1, 0, 0, &mut other, &answer(2, &plain_batch(&[b"a"])));
        assert!(
            seen.findings[0].contains("but node 1 showed"),
            "{:?}",
            seen.findings
        );
        let mut third = Position::default();
        note(&mut seen, 1, 0, 7, &mut third, &answer(1, &batch));
        assert!(
            seen.findings[1].contains("high watermark 1"),
            "{:?}",
            seen.findings
        );
    }

    #[test]
    fn a_replica_that_is_behind_says_so_and_never_that_the_offset_does_not_exist() {
        let (mut seen, mut position) = (seen(), Position::default());
        let refused = |error| ReplicaAnswer {
            error,
            ..ReplicaAnswer::default()
        };
        note(&mut seen, 0, 0, 0, &mut position, &refused(78));
        assert_eq!(seen.findings, Vec::<String>::new());
        note(&mut seen, 0, 0, 0, &mut position, &refused(1));
        assert_eq!(seen.findings.len(), 1);
    }
}
