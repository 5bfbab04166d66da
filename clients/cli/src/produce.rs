//! `meridian produce TOPIC`.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};
use meridian_client::{Acks, Admin, Delivery, NewRecord, ProduceError, Producer, ProducerSettings, Token};
use meridian_types::{Offset, TimestampMs};
use meridian_wire::batch::Compression;
use serde_json::{Value, json};
use tokio::io::{AsyncBufRead, AsyncBufReadExt, BufReader};
use tokio::sync::mpsc;

use crate::context::Context;
use crate::error::CliError;
use crate::output::count;
use crate::parse::{
    parse_acks, parse_bytes, parse_compression, parse_duration, parse_setting, parse_time, unescape,
};
use crate::text_format::decode_base64;

/// Longest line that is read: a server would refuse a record of this size anyway.
const LINE_BYTES_MAX: usize = 128 << 20;

/// Write records, one from each line
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  echo hello | meridian produce greetings
  meridian produce users --key-separator : < users.txt
  meridian consume a --output json | meridian produce b --format json
  TOKEN=$(echo paid | meridian produce orders --token)

With --format json each line is an object with `value` or `value_base64`, and if wanted `key` or `key_base64`,
`headers` (objects with `key` and `value` or `value_base64`), `partition` and `timestamp_ms`: what `meridian consume
--output json` prints. Offsets and topics in it are left alone, and so are partitions unless --keep-partitions is given.")]
pub(crate) struct ProduceArgs {
    /// The topic
    topic: String,
    /// Files to read instead of standard input
    #[arg(value_name = "FILE")]
    files: Vec<PathBuf>,
    /// What a line is
    #[arg(long, value_enum, default_value_t = LineFormat::Raw)]
    format: LineFormat,
    /// What stands between key and value in a line; lines without it have no key
    #[arg(long, value_name = "TEXT", value_parser = unescape, conflicts_with = "key")]
    key_separator: Option<std::vec::Vec<u8>>,
    /// The key of every record
    #[arg(long)]
    key: Option<String>,
    /// A header of every record; may be given several times
    #[arg(long = "header", short = 'H', value_name = "NAME=VALUE", value_parser = parse_setting)]
    headers: Vec<(String, String)>,
    /// Write an empty line, or an empty value behind the key, as a tombstone
    #[arg(long)]
    null_values: bool,
    /// The partition; the key decides if not given
    #[arg(long, short)]
    partition: Option<u32>,
    /// With --format json, write each record to the partition it names
    #[arg(long, conflicts_with = "partition")]
    keep_partitions: bool,
    /// The time of every record: milliseconds since 1970, or such as 2026-11-21T09:30:00Z; now if not given
    #[arg(long, value_parser = parse_time, value_name = "TIME")]
    timestamp: Option<TimestampMs>,
    /// Take each whole file (or all of standard input) as one value
    #[arg(long, conflicts_with_all = ["key_separator", "format"])]
    whole: bool,
    /// Compression: none, gzip, snappy, lz4 or zstd
    #[arg(long, short = 'z', default_value = "none", value_parser = parse_compression)]
    compression: Compression,
    /// Who must have a record before it counts as written: 0 nobody, 1 the leader, all a quorum
    #[arg(long, default_value = "all", value_parser = parse_acks)]
    acks: Acks,
    /// Do not let the server recognise repeated batches
    #[arg(long)]
    no_idempotence: bool,
    /// How long a batch that is not full waits
    #[arg(long, default_value = "5ms", value_parser = parse_duration, value_name = "TIME")]
    linger: Duration,
    /// Bytes of a batch before compression
    #[arg(long, default_value = "64KiB", value_parser = parse_bytes, value_name = "BYTES")]
    batch_bytes: u64,
    /// Most bytes of one record
    #[arg(long, default_value = "16MiB", value_parser = parse_bytes, value_name = "BYTES")]
    record_bytes_max: u64,
    /// Say where each record was written
    #[arg(long, short)]
    verbose: bool,
    /// Print a token of the last record of each partition, in one line: `meridian consume --after` reads where these are
    #[arg(long, conflicts_with = "verbose")]
    token: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum LineFormat {
    /// The value, or key and value with --key-separator
    Raw,
    /// A JSON object
    Json,
}

/// A line, read.
#[derive(Debug, Default, PartialEq, Eq)]
struct Parsed {
    key: Option<Vec<u8>>,
    value: Option<Vec<u8>>,
    headers: Vec<(Vec<u8>, Option<Vec<u8>>)>,
    partition: Option<u32>,
    timestamp: Option<TimestampMs>,
}

impl ProduceArgs {
    pub(crate) async fn run(self, context: &Context) -> Result<(), CliError> {
        let cluster = context.connect().await?;
        cluster.topic(&self.topic).await?;
        let record_bytes_max = usize::try_from(self.record_bytes_max).unwrap_or(usize::MAX);
        let settings = ProducerSettings {
            acks: self.acks,
            is_idempotent: self.acks == Acks::All && !self.no_idempotence,
            compression: self.compression,
            linger: self.linger,
            batch_bytes: usize::try_from(self.batch_bytes).unwrap_or(usize::MAX),
            request_bytes_max: record_bytes_max,
            buffer_bytes: record_bytes_max.max(64 << 20),
            delivery_timeout: context.timeout().max(Duration::from_secs(30)),
            ..ProducerSettings::default()
        };
        let producer = Producer::start(&cluster, settings).await.map_err(|error| {
            CliError::failed(error.to_string())
                .advise("--no-idempotence writes to servers that give out no producer ids")
        })?;
        let (deliveries, delivered) = mpsc::channel(65_536);
        let reporting = tokio::spawn(report(
            delivered,
            self.verbose,
            context.output.is_json(),
            self.topic.clone(),
        ));
        let progress = context.output.progress(None, "records");
        let sent = self.send_all(&producer, &deliveries, &progress).await;
        drop(deliveries);
        producer.flush().await;
        progress.finish_and_clear();
        let Report {
            written,
            failed,
            first,
            last,
        } = reporting
            .await
            .map_err(|error| CliError::failed(format!("reporting ended badly: {error}")))??;
        sent?;
        if let Some(error) = first {
            let message = format!(
                "{} of {} not written: {error}",
                failed,
                count(failed + written, "record")
            );
            return Err(match error {
                ProduceError::Refused { refusal, .. } => CliError::refused(message, refusal.code),
                _ => CliError::failed(message),
            });
        }
        let mut fields = json!({ "topic": self.topic, "records": written });
        let mut text = String::new();
        if self.token {
            let last: Vec<_> = last
                .into_iter()
                .map(|(partition, offset)| (self.topic.clone(), partition, offset))
                .collect();
            let tokens = Admin::new(&cluster).tokens(&last).await?;
            let tokens: Vec<String> = tokens.iter().map(Token::to_string).collect();
            text = tokens.join(",");
            fields["tokens"] = json!(tokens);
        }
        if self.verbose {
            return Ok(());
        }
        context.output.document("produce", fields, || text)
    }

    async fn send_all(
        &self,
        producer: &Producer,
        deliveries: &mpsc::Sender<Delivery>,
        progress: &indicatif::ProgressBar,
    ) -> Result<(), CliError> {
        if self.files.is_empty() {
            let mut input = BufReader::with_capacity(256 << 10, tokio::io::stdin());
            return self
                .send_from("standard input", &mut input, producer, deliveries, progress)
                .await;
        }
        for path in &self.files {
            let name = path.display().to_string();
            let file = tokio::fs::File::open(path)
                .await
                .map_err(|error| CliError::failed(format!("cannot open {name}: {error}")))?;
            let mut input = BufReader::with_capacity(256 << 10, file);
            self.send_from(&name, &mut input, producer, deliveries, progress)
                .await?;
        }
        Ok(())
    }

    async fn send_from<R: AsyncBufRead + Unpin>(
        &self,
        name: &str,
        input: &mut R,
        producer: &Producer,
        deliveries: &mpsc::Sender<Delivery>,
        progress: &indicatif::ProgressBar,
    ) -> Result<(), CliError> {
        let mut line = Vec::new();
        let mut number = 0_u64;
        loop {
            line.clear();
            let delimiter = if self.whole { None } else { Some(b'\n') };
            let is_there = read_part(input, delimiter, &mut line)
                .await
                .map_err(|error| CliError::failed(format!("cannot read {name}: {error}")))?;
            if !is_there {
                return Ok(());
            }
            number += 1;
            if line.len() > LINE_BYTES_MAX {
                return Err(CliError::failed(format!(
                    "{name}, line {number} is longer than {LINE_BYTES_MAX} bytes"
                )));
            }
            let parsed = self
                .parse(&line)
                .map_err(|reason| CliError::failed(format!("{name}, line {number}: {reason}")))?;
            let Some(parsed) = parsed else {
                continue;
            };
            let delivery = self
                .send(producer, &parsed)
                .await
                .map_err(|error| CliError::failed(format!("{name}, line {number}: {error}")))?;
            if deliveries.send(delivery).await.is_err() {
                // The reporter ends early only with an error, which is told in its place.
                return Ok(());
            }
            progress.inc(1);
        }
    }

    async fn send(
        &self,
        producer: &Producer,
        parsed: &Parsed,
    ) -> Result<Delivery, meridian_client::producer::SendError> {
        let common = self
            .headers
            .iter()
            .map(|(name, value)| (name.as_bytes(), Some(value.as_bytes())));
        let own = parsed
            .headers
            .iter()
            .map(|(name, value)| (&name[..], value.as_deref()));
        let headers: Vec<(&[u8], Option<&[u8]>)> = common.chain(own).collect();
        producer
            .send(&NewRecord {
                topic: &self.topic,
                partition: self
                    .partition
                    .or(parsed.partition.filter(|_| self.keep_partitions)),
                timestamp: self.timestamp.or(parsed.timestamp),
                key: parsed.key.as_deref(),
                value: parsed.value.as_deref(),
                headers: &headers,
            })
            .await
    }

    /// Reads a line. `None`: there is nothing to write.
    fn parse(&self, line: &[u8]) -> Result<Option<Parsed>, String> {
        if self.format == LineFormat::Json {
            if line.iter().all(u8::is_ascii_whitespace) {
                return Ok(None);
            }
            return parse_json(line).map(Some);
        }
        let split = self.key_separator.as_ref().and_then(|separator| {
            let at = find(line, separator)?;
            Some((line[..at].to_vec(), &line[at + separator.len()..]))
        });
        let (key, value) = match split {
            Some((key, value)) => (Some(key), value),
            None => (self.key.as_ref().map(|key| key.clone().into_bytes()), line),
        };
        Ok(Some(Parsed {
            key,
            value: (!value.is_empty() || !self.null_values).then(|| value.to_vec()),
            ..Parsed::default()
        }))
    }
}

/// Reads up to `delimiter`, which is left out, or to the end. `false`: there is nothing more.
async fn read_part<R: AsyncBufRead + Unpin>(
    input: &mut R,
    delimiter: Option<u8>,
    line: &mut Vec<u8>,
) -> std::io::Result<bool> {
    loop {
        let available = input.fill_buf().await?;
        if available.is_empty() {
            return Ok(!line.is_empty());
        }
        let end = delimiter.and_then(|delimiter| available.iter().position(|byte| *byte == delimiter));
        line.extend_from_slice(&available[..end.unwrap_or(available.len())]);
        let used = end.map_or(available.len(), |end| end + 1);
        input.consume(used);
        if end.is_some() || line.len() > LINE_BYTES_MAX {
            return Ok(true);
        }
    }
}

/// What became of all records.
#[derive(Default)]
struct Report {
    written: usize,
    failed: usize,
    /// Why the first was not written.
    first: Option<ProduceError>,
    /// The last record of each partition.
    last: BTreeMap<u32, Offset>,
}

/// Waits for the deliveries.
async fn report(
    mut deliveries: mpsc::Receiver<Delivery>,
    is_verbose: bool,
    is_json: bool,
    topic: String,
) -> Result<Report, CliError> {
    use std::io::Write;
    let mut out = std::io::BufWriter::new(std::io::stdout());
    let mut report = Report::default();
    while let Some(delivery) = deliveries.recv().await {
        match delivery.wait().await {
            Ok(metadata) => {
                report.written += 1;
                if let Some(offset) = metadata.offset {
                    let last = report.last.entry(metadata.partition).or_insert(offset);
                    *last = offset.max(*last);
                }
                if !is_verbose {
                    continue;
                }
                let offset = metadata.offset.map(|offset| offset.0);
                if is_json {
                    let fields = json!({
                        "topic": topic,
                        "partition": metadata.partition,
                        "offset": offset,
                        "timestamp_ms": metadata.timestamp.0,
                    });
                    writeln!(out, "{}", crate::output::with_schema("produce.record", fields))?;
                } else {
                    let offset = offset.map_or_else(|| "?".to_owned(), |offset| offset.to_string());
                    writeln!(out, "partition {} offset {offset}", metadata.partition)?;
                }
            }
            Err(error) => {
                report.failed += 1;
                report.first.get_or_insert(error);
            }
        }
    }
    out.flush()?;
    Ok(report)
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    if needle.is_empty() {
        return None;
    }
    haystack.windows(needle.len()).position(|window| window == needle)
}

fn parse_json(line: &[u8]) -> Result<Parsed, String> {
    let fields: Value = serde_json::from_slice(line).map_err(|error| format!("this is no JSON: {error}"))?;
    let Value::Object(fields) = fields else {
        return Err("expected a JSON object".to_owned());
    };
    let headers = match fields.get("headers") {
        None | Some(Value::Null) => Vec::new(),
        Some(Value::Array(headers)) => headers
            .iter()
            .map(|header| {
                let Value::Object(header) = header else {
                    return Err("a header is an object with `key` and `value`".to_owned());
                };
                let key = bytes_of(header, "key")?.ok_or("a header needs a key")?;
                Ok((key, bytes_of(header, "value")?))
            })
            .collect::<Result<_, String>>()?,
        Some(_) => return Err("`headers` is a list of objects".to_owned()),
    };
    let number = |name: &str| match fields.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => value
            .as_i64()
            .map(Some)
            .ok_or_else(|| format!("`{name}` is a whole number")),
    };
    let partition = number("partition")?
        .map(|partition| u32::try_from(partition).map_err(|_| "`partition` is out of range".to_owned()))
        .transpose()?;
    let has_value = ["value", "value_base64"]
        .iter()
        .any(|name| fields.contains_key(*name));
    if !has_value {
        return Err("expected `value` or `value_base64`; a tombstone has \"value\": null".to_owned());
    }
    Ok(Parsed {
        key: bytes_of(&fields, "key")?,
        value: bytes_of(&fields, "value")?,
        headers,
        partition,
        timestamp: number("timestamp_ms")?.map(TimestampMs),
    })
}

fn bytes_of(fields: &serde_json::Map<String, Value>, name: &str) -> Result<Option<Vec<u8>>, String> {
    let encoded = format!("{name}_base64");
    match (fields.get(name), fields.get(&encoded)) {
        (None | Some(Value::Null), None | Some(Value::Null)) => Ok(None),
        (Some(Value::String(text)), None) => Ok(Some(text.clone().into_bytes())),
        (None, Some(Value::String(text))) => decode_base64(text)
            .map(Some)
            .ok_or_else(|| format!("`{encoded}` is no base64")),
        (Some(_), Some(_)) => Err(format!("`{name}` and `{encoded}` cannot both be given")),
        _ => Err(format!("`{name}` is a string, or null")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_json_line_gives_every_part_of_a_record() {
        let line = br#"{"key_base64":"/wA=","value":"v","headers":[{"key":"h","value":"1"},{"key":"h","value":null}],
            "partition":3,"timestamp_ms":5,"offset":9,"topic":"x"}"#;
        let parsed = parse_json(line).unwrap();
        assert_eq!(parsed.key, Some(vec![0xff, 0]));
        assert_eq!(parsed.value, Some(b"v".to_vec()));
        assert_eq!(parsed.headers.len(), 2);
        assert_eq!(
            (parsed.partition, parsed.timestamp),
            (Some(3), Some(TimestampMs(5)))
        );
        assert_eq!(parse_json(br#"{"value":null}"#).unwrap().value, None);
    }

    #[test]
    fn a_wrong_json_line_says_what_is_wrong() {
        for (line, reason) in [
            ("{", "JSON"),
            ("[]", "object"),
            ("{}", "value"),
            (r#"{"value":5}"#, "string"),
            (r#"{"value_base64":"*"}"#, "base64"),
            (r#"{"value":"","value_base64":""}"#, "both"),
            (r#"{"value":"","partition":-1}"#, "range"),
            (r#"{"value":"","headers":[1]}"#, "header"),
        ] {
            let error = parse_json(line.as_bytes()).unwrap_err();
            assert!(error.contains(reason), "{line}: {error}");
        }
    }

    #[tokio::test]
    async fn lines_are_cut_at_newlines_and_the_last_needs_none() {
        let mut input = &b"a\n\nlast"[..];
        let mut lines = Vec::new();
        let mut line = Vec::new();
        while read_part(&mut input, Some(b'\n'), &mut line).await.unwrap() {
            lines.push(String::from_utf8(std::mem::take(&mut line)).unwrap());
        }
        assert_eq!(lines, ["a", "", "last"]);
    }
}
