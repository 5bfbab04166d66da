//! What can be wrong with a bucket.

use std::fmt;
use std::ops::Range;

use meridian_types::{Offset, ShardId};

/// A kind of damage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ProblemKind {
    /// An object that a manifest names is not in the bucket: its records are lost here.
    Missing,
    /// An object has another length than the manifest says.
    Length,
    /// An object's directory is damaged, or contradicts the manifest.
    Directory,
    /// A frame or a batch in it is damaged.
    Content,
    /// Offsets are missing.
    Gap,
    /// A partition is in the manifest of a shard that it does not belong to.
    WrongShard,
    /// A manifest file or a list of topics cannot be read; an older one was taken.
    DamagedFile,
}

impl ProblemKind {
    /// Its name in documents.
    pub fn name(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Length => "length",
            Self::Directory => "directory",
            Self::Content => "content",
            Self::Gap => "gap",
            Self::WrongShard => "wrong_shard",
            Self::DamagedFile => "damaged_file",
        }
    }
}

/// Something that does not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Its kind.
    pub kind: ProblemKind,
    /// The object, where it is about one.
    pub key: Option<String>,
    /// The shard, where it is about a whole one.
    pub shard: Option<ShardId>,
    /// The topic, where it is about one.
    pub topic: Option<String>,
    /// The partition, where it is about one.
    pub partition: Option<u32>,
    /// The offsets that are affected, where they are known.
    pub offsets: Option<Range<Offset>>,
    /// What is wrong.
    pub what: String,
}

impl Problem {
    pub(super) fn of_key(kind: ProblemKind, key: &str, what: &impl ToString) -> Self {
        Self {
            kind,
            key: Some(key.to_owned()),
            shard: None,
            topic: None,
            partition: None,
            offsets: None,
            what: what.to_string(),
        }
    }

    pub(super) fn of_shard(kind: ProblemKind, shard: ShardId, what: String) -> Self {
        Self {
            kind,
            key: None,
            shard: Some(shard),
            topic: None,
            partition: None,
            offsets: None,
            what,
        }
    }

    /// For an order that does not depend on who was checked first.
    pub(super) fn place(&self) -> impl Ord {
        (
            self.topic.clone(),
            self.partition,
            self.offsets.as_ref().map(|offsets| offsets.start),
            self.key.clone(),
            self.kind,
            self.what.clone(),
        )
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.kind.name())?;
        if let Some(shard) = self.shard {
            write!(f, " shard {shard}")?;
        }
        if let Some(topic) = &self.topic {
            write!(f, " topic '{topic}'")?;
        }
        if let Some(partition) = self.partition {
            write!(f, " partition {partition}")?;
        }
        if let Some(offsets) = &self.offsets {
            write!(f, " offsets {} to {}", offsets.start, offsets.end)?;
        }
        if let Some(key) = &self.key {
            write!(f, " {key}")?;
        }
        write!(f, ": {}", self.what)
    }
}
