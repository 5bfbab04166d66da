//! `meridian debug relay`.

use std::io::Write;
use std::net::SocketAddr;
use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use meridian_wan_relay::{Conditions, Counters, Direction, Link, Loss, Probability, Relay, Reorder};
use serde_json::{Value, json};
use tokio::time::{MissedTickBehavior, interval};

use crate::context::Context;
use crate::error::CliError;
use crate::output::{bytes_text, or_dash, time_text, with_schema};
use crate::parse::{parse_bytes, parse_duration};

/// Put a WAN between two addresses: delay, jitter, loss and rate, for UDP and TCP
#[derive(Debug, Args)]
#[command(
    after_help = "Example: meridian debug relay --listen 127.0.0.1:7000 --target 127.0.0.1:9191 --delay 40ms --loss 0.1% --rate 200Mbit"
)]
pub(crate) struct RelayArgs {
    /// Where clients connect; port 0 takes a free one
    #[arg(long, value_name = "ADDR")]
    listen: SocketAddr,
    /// Where everything goes
    #[arg(long, value_name = "ADDR")]
    target: SocketAddr,
    /// Delay, one way
    #[arg(long, default_value = "0ms", value_parser = parse_duration, value_name = "TIME")]
    delay: Duration,
    /// As much more delay at most
    #[arg(long, default_value = "0ms", value_parser = parse_duration, value_name = "TIME")]
    jitter: Duration,
    /// Share of datagrams that get lost
    #[arg(long, default_value = "0%", value_name = "SHARE")]
    loss: Probability,
    /// How many get lost in a row, on average
    #[arg(long, default_value_t = 1, value_name = "N")]
    burst: u32,
    /// Share of datagrams that come twice
    #[arg(long, default_value = "0%", value_name = "SHARE")]
    duplicate: Probability,
    /// Share of datagrams that are held back, so that others overtake them
    #[arg(long, default_value = "0%", value_name = "SHARE")]
    reorder: Probability,
    /// For how long they are held back
    #[arg(long, default_value = "5ms", value_parser = parse_duration, value_name = "TIME")]
    reorder_by: Duration,
    /// Rate of each direction, such as 200Mbit or 25MiB per second
    #[arg(long, value_parser = parse_rate, value_name = "RATE")]
    rate: Option<NonZeroU64>,
    /// What may wait when the rate is reached
    #[arg(long, default_value = "4MiB", value_parser = parse_bytes, value_name = "BYTES")]
    queue: u64,
    /// Seed of the dice
    #[arg(long, default_value_t = 1, value_name = "N")]
    seed: u64,
}

/// Bits or bytes per second.
fn parse_rate(text: &str) -> Result<NonZeroU64, String> {
    let bits = [("kbit", 1_000), ("Mbit", 1_000_000), ("Gbit", 1_000_000_000_u64)];
    let bits = bits.iter().find_map(|(unit, factor)| {
        let number: u64 = text.strip_suffix(unit)?.parse().ok()?;
        number.checked_mul(*factor)
    });
    let bytes = match bits {
        Some(bits) => Some(bits / 8),
        None => parse_bytes(text).ok(),
    };
    bytes
        .and_then(NonZeroU64::new)
        .ok_or_else(|| "expected a rate per second, such as 200Mbit or 25MiB".to_owned())
}

impl RelayArgs {
    fn conditions(&self) -> Conditions {
        Conditions {
            delay: self.delay,
            jitter: self.jitter,
            loss: Loss {
                share: self.loss,
                burst_packets: self.burst,
            },
            duplicate: self.duplicate,
            reorder: Reorder {
                share: self.reorder,
                by: self.reorder_by,
            },
            rate_bytes_per_second: self.rate,
            queue_bytes_max: usize::try_from(self.queue).unwrap_or(usize::MAX),
            is_cut: false,
        }
    }

    /// Runs until it is interrupted, and tells every second what has passed.
    pub(super) async fn run(self, context: &Context) -> Result<(), CliError> {
        let cannot = |error: std::io::Error| CliError::failed(format!("the relay cannot be opened: {error}"));
        let relay = Arc::new(Relay::start().map_err(cannot)?);
        let link = relay.link(self.seed, self.conditions());
        let measuring = (
            relay.clone(),
            relay.link(self.seed, Conditions::delayed(self.delay)),
        );
        let measured = tokio::task::spawn_blocking(move || measuring.0.measure(&measuring.1)).await;
        let measured = measured.ok().and_then(Result::ok);
        let port = relay.open(self.listen, self.target, &link).map_err(cannot)?;
        let is_json = context.output.is_json();
        let ready = json!({
            "event": "ready",
            "listen": port.address().to_string(),
            "target": port.target().to_string(),
            "round_trip_us": link.round_trip().as_micros() as u64,
            "measured_us": measured.map(|time| time.as_micros() as u64),
        });
        say(is_json, ready, || {
            format!(
                "{} is {} away from {}, there and back; measured: {}",
                port.address(),
                time_text(link.round_trip()),
                port.target(),
                or_dash(measured.map(time_text)),
            )
        })?;
        let mut ticks = interval(Duration::from_secs(1));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                _ = tokio::signal::ctrl_c() => return Ok(()),
            }
            let fields = json!({
                "event": "counters",
                "forward": counters_json(&link, Direction::Forward),
                "backward": counters_json(&link, Direction::Backward),
            });
            say(is_json, fields, || {
                format!(
                    "there: {}   back: {}",
                    counters_text(&link.counters(Direction::Forward)),
                    counters_text(&link.counters(Direction::Backward))
                )
            })?;
        }
    }
}

fn say(is_json: bool, fields: Value, text: impl FnOnce() -> String) -> Result<(), CliError> {
    let mut out = std::io::stdout().lock();
    match is_json {
        true => writeln!(out, "{}", with_schema("debug.relay", fields))?,
        false => writeln!(out, "{}", text())?,
    }
    out.flush()?;
    Ok(())
}

fn counters_json(link: &Link, direction: Direction) -> Value {
    let c = link.counters(direction);
    json!({
        "received_packets": c.received_packets,
        "received_bytes": c.received_bytes,
        "delivered_packets": c.delivered_packets,
        "delivered_bytes": c.delivered_bytes,
        "lost_packets": c.lost_packets,
        "queue_full_packets": c.queue_full_packets,
        "cut_packets": c.cut_packets,
        "duplicated_packets": c.duplicated_packets,
        "reordered_packets": c.reordered_packets,
        "refused_packets": c.refused_packets,
        "held_mean_us": c.held_mean().map(|time| time.as_micros() as u64),
        "held_max_us": c.held_max.as_micros() as u64,
    })
}

fn counters_text(c: &Counters) -> String {
    format!(
        "{} packets, {}, {} lost, {} without room, held {} on average",
        c.delivered_packets,
        bytes_text(c.delivered_bytes),
        c.lost_packets,
        c.queue_full_packets,
        or_dash(c.held_mean().map(time_text)),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_in_bits_or_bytes() {
        let rate = |text| parse_rate(text).map(NonZeroU64::get);
        assert_eq!(rate("200Mbit"), Ok(25_000_000));
        assert_eq!(rate("1MiB"), Ok(1 << 20));
        assert!(rate("0Mbit").is_err() && rate("fast").is_err() && rate("99999999999Gbit").is_err());
    }
}
