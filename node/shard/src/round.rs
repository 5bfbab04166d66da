//! A command in flight, and what is told to those who wait for it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use meridian_raft::Pending;
use meridian_state::{AppendGroup, Outcome, ProduceRejection, Rejected};
use meridian_types::{LeaderEpoch, Offset, Partition};
use meridian_wire::batch::BatchHeader;
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::append::AppendResult;
use crate::errors::AppendError;
use crate::machine::ShardMachine;
use crate::region::Appended;

/// How long proposals of a leadership that is over, or that lost its quorum, may stay undecided before who waits
/// is told that their fate is unknown.
pub(crate) const UNDECIDED_MAX: Duration = Duration::from_secs(5);

/// What a command's groups came to.
pub(crate) type GroupResults = Vec<Result<meridian_state::Appended, Rejected>>;

/// One proposal in flight, oldest first. Without `pending` it only waits for those before it: all
/// its batches were duplicates of something in flight.
#[derive(Default)]
pub(crate) struct Round {
    pub(crate) pending: Option<Pending>,
    pub(crate) groups: Vec<AppendGroup>,
    pub(crate) answers: Vec<Answer>,
    pub(crate) bytes: usize,
}

/// Who waits for a batch.
pub(crate) struct Answer {
    pub(crate) to: oneshot::Sender<AppendResult>,
    pub(crate) place: Place,
}

/// Where the answer of a batch comes from.
pub(crate) enum Place {
    /// From the command of its round: the group, and the offset that the batch was stamped with.
    Command { group: usize, base_offset: Offset },
    /// From the state: it was sent before.
    Before {
        partition: Partition,
        header: BatchHeader,
    },
    /// It is not appended, and its producer may begin a new epoch when it hears so. A leader that was replaced and
    /// does not know it yet would say the same of a batch that the log continues with, and the producer would send
    /// again what is in it. So it is told once the command of the round is committed: in the term in which it
    /// was judged nobody else has led.
    Nowhere(ProduceRejection),
}

impl Answer {
    /// Tells that the round's command was not appended, or that nobody knows.
    pub(crate) fn fail(self, error: &AppendError) {
        let error = match (&self.place, error) {
            // The batch itself certainly was not.
            (Place::Nowhere(_), AppendError::Unknown { .. }) => AppendError::NotLeader { leader: None },
            (_, AppendError::Unknown { .. }) if mutant!(DenyUnknown) => {
                AppendError::NotLeader { leader: None }
            }
            _ => error.clone(),
        };
        // A client that left does not wait for its answer.
        let _ = self.to.send(Err(error));
    }
}

impl Round {
    /// Whether somebody waits to be told for certain that its batch does not fit.
    pub(crate) fn must_confirm(&self) -> bool {
        self.answers
            .iter()
            .any(|answer| matches!(answer.place, Place::Nowhere(_)))
    }
}

/// Waits for the oldest round.
pub(crate) async fn front(rounds: &mut VecDeque<Round>) -> Result<GroupResults, AppendError> {
    let Some(pending) = rounds.front_mut().and_then(|round| round.pending.as_mut()) else {
        return Ok(Vec::new());
    };
    let (_, reply) = pending.await?;
    match reply.into::<Outcome>() {
        Some(Outcome::Append(results)) => Ok(results),
        other => Err(AppendError::Unknown {
            reason: format!("an append was answered by {other:?}"),
        }),
    }
}

/// Answers what is committed.
pub(crate) fn answer(round: Round, results: &GroupResults, epoch: LeaderEpoch, machine: &ShardMachine) {
    let appended = |base_offset, log_start_offset, duplicate| Appended {
        base_offset,
        log_start_offset,
        leader_epoch: epoch,
        duplicate,
    };
    for Answer { to, place } in round.answers {
        let result = match place {
            Place::Command { group, base_offset } => match &results[group] {
                Ok(group) => Ok(appended(base_offset, group.log_start, false)),
                // Ownership went while it was on its way: certainly not appended.
                Err(Rejected::NotOwner(_) | Rejected::RegionEpoch { .. }) => {
                    Err(AppendError::NotLeader { leader: None })
                }
                Err(rejected) => Err(AppendError::Unknown {
                    reason: rejected.to_string(),
                }),
            },
            Place::Before { partition, header } => {
                let state = machine.state();
                let held = state.partition(partition);
                match held.and_then(|held| held.duplicate(&header).map(|first| (held, first))) {
                    Some((held, first)) => Ok(appended(first.base_offset, held.log_start_offset(), true)),
                    None => Err(AppendError::Unknown {
                        reason: "its first copy was not appended".to_owned(),
                    }),
                }
            }
            Place::Nowhere(rejection) => Err(AppendError::Rejected(rejection)),
        };
        // A client that left does not wait for its answer.
        let _ = to.send(result);
    }
}

/// Tells everybody the same.
pub(crate) fn fail_all(rounds: impl IntoIterator<Item = Round>, error: &AppendError) {
    let answers = rounds.into_iter().flat_map(|round| round.answers);
    answers.for_each(|answer| answer.fail(error));
}

/// Answers what was in flight when the leadership ended.
pub(crate) async fn finish(mut rounds: VecDeque<Round>, epoch: LeaderEpoch, machine: Arc<ShardMachine>) {
    let deadline = Instant::now() + UNDECIDED_MAX;
    while !rounds.is_empty() {
        let outcome = tokio::time::timeout_at(deadline, front(&mut rounds)).await;
        let Some(round) = rounds.pop_front() else { return };
        match outcome {
            Ok(Ok(results)) => answer(round, &results, epoch, &machine),
            Ok(Err(error)) => fail_all([round], &error),
            Err(_) => {
                let reason = "the leadership ended before it was decided".to_owned();
                rounds.push_front(round);
                return fail_all(rounds, &AppendError::Unknown { reason });
            }
        }
    }
}
