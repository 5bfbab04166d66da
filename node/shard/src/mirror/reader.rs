//! Reads a log's content forward, for another region: from a place in the sequence to the end, and along with it.

use std::collections::VecDeque;
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use meridian_geo_mirror::{Cursor, Entries, Reader, Refusal};
use meridian_journal::Payload;
use meridian_lineage::{ContentDigest, ContentReader, ContentRun, Lineage, Relation, Role};
use meridian_raft::{Group, Leadership, Logged, ReadLogError, read_log};
use meridian_types::{LogPosition, NodeId, RaftIndex, RegionEpoch, ShardId, Term};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::stream::{Stand, Stream};
use crate::region::Inner;

/// Bytes of one read of the log.
const READ_BYTES: usize = 2 << 20;

/// How often it is tried to find the log between two commands.
const STANDS_MAX: usize = 16;

/// Commands in one frame at most, however small they are.
const COMMANDS_MAX: usize = 4096;

/// A refusal ends what is under way on a link, so the last content of an epoch gets so much time to arrive: it may be the
/// decision that the follower owns from then on.
const LAST_WORD_TIME: Duration = Duration::from_secs(2);

/// Follows one log under one leadership of this node.
pub(super) struct LogReader {
    /// A reader that is kept must not keep the region.
    inner: Weak<Inner>,
    id: ShardId,
    term: Term,
    applied: watch::Receiver<LogPosition>,
    leadership: watch::Receiver<Leadership>,
    stop: CancellationToken,
    content: ContentReader,
    /// The next entry of the log.
    next: RaftIndex,
    ready: VecDeque<ContentRun>,
    /// The last epoch that the follower knows: one that has begun since is told before its first content comes.
    told_epoch: Option<RegionEpoch>,
    /// The digest before the first of `ready`.
    digest: ContentDigest,
    /// When everything had been given that is this region's to give.
    given_since: Option<Instant>,
}

impl LogReader {
    /// Behind `cursor`. What lies before it in the log is read too, to prove that it is the same.
    pub(super) async fn open(inner: &Arc<Inner>, id: ShardId, cursor: Cursor) -> Result<Self, Refusal> {
        let stream = Stream::new(inner, id).ok_or(Refusal::NotHosted)?;
        let (group, term) = leads(inner, &stream)?;
        let (stand, applied) = stand_at(&group, &stream);
        may_serve(&stand, cursor.sequence)?;
        compare(&stand, &cursor)?;
        let own = inner.number();
        let (content, next) = if cursor.sequence == stand.progress.sequence {
            if cursor.digest != stand.progress.digest.0 {
                return Err(Refusal::DigestDiffers { at: cursor.sequence });
            }
            (ContentReader::new(stand.progress, own), applied.next())
        } else {
            let purged = || Refusal::Purged {
                oldest: stream.oldest_sequence().unwrap_or(stand.progress.sequence),
            };
            let point = stream.point(cursor.sequence).ok_or_else(purged)?;
            if inner
                .journal
                .first_held(id)
                .is_none_or(|first| point.index < first)
            {
                return Err(purged());
            }
            (ContentReader::new(point.progress, own), point.index)
        };
        let mut reader = Self {
            inner: Arc::downgrade(inner),
            id,
            term,
            applied: group.applied(),
            leadership: group.leadership(),
            stop: inner.stop.clone(),
            digest: content.progress().digest,
            content,
            next,
            ready: VecDeque::new(),
            told_epoch: cursor.lineage.last().map(|(epoch, _)| *epoch),
            given_since: None,
        };
        reader.skip_to(inner, &cursor).await?;
        if reader.ready.is_empty() {
            reader.announce();
        }
        Ok(reader)
    }

    /// Reads on until the cursor, and compares the digests there.
    async fn skip_to(&mut self, inner: &Arc<Inner>, cursor: &Cursor) -> Result<(), Refusal> {
        let stream = Stream::new(inner, self.id).ok_or(Refusal::NotHosted)?;
        while self.content.progress().sequence < cursor.sequence {
            let end = self.applied.borrow().index.next();
            if self.next >= end {
                return Err(unknown(
                    "the log ends before what its state has counted".to_owned(),
                ));
            }
            self.read(inner, end).await?;
            while let Some(run) = self.ready.front() {
                if run.commands.is_empty() {
                    // What is told of an epoch is told below, with what the follower lacks.
                    self.ready.pop_front();
                    continue;
                }
                let known = cursor.sequence.saturating_sub(run.first_sequence);
                let known = usize::try_from(known)
                    .unwrap_or(usize::MAX)
                    .min(run.commands.len());
                if known == 0 {
                    break;
                }
                self.take(&stream, known)?;
            }
        }
        match self.digest.0 == cursor.digest {
            true => Ok(()),
            false => Err(Refusal::DigestDiffers { at: cursor.sequence }),
        }
    }

    /// Says which epoch has begun here, unless the follower knows: a shard may be idle for long. The controller's epochs begin
    /// with content.
    fn announce(&mut self) {
        let progress = *self.content.progress();
        let is_owned = progress.role != Role::Mirror && self.id != ShardId::CONTROLLER;
        if is_owned && self.told_epoch < Some(progress.region_epoch) {
            self.ready.push_back(ContentRun {
                region_epoch: progress.region_epoch,
                first_sequence: progress.sequence,
                commands: Vec::new(),
                digest: progress.digest,
            });
        }
    }

    /// Takes the first `count` commands of the first run, which has as many.
    fn take(&mut self, stream: &Stream<'_>, count: usize) -> Result<Option<Entries>, Refusal> {
        let Some(mut run) = self.ready.pop_front() else {
            return Ok(None);
        };
        let mut digest = run.digest;
        let rest = run.commands.split_off(count.min(run.commands.len()));
        if !rest.is_empty() {
            digest = self.digest;
            for command in &run.commands {
                digest = stream.fold(digest, command).map_err(unknown)?;
            }
            self.ready.push_front(ContentRun {
                region_epoch: run.region_epoch,
                first_sequence: run.first_sequence + run.commands.len() as u64,
                commands: rest,
                digest: run.digest,
            });
        }
        self.digest = digest;
        Ok(Some(Entries {
            region_epoch: run.region_epoch,
            first_sequence: run.first_sequence,
            commands: run.commands,
            digest: digest.0,
        }))
    }

    /// As much of what is ready as fits one frame: commands of one epoch.
    fn frame(&mut self, stream: &Stream<'_>, bytes_max: usize) -> Result<Option<Entries>, Refusal> {
        let mut frame: Option<Entries> = None;
        let mut bytes = 0;
        while let Some(run) = self.ready.front() {
            if frame
                .as_ref()
                .is_some_and(|frame| frame.region_epoch != run.region_epoch)
            {
                break;
            }
            self.told_epoch = self.told_epoch.max(Some(run.region_epoch));
            if run.commands.is_empty() {
                let (region_epoch, first_sequence) = (run.region_epoch, run.first_sequence);
                frame.get_or_insert(Entries {
                    region_epoch,
                    first_sequence,
                    commands: Vec::new(),
                    digest: self.digest.0,
                });
                self.ready.pop_front();
                continue;
            }
            let held = frame.as_ref().map_or(0, |frame| frame.commands.len());
            let mut count = 0;
            for command in run.commands.iter().take(COMMANDS_MAX - held.min(COMMANDS_MAX)) {
                if bytes > 0 && bytes + command.len() > bytes_max {
                    break;
                }
                bytes += command.len().max(1);
                count += 1;
            }
            let is_whole = count == run.commands.len();
            if count > 0
                && let Some(more) = self.take(stream, count)?
            {
                match &mut frame {
                    Some(frame) => {
                        frame.commands.extend(more.commands);
                        frame.digest = more.digest;
                    }
                    None => frame = Some(more),
                }
            }
            if !is_whole {
                break;
            }
        }
        Ok(frame)
    }

    /// Reads entries below `end`.
    async fn read(&mut self, inner: &Arc<Inner>, end: RaftIndex) -> Result<(), Refusal> {
        let stream = Stream::new(inner, self.id).ok_or(Refusal::NotHosted)?;
        let read = read_log(&inner.journal, self.id, self.next..end, READ_BYTES).await;
        let entries = read.map_err(|error| match error {
            ReadLogError::Missing(_) => Refusal::Purged {
                oldest: stream.oldest_sequence().unwrap_or(u64::MAX),
            },
            ReadLogError::Unreadable(reason) => unknown(reason),
        })?;
        for Logged { at, command } in entries {
            self.next = at.index.next();
            let Some(command) = command else { continue };
            let entry = Payload::to_bytes(&command);
            let run = stream.read(&mut self.content, &entry).map_err(unknown)?;
            // Of an epoch tells who owns under it: another region that heard of it from here could take itself for a mirror in
            // the epoch in which it is to own.
            let is_owned = self.content.progress().role != Role::Mirror;
            let is_told = |run: &ContentRun| is_owned && self.told_epoch < Some(run.region_epoch);
            self.ready
                .extend(run.filter(|run| !run.commands.is_empty() || is_told(run)));
        }
        Ok(())
    }

    /// What was counted from the log must be what the state has counted.
    fn check(&self, stand: &Stand) -> Result<(), Refusal> {
        let read = self.content.progress();
        let has_read_all = self.next > stand.applied;
        let counted = (stand.progress.sequence, stand.progress.digest);
        if has_read_all && (read.sequence, read.digest) != counted {
            let reason = format!(
                "the log counts {} content commands with digest {:016x}, its state {} with {:016x}",
                read.sequence, read.digest.0, counted.0, counted.1.0
            );
            tracing::error!(shard = %self.id, reason, "a log cannot be mirrored: a defect, or damage");
            return Err(unknown(reason));
        }
        Ok(())
    }

    async fn wait(&mut self, bytes_max: usize) -> Result<Entries, Refusal> {
        loop {
            let (end, refuse_at) = {
                let inner = self.inner.upgrade().ok_or(Refusal::NotHosted)?;
                let stream = Stream::new(&inner, self.id).ok_or(Refusal::NotHosted)?;
                if *self.leadership.borrow_and_update() != (Leadership::Leading { term: self.term }) {
                    return Err(leads(&inner, &stream)
                        .err()
                        .unwrap_or(Refusal::NotLeader { leader: None }));
                }
                if let Some(frame) = self.frame(&stream, bytes_max)? {
                    return Ok(frame);
                }
                let end = self.applied.borrow_and_update().index.next();
                if self.next < end {
                    self.read(&inner, end).await?;
                    continue;
                }
                let stand = stream.stand();
                self.check(&stand)?;
                // Only now: what was decided before the epoch turned is still given.
                let refuse_at = match may_serve(&stand, self.content.progress().sequence) {
                    Ok(()) => None,
                    Err(refusal) => {
                        let since = *self.given_since.get_or_insert_with(Instant::now);
                        if since.elapsed() >= LAST_WORD_TIME {
                            return Err(refusal);
                        }
                        Some(since + LAST_WORD_TIME)
                    }
                };
                (end, refuse_at)
            };
            let applied = self
                .applied
                .wait_for(|applied| applied.index >= end)
                .map(|reached| reached.is_ok());
            tokio::select! {
                is_there = applied => if !is_there {
                    return Err(Refusal::NotHosted);
                },
                changed = self.leadership.changed() => if changed.is_err() {
                    return Err(Refusal::NotHosted);
                },
                () = tokio::time::sleep_until(refuse_at.unwrap_or_else(Instant::now)), if refuse_at.is_some() => {}
                () = self.stop.cancelled() => return Err(Refusal::NotHosted),
            }
        }
    }
}

impl Reader for LogReader {
    fn next(&mut self, bytes_max: usize) -> BoxFuture<'_, Result<Entries, Refusal>> {
        self.wait(bytes_max).boxed()
    }
}

/// How a log stands, and up to which entry that is so: behind its last command there may be entries without one, which the
/// log may have given up.
fn stand_at(group: &Group, stream: &Stream<'_>) -> (Stand, RaftIndex) {
    let applied = group.applied();
    for _ in 0..STANDS_MAX {
        let before = applied.borrow().index;
        let stand = stream.stand();
        if applied.borrow().index == before && stand.applied <= before {
            return (stand, before);
        }
    }
    let stand = stream.stand();
    let applied = stand.applied;
    (stand, applied)
}

/// The group that this node leads, or who does.
pub(super) fn leads(inner: &Inner, stream: &Stream<'_>) -> Result<(Group, Term), Refusal> {
    if let Some(led) = stream.led() {
        return Ok(led);
    }
    let here = inner.node();
    let leader: Option<NodeId> = inner
        .pacing
        .view()
        .leaders
        .get(&stream.id())
        .map(|leader| leader.node);
    match (stream.group(), leader) {
        (None, None) => Err(Refusal::NotHosted),
        (_, leader) => Err(Refusal::NotLeader {
            leader: leader.filter(|leader| *leader != here),
        }),
    }
}

/// Whether content from `sequence` on is this region's to give: it owns it, or it was decided before the epoch in which
/// it follows another one.
pub(super) fn may_serve(stand: &Stand, sequence: u64) -> Result<(), Refusal> {
    if !stand.is_counted {
        return Err(unknown("the log does not count its content yet".to_owned()));
    }
    if let Some(at) = stand.diverged_at {
        return Err(unknown(format!(
            "this region's own copy differs from its source at sequence {at}"
        )));
    }
    let begin = stand.lineage.spans().last().map_or(0, |(_, begin)| *begin);
    match stand.progress.role {
        Role::Owner | Role::Fenced => Ok(()),
        Role::Mirror if sequence < begin => Ok(()),
        Role::Mirror => Err(Refusal::NotOwner {
            owner: stand.progress.owner,
            region_epoch: stand.progress.region_epoch,
        }),
    }
}

/// Whether the follower's content is a part of what is here (invariant 9).
fn compare(stand: &Stand, cursor: &Cursor) -> Result<(), Refusal> {
    let malformed = || unknown("the lineage in the cursor does not rise".to_owned());
    let theirs = Lineage::from_spans(cursor.lineage.clone()).ok_or_else(malformed)?;
    let here = stand.progress.sequence;
    match theirs.relation(cursor.sequence, &stand.lineage, here) {
        Relation::Equal | Relation::Behind => Ok(()),
        Relation::Ahead => Err(Refusal::Diverged { fork: here }),
        Relation::Diverged { fork } => Err(Refusal::Diverged { fork }),
    }
}

fn unknown(reason: String) -> Refusal {
    Refusal::Unknown { reason }
}
