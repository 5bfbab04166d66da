//! Objects of another region's bucket come into this one, under their names: those are unique for ever, and so a copy that
//! was interrupted goes on where it ended.

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use meridian_tiered_storage::bundle::Bundle;
use meridian_tiered_storage::manifest::Object;
use meridian_tiered_storage::store::StoreError;
use meridian_tiered_storage::upload::{self, UploadError};
use meridian_types::ShardId;
use thiserror::Error;

use super::Tier;
use super::owner::{self, NotOurs};

/// Bytes of one part.
const PART_BYTES: u64 = 1 << 20;

/// Parts on their way at once; other logs have as many, over the same links.
const PARTS_MAX: usize = 3;

/// Why an object is not known to lie in the bucket. Try again.
#[derive(Debug, Error)]
pub(crate) enum AdoptError {
    /// This region's bucket fails, or changes what is written.
    #[error("this region's bucket: {0}")]
    Upload(#[from] UploadError),
    /// The bucket is not this region's.
    #[error("this region's bucket: {0}")]
    NotOurs(String),
    /// The other region does not give it.
    #[error("object {object} of the other region: {reason}")]
    Source {
        /// Its name.
        object: String,
        /// What is wrong.
        reason: String,
    },
}

impl From<NotOurs> for AdoptError {
    fn from(error: NotOurs) -> Self {
        Self::NotOurs(error.to_string())
    }
}

impl Tier {
    /// Whether the bucket is this region's, before something is committed that relies on it.
    pub(crate) async fn confirm_ours(&self) -> Result<(), AdoptError> {
        Ok(owner::confirm(self, owner::COMMIT_AGE_MAX).await?)
    }
}

/// Brings an object into the bucket, unless it is there: `part` gives its bytes from a place on, at most 1 MiB of them.
pub(crate) async fn adopt<F>(
    tier: &Tier,
    shard: ShardId,
    object: &Object,
    part: impl Fn(u64) -> F,
) -> Result<(), AdoptError>
where
    F: Future<Output = Result<Bytes, String>>,
{
    tier.confirm_ours().await?;
    let source = |reason: String| AdoptError::Source {
        object: object.name.to_string(),
        reason,
    };
    let key = object.name.key(&tier.cluster, shard);
    let bundle = |parts| Bundle {
        parts,
        bytes: object.bytes,
        footer_at: object.footer_at,
        footer_crc: object.footer_crc,
        extents: Vec::new(),
    };
    let read_back = tier.settings.read_back;
    match upload::check(&tier.store, &key, &bundle(Vec::new()), read_back).await {
        Ok(()) => return Ok(()),
        Err(UploadError::Store(StoreError::NotFound { .. }) | UploadError::ReadBack { .. }) => {}
        Err(error) => return Err(error.into()),
    }
    let starts = (0..object.bytes).step_by(usize::try_from(PART_BYTES).unwrap_or(usize::MAX));
    let parts = futures::stream::iter(starts.map(|at| {
        let part = part(at);
        async move {
            let bytes = part.await?;
            match bytes.len() as u64 == PART_BYTES.min(object.bytes - at) {
                true => Ok(bytes),
                false => Err(format!("a part of {} bytes", bytes.len())),
            }
        }
    }));
    let parts: Vec<Bytes> = parts.buffered(PARTS_MAX).try_collect().await.map_err(source)?;
    upload::upload(&tier.store, &key, &bundle(parts), read_back).await?;
    tracing::info!(
        key,
        bytes = object.bytes,
        "an object of another region is in the bucket"
    );
    Ok(())
}
