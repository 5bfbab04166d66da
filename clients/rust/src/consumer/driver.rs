//! Sends the fetches that the plan wants, and passes on what comes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use meridian_types::{NodeId, Offset};
use meridian_wire::FetchResponse;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until};

use super::fetch_plan::{Effect, PlannedFetch};
use super::fetched::Room;
use super::{ConsumeError, Fetched, Item, Key, OutOfRange, Shared};
use crate::admin::{OffsetSpec, list_offsets};
use crate::cluster::Lane;
use crate::error::RequestError;

/// A fetch that was answered, or not.
struct Completion {
    broker: NodeId,
    asked: BTreeMap<Key, (u64, Offset)>,
    result: Result<FetchResponse, RequestError>,
}

/// A position that was looked up anew.
struct Reset {
    key: Key,
    version: u64,
    offset: Option<Offset>,
}

/// Runs until the consumer is dropped.
pub(super) async fn run(shared: Arc<Shared>, items: mpsc::UnboundedSender<Item>) {
    let lane = shared.cluster.lane();
    let mut fetches: FuturesUnordered<BoxFuture<'static, Completion>> = FuturesUnordered::new();
    let mut refresh: FuturesUnordered<BoxFuture<'static, ()>> = FuturesUnordered::new();
    let mut resets: FuturesUnordered<BoxFuture<'static, Reset>> = FuturesUnordered::new();
    let mut must_refresh = false;
    loop {
        let mut next = None;
        if shared.plan.lock().is_closed() {
            break;
        }
        let expired = shared.plan.lock().expire(Instant::now());
        for effect in expired {
            pass_on(&shared, &items, effect);
        }
        if shared.has_room() {
            let metadata = shared.cluster.metadata();
            let planned = shared.plan.lock().plan(Instant::now(), &metadata);
            must_refresh |= planned.1;
            next = planned.2;
            for fetch in planned.0 {
                fetches.push(send(Arc::clone(&shared), lane, fetch));
            }
        }
        if must_refresh && refresh.is_empty() {
            must_refresh = false;
            refresh.push(learn(Arc::clone(&shared)));
        }
        tokio::select! {
            () = shared.wake.notified() => {}
            Some(completion) = fetches.next() => {
                for effect in complete(&shared, completion) {
                    match effect {
                        Effect::Refresh => must_refresh = true,
                        Effect::Moved { key, version, leader } => {
                            if shared.cluster.learn_leader(&key.0, key.1, leader, std::iter::empty()) {
                                shared.plan.lock().unblock(&key, version);
                            } else {
                                must_refresh = true;
                            }
                        }
                        Effect::OutOfRange { key, version, offset } => {
                            out_of_range(&shared, &items, &mut resets, key, version, offset);
                        }
                        effect => pass_on(&shared, &items, effect),
                    }
                }
            }
            Some(()) = refresh.next() => {}
            Some(Reset { key, version, offset }) = resets.next() => {
                shared.plan.lock().go_on_at(Instant::now(), &key, version, offset);
            }
            () = sleep_until(next.unwrap_or_else(Instant::now)), if next.is_some() => {}
        }
    }
    shared.cluster.close_lane(lane);
}

fn send(shared: Arc<Shared>, lane: Lane, fetch: PlannedFetch) -> BoxFuture<'static, Completion> {
    let PlannedFetch {
        broker,
        request,
        asked,
    } = fetch;
    Box::pin(async move {
        let limit = shared.settings.wait_max + shared.cluster.settings().request_timeout;
        let result = async {
            let connection = shared.cluster.connection(lane, broker).await?;
            connection.send(&request, limit).await
        }
        .await;
        Completion {
            broker,
            asked,
            result,
        }
    })
}

fn complete(shared: &Shared, completion: Completion) -> Vec<Effect> {
    let Completion {
        broker,
        asked,
        result,
    } = completion;
    let mut plan = shared.plan.lock();
    match result {
        Ok(response) => plan.answered(Instant::now(), broker, &asked, response),
        Err(error) => {
            plan.failed(Instant::now(), broker, &asked);
            if error.is_retriable() {
                tracing::debug!(%error, "a fetch is tried again");
                return vec![Effect::Refresh];
            }
            let failed = asked.into_iter().map(|(key, (version, _))| Effect::Failed {
                error: ConsumeError::Position(error.clone().into()),
                key,
                version,
            });
            failed.collect()
        }
    }
}

fn pass_on(shared: &Arc<Shared>, items: &mpsc::UnboundedSender<Item>, effect: Effect) {
    let item = match effect {
        Effect::Records {
            key,
            version,
            from,
            next,
            high_watermark,
            batches,
            aborted,
        } => {
            shared.buffered_bytes.fetch_add(batches.len(), Ordering::Relaxed);
            Item::Fetched(Fetched {
                room: Room {
                    shared: Arc::clone(shared),
                    bytes: batches.len(),
                },
                key,
                version,
                from,
                next,
                high_watermark,
                batches,
                aborted,
            })
        }
        Effect::Failed { key, version, error } => Item::Failed { key, version, error },
        Effect::OutOfRange { .. } | Effect::Moved { .. } | Effect::Refresh => return,
    };
    // Without a receiver the consumer is gone, and the loop ends next.
    drop(items.send(item));
}

fn out_of_range(
    shared: &Arc<Shared>,
    items: &mpsc::UnboundedSender<Item>,
    resets: &mut FuturesUnordered<BoxFuture<'static, Reset>>,
    key: Key,
    version: u64,
    offset: Offset,
) {
    let spec = match shared.settings.on_out_of_range {
        OutOfRange::Earliest => OffsetSpec::Earliest,
        OutOfRange::Latest => OffsetSpec::Latest,
        OutOfRange::Fail => {
            let error = ConsumeError::OutOfRange {
                topic: key.0.to_string(),
                partition: key.1,
                offset,
            };
            pass_on(shared, items, Effect::Failed { key, version, error });
            return;
        }
    };
    let cluster = shared.cluster.clone();
    resets.push(Box::pin(async move {
        let wanted = [(key.0.to_string(), key.1, spec)];
        let found = list_offsets(&cluster, &wanted).await;
        let offset = found.ok().and_then(|found| found.into_values().next()?.offset);
        Reset { key, version, offset }
    }));
}

/// Learns the leaders again; not more often than every tenth of a second.
fn learn(shared: Arc<Shared>) -> BoxFuture<'static, ()> {
    Box::pin(async move {
        let topics = shared.plan.lock().topics();
        let names: Vec<&str> = topics.iter().map(|topic| &**topic).collect();
        if let Err(error) = shared.cluster.refresh(Some(&names)).await {
            tracing::debug!(%error, "metadata cannot be refreshed");
        }
        sleep(Duration::from_millis(100)).await;
    })
}
