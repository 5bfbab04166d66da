//! The shard among the regions: what comes from the owner, and who owns it.

use meridian_lineage::{BeginEpoch, BeginRejected, ContentDigest, ContentRun, MirrorRejected};
use meridian_types::{LogPosition, Partition, RegionNumber};

use crate::command::Command;
use crate::state::State;

/// A shard's commands say themselves whether the region of the log is the owner.
pub(crate) const NO_REGION: RegionNumber = RegionNumber(0);

/// A run that was taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mirrored {
    /// The shard's sequence behind it.
    pub sequence: u64,
    /// Content commands of it that were new.
    pub commands: usize,
    /// Partitions in which something may have moved. One may come several times.
    pub moved: Vec<Partition>,
}

impl State {
    /// Applies what is new of a run, all or nothing. What the owner's state refused is refused here too.
    pub(crate) fn apply_mirrored(
        &mut self,
        at: LogPosition,
        run: &ContentRun,
    ) -> Result<Mirrored, MirrorRejected> {
        let commands = self.standing.admit::<Command>(at.index, run, NO_REGION)?;
        if !commands.is_empty() {
            // It goes on by itself.
            self.staged = None;
        }
        let mut moved = Vec::new();
        for (position, command) in &commands {
            self.apply_content(at.index, *position, command);
            match command {
                Command::Append { groups, .. } => moved.extend(groups.iter().map(|group| group.partition)),
                Command::SetLogStart { starts } => {
                    moved.extend(starts.iter().map(|(partition, _)| *partition));
                }
                _ => {}
            }
        }
        Ok(Mirrored {
            sequence: self.standing.sequence(),
            commands: commands.len(),
            moved,
        })
    }

    pub(crate) fn begin_epoch(&mut self, at: LogPosition, begin: &BeginEpoch) -> Result<(), BeginRejected> {
        let is_empty = self.topics.is_empty() && self.groups.iter().len() == 0 && self.dropped.is_empty();
        let counts = self.standing.is_counted();
        let history = (!counts && !is_empty).then(|| ContentDigest(self.digest()));
        self.standing.begin(at.index, begin, history)?;
        self.staged = None;
        Ok(())
    }
}

#[cfg(test)]
mod tests;
