//! How much memory a hostile batch can cost. Alone in its binary, because it counts every allocation.
//!
//! Allocations are counted exactly. What zstd allocates in C is not among them, so the resident memory of the
//! process is watched as well.
#![cfg(target_os = "linux")]
#![expect(
    unsafe_code,
    reason = "an allocator is unsafe by its trait; this one only counts"
)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::io::Write;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use meridian_types::TimestampMs;
use meridian_wire::batch::{
    BatchBuilder, Compression, HEADER_BYTES, ProduceRules, TimestampType, records, set_producer,
    validate_produce,
};

const MIB: usize = 1 << 20;
const BOMB_BYTES: usize = 512 * MIB;
const LIMIT_BYTES: usize = 4 * MIB;

/// One test, so that no other thread takes memory meanwhile.
#[test]
fn a_batch_costs_little_more_than_the_decompression_limit() {
    bombs_are_refused_cheaply();
    many_small_headers_cost_no_more_than_they_came_in();
}

fn bombs_are_refused_cheaply() {
    for (name, batch) in bombs() {
        let (refused, bytes) = peak_bytes(|| validate_produce(&batch, &rules()).is_err());
        assert!(refused, "{name}");
        assert!(
            bytes < 16 * MIB,
            "checking {name} of {} bytes took {bytes} bytes",
            batch.len()
        );
        let (refused, bytes) = peak_bytes(|| match records(&batch, LIMIT_BYTES) {
            Err(_) => true,
            Ok(records) => records.map(|record| record.is_err()).last() == Some(true),
        });
        assert!(refused, "{name}");
        assert!(
            bytes < 5 * LIMIT_BYTES,
            "reading {name} of {} bytes took {bytes} bytes",
            batch.len()
        );
    }
}

fn many_small_headers_cost_no_more_than_they_came_in() {
    let headers: Vec<(&[u8], Option<&[u8]>)> = vec![(b"", None); MIB];
    let mut builder = BatchBuilder::new(Compression::Zstd);
    builder
        .push(TimestampMs(0), None, None, &headers)
        .expect("it fits");
    let batch = builder.build().expect("it fits");
    let (count, bytes): (usize, usize) = peak_bytes(|| {
        records(&batch, LIMIT_BYTES)
            .expect("it is whole")
            .map(|record| record.expect("it is sound").headers.len())
            .sum()
    });
    assert_eq!(count, MIB);
    assert!(bytes < 3 * LIMIT_BYTES, "{} headers took {bytes} bytes", MIB);
}

fn rules() -> ProduceRules {
    ProduceRules {
        message_bytes_max: 100 * MIB,
        decompressed_bytes_max: LIMIT_BYTES,
        now: TimestampMs(0),
        timestamp_type: TimestampType::CreateTime,
        timestamp_before_max_ms: i64::MAX,
        timestamp_after_max_ms: i64::MAX,
        is_compacted: false,
        is_zstd_allowed: true,
    }
}

fn bombs() -> Vec<(&'static str, Bytes)> {
    let mut bombs = vec![
        ("gzip", bomb(Compression::Gzip, &gzip())),
        ("snappy", bomb(Compression::Snappy, &snappy())),
        ("lz4", bomb(Compression::Lz4, &lz4())),
        ("zstd", bomb(Compression::Zstd, &zstd())),
    ];
    // As many records as can be announced, and not one byte of them.
    for codec in Compression::ALL {
        bombs.push((codec.name(), bomb(codec, &[])));
    }
    bombs
}

/// A batch that announces 2147483647 records, with `block` as its records.
fn bomb(codec: Compression, block: &[u8]) -> Bytes {
    let mut batch = BatchBuilder::new(codec).build().expect("it is empty")[..HEADER_BYTES].to_vec();
    batch.extend_from_slice(block);
    let length = (batch.len() - 12) as i32;
    batch[8..12].copy_from_slice(&length.to_be_bytes());
    batch[23..27].copy_from_slice(&(i32::MAX - 1).to_be_bytes());
    batch[57..61].copy_from_slice(&i32::MAX.to_be_bytes());
    // Any field of the header makes the CRC anew.
    set_producer(&mut batch, meridian_types::ProducerId(1), 0, 0).expect("it is whole");
    batch.into()
}

/// A record's length field that takes in all zeros to follow, then the zeros.
fn write_zeros(mut output: impl Write) -> std::io::Result<()> {
    output.write_all(&[
        0xfe, 0xff, 0xff, 0xff, 0x0f, 0, 0, 0, 0xfe, 0xff, 0xff, 0xff, 0x07,
    ])?;
    for _ in 0..BOMB_BYTES / MIB {
        output.write_all(&[0; MIB])?;
    }
    Ok(())
}

fn gzip() -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    write_zeros(&mut encoder).expect("memory");
    encoder.finish().expect("memory")
}

/// Blocks of 4 MiB, the largest there are.
fn lz4() -> Vec<u8> {
    let info = lz4_flex::frame::FrameInfo::new()
        .block_size(lz4_flex::frame::BlockSize::Max4MB)
        .block_mode(lz4_flex::frame::BlockMode::Linked);
    let mut encoder = lz4_flex::frame::FrameEncoder::with_frame_info(info, Vec::new());
    write_zeros(&mut encoder).expect("memory");
    encoder.finish().expect("memory")
}

/// With the widest window that is accepted, 128 MiB.
fn zstd() -> Vec<u8> {
    let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 1).expect("memory");
    encoder.window_log(27).expect("it is in range");
    write_zeros(&mut encoder).expect("memory");
    encoder.finish().expect("memory")
}

/// One chunk holds more than the limit, and there are many.
fn snappy() -> Vec<u8> {
    let first = vec![0; 8 * MIB];
    let block = snap::raw::Encoder::new()
        .compress_vec(&first)
        .expect("it is small");
    let mut framed = b"\x82SNAPPY\0\0\0\0\x01\0\0\0\x01".to_vec();
    for _ in 0..8 {
        framed.extend_from_slice(&(block.len() as u32).to_be_bytes());
        framed.extend_from_slice(&block);
    }
    framed
}

struct Counting;

static LIVE_BYTES: AtomicUsize = AtomicUsize::new(0);
static PEAK_BYTES: AtomicUsize = AtomicUsize::new(0);

#[global_allocator]
static ALLOCATOR: Counting = Counting;

// Every call is passed on to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let live = LIVE_BYTES.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        PEAK_BYTES.fetch_max(live, Ordering::Relaxed);
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        LIVE_BYTES.fetch_sub(layout.size(), Ordering::Relaxed);
        unsafe { System.dealloc(pointer, layout) }
    }
}

/// The most memory that `run` took at once: allocated, or resident where that is more.
fn peak_bytes<T>(run: impl FnOnce() -> T) -> (T, usize) {
    // 5 sets the peak back to what is resident now, see proc(5).
    std::fs::write("/proc/self/clear_refs", "5").expect("a process may reset its own peak");
    let resident_before = resident_peak();
    let live_before = LIVE_BYTES.load(Ordering::Relaxed);
    PEAK_BYTES.store(live_before, Ordering::Relaxed);
    let result = run();
    let allocated = PEAK_BYTES.load(Ordering::Relaxed) - live_before;
    let resident = resident_peak().saturating_sub(resident_before);
    (result, allocated.max(resident))
}

fn resident_peak() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").expect("procfs is mounted");
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .expect("Linux reports the peak");
    let kib: usize = line
        .trim()
        .trim_end_matches(" kB")
        .parse()
        .expect("it is a number");
    kib * 1024
}
