//! What the job registry and the job supervisors are told and asked.
//!
//! Promises that no message carries anything that is not in the store: any of them may be lost, and the
//! registry then reads the store again.

use std::sync::Arc;

use actix::Message;
use serde::Serialize;

use crate::clock::Timestamp;
use crate::event::JobStatus;
use crate::ids::{Attempt, JobId, Sequence};
use crate::lane::guard::CaughtPanic;
use crate::state::JobView;

/// Tells the registry what jobs became in a committed transaction.
///
/// Sent by [`JobRegistryHandle::on_notices`](crate::jobs::JobRegistryHandle::on_notices) after the commit, on
/// the lane's thread, by `try_send`. The registry starts, tells or retires the supervisors of these jobs. When
/// the mailbox is full or closed the message is dropped, a flag is set, and the registry reads the store.
#[derive(Debug)]
pub struct JobsTransitioned {
    /// The newest view of each job that changed.
    pub views: Vec<JobView>,
    /// Jobs that are not followed any more, none of which changed in the same transaction.
    pub left: Vec<JobId>,
}

impl Message for JobsTransitioned {
    type Result = ();
}

/// Tells a supervisor what its job became.
///
/// Sent by the registry, by `try_send`. The supervisor takes it unless it knows a later sequence. When the
/// mailbox is full the registry keeps the newest view and tries again on its tick.
#[derive(Debug)]
pub struct JobTransitioned {
    /// The view as it was committed.
    pub view: Arc<JobView>,
}

impl Message for JobTransitioned {
    type Result = ();
}

/// Tells the registry that a supervisor has ended.
///
/// Sent by the supervisor from `stopped`, by `try_send`. The registry builds a new one, after a delay, unless
/// the end was wanted. When the note is lost the registry finds the closed address on its tick.
#[derive(Debug)]
pub struct ChildExited {
    /// The job.
    pub job_id: JobId,
}

impl Message for ChildExited {
    type Result = ();
}

/// Asks the registry how a job's supervisor is.
///
/// Sent by whoever shows jobs. Answers nothing when the job has no live supervisor: it has ended, is not
/// known, or its supervisor is being rebuilt.
#[derive(Debug)]
pub struct GetJobSupervisor {
    /// The job.
    pub job_id: JobId,
}

impl Message for GetJobSupervisor {
    type Result = Result<Option<JobSupervisorSnapshot>, RegistryError>;
}

/// Asks a supervisor how it is. Sent by the registry for [`GetJobSupervisor`].
#[derive(Debug)]
pub struct GetJobState;

impl Message for GetJobState {
    type Result = Result<JobSupervisorSnapshot, RegistryError>;
}

/// Asks the registry for its figures. Sent by whoever shows the tree or writes metrics.
#[derive(Debug)]
pub struct GetJobCounts;

impl Message for GetJobCounts {
    type Result = Result<JobCounts, RegistryError>;
}

/// Has the registry read every live job from the store.
///
/// Sent by operators and by the registry's own start. Does nothing while such a reading is under way except
/// that another one follows it. The reply says that it was taken, not that it is done.
#[derive(Debug)]
pub struct Resync;

impl Message for Resync {
    type Result = ();
}

/// How a supervisor is.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct JobSupervisorSnapshot {
    /// The job.
    pub job_id: JobId,
    /// Whether another producer's job is supervised.
    pub is_external: bool,
    /// The status, as committed.
    pub status: JobStatus,
    /// The attempt it belongs to.
    pub attempt: Attempt,
    /// The sequence of the last event that it knows.
    pub last_sequence: Sequence,
    /// When the status was entered (event time).
    pub since: Timestamp,
    /// When this supervisor was started.
    pub live_since: Timestamp,
}

/// The registry's figures.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct JobCounts {
    /// Live supervisors.
    pub live: u64,
    /// Supervisors that ended unasked and are being rebuilt.
    pub rebuilding: u64,
    /// Restarts of supervisors since the program started.
    pub supervisor_restarts: u64,
    /// Restarts of the registry since the program started.
    pub registry_restarts: u64,
    /// Readings of every live job that were finished.
    pub resyncs: u64,
    /// Messages that did not fit a mailbox.
    pub missed: u64,
    /// Why a supervisor or the registry panicked last.
    pub last_error: Option<String>,
}

/// Tells why the registry does not answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RegistryError {
    /// There is no registry now: it is being rebuilt, or the program ends.
    #[error("failed to ask the job registry: it is not running")]
    NotRunning,
    /// No answer came in time, or the one who was asked ended.
    #[error("failed to ask the job registry: no answer")]
    NoAnswer,
    /// The one who was asked panicked over it.
    #[error("failed to ask the job registry: {0}")]
    Panicked(#[from] CaughtPanic),
}

impl RegistryError {
    /// Tells whether the same question may be answered later.
    pub const fn is_transient(&self) -> bool {
        match self {
            RegistryError::NotRunning | RegistryError::NoAnswer | RegistryError::Panicked(_) => true,
        }
    }
}
