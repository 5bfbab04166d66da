//! Every advertised version of every API is answered with something that can be decoded.

use crate::harness::TestBroker;
use bytes::BytesMut;
use meridian_wire::api::ResponseBody;
use meridian_wire::schema::{FieldSchema, FieldType, StructSchema};
use meridian_wire::{ApiKey, Decoder, Encoder, RequestHeader, ResponseHeader, Str};
use tokio::io::AsyncWriteExt;

/// Writes the default of every field, as its table has it.
fn put_default(schema: &StructSchema, e: &mut Encoder, version: i16, flexible: bool) {
    for field in schema.fields {
        if field.tag.is_none() && field.versions.contains(version) {
            put_field(field, e, version, flexible);
        }
    }
    if flexible {
        e.unsigned_varint(0);
    }
}

fn put_field(field: &FieldSchema, e: &mut Encoder, version: i16, flexible: bool) {
    let number = |zero: i64| {
        field
            .default
            .and_then(|text| text.parse::<i64>().ok())
            .unwrap_or(zero)
    };
    match field.ty {
        FieldType::Bool => e.bool(false),
        FieldType::Int8 => e.i8(number(0) as i8),
        FieldType::Int16 => e.i16(number(0) as i16),
        FieldType::Uint16 => e.u16(number(0) as u16),
        FieldType::Int32 => e.i32(number(0) as i32),
        FieldType::Int64 => e.i64(number(0)),
        FieldType::Float64 => e.f64(0.0),
        FieldType::Uuid => e.uuid(meridian_types::Uuid::nil()),
        FieldType::String => e.str(Some(&Str::from("x")), flexible).unwrap(),
        FieldType::Bytes | FieldType::Records => e.slice_field(Some(&[]), flexible).unwrap(),
        FieldType::Struct(schema) => {
            if field.nullable.contains(version) {
                e.i8(1);
            }
            put_default(schema, e, version, flexible);
        }
        // One element each, so that handlers have something to say about it.
        FieldType::Array(element) => {
            match flexible {
                true => e.unsigned_varint(2),
                false => e.i32(1),
            }
            let nullable = meridian_wire::Versions::NONE;
            let element = FieldSchema {
                ty: *element,
                nullable,
                default: None,
                ..*field
            };
            put_field(&element, e, version, flexible);
        }
    }
}

#[tokio::test]
async fn every_version_of_every_api_is_answered() {
    let broker = TestBroker::start().await;
    let mut answered = 0;
    for api in ApiKey::ALL.iter().copied() {
        for version in api.versions().iter() {
            let mut client = broker.client().await;
            let flexible = api.flexible_versions().contains(version);
            let mut e = Encoder::framed();
            RequestHeader {
                api,
                version,
                correlation_id: 77,
                client_id: None,
            }
            .encode(&mut e)
            .unwrap();
            put_default(api.schemas()[0], &mut e, version, flexible);
            for segment in e.finish().unwrap() {
                client.stream.write_all(&segment).await.unwrap();
            }
            // A produce request with acks of 0 has no answer.
            if api == ApiKey::Produce {
                continue;
            }
            let frame: BytesMut = client
                .frame()
                .await
                .unwrap_or_else(|| panic!("{api} {version} is answered"));
            let mut d = Decoder::new(frame);
            let header = ResponseHeader::decode(&mut d, api, version).unwrap();
            assert_eq!(header.correlation_id, 77, "{api} {version}");
            let body = ResponseBody::decode(api, version, d);
            assert!(body.is_ok(), "{api} {version}: {body:?}");
            answered += 1;
        }
    }
    assert!(answered > 100, "{answered}");
    broker.stop().await;
}
