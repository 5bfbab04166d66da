//! kcat as a user runs it, and its output in the form the client programs print.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::program::{Report, run};
use crate::raw::crc32;
use crate::workspace;

const TIMEOUT: Duration = Duration::from_secs(120);
/// Offset, timestamp, lengths of key and value (-1: null), headers, then key and value as they are.
const FORMAT: &str = "%o %T %K %S [%h]\\n%k%s\\n";

/// Runs kcat with `arguments` in `directory`, where a file `input` may lie for `-l`.
///
/// Errors: it fails or does not end.
pub fn kcat(directory: &Path, name: &str, arguments: &[&str]) -> Result<Report, String> {
    let program = workspace::on_path("kcat").ok_or("kcat is not installed")?;
    let mut command = Command::new(program);
    command.args(arguments).current_dir(directory);
    run(&format!("kcat-{name}"), command, directory, None, TIMEOUT)
}

/// Reads partition 0 of a topic from the start to the end; lines as the client programs print them.
///
/// Errors: kcat fails; its output is not in the expected form.
pub fn dump(directory: &Path, bootstrap: &str, topic: &str) -> Result<Vec<String>, String> {
    dump_partition(directory, bootstrap, topic, 0)
}

/// The same, of any partition; the lines do not tell of which.
pub fn dump_partition(
    directory: &Path,
    bootstrap: &str,
    topic: &str,
    partition: u32,
) -> Result<Vec<String>, String> {
    let name = format!("dump-{topic}-{partition}");
    let number = partition.to_string();
    let arguments = [
        "-C",
        "-e",
        "-q",
        "-b",
        bootstrap,
        "-t",
        topic,
        "-p",
        &number,
        "-o",
        "beginning",
        "-f",
        FORMAT,
        "-X",
        "check.crcs=true",
    ];
    kcat(directory, &name, &arguments)?;
    let output = std::fs::read(directory.join(format!("kcat-{name}.out")))
        .map_err(|e| format!("cannot read what kcat printed: {e}"))?;
    lines(topic, &output)
}

fn lines(topic: &str, mut output: &[u8]) -> Result<Vec<String>, String> {
    let mut lines = Vec::new();
    while !output.is_empty() {
        let (line, rest) = record(topic, output)
            .ok_or_else(|| format!("record {} of kcat's output is malformed", lines.len()))?;
        lines.push(line);
        output = rest;
    }
    Ok(lines)
}

fn record<'a>(topic: &str, output: &'a [u8]) -> Option<(String, &'a [u8])> {
    // Headers hold any bytes but, in our records, no line feed.
    let end = output.iter().position(|&b| b == b'\n')?;
    let (head, mut rest) = (&output[..end], &output[end + 1..]);
    let bracket = head.iter().position(|&b| b == b'[')?;
    let fields = std::str::from_utf8(&head[..bracket]).ok()?;
    let mut fields = fields.split(' ');
    let (offset, timestamp) = (fields.next()?, fields.next()?);
    let mut sizes = [0i64; 2];
    for size in &mut sizes {
        *size = fields.next()?.parse().ok()?;
    }
    let mut shown = [const { String::new() }; 2];
    for (size, text) in sizes.into_iter().zip(&mut shown) {
        *text = match usize::try_from(size) {
            Err(_) => "null".to_owned(),
            Ok(size) => {
                let (data, after) = rest.split_at_checked(size)?;
                rest = after;
                digest(data)
            }
        };
    }
    let rest = rest.strip_prefix(b"\n")?;
    let [key, value] = shown;
    let headers = headers(head[bracket + 1..].strip_suffix(b"]")?)?;
    let line = format!("record {topic} {offset} {timestamp} {key} {value} {headers}");
    Some((line, rest))
}

/// `name=value,name=value` with `NULL` for null.
fn headers(text: &[u8]) -> Option<String> {
    if text.is_empty() {
        return Some("-".to_owned());
    }
    let mut shown = Vec::new();
    for header in text.split(|&b| b == b',') {
        let equals = header.iter().position(|&b| b == b'=')?;
        let name = std::str::from_utf8(&header[..equals]).ok()?;
        let value = &header[equals + 1..];
        let value = if value == b"NULL" {
            "null".to_owned()
        } else {
            digest(value)
        };
        shown.push(format!("{name}={value}"));
    }
    Some(shown.join(","))
}

/// Length and CRC-32 of data that is there, as the client programs print it.
pub fn digest(data: &[u8]) -> String {
    format!("{}:{:08x}", data.len(), crc32(data))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_of_kcat_becomes_the_lines_of_the_other_clients() {
        let output = b"0 5 -1 2 []\nhi\n1 6 0 -1 [a=1,n=NULL,e=]\n\n2 7 1 3 []\nk\n\nx\n";
        let want = [
            "record t 0 5 null 2:d8932aac -",
            "record t 1 6 0:00000000 null a=1:83dcefb7,n=null,e=0:00000000",
            "record t 2 7 1:0862575d 3:56e74d40 -",
        ];
        assert_eq!(lines("t", output).unwrap(), want);
    }

    #[test]
    fn malformed_output_is_refused() {
        lines("t", b"0 5 -1 20 []\nhi\n").unwrap_err();
    }
}
