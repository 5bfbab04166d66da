//! Whether there is room for what takes room and makes none: records of producers, offsets of groups.
//!
//! A shard gets room back through its own log (what the bucket has, log starts, deleted topics), so these commands must find
//! room in it when nothing else does, here and on a quorum of the replicas.

use meridian_journal::JournalError;
use meridian_raft::{Group, Members};
use meridian_types::NodeId;

use crate::pacemaker::View;

/// Whether the group may take such a command of so many bytes now. Ask before proposing: Raft takes a refused append for a
/// broken disk.
///
/// Errors: `Busy` and `Full` (retriable), `Poisoned`, `Stopped`.
pub(crate) fn admit_records(group: &Group, view: &View, bytes: usize) -> Result<(), JournalError> {
    group.journal().admit_records(bytes, 1)?;
    // Room for what other groups propose at the same time matters only where there will be no more.
    if let Err(full @ JournalError::Full { .. }) = group.admit(bytes, 1) {
        return Err(full);
    }
    if !view.full.is_empty() && !quorum_has_room(&group.members().borrow(), view) {
        return Err(JournalError::Full {
            reason: "the disks of too many of the shard's replicas are full".into(),
        });
    }
    Ok(())
}

/// Whether enough voters live and have room that an entry would be committed. Without them it would wait in the logs of the
/// others, and what makes room would wait behind it.
fn quorum_has_room(members: &Members, view: &View) -> bool {
    let has_room = |node: &NodeId| view.alive.contains(node) && !view.full.contains(node);
    let majority = |voters: &std::collections::BTreeSet<NodeId>| {
        2 * voters.iter().filter(|node| has_room(node)).count() > voters.len()
    };
    match &members.joint {
        Some(joint) => majority(&joint.from) && majority(&joint.to),
        None => majority(&members.voters),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use meridian_raft::Joint;

    use super::*;

    fn nodes(ids: &[u32]) -> BTreeSet<NodeId> {
        ids.iter().copied().map(NodeId).collect()
    }

    #[test]
    fn entries_wait_when_a_quorum_is_full_or_away() {
        let members = Members {
            voters: nodes(&[1, 2, 3]),
            ..Members::default()
        };
        let has_room = |alive: &[u32], full: &[u32]| {
            let view = View {
                alive: nodes(alive),
                full: nodes(full),
                ..View::default()
            };
            quorum_has_room(&members, &view)
        };
        assert!(has_room(&[1, 2, 3], &[]));
        assert!(has_room(&[1, 2, 3], &[2]));
        assert!(!has_room(&[1, 2, 3], &[2, 3]));
        assert!(!has_room(&[1, 2], &[2]), "who is away takes nothing either");
        assert!(has_room(&[1, 2, 3], &[7]), "who has no vote does not count");
    }

    #[test]
    fn a_change_of_voters_needs_room_on_both_sides() {
        let members = Members {
            voters: nodes(&[1, 2, 3, 4]),
            joint: Some(Joint {
                from: nodes(&[1, 2, 3]),
                to: nodes(&[1, 3, 4]),
            }),
            ..Members::default()
        };
        let has_room = |full: &[u32]| {
            let view = View {
                alive: nodes(&[1, 2, 3, 4]),
                full: nodes(full),
                ..View::default()
            };
            quorum_has_room(&members, &view)
        };
        assert!(has_room(&[2]) && has_room(&[2, 4]));
        assert!(!has_room(&[3, 4]));
    }
}
