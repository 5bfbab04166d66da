//! Calls from the other replicas of a group.

use std::collections::{BTreeMap, VecDeque};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt};
use meridian_peer::Refusal;
use meridian_types::{LogPosition, NodeId, Term};
use openraft::async_runtime::WatchReceiver;
use openraft::raft::{
    AppendEntriesRequest, SnapshotResponse, StreamAppendError, StreamAppendResult, VoteRequest, VoteResponse,
};
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use crate::config::{Raft, Types, Vote, node_id, position};
use crate::contact::Contact;
use crate::incoming::Incoming;
use crate::machine::{Checkpoints, snapshot};
use crate::rpc::{self, Append, Chunk, Request};

/// Appends of one run that may wait; a leader keeps far fewer on their way.
const WAITING_MAX: usize = 64;
/// Leaders whose runs are remembered. Only one leads; the others are former ones.
const LEADERS_MAX: usize = 16;

/// Serves the calls of one group.
pub(crate) struct Inbound {
    raft: Raft,
    checkpoints: Arc<Checkpoints>,
    contact: Arc<Mutex<Contact>>,
    lease: Duration,
    runs: Mutex<BTreeMap<NodeId, Run>>,
    incoming: Arc<Mutex<Incoming>>,
}

/// Appends of one leader that are carried out one after another.
struct Run {
    /// Term of the leader and number of the run: a later one replaces it.
    id: (u64, u64),
    /// `None` once it has ended; what was sent behind its end is refused.
    queue: Option<mpsc::Sender<Waiting>>,
}

struct Waiting {
    request: AppendEntriesRequest<Types>,
    answer: oneshot::Sender<StreamAppendResult<Types>>,
}

type Answer = Result<Vec<Bytes>, Refusal>;

impl Inbound {
    pub(crate) fn new(
        raft: Raft,
        checkpoints: Arc<Checkpoints>,
        contact: Arc<Mutex<Contact>>,
        lease: Duration,
    ) -> Arc<Self> {
        Arc::new(Self {
            raft,
            checkpoints,
            contact,
            lease,
            runs: Mutex::default(),
            incoming: Arc::default(),
        })
    }

    /// Begins to serve a call; calls of one run are carried out in the order in which they come here.
    pub(crate) fn call(self: &Arc<Self>, kind: u16, body: Bytes) -> BoxFuture<'static, Answer> {
        let this = Arc::clone(self);
        match Request::decode(kind, body) {
            Err(error) => refused(error.to_string()),
            Ok(Request::Append(append)) => this.append(append),
            Ok(Request::PreVote(request)) => async move { this.pre_vote(request).await }.boxed(),
            Ok(Request::Vote(request)) => async move {
                let response = this.raft.vote(request).await.map_err(stopped)?;
                Ok(vec![rpc::encode_vote_response(&response)])
            }
            .boxed(),
            Ok(Request::Transfer(request)) => async move {
                let response = this.raft.handle_transfer_leader(request).await.map_err(stopped)?;
                Ok(vec![rpc::encode_transfer_response(&response)])
            }
            .boxed(),
            Ok(Request::Snapshot(chunk)) => async move { this.snapshot(chunk).await }.boxed(),
        }
    }

    /// Ends every run of appends, and forgets a transfer that is not complete.
    pub(crate) fn end(&self) {
        self.runs.lock().clear();
        *self.incoming.lock() = Incoming::default();
    }

    /// Whoever suspects a leader that this node still hears gets no support.
    async fn pre_vote(&self, request: VoteRequest<Types>) -> Answer {
        let leader = self.contact.lock().stands_by(Instant::now(), self.lease);
        let response = match leader {
            Some((leader, term)) if request.vote.leader_id.term > term.0 => {
                let vote = Vote::new_committed(term.0, leader.0.into());
                VoteResponse::new(vote, None, false)
            }
            _ => self.raft.pre_vote(request).await.map_err(stopped)?,
        };
        Ok(vec![rpc::encode_vote_response(&response)])
    }

    fn append(self: Arc<Self>, append: Append) -> BoxFuture<'static, Answer> {
        let Append {
            stream,
            payload_bytes,
            request,
        } = append;
        let (leader, term) = leader_of(&request.vote);
        let at = Instant::now();
        // Raft would take a refused write for a broken disk; the leader just tries again later. What fits is taken: behind it
        // may come what makes room.
        let room = match request.entries.len() {
            0 => None,
            entries => match self.checkpoints.journal.reserve(payload_bytes, entries) {
                Ok(room) => Some(room),
                Err(refusal) => {
                    self.end_run(leader, (term.0, stream));
                    return refused(refusal.to_string());
                }
            },
        };
        if stream == 0 {
            return async move {
                let _room = room;
                let response = self.raft.append_entries(request).await.map_err(stopped)?;
                // Only whether it conflicts is told, so the position does not matter.
                let nowhere = Some(crate::config::log_id(LogPosition::default()));
                let result = response.into_stream_result(nowhere, nowhere);
                self.heard(leader, term, at, &result);
                Ok(vec![rpc::encode_append_response(&result)])
            }
            .boxed();
        }
        match self.enqueue(leader, (term.0, stream), request) {
            Err(reason) => refused(reason),
            Ok(answer) => async move {
                let _room = room;
                let result = answer
                    .await
                    .map_err(|_| Refusal::new("the run of appends that this one belongs to has ended"))?;
                self.heard(leader, term, at, &result);
                Ok(vec![rpc::encode_append_response(&result)])
            }
            .boxed(),
        }
    }

    fn enqueue(
        &self,
        leader: NodeId,
        id: (u64, u64),
        request: AppendEntriesRequest<Types>,
    ) -> Result<oneshot::Receiver<StreamAppendResult<Types>>, String> {
        let mut runs = self.runs.lock();
        if runs.get(&leader).is_none_or(|run| run.id < id) {
            let (queue, waiting) = mpsc::channel(WAITING_MAX);
            tokio::spawn(carry_out(self.raft.clone(), waiting));
            let queue = Some(queue);
            runs.insert(leader, Run { id, queue });
            if runs.len() > LEADERS_MAX {
                let oldest = runs
                    .iter()
                    .min_by_key(|(_, run)| run.id)
                    .map(|(leader, _)| *leader);
                runs.remove(&oldest.expect("there are several"));
            }
        }
        let run = runs
            .get_mut(&leader)
            .filter(|run| run.id == id)
            .ok_or("it belongs to a run of appends that another replaced")?;
        let (answer, receiver) = oneshot::channel();
        let queued = match &run.queue {
            Some(queue) => queue.try_send(Waiting { request, answer }).is_ok(),
            None => false,
        };
        if !queued {
            run.queue = None;
            return Err("the run of appends that this one belongs to has ended".to_owned());
        }
        Ok(receiver)
    }

    fn end_run(&self, leader: NodeId, id: (u64, u64)) {
        let mut runs = self.runs.lock();
        if runs.get(&leader).is_none_or(|run| run.id <= id) {
            runs.insert(leader, Run { id, queue: None });
        }
    }

    fn heard(&self, leader: NodeId, term: Term, at: Instant, result: &StreamAppendResult<Types>) {
        if !matches!(result, Err(StreamAppendError::HigherVote(_))) {
            self.contact.lock().heard(leader, term, at);
        }
    }

    async fn snapshot(&self, chunk: Chunk) -> Answer {
        let vote = chunk.vote;
        let (ours, committed) = {
            let metrics = self.raft.metrics();
            let metrics = metrics.borrow_watched();
            (metrics.vote, metrics.local_committed)
        };
        if ours.leader_id.term > vote.leader_id.term {
            return Ok(vec![rpc::encode_snapshot_response(&SnapshotResponse::new(ours))]);
        }
        let (incoming, store) = (Arc::clone(&self.incoming), Arc::clone(&self.checkpoints.store));
        let received = crate::blocking::blocking(move || incoming.lock().take(&store, &chunk))
            .await
            .map_err(|error| Refusal::new(error.to_string()))?
            .map_err(Refusal::new)?;
        let response = match received {
            None => SnapshotResponse::new(vote),
            // openraft stops at a snapshot that contradicts what is committed; there is nothing to install then.
            Some(stored)
                if committed.as_ref().map(position).map(|at| at.index)
                    >= Some(stored.head.position.index) =>
            {
                SnapshotResponse::new(vote)
            }
            Some(stored) if stored.head.position.term.0 > vote.leader_id.term => {
                return Err(Refusal::new(format!(
                    "a checkpoint of term {} from a leader of term {}",
                    stored.head.position.term, vote.leader_id.term
                )));
            }
            Some(stored) => {
                tracing::info!(shard = %self.checkpoints.shard, position = %stored.head.position, bytes = stored.bytes,
                    "installing a checkpoint from the leader");
                let snapshot = snapshot(stored).map_err(|error| Refusal::new(error.to_string()))?;
                let installed = self.raft.install_full_snapshot(vote, snapshot).await;
                installed.map_err(stopped)?
            }
        };
        Ok(vec![rpc::encode_snapshot_response(&response)])
    }
}

/// Carries out the appends of one run, in order, until one fails or no more come.
async fn carry_out(raft: Raft, mut queue: mpsc::Receiver<Waiting>) {
    let answers = Arc::new(Mutex::new(VecDeque::new()));
    let waiting = Arc::clone(&answers);
    let requests = futures::stream::poll_fn(move |context| {
        queue.poll_recv(context).map(|next| {
            next.map(|Waiting { request, answer }| {
                waiting.lock().push_back(answer);
                request
            })
        })
    });
    let mut results = pin!(raft.stream_append(requests));
    while let Some(Ok(result)) = results.next().await {
        if let Some(answer) = answers.lock().pop_front() {
            // The leader may have gone meanwhile.
            let _ = answer.send(result);
        }
    }
}

fn leader_of(vote: &Vote) -> (NodeId, Term) {
    (node_id(vote.leader_id.voted_for), Term(vote.leader_id.term))
}

fn refused(reason: String) -> BoxFuture<'static, Answer> {
    futures::future::ready(Err(Refusal::new(reason))).boxed()
}

fn stopped(error: impl std::fmt::Display) -> Refusal {
    Refusal::new(format!("the group has stopped on this node: {error}"))
}
