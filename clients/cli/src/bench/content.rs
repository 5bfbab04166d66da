//! What benchmark records hold, so that a reader can tell whether each came once, whole and in order. Pure.
//!
//! ```text
//! run        u64   differs from run to run
//! producer   u32   who wrote it
//! sequence   u64   counts the producer's records from 0
//! crc        u32   CRC32C of all other bytes
//! text             up to the size asked for
//! ```
//!
//! The text is lines of JSON with random numbers, which compress to a third or a quarter, as events do. A server that compresses or
//! deduplicates must neither get away with one record, nor be given what nobody stores.

use std::collections::HashMap;

use crc_fast::{CrcAlgorithm, Digest};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

/// Smallest value that holds what a reader needs.
pub(super) const VALUE_BYTES_MIN: usize = 24;

/// What a value says about itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mark {
    pub(super) run: u64,
    pub(super) producer: u32,
    pub(super) sequence: u64,
}

/// Text that is at hand at once: more than any compressor looks back.
const TEXT_BYTES: usize = 16 << 20;
/// Producers begin so far apart in it.
const PRODUCER_BYTES: usize = 999_983;

/// Where the text of values comes from.
pub(super) struct Content {
    text: Vec<u8>,
    value_bytes: usize,
}

impl Content {
    /// For values of one size. Makes all of the text: before a clock runs.
    pub(super) fn new(value_bytes: usize) -> Self {
        Self {
            text: text(1, TEXT_BYTES + value_bytes),
            value_bytes,
        }
    }

    /// The value of a mark, written over `value`.
    pub(super) fn write(&self, value: &mut Vec<u8>, mark: Mark) {
        let sequence = usize::try_from(mark.sequence).unwrap_or(usize::MAX);
        let from_producer = PRODUCER_BYTES.wrapping_mul(mark.producer as usize);
        let at = from_producer.wrapping_add(sequence.wrapping_mul(self.value_bytes)) % TEXT_BYTES;
        value.clear();
        value.extend_from_slice(&self.text[at..at + self.value_bytes]);
        write_mark(value, mark);
    }
}

/// Lines of JSON with random numbers in them; `seed` decides these.
pub(super) fn text(seed: u64, bytes: usize) -> Vec<u8> {
    use std::io::Write;
    let mut random = SmallRng::seed_from_u64(seed);
    let mut text = Vec::with_capacity(bytes + 128);
    while text.len() < bytes {
        let (order, customer, amount) = (
            random.random::<u64>(),
            random.random_range(0..1_000_000),
            random.random_range(0..100_000),
        );
        writeln!(
            text,
            "{{\"order\":\"{order:016x}\",\"customer\":{customer},\"state\":\"shipped\",\"amount\":{amount}}}"
        )
        .expect("a vector takes everything");
    }
    text.truncate(bytes);
    text
}

/// Writes mark and checksum over the front of `value`, which has [`VALUE_BYTES_MIN`] bytes or more.
fn write_mark(value: &mut [u8], mark: Mark) {
    value[0..8].copy_from_slice(&mark.run.to_be_bytes());
    value[8..12].copy_from_slice(&mark.producer.to_be_bytes());
    value[12..20].copy_from_slice(&mark.sequence.to_be_bytes());
    let crc = checksum(value);
    value[20..24].copy_from_slice(&crc.to_be_bytes());
}

/// Reads a mark. `None`: too short, or the checksum does not match.
pub(super) fn read_mark(value: &[u8]) -> Option<Mark> {
    if value.len() < VALUE_BYTES_MIN || checksum(value).to_be_bytes() != value[20..24] {
        return None;
    }
    Some(Mark {
        run: u64::from_be_bytes(value[0..8].try_into().ok()?),
        producer: u32::from_be_bytes(value[8..12].try_into().ok()?),
        sequence: u64::from_be_bytes(value[12..20].try_into().ok()?),
    })
}

fn checksum(value: &[u8]) -> u32 {
    let mut digest = Digest::new(CrcAlgorithm::Crc32Iscsi);
    digest.update(&value[..20]);
    digest.update(&value[24..]);
    // CRC32C has 32 bits; the digest carries them in 64.
    digest.finalize() as u32
}

/// What a verifier has found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Verdict {
    /// Records of this run, whole.
    pub(super) records: u64,
    /// Records whose checksum does not match.
    pub(super) corrupt: u64,
    /// Records of other runs, or not of a benchmark.
    pub(super) foreign: u64,
    /// Records that came again.
    pub(super) duplicates: u64,
    /// Records that came behind a later one of the same producer in the same partition.
    pub(super) reordered: u64,
}

/// Checks that each record comes once, whole and in order.
#[derive(Debug, Default)]
pub(super) struct Verifier {
    run: Option<u64>,
    verdict: Verdict,
    seen: HashMap<u32, Bitmap>,
    last: HashMap<(u32, u32), u64>,
}

/// A set of sequences. They are dense, so a bit each is less than anything else.
#[derive(Debug, Default)]
struct Bitmap {
    words: Vec<u64>,
    count: u64,
}

/// Sequences beyond this are a fault: they would make the bitmap as large as they like.
const SEQUENCE_MAX: u64 = 1 << 36;

impl Verifier {
    /// Checks the records of one run; without one, those of the first run that is met.
    pub(super) fn new(run: Option<u64>) -> Self {
        Self {
            run,
            ..Self::default()
        }
    }

    /// Takes a value that was read from `partition`; says its mark if it is of this run.
    pub(super) fn take(&mut self, partition: u32, value: &[u8]) -> Option<Mark> {
        let Some(mark) = read_mark(value).filter(|mark| mark.sequence < SEQUENCE_MAX) else {
            let is_of_run =
                value.len() >= VALUE_BYTES_MIN && self.run.is_some_and(|run| value[..8] == run.to_be_bytes());
            if is_of_run {
                self.verdict.corrupt += 1;
            } else {
                self.verdict.foreign += 1;
            }
            return None;
        };
        if *self.run.get_or_insert(mark.run) != mark.run {
            self.verdict.foreign += 1;
            return None;
        }
        self.verdict.records += 1;
        if !self.seen.entry(mark.producer).or_default().insert(mark.sequence) {
            self.verdict.duplicates += 1;
        }
        let last = self
            .last
            .entry((mark.producer, partition))
            .or_insert(mark.sequence);
        if mark.sequence < *last {
            self.verdict.reordered += 1;
        }
        *last = mark.sequence.max(*last);
        Some(mark)
    }

    /// What was found so far.
    pub(super) fn verdict(&self) -> Verdict {
        self.verdict
    }

    /// How many of a producer's first `count` sequences have not come.
    pub(super) fn missing(&self, producer: u32, count: u64) -> u64 {
        match self.seen.get(&producer) {
            Some(seen) => count - seen.count_below(count),
            None => count,
        }
    }

    /// How many sequences have not come, up to each producer's greatest that has.
    pub(super) fn gaps(&self) -> u64 {
        self.seen.values().map(|seen| seen.end() - seen.count).sum()
    }
}

impl Bitmap {
    fn insert(&mut self, bit: u64) -> bool {
        let (word, mask) = ((bit / 64) as usize, 1 << (bit % 64));
        if self.words.len() <= word {
            self.words.resize(word + 1, 0);
        }
        let is_new = self.words[word] & mask == 0;
        self.words[word] |= mask;
        self.count += u64::from(is_new);
        is_new
    }

    fn end(&self) -> u64 {
        self.words.last().map_or(0, |last| {
            (self.words.len() as u64) * 64 - u64::from(last.leading_zeros())
        })
    }

    fn count_below(&self, end: u64) -> u64 {
        let whole = (end / 64) as usize;
        let ones: u32 = self.words.iter().take(whole).map(|word| word.count_ones()).sum();
        let rest = self
            .words
            .get(whole)
            .map_or(0, |word| (word & ((1 << (end % 64)) - 1)).count_ones());
        u64::from(ones) + u64::from(rest)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use super::*;

    fn value(producer: u32, sequence: u64) -> Vec<u8> {
        static CONTENT: LazyLock<Content> = LazyLock::new(|| Content::new(40));
        let mut value = Vec::new();
        CONTENT.write(
            &mut value,
            Mark {
                run: 9,
                producer,
                sequence,
            },
        );
        value
    }

    #[test]
    fn neighbouring_values_differ_and_compress_as_events_do() {
        let content = Content::new(1000);
        let (mut value, mut all) = (Vec::new(), Vec::new());
        for sequence in 0..1000 {
            let mark = Mark {
                run: 9,
                producer: 3,
                sequence,
            };
            content.write(&mut value, mark);
            assert_eq!((value.len(), read_mark(&value)), (1000, Some(mark)));
            all.extend_from_slice(&value);
        }
        let packed = zstd::bulk::compress(&all, 3).unwrap();
        let ratio = all.len() / packed.len();
        assert!(
            (2..=5).contains(&ratio),
            "{} bytes of {}",
            packed.len(),
            all.len()
        );
    }

    #[test]
    fn a_damaged_value_is_told_from_a_foreign_one() {
        let mut verifier = Verifier::new(Some(9));
        let mut damaged = value(1, 0);
        damaged[30] ^= 1;
        verifier.take(0, &damaged);
        verifier.take(0, b"something else that is long enough");
        verifier.take(0, b"short");
        let verdict = verifier.verdict();
        assert_eq!((verdict.corrupt, verdict.foreign, verdict.records), (1, 2, 0));
    }

    #[test]
    fn losses_duplicates_and_reorders_are_counted() {
        let mut verifier = Verifier::new(None);
        for (partition, sequence) in [(0, 0), (1, 1), (0, 2), (0, 2), (1, 4), (1, 3), (0, 70)] {
            verifier.take(partition, &value(1, sequence));
        }
        let verdict = verifier.verdict();
        assert_eq!(
            (verdict.records, verdict.duplicates, verdict.reordered),
            (7, 1, 1)
        );
        assert_eq!(verifier.missing(1, 5), 0);
        assert_eq!(verifier.missing(1, 71), 65);
        assert_eq!(verifier.gaps(), 65);
        assert_eq!(verifier.missing(2, 3), 3, "a producer that was never seen");
    }
}
