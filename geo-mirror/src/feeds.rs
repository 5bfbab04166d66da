//! What a source sends next over one link. Pure: no clock, no socket, no bytes of records.
//!
//! Each followed shard is a feed: its next entries are read ahead, one frame at a time, and go out when the shard's and the
//! link's window and both limits on the rate leave room. Among feeds that could send, the one that has had the least by
//! its weight is next.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use meridian_types::ShardId;
use thiserror::Error;
use tokio::time::Instant;

use crate::compression::{Choice, Compression, CompressionSetting};
use crate::frame::{Applied, Subscription};
use crate::token_bucket::TokenBucket;

#[cfg(test)]
mod tests;

/// Bounds of one link.
#[derive(Clone, Copy, Debug)]
pub struct FeedsSettings {
    /// Bytes read for one frame, before compression; one command may be larger.
    pub frame_bytes_max: usize,
    /// Bytes of frames of all shards that are sent and not applied.
    pub window_bytes: usize,
    /// Frames being compressed or handed to the network.
    pub writes_max: usize,
    /// Frames of one shard that are sent and not applied.
    pub frames_in_flight_max: usize,
    /// How to compress.
    pub compression: CompressionSetting,
}

/// What the driver is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FeedAction {
    /// Read the next entries, then tell [`Feeds::handle_read`].
    Read {
        /// For which asking.
        subscription: Subscription,
        /// At most so many bytes, or one command.
        bytes_max: usize,
    },
    /// Send what was read as the frame of this number, then tell [`Feeds::handle_written`].
    Send {
        /// For which asking.
        subscription: Subscription,
        /// The frame's number.
        number: u64,
        /// How to compress it.
        choice: Choice,
    },
}

/// What is wrong with what was read, or with what a mirror says.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum FeedError {
    /// The reader is wrong: its shard is refused.
    #[error("entries from sequence {found} were read, expected {expected}")]
    NotContiguous {
        /// Where the last ended.
        expected: u64,
        /// Where these begin.
        found: u64,
    },
    /// The mirror is wrong: the link ends.
    #[error("sequence {applied} is said to be applied, {sent} was sent")]
    Ahead {
        /// What the mirror says.
        applied: u64,
        /// What went out.
        sent: u64,
    },
}

/// What came of a frame.
#[derive(Clone, Copy, Debug)]
pub struct Written {
    /// Before compression.
    pub raw_bytes: usize,
    /// As sent, everything counted.
    pub wire_bytes: usize,
    /// Time that compressing took.
    pub worked: Duration,
    /// Time until the network had taken it.
    pub waited: Duration,
    /// Compressing a sample did not pay.
    pub is_useless: bool,
}

/// One feed as it stands, for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FeedProgress {
    /// The sequence after the last command sent.
    pub sent_sequence: u64,
    /// Everything below is applied by the mirror.
    pub applied_sequence: u64,
    /// Bytes of frames that are sent and not applied.
    pub in_flight_bytes: usize,
}

/// All feeds of one link.
#[derive(Debug)]
pub struct Feeds {
    settings: FeedsSettings,
    feeds: BTreeMap<ShardId, Feed>,
    /// What the other side asked for; the region's own limit is passed in, because links share it.
    limit: TokenBucket,
    /// What was reckoned for frames being written.
    writing: BTreeMap<(Subscription, u64), usize>,
    in_flight_bytes: usize,
    /// Virtual time of the feed that sent last.
    clock: u64,
}

#[derive(Debug)]
struct Feed {
    subscription: u32,
    weight: u64,
    window_bytes: usize,
    next_sequence: u64,
    applied_sequence: u64,
    next_number: u64,
    reading: Reading,
    in_flight: VecDeque<Flight>,
    in_flight_bytes: usize,
    virtual_time: u64,
    compression: Compression,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reading {
    Idle,
    Asked,
    Ready { count: u64, raw_bytes: usize },
}

#[derive(Clone, Copy, Debug)]
struct Flight {
    number: u64,
    end_sequence: u64,
    bytes: usize,
}

impl Feeds {
    /// Nobody follows yet.
    pub fn new(now: Instant, settings: FeedsSettings) -> Self {
        Self {
            settings,
            feeds: BTreeMap::new(),
            limit: TokenBucket::new(now, None),
            writing: BTreeMap::new(),
            in_flight_bytes: 0,
            clock: 0,
        }
    }

    /// A mirror follows a shard from a sequence on; an older asking for the same shard ends.
    pub fn handle_follow(
        &mut self,
        subscription: Subscription,
        weight: u8,
        window_bytes: usize,
        sequence: u64,
    ) {
        self.handle_unfollow(subscription.shard);
        let feed = Feed {
            subscription: subscription.number,
            weight: u64::from(weight.max(1)),
            window_bytes,
            next_sequence: sequence,
            applied_sequence: sequence,
            next_number: 0,
            reading: Reading::Idle,
            in_flight: VecDeque::new(),
            in_flight_bytes: 0,
            virtual_time: self.clock,
            compression: Compression::new(self.settings.compression),
        };
        self.feeds.insert(subscription.shard, feed);
    }

    /// A shard is followed no more.
    pub fn handle_unfollow(&mut self, shard: ShardId) {
        if let Some(feed) = self.feeds.remove(&shard) {
            self.in_flight_bytes -= feed.in_flight_bytes;
        }
    }

    /// The entries that were asked for are there.
    pub fn handle_read(
        &mut self,
        subscription: Subscription,
        first_sequence: u64,
        count: u64,
        raw_bytes: usize,
    ) -> Result<(), FeedError> {
        let clock = self.clock;
        let Some(feed) = self.feed(subscription) else {
            return Ok(());
        };
        if first_sequence != feed.next_sequence {
            return Err(FeedError::NotContiguous {
                expected: feed.next_sequence,
                found: first_sequence,
            });
        }
        feed.reading = Reading::Ready { count, raw_bytes };
        // Who had nothing to send does not save it up.
        feed.virtual_time = feed.virtual_time.max(clock);
        Ok(())
    }

    /// A frame is with the network. `region` is the limit for all links to the region.
    pub fn handle_written(
        &mut self,
        subscription: Subscription,
        number: u64,
        written: Written,
        region: &mut TokenBucket,
    ) {
        let Some(estimate) = self.writing.remove(&(subscription, number)) else {
            return;
        };
        let correction = written.wire_bytes as i64 - estimate as i64;
        self.limit.take(correction);
        region.take(correction);
        let Some(feed) = self.feed(subscription) else {
            return;
        };
        feed.compression.handle_done(
            written.raw_bytes,
            written.wire_bytes,
            written.worked,
            written.waited,
        );
        if written.is_useless {
            feed.compression.handle_useless();
        }
        // It may be applied already.
        if let Ok(at) = feed
            .in_flight
            .binary_search_by_key(&number, |flight| flight.number)
        {
            let flight = &mut feed.in_flight[at];
            feed.in_flight_bytes = feed.in_flight_bytes - flight.bytes + written.wire_bytes;
            let before = flight.bytes;
            flight.bytes = written.wire_bytes;
            self.in_flight_bytes = self.in_flight_bytes - before + written.wire_bytes;
        }
    }

    /// A mirror has applied. Returns whether that is news.
    pub fn handle_applied(&mut self, applied: Applied) -> Result<bool, FeedError> {
        let Some(feed) = self.feed(applied.subscription) else {
            return Ok(false);
        };
        if applied.sequence > feed.next_sequence {
            return Err(FeedError::Ahead {
                applied: applied.sequence,
                sent: feed.next_sequence,
            });
        }
        let is_news = applied.sequence > feed.applied_sequence;
        feed.applied_sequence = feed.applied_sequence.max(applied.sequence);
        let mut freed = 0;
        while let Some(flight) = feed.in_flight.front() {
            if flight.end_sequence > applied.sequence {
                break;
            }
            freed += flight.bytes;
            feed.in_flight.pop_front();
        }
        feed.in_flight_bytes -= freed;
        self.in_flight_bytes -= freed;
        Ok(is_news)
    }

    /// The other side limits this link.
    pub fn handle_rate(&mut self, now: Instant, bytes_per_second: Option<u64>) {
        self.limit.set_rate(now, bytes_per_second);
    }

    /// The next thing to do. `region` is the limit for all links to the region.
    pub fn poll_action(&mut self, now: Instant, region: &mut TokenBucket) -> Option<FeedAction> {
        if let Some(read) = self.poll_read(region.rate()) {
            return Some(read);
        }
        if !self.limit.is_open(now) || !region.is_open(now) || self.writing.len() >= self.settings.writes_max
        {
            return None;
        }
        let settings = self.settings;
        let in_flight_bytes = self.in_flight_bytes;
        let (shard, feed) = self
            .feeds
            .iter_mut()
            .filter(|(_, feed)| feed.may_send(&settings, in_flight_bytes))
            .min_by_key(|(shard, feed)| (feed.virtual_time, shard.0))?;
        let Reading::Ready { count, raw_bytes } = feed.reading else {
            return None;
        };
        let estimate = feed.compression.estimate(raw_bytes);
        let subscription = Subscription {
            shard: *shard,
            number: feed.subscription,
        };
        let number = feed.next_number;
        let choice = feed.compression.choose(raw_bytes);
        feed.next_number += 1;
        feed.next_sequence += count;
        feed.reading = Reading::Idle;
        feed.in_flight.push_back(Flight {
            number,
            end_sequence: feed.next_sequence,
            bytes: estimate,
        });
        feed.in_flight_bytes += estimate;
        self.clock = feed.virtual_time;
        feed.virtual_time += (estimate as u64).saturating_mul(256) / feed.weight + 1;
        self.in_flight_bytes += estimate;
        self.writing.insert((subscription, number), estimate);
        self.limit.take(estimate as i64);
        region.take(estimate as i64);
        Some(FeedAction::Send {
            subscription,
            number,
            choice,
        })
    }

    /// When to ask again though nothing happened.
    pub fn poll_timeout(&self, region: &TokenBucket) -> Option<Instant> {
        let has_ready = self
            .feeds
            .values()
            .any(|feed| matches!(feed.reading, Reading::Ready { .. }));
        if !has_ready {
            return None;
        }
        self.limit.open_at().max(region.open_at())
    }

    /// The askings under way.
    pub fn subscriptions(&self) -> impl Iterator<Item = Subscription> {
        self.feeds.iter().map(|(shard, feed)| Subscription {
            shard: *shard,
            number: feed.subscription,
        })
    }

    /// How far a shard is.
    pub fn progress(&self, shard: ShardId) -> Option<FeedProgress> {
        self.feeds.get(&shard).map(|feed| FeedProgress {
            sent_sequence: feed.next_sequence,
            applied_sequence: feed.applied_sequence,
            in_flight_bytes: feed.in_flight_bytes,
        })
    }

    fn poll_read(&mut self, region: Option<u64>) -> Option<FeedAction> {
        let rate = [self.limit.rate(), region].into_iter().flatten().min();
        let frame_bytes_max = self.settings.frame_bytes_max;
        // Under a low limit a large frame would block the other shards for long.
        let bytes_max = rate.map_or(frame_bytes_max, |rate| {
            usize::try_from(rate / 20)
                .unwrap_or(usize::MAX)
                .clamp(SLOW_FRAME_BYTES.min(frame_bytes_max), frame_bytes_max)
        });
        let (shard, feed) = self
            .feeds
            .iter_mut()
            .find(|(_, feed)| feed.reading == Reading::Idle)?;
        feed.reading = Reading::Asked;
        Some(FeedAction::Read {
            subscription: Subscription {
                shard: *shard,
                number: feed.subscription,
            },
            bytes_max,
        })
    }

    fn feed(&mut self, subscription: Subscription) -> Option<&mut Feed> {
        self.feeds
            .get_mut(&subscription.shard)
            .filter(|feed| feed.subscription == subscription.number)
    }
}

/// Smallest frame that a low limit leads to.
const SLOW_FRAME_BYTES: usize = 16 << 10;

impl Feed {
    /// A frame larger than a window still passes when nothing else is under way.
    fn may_send(&self, settings: &FeedsSettings, link_in_flight_bytes: usize) -> bool {
        let Reading::Ready { raw_bytes, .. } = self.reading else {
            return false;
        };
        let bytes = self.compression.estimate(raw_bytes);
        let fits = |in_flight: usize, window: usize| in_flight == 0 || in_flight + bytes <= window;
        fits(self.in_flight_bytes, self.window_bytes)
            && fits(link_in_flight_bytes, settings.window_bytes)
            && self.in_flight.len() < settings.frames_in_flight_max
    }
}
