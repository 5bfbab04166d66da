//! Consumer groups as the shard stores them: committed offsets, and the coordinator's own record.

use std::collections::BTreeMap;

use bytes::Bytes;
use meridian_types::{Partition, TimestampMs, TopicId};

use crate::command::{CommittedOffset, ExpiredOffsets};

/// One consumer group. It exists as long as it has a saved body or a committed offset.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Group {
    /// What the coordinator saved last.
    pub saved: Option<SavedGroup>,
    /// How far it has read.
    pub offsets: BTreeMap<Partition, CommittedOffset>,
}

/// A group as its coordinator saved it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SavedGroup {
    /// The coordinator's own encoding.
    pub body: Bytes,
    /// When it was saved, by the leader's clock: the group's last change of state.
    pub saved_at: TimestampMs,
}

/// Every group of a shard, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Groups {
    groups: BTreeMap<String, Group>,
}

impl Groups {
    pub(crate) fn get(&self, name: &str) -> Option<&Group> {
        self.groups.get(name)
    }

    pub(crate) fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &Group)> {
        self.groups.iter().map(|(name, group)| (name.as_str(), group))
    }

    /// The group's entry, made if it is missing; the caller puts something into it.
    pub(crate) fn entry(&mut self, name: &str) -> &mut Group {
        if !self.groups.contains_key(name) {
            self.groups.insert(name.to_owned(), Group::default());
        }
        self.groups.get_mut(name).expect("inserted above")
    }

    pub(crate) fn remove(&mut self, name: &str) {
        self.groups.remove(name);
    }

    pub(crate) fn remove_offsets(&mut self, name: &str, partitions: &[Partition]) {
        self.change(name, |group| {
            for partition in partitions {
                group.offsets.remove(partition);
            }
        });
    }

    /// Removes exactly the commits named; one made since then has another time and stays.
    pub(crate) fn expire(&mut self, expired: &ExpiredOffsets) {
        self.change(&expired.group, |group| {
            for (partition, committed_at) in &expired.offsets {
                if group
                    .offsets
                    .get(partition)
                    .is_some_and(|found| found.committed_at == *committed_at)
                {
                    group.offsets.remove(partition);
                }
            }
        });
    }

    pub(crate) fn drop_topic(&mut self, topic: TopicId) {
        let of_topic = Partition { topic, index: 0 }..=Partition {
            topic,
            index: u32::MAX,
        };
        self.groups.retain(|_, group| {
            let gone: Vec<_> = group
                .offsets
                .range(of_topic.clone())
                .map(|(partition, _)| *partition)
                .collect();
            for partition in gone {
                group.offsets.remove(&partition);
            }
            !group.is_empty()
        });
    }

    /// Committed offsets older than `retention_ms`, of groups that are not active.
    ///
    /// A position's age counts from its commit or from the group's last change of state, whichever is later:
    /// a group that has just lost its last member keeps everything for the whole time (KIP-211).
    pub(crate) fn expired(
        &self,
        now: TimestampMs,
        retention_ms: u64,
        is_active: impl Fn(&str) -> bool,
    ) -> Vec<ExpiredOffsets> {
        let before = now.0.saturating_sub_unsigned(retention_ms);
        let mut expired = Vec::new();
        for (name, group) in &self.groups {
            let saved_at = group.saved.as_ref().map(|saved| saved.saved_at.0);
            if saved_at.is_some_and(|at| at > before) || is_active(name) {
                continue;
            }
            let old = group
                .offsets
                .iter()
                .filter(|(_, committed)| committed.committed_at.0 <= before);
            let offsets: Vec<_> = old
                .map(|(partition, committed)| (*partition, committed.committed_at))
                .collect();
            if !offsets.is_empty() {
                expired.push(ExpiredOffsets {
                    group: name.clone(),
                    offsets,
                });
            }
        }
        expired
    }

    pub(crate) fn check(&self) -> Result<(), String> {
        match self.groups.iter().find(|(_, group)| group.is_empty()) {
            Some((name, _)) => Err(format!("group {name:?} has neither offsets nor a saved body")),
            None => Ok(()),
        }
    }

    fn change(&mut self, name: &str, change: impl FnOnce(&mut Group)) {
        if let Some(group) = self.groups.get_mut(name) {
            change(group);
            if group.is_empty() {
                self.groups.remove(name);
            }
        }
    }
}

impl Group {
    fn is_empty(&self) -> bool {
        self.saved.is_none() && self.offsets.is_empty()
    }
}
