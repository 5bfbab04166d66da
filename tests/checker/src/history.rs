//! What happened, as the clients told it: the input of the checker.

use std::fmt;

use serde::Deserialize;

/// A record, by who wrote it: producer, partition and sequence number are its content, so that every record is unique.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
pub struct Value {
    /// The producer, unique in the history.
    pub producer: u32,
    /// The partition it was sent to.
    pub partition: u32,
    /// Counts from 0 for each producer and partition, in the order of sending.
    pub sequence: u64,
}

impl Value {
    /// Reads `PRODUCER PARTITION SEQUENCE`, the content of a record; `None` for anything else.
    pub fn parse(text: &str) -> Option<Self> {
        let mut words = text.split(' ');
        let value = Self {
            producer: words.next()?.parse().ok()?,
            partition: words.next()?.parse().ok()?,
            sequence: words.next()?.parse().ok()?,
        };
        words.next().is_none().then_some(value)
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

/// A record at an offset: acknowledged there, or read there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Placed {
    /// The record.
    pub value: Value,
    /// The partition it was found in, or acknowledged for.
    pub partition: u32,
    /// Its offset there.
    pub offset: u64,
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

/// One thing that a client knows.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Event {
    /// A producer has handed out the sequence numbers below `count`; any of these records may be in the log.
    Sent {
        /// The producer.
        producer: u32,
        /// The partition.
        partition: u32,
        /// Sequence numbers handed out so far.
        count: u64,
    },
    /// A send was acknowledged, at this offset.
    Ok {
        /// The record.
        #[serde(flatten)]
        value: Value,
        /// Where it is.
        offset: u64,
    },
    /// A send was acknowledged, nobody knows at which offset: librdkafka concludes it from the acknowledgement of a later
    /// batch, when the answer for this one was lost.
    Persisted {
        /// The record.
        #[serde(flatten)]
        value: Value,
    },
    /// A send failed for certain: the record must never be seen.
    Fail {
        /// The record.
        #[serde(flatten)]
        value: Value,
    },
    /// Nobody knows whether a send was done: its answer was lost, or says so.
    Unknown {
        /// The record.
        #[serde(flatten)]
        value: Value,
    },
    /// A reader goes on from here: it was assigned the partition, or has sought.
    Position {
        /// The partition.
        partition: u32,
        /// The next offset it wants.
        offset: u64,
    },
    /// A reader was given this record.
    Read {
        /// The partition.
        partition: u32,
        /// The offset.
        offset: u64,
        /// Its content, see [`Value::parse`].
        value: String,
    },
    /// A reader that came to the end after the last fault has read all of this range: records that it did not see are not
    /// in the log.
    Complete {
        /// The partition.
        partition: u32,
        /// The log start offset.
        start: u64,
        /// The high watermark.
        end: u64,
    },
    /// A commit of the group's offset was answered.
    Commit {
        /// The partition.
        partition: u32,
        /// The offset.
        offset: u64,
    },
    /// The group's committed offset, as it is after the last fault.
    Committed {
        /// The partition.
        partition: u32,
        /// The offset.
        offset: u64,
    },
}

/// A client's events, in its own order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Client {
    /// Shown in findings.
    pub name: String,
    /// What it knows.
    pub events: Vec<Event>,
}

/// Everything the clients know after a run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct History {
    /// In any order.
    pub clients: Vec<Client>,
}

impl History {
    /// Adds a client.
    pub fn add(&mut self, name: &str, events: Vec<Event>) {
        self.clients.push(Client {
            name: name.to_owned(),
            events,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_in_any_other_form_is_no_value() {
        let value = Value {
            producer: 1,
            partition: 2,
            sequence: 3,
        };
        assert_eq!(Value::parse("1 2 3"), Some(value));
        for text in ["", "1 2", "1 2 3 4", "1 2 x", "1 2 -3", "1  2 3"] {
            assert_eq!(Value::parse(text), None, "{text:?}");
        }
    }
}
