//! Which committed offsets, and which groups, nobody needs any more (KIP-211).

use meridian_state::{ExpiredOffsets, Group};
use meridian_types::{TimestampMs, TopicId};

use crate::coordinator::OffsetExpiry;

/// What is to be forgotten.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Expired {
    pub(super) offsets: Vec<ExpiredOffsets>,
    /// Groups that have, after that, neither members nor offsets.
    pub(super) groups: Vec<String>,
}

/// Offsets older than `retention_ms`, counted from where `expiry` says for the group.
pub(super) fn expired<'a>(
    now: TimestampMs,
    retention_ms: i64,
    groups: impl Iterator<Item = (&'a str, &'a Group)>,
    expiry: impl Fn(&str) -> OffsetExpiry,
    is_subscribed: impl Fn(&str, TopicId) -> bool,
) -> Expired {
    let before = now.0.saturating_sub(retention_ms);
    let mut expired = Expired::default();
    for (name, group) in groups {
        let expiry = expiry(name);
        let since = match expiry {
            OffsetExpiry::Never => continue,
            OffsetExpiry::SinceEmpty(since) => since.0,
            OffsetExpiry::SinceCommit | OffsetExpiry::SinceCommitUnlessSubscribed => i64::MIN,
        };
        let offsets: Vec<_> = group
            .offsets
            .iter()
            .filter(|(_, committed)| committed.committed_at.0.max(since) <= before)
            .filter(|(partition, _)| {
                expiry != OffsetExpiry::SinceCommitUnlessSubscribed || !is_subscribed(name, partition.topic)
            })
            .map(|(partition, committed)| (*partition, committed.committed_at))
            .collect();
        let is_bare = offsets.len() == group.offsets.len();
        if is_bare && matches!(expiry, OffsetExpiry::SinceEmpty(_)) {
            expired.groups.push(name.to_owned());
        }
        if !offsets.is_empty() {
            expired.offsets.push(ExpiredOffsets {
                group: name.to_owned(),
                offsets,
            });
        }
    }
    expired
}

#[cfg(test)]
mod tests {
    use meridian_state::CommittedOffset;
    use meridian_types::{Offset, Partition, Uuid};

    use super::*;

    const RETENTION_MS: i64 = 1000;
    const NOW: TimestampMs = TimestampMs(5000);

    fn topic(number: u128) -> TopicId {
        TopicId(Uuid::from_u128(number))
    }

    fn group(commits: &[(u128, i64)]) -> Group {
        let offset = |(number, at): &(u128, i64)| {
            let committed = CommittedOffset {
                offset: Offset(1),
                leader_epoch: None,
                metadata: String::new(),
                committed_at: TimestampMs(*at),
            };
            (
                Partition {
                    topic: topic(*number),
                    index: 0,
                },
                committed,
            )
        };
        Group {
            saved: None,
            offsets: commits.iter().map(offset).collect(),
        }
    }

    fn expired_of(group: &Group, expiry: OffsetExpiry) -> (usize, usize) {
        let found = expired(
            NOW,
            RETENTION_MS,
            [("g", group)].into_iter(),
            |_| expiry,
            |_, id| id == topic(1),
        );
        (
            found.offsets.iter().map(|offsets| offsets.offsets.len()).sum(),
            found.groups.len(),
        )
    }

    #[test]
    fn offsets_of_a_group_without_a_coordinator_age_from_their_commit() {
        let group = group(&[(1, 4000), (2, 4001)]);
        assert_eq!(expired_of(&group, OffsetExpiry::SinceCommit), (1, 0));
        assert_eq!(expired_of(&group, OffsetExpiry::Never), (0, 0));
    }

    #[test]
    fn a_group_that_became_empty_keeps_everything_for_the_whole_retention() {
        let group = group(&[(1, 1), (2, 2)]);
        assert_eq!(
            expired_of(&group, OffsetExpiry::SinceEmpty(TimestampMs(4001))),
            (0, 0)
        );
        assert_eq!(
            expired_of(&group, OffsetExpiry::SinceEmpty(TimestampMs(4000))),
            (2, 1)
        );
    }

    #[test]
    fn an_active_group_loses_only_topics_that_nobody_reads() {
        let group = group(&[(1, 1), (2, 2)]);
        assert_eq!(
            expired_of(&group, OffsetExpiry::SinceCommitUnlessSubscribed),
            (1, 0)
        );
    }

    #[test]
    fn an_empty_group_without_offsets_goes() {
        assert_eq!(expired_of(&group(&[]), OffsetExpiry::SinceEmpty(NOW)), (0, 1));
        assert_eq!(expired_of(&group(&[]), OffsetExpiry::SinceCommit), (0, 0));
    }
}
