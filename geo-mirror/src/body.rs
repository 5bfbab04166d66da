//! The body of a frame of entries: commands, one after another, compressed as a whole or not.

use std::io::Read;

use bytes::{Buf, Bytes};
use thiserror::Error;

use crate::compression::{Choice, Codec, pays};
use crate::frame::EntriesFrame;
use crate::source::Entries;

/// Bytes before each command: its length.
const LENGTH_BYTES: usize = 4;
/// So much of a body is compressed to see whether the rest is worth it.
const SAMPLE_BYTES: usize = 32 << 10;
/// An LZ4 block cannot shrink more than this.
const LZ4_RATIO_MAX: usize = 255;

/// A body does not hold what its frame says. The frame's checksum held, so the sender is wrong: the shard is asked for
/// again.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum BodyError {
    /// Not of the codec, or cut off.
    #[error("the body cannot be decompressed: {0}")]
    Codec(String),
    /// It decompresses to another size.
    #[error("the body decompresses to another size than {expected} bytes")]
    Size {
        /// What the frame says.
        expected: usize,
    },
    /// The commands in it do not fill it.
    #[error("the body does not hold {count} whole commands")]
    Commands {
        /// What the frame says.
        count: u32,
    },
}

/// A body as it travels.
#[derive(Debug)]
pub(crate) struct Stored {
    pub(crate) codec: Codec,
    pub(crate) raw_bytes: u32,
    pub(crate) body: Bytes,
    /// Compressing a sample did not pay.
    pub(crate) is_useless: bool,
}

/// Bytes that commands take in a body that is not compressed.
pub(crate) fn raw_bytes(commands: &[Bytes]) -> usize {
    commands.iter().map(|command| LENGTH_BYTES + command.len()).sum()
}

/// Makes a body of commands. They must fit into [`crate::ENTRIES_BYTES_MAX`].
pub(crate) fn pack(commands: &[Bytes], choice: Choice) -> Stored {
    let mut raw = Vec::with_capacity(raw_bytes(commands));
    for command in commands {
        let length = u32::try_from(command.len()).expect("a frame's bytes are bounded");
        raw.extend(length.to_le_bytes());
        raw.extend_from_slice(command);
    }
    let raw_bytes = u32::try_from(raw.len()).expect("a frame's bytes are bounded");
    let packed = match choice {
        Choice::PassThrough => None,
        Choice::Try(codec, level) => Some(shrink(&raw, codec, level)),
    };
    let is_useless = matches!(packed, Some(None));
    match packed.flatten() {
        Some((codec, body)) => Stored {
            codec,
            raw_bytes,
            body: body.into(),
            is_useless,
        },
        None => Stored {
            codec: Codec::None,
            raw_bytes,
            body: raw.into(),
            is_useless,
        },
    }
}

/// The compressed bytes, if compressing pays.
fn shrink(raw: &[u8], codec: Codec, level: i32) -> Option<(Codec, Vec<u8>)> {
    if raw.len() > 4 * SAMPLE_BYTES {
        // From the middle: the first bytes are heads more than elsewhere.
        let sample = &raw[raw.len() / 2..][..SAMPLE_BYTES];
        let packed = lz4_flex::block::compress(sample);
        // What LZ4 finds nothing in may still have a skewed alphabet; a cheap look with the real codec decides.
        let is_hopeless = !pays(sample.len(), packed.len())
            && (codec == Codec::Lz4 || !pays(sample.len(), zstd_bytes(sample, 1)?.len()));
        if is_hopeless {
            return None;
        }
    }
    let packed = match codec {
        Codec::None => return None,
        Codec::Lz4 => lz4_flex::block::compress(raw),
        Codec::Zstd => zstd_bytes(raw, level)?,
    };
    pays(raw.len(), packed.len()).then_some((codec, packed))
}

fn zstd_bytes(raw: &[u8], level: i32) -> Option<Vec<u8>> {
    // Only a level that does not exist could fail, or memory; the frame then travels as it is.
    zstd::bulk::compress(raw, level).ok()
}

/// The commands of a frame, which are parts of one buffer.
pub(crate) fn unpack(frame: &EntriesFrame) -> Result<Entries, BodyError> {
    let raw = decompress(frame.codec, frame.body.clone(), frame.raw_bytes as usize)?;
    Ok(Entries {
        region_epoch: frame.region_epoch,
        first_sequence: frame.first_sequence,
        commands: split(raw, frame.count)?,
        digest: frame.digest,
    })
}

fn decompress(codec: Codec, body: Bytes, expected: usize) -> Result<Bytes, BodyError> {
    let raw = match codec {
        Codec::None => body,
        Codec::Lz4 => {
            // No more is allocated than these bytes could become.
            if expected > body.len().saturating_mul(LZ4_RATIO_MAX) {
                return Err(BodyError::Size { expected });
            }
            let raw = lz4_flex::block::decompress(&body, expected);
            raw.map_err(|error| BodyError::Codec(error.to_string()))?.into()
        }
        Codec::Zstd => {
            // Grows with what comes out: a few bytes can announce very much.
            let mut raw = Vec::with_capacity(expected.min(body.len().saturating_mul(8)));
            let decoder = zstd::stream::read::Decoder::with_buffer(&body[..]);
            decoder
                .and_then(|decoder| decoder.take(expected as u64 + 1).read_to_end(&mut raw))
                .map_err(|error| BodyError::Codec(error.to_string()))?;
            raw.into()
        }
    };
    if raw.len() == expected {
        Ok(raw)
    } else {
        Err(BodyError::Size { expected })
    }
}

fn split(mut raw: Bytes, count: u32) -> Result<Vec<Bytes>, BodyError> {
    let wrong = BodyError::Commands { count };
    // Each has at least its length, so the count is no larger than the body allows.
    if raw.len() / LENGTH_BYTES < count as usize {
        return Err(wrong);
    }
    let mut commands = Vec::with_capacity(count as usize);
    for _ in 0..count {
        let Ok(bytes) = raw.try_get_u32_le() else {
            return Err(wrong);
        };
        if bytes as usize > raw.len() {
            return Err(wrong);
        }
        commands.push(raw.split_to(bytes as usize));
    }
    if raw.is_empty() { Ok(commands) } else { Err(wrong) }
}

#[cfg(test)]
mod tests {
    use meridian_types::{RegionEpoch, ShardId};
    use proptest::prelude::*;

    use super::*;
    use crate::frame::Subscription;

    fn frame(stored: &Stored, count: usize) -> EntriesFrame {
        EntriesFrame {
            subscription: Subscription {
                shard: ShardId(1),
                number: 1,
            },
            number: 0,
            region_epoch: RegionEpoch(1),
            first_sequence: 5,
            digest: 9,
            count: u32::try_from(count).expect("few"),
            codec: stored.codec,
            raw_bytes: stored.raw_bytes,
            body: stored.body.clone(),
        }
    }

    const CHOICES: [Choice; 4] = [
        Choice::PassThrough,
        Choice::Try(Codec::Lz4, 0),
        Choice::Try(Codec::Zstd, 1),
        Choice::Try(Codec::Zstd, 9),
    ];

    #[test]
    fn text_shrinks_and_what_is_random_is_passed_through() {
        let text = vec![Bytes::from("meridian mirrors regions. ".repeat(10_000)); 3];
        let mut seed = 1_u64;
        let random: Vec<u8> = (0..300_000)
            .map(|_| {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                (seed >> 33) as u8
            })
            .collect();
        let random = vec![Bytes::from(random)];
        for choice in &CHOICES[1..] {
            let stored = pack(&text, *choice);
            assert!(stored.body.len() * 10 < raw_bytes(&text), "{choice:?}");
            assert!(!stored.is_useless);
            let stored = pack(&random, *choice);
            assert_eq!(stored.codec, Codec::None, "{choice:?}");
            assert!(stored.is_useless);
        }
    }

    #[test]
    fn a_few_bytes_that_announce_much_are_refused_without_the_memory() {
        let bomb = zstd::bulk::compress(&vec![0; 8 << 20], 1).expect("compressed");
        let stored = Stored {
            codec: Codec::Zstd,
            raw_bytes: 1000,
            body: bomb.into(),
            is_useless: false,
        };
        let refused = unpack(&frame(&stored, 1));
        assert_eq!(refused, Err(BodyError::Size { expected: 1000 }));
        let stored = Stored {
            codec: Codec::Lz4,
            raw_bytes: 100 << 20,
            body: Bytes::from_static(b"short"),
            is_useless: false,
        };
        assert!(unpack(&frame(&stored, 1)).is_err());
    }

    proptest! {
        #[test]
        fn commands_come_back_bit_for_bit(
            commands in prop::collection::vec(prop::collection::vec(0_u8..8, 0..2000), 1..20),
            choice in prop::sample::select(CHOICES.to_vec()),
        ) {
            let commands: Vec<_> = commands.into_iter().map(Bytes::from).collect();
            let stored = pack(&commands, choice);
            let entries = unpack(&frame(&stored, commands.len())).expect("unpacked");
            prop_assert_eq!(entries.commands, commands);
        }

        #[test]
        fn no_body_panics(
            body in prop::collection::vec(any::<u8>(), 0..300),
            codec in prop::sample::select(vec![Codec::None, Codec::Lz4, Codec::Zstd]),
            raw_bytes in 0_u32..5000,
            count in 1_usize..50,
        ) {
            let stored = Stored { codec, raw_bytes, body: body.into(), is_useless: false };
            if let Ok(entries) = unpack(&frame(&stored, count)) {
                prop_assert_eq!(entries.commands.len(), count);
            }
        }
    }
}
