//! The source's side of one link: what comes from [`Feeds`] goes out.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use meridian_types::ShardId;
use parking_lot::Mutex;
use quinn::Connection;
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};
use tracing::debug;

use crate::blocking::{blocking, timed};
use crate::body::{pack, raw_bytes};
use crate::compression::Choice;
use crate::counters::{Counters, add};
use crate::feeds::{FeedAction, Feeds, Written};
use crate::frame::{EntriesFrame, Follow, Frame, Reject, Subscription, WatermarkOf, encode_answer};
use crate::head::{ENTRIES_BYTES_MAX, FrameError};
use crate::hello::Hello;
use crate::lane::LaneError;
use crate::limits::RegionLimit;
use crate::questions::QUESTIONS_TAKEN_MAX;
use crate::refusal::Refusal;
use crate::session::{Event, Outgoing, Session};
use crate::settings::Settings;
use crate::sink::Sink;
use crate::source::{Entries, Reader, Source};
use crate::status::{FeedStatus, SessionStatus};
use crate::token_bucket::TokenBucket;

/// How often a limit is looked at again that holds an answer up.
const LOOK_INTERVAL: Duration = Duration::from_millis(200);
/// Shards that one link may follow; more is an attack.
const SHARDS_MAX: usize = 4097;

/// What a link of another region works with.
pub(crate) struct SourceSession {
    pub(crate) settings: Settings,
    pub(crate) source: Arc<dyn Source>,
    pub(crate) sink: Arc<dyn Sink>,
    pub(crate) counters: Arc<Counters>,
    pub(crate) peer: Hello,
    pub(crate) limit: RegionLimit,
    pub(crate) status: Arc<Mutex<SessionStatus>>,
}

/// What a task of a link has done.
enum Done {
    Opened(Subscription, Result<Box<dyn Reader>, Refusal>),
    Read(Subscription, Box<dyn Reader>, Result<Entries, Refusal>),
    Written(Subscription, u64, Result<Written, LaneError>),
    Answered(Result<(), LaneError>),
}

/// What changes while a link runs.
struct Running {
    session: Session,
    feeds: Feeds,
    /// Of shards that are not being read at the moment.
    readers: BTreeMap<ShardId, Box<dyn Reader>>,
    /// Read and not sent.
    ready: BTreeMap<ShardId, Entries>,
    /// Opening or reading.
    busy: BTreeMap<ShardId, AbortHandle>,
    tasks: JoinSet<Done>,
    /// The asking that is under way, opened or not.
    asked: BTreeMap<ShardId, Follow>,
    /// Questions that are being answered.
    questions: usize,
    /// What the other side lets come, for answers.
    throttle: Arc<Mutex<TokenBucket>>,
}

impl SourceSession {
    /// Runs until the link ends. Returns why it did.
    pub(crate) async fn run(
        self,
        session: Session,
        mut events: mpsc::Receiver<Event>,
        mut lanes: mpsc::Receiver<Connection>,
    ) -> String {
        let mut running = Running {
            session,
            feeds: Feeds::new(Instant::now(), self.settings.feeds()),
            readers: BTreeMap::new(),
            ready: BTreeMap::new(),
            busy: BTreeMap::new(),
            tasks: JoinSet::new(),
            asked: BTreeMap::new(),
            questions: 0,
            throttle: Arc::new(Mutex::new(TokenBucket::new(Instant::now(), None))),
        };
        let mut card = self.source.card();
        card.mark_changed();
        let mut cards = interval(self.settings.card_interval);
        let mut watermarks = interval(self.settings.watermark_interval);
        let mut pings = interval(self.settings.ping_interval());
        for ticks in [&mut cards, &mut watermarks, &mut pings] {
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        }
        let mut limit_changed = self.limit.changed.subscribe();
        let ended = loop {
            if let Err(error) = self.act(&mut running) {
                break error;
            }
            let wake = running.feeds.poll_timeout(&self.limit.bucket.lock());
            let wake_at = wake.unwrap_or_else(Instant::now);
            let step = tokio::select! {
                event = events.recv() => match event {
                    Some(Event::Frame(frame, held)) => {
                        self.status.lock().heard_at = Instant::now();
                        let handled = self.handle_frame(&mut running, frame);
                        drop(held);
                        handled
                    }
                    Some(Event::Ended(error)) => Err(error),
                    None => Err(LaneError::Closed("it is over".to_owned())),
                },
                Some(done) = running.tasks.join_next() => match done {
                    Ok(done) => self.handle_done(&mut running, done),
                    Err(error) if error.is_panic() => Err(LaneError::Closed(format!("a task of the link failed: {error}"))),
                    Err(_) => Ok(()),
                },
                Some(lane) = lanes.recv() => {
                    running.session.add_lane(lane);
                    Ok(())
                }
                () = running.session.flush() => Ok(()),
                _ = limit_changed.changed() => Ok(()),
                () = sleep_until(wake_at), if wake.is_some() => Ok(()),
                _ = watermarks.tick() => {
                    self.promise(&running);
                    self.report(&running);
                    Ok(())
                }
                _ = cards.tick() => {
                    card.mark_changed();
                    Ok(())
                }
                changed = card.changed() => match changed {
                    Ok(()) => {
                        let body = card.borrow_and_update().clone();
                        running.session.send(&Frame::Card(body))
                    }
                    Err(_) => Err(LaneError::Closed("this node stops".to_owned())),
                },
                _ = pings.tick() => running.session.ping(),
            };
            if let Err(error) = step {
                break error;
            }
        };
        let breach = ended.is_breach().then(|| (Reject::Protocol, ended.to_string()));
        running.session.end(breach).await;
        ended.to_string()
    }

    fn handle_frame(&self, running: &mut Running, frame: Frame) -> Result<(), LaneError> {
        match frame {
            Frame::Follow(follow) => {
                let shard = follow.subscription.shard;
                if running.asked.len() >= SHARDS_MAX {
                    return Err(FrameError::Field("shard").into());
                }
                running.forget(shard);
                running.asked.insert(shard, follow.clone());
                let source = self.source.clone();
                let task = running.tasks.spawn(async move {
                    let opened = source.open(shard, follow.cursor).await;
                    Done::Opened(follow.subscription, opened)
                });
                running.busy.insert(shard, task);
            }
            Frame::Unfollow(subscription) if running.is_asked(subscription) => {
                running.forget(subscription.shard);
            }
            Frame::Unfollow(_) => {}
            Frame::Applied(applied) => {
                let is_news = running.feeds.handle_applied(applied);
                let is_news = is_news.map_err(|_| FrameError::Field("sequence"))?;
                if is_news {
                    self.source
                        .acknowledged(self.peer.number, applied.subscription.shard, applied.sequence);
                }
            }
            Frame::Throttle(rate) => {
                running.feeds.handle_rate(Instant::now(), rate);
                running.throttle.lock().set_rate(Instant::now(), rate);
                self.status.lock().limit_bytes_per_second = rate;
            }
            Frame::Card(card) => self.sink.card(self.peer.number, card),
            Frame::Ping(nonce) => running.session.send(&Frame::Pong(nonce))?,
            Frame::Pong(nonce) => running.session.handle_pong(nonce),
            Frame::Rejected { reason, .. } => return Err(LaneError::Closed(reason)),
            Frame::Question { number, shard, body } => {
                if running.questions >= QUESTIONS_TAKEN_MAX {
                    return Err(LaneError::Full);
                }
                running.questions += 1;
                let outgoing = running.session.outgoing.clone();
                let buckets = [self.limit.bucket.clone(), running.throttle.clone()];
                let source = self.source.clone();
                running.tasks.spawn(async move {
                    let answer = match source.answer(shard, body).await {
                        Ok(answer) if answer.len() > ENTRIES_BYTES_MAX => Err(Refusal::Unknown {
                            reason: format!("an answer of {} bytes cannot travel", answer.len()),
                        }),
                        answer => answer,
                    };
                    let parts = encode_answer(number, &answer);
                    let bytes = parts.iter().map(Bytes::len).sum();
                    for bucket in buckets {
                        pass(&bucket, bytes).await;
                    }
                    Done::Answered(outgoing.entries(parts, false).await.map(|_| ()))
                });
            }
            Frame::Hello(_)
            | Frame::Answer { .. }
            | Frame::Following(_)
            | Frame::Entries(_)
            | Frame::Watermarks(_)
            | Frame::Refused { .. } => return Err(FrameError::Misplaced(frame.type_byte()).into()),
        }
        Ok(())
    }

    fn handle_done(&self, running: &mut Running, done: Done) -> Result<(), LaneError> {
        match done {
            Done::Opened(subscription, opened) if running.is_asked(subscription) => {
                running.busy.remove(&subscription.shard);
                match opened {
                    Ok(reader) => {
                        let follow = &running.asked[&subscription.shard];
                        // One that holds everything has nothing to apply, and would never say so.
                        let held = follow.cursor.sequence;
                        self.source
                            .acknowledged(self.peer.number, subscription.shard, held);
                        running.feeds.handle_follow(
                            subscription,
                            follow.weight,
                            follow.window_bytes as usize,
                            follow.cursor.sequence,
                        );
                        running.readers.insert(subscription.shard, reader);
                        running.session.send(&Frame::Following(subscription))?;
                    }
                    Err(refusal) => self.refuse(running, subscription, refusal)?,
                }
            }
            Done::Read(subscription, reader, read) if running.is_asked(subscription) => {
                running.busy.remove(&subscription.shard);
                match read.and_then(|entries| self.take(running, subscription, entries)) {
                    Ok(()) => {
                        running.readers.insert(subscription.shard, reader);
                    }
                    Err(refusal) => self.refuse(running, subscription, refusal)?,
                }
            }
            Done::Opened(..) | Done::Read(..) => {}
            Done::Answered(answered) => {
                running.questions -= 1;
                answered?;
            }
            Done::Written(subscription, number, written) => {
                let written = written?;
                add(&self.counters.frames_sent, 1);
                add(&self.counters.raw_bytes_sent, written.raw_bytes as u64);
                add(&self.counters.wire_bytes_sent, written.wire_bytes as u64);
                let nanos = u64::try_from(written.worked.as_nanos()).unwrap_or(0);
                add(&self.counters.compression_nanos, nanos);
                {
                    let mut status = self.status.lock();
                    status.raw_bytes_sent += written.raw_bytes as u64;
                    status.wire_bytes_sent += written.wire_bytes as u64;
                    status.compression_time += written.worked;
                }
                let mut bucket = self.limit.bucket.lock();
                running
                    .feeds
                    .handle_written(subscription, number, written, &mut bucket);
            }
        }
        Ok(())
    }

    /// Entries are there.
    fn take(
        &self,
        running: &mut Running,
        subscription: Subscription,
        entries: Entries,
    ) -> Result<(), Refusal> {
        let wrong = |reason: String| Refusal::Unknown { reason };
        let bytes = raw_bytes(&entries.commands);
        if bytes > ENTRIES_BYTES_MAX {
            return Err(wrong(format!(
                "{} commands of {bytes} bytes cannot travel as one frame",
                entries.commands.len()
            )));
        }
        let count = entries.commands.len() as u64;
        let read = running
            .feeds
            .handle_read(subscription, entries.first_sequence, count, bytes);
        read.map_err(|error| wrong(error.to_string()))?;
        running.ready.insert(subscription.shard, entries);
        Ok(())
    }

    fn refuse(
        &self,
        running: &mut Running,
        subscription: Subscription,
        refusal: Refusal,
    ) -> Result<(), LaneError> {
        debug!(shard = %subscription.shard, region = %self.peer.number, %refusal, "a shard is refused");
        add(&self.counters.refusals_sent, 1);
        running.forget(subscription.shard);
        if matches!(refusal, Refusal::Diverged { .. } | Refusal::DigestDiffers { .. }) {
            // What it acknowledged before was not what it has now.
            self.source.acknowledged(self.peer.number, subscription.shard, 0);
        }
        running.session.send(&Frame::Refused {
            subscription,
            refusal,
        })
    }

    fn act(&self, running: &mut Running) -> Result<(), LaneError> {
        let now = Instant::now();
        loop {
            let action = running.feeds.poll_action(now, &mut self.limit.bucket.lock());
            match action {
                None => return Ok(()),
                Some(FeedAction::Read {
                    subscription,
                    bytes_max,
                }) => {
                    let shard = subscription.shard;
                    let Some(mut reader) = running.readers.remove(&shard) else {
                        continue;
                    };
                    let task = running.tasks.spawn(async move {
                        let read = reader.next(bytes_max).await;
                        Done::Read(subscription, reader, read)
                    });
                    running.busy.insert(shard, task);
                }
                Some(FeedAction::Send {
                    subscription,
                    number,
                    choice,
                }) => {
                    if let Some(entries) = running.ready.remove(&subscription.shard) {
                        let outgoing = running.session.outgoing.clone();
                        let counters = self.counters.clone();
                        let sending = Sending {
                            subscription,
                            number,
                            choice,
                            // Who bounds the link wants every byte to count.
                            may_repeat: self.limit.bucket.lock().rate().is_none(),
                        };
                        running.tasks.spawn(async move {
                            let written = send(outgoing, sending, entries, &counters).await;
                            Done::Written(subscription, number, written)
                        });
                    }
                }
            }
        }
    }

    fn promise(&self, running: &Running) {
        let of = |subscription: Subscription| {
            let watermark = self.source.watermark(subscription.shard)?;
            Some(WatermarkOf {
                subscription,
                watermark,
            })
        };
        let watermarks: Vec<_> = running.feeds.subscriptions().filter_map(of).collect();
        running.session.promise(&watermarks);
    }

    fn report(&self, running: &Running) {
        let shards = running.feeds.subscriptions().filter_map(|subscription| {
            let progress = running.feeds.progress(subscription.shard)?;
            let watermark = self.source.watermark(subscription.shard);
            Some(FeedStatus {
                shard: subscription.shard,
                sent_sequence: progress.sent_sequence,
                applied_sequence: progress.applied_sequence,
                lag_sequences: watermark.map(|w| w.sequence.saturating_sub(progress.applied_sequence)),
                in_flight_bytes: progress.in_flight_bytes as u64,
            })
        });
        let shards = shards.collect();
        let transport = running.session.status();
        let mut status = self.status.lock();
        status.shards = shards;
        status.transport = transport;
    }
}

impl Running {
    fn is_asked(&self, subscription: Subscription) -> bool {
        self.asked
            .get(&subscription.shard)
            .is_some_and(|follow| follow.subscription == subscription)
    }

    fn forget(&mut self, shard: ShardId) {
        self.asked.remove(&shard);
        self.feeds.handle_unfollow(shard);
        self.readers.remove(&shard);
        self.ready.remove(&shard);
        if let Some(task) = self.busy.remove(&shard) {
            task.abort();
        }
    }
}

/// Waits until a limit lets so many bytes pass.
async fn pass(bucket: &Mutex<TokenBucket>, bytes: usize) {
    loop {
        let open_at = {
            let mut bucket = bucket.lock();
            if bucket.is_open(Instant::now()) {
                bucket.take(i64::try_from(bytes).unwrap_or(i64::MAX));
                return;
            }
            bucket.open_at()
        };
        // The limit may be lifted meanwhile.
        let look_at = Instant::now() + LOOK_INTERVAL;
        sleep_until(open_at.map_or(look_at, |at| at.min(look_at))).await;
    }
}

/// How entries travel.
struct Sending {
    subscription: Subscription,
    number: u64,
    choice: Choice,
    /// A small frame may be sent twice.
    may_repeat: bool,
}

async fn send(
    outgoing: Arc<Outgoing>,
    sending: Sending,
    entries: Entries,
    counters: &Counters,
) -> Result<Written, LaneError> {
    let Sending {
        subscription,
        number,
        choice,
        may_repeat,
    } = sending;
    let head = (entries.region_epoch, entries.first_sequence, entries.digest);
    let count = u32::try_from(entries.commands.len()).expect("a frame's bytes are bounded");
    let packed = blocking(move || timed(|| pack(&entries.commands, choice))).await;
    let Some((stored, worked)) = packed else {
        return Err(LaneError::Closed("this node stops".to_owned()));
    };
    let frame = EntriesFrame {
        subscription,
        number,
        region_epoch: head.0,
        first_sequence: head.1,
        digest: head.2,
        count,
        codec: stored.codec,
        raw_bytes: stored.raw_bytes,
        body: stored.body,
    };
    let started = Instant::now();
    // One without commands says that an epoch begins: it is rare, and nobody waits for it.
    let is_repeated = outgoing.entries(frame.encode(), may_repeat && count > 0).await?;
    add(&counters.frames_repeated, is_repeated.into());
    Ok(Written {
        raw_bytes: stored.raw_bytes as usize,
        wire_bytes: frame.wire_bytes(),
        worked,
        waited: started.elapsed(),
        is_useless: stored.is_useless,
    })
}
