//! The shards followed over one link, from one connection to the next.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use meridian_types::ShardId;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tracing::{debug, warn};

use crate::blocking::blocking;
use crate::body::{BodyError, unpack};
use crate::counters::add;
use crate::frame::{EntriesFrame, Frame, Subscription};
use crate::lane::LaneError;
use crate::link::{Link, LinkAction, LinkPhase};
use crate::links::{LinksShared, WantedFollow};
use crate::refusal::Refusal;
use crate::session::Session;
use crate::sink::SinkError;
use crate::source::{Cursor, Entries, Watermark};
use crate::status::{FollowState, FollowStatus};

/// What the sink has done.
pub(crate) enum Done {
    Cursor(ShardId, Result<Cursor, SinkError>),
    Applied {
        subscription: Subscription,
        count: u32,
        applied: Result<u64, SinkError>,
    },
    BadBody(Subscription, String),
}

/// All shards followed over one link.
pub(crate) struct Follows {
    shared: Arc<LinksShared>,
    shards: BTreeMap<ShardId, Followed>,
    /// Not wanted any more; they go when they have said so.
    unwanted: Vec<ShardId>,
    /// What the sink is doing. Goes on while the connection is down.
    pub(crate) tasks: JoinSet<Done>,
    /// Time there and back.
    pub(crate) rtt: Option<Duration>,
    is_connected: bool,
}

struct Followed {
    link: Link,
    wanted: WantedFollow,
    /// Bytes of frames per command, of recent ones.
    bytes_per_command: f64,
}

impl Follows {
    pub(crate) fn new(shared: Arc<LinksShared>) -> Self {
        Self {
            shared,
            shards: BTreeMap::new(),
            unwanted: Vec::new(),
            tasks: JoinSet::new(),
            rtt: None,
            is_connected: false,
        }
    }

    /// Follows these shards, and no others.
    pub(crate) fn want(&mut self, now: Instant, wanted: &BTreeMap<ShardId, WantedFollow>) {
        for (shard, followed) in &mut self.shards {
            if !wanted.contains_key(shard) {
                followed.link.handle_end();
            }
        }
        for (shard, wanted) in wanted {
            let followed = self.shards.entry(*shard).or_insert_with(|| {
                let settings = self.shared.dialler.settings.link(wanted.weight);
                Followed {
                    link: Link::new(*shard, settings, self.shared.dialler.chance()),
                    wanted: *wanted,
                    bytes_per_command: 0.0,
                }
            });
            if self.is_connected {
                followed.link.handle_connected(now);
            }
            if followed.wanted.call != wanted.call {
                followed.link.handle_resume(now);
            }
            if followed.wanted.weight != wanted.weight {
                followed.link.handle_weight(wanted.weight);
            }
            followed.wanted = *wanted;
        }
        self.unwanted = self
            .shards
            .keys()
            .filter(|shard| !wanted.contains_key(shard))
            .copied()
            .collect();
    }

    pub(crate) fn handle_connected(&mut self) {
        self.is_connected = true;
        let now = Instant::now();
        for followed in self.shards.values_mut() {
            followed.link.handle_connected(now);
        }
    }

    pub(crate) fn handle_disconnected(&mut self, now: Instant) {
        self.is_connected = false;
        for followed in self.shards.values_mut() {
            followed.link.handle_disconnected(now);
        }
    }

    /// Tells the source that nothing more is wanted.
    pub(crate) fn end_all(&mut self) {
        for followed in self.shards.values_mut() {
            followed.link.handle_end();
        }
    }

    /// After a task has failed nobody knows what it did: everything begins anew.
    pub(crate) fn forget_all(&mut self) {
        self.shards.clear();
        self.tasks.abort_all();
    }

    pub(crate) fn handle_following(&mut self, now: Instant, subscription: Subscription) {
        if let Some(followed) = self.shards.get_mut(&subscription.shard) {
            followed.link.handle_following(now, subscription);
        }
    }

    pub(crate) fn handle_refused(&mut self, now: Instant, subscription: Subscription, refusal: Refusal) {
        if let Some(followed) = self.shards.get_mut(&subscription.shard) {
            followed.link.handle_refused(now, subscription, refusal);
        }
    }

    pub(crate) fn handle_watermark(
        &mut self,
        now: Instant,
        subscription: Subscription,
        watermark: Watermark,
    ) {
        if let Some(followed) = self.shards.get_mut(&subscription.shard)
            && followed.link.handle_watermark(now, subscription, watermark)
        {
            self.shared.sink.watermark(subscription.shard, watermark);
        }
    }

    pub(crate) fn handle_entries(&mut self, now: Instant, frame: EntriesFrame) {
        let counters = &self.shared.counters;
        let bytes = frame.wire_bytes();
        add(&counters.frames_received, 1);
        add(&counters.wire_bytes_received, bytes as u64);
        add(&counters.raw_bytes_received, u64::from(frame.raw_bytes));
        let shard = frame.subscription.shard;
        let Some(followed) = self.shards.get_mut(&shard) else {
            add(&counters.frames_dropped, 1);
            return;
        };
        let per_command = bytes as f64 / f64::from(frame.count.max(1));
        followed.bytes_per_command = if followed.bytes_per_command == 0.0 {
            per_command
        } else {
            followed.bytes_per_command.mul_add(0.9, per_command * 0.1)
        };
        match followed.link.handle_entries(now, frame) {
            Ok(true) => {}
            Ok(false) => add(&counters.frames_dropped, 1),
            Err(error) => {
                add(&counters.frames_refused, 1);
                warn!(%shard, %error, "a frame of another region is refused");
            }
        }
    }

    pub(crate) fn handle_done(&mut self, now: Instant, done: Done) {
        let shard = match &done {
            Done::Cursor(shard, _) => *shard,
            Done::Applied { subscription, .. } | Done::BadBody(subscription, _) => subscription.shard,
        };
        let Some(followed) = self.shards.get_mut(&shard) else {
            return;
        };
        match done {
            Done::Cursor(_, cursor) => followed.link.handle_cursor(now, cursor),
            Done::Applied {
                subscription,
                count,
                applied,
            } => {
                match &applied {
                    Ok(_) => add(&self.shared.counters.commands_applied, u64::from(count)),
                    Err(error) => debug!(%shard, %error, "entries of another region were not taken"),
                }
                followed.link.handle_applied(now, subscription, applied);
            }
            Done::BadBody(subscription, trouble) => {
                add(&self.shared.counters.frames_refused, 1);
                warn!(%shard, %trouble, "a frame of another region is refused");
                followed.link.handle_bad_body(now, subscription, trouble);
            }
        }
    }

    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        for followed in self.shards.values_mut() {
            followed.link.handle_timeout(now);
        }
    }

    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        let timeouts = self
            .shards
            .values()
            .filter_map(|followed| followed.link.poll_timeout());
        timeouts.min()
    }

    /// Does what the links want done.
    pub(crate) fn act(&mut self, session: &mut Session) -> Result<(), LaneError> {
        let shared = &self.shared;
        for (shard, followed) in &mut self.shards {
            let shard = *shard;
            while let Some(action) = followed.link.poll_action() {
                match action {
                    LinkAction::AskCursor => {
                        let sink = shared.sink.clone();
                        self.tasks
                            .spawn(async move { Done::Cursor(shard, sink.cursor(shard).await) });
                    }
                    LinkAction::Follow(follow) => session.send(&Frame::Follow(follow))?,
                    LinkAction::Unfollow(subscription) => session.send(&Frame::Unfollow(subscription))?,
                    LinkAction::Acknowledge(applied) => session.acknowledge(applied),
                    LinkAction::Report(refusal) => {
                        add(&shared.counters.refusals_received, 1);
                        debug!(%shard, %refusal, "a shard cannot be followed");
                        shared.sink.refused(shard, refusal);
                    }
                    LinkAction::Apply(frames) => {
                        self.tasks.spawn(apply(shared.clone(), frames));
                    }
                }
            }
        }
        for shard in std::mem::take(&mut self.unwanted) {
            self.shards.remove(&shard);
        }
        Ok(())
    }

    /// Bytes of frames that wait for earlier ones.
    pub(crate) fn waiting_bytes(&self) -> usize {
        self.shards
            .values()
            .map(|followed| followed.link.waiting().1)
            .sum()
    }

    pub(crate) fn status(&self, now: Instant) -> Vec<FollowStatus> {
        let way = self.rtt.unwrap_or(Duration::ZERO) / 2;
        let status = |(shard, followed): (&ShardId, &Followed)| {
            let link = &followed.link;
            let staleness = link.staleness();
            let (commands, bytes) = link.waiting();
            FollowStatus {
                shard: *shard,
                state: match link.phase() {
                    LinkPhase::Disconnected => FollowState::Disconnected,
                    LinkPhase::Asking => FollowState::Asking,
                    LinkPhase::Following => FollowState::Following,
                    LinkPhase::Parked => FollowState::Parked,
                },
                applied_sequence: link.sequence(),
                lag_sequences: staleness.lag(),
                lag_bytes: staleness.lag().map(|lag| {
                    let elsewhere = lag.saturating_sub(commands) as f64;
                    (elsewhere * followed.bytes_per_command) as u64 + bytes as u64
                }),
                lag: staleness.age(now, way),
                complete_until: staleness.complete_until(),
                trouble: link.trouble().map(str::to_owned),
            }
        };
        self.shards.iter().map(status).collect()
    }
}

async fn apply(shared: Arc<LinksShared>, frames: Vec<EntriesFrame>) -> Done {
    let subscription = frames[0].subscription;
    let count = frames.iter().map(|frame| frame.count).sum();
    let applied = match blocking(move || unpack_run(&frames)).await {
        Some(Ok(entries)) => shared.sink.apply(subscription.shard, entries).await,
        Some(Err(error)) => return Done::BadBody(subscription, error.to_string()),
        None => Err(SinkError::Unavailable {
            reason: "this node stops".to_owned(),
        }),
    };
    Done::Applied {
        subscription,
        count,
        applied,
    }
}

/// The commands of frames that follow one another.
fn unpack_run(frames: &[EntriesFrame]) -> Result<Entries, BodyError> {
    let mut entries = unpack(&frames[0])?;
    for frame in &frames[1..] {
        let more = unpack(frame)?;
        entries.commands.extend(more.commands);
        entries.digest = more.digest;
    }
    Ok(entries)
}
