//! The five codecs of a batch's records, with a hard limit on what comes out.
//!
//! Readers take what Kafka's clients write: gzip; Snappy in snappy-java's chunks (Java, franz-go, Python) or
//! bare (librdkafka); LZ4 frames of every block size with or without checksums; zstd of every level. Writers make
//! what all of them read.

use std::cell::RefCell;
use std::fmt;
use std::io::{Cursor, Read, Write};

use flate2::bufread::MultiGzDecoder;
use flate2::write::GzEncoder;
use thiserror::Error;

use self::snappy::SnappyReader;
use super::error::BatchError;
use super::layout;

mod snappy;

/// Decompressed bytes are passed on in steps of this size.
const STEP_BYTES: usize = 16 * 1024;

/// Largest zstd window accepted, as a power of two: what level 22 uses when it does not know the length, and
/// zstd's own default limit. The decoder reserves a window of this size but touches only what is decompressed.
const ZSTD_WINDOW_LOG_MAX: u32 = 27;

/// How the records of a batch are compressed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Compression {
    /// Not at all.
    #[default]
    None,
    /// RFC 1952.
    Gzip,
    /// Snappy, in snappy-java's chunks.
    Snappy,
    /// LZ4 frame format.
    Lz4,
    /// RFC 8878; from Produce v7 and Fetch v10 on.
    Zstd,
}

impl Compression {
    /// All codecs, in the order of their codes.
    pub const ALL: [Self; 5] = [Self::None, Self::Gzip, Self::Snappy, Self::Lz4, Self::Zstd];

    /// The code in bits 0 to 2 of a batch's attributes.
    pub fn code(self) -> u8 {
        match self {
            Self::None => 0,
            Self::Gzip => 1,
            Self::Snappy => 2,
            Self::Lz4 => 3,
            Self::Zstd => 4,
        }
    }

    /// The codec of `attributes`. Errors: `Compression` for an unassigned code.
    pub(super) fn from_attributes(attributes: i16) -> Result<Self, BatchError> {
        let code = (attributes & layout::COMPRESSION_MASK) as u8;
        Self::ALL
            .get(usize::from(code))
            .copied()
            .ok_or(BatchError::Compression { code })
    }

    /// The name in Kafka's settings, such as `compression.type=lz4`.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Gzip => "gzip",
            Self::Snappy => "snappy",
            Self::Lz4 => "lz4",
            Self::Zstd => "zstd",
        }
    }

    /// The codec of a name in Kafka's settings.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|codec| codec.name() == name)
    }
}

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A block of records that does not decompress. Retrying does not help: the sender must send something else.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum CompressionError {
    /// Not what the codec writes, or damaged.
    #[error("the records do not decompress as {codec}: {message}")]
    Corrupt {
        /// The codec that the batch names.
        codec: Compression,
        /// What the codec found.
        message: String,
    },
    /// More comes out than the limit. Send smaller batches.
    #[error("the records decompress to more than {limit_bytes} bytes")]
    TooLarge {
        /// The limit.
        limit_bytes: usize,
    },
}

/// Decompresses `block` whole.
///
/// Memory grows with what comes out, to `output_bytes_max` at most.
/// Errors: `TooLarge` when more would come out, `Corrupt` when the block is not of this codec.
pub fn decompress(
    codec: Compression,
    block: &[u8],
    output_bytes_max: usize,
) -> Result<Vec<u8>, CompressionError> {
    let mut output = Vec::new();
    let len = decompress_into(codec, block, output_bytes_max, &mut output)?;
    output.truncate(len);
    Ok(output)
}

/// Decompresses `block` to the start of `output`, which grows when it must and is never made shorter; returns how
/// many bytes of it count.
///
/// Errors: as [`decompress`].
pub(super) fn decompress_into(
    codec: Compression,
    block: &[u8],
    output_bytes_max: usize,
    output: &mut Vec<u8>,
) -> Result<usize, CompressionError> {
    let mut source = Decompressor::new(codec, block, output_bytes_max)?;
    let mut len = 0;
    loop {
        if len == output.len() {
            // One byte more than allowed, so that the reader notices the excess.
            let more = len.max(2 * block.len()).max(STEP_BYTES);
            output.resize((len + more).min(output_bytes_max.saturating_add(1)), 0);
        }
        match source.read(&mut output[len..])? {
            0 => return Ok(len),
            read => len += read,
        }
    }
}

/// A block of compressed records, decompressed step by step and never beyond its limit.
pub struct Decompressor<'a> {
    codec: Compression,
    source: Source<'a>,
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    left_bytes: usize,
    limit_bytes: usize,
}

enum Source<'a> {
    None(&'a [u8]),
    Gzip(Box<MultiGzDecoder<&'a [u8]>>),
    Snappy(SnappyReader<'a>),
    /// `None` behind the end of the frame: Kafka's clients read one frame and no more.
    Lz4(Option<Box<lz4_flex::frame::FrameDecoder<&'a [u8]>>>),
    Zstd(zstd::stream::read::Decoder<'a, &'a [u8]>),
}

impl<'a> Decompressor<'a> {
    /// A reader of `block`, which yields `output_bytes_max` bytes at most.
    pub fn new(
        codec: Compression,
        block: &'a [u8],
        output_bytes_max: usize,
    ) -> Result<Self, CompressionError> {
        let source = match codec {
            Compression::None => Source::None(block),
            Compression::Gzip => Source::Gzip(Box::new(MultiGzDecoder::new(block))),
            Compression::Snappy => Source::Snappy(SnappyReader::new(block, output_bytes_max)?),
            Compression::Lz4 => Source::Lz4(Some(Box::new(lz4_flex::frame::FrameDecoder::new(block)))),
            Compression::Zstd => Source::Zstd(zstd_decoder(block).map_err(|error| corrupt(codec, &error))?),
        };
        Ok(Self {
            codec,
            source,
            buffer: Vec::new(),
            start: 0,
            end: 0,
            left_bytes: output_bytes_max,
            limit_bytes: output_bytes_max,
        })
    }

    /// The next byte; `None` at the end.
    #[inline]
    pub(super) fn byte(&mut self) -> Result<Option<u8>, CompressionError> {
        if self.start == self.end && !self.refill()? {
            return Ok(None);
        }
        let byte = self.buffer[self.start];
        self.start += 1;
        Ok(Some(byte))
    }

    /// Passes over `len` bytes; `false` when the end comes first.
    #[inline]
    pub(super) fn skip(&mut self, mut len: usize) -> Result<bool, CompressionError> {
        loop {
            let step = len.min(self.end - self.start);
            self.start += step;
            len -= step;
            if len == 0 {
                return Ok(true);
            }
            if !self.refill()? {
                return Ok(false);
            }
        }
    }

    /// Decompresses the next step into the used-up buffer; `false` at the end.
    fn refill(&mut self) -> Result<bool, CompressionError> {
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.resize(STEP_BYTES, 0);
        let read = self.read(&mut buffer);
        self.buffer = buffer;
        self.start = 0;
        self.end = *read.as_ref().unwrap_or(&0);
        read.map(|bytes| bytes > 0)
    }

    /// Decompresses into `output`, past the buffer; 0 at the end.
    fn read(&mut self, output: &mut [u8]) -> Result<usize, CompressionError> {
        let read = self.read_unlimited(output)?;
        self.left_bytes = self
            .left_bytes
            .checked_sub(read)
            .ok_or(CompressionError::TooLarge {
                limit_bytes: self.limit_bytes,
            })?;
        Ok(read)
    }

    fn read_unlimited(&mut self, output: &mut [u8]) -> Result<usize, CompressionError> {
        let read = match &mut self.source {
            Source::Snappy(source) => return source.read(output),
            Source::None(source) => source.read(output),
            Source::Gzip(source) => source.read(output),
            Source::Zstd(source) => source.read(output),
            Source::Lz4(None) => Ok(0),
            Source::Lz4(Some(source)) => source.read(output),
        };
        if let (Source::Lz4(source), Ok(0)) = (&mut self.source, &read) {
            *source = None;
        }
        read.map_err(|error| corrupt(self.codec, &error))
    }
}

impl fmt::Debug for Decompressor<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Decompressor")
            .field("codec", &self.codec)
            .field("left_bytes", &self.left_bytes)
            .finish_non_exhaustive()
    }
}

fn zstd_decoder(block: &[u8]) -> std::io::Result<zstd::stream::read::Decoder<'_, &[u8]>> {
    let mut decoder = zstd::stream::read::Decoder::with_buffer(block)?;
    decoder.window_log_max(ZSTD_WINDOW_LOG_MAX)?;
    Ok(decoder)
}

fn corrupt(codec: Compression, error: &dyn fmt::Display) -> CompressionError {
    CompressionError::Corrupt {
        codec,
        message: error.to_string(),
    }
}

/// Appends `records` to `output`, compressed.
///
/// `level` is the codec's own scale (gzip 0 to 9, zstd -7 to 22), brought into its range; `None` is the codec's
/// default, and codecs without levels ignore it.
/// Errors: `Corrupt` when the codec refuses, which for memory it can only do by running out of it.
pub fn compress(
    codec: Compression,
    level: Option<i32>,
    records: &[u8],
    output: &mut Vec<u8>,
) -> Result<(), CompressionError> {
    match codec {
        Compression::None => output.extend_from_slice(records),
        Compression::Gzip => compress_gzip(level, records, output).map_err(|error| corrupt(codec, &error))?,
        Compression::Snappy => snappy::compress(records, output)?,
        Compression::Lz4 => compress_lz4(records, output).map_err(|error| corrupt(codec, &error))?,
        Compression::Zstd => compress_zstd(level, records, output).map_err(|error| corrupt(codec, &error))?,
    }
    Ok(())
}

fn compress_gzip(level: Option<i32>, records: &[u8], output: &mut Vec<u8>) -> std::io::Result<()> {
    let level = match level {
        None => flate2::Compression::default(),
        Some(level) => flate2::Compression::new(level.clamp(0, 9) as u32),
    };
    let mut encoder = GzEncoder::new(output, level);
    encoder.write_all(records)?;
    encoder.finish().map(|_| ())
}

/// Java's reader takes independent blocks only, and its buffers fit blocks of 64 KiB.
fn compress_lz4(records: &[u8], output: &mut Vec<u8>) -> Result<(), lz4_flex::frame::Error> {
    use lz4_flex::frame::{BlockMode, BlockSize, FrameEncoder, FrameInfo};
    let info = FrameInfo::new()
        .block_size(BlockSize::Max64KB)
        .block_mode(BlockMode::Independent);
    let mut encoder = FrameEncoder::with_frame_info(info, output);
    encoder.write_all(records)?;
    encoder.finish().map(|_| ())
}

fn compress_zstd(level: Option<i32>, records: &[u8], output: &mut Vec<u8>) -> std::io::Result<()> {
    let range = zstd::compression_level_range();
    let level = level.map_or(zstd::DEFAULT_COMPRESSION_LEVEL, |level| {
        level.clamp(*range.start(), *range.end())
    });
    ZSTD.with_borrow_mut(|context| {
        let compressor = match context {
            Some(compressor) => {
                compressor.set_compression_level(level)?;
                compressor
            }
            None => context.insert(zstd::bulk::Compressor::new(level)?),
        };
        let start = output.len();
        output.reserve(zstd::zstd_safe::compress_bound(records.len()));
        let mut rest = Cursor::new(output);
        rest.set_position(start as u64);
        compressor.compress_to_buffer(records, &mut rest).map(drop)
    })
}

thread_local! {
    /// Its tables take a megabyte or two, and clearing fresh ones as long as compressing as much.
    static ZSTD: RefCell<Option<zstd::bulk::Compressor<'static>>> = const { RefCell::new(None) };
}
