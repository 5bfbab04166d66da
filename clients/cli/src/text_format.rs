//! How a record is printed: kcat's `-f` language, or JSON. Pure.

use std::io::Write;

pub(crate) use meridian_tiered_storage::replay::encode_base64;
use meridian_wire::batch::Record;
use serde_json::{Map, Value, json};

/// A record with where it was read.
pub(crate) struct Printed<'a> {
    pub(crate) topic: &'a str,
    pub(crate) partition: u32,
    pub(crate) record: &'a Record,
}

/// A format such as `%p %o %k: %s\n`, read.
#[derive(Clone, Debug)]
pub(crate) struct TextFormat {
    parts: Vec<Part>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Literal(Vec<u8>),
    Value,
    ValueBytes,
    Key,
    KeyBytes,
    Topic,
    Partition,
    Offset,
    Timestamp,
    Headers,
}

/// What the letters of a format mean, for help texts.
pub(crate) const LETTERS: &str = "\
%s value  %S bytes of the value (-1 for null)  %k key  %K bytes of the key (-1 for null)
%t topic  %p partition  %o offset  %T timestamp in ms  %h headers  %% a percent sign
Escapes: \\n \\t \\r \\0 \\\\ \\xHH";

impl TextFormat {
    /// Reads a format. Errors: an unknown letter or escape.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let mut parts = Vec::new();
        let mut literal = String::new();
        let mut rest = text.chars();
        let close = |literal: &mut String, parts: &mut Vec<Part>| -> Result<(), String> {
            if !literal.is_empty() {
                parts.push(Part::Literal(crate::parse::unescape(literal)?));
                literal.clear();
            }
            Ok(())
        };
        while let Some(c) = rest.next() {
            if c != '%' {
                literal.push(c);
                continue;
            }
            let part = match rest.next() {
                Some('%') => {
                    literal.push('%');
                    continue;
                }
                Some('s') => Part::Value,
                Some('S') => Part::ValueBytes,
                Some('k') => Part::Key,
                Some('K') => Part::KeyBytes,
                Some('t') => Part::Topic,
                Some('p') => Part::Partition,
                Some('o') => Part::Offset,
                Some('T') => Part::Timestamp,
                Some('h') => Part::Headers,
                Some(other) => return Err(format!("%{other} means nothing; expected one of\n{LETTERS}")),
                None => return Err("a % stands at the end; write %% for a percent sign".to_owned()),
            };
            close(&mut literal, &mut parts)?;
            parts.push(part);
        }
        close(&mut literal, &mut parts)?;
        Ok(Self { parts })
    }

    /// Writes a record.
    pub(crate) fn write(&self, out: &mut impl Write, printed: &Printed<'_>) -> std::io::Result<()> {
        let record = printed.record;
        let bytes = |part: &Option<bytes::Bytes>| part.as_ref().map_or(-1, |part| part.len() as i64);
        for part in &self.parts {
            match part {
                Part::Literal(literal) => out.write_all(literal)?,
                Part::Value => out.write_all(record.value.as_deref().unwrap_or_default())?,
                Part::ValueBytes => write!(out, "{}", bytes(&record.value))?,
                Part::Key => out.write_all(record.key.as_deref().unwrap_or_default())?,
                Part::KeyBytes => write!(out, "{}", bytes(&record.key))?,
                Part::Topic => out.write_all(printed.topic.as_bytes())?,
                Part::Partition => write!(out, "{}", printed.partition)?,
                Part::Offset => write!(out, "{}", record.offset)?,
                Part::Timestamp => write!(out, "{}", record.timestamp)?,
                Part::Headers => {
                    for (index, header) in record.headers.iter().enumerate() {
                        if index > 0 {
                            out.write_all(b",")?;
                        }
                        out.write_all(&header.key)?;
                        out.write_all(b"=")?;
                        out.write_all(header.value.as_deref().unwrap_or(b"NULL"))?;
                    }
                }
            }
        }
        Ok(())
    }
}

/// The fields of a record; bytes that are not UTF-8 go to a field `..._base64` beside it.
pub(crate) fn json_fields(printed: &Printed<'_>) -> Value {
    let record = printed.record;
    let mut fields = Map::new();
    fields.insert("topic".to_owned(), printed.topic.into());
    fields.insert("partition".to_owned(), printed.partition.into());
    fields.insert("offset".to_owned(), record.offset.0.into());
    fields.insert("timestamp_ms".to_owned(), record.timestamp.0.into());
    put_bytes(&mut fields, "key", record.key.as_deref());
    put_bytes(&mut fields, "value", record.value.as_deref());
    let headers: Vec<Value> = record
        .headers
        .iter()
        .map(|header| {
            let mut fields = Map::new();
            put_bytes(&mut fields, "key", Some(&header.key));
            put_bytes(&mut fields, "value", header.value.as_deref());
            Value::Object(fields)
        })
        .collect();
    fields.insert("headers".to_owned(), json!(headers));
    Value::Object(fields)
}

fn put_bytes(fields: &mut Map<String, Value>, name: &str, bytes: Option<&[u8]>) {
    match bytes.map(std::str::from_utf8) {
        None => fields.insert(name.to_owned(), Value::Null),
        Some(Ok(text)) => fields.insert(name.to_owned(), text.into()),
        Some(Err(_)) => fields.insert(
            format!("{name}_base64"),
            encode_base64(bytes.unwrap_or_default()).into(),
        ),
    };
}

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// Reads what [`encode_base64`] writes. `None`: it is something else.
pub(crate) fn decode_base64(text: &str) -> Option<Vec<u8>> {
    let bytes = text.as_bytes();
    if !bytes.len().is_multiple_of(4) {
        return None;
    }
    let padding = bytes.iter().rev().take_while(|byte| **byte == b'=').count();
    if padding > 2 {
        return None;
    }
    let mut out = Vec::with_capacity(bytes.len() / 4 * 3);
    for chunk in bytes[..bytes.len() - padding].chunks(4) {
        let mut word = 0_u32;
        for byte in chunk {
            let digit = ALPHABET.iter().position(|letter| letter == byte)?;
            word = word << 6 | digit as u32;
        }
        word <<= 6 * (4 - chunk.len());
        let whole = [(word >> 16) as u8, (word >> 8) as u8, word as u8];
        out.extend_from_slice(&whole[..chunk.len() - 1]);
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use meridian_types::{LeaderEpoch, Offset, TimestampMs};
    use meridian_wire::batch::{BatchBuilder, Compression, records};

    fn record_with(value: Option<&[u8]>) -> Record {
        let mut builder = BatchBuilder::new(Compression::None).stored_at(Offset(7), LeaderEpoch(0));
        let headers: [(&[u8], Option<&[u8]>); 2] = [(b"h", Some(b"1")), (b"h", None)];
        builder
            .push(TimestampMs(1000), Some(b"k"), value, &headers)
            .unwrap();
        let batch = builder.build().unwrap();
        records(&batch, 1 << 20).unwrap().next().unwrap().unwrap()
    }

    fn record() -> Record {
        record_with(Some(&[0xff, 0x00]))
    }

    fn print(format: &str, record: &Record) -> Vec<u8> {
        let mut out = Vec::new();
        let printed = Printed {
            topic: "t",
            partition: 3,
            record,
        };
        TextFormat::parse(format)
            .unwrap()
            .write(&mut out, &printed)
            .unwrap();
        out
    }

    #[test]
    fn every_letter_prints_its_part() {
        let text = print("%t/%p@%o %T %k %K %S %h 100%%\\n", &record());
        assert_eq!(text, b"t/3@7 1000 k 1 2 h=1,h=NULL 100%\n");
        assert_eq!(print("%s|%S", &record_with(None)), b"|-1");
    }

    #[test]
    fn a_wrong_format_is_refused() {
        assert!(TextFormat::parse("%q").unwrap_err().contains("%q"));
        assert!(TextFormat::parse("50%").is_err() && TextFormat::parse("\\q").is_err());
    }

    #[test]
    fn bytes_that_are_no_text_are_base64() {
        let record = record();
        let fields = json_fields(&Printed {
            topic: "t",
            partition: 3,
            record: &record,
        });
        assert_eq!(fields["key"], "k");
        assert_eq!(fields["value_base64"], "/wA=");
        assert!(fields.get("value").is_none());
        assert_eq!(fields["headers"][1]["value"], Value::Null);
    }

    #[test]
    fn base64_comes_back() {
        for length in 0..70_u8 {
            let bytes: Vec<u8> = (0..length).map(|byte| byte.wrapping_mul(37)).collect();
            assert_eq!(decode_base64(&encode_base64(&bytes)), Some(bytes));
        }
        assert_eq!(encode_base64(b"foobar"), "Zm9vYmFy");
        for wrong in ["abc", "ab=c", "a===", "ab c"] {
            assert_eq!(decode_base64(wrong), None, "{wrong}");
        }
    }
}
