use thiserror::Error;

/// Why bytes of a peer could not be read. The connection they came from is out of step: answer if
/// the header was readable, then close it.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("cannot decode {}: {kind}", if field.is_empty() { "frame" } else { field })]
pub struct DecodeError {
    /// The innermost field that was being read, as `Struct.field`; empty outside of any.
    pub field: &'static str,
    /// What was wrong with it.
    pub kind: DecodeErrorKind,
}

/// What was wrong with the bytes.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum DecodeErrorKind {
    /// The frame ends inside a value: the peer sent a wrong length or another version's layout.
    #[error("needs {needed} bytes, the frame has {left} left")]
    Truncated {
        /// Bytes that the value takes.
        needed: usize,
        /// Bytes left in the frame.
        left: usize,
    },
    /// A length below -1.
    #[error("length {0} is negative, expected -1 for null or the real length")]
    NegativeLength(i32),
    /// Null where this version does not allow it.
    #[error("null, which this version does not allow here")]
    Null,
    /// A string that is not UTF-8.
    #[error("string is not UTF-8")]
    NotUtf8,
    /// A string longer than Kafka allows in any version.
    #[error("string of {bytes} bytes, at most {} are allowed", i16::MAX)]
    StringTooLong {
        /// Its length.
        bytes: usize,
    },
    /// A variable-length number with more bits than its type.
    #[error("variable-length number has more than {bits} bits")]
    VarintTooLong {
        /// Bits of the type.
        bits: u32,
    },
    /// An array claims more elements than the rest of the frame can hold.
    #[error(
        "array of {count} elements of {element_bytes_min} bytes or more cannot fit into the {left} bytes left"
    )]
    ArrayTooLong {
        /// Elements claimed.
        count: usize,
        /// Least bytes of one element.
        element_bytes_min: usize,
        /// Bytes left in the frame.
        left: usize,
    },
    /// The arrays of this frame would take far more memory than the frame: many empty elements, as
    /// no client sends them.
    #[error("array of {count} elements would take {bytes} bytes of memory, {left} are left for this frame")]
    MemoryLimit {
        /// Elements claimed.
        count: usize,
        /// Bytes they take in memory.
        bytes: usize,
        /// What this frame may still take.
        left: usize,
    },
    /// A tagged field whose content is not as long as it says.
    #[error("tagged field {tag} says {size} bytes, its content takes {taken}")]
    TaggedFieldSize {
        /// The tag.
        tag: u32,
        /// Bytes it claims.
        size: usize,
        /// Bytes its content took.
        taken: usize,
    },
    /// Bytes left over after the last field: the peer means another version.
    #[error("{left} bytes are left over after the last field")]
    TrailingBytes {
        /// Bytes left over.
        left: usize,
    },
    /// A version of an API that this codec does not read. Answer `UNSUPPORTED_VERSION`.
    #[error("{message} version {version}, supported are {versions}")]
    UnsupportedVersion {
        /// The message.
        message: &'static str,
        /// The version asked for.
        version: i16,
        /// The versions there are.
        versions: crate::schema::Versions,
    },
    /// An API that is not served.
    #[error("API key {0} is not known")]
    UnknownApi(i16),
}

impl DecodeError {
    /// Names the field, unless a field inside it has been named already.
    pub(crate) fn within(mut self, field: &'static str) -> Self {
        if self.field.is_empty() {
            self.field = field;
        }
        self
    }
}

impl From<DecodeErrorKind> for DecodeError {
    fn from(kind: DecodeErrorKind) -> Self {
        Self { field: "", kind }
    }
}

/// Why a message could not be written. Always the caller's mistake: the message holds what its
/// version cannot say.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum EncodeError {
    /// The field does not exist in this version, holds something other than its default, and may
    /// not be ignored. Use a newer version, or leave the field alone.
    #[error("{field} is set, but version {version} cannot carry it")]
    FieldNotInVersion {
        /// The field, as `Struct.field`.
        field: &'static str,
        /// The version asked for.
        version: i16,
    },
    /// `None` where this version does not allow null.
    #[error("null, which version {version} does not allow here")]
    Null {
        /// The version asked for.
        version: i16,
    },
    /// Longer than the length field of its type can say. Split the message.
    #[error("{bytes} bytes or elements are more than the length field can say ({bytes_max})")]
    TooLong {
        /// Its length.
        bytes: usize,
        /// The most that can be said.
        bytes_max: usize,
    },
    /// A version of an API that this codec does not write.
    #[error("{message} version {version}, supported are {versions}")]
    UnsupportedVersion {
        /// The message.
        message: &'static str,
        /// The version asked for.
        version: i16,
        /// The versions there are.
        versions: crate::schema::Versions,
    },
}
