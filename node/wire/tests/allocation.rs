//! How much memory a hostile frame can cost. Alone in its binary, because it counts every allocation.
#![expect(
    unsafe_code,
    reason = "an allocator is unsafe by its trait; this one only counts"
)]

mod support;

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

use meridian_wire::schema::{FieldType, StructSchema};
use meridian_wire::{ApiKey, DecodeErrorKind};
use support::{Case, Random};

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

/// Most bytes that were allocated at once during `run`, beyond those before it.
fn peak_bytes<T>(run: impl FnOnce() -> T) -> (T, usize) {
    let before = LIVE_BYTES.load(Ordering::Relaxed);
    PEAK_BYTES.store(before, Ordering::Relaxed);
    let result = run();
    (result, PEAK_BYTES.load(Ordering::Relaxed) - before)
}

/// One test, so that no other thread allocates meanwhile.
#[test]
fn a_frame_costs_no_more_than_its_own_length_allows() {
    false_counts_cost_nothing();
    plausible_counts_cost_their_limit_at_most();
    empty_elements_are_limited();
    large_honest_arrays_pass();
}

/// Every array of every message, with a count of two thousand million.
fn false_counts_cost_nothing() {
    let mut random = Random(8);
    let mut arrays = 0;
    for case in Case::all() {
        if !has_array(case.schema()) {
            continue;
        }
        for _ in 0..10 {
            let bytes = case.sample(&mut random);
            // Any four bytes may be a count, any byte a compact one: all are overwritten in turn.
            for place in 0..bytes.len().min(120) {
                let mut hostile = bytes.clone();
                let count: &[u8] = if case.flexible() {
                    &[0xff, 0xff, 0xff, 0xff, 0x07]
                } else {
                    &[0x7f, 0xff, 0xff, 0xff]
                };
                hostile.splice(place..(place + 4).min(bytes.len()), count.iter().copied());
                let (_, peak) = peak_bytes(|| case.decode(&hostile).is_err());
                assert!(
                    peak <= 2 * hostile.len() + (1 << 20),
                    "{case:?}: {peak} bytes for {}",
                    hostile.len()
                );
                arrays += 1;
            }
        }
    }
    assert!(arrays > 10_000, "{arrays}");
}

/// A count that the rest of the frame could just hold, with nothing behind it: a mebibyte of zeros or of ones.
fn plausible_counts_cost_their_limit_at_most() {
    const FRAME_BYTES: usize = 1 << 20;
    for case in Case::all() {
        for filler in [0x00, 0x01, 0x7f, 0xff] {
            let mut frame = vec![filler; FRAME_BYTES];
            frame[..4].copy_from_slice(&(FRAME_BYTES as u32 / 64).to_be_bytes());
            let (_, peak) = peak_bytes(|| case.decode(&frame).is_err());
            // The frame itself, the arrays by their limit, and what a growing vector holds twice.
            let limit = FRAME_BYTES + 2 * (8 * FRAME_BYTES + (1 << 20));
            assert!(peak <= limit, "{case:?}: {peak} bytes");
        }
    }
}

/// A frame full of topics without a name: each takes 3 bytes there and many times that in memory.
fn empty_elements_are_limited() {
    const COUNT: usize = 4 << 20;
    let mut frame = (COUNT as i32).to_be_bytes().to_vec();
    frame.resize(4 + 2 * COUNT, 0);
    let case = Case {
        api: ApiKey::Metadata,
        response: false,
        version: 0,
    };
    let (result, peak) = peak_bytes(|| case.decode(&frame));
    let error = result.expect_err("refused before it is read");
    assert!(
        matches!(error.kind, DecodeErrorKind::MemoryLimit { count: COUNT, .. }),
        "{error}"
    );
    assert!(peak <= 2 * frame.len(), "{peak}");
}

fn large_honest_arrays_pass() {
    const COUNT: usize = 100_000;
    let mut frame = (COUNT as i32).to_be_bytes().to_vec();
    for topic in 0..COUNT {
        let name = format!("topic-{topic:06}");
        frame.extend((name.len() as i16).to_be_bytes());
        frame.extend(name.bytes());
    }
    let case = Case {
        api: ApiKey::Metadata,
        response: false,
        version: 0,
    };
    assert!(case.decode(&frame).is_ok());
}

fn has_array(schema: &StructSchema) -> bool {
    schema.fields.iter().any(|field| match field.ty {
        FieldType::Array(_) => true,
        FieldType::Struct(schema) => has_array(schema),
        _ => false,
    })
}
