//! Record batches: header, splitting, validation, records and all codecs. What must hold stands in
//! `meridian_wire::batch::fuzz`, which the property tests call too.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| meridian_wire::batch::fuzz::fuzz_batch(data));
