//! The ways in which a history is wrong.

use std::fmt;

use crate::history::{Placed, Value};

/// One way in which a history is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finding {
    /// An acknowledged record is nowhere in the log.
    Lost {
        /// As it was acknowledged.
        acknowledged: Placed,
    },
    /// A record that was acknowledged without an offset is nowhere in the log.
    Missing {
        /// The record.
        value: Value,
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
        /// Its first place, and another.
        at: [(u32, u64); 2],
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
        /// Who read it.
        reader: String,
        /// The partition.
        partition: u32,
        /// Its offset.
        offset: u64,
        /// Its content.
        content: String,
    },
    /// A record whose send failed for certain was read.
    Dirty {
        /// Who read it.
        reader: String,
        /// Where it was.
        found: Placed,
    },
    /// A record lies in another partition than it was sent to.
    Misplaced {
        /// Where it is.
        found: Placed,
    },
    /// Two clients were told of different records at one offset.
    Disagreement {
        /// What one of them knows.
        first: (String, Placed),
        /// What another knows.
        second: (String, Placed),
    },
    /// A reader was given a record that is not in the log afterwards: it was shown before it was committed.
    Retracted {
        /// Who read it.
        reader: String,
        /// What it read.
        observed: Placed,
        /// What is at the offset afterwards.
        now: Option<Value>,
    },
    /// A reader was given an offset a second time, or an earlier one, and had not sought.
    Reread {
        /// Who read it.
        reader: String,
        /// What it read.
        partition: u32,
        /// The offset.
        offset: u64,
        /// The next offset that it was to read.
        expected: u64,
    },
    /// A reader was led past records that are in the log.
    Skipped {
        /// The reader.
        reader: String,
        /// The first record that it did not see.
        missed: Placed,
        /// The offset that it was given instead.
        given: u64,
    },
    /// An offset of the log has no record, though every offset has one in a log without transactions and compaction.
    Gap {
        /// Who read all of it.
        reader: String,
        /// The partition.
        partition: u32,
        /// The first offset without a record.
        offset: u64,
        /// The next offset with a record, or the end.
        next: u64,
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
    /// Records were acknowledged in a partition that nobody has read to its end: nothing can be said about them.
    Unread {
        /// The partition.
        partition: u32,
        /// How many.
        acknowledged: u64,
    },
}

/// The kinds of findings, to count them by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(missing_docs, reason = "as the variants of Finding")]
pub enum Kind {
    Lost,
    Moved,
    Duplicated,
    Reordered,
    Phantom,
    Dirty,
    Misplaced,
    Disagreement,
    Retracted,
    Reread,
    Skipped,
    Gap,
    CommitLost,
    Unread,
}

impl Finding {
    /// Its kind.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Lost { .. } | Self::Missing { .. } => Kind::Lost,
            Self::Moved { .. } => Kind::Moved,
            Self::Duplicated { .. } => Kind::Duplicated,
            Self::Reordered { .. } => Kind::Reordered,
            Self::Phantom { .. } => Kind::Phantom,
            Self::Dirty { .. } => Kind::Dirty,
            Self::Misplaced { .. } => Kind::Misplaced,
            Self::Disagreement { .. } => Kind::Disagreement,
            Self::Retracted { .. } => Kind::Retracted,
            Self::Reread { .. } => Kind::Reread,
            Self::Skipped { .. } => Kind::Skipped,
            Self::Gap { .. } => Kind::Gap,
            Self::CommitLost { .. } => Kind::CommitLost,
            Self::Unread { .. } => Kind::Unread,
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Lost { acknowledged } => write!(f, "LOST: acknowledged {acknowledged}, found nowhere"),
            Self::Missing { value } => write!(f, "LOST: acknowledged {value}, found nowhere"),
            Self::Moved { acknowledged, found } => {
                write!(f, "MOVED: acknowledged {acknowledged}, found {found}")
            }
            Self::Duplicated {
                value,
                at: [(p, o), (q, r)],
            } => write!(
                f,
                "DUPLICATED: {value} at offset {o} of partition {p} and at offset {r} of partition {q}"
            ),
            Self::Reordered {
                found,
                after_sequence,
            } => write!(f, "REORDERED: {found} after sequence {after_sequence}"),
            Self::Phantom {
                reader,
                partition,
                offset,
                content,
            } => write!(
                f,
                "PHANTOM: {reader} read '{content}' at offset {offset} of partition {partition}, which was never sent"
            ),
            Self::Dirty { reader, found } => {
                write!(f, "DIRTY: {reader} read {found}, whose send failed for certain")
            }
            Self::Misplaced { found } => write!(f, "MISPLACED: {found}"),
            Self::Disagreement { first, second } => write!(
                f,
                "DISAGREEMENT: {} knows {}, {} knows {}",
                first.0, first.1, second.0, second.1
            ),
            Self::Retracted {
                reader,
                observed,
                now,
            } => match now {
                Some(now) => write!(f, "RETRACTED: {reader} read {observed}, now {now} is there"),
                None => write!(f, "RETRACTED: {reader} read {observed}, now nothing is there"),
            },
            Self::Reread {
                reader,
                partition,
                offset,
                expected,
            } => write!(
                f,
                "REREAD: {reader} was given offset {offset} of partition {partition} where {expected} comes next"
            ),
            Self::Skipped {
                reader,
                missed,
                given,
            } => write!(f, "SKIPPED: {reader} was not given {missed}, but offset {given}"),
            Self::Gap {
                reader,
                partition,
                offset,
                next,
            } => write!(
                f,
                "GAP: {reader} found no record at offsets {offset} to {next} (exclusive) of partition {partition}"
            ),
            Self::CommitLost {
                partition,
                committed,
                now,
            } => write!(
                f,
                "COMMIT LOST: offset {committed} of partition {partition} was committed, now it is {now:?}"
            ),
            Self::Unread {
                partition,
                acknowledged,
            } => write!(
                f,
                "UNREAD: partition {partition} has {acknowledged} acknowledged records, and nobody has read it to its end"
            ),
        }
    }
}
