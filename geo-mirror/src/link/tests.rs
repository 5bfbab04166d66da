//! Traces in `transcripts/link/`: `world.rs` says what the lines mean. `BLESS=1` rewrites the indented lines.

use std::time::Duration;

use bytes::Bytes;
use meridian_types::{RegionEpoch, ShardId, TimestampMs};
use tokio::time::Instant;

use super::*;
use crate::compression::Codec;
use crate::transcript;

/// A frame of `count` commands from `first` on, for asking `number`.
pub(crate) fn frame(number: u32, first: u64, count: u32) -> EntriesFrame {
    EntriesFrame {
        subscription: Subscription {
            shard: ShardId(3),
            number,
        },
        number: 0,
        region_epoch: RegionEpoch(1),
        first_sequence: first,
        digest: 0,
        count,
        codec: Codec::None,
        raw_bytes: count * 4,
        body: Bytes::new(),
    }
}

struct World {
    start: Instant,
    now: Instant,
    link: Link,
}

impl World {
    fn new(start: Instant) -> Self {
        let settings = LinkSettings {
            window_bytes: 600,
            apply_bytes_max: 20,
            weight: 1,
            backoff_min: Duration::from_millis(100),
            backoff_max: Duration::from_secs(5),
            silence_max: Duration::from_secs(10),
        };
        Self {
            start,
            now: start,
            link: Link::new(ShardId(3), settings, 7),
        }
    }

    /// Runs one line and says what came of it.
    fn run(&mut self, line: &str) -> String {
        let words: Vec<&str> = line.split_whitespace().collect();
        let number = |at: usize| words[at].parse::<u64>().expect("a number");
        let subscription = |at: usize| Subscription {
            shard: ShardId(3),
            number: u32::try_from(number(at)).expect("small"),
        };
        let mut said = String::new();
        match words[0] {
            "connect" => self.link.handle_connected(self.now),
            "disconnect" => self.link.handle_disconnected(self.now),
            "resume" => self.link.handle_resume(self.now),
            "end" => self.link.handle_end(),
            // cursor SEQUENCE EPOCH
            "cursor" => self.link.handle_cursor(
                self.now,
                Ok(Cursor {
                    sequence: number(1),
                    digest: 0,
                    lineage: vec![(RegionEpoch(u32::try_from(number(2)).expect("small")), 0)],
                }),
            ),
            "no-cursor" => self.link.handle_cursor(self.now, Err(SinkError::NotLeader)),
            "following" => self.link.handle_following(self.now, subscription(1)),
            // frame ASKING FIRST COUNT [EPOCH]
            "frame" => {
                let mut frame = frame(
                    subscription(1).number,
                    number(2),
                    u32::try_from(number(3)).expect("small"),
                );
                if words.len() > 4 {
                    frame.region_epoch = RegionEpoch(u32::try_from(number(4)).expect("small"));
                }
                said = match self.link.handle_entries(self.now, frame) {
                    Ok(true) => String::new(),
                    Ok(false) => "  dropped\n".to_owned(),
                    Err(error) => format!("  error: {error}\n"),
                };
            }
            // applied ASKING SEQUENCE
            "applied" => self.link.handle_applied(self.now, subscription(1), Ok(number(2))),
            "not-applied" => {
                let error = match words[2] {
                    "diverged" => SinkError::Diverged { at: 5 },
                    "out-of-step" => SinkError::OutOfStep { sequence: 5 },
                    other => panic!("{other}"),
                };
                self.link.handle_applied(self.now, subscription(1), Err(error));
            }
            // refused ASKING WHY
            "refused" => {
                let refusal = match words[2] {
                    "not-hosted" => Refusal::NotHosted,
                    "purged" => Refusal::Purged { oldest: 50 },
                    other => panic!("{other}"),
                };
                self.link.handle_refused(self.now, subscription(1), refusal);
            }
            // watermark ASKING SEQUENCE
            "watermark" => {
                let watermark = Watermark {
                    sequence: number(2),
                    closed_at: TimestampMs(0),
                };
                if !self.link.handle_watermark(self.now, subscription(1), watermark) {
                    said = "  dropped\n".to_owned();
                }
            }
            // wait MS
            "wait" => {
                let until = self.now + Duration::from_millis(number(1));
                while let Some(at) = self.link.poll_timeout().filter(|at| *at <= until) {
                    self.now = self.now.max(at);
                    self.link.handle_timeout(self.now);
                    said.push_str(&self.drain());
                }
                self.now = until;
            }
            other => panic!("no command `{other}`"),
        }
        said.push_str(&self.drain());
        said
    }

    fn drain(&mut self) -> String {
        let mut said = String::new();
        while let Some(action) = self.link.poll_action() {
            let what = match action {
                LinkAction::AskCursor => "ask the sink".to_owned(),
                LinkAction::Follow(follow) => format!(
                    "follow as {} from {}",
                    follow.subscription.number, follow.cursor.sequence
                ),
                LinkAction::Unfollow(of) => format!("unfollow {}", of.number),
                LinkAction::Apply(frames) => {
                    let (first, last) = (&frames[0], &frames[frames.len() - 1]);
                    format!("apply {}..{}", first.first_sequence, last.end_sequence())
                }
                LinkAction::Acknowledge(applied) => format!("acknowledge {}", applied.sequence),
                LinkAction::Report(refusal) => format!("report: {refusal}"),
            };
            let at = (self.now - self.start).as_millis();
            said.push_str(&format!("  {at} {what}\n"));
        }
        let age = self.link.staleness().age(self.now, Duration::ZERO);
        let age = age.map_or("unknown".to_owned(), |age| format!("{} ms", age.as_millis()));
        let lag = self.link.staleness().lag();
        let lag = lag.map_or("unknown".to_owned(), |lag| lag.to_string());
        let trouble = self.link.trouble().unwrap_or("none");
        let phase = self.link.phase();
        said.push_str(&format!(
            "  = {phase:?}, age {age}, lag {lag}, trouble: {trouble}\n"
        ));
        said
    }
}

fn play(file: &str) {
    let mut world = World::new(Instant::now());
    transcript::play("link", file, |line| world.run(line));
}

macro_rules! transcripts {
    ($($claim:ident: $file:literal,)*) => {
        $(#[tokio::test] async fn $claim() { play($file); })*
    };
}

transcripts! {
    frames_are_applied_in_order_once_and_acknowledged: "in-order.txt",
    a_break_resumes_at_the_cursor: "reconnect.txt",
    small_frames_that_have_piled_up_are_applied_together: "together.txt",
    refusals_are_retried_or_parked: "refusals.txt",
    silence_and_gaps_end_in_asking_again: "silence.txt",
    old_epochs_and_old_askings_change_nothing: "old.txt",
}

#[tokio::test]
async fn another_weight_is_told_to_the_source_at_once_and_content_goes_on_where_the_shard_stands() {
    let mut world = World::new(Instant::now());
    for line in ["connect", "cursor 0 1", "following 1", "frame 1 0 4"] {
        world.run(line);
    }
    // What is being applied comes first, or the sink would say where it stood before.
    world.link.handle_weight(9);
    assert!(world.drain().contains("unfollow 1\n  = Asking"));
    assert!(world.run("applied 1 4").contains("ask the sink"));
    world.link.handle_cursor(
        world.now,
        Ok(Cursor {
            sequence: 4,
            digest: 0,
            lineage: vec![(RegionEpoch(1), 0)],
        }),
    );
    let Some(LinkAction::Follow(follow)) = world.link.poll_action() else {
        panic!("it asks the source");
    };
    assert_eq!((follow.weight, follow.cursor.sequence), (9, 4));
    world.run("following 2");
    assert!(world.run("frame 2 4 4").contains("apply 4..8"));
    // A shard that is not followed keeps it for later.
    let mut idle = World::new(Instant::now());
    idle.link.handle_weight(3);
    assert!(idle.link.poll_action().is_none());
}
