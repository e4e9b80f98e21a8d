//! Reads a JSON event in one pass, straight into its types: what almost every record is.
//!
//! Promises that an event it gives is the one that the reader of [`super::decode`] gives, field by field.
//! Promises nothing about anything else: whatever it does not know or does not like it leaves to that reader,
//! which alone says what is wrong with a record. So it may be stricter, never laxer.

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;
use std::str::FromStr;

use serde::de::value::MapAccessDeserializer;
use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use self::payload::{
    AuditActionRecordedFields, JobCancelledFields, JobCompletedFields, JobFailedFields,
    JobMetricsRecordedFields, JobQueuedFields, JobRunningFields, JobStatusChangedFields, JobSubmittedFields,
    NotificationSentFields, SystemHealthCheckFields,
};
use super::decode::{METRICS_NESTED_VERSION, PARAMETERS_AS_VALUES_VERSION};
use super::fields::{wire_time, wire_uuid};
use super::tree::TreeSeed;
use super::{Event, EventType, Payload};
use crate::ids::{CorrelationId, EventId, Sequence, Topic};

mod payload;

/// Reads the event of a JSON record; `None` leaves the record to the reader that can explain.
pub(super) fn read(topic: Topic, record_key: Option<&[u8]>, bytes: &[u8]) -> Option<Event> {
    let text = std::str::from_utf8(bytes).ok()?;
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let event = deserializer.deserialize_map(Envelope { topic, record_key }).ok()?;
    deserializer.end().ok()?;
    event.check().ok()?;
    (event.partition_key().map(str::as_bytes) == record_key).then_some(event)
}

/// The names in an envelope.
#[derive(serde::Deserialize)]
#[serde(field_identifier, rename_all = "snake_case")]
enum Name {
    EventId,
    EventType,
    SchemaVersion,
    Timestamp,
    CorrelationId,
    UserId,
    JobId,
    PartitionKey,
    Sequence,
    Payload,
    #[serde(other)]
    Unknown,
}

/// Reads an envelope whose type stands before its payload.
struct Envelope<'k> {
    topic: Topic,
    record_key: Option<&'k [u8]>,
}

impl<'de> Visitor<'de> for Envelope<'_> {
    type Value = Event;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an event")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Event, A::Error> {
        let Self { topic, record_key } = self;
        let (mut event_id, mut event_type, mut version, mut timestamp) = (None, None, None, None);
        let (mut correlation_id, mut user_id, mut job_id) = (None, None, None);
        let (mut partition_key, mut sequence, mut payload) = (None, None, None);
        while let Some(name) = fields.next_key()? {
            match name {
                Name::EventId => once(&mut event_id, fields.next_value_seed(Text(wire_uuid))?)?,
                Name::EventType => {
                    let find = |name: &str| EventType::from_name(name).filter(|found| found.topic() == topic);
                    once(&mut event_type, fields.next_value_seed(Text(find))?)?;
                }
                Name::SchemaVersion => once(&mut version, fields.next_value::<u16>()?)?,
                Name::Timestamp => once(&mut timestamp, fields.next_value_seed(Text(wire_time))?)?,
                Name::CorrelationId => {
                    once(&mut correlation_id, fields.next_value_seed(Text(wire_uuid))?)?;
                }
                Name::UserId => once(&mut user_id, fields.next_value_seed(Text(parsed))?)?,
                Name::JobId => once(&mut job_id, fields.next_value_seed(Optional(Text(parsed)))?)?,
                Name::PartitionKey => {
                    // Record and envelope must both name the event's key, so they are the same.
                    let is_same = |key: &str| (Some(key.as_bytes()) == record_key).then_some(());
                    once(&mut partition_key, fields.next_value_seed(Optional(Text(is_same)))?)?;
                }
                Name::Sequence => once(&mut sequence, fields.next_value::<Option<u64>>()?)?,
                Name::Payload => {
                    let event_type = event_type.ok_or_else(|| A::Error::missing_field("event_type"))?;
                    once(&mut payload, fields.next_value_seed(PayloadSeed(event_type))?)?;
                }
                // Read as the other reader does, which refuses a document for what is wrong in any field.
                Name::Unknown => drop(fields.next_value_seed(TreeSeed::default())?),
            }
        }
        let event = Event {
            event_id: EventId(required(event_id, "event_id")?),
            timestamp: required(timestamp, "timestamp")?,
            correlation_id: CorrelationId(required(correlation_id, "correlation_id")?),
            user_id: required(user_id, "user_id")?,
            job_id: job_id.flatten(),
            sequence: sequence.flatten().map(Sequence),
            payload: required(payload, "payload")?,
        };
        match (required(version, "schema_version")?, &event.payload) {
            (0, _)
            | (METRICS_NESTED_VERSION, Payload::JobMetricsRecorded(_))
            | (PARAMETERS_AS_VALUES_VERSION, Payload::JobSubmitted(_)) => {
                Err(A::Error::custom("a version that is not read here"))
            }
            _ => Ok(event),
        }
    }
}

/// Keeps the value of a field; refuses a second one.
fn once<T, E: Error>(slot: &mut Option<T>, value: T) -> Result<(), E> {
    match slot.replace(value) {
        None => Ok(()),
        Some(_) => Err(E::custom("a field given twice")),
    }
}

fn required<T, E: Error>(slot: Option<T>, name: &'static str) -> Result<T, E> {
    slot.ok_or_else(|| E::missing_field(name))
}

fn parsed<T: FromStr>(text: &str) -> Option<T> {
    text.parse().ok()
}

/// Reads the payload of a type, from an object only: a derived reader would take a list as well.
struct PayloadSeed(EventType);

impl<'de> DeserializeSeed<'de> for PayloadSeed {
    type Value = Payload;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Payload, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for PayloadSeed {
    type Value = Payload;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a payload")
    }

    fn visit_map<A: MapAccess<'de>>(self, fields: A) -> Result<Payload, A::Error> {
        let fields = MapAccessDeserializer::new(fields);
        match self.0 {
            EventType::JobSubmitted => JobSubmittedFields::deserialize(fields).map(Payload::JobSubmitted),
            EventType::JobQueued => JobQueuedFields::deserialize(fields).map(Payload::JobQueued),
            EventType::JobRunning => JobRunningFields::deserialize(fields).map(Payload::JobRunning),
            EventType::JobStatusChanged => {
                JobStatusChangedFields::deserialize(fields).map(Payload::JobStatusChanged)
            }
            EventType::JobCompleted => JobCompletedFields::deserialize(fields).map(Payload::JobCompleted),
            EventType::JobFailed => JobFailedFields::deserialize(fields).map(Payload::JobFailed),
            EventType::JobCancelled => JobCancelledFields::deserialize(fields).map(Payload::JobCancelled),
            EventType::JobMetricsRecorded => {
                JobMetricsRecordedFields::deserialize(fields).map(Payload::JobMetricsRecorded)
            }
            EventType::NotificationSent => {
                NotificationSentFields::deserialize(fields).map(Payload::NotificationSent)
            }
            EventType::AuditActionRecorded => {
                AuditActionRecordedFields::deserialize(fields).map(Payload::AuditActionRecorded)
            }
            EventType::SystemHealthCheck => {
                SystemHealthCheckFields::deserialize(fields).map(Payload::SystemHealthCheck)
            }
        }
    }
}

/// Reads a text and makes something of it at once.
struct Text<F>(F);

impl<'de, T, F: FnOnce(&str) -> Option<T>> DeserializeSeed<'de> for Text<F> {
    type Value = T;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<T, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<T, F: FnOnce(&str) -> Option<T>> Visitor<'_> for Text<F> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("text")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<T, E> {
        (self.0)(text).ok_or_else(|| E::custom("text of another form"))
    }
}

/// Reads a value or null.
struct Optional<S>(S);

impl<'de, S: DeserializeSeed<'de>> DeserializeSeed<'de> for Optional<S> {
    type Value = Option<S::Value>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_option(self)
    }
}

impl<'de, S: DeserializeSeed<'de>> Visitor<'de> for Optional<S> {
    type Value = Option<S::Value>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value or null")
    }

    fn visit_none<E>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        self.0.deserialize(deserializer).map(Some)
    }
}

/// Reads a value or an object of the user's (`T`). `serde_json`'s own readers would let a name given twice
/// pass, and take an object with a certain private name for JSON inside text.
struct Free<T>(PhantomData<T>);

impl<'de> DeserializeSeed<'de> for Free<Value> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Free<Value> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        Number::from_f64(value).map(Value::Number).ok_or_else(|| E::custom("a number that is not finite"))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element_seed(Free(PhantomData::<Value>))? {
            list.push(item);
        }
        Ok(Value::Array(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, fields: A) -> Result<Value, A::Error> {
        Free(PhantomData::<Map<String, Value>>).visit_map(fields).map(Value::Object)
    }
}

impl<'de> Visitor<'de> for Free<Map<String, Value>> {
    type Value = Map<String, Value>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Self::Value, A::Error> {
        let mut object = Map::new();
        while let Some(name) = fields.next_key()? {
            if object.insert(name, fields.next_value_seed(Free(PhantomData::<Value>))?).is_some() {
                return Err(A::Error::custom("a field given twice"));
            }
        }
        Ok(object)
    }
}

/// Reads an object of texts.
struct Texts;

impl<'de> Visitor<'de> for Texts {
    type Value = BTreeMap<String, String>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of texts")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Self::Value, A::Error> {
        let mut texts = BTreeMap::new();
        while let Some(name) = fields.next_key()? {
            if texts.insert(name, fields.next_value()?).is_some() {
                return Err(A::Error::custom("a field given twice"));
            }
        }
        Ok(texts)
    }
}

#[cfg(test)]
mod tests;
