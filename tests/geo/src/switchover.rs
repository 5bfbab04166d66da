//! One switchover under load, and how long nobody could write.

use std::fmt;
use std::time::{Duration, Instant};

use crate::clients::Clients;
use crate::regions::Regions;

/// What a switchover may cost beside two round trips.
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// What was measured.
#[derive(Clone, Debug)]
pub struct Switchover {
    /// Who owned.
    pub from: usize,
    /// Who owns now.
    pub to: usize,
    /// How long the command took.
    pub took: Duration,
    /// Between the two regions, there and back.
    pub round_trip: Duration,
    /// Of each partition, the longest time without an acknowledged write.
    pub pauses: Vec<Duration>,
}

impl Switchover {
    /// The longest pause.
    pub fn pause(&self) -> Duration {
        self.pauses.iter().max().copied().unwrap_or_default()
    }

    /// What it was to be at most.
    pub fn pause_max(&self) -> Duration {
        2 * self.round_trip + PAUSE_MAX
    }
}

/// Moves ownership from `from` to `to`, by a command that is told of the nodes of `asked`, and waits until every client is
/// served by the new owner.
///
/// Errors: it is taken back; somebody is not served.
pub fn run(
    regions: &Regions,
    clients: &mut Clients,
    asked: usize,
    from: usize,
    to: usize,
) -> Result<Switchover, String> {
    let begun = Instant::now();
    let name = regions.name(to);
    let arguments = ["failover", "switchover", "--to", name, "--timeout", "30s"];
    let done = regions.tool("switchover", &[asked], &arguments)?;
    let took = begun.elapsed();
    if done["owner"].as_u64() != u64::try_from(to).ok() {
        return Err(format!("{name} does not own after its switchover: {done}"));
    }
    clients.served(Instant::now())?;
    let switchover = Switchover {
        from,
        to,
        took,
        round_trip: regions.round_trip(from, to),
        pauses: clients.pauses(begun),
    };
    if switchover.pause() > switchover.pause_max() {
        println!("{}", clients.explain(begun));
    }
    Ok(switchover)
}

/// Pauses of many switchovers.
#[derive(Clone, Debug, Default)]
pub struct Pauses {
    /// Of each partition and switchover, sorted.
    pub of_partitions: Vec<Duration>,
    /// The longest of each switchover, sorted.
    pub of_switchovers: Vec<Duration>,
    /// How many switchovers had one above [`Switchover::pause_max`].
    pub above: usize,
}

impl Pauses {
    /// Of these switchovers.
    pub fn of(switchovers: &[Switchover]) -> Self {
        let mut of_partitions: Vec<Duration> = switchovers
            .iter()
            .flat_map(|it| it.pauses.iter().copied())
            .collect();
        let mut of_switchovers: Vec<Duration> = switchovers.iter().map(Switchover::pause).collect();
        of_partitions.sort_unstable();
        of_switchovers.sort_unstable();
        let above = switchovers.iter().filter(|it| it.pause() > it.pause_max());
        Self {
            of_partitions,
            of_switchovers,
            above: above.count(),
        }
    }
}

impl fmt::Display for Pauses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (what, sorted) in [
            ("partitions", &self.of_partitions),
            ("switchovers, their longest", &self.of_switchovers),
        ] {
            let ms = |share| percentile(sorted, share).as_millis();
            writeln!(
                f,
                "write pause of {} {what}: p50 {} ms, p99 {} ms, max {} ms",
                sorted.len(),
                ms(0.5),
                ms(0.99),
                ms(1.0)
            )?;
        }
        write!(
            f,
            "switchovers above two round trips and a second: {}",
            self.above
        )
    }
}

/// The time that a share of `sorted` did not exceed.
fn percentile(sorted: &[Duration], share: f64) -> Duration {
    let rank = (share * sorted.len() as f64).ceil() as usize;
    let index = rank.clamp(1, sorted.len().max(1)) - 1;
    sorted.get(index).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_counts_as_long_only_beyond_its_own_round_trips() {
        let ms = Duration::from_millis;
        let of = |round_trip, pauses: &[u64]| Switchover {
            from: 0,
            to: 1,
            took: ms(1),
            round_trip: ms(round_trip),
            pauses: pauses.iter().map(|it| ms(*it)).collect(),
        };
        let pauses = Pauses::of(&[of(80, &[300, 1150]), of(20, &[100, 1150]), of(20, &[])]);
        assert_eq!(pauses.above, 1);
        assert_eq!(pauses.of_partitions, [100, 300, 1150, 1150].map(ms));
        assert_eq!(percentile(&pauses.of_partitions, 0.5), ms(300));
        assert_eq!(percentile(&[], 0.99), ms(0));
    }
}
