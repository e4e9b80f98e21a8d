//! The metrics aggregator: what every attempt used, and how many jobs entered each status.
//!
//! Promises per attempt count, sum, least and greatest of its samples, its reported totals beside them and
//! never counted with them, and per lane a count of the transitions into each status. Each is counted once, however
//! late a producer says it again: an event whose sequence does not go on is refused. A sample that cannot be
//! aggregated is refused and recorded; consumption goes on (requirements M1, M6, M7). Does not judge a job's transitions: that is for the jobs group.

pub mod summary;

use crate::clock::Timestamp;
use crate::event::{Event, JobMetricsRecorded, JobStatus, Payload};
use crate::ids::{Attempt, Group, JobId, Sequence, Topic};
use crate::lane::behaviour::{Applied, Behaviour, Entry, Verdict, Workspace};
use crate::lane::turn::{Late, turn_key};
use crate::state::{Aggregate, AttemptSummary, JobAggregate, StateKey, StateValue};

pub use summary::{Deviation, Quantity, SummaryDifference, summary_differences};

/// Tells why an event is not aggregated.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum Refused {
    /// The event names no job or no sequence.
    #[error("no event of a job: wanted `{field}`")]
    FieldMissing {
        /// The field.
        field: &'static str,
    },
    /// A measured value cannot be one.
    #[error("`{field}` cannot be measured: wanted a finite number from 0, got {got}")]
    InvalidMeasurement {
        /// The field.
        field: &'static str,
        /// What the event says.
        got: f64,
    },
    /// The sum of the samples leaves the range of numbers.
    #[error("the sum of `{field}` overflows with {got}")]
    SumOverflows {
        /// The field.
        field: &'static str,
        /// What the event says.
        got: f64,
    },
    /// The attempt's totals are known and these are others.
    #[error("the totals of attempt {attempt} are known and differ")]
    SummaryRepeated {
        /// The attempt.
        attempt: Attempt,
    },
    /// An event of this or a later sequence was counted before.
    #[error(transparent)]
    Late(#[from] Late),
    /// The orchestrator owns the job and has not written this event.
    #[error("the job is owned here and sequence {sequence} is not this event")]
    Foreign {
        /// What the event says.
        sequence: Sequence,
    },
}

impl Refused {
    /// Gives the stable name of the reason.
    pub const fn reason(&self) -> &'static str {
        match self {
            Refused::FieldMissing { .. } => "field_missing",
            Refused::InvalidMeasurement { .. } => "invalid_measurement",
            Refused::SumOverflows { .. } => "sum_overflows",
            Refused::SummaryRepeated { .. } => "summary_repeated",
            Refused::Late(_) => Late::REASON,
            Refused::Foreign { .. } => "foreign_event",
        }
    }
}

/// Aggregates what jobs use and how they change.
#[derive(Debug, Clone, Copy, Default)]
pub struct MetricsAggregator;

impl Behaviour for MetricsAggregator {
    fn group(&self) -> Group {
        Group::job_metrics()
    }

    fn topics(&self) -> Vec<Topic> {
        vec![Topic::JobMetrics, Topic::JobLifecycle]
    }

    fn keys(&self, entry: &Entry, keys: &mut Vec<StateKey>) {
        let Verdict::Event(event) = &entry.verdict else { return };
        let Some(job_id) = &event.job_id else { return };
        if let Payload::JobMetricsRecorded(measured) = &event.payload {
            keys.push(StateKey::JobAggregate(job_id.clone(), measured.attempt));
        } else if let (Some(status), Some(sequence)) = (entered_status(&event.payload), event.sequence) {
            keys.push(StateKey::StatusCount(status));
            keys.push(StateKey::LifecycleOwner(job_id.clone(), sequence));
            keys.extend(turn_key(event));
        }
    }

    fn apply(&self, entry: &Entry, work: &mut Workspace<'_>) -> Applied {
        // The lane gives duplicates and rejected records only to behaviours that record raw bytes.
        let Verdict::Event(event) = &entry.verdict else { return Applied::Applied };
        let taken = match &event.payload {
            Payload::JobMetricsRecorded(measured) => take_measured(event, measured, work),
            payload => match entered_status(payload) {
                Some(status) => count_status(event, status, work),
                None => Ok(()),
            },
        };
        match taken {
            Ok(()) => Applied::Applied,
            Err(refused) => Applied::Refused { reason: refused.reason(), detail: refused.to_string() },
        }
    }
}

/// Gives the status that an event says was entered. `job.submitted` tells of the creation and
/// `job.status_changed` of every transition (E2), so that a pair is counted once, by its first event;
/// a producer that leaves `job.status_changed` out is not counted.
fn entered_status(payload: &Payload) -> Option<JobStatus> {
    match payload {
        Payload::JobSubmitted(_) => Some(JobStatus::Submitted),
        Payload::JobStatusChanged(changed) => {
            let is_entered = changed.current_status != JobStatus::Submitted
                && changed.current_status != changed.previous_status;
            is_entered.then_some(changed.current_status)
        }
        Payload::JobQueued(_)
        | Payload::JobRunning(_)
        | Payload::JobCompleted(_)
        | Payload::JobFailed(_)
        | Payload::JobCancelled(_)
        | Payload::JobMetricsRecorded(_)
        | Payload::NotificationSent(_)
        | Payload::AuditActionRecorded(_)
        | Payload::SystemHealthCheck(_) => None,
    }
}

/// Counts a status, unless the event is about an owned job and not the orchestrator's.
fn count_status(event: &Event, status: JobStatus, work: &mut Workspace<'_>) -> Result<(), Refused> {
    let job_id = event.job_id.as_ref().ok_or(Refused::FieldMissing { field: "job_id" })?;
    let sequence = event.sequence.ok_or(Refused::FieldMissing { field: "sequence" })?;
    if let Some(StateValue::LifecycleOwner(owner)) =
        work.get(&StateKey::LifecycleOwner(job_id.clone(), sequence))
        && !owner.vouches_for(event.event_id)
    {
        return Err(Refused::Foreign { sequence });
    }
    work.take_turn(event)?;
    let key = StateKey::StatusCount(status);
    let count = match work.get(&key) {
        Some(StateValue::StatusCount(count)) => *count,
        _ => 0,
    };
    work.put(key, StateValue::StatusCount(count + 1));
    Ok(())
}

/// Takes a sample, or an attempt's totals, into the attempt's row.
fn take_measured(
    event: &Event,
    measured: &JobMetricsRecorded,
    work: &mut Workspace<'_>,
) -> Result<(), Refused> {
    let job_id = event.job_id.as_ref().ok_or(Refused::FieldMissing { field: "job_id" })?;
    let sequence = event.sequence.ok_or(Refused::FieldMissing { field: "sequence" })?;
    check_measured(measured)?;
    let key = StateKey::JobAggregate(job_id.clone(), measured.attempt);
    let known = match work.get(&key) {
        Some(StateValue::JobAggregate(row)) => row.clone(),
        _ => new_aggregate(job_id, measured.attempt, work.now),
    };
    Late::check(known.last_sequence, sequence)?;
    let mut row =
        if measured.summary { with_summary(known, measured)? } else { with_sample(known, measured)? };
    row.last_sequence = Some(sequence);
    row.updated_at = work.now;
    work.put(key, StateValue::JobAggregate(row));
    Ok(())
}

/// Checks that every measured value can be one.
fn check_measured(measured: &JobMetricsRecorded) -> Result<(), Refused> {
    let values = [
        ("cpu_usage_percent", measured.cpu_usage_percent),
        ("memory_usage_mb", measured.memory_usage_mb),
        ("execution_time_seconds", measured.execution_time_seconds),
    ];
    match values.into_iter().find(|(_, got)| !got.is_finite() || *got < 0.0) {
        Some((field, got)) => Err(Refused::InvalidMeasurement { field, got }),
        None => Ok(()),
    }
}

/// Counts a sample in.
fn with_sample(row: JobAggregate, measured: &JobMetricsRecorded) -> Result<JobAggregate, Refused> {
    let add = |field, samples: Aggregate, got| samples.with(got).ok_or(Refused::SumOverflows { field, got });
    Ok(JobAggregate {
        cpu_usage_percent: add("cpu_usage_percent", row.cpu_usage_percent, measured.cpu_usage_percent)?,
        memory_usage_mb: add("memory_usage_mb", row.memory_usage_mb, measured.memory_usage_mb)?,
        // Counts above 2^53 lose their last digits, which no sum of system calls reaches.
        io_operations: add("io_operations", row.io_operations, measured.io_operations as f64)?,
        execution_time_seconds: add(
            "execution_time_seconds",
            row.execution_time_seconds,
            measured.execution_time_seconds,
        )?,
        ..row
    })
}

/// Keeps an attempt's totals beside its samples. The same totals may come again; others may not.
fn with_summary(row: JobAggregate, measured: &JobMetricsRecorded) -> Result<JobAggregate, Refused> {
    let summary = AttemptSummary {
        cpu_usage_percent: measured.cpu_usage_percent,
        memory_usage_mb: measured.memory_usage_mb,
        io_operations: measured.io_operations,
        execution_time_seconds: measured.execution_time_seconds,
    };
    match row.summary {
        Some(known) if known != summary => Err(Refused::SummaryRepeated { attempt: row.attempt }),
        Some(_) | None => Ok(JobAggregate { summary: Some(summary), ..row }),
    }
}

/// Makes the row of an attempt that is seen for the first time.
fn new_aggregate(job_id: &JobId, attempt: Attempt, now: Timestamp) -> JobAggregate {
    JobAggregate {
        job_id: job_id.clone(),
        attempt,
        cpu_usage_percent: Aggregate::default(),
        memory_usage_mb: Aggregate::default(),
        io_operations: Aggregate::default(),
        execution_time_seconds: Aggregate::default(),
        last_sequence: None,
        summary: None,
        updated_at: now,
    }
}

#[cfg(test)]
mod tests;
