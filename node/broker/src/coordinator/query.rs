//! Questions about groups: describe, list, and whether something may be deleted.

use std::collections::BTreeMap;

use bytes::Bytes;
use meridian_types::{LeaderEpoch, TimestampMs};

use super::core::Coordinator;
use super::error::GroupError;
use super::group::{Group, GroupState};
use super::member::Member;

/// DescribeGroups of one group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupDescription {
    /// State.
    pub state: GroupState,
    /// Such as `consumer`; empty when the group never had members.
    pub protocol_type: String,
    /// The chosen assignor, when stable.
    pub protocol_name: String,
    /// In order of joining.
    pub members: Vec<MemberDescription>,
}

/// One member of a described group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberDescription {
    /// Member id.
    pub member_id: String,
    /// `group.instance.id` of a static member.
    pub instance_id: Option<String>,
    /// `client.id`.
    pub client_id: String,
    /// Address of the client.
    pub client_host: String,
    /// Metadata of the chosen assignor, when the group is stable.
    pub metadata: Bytes,
    /// Assignment, when the group is stable.
    pub assignment: Bytes,
}

/// One line of ListGroups. The group type is always `classic`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedGroup {
    /// The group.
    pub group_id: String,
    /// Such as `consumer`; empty when the group never had members.
    pub protocol_type: String,
    /// State.
    pub state: GroupState,
}

/// Which groups ListGroups is to list. Names in any case; an empty list lets all through.
#[derive(Clone, Debug, Default)]
pub struct ListFilter {
    /// Names of states, such as `Stable`.
    pub states: Vec<String>,
    /// Types of groups; those here are `classic`.
    pub types: Vec<String>,
}

/// From when the retention of a group's offsets counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OffsetExpiry {
    /// They are in use, or a rebalance is under way.
    Never,
    /// From the commit of each offset.
    SinceCommit,
    /// From the moment the group became empty, or from the commit where that is later.
    SinceEmpty(TimestampMs),
    /// From the commit of each offset, but only of topics that no member is subscribed to.
    SinceCommitUnlessSubscribed,
}

impl Coordinator {
    /// The leadership under which this node answers for the group now: what follows from its answers is to be
    /// proposed under it, and no other.
    pub fn leadership_of(&self, group_id: &str) -> Result<LeaderEpoch, GroupError> {
        self.check_owned(group_id)
    }

    /// Describes a group. `has_offsets`: whether committed offsets of the group exist.
    ///
    /// Errors: `GroupNotFound` when nothing is known of the group; up to version 5 of DescribeGroups
    /// that is answered as a group in state Dead without an error.
    pub fn describe(&self, group_id: &str, has_offsets: bool) -> Result<GroupDescription, GroupError> {
        self.check_owned(group_id)?;
        match self.groups.get(group_id) {
            Some(group) if group.state() != GroupState::Dead => Ok(described(group)),
            None if has_offsets => Ok(GroupDescription {
                state: GroupState::Empty,
                protocol_type: String::new(),
                protocol_name: String::new(),
                members: Vec::new(),
            }),
            _ => Err(GroupError::GroupNotFound),
        }
    }

    /// Lists the groups of this node, in order of their names. `with_offsets`: all groups of the
    /// owned shards that have committed offsets; those without members are listed too.
    ///
    /// Errors: `LoadInProgress` when the list would not be complete.
    pub fn list<'a>(
        &self,
        filter: &ListFilter,
        with_offsets: impl IntoIterator<Item = &'a str>,
    ) -> Result<Vec<ListedGroup>, GroupError> {
        if self.is_loading() {
            return Err(GroupError::LoadInProgress);
        }
        let passes = |names: &[String], name: &str| {
            names.is_empty() || names.iter().any(|wanted| wanted.eq_ignore_ascii_case(name))
        };
        if !passes(&filter.types, "classic") {
            return Ok(Vec::new());
        }
        let mut listed: BTreeMap<&str, ListedGroup> = BTreeMap::new();
        for group_id in with_offsets {
            listed.insert(
                group_id,
                ListedGroup {
                    group_id: group_id.to_owned(),
                    protocol_type: String::new(),
                    state: GroupState::Empty,
                },
            );
        }
        for (id, group) in &self.groups {
            listed.insert(
                id,
                ListedGroup {
                    group_id: id.to_string(),
                    protocol_type: group.protocol_type.clone().unwrap_or_default(),
                    state: group.state(),
                },
            );
        }
        Ok(listed
            .into_values()
            .filter(|group| passes(&filter.states, &group.state.to_string()))
            .collect())
    }

    /// Whether the group can be deleted. `has_offsets`: whether committed offsets of it exist.
    pub fn validate_delete(&self, group_id: &str, has_offsets: bool) -> Result<(), GroupError> {
        if group_id.is_empty() && !has_offsets {
            return Err(GroupError::InvalidGroupId);
        }
        self.check_owned(group_id)?;
        match self.groups.get(group_id).map(Group::state) {
            Some(GroupState::Empty) => Ok(()),
            None if has_offsets => Ok(()),
            None | Some(GroupState::Dead) => Err(GroupError::GroupNotFound),
            Some(_) => Err(GroupError::NonEmptyGroup),
        }
    }

    /// Whether offsets of the group can be deleted, in all and for each topic.
    /// `has_offsets`: whether committed offsets of the group exist.
    pub fn validate_delete_offsets(
        &self,
        group_id: &str,
        has_offsets: bool,
        topics: &[String],
    ) -> Result<Vec<Result<(), GroupError>>, GroupError> {
        self.check_owned(group_id)?;
        let Some(group) = self.groups.get(group_id) else {
            return if has_offsets {
                Ok(vec![Ok(()); topics.len()])
            } else {
                Err(GroupError::GroupNotFound)
            };
        };
        match group.state() {
            GroupState::Dead => return Err(GroupError::GroupNotFound),
            GroupState::Empty => {}
            _ if !group.is_consumer() => return Err(GroupError::NonEmptyGroup),
            _ => {}
        }
        let check = |topic: &String| match group.is_subscribed(topic) {
            true => Err(GroupError::SubscribedToTopic),
            false => Ok(()),
        };
        Ok(topics.iter().map(check).collect())
    }

    /// From when the retention of the group's offsets counts (KIP-211).
    pub fn offset_expiry(&self, group_id: &str) -> OffsetExpiry {
        if self.check_owned(group_id).is_err() {
            return OffsetExpiry::Never;
        }
        let Some(group) = self.groups.get(group_id) else {
            return OffsetExpiry::SinceCommit;
        };
        match group.state() {
            _ if group.protocol_type.is_none() => OffsetExpiry::SinceCommit,
            GroupState::Empty => OffsetExpiry::SinceEmpty(group.phase_since),
            GroupState::Stable if group.subscribed_topics.is_some() => {
                OffsetExpiry::SinceCommitUnlessSubscribed
            }
            _ => OffsetExpiry::Never,
        }
    }

    /// Whether a member of the group uses the topic, as far as can be known.
    pub fn is_subscribed(&self, group_id: &str, topic: &str) -> bool {
        self.groups
            .get(group_id)
            .is_some_and(|group| group.is_subscribed(topic))
    }

    /// How many groups are in each state, for metrics.
    pub fn counts(&self) -> BTreeMap<GroupState, usize> {
        let mut counts = BTreeMap::new();
        for group in self.groups.values() {
            *counts.entry(group.state()).or_default() += 1;
        }
        counts
    }
}

fn described(group: &Group) -> GroupDescription {
    let protocol = group
        .protocol_name
        .as_deref()
        .filter(|_| group.state() == GroupState::Stable);
    let member = |member: &Member| MemberDescription {
        member_id: member.id.to_string(),
        instance_id: member.instance_id.clone(),
        client_id: member.client.id.clone(),
        client_host: member.client.host.clone(),
        metadata: protocol
            .map(|protocol| member.metadata(protocol))
            .unwrap_or_default(),
        assignment: protocol.map(|_| member.assignment.clone()).unwrap_or_default(),
    };
    GroupDescription {
        state: group.state(),
        protocol_type: group.protocol_type.clone().unwrap_or_default(),
        protocol_name: protocol.unwrap_or_default().to_owned(),
        members: group.members().map(member).collect(),
    }
}
