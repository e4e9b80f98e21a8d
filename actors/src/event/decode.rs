//! Turns a record into an event, or says exactly why not (C4).
//!
//! Promises one answer for the same record in every consumer and both encodings, whatever the order of its
//! fields, and never to panic, whatever the bytes. The order of the checks is part of the promise: payload
//! there, content type, document, type, version, topic, envelope, payload fields in the order of their
//! schema, record key. Unknown fields are ignored and newer versions are read as the newest one known, as
//! schemas change compatibly only. A fast reader goes first and gives whole events or nothing, never another
//! answer. Does not judge whether the event is true, or in order.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use serde_json::{Map, Value};

use super::check::{check_envelope, check_nesting};
use super::fields::Fields;
use super::guess::looks_like;
use super::tree::{Tree, read_json, read_message_pack};
use super::{
    AuditActionRecorded, Encoding, Event, EventType, JobCancelled, JobCompleted, JobFailed,
    JobMetricsRecorded, JobQueued, JobRunning, JobStatus, JobStatusChanged, JobSubmitted,
    NotificationChannel, NotificationOutcome, NotificationSent, Payload, SystemHealthCheck, TaccSystem,
    typed,
};
use crate::ids::{Attempt, CorrelationId, EventId, Sequence, Topic, UuidText};
use crate::record::LogRecord;
use crate::rejection::{Rejection, short_detail};

/// The attempt of events whose producer does not count attempts.
pub(super) const ATTEMPT_DEFAULT: u32 = 1;

/// The version of `job.metrics_recorded` with nested names (`metrics.cpu_usage`, …).
pub(super) const METRICS_NESTED_VERSION: u16 = 1;

/// The version of `job.submitted` whose parameters are JSON values instead of texts.
pub(super) const PARAMETERS_AS_VALUES_VERSION: u16 = 1;

/// Understands a record of a topic.
///
/// *Errors*: the [`Rejection`] that names what is wrong; the first in the order of the module's promise.
pub fn decode(topic: Topic, record: &LogRecord) -> Result<Event, Rejection> {
    let payload = record.payload.as_ref().ok_or(Rejection::PayloadMissing)?;
    let encoding = content_encoding(record)?;
    if encoding == Encoding::Json
        && let Some(event) = typed::read(topic, record.key.as_deref(), payload)
    {
        return Ok(event);
    }
    read_by_field(topic, record, encoding, payload)
}

/// Reads a document of any form, field by field in the order of the module's promise.
pub(super) fn read_by_field(
    topic: Topic,
    record: &LogRecord,
    encoding: Encoding,
    payload: &Bytes,
) -> Result<Event, Rejection> {
    let mut envelope = read_document(encoding, payload)?;

    let event_type = read_event_type(&envelope)?;
    let version = read_version(&envelope)?;
    if event_type.topic() != topic {
        let wanted = format!("`{event_type}` on `{}`, not on `{topic}`", event_type.topic());
        return Err(Rejection::Misplaced { wanted });
    }

    let event_id = EventId(envelope.uuid("event_id")?);
    let timestamp = envelope.time("timestamp")?;
    let correlation_id = CorrelationId(envelope.uuid("correlation_id")?);
    let user_id = envelope.id("user_id")?;
    let job_id = envelope.optional("job_id")?.map(|value| envelope.as_id("job_id", value)).transpose()?;
    let sequence = envelope.optional("sequence")?.map(|value| envelope.as_unsigned("sequence", value));
    let sequence = sequence.transpose()?.map(Sequence);
    check_envelope(event_type, timestamp, job_id.as_ref(), sequence)?;

    let mut fields = envelope.take_object("payload", "payload.")?;
    let payload = read_payload(event_type, version, &mut fields)?;
    let event = Event { event_id, timestamp, correlation_id, user_id, job_id, sequence, payload };
    event.check()?;
    check_key(&event, &envelope, record.key.as_ref())?;
    Ok(event)
}

/// Finds the encoding in the content-type header; a record without one is JSON.
fn content_encoding(record: &LogRecord) -> Result<Encoding, Rejection> {
    let Some(header) = record.headers.get("content-type") else {
        return Ok(Encoding::Json);
    };
    // As it is written by us, and so most of the time.
    if header == Encoding::Json.content_type().as_bytes() {
        return Ok(Encoding::Json);
    }
    std::str::from_utf8(header)
        .ok()
        .and_then(Encoding::from_content_type)
        .ok_or_else(|| Rejection::UnknownContentType { got: short_detail(&String::from_utf8_lossy(header)) })
}

fn read_document(encoding: Encoding, bytes: &Bytes) -> Result<Fields<'_>, Rejection> {
    let malformed = |detail: &str| {
        let guess =
            looks_like(bytes, encoding).map_or_else(String::new, |what| format!("; it looks like {what}"));
        Rejection::MalformedBytes { detail: short_detail(&format!("{detail}{guess}")) }
    };
    let tree = match encoding {
        Encoding::Json => read_json(bytes).map_err(|error| malformed(&error.to_string()))?,
        Encoding::MessagePack => read_message_pack(bytes).map_err(|error| malformed(&error.to_string()))?,
    };
    match tree {
        Tree::Map(entries) => Ok(Fields::new("", entries)),
        _ => Err(malformed("wanted an object with named fields")),
    }
}

fn read_event_type(envelope: &Fields<'_>) -> Result<EventType, Rejection> {
    let name = envelope.text("event_type")?;
    EventType::from_name(name).ok_or_else(|| Rejection::UnknownType { got: short_detail(name) })
}

fn read_version(envelope: &Fields<'_>) -> Result<u16, Rejection> {
    let got = envelope.unsigned("schema_version")?;
    match u16::try_from(got) {
        Ok(version) if version > 0 => Ok(version),
        _ => Err(Rejection::UnknownVersion { got }),
    }
}

/// Holds the keys in the envelope and of the record against the one that the event has.
fn check_key(event: &Event, envelope: &Fields<'_>, record_key: Option<&Bytes>) -> Result<(), Rejection> {
    let key = event.partition_key();
    if let Some(value) = envelope.optional("partition_key")?
        && let got = envelope.as_text("partition_key", value)?
        && Some(got) != key
    {
        if UuidText::is_other_form(got) {
            return Err(envelope.uuid_form("partition_key"));
        }
        let wanted = if key.is_some() { "the key that the event's type and fields give" } else { "null" };
        return Err(envelope.invalid("partition_key", wanted));
    }
    if record_key.map(Bytes::as_ref) == key.map(str::as_bytes) {
        return Ok(());
    }
    let record_text = record_key.and_then(|key| std::str::from_utf8(key).ok());
    if record_text.is_some_and(UuidText::is_other_form) {
        return Err(Rejection::UuidForm { field: "key".to_owned() });
    }
    let wanted = match key {
        Some(key) => format!("record key `{key}`"),
        None => "a record without a key".to_owned(),
    };
    Err(Rejection::Misplaced { wanted })
}

fn read_payload(event_type: EventType, version: u16, fields: &mut Fields<'_>) -> Result<Payload, Rejection> {
    Ok(match event_type {
        EventType::JobSubmitted => Payload::JobSubmitted(read_submitted(version, fields)?),
        EventType::JobQueued => Payload::JobQueued(JobQueued {
            tac_job_id: fields.id("tac_job_id")?,
            queued_timestamp: fields.time("queued_timestamp")?,
            attempt: read_attempt(fields)?,
        }),
        EventType::JobRunning => Payload::JobRunning(JobRunning {
            running_timestamp: fields.time("running_timestamp")?,
            attempt: read_attempt(fields)?,
        }),
        EventType::JobStatusChanged => Payload::JobStatusChanged(JobStatusChanged {
            previous_status: fields.one_of("previous_status", JobStatus::from_name)?,
            current_status: fields.one_of("current_status", JobStatus::from_name)?,
            status_changed_timestamp: fields.time("status_changed_timestamp")?,
            attempt: read_attempt(fields)?,
            will_retry: fields.is_true("will_retry")?,
        }),
        EventType::JobCompleted => Payload::JobCompleted(JobCompleted {
            execution_time_seconds: fields.number("execution_time_seconds")?,
            completion_timestamp: fields.time("completion_timestamp")?,
            attempt: read_attempt(fields)?,
        }),
        EventType::JobFailed => Payload::JobFailed(JobFailed {
            error_code: fields.text("error_code")?.to_owned(),
            error_message: fields.text("error_message")?.to_owned(),
            failure_timestamp: fields.time("failure_timestamp")?,
            attempt: read_attempt(fields)?,
            will_retry: fields.is_true("will_retry")?,
        }),
        EventType::JobCancelled => Payload::JobCancelled(JobCancelled {
            cancelled_by: fields.id("cancelled_by")?,
            cancellation_reason: fields.text("cancellation_reason")?.to_owned(),
            cancellation_timestamp: fields.time("cancellation_timestamp")?,
            attempt: read_attempt(fields)?,
        }),
        EventType::JobMetricsRecorded => Payload::JobMetricsRecorded(read_metrics(version, fields)?),
        EventType::NotificationSent => Payload::NotificationSent(NotificationSent {
            channel: fields.one_of("channel", NotificationChannel::from_name)?,
            recipient: fields.text("recipient")?.to_owned(),
            outcome: fields.one_of("outcome", NotificationOutcome::from_name)?,
        }),
        EventType::AuditActionRecorded => Payload::AuditActionRecorded(AuditActionRecorded {
            action: fields.text("action")?.to_owned(),
            resource_id: fields.id("resource_id")?,
            user_id: fields.id("user_id")?,
            changes: fields.take_free_object("changes")?,
        }),
        EventType::SystemHealthCheck => Payload::SystemHealthCheck(SystemHealthCheck {
            broker_count: fields.unsigned_32("broker_count")?,
            topic_count: fields.unsigned_32("topic_count")?,
            consumer_lag: fields.unsigned("consumer_lag")?,
            error_rate: fields.number("error_rate")?,
        }),
    })
}

fn read_attempt(fields: &Fields<'_>) -> Result<Attempt, Rejection> {
    fields.unsigned_32_or("attempt", ATTEMPT_DEFAULT).map(Attempt)
}

fn read_submitted(version: u16, fields: &mut Fields<'_>) -> Result<JobSubmitted, Rejection> {
    let agent = fields.id("agent")?;
    let dataset_id = fields.id("dataset_id")?;
    let (parameters, json_parameters) = if version == PARAMETERS_AS_VALUES_VERSION {
        let values = fields.take_free_object("parameters")?;
        check_nesting("payload.parameters", values.values())?;
        texts_of(values)
    } else {
        (fields.take_texts("parameters")?, fields.names("json_parameters")?)
    };
    let tacc_system = fields.one_of("tacc_system", TaccSystem::from_name)?;
    Ok(JobSubmitted { agent, dataset_id, parameters, json_parameters, tacc_system })
}

/// Gives values as texts, and the names of those whose text is JSON.
fn texts_of(values: Map<String, Value>) -> (BTreeMap<String, String>, BTreeSet<String>) {
    let (mut texts, mut json_names) = (BTreeMap::new(), BTreeSet::new());
    for (name, value) in values {
        let text = match value {
            Value::String(text) => text,
            other => {
                json_names.insert(name.clone());
                other.to_string()
            }
        };
        texts.insert(name, text);
    }
    (texts, json_names)
}

fn read_metrics(version: u16, fields: &mut Fields<'_>) -> Result<JobMetricsRecorded, Rejection> {
    let attempt = read_attempt(fields)?;
    let summary = fields.is_true("summary")?;
    if version == METRICS_NESTED_VERSION {
        let nested = fields.take_object("metrics", "payload.metrics.")?;
        return Ok(JobMetricsRecorded {
            cpu_usage_percent: nested.number("cpu_usage")?,
            memory_usage_mb: nested.number("memory_usage")?,
            io_operations: nested.unsigned("io_operations")?,
            execution_time_seconds: nested.number("execution_time")?,
            attempt,
            summary,
        });
    }
    Ok(JobMetricsRecorded {
        cpu_usage_percent: fields.number("cpu_usage_percent")?,
        memory_usage_mb: fields.number("memory_usage_mb")?,
        io_operations: fields.unsigned("io_operations")?,
        execution_time_seconds: fields.number("execution_time_seconds")?,
        attempt,
        summary,
    })
}
