//! Whether and how hard a frame is compressed. Pure.

use std::time::Duration;

/// How a body is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Codec {
    /// As it is.
    None = 0,
    /// One block of LZ4.
    Lz4 = 1,
    /// One frame of Zstandard.
    Zstd = 2,
}

impl Codec {
    pub(crate) fn from_byte(byte: u8) -> Option<Self> {
        [Self::None, Self::Lz4, Self::Zstd]
            .get(usize::from(byte))
            .copied()
    }
}

/// What the operator wants.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CompressionSetting {
    /// As hard as pays: harder while the network is what limits, less hard while the processor is.
    #[default]
    Adaptive,
    /// Never.
    Off,
    /// Always LZ4, where it pays.
    Lz4,
    /// Always Zstandard of this level, where it pays.
    Zstd(i32),
}

/// What to do with one frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// Sends it as it is.
    PassThrough,
    /// Compresses a sample first, and the whole only when that pays.
    Try(Codec, i32),
}

/// The ladder of [`CompressionSetting::Adaptive`].
const LEVELS: [(Codec, i32); 5] = [
    (Codec::Lz4, 0),
    (Codec::Zstd, 1),
    (Codec::Zstd, 3),
    (Codec::Zstd, 6),
    (Codec::Zstd, 9),
];
const FIRST_LEVEL: usize = 1;
/// Smaller frames are sent as they are.
const BYTES_MIN: usize = 256;
/// Frames that are passed through after one that did not pay.
const REST: u32 = 8;
/// Frames between two steps on the ladder.
const STEP: u32 = 16;
/// A body must shrink below this share of itself, in percent.
const PAYS_BELOW_PERCENT: usize = 94;

/// Decides for the frames of one shard: they resemble one another.
#[derive(Clone, Debug)]
pub struct Compression {
    setting: CompressionSetting,
    level: usize,
    /// Frames still to be passed through.
    resting: u32,
    frames: u32,
    worked: Duration,
    waited: Duration,
    /// Stored bytes per raw byte of recent frames, in 1/1024.
    ratio: u64,
}

impl Compression {
    /// Nothing is known yet.
    pub fn new(setting: CompressionSetting) -> Self {
        Self {
            setting,
            level: FIRST_LEVEL,
            resting: 0,
            frames: 0,
            worked: Duration::ZERO,
            waited: Duration::ZERO,
            ratio: 1024,
        }
    }

    /// What to do with the next frame.
    pub fn choose(&mut self, raw_bytes: usize) -> Choice {
        if raw_bytes < BYTES_MIN {
            return Choice::PassThrough;
        }
        if self.resting > 0 {
            self.resting -= 1;
            return Choice::PassThrough;
        }
        match self.setting {
            CompressionSetting::Off => Choice::PassThrough,
            CompressionSetting::Lz4 => Choice::Try(Codec::Lz4, 0),
            CompressionSetting::Zstd(level) => Choice::Try(Codec::Zstd, level),
            CompressionSetting::Adaptive => {
                let (codec, level) = LEVELS[self.level];
                Choice::Try(codec, level)
            }
        }
    }

    /// Tells what came of a frame: its sizes, how long compressing took, and how long the network made it wait.
    pub fn handle_done(&mut self, raw_bytes: usize, stored_bytes: usize, worked: Duration, waited: Duration) {
        if raw_bytes >= BYTES_MIN {
            let ratio = (stored_bytes as u64).saturating_mul(1024) / raw_bytes as u64;
            self.ratio = (self.ratio * 7 + ratio.min(1024)) / 8;
        }
        self.worked += worked;
        self.waited += waited;
        self.frames += 1;
        if self.frames < STEP {
            return;
        }
        // The network is the slower of the two by far, or the processor is.
        if self.waited > self.worked * 4 {
            self.level = (self.level + 1).min(LEVELS.len() - 1);
        } else if self.waited < self.worked {
            self.level = self.level.saturating_sub(1);
        }
        self.frames = 0;
        self.worked = Duration::ZERO;
        self.waited = Duration::ZERO;
    }

    /// The sample did not pay: the batches are compressed already, or random.
    pub fn handle_useless(&mut self) {
        self.resting = REST;
    }

    /// How many bytes a frame will probably have on the wire.
    pub fn estimate(&self, raw_bytes: usize) -> usize {
        usize::try_from((raw_bytes as u64).saturating_mul(self.ratio) / 1024).unwrap_or(raw_bytes)
    }
}

/// Whether compressing was worth its time.
pub(crate) fn pays(raw_bytes: usize, stored_bytes: usize) -> bool {
    stored_bytes < raw_bytes / 100 * PAYS_BELOW_PERCENT + raw_bytes % 100
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn settle(compression: &mut Compression, worked: Duration, waited: Duration) -> Choice {
        for _ in 0..200 {
            compression.handle_done(1 << 20, 1 << 18, worked, waited);
        }
        compression.choose(1 << 20)
    }

    #[test]
    fn it_compresses_harder_while_the_network_is_the_slower_and_less_while_the_processor_is() {
        let mut compression = Compression::new(CompressionSetting::Adaptive);
        assert_eq!(compression.choose(1 << 20), Choice::Try(Codec::Zstd, 1));
        assert_eq!(settle(&mut compression, MS, 50 * MS), Choice::Try(Codec::Zstd, 9));
        assert_eq!(settle(&mut compression, 5 * MS, MS), Choice::Try(Codec::Lz4, 0));
        // In between it stays.
        let mut compression = Compression::new(CompressionSetting::Adaptive);
        assert_eq!(settle(&mut compression, MS, 2 * MS), Choice::Try(Codec::Zstd, 1));
    }

    #[test]
    fn what_does_not_pay_is_passed_through_for_a_while_and_tried_again() {
        let mut compression = Compression::new(CompressionSetting::Zstd(3));
        assert_eq!(compression.choose(1 << 20), Choice::Try(Codec::Zstd, 3));
        compression.handle_useless();
        for _ in 0..REST {
            assert_eq!(compression.choose(1 << 20), Choice::PassThrough);
        }
        assert_eq!(compression.choose(1 << 20), Choice::Try(Codec::Zstd, 3));
    }

    #[test]
    fn the_estimate_follows_what_frames_came_to() {
        let mut compression = Compression::new(CompressionSetting::Adaptive);
        assert_eq!(compression.estimate(1000), 1000);
        settle(&mut compression, MS, MS);
        let estimate = compression.estimate(1 << 20);
        assert!((1 << 18..(1 << 18) + 20_000).contains(&estimate), "{estimate}");
    }

    #[test]
    fn small_frames_are_sent_as_they_are() {
        assert_eq!(
            Compression::new(CompressionSetting::Lz4).choose(100),
            Choice::PassThrough
        );
    }
}
