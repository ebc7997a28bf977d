//! Defects that can be planted, to prove that the checkers see. None of them is in code that ships:
//! each sits in the simulated host, behind [`crate::Settings::bug`].

use core::str::FromStr;

macro_rules! bugs {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)*) => {
        /// A defect of the simulated host.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Bug {
            $($(#[$doc])* $name,)*
        }

        impl Bug {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// What it is called on the command line.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)*
                }
            }
        }
    };
}

bugs! {
    /// The city acts on entries before they are synced.
    AckBeforeSync = "ack-before-sync",
    /// A failed sync of the log is tried again instead of stopping.
    FailedSyncRetried = "failed-sync-retried",
    /// A torn end of the log stays in the file.
    TornEndKept = "torn-end-kept",
    /// The log is cut before its snapshot is synced.
    SnapshotUnsynced = "snapshot-unsynced",
    /// A payload is named by an entry before it is synced.
    BlobUnsynced = "blob-unsynced",
    /// A payload is stored without being looked at.
    PayloadUnchecked = "payload-unchecked",
    /// Contributions are summed in another order than that of their leases.
    MergeInAnyOrder = "merge-in-any-order",
    /// Nobody is clipped to the median norm.
    ClipForgotten = "clip-forgotten",
    /// The city forgets what its updates left untold.
    CityResidualDropped = "city-residual-dropped",
    /// A replica forgets what its payload left untold.
    ResidualDropped = "residual-dropped",
    /// An accepted lease promotes the moments but not the residual.
    ResidualNotPromoted = "residual-not-promoted",
    /// A fresh lease begins with an old residual.
    LostStateNotReset = "lost-state-not-reset",
    /// A pending payload is forgotten over a restart.
    PendingForgotten = "pending-forgotten",
    /// A pending payload is named before it is synced.
    PendingUnsynced = "pending-unsynced",
    /// An update is applied twice.
    UpdateAppliedTwice = "update-applied-twice",
    /// The results of a merge are named by an entry before they are synced.
    MergeUnsynced = "merge-unsynced",
    /// Of several entries that belong together the last is not written.
    BatchCutShort = "batch-cut-short",
    /// A full disk is taken for a success.
    FullDiskIgnored = "full-disk-ignored",
    /// What was written after the newest snapshot, or without one, loses its last entry at a start.
    LastEntryIgnored = "last-entry-ignored",
    /// Heads that should be kept for good now and then are not.
    HeadNotKept = "head-not-kept",
    /// A start deletes the payloads that wait for their merge.
    GarbageTooEager = "garbage-too-eager",
    /// A contribution is summed twice.
    CountedTwice = "counted-twice",
    /// Late contributions count as much as timely ones.
    WeightsIgnored = "weights-ignored",
    /// The chunks of one lease end up with another.
    StagesMixedUp = "stages-mixed-up",
    /// Staged chunks are never thrown away.
    UnstageForgotten = "unstage-forgotten",
    /// A verified head is not synced.
    ChainUnsynced = "chain-unsynced",
    /// A private state is the current one before its contribution is accepted.
    PromotedEarly = "promoted-early",
    /// The pending file is removed before the private state it holds is written.
    PendingRemovedFirst = "pending-removed-first",
    /// A fresh lease begins with old moments.
    MomentsNotReset = "moments-not-reset",
    /// Samples are taken as stored in every epoch.
    OrderIgnored = "order-ignored",
    /// After a pause the step before it is done again.
    StepRepeated = "step-repeated",
}

/// A name stands for no planted defect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NoSuchBug {
    /// What was asked for.
    pub found: String,
}

impl core::fmt::Display for NoSuchBug {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let names: Vec<&str> = Bug::ALL.iter().map(|bug| bug.name()).collect();
        write!(f, "no planted defect is called {:?}; there are {}", self.found, names.join(", "))
    }
}

impl core::error::Error for NoSuchBug {}

impl FromStr for Bug {
    type Err = NoSuchBug;

    fn from_str(text: &str) -> Result<Self, NoSuchBug> {
        let found = Self::ALL.iter().find(|bug| bug.name() == text);
        found.copied().ok_or_else(|| NoSuchBug { found: text.into() })
    }
}
