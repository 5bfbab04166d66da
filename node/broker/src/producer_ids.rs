//! Producer ids, taken from the controller in blocks.

use std::ops::Range;

use meridian_controller::{Command, Outcome};
use meridian_shard::{ControlError, Region};
use meridian_types::ProducerId;
use tokio::sync::Mutex;

/// Hands out the ids of one block after the other. What is left of a block when the node stops is never used.
#[derive(Debug, Default)]
pub(crate) struct ProducerIds {
    block: Mutex<Range<u64>>,
}

impl ProducerIds {
    /// An id that no other producer of the region has.
    pub(crate) async fn next(&self, region: &Region) -> Result<ProducerId, ControlError> {
        let mut block = self.block.lock().await;
        if block.is_empty() {
            *block = allocate(region).await?;
        }
        let id = block.start;
        block.start += 1;
        Ok(ProducerId(id))
    }
}

/// Ids of one block.
const BLOCK_IDS: u32 = 1000;

async fn allocate(region: &Region) -> Result<Range<u64>, ControlError> {
    match region
        .control(Command::AllocateProducerIds { count: BLOCK_IDS })
        .await?
    {
        Outcome::ProducerIds(Ok(block)) => Ok(block.first.0..block.first.0 + u64::from(block.count)),
        Outcome::ProducerIds(Err(error)) => Err(ControlError::Storage {
            reason: error.to_string(),
        }),
        other => Err(ControlError::Storage {
            reason: format!("the controller answered {other:?}"),
        }),
    }
}
