//! What it costs a producer that another region must have a record before it is acknowledged (`geo.acks=1`).

use std::time::{Duration, Instant};

use meridian_compat::raw::plain_batch;
use serde::Serialize;

use super::pair::{AWAITED, Pair, TIMED};
use super::weather::Weather;

/// What waiting for another region costs, at the median of writes one after the other.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Acks {
    /// Over which link.
    pub weather: Weather,
    /// Milliseconds without waiting for it.
    pub alone_ms: f64,
    /// Milliseconds with `geo.acks=1`.
    pub awaited_ms: f64,
}

impl Acks {
    /// Milliseconds that it adds.
    pub fn added_ms(&self) -> f64 {
        self.awaited_ms - self.alone_ms
    }

    /// What it is to add at most: a round trip and 5 ms.
    pub fn aim_ms(&self) -> f64 {
        self.weather.rtt_ms as f64 + 5.0
    }
}

/// Writes for half of the window to a topic of each kind. Errors: a write is refused.
pub(super) fn measure(pair: &Pair, weather: Weather, window: Duration) -> Result<Acks, String> {
    pair.prepare(weather)?;
    Ok(Acks {
        weather,
        alone_ms: median_ms(pair, TIMED, window / 2)?,
        awaited_ms: median_ms(pair, AWAITED, window / 2)?,
    })
}

fn median_ms(pair: &Pair, (topic, partitions): (&str, i32), length: Duration) -> Result<f64, String> {
    let mut client = pair.near()?;
    let batch = plain_batch(&[&[0x5a; 1024]]);
    let begun = Instant::now();
    let mut times = Vec::new();
    while begun.elapsed() < length {
        let partition = i32::try_from(times.len()).expect("few writes") % partitions;
        let sent = Instant::now();
        let produced = client.produce(topic, partition, &batch);
        match produced.map_err(|e| format!("cannot write to {topic}: {e}"))? {
            (0, _) => times.push(sent.elapsed().as_secs_f64() * 1e3),
            (error, _) => return Err(format!("error {error} to a write to {topic}")),
        }
    }
    crate::statistics::median(&times).ok_or_else(|| "nothing was written".to_owned())
}
