//! The body of every request: the first byte picks the API, the second the version. Whatever is read can be written,
//! and means the same when it is read again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use meridian_wire::{ApiKey, Decoder, Encoder, RequestBody};

fuzz_target!(|input: &[u8]| {
    let [api, version, body @ ..] = input else { return };
    let api = ApiKey::ALL[usize::from(*api) % ApiKey::ALL.len()];
    let versions: Vec<i16> = api.versions().iter().collect();
    let version = versions[usize::from(*version) % versions.len()];
    let Ok(body) = RequestBody::decode(api, version, Decoder::new(body.into())) else {
        return;
    };
    let mut e = Encoder::new();
    body.encode(&mut e, version)
        .expect("what was read can be written");
    let written = e.finish_in_one().expect("it is short");
    let again = RequestBody::decode(api, version, Decoder::new(written[..].into()));
    assert_eq!(again, Ok(body));
});
