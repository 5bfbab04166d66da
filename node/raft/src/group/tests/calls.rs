//! Calls as they may arrive: late, twice, of another leader, or harmed.

use std::collections::BTreeSet;

use bytes::Bytes;
use meridian_types::{LogPosition, NodeId, RaftIndex, ShardId, Term};
use openraft::raft::{AppendEntriesRequest, StreamAppendError, VoteRequest};

use super::cluster::Cluster;
use crate::Leadership;
use crate::config::{Entry, EntryPayload, LogId, Membership, Types, Vote, log_id};
use crate::rpc::{self, kind};

fn id(term: u64, index: u64) -> LogId {
    log_id(LogPosition {
        term: Term(term),
        index: RaftIndex(index),
    })
}

/// What node 1, leader of `term`, sends: the entries `range` of a log whose first is the membership.
fn append(term: u64, range: std::ops::Range<u64>) -> AppendEntriesRequest<Types> {
    let members = BTreeSet::from([1, 4]);
    AppendEntriesRequest {
        vote: Vote::new_committed(term, 1),
        prev_log_id: range.start.checked_sub(1).map(|before| id(1, before)),
        leader_commit: None,
        entries: range
            .map(|index| Entry {
                log_id: id(1, index),
                payload: match index {
                    0 => EntryPayload::Membership(Membership::new_with_defaults(
                        vec![members.clone()],
                        members.clone(),
                    )),
                    _ => EntryPayload::Blank,
                },
            })
            .collect(),
    }
}

struct Answered(Result<Vec<Bytes>, String>);

impl Answered {
    fn refusal(self) -> String {
        self.0.expect_err("refused")
    }

    fn result(self) -> Result<(), &'static str> {
        let answer: Bytes = self.0.expect("served").concat().into();
        match rpc::decode_append_response(answer, Some(id(1, 0)), None).expect("readable") {
            Ok(_) => Ok(()),
            Err(StreamAppendError::Conflict(_)) => Err("conflict"),
            Err(StreamAppendError::HigherVote(_)) => Err("higher vote"),
        }
    }
}

/// A replica that joins, alone.
async fn replica() -> Cluster {
    let mut cluster = Cluster::new();
    cluster.start(4, &[]).await;
    cluster
}

async fn call(cluster: &Cluster, kind: u16, body: Bytes) -> Answered {
    let answer = cluster.node(4).group.call(kind, body).await;
    Answered(answer.map_err(|refusal| refusal.reason))
}

async fn send(cluster: &Cluster, run: u64, request: AppendEntriesRequest<Types>) -> Answered {
    call(
        cluster,
        kind::APPEND,
        rpc::encode_append(run, request).0.concat().into(),
    )
    .await
}

#[tokio::test]
async fn appends_of_a_run_are_carried_out_in_the_order_of_their_arrival() {
    let cluster = replica().await;
    let group = &cluster.node(4).group;
    // Begun in order; nobody waits for the first before the last has come.
    let bodies = (0..20).map(|at| append(3, at * 5..at * 5 + 5));
    let begun: Vec<_> = bodies
        .map(|request| group.call(kind::APPEND, rpc::encode_append(1, request).0.concat().into()))
        .collect();
    for answer in futures::future::join_all(begun.into_iter().rev()).await {
        let answer = Answered(answer.map_err(|refusal| refusal.reason));
        assert_eq!(answer.result(), Ok(()));
    }
    let log = cluster.node(4).journal.log(ShardId(5));
    assert_eq!(log.last.map(|last| last.index), Some(RaftIndex(99)));
    cluster.stop().await;
}

#[tokio::test]
async fn what_follows_a_failed_append_of_its_run_is_refused() {
    let cluster = replica().await;
    assert_eq!(send(&cluster, 1, append(3, 0..5)).await.result(), Ok(()));
    assert_eq!(
        send(&cluster, 1, append(3, 50..60)).await.result(),
        Err("conflict")
    );
    let refusal = send(&cluster, 1, append(3, 60..70)).await.refusal();
    assert!(refusal.contains("has ended"), "{refusal}");
    assert_eq!(
        send(&cluster, 2, append(3, 5..10)).await.result(),
        Ok(()),
        "another run"
    );
    let refusal = send(&cluster, 1, append(3, 10..12)).await.refusal();
    assert!(refusal.contains("replaced"), "{refusal}");
    assert_eq!(
        send(&cluster, 2, append(3, 5..12)).await.result(),
        Ok(()),
        "twice is once"
    );
    cluster.stop().await;
}

#[tokio::test]
async fn a_former_leader_is_told_of_the_later_vote() {
    let cluster = replica().await;
    assert_eq!(send(&cluster, 1, append(7, 0..5)).await.result(), Ok(()));
    for (run, range) in [(9, 5..6), (0, 5..5)] {
        let former = AppendEntriesRequest {
            vote: Vote::new_committed(6, 2),
            ..append(6, range)
        };
        assert_eq!(send(&cluster, run, former).await.result(), Err("higher vote"));
    }
    assert_eq!(
        send(&cluster, 0, append(7, 5..5)).await.result(),
        Ok(()),
        "a heartbeat"
    );
    let leader = NodeId(1);
    let term = Term(7);
    let mut leadership = cluster.node(4).group.leadership();
    let follows = leadership.wait_for(|now| *now == Leadership::Following { leader, term });
    follows.await.expect("the group runs");
    cluster.stop().await;
}

#[tokio::test]
async fn a_candidate_gets_no_pre_vote_while_the_leader_is_heard() {
    let cluster = replica().await;
    assert_eq!(send(&cluster, 1, append(7, 0..5)).await.result(), Ok(()));
    let request = VoteRequest {
        vote: Vote::new(8, 2),
        last_log_id: Some(id(1, 90)),
        leadership_transfer: false,
    };
    let ask = || async {
        let answer = call(&cluster, kind::PRE_VOTE, rpc::encode_vote_request(&request)).await;
        let answer: Bytes = answer.0.expect("served").concat().into();
        rpc::decode_vote_response(answer).expect("readable").vote_granted
    };
    assert!(!ask().await);
    let group = &cluster.node(4).group;
    let mut contact_ended = false;
    for _ in 0..500 {
        group.end_lease(NodeId(1), Term(7));
        tokio::time::sleep(std::time::Duration::from_millis(2)).await;
        if ask().await {
            contact_ended = true;
            break;
        }
    }
    assert!(contact_ended, "not even when the leader is taken for gone");
    assert_eq!(
        send(&cluster, 0, append(7, 5..5)).await.result(),
        Ok(()),
        "it lives"
    );
    assert!(!ask().await);
    cluster.stop().await;
}

#[tokio::test]
async fn harmed_calls_are_refused_and_harm_nobody() {
    let cluster = replica().await;
    assert_eq!(send(&cluster, 1, append(3, 0..5)).await.result(), Ok(()));
    let whole: Bytes = rpc::encode_append(1, append(3, 5..10)).0.concat().into();
    for length in 0..whole.len() {
        let refusal = call(&cluster, kind::APPEND, whole.slice(..length))
            .await
            .refusal();
        assert!(refusal.contains("append"), "{refusal}");
    }
    let refusal = call(&cluster, 0x01ff, whole.clone()).await.refusal();
    assert!(refusal.contains("0x01ff"), "{refusal}");
    // A piece in the middle of a checkpoint that nobody began, and one of a file that cannot be.
    for (at, file_bytes, bytes) in [(10, 20, &b"piece"[..]), (0, 5, b"short")] {
        let chunk = rpc::Chunk {
            vote: Vote::new_committed(3, 1),
            transfer: 1,
            at,
            file_bytes,
            bytes: Bytes::from_static(bytes),
        };
        let refusal = call(&cluster, kind::SNAPSHOT, rpc::encode_chunk(chunk).concat().into()).await;
        assert!(!refusal.refusal().is_empty());
    }
    assert_eq!(cluster.node(4).group.stopped(), None);
    assert_eq!(call(&cluster, kind::APPEND, whole).await.result(), Ok(()));
    cluster.stop().await;
}
