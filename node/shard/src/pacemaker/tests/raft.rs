//! A toy of Raft that decides elections as openraft does with its timers off: leases, pre-vote, votes, transfers.
//! Entries have no content, and a log is its last position.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use meridian_types::{LogPosition, NodeId, RaftIndex, Term};

use crate::pacemaker::{Members, Role};

/// openraft's lease of a leader: its longest election timeout.
pub(super) const LEASE: Duration = Duration::from_millis(6000);

#[derive(Clone, Copy, Debug)]
pub(super) enum Rpc {
    Append {
        term: Term,
        last: LogPosition,
        committed: RaftIndex,
        sent: Duration,
    },
    AppendReply {
        vote: Vote,
        last: LogPosition,
        sent: Duration,
    },
    PreVote {
        vote: Vote,
        last: LogPosition,
    },
    PreVoteReply {
        of: Vote,
        granted: bool,
    },
    RequestVote {
        vote: Vote,
        last: LogPosition,
        is_transfer: bool,
    },
    VoteReply {
        of: Vote,
        vote: Vote,
        granted: bool,
    },
    TransferNow {
        vote: Vote,
        to: NodeId,
        last: LogPosition,
    },
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Vote {
    pub(super) term: Term,
    pub(super) node: NodeId,
    pub(super) is_committed: bool,
}

impl Vote {
    /// Partial: of two candidates in one term neither is above the other; an elected one is above both.
    fn is_at_least(self, other: Self) -> bool {
        let is_above = self.is_committed && !other.is_committed;
        self.term > other.term || (self.term == other.term && (is_above || self == other))
    }
}

/// What outlives the process.
#[derive(Clone, Debug, Default)]
pub(super) struct Durable {
    pub(super) vote: Vote,
    pub(super) last: LogPosition,
}

#[derive(Debug)]
struct Leader {
    acked: BTreeMap<NodeId, Duration>,
    matched: BTreeMap<NodeId, RaftIndex>,
    /// The entry that opens its term.
    blank: RaftIndex,
    is_transferring: bool,
}

#[derive(Debug)]
pub(super) struct Raft {
    node: NodeId,
    pub(super) members: Members,
    pub(super) durable: Durable,
    lease_end: Duration,
    pub(super) committed: RaftIndex,
    leader: Option<Leader>,
    pre_votes: Option<(Vote, BTreeSet<NodeId>)>,
    votes: Option<BTreeSet<NodeId>>,
    pub(super) out: Vec<(NodeId, Rpc)>,
    /// Elections that got past their pre-vote.
    pub(super) campaigns: usize,
}

impl Raft {
    pub(super) fn start(node: NodeId, members: Members, durable: Durable) -> Self {
        Self {
            node,
            members,
            durable,
            lease_end: Duration::ZERO,
            committed: RaftIndex(0),
            leader: None,
            pre_votes: None,
            votes: None,
            out: Vec::new(),
            campaigns: 0,
        }
    }

    pub(super) fn role(&self) -> Role {
        let Vote {
            term,
            node,
            is_committed,
        } = self.durable.vote;
        match &self.leader {
            Some(leader) if self.committed >= leader.blank && !leader.is_transferring => {
                Role::Leading { term }
            }
            Some(_) => Role::Elected { term },
            None if is_committed && node != self.node => Role::Following { leader: node, term },
            None => Role::Seeking,
        }
    }

    fn others(&self) -> Vec<NodeId> {
        self.members.all().filter(|node| *node != self.node).collect()
    }

    fn send_all(&mut self, rpc: &Rpc) {
        for node in self.others() {
            self.out.push((node, *rpc));
        }
    }

    fn is_quorum(&self, of: &BTreeSet<NodeId>) -> bool {
        self.members.is_quorum(|node| of.contains(&node))
    }

    /// A live leader holds off votes: as a follower by its lease, as the leader by its voters' answers.
    fn holds_lease(&self, now: Duration) -> bool {
        if let Some(leader) = &self.leader {
            let fresh = |node: NodeId| {
                node == self.node || leader.acked.get(&node).is_some_and(|acked| now < *acked + LEASE)
            };
            return self.members.is_quorum(fresh);
        }
        self.durable.vote.is_committed && now < self.lease_end
    }

    fn update_vote(&mut self, now: Duration, vote: Vote) -> bool {
        let present = self.durable.vote;
        if !vote.is_at_least(present) {
            return false;
        }
        if vote != present {
            self.durable.vote = vote;
            self.pre_votes = None;
            if vote.node != self.node {
                self.leader = None;
                self.votes = None;
            }
        }
        self.lease_end = match vote.is_committed {
            true => now + LEASE,
            false => Duration::ZERO,
        };
        true
    }

    pub(super) fn end_lease(&mut self, leader: NodeId, term: Term) {
        let gone = Vote {
            term,
            node: leader,
            is_committed: true,
        };
        if self.durable.vote == gone {
            self.lease_end = Duration::ZERO;
        }
    }

    fn candidacy(&self) -> Vote {
        Vote {
            term: Term(self.durable.vote.term.0 + 1),
            node: self.node,
            is_committed: false,
        }
    }

    pub(super) fn elect(&mut self, now: Duration) {
        if self.leader.is_some() || self.holds_lease(now) {
            return;
        }
        let vote = self.candidacy();
        let granted = BTreeSet::from([self.node]);
        if self.is_quorum(&granted) {
            return self.campaign(now, false);
        }
        self.pre_votes = Some((vote, granted));
        self.send_all(&Rpc::PreVote {
            vote,
            last: self.durable.last,
        });
    }

    fn campaign(&mut self, now: Duration, is_transfer: bool) {
        if self.leader.is_some() {
            return;
        }
        self.campaigns += 1;
        let vote = self.candidacy();
        self.update_vote(now, vote);
        self.votes = Some(BTreeSet::from([self.node]));
        self.send_all(&Rpc::RequestVote {
            vote,
            last: self.durable.last,
            is_transfer,
        });
        self.count_votes(now);
    }

    fn count_votes(&mut self, now: Duration) {
        if !self.votes.as_ref().is_some_and(|votes| self.is_quorum(votes)) {
            return;
        }
        let votes = self.votes.take().unwrap_or_default();
        self.durable.vote.is_committed = true;
        self.durable.last = LogPosition {
            term: self.durable.vote.term,
            index: self.durable.last.index.next(),
        };
        self.leader = Some(Leader {
            acked: votes.into_iter().map(|node| (node, now)).collect(),
            matched: BTreeMap::new(),
            blank: self.durable.last.index,
            is_transferring: false,
        });
        self.commit();
        self.heartbeat(now);
    }

    fn commit(&mut self) {
        let Some(leader) = &self.leader else { return };
        let own = self.durable.last.index;
        let has = |node: NodeId, index| match node == self.node {
            true => own >= index,
            false => leader.matched.get(&node).is_some_and(|matched| *matched >= index),
        };
        let known = leader.matched.values().copied().chain([own]);
        let reached = known.filter(|index| self.members.is_quorum(|node| has(node, *index)));
        let reached = reached.max().filter(|index| *index >= leader.blank);
        self.committed = self.committed.max(reached.unwrap_or_default());
    }

    pub(super) fn heartbeat(&mut self, now: Duration) {
        if self.leader.is_some() {
            self.send_all(&Rpc::Append {
                term: self.durable.vote.term,
                last: self.durable.last,
                committed: self.committed,
                sent: now,
            });
        }
    }

    /// Returns whether the proposal was taken.
    pub(super) fn propose(&mut self, now: Duration) -> bool {
        let is_taken = self.leader.as_ref().is_some_and(|leader| !leader.is_transferring);
        if !is_taken || !self.holds_lease(now) {
            return false;
        }
        self.durable.last.index = self.durable.last.index.next();
        self.commit();
        self.heartbeat(now);
        true
    }

    pub(super) fn transfer(&mut self, to: NodeId) {
        let Some(leader) = &mut self.leader else { return };
        leader.is_transferring = true;
        self.send_all(&Rpc::TransferNow {
            vote: self.durable.vote,
            to,
            last: self.durable.last,
        });
    }

    pub(super) fn handle(&mut self, now: Duration, from: NodeId, rpc: Rpc) {
        match rpc {
            Rpc::Append {
                term,
                last,
                committed,
                sent,
            } => {
                let vote = Vote {
                    term,
                    node: from,
                    is_committed: true,
                };
                if self.update_vote(now, vote) {
                    self.durable.last = self.durable.last.max(last);
                    self.committed = self.committed.max(committed);
                }
                let reply = Rpc::AppendReply {
                    vote: self.durable.vote,
                    last: self.durable.last,
                    sent,
                };
                self.out.push((from, reply));
            }
            Rpc::AppendReply { vote, last, sent } => self.handle_append_reply(now, from, vote, last, sent),
            Rpc::PreVote { vote, last } => {
                let granted = !self.holds_lease(now)
                    && last >= self.durable.last
                    && vote.is_at_least(self.durable.vote);
                self.out.push((from, Rpc::PreVoteReply { of: vote, granted }));
            }
            Rpc::PreVoteReply { of, granted } => {
                let Some((vote, votes)) = &mut self.pre_votes else {
                    return;
                };
                if *vote == of && granted {
                    votes.insert(from);
                    let votes = votes.clone();
                    if self.is_quorum(&votes) {
                        self.campaign(now, false);
                    }
                }
            }
            Rpc::RequestVote {
                vote,
                last,
                is_transfer,
            } => {
                let is_free = is_transfer || !self.holds_lease(now);
                let granted = is_free && last >= self.durable.last && self.update_vote(now, vote);
                let reply = Rpc::VoteReply {
                    of: vote,
                    vote: self.durable.vote,
                    granted,
                };
                self.out.push((from, reply));
            }
            Rpc::VoteReply { of, vote, granted } => {
                if granted && of == self.durable.vote && !of.is_committed {
                    self.votes.get_or_insert_default().insert(from);
                    self.count_votes(now);
                } else if vote.term > self.durable.vote.term {
                    self.update_vote(
                        now,
                        Vote {
                            is_committed: false,
                            ..vote
                        },
                    );
                }
            }
            Rpc::TransferNow { vote, to, last } => {
                if vote == self.durable.vote {
                    self.lease_end = Duration::ZERO;
                    if to == self.node && self.durable.last >= last {
                        self.campaign(now, true);
                    }
                }
            }
        }
    }

    fn handle_append_reply(
        &mut self,
        now: Duration,
        from: NodeId,
        vote: Vote,
        last: LogPosition,
        sent: Duration,
    ) {
        let own = self.durable.vote;
        if vote == own {
            let Some(leader) = &mut self.leader else { return };
            let acked = leader.acked.entry(from).or_default();
            *acked = sent.max(*acked);
            leader.matched.insert(from, last.index);
            let before = self.committed;
            self.commit();
            if self.committed > before {
                self.heartbeat(now);
            }
        } else if vote.term > own.term {
            self.update_vote(
                now,
                Vote {
                    is_committed: false,
                    ..vote
                },
            );
        }
    }
}
