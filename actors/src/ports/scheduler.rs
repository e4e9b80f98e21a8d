//! The scheduler that runs attempts (requirement P7): one port, several adapters.
//!
//! Promises that every call is safe to repeat: an attempt is started at most once however often it is
//! submitted, and an attempt that was cancelled or declared lost never starts afterwards.

use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;
use crate::event::TaccSystem;
use crate::ids::{AgentName, AttemptId, CorrelationId, DatasetId, SchedulerJobId, UserId};
use crate::parameters::Parameters;
use crate::ports::Reply;

/// Tells why the scheduler did not do what was asked.
#[derive(Debug, Clone, thiserror::Error)]
pub enum SchedulerError {
    /// The scheduler is away or out of some resource: the same call may succeed later.
    #[error("scheduler unavailable: {0}")]
    Unavailable(String),
    /// The scheduler refuses the attempt for good.
    #[error("scheduler refuses `{field}`: {reason}")]
    Refused {
        /// The field of the request at fault.
        field: &'static str,
        /// What was wanted and what was got.
        reason: String,
    },
}

impl SchedulerError {
    /// Tells whether the same call may succeed later.
    pub const fn is_transient(&self) -> bool {
        matches!(self, SchedulerError::Unavailable(_))
    }
}

/// What the scheduler is to run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttemptSpec {
    /// The attempt.
    pub id: AttemptId,
    /// The agent.
    pub agent: AgentName,
    /// The data set.
    pub dataset_id: DatasetId,
    /// The user's parameters.
    pub parameters: Parameters,
    /// The system.
    pub tacc_system: TaccSystem,
    /// Who submitted the job.
    pub user_id: UserId,
    /// The request that created the job.
    pub correlation_id: CorrelationId,
}

/// How an attempt stands at the scheduler.
#[derive(Debug, Clone, PartialEq)]
pub struct AttemptReport {
    /// The scheduler's own name for it.
    pub scheduler_job_id: SchedulerJobId,
    /// When the scheduler accepted it.
    pub queued_at: Timestamp,
    /// When it started, if it has.
    pub started_at: Option<Timestamp>,
    /// How it ended, if it has.
    pub end: Option<AttemptEnd>,
    /// How many samples have been taken so far.
    pub samples: u64,
}

/// How an attempt ended.
#[derive(Debug, Clone, PartialEq)]
pub struct AttemptEnd {
    /// When.
    pub ended_at: Timestamp,
    /// How.
    pub exit: AttemptExit,
    /// What it used in all; absent when it never started or was lost.
    pub totals: Option<AttemptTotals>,
}

/// How an attempt ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AttemptExit {
    /// Well.
    Completed,
    /// Badly.
    Failed {
        /// A short stable code: `exit_code`, `signal`, `time_limit`, `memory_limit`, `start_failed`,
        /// `attempt_lost`.
        error_code: String,
        /// What happened, for a person.
        error_message: String,
    },
    /// Because it was cancelled.
    Cancelled,
}

/// What an attempt used in all.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct AttemptTotals {
    /// Mean processor use in percent of one core.
    pub cpu_usage_percent: f64,
    /// Peak resident memory in MiB.
    pub memory_usage_mb: f64,
    /// Read and write calls.
    pub io_operations: u64,
    /// Run time in seconds.
    pub execution_time_seconds: f64,
}

/// What an attempt used since the sample before.
///
/// *Shape*: identified by the attempt and `index`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct AttemptSample {
    /// Numbers the attempt's samples from 0.
    pub index: u64,
    /// When it was taken.
    pub taken_at: Timestamp,
    /// Processor use in percent of one core since the sample before.
    pub cpu_usage_percent: f64,
    /// Resident memory in MiB now.
    pub memory_usage_mb: f64,
    /// Read and write calls since the sample before.
    pub io_operations: u64,
    /// How long the attempt has run, in seconds.
    pub execution_time_seconds: f64,
}

/// A scheduler.
pub trait Scheduler: Send + Sync {
    /// Checks a request without doing anything, so that a caller gets the field before a job exists.
    ///
    /// *Errors*: [`SchedulerError::Refused`].
    fn check(&self, spec: &AttemptSpec) -> Result<(), SchedulerError>;

    /// Hands an attempt over; durable when answered. Repeating it answers the same.
    fn submit(&self, spec: AttemptSpec) -> Reply<AttemptReport, SchedulerError>;

    /// Tells how an attempt stands; none when the scheduler does not know it.
    fn find(&self, id: AttemptId) -> Reply<Option<AttemptReport>, SchedulerError>;

    /// Gives samples from an index on, at most `limit`.
    fn samples(&self, id: AttemptId, from: u64, limit: usize) -> Reply<Vec<AttemptSample>, SchedulerError>;

    /// Ends an attempt; it has ended, or never starts, once `find` says so. Answers at once.
    fn cancel(&self, id: AttemptId) -> Reply<(), SchedulerError>;

    /// Removes what an ended attempt left behind. An attempt that is unknown is fine.
    fn clean(&self, id: AttemptId) -> Reply<(), SchedulerError>;

    /// Waits until some attempt may have changed since the last call, or a poll interval has passed.
    fn changed(&self) -> Reply<(), SchedulerError>;
}
