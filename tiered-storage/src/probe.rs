//! What is wrong with a bucket, found out before anything is trusted to it.

use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use futures::future::join_all;
use meridian_types::{TimestampMs, Uuid};
use object_store::PutMode;
use thiserror::Error;
use tokio::time::{Instant, timeout};

use crate::store::{Operation, Store, StoreError, chain};

/// Writers that race for one key, and how often. Servers that lie about conditions lost every second race of 64 or
/// worse when they were measured, so 8 races leave less than one in two hundred undiscovered.
const RACE_ROUNDS: usize = 8;
const RACE_WRITERS: usize = 16;
/// One answer in a race is waited for no longer.
const RACE_TIMEOUT: Duration = Duration::from_secs(30);

/// A bucket in which everything works.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Probe {
    /// How far the store's clock is ahead of ours.
    pub clock_ahead_ms: i64,
    /// How long it took to write a small object.
    pub put_time: Duration,
}

/// What is wrong with a bucket.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ProbeError {
    /// Nobody answers. Check the address, the network, and whether the store runs.
    #[error("the bucket {place} cannot be reached: {reason}")]
    Unreachable {
        /// The store.
        place: String,
        /// What happened.
        reason: String,
    },
    /// Create the bucket, or put its name right.
    #[error("the bucket {place} does not exist, or its access key does not")]
    NoBucket {
        /// The store.
        place: String,
    },
    /// Put the credentials right.
    #[error("the bucket {place} does not accept the credentials: {reason}")]
    Credentials {
        /// The store.
        place: String,
        /// What it said.
        reason: String,
    },
    /// Set this machine's clock.
    #[error("the bucket {place} refuses requests because this machine's clock is wrong: {reason}")]
    Clock {
        /// The store.
        place: String,
        /// What it said.
        reason: String,
    },
    /// Grant the permission: put, get, list and delete are all needed.
    #[error("the credentials for {place} are not allowed to {operation} objects: {reason}")]
    Permission {
        /// The store.
        place: String,
        /// What is not allowed.
        operation: Operation,
        /// What the store said.
        reason: String,
    },
    /// Use another store: one owner per bucket cannot be held without conditional puts.
    #[error(
        "the bucket {place} has no conditional put (If-None-Match: *), which keeps two regions out of one bucket: {reason}; use another store"
    )]
    NoConditionalPut {
        /// The store.
        place: String,
        /// What it said.
        reason: String,
    },
    /// Use another store: this one says it honours conditional puts, but does not.
    #[error(
        "the bucket {place} does not honour conditional puts (If-None-Match: *): {what}; two regions could take it for their own: use another store"
    )]
    LyingConditionalPut {
        /// The store.
        place: String,
        /// What it did.
        what: String,
    },
    /// Use another store: this one does not keep what it was given.
    #[error("the bucket {place} does not behave like a bucket: {what}")]
    Inconsistent {
        /// The store.
        place: String,
        /// What it did.
        what: String,
    },
}

impl Store {
    /// Tries everything that is needed of a bucket, with small objects below `probe/<nonce>/`, which it deletes again.
    ///
    /// `nonce` is drawn anew for each call; `now` is the machine's clock, for comparison. Some 150 requests.
    pub async fn probe(&self, nonce: Uuid, now: TimestampMs) -> Result<Probe, ProbeError> {
        let probing = Probing {
            store: self,
            place: self.place(),
            directory: format!("probe/{nonce}"),
        };
        let outcome = probing.run(now).await;
        let cleaned = probing.clean_up().await;
        let probe = outcome?;
        cleaned?;
        Ok(probe)
    }
}

struct Probing<'a> {
    store: &'a Store,
    place: String,
    directory: String,
}

impl Probing<'_> {
    async fn run(&self, now: TimestampMs) -> Result<Probe, ProbeError> {
        let key = format!("{}/object", self.directory);
        let bytes = Bytes::from(format!("{} was here", self.directory));
        let began = Instant::now();
        self.store
            .put(&key, vec![bytes.clone()])
            .await
            .map_err(|error| self.explain(error))?;
        let put_time = began.elapsed();
        self.reads_back(&key, &bytes).await?;
        let modified = self.is_listed(&key).await?;
        self.refuses_second_create(&key, &bytes).await?;
        let mut is_proven = false;
        let mut failure = String::new();
        for round in 0..RACE_ROUNDS {
            match self.has_one_winner(round).await? {
                Race::Won => is_proven = true,
                Race::Unanswered(reason) => failure = reason,
            }
        }
        if !is_proven {
            // Either the store went away, or it answers conditional puts alone with errors of its own making.
            self.store
                .put(&key, vec![bytes])
                .await
                .map_err(|error| self.explain(error))?;
            return Err(ProbeError::NoConditionalPut {
                place: self.place.clone(),
                reason: failure,
            });
        }
        Ok(Probe {
            clock_ahead_ms: modified.0.saturating_sub(now.0),
            put_time,
        })
    }

    async fn reads_back(&self, key: &str, bytes: &Bytes) -> Result<(), ProbeError> {
        let whole = self.read(key).await?;
        let end = bytes.len() as u64;
        let part = self
            .store
            .get_range(key, 1..end)
            .await
            .map_err(|error| self.explain(error))?;
        let size = self.store.head(key).await.map_err(|error| self.explain(error))?;
        if whole != bytes || part != bytes[1..] || size != end {
            return Err(self.inconsistent("an object that was just written reads differently"));
        }
        Ok(())
    }

    async fn read(&self, key: &str) -> Result<Bytes, ProbeError> {
        match self.store.get(key).await {
            Ok(bytes) => Ok(bytes),
            Err(StoreError::NotFound { .. }) => {
                Err(self.inconsistent("an object that was just written is not there"))
            }
            Err(error) => Err(self.explain(error)),
        }
    }

    /// Gives the time at which the store says the object was written.
    async fn is_listed(&self, key: &str) -> Result<TimestampMs, ProbeError> {
        let mut listing = self.store.list(&self.directory);
        while let Some(listed) = listing.next().await {
            let listed = listed.map_err(|error| self.explain(error))?;
            if listed.key == key {
                return Ok(listed.modified);
            }
        }
        Err(self.inconsistent("an object that was just written is not listed"))
    }

    async fn refuses_second_create(&self, key: &str, bytes: &Bytes) -> Result<(), ProbeError> {
        match self.create(key, Bytes::from_static(b"overwritten")).await {
            Answer::Done => {
                return Err(self.lying("it answered well to a conditional put of an object that exists"));
            }
            Answer::Missing(reason) => {
                return Err(ProbeError::NoConditionalPut {
                    place: self.place.clone(),
                    reason,
                });
            }
            Answer::Refused | Answer::Unknown(_) => {}
        }
        if self.read(key).await? != *bytes {
            return Err(self.lying("a conditional put that was refused overwrote the object"));
        }
        Ok(())
    }

    /// Has writers race for one key, and looks who won.
    async fn has_one_winner(&self, round: usize) -> Result<Race, ProbeError> {
        let key = format!("{}/race-{round}", self.directory);
        let bodies: Vec<Bytes> = (0..RACE_WRITERS)
            .map(|writer| {
                // Of different lengths, so that the requests do not march in step.
                let mut body = format!("writer {writer} of {}", self.directory).into_bytes();
                body.resize(body.len() + writer % 4 * 8192, b'.');
                body.into()
            })
            .collect();
        let answers = join_all(bodies.iter().map(|body| self.create(&key, body.clone()))).await;
        let winners: Vec<usize> = (0..RACE_WRITERS)
            .filter(|writer| matches!(answers[*writer], Answer::Done))
            .collect();
        match winners[..] {
            [] => {
                let mut reasons = answers.into_iter().filter_map(|answer| match answer {
                    Answer::Unknown(reason) => Some(reason),
                    _ => None,
                });
                let reason = reasons
                    .next_back()
                    .unwrap_or_else(|| "every writer was refused".to_owned());
                Ok(Race::Unanswered(reason))
            }
            [winner] if self.read(&key).await? == bodies[winner] => Ok(Race::Won),
            [_] => Err(self.lying("the winner of a race of conditional puts was overwritten")),
            _ => Err(self.lying(&format!(
                "{} of {RACE_WRITERS} writers that raced to create one object were told they had",
                winners.len()
            ))),
        }
    }

    /// One conditional put, as the store answers it.
    async fn create(&self, key: &str, body: Bytes) -> Answer {
        let (objects, path) = match self.store.raw(Operation::Create, key) {
            Ok(raw) => raw,
            Err(error) => return Answer::Missing(error.to_string()),
        };
        let put = objects.put_opts(&path, body.into(), PutMode::Create.into());
        match timeout(RACE_TIMEOUT, put).await {
            Ok(Ok(_)) => Answer::Done,
            Ok(Err(object_store::Error::AlreadyExists { .. } | object_store::Error::Precondition { .. })) => {
                Answer::Refused
            }
            Ok(Err(
                error @ (object_store::Error::NotImplemented { .. }
                | object_store::Error::NotSupported { .. }),
            )) => Answer::Missing(chain(&error)),
            Ok(Err(error)) => {
                let reason = chain(&error);
                // How S3 and those that follow it refuse a header that they do not know.
                if reason.contains("501 Not Implemented") {
                    Answer::Missing(reason)
                } else {
                    Answer::Unknown(reason)
                }
            }
            Err(_) => Answer::Unknown(format!("no answer within {RACE_TIMEOUT:?}")),
        }
    }

    async fn clean_up(&self) -> Result<(), ProbeError> {
        let mut keys = vec![format!("{}/object", self.directory)];
        keys.extend((0..RACE_ROUNDS).map(|round| format!("{}/race-{round}", self.directory)));
        for key in &keys {
            self.store
                .delete(key)
                .await
                .map_err(|error| self.explain(error))?;
        }
        match self.store.head(&keys[0]).await {
            Err(StoreError::NotFound { .. }) => Ok(()),
            Err(error) => Err(self.explain(error)),
            Ok(_) => Err(self.inconsistent("an object that was deleted is still there")),
        }
    }

    fn inconsistent(&self, what: &str) -> ProbeError {
        ProbeError::Inconsistent {
            place: self.place.clone(),
            what: what.to_owned(),
        }
    }

    fn lying(&self, what: &str) -> ProbeError {
        ProbeError::LyingConditionalPut {
            place: self.place.clone(),
            what: what.to_owned(),
        }
    }

    /// What an error of the store means for whoever set it up.
    fn explain(&self, error: StoreError) -> ProbeError {
        let place = self.place.clone();
        match error {
            StoreError::NotFound { .. } => ProbeError::NoBucket { place },
            StoreError::Denied {
                operation, reason, ..
            } => {
                let says = |codes: &[&str]| codes.iter().any(|code| reason.contains(code));
                if says(&["RequestTimeTooSkewed"]) {
                    ProbeError::Clock { place, reason }
                } else if says(&[
                    "InvalidAccessKeyId",
                    "SignatureDoesNotMatch",
                    "InvalidToken",
                    "ExpiredToken",
                    "AuthenticationFailed",
                    "401",
                ]) {
                    ProbeError::Credentials { place, reason }
                } else {
                    ProbeError::Permission {
                        place,
                        operation,
                        reason,
                    }
                }
            }
            StoreError::Unavailable { reason, .. } if reason.contains("NoSuchBucket") => {
                ProbeError::NoBucket { place }
            }
            StoreError::Unavailable { reason, .. } => ProbeError::Unreachable { place, reason },
            error @ (StoreError::Short { .. }
            | StoreError::TooLarge { .. }
            | StoreError::Unsupported { .. }) => ProbeError::Inconsistent {
                place,
                what: error.to_string(),
            },
        }
    }
}

/// How a store answered a conditional put.
enum Answer {
    Done,
    Refused,
    /// It has no such thing.
    Missing(String),
    /// An error, or nothing in time: it may have been done or not.
    Unknown(String),
}

/// What a race showed.
enum Race {
    /// One writer won, and its object is there.
    Won,
    /// Nobody was told to have won: how the last attempt failed.
    Unanswered(String),
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use object_store::memory::InMemory;

    use super::*;

    #[test]
    fn what_a_cloud_answers_is_told_as_what_to_do() {
        let store = Store::over(Arc::new(InMemory::new()), "");
        let probing = Probing {
            store: &store,
            place: "s3://cold".into(),
            directory: "probe/1".into(),
        };
        let denied = |reason: &str| {
            probing.explain(StoreError::Denied {
                operation: Operation::List,
                key: "k".into(),
                reason: reason.into(),
            })
        };
        let skewed = denied("403 Forbidden: <Code>RequestTimeTooSkewed</Code>");
        assert!(matches!(&skewed, ProbeError::Clock { .. }), "{skewed}");
        assert!(skewed.to_string().contains("clock is wrong"));
        for code in ["InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken"] {
            let error = denied(&format!("403 Forbidden: <Code>{code}</Code>"));
            assert!(matches!(error, ProbeError::Credentials { .. }), "{error}");
        }
        let error = denied("403 Forbidden: <Code>AccessDenied</Code>");
        assert_eq!(
            error.to_string(),
            "the credentials for s3://cold are not allowed to list objects: 403 Forbidden: <Code>AccessDenied</Code>"
        );
    }
}
