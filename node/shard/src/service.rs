//! What this node answers to the others of its region.

use std::sync::Arc;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::{BoxFuture, ready};
use meridian_controller::{Command, NodeRegistration, Outcome};
use meridian_peer::{PeerIdentity, Refusal, Service};
use meridian_raft::Leadership;
use meridian_types::ShardId;

use crate::driver;
use crate::enter::registration;
use crate::errors::ControlError;
use crate::forward;
use crate::message::{
    Introduced, JoinAnswer, JoinInfo, LeaderSays, MessageError, ReplicaAnswer, ReplicaQuestion, ReplicaState,
    kind,
};
use crate::mirror::nodes::{self, Acknowledged};
use crate::region::Inner;

/// Raft's part of the kinds.
const RAFT_KINDS: std::ops::RangeInclusive<u16> = 0x0100..=0x01ff;

/// Serves calls and notices of other nodes.
pub(crate) struct RegionService(pub(crate) Arc<Inner>);

type Answer = Result<Vec<Bytes>, Refusal>;

impl Service for RegionService {
    fn call(
        &self,
        from: &PeerIdentity,
        kind: u16,
        shard: ShardId,
        body: Bytes,
    ) -> BoxFuture<'static, Answer> {
        let inner = Arc::clone(&self.0);
        if RAFT_KINDS.contains(&kind) {
            return match inner.pacing.group(shard) {
                Some(group) => group.call(kind, body),
                None => refuse(format!("shard {shard} does not run on this node")),
            };
        }
        match kind {
            kind::JOIN_INFO => match JoinInfo::decode(&body) {
                Ok(_) => ready(Ok(vec![inner.join_info().encode()])).boxed(),
                Err(error) => refuse(malformed(error)),
            },
            kind::JOIN => match JoinInfo::decode(&body) {
                Ok(info) => {
                    let from = from.clone();
                    async move { Ok(vec![join(&inner, &from, &info).await.encode()]) }.boxed()
                }
                Err(error) => refuse(malformed(error)),
            },
            kind::CONTROL => control(inner, body),
            kind::REPLICA => match ReplicaQuestion::decode(&body) {
                Ok(question) => ready(Ok(vec![replica(&inner, from, shard, question).encode()])).boxed(),
                Err(error) => refuse(malformed(error)),
            },
            kind::LED => ready(Ok(vec![inner.led().encode()])).boxed(),
            kind::BUCKET => async move { Ok(vec![crate::same_bucket::own(&inner).await.encode()]) }.boxed(),
            kind::MIRROR => match Acknowledged::decode(&body) {
                Ok(acknowledged) => ready(Ok(vec![nodes::answer(&inner, acknowledged).encode()])).boxed(),
                Err(error) => refuse(malformed(error)),
            },
            kind => refuse(format!(
                "messages of kind {kind:#06x} are not known to this version of Meridian"
            )),
        }
    }

    fn notice(&self, from: &PeerIdentity, kind: u16, shard: ShardId, body: Bytes) {
        match kind {
            kind::BEAT => self.0.pacing.handle_beat(from, &body),
            kind::NUDGE => driver::nudged(&self.0, shard),
            // A newer node may tell more than this one understands.
            kind => tracing::debug!(from = %from.node, kind, "a notice of unknown kind"),
        }
    }
}

fn refuse(reason: String) -> BoxFuture<'static, Answer> {
    ready(Err(Refusal::new(reason))).boxed()
}

fn malformed(error: MessageError) -> String {
    error.to_string()
}

fn control(inner: Arc<Inner>, body: Bytes) -> BoxFuture<'static, Answer> {
    let command = match Command::decode(&[body]) {
        Ok(command) => command,
        Err(error) => return refuse(error.to_string()),
    };
    async move {
        let answer = forward::answer(inner.control_here(&command).await).map_err(Refusal::new)?;
        Ok(vec![answer.encode()])
    }
    .boxed()
}

/// Registers a node that wants to join. The controller's leader then makes it a learner.
async fn join(inner: &Inner, from: &PeerIdentity, info: &JoinInfo) -> JoinAnswer {
    let elsewhere = |leader| JoinAnswer::Elsewhere { leader };
    match *inner.control_group.leadership().borrow() {
        Leadership::Leading { .. } => {}
        Leadership::Following { leader, .. } => return elsewhere(inner.address_of(leader)),
        Leadership::Unknown => return elsewhere(None),
    }
    let present = {
        let controller = inner.control.controller();
        let present = controller.node(from.node);
        present.map(|node| node.registration.incarnation)
    };
    if present != Some(from.incarnation) {
        // Whoever had this id votes until the group has let him go; an empty node must not vote in his place.
        if inner.control_group.members().borrow().voters.contains(&from.node) && present.is_none() {
            return elsewhere(None);
        }
        let node = NodeRegistration {
            kafka: None,
            ..registration(from.node, from.incarnation, info)
        };
        let command = Command::RegisterNode {
            node,
            now: (inner.clock)(),
        };
        match inner.control(&command).await {
            Ok(Outcome::NodeRegistered(Ok(_))) => {}
            Ok(Outcome::NodeRegistered(Err(refused))) => {
                return JoinAnswer::Refused {
                    reason: refused.to_string(),
                };
            }
            // Not founded yet, not the leader any more, or nobody knows.
            Ok(_) | Err(ControlError::NotLeader { .. } | ControlError::Unknown { .. }) => {
                return elsewhere(None);
            }
            Err(error) => {
                return JoinAnswer::Refused {
                    reason: error.to_string(),
                };
            }
        }
    }
    let mut nodes: Vec<_> = inner
        .nodes()
        .into_iter()
        .filter_map(|(node, known)| {
            Some(Introduced {
                node,
                incarnation: known.incarnation?,
                address: known.address,
            })
        })
        .collect();
    nodes.push(Introduced {
        node: inner.node(),
        incarnation: inner.settings.peer.incarnation,
        address: inner.address(),
    });
    JoinAnswer::Welcome { nodes }
}

/// How the replica here stands; from the leader also who is a member.
fn replica(inner: &Inner, from: &PeerIdentity, shard: ShardId, question: ReplicaQuestion) -> ReplicaAnswer {
    let members = inner.led_group(shard).and_then(|group| {
        if question.mine == ReplicaState::Damaged {
            inner.note_damaged(shard, from.node);
        }
        let members = group.members().borrow().clone();
        // A membership that is not committed may yet be taken back.
        let at = members
            .position
            .filter(|at| at.index <= group.applied().borrow().index)?;
        Some(LeaderSays {
            at,
            members: members.all().collect(),
        })
    });
    ReplicaAnswer {
        theirs: inner.replica_state(shard),
        members,
    }
}
