//! The head of a frame. Layout: `docs/formats/peer.md`.

use std::io;

use bytes::{Buf, Bytes};
use crc_fast::{CrcAlgorithm, Digest};
use meridian_types::ShardId;
use thiserror::Error;

/// Bytes in front of each body.
pub(crate) const HEAD_BYTES: usize = 24;

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FrameType {
    Call = 1,
    Answer = 2,
    Refusal = 3,
    Notice = 4,
    /// Nothing to say, but still here.
    Alive = 5,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) frame: FrameType,
    /// Number of the call in its connection; 0 for notices.
    pub(crate) request: u64,
    pub(crate) kind: u16,
    pub(crate) shard: ShardId,
    pub(crate) body_bytes: u32,
}

/// Why no more frames can be read; the connection is to be closed.
#[derive(Debug, Error)]
pub(crate) enum FrameError {
    #[error("{0}")]
    Io(#[from] io::Error),
    /// Between two frames.
    #[error("the other side closed the connection")]
    Ended,
    #[error("a frame announces {announced} bytes; at most {bytes_max} are taken in this lane")]
    TooLarge { announced: u32, bytes_max: usize },
    #[error("a frame of unknown type {0}")]
    UnknownType(u8),
    #[error("a frame has a wrong checksum: {found:08x} over what came, {announced:08x} announced")]
    Checksum { announced: u32, found: u32 },
    #[error("a frame of type {0:?} has no place here")]
    Misplaced(FrameType),
}

impl Head {
    /// The head's bytes, with the checksum over themselves and the body.
    pub(crate) fn encode(&self, body: &[Bytes]) -> [u8; HEAD_BYTES] {
        let mut head = [0; HEAD_BYTES];
        head[4..8].copy_from_slice(&self.body_bytes.to_le_bytes());
        head[8..16].copy_from_slice(&self.request.to_le_bytes());
        head[16] = self.frame as u8;
        head[18..20].copy_from_slice(&self.kind.to_le_bytes());
        head[20..24].copy_from_slice(&self.shard.0.to_le_bytes());
        let mut digest = digest(&head);
        for part in body {
            digest.update(part);
        }
        head[..4].copy_from_slice(&checksum(&digest).to_le_bytes());
        head
    }

    /// Reads a head, before the checksum can be looked at.
    pub(crate) fn decode(bytes: &[u8; HEAD_BYTES], bytes_max: usize) -> Result<(Self, Check), FrameError> {
        let mut rest = &bytes[..];
        let announced = rest.get_u32_le();
        let body_bytes = rest.get_u32_le();
        let request = rest.get_u64_le();
        let frame = match rest.get_u8() {
            1 => FrameType::Call,
            2 => FrameType::Answer,
            3 => FrameType::Refusal,
            4 => FrameType::Notice,
            5 => FrameType::Alive,
            other => return Err(FrameError::UnknownType(other)),
        };
        let _reserved = rest.get_u8();
        let kind = rest.get_u16_le();
        let shard = ShardId(rest.get_u32_le());
        let head = Self {
            frame,
            request,
            kind,
            shard,
            body_bytes,
        };
        if body_bytes as usize > bytes_max {
            return Err(FrameError::TooLarge {
                announced: body_bytes,
                bytes_max,
            });
        }
        let check = Check {
            announced,
            digest: digest(bytes),
        };
        Ok((head, check))
    }
}

/// The checksum of a frame being read.
pub(crate) struct Check {
    announced: u32,
    digest: Digest,
}

impl Check {
    /// The next bytes of the body.
    pub(crate) fn update(&mut self, bytes: &[u8]) {
        self.digest.update(bytes);
    }

    /// To be called when the body is complete.
    pub(crate) fn finish(self) -> Result<(), FrameError> {
        let found = checksum(&self.digest);
        if found == self.announced {
            Ok(())
        } else {
            Err(FrameError::Checksum {
                announced: self.announced,
                found,
            })
        }
    }
}

fn digest(head: &[u8; HEAD_BYTES]) -> Digest {
    let mut digest = Digest::new(CrcAlgorithm::Crc32Iscsi);
    digest.update(&head[4..]);
    digest
}

fn checksum(digest: &Digest) -> u32 {
    u32::try_from(digest.finalize()).expect("CRC32C has 32 bits")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sample() -> Head {
        Head {
            frame: FrameType::Call,
            request: 0x0102_0304_0506_0708,
            kind: 0x0101,
            shard: ShardId::CONTROLLER,
            body_bytes: 5,
        }
    }

    #[test]
    fn a_head_is_laid_out_as_documented() {
        let mut bytes = sample()
            .encode(&[Bytes::from_static(b"hel"), Bytes::from_static(b"lo")])
            .to_vec();
        bytes.extend(b"hello");
        assert_eq!(bytes, include_bytes!("../fixtures/call-v1.bin"));
        let head = bytes.first_chunk().expect("a head");
        assert_eq!(Head::decode(head, 5).map(|(head, _)| head).ok(), Some(sample()));
    }

    #[test]
    fn the_stored_frames_of_version_1_are_written_and_read() {
        use FrameType::{Alive, Answer, Call, Notice, Refusal};

        let bodies: [(FrameType, &'static [u8]); 5] = [
            (Call, b"question"),
            (Answer, b"answer"),
            (Refusal, b"no"),
            (Notice, b"beat"),
            (Alive, b""),
        ];
        let frame = |(frame, body): &(FrameType, &'static [u8])| {
            let head = Head {
                frame: *frame,
                body_bytes: u32::try_from(body.len()).expect("short"),
                ..sample()
            };
            (
                head,
                [&head.encode(&[Bytes::from_static(body)])[..], body].concat(),
            )
        };
        let frames: Vec<(Head, Vec<u8>)> = bodies.iter().map(frame).collect();
        let written: Vec<u8> = frames.iter().flat_map(|(_, bytes)| bytes).copied().collect();
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/frames-v1.bin");
        if std::env::var_os("BLESS").is_some() {
            std::fs::write(path, &written).expect("written");
        }
        let stored = std::fs::read(path).expect("the fixture is there; BLESS=1 makes it for a new version");
        assert_eq!(written, stored);
        let mut rest = &stored[..];
        for (head, bytes) in frames {
            let (read, mut check) =
                Head::decode(rest.first_chunk().expect("a head"), 100).expect("a head of version 1");
            assert_eq!(read, head);
            check.update(&rest[HEAD_BYTES..bytes.len()]);
            check.finish().expect("the checksum holds");
            rest = &rest[bytes.len()..];
        }
        assert!(rest.is_empty());
    }

    #[test]
    fn any_flipped_bit_is_found() {
        let body = Bytes::from_static(b"hello");
        let good = sample().encode(std::slice::from_ref(&body));
        for bit in 0..(HEAD_BYTES + body.len()) * 8 {
            let mut frame = good.to_vec();
            frame.extend(&body);
            frame[bit / 8] ^= 1 << (bit % 8);
            let (head, body) = frame.split_at(HEAD_BYTES);
            let outcome =
                Head::decode(head.try_into().expect("a head"), 1 << 20).and_then(|(_, mut check)| {
                    check.update(body);
                    check.finish()
                });
            assert!(outcome.is_err(), "bit {bit}");
        }
    }

    proptest! {
        #[test]
        fn no_head_panics_and_none_passes_the_limit(bytes: [u8; HEAD_BYTES]) {
            if let Ok((head, _)) = Head::decode(&bytes, 1000) {
                prop_assert!(head.body_bytes <= 1000);
            }
        }
    }
}
