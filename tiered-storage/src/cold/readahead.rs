//! How far to read ahead of whom. Pure.

use std::collections::{BTreeMap, VecDeque};

use meridian_types::{Offset, Partition};

/// Places of readers that are remembered. A reader whose place is forgotten begins with a small window again.
const STREAMS_MAX: usize = 4096;

/// The first window, in bytes before compression by frames.
pub(super) const WINDOW_BYTES_MIN: u64 = 1 << 20;

/// One who reads a partition from front to back: known by the offset it will ask for next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stream {
    /// How much is to be on its way or there, ahead of the reader.
    window_bytes: u64,
    /// Up to where it was asked for, exclusive.
    ahead_until: Offset,
    /// How many bytes that is from the reader on.
    ahead_bytes: u64,
}

/// What to read ahead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ahead {
    /// From this offset on.
    pub(super) from: Offset,
    /// So many bytes.
    pub(super) bytes: u64,
}

/// All who read on.
#[derive(Debug)]
pub(super) struct Streams {
    window_bytes_max: u64,
    known: BTreeMap<(Partition, Offset), Stream>,
    by_age: VecDeque<(Partition, Offset)>,
}

impl Streams {
    /// Windows grow up to `window_bytes_max`.
    pub(super) fn new(window_bytes_max: u64) -> Self {
        Self {
            window_bytes_max,
            known: BTreeMap::new(),
            by_age: VecDeque::new(),
        }
    }

    /// A reader asked for `from`, and got `bytes` up to `next`. Says what to read ahead of it now.
    ///
    /// Reads ahead only when less than half of the window is left, so that requests are large.
    pub(super) fn advance(
        &mut self,
        partition: Partition,
        from: Offset,
        next: Offset,
        bytes: u64,
    ) -> Option<Ahead> {
        let mut stream = match self.known.get(&(partition, from)) {
            Some(stream) => Stream {
                window_bytes: (stream.window_bytes * 2).min(self.window_bytes_max),
                ahead_bytes: stream.ahead_bytes.saturating_sub(bytes),
                ahead_until: stream.ahead_until,
            },
            None => Stream {
                window_bytes: WINDOW_BYTES_MIN.min(self.window_bytes_max),
                ahead_until: next,
                ahead_bytes: 0,
            },
        };
        // Another reader of the same offsets came by: what was asked for ahead of it serves this one too.
        if let Some(other) = self.known.get(&(partition, next))
            && other.ahead_until > stream.ahead_until
        {
            stream = Stream {
                window_bytes: stream.window_bytes.max(other.window_bytes),
                ..*other
            };
        }
        if stream.ahead_until <= next {
            stream.ahead_until = next;
            stream.ahead_bytes = 0;
        }
        let ahead = (stream.ahead_bytes < stream.window_bytes.div_ceil(2)).then_some(Ahead {
            from: stream.ahead_until,
            bytes: stream.window_bytes.saturating_sub(stream.ahead_bytes),
        });
        self.remember((partition, next), stream);
        ahead
    }

    /// What was asked for ahead of the reader that will ask for `next`: `bytes` more, up to `until`.
    pub(super) fn asked(&mut self, partition: Partition, next: Offset, until: Offset, bytes: u64) {
        if let Some(stream) = self.known.get_mut(&(partition, next)) {
            stream.ahead_until = stream.ahead_until.max(until);
            stream.ahead_bytes += bytes;
        }
    }

    /// Places that were passed stay known until they are the oldest: others may read the same offsets.
    fn remember(&mut self, key: (Partition, Offset), stream: Stream) {
        if self.known.insert(key, stream).is_none() {
            self.by_age.push_back(key);
        }
        while self.by_age.len() > STREAMS_MAX {
            if let Some(oldest) = self.by_age.pop_front() {
                self.known.remove(&oldest);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use meridian_types::{TopicId, Uuid};

    const MIB: u64 = 1 << 20;

    fn partition() -> Partition {
        Partition {
            topic: TopicId(Uuid::from_u128(1)),
            index: 0,
        }
    }

    /// Reads on in steps of 1 MiB, an offset each; returns what was read ahead.
    fn read_on(streams: &mut Streams, steps: std::ops::Range<u64>) -> Vec<Option<Ahead>> {
        steps
            .map(|at| {
                let ahead = streams.advance(partition(), Offset(at), Offset(at + 1), MIB);
                if let Some(ahead) = ahead {
                    let until = ahead.from.plus(ahead.bytes / MIB);
                    streams.asked(partition(), Offset(at + 1), until, ahead.bytes);
                }
                ahead
            })
            .collect()
    }

    #[test]
    fn the_window_doubles_to_its_maximum_and_requests_stay_large() {
        let mut streams = Streams::new(16 * MIB);
        let asked = read_on(&mut streams, 0..64);
        let sizes: Vec<u64> = asked.iter().flatten().map(|ahead| ahead.bytes / MIB).collect();
        assert_eq!(&sizes[..4], &[1, 2, 3, 5]);
        assert!(sizes[6..].iter().all(|size| *size >= 8), "{sizes:?}");
        // Each range is asked for once, and they follow one another.
        let mut end = 1;
        for ahead in asked.iter().flatten() {
            assert_eq!(ahead.from, Offset(end));
            end += ahead.bytes / MIB;
        }
    }

    #[test]
    fn a_reader_that_jumps_begins_small_again() {
        let mut streams = Streams::new(16 * MIB);
        read_on(&mut streams, 0..20);
        let ahead = streams
            .advance(partition(), Offset(500), Offset(501), MIB)
            .unwrap();
        assert_eq!((ahead.from, ahead.bytes), (Offset(501), MIB));
    }

    #[test]
    fn readers_in_step_share_what_is_ahead() {
        let mut streams = Streams::new(16 * MIB);
        let mut asked = 0;
        for at in 0..64 {
            for _ in 0..4 {
                asked += read_on(&mut streams, at..at + 1)
                    .iter()
                    .flatten()
                    .map(|ahead| ahead.bytes / MIB)
                    .sum::<u64>();
            }
        }
        assert!(asked <= 64 + 16, "64 MiB are there, {asked} MiB were asked for");
    }

    #[test]
    fn what_was_not_asked_for_is_proposed_again() {
        let mut streams = Streams::new(16 * MIB);
        for at in 0..10 {
            let ahead = streams
                .advance(partition(), Offset(at), Offset(at + 1), MIB)
                .unwrap();
            assert_eq!(ahead.from, Offset(at + 1));
        }
    }

    #[test]
    fn memory_is_bounded_however_many_read() {
        let mut streams = Streams::new(16 * MIB);
        for at in 0..100_000 {
            streams.advance(partition(), Offset(at * 10), Offset(at * 10 + 1), MIB);
        }
        read_on(&mut streams, 2_000_000..2_100_000);
        assert_eq!(streams.known.len(), streams.by_age.len());
        assert!(streams.known.len() <= STREAMS_MAX);
    }
}
