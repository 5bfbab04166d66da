//! Following a log's content from its entries alone.

use bytes::Bytes;
use meridian_types::RegionNumber;

use crate::command::{ContentCommand, Effect};
use crate::progress::Progress;
use crate::run::ContentRun;

/// Reads the content out of the entries of a Raft log, one after the other, without the state.
///
/// It begins with a [`crate::SequencePoint`] and is shown every command entry from the point's index on. What the log
/// refused when it was applied is refused here by the same rules, so both count the same.
#[derive(Clone, Copy, Debug)]
pub struct ContentReader {
    progress: Progress,
    own: RegionNumber,
}

impl ContentReader {
    /// Begins where a log stood like `progress`. `own` is the region of the log.
    pub fn new(progress: Progress, own: RegionNumber) -> Self {
        Self { progress, own }
    }

    /// How the log stood behind the last entry read.
    pub fn progress(&self) -> &Progress {
        &self.progress
    }

    /// Reads the next command entry: the content in it, if any, as a run of one epoch. A run without commands says that
    /// another epoch has begun, which is also how an epoch is told that begins behind the last command of a run: by
    /// [`Self::progress`].
    ///
    /// Errors: the entry is no command of this version; the log cannot be read on.
    pub fn read<C: ContentCommand>(&mut self, entry: &Bytes) -> Result<Option<ContentRun>, C::Error> {
        let command = C::read(entry)?;
        let before = self.progress;
        let commands = match command.effect() {
            Effect::Own => return Ok(None),
            Effect::Fence(region_epoch) => {
                // One that was refused changed nothing.
                let _ = self.progress.fence(region_epoch);
                return Ok(None);
            }
            Effect::Begin(begin) => {
                if self.progress.begin(begin).is_err() {
                    return Ok(None);
                }
                Vec::new()
            }
            Effect::Content(turn) => {
                if self.progress.check_content(turn).is_err() {
                    return Ok(None);
                }
                let digest = command.fold(self.progress.digest);
                self.progress.advance(digest, turn, self.own);
                vec![entry.clone()]
            }
            Effect::Run(run) => match run.admit::<C>(&self.progress, self.own) {
                Ok(admitted) if !admitted.commands.is_empty() => {
                    self.progress = admitted.progress;
                    run.commands[run.commands.len() - admitted.commands.len()..].to_vec()
                }
                _ => return Ok(None),
            },
        };
        let region_epoch = match commands.is_empty() {
            true => self.progress.region_epoch,
            false => before.region_epoch,
        };
        Ok(Some(ContentRun {
            region_epoch,
            first_sequence: before.sequence,
            commands,
            digest: self.progress.digest,
        }))
    }
}
