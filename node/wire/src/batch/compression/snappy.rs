//! Snappy as Kafka uses it: snappy-java's chunks, or one bare block.
//!
//! ```text
//! 82 'S' 'N' 'A' 'P' 'P' 'Y' 00    version: i32    lowest compatible version: i32
//! then chunks: length: i32, one Snappy block of that length
//! ```

use super::{Compression, CompressionError, corrupt};

const MAGIC: [u8; 8] = *b"\x82SNAPPY\0";
const VERSION: i32 = 1;
const HEADER_BYTES: usize = 16;
/// What snappy-java puts into one chunk.
const CHUNK_BYTES: usize = 32 * 1024;
/// Snappy's best case is a copy of 64 bytes out of 3, so a block that announces more is a lie.
const RATIO_MAX: usize = 22;

/// Decompresses chunk after chunk, or the one bare block.
pub(super) struct SnappyReader<'a> {
    rest: &'a [u8],
    is_chunked: bool,
    block: Vec<u8>,
    at: usize,
    left_bytes: usize,
    limit_bytes: usize,
}

impl<'a> SnappyReader<'a> {
    pub(super) fn new(data: &'a [u8], limit_bytes: usize) -> Result<Self, CompressionError> {
        let is_chunked = data.starts_with(&MAGIC);
        let rest = if is_chunked {
            data.get(HEADER_BYTES..)
                .ok_or_else(|| malformed("its header is cut short"))?
        } else {
            data
        };
        Ok(Self {
            rest,
            is_chunked,
            block: Vec::new(),
            at: 0,
            left_bytes: limit_bytes,
            limit_bytes,
        })
    }

    pub(super) fn read(&mut self, output: &mut [u8]) -> Result<usize, CompressionError> {
        while self.at == self.block.len() {
            if self.rest.is_empty() {
                return Ok(0);
            }
            let block = self.next_block()?;
            self.decompress(block)?;
        }
        let len = output.len().min(self.block.len() - self.at);
        output[..len].copy_from_slice(&self.block[self.at..self.at + len]);
        self.at += len;
        Ok(len)
    }

    fn next_block(&mut self) -> Result<&'a [u8], CompressionError> {
        if !self.is_chunked {
            return Ok(std::mem::take(&mut self.rest));
        }
        let (len, rest) = self
            .rest
            .split_first_chunk()
            .ok_or_else(|| malformed("a chunk is cut short"))?;
        let len = i32::from_be_bytes(*len);
        let len = usize::try_from(len).map_err(|_| malformed("a chunk has a negative length"))?;
        let (block, rest) = rest
            .split_at_checked(len)
            .ok_or_else(|| malformed("a chunk is cut short"))?;
        self.rest = rest;
        Ok(block)
    }

    fn decompress(&mut self, block: &[u8]) -> Result<(), CompressionError> {
        let len = snap::raw::decompress_len(block).map_err(|error| corrupt(Compression::Snappy, &error))?;
        if len > block.len().saturating_mul(RATIO_MAX) {
            return Err(malformed("a block announces more than Snappy can hold in it"));
        }
        self.left_bytes = self
            .left_bytes
            .checked_sub(len)
            .ok_or(CompressionError::TooLarge {
                limit_bytes: self.limit_bytes,
            })?;
        self.block.resize(len, 0);
        self.at = 0;
        let written = snap::raw::Decoder::new()
            .decompress(block, &mut self.block)
            .map_err(|error| corrupt(Compression::Snappy, &error))?;
        self.block.truncate(written);
        Ok(())
    }
}

/// Appends `data` in snappy-java's chunks.
pub(super) fn compress(data: &[u8], output: &mut Vec<u8>) -> Result<(), CompressionError> {
    output.extend_from_slice(&MAGIC);
    output.extend_from_slice(&VERSION.to_be_bytes());
    output.extend_from_slice(&VERSION.to_be_bytes());
    let mut encoder = snap::raw::Encoder::new();
    for chunk in data.chunks(CHUNK_BYTES) {
        let len_at = output.len();
        let start = len_at + 4;
        output.resize(start + snap::raw::max_compress_len(chunk.len()), 0);
        let len = encoder
            .compress(chunk, &mut output[start..])
            .map_err(|error| corrupt(Compression::Snappy, &error))?;
        output.truncate(start + len);
        output[len_at..start].copy_from_slice(&(len as i32).to_be_bytes());
    }
    Ok(())
}

fn malformed(message: &str) -> CompressionError {
    corrupt(Compression::Snappy, &message)
}
