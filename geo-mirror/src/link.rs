//! One shard that is followed: what to ask for, what to apply next, when to try again. Pure.
//!
//! The cursor lies in the state of the shard itself. So whatever goes wrong, the way back is one: ask the shard where it
//! stands, and follow from there under a new number; frames of older numbers are dropped.

use std::collections::VecDeque;
use std::time::Duration;

use meridian_types::{RegionEpoch, ShardId};
use thiserror::Error;
use tokio::time::Instant;

use crate::backoff::Backoff;
use crate::frame::{Applied, EntriesFrame, Follow, Subscription};
use crate::refusal::Refusal;
use crate::reorder::{Reorder, ReorderError};
use crate::sink::SinkError;
use crate::source::{Cursor, Watermark};
use crate::staleness::Staleness;

#[cfg(test)]
pub(crate) mod tests;

/// Bounds of one followed shard.
#[derive(Clone, Copy, Debug)]
pub struct LinkSettings {
    /// Bytes of frames under way or unapplied.
    pub window_bytes: usize,
    /// Bytes of commands that are applied as one; one frame may be larger.
    pub apply_bytes_max: usize,
    /// Share of the link beside other shards.
    pub weight: u8,
    /// Wait after the first failure; doubles with each further one.
    pub backoff_min: Duration,
    /// Longest wait.
    pub backoff_max: Duration,
    /// Without an answer, a missing frame, or a watermark for so long, the shard is asked for again.
    pub silence_max: Duration,
}

/// What the driver is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LinkAction {
    /// Ask the sink where the shard stands, then tell [`Link::handle_cursor`].
    AskCursor,
    /// Tell the source.
    Follow(Follow),
    /// Tell the source.
    Unfollow(Subscription),
    /// Give the sink the commands of these frames as one, then tell [`Link::handle_applied`].
    Apply(Vec<EntriesFrame>),
    /// Tell the source.
    Acknowledge(Applied),
    /// Tell the sink.
    Report(Refusal),
}

/// Why a frame was not taken; the shard is asked for again.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum LinkError {
    /// It does not fit to what came before.
    #[error("{0}")]
    Reorder(#[from] ReorderError),
    /// A source that was the owner once.
    #[error("a frame of region epoch {found}, expected {known} or later")]
    OldEpoch {
        /// Of the frame.
        found: RegionEpoch,
        /// That this side has seen.
        known: RegionEpoch,
    },
}

/// Where a link stands, for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkPhase {
    /// There is no connection.
    Disconnected,
    /// About to ask, or waiting to ask again.
    Asking,
    /// Content flows.
    Following,
    /// Not asked for again before somebody says so.
    Parked,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Disconnected,
    /// The sink is asked, or will be when what it applies is done.
    AtSink {
        is_asked: bool,
    },
    Waiting {
        until: Instant,
    },
    AtSource {
        until: Instant,
    },
    Following,
    Parked,
}

/// One followed shard.
#[derive(Debug)]
pub struct Link {
    shard: ShardId,
    settings: LinkSettings,
    state: State,
    /// Of the last asking.
    subscription: u32,
    reorder: Reorder,
    region_epoch: RegionEpoch,
    is_applying: bool,
    sequence: u64,
    /// Since when nothing moved though something should.
    stuck_since: Option<Instant>,
    followed_at: Option<Instant>,
    staleness: Staleness,
    backoff: Backoff,
    chance: u32,
    trouble: Option<String>,
    actions: VecDeque<LinkAction>,
}

impl Link {
    /// Not connected. `seed` spreads the waits of many.
    pub fn new(shard: ShardId, settings: LinkSettings, seed: u32) -> Self {
        Self {
            shard,
            settings,
            state: State::Disconnected,
            subscription: 0,
            reorder: Reorder::new(0, 0),
            region_epoch: RegionEpoch(0),
            is_applying: false,
            sequence: 0,
            stuck_since: None,
            followed_at: None,
            staleness: Staleness::default(),
            backoff: Backoff::new(settings.backoff_min, settings.backoff_max),
            chance: seed,
            trouble: None,
            actions: VecDeque::new(),
        }
    }

    /// There is a connection.
    pub fn handle_connected(&mut self, _now: Instant) {
        if self.state == State::Disconnected {
            self.ask_sink();
        }
    }

    /// The connection is gone.
    pub fn handle_disconnected(&mut self, _now: Instant) {
        self.actions
            .retain(|action| matches!(action, LinkAction::Report(_)));
        self.forget();
        if self.state != State::Parked {
            self.state = State::Disconnected;
        }
    }

    /// Somebody wants it to go on though it is parked.
    pub fn handle_resume(&mut self, _now: Instant) {
        if self.state == State::Parked {
            self.trouble = None;
            self.ask_sink();
        }
    }

    /// Its share of the link is another one. The source learns it with the asking, so that comes again, from where the shard stands.
    pub fn handle_weight(&mut self, weight: u8) {
        self.settings.weight = weight;
        if matches!(self.state, State::AtSource { .. } | State::Following) {
            self.actions.push_back(LinkAction::Unfollow(self.subscription()));
            self.forget();
            self.ask_sink();
        }
    }

    /// Nobody wants it any more.
    pub fn handle_end(&mut self) {
        if matches!(self.state, State::AtSource { .. } | State::Following) {
            self.actions.push_back(LinkAction::Unfollow(self.subscription()));
        }
        self.forget();
        self.state = State::Disconnected;
    }

    /// The sink says where the shard stands.
    pub fn handle_cursor(&mut self, now: Instant, cursor: Result<Cursor, SinkError>) {
        if self.state != (State::AtSink { is_asked: true }) {
            return;
        }
        let cursor = match cursor {
            Ok(cursor) => cursor,
            Err(error) => return self.handle_sink_error(now, &error),
        };
        self.subscription = self.subscription.wrapping_add(1);
        self.sequence = cursor.sequence;
        self.region_epoch = cursor.lineage.last().map_or(RegionEpoch(0), |last| last.0);
        self.reorder = Reorder::new(cursor.sequence, self.settings.window_bytes);
        self.staleness.handle_restart();
        self.staleness.handle_applied(cursor.sequence);
        self.state = State::AtSource {
            until: now + self.settings.silence_max,
        };
        self.actions.push_back(LinkAction::Follow(Follow {
            subscription: self.subscription(),
            weight: self.settings.weight,
            window_bytes: u32::try_from(self.settings.window_bytes).unwrap_or(u32::MAX),
            cursor,
        }));
    }

    /// The source gives the shard from the cursor on.
    pub fn handle_following(&mut self, now: Instant, subscription: Subscription) {
        if subscription == self.subscription() && matches!(self.state, State::AtSource { .. }) {
            self.state = State::Following;
            self.followed_at = Some(now);
            self.trouble = None;
        }
    }

    /// The source does not give the shard, or no more.
    pub fn handle_refused(&mut self, now: Instant, subscription: Subscription, refusal: Refusal) {
        let is_asked = matches!(self.state, State::AtSource { .. } | State::Following);
        if subscription != self.subscription() || !is_asked {
            return;
        }
        self.forget();
        self.trouble = Some(refusal.to_string());
        if refusal.is_final() {
            self.state = State::Parked;
        } else {
            self.wait(now);
        }
        self.actions.push_back(LinkAction::Report(refusal));
    }

    /// A frame came. `Ok(false)`: it was dropped, because its commands are there, or nobody waits for it.
    pub fn handle_entries(&mut self, now: Instant, frame: EntriesFrame) -> Result<bool, LinkError> {
        // Frames may overtake the word that they are coming.
        self.handle_following(now, frame.subscription);
        if frame.subscription != self.subscription() || self.state != State::Following {
            return Ok(false);
        }
        match self.take(frame) {
            Ok(is_new) => {
                self.apply_next();
                self.look_for_gap(now);
                Ok(is_new)
            }
            Err(error) => {
                self.trouble = Some(error.to_string());
                self.ask_again(now);
                Err(error)
            }
        }
    }

    /// A frame's body was not what its head says.
    pub fn handle_bad_body(&mut self, now: Instant, subscription: Subscription, trouble: String) {
        if subscription == self.subscription() && self.state == State::Following {
            self.is_applying = false;
            self.trouble = Some(trouble);
            self.ask_again(now);
        }
    }

    /// The sink has applied what it was given, or not.
    pub fn handle_applied(
        &mut self,
        now: Instant,
        subscription: Subscription,
        applied: Result<u64, SinkError>,
    ) {
        self.is_applying = false;
        if self.state == (State::AtSink { is_asked: false }) {
            self.ask_sink();
            return;
        }
        if subscription != self.subscription() || self.state != State::Following {
            return;
        }
        match applied {
            Ok(sequence) if sequence < self.reorder.next_sequence() => {
                self.handle_sink_error(now, &SinkError::OutOfStep { sequence });
            }
            Ok(sequence) => {
                self.sequence = sequence;
                self.staleness.handle_applied(sequence);
                self.backoff.reset();
                self.actions.push_back(LinkAction::Acknowledge(Applied {
                    subscription,
                    // The shard may have come further by another way; the source knows what it sent.
                    sequence: self.reorder.next_sequence(),
                }));
                self.apply_next();
                self.look_for_gap(now);
            }
            Err(error) => self.handle_sink_error(now, &error),
        }
    }

    /// The source promised something. Returns whether it was for this asking.
    pub fn handle_watermark(
        &mut self,
        now: Instant,
        subscription: Subscription,
        watermark: Watermark,
    ) -> bool {
        let is_ours = subscription == self.subscription() && self.state == State::Following;
        if is_ours {
            self.staleness.handle_watermark(now, watermark);
        }
        is_ours
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Instant) {
        match self.state {
            State::Waiting { until } if until <= now => self.ask_sink(),
            State::AtSource { until } if until <= now => {
                self.trouble = Some("the other side did not answer".to_owned());
                self.ask_again(now);
            }
            State::Following if self.silent_at().is_some_and(|at| at <= now) => {
                self.trouble = Some(if self.stuck_since.is_some() {
                    "a frame is missing".to_owned()
                } else {
                    "no watermark came".to_owned()
                });
                self.ask_again(now);
            }
            _ => {}
        }
    }

    /// The next thing to do.
    pub fn poll_action(&mut self) -> Option<LinkAction> {
        self.actions.pop_front()
    }

    /// When to call [`Link::handle_timeout`].
    pub fn poll_timeout(&self) -> Option<Instant> {
        match self.state {
            State::Waiting { until } | State::AtSource { until } => Some(until),
            State::Following => self.silent_at(),
            State::Disconnected | State::AtSink { .. } | State::Parked => None,
        }
    }

    /// Where it stands.
    pub fn phase(&self) -> LinkPhase {
        match self.state {
            State::Disconnected => LinkPhase::Disconnected,
            State::AtSink { .. } | State::Waiting { .. } | State::AtSource { .. } => LinkPhase::Asking,
            State::Following => LinkPhase::Following,
            State::Parked => LinkPhase::Parked,
        }
    }

    /// What it said last that is wrong, until it follows again.
    pub fn trouble(&self) -> Option<&str> {
        self.trouble.as_deref()
    }

    /// Everything below is applied, as far as this link knows.
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    /// What is known about the copy's age.
    pub fn staleness(&self) -> &Staleness {
        &self.staleness
    }

    /// Commands and bytes that came and are not applied.
    pub fn waiting(&self) -> (u64, usize) {
        self.reorder.waiting()
    }

    fn subscription(&self) -> Subscription {
        Subscription {
            shard: self.shard,
            number: self.subscription,
        }
    }

    fn take(&mut self, frame: EntriesFrame) -> Result<bool, LinkError> {
        if frame.region_epoch < self.region_epoch {
            return Err(LinkError::OldEpoch {
                found: frame.region_epoch,
                known: self.region_epoch,
            });
        }
        Ok(self.reorder.insert(frame)?)
    }

    fn apply_next(&mut self) {
        if self.is_applying {
            return;
        }
        // What came while the last was applied goes as one: small frames would otherwise wait for as many rounds.
        let frames = self.reorder.pop_run(self.settings.apply_bytes_max);
        if let Some(first) = frames.first() {
            // In order, an epoch never falls.
            self.region_epoch = self.region_epoch.max(first.region_epoch);
            self.is_applying = true;
            self.actions.push_back(LinkAction::Apply(frames));
        }
    }

    fn look_for_gap(&mut self, now: Instant) {
        self.stuck_since = if self.is_applying || !self.reorder.has_gap() {
            None
        } else {
            self.stuck_since.or(Some(now))
        };
    }

    /// When patience ends.
    fn silent_at(&self) -> Option<Instant> {
        let heard = self.staleness.heard_at().max(self.followed_at)?;
        let since = self.stuck_since.map_or(heard, |stuck| stuck.min(heard));
        Some(since + self.settings.silence_max)
    }

    fn handle_sink_error(&mut self, now: Instant, error: &SinkError) {
        self.trouble = Some(error.to_string());
        if let SinkError::Diverged { .. } = error {
            if matches!(self.state, State::AtSource { .. } | State::Following) {
                self.actions.push_back(LinkAction::Unfollow(self.subscription()));
            }
            self.forget();
            self.state = State::Parked;
        } else {
            self.ask_again(now);
        }
    }

    fn ask_again(&mut self, now: Instant) {
        if matches!(self.state, State::AtSource { .. } | State::Following) {
            self.actions.push_back(LinkAction::Unfollow(self.subscription()));
        }
        self.forget();
        self.wait(now);
    }

    fn wait(&mut self, now: Instant) {
        // Any sequence that differs between shards will do.
        self.chance = self.chance.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        self.state = State::Waiting {
            until: now + self.backoff.next(self.chance),
        };
    }

    fn ask_sink(&mut self) {
        // Not before the sink is done: it would say where it stood before.
        self.state = State::AtSink {
            is_asked: !self.is_applying,
        };
        if !self.is_applying {
            self.actions.push_back(LinkAction::AskCursor);
        }
    }

    fn forget(&mut self) {
        self.reorder = Reorder::new(self.sequence, self.settings.window_bytes);
        self.stuck_since = None;
        self.followed_at = None;
    }
}
