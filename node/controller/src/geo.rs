//! The regions of one logical cluster, and which of them owns it.

use std::collections::BTreeMap;

use bytes::Bytes;
use meridian_lineage::{
    BeginEpoch, ContentCommand, ContentDigest, ContentRun, Effect, MirrorRejected, Standing, Turn,
    TurnRejected,
};
use meridian_types::{LogPosition, NodeId, RegionEpoch, RegionNumber, TimestampMs};
use thiserror::Error;

use crate::command::{Command, CommandError};
use crate::configs::{ConfigResource, Configs};
use crate::controller::{Controller, is_name};
use crate::node::{GEO_LEVEL, HostPort, NodeRegistration, RegisterNodeError};
use crate::outcome::FoundingError;

/// Most addresses of a region.
pub const GEO_ADDRESSES_MAX: usize = 64;

/// What a region is founded as that is to be one of several.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GeoFounding {
    /// Its number.
    pub number: RegionNumber,
    /// The region that owns the cluster: itself in the first region, which then adds content; otherwise the one that it
    /// mirrors, under the epoch of the founding.
    pub owner: RegionNumber,
}

/// A region of the logical cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GeoRegion {
    /// Its number.
    pub number: RegionNumber,
    /// Its name, which no other region has.
    pub name: String,
    /// Where the nodes of other regions reach it.
    pub geo: Vec<HostPort>,
}

/// Which region owns the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ownership {
    /// The epoch: the one in force of a drain, the next one where the ownership is held anew.
    pub region_epoch: RegionEpoch,
    /// The owner.
    pub owner: RegionNumber,
    /// Whether it stays there.
    pub state: OwnershipState,
}

/// Whether an ownership stays where it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OwnershipState {
    /// It does.
    Held,
    /// It is to go to another region. The owner adds no content meanwhile.
    Draining {
        /// The region that is to get it.
        to: RegionNumber,
        /// When the old owner takes it back if the drain is not done.
        deadline: TimestampMs,
    },
}

/// Why a region was not set or removed.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum RegionError {
    /// Regions without a number have no others.
    #[error("this region was founded without a number and can have no others beside it")]
    NotGeo,
    /// Names go into metrics and certificates.
    #[error("region name {name:?} must be 1 to 64 ASCII letters, digits, '.', '_' or '-'")]
    Name {
        /// What it was.
        name: String,
    },
    /// Two regions of one name could not be told apart.
    #[error("region {number} is called '{name}' already")]
    NameTaken {
        /// The name.
        name: String,
        /// Who has it.
        number: RegionNumber,
    },
    /// The other regions could not reach it.
    #[error(
        "region {number} needs 1 to {GEO_ADDRESSES_MAX} addresses, each with a host and a port; given were {given:?}"
    )]
    Addresses {
        /// The region.
        number: RegionNumber,
        /// What was given.
        given: Vec<HostPort>,
    },
    /// There is nothing to remove.
    #[error("there is no region {number}")]
    NotFound {
        /// The number.
        number: RegionNumber,
    },
    /// Delete them first.
    #[error("topics that stay in region {number} alone: {topics}, '{example}' among them; delete them first")]
    Home {
        /// The region.
        number: RegionNumber,
        /// How many topics.
        topics: usize,
        /// Name of one.
        example: String,
    },
    /// Switch over to another region first.
    #[error("region {number} owns the cluster, or is about to; switch over to another region first")]
    Owner {
        /// The region.
        number: RegionNumber,
    },
}

/// What a controller knows of its region among others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Geo {
    pub(crate) number: RegionNumber,
    pub(crate) regions: BTreeMap<RegionNumber, GeoRegion>,
    /// Of the drain that is under way.
    pub(crate) deadline: Option<TimestampMs>,
}

impl Geo {
    pub(crate) fn new(number: RegionNumber) -> Self {
        Self {
            number,
            regions: BTreeMap::new(),
            deadline: None,
        }
    }

    pub(crate) fn check_node(&self, node: NodeId) -> Result<(), RegisterNodeError> {
        check_node(self.number, node)
    }
}

fn check_node(region: RegionNumber, node: NodeId) -> Result<(), RegisterNodeError> {
    match RegionNumber::of(node) == Some(region) {
        true => Ok(()),
        false => Err(RegisterNodeError::Region { node, region }),
    }
}

impl GeoFounding {
    pub(crate) fn check(&self, nodes: &[NodeRegistration], configs: &Configs) -> Result<(), FoundingError> {
        let refused = |what: String| Err(FoundingError::Geo { what });
        if self.number.max(self.owner) > RegionNumber::MAX {
            return refused(format!("region numbers go up to {}", RegionNumber::MAX));
        }
        if !configs.is_empty() {
            return refused(
                "all regions have the same configs of the cluster; the owner sets them later".into(),
            );
        }
        for registration in nodes {
            let (node, version_max) = (registration.node, registration.version_max);
            check_node(self.number, node)?;
            if version_max < GEO_LEVEL {
                return Err(RegisterNodeError::Version {
                    node,
                    version_max,
                    feature_level: GEO_LEVEL,
                }
                .into());
            }
        }
        Ok(())
    }
}

impl Ownership {
    fn turn(&self) -> Turn {
        let region_epoch = self.region_epoch;
        match self.state {
            OwnershipState::Held => Turn::Hold {
                region_epoch,
                owner: self.owner,
            },
            OwnershipState::Draining { to, .. } => Turn::Drain { region_epoch, to },
        }
    }
}

impl ContentCommand for Command {
    type Error = CommandError;

    fn read(bytes: &Bytes) -> Result<Self, CommandError> {
        Self::decode(std::slice::from_ref(bytes))
    }

    fn effect(&self) -> Effect<'_> {
        let is_of_node = |resource| matches!(resource, ConfigResource::Node(_));
        match self {
            Self::CreateTopics { .. }
            | Self::DeleteTopics { .. }
            | Self::CreatePartitions { .. }
            | Self::SetRegion(_)
            | Self::RemoveRegion { .. } => Effect::Content(None),
            // A node's configs are its region's own matter.
            Self::AlterConfigs { changes } if changes.iter().all(|change| is_of_node(change.resource)) => {
                Effect::Own
            }
            Self::AlterConfigs { .. } => Effect::Content(None),
            Self::SetOwnership(ownership) => Effect::Content(Some(ownership.turn())),
            Self::Mirrored(run) => Effect::Run(run),
            Self::Found { .. }
            | Self::RegisterNode { .. }
            | Self::RemoveNode { .. }
            | Self::DrainNode { .. }
            | Self::SetPlacement { .. }
            | Self::AllocateProducerIds { .. }
            | Self::Stage(_)
            | Self::Install { .. } => Effect::Own,
        }
    }

    fn fold(&self, digest: ContentDigest) -> ContentDigest {
        self.encode()
            .iter()
            .fold(digest, |digest, part| digest.mix_bytes(part))
    }
}

impl Controller {
    /// Whether the region is one of several of a logical cluster.
    pub fn is_geo(&self) -> bool {
        self.geo.is_some()
    }

    /// The region's number; 0 for one that is alone.
    pub fn region_number(&self) -> RegionNumber {
        self.geo.as_ref().map_or(RegionNumber(0), |geo| geo.number)
    }

    /// Where the facts stand among the regions: what this region may change, and how far their content has come.
    pub fn standing(&self) -> &Standing {
        &self.standing
    }

    /// The regions of the logical cluster, by number, as far as they have been made known.
    pub fn regions(&self) -> impl Iterator<Item = &GeoRegion> {
        self.geo.iter().flat_map(|geo| geo.regions.values())
    }

    /// A region of the logical cluster.
    pub fn region(&self, number: RegionNumber) -> Option<&GeoRegion> {
        self.geo.as_ref()?.regions.get(&number)
    }

    /// Which region owns the cluster. A region that is alone owns itself.
    pub fn ownership(&self) -> Ownership {
        let progress = self.standing.progress();
        let deadline = self.geo.as_ref().and_then(|geo| geo.deadline);
        let state = match progress.draining_to {
            Some(to) => OwnershipState::Draining {
                to,
                deadline: deadline.unwrap_or_default(),
            },
            None => OwnershipState::Held,
        };
        Ownership {
            region_epoch: progress.region_epoch,
            owner: progress.owner,
            state,
        }
    }

    /// Whether this region owns the cluster and changes its topics and configs: not while it is being drained.
    pub fn is_owner(&self) -> bool {
        self.standing.check_owner().is_ok()
    }

    /// Whether another region owns the cluster: its brokers lead, and clients are sent there.
    pub fn is_owned_elsewhere(&self) -> bool {
        self.standing.owner() != self.region_number()
    }

    /// What [`Command::SetOwnership`] would answer now, changing nothing; and that a drain is for a region that is known,
    /// which the command itself does not look at.
    pub fn check_set_ownership(&self, ownership: &Ownership) -> Result<(), TurnRejected> {
        self.standing.check_content(Some(ownership.turn()))?;
        match ownership.state {
            OwnershipState::Draining { to, .. } if self.region(to).is_none() => {
                Err(TurnRejected::Region { region: to })
            }
            _ => Ok(()),
        }
    }

    /// What [`Command::SetRegion`] would answer now to the owner, changing nothing.
    pub fn check_set_region(&self, region: &GeoRegion) -> Result<(), RegionError> {
        if !self.is_geo() {
            return Err(RegionError::NotGeo);
        }
        let GeoRegion { number, name, geo } = region;
        if !is_name(name) {
            return Err(RegionError::Name { name: name.clone() });
        }
        if let Some(other) = self
            .regions()
            .find(|other| other.name == *name && other.number != *number)
        {
            return Err(RegionError::NameTaken {
                name: name.clone(),
                number: other.number,
            });
        }
        let is_address = |address: &HostPort| !address.host.is_empty() && address.port != 0;
        if !(1..=GEO_ADDRESSES_MAX).contains(&geo.len()) || !geo.iter().all(is_address) {
            return Err(RegionError::Addresses {
                number: *number,
                given: geo.clone(),
            });
        }
        Ok(())
    }

    /// What [`Command::RemoveRegion`] would answer now to the owner, changing nothing.
    pub fn check_remove_region(&self, number: RegionNumber) -> Result<(), RegionError> {
        if !self.is_geo() {
            return Err(RegionError::NotGeo);
        }
        if self.region(number).is_none() {
            return Err(RegionError::NotFound { number });
        }
        if self.standing.owner() == number || self.standing.progress().draining_to == Some(number) {
            return Err(RegionError::Owner { number });
        }
        let mut staying = self.topics().filter(|topic| topic.id.home() == Some(number));
        match staying.next() {
            Some(first) => Err(RegionError::Home {
                number,
                topics: 1 + staying.count(),
                example: first.name.to_string(),
            }),
            None => Ok(()),
        }
    }

    pub(crate) fn set_region(&mut self, region: &GeoRegion) -> Result<(), RegionError> {
        self.check_set_region(region)?;
        if let Some(geo) = &mut self.geo {
            geo.regions.insert(region.number, region.clone());
        }
        Ok(())
    }

    pub(crate) fn remove_region(&mut self, number: RegionNumber) -> Result<(), RegionError> {
        self.check_remove_region(number)?;
        if let Some(geo) = &mut self.geo {
            geo.regions.remove(&number);
        }
        Ok(())
    }

    /// The standing moves the ownership itself; what it has no room for is kept here.
    pub(crate) fn note_deadline(&mut self, ownership: &Ownership) {
        if let Some(geo) = &mut self.geo {
            geo.deadline = match ownership.state {
                OwnershipState::Held => None,
                OwnershipState::Draining { deadline, .. } => Some(deadline),
            };
        }
    }

    pub(crate) fn begin_geo(&mut self, at: LogPosition, region_epoch: RegionEpoch, geo: &GeoFounding) {
        let begin = BeginEpoch {
            region_epoch,
            owner: geo.owner,
            is_owner: geo.owner == geo.number,
            expected_sequence: 0,
        };
        self.standing
            .begin(at.index, &begin, None)
            .expect("the founding checked the epoch, and nothing was counted before it");
        self.geo = Some(Geo::new(geo.number));
    }

    /// Applies what is new of a run, all or nothing. What the owner's controller refused is refused here too.
    pub(crate) fn apply_mirrored(
        &mut self,
        at: LogPosition,
        run: &ContentRun,
    ) -> Result<u64, MirrorRejected> {
        let own = self.region_number();
        let commands = self.standing.admit::<Command>(at.index, run, own)?;
        if !commands.is_empty() {
            // It goes on by itself.
            self.staged = None;
        }
        for (_, command) in commands {
            match command {
                // Configs of nodes may travel with others, and are their region's own matter.
                Command::AlterConfigs { mut changes } => {
                    changes.retain(|change| !matches!(change.resource, ConfigResource::Node(_)));
                    self.apply_command(at, &Command::AlterConfigs { changes });
                }
                command => {
                    self.apply_command(at, &command);
                }
            }
        }
        Ok(self.standing.sequence())
    }

    /// Asserts what must hold of the region among others; says what does not.
    pub(crate) fn check_geo(&self) -> Result<(), String> {
        self.standing.check()?;
        let Some(geo) = &self.geo else {
            return match self.standing.is_counted() {
                true => Err("content is counted in a region that is alone".into()),
                false => Ok(()),
            };
        };
        if !self.standing.is_counted() {
            return Err("content is not counted in a region that is one of several".into());
        }
        if self.founding.is_none() {
            return Err("the region has a number before its founding".into());
        }
        if self.feature_level < GEO_LEVEL {
            return Err("a region that is one of several is below its feature level".into());
        }
        if geo.deadline.is_some() != self.standing.progress().draining_to.is_some() {
            return Err("a drain and its deadline do not go together".into());
        }
        let is_own = self.standing.owner() == geo.number;
        let is_mirror = self.standing.role() == meridian_lineage::Role::Mirror;
        if is_own == is_mirror {
            return Err(format!(
                "region {} is {}, and the owner is {}",
                geo.number,
                self.standing.role(),
                self.standing.owner()
            ));
        }
        if let Some(node) = self.nodes.keys().find(|node| geo.check_node(**node).is_err()) {
            return Err(format!(
                "node {node} has an id of another region than {}",
                geo.number
            ));
        }
        if let Some((number, _)) = geo
            .regions
            .iter()
            .find(|(number, region)| **number != region.number)
        {
            return Err(format!("a region is filed as {number}"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
