//! Sends what the accumulator has ready, and tells it what the servers say.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use meridian_types::{NodeId, Offset, ProducerId, TimestampMs};
use meridian_wire::batch::{BuildError, set_producer};
use meridian_wire::messages::produce::{
    NodeEndpoint, PartitionProduceData, PartitionProduceResponse, TopicProduceData,
};
use meridian_wire::{ErrorCode, InitProducerIdRequest, ProduceRequest, ProduceResponse};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until};

use super::accumulator::Key;
use super::delivery::Acknowledged;
use super::identity::{Identity, Sequence};
use super::partition_queue::{Answer, Batch, Body};
use super::{Acks, ProduceError, ProducerError, Shared};
use crate::admin::{millis, partition_id};
use crate::backoff::Backoff;
use crate::cluster::{Cluster, Lane};
use crate::connection::PendingResponse;
use crate::endpoint::Endpoint;
use crate::error::{Refusal, RequestError, check};
use crate::metadata::{Broker as KnownBroker, node};

/// A produce request with the batches in it.
struct Outgoing {
    request: ProduceRequest,
    batches: Vec<(Key, Batch)>,
}

/// A produce request that was answered, or not.
struct Completion {
    broker: NodeId,
    batches: Vec<(Key, Batch)>,
    result: Result<Option<ProduceResponse>, RequestError>,
}

/// One broker, as the driver sees it.
struct Broker {
    sender: mpsc::Sender<Outgoing>,
    in_flight: usize,
}

/// Gets an identity for an idempotent producer.
pub(super) async fn init_producer_id(cluster: &Cluster) -> Result<Identity, ProducerError> {
    let request = InitProducerIdRequest {
        transactional_id: None,
        transaction_timeout_ms: i32::MAX,
        ..InitProducerIdRequest::default()
    };
    let mut backoff = cluster.backoff();
    let deadline = Instant::now() + cluster.settings().operation_timeout;
    loop {
        let response = cluster.send_any(&request).await?;
        match check(response.error_code) {
            Ok(()) => {
                return Ok(Identity {
                    id: ProducerId(u64::try_from(response.producer_id).unwrap_or(0)),
                    epoch: response.producer_epoch,
                });
            }
            Err(code) => {
                let wait = backoff.next_wait();
                if !code.is_retriable() || Instant::now() + wait >= deadline {
                    return Err(ProducerError::Refused(code.into()));
                }
                sleep(wait).await;
            }
        }
    }
}

/// Runs until the producer is closed and everything is answered.
pub(super) async fn run(shared: Arc<Shared>) {
    let lane = shared.cluster.lane();
    let (completions, mut completed) = mpsc::channel(64);
    let mut driver = Driver {
        backoff: shared.cluster.backoff(),
        shared: Arc::clone(&shared),
        lane,
        brokers: HashMap::new(),
        completions,
        refresh: FuturesUnordered::new(),
        identity: FuturesUnordered::new(),
        must_refresh: false,
    };
    loop {
        let (expired, expires_at) = shared.accumulator.lock().expire(Instant::now());
        for (key, batch) in expired {
            driver.fail_expired(&key, &batch);
        }
        let next = driver.send_ready().await;
        if shared.accumulator.lock().is_done() {
            break;
        }
        driver.start_chores();
        let wake_at = match (next, expires_at) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (at, None) | (None, at) => at,
        };
        tokio::select! {
            () = shared.wake.notified() => {}
            Some(completion) = completed.recv() => {
                driver.complete(completion);
                while let Ok(completion) = completed.try_recv() {
                    driver.complete(completion);
                }
            }
            Some(()) = driver.refresh.next() => {}
            Some(result) = driver.identity.next() => driver.identified(result),
            () = sleep_until(wake_at.unwrap_or_else(Instant::now)), if wake_at.is_some() => {}
        }
    }
    shared.cluster.close_lane(lane);
}

struct Driver {
    shared: Arc<Shared>,
    lane: Lane,
    brokers: HashMap<NodeId, Broker>,
    completions: mpsc::Sender<Completion>,
    backoff: Backoff,
    /// At most one at a time.
    refresh: FuturesUnordered<BoxFuture<'static, ()>>,
    /// At most one at a time.
    identity: FuturesUnordered<BoxFuture<'static, Result<Identity, ProducerError>>>,
    must_refresh: bool,
}

impl Driver {
    /// Sends what may be sent; gives the time when there may be more.
    async fn send_ready(&mut self) -> Option<Instant> {
        let now = Instant::now();
        let (ready, next) = self.shared.accumulator.lock().ready(now);
        let metadata = self.shared.cluster.metadata();
        let mut by_broker: BTreeMap<NodeId, Vec<Key>> = BTreeMap::new();
        for key in ready {
            match metadata.leader(&key.0, key.1) {
                Some(leader) => by_broker.entry(leader).or_default().push(key),
                None => {
                    self.must_refresh = true;
                    let until = now + self.shared.cluster.settings().retry_wait;
                    self.shared.accumulator.lock().block(&key, until);
                }
            }
        }
        let blocked = (self.must_refresh).then(|| now + self.shared.cluster.settings().retry_wait);
        for (id, keys) in by_broker {
            self.send_to(id, keys).await;
        }
        [next, blocked].into_iter().flatten().min()
    }

    /// Fills requests for one broker, as many as may be in flight.
    async fn send_to(&mut self, id: NodeId, keys: Vec<Key>) {
        let settings = &self.shared.settings;
        let mut keys = keys.into_iter().peekable();
        while keys.peek().is_some() {
            if self
                .brokers
                .get(&id)
                .is_some_and(|it| it.in_flight >= settings.in_flight_max)
            {
                return;
            }
            let mut batches = Vec::new();
            let mut bytes = 0;
            while let Some(key) = keys.peek() {
                let taken = self.shared.accumulator.lock().take(key);
                let Some(mut batch) = taken else {
                    keys.next();
                    continue;
                };
                let key = keys.next().expect("it was peeked");
                if let Err(error) = build(&mut batch) {
                    self.finish(&key, batch, Answer::Refused, Err(ProduceError::Build(error)));
                    continue;
                }
                bytes += body_bytes(&batch).len();
                batches.push((key, batch));
                if bytes >= settings.request_bytes_max {
                    break;
                }
            }
            if batches.is_empty() {
                return;
            }
            let request = request(settings.acks, settings.request_timeout, &batches);
            let broker = self
                .brokers
                .entry(id)
                .or_insert_with(|| spawn_sender(&self.shared, self.lane, id, &self.completions));
            broker.in_flight += 1;
            // A sender ends only when this end of the channel is dropped.
            drop(broker.sender.send(Outgoing { request, batches }).await);
        }
    }

    /// Takes in what a broker said, or that it said nothing.
    fn complete(&mut self, completion: Completion) {
        let Completion {
            broker,
            batches,
            result,
        } = completion;
        if let Some(broker) = self.brokers.get_mut(&broker) {
            broker.in_flight -= 1;
        }
        match result {
            Ok(None) => {
                for (key, batch) in batches {
                    let nowhere = Acknowledged {
                        base_offset: None,
                        log_append_time: None,
                    };
                    self.finish(&key, batch, Answer::Written, Ok(nowhere));
                }
            }
            Ok(Some(response)) => {
                let mut answers: HashMap<(&str, i32), &PartitionProduceResponse> = HashMap::new();
                for topic in &response.responses {
                    for partition in &topic.partition_responses {
                        answers.insert((&topic.name, partition.index), partition);
                    }
                }
                let endpoints = || response.node_endpoints.iter().filter_map(read_endpoint);
                for (key, batch) in batches {
                    match answers.get(&(&*key.0, partition_id(key.1))) {
                        Some(answer) if self.has_moved(&key, answer, endpoints()) => {
                            self.put_back(&key, batch, false, "the leader has moved", Instant::now());
                        }
                        Some(answer) => self.answered(&key, batch, answer),
                        None => {
                            let reason = "the server's answer does not name the partition".to_owned();
                            self.retry(&key, batch, true, reason);
                        }
                    }
                }
            }
            Err(error) => {
                self.must_refresh = true;
                let reason = error.to_string();
                for (key, batch) in batches {
                    if error.is_retriable() {
                        self.retry(&key, batch, error.may_have_executed, reason.clone());
                    } else {
                        let failure = ProduceError::Expired {
                            topic: key.0.to_string(),
                            partition: key.1,
                            may_be_written: error.may_have_executed,
                            reason: reason.clone(),
                        };
                        self.finish(&key, batch, Answer::Refused, Err(failure));
                    }
                }
            }
        }
    }

    fn answered(&mut self, key: &Key, batch: Batch, answer: &PartitionProduceResponse) {
        let code = match check(answer.error_code) {
            Ok(()) | Err(ErrorCode::DuplicateSequenceNumber) => {
                self.backoff.reset();
                let acknowledged = Acknowledged {
                    base_offset: u64::try_from(answer.base_offset).ok().map(Offset),
                    log_append_time: Some(TimestampMs(answer.log_append_time_ms)).filter(|time| time.0 >= 0),
                };
                self.finish(key, batch, Answer::Written, Ok(acknowledged));
                return;
            }
            Err(code) => code,
        };
        match code {
            ErrorCode::OutOfOrderSequenceNumber if batch.sequence.is_some() => {
                self.finish_or_queue(key, batch, Answer::OutOfOrder);
            }
            ErrorCode::InvalidProducerEpoch | ErrorCode::UnknownProducerId if batch.sequence.is_some() => {
                self.finish_or_queue(key, batch, Answer::WrongEpoch);
            }
            code if code.is_retriable() => {
                self.must_refresh = true;
                // These two come after the leader has appended.
                let may_be_written = matches!(
                    code,
                    ErrorCode::RequestTimedOut | ErrorCode::NotEnoughReplicasAfterAppend
                );
                self.retry(key, batch, may_be_written, code.name().to_owned());
            }
            code => {
                let rejected = answer.record_errors.first();
                let detail = rejected.and_then(|it| it.batch_index_error_message.as_deref());
                let failure = ProduceError::Refused {
                    topic: key.0.to_string(),
                    partition: key.1,
                    refusal: Refusal {
                        code,
                        message: detail.or(answer.error_message.as_deref()).map(str::to_owned),
                    },
                };
                self.finish(key, batch, Answer::Refused, Err(failure));
            }
        }
    }

    /// Whether the answer names the leader that the batch should go to instead (KIP-951).
    fn has_moved(
        &self,
        key: &Key,
        answer: &PartitionProduceResponse,
        endpoints: impl Iterator<Item = KnownBroker>,
    ) -> bool {
        let leader = &answer.current_leader;
        check(answer.error_code) == Err(ErrorCode::NotLeaderOrFollower)
            && self.shared.cluster.learn_leader(
                &key.0,
                key.1,
                (leader.leader_id, leader.leader_epoch),
                endpoints,
            )
    }

    fn retry(&mut self, key: &Key, batch: Batch, may_be_written: bool, reason: String) {
        let at = Instant::now() + self.backoff.next_wait();
        self.put_back(key, batch, may_be_written, reason, at);
    }

    fn put_back(
        &mut self,
        key: &Key,
        batch: Batch,
        may_be_written: bool,
        reason: impl Into<String>,
        at: Instant,
    ) {
        let reason = reason.into();
        tracing::debug!(topic = %key.0, partition = key.1, reason, "a batch is tried again");
        let answer = Answer::Retry {
            may_be_written,
            reason,
        };
        self.queue(key, batch, answer, at);
    }

    fn finish_or_queue(&mut self, key: &Key, batch: Batch, answer: Answer) {
        let retry_at = Instant::now() + self.backoff.next_wait();
        self.queue(key, batch, answer, retry_at);
    }

    fn queue(&mut self, key: &Key, batch: Batch, answer: Answer, retry_at: Instant) {
        let ended = self
            .shared
            .accumulator
            .lock()
            .answer(key, batch, answer, retry_at);
        debug_assert!(ended.is_none(), "an answer of this kind puts the batch back");
    }

    /// Ends a batch.
    fn finish(&self, key: &Key, batch: Batch, answer: Answer, result: Result<Acknowledged, ProduceError>) {
        let ended = self
            .shared
            .accumulator
            .lock()
            .answer(key, batch, answer, Instant::now());
        if let Some(Ok(batch) | Err(batch)) = ended {
            self.release(&batch, result);
        }
    }

    fn fail_expired(&self, key: &Key, batch: &Batch) {
        let failure = ProduceError::Expired {
            topic: key.0.to_string(),
            partition: key.1,
            may_be_written: batch.may_be_written,
            reason: batch.last_failure.clone().unwrap_or_else(|| {
                "it was never sent: the partition had no leader, or the broker did not keep up".into()
            }),
        };
        self.release(batch, Err(failure));
    }

    fn release(&self, batch: &Batch, result: Result<Acknowledged, ProduceError>) {
        batch.outcome.set(result);
        self.shared.memory.add_permits(batch.reserved_bytes);
    }

    /// Learns leaders again, or gets a new identity, if that is needed and not being done.
    fn start_chores(&mut self) {
        if self.must_refresh && self.refresh.is_empty() {
            self.must_refresh = false;
            let cluster = self.shared.cluster.clone();
            let wait = cluster.settings().retry_wait;
            self.refresh.push(Box::pin(async move {
                let known = cluster.metadata();
                let topics: Vec<&str> = known.topics.keys().map(String::as_str).collect();
                if let Err(error) = cluster.refresh(Some(&topics)).await {
                    tracing::debug!(%error, "metadata cannot be refreshed");
                }
                sleep(wait).await;
            }));
        }
        let needs_identity = self.shared.accumulator.lock().needs_identity();
        if needs_identity && self.identity.is_empty() {
            let cluster = self.shared.cluster.clone();
            self.identity.push(Box::pin(async move {
                let result = init_producer_id(&cluster).await;
                if result.is_err() {
                    sleep(cluster.settings().retry_wait_max).await;
                }
                result
            }));
        }
    }

    fn identified(&self, result: Result<Identity, ProducerError>) {
        match result {
            Ok(identity) => self.shared.accumulator.lock().set_identity(identity),
            // It is asked for again until the records expire.
            Err(error) => tracing::warn!(%error, "no new producer id"),
        }
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        // Only when the runtime ends is anything left here: nobody will be told otherwise.
        for outcome in self.shared.accumulator.lock().flush() {
            outcome.set(Err(ProduceError::Closed));
        }
    }
}

/// Sends one broker's requests in order, and waits for the answers.
fn spawn_sender(
    shared: &Arc<Shared>,
    lane: Lane,
    broker: NodeId,
    completions: &mpsc::Sender<Completion>,
) -> Broker {
    // Room for all that may be in flight: a broker that cannot be reached must not keep the driver from the others.
    let (sender, mut requests) = mpsc::channel::<Outgoing>(shared.settings.in_flight_max.max(1));
    let shared = Arc::clone(shared);
    let completions = completions.clone();
    tokio::spawn(async move {
        let mut pending: FuturesUnordered<BoxFuture<'static, Completion>> = FuturesUnordered::new();
        loop {
            tokio::select! {
                outgoing = requests.recv() => {
                    let Some(outgoing) = outgoing else {
                        break;
                    };
                    let submitted = submit(&shared, lane, broker, outgoing).await;
                    pending.push(submitted);
                }
                Some(completion) = pending.next() => {
                    // The driver is gone only when the runtime ends.
                    drop(completions.send(completion).await);
                }
            }
        }
    });
    Broker { sender, in_flight: 0 }
}

/// Hands a request to the broker's connection; the future waits for the answer.
async fn submit(
    shared: &Shared,
    lane: Lane,
    broker: NodeId,
    outgoing: Outgoing,
) -> BoxFuture<'static, Completion> {
    let Outgoing { request, batches } = outgoing;
    // The server waits up to the request's own timeout before it answers; the network comes on top.
    let limit = shared.settings.request_timeout + Duration::from_secs(5);
    let submitted: Result<Option<PendingResponse<ProduceRequest>>, RequestError> = async {
        let connection = shared.cluster.connection(lane, broker).await?;
        if shared.settings.acks == Acks::None {
            connection.submit_unanswered(&request, limit).await?;
            return Ok(None);
        }
        connection.submit(&request, limit).await.map(Some)
    }
    .await;
    Box::pin(async move {
        let result = match submitted {
            Ok(Some(pending)) => pending.wait().await.map(Some),
            Ok(None) => Ok(None),
            Err(error) => Err(error),
        };
        Completion {
            broker,
            batches,
            result,
        }
    })
}

/// A broker's address, as an answer gives it.
fn read_endpoint(endpoint: &NodeEndpoint) -> Option<KnownBroker> {
    Some(KnownBroker {
        id: node(endpoint.node_id)?,
        endpoint: Endpoint::new(endpoint.host.as_str(), u16::try_from(endpoint.port).ok()?),
        rack: endpoint.rack.as_ref().map(|rack| rack.as_str().to_owned()),
    })
}

/// Makes the batch's bytes, under its sequence.
fn build(batch: &mut Batch) -> Result<(), BuildError> {
    let sequence = batch.sequence;
    let bytes = match std::mem::replace(&mut batch.body, Body::Built(Bytes::new(), None)) {
        Body::Open(builder) => match sequence {
            Some(Sequence { id, epoch, base }) => builder.with_producer(id, epoch, base).build()?,
            None => builder.build()?,
        },
        Body::Built(bytes, under) if under == sequence => bytes,
        Body::Built(bytes, _) => {
            let mut renumbered = BytesMut::from(&bytes[..]);
            if let Some(Sequence { id, epoch, base }) = sequence {
                set_producer(&mut renumbered, id, epoch, base).expect("a batch that was built is whole");
            }
            renumbered.freeze()
        }
    };
    batch.body = Body::Built(bytes, sequence);
    Ok(())
}

fn body_bytes(batch: &Batch) -> &[u8] {
    match &batch.body {
        Body::Built(bytes, _) => bytes,
        Body::Open(_) => &[],
    }
}

fn request(acks: Acks, timeout: Duration, batches: &[(Key, Batch)]) -> ProduceRequest {
    let mut topics: BTreeMap<&str, Vec<PartitionProduceData>> = BTreeMap::new();
    for (key, batch) in batches {
        topics.entry(&key.0).or_default().push(PartitionProduceData {
            index: partition_id(key.1),
            records: Some(BytesMut::from(body_bytes(batch))),
        });
    }
    ProduceRequest {
        transactional_id: None,
        acks: acks.code(),
        timeout_ms: millis(timeout),
        topic_data: topics
            .into_iter()
            .map(|(name, partition_data)| TopicProduceData {
                name: name.to_owned().into(),
                partition_data,
                ..TopicProduceData::default()
            })
            .collect(),
    }
}
