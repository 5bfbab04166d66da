//! The bucket: any store that `object_store` speaks, with deadlines, retries, limits and counters of our own.
//!
//! `object_store`'s own retries are off, so that one mechanism serves every store, by tokio's clock. All requests but
//! [`Store::create`] may be repeated without harm: keys are unique, and a key is only ever given the same bytes.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::stream::StreamExt;
use object_store::path::Path;
use object_store::{GetOptions, GetRange, GetResult, GetResultPayload, ObjectStore, ObjectStoreExt, PutMode};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};

mod disk;
mod error;
mod list;
mod open;
mod pace;
mod stats;

pub use error::StoreError;
pub(crate) use error::chain;
pub use list::Listed;
pub use open::{OpenError, StoreSettings};
pub use stats::{Operation, OperationStats, StoreStats};

use error::{Failure, answered, failure};
use pace::Pace;
use stats::Counters;

/// [`Store::get`] reads no larger object whole.
pub const GET_BYTES_MAX: u64 = 1 << 30;

/// How patient a store is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoreLimits {
    /// How long one attempt may take, besides the time its bytes need at `bytes_per_second_min`.
    pub request_timeout: Duration,
    /// A transfer that is slower than this is given up.
    pub bytes_per_second_min: u64,
    /// Attempts of one request, the first included.
    pub attempts_max: u32,
    /// Pause before the second attempt; doubles with every further one.
    pub backoff_min: Duration,
    /// Longest pause between two attempts.
    pub backoff_max: Duration,
    /// Requests under way at once; further ones wait.
    pub requests_in_flight_max: usize,
    /// Uploads go no faster than this, all together.
    pub upload_bytes_per_second_max: Option<u64>,
    /// Reads go no faster than this, all together.
    pub read_bytes_per_second_max: Option<u64>,
}

impl Default for StoreLimits {
    fn default() -> Self {
        Self {
            request_timeout: Duration::from_secs(10),
            bytes_per_second_min: 1 << 20,
            attempts_max: 4,
            backoff_min: Duration::from_millis(100),
            backoff_max: Duration::from_secs(3),
            requests_in_flight_max: 64,
            upload_bytes_per_second_max: None,
            read_bytes_per_second_max: None,
        }
    }
}

/// What became of a conditional create. Read back and compared, never inferred from an error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Created {
    /// The object holds our bytes.
    Ours,
    /// Somebody else's object is there: its bytes.
    Theirs(Bytes),
}

/// A bucket, below one prefix. Clones share counters and limits.
#[derive(Clone)]
pub struct Store {
    shared: Arc<Shared>,
}

struct Shared {
    objects: Arc<dyn ObjectStore>,
    prefix: String,
    limits: StoreLimits,
    permits: Semaphore,
    counters: Counters,
    upload_pace: Pace,
    read_pace: Pace,
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store")
            .field("place", &self.place())
            .finish_non_exhaustive()
    }
}

impl Store {
    /// Opens the store of a URL, or of a local directory, which is made if it is missing. Sends no request.
    pub fn open(settings: &StoreSettings) -> Result<Self, OpenError> {
        let (objects, prefix) = open::open(settings)?;
        Ok(Self::with_limits(objects, prefix.as_ref(), settings.limits))
    }

    /// A store below `prefix` of another: memory, or one that fails on purpose.
    pub fn over(objects: Arc<dyn ObjectStore>, prefix: &str) -> Self {
        Self::with_limits(objects, prefix, StoreLimits::default())
    }

    /// Like [`Self::over`], with limits.
    pub fn with_limits(objects: Arc<dyn ObjectStore>, prefix: &str, limits: StoreLimits) -> Self {
        Self {
            shared: Arc::new(Shared {
                objects,
                prefix: prefix.trim_matches('/').to_owned(),
                limits,
                permits: Semaphore::new(limits.requests_in_flight_max.clamp(1, Semaphore::MAX_PERMITS)),
                counters: Counters::default(),
                upload_pace: Pace::new(limits.upload_bytes_per_second_max),
                read_pace: Pace::new(limits.read_bytes_per_second_max),
            }),
        }
    }

    /// Where it is, for logs and messages. Holds no secrets.
    pub fn place(&self) -> String {
        match &self.shared.prefix[..] {
            "" => self.shared.objects.to_string(),
            prefix => format!("{}, below {prefix}/", self.shared.objects),
        }
    }

    /// What was asked of the store so far.
    pub fn stats(&self) -> StoreStats {
        self.shared.counters.read()
    }

    /// Writes an object, replacing one that is there. Only ever called with the same bytes for the same key.
    pub async fn put(&self, key: &str, parts: Vec<Bytes>) -> Result<(), StoreError> {
        let operation = Operation::Put;
        let path = self.path(operation, key)?;
        let bytes: u64 = parts.iter().map(|part| part.len() as u64).sum();
        self.shared.upload_pace.take(bytes).await;
        self.attempts(operation, key, || async {
            let put = self.shared.objects.put(&path, parts.iter().cloned().collect());
            let put = timeout(self.deadline(bytes), put).await;
            answered(operation, key, put)?;
            Ok(((), bytes))
        })
        .await
    }

    /// Reads a whole object of at most [`GET_BYTES_MAX`].
    pub async fn get(&self, key: &str) -> Result<Bytes, StoreError> {
        self.read(key, None).await
    }

    /// Reads exactly `range` of an object.
    pub async fn get_range(&self, key: &str, range: Range<u64>) -> Result<Bytes, StoreError> {
        if range.is_empty() {
            return Ok(Bytes::new());
        }
        self.shared.read_pace.take(range.end - range.start).await;
        self.read(key, Some(range)).await
    }

    /// Length of an object.
    pub async fn head(&self, key: &str) -> Result<u64, StoreError> {
        let operation = Operation::Head;
        let path = self.path(operation, key)?;
        self.attempts(operation, key, || async {
            let head = timeout(self.deadline(0), self.shared.objects.head(&path)).await;
            Ok((answered(operation, key, head)?.size, 0))
        })
        .await
    }

    /// Deletes an object; that it is not there is no error.
    pub async fn delete(&self, key: &str) -> Result<(), StoreError> {
        let operation = Operation::Delete;
        let path = self.path(operation, key)?;
        self.attempts(operation, key, || async {
            let delete = timeout(self.deadline(0), self.shared.objects.delete(&path)).await;
            match answered(operation, key, delete) {
                Err(Failure::Final(StoreError::NotFound { .. })) => Ok(((), 0)),
                other => other.map(|()| ((), 0)),
            }
        })
        .await
    }

    /// Creates an object unless there is one. `bytes` must hold something nobody else would write, such as a nonce:
    /// after an error or a refusal the object is read back, and whose it is decided by comparing.
    pub async fn create(&self, key: &str, bytes: Bytes) -> Result<Created, StoreError> {
        let operation = Operation::Create;
        let path = self.path(operation, key)?;
        self.attempts(operation, key, || async {
            let size = bytes.len() as u64;
            let create = self
                .shared
                .objects
                .put_opts(&path, bytes.clone().into(), PutMode::Create.into());
            let refusal = match timeout(self.deadline(size), create).await {
                Ok(Ok(_)) => return Ok((Created::Ours, size)),
                Ok(Err(error @ object_store::Error::NotImplemented { .. })) => {
                    return Err(failure(operation, key, error));
                }
                Ok(Err(error)) => error.to_string(),
                Err(late) => late.to_string(),
            };
            match self.read_once(key, &path, None).await {
                Ok(there) if there == bytes => Ok((Created::Ours, size)),
                Ok(there) => Ok((Created::Theirs(there), 0)),
                // The create was not done, whatever was answered.
                Err(Failure::Final(StoreError::NotFound { .. })) => Err(Failure::Again(refusal)),
                Err(failure) => Err(failure),
            }
        })
        .await
    }

    async fn read(&self, key: &str, range: Option<Range<u64>>) -> Result<Bytes, StoreError> {
        let path = self.path(Operation::Get, key)?;
        self.attempts(Operation::Get, key, || async {
            let bytes = self.read_once(key, &path, range.clone()).await?;
            let size = bytes.len() as u64;
            Ok((bytes, size))
        })
        .await
    }

    async fn read_once(&self, key: &str, path: &Path, range: Option<Range<u64>>) -> Result<Bytes, Failure> {
        let operation = Operation::Get;
        let options = GetOptions {
            range: range.clone().map(GetRange::Bounded),
            ..GetOptions::default()
        };
        let answer = timeout(self.deadline(0), self.shared.objects.get_opts(path, options)).await;
        let answer = answered(operation, key, answer)?;
        let object_bytes = answer.meta.size;
        let wanted = range.unwrap_or(0..object_bytes);
        if object_bytes < wanted.end {
            return Err(Failure::Final(StoreError::Short {
                key: key.to_owned(),
                bytes: object_bytes,
                wanted: wanted.end,
            }));
        }
        if answer.range != wanted {
            return Err(Failure::Again(format!(
                "bytes {}..{} came instead of {}..{}",
                answer.range.start, answer.range.end, wanted.start, wanted.end
            )));
        }
        let bytes = wanted.end - wanted.start;
        if bytes > GET_BYTES_MAX {
            return Err(Failure::Final(StoreError::TooLarge {
                key: key.to_owned(),
                bytes,
                bytes_max: GET_BYTES_MAX,
            }));
        }
        let body = timeout(self.deadline(bytes), body(answer, bytes)).await;
        let body = answered(operation, key, body)?;
        if body.len() as u64 != bytes {
            return Err(Failure::Again(format!(
                "{} bytes came instead of {bytes}",
                body.len()
            )));
        }
        Ok(body)
    }

    /// Makes attempts until one succeeds, fails for good, or was the last.
    async fn attempts<T, F>(
        &self,
        operation: Operation,
        key: &str,
        attempt: impl Fn() -> F,
    ) -> Result<T, StoreError>
    where
        F: Future<Output = Result<(T, u64), Failure>>,
    {
        let limits = &self.shared.limits;
        let counters = &self.shared.counters;
        let mut pause = limits.backoff_min;
        let mut attempts = 0;
        loop {
            attempts += 1;
            let outcome = {
                let permit = self.shared.permits.acquire().await;
                let _permit = permit.expect("the semaphore is never closed");
                let began = counters.begin();
                let outcome = attempt().await;
                counters.end(
                    operation,
                    began,
                    outcome.as_ref().map(|(_, bytes)| *bytes).map_err(|_| ()),
                );
                outcome
            };
            match outcome {
                Ok((value, _)) => return Ok(value),
                Err(Failure::Again(reason)) if attempts < limits.attempts_max => {
                    tracing::debug!(%operation, key, attempts, reason, "the store failed; trying again");
                    sleep(pause).await;
                    pause = (pause * 2).min(limits.backoff_max);
                }
                Err(failure) => return Err(failure.given_up(operation, key, attempts)),
            }
        }
    }

    /// How long an attempt that moves so many bytes may take.
    fn deadline(&self, bytes: u64) -> Duration {
        let limits = &self.shared.limits;
        limits.request_timeout + Duration::from_secs(bytes / limits.bytes_per_second_min.max(1))
    }

    /// The whole path of a key.
    fn path(&self, operation: Operation, key: &str) -> Result<Path, StoreError> {
        let whole = match &self.shared.prefix[..] {
            "" => key.to_owned(),
            prefix if key.is_empty() => prefix.to_owned(),
            prefix => format!("{prefix}/{key}"),
        };
        Path::parse(whole).map_err(|error| StoreError::Unsupported {
            operation,
            key: key.to_owned(),
            reason: error.to_string(),
        })
    }

    fn key_of(&self, location: &Path) -> String {
        let whole = location.as_ref();
        let below = whole.strip_prefix(&self.shared.prefix[..]).unwrap_or(whole);
        below.trim_start_matches('/').to_owned()
    }

    /// The store itself, for the probe, which must see every answer as it is.
    pub(crate) fn raw(
        &self,
        operation: Operation,
        key: &str,
    ) -> Result<(&dyn ObjectStore, Path), StoreError> {
        Ok((&*self.shared.objects, self.path(operation, key)?))
    }
}

/// The bytes of an answer, never more than it announced.
async fn body(answer: GetResult, bytes: u64) -> Result<Bytes, object_store::Error> {
    if !matches!(answer.payload, GetResultPayload::Stream(_)) {
        return answer.bytes().await;
    }
    let mut stream = answer.into_stream();
    let Some(first) = stream.next().await.transpose()? else {
        return Ok(Bytes::new());
    };
    if first.len() as u64 >= bytes {
        return Ok(first);
    }
    let mut whole = Vec::with_capacity(usize::try_from(bytes).unwrap_or_default());
    whole.extend_from_slice(&first);
    while let Some(part) = stream.next().await.transpose()? {
        whole.extend_from_slice(&part);
        if whole.len() as u64 > bytes {
            break;
        }
    }
    Ok(whole.into())
}
