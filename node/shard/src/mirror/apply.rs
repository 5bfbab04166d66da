//! From entries of the owner to this region's own logs: one task for each log, so that they are proposed in the order in
//! which they came, the next while the last are still on their way to a quorum.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesOrdered;
use meridian_geo_mirror::{Entries, SinkError};
use meridian_journal::JournalError;
use meridian_lineage::{BeginEpoch, ContentDigest, ContentRun, MirrorRejected};
use meridian_raft::Group;
use meridian_types::{RegionEpoch, ShardId, Term};
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::pieces::{pieces, run_bytes};
use super::stream::{Rejection, Stream};
use crate::errors::ControlError;
use crate::region::Inner;
use crate::room;

/// Frames that may wait for one log; links send far fewer before they are answered.
const FRAMES_MAX: usize = 1024;

/// Proposals of one log under way.
const IN_FLIGHT_MAX: usize = 8;

/// A proposal that is undecided for so long may still come to be: its link asks again where the log stands.
const UNDECIDED_MAX: Duration = Duration::from_secs(5);

/// How long entries wait for room in the journal before their link is told to come again.
const ROOM_TIMEOUT: Duration = Duration::from_secs(5);
const ROOM_STEP: Duration = Duration::from_millis(5);

type Answer = Result<u64, SinkError>;

/// Entries on their way, with who waits for them.
struct Job {
    entries: Entries,
    answer: oneshot::Sender<Answer>,
}

/// Takes entries for all logs.
pub(super) struct Applier {
    inner: Weak<Inner>,
    runtime: tokio::runtime::Handle,
    lanes: Mutex<BTreeMap<ShardId, mpsc::Sender<Job>>>,
}

/// Logs that take no content, because there is no room for it.
#[derive(Default)]
pub(super) struct Room {
    missing: Mutex<BTreeMap<ShardId, String>>,
}

impl Room {
    /// Why a log takes no content, if it lacks room.
    pub(super) fn missing(&self, shard: ShardId) -> Option<String> {
        self.missing.lock().get(&shard).cloned()
    }

    fn lacks(&self, shard: ShardId, reason: &JournalError) {
        let before = self.missing.lock().insert(shard, reason.to_string());
        if before.is_none() {
            tracing::warn!(%shard, %reason, "the mirror takes no more content until there is room");
        }
    }

    fn has(&self, shard: ShardId) {
        if self.missing.lock().remove(&shard).is_some() {
            tracing::info!(%shard, "the mirror has room again, and takes content");
        }
    }
}

impl Applier {
    pub(super) fn new(inner: Weak<Inner>) -> Self {
        Self {
            inner,
            runtime: tokio::runtime::Handle::current(),
            lanes: Mutex::default(),
        }
    }

    /// Queues in the order of the calls. Resolves once they are applied here.
    pub(super) fn apply(&self, shard: ShardId, entries: Entries) -> impl Future<Output = Answer> + use<> {
        let (answer, outcome) = oneshot::channel();
        let job = Job { entries, answer };
        let sent = self.lane(shard).try_send(job);
        let unavailable = |reason: &str| {
            Err(SinkError::Unavailable {
                reason: reason.to_owned(),
            })
        };
        async move {
            match sent {
                Ok(()) => outcome
                    .await
                    .unwrap_or_else(|_| unavailable("this node is stopping")),
                Err(_) => unavailable("too many frames wait for the shard"),
            }
        }
    }

    fn lane(&self, shard: ShardId) -> mpsc::Sender<Job> {
        let mut lanes = self.lanes.lock();
        if let Some(lane) = lanes.get(&shard).filter(|lane| !lane.is_closed()) {
            return lane.clone();
        }
        let (sender, jobs) = mpsc::channel(FRAMES_MAX);
        self.runtime.spawn(run(self.inner.clone(), shard, jobs));
        lanes.insert(shard, sender.clone());
        sender
    }
}

/// What a proposal came to, and who waits for it.
type InFlight = FuturesOrdered<BoxFuture<'static, (oneshot::Sender<Answer>, Answer)>>;

async fn run(inner: Weak<Inner>, shard: ShardId, mut jobs: mpsc::Receiver<Job>) {
    let Some(stop) = inner.upgrade().map(|inner| inner.stop.clone()) else {
        return;
    };
    let mut in_flight: InFlight = FuturesOrdered::new();
    loop {
        tokio::select! {
            biased;
            Some((answer, outcome)) = in_flight.next(), if !in_flight.is_empty() => {
                // A link that is gone does not wait for its answer.
                let _ = answer.send(outcome);
            }
            job = jobs.recv(), if in_flight.len() < IN_FLIGHT_MAX => {
                let Some(Job { entries, answer }) = job else { return };
                let Some(inner) = inner.upgrade() else { return };
                if is_another_epoch(&inner, shard, entries.region_epoch) || !fits(&inner, shard, &entries) {
                    // Whatever is of the last epoch comes first; and pieces need to know the digest before them.
                    while let Some((answer, outcome)) = in_flight.next().await {
                        let _ = answer.send(outcome);
                    }
                }
                match propose(inner, shard, entries).await {
                    Ok(pending) => in_flight.push_back(Box::pin(async move { (answer, pending.await) })),
                    Err(error) => {
                        let _ = answer.send(Err(error));
                    }
                }
            }
            () = stop.cancelled() => return,
        }
    }
}

/// Whether entries can be one command here: the other region's journal may take longer ones than this one's.
fn fits(inner: &Inner, shard: ShardId, entries: &Entries) -> bool {
    let group = Stream::new(inner, shard).and_then(|stream| stream.group());
    group.is_none_or(|group| run_bytes(&entries.commands) <= group.command_bytes_max())
}

fn is_another_epoch(inner: &Inner, shard: ShardId, epoch: RegionEpoch) -> bool {
    Stream::new(inner, shard).is_some_and(|stream| {
        let stand = stream.stand();
        !stand.is_counted || stand.progress.region_epoch != epoch
    })
}

/// Proposes entries under this node's present leadership. What the log has of them already, it leaves out by itself.
async fn propose(
    inner: Arc<Inner>,
    shard: ShardId,
    entries: Entries,
) -> Result<BoxFuture<'static, Answer>, SinkError> {
    let stream = Stream::new(&inner, shard).ok_or(SinkError::NotLeader)?;
    let (group, term) = stream.led().ok_or(SinkError::NotLeader)?;
    let stand = stream.stand();
    let is_new = entries.region_epoch > stand.progress.region_epoch;
    if !stand.is_counted || (is_new && entries.first_sequence <= stand.progress.sequence) {
        if stream.is_controller() || !super::ownership::may_follow(&inner, &stand) {
            // Ownership is decided in the controller's log, and this log belongs to this region by it.
            return Err(SinkError::NotLeader);
        }
        begin(&inner, &stream, &group, term, entries.region_epoch).await?;
    }
    if entries.commands.is_empty() {
        let sequence = stream.stand().progress.sequence;
        return Ok(Box::pin(std::future::ready(Ok(sequence))));
    }
    stream.verify(&entries.commands).map_err(|reason| {
        tracing::error!(%shard, reason, "what came for a mirror is damaged");
        SinkError::Unavailable { reason }
    })?;
    let bytes_max = group.command_bytes_max();
    if run_bytes(&entries.commands) > bytes_max {
        let sequence = propose_pieces(&inner, &stream, &group, term, entries, bytes_max).await?;
        return Ok(Box::pin(std::future::ready(Ok(sequence))));
    }
    let run = ContentRun {
        region_epoch: entries.region_epoch,
        first_sequence: entries.first_sequence,
        commands: entries.commands,
        digest: ContentDigest(entries.digest),
    };
    propose_run(&inner, &stream, &group, term, run).await
}

async fn propose_run(
    inner: &Arc<Inner>,
    stream: &Stream<'_>,
    group: &Group,
    term: Term,
    run: ContentRun,
) -> Result<BoxFuture<'static, Answer>, SinkError> {
    let shard = stream.id();
    let end = run.first_sequence + run.commands.len() as u64;
    let encoded = stream.encode_run(run);
    wait_for_content_room(inner, shard, group, encoded.iter().map(|part| part.len()).sum()).await?;
    inner.pacing.note_activity(shard);
    let pending = group
        .propose(term, encoded)
        .await
        .map_err(|error| unavailable(&error))?;
    let inner = Arc::clone(inner);
    Ok(Box::pin(async move {
        let stream = Stream::new(&inner, shard).ok_or(SinkError::NotLeader)?;
        let outcome = tokio::time::timeout(UNDECIDED_MAX, stream.outcome(pending)).await;
        let outcome = outcome.map_err(|_| unavailable(&"no quorum has taken it yet"))?;
        match outcome.map_err(|error| of_control(&error))? {
            Ok(()) => Ok(stream.stand().progress.sequence.max(end)),
            Err(rejection) => Err(of_rejection(shard, &rejection, stream.stand().progress.sequence)),
        }
    }))
}

/// Proposes entries that are longer than a command may be here, in pieces, one after the other. Everything before them is
/// applied, or it is not known yet what is: then the link asks again.
async fn propose_pieces(
    inner: &Arc<Inner>,
    stream: &Stream<'_>,
    group: &Group,
    term: Term,
    entries: Entries,
    bytes_max: usize,
) -> Answer {
    let shard = stream.id();
    let mut progress = stream.stand().progress;
    let fold = |digest, command: &Bytes| stream.fold(digest, command);
    for run in pieces(progress.sequence, progress.digest, entries, bytes_max, fold)? {
        let pending = propose_run(inner, stream, group, term, run).await?;
        pending.await?;
        progress = stream.stand().progress;
    }
    tracing::debug!(%shard, sequence = %progress.sequence, "a frame came in pieces");
    Ok(progress.sequence)
}

/// A mirror follows an epoch that begins at its source.
async fn begin(
    inner: &Inner,
    stream: &Stream<'_>,
    group: &Group,
    term: Term,
    region_epoch: RegionEpoch,
) -> Result<(), SinkError> {
    let begin = BeginEpoch {
        region_epoch,
        owner: super::ownership::believed(inner).owner,
        is_owner: false,
        expected_sequence: stream.stand().progress.sequence,
    };
    let encoded = Stream::encode_begin(begin);
    wait_for_room(group, encoded.iter().map(|part| part.len()).sum()).await?;
    let pending = group
        .propose(term, encoded)
        .await
        .map_err(|error| unavailable(&error))?;
    let outcome = tokio::time::timeout(UNDECIDED_MAX, stream.outcome(pending)).await;
    let outcome = outcome.map_err(|_| unavailable(&"no quorum has taken the epoch yet"))?;
    match outcome.map_err(|error| of_control(&error))? {
        Ok(()) => {
            tracing::info!(shard = %stream.id(), %region_epoch, "following a region epoch");
            Ok(())
        }
        // Somebody else was faster, or it is not as it was when it was looked at: the run tells.
        Err(rejection) => Err(of_rejection(
            stream.id(),
            &rejection,
            stream.stand().progress.sequence,
        )),
    }
}

/// For commands that take no room to speak of, or make some. Raft takes a refused append for a broken disk, so the journal is
/// asked before.
pub(super) async fn wait_for_room(group: &Group, bytes: usize) -> Result<(), SinkError> {
    wait_until(|| group.admit(bytes, 1)).await
}

/// For content, which takes room as the records of producers do, and must leave what they leave: this region's own commands
/// make room, and its bucket with them. The controller's content is little, and deletes topics.
pub(super) async fn wait_for_content_room(
    inner: &Inner,
    shard: ShardId,
    group: &Group,
    bytes: usize,
) -> Result<(), SinkError> {
    if shard == ShardId::CONTROLLER {
        return wait_for_room(group, bytes).await;
    }
    let room = inner.mirror().map(|mirror| &mirror.room);
    let admit = || {
        let admitted = room::admit_records(group, &inner.pacing.view(), bytes);
        match (&admitted, room) {
            (Ok(()), Some(room)) => room.has(shard),
            (Err(reason @ JournalError::Full { .. }), Some(room)) => room.lacks(shard, reason),
            _ => {}
        }
        admitted
    };
    wait_until(admit).await
}

async fn wait_until(admit: impl Fn() -> Result<(), JournalError>) -> Result<(), SinkError> {
    let deadline = Instant::now() + ROOM_TIMEOUT;
    loop {
        match admit() {
            Ok(()) => return Ok(()),
            Err(JournalError::Busy { .. } | JournalError::Full { .. }) if Instant::now() < deadline => {
                tokio::time::sleep(ROOM_STEP).await;
            }
            Err(refusal) => return Err(unavailable(&refusal)),
        }
    }
}

fn unavailable(reason: &dyn std::fmt::Display) -> SinkError {
    SinkError::Unavailable {
        reason: reason.to_string(),
    }
}

fn of_control(error: &ControlError) -> SinkError {
    match error {
        ControlError::NotLeader { .. } => SinkError::NotLeader,
        other => unavailable(other),
    }
}

/// `sequence`: where the log stands now.
fn of_rejection(shard: ShardId, rejection: &Rejection, sequence: u64) -> SinkError {
    match rejection {
        Rejection::Run(MirrorRejected::Gap { sequence, .. }) => SinkError::OutOfStep { sequence: *sequence },
        Rejection::Run(MirrorRejected::DigestDiffers { at, .. }) => {
            tracing::error!(%shard, %rejection, "this copy is not what its source has");
            SinkError::Diverged { at: *at }
        }
        Rejection::Run(MirrorRejected::Malformed { sequence, .. }) => {
            tracing::error!(%shard, %rejection, "this copy is not what its source has");
            SinkError::Diverged { at: *sequence }
        }
        Rejection::Run(MirrorRejected::NotMirror { .. }) => SinkError::NotLeader,
        Rejection::Run(MirrorRejected::OldEpoch { .. } | MirrorRejected::NewEpoch { .. })
        | Rejection::Begin(_) => SinkError::OutOfStep { sequence },
        Rejection::Fence(_) | Rejection::Stage(_) | Rejection::Fill(_) | Rejection::Install(_) => {
            unavailable(rejection)
        }
    }
}
