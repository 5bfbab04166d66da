//! A bundle's way into the manifest: uploaded under a fresh name, read back, proposed under one leadership.

use std::time::Duration;

use meridian_state::{Command, Outcome, TierRejected};
use meridian_tiered_storage::bundle::Bundle;
use meridian_tiered_storage::manifest::{NewObject, ObjectName};
use meridian_tiered_storage::store::StoreError;
use meridian_tiered_storage::upload::{self, UploadError};
use meridian_types::uuid_v4;
use thiserror::Error;

use super::Tier;
use super::driver::Led;
use super::owner::{self, NotOurs};
use super::step::{Bringing, BundleStage, TierStep};
use crate::errors::ControlError;
use crate::region::Inner;

/// Why a bundle is not known to be in the manifest. What was uploaded may be an orphan: look at the state and plan anew.
#[derive(Debug, Error)]
pub(super) enum CommitError {
    #[error(transparent)]
    Upload(#[from] UploadError),
    #[error("the bundle was not uploaded and verified within {0:?}")]
    TimedOut(Duration),
    #[error(transparent)]
    Propose(#[from] ControlError),
    #[error(transparent)]
    Rejected(#[from] TierRejected),
    #[error(transparent)]
    NotOurs(#[from] NotOurs),
    #[error("answered by {0}")]
    Answer(String),
}

impl From<StoreError> for CommitError {
    fn from(error: StoreError) -> Self {
        Self::Upload(error.into())
    }
}

/// Brings a bundle into the bucket, and commits it by the command that `command` makes of it.
pub(super) async fn commit(
    inner: &Inner,
    tier: &Tier,
    led: &Led<'_>,
    bringing: Bringing,
    bundle: &Bundle,
    command: impl FnOnce(NewObject) -> Command,
) -> Result<(), CommitError> {
    let at = |stage| tier.reach(TierStep::Bundle(bringing, stage));
    at(BundleStage::Made).await;
    // Every attempt has a name of its own, so that none ever changes what another one relies on (invariant 7).
    let random = if mutant!(ReuseNames) { 0 } else { (inner.random)() };
    let name = ObjectName {
        term: led.term,
        id: uuid_v4(random),
    };
    let key = name.key(&tier.cluster, led.shard.id());
    let timeout = tier.settings.round_timeout;
    let bring = async {
        tier.store.put(&key, bundle.parts.clone()).await?;
        at(BundleStage::Uploaded).await;
        if !mutant!(CommitBeforeVerify) {
            upload::check(&tier.store, &key, bundle, tier.settings.read_back).await?;
        }
        Ok::<_, CommitError>(())
    };
    tokio::time::timeout(timeout, bring)
        .await
        .map_err(|_| CommitError::TimedOut(timeout))??;
    at(BundleStage::Verified).await;
    // A region that has lost its bucket must not let go of local bytes by what it uploaded there.
    owner::confirm(tier, owner::COMMIT_AGE_MAX).await?;
    let command = command(bundle.object(name));
    let step = TierStep::Bundle(bringing, BundleStage::Proposed);
    let outcome = tier.reach_during(step, led.propose(inner, &command)).await?;
    match outcome {
        Outcome::Tier(result) => result?,
        other => return Err(CommitError::Answer(format!("{other:?}"))),
    }
    at(BundleStage::Answered).await;
    Ok(())
}
