//! Traces in `transcripts/feeds/`, and what they cannot show. `BLESS=1` rewrites the indented lines.

use super::*;
use crate::transcript;

fn of(shard: u32, number: u32) -> Subscription {
    Subscription {
        shard: ShardId(shard),
        number,
    }
}

fn settings() -> FeedsSettings {
    FeedsSettings {
        frame_bytes_max: 1000,
        window_bytes: 10_000,
        writes_max: 4,
        frames_in_flight_max: 100,
        compression: CompressionSetting::Off,
    }
}

fn written(raw_bytes: usize, wire_bytes: usize) -> Written {
    Written {
        raw_bytes,
        wire_bytes,
        worked: Duration::ZERO,
        waited: Duration::ZERO,
        is_useless: false,
    }
}

struct World {
    start: Instant,
    now: Instant,
    feeds: Feeds,
    region: TokenBucket,
}

impl World {
    fn new(settings: FeedsSettings) -> Self {
        let start = Instant::now();
        Self {
            start,
            now: start,
            feeds: Feeds::new(start, settings),
            region: TokenBucket::new(start, None),
        }
    }

    fn run(&mut self, line: &str) -> String {
        let words: Vec<&str> = line.split_whitespace().collect();
        let number = |at: usize| words[at].parse::<u64>().expect("a number");
        let small = |at: usize| u32::try_from(number(at)).expect("small");
        let mut said = String::new();
        match words[0] {
            // follow SHARD ASKING WEIGHT WINDOW FROM
            "follow" => self.feeds.handle_follow(
                of(small(1), small(2)),
                u8::try_from(number(3)).expect("small"),
                small(4) as usize,
                number(5),
            ),
            "unfollow" => self.feeds.handle_unfollow(ShardId(small(1))),
            // read SHARD ASKING FIRST COUNT BYTES
            "read" => {
                let read =
                    self.feeds
                        .handle_read(of(small(1), small(2)), number(3), number(4), small(5) as usize);
                if let Err(error) = read {
                    said = format!("  error: {error}\n");
                }
            }
            // written SHARD ASKING NUMBER RAW WIRE
            "written" => self.feeds.handle_written(
                of(small(1), small(2)),
                number(3),
                written(small(4) as usize, small(5) as usize),
                &mut self.region,
            ),
            // applied SHARD ASKING SEQUENCE
            "applied" => {
                let applied = Applied {
                    subscription: of(small(1), small(2)),
                    sequence: number(3),
                };
                said = match self.feeds.handle_applied(applied) {
                    Ok(true) => "  news\n".to_owned(),
                    Ok(false) => String::new(),
                    Err(error) => format!("  error: {error}\n"),
                };
            }
            "limit" => self.feeds.handle_rate(self.now, Some(number(1))),
            "region-limit" => self.region.set_rate(self.now, Some(number(1))),
            "wait" => self.now += Duration::from_millis(number(1)),
            other => panic!("no command `{other}`"),
        }
        while let Some(action) = self.feeds.poll_action(self.now, &mut self.region) {
            let what = match action {
                FeedAction::Read {
                    subscription,
                    bytes_max,
                } => format!("read shard {} up to {bytes_max}", subscription.shard),
                FeedAction::Send {
                    subscription, number, ..
                } => format!("send shard {} frame {number}", subscription.shard),
            };
            said.push_str(&format!("  {what}\n"));
        }
        if let Some(at) = self.feeds.poll_timeout(&self.region) {
            said.push_str(&format!("  until {} ms\n", (at - self.start).as_millis()));
        }
        said
    }
}

fn play(file: &str) {
    let mut world = World::new(settings());
    transcript::play("feeds", file, |line| world.run(line));
}

macro_rules! transcripts {
    ($($claim:ident: $file:literal,)*) => {
        $(#[tokio::test] async fn $claim() { play($file); })*
    };
}

transcripts! {
    a_window_holds_until_the_mirror_has_applied: "window.txt",
    limits_hold_frames_back: "limits.txt",
    what_does_not_fit_is_refused: "wrong.txt",
}

#[tokio::test]
async fn shards_share_the_link_by_their_weights() {
    let mut world = World::new(FeedsSettings {
        window_bytes: 5_000,
        ..settings()
    });
    let mut next = [0_u64; 2];
    let mut sent = [0_u64; 2];
    world.feeds.handle_follow(of(0, 1), 1, 1 << 20, 0);
    world.feeds.handle_follow(of(1, 1), 3, 1 << 20, 0);
    for _ in 0..4000 {
        let mut done = Vec::new();
        while let Some(action) = world.feeds.poll_action(world.now, &mut world.region) {
            match action {
                FeedAction::Read { subscription, .. } => {
                    let shard = subscription.shard.0 as usize;
                    world
                        .feeds
                        .handle_read(subscription, next[shard], 1, 1000)
                        .expect("contiguous");
                    next[shard] += 1;
                }
                FeedAction::Send {
                    subscription, number, ..
                } => {
                    sent[subscription.shard.0 as usize] += 1;
                    done.push((subscription, number));
                }
            }
        }
        for (subscription, number) in done {
            world
                .feeds
                .handle_written(subscription, number, written(1000, 1000), &mut world.region);
            let applied = Applied {
                subscription,
                sequence: number + 1,
            };
            world.feeds.handle_applied(applied).expect("was sent");
        }
    }
    let ratio = sent[1] as f64 / sent[0] as f64;
    assert!((2.8..3.2).contains(&ratio), "{sent:?}");
}
