//! How an event is written: the envelope's names and their order, once for every encoding.
//!
//! Promises that the order of fields is the order below and never changes within a schema version, so that
//! the same event is always the same bytes.

use serde::{Serialize, Serializer};

use super::{Event, Payload};
use crate::clock::Timestamp;
use crate::ids::{CorrelationId, EventId, JobId, Sequence, UserId};

/// The envelope, field by field.
#[derive(Serialize)]
struct Envelope<'a> {
    event_id: EventId,
    event_type: &'static str,
    schema_version: u16,
    timestamp: Timestamp,
    correlation_id: CorrelationId,
    user_id: &'a UserId,
    job_id: Option<&'a JobId>,
    partition_key: Option<&'a str>,
    sequence: Option<Sequence>,
    payload: PayloadFields<'a>,
}

/// The payload without the name of its variant.
#[derive(Serialize)]
#[serde(transparent)]
struct PayloadFields<'a>(#[serde(serialize_with = "serialize_fields")] &'a Payload);

fn serialize_fields<S: Serializer>(payload: &&Payload, serializer: S) -> Result<S::Ok, S::Error> {
    match payload {
        Payload::JobSubmitted(fields) => fields.serialize(serializer),
        Payload::JobQueued(fields) => fields.serialize(serializer),
        Payload::JobRunning(fields) => fields.serialize(serializer),
        Payload::JobStatusChanged(fields) => fields.serialize(serializer),
        Payload::JobCompleted(fields) => fields.serialize(serializer),
        Payload::JobFailed(fields) => fields.serialize(serializer),
        Payload::JobCancelled(fields) => fields.serialize(serializer),
        Payload::JobMetricsRecorded(fields) => fields.serialize(serializer),
        Payload::NotificationSent(fields) => fields.serialize(serializer),
        Payload::AuditActionRecorded(fields) => fields.serialize(serializer),
        Payload::SystemHealthCheck(fields) => fields.serialize(serializer),
    }
}

/// Writes the event as it is on the wire; does not hold it against its schema.
impl Serialize for Event {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let event_type = self.payload.event_type();
        Envelope {
            event_id: self.event_id,
            event_type: event_type.name(),
            schema_version: event_type.schema_version(),
            timestamp: self.timestamp,
            correlation_id: self.correlation_id,
            user_id: &self.user_id,
            job_id: self.job_id.as_ref(),
            partition_key: self.partition_key(),
            sequence: self.sequence,
            payload: PayloadFields(&self.payload),
        }
        .serialize(serializer)
    }
}

/// Gives the event as a JSON value, for answers that embed it.
///
/// *Shape*: the names of the wire; the order of a [`serde_json::Value`]'s fields is not the wire's. Where
/// order matters, serialize the [`Event`] itself.
pub fn event_json(event: &Event) -> serde_json::Value {
    serde_json::to_value(event).expect("names, numbers and text of an event are always JSON")
}
