//! Deliberate defects: a test that would not notice them proves nothing.
//!
//! The crates that carry them ask through their `mutants` feature, which only the simulation switches on, and even then
//! no defect acts unless a run names it. Each stands where the rule stands that it breaks.

use std::sync::atomic::{AtomicU8, Ordering};

static ACTIVE: AtomicU8 = AtomicU8::new(0);

macro_rules! mutants {
    ($($(#[doc = $doc:literal])+ $variant:ident = $name:literal;)+) => {
        /// One defect.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u8)]
        pub enum Mutant {
            /// None.
            None,
            $($(#[doc = $doc])+ $variant,)+
        }

        impl Mutant {
            /// All defects.
            pub const ALL: &[Self] = &[$(Self::$variant),+];

            /// Its name on the command line.
            pub fn name(self) -> &'static str {
                match self {
                    Self::None => "none",
                    $(Self::$variant => $name,)+
                }
            }
        }
    };
}

mutants! {
    /// The journal calls an operation done before it is synced.
    AcknowledgeBeforeSync = "acknowledge-before-sync";
    /// A vote is told before it is on disk, and never gets there.
    ForgetVote = "forget-vote";
    /// A leader sequences before it has applied what earlier leaders committed, and nobody checks its stamps.
    LeadBeforeApplied = "lead-before-applied";
    /// A replica that takes over a checkpoint keeps its old state.
    KeepStateAtInstall = "keep-state-at-install";
    /// The log is purged although records in it are still wanted.
    PurgeTooFar = "purge-too-far";
    /// Retries of idempotent producers are taken for new batches.
    ForgetDuplicates = "forget-duplicates";
    /// A batch is acknowledged once it is proposed.
    AcknowledgeBeforeCommit = "acknowledge-before-commit";
    /// An unknown outcome is told as certainly not done.
    DenyUnknown = "deny-unknown";
    /// A replica skips an entry now and then.
    SkipEntry = "skip-entry";
    /// Damage inside the journal is taken for a torn end and cut off.
    TruncateAtDamage = "truncate-at-damage";
    /// A bundle is committed before anybody looked whether it is in the bucket as it was sent.
    CommitBeforeVerify = "commit-before-verify";
    /// A leader leaves a partition out of its bundles, and nobody holds them against the log.
    LeaveOutPartition = "leave-out-partition";
    /// Objects go as soon as nothing refers to them.
    DeleteBeforeGrace = "delete-before-grace";
    /// The log gives up what the bucket does not have.
    ReleaseBeforeTiered = "release-before-tiered";
    /// All bundles of a term have the same name.
    ReuseNames = "reuse-names";
}

impl Mutant {
    /// Whether it does anything only where there is a bucket.
    pub fn is_of_tier(self) -> bool {
        matches!(
            self,
            Self::CommitBeforeVerify
                | Self::LeaveOutPartition
                | Self::DeleteBeforeGrace
                | Self::ReleaseBeforeTiered
                | Self::ReuseNames
        )
    }
}

impl std::str::FromStr for Mutant {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let names = || {
            Self::ALL
                .iter()
                .map(|mutant| mutant.name())
                .collect::<Vec<_>>()
                .join(", ")
        };
        Self::ALL
            .iter()
            .copied()
            .find(|mutant| mutant.name() == name)
            .ok_or_else(|| format!("no defect is named {name:?}; there are {}", names()))
    }
}

/// Switches one defect on, in the whole process.
pub fn switch_on(mutant: Mutant) {
    ACTIVE.store(mutant as u8, Ordering::Relaxed);
}

/// Whether this defect acts.
pub fn is_on(mutant: Mutant) -> bool {
    mutant != Mutant::None && ACTIVE.load(Ordering::Relaxed) == mutant as u8
}
