//! Until when this node stands by the leader it hears.
//!
//! openraft keeps a lease too, but for good once it was ended: hearing the same leader again does not renew it. A node
//! whose detector was wrong once would then help any later wrong suspicion to depose a living leader. This
//! lease begins again with the next message, and is asked before openraft is.

use std::time::Duration;

use meridian_types::{NodeId, Term};
use tokio::time::Instant;

/// What was last heard of a leader.
#[derive(Debug, Default)]
pub(crate) struct Contact {
    heard: Option<Heard>,
}

#[derive(Debug)]
struct Heard {
    leader: NodeId,
    term: Term,
    at: Instant,
    /// When it was taken for gone, if it was after `at`.
    ended: Option<Instant>,
}

impl Contact {
    /// A message of the leader of `term` came at `at`, and was obeyed, which may have taken a while: what came before its
    /// end was called does not revive it.
    pub(crate) fn heard(&mut self, leader: NodeId, term: Term, at: Instant) {
        match &mut self.heard {
            Some(heard) if heard.term > term => {}
            Some(heard) if heard.term == term => {
                heard.at = heard.at.max(at);
                heard.ended = heard.ended.filter(|ended| at <= *ended);
            }
            heard => {
                *heard = Some(Heard {
                    leader,
                    term,
                    at,
                    ended: None,
                });
            }
        }
    }

    /// The leader of `term` is taken for gone at `now`, until it is heard again.
    pub(crate) fn end(&mut self, leader: NodeId, term: Term, now: Instant) {
        if let Some(heard) = &mut self.heard
            && (heard.leader, heard.term) == (leader, term)
        {
            heard.ended = Some(now);
        }
    }

    /// The leader that this node stands by at `now`, if it was heard within `lease`.
    pub(crate) fn stands_by(&self, now: Instant, lease: Duration) -> Option<(NodeId, Term)> {
        let heard = self.heard.as_ref().filter(|heard| heard.ended.is_none())?;
        (now.saturating_duration_since(heard.at) < lease).then_some((heard.leader, heard.term))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEASE: Duration = Duration::from_secs(6);

    #[test]
    fn a_lease_ends_by_time_or_by_word_and_begins_again_with_a_message() {
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        let mut contact = Contact::default();
        assert_eq!(contact.stands_by(start, LEASE), None);
        contact.heard(NodeId(1), Term(4), start);
        assert_eq!(contact.stands_by(after(5), LEASE), Some((NodeId(1), Term(4))));
        assert_eq!(contact.stands_by(after(6), LEASE), None);
        contact.end(NodeId(1), Term(4), after(2));
        assert_eq!(contact.stands_by(after(2), LEASE), None);
        contact.heard(NodeId(1), Term(4), after(1));
        assert_eq!(contact.stands_by(after(2), LEASE), None, "it came before");
        contact.heard(NodeId(1), Term(4), after(3));
        assert_eq!(contact.stands_by(after(4), LEASE), Some((NodeId(1), Term(4))));
    }

    #[test]
    fn words_about_another_leader_or_of_an_older_one_change_nothing() {
        let start = Instant::now();
        let mut contact = Contact::default();
        contact.heard(NodeId(2), Term(5), start);
        contact.end(NodeId(1), Term(4), start);
        contact.end(NodeId(2), Term(4), start);
        contact.heard(NodeId(1), Term(4), start + Duration::from_secs(1));
        assert_eq!(contact.stands_by(start, LEASE), Some((NodeId(2), Term(5))));
    }
}
