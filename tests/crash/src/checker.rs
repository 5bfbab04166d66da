//! Whether a history is one that a durable log of idempotent producers may have. Pure.
//!
//! A subset of the checks of Jepsen's Kafka workload, for a log without transactions.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use crate::history::{History, Placed, Value};

/// One way in which a history is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Violation {
    /// An acknowledged record is nowhere in the log.
    Lost {
        /// As it was acknowledged.
        acknowledged: Placed,
    },
    /// An acknowledged record is in the log at another place than acknowledged.
    Moved {
        /// As it was acknowledged.
        acknowledged: Placed,
        /// Where it is.
        found: Placed,
    },
    /// A record is in the log more than once.
    Duplicated {
        /// The record.
        value: Value,
        /// Its offsets.
        offsets: Vec<u64>,
    },
    /// A record of a producer comes after a later one of the same producer in the same partition.
    Reordered {
        /// The record in the wrong place.
        found: Placed,
        /// The sequence number before it.
        after_sequence: u64,
    },
    /// A record that no producer has sent.
    Phantom {
        /// Where it is.
        found: Placed,
    },
    /// A record lies in another partition than it was sent to.
    Misplaced {
        /// Where it is.
        found: Placed,
    },
    /// A consumer has read a record that is not at this offset afterwards: it was shown before it was durable.
    Retracted {
        /// What the consumer read.
        observed: Placed,
        /// What is at the offset afterwards.
        now: Option<Value>,
    },
    /// A consumer that reads on was given an offset a second time, or an earlier one.
    Reread {
        /// What the consumer read.
        observed: Placed,
        /// The offset it had read before.
        last_offset: u64,
    },
    /// A committed offset of the group is gone, or an older one is back.
    CommitLost {
        /// The partition.
        partition: u32,
        /// The last offset whose commit was answered.
        committed: u64,
        /// The committed offset afterwards.
        now: Option<u64>,
    },
    /// Two records at one offset, or offsets that fall, in one reading of the log.
    Disordered {
        /// The record that does not come after the one before it.
        found: Placed,
        /// The offset before it.
        last_offset: u64,
    },
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Lost { acknowledged } => write!(f, "LOST: acknowledged {acknowledged}, found nowhere"),
            Self::Moved { acknowledged, found } => {
                write!(f, "MOVED: acknowledged {acknowledged}, found {found}")
            }
            Self::Duplicated { value, offsets } => {
                write!(f, "DUPLICATED: {value} at offsets {offsets:?}")
            }
            Self::Reordered {
                found,
                after_sequence,
            } => {
                write!(f, "REORDERED: {found} after sequence {after_sequence}")
            }
            Self::Phantom { found } => write!(f, "PHANTOM: {found} was never sent"),
            Self::Misplaced { found } => write!(f, "MISPLACED: {found}"),
            Self::Retracted {
                observed,
                now: Some(now),
            } => {
                write!(f, "RETRACTED: a consumer read {observed}, now it is {now}")
            }
            Self::Retracted { observed, now: None } => {
                write!(f, "RETRACTED: a consumer read {observed}, now nothing is there")
            }
            Self::Reread {
                observed,
                last_offset,
            } => {
                write!(f, "REREAD: a consumer read {observed} after offset {last_offset}")
            }
            Self::CommitLost {
                partition,
                committed,
                now,
            } => write!(
                f,
                "COMMIT LOST: offset {committed} of partition {partition} was committed, now it is {now:?}"
            ),
            Self::Disordered { found, last_offset } => {
                write!(f, "DISORDERED: {found} after offset {last_offset}")
            }
        }
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "record {} of producer {} for partition {}",
            self.sequence, self.producer, self.partition
        )
    }
}

impl fmt::Display for Placed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} at offset {} of partition {}",
            self.value, self.offset, self.partition
        )
    }
}

/// All violations in a history; none when every acknowledged record is there once, in order, at its offset, and nothing
/// that was seen has changed.
pub fn check(history: &History) -> Vec<Violation> {
    let mut violations = Vec::new();
    let places = places(&history.log);
    check_acknowledged(history, &places, &mut violations);
    check_once(&places, &mut violations);
    check_log(history, &mut violations);
    check_observed(history, &mut violations);
    check_committed(history, &mut violations);
    violations
}

/// Where each record lies.
fn places(log: &[Placed]) -> BTreeMap<Value, Vec<Placed>> {
    let mut places: BTreeMap<Value, Vec<Placed>> = BTreeMap::new();
    for placed in log {
        places.entry(placed.value).or_default().push(*placed);
    }
    places
}

fn check_acknowledged(
    history: &History,
    places: &BTreeMap<Value, Vec<Placed>>,
    violations: &mut Vec<Violation>,
) {
    for &acknowledged in &history.acknowledged {
        match places.get(&acknowledged.value).map(Vec::as_slice) {
            None | Some([]) => violations.push(Violation::Lost { acknowledged }),
            Some(found) if found.contains(&acknowledged) => {}
            Some([found, ..]) => violations.push(Violation::Moved {
                acknowledged,
                found: *found,
            }),
        }
    }
}

fn check_once(places: &BTreeMap<Value, Vec<Placed>>, violations: &mut Vec<Violation>) {
    for (value, found) in places {
        if found.len() > 1 {
            violations.push(Violation::Duplicated {
                value: *value,
                offsets: found.iter().map(|p| p.offset).collect(),
            });
        }
    }
}

fn check_log(history: &History, violations: &mut Vec<Violation>) {
    let mut last_offsets: BTreeMap<u32, u64> = BTreeMap::new();
    let mut last_sequences: BTreeMap<(u32, u32), u64> = BTreeMap::new();
    for &found in &history.log {
        let Value {
            producer,
            partition,
            sequence,
        } = found.value;
        if partition != found.partition {
            violations.push(Violation::Misplaced { found });
        }
        if history
            .sent
            .get(&(producer, partition))
            .is_none_or(|count| sequence >= *count)
        {
            violations.push(Violation::Phantom { found });
        }
        if let Some(last_offset) = last_offsets.insert(found.partition, found.offset)
            && found.offset <= last_offset
        {
            violations.push(Violation::Disordered { found, last_offset });
        }
        let last = last_sequences
            .entry((producer, found.partition))
            .or_insert(sequence);
        if sequence < *last {
            violations.push(Violation::Reordered {
                found,
                after_sequence: *last,
            });
        }
        *last = sequence.max(*last);
    }
}

fn check_observed(history: &History, violations: &mut Vec<Violation>) {
    let log: BTreeMap<(u32, u64), Value> = history
        .log
        .iter()
        .map(|p| ((p.partition, p.offset), p.value))
        .collect();
    let mut last_offsets: BTreeMap<u32, u64> = BTreeMap::new();
    let mut retracted: BTreeSet<(u32, u64)> = BTreeSet::new();
    for &observed in &history.observed {
        let place = (observed.partition, observed.offset);
        let now = log.get(&place).copied();
        if now != Some(observed.value) && retracted.insert(place) {
            violations.push(Violation::Retracted { observed, now });
        }
        if let Some(last_offset) = last_offsets.insert(observed.partition, observed.offset)
            && observed.offset <= last_offset
        {
            violations.push(Violation::Reread {
                observed,
                last_offset,
            });
        }
    }
}

/// A commit that was not answered may have been made: the offset afterwards may be later than the last answered one.
fn check_committed(history: &History, violations: &mut Vec<Violation>) {
    let last: BTreeMap<u32, u64> = history.committed.iter().copied().collect();
    for (partition, committed) in last {
        let now = history.committed_afterwards.get(&partition).copied();
        if now.is_none_or(|now| now < committed) {
            violations.push(Violation::CommitLost {
                partition,
                committed,
                now,
            });
        }
    }
}

#[cfg(test)]
mod tests;
