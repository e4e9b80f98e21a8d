//! What the orchestrator decides: from a job's row and something that happened, the one transaction that follows.
//!
//! Promises that every step of a job's life is one [`JobWrite`]: the row after it, its events in order and the
//! work it orders, guarded by the sequences that the row had. A terminal job is never left, a sample is
//! published once however often it is offered, and whatever does not fit the row's state is refused as data.
//! Because a decision depends on nothing but its arguments, asking again after a crash, from the stored row,
//! is safe. Does no I/O, reads no clock, and does not know whether the write was committed.

mod attempt;
mod draft;
mod request;

#[cfg(test)]
mod fixtures;
#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;

pub use attempt::{RetryPolicy, will_retry};
pub use request::{IDEMPOTENCY_KEY_MAX_BYTES, REASON_MAX_CHARS, audit_event, request_digest};

use crate::clock::{Randomness, Timestamp};
use crate::command::Command;
use crate::event::{Event, JobStatus};
use crate::ids::JobId;
use crate::ports::scheduler::{AttemptEnd, AttemptReport, AttemptSample};
use crate::ports::store::{JobRow, JobWrite};
use crate::record::OutgoingRecord;
use crate::state::JobHome;

/// Why an attempt failed: the `error_code` of jobs and of `job.failed`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailureCode {
    /// The agent's exit code is not 0.
    ExitCode,
    /// A signal that nobody here asked for.
    Signal,
    /// It ran for too long.
    TimeLimit,
    /// It held too much memory.
    MemoryLimit,
    /// It wrote too much output.
    OutputLimit,
    /// Its work folder took too much.
    WorkLimit,
    /// It could not be started.
    StartFailed,
    /// Nobody knows any more how it ended.
    AttemptLost,
    /// The scheduler did not take the job.
    SchedulerRefused,
}

impl FailureCode {
    /// Lists all of them.
    pub const ALL: [Self; 9] = [
        Self::ExitCode,
        Self::Signal,
        Self::TimeLimit,
        Self::MemoryLimit,
        Self::OutputLimit,
        Self::WorkLimit,
        Self::StartFailed,
        Self::AttemptLost,
        Self::SchedulerRefused,
    ];

    /// Gives the name that stands in rows, events and answers.
    pub const fn name(self) -> &'static str {
        match self {
            Self::ExitCode => "exit_code",
            Self::Signal => "signal",
            Self::TimeLimit => "time_limit",
            Self::MemoryLimit => "memory_limit",
            Self::OutputLimit => "output_limit",
            Self::WorkLimit => "work_limit",
            Self::StartFailed => "start_failed",
            Self::AttemptLost => "attempt_lost",
            Self::SchedulerRefused => "scheduler_refused",
        }
    }

    /// Says what it means, as the documents do.
    pub const fn meaning(self) -> &'static str {
        match self {
            Self::ExitCode => "the agent ended with another exit code than 0, which `error_message` names",
            Self::Signal => "a signal ended the agent, or the shim that watches it",
            Self::TimeLimit => "it ran longer than `time_limit_ms`",
            Self::MemoryLimit => "its processes held more than `memory_limit_bytes`",
            Self::OutputLimit => "it wrote more than `output_limit_bytes`",
            Self::WorkLimit => "its work folder took more than `work_limit_bytes`",
            Self::StartFailed => "it could not be started",
            Self::AttemptLost => "it is gone without a result: the machine went down, or its shim was killed",
            Self::SchedulerRefused => "the scheduler did not take the job",
        }
    }
}

/// Turns an event into its record, final to the byte.
pub type Encode<'a> = &'a (dyn Fn(&Event) -> Result<OutgoingRecord, Unencodable> + Send + Sync);

/// Gives the partitions of a new job.
pub type Home<'a> = &'a (dyn Fn(&JobId) -> JobHome + Send + Sync);

/// What a decision is given beside row and input.
#[derive(Clone, Copy)]
pub struct Context<'a> {
    /// The time of the decision; the timestamp of its events.
    pub now: Timestamp,
    /// Where new ids come from.
    pub randomness: &'a dyn Randomness,
    /// How events become records.
    pub encode: Encode<'a>,
    /// Where a new job is at home.
    pub home: Home<'a>,
}

/// Tells why an event has no record.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("failed to encode `{field}`: {reason}")]
pub struct Unencodable {
    /// The field at fault.
    pub field: String,
    /// What was wanted and what was got.
    pub reason: String,
}

/// Something that a user asks or the scheduler reports.
#[derive(Debug, Clone, PartialEq)]
pub enum Input {
    /// A user submits a job; there is no row yet.
    Submit(Command),
    /// The scheduler accepted the attempt.
    SchedulerAccepted(AttemptReport),
    /// The scheduler refuses the attempt for good.
    SchedulerRefused {
        /// The field of the request at fault.
        field: String,
        /// What was wanted and what was got.
        reason: String,
    },
    /// The attempt runs.
    Started {
        /// When it started.
        started_at: Timestamp,
    },
    /// Samples of the running attempt, in order of index; those that are published already are passed over.
    Samples(Vec<AttemptSample>),
    /// The attempt ended.
    Ended(Ended),
    /// A user wants the job ended.
    CancelRequested(Command),
    /// The scheduler carried a cancel out and has never known the attempt: it never starts.
    CancelAnswered,
    /// The scheduler does not know an attempt any more that it had accepted, and it never starts again.
    Lost,
}

/// How an attempt ended, with what was not published before.
#[derive(Debug, Clone, PartialEq)]
pub struct Ended {
    /// When it started, if it did.
    pub started_at: Option<Timestamp>,
    /// How it ended.
    pub end: AttemptEnd,
    /// How many samples of it there are; the end is refused until all of them are published.
    pub samples_taken: u64,
    /// The last samples, in order of index; those that are published already are passed over.
    pub samples: Vec<AttemptSample>,
}

/// What follows from an input.
#[derive(Debug, Clone, PartialEq)]
pub enum Decision {
    /// This transaction.
    Write(Box<JobWrite>),
    /// Nothing: the row says it already.
    Nothing,
}

/// Tells why an input has no consequence.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// There is no such job.
    #[error("job does not exist")]
    UnknownJob,
    /// The job's state does not allow it.
    #[error("job is {state}: {reason}")]
    Illegal {
        /// The state.
        state: JobStatus,
        /// What was wanted.
        reason: String,
    },
    /// The request itself is at fault.
    #[error("invalid `{field}`: {reason}")]
    Invalid {
        /// The field.
        field: String,
        /// What was wanted and what was got.
        reason: String,
    },
}

impl From<Refusal> for crate::ports::commands::CommandError {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::UnknownJob => Self::NotFound { what: "job".to_owned() },
            Refusal::Illegal { state, reason } => Self::Conflict { state, reason },
            Refusal::Invalid { field, reason } => Self::Invalid { field, reason },
        }
    }
}

impl Refusal {
    /// Gives the field at fault, where one is.
    pub fn field(&self) -> Option<&str> {
        match self {
            Refusal::Invalid { field, .. } => Some(field),
            Refusal::UnknownJob | Refusal::Illegal { .. } => None,
        }
    }

    /// Gives the state that stands against it, where one does.
    pub const fn state(&self) -> Option<JobStatus> {
        match self {
            Refusal::Illegal { state, .. } => Some(*state),
            Refusal::UnknownJob | Refusal::Invalid { .. } => None,
        }
    }
}

impl From<Unencodable> for Refusal {
    fn from(error: Unencodable) -> Self {
        Refusal::Invalid { field: error.field, reason: error.reason }
    }
}

/// Decides what follows from `input` for the job in `row`.
///
/// ```text
///            accepted          started           ended well
/// SUBMITTED ─────────► QUEUED ─────────► RUNNING ──────────► COMPLETED
///     │                  │                  ├── badly, lost ─► FAILED
///     │ refused          ├─ badly, lost ────┼──────────────►
///     ├──────────────────┼──────────────────┼─ cancelled ──► CANCELLED
///     └─ cancelled, never known ────────────┘
/// ```
///
/// An attempt that ended unseen goes QUEUED → RUNNING → its end in one write. A failed attempt that another
/// one follows is no end of the job: a cancel then goes FAILED → CANCELLED.
///
/// *Errors*: [`Refusal::UnknownJob`] for all but a submit when there is no row; [`Refusal::Illegal`] when the
/// state does not allow the input; [`Refusal::Invalid`] when the input itself is at fault.
pub fn decide(row: Option<&JobRow>, input: &Input, context: &Context<'_>) -> Result<Decision, Refusal> {
    let known = || row.ok_or(Refusal::UnknownJob);
    match input {
        Input::Submit(command) => request::submit(row, command, context),
        Input::CancelRequested(command) => request::cancel(known()?, command, context),
        Input::SchedulerAccepted(report) => attempt::accepted(known()?, report, context),
        Input::SchedulerRefused { field, reason } => attempt::refused(known()?, field, reason, context),
        Input::Started { started_at } => attempt::started(known()?, *started_at, context),
        Input::Samples(samples) => attempt::sampled(known()?, samples, context),
        Input::Ended(ended) => attempt::ended(known()?, ended, context),
        Input::CancelAnswered => attempt::cancel_answered(known()?, context),
        Input::Lost => attempt::lost(known()?, context),
    }
}

/// Tells whether the job has ended and no attempt follows.
pub const fn is_terminal(row: &JobRow) -> bool {
    row.status.is_attempt_end() && !row.will_retry
}
