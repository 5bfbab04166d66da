//! What the tables say, as data: for the test against Kafka's own schemas, and for generating input.

use std::fmt;

/// A range of versions, both ends inclusive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Versions {
    /// The first version.
    pub first: i16,
    /// The last one; `i16::MAX` for "and all that follow".
    pub last: i16,
}

impl Versions {
    /// No version.
    pub const NONE: Self = Self { first: 0, last: -1 };

    /// Whether `version` is one of them.
    pub const fn contains(self, version: i16) -> bool {
        self.first <= version && version <= self.last
    }

    /// Every version, in order.
    pub fn iter(self) -> impl DoubleEndedIterator<Item = i16> {
        self.first..=self.last
    }
}

impl fmt::Display for Versions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::NONE => f.write_str("none"),
            Self { first, last } if first == last => write!(f, "{first}"),
            Self {
                first,
                last: i16::MAX,
            } => write!(f, "{first}+"),
            Self { first, last } => write!(f, "{first}-{last}"),
        }
    }
}

/// The type of a field, as Kafka's specification names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FieldType {
    /// `bool`
    Bool,
    /// `int8`
    Int8,
    /// `int16`
    Int16,
    /// `uint16`
    Uint16,
    /// `int32`
    Int32,
    /// `int64`
    Int64,
    /// `float64`
    Float64,
    /// `uuid`
    Uuid,
    /// `string`
    String,
    /// `bytes`
    Bytes,
    /// `records`
    Records,
    /// `[]type`
    Array(&'static Self),
    /// A struct, in place.
    Struct(&'static StructSchema),
}

/// A struct or a whole message.
#[derive(Debug, PartialEq, Eq)]
pub struct StructSchema {
    /// Kafka's name of it.
    pub name: &'static str,
    /// Its fields, in the order of the wire.
    pub fields: &'static [FieldSchema],
}

/// One field of a struct.
#[derive(Debug, PartialEq, Eq)]
pub struct FieldSchema {
    /// Kafka's name in snake case.
    pub name: &'static str,
    /// Its type.
    pub ty: FieldType,
    /// The versions it exists in.
    pub versions: Versions,
    /// The versions in which it may be null.
    pub nullable: Versions,
    /// The tag it is written under. `None` if it has a fixed place.
    pub tag: Option<u32>,
    /// The default as the table writes it. `None` for the type's own: zero or empty, never null.
    pub default: Option<&'static str>,
    /// Whether versions without the field drop its value silently.
    pub ignorable: bool,
}
