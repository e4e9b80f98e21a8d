//! What users and operators ask, and what they are answered: the port between HTTP and the orchestrator.
//!
//! Promises only the shape of request and answer: the program puts the orchestrator behind it, tests a fake.
//! Every request is one [`Command`] with its principal; the answer comes after the commit.

use std::time::Duration;

use crate::command::{Command, LayoutAdoption};
use crate::event::JobStatus;
use crate::ids::{Generation, JobId, Offset, Topic};
use crate::layout::Layout;
use crate::ports::Reply;
use crate::ports::store::{AppendedAt, JobRow};
use crate::record::Headers;
use bytes::Bytes;

/// Carries commands out.
pub trait Commands: Send + Sync {
    /// Submits a job: stores it, then waits a moment for the scheduler's verdict.
    fn submit(&self, command: Command) -> Reply<Submitted, CommandError>;

    /// Asks for a job's end.
    fn cancel(&self, command: Command) -> Reply<Cancelling, CommandError>;

    /// Appends records as they are; answers where each of them went, in order.
    fn append_records(
        &self,
        command: Command,
        records: Vec<ExternalRecord>,
    ) -> Reply<Vec<AppendedAt>, CommandError>;

    /// Stores what an operator wants of a parked key: the command says key and wish.
    fn set_parked_wish(&self, command: Command) -> Reply<(), CommandError>;

    /// Lets a lane go on that is held: the command says which.
    fn resume_lane(&self, command: Command) -> Reply<(), CommandError>;

    /// Keeps the record apart at which a partition of the relay stands.
    fn set_aside_record(&self, command: Command) -> Reply<(), CommandError>;

    /// Has the relay send again the record at which a partition stands.
    fn send_record_again(&self, command: Command) -> Reply<(), CommandError>;

    /// Lets a lane go on behind a gap in its log: the command says which gap, as it was shown.
    fn accept_gap(&self, command: Command) -> Reply<AcceptedGap, CommandError>;

    /// Looks what an adoption of a topic's added partitions would be. An embedded log's topics do not grow.
    fn look_at_topic(&self, topic: Topic) -> Reply<LayoutAdoption, CommandError>;

    /// Lets a topic's added partitions count: the command says which, as they were seen.
    fn adopt_layout(&self, command: Command) -> Reply<Layout, CommandError>;
}

/// A gap that was accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AcceptedGap {
    /// The generation of the lane that goes on.
    pub generation: Generation,
    /// Where it goes on.
    pub resumes_at: Offset,
}

/// A job that was submitted.
#[derive(Debug, Clone, PartialEq)]
pub struct Submitted {
    /// The job as it stands.
    pub job: JobRow,
    /// Whether the request was made before, with the same idempotency key.
    pub is_repeat: bool,
    /// What the scheduler said so far.
    pub verdict: Verdict,
}

/// What the scheduler said about a submitted job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It accepted the job.
    Accepted,
    /// It refused the job for good.
    Refused {
        /// The field at fault, where it is known.
        field: Option<String>,
        /// Why.
        reason: String,
    },
    /// Nothing yet; the job is stored and will be handed over.
    Pending,
}

/// A job that is being cancelled.
#[derive(Debug, Clone, PartialEq)]
pub struct Cancelling {
    /// The job as it stands.
    pub job: JobRow,
    /// Whether it was asked for before.
    pub is_repeat: bool,
}

/// A record that somebody else made.
///
/// *Shape*: identified by nothing but where it is appended; its bytes are kept as they are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExternalRecord {
    /// The key, null apart from empty.
    pub key: Option<Bytes>,
    /// All headers.
    pub headers: Headers,
    /// The payload.
    pub payload: Option<Bytes>,
}

/// Tells why a command was not carried out.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum CommandError {
    /// Store or scheduler are away or have too much to do, and nothing was stored; the same request may succeed
    /// later.
    #[error("busy, try again after {} s: {reason}", retry_after.as_secs_f64())]
    Busy {
        /// When to come back.
        retry_after: Duration,
        /// What stands in the way, for the operator.
        reason: String,
    },
    /// Whether it was stored cannot be told.
    #[error("whether it was stored is not known: {find_out}")]
    Unknown {
        /// How the caller finds out, and whether asking again is safe.
        find_out: String,
        /// The job that a submit would have made.
        job_id: Option<JobId>,
        /// What happened, for the operator.
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
    /// There is no room on the disk; nothing new is begun, what is under way goes on.
    #[error("disk full: {available_bytes} bytes are left for new work; come back when there is room")]
    DiskFull {
        /// What is free beside what is kept for ends and clean-up.
        available_bytes: u64,
    },
    /// The data folder is not where it was when it was opened; nothing was stored.
    #[error("the server's data folder is gone")]
    FolderGone,
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
    /// What the request is about has changed since it was looked at; nothing was stored.
    #[error("{what} has changed: {reason}")]
    Moved {
        /// What has changed.
        what: String,
        /// What it is now.
        reason: String,
    },
    /// What the request is about is there and does not allow it; nothing was stored.
    #[error("{what}: {reason}")]
    NotPossible {
        /// What does not allow it.
        what: String,
        /// Why.
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

impl CommandError {
    /// Tells whether the same command may succeed later.
    pub const fn is_transient(&self) -> bool {
        matches!(
            self,
            CommandError::Busy { .. }
                | CommandError::Unknown { .. }
                | CommandError::DiskLimit { .. }
                | CommandError::DiskFull { .. }
        )
    }
}
