//! Turns an event into a record that is final to the byte.
//!
//! Promises that an event that breaks its schema, or is larger than the log takes, becomes no record at all
//! and the caller learns the field; and that [`decode`](super::decode()) gives the same event back.

use bytes::Bytes;
use serde::Serialize;

use super::{Event, EventType, partition_for};
use crate::ids::{CorrelationId, EventId, LogTopic};
use crate::record::{Headers, OutgoingRecord, RecordTooLarge};

pub use crate::record::RECORD_MAX_BYTES;
use crate::rejection::Rejection;

/// Room that is made for a payload at the start; most events fit.
const PAYLOAD_EXPECTED_BYTES: usize = 512;

/// Names how an event is written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum Encoding {
    /// JSON, UTF-8.
    #[default]
    Json,
    /// MessagePack; objects are maps with named fields, identifiers and times are text.
    MessagePack,
}

impl Encoding {
    /// Lists every encoding.
    pub const ALL: [Encoding; 2] = [Encoding::Json, Encoding::MessagePack];

    /// Gives the content type that is written.
    pub const fn content_type(self) -> &'static str {
        match self {
            Encoding::Json => "application/json",
            Encoding::MessagePack => "application/msgpack",
        }
    }

    /// Finds the encoding of a content type, parameters and other spellings in use included.
    pub fn from_content_type(text: &str) -> Option<Self> {
        let mut parts = text.split(';').map(str::trim);
        let essence = parts.next()?;
        let encoding = if essence.eq_ignore_ascii_case("application/json") {
            Encoding::Json
        } else if ["application/msgpack", "application/x-msgpack", "application/vnd.msgpack"]
            .iter()
            .any(|name| essence.eq_ignore_ascii_case(name))
        {
            Encoding::MessagePack
        } else {
            return None;
        };
        parts.all(is_parameter_harmless).then_some(encoding)
    }
}

/// Tells whether a parameter leaves the bytes as we read them: any but another character set.
fn is_parameter_harmless(parameter: &str) -> bool {
    match parameter.split_once('=') {
        Some((name, value)) if name.trim().eq_ignore_ascii_case("charset") => {
            value.trim().trim_matches('"').eq_ignore_ascii_case("utf-8")
        }
        _ => true,
    }
}

/// Tells why an event was not made a record.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    /// The event breaks its schema.
    #[error("failed to encode `{event_type}`: {rejection}")]
    BreaksSchema {
        /// The type.
        event_type: EventType,
        /// What a reader would have said.
        rejection: Rejection,
    },
    /// The record would be larger than its topic takes.
    #[error("failed to encode `{event_type}`: {too_large}")]
    TooLarge {
        /// The type.
        event_type: EventType,
        /// Which part, how large, and the limit.
        too_large: RecordTooLarge,
    },
    /// The encoder itself gave up.
    #[error("failed to encode `{event_type}`: {detail}")]
    Encoder {
        /// The type.
        event_type: EventType,
        /// The encoder's words.
        detail: String,
    },
}

impl EncodeError {
    /// Tells whether trying again may help; it never does.
    pub const fn is_transient(&self) -> bool {
        false
    }

    /// Gives the field at fault, where one is.
    pub fn field(&self) -> Option<&str> {
        match self {
            EncodeError::BreaksSchema { rejection, .. } => rejection.field(),
            EncodeError::TooLarge { too_large, .. } => Some(too_large.part),
            EncodeError::Encoder { .. } => None,
        }
    }
}

/// Makes the record of an event: payload, key, partition and the headers of E5, exactly.
///
/// *Errors*: [`EncodeError::BreaksSchema`] with the field, [`EncodeError::TooLarge`] above
/// [`LogTopic::record_max_bytes`].
pub fn encode(event: &Event, encoding: Encoding) -> Result<OutgoingRecord, EncodeError> {
    let event_type = event.payload.event_type();
    event.check().map_err(|rejection| EncodeError::BreaksSchema { event_type, rejection })?;

    let payload =
        encode_payload(event, encoding).map_err(|detail| EncodeError::Encoder { event_type, detail })?;
    let key = event.partition_key().map(|key| Bytes::copy_from_slice(key.as_bytes()));
    let headers = headers_of(event, encoding);
    let record = OutgoingRecord {
        topic: LogTopic::Record(event.topic()),
        partition: partition_for(event.topic(), key.as_deref(), event.event_id),
        timestamp: event.timestamp,
        key,
        headers,
        payload: Some(Bytes::from(payload)),
    };
    record.check_size().map_err(|too_large| EncodeError::TooLarge { event_type, too_large })?;
    Ok(record)
}

fn encode_payload(event: &Event, encoding: Encoding) -> Result<Vec<u8>, String> {
    let mut payload = Vec::with_capacity(PAYLOAD_EXPECTED_BYTES);
    match encoding {
        Encoding::Json => serde_json::to_writer(&mut payload, event).map_err(|error| error.to_string())?,
        Encoding::MessagePack => {
            // Named fields, as a struct by position breaks on every added field; text for identifiers, as
            // other services have no UUID type.
            let mut serializer =
                rmp_serde::Serializer::new(&mut payload).with_struct_map().with_human_readable();
            event.serialize(&mut serializer).map_err(|error| error.to_string())?;
        }
    }
    Ok(payload)
}

fn headers_of(event: &Event, encoding: Encoding) -> Headers {
    let event_type = event.payload.event_type();
    let correlation_id = event.correlation_id.to_string();
    let timestamp = event.timestamp.to_string();
    let version = event_type.schema_version().to_string();
    let event_id = event.event_id.to_string();
    let trace_parent = trace_parent(event.correlation_id, event.event_id);
    let headers = [
        ("content-type", encoding.content_type()),
        ("correlation-id", &correlation_id),
        ("timestamp", &timestamp),
        ("event-type", event_type.name()),
        ("schema-version", &version),
        ("event-id", &event_id),
        ("traceparent", &trace_parent),
    ];
    Headers::new(headers.iter().map(|(name, value)| (name.as_bytes(), Some(value.as_bytes()))))
}

/// Gives the W3C trace parent: the trace is the request (correlation id), the span the event.
///
/// *Shape*: `00-<32 hex>-<16 hex>-01`; neither number is ever zero, which the specification forbids.
///
/// *Source*: W3C Trace Context, `traceparent`.
pub fn trace_parent(correlation_id: CorrelationId, event_id: EventId) -> String {
    let trace = match correlation_id.0.as_u128() {
        0 => event_id.0.as_u128().max(1),
        trace => trace,
    };
    let span = match event_id.0.as_u64_pair() {
        (0, last) => last.max(1),
        (first, _) => first,
    };
    format!("00-{trace:032x}-{span:016x}-01")
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    #[test]
    fn content_type_in_every_spelling_is_found() {
        let table = [
            ("application/json", Some(Encoding::Json)),
            ("Application/JSON; charset=UTF-8", Some(Encoding::Json)),
            ("application/json;charset=\"utf-8\"; v=1", Some(Encoding::Json)),
            ("application/json; charset=latin1", None),
            ("application/msgpack", Some(Encoding::MessagePack)),
            ("application/x-msgpack", Some(Encoding::MessagePack)),
            (" application/vnd.msgpack ", Some(Encoding::MessagePack)),
            ("text/json", None),
            ("application/jsonp", None),
            ("", None),
        ];

        for (text, wanted) in table {
            assert_eq!(Encoding::from_content_type(text), wanted, "{text}");
        }
    }

    #[test]
    fn trace_parent_of_zero_ids_is_never_zero() {
        let nil = Uuid::nil();
        let id = Uuid::from_u128(0xaa);

        let both = trace_parent(CorrelationId(nil), EventId(nil));
        let trace = trace_parent(CorrelationId(nil), EventId(id));

        assert_eq!(both, "00-00000000000000000000000000000001-0000000000000001-01");
        assert_eq!(trace, "00-000000000000000000000000000000aa-00000000000000aa-01");
    }
}
