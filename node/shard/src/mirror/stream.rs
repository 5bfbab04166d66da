//! A log whose content is mirrored: of a data shard, or of the controller.

use bytes::Bytes;
use meridian_controller::Command as ControlCommand;
use meridian_lineage::{
    BeginEpoch, BeginRejected, ContentCommand, ContentDigest, ContentReader, ContentRun, FenceRejected,
    InstallRejected, Lineage, MirrorRejected, Progress, SequencePoint, StagePart, StageRejected,
};
use meridian_raft::{Group, Leadership, Pending};
use meridian_state::{Command, FillRejected, Outcome};
use meridian_types::{RaftIndex, RegionEpoch, ShardId, Term};

use crate::errors::ControlError;
use crate::region::Inner;

/// One log, as this node has it.
#[derive(Clone, Copy)]
pub(crate) struct Stream<'a> {
    inner: &'a Inner,
    id: ShardId,
}

/// How a log stands, of one moment.
#[derive(Clone, Debug)]
pub(crate) struct Stand {
    pub(crate) progress: Progress,
    /// Whether content is counted: an epoch has begun.
    pub(crate) is_counted: bool,
    pub(crate) lineage: Lineage,
    pub(crate) diverged_at: Option<u64>,
    /// The last applied command.
    pub(crate) applied: RaftIndex,
}

/// What became of a proposal that carries content or changes an epoch.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Rejection {
    #[error(transparent)]
    Run(#[from] MirrorRejected),
    #[error(transparent)]
    Begin(#[from] BeginRejected),
    #[error(transparent)]
    Fence(#[from] FenceRejected),
    #[error(transparent)]
    Stage(#[from] StageRejected),
    #[error(transparent)]
    Fill(#[from] FillRejected),
    #[error(transparent)]
    Install(#[from] InstallRejected),
}

impl<'a> Stream<'a> {
    /// `None` for a shard that the region does not have, or that no other one has.
    pub(crate) fn new(inner: &'a Inner, id: ShardId) -> Option<Self> {
        let exists = id == ShardId::CONTROLLER || id.0 < inner.shard_map().shared_count();
        exists.then_some(Self { inner, id })
    }

    /// The controller's, then every data shard's.
    pub(crate) fn all(inner: &'a Inner) -> impl Iterator<Item = Self> {
        let data = inner.shared_shards().iter().map(|shard| shard.id());
        std::iter::once(ShardId::CONTROLLER)
            .chain(data)
            .map(move |id| Self { inner, id })
    }

    /// Content commands from elsewhere, before they are proposed: digests cover a batch's checksum, and this the batch.
    pub(crate) fn verify(&self, commands: &[Bytes]) -> Result<(), String> {
        if self.is_controller() {
            return Ok(());
        }
        let faults = commands.iter().map(meridian_state::verify_content);
        faults
            .collect::<Result<(), _>>()
            .map_err(|fault| fault.to_string())
    }

    pub(crate) fn id(&self) -> ShardId {
        self.id
    }

    pub(crate) fn is_controller(&self) -> bool {
        self.id == ShardId::CONTROLLER
    }

    /// The group, where this node has a replica.
    pub(crate) fn group(&self) -> Option<Group> {
        match self.is_controller() {
            true => Some(self.inner.control_group.clone()),
            false => self.inner.shard(self.id).group(),
        }
    }

    /// The group and the term, where this node leads and may speak for the log.
    pub(crate) fn led(&self) -> Option<(Group, Term)> {
        let group = self.inner.led_group(self.id)?;
        let leadership = *group.leadership().borrow();
        match leadership {
            Leadership::Leading { term } => Some((group, term)),
            _ => None,
        }
    }

    pub(crate) fn stand(&self) -> Stand {
        let (standing, applied) = match self.is_controller() {
            true => {
                let controller = self.inner.control.controller();
                return Stand::of(controller.standing(), controller.applied().index);
            }
            false => {
                let state = self.inner.shard(self.id).applied_state();
                (state.standing().clone(), state.applied().index)
            }
        };
        Stand::of(&standing, applied)
    }

    /// Where in the log to begin for content from `sequence` on, if the log still reaches back to it.
    pub(crate) fn point(&self, sequence: u64) -> Option<SequencePoint> {
        match self.is_controller() {
            true => self
                .inner
                .control
                .controller()
                .standing()
                .index()
                .at_or_before(sequence)
                .copied(),
            false => {
                let state = self.inner.shard(self.id).applied_state();
                state.standing().index().at_or_before(sequence).copied()
            }
        }
    }

    /// The first sequence that the log can give.
    pub(crate) fn oldest_sequence(&self) -> Option<u64> {
        let first = self.inner.journal.first_held(self.id)?;
        let sequence = |point: &SequencePoint| point.progress.sequence;
        match self.is_controller() {
            true => self
                .inner
                .control
                .controller()
                .standing()
                .index()
                .oldest_from(first)
                .map(sequence),
            false => {
                let state = self.inner.shard(self.id).applied_state();
                state.standing().index().oldest_from(first).map(sequence)
            }
        }
    }

    /// What an entry of the log holds of content.
    pub(crate) fn read(
        &self,
        reader: &mut ContentReader,
        entry: &Bytes,
    ) -> Result<Option<ContentRun>, String> {
        match self.is_controller() {
            true => reader
                .read::<ControlCommand>(entry)
                .map_err(|error| error.to_string()),
            false => reader.read::<Command>(entry).map_err(|error| error.to_string()),
        }
    }

    /// The digest with a content command behind it.
    pub(crate) fn fold(&self, digest: ContentDigest, command: &Bytes) -> Result<ContentDigest, String> {
        fn with<C: ContentCommand>(digest: ContentDigest, command: &Bytes) -> Result<ContentDigest, String> {
            let command = C::read(command).map_err(|error| error.to_string())?;
            Ok(command.fold(digest))
        }
        match self.is_controller() {
            true => with::<ControlCommand>(digest, command),
            false => with::<Command>(digest, command),
        }
    }

    /// The command that carries a run.
    pub(crate) fn encode_run(&self, run: ContentRun) -> Vec<Bytes> {
        match self.is_controller() {
            true => ControlCommand::Mirrored(run).encode(),
            false => Command::Mirrored(run).encode(),
        }
    }

    /// Of a data shard: the command that begins an epoch. The controller's epochs are begun by its content.
    pub(crate) fn encode_begin(begin: BeginEpoch) -> Vec<Bytes> {
        Command::BeginEpoch(begin).encode()
    }

    /// Of a data shard: the command that stops its owner.
    pub(crate) fn encode_fence(region_epoch: RegionEpoch) -> Vec<Bytes> {
        Command::Fence { region_epoch }.encode()
    }

    /// The checkpoint of the owner that is whole in the log and not installed yet.
    pub(crate) fn staged(&self) -> Option<(u64, Vec<u8>)> {
        match self.is_controller() {
            true => {
                let controller = self.inner.control.controller();
                controller.staged().map(|(name, body)| (name, body.to_vec()))
            }
            false => {
                let state = self.inner.shard(self.id).applied_state();
                state.staged().map(|(name, body)| (name, body.to_vec()))
            }
        }
    }

    /// The command that brings a part of a checkpoint.
    pub(crate) fn encode_stage(&self, part: StagePart) -> Vec<Bytes> {
        match self.is_controller() {
            true => ControlCommand::Stage(part).encode(),
            false => Command::Stage(part).encode(),
        }
    }

    /// Of the controller: the command that installs a checkpoint.
    pub(crate) fn encode_control_install(checkpoint: u64) -> Vec<Bytes> {
        ControlCommand::Install { checkpoint }.encode()
    }

    /// Waits for one of the commands above.
    pub(crate) async fn outcome(&self, pending: Pending) -> Result<Result<(), Rejection>, ControlError> {
        let (at, reply) = pending.await?;
        let unknown = |what: String| ControlError::Unknown {
            reason: format!("answered by {what}"),
        };
        if self.is_controller() {
            use meridian_controller::Outcome;
            return match self.inner.control.outcome(at) {
                Some(Outcome::Mirrored(result)) => Ok(result.map(|_| ()).map_err(Rejection::from)),
                Some(Outcome::Staged(result)) => Ok(result.map_err(Rejection::from)),
                Some(Outcome::Installed(result)) => Ok(result.map(|_| ()).map_err(Rejection::from)),
                other => Err(unknown(format!("{other:?}"))),
            };
        }
        match reply.into::<Outcome>() {
            Some(Outcome::Mirrored(result)) => Ok(result.map(|_| ()).map_err(Rejection::from)),
            Some(Outcome::Begun(result)) => Ok(result.map_err(Rejection::from)),
            Some(Outcome::Fenced(result)) => Ok(result.map_err(Rejection::from)),
            Some(Outcome::Staged(result)) => Ok(result.map_err(Rejection::from)),
            Some(Outcome::Filled(result)) => Ok(result.map_err(Rejection::from)),
            Some(Outcome::Installed(result)) => Ok(result.map(|_| ()).map_err(Rejection::from)),
            other => Err(unknown(format!("{other:?}"))),
        }
    }
}

impl Stand {
    fn of(standing: &meridian_lineage::Standing, applied: RaftIndex) -> Self {
        Self {
            progress: *standing.progress(),
            is_counted: standing.is_counted(),
            lineage: standing.lineage().clone(),
            diverged_at: standing.diverged_at(),
            applied,
        }
    }
}
