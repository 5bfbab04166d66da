//! Our tables against Kafka 4.3's own schemas, field by field and version by version.

mod support;

use std::fs;
use std::path::Path;

use meridian_wire::schema::{FieldSchema, FieldType, StructSchema};
use meridian_wire::{
    ApiKey, ConsumerProtocolAssignment, ConsumerProtocolSubscription, ErrorCode, Message, Versions,
};
use serde_json::Value;
use support::Case;
use support::kafka_jar;

#[test]
fn every_table_says_what_kafka_says() {
    let Some(folder) = kafka_jar::schemas() else {
        return;
    };
    for &api in ApiKey::ALL.iter().filter(|api| !api.is_private()) {
        for response in [false, true] {
            let schema = api.schemas()[usize::from(response)];
            let kafka = read_schema(&folder, schema.name);
            let context = schema.name;
            assert_eq!(kafka["apiKey"], api.code(), "{context}");
            let valid = versions(&kafka["validVersions"]);
            let ours = api.versions();
            assert!(
                valid.first <= ours.first && ours.last <= valid.last,
                "{context}: {ours} is not in {valid}"
            );
            let flexible = versions(&kafka["flexibleVersions"]);
            for version in ours.iter() {
                let case = Case {
                    api,
                    response,
                    version,
                };
                assert_eq!(
                    case.flexible(),
                    flexible.contains(version),
                    "{context} v{version}"
                );
                compare(
                    &format!("{context} v{version}"),
                    schema,
                    &kafka["fields"],
                    version,
                );
            }
            let mut fields = 0;
            each_field(schema, &mut |field| {
                fields += 1;
                let served = ours.iter().any(|version| field.versions.contains(version));
                assert!(
                    served,
                    "{context}: field {} is in no version that is served",
                    field.name
                );
            });
            assert!(
                fields > 0 || kafka["fields"].as_array().is_some_and(Vec::is_empty),
                "{context}"
            );
        }
    }
}

#[test]
fn the_consumer_protocol_is_that_of_kafka() {
    fn hold<M: Message>(folder: &Path) {
        let kafka = read_schema(folder, M::NAME);
        assert_eq!(versions(&kafka["validVersions"]), M::VERSIONS, "{}", M::NAME);
        assert_eq!(versions(&kafka["flexibleVersions"]), M::FLEXIBLE, "{}", M::NAME);
        for version in M::VERSIONS.iter() {
            compare(
                &format!("{} v{version}", M::NAME),
                M::SCHEMA,
                &kafka["fields"],
                version,
            );
        }
    }
    let Some(folder) = kafka_jar::schemas() else {
        return;
    };
    hold::<ConsumerProtocolSubscription>(&folder);
    hold::<ConsumerProtocolAssignment>(&folder);
}

#[test]
fn error_codes_are_those_of_kafka() {
    let Some(folder) = kafka_jar::schemas() else {
        return;
    };
    let Ok(text) = fs::read_to_string(folder.join("errors.tsv")) else {
        eprintln!("SKIP: no errors.tsv in {}", folder.display());
        return;
    };
    let mut theirs: Vec<(i16, String, bool)> = text
        .lines()
        .map(|line| {
            let mut columns = line.split('\t');
            let mut column = || columns.next().expect("three columns");
            (
                column().parse().expect("a code"),
                column().to_owned(),
                column() == "true",
            )
        })
        .collect();
    theirs.sort();
    let ours: Vec<_> = ErrorCode::ALL
        .iter()
        .map(|error| (error.code(), error.name().to_owned(), error.is_retriable()))
        .collect();
    assert_eq!(ours, theirs);
}

fn compare(context: &str, ours: &StructSchema, kafka: &Value, version: i16) {
    let ours: Vec<_> = ours
        .fields
        .iter()
        .filter(|field| field.versions.contains(version))
        .collect();
    let kafka: Vec<_> = kafka
        .as_array()
        .expect("fields are a list")
        .iter()
        .filter(|field| versions(&field["versions"]).contains(version))
        .collect();
    let names = |fields: &[&FieldSchema]| {
        fields
            .iter()
            .map(|field| field.name.to_owned())
            .collect::<Vec<_>>()
    };
    let kafka_names: Vec<_> = kafka
        .iter()
        .map(|field| snake_case(text(&field["name"])))
        .collect();
    assert_eq!(names(&ours), kafka_names, "{context}: fields");
    let mut last_tag = None;
    for (ours, kafka) in ours.into_iter().zip(kafka) {
        let context = format!("{context}: {}", ours.name);
        assert_eq!(type_name(&ours.ty), text(&kafka["type"]), "{context}: type");
        let nullable = versions(&kafka["nullableVersions"]).contains(version);
        assert_eq!(ours.nullable.contains(version), nullable, "{context}: nullable");
        let tagged = versions(&kafka["taggedVersions"]).contains(version);
        let tag = kafka["tag"].as_u64().filter(|_| tagged).map(|tag| tag as u32);
        assert_eq!(ours.tag, tag, "{context}: tag");
        if tag.is_some() {
            assert!(
                last_tag < tag,
                "{context}: the table must list tags in ascending order"
            );
            last_tag = tag;
        }
        assert_eq!(our_default(ours), kafka_default(kafka), "{context}: default");
        let ignorable = kafka["ignorable"] == Value::Bool(true) || kafka["ignorable"] == "true";
        assert_eq!(ours.ignorable, ignorable, "{context}: ignorable");
        assert!(
            kafka.get("flexibleVersions").is_none(),
            "{context}: a flexible range of its own"
        );
        if let Some(inner) = inner_struct(&ours.ty) {
            // A struct that is used twice stands at its first use only.
            compare(&context, inner, &kafka["fields"], version);
        }
    }
}

fn read_schema(folder: &Path, message: &str) -> Value {
    let path = folder.join(format!("{message}.json"));
    let json = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let json: String = json
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"))
        .collect();
    serde_json::from_str(&json).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn each_field(schema: &StructSchema, visit: &mut impl FnMut(&FieldSchema)) {
    for field in schema.fields {
        visit(field);
        if let Some(inner) = inner_struct(&field.ty) {
            each_field(inner, visit);
        }
    }
}

fn inner_struct(ty: &FieldType) -> Option<&'static StructSchema> {
    match ty {
        FieldType::Struct(schema) => Some(schema),
        FieldType::Array(element) => inner_struct(element),
        _ => None,
    }
}

fn type_name(ty: &FieldType) -> String {
    match ty {
        FieldType::Array(element) => format!("[]{}", type_name(element)),
        FieldType::Struct(schema) => schema.name.to_owned(),
        primitive => format!("{primitive:?}").to_lowercase(),
    }
}

/// `4-18`, `12+`, `3`, `none`, or not there at all.
fn versions(value: &Value) -> Versions {
    let Some(text) = value.as_str().filter(|text| *text != "none") else {
        return Versions::NONE;
    };
    let number = |text: &str| text.parse().unwrap_or_else(|_| panic!("not a version: {text}"));
    if let Some(first) = text.strip_suffix('+') {
        Versions {
            first: number(first),
            last: i16::MAX,
        }
    } else if let Some((first, last)) = text.split_once('-') {
        Versions {
            first: number(first),
            last: number(last),
        }
    } else {
        Versions {
            first: number(text),
            last: number(text),
        }
    }
}

#[derive(Debug, PartialEq)]
enum Default {
    Null,
    Number(i64),
    Bool(bool),
    /// An empty string, array or struct.
    Empty,
}

fn our_default(field: &FieldSchema) -> Default {
    match (field.default, &field.ty) {
        (Some("None"), _) => Default::Null,
        (Some("true"), FieldType::Bool) => Default::Bool(true),
        (Some("i32::MAX"), FieldType::Int32) => Default::Number(i32::MAX.into()),
        (Some("i32::MIN"), FieldType::Int32) => Default::Number(i32::MIN.into()),
        (Some("i64::MAX"), FieldType::Int64) => Default::Number(i64::MAX),
        (Some(text), ty) => Default::Number(text.parse().unwrap_or_else(|_| panic!("{text} for {ty:?}"))),
        (None, ty) => zero(&type_name(ty)),
    }
}

fn kafka_default(field: &Value) -> Default {
    let ty = text(&field["type"]);
    match &field["default"] {
        Value::Null => zero(ty),
        Value::Bool(value) => Default::Bool(*value),
        Value::Number(number) => Default::Number(number.as_i64().expect("an integer")),
        Value::String(text) if text == "null" => Default::Null,
        Value::String(text) if ty == "bool" => Default::Bool(text == "true"),
        Value::String(text) if text.is_empty() => zero(ty),
        Value::String(text) => Default::Number(match text.strip_prefix("0x") {
            Some(hex) => i64::from_str_radix(hex, 16).expect("hex"),
            None => text.parse().expect("a number"),
        }),
        other => panic!("default {other}"),
    }
}

fn zero(ty: &str) -> Default {
    match ty {
        "bool" => Default::Bool(false),
        "int8" | "int16" | "uint16" | "int32" | "int64" => Default::Number(0),
        _ => Default::Empty,
    }
}

fn text(value: &Value) -> &str {
    value.as_str().expect("a string")
}

/// `ThrottleTimeMs` to `throttle_time_ms`.
fn snake_case(name: &str) -> String {
    let mut out = String::new();
    let mut after_lower = false;
    for letter in name.chars() {
        if letter.is_uppercase() && after_lower {
            out.push('_');
        }
        after_lower = !letter.is_uppercase();
        out.extend(letter.to_lowercase());
    }
    out
}
