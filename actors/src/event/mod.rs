//! The event model: what every event carries, and the eleven types there are.
//!
//! Promises that an [`Event`] is well formed: its closed sets hold known values and its identifiers are
//! checked. Does not promise that it is *true*; that is for the behaviours to judge.
//!
//! Another service makes, writes and reads an event like this:
//!
//! ```
//! use horizons_actors::clock::{Clock, SystemClock, SystemRandomness};
//! use horizons_actors::event::{
//!     Encoding, Event, JobRunning, Payload, decode, encode, new_correlation_id, new_event_id,
//! };
//! use horizons_actors::ids::{Attempt, JobId, Offset, Sequence, Topic, UserId};
//! use horizons_actors::record::{LogRecord, TimestampType};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let now = SystemClock.now();
//! let event = Event {
//!     event_id: new_event_id(&SystemRandomness),
//!     timestamp: now,
//!     correlation_id: new_correlation_id(&SystemRandomness),
//!     user_id: UserId::parse("ada")?,
//!     job_id: Some(JobId::parse("job-1")?),
//!     sequence: Some(Sequence(3)),
//!     payload: Payload::JobRunning(JobRunning { running_timestamp: now, attempt: Attempt(1) }),
//! };
//!
//! // Checked, encoded, with its key, partition and headers; refused with the field if it breaks its schema.
//! let outgoing = encode(&event, Encoding::MessagePack)?;
//!
//! // What a consumer gets.
//! let record = LogRecord {
//!     offset: Offset(0),
//!     timestamp: outgoing.timestamp,
//!     timestamp_type: TimestampType::CreateTime,
//!     key: outgoing.key,
//!     headers: outgoing.headers,
//!     payload: outgoing.payload,
//! };
//! assert_eq!(decode(Topic::JobLifecycle, &record), Ok(event));
//! # Ok(())
//! # }
//! ```

mod check;
pub mod decode;
pub mod encode;
mod fields;
mod guess;
pub mod make;
pub mod partition;
pub mod payload;
mod tree;
mod typed;
pub mod wire;

pub use check::FREE_OBJECT_NESTING_MAX;
pub use decode::decode;
pub use encode::{EncodeError, Encoding, RECORD_MAX_BYTES, encode, trace_parent};
pub use guess::looks_like;
pub use make::{new_correlation_id, new_event_id, new_job_id};
pub use partition::{murmur2, partition_among, partition_for};
pub use wire::event_json;

pub use payload::{
    AuditActionRecorded, JobCancelled, JobCompleted, JobFailed, JobMetricsRecorded, JobQueued, JobRunning,
    JobStatus, JobStatusChanged, JobSubmitted, NotificationChannel, NotificationOutcome, NotificationSent,
    Payload, SystemHealthCheck, TaccSystem,
};

use crate::clock::Timestamp;
use crate::ids::{CorrelationId, EventId, JobId, ResourceId, Sequence, Topic, UserId};

/// The partition key of every record of `system-health`.
pub const SYSTEM_HEALTH_KEY: &str = "system-health";

/// An event: the envelope (E1) and its typed payload (E2).
///
/// *Shape*: identified by `event_id`. The type, the topic and the record's key follow from the payload and
/// the envelope; they are computed, never stored beside it.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// Identifies the event.
    pub event_id: EventId,
    /// When the event was made.
    pub timestamp: Timestamp,
    /// Follows the request that caused it.
    pub correlation_id: CorrelationId,
    /// Who initiated it.
    pub user_id: UserId,
    /// The job it is about, where there is one.
    pub job_id: Option<JobId>,
    /// Counts the job's events on the topic (lifecycle and metrics only).
    pub sequence: Option<Sequence>,
    /// What happened.
    pub payload: Payload,
}

impl Event {
    /// Gives the topic that events of this type go to.
    pub fn topic(&self) -> Topic {
        self.payload.event_type().topic()
    }

    /// Gives the record's key: job, resource or the constant of system-health; none for notifications.
    pub fn partition_key(&self) -> Option<&str> {
        match self.topic() {
            Topic::JobLifecycle | Topic::JobMetrics => self.job_id.as_ref().map(JobId::as_str),
            Topic::AuditTrail => match &self.payload {
                Payload::AuditActionRecorded(action) => Some(ResourceId::as_str(&action.resource_id)),
                _ => None,
            },
            Topic::Notifications => None,
            Topic::SystemHealth => Some(SYSTEM_HEALTH_KEY),
        }
    }
}

/// Names a type of event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum EventType {
    /// A job was accepted from a user.
    JobSubmitted,
    /// The scheduler accepted an attempt.
    JobQueued,
    /// An attempt runs.
    JobRunning,
    /// The job's status changed; comes before the typed event of the same change.
    JobStatusChanged,
    /// An attempt ended well.
    JobCompleted,
    /// An attempt ended badly.
    JobFailed,
    /// The job was cancelled.
    JobCancelled,
    /// What a running attempt uses.
    JobMetricsRecorded,
    /// Something was sent to somebody, or could not be.
    NotificationSent,
    /// A user or operator did something.
    AuditActionRecorded,
    /// How the system is.
    SystemHealthCheck,
}

impl EventType {
    /// Lists every type.
    pub const ALL: [EventType; 11] = [
        EventType::JobSubmitted,
        EventType::JobQueued,
        EventType::JobRunning,
        EventType::JobStatusChanged,
        EventType::JobCompleted,
        EventType::JobFailed,
        EventType::JobCancelled,
        EventType::JobMetricsRecorded,
        EventType::NotificationSent,
        EventType::AuditActionRecorded,
        EventType::SystemHealthCheck,
    ];

    /// Gives the name on the wire.
    pub const fn name(self) -> &'static str {
        match self {
            EventType::JobSubmitted => "job.submitted",
            EventType::JobQueued => "job.queued",
            EventType::JobRunning => "job.running",
            EventType::JobStatusChanged => "job.status_changed",
            EventType::JobCompleted => "job.completed",
            EventType::JobFailed => "job.failed",
            EventType::JobCancelled => "job.cancelled",
            EventType::JobMetricsRecorded => "job.metrics_recorded",
            EventType::NotificationSent => "notification.sent",
            EventType::AuditActionRecorded => "audit.action_recorded",
            EventType::SystemHealthCheck => "system.health_check",
        }
    }

    /// Finds the type with this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|event_type| event_type.name() == name)
    }

    /// Gives the version that is written; older ones are read as well.
    pub const fn schema_version(self) -> u16 {
        match self {
            // Version 1 was the nested form (`metrics.cpu_usage`, …).
            EventType::JobMetricsRecorded => 2,
            // Version 1 had JSON values as parameters; readers rounded the numbers among them.
            EventType::JobSubmitted => 2,
            _ => 1,
        }
    }

    /// Gives the topic that events of this type go to.
    pub const fn topic(self) -> Topic {
        match self {
            EventType::JobSubmitted
            | EventType::JobQueued
            | EventType::JobRunning
            | EventType::JobStatusChanged
            | EventType::JobCompleted
            | EventType::JobFailed
            | EventType::JobCancelled => Topic::JobLifecycle,
            EventType::JobMetricsRecorded => Topic::JobMetrics,
            EventType::NotificationSent => Topic::Notifications,
            EventType::AuditActionRecorded => Topic::AuditTrail,
            EventType::SystemHealthCheck => Topic::SystemHealth,
        }
    }
}

impl std::fmt::Display for EventType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod schema_tests;
#[cfg(test)]
mod tests;
