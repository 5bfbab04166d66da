//! Commands to the controller, from any node.
//!
//! The controller's leader proposes the command and answers with its place in the log. The outcome is read
//! here, once this node's own replica has applied that entry: replicas come to the same outcome, and whoever
//! proposed something sees its effect from then on.

use std::time::Duration;

use meridian_controller::plan;
use meridian_controller::{Command, Outcome};
use meridian_peer::{CallError, Lane};
use meridian_raft::Leadership;
use meridian_types::{LogPosition, NodeId, ShardId};
use tokio::time::Instant;

use crate::errors::ControlError;
use crate::message::{ControlAnswer, kind};
use crate::propose;
use crate::region::Inner;

/// How long a leader is looked for.
const LEADER_TIMEOUT: Duration = Duration::from_secs(10);

/// Pause before it is looked for again.
const LEADER_STEP: Duration = Duration::from_millis(20);

/// How long this node's own replica may be behind the leader's answer.
const APPLY_TIMEOUT: Duration = Duration::from_secs(10);

impl Inner {
    /// Proposes to the controller's group, wherever it is led, and waits until it is applied here.
    pub(crate) async fn control(&self, command: &Command) -> Result<Outcome, ControlError> {
        let started = Instant::now();
        let mut hint = None;
        let at = loop {
            let error = match self.control_once(command, hint.take()).await {
                Ok(at) => break at,
                Err(ControlError::NotLeader { leader }) => {
                    hint = leader;
                    ControlError::NotLeader { leader }
                }
                Err(error) => return Err(error),
            };
            if started.elapsed() >= LEADER_TIMEOUT || self.stop.is_cancelled() {
                return Err(error);
            }
            tokio::time::sleep(LEADER_STEP).await;
        };
        self.control_outcome(at).await
    }

    /// One attempt. `NotLeader` is certain.
    async fn control_once(
        &self,
        command: &Command,
        hint: Option<NodeId>,
    ) -> Result<LogPosition, ControlError> {
        let leadership = *self.control_group.leadership().borrow();
        let leader = match leadership {
            Leadership::Leading { .. } => return self.control_here(command).await,
            Leadership::Following { leader, .. } => hint.unwrap_or(leader),
            Leadership::Unknown => hint.ok_or(ControlError::NotLeader { leader: None })?,
        };
        if leader == self.node() {
            return Err(ControlError::NotLeader { leader: None });
        }
        let body = command.encode();
        let call = self
            .peers
            .call(leader, Lane::Bulk, kind::CONTROL, ShardId::CONTROLLER, body);
        let answer = match call.with_timeout(LEADER_TIMEOUT).await {
            Ok(answer) => answer,
            Err(CallError::Refused(reason)) => return Err(ControlError::Refused { reason }),
            Err(error) if error.is_unsent() => return Err(ControlError::NotLeader { leader: None }),
            Err(error) => {
                return Err(ControlError::Unknown {
                    reason: format!("node {leader}: {error}"),
                });
            }
        };
        match ControlAnswer::decode(&answer) {
            Ok(ControlAnswer::Committed { at }) => Ok(at),
            Ok(ControlAnswer::NotLeader { leader }) => Err(ControlError::NotLeader { leader }),
            Ok(ControlAnswer::Unknown { reason }) => Err(ControlError::Unknown { reason }),
            Err(error) => Err(ControlError::Unknown {
                reason: format!("node {leader}: {error}"),
            }),
        }
    }

    /// Proposes as the leader.
    pub(crate) async fn control_here(&self, command: &Command) -> Result<LogPosition, ControlError> {
        let leadership = *self.control_group.leadership().borrow();
        let term = match leadership {
            Leadership::Leading { term } => term,
            Leadership::Following { leader, .. } => {
                return Err(ControlError::NotLeader { leader: Some(leader) });
            }
            Leadership::Unknown => return Err(ControlError::NotLeader { leader: None }),
        };
        if let Command::RemoveNode { node, force } = command {
            // Whether it still votes, or lives, is not among the facts that every node applies.
            let sight = self.sight().await;
            let removable = plan::check_remove(&self.control.controller(), &sight, *node, *force);
            removable.map_err(|error| ControlError::Refused {
                reason: error.to_string(),
            })?;
        }
        self.pacing.note_activity(ShardId::CONTROLLER);
        let (at, ()) = propose::propose(&self.control_group, term, command.encode()).await?;
        Ok(at)
    }

    /// Waits until the entry at `at` is applied here, and says what it did.
    async fn control_outcome(&self, at: LogPosition) -> Result<Outcome, ControlError> {
        let mut applied = self.control_group.applied();
        let reached = applied.wait_for(|applied| applied.index >= at.index);
        let unknown = |reason: &str| ControlError::Unknown {
            reason: reason.to_owned(),
        };
        tokio::time::timeout(APPLY_TIMEOUT, reached)
            .await
            .map_err(|_| unknown("done, but this node has not heard of it yet"))?
            .map_err(|_| unknown("done, but the controller's group has stopped on this node"))?;
        self.control
            .outcome(at)
            .ok_or_else(|| unknown("done, but this node took it from a checkpoint"))
    }
}

/// What the leader answers to the node that forwarded a command.
pub(crate) fn answer(result: Result<LogPosition, ControlError>) -> Result<ControlAnswer, String> {
    match result {
        Ok(at) => Ok(ControlAnswer::Committed { at }),
        Err(ControlError::NotLeader { leader }) => Ok(ControlAnswer::NotLeader { leader }),
        Err(ControlError::Refused { reason }) => Err(reason),
        Err(ControlError::Unknown { reason } | ControlError::Storage { reason }) => {
            Ok(ControlAnswer::Unknown { reason })
        }
    }
}
