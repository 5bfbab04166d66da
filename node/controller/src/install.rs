//! How a checkpoint of the owner's controller takes the place of the content in a mirror's. What is the region's own
//! stays: its nodes, placements, configs of nodes, producer ids.

use meridian_lineage::{InstallRejected, StagePart, StageRejected, Staging, Standing};
use meridian_types::LogPosition;

use crate::controller::Controller;

impl Controller {
    /// The checkpoint that is whole here and not installed yet: its name and its bytes.
    pub fn staged(&self) -> Option<(u64, &[u8])> {
        let staging = self.staged.as_ref()?;
        Some((staging.checkpoint(), staging.whole()?))
    }

    pub(crate) fn stage(&mut self, part: &StagePart) -> Result<(), StageRejected> {
        self.standing.check_stage()?;
        let mut staging = self.staged.take().map(|staging| *staging);
        let taken = Staging::take(&mut staging, part);
        self.staged = staging.map(Box::new);
        taken
    }

    pub(crate) fn install(&mut self, at: LogPosition, checkpoint: u64) -> Result<u64, InstallRejected> {
        let unusable = |reason: String| InstallRejected::Unusable { reason };
        let (staged, body) = self.staged().ok_or(InstallRejected::NotStaged)?;
        if staged != checkpoint {
            return Err(InstallRejected::NotStaged);
        }
        let theirs = Self::decode_snapshot(body).map_err(|error| unusable(error.to_string()))?;
        let facts = |controller: &Self| {
            let founding = controller.founding()?;
            Some((founding.cluster_id.clone(), founding.shards))
        };
        if facts(&theirs) != facts(self) {
            return Err(unusable("it is of another cluster".to_owned()));
        }
        self.standing.check_install(&theirs.standing)?;
        let geo = self.geo.as_ref().zip(theirs.geo.as_ref());
        let Some((own, other)) = geo.filter(|(own, other)| own.number != other.number) else {
            return Err(unusable("it is no other region's".to_owned()));
        };
        let mut own = own.clone();
        own.regions.clone_from(&other.regions);
        own.deadline = other.deadline;
        let mut next = self.clone();
        next.geo = Some(own);
        next.topics = theirs.topics;
        next.cluster_configs = theirs.cluster_configs;
        next.standing = Standing::mirror_of(&theirs.standing, at.index);
        next.staged = None;
        next.resolve_settings();
        next.check().map_err(unusable)?;
        *self = next;
        Ok(self.standing.sequence())
    }
}

#[cfg(test)]
mod tests;
