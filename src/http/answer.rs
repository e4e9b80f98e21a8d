//! Shapes that several resources answer with.
//!
//! Promises that bytes are base64 with padding and digests lower-case hexadecimal, and that a record survives
//! the way out and back to the byte.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use horizons_actors::ids::LaneKey;
use horizons_actors::record::LogRecord;
use serde_json::{Value, json};
use warp::http::header::{CONTENT_TYPE, HeaderValue};
use warp::http::{Response as HttpResponse, StatusCode};
use warp::reply::{Reply as _, Response};

/// Answers with JSON.
pub(super) fn json_answer(status: StatusCode, body: &Value) -> Response {
    text_answer(status, "application/json", body.to_string())
}

/// Answers with text of a type.
pub(super) fn text_answer(status: StatusCode, content_type: &'static str, body: String) -> Response {
    let mut answer = HttpResponse::new(body).into_response();
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    answer
}

/// Writes bytes.
pub(super) fn base64_text(bytes: &[u8]) -> String {
    BASE64.encode(bytes)
}

/// Writes a record whole.
///
/// *Shape*: `offset`, `timestamp`, `timestamp_type` (0 producer, 1 log), `key_base64`, `headers_base64` (the
/// header block) and `value_base64`; absent is null.
pub(super) fn record_json(record: &LogRecord) -> Value {
    json!({
        "offset": record.offset,
        "timestamp": record.timestamp,
        "timestamp_type": record.timestamp_type.code(),
        "key_base64": record.key.as_deref().map(base64_text),
        "headers_base64": base64_text(record.headers.as_block()),
        "value_base64": record.payload.as_deref().map(base64_text),
    })
}

/// Writes a lane's names beside the fields of `row`.
pub(super) fn with_lane(lane: &LaneKey, row: Value) -> Value {
    let mut named = json!({
        "group": lane.group,
        "topic": lane.topic_partition.topic,
        "partition": lane.topic_partition.partition,
    });
    if let (Some(fields), Value::Object(more)) = (named.as_object_mut(), row) {
        fields.extend(more);
    }
    named
}
