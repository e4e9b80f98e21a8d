//! Holds an event against its schema (E7).
//!
//! Promises that decoder and encoder apply the same rules: whatever passes here is written, and read back
//! as the same event. What the types already enforce (closed sets, identifiers) is not looked at again.

use serde_json::Value;

use super::{Event, EventType, Payload};
use crate::clock::Timestamp;
use crate::ids::{Attempt, JobId, Sequence, Topic, UuidText};
use crate::rejection::Rejection;

/// Deepest nesting of a free object (`parameters`, `changes`): half of what the decoder allows for the whole
/// document, so that an event that was accepted can still be embedded in other documents.
pub const FREE_OBJECT_NESTING_MAX: usize = 64;

/// 0000-01-01T00:00:00Z, the first time RFC 3339 can write.
const FIRST_TIME: Timestamp = Timestamp::from_micros(-62_167_219_200_000_000);

/// 9999-12-31T23:59:59.999999Z, the last time RFC 3339 can write.
const LAST_TIME: Timestamp = Timestamp::from_micros(253_402_300_799_999_999);

impl Event {
    /// Holds the event against its schema.
    ///
    /// *Errors*: [`Rejection::MissingField`] for a job event without job or sequence,
    /// [`Rejection::InvalidValue`] for a value outside its range, [`Rejection::UuidForm`] for a key that is
    /// another form of a UUID; each names the field.
    pub fn check(&self) -> Result<(), Rejection> {
        check_envelope(self.payload.event_type(), self.timestamp, self.job_id.as_ref(), self.sequence)?;
        self.payload.check()
    }
}

/// Holds what all events share against the schema of the type.
pub(super) fn check_envelope(
    event_type: EventType,
    timestamp: Timestamp,
    job_id: Option<&JobId>,
    sequence: Option<Sequence>,
) -> Result<(), Rejection> {
    check_time("timestamp", timestamp)?;
    if let Some(job_id) = job_id {
        check_uuid_form("job_id", job_id.as_str())?;
    }
    match (event_type.topic(), job_id, sequence) {
        (Topic::JobLifecycle | Topic::JobMetrics, None, _) => Err(missing("job_id")),
        (Topic::JobLifecycle | Topic::JobMetrics, Some(_), None) => Err(missing("sequence")),
        (Topic::JobLifecycle | Topic::JobMetrics, Some(_), Some(Sequence(0))) => {
            Err(invalid("sequence", "a whole number, 1 or more"))
        }
        (Topic::Notifications | Topic::AuditTrail | Topic::SystemHealth, _, Some(_)) => {
            Err(invalid("sequence", "null: only job events are counted"))
        }
        _ => Ok(()),
    }
}

impl Payload {
    fn check(&self) -> Result<(), Rejection> {
        match self {
            Payload::JobSubmitted(_) => Ok(()),
            Payload::JobQueued(queued) => {
                check_time("payload.queued_timestamp", queued.queued_timestamp)?;
                check_attempt(queued.attempt)
            }
            Payload::JobRunning(running) => {
                check_time("payload.running_timestamp", running.running_timestamp)?;
                check_attempt(running.attempt)
            }
            // Attempt 0 stands for a job that was never queued.
            Payload::JobStatusChanged(changed) => {
                check_time("payload.status_changed_timestamp", changed.status_changed_timestamp)
            }
            Payload::JobCancelled(cancelled) => {
                check_time("payload.cancellation_timestamp", cancelled.cancellation_timestamp)
            }
            Payload::JobCompleted(completed) => {
                check_amount("payload.execution_time_seconds", completed.execution_time_seconds)?;
                check_time("payload.completion_timestamp", completed.completion_timestamp)?;
                check_attempt(completed.attempt)
            }
            Payload::JobFailed(failed) => {
                check_time("payload.failure_timestamp", failed.failure_timestamp)?;
                check_attempt(failed.attempt)
            }
            Payload::JobMetricsRecorded(metrics) => {
                check_amount("payload.cpu_usage_percent", metrics.cpu_usage_percent)?;
                check_amount("payload.memory_usage_mb", metrics.memory_usage_mb)?;
                check_amount("payload.execution_time_seconds", metrics.execution_time_seconds)?;
                check_attempt(metrics.attempt)
            }
            Payload::NotificationSent(_) => Ok(()),
            Payload::AuditActionRecorded(action) => {
                check_uuid_form("payload.resource_id", action.resource_id.as_str())?;
                check_nesting("payload.changes", action.changes.values())
            }
            Payload::SystemHealthCheck(health) => {
                if (0.0..=1.0).contains(&health.error_rate) {
                    Ok(())
                } else {
                    Err(invalid("payload.error_rate", "a number, 0 to 1"))
                }
            }
        }
    }
}

fn missing(field: &str) -> Rejection {
    Rejection::MissingField { field: field.to_owned() }
}

fn invalid(field: &str, wanted: &str) -> Rejection {
    Rejection::InvalidValue { field: field.to_owned(), wanted: wanted.to_owned() }
}

/// Holds an identifier that becomes a record's key against the one form of a UUID.
fn check_uuid_form(field: &str, id: &str) -> Result<(), Rejection> {
    if UuidText::is_other_form(id) { Err(Rejection::UuidForm { field: field.to_owned() }) } else { Ok(()) }
}

fn check_time(field: &str, time: Timestamp) -> Result<(), Rejection> {
    if (FIRST_TIME..=LAST_TIME).contains(&time) {
        Ok(())
    } else {
        Err(invalid(field, "a time in the years 0000 to 9999, UTC"))
    }
}

fn check_attempt(attempt: Attempt) -> Result<(), Rejection> {
    if attempt.0 > 0 { Ok(()) } else { Err(invalid("payload.attempt", "a whole number, 1 or more")) }
}

fn check_amount(field: &str, amount: f64) -> Result<(), Rejection> {
    if amount.is_finite() && amount >= 0.0 {
        Ok(())
    } else {
        Err(invalid(field, "a finite number, 0 or more"))
    }
}

pub(super) fn check_nesting<'a>(
    field: &str,
    values: impl Iterator<Item = &'a Value>,
) -> Result<(), Rejection> {
    for value in values {
        if !is_shallower(value, FREE_OBJECT_NESTING_MAX) {
            return Err(invalid(field, &format!("at most {FREE_OBJECT_NESTING_MAX} levels of nesting")));
        }
    }
    Ok(())
}

/// Tells whether the value nests fewer levels than `limit`; looks no deeper than that.
fn is_shallower(value: &Value, limit: usize) -> bool {
    match (value, limit.checked_sub(1)) {
        (Value::Array(_) | Value::Object(_), None) => false,
        (Value::Array(items), Some(limit)) => items.iter().all(|item| is_shallower(item, limit)),
        (Value::Object(fields), Some(limit)) => fields.values().all(|item| is_shallower(item, limit)),
        _ => true,
    }
}
