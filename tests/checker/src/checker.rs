//! Compares what was sent, acknowledged and seen with what is there.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use crate::finding::{Finding, Kind};
use crate::history::{Client, Event, History, Placed, Value};

/// Findings that a report keeps; it counts all.
const FINDINGS_MAX: usize = 200;

/// What a history shows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// The findings, the first 200 of them.
    pub findings: Vec<Finding>,
    /// How many of each kind there are.
    pub counts: BTreeMap<Kind, u64>,
    /// Acknowledged sends.
    pub acknowledged: u64,
    /// Sends that failed for certain.
    pub failed: u64,
    /// Sends of which nobody knows.
    pub unknown: u64,
    /// Records in the log.
    pub stored: u64,
    /// Records that readers saw before the end.
    pub observed: u64,
    /// Commits of offsets that were answered.
    pub commits: u64,
}

impl Report {
    /// Whether nothing is wrong.
    pub fn is_sound(&self) -> bool {
        self.counts.is_empty()
    }

    /// How many findings of a kind there are.
    pub fn count(&self, kind: Kind) -> u64 {
        self.counts.get(&kind).copied().unwrap_or(0)
    }

    /// Takes over another report, of other records.
    pub fn add(&mut self, other: Self) {
        let room = FINDINGS_MAX.saturating_sub(self.findings.len());
        self.findings.extend(other.findings.into_iter().take(room));
        for (kind, count) in other.counts {
            *self.counts.entry(kind).or_default() += count;
        }
        self.acknowledged += other.acknowledged;
        self.failed += other.failed;
        self.unknown += other.unknown;
        self.stored += other.stored;
        self.observed += other.observed;
        self.commits += other.commits;
    }

    fn found(&mut self, finding: Finding) {
        *self.counts.entry(finding.kind()).or_default() += 1;
        if self.findings.len() < FINDINGS_MAX {
            self.findings.push(finding);
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let others: u64 = self.counts.values().sum::<u64>()
            - [Kind::Lost, Kind::Duplicated, Kind::Reordered]
                .map(|k| self.count(k))
                .iter()
                .sum::<u64>();
        write!(
            f,
            "{} acknowledged, {} failed, {} unknown, {} stored, {} observed, {} commits: \
             {} lost, {} duplicated, {} reordered, {others} other findings",
            self.acknowledged,
            self.failed,
            self.unknown,
            self.stored,
            self.observed,
            self.commits,
            self.count(Kind::Lost),
            self.count(Kind::Duplicated),
            self.count(Kind::Reordered),
        )?;
        if !self.is_sound() {
            write!(f, " {:?}", self.counts)?;
        }
        for finding in self.findings.iter().take(20) {
            write!(f, "\n  {finding}")?;
        }
        Ok(())
    }
}

/// All that is wrong with a history: nothing, when every acknowledged record is there once, in order, at its offset,
/// and nothing that was seen has changed.
pub fn check(history: &History) -> Report {
    let mut report = Report::default();
    let sends = Sends::of(history);
    let log = Log::of(history, &mut report);
    report.acknowledged = (sends.acknowledged.len() + sends.persisted.len()) as u64;
    report.failed = sends.failed.len() as u64;
    report.unknown = sends.unknown;
    report.stored = log.records.values().map(|records| records.len() as u64).sum();
    check_acknowledged(&sends, &log, &mut report);
    check_once(&log, &mut report);
    check_order(&log, &mut report);
    check_content(history, &sends, &mut report);
    for client in &history.clients {
        check_reader(client, &log, &mut report);
    }
    check_agreement(history, &sends, &log, &mut report);
    check_commits(history, &mut report);
    report
}

/// What the producers know.
struct Sends<'a> {
    counts: BTreeMap<(u32, u32), u64>,
    acknowledged: Vec<(&'a str, Placed)>,
    /// Acknowledged too, at an offset that nobody was told.
    persisted: Vec<Value>,
    failed: BTreeSet<Value>,
    unknown: u64,
}

impl<'a> Sends<'a> {
    fn of(history: &'a History) -> Self {
        let mut sends = Self {
            counts: BTreeMap::new(),
            acknowledged: Vec::new(),
            persisted: Vec::new(),
            failed: BTreeSet::new(),
            unknown: 0,
        };
        for client in &history.clients {
            for event in &client.events {
                match *event {
                    Event::Sent {
                        producer,
                        partition,
                        count,
                    } => sends.raise((producer, partition), count),
                    Event::Ok { value, offset } => {
                        sends.knows(value);
                        let placed = Placed {
                            value,
                            partition: value.partition,
                            offset,
                        };
                        sends.acknowledged.push((&client.name, placed));
                    }
                    Event::Persisted { value } => {
                        sends.knows(value);
                        sends.persisted.push(value);
                    }
                    Event::Fail { value } => {
                        sends.knows(value);
                        sends.failed.insert(value);
                    }
                    Event::Unknown { value } => {
                        sends.knows(value);
                        sends.unknown += 1;
                    }
                    _ => {}
                }
            }
        }
        sends
    }

    fn raise(&mut self, key: (u32, u32), count: u64) {
        let known = self.counts.entry(key).or_default();
        *known = count.max(*known);
    }

    /// What has an outcome was sent.
    fn knows(&mut self, value: Value) {
        self.raise(
            (value.producer, value.partition),
            value.sequence.saturating_add(1),
        );
    }

    fn was_sent(&self, value: Value) -> bool {
        self.counts
            .get(&(value.producer, value.partition))
            .is_some_and(|count| value.sequence < *count)
    }
}

/// The log after the last fault, as those read it who came to its end.
#[derive(Default)]
struct Log {
    /// By partition, in the order of the offsets.
    records: BTreeMap<u32, Vec<(u64, Value)>>,
    /// By partition: from where on it is known.
    starts: BTreeMap<u32, u64>,
    /// Every place of every record.
    places: Vec<Placed>,
}

impl Log {
    fn of(history: &History, report: &mut Report) -> Self {
        let mut log = Self::default();
        // With the reader, to say who disagrees.
        let mut known: BTreeMap<u32, Vec<(u64, Value, &str)>> = BTreeMap::new();
        for client in &history.clients {
            for (partition, (start, end)) in complete_ranges(client) {
                let first = log.starts.entry(partition).or_insert(start);
                *first = start.min(*first);
                let records = known.entry(partition).or_default();
                let mut expected = start;
                for (offset, content) in reads(client, partition) {
                    if !(start..end).contains(&offset) {
                        continue;
                    }
                    if offset > expected {
                        report.found(gap(client, partition, expected, offset));
                    }
                    expected = offset.saturating_add(1).max(expected);
                    if let Some(value) = Value::parse(content) {
                        records.push((offset, value, &client.name));
                    }
                }
                if expected < end {
                    report.found(gap(client, partition, expected, end));
                }
            }
        }
        for (partition, mut records) in known {
            records.sort_by_key(|(offset, value, _)| (*offset, *value));
            records.dedup_by_key(|(offset, value, _)| (*offset, *value));
            for pair in records.windows(2) {
                if pair[0].0 == pair[1].0 {
                    report.found(disagreement(partition, pair[0], pair[1]));
                }
            }
            log.places
                .extend(records.iter().map(|&(offset, value, _)| Placed {
                    value,
                    partition,
                    offset,
                }));
            let records = records.into_iter().map(|(offset, value, _)| (offset, value));
            log.records.insert(partition, records.collect());
        }
        log.places.sort_unstable();
        log
    }

    fn places_of(&self, value: Value) -> &[Placed] {
        let from = self.places.partition_point(|placed| placed.value < value);
        let to = self.places.partition_point(|placed| placed.value <= value);
        &self.places[from..to]
    }

    /// The records at an offset: more than one where readers disagree.
    fn at(&self, partition: u32, offset: u64) -> &[(u64, Value)] {
        let records = self.records.get(&partition).map_or(&[][..], Vec::as_slice);
        let from = records.partition_point(|(at, _)| *at < offset);
        let to = records.partition_point(|(at, _)| *at <= offset);
        &records[from..to]
    }

    /// The first record from `offset` on.
    fn first_from(&self, partition: u32, offset: u64) -> Option<Placed> {
        let records = self.records.get(&partition)?;
        let (offset, value) = *records.get(records.partition_point(|(at, _)| *at < offset))?;
        Some(Placed {
            value,
            partition,
            offset,
        })
    }
}

/// What a client has read to the end, by partition: log start offset and high watermark.
fn complete_ranges(client: &Client) -> BTreeMap<u32, (u64, u64)> {
    let ranges = client.events.iter().filter_map(|event| match *event {
        Event::Complete {
            partition,
            start,
            end,
        } => Some((partition, (start, end))),
        _ => None,
    });
    ranges.collect()
}

/// What a client has read of a partition.
fn reads(client: &Client, wanted: u32) -> impl Iterator<Item = (u64, &str)> {
    client.events.iter().filter_map(move |event| match event {
        Event::Read {
            partition,
            offset,
            value,
        } if *partition == wanted => Some((*offset, value.as_str())),
        _ => None,
    })
}

fn gap(client: &Client, partition: u32, offset: u64, next: u64) -> Finding {
    Finding::Gap {
        reader: client.name.clone(),
        partition,
        offset,
        next,
    }
}

fn disagreement(partition: u32, first: (u64, Value, &str), second: (u64, Value, &str)) -> Finding {
    let side = |(offset, value, name): (u64, Value, &str)| {
        let placed = Placed {
            value,
            partition,
            offset,
        };
        (name.to_owned(), placed)
    };
    Finding::Disagreement {
        first: side(first),
        second: side(second),
    }
}

fn check_acknowledged(sends: &Sends, log: &Log, report: &mut Report) {
    let mut unread: BTreeMap<u32, u64> = BTreeMap::new();
    for &(_, acknowledged) in &sends.acknowledged {
        let Some(start) = log.starts.get(&acknowledged.partition) else {
            *unread.entry(acknowledged.partition).or_default() += 1;
            continue;
        };
        match log.places_of(acknowledged.value) {
            // Retention may have taken it.
            [] if acknowledged.offset < *start => {}
            [] => report.found(Finding::Lost { acknowledged }),
            places if places.contains(&acknowledged) => {}
            [found, ..] => report.found(Finding::Moved {
                acknowledged,
                found: *found,
            }),
        }
    }
    for &value in &sends.persisted {
        match log.starts.get(&value.partition) {
            None => *unread.entry(value.partition).or_default() += 1,
            Some(0) if log.places_of(value).is_empty() => report.found(Finding::Missing { value }),
            // Where nothing is known of its offset, retention may have taken it.
            Some(_) => {}
        }
    }
    for (partition, acknowledged) in unread {
        report.found(Finding::Unread {
            partition,
            acknowledged,
        });
    }
}

fn check_once(log: &Log, report: &mut Report) {
    for pair in log.places.windows(2) {
        if pair[0].value == pair[1].value {
            report.found(Finding::Duplicated {
                value: pair[0].value,
                at: [pair[0], pair[1]].map(|placed| (placed.partition, placed.offset)),
            });
        }
    }
}

fn check_order(log: &Log, report: &mut Report) {
    for (&partition, records) in &log.records {
        let mut last: BTreeMap<u32, u64> = BTreeMap::new();
        for &(offset, value) in records {
            let found = Placed {
                value,
                partition,
                offset,
            };
            if value.partition != partition {
                // Its sequence belongs to another partition.
                report.found(Finding::Misplaced { found });
                continue;
            }
            let after_sequence = *last.get(&value.producer).unwrap_or(&value.sequence);
            if value.sequence < after_sequence {
                report.found(Finding::Reordered {
                    found,
                    after_sequence,
                });
            }
            last.insert(value.producer, value.sequence.max(after_sequence));
        }
    }
}

/// Nobody may see what was not sent, or what failed. One finding for each place, however many saw it.
fn check_content(history: &History, sends: &Sends, report: &mut Report) {
    let mut reported = BTreeSet::new();
    for client in &history.clients {
        for event in &client.events {
            let Event::Read {
                partition,
                offset,
                value: content,
            } = event
            else {
                continue;
            };
            let finding = match Value::parse(content) {
                Some(value) if sends.failed.contains(&value) => Finding::Dirty {
                    reader: client.name.clone(),
                    found: Placed {
                        value,
                        partition: *partition,
                        offset: *offset,
                    },
                },
                Some(value) if sends.was_sent(value) => continue,
                _ => Finding::Phantom {
                    reader: client.name.clone(),
                    partition: *partition,
                    offset: *offset,
                    content: content.chars().take(100).collect(),
                },
            };
            if reported.insert((*partition, *offset)) {
                report.found(finding);
            }
        }
    }
}

/// A reader goes forward, sees every record, and what it has seen stays.
fn check_reader(client: &Client, log: &Log, report: &mut Report) {
    let complete = complete_ranges(client);
    let mut expected: BTreeMap<u32, u64> = BTreeMap::new();
    for event in &client.events {
        match event {
            Event::Position { partition, offset } => {
                expected.insert(*partition, *offset);
            }
            Event::Read {
                partition,
                offset,
                value,
            } => {
                let is_complete = complete.contains_key(partition);
                if !is_complete {
                    report.observed += 1;
                }
                let next = expected.insert(*partition, offset.saturating_add(1));
                if let Some(next) = next
                    && *offset < next
                {
                    report.found(Finding::Reread {
                        reader: client.name.clone(),
                        partition: *partition,
                        offset: *offset,
                        expected: next,
                    });
                }
                // The log is made of what complete readers saw: nothing to compare them with.
                if is_complete {
                    continue;
                }
                if let Some(next) = next
                    && let Some(missed) = log.first_from(*partition, next)
                    && missed.offset < *offset
                {
                    report.found(Finding::Skipped {
                        reader: client.name.clone(),
                        missed,
                        given: *offset,
                    });
                }
                check_kept(client, (*partition, *offset), value, log, report);
            }
            _ => {}
        }
    }
}

fn check_kept(client: &Client, place: (u32, u64), content: &str, log: &Log, report: &mut Report) {
    let (partition, offset) = place;
    let Some(value) = Value::parse(content) else {
        return;
    };
    if log.starts.get(&partition).is_none_or(|start| offset < *start) {
        return;
    }
    let now = log.at(partition, offset);
    if !now.contains(&(offset, value)) {
        report.found(Finding::Retracted {
            reader: client.name.clone(),
            observed: Placed {
                value,
                partition,
                offset,
            },
            now: now.first().map(|(_, value)| *value),
        });
    }
}

/// Where nobody has read to the end, those who know something must at least agree with one another.
fn check_agreement(history: &History, sends: &Sends, log: &Log, report: &mut Report) {
    let mut known: Vec<(u32, u64, Value, &str)> = Vec::new();
    let is_open = |partition: u32| !log.starts.contains_key(&partition);
    for &(name, placed) in sends.acknowledged.iter().filter(|(_, p)| is_open(p.partition)) {
        known.push((placed.partition, placed.offset, placed.value, name));
    }
    for client in &history.clients {
        for event in &client.events {
            if let Event::Read {
                partition,
                offset,
                value,
            } = event
                && is_open(*partition)
                && let Some(value) = Value::parse(value)
            {
                known.push((*partition, *offset, value, &client.name));
            }
        }
    }
    known.sort_by_key(|(partition, offset, value, _)| (*partition, *offset, *value));
    known.dedup_by_key(|(partition, offset, value, _)| (*partition, *offset, *value));
    for pair in known.windows(2) {
        let ((p, o, v, first), (q, r, w, second)) = (pair[0], pair[1]);
        if (p, o) == (q, r) {
            report.found(disagreement(p, (o, v, first), (r, w, second)));
        }
    }
}

/// A commit that was not answered may have been made: the offset afterwards may be later than the last answered one.
/// Where several clients commit for one partition, the earliest of their last commits counts.
fn check_commits(history: &History, report: &mut Report) {
    let mut committed: BTreeMap<u32, u64> = BTreeMap::new();
    let mut afterwards: BTreeMap<u32, u64> = BTreeMap::new();
    for client in &history.clients {
        let mut last: BTreeMap<u32, u64> = BTreeMap::new();
        for event in &client.events {
            match *event {
                Event::Commit { partition, offset } => {
                    report.commits += 1;
                    last.insert(partition, offset);
                }
                Event::Committed { partition, offset } => {
                    afterwards.insert(partition, offset);
                }
                _ => {}
            }
        }
        for (partition, offset) in last {
            let earliest = committed.entry(partition).or_insert(offset);
            *earliest = offset.min(*earliest);
        }
    }
    for (partition, committed) in committed {
        let now = afterwards.get(&partition).copied();
        if now.is_none_or(|now| now < committed) {
            report.found(Finding::CommitLost {
                partition,
                committed,
                now,
            });
        }
    }
}

#[cfg(test)]
mod tests;
