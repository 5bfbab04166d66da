//! What a socket delivers: frames are cut off, requests read from their header on.
#![no_main]

use libfuzzer_sys::fuzz_target;
use meridian_wire::frame;

fuzz_target!(|received: &[u8]| {
    let mut received = received.into();
    while let Ok(Some(frame)) = frame::split_frame(&mut received, frame::UNAUTHENTICATED_FRAME_BYTES_MAX) {
        assert!(frame.len() <= frame::UNAUTHENTICATED_FRAME_BYTES_MAX);
        let Ok((header, body)) = frame::decode_request(frame) else {
            continue;
        };
        assert_eq!(header.api, body.api());
        assert!(header.api.versions().contains(header.version));
    }
});
