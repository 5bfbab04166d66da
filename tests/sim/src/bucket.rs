//! The region's bucket: memory that fails by plan, and remembers everything that was ever done to it.
//!
//! What the nodes see is [`FaultyStore`] around the [`Ledger`]; the ledger sees what the store really did, whatever was
//! answered, and holds it against invariant 7.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{BoxStream, StreamExt};
use meridian_shard::{Bucket, TierSettings};
use meridian_tiered_storage::cold::{CacheSettings, ColdReader, OpenCacheError};
use meridian_tiered_storage::store::{Store, StoreLimits};
use meridian_tiered_storage::testing::{Faults, FaultyStore};
use meridian_tiered_storage::{ManifestFile, ObjectName};
use meridian_types::RaftIndex;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMode,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use parking_lot::Mutex;
use tokio::time::sleep;

/// How long objects stay that nothing refers to.
pub const GRACE: Duration = Duration::from_secs(8);

/// Clocks of hosts go in steps of a millisecond, each from its own start.
const TOLERANCE: Duration = Duration::from_millis(50);

/// What silently happens to a bundle on its way into the bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spoil {
    /// Only its first half is kept.
    Truncate,
    /// One bit is kept wrong.
    FlipBit,
}

/// The bucket, as all nodes of the region share it.
#[derive(Clone)]
pub struct SimBucket {
    /// What really happens.
    pub ledger: Arc<Ledger>,
    /// What is answered.
    pub faults: Faults,
    faulty: Arc<FaultyStore>,
}

impl Default for SimBucket {
    fn default() -> Self {
        let ledger = Arc::new(Ledger::default());
        let (faulty, faults) = FaultyStore::new(Arc::clone(&ledger) as Arc<dyn ObjectStore>);
        Self {
            ledger,
            faults,
            faulty,
        }
    }
}

impl SimBucket {
    /// The bucket as one process opens it.
    pub async fn open(&self) -> std::result::Result<Bucket, OpenCacheError> {
        let limits = StoreLimits {
            request_timeout: Duration::from_secs(3),
            attempts_max: 3,
            backoff_min: Duration::from_millis(50),
            backoff_max: Duration::from_millis(500),
            ..StoreLimits::default()
        };
        let store = Store::with_limits(Arc::clone(&self.faulty) as Arc<dyn ObjectStore>, "", limits);
        let cache = CacheSettings {
            memory_bytes: 512 << 10,
            disk: None,
            in_flight_bytes_max: 1 << 20,
        };
        Ok(Bucket {
            reader: ColdReader::open(store.clone(), &cache).await?,
            store,
            settings: TierSettings {
                round_bytes: 16 << 10,
                round_interval: Duration::from_secs(1),
                bundle_bytes: 64 << 10,
                round_timeout: Duration::from_secs(20),
                retry_pause: Duration::from_millis(100),
                copy_interval: Duration::from_secs(1),
                delete_grace: GRACE,
                sweep_interval: Duration::from_secs(3),
                read_timeout: Duration::from_secs(1),
                ..TierSettings::default()
            },
        })
    }

    /// The bucket without its faults, for who looks at the end.
    pub fn plain(&self) -> Store {
        Store::over(Arc::clone(&self.ledger) as Arc<dyn ObjectStore>, "")
    }
}

/// A store in memory that remembers every object it ever had.
#[derive(Default)]
pub struct Ledger {
    inner: InMemory,
    book: Arc<Mutex<Book>>,
}

#[derive(Default)]
struct Book {
    objects: BTreeMap<String, Life>,
    /// Copies of manifests, by the directory of their shard.
    copies: BTreeMap<String, Vec<ManifestCopy>>,
    spoils: VecDeque<Spoil>,
    delay: Duration,
    complaints: Vec<String>,
    figures: Figures,
}

/// What became of the bucket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// Bundles written, each once.
    pub bundles: u64,
    /// Bundles deleted.
    pub deleted: u64,
    /// Bundles that were kept otherwise than they were sent.
    pub spoiled: u64,
}

struct Life {
    /// What its writer sent.
    meant: Bytes,
    /// Since when it is there.
    since: Duration,
    is_there: bool,
}

struct ManifestCopy {
    index: RaftIndex,
    at: Duration,
    named: BTreeSet<ObjectName>,
}

impl Ledger {
    /// Every request takes so much longer, half of it before it is done and half of it after.
    pub fn set_delay(&self, delay: Duration) {
        self.book.lock().delay = delay;
    }

    /// The next bundle is kept so, and success is answered.
    pub fn spoil_next(&self, spoil: Spoil) {
        self.book.lock().spoils.push_back(spoil);
    }

    /// Nothing is spoiled any more.
    pub fn spare(&self) {
        self.book.lock().spoils.clear();
    }

    /// What was done that must never be; told once.
    pub fn take_complaints(&self) -> Vec<String> {
        std::mem::take(&mut self.book.lock().complaints)
    }

    /// Counts so far.
    pub fn figures(&self) -> Figures {
        self.book.lock().figures
    }

    /// Keys of the bundles that are there.
    pub fn bundles(&self) -> BTreeSet<String> {
        let book = self.book.lock();
        let there = book.objects.iter().filter(|(_, life)| life.is_there);
        there
            .map(|(key, _)| key.clone())
            .filter(|key| is_bundle(key))
            .collect()
    }

    async fn half_of_the_delay(&self) {
        let delay = self.book.lock().delay;
        if !delay.is_zero() {
            sleep(delay / 2).await;
        }
    }
}

impl Book {
    /// An object was written; gives what is kept of it.
    fn note_put(&mut self, key: &str, sent: &Bytes) -> Bytes {
        let now = now();
        match self.objects.get_mut(key) {
            Some(life) => {
                if life.meant != *sent {
                    self.complaints
                        .push(format!("{key} was overwritten with other bytes (invariant 7)"));
                }
                if !life.is_there {
                    // A leader's late repetition, of an attempt whose object was swept meanwhile.
                    life.is_there = true;
                    life.since = now;
                }
            }
            None => {
                self.figures.bundles += u64::from(is_bundle(key));
                let life = Life {
                    meant: sent.clone(),
                    since: now,
                    is_there: true,
                };
                self.objects.insert(key.to_owned(), life);
            }
        }
        if let Some((shard, _)) = key.split_once("/manifest/") {
            match ManifestFile::decode(sent) {
                Ok(file) => self
                    .copies
                    .entry(shard.to_owned())
                    .or_default()
                    .push(ManifestCopy {
                        index: file.index,
                        at: now,
                        named: file.manifest.objects().map(|(_, object)| object.name).collect(),
                    }),
                Err(error) => self.complaints.push(format!("{key} is no manifest: {error}")),
            }
        }
        if !is_bundle(key) {
            return sent.clone();
        }
        let Some(spoil) = self.spoils.pop_front() else {
            return sent.clone();
        };
        self.figures.spoiled += 1;
        match spoil {
            Spoil::Truncate => sent.slice(..sent.len() / 2),
            Spoil::FlipBit => {
                let mut kept = sent.to_vec();
                // In a frame: behind the head, in front of the footer.
                let middle = kept.len() / 2;
                kept[middle] ^= 1;
                kept.into()
            }
        }
    }

    /// A bundle may go when the newest copies of the manifest have not named it for the whole grace period; one that no
    /// copy ever named, when it has lain there for so long.
    fn note_delete(&mut self, key: &str) {
        let now = now();
        let Some(life) = self.objects.get_mut(key).filter(|life| life.is_there) else {
            return;
        };
        life.is_there = false;
        let since = life.since;
        let Some((shard, name)) = key
            .rsplit_once('/')
            .and_then(|(shard, name)| Some((shard, ObjectName::parse(name)?)))
        else {
            return;
        };
        self.figures.deleted += 1;
        let copies = self.copies.get(shard).map_or(&[][..], Vec::as_slice);
        let naming = copies.iter().filter(|copy| copy.named.contains(&name));
        let unneeded_since = match naming.map(|copy| copy.index).max() {
            Some(index) => copies
                .iter()
                .filter(|copy| copy.index > index)
                .map(|copy| copy.at)
                .min(),
            None => Some(since),
        };
        let is_due = unneeded_since.is_some_and(|since| now.saturating_sub(since) + TOLERANCE >= GRACE);
        if !is_due {
            self.complaints.push(format!(
                "{key} was deleted at {now:?}, though it was needed until {unneeded_since:?} and the grace period is \
                 {GRACE:?} (invariant 7)"
            ));
        }
    }
}

fn now() -> Duration {
    turmoil::sim_elapsed().unwrap_or_default()
}

fn is_bundle(key: &str) -> bool {
    key.ends_with(".bundle")
}

#[async_trait]
impl ObjectStore for Ledger {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        self.half_of_the_delay().await;
        let sent = Bytes::from(payload);
        let is_conditional = !matches!(options.mode, PutMode::Overwrite);
        let kept = if is_conditional {
            sent.clone()
        } else {
            self.book.lock().note_put(location.as_ref(), &sent)
        };
        let done = self.inner.put_opts(location, kept.into(), options).await;
        if is_conditional && done.is_ok() {
            self.book.lock().note_put(location.as_ref(), &sent);
        }
        self.half_of_the_delay().await;
        done
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(location, options).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.half_of_the_delay().await;
        let answer = self.inner.get_opts(location, options).await;
        self.half_of_the_delay().await;
        answer
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let book = Arc::clone(&self.book);
        let noted = locations.map(move |location| {
            let location = location?;
            book.lock().note_delete(location.as_ref());
            Ok(location)
        });
        self.inner.delete_stream(noted.boxed())
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}

impl fmt::Display for Ledger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("simulated bucket")
    }
}

impl fmt::Debug for Ledger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
