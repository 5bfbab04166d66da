//! Proves a bucket without brokers: every object that a manifest names is there and whole, and holds what the manifest
//! says, without gaps.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use meridian_types::{Partition, ShardId};
use parking_lot::Mutex;

use crate::bundle::{BundleError, Footer, FooterPlace, HEAD_BYTES, check_frame, check_head, unframe};
use crate::cold::{check_directory, frames_of};
use crate::manifest::{Extent, Object, ObjectId, ObjectName};
use crate::manifest_file::ManifestFile;
use crate::replay::{Catalog, CatalogError};
use crate::store::{Listed, Store, StoreError};

mod problem;
#[cfg(test)]
mod tests;

pub use problem::{Problem, ProblemKind};

/// Most bytes that one request reads for a check of contents, unless a single frame is larger.
const REQUEST_BYTES: u64 = 8 << 20;

/// Most problems that are kept; the count goes on.
const PROBLEMS_MAX: usize = 10_000;

/// How thorough a verification is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// Every object is there, in its length, with an intact directory that says what the manifest says. Reads
    /// the directories only.
    Directories,
    /// And every frame and every batch is intact. Reads everything.
    Contents,
}

/// How a verification is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VerifySettings {
    /// How thorough it is.
    pub depth: Depth,
    /// Objects that are looked at at the same time; each takes up to 32 MiB of memory.
    pub parallel: usize,
}

/// How far a verification is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VerifyProgress {
    /// Objects looked at.
    pub objects: u64,
    /// Objects in all manifests.
    pub total_objects: u64,
    /// Bytes read.
    pub bytes: u64,
    /// Bytes to be read, about.
    pub total_bytes: u64,
}

/// What was found.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// The cluster.
    pub cluster: String,
    /// Shards that have a manifest.
    pub shards: u64,
    /// Partitions in the manifests.
    pub partitions: u64,
    /// Extents in the manifests.
    pub extents: u64,
    /// Records in the extents.
    pub records: u64,
    /// Objects that were looked at.
    pub objects: u64,
    /// Frames that were read and are whole.
    pub frames: u64,
    /// Bytes that were read.
    pub bytes: u64,
    /// What is wrong, 10,000 at most.
    pub problems: Vec<Problem>,
    /// How many problems there are.
    pub problem_count: u64,
    /// Bundles that no manifest names: of an upload that is under way, or left by one that failed. They are removed by the
    /// shard's leader in time and are no problem.
    pub orphans: Vec<Listed>,
    /// What is worth knowing and no problem.
    pub notes: Vec<String>,
}

impl Report {
    /// Whether everything holds.
    pub fn is_whole(&self) -> bool {
        self.problem_count == 0
    }
}

/// Verifies what the bucket holds of `cluster`, or of its only one.
///
/// Errors: nothing can be told of the bucket at all, or the store went away meanwhile. What is damaged is in the report.
pub async fn verify(
    store: &Store,
    cluster: Option<&str>,
    settings: VerifySettings,
    progress: &(dyn Fn(VerifyProgress) + Send + Sync),
) -> Result<Report, CatalogError> {
    let catalog = Catalog::open(store, cluster).await?;
    let verifier = Verifier {
        store,
        catalog: &catalog,
        depth: settings.depth,
        report: Mutex::new(Report {
            cluster: catalog.cluster.clone(),
            ..Report::default()
        }),
        read_bytes: AtomicU64::new(0),
        done_objects: AtomicU64::new(0),
        totals: totals(&catalog, settings.depth),
        progress,
    };
    for (key, reason) in catalog.damaged() {
        verifier.found(Problem::of_key(ProblemKind::DamagedFile, key, reason));
    }
    for (shard, newest) in &catalog.shards {
        verifier.shard(*shard, &newest.file, settings.parallel).await?;
    }
    let mut report = verifier.report.into_inner();
    report.bytes = verifier.read_bytes.into_inner();
    report.problems.sort_by(|a, b| a.place().cmp(&b.place()));
    Ok(report)
}

fn totals(catalog: &Catalog, depth: Depth) -> (u64, u64) {
    let (mut objects, mut bytes) = (0, 0);
    for newest in catalog.shards.values() {
        for (_, object) in newest.file.manifest.objects() {
            objects += 1;
            bytes += object.bytes - object.footer_at.min(object.bytes);
            if depth == Depth::Contents {
                bytes += object.live_bytes;
            }
        }
    }
    (objects, bytes)
}

struct Verifier<'a> {
    store: &'a Store,
    catalog: &'a Catalog,
    depth: Depth,
    report: Mutex<Report>,
    read_bytes: AtomicU64,
    done_objects: AtomicU64,
    totals: (u64, u64),
    progress: &'a (dyn Fn(VerifyProgress) + Send + Sync),
}

impl Verifier<'_> {
    fn found(&self, problem: Problem) {
        let mut report = self.report.lock();
        report.problem_count += 1;
        if report.problems.len() < PROBLEMS_MAX {
            report.problems.push(problem);
        }
    }

    fn note(&self, note: String) {
        self.report.lock().notes.push(note);
    }

    async fn shard(&self, shard: ShardId, file: &ManifestFile, parallel: usize) -> Result<(), CatalogError> {
        self.continuity(shard, file);
        let listing = self.listing(shard).await?;
        self.others(shard, file, &listing);
        let mut extents: BTreeMap<ObjectId, Vec<(Partition, Extent)>> = BTreeMap::new();
        for (partition, of_partition) in file.manifest.partitions() {
            for extent in of_partition {
                extents
                    .entry(extent.object)
                    .or_default()
                    .push((partition, *extent));
            }
        }
        let missing: Vec<ObjectId> = stream::iter(file.manifest.objects())
            .map(|(id, object)| {
                let key = object.name.key(&self.catalog.cluster, shard);
                let extents = extents.remove(&id).unwrap_or_default();
                async move { self.object(&key, object, &extents).await.map(|found| (id, found)) }
            })
            .buffer_unordered(parallel.max(1))
            .try_filter_map(async |(id, found)| Ok((found == Found::Missing).then_some(id)))
            .try_collect()
            .await?;
        if !missing.is_empty() {
            self.missing(shard, file, &missing).await?;
        }
        let mut report = self.report.lock();
        report.shards += 1;
        let totals = file.manifest.totals();
        report.partitions += totals.partitions;
        report.extents += totals.extents;
        report.records += totals.records;
        Ok(())
    }

    /// Offsets follow one another, from the log's start on, in the right shard. Within a partition
    /// the manifest's own check saw to it when it was read.
    fn continuity(&self, shard: ShardId, file: &ManifestFile) {
        if file.shard != shard {
            self.found(Problem::of_shard(
                ProblemKind::WrongShard,
                shard,
                format!("its manifest says that it is of shard {}", file.shard),
            ));
        }
        for (partition, extents) in file.manifest.partitions() {
            let belongs_to = self.catalog.topics.file.shards.of(partition);
            if belongs_to != shard {
                let what =
                    format!("it is in the manifest of shard {shard}, but belongs to shard {belongs_to}");
                self.found(self.of_partition(ProblemKind::WrongShard, partition, what));
            }
            let log_start = file.log_start(partition);
            if let Some(first) = extents.first()
                && first.base_offset > log_start
            {
                let what = format!(
                    "its log starts at offset {log_start}, but the first extent at {}",
                    first.base_offset
                );
                self.found(self.of_partition(ProblemKind::Gap, partition, what));
            }
            if self.catalog.topics.file.topic_by_id(partition.topic).is_none() {
                self.note(format!(
                    "partition {partition} belongs to a topic that the list of topics does not name: it was deleted, or made, meanwhile"
                ));
            }
        }
    }

    async fn listing(&self, shard: ShardId) -> Result<Vec<Listed>, StoreError> {
        let prefix = ObjectName::prefix(&self.catalog.cluster, shard);
        self.store.list(&prefix).try_collect().await
    }

    /// What is there beside the bundles of the manifest.
    fn others(&self, shard: ShardId, file: &ManifestFile, listing: &[Listed]) {
        let known: BTreeSet<ObjectName> = file.manifest.names().collect();
        let of_state = format!("{}/state/", ObjectName::prefix(&self.catalog.cluster, shard));
        if !listing.iter().any(|it| it.key.starts_with(&of_state)) {
            self.note(format!(
                "shard {shard} has no copy of its state: it cannot be restored"
            ));
        }
        let is_orphan = |it: &&Listed| {
            let name = it.key.rsplit('/').next().and_then(ObjectName::parse);
            name.is_some_and(|name| !known.contains(&name))
        };
        let orphans = listing.iter().filter(is_orphan).cloned();
        self.report.lock().orphans.extend(orphans);
    }

    /// Objects that the manifest file names and that are not there. The region may have merged or deleted them after the
    /// file was written: then a newer file does not name them.
    async fn missing(
        &self,
        shard: ShardId,
        file: &ManifestFile,
        missing: &[ObjectId],
    ) -> Result<(), CatalogError> {
        let newest = Catalog::open(self.store, Some(&self.catalog.cluster)).await?;
        let newest = newest.shards.get(&shard).map(|newest| &newest.file);
        for id in missing {
            let still_named = newest.is_none_or(|newest| newest.manifest.object(*id).is_some());
            if let Some(object) = file.manifest.object(*id).filter(|_| still_named) {
                let key = object.name.key(&self.catalog.cluster, shard);
                let what = format!("it holds {} extents", object.extents);
                self.found(Problem::of_key(ProblemKind::Missing, &key, &what));
            }
        }
        Ok(())
    }

    /// Looks at one object.
    async fn object(
        &self,
        key: &str,
        object: &Object,
        extents: &[(Partition, Extent)],
    ) -> Result<Found, StoreError> {
        let found = match self.check_object(key, object, extents).await {
            Ok(()) => Found::There,
            Err(StoreError::NotFound { .. }) => Found::Missing,
            Err(error @ StoreError::Short { .. }) => {
                self.found(Problem::of_key(ProblemKind::Length, key, &error));
                Found::There
            }
            Err(error) => return Err(error),
        };
        self.report.lock().objects += 1;
        self.done_objects.fetch_add(1, Ordering::Relaxed);
        self.show();
        Ok(found)
    }

    async fn check_object(
        &self,
        key: &str,
        object: &Object,
        extents: &[(Partition, Extent)],
    ) -> Result<(), StoreError> {
        let bytes = self.store.head(key).await?;
        if bytes != object.bytes {
            let what = format!("it has {bytes} bytes, the manifest says {}", object.bytes);
            self.found(Problem::of_key(ProblemKind::Length, key, &what));
        }
        let head = self.get(key, 0..HEAD_BYTES).await?;
        if let Err(error) = check_head(&head) {
            self.found(Problem::of_key(ProblemKind::Directory, key, &error));
        }
        let place = FooterPlace {
            footer_at: object.footer_at,
            footer_crc: object.footer_crc,
        };
        let footer = self.get(key, object.footer_at..object.bytes).await?;
        let footer = match Footer::decode(&footer, place) {
            Ok(footer) => footer,
            Err(error) => {
                self.found(Problem::of_key(ProblemKind::Directory, key, &error));
                return Ok(());
            }
        };
        for (partition, extent) in extents {
            self.check_extent(key, &footer, *partition, extent).await?;
        }
        Ok(())
    }

    async fn check_extent(
        &self,
        key: &str,
        footer: &Footer,
        partition: Partition,
        extent: &Extent,
    ) -> Result<(), StoreError> {
        let of_extent = |kind, what: String| {
            let mut problem = self.of_partition(kind, partition, what);
            problem.key = Some(key.to_owned());
            problem.offsets = Some(extent.offsets());
            problem
        };
        let frames = match frames_of(footer, partition, extent) {
            Ok(frames) => frames,
            Err(error) => {
                self.found(of_extent(ProblemKind::Directory, error.to_string()));
                return Ok(());
            }
        };
        for difference in check_directory(extent, &frames) {
            self.found(of_extent(ProblemKind::Directory, difference));
        }
        if self.depth == Depth::Directories {
            return Ok(());
        }
        let mut rest = frames.as_slice();
        while let Some(first) = rest.first() {
            let start = first.frame.at;
            let count = rest
                .partition_point(|it| it.frame.range().end - start <= REQUEST_BYTES)
                .max(1);
            let (group, behind) = rest.split_at(count);
            rest = behind;
            let stored = self.get(key, start..group[count - 1].frame.range().end).await?;
            for it in group {
                let frame = it.frame;
                let from = (frame.at - start) as usize;
                let part = stored.slice(from..from + frame.stored_len as usize);
                // Unpacking and checksums are work: others go on meanwhile.
                let checked = tokio::task::spawn_blocking(move || -> Result<(), BundleError> {
                    check_frame(&frame, &unframe(&frame, &part)?)
                })
                .await;
                match checked {
                    Ok(Ok(())) => self.report.lock().frames += 1,
                    Ok(Err(error)) => {
                        let mut problem = of_extent(ProblemKind::Content, error.to_string());
                        problem.offsets = Some(frame.base_offset..frame.end_offset);
                        self.found(problem);
                    }
                    Err(_) => self.note(format!(
                        "frame {} of {key} was not checked: the check died",
                        it.number
                    )),
                }
            }
            self.show();
        }
        Ok(())
    }

    fn of_partition(&self, kind: ProblemKind, partition: Partition, what: String) -> Problem {
        Problem {
            kind,
            key: None,
            shard: None,
            topic: Some(self.catalog.topic_name(partition.topic)),
            partition: Some(partition.index),
            offsets: None,
            what,
        }
    }

    async fn get(&self, key: &str, range: std::ops::Range<u64>) -> Result<Bytes, StoreError> {
        let bytes = self.store.get_range(key, range).await?;
        self.read_bytes.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        Ok(bytes)
    }

    fn show(&self) {
        (self.progress)(VerifyProgress {
            objects: self.done_objects.load(Ordering::Relaxed),
            total_objects: self.totals.0,
            bytes: self.read_bytes.load(Ordering::Relaxed),
            total_bytes: self.totals.1,
        });
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Found {
    There,
    Missing,
}
