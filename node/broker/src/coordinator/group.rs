//! One group: its members, its state and the vote on the protocol. No timers, no replies.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use meridian_types::TimestampMs;

use super::error::GroupError;
use super::member::Member;
use super::request::{JoinMember, Joined, Protocol, Token};
use super::saves::Saves;
use super::subscription;

/// The state of a classic group, under Kafka's names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum GroupState {
    /// No members; committed offsets may exist.
    Empty,
    /// Waiting for all members to join.
    PreparingRebalance,
    /// Waiting for the leader's assignment.
    CompletingRebalance,
    /// Every member has, or can fetch, its assignment.
    Stable,
    /// Being deleted, or unknown.
    Dead,
}

impl fmt::Display for GroupState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Empty => "Empty",
            Self::PreparingRebalance => "PreparingRebalance",
            Self::CompletingRebalance => "CompletingRebalance",
            Self::Stable => "Stable",
            Self::Dead => "Dead",
        })
    }
}

/// The state with what belongs to it alone.
#[derive(Debug)]
pub(super) enum Phase {
    Empty,
    PreparingRebalance {
        /// Set while a group that was empty gives further members time to come.
        initial: Option<InitialDelay>,
    },
    CompletingRebalance {
        /// What the leader sent, while it is being saved.
        assignments: Option<BTreeMap<String, Bytes>>,
    },
    Stable,
    Dead,
}

#[derive(Debug)]
pub(super) struct InitialDelay {
    /// A member has come since the delay was last set, so it is extended.
    pub(super) member_added: bool,
    pub(super) delay_ms: i64,
    pub(super) remaining_ms: i64,
}

#[derive(Debug)]
pub(super) struct Group {
    pub(super) id: Arc<str>,
    pub(super) phase: Phase,
    /// When the phase began; offsets of an empty group expire from here.
    pub(super) phase_since: TimestampMs,
    /// Grows by one with every completed join barrier.
    pub(super) generation: i32,
    pub(super) protocol_type: Option<String>,
    /// Chosen for the generation.
    pub(super) protocol_name: Option<String>,
    pub(super) leader: Option<Arc<str>>,
    /// Members of the generation that have not synced yet.
    pub(super) pending_syncs: BTreeSet<Arc<str>>,
    /// Topics of all members, where they can be known.
    pub(super) subscribed_topics: Option<BTreeSet<String>>,
    pub(super) saves: Saves,
    /// Ids handed out with MEMBER_ID_REQUIRED that have not joined yet.
    pending_joins: BTreeSet<Arc<str>>,
    /// In order of joining.
    members: BTreeMap<u64, Member>,
    places: BTreeMap<Arc<str>, u64>,
    instances: BTreeMap<String, Arc<str>>,
    next_place: u64,
    /// Members that support each protocol.
    supporters: BTreeMap<String, usize>,
    joins_waiting: usize,
    bytes: usize,
}

impl Group {
    pub(super) fn new(id: Arc<str>, now: TimestampMs) -> Self {
        Self {
            id,
            phase: Phase::Empty,
            phase_since: now,
            generation: 0,
            protocol_type: None,
            protocol_name: None,
            leader: None,
            pending_joins: BTreeSet::new(),
            pending_syncs: BTreeSet::new(),
            subscribed_topics: None,
            saves: Saves::default(),
            members: BTreeMap::new(),
            places: BTreeMap::new(),
            instances: BTreeMap::new(),
            next_place: 0,
            supporters: BTreeMap::new(),
            joins_waiting: 0,
            bytes: 0,
        }
    }

    pub(super) fn state(&self) -> GroupState {
        match self.phase {
            Phase::Empty => GroupState::Empty,
            Phase::PreparingRebalance { .. } => GroupState::PreparingRebalance,
            Phase::CompletingRebalance { .. } => GroupState::CompletingRebalance,
            Phase::Stable => GroupState::Stable,
            Phase::Dead => GroupState::Dead,
        }
    }

    pub(super) fn set_phase(&mut self, now: TimestampMs, phase: Phase) {
        self.phase = phase;
        self.phase_since = now;
    }

    /// Nothing is known of the group that a fresh one would not have: it need not be kept.
    pub(super) fn is_void(&self) -> bool {
        self.state() == GroupState::Empty
            && self.generation == 0
            && self.members.is_empty()
            && self.pending_joins.is_empty()
            && self.saves.is_idle()
    }

    pub(super) fn len(&self) -> usize {
        self.members.len()
    }

    pub(super) fn members(&self) -> impl Iterator<Item = &Member> {
        self.members.values()
    }

    pub(super) fn member_ids(&self) -> Vec<Arc<str>> {
        self.members.values().map(|m| m.id.clone()).collect()
    }

    pub(super) fn member(&self, id: &str) -> Option<&Member> {
        self.members.get(self.places.get(id)?)
    }

    pub(super) fn static_member_id(&self, instance_id: &str) -> Option<&Arc<str>> {
        self.instances.get(instance_id)
    }

    pub(super) fn is_leader(&self, id: &str) -> bool {
        self.leader.as_deref() == Some(id)
    }

    pub(super) fn is_consumer(&self) -> bool {
        self.protocol_type.as_deref() == Some("consumer")
    }

    /// Size of the members and the handed-out ids.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn add_pending(&mut self, id: Arc<str>) {
        let bytes = id.len();
        if self.pending_joins.insert(id) {
            self.bytes += bytes;
        }
    }

    /// False when no such id waits to join.
    pub(super) fn remove_pending(&mut self, id: &str) -> bool {
        let removed = self.pending_joins.remove(id);
        if removed {
            self.bytes -= id.len();
        }
        removed
    }

    pub(super) fn is_pending(&self, id: &str) -> bool {
        self.pending_joins.contains(id)
    }

    pub(super) fn pending_ids(&self) -> Vec<Arc<str>> {
        self.pending_joins.iter().cloned().collect()
    }

    pub(super) fn pending_len(&self) -> usize {
        self.pending_joins.len()
    }

    pub(super) fn joins_waiting(&self) -> usize {
        self.joins_waiting
    }

    pub(super) fn have_all_joined(&self) -> bool {
        self.joins_waiting == self.members.len() && self.pending_joins.is_empty()
    }

    pub(super) fn rebalance_timeout_ms(&self) -> i64 {
        self.members()
            .map(|m| i64::from(m.rebalance_timeout_ms))
            .max()
            .unwrap_or(0)
    }

    /// The check every request of a member passes.
    pub(super) fn validate_member(&self, id: &str, instance_id: Option<&str>) -> Result<(), GroupError> {
        if let Some(instance_id) = instance_id {
            match self.static_member_id(instance_id) {
                None => return Err(GroupError::UnknownMember),
                Some(current) if &**current != id => return Err(GroupError::FencedInstance),
                Some(_) => {}
            }
        }
        if self.places.contains_key(id) {
            Ok(())
        } else {
            Err(GroupError::UnknownMember)
        }
    }

    /// Whether a member with these protocols can be in the group. Its own present protocols count.
    pub(super) fn supports(&self, protocol_type: &str, protocols: &[Protocol]) -> bool {
        if self.members.is_empty() {
            return !protocol_type.is_empty() && !protocols.is_empty();
        }
        self.protocol_type.as_deref() == Some(protocol_type)
            && protocols
                .iter()
                .any(|p| self.supporters.get(&p.name) == Some(&self.members.len()))
    }

    /// Adds a member, the first as leader. The caller has checked [`Self::supports`] and that the
    /// ids are free.
    pub(super) fn add(&mut self, protocol_type: &str, member: Member) {
        debug_assert!(!self.places.contains_key(&member.id));
        if self.members.is_empty() {
            self.protocol_type = Some(protocol_type.to_owned());
        }
        if self.leader.is_none() {
            self.leader = Some(member.id.clone());
        }
        if let Some(instance_id) = &member.instance_id {
            self.instances.insert(instance_id.clone(), member.id.clone());
        }
        self.remove_pending(&member.id.clone());
        self.places.insert(member.id.clone(), self.next_place);
        self.count_in(&member);
        self.members.insert(self.next_place, member);
        self.next_place += 1;
    }

    /// Removes a member or a handed-out id. The caller answers what the member waits for.
    pub(super) fn remove(&mut self, id: &str) -> Option<Member> {
        self.remove_pending(id);
        self.pending_syncs.remove(id);
        let place = self.places.remove(id)?;
        let member = self.members.remove(&place)?;
        self.count_out(&member);
        if let Some(instance_id) = &member.instance_id {
            self.instances.remove(instance_id);
        }
        if self.is_leader(id) {
            self.leader = self.members.values().next().map(|m| m.id.clone());
        }
        Some(member)
    }

    /// Gives a static member a new id; its place, role and assignment stay. Returns the JoinGroup and
    /// SyncGroup that waited under the old id.
    pub(super) fn replace_id(&mut self, old_id: &str, new_id: Arc<str>) -> (Option<Token>, Option<Token>) {
        let Some(place) = self.places.remove(old_id) else {
            return (None, None);
        };
        self.places.insert(new_id.clone(), place);
        if self.is_leader(old_id) {
            self.leader = Some(new_id.clone());
        }
        if self.pending_syncs.remove(old_id) {
            self.pending_syncs.insert(new_id.clone());
        }
        let replaced = self.change(place, |member| {
            member.id = new_id.clone();
            member.is_new = false;
            (member.instance_id.clone(), member.join.take(), member.sync.take())
        });
        let Some((instance_id, join, sync)) = replaced else {
            return (None, None);
        };
        if let Some(instance_id) = instance_id {
            self.instances.insert(instance_id, new_id);
        }
        (join, sync)
    }

    /// Changes a member, keeping the group's counts right. Not for its ids.
    pub(super) fn update<R>(&mut self, id: &str, change: impl FnOnce(&mut Member) -> R) -> Option<R> {
        let place = *self.places.get(id)?;
        self.change(place, change)
    }

    fn change<R>(&mut self, place: u64, change: impl FnOnce(&mut Member) -> R) -> Option<R> {
        let mut member = self.members.remove(&place)?;
        self.count_out(&member);
        let result = change(&mut member);
        self.count_in(&member);
        self.members.insert(place, member);
        Some(result)
    }

    fn count_in(&mut self, member: &Member) {
        for name in distinct_names(&member.protocols) {
            *self.supporters.entry(name.to_owned()).or_default() += 1;
        }
        self.joins_waiting += usize::from(member.join.is_some());
        self.bytes += member.size_bytes();
    }

    fn count_out(&mut self, member: &Member) {
        for name in distinct_names(&member.protocols) {
            if let Some(count) = self.supporters.get_mut(name) {
                *count -= 1;
                if *count == 0 {
                    self.supporters.remove(name);
                }
            }
        }
        self.joins_waiting -= usize::from(member.join.is_some());
        self.bytes -= member.size_bytes();
    }

    /// The protocol most members prefer among those that all support. Ties go to the protocol that
    /// the earliest member voted for, so that equal groups choose equally.
    pub(super) fn select_protocol(&self) -> Option<String> {
        let all = self.members.len();
        let candidates: BTreeSet<&str> = self
            .supporters
            .iter()
            .filter(|(_, count)| **count == all)
            .map(|(name, _)| name.as_str())
            .collect();
        let mut votes: Vec<(&str, usize)> = Vec::new();
        for name in self.members().filter_map(|member| member.vote(&candidates)) {
            match votes.iter_mut().find(|(voted, _)| *voted == name) {
                Some((_, count)) => *count += 1,
                None => votes.push((name, 1)),
            }
        }
        let most = votes.iter().map(|(_, count)| *count).max()?;
        votes
            .into_iter()
            .find(|(_, count)| *count == most)
            .map(|(name, _)| name.to_owned())
    }

    /// Keeps the leader if it has joined, else makes the first member that has joined the leader.
    /// False when nobody has.
    pub(super) fn elect_joined_leader(&mut self) -> bool {
        let joined = |member: &&Member| member.join.is_some();
        if self
            .leader
            .as_deref()
            .and_then(|id| self.member(id))
            .filter(joined)
            .is_some()
        {
            return true;
        }
        let Some(elected) = self.members().find(joined).map(|m| m.id.clone()) else {
            return false;
        };
        self.leader = Some(elected);
        true
    }

    /// Begins the next generation with the members there are.
    pub(super) fn begin_generation(&mut self, now: TimestampMs) {
        // Two thousand million rebalances later the count starts again; negative means "none".
        self.generation = self.generation.checked_add(1).unwrap_or(1);
        self.pending_syncs.clear();
        self.protocol_name = self.select_protocol();
        if self.members.is_empty() {
            self.set_phase(now, Phase::Empty);
        } else {
            self.pending_syncs = self.places.keys().cloned().collect();
            self.set_phase(now, Phase::CompletingRebalance { assignments: None });
        }
        self.learn_subscribed_topics();
    }

    pub(super) fn learn_subscribed_topics(&mut self) {
        self.subscribed_topics = self.read_subscribed_topics();
    }

    fn read_subscribed_topics(&self) -> Option<BTreeSet<String>> {
        if !self.is_consumer() {
            return None;
        }
        if self.members.is_empty() {
            return Some(BTreeSet::new());
        }
        let protocol = self.protocol_name.as_deref()?;
        let mut topics = BTreeSet::new();
        for member in self.members() {
            topics.extend(subscription::topics(&member.metadata(protocol))?);
        }
        Some(topics)
    }

    /// Whether offsets of the topic are in use. A consumer group whose topics cannot be known is
    /// taken to use them all.
    pub(super) fn is_subscribed(&self, topic: &str) -> bool {
        self.subscribed_topics
            .as_ref()
            .map_or(self.is_consumer(), |topics| topics.contains(topic))
    }

    /// What a member learns on joining the present generation.
    pub(super) fn joined(&self, member_id: &str) -> Joined {
        Joined {
            generation: self.generation,
            protocol_type: self.protocol_type.clone(),
            protocol_name: self.protocol_name.clone(),
            leader: self.leader.as_deref().unwrap_or_default().to_owned(),
            skip_assignment: false,
            member_id: member_id.to_owned(),
            members: if self.is_leader(member_id) {
                self.members_for_leader()
            } else {
                Vec::new()
            },
        }
    }

    fn members_for_leader(&self) -> Vec<JoinMember> {
        let protocol = self.protocol_name.as_deref().unwrap_or_default();
        let seen = |member: &Member| JoinMember {
            member_id: member.id.to_string(),
            instance_id: member.instance_id.clone(),
            metadata: member.metadata(protocol),
        };
        self.members().map(seen).collect()
    }

    /// What must always hold; tests call it after every step.
    #[cfg(test)]
    pub(super) fn check(&self) {
        assert_eq!(self.places.len(), self.members.len());
        for (id, place) in &self.places {
            assert_eq!(self.members[place].id, *id);
        }
        assert_eq!(
            self.instances.len(),
            self.members().filter(|m| m.is_static()).count()
        );
        for (instance_id, id) in &self.instances {
            assert_eq!(
                self.member(id).and_then(|m| m.instance_id.as_deref()),
                Some(instance_id.as_str())
            );
        }
        assert_eq!(
            self.joins_waiting,
            self.members().filter(|m| m.join.is_some()).count()
        );
        let pending_bytes: usize = self.pending_joins.iter().map(|id| id.len()).sum();
        assert_eq!(
            self.bytes,
            self.members().map(Member::size_bytes).sum::<usize>() + pending_bytes
        );
        assert!(self.pending_joins.iter().all(|id| self.member(id).is_none()));
        assert!(self.pending_syncs.iter().all(|id| self.member(id).is_some()));
        assert_eq!(self.leader.is_some(), !self.members.is_empty());
        assert!(self.leader.as_deref().is_none_or(|id| self.member(id).is_some()));
        match self.phase {
            Phase::Empty | Phase::Dead => assert!(self.members.is_empty()),
            Phase::PreparingRebalance { .. } => assert!(self.pending_syncs.is_empty()),
            Phase::CompletingRebalance { .. } | Phase::Stable => {
                assert!(!self.members.is_empty());
                let protocol = self.protocol_name.as_deref().expect("chosen with the generation");
                assert_eq!(self.supporters[protocol], self.members.len());
            }
        }
        if !matches!(self.phase, Phase::CompletingRebalance { .. }) {
            assert!(self.members().all(|m| m.sync.is_none()));
        }
    }
}

/// A member that names a protocol twice supports it once.
fn distinct_names(protocols: &[Protocol]) -> impl Iterator<Item = &str> {
    let first = |at: usize, name: &str| protocols[..at].iter().all(|before| before.name != name);
    protocols
        .iter()
        .enumerate()
        .filter(move |(at, p)| first(*at, &p.name))
        .map(|(_, p)| p.name.as_str())
}
