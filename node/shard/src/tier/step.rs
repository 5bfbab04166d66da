//! The steps of what the tier does. At each of them a test can let a node die, to see what is left.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use futures::future::BoxFuture;

use super::Tier;

/// What brings a bundle into the manifest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Bringing {
    /// What the log holds and the bucket lacks.
    Round,
    /// Small extents become one.
    Merge,
    /// Of every key the latest record stays.
    Compaction,
}

/// How far a bundle has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum BundleStage {
    /// It is made, and nothing of it is in the bucket.
    Made,
    /// It is in the bucket, and was not read back.
    Uploaded,
    /// It was read back, and no command names it.
    Verified,
    /// The command that names it is on its way, and nobody has said what became of it.
    Proposed,
    /// The command was answered, and nothing was done after it.
    Answered,
}

/// One step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum TierStep {
    /// A bundle came so far.
    Bundle(Bringing, BundleStage),
    /// A copy of the manifest is made, and not written.
    CopyMade,
    /// It is written, and nothing was done after it.
    CopyWritten,
    /// The grace period of unlinked objects is over, and none of them is deleted.
    DeletionDue,
    /// One of them is deleted, and the shard does not know.
    ObjectDeleted,
    /// The shard knows.
    DeletionTold,
    /// Orphans were found whose grace period is over, and none of them is deleted.
    OrphansDue,
    /// One of them is deleted.
    OrphanDeleted,
}

impl TierStep {
    /// All of them, in the order in which a record comes by.
    pub fn all() -> impl Iterator<Item = Self> {
        use BundleStage::{Answered, Made, Proposed, Uploaded, Verified};
        let bringing = [Bringing::Round, Bringing::Merge, Bringing::Compaction];
        let bundles = bringing.into_iter().flat_map(|bringing| {
            [Made, Uploaded, Verified, Proposed, Answered].map(|stage| Self::Bundle(bringing, stage))
        });
        bundles.chain([
            Self::CopyMade,
            Self::CopyWritten,
            Self::DeletionDue,
            Self::ObjectDeleted,
            Self::DeletionTold,
            Self::OrphansDue,
            Self::OrphanDeleted,
        ])
    }
}

impl fmt::Display for TierStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bundle(bringing, stage) => {
                let name = format!("{bringing:?}-{stage:?}").to_ascii_lowercase();
                f.write_str(&name)
            }
            Self::CopyMade => f.write_str("copy-made"),
            Self::CopyWritten => f.write_str("copy-written"),
            Self::DeletionDue => f.write_str("deletion-due"),
            Self::ObjectDeleted => f.write_str("object-deleted"),
            Self::DeletionTold => f.write_str("deletion-told"),
            Self::OrphansDue => f.write_str("orphans-due"),
            Self::OrphanDeleted => f.write_str("orphan-deleted"),
        }
    }
}

impl FromStr for TierStep {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let found = Self::all().find(|step| step.to_string() == name);
        found.ok_or_else(|| {
            let names: Vec<_> = Self::all().map(|step| step.to_string()).collect();
            format!(
                "no step of the tier is named {name:?}; there are {}",
                names.join(", ")
            )
        })
    }
}

/// What is done whenever the tier comes to a step; it goes on when that is over. Only a run that looks for what is left
/// by a death has one.
#[derive(Clone)]
pub struct AtStep(Arc<dyn Fn(TierStep) -> BoxFuture<'static, ()> + Send + Sync>);

impl AtStep {
    /// Calls `act` at each step.
    pub fn new(act: impl Fn(TierStep) -> BoxFuture<'static, ()> + Send + Sync + 'static) -> Self {
        Self(Arc::new(act))
    }
}

impl fmt::Debug for AtStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AtStep")
    }
}

impl Tier {
    /// Says that a step is reached.
    pub(super) async fn reach(&self, step: TierStep) {
        if let Some(at_step) = &self.settings.at_step {
            at_step.0(step).await;
        }
    }

    /// Says that a step is reached while `work` is under way.
    pub(super) async fn reach_during<T>(&self, step: TierStep, work: impl Future<Output = T>) -> T {
        tokio::pin!(work);
        tokio::select! {
            biased;
            done = &mut work => return done,
            () = self.reach(step) => {}
        }
        work.await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_step_has_a_name_of_its_own() {
        for step in TierStep::all() {
            assert_eq!(step.to_string().parse(), Ok(step));
        }
        assert_eq!(TierStep::all().count(), 22);
        assert_eq!(
            "merge-uploaded".parse(),
            Ok(TierStep::Bundle(Bringing::Merge, BundleStage::Uploaded))
        );
        let unknown = "merge".parse::<TierStep>().unwrap_err();
        assert!(unknown.contains("orphan-deleted"), "{unknown}");
    }
}
