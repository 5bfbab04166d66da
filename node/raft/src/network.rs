//! The way to the other replicas of a group: openraft's calls, over the node's peers.
//!
//! Votes, heartbeats and transfers of leadership take the urgent lane; entries and checkpoints take the bulk
//! lane. A region of one node has no peers: a call is answered with the reason.

use std::collections::VecDeque;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::{Stream, StreamExt};
use meridian_peer::{Call, CallError, Lane, Peers};
use meridian_types::{NodeId, ShardId};
use openraft::base::{BoxFuture, BoxStream};
use openraft::error::{NetworkError, RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::{Backoff, RPCOption};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendResult, TransferLeaderRequest,
    TransferLeaderResponse, VoteRequest, VoteResponse,
};
use openraft::{RaftNetworkFactory, RaftNetworkV2};

use crate::checkpoint::Stored;
use crate::codec::CodecError;
use crate::config::{LogId, Snapshot, Types, Vote, node_id};
use crate::machine::Checkpoints;
use crate::rpc::{self, Chunk, kind};

/// How a group uses the network.
#[derive(Clone, Debug)]
pub struct NetworkSettings {
    /// Appends that may be on their way to one follower at a time.
    pub append_window: usize,
    /// Bytes of entries that may be on their way to one follower at a time; one append always may.
    pub append_bytes_max: usize,
    /// Time for an append to be answered; it includes the follower's sync.
    pub append_timeout: Duration,
    /// Bytes of one piece of a checkpoint.
    pub chunk_bytes: usize,
    /// Time for a piece of a checkpoint to be answered. The last includes its installation.
    pub chunk_timeout: Duration,
}

impl Default for NetworkSettings {
    fn default() -> Self {
        Self {
            append_window: 4,
            append_bytes_max: 8 << 20,
            append_timeout: Duration::from_secs(10),
            chunk_bytes: 1 << 20,
            chunk_timeout: Duration::from_secs(60),
        }
    }
}

/// Makes the clients of one group.
pub(crate) struct Network {
    shared: Arc<Shared>,
}

struct Shared {
    peers: Option<Peers>,
    shard: ShardId,
    settings: NetworkSettings,
    checkpoints: Arc<Checkpoints>,
    /// Numbers runs of appends, and transfers of checkpoints.
    next: AtomicU64,
}

impl Network {
    pub(crate) fn new(
        peers: Option<Peers>,
        shard: ShardId,
        settings: NetworkSettings,
        checkpoints: Arc<Checkpoints>,
    ) -> Self {
        Self {
            shared: Arc::new(Shared {
                peers,
                shard,
                settings,
                checkpoints,
                next: AtomicU64::new(1),
            }),
        }
    }

    fn client(&self, target: u64, lane: Lane) -> Client {
        Client {
            to: node_id(target),
            lane,
            shared: Arc::clone(&self.shared),
        }
    }
}

impl RaftNetworkFactory<Types> for Network {
    type Network = Client;

    async fn new_client(&mut self, target: u64, (): &()) -> Client {
        self.client(target, Lane::Bulk)
    }

    async fn new_heartbeat_client(&mut self, target: u64, (): &()) -> Client {
        self.client(target, Lane::Urgent)
    }
}

/// Calls one replica.
#[derive(Clone)]
pub(crate) struct Client {
    to: NodeId,
    /// The lane of appends: heartbeats are appends on the urgent one.
    lane: Lane,
    shared: Arc<Shared>,
}

impl Client {
    fn call(
        &self,
        lane: Lane,
        kind: u16,
        body: Vec<Bytes>,
        timeout: Duration,
    ) -> Result<Call, RPCError<Types>> {
        let Some(peers) = &self.shared.peers else {
            return Err(self.failed(&"this region has one node"));
        };
        Ok(peers
            .call(self.to, lane, kind, self.shared.shard, body)
            .with_timeout(timeout))
    }

    async fn ask<T>(
        &self,
        kind: u16,
        body: Bytes,
        timeout: Duration,
        decode: impl FnOnce(Bytes) -> Result<T, CodecError>,
    ) -> Result<T, RPCError<Types>> {
        let call = self.call(Lane::Urgent, kind, vec![body], timeout)?;
        let answer = call.await.map_err(|error| self.call_failed(error))?;
        decode(answer).map_err(|error| self.failed(&error))
    }

    fn send_append(
        &self,
        stream: u64,
        request: AppendEntriesRequest<Types>,
        timeout: Duration,
    ) -> Result<Sent, RPCError<Types>> {
        let prev = request.prev_log_id;
        let last = request.entries.last().map(|entry| entry.log_id).or(prev);
        let (body, bytes) = rpc::encode_append(stream, request);
        let call = self.call(self.lane, kind::APPEND, body, timeout)?;
        Ok(Sent {
            call,
            prev,
            last,
            bytes,
        })
    }

    fn append_answered(
        &self,
        answer: Result<Bytes, CallError>,
        prev: Option<LogId>,
        last: Option<LogId>,
    ) -> Result<StreamAppendResult<Types>, RPCError<Types>> {
        let answer = answer.map_err(|error| self.call_failed(error))?;
        rpc::decode_append_response(answer, prev, last).map_err(|error| self.failed(&error))
    }

    /// Worth a pause before the next attempt.
    fn failed(&self, reason: &dyn std::fmt::Display) -> RPCError<Types> {
        let reason = format!("shard {} on node {}: {reason}", self.shared.shard, self.to);
        RPCError::Unreachable(Unreachable::from_string(reason))
    }

    fn call_failed(&self, error: CallError) -> RPCError<Types> {
        match error {
            CallError::Timeout => {
                let reason = format!(
                    "shard {} on node {}: no answer in time",
                    self.shared.shard, self.to
                );
                RPCError::Network(NetworkError::from_string(reason))
            }
            other => self.failed(&other),
        }
    }

    /// Sends a checkpoint's file piece by piece, and waits until it is installed.
    async fn send_checkpoint(
        &self,
        vote: Vote,
        stored: Stored,
    ) -> Result<SnapshotResponse<Types>, RPCError<Types>> {
        let Shared {
            peers,
            settings,
            checkpoints,
            ..
        } = &*self.shared;
        // The file is read as a whole before it is sent: not for a node that is not there.
        if !peers
            .as_ref()
            .is_some_and(|peers| peers.link(self.to).is_connected())
        {
            return Err(self.failed(&"not connected"));
        }
        let checked = {
            let (stored, store) = (stored.clone(), Arc::clone(&checkpoints.store));
            crate::blocking::blocking(move || {
                let damage = stored.verify().map_err(|error| error.to_string())?;
                damage.map_err(|reason| match store.set_aside(&stored) {
                    Ok(()) => format!("{} is damaged and was set aside: {reason}", stored.name),
                    Err(error) => format!("{} is damaged: {reason}; {error}", stored.name),
                })
            })
            .await
        };
        match checked {
            Ok(Ok(())) => {}
            Ok(Err(reason)) => {
                tracing::error!(shard = %self.shared.shard, reason, "a checkpoint cannot be sent");
                return Err(self.failed(&reason));
            }
            Err(error) => return Err(self.failed(&error)),
        }
        let transfer = self.shared.next.fetch_add(1, Ordering::Relaxed);
        let mut at = 0;
        loop {
            let bytes = {
                let (stored, chunk_bytes) = (stored.clone(), settings.chunk_bytes);
                crate::blocking::blocking(move || stored.read(at, chunk_bytes))
                    .await
                    .map_err(|error| self.failed(&error))?
                    .map_err(|error| self.failed(&error))?
            };
            let chunk = Chunk {
                vote,
                transfer,
                at,
                file_bytes: stored.bytes,
                bytes,
            };
            at += chunk.bytes.len() as u64;
            let body = rpc::encode_chunk(chunk);
            let call = self.call(Lane::Bulk, kind::SNAPSHOT, body, settings.chunk_timeout)?;
            let answer = call.await.map_err(|error| self.call_failed(error))?;
            let response = rpc::decode_snapshot_response(answer).map_err(|error| self.failed(&error))?;
            let deposed = response.vote.leader_id.term > vote.leader_id.term;
            if deposed || at == stored.bytes {
                return Ok(response);
            }
        }
    }
}

impl RaftNetworkV2<Types> for Client {
    type SnapshotData = Option<Stored>;

    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<Types>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<Types>, RPCError<Types>> {
        let sent = self.send_append(0, request, option.soft_ttl())?;
        let result = self.append_answered(sent.call.await, sent.prev, sent.last)?;
        Ok(AppendEntriesResponse::from(result))
    }

    fn stream_append<'s, S>(
        &'s mut self,
        input: S,
        option: RPCOption,
    ) -> BoxFuture<
        's,
        Result<BoxStream<'s, Result<StreamAppendResult<Types>, RPCError<Types>>>, RPCError<Types>>,
    >
    where
        S: Stream<Item = AppendEntriesRequest<Types>> + Send + Unpin + 'static,
    {
        // A heartbeat is one append that openraft waits for only so long; entries have a deadline of their own.
        let (stream, timeout) = match self.lane {
            Lane::Urgent => (0, option.soft_ttl()),
            Lane::Bulk => (
                self.shared.next.fetch_add(1, Ordering::Relaxed),
                self.shared.settings.append_timeout,
            ),
        };
        let pipeline = Pipeline {
            client: self.clone(),
            stream,
            timeout,
            input: Some(input),
            sent: VecDeque::new(),
            bytes: 0,
        };
        let answers = futures::stream::unfold(pipeline, |mut pipeline| async {
            let answer = pipeline.next().await?;
            Some((answer, pipeline))
        });
        Box::pin(async { Ok(answers.boxed()) })
    }

    async fn vote(
        &mut self,
        request: VoteRequest<Types>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        let body = rpc::encode_vote_request(&request);
        self.ask(kind::VOTE, body, option.soft_ttl(), rpc::decode_vote_response)
            .await
    }

    async fn pre_vote(
        &mut self,
        request: VoteRequest<Types>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        let body = rpc::encode_vote_request(&request);
        self.ask(kind::PRE_VOTE, body, option.soft_ttl(), rpc::decode_vote_response)
            .await
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot,
        cancel: impl Future<Output = ReplicationClosed> + Send + 'static,
        _: RPCOption,
    ) -> Result<SnapshotResponse<Types>, StreamingError<Types>> {
        let Some(stored) = snapshot.snapshot else {
            return Err(self.failed(&"there is no checkpoint to send").into());
        };
        tokio::select! {
            sent = self.send_checkpoint(vote, stored) => Ok(sent?),
            closed = cancel => Err(closed.into()),
        }
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<Types>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<Types>, RPCError<Types>> {
        let body = rpc::encode_transfer(&request);
        self.ask(
            kind::TRANSFER,
            body,
            option.soft_ttl(),
            rpc::decode_transfer_response,
        )
        .await
    }

    fn backoff(&self) -> Option<Backoff> {
        let doubling = (0..6).map(|times| Duration::from_millis(20 << times));
        Some(Backoff::new(
            doubling.chain(std::iter::repeat(Duration::from_secs(1))),
        ))
    }
}

/// An append on its way.
struct Sent {
    call: Call,
    prev: Option<LogId>,
    last: Option<LogId>,
    bytes: usize,
}

/// A run of appends to one follower, several on their way at once, answered in their order.
struct Pipeline<S> {
    client: Client,
    stream: u64,
    timeout: Duration,
    /// `None` once it has ended.
    input: Option<S>,
    sent: VecDeque<Sent>,
    /// Bytes of `sent`.
    bytes: usize,
}

impl<S> Pipeline<S>
where
    S: Stream<Item = AppendEntriesRequest<Types>> + Unpin,
{
    /// The next answer; `None` after the last, or after one that ended the run.
    async fn next(&mut self) -> Option<Result<StreamAppendResult<Types>, RPCError<Types>>> {
        loop {
            let settings = &self.client.shared.settings;
            let room = self.sent.is_empty()
                || (self.sent.len() < settings.append_window && self.bytes < settings.append_bytes_max);
            tokio::select! {
                biased;
                answer = first(&mut self.sent), if !self.sent.is_empty() => {
                    let sent = self.sent.pop_front().expect("its answer came");
                    self.bytes -= sent.bytes;
                    let result = self.client.append_answered(answer, sent.prev, sent.last);
                    if !matches!(result, Ok(Ok(_))) {
                        // What was sent behind it is void: the follower refuses it too.
                        self.input = None;
                        self.sent.clear();
                    }
                    return Some(result);
                }
                request = next(&mut self.input), if room && self.input.is_some() => match request {
                    None => self.input = None,
                    Some(request) => match self.client.send_append(self.stream, request, self.timeout) {
                        Ok(sent) => {
                            self.bytes += sent.bytes;
                            self.sent.push_back(sent);
                        }
                        Err(error) => {
                            self.input = None;
                            self.sent.clear();
                            return Some(Err(error));
                        }
                    },
                },
                else => return None,
            }
        }
    }
}

async fn first(sent: &mut VecDeque<Sent>) -> Result<Bytes, CallError> {
    match sent.front_mut() {
        Some(sent) => (&mut sent.call).await,
        None => std::future::pending().await,
    }
}

async fn next<S: Stream + Unpin>(input: &mut Option<S>) -> Option<S::Item> {
    match input {
        Some(input) => input.next().await,
        None => std::future::pending().await,
    }
}
