//! Fetch sessions (KIP-227): after the first request only changes are named. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;

use meridian_types::Offset;
use meridian_wire::messages::fetch::{FetchPartition, FetchTopic, ForgottenTopic};

use super::Key;
use crate::admin::partition_id;

/// What a broker is told of a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) offset: Offset,
    /// The epoch of the last batch read, so that the broker notices if we have read what is no longer there (KIP-320).
    pub(super) last_epoch: i32,
    /// The epoch of the leader that we believe in, so that a broker which is behind or ahead of us says so; -1 where
    /// it is not known.
    pub(super) leader_epoch: i32,
    pub(super) bytes_max: i32,
}

/// The session with one broker.
#[derive(Clone, Debug, Default)]
pub(super) struct FetchSession {
    id: i32,
    epoch: i32,
    known: BTreeMap<Key, Wanted>,
}

/// The part of a request that a session decides.
#[derive(Clone, Debug, Default)]
pub(super) struct SessionRequest {
    pub(super) id: i32,
    pub(super) epoch: i32,
    pub(super) topics: Vec<FetchTopic>,
    pub(super) forgotten: Vec<ForgottenTopic>,
}

impl FetchSession {
    /// What to ask so that the broker knows `wanted`.
    pub(super) fn request(&mut self, wanted: BTreeMap<Key, Wanted>) -> SessionRequest {
        let is_incremental = self.id != 0 && self.epoch > 0;
        let changed: Vec<(&Key, &Wanted)> = wanted
            .iter()
            .filter(|(key, want)| !is_incremental || self.known.get(*key) != Some(*want))
            .collect();
        let forgotten: Vec<&Key> = if is_incremental {
            self.known
                .keys()
                .filter(|key| !wanted.contains_key(*key))
                .collect()
        } else {
            Vec::new()
        };
        let request = SessionRequest {
            id: self.id,
            epoch: self.epoch,
            topics: by_topic(changed.into_iter().map(|((topic, index), want)| {
                let partition = FetchPartition {
                    partition: partition_id(*index),
                    fetch_offset: i64::try_from(want.offset.0).unwrap_or(i64::MAX),
                    current_leader_epoch: want.leader_epoch,
                    last_fetched_epoch: want.last_epoch,
                    partition_max_bytes: want.bytes_max,
                    ..FetchPartition::default()
                };
                (topic, partition)
            }))
            .map(|(topic, partitions)| FetchTopic {
                topic: topic.to_string().into(),
                partitions,
                ..FetchTopic::default()
            })
            .collect(),
            forgotten: by_topic(
                forgotten
                    .into_iter()
                    .map(|(topic, index)| (topic, partition_id(*index))),
            )
            .map(|(topic, partitions)| ForgottenTopic {
                topic: topic.to_string().into(),
                partitions,
                ..ForgottenTopic::default()
            })
            .collect(),
        };
        self.known = wanted;
        request
    }

    /// The broker has answered under this session id; 0 means that it keeps none.
    pub(super) fn answered(&mut self, id: i32) {
        if id == 0 {
            self.reset();
            return;
        }
        self.id = id;
        // After the greatest comes 1: 0 would begin a new session.
        self.epoch = self.epoch.checked_add(1).unwrap_or(1);
    }

    /// Begins anew with the next request.
    pub(super) fn reset(&mut self) {
        *self = Self::default();
    }
}

fn by_topic<'a, P>(
    partitions: impl Iterator<Item = (&'a Arc<str>, P)>,
) -> impl Iterator<Item = (&'a Arc<str>, Vec<P>)> {
    let mut topics: BTreeMap<&Arc<str>, Vec<P>> = BTreeMap::new();
    for (topic, partition) in partitions {
        topics.entry(topic).or_default().push(partition);
    }
    topics.into_iter()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(partitions: &[(u32, u64)]) -> BTreeMap<Key, Wanted> {
        partitions
            .iter()
            .map(|(index, offset)| {
                let want = Wanted {
                    offset: Offset(*offset),
                    last_epoch: -1,
                    leader_epoch: -1,
                    bytes_max: 1,
                };
                (("t".into(), *index), want)
            })
            .collect()
    }

    fn named(request: &SessionRequest) -> Vec<i32> {
        let partitions = request.topics.iter().flat_map(|topic| &topic.partitions);
        partitions.map(|partition| partition.partition).collect()
    }

    #[test]
    fn only_changes_are_named_after_the_first_request() {
        let mut session = FetchSession::default();
        let first = session.request(wanted(&[(0, 0), (1, 0), (2, 0)]));
        assert_eq!((first.id, first.epoch, named(&first)), (0, 0, vec![0, 1, 2]));
        session.answered(7);
        let second = session.request(wanted(&[(0, 0), (1, 5), (3, 0)]));
        assert_eq!((second.id, second.epoch, named(&second)), (7, 1, vec![1, 3]));
        assert_eq!(second.forgotten[0].partitions, [2]);
        session.answered(7);
        let third = session.request(wanted(&[(0, 0), (1, 5), (3, 0)]));
        assert_eq!((third.epoch, named(&third)), (2, vec![]));
    }

    #[test]
    fn without_a_session_everything_is_named_every_time() {
        let mut session = FetchSession::default();
        session.request(wanted(&[(0, 0)]));
        session.answered(0);
        let again = session.request(wanted(&[(0, 0)]));
        assert_eq!((again.id, again.epoch, named(&again)), (0, 0, vec![0]));
        session.answered(9);
        session.reset();
        assert_eq!(session.request(wanted(&[(0, 0)])).id, 0);
    }

    #[test]
    fn the_epoch_wraps_to_one() {
        let mut session = FetchSession {
            id: 3,
            epoch: i32::MAX,
            ..FetchSession::default()
        };
        session.answered(3);
        assert_eq!(session.epoch, 1);
    }
}
