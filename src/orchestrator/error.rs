//! Why a request was not carried out.

use std::time::Duration;

use horizons_actors::event::JobStatus;
use horizons_actors::ids::JobId;
use horizons_actors::orchestrator::Refusal;
use horizons_actors::ports::scheduler::SchedulerError;
use horizons_actors::ports::store::StoreError;

/// Tells why a request was not carried out.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum OrchestratorError {
    /// The store or the scheduler is away or has too much to do; the same request may succeed later.
    #[error("busy, try again after {} s: {reason}", retry_after.as_secs_f64())]
    Busy {
        /// When to come back.
        retry_after: Duration,
        /// What stands in the way.
        reason: String,
    },
    /// The disk limit for new work is reached.
    #[error("disk limit reached: {used_bytes} of {limit_bytes} bytes are used")]
    DiskLimit {
        /// What the database takes now.
        used_bytes: u64,
        /// What it may take.
        limit_bytes: u64,
    },
    /// The request is at fault; nothing was stored.
    #[error("invalid `{field}`: {reason}")]
    Invalid {
        /// The field.
        field: String,
        /// What was wanted and what was got.
        reason: String,
    },
    /// What the request is about does not exist.
    #[error("{what} does not exist")]
    NotFound {
        /// What was looked for.
        what: String,
    },
    /// The state of the job does not allow it.
    #[error("job is {state}: {reason}")]
    Conflict {
        /// The state.
        state: JobStatus,
        /// What was wanted.
        reason: String,
    },
    /// The idempotency key was used before for another request.
    #[error("idempotency key was used for another request, which became job `{job_id}`")]
    KeyReused {
        /// The other request's job.
        job_id: JobId,
    },
    /// A promise of our own is broken.
    #[error("failed inside: {0}")]
    Broken(String),
}

impl OrchestratorError {
    /// Tells whether the same request may succeed later.
    pub const fn is_transient(&self) -> bool {
        matches!(self, OrchestratorError::Busy { .. } | OrchestratorError::DiskLimit { .. })
    }

    /// Takes an error of the store.
    pub(super) fn from_store(error: StoreError, retry_after: Duration) -> Self {
        match error {
            StoreError::Unavailable(_) | StoreError::QueueFull | StoreError::Conflict(_) => {
                OrchestratorError::Busy { retry_after, reason: error.to_string() }
            }
            StoreError::DiskLimit { used_bytes, limit_bytes } => {
                OrchestratorError::DiskLimit { used_bytes, limit_bytes }
            }
            StoreError::Data(reason) => OrchestratorError::Invalid { field: "request".to_owned(), reason },
            StoreError::Broken(reason) => OrchestratorError::Broken(reason),
        }
    }

    /// Takes an error of the scheduler.
    pub(super) fn from_scheduler(error: SchedulerError, retry_after: Duration) -> Self {
        match error {
            SchedulerError::Unavailable(reason) => OrchestratorError::Busy { retry_after, reason },
            SchedulerError::Refused { field, reason } => {
                OrchestratorError::Invalid { field: field.to_owned(), reason }
            }
        }
    }
}

impl From<Refusal> for OrchestratorError {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::UnknownJob => OrchestratorError::NotFound { what: "job".to_owned() },
            Refusal::Illegal { state, reason } => OrchestratorError::Conflict { state, reason },
            Refusal::Invalid { field, reason } => OrchestratorError::Invalid { field, reason },
        }
    }
}
