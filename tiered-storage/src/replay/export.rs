//! Exports a plan: partitions in parallel into files, or one after the other into a stream.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures::stream::{FuturesUnordered, StreamExt};
use meridian_types::Offset;
use meridian_wire::batch::BatchHeader;
use parking_lot::Mutex;
use tokio::sync::watch;

use super::disk::PartFile;
use super::error::ReplayError;
use super::part::{Format, Part, PartError, Shape};
use super::plan::{PartitionPlan, Plan};
use super::reader::{Chunk, PartitionReader};
use super::state::{FinishedFile, ReplayState};
use super::tail::Source;

/// How an export is done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExportSettings {
    /// Directory of the output: `<topic>/<partition>/<first offset, 20 digits>.<format>`.
    pub directory: PathBuf,
    /// A file is finished once it holds so many bytes of records without compression, and the next is begun.
    pub file_bytes: u64,
    /// Partitions that are exported at the same time; each takes about three times `chunk_bytes` of memory, and what
    /// its format gathers.
    pub parallel: usize,
    /// How much of a partition is worked on at once.
    pub chunk_bytes: usize,
}

impl ExportSettings {
    /// Into `directory`, files of 256 MiB, chunks of 4 MiB, two partitions at a time.
    pub fn new(directory: impl Into<PathBuf>) -> Self {
        Self {
            directory: directory.into(),
            file_bytes: 256 << 20,
            parallel: 2,
            chunk_bytes: 4 << 20,
        }
    }
}

/// How far an export is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Bytes of batches read.
    pub read_bytes: u64,
    /// Bytes of records without compression.
    pub record_bytes: u64,
    /// Records written.
    pub records: u64,
    /// Files finished.
    pub files: u64,
    /// Offsets that are done with.
    pub offsets: u64,
    /// Offsets that retention deleted before they could be read from brokers.
    pub deleted_offsets: u64,
}

/// What an export did.
pub type Summary = Progress;

#[derive(Default)]
struct Counted {
    read_bytes: AtomicU64,
    record_bytes: AtomicU64,
    records: AtomicU64,
    files: AtomicU64,
    offsets: AtomicU64,
    deleted_offsets: AtomicU64,
}

impl Counted {
    fn progress(&self) -> Progress {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Progress {
            read_bytes: read(&self.read_bytes),
            record_bytes: read(&self.record_bytes),
            records: read(&self.records),
            files: read(&self.files),
            offsets: read(&self.offsets),
            deleted_offsets: read(&self.deleted_offsets),
        }
    }

    fn chunk(&self, chunk: &Chunk, record_bytes: u64, records: u64) {
        self.read_bytes.fetch_add(chunk.bytes, Ordering::Relaxed);
        self.record_bytes.fetch_add(record_bytes, Ordering::Relaxed);
        self.records.fetch_add(records, Ordering::Relaxed);
        let offsets = chunk.offsets.end.0 - chunk.offsets.start.0;
        self.offsets.fetch_add(offsets, Ordering::Relaxed);
    }

    fn end(&self, reader: &PartitionReader) {
        let deleted = reader.deleted_offsets();
        self.offsets.fetch_add(deleted, Ordering::Relaxed);
        self.deleted_offsets.fetch_add(deleted, Ordering::Relaxed);
    }
}

/// What all partitions of an export share.
struct Job<'a> {
    source: &'a Source,
    settings: &'a ExportSettings,
    format: Format,
    path: PathBuf,
    topics: Arc<[String]>,
    state: Mutex<&'a mut ReplayState>,
    counted: Counted,
    /// Set when one of them has failed: the others end before their next chunk.
    failed: watch::Sender<bool>,
    progress: &'a (dyn Fn(Progress) + Send + Sync),
}

/// Exports `plan`, which is what `state` has left, into files. `state` is saved below the directory whenever a file
/// is finished. `progress` is called for every chunk.
///
/// After an error what is finished stays, and the state says where to go on.
pub async fn export(
    source: &Source,
    plan: &Plan,
    format: Format,
    state: &mut ReplayState,
    settings: &ExportSettings,
    progress: &(dyn Fn(Progress) + Send + Sync),
) -> Result<Summary, ReplayError> {
    let path = settings.directory.join(ReplayState::FILE_NAME);
    state.save(&path)?;
    let job = Job {
        source,
        settings,
        format,
        path,
        topics: topics_of(plan),
        state: Mutex::new(state),
        counted: Counted::default(),
        failed: watch::Sender::new(false),
        progress,
    };
    let mut waiting = plan.partitions.iter();
    let mut running = FuturesUnordered::new();
    let mut failure = None;
    loop {
        while failure.is_none() && running.len() < settings.parallel.max(1) {
            let Some(partition) = waiting.next() else { break };
            running.push(job.export_partition(partition));
        }
        match running.next().await {
            None => break,
            Some(Ok(())) => {}
            // The others end too, and are waited for: a thread that still wrote would be in the next run's way.
            Some(Err(error)) => {
                job.failed.send_replace(true);
                failure.get_or_insert(error);
            }
        }
    }
    drop(running);
    match failure {
        Some(error) => Err(error),
        None => Ok(job.counted.progress()),
    }
}

impl Job<'_> {
    async fn export_partition(&self, plan: &PartitionPlan) -> Result<(), ReplayError> {
        let topic = position(&self.topics, &plan.topic);
        let mut reader = PartitionReader::new(self.source.clone(), plan.clone(), self.settings.chunk_bytes);
        let mut open: Option<OpenPart> = None;
        let mut failed = self.failed.subscribe();
        loop {
            let next = tokio::select! {
                biased;
                _ = failed.wait_for(|failed| *failed) => return Ok(()),
                next = reader.next() => next?,
            };
            let Some(chunk) = next else { break };
            let end = chunk.offsets.end;
            let part = match open.take() {
                Some(part) => part,
                None => self.begin(plan, chunk.offsets.start)?,
            };
            // Decoding and writing are work: they have a thread of their own while the next chunk is read ahead.
            let plan_of_work = plan.clone();
            let work = move || {
                let (part, record_bytes, records) = part.push(topic, &plan_of_work, &chunk)?;
                Ok::<_, ReplayError>((part, chunk, record_bytes, records))
            };
            let (part, chunk, record_bytes, records) = blocking(work).await??;
            self.counted.chunk(&chunk, record_bytes, records);
            drop(chunk);
            if part.record_bytes >= self.settings.file_bytes {
                self.finish(plan, part, end).await?;
            } else {
                open = Some(part);
            }
            (self.progress)(self.counted.progress());
        }
        match open {
            Some(part) => self.finish(plan, part, plan.offsets.end).await?,
            None => self.note(plan, plan.offsets.end, None).await?,
        }
        self.counted.end(&reader);
        (self.progress)(self.counted.progress());
        Ok(())
    }

    fn begin(&self, plan: &PartitionPlan, base: Offset) -> Result<OpenPart, ReplayError> {
        let name = format!(
            "{}/{}/{:020}.{}",
            plan.topic,
            plan.partition.index,
            base.0,
            self.format.name()
        );
        let (file, out) = PartFile::create(&self.settings.directory, &name)?;
        let part =
            Part::begin(self.format, Shape::File, &self.topics, out).map_err(|error| file.failed(&error))?;
        Ok(OpenPart {
            name,
            base,
            file,
            part,
            record_bytes: 0,
        })
    }

    async fn finish(&self, plan: &PartitionPlan, part: OpenPart, end: Offset) -> Result<(), ReplayError> {
        let finished = blocking(move || part.finish(end)).await??;
        if finished.is_some() {
            self.counted.files.fetch_add(1, Ordering::Relaxed);
        }
        self.note(plan, end, finished).await
    }

    async fn note(
        &self,
        plan: &PartitionPlan,
        end: Offset,
        file: Option<FinishedFile>,
    ) -> Result<(), ReplayError> {
        let mut state = self.state.lock();
        state.advance(plan, end, file);
        state.save(&self.path)
    }
}

/// A file that grows.
struct OpenPart {
    name: String,
    base: Offset,
    file: PartFile,
    part: Part<BufWriter<File>>,
    record_bytes: u64,
}

impl OpenPart {
    fn push(
        mut self,
        topic: usize,
        plan: &PartitionPlan,
        chunk: &Chunk,
    ) -> Result<(Self, u64, u64), ReplayError> {
        let before = self.part.rows();
        let file = &self.file;
        let bytes = push_chunk(&mut self.part, topic, plan, chunk, |error| file.failed(&error))?;
        self.record_bytes += bytes;
        let rows = self.part.rows() - before;
        Ok((self, bytes, rows))
    }

    /// `None` when nothing came to be in it.
    fn finish(self, end: Offset) -> Result<Option<FinishedFile>, ReplayError> {
        let records = self.part.rows();
        if records == 0 {
            return Ok(None);
        }
        let out = self.part.finish().map_err(|error| self.file.failed(&error))?;
        let bytes = self.file.finish(out)?;
        Ok(Some(FinishedFile {
            path: self.name,
            records,
            bytes,
            base_offset: self.base.0,
            end_offset: end.0,
        }))
    }
}

/// Exports `plan` to one output, partition after partition. Cannot be resumed.
///
/// Errors: those of [`export`], and `Output` when the output goes away.
pub async fn export_to<W: Write + Send + 'static>(
    source: &Source,
    plan: &Plan,
    format: Format,
    chunk_bytes: usize,
    out: W,
    progress: &(dyn Fn(Progress) + Send + Sync),
) -> Result<Summary, ReplayError> {
    let topics = topics_of(plan);
    let counted = Counted::default();
    let mut part = Part::begin(format, Shape::Stream, &topics, out)?;
    for plan in &plan.partitions {
        let topic = position(&topics, &plan.topic);
        let mut reader = PartitionReader::new(source.clone(), plan.clone(), chunk_bytes);
        while let Some(chunk) = reader.next().await? {
            let plan = plan.clone();
            let before = part.rows();
            let (pushed, chunk, bytes) = blocking(move || {
                let bytes = push_chunk(&mut part, topic, &plan, &chunk, ReplayError::Output)?;
                Ok::<_, ReplayError>((part, chunk, bytes))
            })
            .await??;
            part = pushed;
            counted.chunk(&chunk, bytes, part.rows() - before);
            progress(counted.progress());
        }
        counted.end(&reader);
    }
    blocking(move || part.finish().map(drop)).await??;
    Ok(counted.progress())
}

fn push_chunk<W: Write + Send>(
    part: &mut Part<W>,
    topic: usize,
    plan: &PartitionPlan,
    chunk: &Chunk,
    output_failed: impl Fn(std::io::Error) -> ReplayError,
) -> Result<u64, ReplayError> {
    let mut bytes = 0;
    for batch in &chunk.batches {
        match part.push(topic, plan.partition.index, batch, &chunk.offsets) {
            Ok(more) => bytes += more as u64,
            Err(PartError::Output(error)) => return Err(output_failed(error)),
            Err(PartError::Records(source)) => {
                return Err(ReplayError::Records {
                    topic: plan.topic.to_string(),
                    partition: plan.partition.index,
                    offset: BatchHeader::parse(batch)
                        .map_or(chunk.offsets.start, |header| header.base_offset),
                    source,
                });
            }
        }
    }
    Ok(bytes)
}

fn topics_of(plan: &Plan) -> Arc<[String]> {
    let mut topics: Vec<String> = plan.partitions.iter().map(|it| it.topic.to_string()).collect();
    topics.dedup();
    topics.into()
}

fn position(topics: &[String], topic: &str) -> usize {
    topics
        .iter()
        .position(|it| it == topic)
        .expect("every topic of the plan is named")
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, ReplayError> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|_| ReplayError::GivenUp)
}
