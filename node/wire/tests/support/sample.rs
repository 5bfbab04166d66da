//! Random messages as bytes, written from the tables, without the codec under test.
//!
//! The bytes are in the one form that Kafka writes: shortest varints, tagged fields in order and only where they
//! differ from their default. So whoever decodes and encodes them must come back to the same bytes.

use meridian_wire::schema::{FieldSchema, FieldType, StructSchema};

use super::Random;

/// A message of `schema` in `version`.
pub(crate) fn message(random: &mut Random, schema: &StructSchema, version: i16, flexible: bool) -> Vec<u8> {
    let mut out = Vec::new();
    Sampler {
        random,
        version,
        flexible,
    }
    .fields(schema, &mut out);
    out
}

struct Sampler<'a> {
    random: &'a mut Random,
    version: i16,
    flexible: bool,
}

impl Sampler<'_> {
    fn fields(&mut self, schema: &StructSchema, out: &mut Vec<u8>) {
        let present = || {
            schema
                .fields
                .iter()
                .filter(|field| field.versions.contains(self.version))
        };
        let (tagged, plain): (Vec<_>, Vec<_>) = present().partition(|field| field.tag.is_some());
        for field in plain {
            self.field(field, out);
        }
        if self.flexible {
            let mut contents = Vec::new();
            for field in tagged {
                let mut content = Vec::new();
                self.field(field, &mut content);
                if content != self.default(field) && self.random.below(2) == 0 {
                    contents.push((field.tag.expect("these have one"), content));
                }
            }
            varint(contents.len(), out);
            for (tag, content) in contents {
                varint(tag as usize, out);
                varint(content.len(), out);
                out.extend(content);
            }
        }
    }

    fn field(&mut self, field: &FieldSchema, out: &mut Vec<u8>) {
        // Records are null in one direction only, and never written so (KAFKA-18646).
        let nullable = field.nullable.contains(self.version) && field.ty != FieldType::Records;
        if nullable && self.random.below(4) == 0 {
            return self.null(&field.ty, out);
        }
        if nullable && matches!(field.ty, FieldType::Struct(_)) {
            out.push(1);
        }
        self.value(&field.ty, out);
    }

    fn null(&self, ty: &FieldType, out: &mut Vec<u8>) {
        match ty {
            FieldType::Struct(_) => out.push(0xff),
            _ if self.flexible => out.push(0),
            FieldType::String => out.extend([0xff; 2]),
            _ => out.extend([0xff; 4]),
        }
    }

    fn value(&mut self, ty: &FieldType, out: &mut Vec<u8>) {
        match ty {
            FieldType::Bool => out.push(self.random.below(2) as u8),
            FieldType::Int8 => self.number(1, out),
            FieldType::Int16 | FieldType::Uint16 => self.number(2, out),
            FieldType::Int32 => self.number(4, out),
            FieldType::Int64 | FieldType::Float64 => self.number(8, out),
            FieldType::Uuid => out.extend(self.random.bytes(16)),
            FieldType::String => {
                let text = self.text();
                self.length(text.len(), 2, out);
                out.extend(text.bytes());
            }
            FieldType::Bytes | FieldType::Records => {
                // Long enough now and then to become a segment of its own.
                let length = [0, 3, 61, 200, 3000][self.random.below(5) as usize];
                self.length(length, 4, out);
                out.extend(self.random.bytes(length));
            }
            FieldType::Array(element) => {
                let most = if matches!(element, FieldType::Struct(_)) {
                    4
                } else {
                    200
                };
                let count = [0, 1, 2, self.random.below(most)][self.random.below(4) as usize];
                self.length(count as usize, 4, out);
                for _ in 0..count {
                    self.value(element, out);
                }
            }
            FieldType::Struct(schema) => self.fields(schema, out),
        }
    }

    fn number(&mut self, bytes: usize, out: &mut Vec<u8>) {
        let number = match self.random.below(4) {
            0 => self.random.below(3),
            1 => u64::MAX,
            _ => self.random.next(),
        };
        out.extend(&number.to_be_bytes()[8 - bytes..]);
    }

    fn text(&mut self) -> String {
        let length = [0, 1, 12, 40, 300][self.random.below(5) as usize];
        (0..length)
            .map(|_| ['a', 'Z', '.', '-', 'ß', '語', '🜚'][self.random.below(7) as usize])
            .collect()
    }

    fn length(&self, length: usize, bytes: usize, out: &mut Vec<u8>) {
        if self.flexible {
            varint(length + 1, out);
        } else {
            out.extend(&length.to_be_bytes()[8 - bytes..]);
        }
    }

    /// The bytes of a tagged field's default, which must not be written.
    fn default(&self, field: &FieldSchema) -> Vec<u8> {
        let mut out = Vec::new();
        match (field.default, &field.ty) {
            (Some("None"), ty) => self.null(ty, &mut out),
            (Some(text), FieldType::Int64) => {
                let number = if text == "i64::MAX" {
                    i64::MAX
                } else {
                    text.parse().expect("a number")
                };
                out.extend(number.to_be_bytes());
            }
            (Some(text), ty) => panic!("the sampler cannot write the default {text} of a tagged {ty:?}"),
            (None, FieldType::Bool | FieldType::Int8) => out.push(0),
            (None, FieldType::Int16 | FieldType::Uint16) => out.extend([0; 2]),
            (None, FieldType::Int32) => out.extend([0; 4]),
            (None, FieldType::Int64 | FieldType::Float64) => out.extend([0; 8]),
            (None, FieldType::Uuid) => out.extend([0; 16]),
            (None, FieldType::Struct(schema)) => {
                for field in schema
                    .fields
                    .iter()
                    .filter(|field| field.versions.contains(self.version))
                {
                    out.extend(self.default_of_inner(field));
                }
                varint(0, &mut out);
            }
            // Empty, as a compact length.
            (None, _) => out.push(1),
        }
        out
    }

    fn default_of_inner(&self, field: &FieldSchema) -> Vec<u8> {
        match (field.default, &field.ty) {
            (Some("-1"), FieldType::Int32) => vec![0xff; 4],
            _ => self.default(field),
        }
    }
}

fn varint(value: usize, out: &mut Vec<u8>) {
    let mut value = value;
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}
