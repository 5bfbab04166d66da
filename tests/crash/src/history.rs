//! What happened, as the clients told it: the input of the checker.

use std::collections::BTreeMap;

/// A record, by who wrote it: producer, partition and sequence number are its value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Value {
    /// The producer.
    pub producer: u32,
    /// The partition it was sent to.
    pub partition: u32,
    /// Counts from 0 for each producer and partition.
    pub sequence: u64,
}

/// A record at an offset: acknowledged there, or read there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placed {
    /// The record.
    pub value: Value,
    /// The partition it was found in, or acknowledged for.
    pub partition: u32,
    /// Its offset there.
    pub offset: u64,
}

/// Everything the clients know after a run.
#[derive(Clone, Debug, Default)]
pub struct History {
    /// Acknowledged records, in the order of their acknowledgements.
    pub acknowledged: Vec<Placed>,
    /// How many records each producer has sent to each partition, acknowledged or not.
    pub sent: BTreeMap<(u32, u32), u64>,
    /// What a consumer read while the faults happened, in its order.
    pub observed: Vec<Placed>,
    /// Offsets that the consumer has committed for its group, by partition, in the order of the answers.
    pub committed: Vec<(u32, u64)>,
    /// The committed offsets after the last fault.
    pub committed_afterwards: BTreeMap<u32, u64>,
    /// The whole log after the last fault, each partition in the order of its offsets.
    pub log: Vec<Placed>,
}

impl History {
    /// Takes over the acknowledgement log of `franz load`: `ack PRODUCER PARTITION SEQUENCE OFFSET` and
    /// `sent PRODUCER PARTITION COUNT`.
    ///
    /// Errors: the first line that is neither.
    pub fn add_acknowledgements(&mut self, text: &str) -> Result<(), String> {
        for line in text.lines() {
            let words: Vec<&str> = line.split(' ').collect();
            match words.as_slice() {
                ["ack", value @ .., offset] => {
                    let value = parse_value(value).ok_or_else(|| malformed(line))?;
                    let offset = offset.parse().map_err(|_| malformed(line))?;
                    self.acknowledged.push(Placed {
                        value,
                        partition: value.partition,
                        offset,
                    });
                }
                ["sent", words @ ..] => {
                    let value = parse_value(words).ok_or_else(|| malformed(line))?;
                    self.sent
                        .insert((value.producer, value.partition), value.sequence);
                }
                _ => return Err(malformed(line)),
            }
        }
        Ok(())
    }

    /// Takes over what `franz log` printed: the whole log.
    ///
    /// Errors: the first line in another form.
    pub fn add_log(&mut self, text: &str) -> Result<(), String> {
        let (offsets, records) = split(text, "committed ");
        self.committed_afterwards.extend(parse_offsets(&offsets)?);
        let (_, records) = split(&records, "end ");
        self.log.extend(parse_placed(&records)?);
        Ok(())
    }

    /// Takes over the file of `franz follow`: what a consumer has seen.
    ///
    /// Errors: the first line in another form.
    pub fn add_observations(&mut self, text: &str) -> Result<(), String> {
        let (offsets, records) = split(text, "commit ");
        self.committed.extend(parse_offsets(&offsets)?);
        self.observed.extend(parse_placed(&records)?);
        Ok(())
    }
}

fn malformed(line: &str) -> String {
    format!("a client printed a malformed line: '{line}'")
}

/// `PRODUCER PARTITION SEQUENCE`.
fn parse_value(words: &[&str]) -> Option<Value> {
    let [producer, partition, sequence] = words else {
        return None;
    };
    Some(Value {
        producer: producer.parse().ok()?,
        partition: partition.parse().ok()?,
        sequence: sequence.parse().ok()?,
    })
}

/// The lines that begin with `start`, without it, and the others.
fn split(text: &str, start: &str) -> (String, String) {
    let mut parts = (String::new(), String::new());
    for line in text.lines() {
        let (part, line) = match line.strip_prefix(start) {
            Some(rest) => (&mut parts.0, rest),
            None => (&mut parts.1, line),
        };
        part.push_str(line);
        part.push('\n');
    }
    parts
}

/// Lines `PARTITION OFFSET`.
fn parse_offsets(text: &str) -> Result<Vec<(u32, u64)>, String> {
    let parsed = |line: &str| {
        let (partition, offset) = line.split_once(' ')?;
        Some((partition.parse().ok()?, offset.parse().ok()?))
    };
    text.lines()
        .map(|line| parsed(line).ok_or_else(|| malformed(line)))
        .collect()
}

/// Lines `PARTITION OFFSET PRODUCER PARTITION SEQUENCE`.
fn parse_placed(text: &str) -> Result<Vec<Placed>, String> {
    text.lines()
        .map(|line| {
            let words: Vec<&str> = line.split(' ').collect();
            let [partition, offset, value @ ..] = words.as_slice() else {
                return Err(malformed(line));
            };
            let parsed = || {
                Some(Placed {
                    value: parse_value(value)?,
                    partition: partition.parse().ok()?,
                    offset: offset.parse().ok()?,
                })
            };
            parsed().ok_or_else(|| malformed(line))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_clients_print_is_taken_over() {
        let mut history = History::default();
        history
            .add_acknowledgements("ack 1 0 7 42\nsent 1 0 9\n")
            .unwrap();
        history.add_log("end 0 43\ncommitted 0 41\n0 42 1 0 7\n").unwrap();
        history.add_observations("0 42 1 0 7\ncommit 0 40\n").unwrap();
        assert_eq!(history.committed, [(0, 40)]);
        assert_eq!(history.committed_afterwards[&0], 41);
        assert_eq!(history.acknowledged, history.log);
        assert_eq!(history.observed, history.log);
        assert_eq!(history.sent[&(1, 0)], 9);
    }

    #[test]
    fn a_malformed_line_is_named() {
        let mut history = History::default();
        let error = history.add_acknowledgements("ack 1 0 x 42").unwrap_err();
        assert!(error.contains("ack 1 0 x 42"), "{error}");
        history.add_log("0 42 1 0").unwrap_err();
    }
}
