//! How a commit for many ends when it fails.

use horizons_actors::ports::store::{CommitError, StoreError};

/// Why a round was not committed.
#[derive(Debug)]
pub(super) enum RoundError {
    /// Nothing was written: a member failed, or the database did.
    RolledBack(StoreError),
    /// Whether it was written cannot be told.
    Unknown(String),
    /// The disk failed under COMMIT: the process must not go on.
    Disk(String),
}

impl RoundError {
    /// Tells whether doing the members one by one may spare the others.
    pub(super) fn may_be_a_member(&self) -> bool {
        matches!(self, RoundError::RolledBack(error) if !error.is_transient())
    }

    /// Gives the answer for those who are no lane.
    pub(super) fn as_store_error(&self) -> StoreError {
        match self {
            RoundError::RolledBack(error) => error.clone(),
            RoundError::Unknown(text) | RoundError::Disk(text) => StoreError::Unknown(text.clone()),
        }
    }

    /// Gives the answer for a lane's transaction.
    pub(super) fn as_commit_error(&self) -> CommitError {
        match self {
            RoundError::RolledBack(error) => CommitError::Store(error.clone()),
            RoundError::Unknown(text) | RoundError::Disk(text) => CommitError::Unknown(text.clone()),
        }
    }
}
