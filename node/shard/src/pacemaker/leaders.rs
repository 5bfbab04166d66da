//! Who leads each shard of the region.

use std::collections::BTreeMap;

use meridian_types::{NodeId, ShardId, Term};

use super::beat::{Beat, ShardRole};

/// A node that claims to lead a shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Leader {
    /// The node.
    pub(crate) node: NodeId,
    /// Under this term.
    pub(crate) term: Term,
}

/// What live nodes claim to lead, this one left out: for each shard the claim of the highest term.
#[derive(Debug, Default)]
pub(super) struct Leaders {
    claims: BTreeMap<ShardId, Leader>,
    /// The highest term of a leader that was ever heard of. A claim below it is of the past, also when
    /// the later leader is dead by now.
    terms: BTreeMap<ShardId, Term>,
}

impl Leaders {
    /// Takes the claims of the live nodes' last beats, in place of all earlier ones.
    pub(super) fn rebuild<'a>(&mut self, beats: impl Iterator<Item = &'a Beat>) {
        self.claims.clear();
        for beat in beats {
            for hosted in &beat.shards {
                // Followers, too, tell of a later leader.
                if hosted.role != ShardRole::Seeks {
                    self.note_term(hosted.shard, hosted.term);
                }
                if hosted.role == ShardRole::Leads {
                    let claim = Leader {
                        node: beat.node,
                        term: hosted.term,
                    };
                    let best = self.claims.entry(hosted.shard).or_insert(claim);
                    if claim.term > best.term {
                        *best = claim;
                    }
                }
            }
        }
    }

    /// Somebody has followed, or been, a leader of `term`.
    pub(super) fn note_term(&mut self, shard: ShardId, term: Term) {
        let highest = self.terms.entry(shard).or_default();
        *highest = term.max(*highest);
    }

    /// The highest term of a leader that was ever heard of.
    pub(super) fn term(&self, shard: ShardId) -> Term {
        self.terms.get(&shard).copied().unwrap_or_default()
    }

    /// The live node that claims the shard under the highest term.
    pub(super) fn claim(&self, shard: ShardId) -> Option<Leader> {
        let claim = self.claims.get(&shard).copied();
        claim.filter(|claim| claim.term == self.term(shard))
    }

    /// All shards that a live node claims.
    pub(super) fn claims(&self) -> impl Iterator<Item = (ShardId, Leader)> {
        self.claims
            .keys()
            .filter_map(|shard| Some((*shard, self.claim(*shard)?)))
    }
}

#[cfg(test)]
mod tests {
    use meridian_types::{RaftIndex, Uuid};

    use super::*;
    use crate::pacemaker::{HostedShard, NodePhase};

    const SHARD: ShardId = ShardId(0);

    fn beat(node: u32, role: ShardRole, term: u64) -> Beat {
        let hosted = HostedShard {
            shard: SHARD,
            role,
            leader_seen: true,
            term: Term(term),
            applied: RaftIndex(0),
        };
        Beat {
            node: NodeId(node),
            incarnation: Uuid::from_u128(1),
            start_id: 1,
            sequence: 1,
            phase: NodePhase::Running,
            address: String::new(),
            shards: vec![hosted],
        }
    }

    #[test]
    fn the_claim_of_the_highest_term_counts() {
        let mut leaders = Leaders::default();
        let (old, new) = (beat(1, ShardRole::Leads, 5), beat(2, ShardRole::Leads, 6));
        leaders.rebuild([&new, &old].into_iter());
        assert_eq!(leaders.claim(SHARD).map(|leader| leader.node), Some(NodeId(2)));
        assert_eq!(leaders.claims().count(), 1);
    }

    #[test]
    fn a_claim_is_not_believed_again_once_a_later_leader_was_heard_of() {
        let mut leaders = Leaders::default();
        let old = beat(1, ShardRole::Leads, 5);
        for later in [beat(2, ShardRole::Leads, 6), beat(3, ShardRole::Follows, 7)] {
            leaders.rebuild([&old, &later].into_iter());
            leaders.rebuild([&old].into_iter());
            assert_eq!(leaders.claim(SHARD), None, "the later leader is dead, and was");
            assert_eq!(leaders.claims().count(), 0);
        }
        assert_eq!(leaders.term(SHARD), Term(7));
    }
}
