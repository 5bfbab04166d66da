//! What can go wrong with a request.

use thiserror::Error;

use super::Operation;

/// A request that failed for good, or as often as the limits allow.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum StoreError {
    /// There is no such object.
    #[error("object {key} does not exist")]
    NotFound {
        /// Its key.
        key: String,
    },
    /// The store refuses us. Check credentials, clock and permissions.
    #[error("the store refuses to {operation} {key}: {reason}")]
    Denied {
        /// What was asked for.
        operation: Operation,
        /// The key.
        key: String,
        /// What the store said.
        reason: String,
    },
    /// The store does not answer, or with errors. Try again later.
    #[error("cannot {operation} {key}, given up after {attempts} attempts: {reason}")]
    Unavailable {
        /// What was asked for.
        operation: Operation,
        /// The key.
        key: String,
        /// Attempts made.
        attempts: u32,
        /// How the last one failed.
        reason: String,
    },
    /// The object ends before the range that was asked for. It is not the object the manifest means, or is damaged.
    #[error("object {key} ends before byte {wanted}: it has {bytes} bytes")]
    Short {
        /// The key.
        key: String,
        /// Its length.
        bytes: u64,
        /// Where the range ends.
        wanted: u64,
    },
    /// The object is larger than anybody wrote there.
    #[error("object {key} has {bytes} bytes, at most {bytes_max} are read at once")]
    TooLarge {
        /// The key.
        key: String,
        /// Its length.
        bytes: u64,
        /// The limit.
        bytes_max: u64,
    },
    /// The store cannot do this at all, or says what makes no sense. Final.
    #[error("cannot {operation} {key}: {reason}")]
    Unsupported {
        /// What was asked for.
        operation: Operation,
        /// The key.
        key: String,
        /// What the store said.
        reason: String,
    },
}

impl StoreError {
    /// Whether the same request may succeed later without anybody doing something.
    pub fn is_retriable(&self) -> bool {
        matches!(self, Self::Unavailable { .. })
    }
}

/// How one attempt failed.
pub(super) enum Failure {
    Final(StoreError),
    Again(String),
}

impl Failure {
    pub(super) fn given_up(self, operation: Operation, key: &str, attempts: u32) -> StoreError {
        match self {
            Self::Final(error) => error,
            Self::Again(reason) => StoreError::Unavailable {
                operation,
                key: key.to_owned(),
                attempts,
                reason,
            },
        }
    }
}

pub(super) fn answered<T>(
    operation: Operation,
    key: &str,
    answer: Result<Result<T, object_store::Error>, tokio::time::error::Elapsed>,
) -> Result<T, Failure> {
    match answer {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(failure(operation, key, error)),
        Err(_) => Err(Failure::Again("no answer in time".into())),
    }
}

pub(super) fn failure(operation: Operation, key: &str, error: object_store::Error) -> Failure {
    use object_store::Error;
    let key = key.to_owned();
    match error {
        Error::NotFound { .. } => Failure::Final(StoreError::NotFound { key }),
        Error::PermissionDenied { .. } | Error::Unauthenticated { .. } => {
            Failure::Final(StoreError::Denied {
                operation,
                key,
                reason: chain(&error),
            })
        }
        Error::NotImplemented { .. }
        | Error::NotSupported { .. }
        | Error::InvalidPath { .. }
        | Error::UnknownConfigurationKey { .. } => Failure::Final(StoreError::Unsupported {
            operation,
            key,
            reason: chain(&error),
        }),
        // What comes of a condition nobody set, a status without a name, a broken connection.
        error => Failure::Again(chain(&error)),
    }
}

/// An error with its causes, each once, on one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    text.replace('\n', " ")
}
