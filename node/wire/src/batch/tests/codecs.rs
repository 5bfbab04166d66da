//! Flavours of the codecs that clients other than ours write.

use std::io::Write;

use lz4_flex::frame::{BlockMode, BlockSize, FrameEncoder, FrameInfo};

use super::*;

/// Compresses somewhat, and spans several blocks of the smaller sizes.
fn data() -> Vec<u8> {
    let mut state = 1_u32;
    (0..300_000)
        .map(|i| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            if i % 3 == 0 {
                (state >> 24) as u8
            } else {
                (i / 1000) as u8
            }
        })
        .collect()
}

#[test]
fn lz4_frames_of_every_block_size_mode_and_checksum_are_read() {
    let data = data();
    for size in [
        BlockSize::Max64KB,
        BlockSize::Max256KB,
        BlockSize::Max1MB,
        BlockSize::Max4MB,
    ] {
        for mode in [BlockMode::Independent, BlockMode::Linked] {
            for checksums in [false, true] {
                let info = FrameInfo::new()
                    .block_size(size)
                    .block_mode(mode)
                    .block_checksums(checksums)
                    .content_checksum(checksums)
                    .content_size(checksums.then_some(data.len() as u64));
                let mut encoder = FrameEncoder::with_frame_info(info, Vec::new());
                encoder.write_all(&data).unwrap();
                let frame = encoder.finish().unwrap();
                assert_eq!(decompress(Compression::Lz4, &frame, LIMIT).unwrap(), data);
            }
        }
    }
}

#[test]
fn only_the_first_lz4_frame_counts_as_in_java() {
    let mut frames = Vec::new();
    compress(Compression::Lz4, None, b"first", &mut frames).unwrap();
    compress(Compression::Lz4, None, b"second", &mut frames).unwrap();
    assert_eq!(decompress(Compression::Lz4, &frames, LIMIT).unwrap(), b"first");
}

#[test]
fn bare_snappy_as_librdkafka_writes_it_is_read() {
    let data = data();
    let bare = snap::raw::Encoder::new().compress_vec(&data).unwrap();
    assert_eq!(decompress(Compression::Snappy, &bare, LIMIT).unwrap(), data);
}

#[test]
fn snappy_chunks_of_any_size_are_read() {
    let data = data();
    for chunk_bytes in [1000, 65_536, 1 << 20] {
        let mut framed = b"\x82SNAPPY\0\0\0\0\x01\0\0\0\x01".to_vec();
        for chunk in data.chunks(chunk_bytes) {
            let block = snap::raw::Encoder::new().compress_vec(chunk).unwrap();
            framed.extend_from_slice(&(block.len() as u32).to_be_bytes());
            framed.extend_from_slice(&block);
        }
        assert_eq!(decompress(Compression::Snappy, &framed, LIMIT).unwrap(), data);
    }
}

#[test]
fn gzip_of_several_members_is_read() {
    let mut members = Vec::new();
    compress(Compression::Gzip, Some(1), b"one ", &mut members).unwrap();
    compress(Compression::Gzip, Some(9), b"two", &mut members).unwrap();
    assert_eq!(
        decompress(Compression::Gzip, &members, LIMIT).unwrap(),
        b"one two"
    );
}

#[test]
fn every_level_is_read_and_levels_out_of_range_are_brought_into_it() {
    let data = data();
    for codec in [Compression::Gzip, Compression::Zstd] {
        for level in [i32::MIN, -7, 0, 1, 9, 19, i32::MAX] {
            let mut block = Vec::new();
            compress(codec, Some(level), &data, &mut block).unwrap();
            assert_eq!(decompress(codec, &block, LIMIT).unwrap(), data, "{codec} {level}");
        }
    }
}

#[test]
fn zstd_streams_without_a_length_and_with_the_widest_window_are_read() {
    let data = data();
    let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 3).unwrap();
    encoder.window_log(27).unwrap();
    encoder.include_contentsize(false).unwrap();
    for part in data.chunks(999) {
        encoder.write_all(part).unwrap();
    }
    assert_eq!(
        decompress(Compression::Zstd, &encoder.finish().unwrap(), LIMIT).unwrap(),
        data
    );
}

#[test]
fn zstd_windows_beyond_128_mib_are_refused() {
    // Frame header: magic, no content size, window descriptor of exponent 18 (2^28 bytes), an empty last block.
    let frame = [0x28, 0xb5, 0x2f, 0xfd, 0x00, 18 << 3, 0x01, 0x00, 0x00];
    let error = decompress(Compression::Zstd, &frame, LIMIT).unwrap_err();
    assert!(
        matches!(
            error,
            CompressionError::Corrupt {
                codec: Compression::Zstd,
                ..
            }
        ),
        "{error}"
    );
    let narrower = [0x28, 0xb5, 0x2f, 0xfd, 0x00, 17 << 3, 0x01, 0x00, 0x00];
    assert_eq!(decompress(Compression::Zstd, &narrower, LIMIT), Ok(Vec::new()));
}

#[test]
fn records_of_another_codec_than_announced_are_refused() {
    for written in Compression::ALL {
        for announced in Compression::ALL.into_iter().filter(|codec| *codec != written) {
            let mut batch = three_records(BatchBuilder::new(written)).to_vec();
            batch[layout::ATTRIBUTES + 1] = announced.code();
            super::super::stamp::renew_crc(&mut batch);
            let error = validate_produce(&batch, &rules()).unwrap_err();
            assert_eq!(
                error.error_code(),
                ErrorCode::InvalidRecord,
                "{written} as {announced}: {error}"
            );
        }
    }
}

#[test]
fn a_block_cut_short_is_refused() {
    for codec in [
        Compression::Gzip,
        Compression::Snappy,
        Compression::Lz4,
        Compression::Zstd,
    ] {
        let batch = three_records(BatchBuilder::new(codec));
        // LZ4's end mark, four zeros, holds nothing and may be missing.
        let end = if codec == Compression::Lz4 {
            batch.len() - 4
        } else {
            batch.len()
        };
        for cut in HEADER_BYTES..end {
            let mut short = batch[..cut].to_vec();
            let length = (cut - layout::LOG_OVERHEAD) as i32;
            super::super::stamp::put(&mut short, layout::BATCH_LENGTH, length.to_be_bytes());
            super::super::stamp::renew_crc(&mut short);
            let error = validate_produce(&short, &rules()).expect_err("it is cut short");
            assert_eq!(
                error.error_code(),
                ErrorCode::InvalidRecord,
                "{codec} {cut}: {error}"
            );
        }
    }
}

#[test]
fn names_and_codes_lead_back_to_their_codec() {
    for codec in Compression::ALL {
        assert_eq!(Compression::from_name(codec.name()), Some(codec));
        assert_eq!(Compression::ALL[usize::from(codec.code())], codec);
    }
    assert_eq!(Compression::from_name("brotli"), None);
}
