//! Decompression bombs: batches below `max.message.bytes` that blow up to gigabytes.

use std::io::{Read, Write};

use meridian_compat::raw::batch;

/// A codec with a bomb.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bomb {
    /// About 1,000 to 1.
    Gzip,
    /// About 20 to 1: the format allows no more.
    Snappy,
    /// About 255 to 1.
    Lz4,
    /// About 30,000 to 1.
    Zstd,
}

impl Bomb {
    /// All bombs.
    pub const ALL: [Self; 4] = [Self::Gzip, Self::Snappy, Self::Lz4, Self::Zstd];

    /// A batch with a true CRC whose single record has a value of `bytes` zeros.
    pub fn batch(self, bytes: u64) -> Vec<u8> {
        let mut head = vec![0, 0, 0, 1];
        varint(&mut head, bytes);
        // Attributes, timestamp, offset, no key, the value, no headers.
        let mut start = Vec::new();
        varint(&mut start, head.len() as u64 + bytes + 1);
        start.extend(head);
        let content = || start.as_slice().chain(std::io::repeat(0).take(bytes + 1));
        batch(self.codec(), 1, &self.compress(content()))
    }

    fn codec(self) -> i16 {
        match self {
            Self::Gzip => 1,
            Self::Snappy => 2,
            Self::Lz4 => 3,
            Self::Zstd => 4,
        }
    }

    fn compress(self, mut content: impl Read) -> Vec<u8> {
        const FITS: &str = "compressing into memory does not fail";
        match self {
            Self::Gzip => {
                let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
                std::io::copy(&mut content, &mut out).expect(FITS);
                out.finish().expect(FITS)
            }
            Self::Lz4 => {
                let info = lz4_flex::frame::FrameInfo::new();
                let mut out = lz4_flex::frame::FrameEncoder::with_frame_info(info, Vec::new());
                std::io::copy(&mut content, &mut out).expect(FITS);
                out.finish().expect(FITS)
            }
            Self::Zstd => {
                let mut out = zstd::stream::write::Encoder::new(Vec::new(), 1).expect(FITS);
                std::io::copy(&mut content, &mut out).expect(FITS);
                out.finish().expect(FITS)
            }
            Self::Snappy => snappy_that_lies(&mut content),
        }
    }
}

/// Xerial framing around a raw snappy block that claims to be 4 GiB: the length is believed before the content is seen.
fn snappy_that_lies(content: &mut impl Read) -> Vec<u8> {
    let mut literal = [0; 60];
    content.read_exact(&mut literal).expect("the content is longer");
    let mut block = vec![0xff, 0xff, 0xff, 0xff, 0x0f, (59 << 2) as u8];
    block.extend(literal);
    // Copies of 64 bytes from 60 bytes back, as many as fit.
    for _ in 0..200_000 {
        block.extend([(63 << 2) | 2, 60, 0]);
    }
    let mut out = b"\x82SNAPPY\x00".to_vec();
    out.extend([0, 0, 0, 1, 0, 0, 0, 1]);
    out.extend(u32::try_from(block.len()).expect("small").to_be_bytes());
    out.write_all(&block).expect("memory takes bytes");
    out
}

/// Zigzag of a positive number.
fn varint(out: &mut Vec<u8>, value: u64) {
    let mut rest = value << 1;
    while rest >= 0x80 {
        out.push((rest & 0x7f) as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}

#[cfg(test)]
mod tests {
    use super::*;
    use meridian_compat::raw::batches;

    #[test]
    fn every_bomb_is_a_batch_with_a_true_crc_below_the_message_limit() {
        for bomb in Bomb::ALL {
            let batch = bomb.batch(16 << 20);
            assert!(batch.len() < 1_000_000, "{bomb:?} has {} bytes", batch.len());
            let headers = batches(&batch);
            assert!(
                headers[0].crc_holds && headers[0].codec() == bomb.codec(),
                "{bomb:?}"
            );
        }
    }
}
