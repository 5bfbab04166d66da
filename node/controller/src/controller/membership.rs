//! Nodes and placements: how the region is founded, grows and shrinks.

use std::collections::BTreeMap;

use meridian_types::{LogPosition, NodeId, RegionNumber, ShardId, ShardMap, TimestampMs};

use super::{Controller, Founding, HOME_SHARDS_MAX};
use crate::configs::{self, Configs};
use crate::geo::GeoFounding;
use crate::node::{GEO_LEVEL, Node, NodeNotFound, NodeRegistration, RegisterNodeError, RemoveNodeError};
use crate::outcome::FoundingError;
use crate::placement::{Placement, SetPlacementError, are_distinct};

/// The feature level from which on the id of a removed node is never given again. Old entries of a group's log name its
/// early voters: an empty replica under an old voter's id reads them first, and would take itself for that voter.
const RETIRES_IDS: u16 = 3;

impl Controller {
    pub(super) fn found(
        &mut self,
        at: LogPosition,
        founding: &Founding,
        nodes: &[NodeRegistration],
        placements: &[(ShardId, Vec<NodeId>)],
        configs: &Configs,
        geo: Option<&GeoFounding>,
    ) -> Result<(), FoundingError> {
        if let Some(present) = &self.founding {
            let Founding {
                region, cluster_id, ..
            } = present.clone();
            return Err(FoundingError::Founded { region, cluster_id });
        }
        founding.check()?;
        let configs = configs::canonical_cluster_configs(configs)?;
        if let Some(geo) = geo {
            geo.check(nodes, &configs)?;
        }
        let nodes = founding_nodes(at, founding, nodes)?;
        let placements = founding_placements(at, founding, &nodes, placements, geo.is_some())
            .map_err(|what| FoundingError::Placement { what })?;
        self.founding = Some(founding.clone());
        self.cluster_configs = configs;
        self.resolve_settings();
        self.nodes = nodes;
        self.placements = placements;
        if let Some(geo) = geo {
            self.feature_level = GEO_LEVEL;
            self.begin_geo(at, founding.region_epoch, geo);
        }
        self.raise_feature_level();
        Ok(())
    }

    pub(super) fn register(
        &mut self,
        at: LogPosition,
        node: &NodeRegistration,
        now: TimestampMs,
    ) -> Result<u64, RegisterNodeError> {
        node.check()?;
        let id = node.node;
        if let Some(geo) = &self.geo {
            geo.check_node(id)?;
        }
        let present = self.nodes.get(&id);
        if let Some(present) = present.map(|present| present.registration.incarnation)
            && present != node.incarnation
        {
            return Err(RegisterNodeError::IdTaken { node: id, present });
        }
        if self.retired.contains(&id) {
            return Err(RegisterNodeError::Retired { node: id });
        }
        if node.peer.is_none() && self.nodes.keys().any(|other| *other != id) {
            return Err(RegisterNodeError::NoPeerAddress { node: id });
        }
        if node.version_max < self.feature_level {
            return Err(RegisterNodeError::Version {
                node: id,
                version_max: node.version_max,
                feature_level: self.feature_level,
            });
        }
        let epoch = at.index.0;
        let row = Node {
            registration: node.clone(),
            epoch,
            registered_at: now,
            draining: present.is_some_and(|present| present.draining),
        };
        self.nodes.insert(id, row);
        if self.placements.is_empty() {
            self.place_everything_on_the_first_node();
        }
        self.raise_feature_level();
        Ok(epoch)
    }

    pub(super) fn remove_node(
        &mut self,
        at: LogPosition,
        node: NodeId,
        force: bool,
    ) -> Result<(), RemoveNodeError> {
        self.check_remove_node(node, force)?;
        for placement in self.placements.values_mut() {
            // Below level 3 the id may come back with an empty directory, which must never make a group again.
            if placement.founders.contains(&node) {
                placement.founders.clear();
            }
            if placement.contains(node) {
                placement.replicas.retain(|replica| *replica != node);
                placement.epoch = at.index.0;
            }
        }
        self.nodes.remove(&node);
        if self.feature_level >= RETIRES_IDS {
            self.retired.insert(node);
        }
        self.node_configs.remove(&node);
        self.broker_settings.remove(&node);
        self.raise_feature_level();
        Ok(())
    }

    pub(super) fn drain(&mut self, node: NodeId, draining: bool) -> Result<(), NodeNotFound> {
        let row = self.nodes.get_mut(&node).ok_or(NodeNotFound { node })?;
        row.draining = draining;
        Ok(())
    }

    pub(super) fn place(
        &mut self,
        at: LogPosition,
        shard: ShardId,
        replicas: &[NodeId],
        expected: u64,
    ) -> Result<u64, SetPlacementError> {
        let placement = self
            .placements
            .get_mut(&shard)
            .ok_or(SetPlacementError::ShardNotFound { shard })?;
        let present = placement.epoch;
        if present != expected {
            return Err(SetPlacementError::Changed {
                shard,
                present,
                expected,
            });
        }
        if replicas.is_empty() || !are_distinct(replicas) {
            let replicas = replicas.to_vec();
            return Err(SetPlacementError::Replicas { shard, replicas });
        }
        if let Some(node) = replicas.iter().find(|node| !self.nodes.contains_key(node)) {
            return Err(NodeNotFound { node: *node }.into());
        }
        placement.replicas = replicas.to_vec();
        placement.epoch = at.index.0;
        Ok(placement.epoch)
    }

    /// What the first node of a region gets, and what version 1 left unsaid.
    pub(crate) fn place_everything_on_the_first_node(&mut self) {
        let (Some(founding), Some(first)) = (&self.founding, self.nodes.keys().next()) else {
            return;
        };
        let placement = Placement::founded(vec![*first], self.applied.index.0);
        let shards = ShardMap::shared(founding.shards)
            .all()
            .chain([ShardId::CONTROLLER]);
        self.placements = shards.map(|shard| (shard, placement.clone())).collect();
    }

    fn raise_feature_level(&mut self) {
        let levels = self.nodes.values().map(|node| node.registration.version_max);
        self.feature_level = self.feature_level.max(levels.min().unwrap_or(0));
    }

    /// Asserts what must hold of nodes and placements; says what does not.
    pub(super) fn check_placements(&self) -> Result<(), String> {
        let Some(founding) = &self.founding else {
            return match self.placements.is_empty() {
                true => Ok(()),
                false => Err("there are placements before the founding".into()),
            };
        };
        if let Some(node) =
            (self.nodes.values()).find(|node| node.registration.version_max < self.feature_level)
        {
            let node = node.registration.node;
            return Err(format!(
                "node {node} does not understand the feature level in force"
            ));
        }
        if let Some(node) = self.retired.iter().find(|node| self.nodes.contains_key(node)) {
            return Err(format!("node {node} has the id of a removed node"));
        }
        if self.placements.is_empty() && self.nodes.is_empty() {
            return Ok(());
        }
        let placed = self.placements.keys().copied();
        if !are_all_shards(placed, founding.shards, self.is_geo()) {
            return Err("not every shard has a placement, or another one has".into());
        }
        for (shard, placement) in self.placements() {
            let Placement {
                founders, replicas, ..
            } = placement;
            let is_known = |node: &NodeId| self.nodes.contains_key(node);
            if replicas.is_empty() || !are_distinct(replicas) || !replicas.iter().all(is_known) {
                return Err(format!("shard {shard} is placed on {replicas:?}"));
            }
            if !founders.iter().all(is_known) || !founders.is_sorted_by(|a, b| a < b) {
                return Err(format!("shard {shard} has founders {founders:?}"));
            }
            if placement.epoch > self.applied.index.0 {
                return Err(format!("shard {shard} was placed after the last command"));
            }
        }
        Ok(())
    }
}

fn founding_nodes(
    at: LogPosition,
    founding: &Founding,
    nodes: &[NodeRegistration],
) -> Result<BTreeMap<NodeId, Node>, FoundingError> {
    let mut rows = BTreeMap::new();
    for registration in nodes {
        registration.check()?;
        let node = registration.node;
        if registration.peer.is_none() && nodes.len() > 1 {
            return Err(RegisterNodeError::NoPeerAddress { node }.into());
        }
        let row = Node {
            registration: registration.clone(),
            epoch: at.index.0,
            registered_at: founding.founded_at,
            draining: false,
        };
        if rows.insert(node, row).is_some() {
            let what = format!("node {node} is named twice; every node needs an id of its own");
            return Err(FoundingError::Placement { what });
        }
    }
    Ok(rows)
}

fn founding_placements(
    at: LogPosition,
    founding: &Founding,
    nodes: &BTreeMap<NodeId, Node>,
    placements: &[(ShardId, Vec<NodeId>)],
    is_geo: bool,
) -> Result<BTreeMap<ShardId, Placement>, String> {
    let mut rows = BTreeMap::new();
    for (shard, replicas) in placements {
        let is_possible = !replicas.is_empty() && are_distinct(replicas);
        if !is_possible || !replicas.iter().all(|node| nodes.contains_key(node)) {
            return Err(format!("shard {shard} on {replicas:?}"));
        }
        rows.insert(*shard, Placement::founded(replicas.clone(), at.index.0));
    }
    let is_complete = match nodes.is_empty() {
        true => rows.is_empty(),
        false => are_all_shards(rows.keys().copied(), founding.shards, is_geo),
    };
    if !is_complete || rows.len() != placements.len() {
        return Err("every shard needs one placement, and the controller".to_owned());
    }
    Ok(rows)
}

/// Whether these are the shards of a region, in order: `shared` ones, in a region that is one of several perhaps some for topics
/// that stay in it, and the controller.
fn are_all_shards(placed: impl ExactSizeIterator<Item = ShardId>, shared: u32, is_geo: bool) -> bool {
    let count = u32::try_from(placed.len()).unwrap_or(u32::MAX).saturating_sub(1);
    let home_max = if is_geo { HOME_SHARDS_MAX } else { 0 };
    ShardMap::new(RegionNumber(0), shared, count)
        .is_some_and(|map| map.home_count() <= home_max && placed.eq(map.all().chain([ShardId::CONTROLLER])))
}
