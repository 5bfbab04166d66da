//! How a read from the bucket fails.

use meridian_types::Offset;
use thiserror::Error;

use crate::store::StoreError;

/// Nothing was read.
#[derive(Clone, Debug, Error)]
pub enum ColdError {
    /// The store cannot be asked now. Try again later; say so to clients with a retriable error.
    #[error("object {key} cannot be read now: {source}")]
    Unavailable {
        /// The object.
        key: String,
        /// What the store says.
        source: StoreError,
    },
    /// The object is not in the bucket. The manifest may have moved on since the runs were taken from it: take them
    /// again, once. If they name it still, the bucket is damaged.
    #[error("object {key} is not in the bucket")]
    Missing {
        /// The object.
        key: String,
    },
    /// The object is not what the manifest says, twice in a row. Final: stop serving these offsets and say so.
    #[error("object {key} is damaged: {reason}")]
    Damaged {
        /// The object.
        key: String,
        /// What does not fit.
        reason: String,
    },
    /// The runs do not reach the offset. Take them from the manifest again.
    #[error("offset {from} is not in the runs that were given")]
    NotCovered {
        /// The offset.
        from: Offset,
    },
    /// The fill ended without a result: the runtime goes down. Try again.
    #[error("the read of {what} was given up")]
    GivenUp {
        /// What was read.
        what: String,
    },
}

impl ColdError {
    /// Whether the same read may succeed later without anybody repairing anything.
    pub fn is_retriable(&self) -> bool {
        match self {
            Self::Unavailable { .. } | Self::NotCovered { .. } | Self::GivenUp { .. } => true,
            Self::Missing { .. } | Self::Damaged { .. } => false,
        }
    }

    pub(crate) fn damaged(key: &str, reason: &impl ToString) -> Self {
        Self::Damaged {
            key: key.to_owned(),
            reason: reason.to_string(),
        }
    }

    /// What an error of the store means for a read of `key`.
    pub(crate) fn of_store(key: &str, error: StoreError) -> Self {
        match error {
            StoreError::NotFound { .. } => Self::Missing { key: key.to_owned() },
            StoreError::Short { .. } => Self::damaged(key, &error),
            source => Self::Unavailable {
                key: key.to_owned(),
                source,
            },
        }
    }
}
