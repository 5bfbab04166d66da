//! Reads sizes, times and settings from the command line. Every error says what was expected.

use std::time::Duration;

use meridian_client::Acks;
use meridian_types::TimestampMs;
use meridian_wire::batch::Compression;

/// `NAME=VALUE`.
pub(crate) fn parse_setting(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("expected NAME=VALUE, such as retention.ms=86400000".to_owned()),
    }
}

/// A time span such as `250ms`, `10s`, `1.5m`, `2h` or `7d`.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    let expected = || "expected a number and a unit, such as 250ms, 10s, 5m, 2h or 7d".to_owned();
    let at = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .ok_or_else(expected)?;
    let (number, unit) = text.split_at(at);
    let number: f64 = number.parse().map_err(|_| expected())?;
    let seconds = match unit {
        "us" => number / 1e6,
        "ms" => number / 1e3,
        "s" => number,
        "m" => number * 60.0,
        "h" => number * 3600.0,
        "d" => number * 86400.0,
        _ => return Err(expected()),
    };
    Duration::try_from_secs_f64(seconds).map_err(|_| expected())
}

/// A size such as `1024`, `64KiB`, `1MiB` or `2GiB`; `K`, `M` and `G` alone mean the same.
pub(crate) fn parse_bytes(text: &str) -> Result<u64, String> {
    let expected = || "expected a number of bytes, such as 1024, 64KiB, 1MiB or 2GiB".to_owned();
    let at = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(at);
    let number: u64 = number.parse().map_err(|_| expected())?;
    let shift = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        _ => return Err(expected()),
    };
    number.checked_mul(1 << shift).ok_or_else(expected)
}

/// A codec by its name in Kafka's settings.
pub(crate) fn parse_compression(text: &str) -> Result<Compression, String> {
    Compression::from_name(text).ok_or_else(|| "expected none, gzip, snappy, lz4 or zstd".to_owned())
}

/// Who must have a record.
pub(crate) fn parse_acks(text: &str) -> Result<Acks, String> {
    match text {
        "0" => Ok(Acks::None),
        "1" => Ok(Acks::Leader),
        "all" | "-1" => Ok(Acks::All),
        _ => Err("expected 0, 1 or all".to_owned()),
    }
}

/// A moment: milliseconds since 1970, or `2026-11-21`, `2026-11-21T09:30:00Z`, `2026-11-21T09:30:00.250+02:00`.
pub(crate) fn parse_time(text: &str) -> Result<TimestampMs, String> {
    if let Ok(ms) = text.parse::<i64>() {
        return if ms >= 0 {
            Ok(TimestampMs(ms))
        } else {
            Err("a time cannot be negative".to_owned())
        };
    }
    read_rfc3339(text).map(TimestampMs).ok_or_else(|| {
        "expected milliseconds since 1970, or a time such as 2026-11-21T09:30:00Z or 2026-11-21".to_owned()
    })
}

/// Reads RFC 3339, with `T` or a space between date and time; without a zone it is UTC.
fn read_rfc3339(text: &str) -> Option<i64> {
    if !text.is_ascii() {
        return None;
    }
    let number = |text: &str, digits: usize| -> Option<i64> {
        (text.len() == digits && text.bytes().all(|byte| byte.is_ascii_digit()))
            .then(|| text.parse().ok())
            .flatten()
    };
    let (date, rest) = text.split_at_checked(10)?;
    let mut parts = date.split('-');
    let year = number(parts.next()?, 4)?;
    let month = number(parts.next()?, 2)?;
    let day = number(parts.next()?, 2)?;
    if parts.next().is_some() || !(1..=12).contains(&month) || !(1..=days_in(year, month)).contains(&day) {
        return None;
    }
    let midnight_ms = days_since_epoch(year, month, day) * 86_400_000;
    if rest.is_empty() {
        return Some(midnight_ms);
    }
    let rest = rest.strip_prefix(['T', 't', ' '])?;
    let zone_at = rest.find(['Z', 'z', '+', '-']).unwrap_or(rest.len());
    let (time, zone) = rest.split_at(zone_at);
    let (time, fraction) = time.split_once('.').unwrap_or((time, ""));
    let mut parts = time.split(':');
    let hour = number(parts.next()?, 2)?;
    let minute = number(parts.next()?, 2)?;
    let second = parts.next().map_or(Some(0), |second| number(second, 2))?;
    if parts.next().is_some() || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let millis = match fraction.len() {
        0 => 0,
        1..=9 => number(&format!("{fraction:0<9}"), 9)? / 1_000_000,
        _ => return None,
    };
    let offset_minutes = match zone {
        "" | "Z" | "z" => 0,
        _ => {
            let sign = if zone.starts_with('-') { -1 } else { 1 };
            let (hours, minutes) = zone[1..].split_once(':')?;
            sign * (number(hours, 2)? * 60 + number(minutes, 2)?)
        }
    };
    let seconds = (hour * 60 + minute - offset_minutes) * 60 + second;
    Some(midnight_ms + seconds * 1000 + millis)
}

fn days_in(year: i64, month: i64) -> i64 {
    match month {
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days from 1970-01-01, by Howard Hinnant's `days_from_civil`.
fn days_since_epoch(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year - era * 400;
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

/// Bytes with `\n`, `\t`, `\r`, `\0`, `\\` and `\xHH` read as in a string literal.
pub(crate) fn unescape(text: &str) -> Result<Vec<u8>, String> {
    let mut out = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'\\' {
            out.push(byte);
            continue;
        }
        match rest.next() {
            Some(b'n') => out.push(b'\n'),
            Some(b't') => out.push(b'\t'),
            Some(b'r') => out.push(b'\r'),
            Some(b'0') => out.push(0),
            Some(b'\\') => out.push(b'\\'),
            Some(b'x') => {
                let digit = |byte: Option<u8>| byte.and_then(|byte| (byte as char).to_digit(16));
                match (digit(rest.next()), digit(rest.next())) {
                    (Some(high), Some(low)) => out.push((high * 16 + low) as u8),
                    _ => return Err("\\x needs two hexadecimal digits, such as \\x1f".to_owned()),
                }
            }
            _ => return Err("after a backslash expected n, t, r, 0, \\ or xHH".to_owned()),
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read() {
        for (text, ms) in [
            ("0", 0),
            ("1970-01-02", 86_400_000),
            ("2000-03-01T00:00:00Z", 951_868_800_000),
            ("2024-02-29 12:30", 1_709_209_800_000),
            ("2026-11-21T09:30:00.25+02:00", 1_795_246_200_250),
        ] {
            assert_eq!(parse_time(text), Ok(TimestampMs(ms)), "{text}");
        }
        for text in [
            "",
            "-5",
            "yesterday",
            "2026-02-29",
            "2026-13-01",
            "2026-01-01T25:00",
            "2026-01-01X",
        ] {
            assert!(parse_time(text).is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_and_spans_are_read() {
        assert_eq!(parse_bytes("64KiB"), Ok(65536));
        assert_eq!(parse_bytes("1M"), Ok(1 << 20));
        assert!(
            parse_bytes("1.5M").is_err() && parse_bytes("99999999999G").is_err() && parse_bytes("").is_err()
        );
        assert_eq!(parse_duration("1.5s"), Ok(Duration::from_millis(1500)));
        assert_eq!(parse_duration("2h"), Ok(Duration::from_secs(7200)));
        assert!(
            parse_duration("5").is_err() && parse_duration("s").is_err() && parse_duration("1 s").is_err()
        );
    }

    #[test]
    fn escapes_are_read() {
        assert_eq!(unescape("a\\n\\x1f\\\\"), Ok(b"a\n\x1f\\".to_vec()));
        assert!(unescape("\\q").is_err() && unescape("\\x1").is_err());
    }
}
