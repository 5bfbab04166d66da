//! What holds for every message in every version.

mod support;

use bytes::BytesMut;
use meridian_wire::frame::{self, FRAME_BYTES_MAX};
use meridian_wire::{
    ApiKey, DecodeErrorKind, Decoder, EncodeError, Encoder, FetchRequest, Message, MetadataRequest,
    RequestBody, RequestHeader, ResponseHeader, Str,
};
use support::{Body, Case, Random};

#[test]
fn every_message_comes_back_in_every_version() {
    let mut random = Random(2);
    for case in Case::all() {
        for _ in 0..20 {
            let bytes = case.sample(&mut random);
            let body = case
                .decode(&bytes)
                .unwrap_or_else(|error| panic!("{case:?}: {error}"));
            let encoded = case
                .encode(&body)
                .unwrap_or_else(|error| panic!("{case:?}: {error}"));
            assert_eq!(case.decode(&encoded), Ok(body), "{case:?}");
        }
    }
}

#[test]
fn a_message_cut_short_anywhere_is_an_error() {
    let mut random = Random(3);
    for case in Case::all() {
        for _ in 0..2 {
            let bytes = case.sample(&mut random);
            // Every place in short messages; in long ones every place of the ends, and some between.
            let inside = |end: &usize| *end < 200 || end.is_multiple_of(17) || end + 50 > bytes.len();
            for end in (0..bytes.len()).filter(inside) {
                assert!(
                    case.decode(&bytes[..end]).is_err(),
                    "{case:?} cut at {end} of {}",
                    bytes.len()
                );
            }
        }
    }
}

#[test]
fn a_byte_too_many_is_an_error_of_a_server_and_forgiven_a_client() {
    let mut random = Random(4);
    for case in Case::all() {
        let mut bytes = case.sample(&mut random);
        let body = case.decode(&bytes).expect("a whole message");
        bytes.push(0);
        match case.decode(&bytes) {
            Ok(again) => assert!(!case.response && again == body, "{case:?}"),
            Err(error) => {
                assert!(case.response, "{case:?}");
                assert_eq!(error.kind, DecodeErrorKind::TrailingBytes { left: 1 }, "{case:?}");
            }
        }
    }
}

#[test]
fn random_bytes_never_panic() {
    let mut random = Random(5);
    for case in Case::all() {
        for _ in 0..40 {
            let length = random.below(80) as usize;
            let bytes = random.bytes(length);
            encodes_if_it_decodes(case, &bytes);
        }
    }
}

#[test]
fn damaged_messages_never_panic() {
    let mut random = Random(6);
    for case in Case::all() {
        for _ in 0..8 {
            let mut bytes = case.sample(&mut random);
            for _ in 0..=random.below(3) {
                if !bytes.is_empty() {
                    let place = random.below(bytes.len() as u64) as usize;
                    bytes[place] = [0, 1, 0x7f, 0x80, 0xff][random.below(5) as usize];
                }
            }
            encodes_if_it_decodes(case, &bytes);
        }
    }
}

/// Whatever is read can be written, and means the same when it is read again.
fn encodes_if_it_decodes(case: Case, bytes: &[u8]) {
    if let Ok(body) = case.decode(bytes) {
        let encoded = case
            .encode(&body)
            .unwrap_or_else(|error| panic!("{case:?}: {error}"));
        assert_eq!(case.decode(&encoded), Ok(body), "{case:?}");
    }
}

#[test]
fn random_frames_never_panic_and_never_exceed_the_limit() {
    let mut random = Random(7);
    for _ in 0..20_000 {
        let length = random.below(64) as usize;
        let bytes = random.bytes(length);
        let _ = frame::decode_request(bytes[..].into());
        for api in [ApiKey::ApiVersions, ApiKey::Fetch] {
            let _ = ResponseHeader::decode(&mut Decoder::new(bytes[..].into()), api, 12);
        }
        if let Ok(Some(frame)) = frame::split_frame(&mut bytes[..].into(), 40) {
            assert!(frame.len() <= 40);
        }
    }
}

#[test]
fn versions_outside_the_table_are_refused_both_ways() {
    for &api in ApiKey::ALL {
        for version in [
            api.versions().first - 1,
            api.versions().last + 1,
            i16::MIN,
            i16::MAX,
        ] {
            let error =
                RequestBody::decode(api, version, Decoder::new(BytesMut::new())).expect_err("refused");
            assert!(
                matches!(error.kind, DecodeErrorKind::UnsupportedVersion { version: v, .. } if v == version),
                "{api} {version}: {error}"
            );
        }
    }
    assert!(matches!(
        FetchRequest::default().encode(&mut Encoder::new(), 3),
        Err(EncodeError::UnsupportedVersion {
            message: "FetchRequest",
            version: 3,
            ..
        })
    ));
}

#[test]
fn unknown_tagged_fields_are_skipped() {
    // Metadata v12: no topics, two bools, then tags 7 and 900 that no version has.
    let request = [1, 1, 1, 2, 7, 3, 1, 2, 3, 0x84, 0x07, 0];
    let case = Case {
        api: ApiKey::Metadata,
        response: false,
        version: 12,
    };
    let Ok(Body::Request(RequestBody::Metadata(request))) = case.decode(&request) else {
        panic!("decodes as a Metadata request");
    };
    assert_eq!(request.topics, Some(Vec::new()));
}

#[test]
fn a_tagged_field_must_be_as_long_as_it_says() {
    // ApiVersions v3 response: no error, no APIs, no throttle, tag 1 (an int64) of 9 bytes.
    let response = [0, 0, 1, 0, 0, 0, 0, 1, 1, 9, 0, 0, 0, 0, 0, 0, 0, 5, 0];
    let case = Case {
        api: ApiKey::ApiVersions,
        response: true,
        version: 3,
    };
    let error = case.decode(&response).expect_err("one byte too long");
    assert_eq!(
        error.kind,
        DecodeErrorKind::TaggedFieldSize {
            tag: 1,
            size: 9,
            taken: 8
        }
    );
}

#[test]
fn an_error_names_the_field() {
    let mut bytes = Vec::new();
    bytes.extend(1_i32.to_be_bytes());
    bytes.extend(2_i16.to_be_bytes());
    bytes.extend([0xc3, 0x28]);
    let case = Case {
        api: ApiKey::Metadata,
        response: false,
        version: 1,
    };
    let error = case.decode(&bytes).expect_err("not UTF-8");
    assert_eq!(
        error.to_string(),
        "cannot decode MetadataRequestTopic.name: string is not UTF-8"
    );
}

#[test]
fn a_field_that_the_version_lacks_is_refused_unless_it_may_be_ignored() {
    let encode = |request: &FetchRequest, version| request.encode(&mut Encoder::new(), version);
    // rack_id is ignorable before version 11.
    let request = FetchRequest {
        rack_id: "eu".into(),
        ..FetchRequest::default()
    };
    assert_eq!(encode(&request, 10), Ok(()));
    // forgotten_topics_data is not, before version 7; its default passes.
    assert_eq!(encode(&FetchRequest::default(), 6), Ok(()));
    let request = FetchRequest {
        forgotten_topics_data: vec![Default::default()],
        ..FetchRequest::default()
    };
    assert_eq!(
        encode(&request, 6),
        Err(EncodeError::FieldNotInVersion {
            field: "FetchRequest.forgotten_topics_data",
            version: 6
        })
    );
    assert_eq!(encode(&request, 7), Ok(()));
}

#[test]
fn null_is_refused_where_the_version_has_none() {
    // All topics are null from version 1 on, in version 0 the empty list.
    let request = MetadataRequest {
        topics: None,
        ..MetadataRequest::default()
    };
    assert_eq!(
        request.encode(&mut Encoder::new(), 0),
        Err(EncodeError::Null { version: 0 })
    );
    assert_eq!(request.encode(&mut Encoder::new(), 1), Ok(()));
    let case = Case {
        api: ApiKey::Metadata,
        response: false,
        version: 0,
    };
    let error = case.decode(&[0xff; 4]).expect_err("null");
    assert_eq!(error.kind, DecodeErrorKind::Null);
}

#[test]
fn produce_is_advertised_from_0_but_served_from_3() {
    assert_eq!(ApiKey::Produce.advertised_versions().to_string(), "0-13");
    assert_eq!(ApiKey::Produce.versions().to_string(), "3-13");
    for &api in ApiKey::ALL.iter().filter(|&&api| api != ApiKey::Produce) {
        assert_eq!(api.advertised_versions(), api.versions());
    }
}

#[test]
fn an_api_versions_request_of_the_future_has_a_readable_header() {
    let header = RequestHeader {
        api: ApiKey::ApiVersions,
        version: 99,
        correlation_id: 5,
        client_id: Some("new".into()),
    };
    let mut e = Encoder::new();
    header.encode(&mut e).expect("short");
    let mut d = Decoder::new(BytesMut::from(&e.finish_in_one().expect("short")[..]));
    assert_eq!(RequestHeader::decode(&mut d), Ok(header));
    assert_eq!(ApiKey::ApiVersions.response_header_version(99), 0);
    let error = RequestBody::decode(ApiKey::ApiVersions, 99, d).expect_err("not served");
    assert!(matches!(error.kind, DecodeErrorKind::UnsupportedVersion { .. }));
}

#[test]
fn whole_frames_come_back() {
    let request = MetadataRequest {
        topics: None,
        ..MetadataRequest::default()
    };
    let segments = frame::encode_request(&request, 12, 77, Some(Str::from("me"))).expect("encodes");
    let mut received = BytesMut::from(&segments.concat()[..]);
    let frame = frame::split_frame(&mut received, FRAME_BYTES_MAX)
        .expect("short")
        .expect("whole");
    assert!(received.is_empty());
    let (header, body) = frame::decode_request(frame).expect("decodes");
    assert_eq!(
        (header.correlation_id, header.client_id.as_deref()),
        (77, Some("me"))
    );
    assert_eq!(body, RequestBody::Metadata(request));
}
