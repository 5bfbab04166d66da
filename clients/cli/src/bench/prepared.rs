//! Sends prepared requests over connections of its own.

use std::collections::{BTreeMap, VecDeque};
use std::io::IoSlice;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use meridian_client::network::connect_tcp;
use meridian_client::{Acks, Cluster, Endpoint, Lane};
use meridian_wire::frame::{FRAME_BYTES_MAX, decode_response, split_frame};
use meridian_wire::{ApiKey, ErrorCode, ProduceRequest};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::sync::{Notify, Semaphore};
use tokio::time::{Instant, sleep_until, timeout_at};

use super::prepare::{PreparedBatch, PreparedRequest, prepare_request};
use super::produce::Plan;
use super::report::Totals;
use crate::error::CliError;

/// How long an answer may take before the run is given up.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);

/// What one connection sends: requests in turn, at an interval or as fast as it goes.
struct Sender {
    endpoint: Endpoint,
    version: i16,
    requests: Arc<Vec<PreparedRequest>>,
    /// Which of `requests` it begins with, so that connections do not go round in step.
    first: usize,
    interval: Option<Duration>,
    plan: Arc<Plan>,
}

/// Requests that are on their way.
#[derive(Default)]
struct InFlight {
    /// Tells the reader that there will be no more.
    all_sent: Notify,
    /// When each was due or sent, with its place in the list of requests, oldest first.
    sent: parking_lot::Mutex<VecDeque<(Instant, usize)>>,
}

/// Runs the load: every producer has a connection to every broker, and goes round the partitions that the broker leads.
pub(super) async fn run(
    cluster: &Cluster,
    plan: &Arc<Plan>,
    batches: &[PreparedBatch],
) -> Result<Totals, CliError> {
    let metadata = cluster.metadata();
    let mut by_broker: BTreeMap<_, Vec<u32>> = BTreeMap::new();
    for index in 0..plan.partitions {
        let leader = metadata.leader(&plan.topic, index).ok_or_else(|| {
            CliError::failed(format!(
                "partition {index} of topic '{}' has no leader",
                plan.topic
            ))
        })?;
        by_broker.entry(leader).or_default().push(index);
    }
    let mut senders = Vec::new();
    for (broker, partitions) in by_broker {
        let connection = cluster.connection(Lane::SHARED, broker).await?;
        let version = connection.versions().common(ApiKey::Produce).ok_or_else(|| {
            CliError::failed(format!(
                "{} serves no version of Produce that we speak",
                connection.endpoint()
            ))
        })?;
        let requests = Arc::new(requests(plan, version, &partitions, batches)?);
        let runs = partitions.len().div_ceil(plan.batches_per_request);
        let share = partitions.len() as f64 / f64::from(plan.partitions);
        let per_request = requests.iter().map(|it| it.records).sum::<u64>() as f64 / requests.len() as f64;
        for producer in 0..plan.producers {
            senders.push(Sender {
                endpoint: connection.endpoint().clone(),
                version,
                first: first(producer, plan.producers, runs, requests.len()),
                requests: Arc::clone(&requests),
                interval: plan.rate.map(|rate| {
                    let requests_per_s = rate * share / f64::from(plan.producers) / per_request;
                    Duration::from_secs_f64(1.0 / requests_per_s)
                }),
                plan: Arc::clone(plan),
            });
        }
    }
    let tasks: Vec<_> = senders
        .into_iter()
        .map(|sender| tokio::spawn(sender.run()))
        .collect();
    let mut totals = Totals::default();
    for task in tasks {
        let of_one = task
            .await
            .map_err(|error| CliError::failed(format!("a producer of the benchmark ended badly: {error}")))?;
        totals.merge(of_one?);
    }
    Ok(totals)
}

/// Which of `requests`, a round of `runs` after another, a producer begins with: all partitions have somebody from the start, and
/// other batches from each.
fn first(producer: u32, producers: u32, runs: usize, requests: usize) -> usize {
    let share = |of: usize| producer as usize * of / producers as usize;
    share(requests / runs) * runs + share(runs)
}

/// Requests that a connection goes round: as many as this, or one for each run of partitions.
const REQUESTS: usize = 2048;

/// Requests for each run of neighbouring partitions, again and again with other batches: what is compressed together must not
/// repeat itself.
fn requests(
    plan: &Plan,
    version: i16,
    partitions: &[u32],
    batches: &[PreparedBatch],
) -> Result<Vec<PreparedRequest>, CliError> {
    let runs: Vec<_> = partitions.chunks(plan.batches_per_request).collect();
    let rounds = (REQUESTS / runs.len().max(1)).clamp(1, batches.len());
    let turns = (0..rounds).flat_map(|round| runs.iter().enumerate().map(move |(run, it)| (round, run, it)));
    turns
        .map(|(round, run, partitions)| {
            let of_request: Vec<_> = partitions
                .iter()
                .enumerate()
                .map(|(place, index)| (*index, &batches[(run + round + place) % batches.len()]))
                .collect();
            let timeout_ms = 30_000;
            prepare_request(version, plan.acks.code(), timeout_ms, &plan.topic, &of_request)
                .map_err(|error| CliError::failed(format!("the request cannot be written: {error}")))
        })
        .collect()
}

impl Sender {
    async fn run(self) -> Result<Totals, CliError> {
        let mut stream = connect_tcp(&self.endpoint, Duration::from_secs(10)).await?;
        let (mut reader, mut writer) = stream.split();
        let permits = Semaphore::new(self.plan.in_flight);
        let in_flight = InFlight::default();
        let work = async {
            if self.plan.acks == Acks::None {
                return self.send(&mut writer, &permits, &in_flight).await;
            }
            let sending = async {
                let result = self.send(&mut writer, &permits, &in_flight).await;
                in_flight.all_sent.notify_one();
                result
            };
            let reading = self.read(&mut reader, &permits, &in_flight);
            tokio::try_join!(sending, reading).map(|(_, totals)| totals)
        };
        let limit = self.plan.end + ANSWER_TIMEOUT;
        timeout_at(limit, work).await.unwrap_or_else(|_| {
            Err(CliError::failed(format!(
                "{} did not answer for a minute",
                self.endpoint
            )))
        })
    }

    /// Sends until the time is up. Counts only what will not be answered.
    async fn send(
        &self,
        writer: &mut WriteHalf<'_>,
        permits: &Semaphore,
        in_flight: &InFlight,
    ) -> Result<Totals, CliError> {
        let mut totals = Totals::default();
        let is_answered = self.plan.acks != Acks::None;
        let start = self.plan.start;
        let mut number: u32 = 0;
        loop {
            let due = self.interval.map(|interval| {
                // Connections take turns within an interval.
                let phase = interval.mul_f64(self.first as f64 / self.requests.len() as f64);
                start + phase + interval * number
            });
            if let Some(due) = due {
                if due >= self.plan.end {
                    break;
                }
                sleep_until(due).await;
            }
            if is_answered {
                permits
                    .acquire()
                    .await
                    .expect("the semaphore is never closed")
                    .forget();
            }
            let now = super::driver::now();
            if now >= self.plan.end {
                if is_answered {
                    permits.add_permits(1);
                }
                break;
            }
            let place = (self.first + number as usize) % self.requests.len();
            let request = &self.requests[place];
            let since = due.unwrap_or(now);
            if is_answered {
                in_flight.sent.lock().push_back((since, place));
            }
            let pieces: VecDeque<Bytes> = request.pieces(number.cast_signed() & i32::MAX).collect();
            write_all(writer, pieces)
                .await
                .map_err(|error| CliError::failed(format!("cannot write to {}: {error}", self.endpoint)))?;
            if !is_answered && since >= self.plan.measured_from {
                self.count(&mut totals, request, since, now);
            }
            number += 1;
        }
        Ok(totals)
    }

    fn count(&self, totals: &mut Totals, request: &PreparedRequest, since: Instant, now: Instant) {
        totals.records += request.records;
        totals.value_bytes += request.records * self.plan.value_bytes as u64;
        totals.batch_bytes += request.bytes;
        totals.requests += 1;
        totals
            .latencies
            .record(now.saturating_duration_since(since), request.records);
        self.plan.progress.inc(request.records);
    }

    /// Reads answers until all is sent and answered.
    async fn read(
        &self,
        reader: &mut ReadHalf<'_>,
        permits: &Semaphore,
        in_flight: &InFlight,
    ) -> Result<Totals, CliError> {
        let mut totals = Totals::default();
        let mut received = BytesMut::with_capacity(16 << 10);
        let broken = |what: String| CliError::failed(format!("{}: {what}", self.endpoint));
        let mut is_all_sent = false;
        loop {
            if is_all_sent && in_flight.sent.lock().is_empty() {
                return Ok(totals);
            }
            let read = tokio::select! {
                read = reader.read_buf(&mut received) => read,
                () = in_flight.all_sent.notified(), if !is_all_sent => {
                    is_all_sent = true;
                    continue;
                }
            };
            match read {
                Ok(0) => return Err(broken("the server closed the connection".to_owned())),
                Ok(_) => {}
                Err(error) => return Err(broken(error.to_string())),
            }
            while let Some(frame) =
                split_frame(&mut received, FRAME_BYTES_MAX).map_err(|error| broken(error.to_string()))?
            {
                let now = super::driver::now();
                let (_, response) = decode_response::<ProduceRequest>(frame, self.version)
                    .map_err(|error| broken(error.to_string()))?;
                let (since, place) = in_flight
                    .sent
                    .lock()
                    .pop_front()
                    .ok_or_else(|| broken("an answer came that nothing was asked for".to_owned()))?;
                permits.add_permits(1);
                let request = &self.requests[place];
                let failure = response
                    .responses
                    .iter()
                    .flat_map(|topic| &topic.partition_responses)
                    .find(|partition| partition.error_code != 0);
                if let Some(failure) = failure {
                    totals.failed_records += request.records;
                    totals.first_failure.get_or_insert_with(|| {
                        let code =
                            ErrorCode::from_code(failure.error_code).unwrap_or(ErrorCode::UnknownServerError);
                        let message = failure.error_message.as_deref().unwrap_or_default();
                        format!("partition {}: {} {message}", failure.index, code.name())
                    });
                } else if since >= self.plan.measured_from {
                    self.count(&mut totals, request, since, now);
                }
            }
        }
    }
}

async fn write_all(writer: &mut WriteHalf<'_>, mut pieces: VecDeque<Bytes>) -> std::io::Result<()> {
    while !pieces.is_empty() {
        let mut slices = [IoSlice::new(&[]); 32];
        let count = pieces.len().min(slices.len());
        for (slice, piece) in slices.iter_mut().zip(&pieces) {
            *slice = IoSlice::new(piece);
        }
        let mut written = writer.write_vectored(&slices[..count]).await?;
        if written == 0 {
            return Err(std::io::ErrorKind::WriteZero.into());
        }
        while let Some(first) = pieces.front_mut() {
            if written < first.len() {
                first.advance(written);
                break;
            }
            written -= first.len();
            pieces.pop_front();
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::first;

    #[test]
    fn producers_begin_with_different_partitions_and_batches() {
        for (producers, runs, rounds) in [(64_u32, 16, 128), (64, 16, 1), (64, 1000, 2), (1, 16, 128)] {
            let firsts: Vec<_> = (0..producers)
                .map(|producer| first(producer, producers, runs, runs * rounds))
                .collect();
            assert!(firsts.is_sorted() && firsts.iter().all(|first| *first < runs * rounds));
            let mut begun: Vec<_> = firsts.iter().map(|first| first % runs).collect();
            begun.sort_unstable();
            begun.dedup();
            assert_eq!(begun.len(), runs.min(producers as usize), "{firsts:?}");
        }
    }
}
