//! The mirror's side of a checkpoint: where the source's log no longer reaches back to where a log here stands, it takes
//! the source's state over and goes on behind it. Why it is so: `docs/decisions/0019-checkpoints-between-regions.md`.
//!
//! Everything that was done lies in the log and in the bucket, so whoever leads next goes on where the last one ended:
//! the checkpoint that is staged, the objects that are there, the batches that have come.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use meridian_geo_mirror::{AskError, Links};
use meridian_lineage::{InstallRejected, StagePart};
use meridian_state::{Command, FillGroup, Install, State};
use meridian_tiered_storage::manifest::Object;
use meridian_tiered_storage::store::{Store, StoreError};
use meridian_types::{Offset, Partition, ShardId};
use meridian_wire::batch::{BatchHeader, verify_crc};
use parking_lot::Mutex;
use thiserror::Error;
use tokio::sync::OnceCell;

use super::apply::{wait_for_content_room, wait_for_room};
use super::checkpoints::ANSWER_BYTES;
use super::question::{BatchesPart, CheckpointPart, Question};
use super::stream::{Rejection, Stream};
use crate::errors::ControlError;
use crate::region::Inner;
use crate::tier::Tier;
use crate::tier::adopt::{AdoptError, adopt};

/// How long an answer may take: all logs' parts may wait for one slow link.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(120);

/// Pause after an attempt that came to nothing.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// Logs of this node that take a checkpoint in at once.
const INSTALLS_MAX: usize = 4;

/// Partitions of one log whose batches are fetched at once.
const PARTITIONS_MAX: usize = 4;

/// Logs that take a checkpoint in now.
#[derive(Default)]
pub(super) struct Installs {
    running: Mutex<BTreeSet<ShardId>>,
    /// Why the last attempt came to nothing.
    troubles: Mutex<BTreeMap<ShardId, String>>,
}

impl Installs {
    /// Why no checkpoint is installed in a log yet, if that was tried.
    pub(super) fn trouble(&self, shard: ShardId) -> Option<String> {
        self.troubles.lock().get(&shard).cloned()
    }
}

/// Why an attempt came to nothing. The next one goes on from what is in the log.
#[derive(Debug, Error)]
enum InstallError {
    #[error("this node does not lead the log any more")]
    NotLeader,
    #[error("the source does not answer: {0}")]
    Ask(#[from] AskError),
    #[error("the source does not answer within {ANSWER_TIMEOUT:?}")]
    TimedOut,
    #[error("the source answers what it was not asked: {0}")]
    Answer(String),
    #[error(transparent)]
    Adopt(#[from] AdoptError),
    #[error(transparent)]
    Propose(#[from] ControlError),
    #[error(transparent)]
    Rejected(#[from] Rejection),
    #[error("{0}")]
    Unavailable(String),
}

/// Begins for each of these logs that does not take one in already.
pub(super) fn tend(inner: &Arc<Inner>, purged: Vec<ShardId>) {
    let Some(mirror) = inner.mirror() else { return };
    for shard in purged {
        {
            let mut running = mirror.installs.running.lock();
            if running.len() >= INSTALLS_MAX || !running.insert(shard) {
                continue;
            }
        }
        let inner = Arc::clone(inner);
        tokio::spawn(async move {
            let installed = tokio::select! {
                installed = run(&inner, shard) => installed,
                () = inner.stop.cancelled() => return,
            };
            let Some(mirror) = inner.mirror() else { return };
            match installed {
                Ok(sequence) => {
                    tracing::warn!(%shard, sequence, "a checkpoint of another region took the place of the log's content");
                    mirror.installs.troubles.lock().remove(&shard);
                    // It asks again, from where it stands now.
                    mirror.follows.forget(shard);
                }
                Err(error) => {
                    tracing::info!(%shard, %error, "a checkpoint of another region is not installed yet");
                    mirror.installs.troubles.lock().insert(shard, error.to_string());
                    tokio::time::sleep(RETRY_INTERVAL).await;
                }
            }
            mirror.installs.running.lock().remove(&shard);
            mirror.wake.notify_one();
        });
    }
}

/// One attempt: returns the sequence that the log is at then.
async fn run(inner: &Arc<Inner>, shard: ShardId) -> Result<u64, InstallError> {
    let attempt = Attempt {
        inner,
        links: inner
            .mirror()
            .and_then(super::Mirror::links)
            .ok_or(InstallError::NotLeader)?,
        stream: Stream::new(inner, shard).ok_or(InstallError::NotLeader)?,
        buckets: inner.settings.geo.as_ref().map_or(&[], |geo| &geo.buckets),
        broken: Mutex::default(),
    };
    let staged = attempt.stream.staged();
    let (checkpoint, body) = match staged {
        Some(staged) => staged,
        None => attempt.stage().await?,
    };
    match attempt.install(checkpoint, body).await {
        // The log has come as far by itself: it has to ask once more.
        Err(InstallError::Rejected(Rejection::Install(InstallRejected::Stale { present, .. }))) => {
            Ok(present)
        }
        // It cannot become of use any more: the next attempt begins with a fresh one.
        Err(InstallError::Rejected(rejection)) => {
            tracing::warn!(%shard, %rejection, "a staged checkpoint is given up");
            attempt.stage().await?;
            Err(rejection.into())
        }
        Err(InstallError::Ask(AskError::Refused(refusal)))
            if !matches!(refusal, meridian_geo_mirror::Refusal::NotLeader { .. }) =>
        {
            tracing::info!(%shard, %refusal, "a staged checkpoint is replaced by a fresh one");
            attempt.stage().await?;
            Err(AskError::Refused(refusal).into())
        }
        // An object that was merged away meanwhile.
        Err(InstallError::Adopt(error @ AdoptError::Source { .. })) => {
            tracing::info!(%shard, %error, "a staged checkpoint is replaced by a fresh one");
            attempt.stage().await?;
            Err(error.into())
        }
        installed => installed,
    }
}

struct Attempt<'a> {
    inner: &'a Arc<Inner>,
    links: Arc<Links>,
    stream: Stream<'a>,
    /// Of other regions, that this node can read.
    buckets: &'a [Store],
    /// Those that failed in this attempt.
    broken: Mutex<BTreeSet<usize>>,
}

impl<'a> Attempt<'a> {
    async fn ask(&self, question: Question) -> Result<Bytes, InstallError> {
        let asked = self.links.ask(self.stream.id(), question.encode());
        let answered = tokio::time::timeout(ANSWER_TIMEOUT, asked).await;
        Ok(answered.map_err(|_| InstallError::TimedOut)??)
    }

    /// What an installation needs before it; it takes room as content does.
    async fn propose_part(&self, command: Vec<Bytes>) -> Result<(), InstallError> {
        let (group, _) = self.stream.led().ok_or(InstallError::NotLeader)?;
        let bytes = command.iter().map(Bytes::len).sum();
        wait_for_content_room(self.inner, self.stream.id(), &group, bytes)
            .await
            .map_err(|error| InstallError::Unavailable(error.to_string()))?;
        self.propose(command).await
    }

    async fn propose(&self, command: Vec<Bytes>) -> Result<(), InstallError> {
        let (group, term) = self.stream.led().ok_or(InstallError::NotLeader)?;
        let bytes = command.iter().map(Bytes::len).sum();
        wait_for_room(&group, bytes)
            .await
            .map_err(|error| InstallError::Unavailable(error.to_string()))?;
        self.inner.pacing.note_activity(self.stream.id());
        let pending = group
            .propose(term, command)
            .await
            .map_err(|error| InstallError::Unavailable(error.to_string()))?;
        Ok(self.stream.outcome(pending).await??)
    }

    /// Fetches a fresh checkpoint into the log.
    async fn stage(&self) -> Result<(u64, Vec<u8>), InstallError> {
        let mut part = None;
        loop {
            let answer = self.ask(Question::Checkpoint { part }).await?;
            let answer = CheckpointPart::decode(answer).map_err(|error| answered(&error))?;
            let CheckpointPart {
                checkpoint,
                total_bytes,
                at,
                bytes,
            } = answer;
            if (part.is_some() && part != Some((checkpoint, at))) || (at > 0 && bytes.is_empty()) {
                return Err(answered(&"another part of the checkpoint"));
            }
            let end = at + bytes.len() as u64;
            let staged = StagePart {
                checkpoint,
                total_bytes,
                at,
                bytes,
            };
            self.propose_part(self.stream.encode_stage(staged)).await?;
            if end >= total_bytes {
                break;
            }
            part = Some((checkpoint, end));
        }
        // Read back from the log's state: another leader may have staged another one.
        self.stream.staged().ok_or(InstallError::NotLeader)
    }

    async fn install(&self, checkpoint: u64, body: Vec<u8>) -> Result<u64, InstallError> {
        if self.stream.is_controller() {
            self.propose(Stream::encode_control_install(checkpoint)).await?;
            return Ok(self.stream.stand().progress.sequence);
        }
        let decoded = meridian_raft::blocking(move || State::decode_snapshot(&body)).await;
        let theirs = decoded
            .map_err(|error| InstallError::Unavailable(error.to_string()))?
            .map_err(|error| {
                let reason = error.to_string();
                Rejection::Install(InstallRejected::Unusable { reason })
            })?;
        let shard = self.stream.id();
        let has_objects = match self.inner.tier() {
            Some(tier) if !theirs.manifest().is_empty() => {
                let objects = theirs.manifest().objects().map(|(_, object)| *object);
                for object in objects.collect::<Vec<_>>() {
                    // Looked for only when the object has to be copied.
                    let readable = OnceCell::new();
                    let part = |at| self.object_part(&tier, &readable, object, at);
                    adopt(&tier, shard, &object, part).await?;
                }
                tier.confirm_ours().await?;
                true
            }
            _ => false,
        };
        let starts: Mutex<BTreeMap<Partition, Offset>> = Mutex::default();
        let partitions: Vec<Partition> = theirs.partitions().map(|(partition, _)| partition).collect();
        futures::stream::iter(
            partitions
                .into_iter()
                .map(|it| self.fill(checkpoint, &theirs, it, has_objects, &starts)),
        )
        .buffer_unordered(PARTITIONS_MAX)
        .try_collect::<()>()
        .await?;
        let install = Install {
            checkpoint,
            has_objects,
            starts: starts.into_inner().into_iter().collect(),
            now: (self.inner.clock)(),
        };
        self.propose(Command::Install(install).encode()).await?;
        Ok(self.stream.stand().progress.sequence)
    }

    /// A bucket that holds the object and that this node can read itself.
    async fn readable(&self, tier: &Tier, object: &Object) -> Option<&'a Store> {
        let key = object.name.key(&tier.cluster, self.stream.id());
        for (number, store) in self.buckets.iter().enumerate() {
            if self.broken.lock().contains(&number) {
                continue;
            }
            match store.head(&key).await {
                Ok(bytes) if bytes == object.bytes => return Some(store),
                Ok(_) | Err(StoreError::NotFound { .. }) => {}
                Err(error) => {
                    tracing::warn!(place = store.place(), %error, "a bucket of another region cannot be read: objects come over the link");
                    self.broken.lock().insert(number);
                }
            }
        }
        None
    }

    /// A part of an object: out of a bucket where that can be read, else over the link.
    async fn object_part(
        &self,
        tier: &Tier,
        readable: &OnceCell<Option<&'a Store>>,
        object: Object,
        at: u64,
    ) -> Result<Bytes, String> {
        let found = readable.get_or_init(|| self.readable(tier, &object)).await;
        if let Some(store) = found {
            let key = object.name.key(&tier.cluster, self.stream.id());
            let end = object.bytes.min(at.saturating_add(ANSWER_BYTES as u64));
            match store.get_range(&key, at..end).await {
                Ok(bytes) => return Ok(bytes),
                Err(error) => tracing::debug!(key, %error, "a part comes over the link"),
            }
        }
        let name = object.name;
        let asked = self.ask(Question::Object { name, at }).await;
        asked.map_err(|error| error.to_string())
    }

    /// Brings the batches of one partition into the log that neither it nor the bucket has.
    async fn fill(
        &self,
        checkpoint: u64,
        theirs: &State,
        partition: Partition,
        has_objects: bool,
        starts: &Mutex<BTreeMap<Partition, Offset>>,
    ) -> Result<(), InstallError> {
        let Some(state) = theirs.partition(partition) else {
            return Ok(());
        };
        let (end, tiered_end) = (
            state.high_watermark(),
            theirs.manifest().end(partition).filter(|_| has_objects),
        );
        loop {
            let start = starts.lock().get(&partition).copied();
            let missing = {
                let here = self.inner.shard(self.stream.id()).applied_state();
                here.missing_from(partition, state, tiered_end.max(start))
            };
            let Some(base_offset) = missing else {
                return Ok(());
            };
            let from = base_offset.max(start.unwrap_or_default());
            let answer = self.ask(Question::Batches { partition, from, end }).await?;
            let answer = BatchesPart::decode(answer).map_err(|error| answered(&error))?;
            let (next, max_timestamp, bytes) = match answer {
                BatchesPart::Deleted { start } if start > from => {
                    starts.lock().insert(partition, start.min(end));
                    continue;
                }
                BatchesPart::Deleted { .. } => return Err(answered(&"a start that lies behind")),
                BatchesPart::Batches {
                    next,
                    max_timestamp,
                    bytes,
                } => (next, max_timestamp, bytes),
            };
            check_batches(&bytes, from, next, end).map_err(InstallError::Answer)?;
            let is_first = {
                let here = self.inner.shard(self.stream.id()).applied_state();
                here.filled(partition).is_none()
            };
            // The first batch may begin before what is missing.
            let first = first_offset(&bytes).filter(|_| is_first);
            let group = FillGroup {
                partition,
                base_offset: base_offset.min(first.unwrap_or(base_offset)),
                end_offset: next,
                max_timestamp,
                bytes,
            };
            let fill = Command::Fill {
                checkpoint,
                groups: vec![group],
            };
            self.propose_part(fill.encode()).await?;
        }
    }
}

fn first_offset(batches: &Bytes) -> Option<Offset> {
    BatchHeader::parse(batches).ok().map(|header| header.base_offset)
}

/// Holds what came against what was asked for, and every batch with its checksum.
fn check_batches(bytes: &Bytes, from: Offset, next: Offset, end: Offset) -> Result<(), String> {
    let mut rest = bytes.clone();
    let mut at = None;
    while !rest.is_empty() {
        let header = BatchHeader::parse(&rest).map_err(|error| error.to_string())?;
        if header.size() > rest.len() {
            return Err("a batch that is cut short".to_owned());
        }
        let batch = rest.split_to(header.size());
        verify_crc(&batch).map_err(|error| error.to_string())?;
        if at.is_some_and(|at| header.base_offset < at) || header.next_offset() <= from {
            return Err("batches out of order".to_owned());
        }
        at = Some(header.next_offset());
    }
    match at {
        Some(at) if at == next && next <= end => Ok(()),
        _ => Err("batches that end elsewhere".to_owned()),
    }
}

fn answered(what: &dyn std::fmt::Display) -> InstallError {
    InstallError::Answer(what.to_string())
}
