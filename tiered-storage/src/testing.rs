//! A store that fails and lies on demand, around any other.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt};
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, ObjectStoreExt, PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use parking_lot::Mutex;
use tokio::time::sleep;

use crate::store::Operation;

/// What goes wrong with one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Nothing is done, and a server error is answered.
    Fail,
    /// Everything is done, but an error is answered.
    LoseAnswer,
    /// Nothing is done, and nothing is ever answered.
    Hang,
    /// Everything is done, later.
    Delay(Duration),
    /// Access is denied.
    Deny,
    /// Only the first half of the bytes comes; of a write, only the first half is kept, and success is answered.
    Truncate,
    /// One bit comes over wrong; of a write, is kept wrong, and success is answered.
    FlipBit,
}

/// How a store takes conditional puts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Conditions {
    /// As the inner store does.
    #[default]
    Honoured,
    /// They are not there.
    Missing,
    /// They overwrite, as if there were no condition (Garage and s3rver do).
    Ignored,
    /// They look first and write then, as if nobody came in between (s3s-fs, s3mock do).
    Raced,
}

/// The switches of a [`FaultyStore`].
#[derive(Clone, Default)]
pub struct Faults {
    plan: Arc<Mutex<Plan>>,
}

#[derive(Default)]
struct Plan {
    next: BTreeMap<Operation, VecDeque<Fault>>,
    outage: bool,
    conditions: Conditions,
    /// State of the generator, and of a thousand requests how many fail.
    random: Option<(u64, u64)>,
    counts: BTreeMap<Operation, u64>,
}

impl Faults {
    /// The next request of this kind fails so; calls add up, the first call's fault comes first.
    pub fn next(&self, operation: Operation, fault: Fault) {
        self.plan
            .lock()
            .next
            .entry(operation)
            .or_default()
            .push_back(fault);
    }

    /// From now on every request fails, or again none.
    pub fn outage(&self, is_on: bool) {
        self.plan.lock().outage = is_on;
    }

    /// From now on so many of a thousand requests fail in one way or the other, the same for the same seed: none of
    /// them silently, so that [`Fault::Truncate`] and [`Fault::FlipBit`] come to reads only.
    pub fn at_random(&self, seed: u64, of_thousand: u64) {
        self.plan.lock().random = Some((seed, of_thousand));
    }

    /// How conditional puts are taken.
    pub fn conditions(&self, conditions: Conditions) {
        self.plan.lock().conditions = conditions;
    }

    /// Requests of this kind so far.
    pub fn count(&self, operation: Operation) -> u64 {
        self.plan.lock().counts.get(&operation).copied().unwrap_or(0)
    }

    fn draw(&self, operation: Operation) -> Option<Fault> {
        let mut plan = self.plan.lock();
        *plan.counts.entry(operation).or_default() += 1;
        if let Some(fault) = plan.next.get_mut(&operation).and_then(VecDeque::pop_front) {
            return Some(fault);
        }
        if plan.outage {
            return Some(Fault::Fail);
        }
        let (state, of_thousand) = plan.random.as_mut()?;
        if mix(state) % 1000 >= *of_thousand {
            return None;
        }
        let kinds: &[Fault] = match operation {
            Operation::Get => &[
                Fault::Fail,
                Fault::Delay(Duration::from_millis(300)),
                Fault::Truncate,
                Fault::FlipBit,
            ],
            _ => &[
                Fault::Fail,
                Fault::LoseAnswer,
                Fault::Delay(Duration::from_millis(300)),
            ],
        };
        Some(kinds[(mix(state) % kinds.len() as u64) as usize])
    }
}

/// SplitMix64.
fn mix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut value = *state;
    value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

/// A store that fails and lies on demand, around any other.
#[derive(Clone)]
pub struct FaultyStore {
    inner: Arc<dyn ObjectStore>,
    faults: Faults,
}

impl FaultyStore {
    /// Around `inner`; without a fault until its switches say otherwise.
    pub fn new(inner: Arc<dyn ObjectStore>) -> (Arc<Self>, Faults) {
        let faults = Faults::default();
        let store = Arc::new(Self {
            inner,
            faults: faults.clone(),
        });
        (store, faults)
    }

    /// What goes wrong before the request is done. `Ok(true)`: it is done, and the answer is lost.
    async fn before(&self, fault: Option<Fault>) -> Result<bool> {
        match fault {
            Some(Fault::Fail) => Err(server_error()),
            Some(Fault::Deny) => Err(Error::PermissionDenied {
                path: "?".into(),
                source: "AccessDenied, by order of the test".into(),
            }),
            Some(Fault::Hang) => std::future::pending().await,
            Some(Fault::Delay(delay)) => {
                sleep(delay).await;
                Ok(false)
            }
            Some(Fault::LoseAnswer) => Ok(true),
            Some(Fault::Truncate | Fault::FlipBit) | None => Ok(false),
        }
    }

    async fn put_conditionally(
        &self,
        location: &Path,
        payload: PutPayload,
        mut options: PutOptions,
    ) -> Result<PutResult> {
        let conditions = self.faults.plan.lock().conditions;
        if !matches!(options.mode, PutMode::Overwrite) {
            match conditions {
                Conditions::Honoured => {}
                Conditions::Missing => {
                    return Err(Error::NotImplemented {
                        operation: "conditional put".into(),
                        implementer: self.to_string(),
                    });
                }
                Conditions::Ignored => options.mode = PutMode::Overwrite,
                Conditions::Raced => {
                    if self.inner.head(location).await.is_ok() {
                        return Err(Error::AlreadyExists {
                            path: location.to_string(),
                            source: "it exists".into(),
                        });
                    }
                    // Everybody who looked in this time writes.
                    tokio::task::yield_now().await;
                    options.mode = PutMode::Overwrite;
                }
            }
        }
        self.inner.put_opts(location, payload, options).await
    }

    async fn delete_one(&self, location: &Path) -> Result<()> {
        let is_lost = self.before(self.faults.draw(Operation::Delete)).await?;
        let deleted = self.inner.delete(location).await;
        if is_lost { Err(server_error()) } else { deleted }
    }
}

#[async_trait]
impl ObjectStore for FaultyStore {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        let operation = match options.mode {
            PutMode::Overwrite => Operation::Put,
            _ => Operation::Create,
        };
        let fault = self.faults.draw(operation);
        let is_lost = self.before(fault).await?;
        let payload = match fault {
            Some(fault @ (Fault::Truncate | Fault::FlipBit)) => spoil(fault, Bytes::from(payload)).into(),
            _ => payload,
        };
        let answer = self.put_conditionally(location, payload, options).await;
        if is_lost { Err(server_error()) } else { answer }
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(location, options).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let operation = if options.head {
            Operation::Head
        } else {
            Operation::Get
        };
        let fault = self.faults.draw(operation);
        let is_lost = self.before(fault).await?;
        let answer = self.inner.get_opts(location, options).await?;
        if is_lost {
            return Err(server_error());
        }
        let Some(fault @ (Fault::Truncate | Fault::FlipBit)) = fault else {
            return Ok(answer);
        };
        let (meta, range) = (answer.meta.clone(), answer.range.clone());
        let (attributes, extensions) = (answer.attributes.clone(), answer.extensions.clone());
        let bytes = spoil(fault, answer.bytes().await?);
        Ok(GetResult {
            payload: GetResultPayload::Stream(stream::once(async { Ok(bytes) }).boxed()),
            meta,
            range,
            attributes,
            extensions,
        })
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let store = self.clone();
        locations
            .then(move |location| {
                let store = store.clone();
                async move {
                    let location = location?;
                    store.delete_one(&location).await?;
                    Ok(location)
                }
            })
            .boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let fault = self.faults.draw(Operation::List);
        let listing = self.inner.list(prefix);
        let store = self.clone();
        stream::once(async move {
            match store.before(fault).await {
                Ok(false) => listing,
                Ok(true) => stream::once(async { Err(server_error()) }).boxed(),
                Err(error) => stream::once(async { Err(error) }).boxed(),
            }
        })
        .flatten()
        .boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}

impl fmt::Display for FaultyStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "faulty {}", self.inner)
    }
}

impl fmt::Debug for FaultyStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

fn server_error() -> Error {
    Error::Generic {
        store: "faulty",
        source: "503 Service Unavailable, by order of the test".into(),
    }
}

fn spoil(fault: Fault, bytes: Bytes) -> Bytes {
    let middle = bytes.len() / 2;
    match fault {
        Fault::Truncate => bytes.slice(..middle),
        Fault::FlipBit if !bytes.is_empty() => {
            let mut bytes = bytes.to_vec();
            bytes[middle] ^= 1;
            bytes.into()
        }
        _ => bytes,
    }
}
