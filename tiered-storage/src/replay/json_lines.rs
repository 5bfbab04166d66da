//! From batches to JSON lines: the fields of `meridian consume --output json`, without a schema in each.

use std::io::Write;
use std::ops::Range;

use meridian_types::Offset;
use meridian_wire::batch::{RecordRef, RecordsError, record_refs};

use super::DECOMPRESSED_BYTES_MAX;

/// Makes a line of every record.
#[derive(Default)]
pub struct JsonLines {
    /// Lines that nobody took yet.
    lines: Vec<u8>,
    rows: u64,
    scratch: Vec<u8>,
}

impl JsonLines {
    /// Appends lines for the records of `batch` that lie in `offsets`, in order; control records are left out. Returns the
    /// bytes of all of its records without compression.
    pub fn push(
        &mut self,
        topic: &str,
        partition: u32,
        batch: &[u8],
        offsets: &Range<Offset>,
    ) -> Result<usize, RecordsError> {
        let mut scratch = std::mem::take(&mut self.scratch);
        let result = self.push_records(topic, partition, batch, offsets, &mut scratch);
        self.scratch = scratch;
        result
    }

    fn push_records(
        &mut self,
        topic: &str,
        partition: u32,
        batch: &[u8],
        offsets: &Range<Offset>,
        scratch: &mut Vec<u8>,
    ) -> Result<usize, RecordsError> {
        let records = record_refs(batch, scratch, DECOMPRESSED_BYTES_MAX)?;
        let bytes = records.block_bytes();
        if records.header().is_control {
            return Ok(bytes);
        }
        for record in records {
            let record = record?;
            if offsets.contains(&record.offset) {
                write_line(&mut self.lines, topic, partition, &record);
                self.rows += 1;
            }
        }
        Ok(bytes)
    }

    /// Records so far.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// The lines since this was called last.
    pub fn lines(&self) -> &[u8] {
        &self.lines
    }

    /// Forgets the lines; the count of records stays.
    pub fn clear(&mut self) {
        self.lines.clear();
    }
}

fn write_line(out: &mut Vec<u8>, topic: &str, partition: u32, record: &RecordRef<'_>) {
    out.extend_from_slice(b"{\"topic\":");
    write_text(out, topic);
    write_all(
        out,
        format_args!(
            ",\"partition\":{partition},\"offset\":{},\"timestamp_ms\":{},",
            record.offset, record.timestamp
        ),
    );
    write_bytes(out, "key", record.key);
    out.push(b',');
    write_bytes(out, "value", record.value);
    out.extend_from_slice(b",\"headers\":[");
    for (index, (key, value)) in record.headers.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        out.push(b'{');
        write_bytes(out, "key", Some(key));
        out.push(b',');
        write_bytes(out, "value", value);
        out.push(b'}');
    }
    out.extend_from_slice(b"]}\n");
}

/// A field with text or null; bytes that are not UTF-8 go to a field `..._base64` instead.
fn write_bytes(out: &mut Vec<u8>, name: &str, bytes: Option<&[u8]>) {
    match bytes.map(|bytes| std::str::from_utf8(bytes).map_err(|_| bytes)) {
        None => write_all(out, format_args!("\"{name}\":null")),
        Some(Ok(text)) => {
            write_all(out, format_args!("\"{name}\":"));
            write_text(out, text);
        }
        Some(Err(bytes)) => write_all(
            out,
            format_args!("\"{name}_base64\":\"{}\"", encode_base64(bytes)),
        ),
    }
}

fn write_text(out: &mut Vec<u8>, text: &str) {
    serde_json::to_writer(out, text).expect("text goes into memory as JSON");
}

fn write_all(out: &mut Vec<u8>, arguments: std::fmt::Arguments<'_>) {
    out.write_fmt(arguments).expect("memory takes every write");
}

/// RFC 4648, with padding.
pub fn encode_base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let byte = |index: usize| u32::from(chunk.get(index).copied().unwrap_or(0));
        let word = byte(0) << 16 | byte(1) << 8 | byte(2);
        for place in 0..4 {
            if place <= chunk.len() {
                text.push(char::from(ALPHABET[(word >> (18 - 6 * place) & 63) as usize]));
            } else {
                text.push('=');
            }
        }
    }
    text
}
