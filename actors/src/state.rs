//! What behaviours keep between batches: rows that the store loads by key and replaces on commit.
//!
//! Promises plain data with one writing lane each: the store adds (log id, group, topic, partition) of the
//! lane to every key, so nothing here is ever written from two lanes.

use crate::clock::Timestamp;
use crate::event::{JobStatus, TaccSystem};
use crate::ids::{AgentName, Attempt, EventId, JobId, Offset, Partition, Sequence, Topic, UserId};
use crate::layout::Layout;
use crate::record::Digest32;

/// Names a row of a behaviour's state within its lane.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum StateKey {
    /// The auditor's log of this lane.
    AuditLog,
    /// The jobs group's view of a job.
    JobView(JobId),
    /// What the orchestrator has written about one lifecycle sequence of a job; never cached, never written
    /// by a lane.
    LifecycleOwner(JobId, Sequence),
    /// The partitions that the orchestrator gave a job of its own; never cached, never written by a lane.
    JobHome(JobId),
    /// The aggregate of one attempt's metrics.
    JobAggregate(JobId, Attempt),
    /// How many jobs of this lane entered a status.
    StatusCount(JobStatus),
    /// The last sequence of a job's events that a behaviour without a row of its own has taken.
    LastSequence(JobId),
}

impl StateKey {
    /// Tells whether only this lane writes the row, so that a lane may keep it in memory.
    pub const fn is_lane_owned(&self) -> bool {
        !matches!(self, StateKey::LifecycleOwner(..) | StateKey::JobHome(_))
    }

    /// Gives the job that a lane's row is about: the row goes where the job is at home.
    pub const fn moving_with(&self) -> Option<&JobId> {
        match self {
            StateKey::JobView(job_id)
            | StateKey::JobAggregate(job_id, _)
            | StateKey::LastSequence(job_id) => Some(job_id),
            StateKey::AuditLog
            | StateKey::LifecycleOwner(..)
            | StateKey::JobHome(_)
            | StateKey::StatusCount(_) => None,
        }
    }
}

/// A row of a behaviour's state. Rows that do not exist yet are simply absent from what is loaded.
#[derive(Debug, Clone, PartialEq)]
pub enum StateValue {
    /// See [`StateKey::AuditLog`].
    AuditLog(AuditLogState),
    /// See [`StateKey::JobView`].
    JobView(JobView),
    /// See [`StateKey::LifecycleOwner`]; absent when the orchestrator does not know the job at all.
    LifecycleOwner(LifecycleOwner),
    /// See [`StateKey::JobHome`]; absent when the orchestrator does not know the job at all.
    JobHome(JobHome),
    /// See [`StateKey::JobAggregate`].
    JobAggregate(JobAggregate),
    /// See [`StateKey::StatusCount`].
    StatusCount(u64),
    /// See [`StateKey::LastSequence`].
    LastSequence(Sequence),
}

/// Where an audit log stands after its last entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditLogState {
    /// Entries in the log: the size of its tree, and the index of the next entry.
    pub size: u64,
    /// The head of the hash chain; of an empty log 32 zero bytes.
    pub chain_head: Digest32,
    /// The roots of the perfect subtrees that make up the tree, largest first (one per set bit of `size`).
    pub frontier: Vec<Digest32>,
    /// The offset of the last entry's record.
    pub last_offset: Option<Offset>,
    /// The open segment.
    pub segment: AuditSegment,
}

/// A run of entries that retention will remove as a whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditSegment {
    /// Numbers the log's segments from 0.
    pub number: u64,
    /// The index of its first entry.
    pub first_index: u64,
    /// When its first entry was appended (never a producer's time); of an empty segment when it was opened.
    pub opened_at: Timestamp,
    /// The index after its last entry and the time it was closed, once it is closed.
    pub closed: Option<(u64, Timestamp)>,
}

/// Tells whose job it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum JobOrigin {
    /// Submitted through this Horizons: its orchestrator is the one writer.
    Owned,
    /// Another producer's.
    External,
}

/// The jobs group's view of a job, built from `job-lifecycle` alone.
#[derive(Debug, Clone, PartialEq)]
pub struct JobView {
    /// The job.
    pub job_id: JobId,
    /// Whose job it is.
    pub origin: JobOrigin,
    /// The user who submitted it.
    pub user_id: UserId,
    /// The agent, where `job.submitted` was seen.
    pub agent: Option<AgentName>,
    /// The system, where `job.submitted` was seen.
    pub tacc_system: Option<TaccSystem>,
    /// The status.
    pub status: JobStatus,
    /// The attempt the status belongs to; 0 before the first is queued.
    pub attempt: Attempt,
    /// Whether another attempt follows a failed one.
    pub will_retry: bool,
    /// Whether the typed event of the last transition has confirmed it.
    pub is_confirmed: bool,
    /// The sequence of the last applied event.
    pub last_sequence: Sequence,
    /// The last applied event.
    pub last_event_id: EventId,
    /// When the job was submitted (event time).
    pub submitted_at: Timestamp,
    /// When the status was entered (event time).
    pub status_since: Timestamp,
    /// The stamp of the batch that changed the view last.
    pub updated_at: Timestamp,
}

impl JobView {
    /// Tells whether the job has ended and no attempt follows.
    pub const fn is_terminal(&self) -> bool {
        self.status.is_attempt_end() && !self.will_retry
    }
}

/// What the orchestrator has written about one lifecycle sequence of a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LifecycleOwner {
    /// The event that carries the sequence, once there is one.
    pub event_id: Option<EventId>,
}

/// The partitions that a job's events go to for all its life, whatever becomes of its topics' layouts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct JobHome {
    /// Of `job-lifecycle`.
    pub lifecycle: Partition,
    /// Of `job-metrics`.
    pub metrics: Partition,
}

impl JobHome {
    /// Gives the home that a new job gets, by the layouts of the two topics.
    pub fn by(job_id: &JobId, layout: impl Fn(Topic) -> Layout) -> Self {
        let home = |topic| layout(topic).home_now(job_id.as_str().as_bytes());
        Self { lifecycle: home(Topic::JobLifecycle), metrics: home(Topic::JobMetrics) }
    }

    /// Gives the partition of one of the topics that are keyed by job.
    pub const fn of(&self, topic: Topic) -> Option<Partition> {
        match topic {
            Topic::JobLifecycle => Some(self.lifecycle),
            Topic::JobMetrics => Some(self.metrics),
            Topic::Notifications | Topic::AuditTrail | Topic::SystemHealth => None,
        }
    }
}

impl LifecycleOwner {
    /// Tells whether the orchestrator wrote this very event under the sequence.
    pub fn vouches_for(&self, event_id: EventId) -> bool {
        self.event_id == Some(event_id)
    }
}

/// Count, sum and extremes of one measured quantity.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Aggregate {
    /// Samples taken in.
    pub count: u64,
    /// Their sum.
    pub sum: f64,
    /// The least; 0 while there is none.
    pub min: f64,
    /// The greatest; 0 while there is none.
    pub max: f64,
}

impl Aggregate {
    /// Takes a sample in. Gives nothing when the sample or the sum with it is no finite number.
    pub fn with(self, sample: f64) -> Option<Self> {
        let sum = self.sum + sample;
        if !sum.is_finite() {
            return None;
        }
        let (min, max) =
            if self.count == 0 { (sample, sample) } else { (self.min.min(sample), self.max.max(sample)) };
        Some(Self { count: self.count + 1, sum, min, max })
    }

    /// Gives the aggregate of both sets of samples, for queries over several attempts.
    pub fn merged(self, other: Self) -> Self {
        match (self.count, other.count) {
            (0, _) => other,
            (_, 0) => self,
            (left, right) => Self {
                count: left + right,
                sum: self.sum + other.sum,
                min: self.min.min(other.min),
                max: self.max.max(other.max),
            },
        }
    }

    /// Gives the mean; nothing while there is no sample.
    pub fn mean(self) -> Option<f64> {
        // Counts stay far below 2^53, where this is exact.
        (self.count > 0).then(|| self.sum / self.count as f64)
    }
}

/// The aggregate of one attempt's metrics.
#[derive(Debug, Clone, PartialEq)]
pub struct JobAggregate {
    /// The job.
    pub job_id: JobId,
    /// The attempt.
    pub attempt: Attempt,
    /// Processor use in percent of one core.
    pub cpu_usage_percent: Aggregate,
    /// Resident memory in MiB.
    pub memory_usage_mb: Aggregate,
    /// Read and write calls.
    pub io_operations: Aggregate,
    /// Run time in seconds.
    pub execution_time_seconds: Aggregate,
    /// The last sequence taken in.
    pub last_sequence: Option<Sequence>,
    /// The attempt's totals, once published; kept beside the samples, never counted with them.
    pub summary: Option<AttemptSummary>,
    /// The stamp of the batch that changed the row last.
    pub updated_at: Timestamp,
}

/// The totals of an attempt as its end reported them.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AttemptSummary {
    /// Mean processor use in percent of one core.
    pub cpu_usage_percent: f64,
    /// Peak resident memory in MiB.
    pub memory_usage_mb: f64,
    /// All read and write calls.
    pub io_operations: u64,
    /// Run time in seconds.
    pub execution_time_seconds: f64,
}
