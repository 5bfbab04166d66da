//! What of a shard's commands is content, which every region has.

use bytes::Bytes;
use meridian_lineage::{ContentCommand, ContentDigest, Effect};
use meridian_wire::batch::{BatchError, verify_crc};
use thiserror::Error;

use crate::command::{Command, CommandError};

/// What is wrong with bytes that another region sends as a content command.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ContentFault {
    /// They are no command: the sender is broken, or runs a newer version.
    #[error(transparent)]
    Command(#[from] CommandError),
    /// They are a command that regions do not share.
    #[error("{name} is no content")]
    NotContent {
        /// The command's kind.
        name: &'static str,
    },
    /// A batch in it was damaged on its way or at the owner.
    #[error("a batch is damaged: {0}")]
    Batch(#[from] BatchError),
}

/// Holds a content command against itself, each batch with its checksum, before it is proposed: digests cover a batch's
/// checksum, and this the batch.
pub fn verify_content(command: &Bytes) -> Result<(), ContentFault> {
    let command = Command::read(command)?;
    let Effect::Content(_) = command.effect() else {
        return Err(ContentFault::NotContent { name: command.name() });
    };
    if let Command::Append { groups, .. } = &command {
        for batch in groups.iter().flat_map(|group| &group.batches) {
            verify_crc(batch)?;
        }
    }
    Ok(())
}

impl ContentCommand for Command {
    type Error = CommandError;

    fn read(bytes: &Bytes) -> Result<Self, CommandError> {
        Self::decode(std::slice::from_ref(bytes))
    }

    fn effect(&self) -> Effect<'_> {
        match self {
            Self::Append { .. }
            | Self::CommitOffsets { .. }
            | Self::SaveGroup { .. }
            | Self::DeleteGroups { .. }
            | Self::DeleteOffsets { .. }
            | Self::ExpireOffsets { .. }
            | Self::SetLogStart { .. }
            | Self::DropTopic { .. }
            | Self::ExpireProducers { .. } => Effect::Content(None),
            Self::Mirrored(run) => Effect::Run(run),
            Self::BeginEpoch(begin) => Effect::Begin(begin),
            Self::Fence { region_epoch } => Effect::Fence(*region_epoch),
            Self::Tiered { .. }
            | Self::Replaced { .. }
            | Self::TierDeleted { .. }
            | Self::SetLocalStart { .. }
            | Self::Stage(_)
            | Self::Fill { .. }
            | Self::Install(_) => Effect::Own,
        }
    }

    /// Of a batch: everything that its checksum does not cover, and the checksum. Of all else: every byte.
    fn fold(&self, digest: ContentDigest) -> ContentDigest {
        let Self::Append { now, groups } = self else {
            return self
                .encode()
                .iter()
                .fold(digest, |digest, part| digest.mix_bytes(part));
        };
        let digest = digest.mix(now.0.cast_unsigned()).mix(groups.len() as u64);
        groups.iter().fold(digest, |digest, group| {
            let (high, low) = group.partition.topic.0.as_u64_pair();
            let digest = digest.mix(high).mix(low);
            let digest = digest.mix(u64::from(group.partition.index) << 32 | group.batches.len() as u64);
            group.batches.iter().fold(digest, fold_batch)
        })
    }
}

/// Base offset, length and leader epoch, then format and checksum.
fn fold_batch(digest: ContentDigest, batch: &Bytes) -> ContentDigest {
    let word = |at: usize| {
        let bytes: [u8; 8] = batch.get(at..at + 8)?.try_into().ok()?;
        Some(u64::from_le_bytes(bytes))
    };
    let head = (word(0), word(8), word(16));
    let (Some(offset), Some(length_and_epoch), Some(checksum)) = head else {
        return digest.mix_bytes(batch);
    };
    digest
        .mix(offset)
        .mix(length_and_epoch)
        .mix(checksum)
        .mix(batch.len() as u64)
}

#[cfg(test)]
mod tests;
