//! What each type of event says. Field names are the names on the wire.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::clock::Timestamp;
use crate::event::EventType;
use crate::ids::{AgentName, Attempt, DatasetId, ResourceId, SchedulerJobId, UserId};

/// The status of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum JobStatus {
    /// Accepted from the user.
    Submitted,
    /// Accepted by the scheduler.
    Queued,
    /// At work.
    Running,
    /// Ended well.
    Completed,
    /// Ended badly; terminal unless another attempt follows.
    Failed,
    /// Ended by a user.
    Cancelled,
}

impl JobStatus {
    /// Lists every status.
    pub const ALL: [JobStatus; 6] = [
        JobStatus::Submitted,
        JobStatus::Queued,
        JobStatus::Running,
        JobStatus::Completed,
        JobStatus::Failed,
        JobStatus::Cancelled,
    ];

    /// Gives the name on the wire.
    pub const fn name(self) -> &'static str {
        match self {
            JobStatus::Submitted => "SUBMITTED",
            JobStatus::Queued => "QUEUED",
            JobStatus::Running => "RUNNING",
            JobStatus::Completed => "COMPLETED",
            JobStatus::Failed => "FAILED",
            JobStatus::Cancelled => "CANCELLED",
        }
    }

    /// Finds the status with this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|status| status.name() == name)
    }

    /// Tells whether an attempt has ended in this status.
    pub const fn is_attempt_end(self) -> bool {
        matches!(self, JobStatus::Completed | JobStatus::Failed | JobStatus::Cancelled)
    }
}

impl std::fmt::Display for JobStatus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// A system that jobs run on: TACC's, or the machine Horizons runs on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TaccSystem {
    /// Frontera.
    Frontera,
    /// Lonestar6.
    Lonestar6,
    /// Stampede3.
    Stampede3,
    /// Vista.
    Vista,
    /// The machine that Horizons runs on (scheduler `local`).
    Local,
}

impl TaccSystem {
    /// Lists every system.
    pub const ALL: [TaccSystem; 5] = [
        TaccSystem::Frontera,
        TaccSystem::Lonestar6,
        TaccSystem::Stampede3,
        TaccSystem::Vista,
        TaccSystem::Local,
    ];

    /// Gives the name on the wire.
    pub const fn name(self) -> &'static str {
        match self {
            TaccSystem::Frontera => "frontera",
            TaccSystem::Lonestar6 => "lonestar6",
            TaccSystem::Stampede3 => "stampede3",
            TaccSystem::Vista => "vista",
            TaccSystem::Local => "local",
        }
    }

    /// Finds the system with this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|system| system.name() == name)
    }
}

/// A way to reach somebody.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NotificationChannel {
    /// Mail.
    Email,
    /// The list in the application.
    InApp,
    /// An open WebSocket.
    Websocket,
}

impl NotificationChannel {
    /// Lists every channel.
    pub const ALL: [NotificationChannel; 3] =
        [NotificationChannel::Email, NotificationChannel::InApp, NotificationChannel::Websocket];

    /// Gives the name on the wire.
    pub const fn name(self) -> &'static str {
        match self {
            NotificationChannel::Email => "email",
            NotificationChannel::InApp => "in_app",
            NotificationChannel::Websocket => "websocket",
        }
    }

    /// Finds the channel with this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|channel| channel.name() == name)
    }
}

/// What became of a notification.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NotificationOutcome {
    /// It was handed over.
    Sent,
    /// It was refused or could not be handed over.
    Failed,
    /// Whether it was handed over cannot be told.
    Unknown,
    /// It was decided not to send it.
    Suppressed,
}

impl NotificationOutcome {
    /// Lists every outcome.
    pub const ALL: [NotificationOutcome; 4] = [
        NotificationOutcome::Sent,
        NotificationOutcome::Failed,
        NotificationOutcome::Unknown,
        NotificationOutcome::Suppressed,
    ];

    /// Gives the name on the wire.
    pub const fn name(self) -> &'static str {
        match self {
            NotificationOutcome::Sent => "sent",
            NotificationOutcome::Failed => "failed",
            NotificationOutcome::Unknown => "unknown",
            NotificationOutcome::Suppressed => "suppressed",
        }
    }

    /// Finds the outcome with this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|outcome| outcome.name() == name)
    }
}

/// `job.submitted`: a job was accepted from a user.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct JobSubmitted {
    /// The agent that does the work.
    pub agent: AgentName,
    /// The data set to work on.
    pub dataset_id: DatasetId,
    /// The user's parameters, each as text; never a number that a reader could round.
    pub parameters: BTreeMap<String, String>,
    /// Names the parameters whose text is JSON; the others are text as they stand.
    pub json_parameters: BTreeSet<String>,
    /// The system to run on.
    pub tacc_system: TaccSystem,
}

/// `job.queued`: the scheduler accepted an attempt.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct JobQueued {
    /// The scheduler's own name for the attempt.
    pub tac_job_id: SchedulerJobId,
    /// When the scheduler accepted it.
    pub queued_timestamp: Timestamp,
    /// The attempt.
    pub attempt: Attempt,
}

/// `job.running`: an attempt runs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct JobRunning {
    /// When it started.
    pub running_timestamp: Timestamp,
    /// The attempt.
    pub attempt: Attempt,
}

/// `job.status_changed`: the job went from one status to another.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct JobStatusChanged {
    /// Where it was.
    pub previous_status: JobStatus,
    /// Where it is.
    pub current_status: JobStatus,
    /// When it happened.
    pub status_changed_timestamp: Timestamp,
    /// The attempt that the new status belongs to.
    pub attempt: Attempt,
    /// Whether another attempt follows (on the end of an attempt).
    pub will_retry: bool,
}

/// `job.completed`: an attempt ended well.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct JobCompleted {
    /// How long it ran, in seconds.
    pub execution_time_seconds: f64,
    /// When it ended.
    pub completion_timestamp: Timestamp,
    /// The attempt.
    pub attempt: Attempt,
}

/// `job.failed`: an attempt ended badly.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct JobFailed {
    /// A short stable code, for example `exit_code` or `attempt_lost`.
    pub error_code: String,
    /// What happened, for a person.
    pub error_message: String,
    /// When it happened.
    pub failure_timestamp: Timestamp,
    /// The attempt.
    pub attempt: Attempt,
    /// Whether another attempt follows.
    pub will_retry: bool,
}

/// `job.cancelled`: a user ended the job.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct JobCancelled {
    /// Who asked for it.
    pub cancelled_by: UserId,
    /// Why.
    pub cancellation_reason: String,
    /// When the job ended.
    pub cancellation_timestamp: Timestamp,
    /// The attempt that was ended.
    pub attempt: Attempt,
}

/// `job.metrics_recorded`: what a running attempt used since the sample before, or in all (`summary`).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct JobMetricsRecorded {
    /// Processor use in percent of one core.
    pub cpu_usage_percent: f64,
    /// Resident memory in MiB; in a summary the peak.
    pub memory_usage_mb: f64,
    /// Read and write calls; in a summary all of them.
    pub io_operations: u64,
    /// How long the attempt has run, in seconds.
    pub execution_time_seconds: f64,
    /// The attempt.
    pub attempt: Attempt,
    /// Whether these are the attempt's totals, published once at its end.
    pub summary: bool,
}

/// `notification.sent`: what became of a notification.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NotificationSent {
    /// The way it went.
    pub channel: NotificationChannel,
    /// A reference to the recipient, never an address.
    pub recipient: String,
    /// What became of it.
    pub outcome: NotificationOutcome,
}

/// `audit.action_recorded`: what a user or operator did.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AuditActionRecorded {
    /// What was done, for example `job.submit`.
    pub action: String,
    /// What it was done to.
    pub resource_id: ResourceId,
    /// Who did it.
    pub user_id: UserId,
    /// What changed.
    pub changes: Map<String, Value>,
}

/// `system.health_check`: how the system is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SystemHealthCheck {
    /// Brokers that answer.
    pub broker_count: u32,
    /// Topics that exist.
    pub topic_count: u32,
    /// Records not yet applied, over all groups.
    pub consumer_lag: u64,
    /// Events that ended in an error ÷ events consumed, 0 to 1.
    pub error_rate: f64,
}

/// What an event says, by type.
#[derive(Debug, Clone, PartialEq)]
pub enum Payload {
    /// `job.submitted`
    JobSubmitted(JobSubmitted),
    /// `job.queued`
    JobQueued(JobQueued),
    /// `job.running`
    JobRunning(JobRunning),
    /// `job.status_changed`
    JobStatusChanged(JobStatusChanged),
    /// `job.completed`
    JobCompleted(JobCompleted),
    /// `job.failed`
    JobFailed(JobFailed),
    /// `job.cancelled`
    JobCancelled(JobCancelled),
    /// `job.metrics_recorded`
    JobMetricsRecorded(JobMetricsRecorded),
    /// `notification.sent`
    NotificationSent(NotificationSent),
    /// `audit.action_recorded`
    AuditActionRecorded(AuditActionRecorded),
    /// `system.health_check`
    SystemHealthCheck(SystemHealthCheck),
}

impl Payload {
    /// Gives the type.
    pub const fn event_type(&self) -> EventType {
        match self {
            Payload::JobSubmitted(_) => EventType::JobSubmitted,
            Payload::JobQueued(_) => EventType::JobQueued,
            Payload::JobRunning(_) => EventType::JobRunning,
            Payload::JobStatusChanged(_) => EventType::JobStatusChanged,
            Payload::JobCompleted(_) => EventType::JobCompleted,
            Payload::JobFailed(_) => EventType::JobFailed,
            Payload::JobCancelled(_) => EventType::JobCancelled,
            Payload::JobMetricsRecorded(_) => EventType::JobMetricsRecorded,
            Payload::NotificationSent(_) => EventType::NotificationSent,
            Payload::AuditActionRecorded(_) => EventType::AuditActionRecorded,
            Payload::SystemHealthCheck(_) => EventType::SystemHealthCheck,
        }
    }
}
